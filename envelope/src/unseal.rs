//! A slot's secret on its way to a sealed broker, which knows nobody: sealed to a key of this boot, and bound to the slot.
//!
//! ```text
//! boot key fingerprint = SHA-256(boot key)
//! info   = LP("attache/unseal/1", store, broker id, boot, fingerprint, slot)
//! sealed = HPKE base 0x0020/0x0001/0x0002 to the boot key; aad empty, plaintext = the slot's secret of 32 bytes, or one share of 49
//! ```
//! What a person compares is the fingerprint: whoever stands between CLI and broker has another boot key.

use crate::TAG_BYTES;
use crate::error::EnvelopeError;
use crate::id::{BootId, SlotId, StoreId};
use crate::kdf;
use crate::key::SecretKey;
use crate::lp::Lp;
use crate::random::Random;
use crate::x25519::{self, Enc, PublicKey};

/// Who is to be opened, and by which slot.
#[derive(Debug, Clone, Copy)]
pub struct UnsealChannel<'a> {
    /// The store.
    pub store: StoreId,
    /// The broker's SPIFFE ID, as the TLS peer.
    pub broker_id: &'a str,
    /// The boot that drew the key.
    pub boot: BootId,
    /// The boot key.
    pub boot_key: PublicKey,
    /// The slot whose secret it is.
    pub slot: SlotId,
}

/// What a boot key is compared by: the SHA-256 of its 32 bytes.
#[must_use]
pub fn fingerprint(boot_key: &PublicKey) -> [u8; 32] {
    kdf::sha256(boot_key.as_bytes())
}

impl UnsealChannel<'_> {
    /// Seals a secret.
    ///
    /// # Errors
    /// [`EnvelopeError::PublicKey`], [`EnvelopeError::Random`].
    pub fn seal(
        &self,
        random: &dyn Random,
        secret: &[u8],
    ) -> Result<(Enc, Vec<u8>), EnvelopeError> {
        x25519::seal(random, &self.boot_key, &self.info(), secret, &[])
    }

    /// Opens a secret of `out`'s length into `out`.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`] when anything of the channel differs, or the length; [`EnvelopeError::PublicKey`] for an
    /// `enc` that no sender makes. `out` is then as it was.
    pub fn open(
        &self,
        boot_key: SecretKey<'_>,
        enc: &Enc,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), EnvelopeError> {
        if sealed.len() != out.len().saturating_add(TAG_BYTES) {
            return Err(EnvelopeError::Refused);
        }
        x25519::open(boot_key, enc, &self.info(), sealed, &[], out)
    }

    /// `LP("attache/unseal/1", store, broker id, boot, fingerprint, slot)`.
    #[must_use]
    pub fn info(&self) -> Vec<u8> {
        Lp::labelled("attache/unseal/1")
            .id(self.store)
            .str(self.broker_id)
            .id(self.boot)
            .bytes(&fingerprint(&self.boot_key))
            .id(self.slot)
            .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRandom;

    const SECRET: [u8; 32] = [7; 32];
    const BOOT_SECRET: [u8; 32] = [9; 32];

    fn channel() -> UnsealChannel<'static> {
        UnsealChannel {
            store: StoreId::from_bytes([1; 16]),
            broker_id: "spiffe://example.internal/broker/b0",
            boot: BootId::from_bytes([2; 16]),
            boot_key: SecretKey::new(&BOOT_SECRET).public_key().unwrap(),
            slot: SlotId::from_bytes([3; 16]),
        }
    }

    fn opened(by: &UnsealChannel<'_>, enc: &Enc, sealed: &[u8]) -> Option<[u8; 32]> {
        let mut out = [0; 32];
        let opened = by.open(SecretKey::new(&BOOT_SECRET), enc, sealed, &mut out);
        assert!(opened.is_ok() || out == [0; 32], "a refusal leaves nothing");
        opened.ok().map(|()| out)
    }

    #[test]
    fn a_secret_opens_for_its_own_slot_boot_broker_and_store_alone() {
        let ours = channel();
        let (enc, sealed) = ours.seal(&SystemRandom, &SECRET).unwrap();
        assert_eq!(opened(&ours, &enc, &sealed), Some(SECRET));
        let others = [
            UnsealChannel {
                store: StoreId::from_bytes([4; 16]),
                ..ours
            },
            UnsealChannel {
                broker_id: "spiffe://example.internal/broker/b1",
                ..ours
            },
            UnsealChannel {
                boot: BootId::from_bytes([4; 16]),
                ..ours
            },
            UnsealChannel {
                boot_key: PublicKey::from_bytes([4; 32]),
                ..ours
            },
            UnsealChannel {
                slot: SlotId::from_bytes([4; 16]),
                ..ours
            },
        ];
        for other in &others {
            assert_eq!(opened(other, &enc, &sealed), None, "{other:?}");
        }
    }

    #[test]
    fn a_flipped_bit_and_another_length_are_refused() {
        let ours = channel();
        let (enc, sealed) = ours.seal(&SystemRandom, &SECRET).unwrap();
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert_eq!(opened(&ours, &enc, &flipped), None, "byte {at}");
        }
        assert_eq!(opened(&ours, &enc, &sealed[1..]), None);
        // What is sealed for another length opens for no other one: a share where a secret is wanted.
        let (enc, share) = ours.seal(&SystemRandom, &[7; 49]).unwrap();
        assert_eq!(opened(&ours, &enc, &share), None);
        let mut read = [0; 49];
        let whole = ours.open(SecretKey::new(&BOOT_SECRET), &enc, &share, &mut read);
        assert_eq!((whole, read), (Ok(()), [7; 49]));
        assert_eq!(opened(&ours, &enc, &[]), None);
    }
}
