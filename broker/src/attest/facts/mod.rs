//! The cluster's own record of its pods and nodes, and its issuer's keys.
//!
//! [`PodFacts`] is what a source answers; the folder is the first source, the Kubernetes API the next. Everything that
//! attestation believes of a pod beyond its token comes from here, and nothing from the node. A source must never
//! answer from memory what its cluster no longer says.

mod folder;
mod object;
mod yaml;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use attache_envelope::name::{Namespace, NodeName, PodName};
use thiserror::Error;

use super::jwks::{JwksError, KeySet};

pub use folder::FolderFacts;
pub use object::{
    Capabilities, Container, ContainerKind, ContainerSecurity, NodeObject, PodObject, PodSecurity,
    Volume, VolumeMount, VolumeSource,
};
pub(super) use yaml::parse_yaml;

/// What a source answers with; boxed, so that a cluster's source is chosen when it is configured.
pub type FactFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, FactsError>> + Send + 'a>>;

/// One cluster's record.
///
/// # Cancel safety
/// Every answer is a read: a future that is dropped has changed nothing.
pub trait PodFacts: Send + Sync + 'static {
    /// The issuer's key set.
    fn keys(&self) -> FactFuture<'_, Arc<KeySet>>;

    /// The node of that name; none when there is none.
    fn node<'a>(&'a self, name: &'a NodeName) -> FactFuture<'a, Option<Arc<NodeObject>>>;

    /// The pod of that name; none when there is none.
    fn pod<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a PodName,
    ) -> FactFuture<'a, Option<Arc<PodObject>>>;
}

/// Why a record cannot be read. For the operator: the pod's author is told only that it is so.
#[derive(Debug, Error)]
pub enum FactsError {
    /// The system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder, pipe or device.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// Which file.
        path: PathBuf,
    },
    /// A link, or a way out of the folder.
    #[error("{} is reached through a link; records are never followed through links", path.display())]
    Link {
        /// Which file.
        path: PathBuf,
    },
    /// Larger than such a record can be.
    #[error("{} is larger than {limit_bytes} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The most it may have.
        limit_bytes: usize,
    },
    /// Not the object that it should be.
    #[error("{} is not the object it should be: {problem}", path.display())]
    Object {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Not a key set.
    #[error("{} is not a key set", path.display())]
    Keys {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: JwksError,
    },
    /// The task that read was stopped with the process.
    #[error("the broker is stopping")]
    Stopping,
}
