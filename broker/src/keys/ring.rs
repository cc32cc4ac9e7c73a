//! The keyring's keys in the arena, by purpose.
//!
//! Each purpose has exactly one active key, which makes new things; older ones only open and verify. The format
//! guarantees it; here it becomes a type. The keys of the CA, of the rows' MACs and of the audit change while a broker runs,
//! and stand apart. Of an audit key that signs no more the ring has the public half alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use attache_arena::{Arena, ArenaError, Key};
use attache_envelope::id::KeyId;
use attache_envelope::keyring::{KeyState, KeyringEntry, Purpose};

/// One key of the keyring.
pub(crate) struct RingKey {
    pub(crate) epoch: u32,
    pub(crate) id: KeyId,
    pub(crate) key: Key,
}

/// The keys of one purpose.
#[derive(Clone)]
pub(crate) struct Epochs {
    active: Arc<RingKey>,
    old: Vec<Arc<RingKey>>,
}

/// The keys that change while a broker runs, as they are at one instant. A clone has the same keys.
#[derive(Clone)]
pub(crate) struct Changing {
    pub(crate) row_mac: Arc<Epochs>,
    pub(crate) ca: Arc<Epochs>,
    pub(crate) audit_signing: Arc<Epochs>,
}

/// The opened keyring.
pub(crate) struct Ring {
    pub(crate) changing: ArcSwap<Changing>,
    pub(crate) set_hash: Epochs,
    pub(crate) anchor_seal: Epochs,
    pub(crate) anchor_mac: Epochs,
    pub(crate) denial: Epochs,
    pub(crate) kek_wrap: Epochs,
    pub(crate) rekey: Epochs,
}

impl Epochs {
    /// These, and one that is active from now on.
    pub(crate) fn with_active(&self, active: RingKey) -> Self {
        let old = self.old.iter().chain([&self.active]);
        Self {
            old: old.map(Arc::clone).collect(),
            active: Arc::new(active),
        }
    }

    /// The active one alone.
    pub(crate) fn without_old(&self) -> Self {
        Self {
            active: Arc::clone(&self.active),
            old: Vec::new(),
        }
    }

    /// These, with that one in the place of the old one of its epoch, and of the old ones the newest, at most so many.
    pub(crate) fn with_old(&self, other: RingKey, most: usize) -> Self {
        let mut old = self.old.clone();
        old.retain(|key| key.epoch != other.epoch);
        old.push(Arc::new(other));
        old.sort_unstable_by_key(|key| key.epoch);
        Self {
            active: Arc::clone(&self.active),
            old: old.split_off(old.len().saturating_sub(most)),
        }
    }

    /// Those that only open and verify.
    pub(crate) fn old(&self) -> &[Arc<RingKey>] {
        &self.old
    }

    /// The one that makes new things, shared.
    pub(crate) fn share_active(&self) -> Arc<RingKey> {
        Arc::clone(&self.active)
    }

    /// The one that makes new things.
    pub(crate) fn active(&self) -> &RingKey {
        &self.active
    }

    pub(crate) fn of_epoch(&self, epoch: u32) -> Option<&RingKey> {
        self.all().find(|key| key.epoch == epoch)
    }

    pub(crate) fn of_id(&self, id: KeyId) -> Option<&RingKey> {
        self.all().find(|key| key.id == id)
    }

    fn all(&self) -> impl Iterator<Item = &RingKey> {
        std::iter::once(&self.active)
            .chain(&self.old)
            .map(Arc::as_ref)
    }

    /// Ascending by epoch, as the record has them.
    fn entries(&self, purpose: Purpose) -> Vec<KeyringEntry<'_>> {
        let old = self.old.iter().map(|key| (key.as_ref(), KeyState::Old));
        let keys = old.chain([(self.active.as_ref(), KeyState::Active)]);
        let mut entries: Vec<_> = keys
            .map(|(key, state)| KeyringEntry {
                purpose,
                state,
                epoch: key.epoch,
                id: key.id,
                key: key.key.expose(),
            })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.epoch);
        entries
    }
}

impl Ring {
    /// Copies a keyring's keys into cells of the arena; nothing when a purpose has not exactly one active key, which no
    /// decoded record lacks.
    pub(crate) fn load(
        arena: &Arena,
        entries: &[KeyringEntry<'_>],
    ) -> Result<Option<Self>, ArenaError> {
        let mut active = BTreeMap::new();
        let mut old: BTreeMap<Purpose, Vec<Arc<RingKey>>> = BTreeMap::new();
        for entry in entries {
            let key = RingKey {
                epoch: entry.epoch,
                id: entry.id,
                key: arena.key_with(|cell| {
                    cell.copy_from_slice(entry.key);
                    Ok::<(), ArenaError>(())
                })?,
            };
            match entry.state {
                KeyState::Active => drop(active.insert(entry.purpose, Arc::new(key))),
                KeyState::Old => old.entry(entry.purpose).or_default().push(Arc::new(key)),
            }
        }
        Ok(Self::assemble(|purpose| {
            Some(Epochs {
                active: active.remove(&purpose)?,
                old: old.remove(&purpose).unwrap_or_default(),
            })
        }))
    }

    /// Every key, with these of those that change, in the order of the record.
    pub(crate) fn entries<'a>(
        &'a self,
        changing: &'a Changing,
    ) -> impl Iterator<Item = KeyringEntry<'a>> {
        Purpose::ALL
            .iter()
            .flat_map(|purpose| self.of(*purpose, changing).entries(*purpose))
    }

    fn of<'a>(&'a self, purpose: Purpose, changing: &'a Changing) -> &'a Epochs {
        match purpose {
            Purpose::RowMac => &changing.row_mac,
            Purpose::SetHash => &self.set_hash,
            Purpose::AnchorSeal => &self.anchor_seal,
            Purpose::AnchorMac => &self.anchor_mac,
            Purpose::Denial => &self.denial,
            Purpose::KekWrap => &self.kek_wrap,
            Purpose::AuditSigning => &changing.audit_signing,
            Purpose::Ca => &changing.ca,
            Purpose::Rekey => &self.rekey,
        }
    }

    fn assemble(mut epochs: impl FnMut(Purpose) -> Option<Epochs>) -> Option<Self> {
        let changing = Changing {
            row_mac: Arc::new(epochs(Purpose::RowMac)?),
            ca: Arc::new(epochs(Purpose::Ca)?),
            audit_signing: Arc::new(epochs(Purpose::AuditSigning)?),
        };
        Some(Self {
            changing: ArcSwap::from_pointee(changing),
            set_hash: epochs(Purpose::SetHash)?,
            anchor_seal: epochs(Purpose::AnchorSeal)?,
            anchor_mac: epochs(Purpose::AnchorMac)?,
            denial: epochs(Purpose::Denial)?,
            kek_wrap: epochs(Purpose::KekWrap)?,
            rekey: epochs(Purpose::Rekey)?,
        })
    }
}
