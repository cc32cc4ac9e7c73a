//! The broker: keeps sealed secrets, attests workloads, decides, audits and releases.

pub mod audit;
pub mod keys;
pub mod store;

pub mod attest;
pub mod policy;
pub mod vault;
