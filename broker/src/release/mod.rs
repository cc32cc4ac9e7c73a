//! From a node's request to values sealed for one container, each step on the proof that the step before it made.
//!
//! ```text
//! AttestRequest    -> AttestedWorkload     attest: certificate, token, pod
//! AttestedWorkload -> GrantedVolume        plan: references resolved, policy asked a field, files laid out
//! GrantedVolume    -> Opened               sealed: values loaded, data keys opened, no more than a volume takes
//!                                          the policy still stands? the node is not banned since?
//! Opened           -> SealedSecret         sealed: data keys sealed to the plugin, bound to the queued leaf's hash
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

use crate::attest::{AttestRequest, AttestedWorkload, Attestor, Refusal, RefusalKind};
use crate::audit::{AuditError, AuditLog, Refusals, RefuseError};
use crate::identity::{Directory, NotAdmitted};
use crate::mounted::{Mounted, Named};
use crate::policy::PolicySet;
use crate::store::{RedbStore, Store};
use crate::vault::{Vault, VaultError};
use plan::{GrantedVolume, NamedAnyway, NotPlanned};
use sealed::Opened;
use sessions::{SessionError, Sessions};

/// The node plugin that asks, from its certificate.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The node.
    pub node: NodeId,
    /// The certificate's serial number.
    pub serial: Vec<u8>,
    /// How many bans there were when it was admitted.
    pub bans_seen: u64,
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
    /// The node was banned after it was admitted.
    #[error(transparent)]
    Withdrawn(#[from] NotAdmitted),
    /// The policy changed again and again while this was decided.
    #[error("the policy changes faster than the request could be decided; try again")]
    Moved,
    /// A construction failed: no randomness, or a bug.
    #[error("the release could not be sealed")]
    Seal(#[from] EnvelopeError),
    /// The task ended without an answer: the broker is stopping.
    #[error("the broker is stopping")]
    Stopping,
}

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
    /// Knows of bans.
    pub directory: Directory,
    /// The log.
    pub log: AuditLog,
    /// Folds refusals.
    pub refusals: Refusals,
    /// Counts.
    pub counters: Arc<Counters>,
    /// Knows which versions volumes name.
    pub mounted: Mounted,
    /// Sessions with node plugins, also for whoever ends them.
    pub sessions: Sessions,
    /// What a shutdown waits for.
    pub tasks: TaskTracker,
}

/// Releases volumes. A clone is another handle.
pub struct Releases<S: Store = RedbStore> {
    parts: Arc<Parts<S>>,
}

/// How often a request is read or decided anew when the store or the policy moves under it.
const READINGS: usize = 4;

/// A decided request.
enum Decided {
    /// The volume has what it may have, and names these versions.
    Unchanged(Generation, Vec<Named>),
    /// It gets this, as long as the policy is still the one that granted it.
    Granted(Box<Opened>, Arc<PolicySet>),
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

    /// Which versions volumes name.
    #[must_use]
    pub fn mounted(&self) -> &Mounted {
        &self.parts.mounted
    }

    /// Attests, decides, puts on record and seals; or refuses, once that is on record. `slot` is dropped when all of
    /// that has ended, whether or not the caller still waits.
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
        slot: impl Send + 'static,
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
            let _slot = slot;
            match attested {
                Ok(workload) => parts.release_or_note(asked, workload).await,
                Err(refusal) => {
                    if refusal.kind() == RefusalKind::Unavailable {
                        parts.mounted.unanswered();
                    }
                    Err(parts.refuse(&asked.caller, &refusal).await)
                }
            }
        });
        task.await.unwrap_or(Err(ReleaseError::Stopping))
    }
}

impl<S: Store> Parts<S> {
    /// As [`Parts::release`]; where it ends without an answer and without a refusal, what the volume names and may have is
    /// mounted all the same.
    async fn release_or_note(
        &self,
        asked: Asked,
        workload: AttestedWorkload,
    ) -> Result<Delivered, ReleaseError> {
        let workload = Arc::new(workload);
        let released = self.release(asked, &workload).await;
        match &released {
            Ok(_) => {}
            Err(
                ReleaseError::Refused(_) | ReleaseError::Unrecorded(_) | ReleaseError::Withdrawn(_),
            ) => {}
            Err(
                ReleaseError::Audit(_)
                | ReleaseError::Session(_)
                | ReleaseError::Vault(_)
                | ReleaseError::Moved
                | ReleaseError::Seal(_)
                | ReleaseError::Stopping,
            ) => self.note_unanswered(&workload).await,
        }
        released
    }

    /// What can be read of the volume is noted by its version, so that no node keeps by an ask that fails more than its
    /// pods were granted.
    async fn note_unanswered(&self, workload: &AttestedWorkload) {
        let policies = self.policies.load_full();
        let NamedAnyway { versions, unread } =
            plan::named_anyway(&self.vault, &policies, workload).await;
        self.answered(&versions);
        for keyspace in &unread {
            self.mounted.unanswered_of(keyspace);
        }
    }

    async fn release(
        &self,
        asked: Asked,
        workload: &Arc<AttestedWorkload>,
    ) -> Result<Delivered, ReleaseError> {
        for _ in 0..READINGS {
            match self.decide(asked.held, workload).await {
                Ok(Decided::Unchanged(held, named)) => {
                    self.counters.unchanged();
                    self.answered(&named);
                    return Ok(Delivered::Unchanged(held));
                }
                Ok(Decided::Granted(opened, policies)) => {
                    let named = opened.named();
                    if let Some(released) = self.seal(&asked, *opened, &policies).await? {
                        self.counters.released();
                        self.answered(&named);
                        return Ok(Delivered::Released(Box::new(released)));
                    }
                }
                Err(NotPlanned::Refused(mut refusal)) => {
                    if let Some(subject) = refused::subject(workload) {
                        refusal = refusal.about(&subject);
                    }
                    return Err(self.refuse(&asked.caller, &refusal).await);
                }
                Err(NotPlanned::Vault(error)) => return Err(error.into()),
                Err(NotPlanned::Digest(error)) => return Err(error.into()),
            }
        }
        Err(ReleaseError::Moved)
    }

    /// Plans, and opens what is granted unless the volume holds it already.
    async fn decide(
        &self,
        held: Option<Generation>,
        workload: &Arc<AttestedWorkload>,
    ) -> Result<Decided, NotPlanned> {
        let (volume, policies) = self.plan(workload).await?;
        let new = volume.generation();
        let same =
            |held: &Generation| held.incarnation == new.incarnation && held.digest == new.digest;
        if let Some(held) = held.filter(same) {
            return Ok(Decided::Unchanged(held, volume.named()));
        }
        let opened = Opened::open(&self.vault, volume).await?;
        Ok(Decided::Granted(Box::new(opened), policies))
    }

    /// Resolves, decides and lays out, against one state of the store.
    ///
    /// The generation's seq is that of the store before the reads. Should a commit fall between them, what was read may
    /// be newer than its number; it is read again, so that of two answers the one with the greater number is the newer.
    /// Under a stream of commits the last reading stands: the next one has a greater number in any case.
    async fn plan(
        &self,
        workload: &Arc<AttestedWorkload>,
    ) -> Result<(GrantedVolume, Arc<PolicySet>), NotPlanned> {
        let ledger = self.vault.ledger();
        let mut reading = 1;
        loop {
            let seq = ledger.seq();
            let policies = self.policies.load_full();
            let order = (self.incarnation, seq);
            let planned = plan::plan(&self.vault, &policies, workload, order).await;
            if ledger.seq() == seq || reading == READINGS {
                return planned.map(|volume| (volume, policies));
            }
            reading += 1;
        }
    }

    /// Puts the release on record and seals it; nothing when the policy is not the one any more that granted it. The seal
    /// is made while the leaf is on its way to the disk; it becomes an answer only with the receipt.
    async fn seal(
        &self,
        asked: &Asked,
        opened: Opened,
        policies: &Arc<PolicySet>,
    ) -> Result<Option<Released>, ReleaseError> {
        let node = &asked.caller.node;
        let session = self.sessions.session(node, asked.plugin_key).await?;
        // All that can fail comes before the leaf: what is on record as released was released.
        let release = ReleaseId::random(&SystemRandom)?;
        let key = session.keys.release_key(asked.nonce, release)?;
        let leaf = opened.leaf(
            &asked.caller,
            asked.plugin_key,
            (session.id, asked.nonce, release),
        );
        // A ban or a change of policy that is committed by now holds for this release too.
        self.directory
            .still_admitted(node, asked.caller.bans_seen)?;
        if !Arc::ptr_eq(policies, &self.policies.load()) {
            return Ok(None);
        }
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
        Ok(Some(Released::new(sealed?, receipt)?))
    }

    /// What a volume names is mounted once it is answered or would have been, and not before.
    fn answered(&self, named: &[Named]) {
        for version in named {
            self.mounted.named(version);
        }
    }

    async fn refuse(&self, caller: &Caller, refusal: &Refusal) -> ReleaseError {
        self.counters.refused();
        let (denial, refused) = refused::denial(self.vault.keys().denial_key(), caller, refusal);
        let alarm = refused::alarm(&self.directory, caller, refusal);
        match self.refusals.record_after(alarm, denial).await {
            Ok(()) => ReleaseError::Refused(Box::new(refused)),
            Err(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
