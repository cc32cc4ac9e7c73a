//! Ed25519 over seeds of ours: audit signing, CA, rekey.
//!
//! The library keeps a copy of the seed for as long as a pair lives and does not wipe it: build a pair for one
//! signature or one batch, and keep the seed in the arena. RFC 8032.

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::error::EnvelopeError;
use crate::key::SigningSeed;

/// Bytes of an Ed25519 public key.
pub const PUBLIC_KEY_BYTES: usize = 32;

/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// An Ed25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyingKey([u8; PUBLIC_KEY_BYTES]);

impl SigningSeed<'_> {
    /// The public half.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`] never happens for 32 bytes; it stands for the library's check of the length.
    pub fn verifying_key(self) -> Result<VerifyingKey, EnvelopeError> {
        let pair = self.pair()?;
        pair.public_key()
            .as_ref()
            .try_into()
            .map(VerifyingKey)
            .map_err(|_| EnvelopeError::Refused)
    }

    /// Signs a message.
    ///
    /// # Errors
    /// As [`SigningSeed::verifying_key`].
    pub fn sign(self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], EnvelopeError> {
        self.pair()?
            .sign(message)
            .as_ref()
            .try_into()
            .map_err(|_| EnvelopeError::Refused)
    }

    fn pair(self) -> Result<Ed25519KeyPair, EnvelopeError> {
        Ed25519KeyPair::from_seed_unchecked(self.bytes()).map_err(|_| EnvelopeError::Refused)
    }
}

impl VerifyingKey {
    /// Takes the 32 bytes as they are; a key that is no point fails at the first signature.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; PUBLIC_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        &self.0
    }

    /// Checks a signature.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), EnvelopeError> {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, signature)
            .map_err(|_| EnvelopeError::Refused)
    }
}

#[cfg(test)]
mod tests;
