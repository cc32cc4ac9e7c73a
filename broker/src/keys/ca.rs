//! The CA's keys: a new one beside the one before, and the end of that.
//!
//! ```text
//! rotate   a new key is active, the one before stays in the keyring: one change of the keyring
//! drop     the active key alone: one more
//! replace  a new key alone: both in one change, for a key in wrong hands
//! ```
//! At most one is there beside the active one. Each change draws a new store root key, as every change of the keyring does.

use std::sync::Arc;

use attache_envelope::EnvelopeError;
use attache_envelope::SystemRandom;
use attache_envelope::id::KeyId;

use super::error::KeysError;
use super::keyring::Keys;
use super::ring::{Changing, Epochs, RingKey};
use super::slots::{Rekeyed, SlotSet};

/// One key of the CA.
#[derive(Clone)]
pub struct CaKey(Arc<RingKey>);

impl CaKey {
    /// Its epoch, from 1.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.0.epoch
    }

    /// The Ed25519 seed.
    #[must_use]
    pub fn seed(&self) -> &[u8; 32] {
        self.0.key.expose()
    }
}

/// Other keys of the CA, which are not committed yet.
pub struct CaChange {
    /// The keyring and every slot.
    pub rekeyed: Rekeyed,
    /// What is taken up once that is committed.
    pub epochs: CaEpochs,
}

/// The CA's keys as they are after a change.
pub struct CaEpochs(Changing);

impl CaEpochs {
    /// The key that is active then.
    #[must_use]
    pub fn active(&self) -> CaKey {
        CaKey(self.0.ca.share_active())
    }
}

impl Keys {
    /// The key that the CA signs with.
    #[must_use]
    pub fn ca_key(&self) -> CaKey {
        CaKey(self.now().ca.share_active())
    }

    /// The key that it signed with before, while what that signed is still trusted.
    #[must_use]
    pub fn ca_key_before(&self) -> Option<CaKey> {
        self.now().ca.old().last().map(|key| CaKey(Arc::clone(key)))
    }

    /// Draws another key for the CA. The one before stays.
    ///
    /// # Errors
    /// [`KeysError`]; nothing is changed by this call in any case, here and below.
    pub fn rotate_ca(&self, set: &SlotSet) -> Result<CaChange, KeysError> {
        let mut changed = self.now();
        changed.ca = Arc::new(self.with_another(&changed.ca)?);
        self.ca_change(set, changed)
    }

    /// Draws another key for the CA. No one before stays.
    ///
    /// # Errors
    /// As [`Keys::rotate_ca`].
    pub fn replace_ca_now(&self, set: &SlotSet) -> Result<CaChange, KeysError> {
        let mut changed = self.now();
        changed.ca = Arc::new(self.with_another(&changed.ca)?.without_old());
        self.ca_change(set, changed)
    }

    /// Takes the key before the active one away.
    ///
    /// # Errors
    /// As [`Keys::rotate_ca`].
    pub fn drop_ca(&self, set: &SlotSet) -> Result<CaChange, KeysError> {
        let mut changed = self.now();
        changed.ca = Arc::new(changed.ca.without_old());
        self.ca_change(set, changed)
    }

    /// A change of the CA's keys is committed: takes it up. A key that is gone with it is wiped when the last signature
    /// with it is made.
    pub fn take_up_ca(&self, epochs: CaEpochs) {
        self.take_up(epochs.0);
    }

    fn ca_change(&self, set: &SlotSet, changed: Changing) -> Result<CaChange, KeysError> {
        let rekeyed = self.rekey_with(set, &changed)?;
        let epochs = CaEpochs(changed);
        Ok(CaChange { rekeyed, epochs })
    }

    /// These, and another one that is active.
    pub(super) fn with_another(&self, epochs: &Epochs) -> Result<Epochs, KeysError> {
        let spent = EnvelopeError::Rule("the purpose has no epoch left");
        Ok(epochs.with_active(RingKey {
            epoch: epochs.active().epoch.checked_add(1).ok_or(spent)?,
            id: KeyId::random(&SystemRandom)?,
            key: self.arena().random_key()?,
        }))
    }
}
