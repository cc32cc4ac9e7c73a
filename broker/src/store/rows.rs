//! Rows and the anchor under the keyring's keys: bytes of the engine on one side, verified types on the other.
//!
//! The formats are `attache_envelope`'s; here they meet the keys. A row must never leave here unverified.

use std::fmt;
use std::sync::Arc;

use attache_envelope::anchor::{Anchor, AnchorTag, AuditHead, SealedAnchor};
use attache_envelope::id::{ChainId, StoreId};
use attache_envelope::key::{AnchorMacKey, AnchorSealKey, RowMacKey, SetHashKey};
use attache_envelope::row::{
    self, HEAD_BYTES, RowMac, RowName, RowTag, SetElement, SetMac, TAG_BYTES, UnverifiedRow,
};
use attache_envelope::{EnvelopeError, SystemRandom, Table};
use bytes::Bytes;

use super::change::{Applied, LedgerError, Row, shown};
use super::engine::{AnchorSeq, Snapshot};
use crate::keys::{Epochs, Ring};

/// The key of the one row of [`Table::Anchor`].
pub(crate) const ANCHOR_KEY: &[u8] = b"";

/// Seals and verifies rows and anchors of one store.
pub(crate) struct RowCodec {
    store: StoreId,
    ring: Arc<Ring>,
    /// The keys of the rows' MACs, where they stand still whatever becomes of the ring's.
    standing: Option<Arc<Epochs>>,
}

/// A [`RowCodec`] for the rows of one page or batch. It has what is as good as keys, and must not outlive the call that made it.
pub(crate) struct PreparedCodec<'a> {
    codec: &'a RowCodec,
    mac: RowMac,
    set: SetMac,
}

/// A row of the engine whose tag was right.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoredRow {
    pub(crate) seq: u64,
    pub(crate) tag: RowTag,
    pub(crate) body: Bytes,
}

/// A row whose tag was right, with its name, its bytes in the engine and its element in the set hash: what a commit that
/// replaces it needs to know of it. Made by `PreparedCodec::read` alone.
#[derive(Clone, PartialEq, Eq)]
pub struct ReadRow {
    table: Table,
    key: Bytes,
    stored: Bytes,
    row: StoredRow,
    element: SetElement,
}

/// Where the store stands: an anchor, and the T that it gives.
#[derive(Clone)]
pub(crate) struct Tip {
    pub(crate) anchor: Anchor,
    pub(crate) t: AnchorTag,
}

impl RowCodec {
    pub(crate) fn new(store: StoreId, ring: Arc<Ring>) -> Self {
        Self {
            store,
            ring,
            standing: None,
        }
    }

    /// One that verifies what this one does, now and after a key of it was dropped.
    pub(crate) fn standing(&self) -> Self {
        Self {
            store: self.store,
            ring: Arc::clone(&self.ring),
            standing: Some(self.row_macs()),
        }
    }

    /// The epoch of the key that new tags are made with.
    pub(crate) fn mac_epoch(&self) -> u32 {
        self.row_macs().active().epoch
    }

    /// Verifies what the engine gave for `key`.
    pub(crate) fn verify(
        &self,
        table: Table,
        key: &[u8],
        stored: &Bytes,
    ) -> Result<StoredRow, LedgerError> {
        self.try_verify(table, key, stored)
            .map_err(|_| LedgerError::damaged(table, key))
    }

    /// This one with its active keys prepared, for the rows of one page or batch.
    pub(crate) fn prepared(&self) -> PreparedCodec<'_> {
        let macs = self.row_macs();
        let mac = macs.active();
        PreparedCodec {
            codec: self,
            mac: RowMac::new(RowMacKey::new(mac.key.expose()), mac.epoch),
            set: SetMac::new(SetHashKey::new(self.ring.set_hash.active().key.expose())),
        }
    }

    /// The row's element in the set hash of its table.
    pub(crate) fn element(&self, table: Table, key: &[u8], tag: &RowTag) -> SetElement {
        let set = SetHashKey::new(self.ring.set_hash.active().key.expose());
        row::set_element(set, &self.name(table, key), tag)
    }

    /// Makes the tip of an anchor: computes its T.
    pub(crate) fn tip(&self, anchor: Anchor) -> Tip {
        let mac = AnchorMacKey::new(self.ring.anchor_mac.active().key.expose());
        let t = anchor.t(mac, self.store);
        Tip { anchor, t }
    }

    /// The anchor's row for the engine.
    pub(crate) fn seal_anchor(&self, anchor: &Anchor) -> Result<Bytes, EnvelopeError> {
        let seal = self.ring.anchor_seal.active();
        let key = AnchorSealKey::new(seal.key.expose());
        anchor
            .seal(&SystemRandom, key, seal.id, self.store)
            .map(Bytes::from)
    }

    /// Reads the anchor of a snapshot, which must be of the snapshot's own sequence.
    pub(crate) async fn read_tip<V: Snapshot>(&self, snapshot: &V) -> Result<Tip, LedgerError> {
        let stored = snapshot.get(Table::Anchor, ANCHOR_KEY).await?;
        stored
            .and_then(|stored| self.open_anchor(&stored, snapshot.seq()))
            .map(|anchor| self.tip(anchor))
            .ok_or_else(|| LedgerError::damaged(Table::Anchor, ANCHOR_KEY))
    }

    fn open_anchor(&self, stored: &[u8], at: AnchorSeq) -> Option<Anchor> {
        let sealed = SealedAnchor::parse(stored).ok()?;
        let seal = self.ring.anchor_seal.of_id(sealed.key_id)?;
        let key = AnchorSealKey::new(seal.key.expose());
        let anchor = sealed.open(key, self.store).ok()?;
        (anchor.seq == at.0).then_some(anchor)
    }

    fn try_verify(
        &self,
        table: Table,
        key: &[u8],
        stored: &Bytes,
    ) -> Result<StoredRow, EnvelopeError> {
        let row = UnverifiedRow::parse(stored)?;
        let macs = self.row_macs();
        let mac = macs.of_epoch(row.mac_epoch());
        let mac = mac.ok_or(EnvelopeError::Refused)?;
        let row = row.verify(RowMacKey::new(mac.key.expose()), &self.name(table, key))?;
        Ok(StoredRow::of(&row, stored))
    }

    /// Whether a row's tag is of a key that is still there.
    pub(crate) fn has_key_of(&self, stored: &[u8]) -> bool {
        let row = UnverifiedRow::parse(stored);
        row.is_ok_and(|row| self.row_macs().of_epoch(row.mac_epoch()).is_some())
    }

    fn row_macs(&self) -> Arc<Epochs> {
        match &self.standing {
            Some(standing) => Arc::clone(standing),
            None => Arc::clone(&self.ring.changing.load().row_mac),
        }
    }

    fn name<'a>(&self, table: Table, key: &'a [u8]) -> RowName<'a> {
        RowName {
            store: self.store,
            table,
            key,
        }
    }
}

impl PreparedCodec<'_> {
    /// Builds a row for the commit `seq`: its bytes, and its element in the set hash of its table.
    pub(crate) fn seal(
        &self,
        table: Table,
        key: &[u8],
        seq: u64,
        body: &[u8],
    ) -> (Bytes, SetElement) {
        let name = self.codec.name(table, key);
        let row = self.mac.seal(&name, seq, body);
        (row.bytes.into(), self.set.element(&name, &row.tag))
    }

    /// As [`RowCodec::element`].
    pub(crate) fn element(&self, table: Table, key: &[u8], tag: &RowTag) -> SetElement {
        self.set.element(&self.codec.name(table, key), tag)
    }

    /// Verifies what the engine gave for `key`, for a commit that will replace it.
    pub(crate) fn read(
        &self,
        table: Table,
        key: Bytes,
        stored: Bytes,
    ) -> Result<ReadRow, LedgerError> {
        let name = self.codec.name(table, &key);
        let active = UnverifiedRow::parse(&stored)
            .ok()
            .filter(|row| row.mac_epoch() == self.mac.epoch());
        let row = match active.map(|row| row.verify_with(&self.mac, &name)) {
            Some(Ok(row)) => StoredRow::of(&row, &stored),
            Some(Err(_)) => return Err(LedgerError::damaged(table, &key)),
            None => self.codec.verify(table, &key, &stored)?,
        };
        let element = self.set.element(&name, &row.tag);
        Ok(ReadRow {
            table,
            key,
            stored,
            row,
            element,
        })
    }
}

impl ReadRow {
    pub(crate) fn name(&self) -> (Table, &[u8]) {
        (self.table, &self.key)
    }

    pub(crate) fn key(&self) -> &Bytes {
        &self.key
    }

    pub(crate) fn row(&self) -> &StoredRow {
        &self.row
    }

    pub(crate) fn element(&self) -> &SetElement {
        &self.element
    }

    /// Whether these are its bytes.
    pub(crate) fn is(&self, stored: &[u8]) -> bool {
        self.stored == stored
    }
}

impl fmt::Debug for ReadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadRow({})", self.row.seq)
    }
}

impl StoredRow {
    fn of(row: &row::Row<'_>, stored: &Bytes) -> Self {
        Self {
            seq: row.seq,
            tag: row.tag,
            body: stored.slice(HEAD_BYTES..stored.len().saturating_sub(TAG_BYTES)),
        }
    }

    pub(crate) fn into_row(self) -> Row {
        Row {
            seq: self.seq,
            body: self.body,
        }
    }
}

impl Tip {
    /// What stands before the first commit of a store.
    pub(crate) fn genesis() -> Self {
        let anchor = Anchor {
            incarnation: super::FIRST_INCARNATION,
            seq: 0,
            t_prev: AnchorTag::ZERO,
            tables: std::collections::BTreeMap::new(),
            heads: std::collections::BTreeMap::new(),
        };
        Self {
            anchor,
            t: AnchorTag::ZERO,
        }
    }

    /// The anchor of the commit after this one, with the same sums and heads as yet.
    pub(crate) fn next(&self) -> Result<Anchor, LedgerError> {
        let mut next = self.anchor.clone();
        next.seq = next.seq.checked_add(1).ok_or(LedgerError::Full)?;
        next.t_prev = self.t;
        Ok(next)
    }

    pub(crate) fn applied(&self) -> Applied {
        Applied {
            seq: self.anchor.seq,
            anchor_t: *self.t.as_bytes(),
        }
    }
}

/// Enters the head of an audit chain into an anchor.
pub(crate) fn set_head(anchor: &mut Anchor, head: Option<(ChainId, u64, [u8; 32])>) {
    if let Some((chain, size, root)) = head {
        anchor.heads.insert(chain, AuditHead { size, root });
    }
}

impl LedgerError {
    pub(crate) fn damaged(table: Table, key: &[u8]) -> Self {
        Self::Damaged {
            table,
            key: shown(key),
        }
    }
}
