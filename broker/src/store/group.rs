//! Group commit: one thread takes the waiting changes, makes one batch of them, commits it and answers each.
//!
//! A commit costs two fdatasync whatever is in it, so the changes that arrive during one commit share the next.
//! It must never answer before the commit is durable, and never let one change's conflict touch another's.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use attache_envelope::Table;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::anchor_copy::AnchorCopy;
use super::change::{Applied, ApplyError, Change, LedgerError};
use super::draft::Draft;
use super::engine::{Outcome, Snapshot, Store, StoreError};
use super::ledger::{Shared, note_of};
use super::rows::{ANCHOR_KEY, Tip, set_head};

/// Changes that may wait.
pub(crate) const QUEUE: usize = 1024;
/// Changes in one commit.
const BATCH_CHANGES: usize = 256;
/// Payload bytes after which a batch is closed.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// How often a batch is rebuilt because another writer was faster, before its callers are told to try again.
const REBUILDS: usize = 64;

/// A change that waits, and who waits for it.
pub(crate) struct Job {
    pub(crate) change: Change,
    pub(crate) answer: oneshot::Sender<Result<Applied, ApplyError>>,
}

/// What the committing thread is told.
pub(crate) enum Message {
    Apply(Job),
    /// Commit what came before, then end.
    Close,
}

/// The committing thread's own state: where the store stands as of the last commit that it made or read.
pub(crate) struct Committer<S: Store> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) tip: Tip,
    pub(crate) copy: AnchorCopy,
    pub(crate) runtime: Handle,
}

impl<S: Store> Committer<S> {
    /// Starts the thread; it ends when it is told to, or when every sender of `jobs` is gone.
    pub(crate) fn start(self, jobs: mpsc::Receiver<Message>) -> std::io::Result<JoinHandle<()>> {
        thread::Builder::new()
            .name("group-commit".into())
            .spawn(move || self.run(jobs))
    }

    fn run(mut self, mut jobs: mpsc::Receiver<Message>) {
        let mut open = true;
        while open {
            let Some(Message::Apply(first)) = jobs.blocking_recv() else {
                break;
            };
            let batch;
            (batch, open) = gather(first, &mut jobs);
            let verdicts = self.commit(&batch);
            for (job, verdict) in batch.into_iter().zip(verdicts) {
                // A caller that went away still has its change: the answer is then for nobody.
                drop(job.answer.send(verdict));
            }
        }
    }

    /// Commits what can be committed of `jobs`, and answers one verdict a job.
    fn commit(&mut self, jobs: &[Job]) -> Vec<Result<Applied, ApplyError>> {
        for _ in 0..REBUILDS {
            match self.attempt(jobs) {
                Ok(Some(verdicts)) => return verdicts,
                Ok(None) => {}
                Err(error) => return jobs.iter().map(|_| Err(error.clone().into())).collect(),
            }
        }
        jobs.iter().map(|_| Err(ApplyError::Busy)).collect()
    }

    /// Builds the batch on the newest state and commits it; nothing when the store has moved meanwhile.
    fn attempt(
        &mut self,
        jobs: &[Job],
    ) -> Result<Option<Vec<Result<Applied, ApplyError>>>, LedgerError> {
        let runtime = self.runtime.clone();
        let shared = Arc::clone(&self.shared);
        let snapshot = runtime.block_on(shared.store.snapshot())?;
        if snapshot.seq().0 != self.tip.anchor.seq {
            self.follow(&snapshot)?;
        }
        let mut draft = Draft::new(&shared.codec, &snapshot);
        let verdicts: Vec<_> = jobs
            .iter()
            .map(|job| runtime.block_on(draft.admit(&job.change)))
            .collect();
        if draft.admitted() > 0 {
            let expect = snapshot.seq();
            let mut anchor = self.tip.next()?;
            let mut batch = draft.finish(&mut anchor)?;
            set_head(&mut anchor, (shared.audit_head)());
            let sealed = shared.codec.seal_anchor(&anchor)?;
            batch
                .puts
                .push((Table::Anchor, ANCHOR_KEY.to_vec(), sealed));
            // Held any longer it would keep the commit from reusing pages.
            drop(snapshot);
            match runtime.block_on(shared.store.commit(expect, batch))? {
                Outcome::Committed => {}
                Outcome::Moved(_) => return Ok(None),
            }
            self.tip = shared.codec.tip(anchor);
            self.publish();
        }
        let applied = self.tip.applied();
        let answers = verdicts.into_iter();
        Ok(Some(answers.map(|it| it.map(|()| applied)).collect()))
    }

    /// Takes over the anchor of another writer's commit.
    ///
    /// It opens only under our seal key and with its own sequence, so it is a state that this store was in; a
    /// smaller sequence than ours is not followed.
    fn follow(&mut self, snapshot: &S::Snapshot) -> Result<(), LedgerError> {
        let codec = &self.shared.codec;
        let tip = self.runtime.block_on(codec.read_tip(snapshot))?;
        let (now, before) = (&tip.anchor, &self.tip.anchor);
        if now.seq < before.seq || now.incarnation != before.incarnation {
            let why = format!(
                "it went back from {} to {} under a running broker",
                before.seq, now.seq
            );
            return Err(StoreError::Failed(why.into()).into());
        }
        self.tip = tip;
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        self.shared.publish(&self.tip);
        self.copy.publish(note_of(&self.tip));
    }
}

/// What waits, up to a batch; false when nothing more is to come.
fn gather(first: Job, jobs: &mut mpsc::Receiver<Message>) -> (Vec<Job>, bool) {
    let mut bytes = first.payload_bytes();
    let mut batch = vec![first];
    while batch.len() < BATCH_CHANGES && bytes < BATCH_BYTES {
        match jobs.try_recv() {
            Ok(Message::Apply(job)) => {
                bytes = bytes.saturating_add(job.payload_bytes());
                batch.push(job);
            }
            Ok(Message::Close) => return (batch, false),
            Err(_) => break,
        }
    }
    (batch, true)
}

impl Job {
    fn payload_bytes(&self) -> usize {
        self.change.payloads.iter().map(|(_, ct)| ct.len()).sum()
    }
}
