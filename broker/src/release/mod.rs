//! From a node's request to values sealed for one container, each step on the proof that the step before it made.
//!
//! ```text
//! AttestRequest    -> AttestedWorkload     attest: certificate, token, pod
//! AttestedWorkload -> GrantedVolume        plan: references resolved, policy asked a field, files laid out
//! GrantedVolume    -> SealedSecret         sealed: data keys sealed to the plugin, bound to the queued leaf's hash
//! SealedSecret + AuditReceipt -> Released  the only thing that becomes an answer
//! Refusal          -> Refused              after its leaf is durable
//! ```
//! From the first write to the log on, everything runs in a task of its own. Nothing here may answer before the log is
//! durable, hand out a field that policy did not grant, or compute a plaintext.

mod counters;
mod plan;
mod refused;
mod sealed;
pub mod sessions;

use std::sync::Arc;

use arc_swap::ArcSwap;
use attache_envelope::EnvelopeError;
use attache_envelope::SystemRandom;
use attache_envelope::generation::Generation;
use attache_envelope::id::{Nonce, ReleaseId};
use attache_envelope::x25519::PublicKey;
use attache_mtls::spiffe::NodeId;
use jiff::Timestamp;
use thiserror::Error;
use tokio_util::task::TaskTracker;

pub use counters::{Counted, Counters};
pub use refused::Refused;
pub use sealed::{Released, ReleasedAnswer, ReleasedField, ReleasedFile};

use crate::attest::{AttestRequest, AttestedWorkload, Attestor, PublicReason, Refusal};
use crate::audit::{AuditError, AuditLog, Refusals, RefuseError};
use crate::policy::PolicySet;
use crate::store::{RedbStore, Store};
use crate::vault::{Vault, VaultError};
use plan::{GrantedVolume, NotPlanned};
use sealed::Opened;
use sessions::{SessionError, Sessions};

/// The node plugin that asks, from its certificate.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The node.
    pub node: NodeId,
    /// The certificate's serial number.
    pub serial: Vec<u8>,
}

/// One request for a volume. It has no `Debug`: it holds the token.
pub struct Ask {
    /// The token, and what kubelet said of pod and volume.
    pub attest: AttestRequest,
    /// The plugin process' key.
    pub plugin_key: PublicKey,
    /// Drawn by the agent for this attempt.
    pub nonce: Nonce,
    /// What the volume holds now.
    pub held: Option<Generation>,
}

/// What a volume gets.
pub enum Delivered {
    /// What it has, which is counted and not put on record.
    Unchanged(Generation),
    /// New contents.
    Released(Box<Released>),
}

/// Why a volume gets nothing.
#[derive(Debug, Error)]
pub enum ReleaseError {
    /// It was refused, which is on record.
    #[error(transparent)]
    Refused(Box<Refused>),
    /// The node's refusals are of too many kinds, or the refusal is not on record and so may not be told.
    #[error(transparent)]
    Unrecorded(#[from] RefuseError),
    /// The release could not be put on record, so nothing is released.
    #[error("the release could not be put on record")]
    Audit(#[from] AuditError),
    /// There is no session to seal for.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A record could not be read or opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A construction failed: no randomness, or a bug.
    #[error("the release could not be sealed")]
    Seal(#[from] EnvelopeError),
    /// The task ended without an answer: the broker is stopping.
    #[error("the broker is stopping")]
    Stopping,
}

/// The most bytes that the values of one volume may have together: a node takes no more.
const MAX_VOLUME_BYTES: usize = 1024 * 1024;

/// What releases are made of.
pub struct Parts<S: Store = RedbStore> {
    /// The secrets.
    pub vault: Arc<Vault<S>>,
    /// The store's incarnation.
    pub incarnation: u32,
    /// Attests.
    pub attestor: Attestor,
    /// Decides: the newest set at each request.
    pub policies: Arc<ArcSwap<PolicySet>>,
    /// The log.
    pub log: AuditLog,
    /// Folds refusals.
    pub refusals: Refusals,
    /// Counts.
    pub counters: Arc<Counters>,
    /// Sessions with node plugins, also for whoever ends them.
    pub sessions: Sessions,
    /// What a shutdown waits for.
    pub tasks: TaskTracker,
}

/// Releases volumes. A clone is another handle.
pub struct Releases<S: Store = RedbStore> {
    parts: Arc<Parts<S>>,
}

/// What is left of a request once its workload is attested.
struct Asked {
    caller: Caller,
    plugin_key: PublicKey,
    nonce: Nonce,
    held: Option<Generation>,
}

impl<S: Store> Clone for Releases<S> {
    fn clone(&self) -> Self {
        Self {
            parts: Arc::clone(&self.parts),
        }
    }
}

impl<S: Store> Releases<S> {
    /// Releases from these parts.
    #[must_use]
    pub fn new(parts: Parts<S>) -> Self {
        Self {
            parts: Arc::new(parts),
        }
    }

    /// Attests, decides, puts on record and seals; or refuses, once that is on record.
    ///
    /// # Errors
    /// [`ReleaseError`].
    ///
    /// # Cancel safety
    /// Until the workload is attested nothing has happened. From then on the request goes its way to the end in a task
    /// of its own; a release whose caller is gone is on record and was handed to nobody.
    pub async fn deliver(
        &self,
        caller: Caller,
        ask: Ask,
        now: Timestamp,
    ) -> Result<Delivered, ReleaseError> {
        let parts = Arc::clone(&self.parts);
        let attested = parts.attestor.attest(&caller.node, &ask.attest, now).await;
        let asked = Asked {
            caller,
            plugin_key: ask.plugin_key,
            nonce: ask.nonce,
            held: ask.held,
        };
        let task = self.parts.tasks.spawn(async move {
            match attested {
                Ok(workload) => parts.release(asked, workload).await,
                Err(refusal) => Err(parts.refuse(&asked.caller, &refusal).await),
            }
        });
        task.await.unwrap_or(Err(ReleaseError::Stopping))
    }
}

impl<S: Store> Parts<S> {
    async fn release(
        &self,
        asked: Asked,
        workload: AttestedWorkload,
    ) -> Result<Delivered, ReleaseError> {
        let workload = Arc::new(workload);
        let volume = match self.plan(&workload).await {
            Ok(volume) => volume,
            Err(NotPlanned::Refused(mut refusal)) => {
                if let Some(subject) = refused::subject(&workload) {
                    refusal = refusal.about(&subject);
                }
                return Err(self.refuse(&asked.caller, &refusal).await);
            }
            Err(NotPlanned::Vault(error)) => return Err(error.into()),
            Err(NotPlanned::Digest(error)) => return Err(error.into()),
        };
        let new = volume.generation();
        let same =
            |held: &Generation| held.incarnation == new.incarnation && held.digest == new.digest;
        if let Some(held) = asked.held.filter(same) {
            self.counters.unchanged();
            return Ok(Delivered::Unchanged(held));
        }
        let subject = refused::subject(&workload);
        // All that can fail comes before the leaf: what is on record as released was released.
        let Some(opened) = Opened::open(&self.vault, volume).await? else {
            let limit_bytes = MAX_VOLUME_BYTES;
            let mut refusal = Refusal::open(PublicReason::TooLarge { limit_bytes });
            if let Some(subject) = subject {
                refusal = refusal.about(&subject);
            }
            return Err(self.refuse(&asked.caller, &refusal).await);
        };
        let released = self.seal(asked, opened).await?;
        self.counters.released();
        Ok(Delivered::Released(Box::new(released)))
    }

    /// Resolves, decides and lays out, against one state of the store.
    ///
    /// The generation's seq is that of the store before the reads. Should a commit fall between them, what was read may
    /// be newer than its number; it is read again, so that of two answers the one with the greater number is the newer.
    /// Under a stream of commits the last reading stands: the next one has a greater number in any case.
    async fn plan(&self, workload: &Arc<AttestedWorkload>) -> Result<GrantedVolume, NotPlanned> {
        const READINGS: usize = 4;
        let ledger = self.vault.ledger();
        let mut reading = 1;
        loop {
            let seq = ledger.seq();
            let policies = self.policies.load_full();
            let order = (self.incarnation, seq);
            let planned = plan::plan(&self.vault, &policies, workload, order).await;
            if ledger.seq() == seq || reading == READINGS {
                return planned;
            }
            reading += 1;
        }
    }

    /// Puts the release on record and seals it. The seal is made while the leaf is on its way to the disk; it becomes an
    /// answer only with the receipt.
    async fn seal(&self, asked: Asked, opened: Opened) -> Result<Released, ReleaseError> {
        let node = &asked.caller.node;
        let session = self.sessions.session(node, asked.plugin_key).await?;
        let release = ReleaseId::random(&SystemRandom)?;
        let key = session.keys.release_key(asked.nonce, release)?;
        let leaf = opened.leaf(
            &asked.caller,
            asked.plugin_key,
            (session.id, asked.nonce, release),
        );
        let queued = self.log.queue(&self.log.leaf(leaf)).await?;
        let bound_to = self.sessions.bound_to();
        let sealed = opened.seal(
            key,
            &session,
            bound_to,
            (asked.nonce, release),
            *queued.hash(),
        );
        let receipt = queued.durable().await?;
        Ok(Released::new(sealed?, receipt)?)
    }

    async fn refuse(&self, caller: &Caller, refusal: &Refusal) -> ReleaseError {
        self.counters.refused();
        let (denial, refused) = refused::denial(self.vault.keys().denial_key(), caller, refusal);
        match self.refusals.record(denial).await {
            Ok(()) => ReleaseError::Refused(Box::new(refused)),
            Err(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
