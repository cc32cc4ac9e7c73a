//! gRPC: the only room of the broker that knows wire types.
//!
//! ```text
//! request -> peer (who) -> field (types) -> a domain -> answer | status (one map of errors)
//! ```
//! A handler asks for its caller's type first, parses every field once, and hands over to the domain; it decides nothing
//! and logs no request.

pub mod admin;
pub mod approvals;
pub mod audit;
mod audit_key;
mod backups;
mod ca;
pub mod calls;
pub mod clusters;
pub mod delivery;
pub mod enrollment;
pub mod field;
mod findings;
pub mod fleet;
pub mod health;
pub mod keys;
pub mod keyspaces;
mod looks;
pub mod mutate;
pub mod overview;
pub mod peer;
pub mod policy;
pub mod room;
mod row_mac;
pub mod rpc_error;
mod sealing;
pub mod secrets;
pub mod server;
pub mod slots;
mod status;
mod unsealing;

pub use server::{
    Background, ENROLL_CONNECTION_AGE, Listeners, SealedListeners, Services, serve, serve_sealed,
};
