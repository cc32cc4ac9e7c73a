//! A slot's secret as an operator's CLI sends it: opened into the arena and nowhere else.

use attache_arena::Key;
use attache_envelope::id::{BootId, KeyId};
use attache_envelope::slot::{SlotChannel, SlotRequest};
use attache_envelope::x25519::Enc;
use attache_mtls::spiffe::{BrokerId, OperatorId};

use super::error::SlotError;
use super::keyring::Keys;
use super::receive::ReceiveKeys;

/// A sealed secret.
pub struct SentSecret {
    /// Which run of which broker it is sealed to.
    pub boot: BootId,
    /// Which receive key.
    pub key_id: KeyId,
    /// The sender's half of the HPKE setup.
    pub enc: Enc,
    /// The secret.
    pub sealed: Vec<u8>,
}

impl SentSecret {
    /// Opens a secret of 32 bytes, as a key file has.
    ///
    /// # Errors
    /// [`SlotError::ReceiveKey`], [`SlotError::Sealed`]; [`SlotError::Keys`] when the arena is full.
    pub fn open(
        &self,
        keys: &Keys,
        receive: &ReceiveKeys,
        (broker, operator): (&BrokerId, &OperatorId),
        request: &SlotRequest<'_>,
    ) -> Result<Key, SlotError> {
        let receive = receive.find(self.boot, self.key_id);
        let receive = receive.ok_or(SlotError::ReceiveKey)?;
        let (broker_id, operator_id) = (&broker.to_string(), &operator.to_string());
        let channel = SlotChannel {
            store: keys.store_id(),
            broker_id,
            boot: self.boot,
            key_id: self.key_id,
            operator_id,
        };
        keys.arena().key_with(|cell| {
            request
                .open_secret(receive.secret(), &self.enc, &channel, &self.sealed, cell)
                .map_err(|_| SlotError::Sealed)
        })
    }
}
