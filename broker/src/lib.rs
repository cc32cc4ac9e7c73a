//! The broker: keeps sealed secrets, attests workloads, decides, audits and releases.
//!
//! ```text
//! api -> release -> {attest, policy, vault, audit}     {rotation, retention, overdue, retagging, scrub} -> vault -> {keys, store}     api -> {identity, registry, mutation}
//! ```

pub mod api;
pub mod attest;
pub mod audit;
mod background;
pub mod backup;
mod causes;
pub mod config;
pub mod identity;
pub mod keys;
pub mod kms;
pub mod kubernetes;
pub mod metrics;
pub mod mounted;
pub mod mutation;
pub mod overdue;
pub mod policy;
pub mod registry;
pub mod release;
pub mod removal;
pub mod retagging;
pub mod retention;
pub mod rotation;
pub mod run;
pub mod scrub;
pub mod seal;
pub mod store;
pub mod vault;

#[cfg(test)]
#[path = "../../tests/independent/reader.rs"]
mod vectors;
