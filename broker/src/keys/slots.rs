//! The slots of an open store, and the one way to change its keyring.
//!
//! ```text
//! a new SRK, drawn here   keyring sealed under it, number + 1   the SRK sealed to every slot: one change, one commit
//! ```
//! No slot's secret is needed: the SRK is sealed to public keys. Every row that the change stands on was verified when it
//! was read, and must still be the same at the commit; a row that does not verify is reported and never sealed to. The SRK
//! is wiped before the change is handed out, so that a change that is not committed leaves nothing that opens anything.

use attache_arena::{Key, LockedBuf};
use attache_envelope::id::SlotId;
use attache_envelope::key::{SigningSeed, SlotSecret, Srk};
use attache_envelope::keyring::{FreshSrk, SealedKeyring, record_bytes, write_record};
use attache_envelope::name::SlotName;
use attache_envelope::slot::{Slot, SlotAbout, SlotIdentity, SlotSource};
use attache_envelope::{EnvelopeError, SystemRandom, Table};

use super::error::{KeysError, SlotError};
use super::keyring::{KEYRING_ROW, Keys};
use super::ring::Changing;
use crate::store::{Change, Ledger, LedgerError, Store};

/// The most slots of a store. Each is one more way to all of it.
pub const MAX_SLOTS: usize = 16;

/// The slots of a store and its keyring, as they were read, each row verified.
pub struct SlotSet {
    keyring: SealedKeyring,
    keyring_seq: u64,
    /// By name, with the commits of their rows.
    slots: Vec<(u64, Slot)>,
}

/// A slot that is to be made.
pub struct NewSlot<'a> {
    /// Its uuid.
    pub slot: SlotId,
    /// Its name.
    pub name: SlotName,
    /// How its secret is had.
    pub source: SlotSource,
    /// The secret that is to open it.
    pub secret: SlotSecret<'a>,
    /// The time, in milliseconds since 1970.
    pub now_ms: u64,
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
        let row = ledger.read(Table::Meta, KEYRING_ROW).await?;
        let row = row.ok_or_else(damaged)?;
        let keyring = SealedKeyring::decode(&row.body).map_err(|_| damaged())?;
        let mut slots = Vec::new();
        for (key, row) in ledger.whole(Table::Slot).await? {
            let slot = Slot::decode(&row.body).ok();
            let slot = slot.filter(|slot| slot.identity.slot.as_bytes().as_slice() == key);
            let slot = slot.ok_or_else(|| LedgerError::damaged(Table::Slot, &key))?;
            slots.push((row.seq, slot));
        }
        slots.sort_unstable_by(|(_, a), (_, b)| a.about.name.cmp(&b.about.name));
        Ok(Self {
            keyring,
            keyring_seq: row.seq,
            slots,
        })
    }

    /// The keyring's number.
    #[must_use]
    pub fn keyring_number(&self) -> u64 {
        self.keyring.number()
    }

    /// The slots, by name.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = &Slot> {
        self.slots.iter().map(|(_, slot)| slot)
    }

    /// The slot of that uuid.
    ///
    /// # Errors
    /// [`SlotError::Absent`].
    pub fn find(&self, slot: SlotId) -> Result<&Slot, SlotError> {
        Ok(&self.stored(slot)?.1)
    }

    fn stored(&self, slot: SlotId) -> Result<&(u64, Slot), SlotError> {
        let mut slots = self.slots.iter();
        let found = slots.find(|(_, found)| found.identity.slot == slot);
        found.ok_or(SlotError::Absent { slot })
    }
}

impl Keys {
    /// Seals the keyring under a new store root key, and that to every slot. The keys within stay what they are.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn rekey(&self, set: &SlotSet) -> Result<Rekeyed, KeysError> {
        self.rekey_with(set, &self.now())
    }

    /// As [`Keys::rekey`], with these in place of the keys that change while a broker runs.
    pub(super) fn rekey_with(
        &self,
        set: &SlotSet,
        changed: &Changing,
    ) -> Result<Rekeyed, KeysError> {
        let mut resealing = Resealing::begin(self, changed, set)?;
        for stored in &set.slots {
            resealing.keep(stored)?;
        }
        Ok(resealing.end())
    }

    /// As [`Keys::rekey`], with one slot more.
    ///
    /// # Errors
    /// [`SlotError`]; nothing is changed by this call in any case.
    pub fn add_slot(&self, set: &SlotSet, new: NewSlot<'_>) -> Result<Rekeyed, SlotError> {
        let NewSlot { slot, name, .. } = new;
        if set.slots().any(|known| known.about.name == name) {
            return Err(SlotError::NameTaken { name });
        }
        if set.find(slot).is_ok() {
            return Err(SlotError::IdTaken);
        }
        if set.slots.len() >= MAX_SLOTS {
            return Err(SlotError::Full { most: MAX_SLOTS });
        }
        let rekey = self.rekey_seed().verifying_key()?;
        let store = self.store_id();
        let identity =
            SlotIdentity::new(&SystemRandom, store, slot, &new.source, new.secret, rekey)?;
        let about = SlotAbout {
            name,
            created_ms: new.now_ms,
            verified_ms: None,
        };
        let mut resealing = Resealing::begin(self, &self.now(), set)?;
        for stored in &set.slots {
            resealing.keep(stored)?;
        }
        resealing.add(identity, about)?;
        Ok(resealing.end())
    }

    /// As [`Keys::rekey`], without one slot. What is sealed to it in copies of the store stays sealed to it.
    ///
    /// # Errors
    /// [`SlotError::Absent`], [`SlotError::Last`]; [`SlotError::Keys`].
    pub fn remove_slot(&self, set: &SlotSet, slot: SlotId) -> Result<Rekeyed, SlotError> {
        let removed = set.stored(slot)?;
        if set.slots.len() == 1 {
            let name = removed.1.about.name.clone();
            return Err(SlotError::Last { name });
        }
        let mut resealing = Resealing::begin(self, &self.now(), set)?;
        for stored in &set.slots {
            if stored.1.identity.slot == slot {
                resealing.remove(stored);
            } else {
                resealing.keep(stored)?;
            }
        }
        Ok(resealing.end())
    }

    /// Shows that a secret opens a slot, and through it this keyring: opens both with it, and answers the slot's row with
    /// the time of it.
    ///
    /// # Errors
    /// [`SlotError::Absent`], [`SlotError::WrongSecret`]; [`SlotError::Keys`].
    pub fn verify_slot(
        &self,
        set: &SlotSet,
        slot: SlotId,
        secret: SlotSecret<'_>,
        now_ms: u64,
    ) -> Result<(Change, Slot), SlotError> {
        let (seq, found) = set.stored(slot)?;
        let store = self.store_id();
        let wrong = |_| SlotError::WrongSecret {
            name: found.about.name.clone(),
        };
        let srk = self
            .arena()
            .key_with(|cell| found.open(store, secret, cell).map(drop).map_err(wrong))?;
        let mut record = LockedBuf::new(set.keyring.record_bytes())?;
        set.keyring
            .open(Srk::new(srk.expose()), store, record.as_mut_slice())?;
        let mut verified = found.clone();
        verified.about.verified_ms = Some(now_ms);
        let mut change = Change::default();
        change.require_at(Table::Slot, *slot.as_bytes(), *seq);
        change.put(Table::Slot, *slot.as_bytes(), verified.encode());
        Ok((change, verified))
    }

    fn rekey_seed(&self) -> SigningSeed<'_> {
        SigningSeed::new(self.ring().rekey.active().key.expose())
    }
}

/// A keyring that is sealed under a root key of its own, which every slot that stays is still to be given.
struct Resealing<'k> {
    keys: &'k Keys,
    srk: Key,
    rekeyed: Rekeyed,
}

impl<'k> Resealing<'k> {
    /// Seals the keyring with these of the keys that change.
    fn begin(keys: &'k Keys, changing: &Changing, set: &SlotSet) -> Result<Self, KeysError> {
        let spent = EnvelopeError::Rule("the keyring has no number left");
        let number = set.keyring_number().checked_add(1).ok_or(spent)?;
        let entries: Vec<_> = keys.ring().entries(changing).collect();
        let mut record = LockedBuf::new(record_bytes(entries.len()))?;
        write_record(&entries, record.as_mut_slice())?;
        let fresh = FreshSrk::new(keys.arena().random_key()?);
        let (sealed, srk) = fresh.seal(keys.store_id(), number, record.as_slice())?;
        let mut change = Change::default();
        // Whoever changes the slots changes the keyring: of two at once, the second does not find it as it was.
        change.require_at(Table::Meta, KEYRING_ROW, set.keyring_seq);
        change.put(Table::Meta, KEYRING_ROW, sealed.encode());
        Ok(Self {
            keys,
            srk,
            rekeyed: Rekeyed { change, number },
        })
    }

    fn keep(&mut self, (seq, slot): &(u64, Slot)) -> Result<(), KeysError> {
        let row = *slot.identity.slot.as_bytes();
        self.rekeyed.change.require_at(Table::Slot, row, *seq);
        self.put(slot.identity.clone(), slot.about.clone())
    }

    fn add(&mut self, identity: SlotIdentity, about: SlotAbout) -> Result<(), KeysError> {
        let row = *identity.slot.as_bytes();
        self.rekeyed.change.require_absent(Table::Slot, row);
        self.put(identity, about)
    }

    fn remove(&mut self, (seq, slot): &(u64, Slot)) {
        let (row, change) = (*slot.identity.slot.as_bytes(), &mut self.rekeyed.change);
        change.require_at(Table::Slot, row, *seq);
        change.deletes.push((Table::Slot, row.to_vec()));
    }

    fn put(&mut self, identity: SlotIdentity, about: SlotAbout) -> Result<(), KeysError> {
        let seal = identity.seal_srk(
            &SystemRandom,
            self.keys.store_id(),
            self.rekeyed.number,
            Srk::new(self.srk.expose()),
            self.keys.rekey_seed(),
        )?;
        let row = *identity.slot.as_bytes();
        let slot = Slot {
            identity,
            seal,
            about,
        };
        self.rekeyed.change.put(Table::Slot, row, slot.encode());
        Ok(())
    }

    /// The root key is wiped here.
    fn end(self) -> Rekeyed {
        self.rekeyed
    }
}

#[cfg(test)]
mod tests;
