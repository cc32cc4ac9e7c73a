//! Puts: data keys sealed by an operator's CLI to a broker's receive key, bound to everything that is put.
//!
//! ```text
//! info   = LP("attache/put/1", store, broker id, boot, key_id, operator id)
//! digest = SHA-256(LP("attache/commit-put/1", store, request id, keyspace, name, secret, expected head version,
//!            flags, note, [(field, value, SHA-256(ct))] by field, [carried fields] by name))
//! sealed = HPKE base 0x0020/0x0001/0x0002 to the receive key; aad = digest, plaintext = DEKs in the order of fields
//! ```
//!
//! CLI and broker each build a [`CommitPut`] from their own side of the request; it puts fields in order, and refuses
//! what no put may be.

use zeroize::Zeroizing;

use crate::channel::Channel;
use crate::error::EnvelopeError;
use crate::id::{RequestId, SecretId, StoreId, ValueId};
use crate::key::{Dek, KEY_BYTES, SecretKey};
use crate::lp::Lp;
use crate::name::{FieldName, SecretPath};
use crate::random::Random;
use crate::value::CtHash;
use crate::x25519::{self, Enc, PublicKey};
use crate::{MAX_FIELDS, TAG_BYTES, gcm, kdf};

/// The most bytes of a note.
pub const MAX_NOTE_BYTES: usize = 1024;

/// Bit 0 of the flags: nothing is carried over.
pub const FLAG_REPLACE: u32 = 1;

/// One field of a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutField {
    /// The field.
    pub field: FieldName,
    /// The value's id, drawn by the CLI.
    pub value: ValueId,
    /// SHA-256 of its ciphertext.
    pub ct_hash: CtHash,
}

/// Everything that one put says, its fields in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPut {
    store: StoreId,
    request: RequestId,
    path: SecretPath,
    secret: SecretId,
    expected_head_version: u64,
    flags: u32,
    note: String,
    fields: Vec<PutField>,
    carried: Vec<FieldName>,
}

/// What a put is made of, in whatever order.
#[derive(Debug, Clone)]
pub struct PutParts {
    /// The store.
    pub store: StoreId,
    /// The request.
    pub request: RequestId,
    /// The secret's path.
    pub path: SecretPath,
    /// The secret's uuid: the existing one, or the one that the CLI picked for a new one.
    pub secret: SecretId,
    /// The version that the CLI saw as active; 0 for a new secret.
    pub expected_head_version: u64,
    /// [`FLAG_REPLACE`]; no other bit.
    pub flags: u32,
    /// Why, in the operator's words; empty for none.
    pub note: String,
    /// What is put.
    pub fields: Vec<PutField>,
    /// What is kept of the version before.
    pub carried: Vec<FieldName>,
}

/// The digest of a put: what its request row is compared by, and the associated data of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutDigest([u8; 32]);

impl PutDigest {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl CommitPut {
    /// Puts the fields in order and checks what every put must keep to.
    ///
    /// # Errors
    /// [`EnvelopeError::Rule`] for no field at all, a field twice, a field both sent and carried, an unknown flag,
    /// or carried fields in a replacing put; [`EnvelopeError::Limit`] for more than 64 fields or a long note.
    pub fn new(parts: PutParts) -> Result<Self, EnvelopeError> {
        let mut parts = parts;
        parts.fields.sort_unstable_by(|a, b| a.field.cmp(&b.field));
        parts.carried.sort_unstable();
        check(&parts)?;
        Ok(Self {
            store: parts.store,
            request: parts.request,
            path: parts.path,
            secret: parts.secret,
            expected_head_version: parts.expected_head_version,
            flags: parts.flags,
            note: parts.note,
            fields: parts.fields,
            carried: parts.carried,
        })
    }

    /// What is put, in the order of its keys.
    #[must_use]
    pub fn fields(&self) -> &[PutField] {
        &self.fields
    }

    /// What is carried, in order.
    #[must_use]
    pub fn carried(&self) -> &[FieldName] {
        &self.carried
    }

    /// The bytes that [`CommitPut::digest`] hashes.
    #[must_use]
    pub fn digest_input(&self) -> Vec<u8> {
        Lp::labelled("attache/commit-put/1")
            .id(self.store)
            .id(self.request)
            .str(self.path.keyspace.as_str())
            .str(self.path.name.as_str())
            .id(self.secret)
            .u64(self.expected_head_version)
            .u32(self.flags)
            .str(&self.note)
            .list(self.fields.iter().map(|sent| {
                Lp::new()
                    .str(sent.field.as_str())
                    .id(sent.value)
                    .bytes(sent.ct_hash.as_bytes())
            }))
            .list(
                self.carried
                    .iter()
                    .map(|field| Lp::new().str(field.as_str())),
            )
            .into_bytes()
    }

    /// `SHA-256(LP("attache/commit-put/1", ...))`.
    #[must_use]
    pub fn digest(&self) -> PutDigest {
        PutDigest(kdf::sha256(&self.digest_input()))
    }

    /// Seals the data keys to the broker's receive key; they come in the order of [`CommitPut::fields`].
    ///
    /// # Errors
    /// [`EnvelopeError::Rule`] when there are more or fewer keys than fields; [`EnvelopeError::PublicKey`],
    /// [`EnvelopeError::Random`].
    pub fn seal_keys(
        &self,
        random: &dyn Random,
        receive_key: &PublicKey,
        channel: &Channel<'_>,
        deks: &[Dek<'_>],
    ) -> Result<(Enc, Vec<u8>), EnvelopeError> {
        if deks.len() != self.fields.len() {
            return Err(EnvelopeError::Rule("a put has one data key a field"));
        }
        let plaintext = concat(deks);
        let aad = self.digest();
        x25519::seal(random, receive_key, &channel.put_info(), &plaintext, &aad.0)
    }

    /// Opens the data keys into `out`, 32 bytes each, in the order of [`CommitPut::fields`].
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`] when anything of the put or the channel differs, or the count of keys;
    /// [`EnvelopeError::PublicKey`] for an `enc` that no sender makes; [`EnvelopeError::Buffer`] when `out` is not
    /// 32 bytes a field.
    pub fn open_keys(
        &self,
        secret: SecretKey<'_>,
        enc: &Enc,
        channel: &Channel<'_>,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), EnvelopeError> {
        let needed = self.fields.len() * KEY_BYTES;
        gcm::check_buffer("the data keys", needed, out)?;
        if sealed.len() != needed + TAG_BYTES {
            return Err(EnvelopeError::Refused);
        }
        let aad = self.digest();
        x25519::open(secret, enc, &channel.put_info(), sealed, &aad.0, out)
    }
}

/// Data keys one after the other, wiped when dropped.
pub(crate) fn concat(deks: &[Dek<'_>]) -> Zeroizing<Vec<u8>> {
    let mut plaintext = Zeroizing::new(Vec::with_capacity(deks.len() * KEY_BYTES));
    for dek in deks {
        plaintext.extend_from_slice(dek.bytes());
    }
    plaintext
}

fn check(parts: &PutParts) -> Result<(), EnvelopeError> {
    if parts.fields.is_empty() {
        return Err(EnvelopeError::Rule("a put has at least one field"));
    }
    limit(
        "the put, in fields,",
        parts.fields.len() + parts.carried.len(),
        MAX_FIELDS,
    )?;
    limit("the note, in bytes,", parts.note.len(), MAX_NOTE_BYTES)?;
    if !parts.fields.is_sorted_by(|a, b| a.field < b.field) {
        return Err(EnvelopeError::Rule("a field is put twice"));
    }
    if !parts.carried.is_sorted_by(|a, b| a < b) {
        return Err(EnvelopeError::Rule("a field is carried twice"));
    }
    let mut values: Vec<_> = parts.fields.iter().map(|sent| sent.value).collect();
    values.sort_unstable();
    if !values.is_sorted_by(|a, b| a < b) {
        return Err(EnvelopeError::Rule("two fields have one value id"));
    }
    let both = |sent: &PutField| parts.carried.binary_search(&sent.field).is_ok();
    if parts.fields.iter().any(both) {
        return Err(EnvelopeError::Rule("a field is both put and carried"));
    }
    if parts.flags & !FLAG_REPLACE != 0 {
        return Err(EnvelopeError::Rule(
            "the put has a flag that this build does not know",
        ));
    }
    if parts.flags & FLAG_REPLACE != 0 && !parts.carried.is_empty() {
        return Err(EnvelopeError::Rule("a replacing put carries no field"));
    }
    Ok(())
}

fn limit(what: &'static str, found: usize, limit: usize) -> Result<(), EnvelopeError> {
    if found <= limit {
        Ok(())
    } else {
        Err(EnvelopeError::Limit { what, found, limit })
    }
}

#[cfg(test)]
mod tests;
