//! The CSI node plugin: an agent that speaks networks and a mounter that holds privileges.

pub mod ipc;
pub mod mounter;
pub mod volume;
