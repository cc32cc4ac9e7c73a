//! A real Kubernetes on this machine, from binaries that `tests/kubernetes/build.sh` has built.
//!
//! [`ControlPlane`] is etcd and an API server on loopback: it starts in seconds, several at a time if need be.

pub mod authority;
pub mod cgroup;
pub mod control_plane;
pub mod estate;
pub mod kubectl;
pub mod service;

use std::path::{Path, PathBuf};

pub use control_plane::{ControlPlane, Wishes};
pub use kubectl::Kubectl;

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
