//! Wrap: a key, or anything small, under a long-lived key, committing to that key.
//!
//! ```text
//! salt   = 32 random bytes
//! okm    = HKDF-SHA256-Expand(K, LP("attache/wrap/1", key_id, salt), 64)
//! enc    = okm[..32], commit = okm[32..]
//! stored = salt 32 || commit 32 || AES-256-GCM(enc, nonce 0, plaintext, aad)
//! ```
//!
//! Every wrap has a salt of its own, so `enc` encrypts once. GCM alone does not commit to its key: `commit` is
//! compared first, in constant time. Each use has its own associated data, here as a struct of what it binds; what
//! a wrap may be opened as is a question of types.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::TAG_BYTES;
use crate::error::EnvelopeError;
use crate::gcm;
use crate::id::{KeyId, SecretId, SlotId, StoreId, ValueId};
use crate::kdf::Expanding;
use crate::key::{AnchorSealKey, Dek, KEY_BYTES, Kek, KekWrapKey, SlotSecret};
use crate::lp::Lp;
use crate::name::Keyspace;
use crate::random::{self, Random};
use crate::slot::SlotKind;
use crate::value::CtHash;

const SALT_BYTES: usize = 32;
const COMMIT_BYTES: usize = 32;

/// What a wrap adds to its plaintext: salt, commitment, tag.
pub const OVERHEAD_BYTES: usize = SALT_BYTES + COMMIT_BYTES + TAG_BYTES;

/// Bytes of a wrapped key.
pub const WRAPPED_KEY_BYTES: usize = OVERHEAD_BYTES + KEY_BYTES;

/// A wrapped 32-byte key, as stored: `salt 32 || commit 32 || ct 32 || tag 16`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey([u8; WRAPPED_KEY_BYTES]);

impl WrappedKey {
    /// Takes stored bytes as they are; whether they open shows when they are opened.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; WRAPPED_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The stored bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; WRAPPED_KEY_BYTES] {
        &self.0
    }
}

/// What a wrapped DEK is bound to; a rewrap changes `kek` and nothing else.
#[derive(Debug, Clone, Copy)]
pub struct DekBinding<'a> {
    /// The store.
    pub store: StoreId,
    /// The keyspace of the secret.
    pub keyspace: &'a Keyspace,
    /// The secret.
    pub secret: SecretId,
    /// The value that the DEK has encrypted.
    pub value: ValueId,
    /// The KEK that wraps.
    pub kek: KeyId,
    /// SHA-256 of the value's ciphertext.
    pub ct_hash: CtHash,
}

/// What a wrapped KEK is bound to.
#[derive(Debug, Clone, Copy)]
pub struct KekBinding<'a> {
    /// The store.
    pub store: StoreId,
    /// The keyspace whose values the KEK wraps.
    pub keyspace: &'a Keyspace,
    /// Its epoch there.
    pub epoch: u32,
    /// Its own id.
    pub kek: KeyId,
}

/// What a slot's blob is bound to.
#[derive(Debug, Clone, Copy)]
pub struct SlotBinding<'a> {
    /// The store.
    pub store: StoreId,
    /// The slot.
    pub slot: SlotId,
    /// How its secret is had.
    pub kind: SlotKind,
    /// Parameters of its key derivation, as stored; empty for a key file.
    pub kdf_parameters: &'a [u8],
}

/// What the sealed anchor is bound to.
#[derive(Debug, Clone, Copy)]
pub struct AnchorBinding {
    /// The store.
    pub store: StoreId,
    /// Its incarnation.
    pub incarnation: u32,
    /// The commit that the anchor sums up.
    pub seq: u64,
}

impl DekBinding<'_> {
    /// `LP("attache/dek/1", format, suite, store, keyspace, secret, value, key_id, SHA-256(ct))`.
    #[must_use]
    pub fn aad(&self) -> Vec<u8> {
        Lp::labelled("attache/dek/1")
            .format_and_suite()
            .id(self.store)
            .str(self.keyspace.as_str())
            .id(self.secret)
            .id(self.value)
            .id(self.kek)
            .bytes(self.ct_hash.as_bytes())
            .into_bytes()
    }
}

impl KekBinding<'_> {
    /// `LP("attache/kek/1", format, suite, store, keyspace, epoch, kek_id)`.
    #[must_use]
    pub fn aad(&self) -> Vec<u8> {
        Lp::labelled("attache/kek/1")
            .format_and_suite()
            .id(self.store)
            .str(self.keyspace.as_str())
            .u32(self.epoch)
            .id(self.kek)
            .into_bytes()
    }
}

impl SlotBinding<'_> {
    /// `LP("attache/slot/1", format, suite, store, slot, kind, KDF parameters)`.
    #[must_use]
    pub fn aad(&self) -> Vec<u8> {
        Lp::labelled("attache/slot/1")
            .format_and_suite()
            .id(self.store)
            .id(self.slot)
            .str(self.kind.name())
            .bytes(self.kdf_parameters)
            .into_bytes()
    }
}

impl AnchorBinding {
    /// `LP("attache/anchor/1", format, suite, store, incarnation, seq)`.
    #[must_use]
    pub fn aad(&self) -> Vec<u8> {
        Lp::labelled("attache/anchor/1")
            .format_and_suite()
            .id(self.store)
            .u32(self.incarnation)
            .u64(self.seq)
            .into_bytes()
    }
}

/// A keyspace's KEK, prepared to wrap and unwrap the DEKs of one page, put or release: of a derivation the key is a fifth of the work.
///
/// What it holds is as good as the key. It is wiped when it is dropped, and must not outlive the call that made it.
pub struct PreparedKek(Expanding);

impl PreparedKek {
    /// Prepares it.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`] by a library that takes no key of its own length.
    pub fn new(kek: Kek<'_>) -> Result<Self, EnvelopeError> {
        Expanding::new(kek.bytes()).map(Self)
    }

    /// Wraps a DEK.
    ///
    /// # Errors
    /// [`EnvelopeError::Random`].
    pub fn wrap_dek(
        &self,
        random: &dyn Random,
        binding: &DekBinding<'_>,
        dek: Dek<'_>,
    ) -> Result<WrappedKey, EnvelopeError> {
        wrap_key(random, &self.0, binding.kek, dek.bytes(), &binding.aad())
    }

    /// Unwraps a DEK into `out`.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`]; `out` is then as it was.
    pub fn unwrap_dek(
        &self,
        binding: &DekBinding<'_>,
        wrapped: &WrappedKey,
        out: &mut [u8; KEY_BYTES],
    ) -> Result<(), EnvelopeError> {
        unwrap(&self.0, binding.kek, &wrapped.0, &binding.aad(), out)
    }
}

/// Wraps a KEK under the keyring's wrapping key of id `key_id`.
///
/// # Errors
/// [`EnvelopeError::Random`].
pub fn wrap_kek(
    random: &dyn Random,
    key: KekWrapKey<'_>,
    key_id: KeyId,
    binding: &KekBinding<'_>,
    kek: Kek<'_>,
) -> Result<WrappedKey, EnvelopeError> {
    let key = Expanding::new(key.bytes())?;
    wrap_key(random, &key, key_id, kek.bytes(), &binding.aad())
}

/// Unwraps a KEK into `out`.
///
/// # Errors
/// [`EnvelopeError::Refused`]; `out` is then as it was.
pub fn unwrap_kek(
    key: KekWrapKey<'_>,
    key_id: KeyId,
    binding: &KekBinding<'_>,
    wrapped: &WrappedKey,
    out: &mut [u8; KEY_BYTES],
) -> Result<(), EnvelopeError> {
    let key = Expanding::new(key.bytes())?;
    unwrap(&key, key_id, &wrapped.0, &binding.aad(), out)
}

/// Wraps a slot's blob under the slot's own secret; the key id is the slot's uuid.
///
/// # Errors
/// [`EnvelopeError::Random`].
pub fn wrap_slot_blob(
    random: &dyn Random,
    secret: SlotSecret<'_>,
    binding: &SlotBinding<'_>,
    blob: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let key_id = KeyId::from_bytes(*binding.slot.as_bytes());
    let key = Expanding::new(secret.bytes())?;
    wrap(random, &key, key_id, blob, &binding.aad())
}

/// Unwraps a slot's blob into `out`, which must have its length.
///
/// # Errors
/// [`EnvelopeError::Refused`], [`EnvelopeError::Buffer`]; `out` is then as it was.
pub fn unwrap_slot_blob(
    secret: SlotSecret<'_>,
    binding: &SlotBinding<'_>,
    wrapped: &[u8],
    out: &mut [u8],
) -> Result<(), EnvelopeError> {
    let key_id = KeyId::from_bytes(*binding.slot.as_bytes());
    let key = Expanding::new(secret.bytes())?;
    unwrap(&key, key_id, wrapped, &binding.aad(), out)
}

/// Wraps an anchor record under the keyring's anchor seal key of id `key_id`.
///
/// # Errors
/// [`EnvelopeError::Random`].
pub fn wrap_anchor(
    random: &dyn Random,
    key: AnchorSealKey<'_>,
    key_id: KeyId,
    binding: &AnchorBinding,
    record: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let key = Expanding::new(key.bytes())?;
    wrap(random, &key, key_id, record, &binding.aad())
}

/// Unwraps an anchor record.
///
/// # Errors
/// [`EnvelopeError::Refused`].
pub fn unwrap_anchor(
    key: AnchorSealKey<'_>,
    key_id: KeyId,
    binding: &AnchorBinding,
    wrapped: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let mut record = vec![0; wrapped.len().saturating_sub(OVERHEAD_BYTES)];
    let key = Expanding::new(key.bytes())?;
    unwrap(&key, key_id, wrapped, &binding.aad(), &mut record)?;
    Ok(record)
}

fn wrap_key(
    random: &dyn Random,
    key: &Expanding,
    key_id: KeyId,
    plaintext: &[u8; KEY_BYTES],
    aad: &[u8],
) -> Result<WrappedKey, EnvelopeError> {
    wrap(random, key, key_id, plaintext, aad)?
        .try_into()
        .map(WrappedKey)
        .map_err(|_| EnvelopeError::Refused)
}

fn wrap(
    random: &dyn Random,
    key: &Expanding,
    key_id: KeyId,
    plaintext: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let salt = random::array(random)?;
    let okm = Okm::derive(key, key_id, &salt)?;
    let ct = gcm::seal(okm.enc(), plaintext, aad)?;
    Ok([salt.as_slice(), okm.commit(), &ct].concat())
}

fn unwrap(
    key: &Expanding,
    key_id: KeyId,
    wrapped: &[u8],
    aad: &[u8],
    out: &mut [u8],
) -> Result<(), EnvelopeError> {
    let (salt, rest) = wrapped
        .split_first_chunk::<SALT_BYTES>()
        .ok_or(EnvelopeError::Refused)?;
    let (commit, ct) = rest
        .split_first_chunk::<COMMIT_BYTES>()
        .ok_or(EnvelopeError::Refused)?;
    let okm = Okm::derive(key, key_id, salt)?;
    if !bool::from(okm.commit().ct_eq(commit)) {
        return Err(EnvelopeError::Refused);
    }
    gcm::open(okm.enc(), ct, aad, out)
}

/// The two halves that one salt gives: the key of one encryption, and the commitment to it.
struct Okm {
    halves: Zeroizing<[[u8; 32]; 2]>,
}

impl Okm {
    fn derive(
        key: &Expanding,
        key_id: KeyId,
        salt: &[u8; SALT_BYTES],
    ) -> Result<Self, EnvelopeError> {
        let info = Lp::labelled("attache/wrap/1").id(key_id).bytes(salt);
        let mut halves = Zeroizing::new([[0; 32]; 2]);
        key.expand(info.as_bytes(), halves.as_flattened_mut())?;
        Ok(Self { halves })
    }

    fn enc(&self) -> &[u8; KEY_BYTES] {
        let [enc, _] = &*self.halves;
        enc
    }

    fn commit(&self) -> &[u8] {
        let [_, commit] = &*self.halves;
        commit
    }
}

#[cfg(test)]
mod tests;
