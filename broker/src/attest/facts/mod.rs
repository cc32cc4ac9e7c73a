//! The cluster's own record of its pods and nodes, and its issuer's keys.
//!
//! [`PodFacts`] is what a source answers: a folder, or the cluster's API server. Everything that attestation believes of a
//! pod beyond its token comes from here, and nothing from the node. A source must never answer from memory what its
//! cluster no longer says; the API server's answers are kept for as long as `kubernetes.rs` says, and no longer.

mod answers;
mod folder;
mod kubernetes;
mod object;
mod yaml;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use attache_envelope::name::NodeName;
use thiserror::Error;

use super::jwks::{JwksError, KeySet};
use super::token::{PodIdentity, PodToken};
use crate::kubernetes::ApiError;

pub use folder::FolderFacts;
pub use kubernetes::{
    ABSENT_FOR, KEYS_AGAIN, KEYS_KNOWN_FOR, KubernetesFacts, NODE_KNOWN_FOR, POD_KNOWN_FOR,
};
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
    /// The issuer's key set; where it is kept, one that is newer than `without`, in which a token's key was not found.
    fn keys<'a>(&'a self, without: Option<&'a Arc<KeySet>>) -> FactFuture<'a, Arc<KeySet>>;

    /// The node of that name, as it is now; none when there is none.
    fn node<'a>(&'a self, name: &'a NodeName) -> FactFuture<'a, Option<Arc<NodeObject>>>;

    /// The node of that name, for whoever wants to know whether it still has this uid.
    fn known_node<'a>(
        &'a self,
        name: &'a NodeName,
        uid: &'a str,
    ) -> FactFuture<'a, Option<Arc<NodeObject>>>;

    /// What the cluster says of a token that its keys verify, and of the pod and the node that it names.
    fn bound<'a>(&'a self, token: &'a PodToken, identity: &'a PodIdentity)
    -> FactFuture<'a, Bound>;
}

/// What a cluster says of a token and of what it is bound to.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Whether it takes the token for one of this pod. A folder says nothing against it.
    pub token: Result<(), NotTaken>,
    /// The pod of that name.
    pub pod: Option<Arc<PodObject>>,
    /// The node of that name.
    pub node: Option<Arc<NodeObject>>,
}

/// Why a cluster does not take a token that its keys verify. For the operator.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotTaken {
    /// It says no.
    #[error("the API server does not accept the token (TokenReview): {0}")]
    Rejected(String),
    /// It says something else than the claims.
    #[error("TokenReview and the token's claims differ in {0}")]
    Differs(&'static str),
    /// It says nothing of what the claims have: it is too old, or not one of Kubernetes.
    #[error("TokenReview says nothing of {0}; Kubernetes 1.32 or newer does")]
    Lacks(&'static str),
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
    /// The API server has no answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The API server publishes no key set.
    #[error("what the API server publishes at /openid/v1/jwks is not a key set")]
    ApiKeys(#[source] JwksError),
    /// The task that read was stopped with the process.
    #[error("the broker is stopping")]
    Stopping,
}
