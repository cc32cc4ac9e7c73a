//! The slots of an open store, and the one way to change its keyring.
//!
//! ```text
//! a new SRK, drawn here   keyring sealed under it, number + 1   the SRK sealed to every slot: one change, one commit
//! ```
//! No slot's secret is needed: the SRK is sealed to public keys. Every row that the change stands on was verified when it
//! was read, and must still be the same at the commit; a row that does not verify is reported and never sealed to. The SRK
//! is wiped before the change is handed out, so that a change that is not committed leaves nothing that opens anything.

use attache_arena::LockedBuf;
use attache_envelope::key::{SigningSeed, Srk};
use attache_envelope::keyring::{FreshSrk, SealedKeyring, record_bytes, write_record};
use attache_envelope::slot::Slot;
use attache_envelope::{EnvelopeError, SystemRandom, Table};

use super::error::KeysError;
use super::keyring::{KEYRING_ROW, Keys};
use crate::store::{Change, Ledger, LedgerError, Store};

/// The slots of a store and the number of its keyring, as they were read, each row verified.
pub struct SlotSet {
    number: u64,
    keyring_seq: u64,
    /// By name, with the commits of their rows.
    slots: Vec<(u64, Slot)>,
}

/// A change of the keyring that can be committed.
#[derive(Debug)]
pub struct Rekeyed {
    /// The keyring and every slot, on the condition that none of them has changed.
    pub change: Change,
    /// The keyring's number after it.
    pub number: u64,
}

impl SlotSet {
    /// Reads them.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] names a row that does not verify, or is none.
    pub async fn read<S: Store>(ledger: &Ledger<S>) -> Result<Self, LedgerError> {
        let damaged = || LedgerError::damaged(Table::Meta, KEYRING_ROW);
        let keyring = ledger.read(Table::Meta, KEYRING_ROW).await?;
        let keyring = keyring.ok_or_else(damaged)?;
        let sealed = SealedKeyring::decode(&keyring.body).map_err(|_| damaged())?;
        let mut slots = Vec::new();
        for (key, row) in ledger.whole(Table::Slot).await? {
            let slot = Slot::decode(&row.body).ok();
            let slot = slot.filter(|slot| slot.identity.slot.as_bytes().as_slice() == key);
            let slot = slot.ok_or_else(|| LedgerError::damaged(Table::Slot, &key))?;
            slots.push((row.seq, slot));
        }
        slots.sort_unstable_by(|(_, a), (_, b)| a.about.name.cmp(&b.about.name));
        Ok(Self {
            number: sealed.number(),
            keyring_seq: keyring.seq,
            slots,
        })
    }

    /// The keyring's number.
    #[must_use]
    pub fn keyring_number(&self) -> u64 {
        self.number
    }

    /// The slots, by name.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = &Slot> {
        self.slots.iter().map(|(_, slot)| slot)
    }
}

impl Keys {
    /// Seals the keyring under a new store root key, and that to every slot. The keys within stay what they are.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn rekey(&self, set: &SlotSet) -> Result<Rekeyed, KeysError> {
        let spent = EnvelopeError::Rule("the keyring has no number left");
        let number = set.number.checked_add(1).ok_or(spent)?;
        let store = self.store_id();
        let entries: Vec<_> = self.ring().entries().collect();
        let mut record = LockedBuf::new(record_bytes(entries.len()))?;
        write_record(&entries, record.as_mut_slice())?;
        let fresh = FreshSrk::new(self.arena().random_key()?);
        let (sealed, srk) = fresh.seal(store, number, record.as_slice())?;
        let rekey = SigningSeed::new(self.ring().rekey.active().key.expose());
        let mut change = Change::default();
        change.require_at(Table::Meta, KEYRING_ROW, set.keyring_seq);
        change.put(Table::Meta, KEYRING_ROW, sealed.encode());
        for (seq, slot) in &set.slots {
            let srk = Srk::new(srk.expose());
            let seal = slot
                .identity
                .seal_srk(&SystemRandom, store, number, srk, rekey)?;
            let row = *slot.identity.slot.as_bytes();
            let resealed = Slot {
                seal,
                ..slot.clone()
            };
            change.require_at(Table::Slot, row, *seq);
            change.put(Table::Slot, row, resealed.encode());
        }
        Ok(Rekeyed { change, number })
    }
}

#[cfg(test)]
mod tests;
