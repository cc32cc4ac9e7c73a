//! A cluster's API server, as the broker asks it: few questions, each with a deadline, over the cluster's own CA.
//!
//! ```text
//! question -> breaker -> one of so many at a time -> credentials (re-read) -> HTTP/2 or 1.1 over TLS -> answer, bounded, typed
//! ```
//! It stands beside attestation, which asks about tokens, pods and nodes, and enrollment. Whoever answers is the holder of
//! a certificate of `ca.crt` and nobody else: the machine's own roots are not looked at. Nothing here believes a
//! status that is not of its list, keeps an answer (whoever asks does), or prints a token.

mod address;
mod breaker;
mod bundle;
mod client;
mod connector;
mod credentials;
mod error;
mod questions;
mod taint;

pub use address::{AddressError, ApiAddress};
pub use breaker::RESTS_FOR;
pub use bundle::Published;
pub use client::{Call, Client, DEADLINE, Operation};
pub use credentials::{CREDENTIALS_IN_POD, CredentialsError};
pub use error::ApiError;
pub use questions::{Discovery, Probed, Review, ReviewedUser};
pub use taint::StartupTaint;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
