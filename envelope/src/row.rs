//! Rows: authenticated records of a table, and the elements of the set hashes over them.
//!
//! ```text
//! row = format u16 || mac_epoch u32 || seq u64 || body || tag 32
//! tag = HMAC-SHA256(K_row[epoch], LP("attache/row/1", format, epoch, store, table, key, seq, body))
//! ```
//!
//! Bytes from the store are an [`UnverifiedRow`], whose body cannot be reached; [`UnverifiedRow::verify`] makes a [`Row`].

use std::fmt;

use subtle::ConstantTimeEq as _;

use crate::error::EnvelopeError;
use crate::id::StoreId;
use crate::kdf::Keyed;
use crate::key::{RowMacKey, SetHashKey};
use crate::lp::{Fault, Lp, Malformed};
use crate::{FORMAT, Table};

/// Bytes before the body: format, mac_epoch, seq.
pub const HEAD_BYTES: usize = 14;

/// Bytes of the tag after the body.
pub const TAG_BYTES: usize = 32;

const RECORD: &str = "the row";

/// Where a row lies: store, table, key.
#[derive(Debug, Clone, Copy)]
pub struct RowName<'a> {
    /// The store.
    pub store: StoreId,
    /// The table.
    pub table: Table,
    /// The key in the table.
    pub key: &'a [u8],
}

/// A row's tag: what the set hash sums up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RowTag([u8; TAG_BYTES]);

impl RowTag {
    /// Takes a tag that was kept apart from its row.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; TAG_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; TAG_BYTES] {
        &self.0
    }
}

impl fmt::Debug for RowTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowTag(..)")
    }
}

/// A row to be stored.
#[derive(Debug)]
pub struct SealedRow {
    /// The bytes for the store.
    pub bytes: Vec<u8>,
    /// Its tag, for the set hash.
    pub tag: RowTag,
}

/// Builds a row for the commit `seq`.
#[must_use]
pub fn seal(
    key: RowMacKey<'_>,
    mac_epoch: u32,
    name: &RowName<'_>,
    seq: u64,
    body: &[u8],
) -> SealedRow {
    RowMac::new(key, mac_epoch).seal(name, seq, body)
}

/// A key of rows' MACs, prepared for the rows of one page or batch: of a short row's MAC the key is a third of the work.
///
/// What it holds is as good as the key. It is wiped when it is dropped, and must not outlive the call that made it.
pub struct RowMac {
    keyed: Keyed,
    epoch: u32,
}

impl RowMac {
    /// Prepares the key of an epoch.
    #[must_use]
    pub fn new(key: RowMacKey<'_>, epoch: u32) -> Self {
        let keyed = Keyed::new(key.bytes());
        Self { keyed, epoch }
    }

    /// The key's epoch.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Builds a row for the commit `seq`.
    #[must_use]
    pub fn seal(&self, name: &RowName<'_>, seq: u64, body: &[u8]) -> SealedRow {
        let tag = self.tag(name, seq, body);
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len() + TAG_BYTES);
        bytes.extend_from_slice(&FORMAT.to_be_bytes());
        bytes.extend_from_slice(&self.epoch.to_be_bytes());
        bytes.extend_from_slice(&seq.to_be_bytes());
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(&tag.0);
        SealedRow { bytes, tag }
    }

    fn tag(&self, name: &RowName<'_>, seq: u64, body: &[u8]) -> RowTag {
        let input = Lp::labelled("attache/row/1")
            .u16(FORMAT)
            .u32(self.epoch)
            .id(name.store)
            .str(name.table.name())
            .bytes(name.key)
            .u64(seq)
            .bytes(body);
        RowTag(self.keyed.hmac(input.as_bytes()))
    }
}

/// The key of the set hashes, prepared as [`RowMac`] is, and under the same rule.
pub struct SetMac(Keyed);

impl SetMac {
    /// Prepares the key.
    #[must_use]
    pub fn new(key: SetHashKey<'_>) -> Self {
        Self(Keyed::new(key.bytes()))
    }

    /// The element of a row in its table's set hash: `HMAC(K_set, LP("attache/set/1", store, table, key, tag))`.
    #[must_use]
    pub fn element(&self, name: &RowName<'_>, tag: &RowTag) -> SetElement {
        let input = Lp::labelled("attache/set/1")
            .id(name.store)
            .str(name.table.name())
            .bytes(name.key)
            .bytes(&tag.0);
        SetElement(self.0.hmac(input.as_bytes()))
    }
}

/// A row as the store gave it: nothing in it is to be believed but which key to try.
#[derive(Debug, Clone, Copy)]
pub struct UnverifiedRow<'a> {
    mac_epoch: u32,
    seq: u64,
    body: &'a [u8],
    tag: RowTag,
}

/// A row whose MAC holds for the name that it was asked for by.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The commit that wrote it.
    pub seq: u64,
    /// The epoch of the key that authenticates it.
    pub mac_epoch: u32,
    /// What it holds.
    pub body: &'a [u8],
    /// Its tag, for the set hash.
    pub tag: RowTag,
}

impl<'a> UnverifiedRow<'a> {
    /// Takes the parts of a row.
    ///
    /// # Errors
    /// [`EnvelopeError::Format`] for an unknown format; [`EnvelopeError::Malformed`] when it is too short.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let truncated =
            |field| EnvelopeError::malformed(RECORD)(Malformed::new(field, Fault::Truncated));
        let (format, rest) = bytes.split_first_chunk().ok_or(truncated("format"))?;
        match u16::from_be_bytes(*format) {
            FORMAT => {}
            found => {
                return Err(EnvelopeError::Format {
                    record: RECORD,
                    found,
                });
            }
        }
        let (epoch, rest) = rest.split_first_chunk().ok_or(truncated("mac_epoch"))?;
        let (seq, rest) = rest.split_first_chunk().ok_or(truncated("seq"))?;
        let (body, tag) = rest.split_last_chunk().ok_or(truncated("tag"))?;
        Ok(Self {
            mac_epoch: u32::from_be_bytes(*epoch),
            seq: u64::from_be_bytes(*seq),
            body,
            tag: RowTag(*tag),
        })
    }

    /// Which key it claims to be authenticated by.
    #[must_use]
    pub const fn mac_epoch(&self) -> u32 {
        self.mac_epoch
    }

    /// Its body before any key is there to check it: for slots and the keyring alone, which are what gives the
    /// keys. Their rows are verified as soon as the keyring is open.
    #[must_use]
    pub const fn unverified_body(&self) -> &'a [u8] {
        self.body
    }

    /// Checks the MAC, in constant time, against the key of its epoch and the name that was asked for.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`].
    pub fn verify(self, key: RowMacKey<'_>, name: &RowName<'_>) -> Result<Row<'a>, EnvelopeError> {
        self.verify_with(&RowMac::new(key, self.mac_epoch), name)
    }

    /// Checks the MAC with a prepared key; that of another epoch refuses it.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`].
    pub fn verify_with(self, key: &RowMac, name: &RowName<'_>) -> Result<Row<'a>, EnvelopeError> {
        if key.epoch != self.mac_epoch {
            return Err(EnvelopeError::Refused);
        }
        let expected = key.tag(name, self.seq, self.body);
        if !bool::from(expected.0.ct_eq(&self.tag.0)) {
            return Err(EnvelopeError::Refused);
        }
        Ok(Row {
            seq: self.seq,
            mac_epoch: self.mac_epoch,
            body: self.body,
            tag: self.tag,
        })
    }
}

/// The element of a row in its table's set hash, as [`SetMac::element`] has it.
#[must_use]
pub fn set_element(key: SetHashKey<'_>, name: &RowName<'_>, tag: &RowTag) -> SetElement {
    SetMac::new(key).element(name, tag)
}

/// What one row adds to its table's set hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SetElement([u8; 32]);

impl SetElement {
    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests;
