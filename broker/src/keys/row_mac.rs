//! The keys of the rows' MACs: another one that tags what is written, and the end of those before.
//!
//! ```text
//! rotate   a new key is active, those before verify what they tagged: one change of the keyring
//! drop     the active key alone, once no row has a tag of another: one more
//! ```
//! Each change draws a new store root key, as every change of the keyring does.

use std::sync::Arc;

use super::error::KeysError;
use super::keyring::Keys;
use super::ring::Changing;
use super::slots::{Rekeyed, SlotSet};

/// Other keys of the rows' MACs, which are not committed yet.
pub struct MacChange {
    /// The keyring and every slot.
    pub rekeyed: Rekeyed,
    /// What is taken up once that is committed.
    pub epochs: MacEpochs,
}

/// The keys of the rows' MACs as they are after a change.
pub struct MacEpochs(Changing);

impl MacEpochs {
    /// The epoch that is active then.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.0.row_mac.active().epoch
    }
}

impl Keys {
    /// The epoch of the key that new rows are tagged with.
    #[must_use]
    pub fn mac_epoch(&self) -> u32 {
        self.now().row_mac.active().epoch
    }

    /// The epochs before it whose keys still verify what they tagged, ascending.
    #[must_use]
    pub fn mac_epochs_before(&self) -> Vec<u32> {
        let now = self.now();
        let mut before: Vec<_> = now.row_mac.old().iter().map(|key| key.epoch).collect();
        before.sort_unstable();
        before
    }

    /// Draws another key for the rows' MACs. Those before stay.
    ///
    /// # Errors
    /// [`KeysError`]; nothing is changed by this call in any case, here and below.
    pub fn rotate_mac(&self, set: &SlotSet) -> Result<MacChange, KeysError> {
        let mut changed = self.now();
        changed.row_mac = Arc::new(self.with_another(&changed.row_mac)?);
        self.mac_change(set, changed)
    }

    /// Takes the keys before the active one away.
    ///
    /// # Errors
    /// As [`Keys::rotate_mac`].
    pub fn drop_macs(&self, set: &SlotSet) -> Result<MacChange, KeysError> {
        let mut changed = self.now();
        changed.row_mac = Arc::new(changed.row_mac.without_old());
        self.mac_change(set, changed)
    }

    /// A change of these keys is committed: takes it up. A key that is gone with it is wiped when the last look at a
    /// snapshot of before it ends.
    pub fn take_up_macs(&self, epochs: MacEpochs) {
        self.take_up(epochs.0);
    }

    fn mac_change(&self, set: &SlotSet, changed: Changing) -> Result<MacChange, KeysError> {
        let rekeyed = self.rekey_with(set, &changed)?;
        let epochs = MacEpochs(changed);
        Ok(MacChange { rekeyed, epochs })
    }
}
