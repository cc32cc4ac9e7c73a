//! A slot's secret on its way from an operator's CLI to the broker: as the data keys of a put, sealed to the broker's
//! receive key and bound to what is asked for.
//!
//! ```text
//! info   = LP("attache/slot-channel/1", store, broker id, boot, key_id, operator id)
//! digest = SHA-256(LP("attache/slot-request/1", verb, store, request id, slot, kind, name))      name empty but in an add
//! sealed = HPKE base 0x0020/0x0001/0x0002 to the receive key; aad = digest, plaintext = the secret
//! ```

use super::SlotKind;
use crate::channel::Channel;
use crate::error::EnvelopeError;
use crate::id::{RequestId, SlotId, StoreId};
use crate::key::SecretKey;
use crate::lp::Lp;
use crate::random::Random;
use crate::x25519::{self, Enc, PublicKey};
use crate::{TAG_BYTES, kdf};

/// The most bytes of a secret that is sent.
pub const MAX_SECRET_BYTES: usize = 1024;

/// What is to be done with the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotVerb {
    /// A slot is made that it opens.
    Add,
    /// It is shown to open a slot.
    Verify,
}

/// Everything that a request with a secret says.
#[derive(Debug, Clone, Copy)]
pub struct SlotRequest<'a> {
    /// What is asked for.
    pub verb: SlotVerb,
    /// The store.
    pub store: StoreId,
    /// The request.
    pub request: RequestId,
    /// The slot; a new one's uuid is drawn by the CLI.
    pub slot: SlotId,
    /// How its secret is had.
    pub kind: SlotKind,
    /// A new slot's name; else empty.
    pub name: &'a str,
}

impl SlotVerb {
    const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Verify => "verify",
        }
    }
}

impl SlotRequest<'_> {
    /// `SHA-256(LP("attache/slot-request/1", verb, store, request id, slot, kind, name))`.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let input = Lp::labelled("attache/slot-request/1")
            .str(self.verb.name())
            .id(self.store)
            .id(self.request)
            .id(self.slot)
            .str(self.kind.name())
            .str(self.name);
        kdf::sha256(input.as_bytes())
    }

    /// Seals the secret to the broker's receive key.
    ///
    /// # Errors
    /// [`EnvelopeError::Limit`] for more than [`MAX_SECRET_BYTES`]; [`EnvelopeError::PublicKey`],
    /// [`EnvelopeError::Random`].
    pub fn seal_secret(
        &self,
        random: &dyn Random,
        receive_key: &PublicKey,
        channel: &Channel<'_>,
        secret: &[u8],
    ) -> Result<(Enc, Vec<u8>), EnvelopeError> {
        if secret.len() > MAX_SECRET_BYTES {
            return Err(EnvelopeError::Limit {
                what: "the slot's secret, in bytes,",
                found: secret.len(),
                limit: MAX_SECRET_BYTES,
            });
        }
        x25519::seal(
            random,
            receive_key,
            &channel.slot_info(),
            secret,
            &self.digest(),
        )
    }

    /// Opens a secret of `out`'s length into `out`.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`] when anything of the request or the channel differs, or the length;
    /// [`EnvelopeError::PublicKey`] for an `enc` that no sender makes. `out` is then as it was.
    pub fn open_secret(
        &self,
        secret: SecretKey<'_>,
        enc: &Enc,
        channel: &Channel<'_>,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), EnvelopeError> {
        if sealed.len() != out.len().saturating_add(TAG_BYTES) || out.len() > MAX_SECRET_BYTES {
            return Err(EnvelopeError::Refused);
        }
        let digest = self.digest();
        x25519::open(secret, enc, &channel.slot_info(), sealed, &digest, out)
    }
}
