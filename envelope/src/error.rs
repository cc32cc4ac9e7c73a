//! What can go wrong when a record is built or opened.
//!
//! A cryptographic failure is one variant without detail: which check failed helps only who forges. No variant ever
//! holds a byte of a key or of a plaintext.

use thiserror::Error;

use crate::lp::Malformed;
use crate::{FORMAT, SUITE};

/// Why a record could not be built or must not be believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// A tag, commitment, MAC or signature does not hold, or belongs to other names.
    #[error("the record does not authenticate")]
    Refused,
    /// The bytes are not a record of this kind.
    #[error("{record} is malformed")]
    Malformed {
        /// Which record.
        record: &'static str,
        /// Which field, and what is wrong with it.
        source: Malformed,
    },
    /// A record of a format that this build does not know.
    #[error("{record} has format {found}, this build knows format {FORMAT}: use a newer build")]
    Format {
        /// Which record.
        record: &'static str,
        /// The number found.
        found: u16,
    },
    /// A record of a suite that this build does not know.
    #[error("{record} has suite {found}, this build knows suite {SUITE}: use a newer build")]
    Suite {
        /// Which record.
        record: &'static str,
        /// The number found.
        found: u16,
    },
    /// An X25519 public key that no shared secret can be made with: all zeros, or of small order.
    #[error("the public key is all zeros or of small order: send one made by X25519")]
    PublicKey,
    /// Something is longer than the construction allows.
    #[error("{what} has {found}, the most is {limit}")]
    Limit {
        /// What is too long or too many, with its unit.
        what: &'static str,
        /// How much was found.
        found: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// The caller's buffer does not fit what it is to hold.
    #[error("{what} takes {needed_bytes} bytes, the buffer has {found_bytes}")]
    Buffer {
        /// What was to be written.
        what: &'static str,
        /// What it takes.
        needed_bytes: usize,
        /// What was given.
        found_bytes: usize,
    },
    /// A rule of the construction is broken; the text names it.
    #[error("{0}")]
    Rule(&'static str),
    /// The system's generator failed.
    #[error("no randomness from the system")]
    Random,
}

impl EnvelopeError {
    /// Names the record that a field belongs to: for use in `map_err`.
    pub fn malformed(record: &'static str) -> impl Fn(Malformed) -> Self {
        move |source| Self::Malformed { record, source }
    }
}
