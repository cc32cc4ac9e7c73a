//! A real Kubernetes on this machine, from binaries that `tests/kubernetes/build.sh` has built.
//!
//! [`Installation`] is the product in a cluster, installed by its chart. [`Cluster`] is two nodes with everything that runs on
//! one, on machines of their own: pods run, names resolve, addresses are reached. [`ControlPlane`] is etcd and an API server on
//! loopback: it starts in seconds. Several of each can be up at a time.

pub mod authority;
pub mod caller;
pub mod cgroup;
pub mod cluster;
pub mod control_plane;
pub mod estate;
pub mod images;
pub mod installation;
pub mod kubectl;
pub mod machine;
pub mod names;
pub mod namespace;
pub mod network;
pub mod node;
pub mod service;
pub mod slot;
pub mod stage;

use std::path::{Path, PathBuf};

pub use caller::Caller;
pub use cluster::Cluster;
pub use control_plane::{ControlPlane, Wishes};
pub use installation::Installation;
pub use kubectl::Kubectl;
pub use namespace::Namespace;
pub use node::Node;

/// The release of Kubernetes that everything is shown on.
pub const NEWEST: &str = "1.37.2";

/// A release of Kubernetes, by its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release(String);

impl Release {
    /// The release `version`, `1.36.3`; that it is built shows when something of it is started.
    #[must_use]
    pub fn new(version: &str) -> Self {
        Self(version.to_owned())
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0
    }

    /// The minor number: 37.
    #[must_use]
    pub fn minor(&self) -> u32 {
        self.0
            .split('.')
            .nth(1)
            .and_then(|part| part.parse().ok())
            .unwrap_or_default()
    }

    /// One of its own programs: `kubelet`.
    #[must_use]
    pub fn component(&self, name: &str) -> PathBuf {
        built().join(&self.0).join("bin").join(name)
    }

    /// A program that every release is run with: `containerd`.
    #[must_use]
    pub fn tool(&self, name: &str) -> PathBuf {
        built().join("bin").join(name)
    }
}

impl Default for Release {
    fn default() -> Self {
        Self::new(NEWEST)
    }
}

/// Where `tests/kubernetes/build.sh` puts what it builds.
fn built() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kubernetes")
}
