//! The keys that sign checkpoints, copies of the anchor and backups: one signs, and of those before it the public half is kept.
//!
//! ```text
//! rotate   a new seed signs; the key before stays as its public key, and its seed is gone: one change of the keyring
//! ```
//! Nothing has to be signed anew, since each key endorses the next (`translog`, `succession`), so a rotation ends with its
//! commit. It draws a new store root key, as every change of the keyring does.

use std::sync::Arc;

use attache_arena::ArenaError;
use attache_envelope::EnvelopeError;
use attache_envelope::key::SigningSeed;
use attache_translog::{NoteError, Signer, Succession, Verifier};

use super::error::KeysError;
use super::keyring::Keys;
use super::ring::{Changing, RingKey};
use super::slots::{Rekeyed, SlotSet};

/// So many keys that have signed are known. A start needs the last of them: the one before had signed its rotation.
const KEPT: usize = 16;

/// The key that signs.
#[derive(Clone)]
pub struct AuditKey(Arc<RingKey>);

/// One key that signs, or has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditEpoch {
    /// Its epoch, from 1.
    pub epoch: u32,
    /// Its Ed25519 public key.
    pub public: [u8; 32],
}

/// Another key that signs, which is not committed yet.
pub struct AuditChange {
    /// The keyring and every slot.
    pub rekeyed: Rekeyed,
    /// What the key that signs until then says of it: to be on record before that is committed.
    pub succession: Succession,
    /// What is taken up once it is.
    pub epochs: AuditEpochs,
}

/// The keys as they are after a change.
pub struct AuditEpochs(Changing);

impl AuditKey {
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

    /// Signs notes of that name. Build one for a batch, and drop it: its library does not wipe it.
    ///
    /// # Errors
    /// [`NoteError::Name`].
    pub fn signer(&self, name: &str) -> Result<Signer, NoteError> {
        Signer::from_seed(name, self.seed())
    }

    /// What verifies that.
    ///
    /// # Errors
    /// As [`AuditKey::signer`].
    pub fn verifier(&self, name: &str) -> Result<Verifier, NoteError> {
        Ok(self.signer(name)?.verifier().clone())
    }

    fn public(&self) -> Result<[u8; 32], EnvelopeError> {
        let public = SigningSeed::new(self.seed()).verifying_key()?;
        Ok(*public.as_bytes())
    }
}

impl Keys {
    /// The key that signs checkpoints, copies of the anchor and backups.
    #[must_use]
    pub fn audit_key(&self) -> AuditKey {
        AuditKey(self.now().audit_signing.share_active())
    }

    /// Every key that signs or has signed, ascending: the last one signs.
    ///
    /// # Errors
    /// [`EnvelopeError`] when the seed is none.
    pub fn audit_epochs(&self) -> Result<Vec<AuditEpoch>, EnvelopeError> {
        let epochs = self.now().audit_signing;
        let before = epochs.old().iter().map(|key| AuditEpoch {
            epoch: key.epoch,
            public: *key.key.expose(),
        });
        let mut all: Vec<_> = before.collect();
        all.sort_unstable_by_key(|it| it.epoch);
        let active = AuditKey(epochs.share_active());
        all.push(AuditEpoch {
            epoch: active.epoch(),
            public: active.public()?,
        });
        Ok(all)
    }

    /// Draws another key that signs. Of the one before the public key stays.
    ///
    /// # Errors
    /// [`KeysError`]; nothing is changed by this call in any case.
    pub fn rotate_audit(&self, set: &SlotSet) -> Result<AuditChange, KeysError> {
        let mut changed = self.now();
        let before = AuditKey(changed.audit_signing.share_active());
        let drawn = self.with_another(&changed.audit_signing)?;
        let after = AuditKey(drawn.share_active());
        let public = before.public()?;
        let key = self.arena().key_with(|cell| {
            cell.copy_from_slice(&public);
            Ok::<(), ArenaError>(())
        })?;
        let kept = RingKey {
            epoch: before.epoch(),
            id: before.0.id,
            key,
        };
        changed.audit_signing = Arc::new(drawn.with_old(kept, KEPT));
        let signer = before
            .signer("attache/audit-key")
            .map_err(|_| EnvelopeError::Refused)?;
        let succession = Succession::endorse(
            self.store_id().as_bytes(),
            &signer,
            after.epoch(),
            after.public()?,
        );
        Ok(AuditChange {
            rekeyed: self.rekey_with(set, &changed)?,
            succession: succession.map_err(|_| EnvelopeError::Refused)?,
            epochs: AuditEpochs(changed),
        })
    }

    /// The change is committed: takes it up. The seed before is wiped when whoever signs with it now is done.
    pub fn take_up_audit(&self, epochs: AuditEpochs) {
        self.take_up(epochs.0);
    }
}
