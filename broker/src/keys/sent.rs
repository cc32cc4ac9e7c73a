//! A slot's secret as an operator's CLI sends it: opened into the arena and nowhere else.

use attache_arena::{Key, LockedBuf};
use attache_envelope::TAG_BYTES;
use attache_envelope::channel::Channel;
use attache_envelope::id::{BootId, KeyId};
use attache_envelope::key::KEY_BYTES;
use attache_envelope::slot::passphrase::check_strength;
use attache_envelope::slot::{MAX_SECRET_BYTES, SlotRequest, SlotSource, SlotVerb};
use attache_envelope::x25519::Enc;
use attache_mtls::spiffe::{BrokerId, OperatorId};
use tokio::sync::Semaphore;

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

/// One passphrase at a time: each takes the memory that its parameters ask for.
static DERIVING: Semaphore = Semaphore::const_new(1);

impl SentSecret {
    /// Opens what was sent for a slot of that source: the secret of a key file itself, or what a passphrase makes with the parameters of its slot. A
    /// passphrase for a new slot has a floor.
    ///
    /// # Errors
    /// [`SlotError::ReceiveKey`], [`SlotError::Sealed`], [`SlotError::Weak`], [`SlotError::Busy`]; [`SlotError::Keys`] when
    /// the arena is full.
    pub async fn open(
        &self,
        keys: &Keys,
        receive: &ReceiveKeys,
        ends: (&BrokerId, &OperatorId),
        request: &SlotRequest<'_>,
        source: &SlotSource,
    ) -> Result<Key, SlotError> {
        let parameters = match source {
            // Whoever has the shares has put them together.
            SlotSource::KeyFile | SlotSource::Shares(_) => {
                let open = |cell: &mut [u8; KEY_BYTES]| {
                    self.open_into(keys, receive, ends, request, cell.as_mut_slice())
                };
                return keys.arena().key_with(open);
            }
            SlotSource::Passphrase(parameters) => *parameters,
            // Its secret is not sent.
            SlotSource::Kms(_) => return Err(SlotError::Sealed),
        };
        let bytes = self.sealed.len().checked_sub(TAG_BYTES);
        let bytes = bytes.filter(|bytes| (1..=MAX_SECRET_BYTES).contains(bytes));
        let mut passphrase = LockedBuf::new(bytes.ok_or(SlotError::Sealed)?)?;
        self.open_into(keys, receive, ends, request, passphrase.as_mut_slice())?;
        if request.verb == SlotVerb::Add {
            check_strength(passphrase.as_slice())?;
        }
        let turn = DERIVING.try_acquire().map_err(|_| SlotError::Busy)?;
        let arena = keys.arena().clone();
        let derive = move || {
            let _turn = turn;
            arena.key_with(|cell| {
                let derived = parameters.derive(passphrase.as_slice(), cell);
                derived.map_err(SlotError::from)
            })
        };
        let derived = tokio::task::spawn_blocking(derive).await;
        derived.map_err(|_| SlotError::Stopping)?
    }

    fn open_into(
        &self,
        keys: &Keys,
        receive: &ReceiveKeys,
        (broker, operator): (&BrokerId, &OperatorId),
        request: &SlotRequest<'_>,
        out: &mut [u8],
    ) -> Result<(), SlotError> {
        let receive = receive.find(self.boot, self.key_id);
        let receive = receive.ok_or(SlotError::ReceiveKey)?;
        let (broker_id, operator_id) = (&broker.to_string(), &operator.to_string());
        let channel = Channel {
            store: keys.store_id(),
            broker_id,
            boot: self.boot,
            key_id: self.key_id,
            operator_id,
        };
        request
            .open_secret(receive.secret(), &self.enc, &channel, &self.sealed, out)
            .map_err(|_| SlotError::Sealed)
    }
}
