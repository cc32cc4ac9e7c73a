//! Values: one field of one put, encrypted once under a key of its own.
//!
//! ```text
//! ct = AES-256-GCM(DEK, nonce 0, bytes, LP("attache/value/1", format, suite, store, keyspace, secret, value, field))
//! ```
//!
//! The CLI draws a [`DataKey`], which `seal` consumes; what is left is a [`Dek`], which opens and verifies. The broker
//! only ever calls [`Dek::verify_tag`], which computes no plaintext.

use std::fmt;

use zeroize::Zeroizing;

use crate::error::EnvelopeError;
use crate::id::{SecretId, StoreId, ValueId};
use crate::key::{Dek, KEY_BYTES};
use crate::lp::Lp;
use crate::name::{FieldName, Keyspace};
use crate::random::Random;
use crate::{MAX_VERSION_BYTES, TAG_BYTES, gcm, kdf};

/// SHA-256 of a value's ciphertext, tag included: what a wrapped DEK, a put and a release name it by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CtHash([u8; 32]);

impl CtHash {
    /// Hashes a ciphertext. Done once, at the put; a release uses the stored hash.
    #[must_use]
    pub fn of(ct: &[u8]) -> Self {
        Self(kdf::sha256(ct))
    }

    /// Takes a stored hash.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for CtHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CtHash(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// What a value's ciphertext is bound to.
#[derive(Debug, Clone, Copy)]
pub struct ValueBinding<'a> {
    /// The store.
    pub store: StoreId,
    /// The secret's keyspace.
    pub keyspace: &'a Keyspace,
    /// The secret.
    pub secret: SecretId,
    /// The value's own id.
    pub value: ValueId,
    /// The field that it was put as.
    pub field: &'a FieldName,
}

impl ValueBinding<'_> {
    /// `LP("attache/value/1", format, suite, store, keyspace, secret, value, field)`.
    #[must_use]
    pub fn aad(&self) -> Vec<u8> {
        Lp::labelled("attache/value/1")
            .format_and_suite()
            .id(self.store)
            .str(self.keyspace.as_str())
            .id(self.secret)
            .id(self.value)
            .str(self.field.as_str())
            .into_bytes()
    }
}

/// A data key that has not encrypted yet. Sealing consumes it, so that it encrypts one value and no second:
///
/// ```compile_fail,E0382
/// # use attache_envelope::value::{DataKey, ValueBinding};
/// # fn twice(key: DataKey, one: &ValueBinding<'_>, other: &ValueBinding<'_>) {
/// let _ = key.seal(b"one", one);
/// let _ = key.seal(b"other", other);
/// # }
/// ```
pub struct DataKey(Box<Zeroizing<[u8; KEY_BYTES]>>);

/// A data key that has encrypted its value.
pub struct UsedDataKey(Box<Zeroizing<[u8; KEY_BYTES]>>);

impl DataKey {
    /// Draws a key.
    ///
    /// # Errors
    /// [`EnvelopeError::Random`].
    pub fn random(random: &dyn Random) -> Result<Self, EnvelopeError> {
        let mut key = Box::new(Zeroizing::new([0; KEY_BYTES]));
        random.fill(key.as_mut_slice())?;
        Ok(Self(key))
    }

    /// Encrypts the one value of this key: `ciphertext || tag16`.
    ///
    /// # Errors
    /// [`EnvelopeError::Limit`] past 1 MiB.
    pub fn seal(
        self,
        plaintext: &[u8],
        binding: &ValueBinding<'_>,
    ) -> Result<(Vec<u8>, UsedDataKey), EnvelopeError> {
        check_size(plaintext.len())?;
        let ct = gcm::seal(&self.0, plaintext, &binding.aad())?;
        Ok((ct, UsedDataKey(self.0)))
    }
}

impl UsedDataKey {
    /// The key, to be sealed to a broker.
    #[must_use]
    pub fn dek(&self) -> Dek<'_> {
        Dek::new(&self.0)
    }
}

impl Dek<'_> {
    /// Decrypts a value into `out`, which must have [`plaintext_bytes`] of it.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`], [`EnvelopeError::Limit`], [`EnvelopeError::Buffer`]; `out` is then as it was.
    pub fn open(
        self,
        ct: &[u8],
        binding: &ValueBinding<'_>,
        out: &mut [u8],
    ) -> Result<(), EnvelopeError> {
        plaintext_bytes(ct)?;
        gcm::open(self.bytes(), ct, &binding.aad(), out)
    }

    /// Checks that this key made this ciphertext for these names, in constant time and without decrypting.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`], [`EnvelopeError::Limit`].
    pub fn verify_tag(self, ct: &[u8], binding: &ValueBinding<'_>) -> Result<(), EnvelopeError> {
        plaintext_bytes(ct)?;
        gcm::verify_tag(self.bytes(), ct, &binding.aad())
    }
}

/// The length of the value in a ciphertext, in bytes.
///
/// # Errors
/// [`EnvelopeError::Refused`] when there is no room for a tag; [`EnvelopeError::Limit`] past 1 MiB.
pub fn plaintext_bytes(ct: &[u8]) -> Result<usize, EnvelopeError> {
    let bytes = ct
        .len()
        .checked_sub(TAG_BYTES)
        .ok_or(EnvelopeError::Refused)?;
    check_size(bytes)?;
    Ok(bytes)
}

fn check_size(bytes: usize) -> Result<(), EnvelopeError> {
    if bytes <= MAX_VERSION_BYTES {
        return Ok(());
    }
    Err(EnvelopeError::Limit {
        what: "the value, in bytes,",
        found: bytes,
        limit: MAX_VERSION_BYTES,
    })
}

#[cfg(test)]
mod tests;
