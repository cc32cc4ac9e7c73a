//! Every format and construction of the product: names, ids, the LP encoding, wraps, values, rows, the anchor,
//! slots and the keyring, puts and releases.
//!
//! The broker, the node plugin and the CLI all build and open their records here and nowhere else, so that a
//! format has one writer and one reader. `docs/formats.md` has every layout with its offsets and a vector.
//!
//! This crate must never do io, never know a wire type, and never keep a key of ours: keys are borrowed for a call
//! ([`key`]) and opened keys are written where the caller says, which is a cell of an arena. What comes from
//! outside is hostile until a type of this crate says otherwise.
//!
//! | module | what it holds |
//! |---|---|
//! | [`lp`] | the length-prefixed encoding: writer and strict reader |
//! | [`id`], [`name`] | uuids and other 16-byte ids; the grammar of references |
//! | [`random`], [`key`], [`x25519`], [`sign`] | randomness, borrowed keys, HPKE and Ed25519 keys |
//! | [`wrap`], [`value`] | keys under keys; values under one-use keys |
//! | [`slot`], [`keyring`] | what opens a store, and the keys inside |
//! | [`shares`] | a secret in shares, any n of which give it back |
//! | [`row`], [`anchor`], [`body`] | authenticated rows, their sums, and what is in them |
//! | [`put`], [`release`] | data keys on their way in and out, broker-blind |
//! | [`denial`], [`generation`] | what a pod's author sees of a refusal; the order of file sets |
//! | [`unseal`] | a slot's secret on its way to a sealed broker |
//! | [`late_renewal`] | what a node signs after its certificate's end |

pub mod anchor;
pub mod body;
pub mod channel;
pub mod denial;
mod error;
mod gcm;
pub mod generation;
pub mod id;
mod kdf;
pub mod key;
pub mod keyring;
pub mod late_renewal;
pub mod lp;
pub mod name;
pub mod put;
pub mod random;
pub mod release;
pub mod row;
pub mod shares;
pub mod sign;
pub mod slot;
mod table;
#[cfg(test)]
mod testing;
pub mod unseal;
pub mod value;
pub mod wrap;
pub mod x25519;

pub use error::EnvelopeError;
pub use random::{Random, SystemRandom};
pub use table::Table;

/// The one format number that this build writes and reads.
pub const FORMAT: u16 = 1;

/// The one suite number: AES-256-GCM, HKDF- and HMAC-SHA256, X25519 HPKE, Ed25519.
pub const SUITE: u16 = 1;

/// Bytes of an AES-GCM tag, the last of every ciphertext.
pub const TAG_BYTES: usize = 16;

/// The most bytes of values that one version holds, carried ones included.
pub const MAX_VERSION_BYTES: usize = 1024 * 1024;

/// The most fields that one version holds.
pub const MAX_FIELDS: usize = 64;
