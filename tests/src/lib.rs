//! The harness: real brokers, node plugins, mounts and containers on this machine, driven as users drive them.
//!
//! [`Bed`] is a whole installation in one folder: a broker, an operator, a cluster as a folder, a node plugin. It starts
//! the shipped binaries on free ports and sockets, and leaves nothing behind when it is dropped. Kubelet's part is played
//! by [`kubelet::Kubelet`], a CSI client that adds what kubelet adds; the API server's by [`cluster::ClusterFolder`] and
//! [`issuer::Issuer`], which mint what an API server would. Nothing of the product is replaced by a double.

pub mod bed;
pub mod cluster;
pub mod container;
pub mod fill;
pub mod floor;
pub mod independent;
pub mod inject;
pub mod issuer;
pub mod kills;
pub mod kms;
pub mod kubelet;
pub mod kubernetes;
pub mod measure;
pub mod mounts;
pub mod pod;
pub mod process;
pub mod raw;
pub mod scene;
pub mod wire;

pub use bed::Bed;
pub use scene::Scene;
