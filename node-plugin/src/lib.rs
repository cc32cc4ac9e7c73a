//! The CSI node plugin: an agent that speaks networks and a mounter that holds privileges.

pub mod agent;
pub mod config;
pub mod csi;
pub mod ipc;
pub mod mounter;
pub mod run;
pub mod telemetry;
pub mod volume;

#[cfg(test)]
#[path = "../../tests/independent/reader.rs"]
mod vectors;
