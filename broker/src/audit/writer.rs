//! The one thread that writes the log: takes what waits, closes it with one signed checkpoint, writes and syncs once,
//! then answers everybody.
//!
//! While a batch is on its way to the disk the next one gathers in the queue: under load one sync serves many leaves,
//! and a lone leaf waits for nobody. An error of a write or a sync closes the log for good; a next segment that cannot be
//! prepared (a full disk, no descriptor left), which shows before anything is written, refuses one batch and lets the
//! next try.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use attache_translog::{
    AnchorNote, Batch, EncodedLeaf, Event, Frontier, Header, Leaf, MAX_LEAF_BYTES, SealedBatch,
    Signer, Verifier,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::error::AuditError;
use super::read::Catalog;
use super::receipt::AuditReceipt;
use super::segment_file::{SegmentFile, segment_path};
use super::spare::Spares;
use super::summary::{Summary, key_name};
use super::{CheckpointKeys, Head, LogState};

/// What one batch may hold of leaves, so that a torn end is short and nobody waits for a long write.
const BATCH_BYTES: u64 = 1024 * 1024;

/// Head of a record: length and kind.
const RECORD_HEAD_BYTES: u64 = 5;

type Answer = oneshot::Sender<Result<AuditReceipt, AuditError>>;

/// What the writer is asked for.
pub(super) enum Job {
    /// A leaf, with what the next start has to know of it.
    Append(Box<Append>),
    /// Have the next segment whole, whatever there is room for afterwards.
    HoldSegment(oneshot::Sender<Result<(), AuditError>>),
    /// Write what is queued, let go of the folder, and end.
    Close(oneshot::Sender<()>),
    /// Fail from here on.
    #[cfg(test)]
    BreakDisk,
}

/// A leaf to write.
pub(super) struct Append {
    leaf: EncodedLeaf,
    mark: Mark,
    answer: Answer,
}

/// What of a leaf is carried from segment to segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing.
    Plain,
    /// An intent is open from here on.
    Intent,
    /// That intent is closed; the commit's number and anchor when it was committed.
    Outcome {
        intent: u64,
        anchor: Option<(u64, [u8; 32])>,
    },
    /// The store's anchor.
    Anchor(AnchorNote),
}

/// The incarnation of a store that was never restored.
const FIRST_INCARNATION: u32 = 1;

/// What a start must know of everything before a segment, beside the tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// The indexes of intents without an outcome.
    pub(super) open_intents: BTreeSet<u64>,
    /// The newest anchor on record.
    pub(super) anchor: Option<AnchorNote>,
}

/// The state of the log between two batches.
pub(super) struct Writer {
    pub(super) dir: PathBuf,
    /// The same, open: a new name in it takes no descriptor.
    pub(super) folder: File,
    pub(super) header: Header,
    pub(super) origin: String,
    pub(super) keys: Box<dyn CheckpointKeys>,
    /// The key that signed the last checkpoint in the segment: another one begins another segment.
    pub(super) signed_by: Option<Verifier>,
    /// The segment that is written to; none before the first batch of a log.
    pub(super) file: Option<SegmentFile>,
    /// Where in it the next record goes.
    pub(super) offset: u64,
    pub(super) frontier: Frontier,
    pub(super) carried: Carried,
    pub(super) spares: Spares,
    pub(super) segment_bytes: u64,
    pub(super) catalog: Arc<Catalog>,
    pub(super) head: watch::Sender<Head>,
    pub(super) state: watch::Sender<LogState>,
    /// Keeps other processes out of the folder while it is open.
    pub(super) _lock: File,
}

/// Why a batch was not written.
#[derive(Debug, Clone, Copy)]
enum Failure {
    DiskFull {
        needed_bytes: u64,
    },
    /// The system's error number, if it was the system.
    NotPrepared(Option<i32>),
    Poisoned,
}

/// Why a segment was not begun.
enum Beginning {
    /// Nothing was written that has a name.
    Prepare(io::Error),
    /// A write, a sync or a rename failed: whether the segment is there under its name is not known.
    Place(io::Error),
}

/// The longest leaf for segments of that size: a batch must fit into one.
pub(super) fn leaf_limit(segment_bytes: u64) -> usize {
    usize::try_from(segment_bytes / 4)
        .unwrap_or(MAX_LEAF_BYTES)
        .min(MAX_LEAF_BYTES)
}

impl Job {
    pub(super) fn append(event: &Event, leaf: EncodedLeaf, answer: Answer) -> Self {
        Self::Append(Box::new(Append {
            leaf,
            mark: Mark::of(event),
            answer,
        }))
    }
}

impl Mark {
    /// What the next start has to know of an event.
    pub(super) fn of(event: &Event) -> Self {
        match event {
            Event::Intent(_) => Self::Intent,
            Event::Outcome(outcome) => Self::Outcome {
                intent: outcome.intent,
                anchor: outcome.seq.zip(outcome.anchor_t),
            },
            Event::Anchor(anchor) => Self::Anchor(AnchorNote {
                incarnation: anchor.incarnation,
                seq: anchor.seq,
                t: anchor.t,
            }),
            Event::Start(_)
            | Event::Stop(_)
            | Event::Release(_)
            | Event::Denial(_)
            | Event::Refusals(_)
            | Event::Cut(_)
            | Event::Bootstrap(_)
            | Event::Enrollment(_)
            | Event::Renewal(_)
            | Event::Ban(_)
            | Event::Alarm(_)
            | Event::Retirement(_)
            | Event::Succession(_)
            | Event::Rotation(_)
            | Event::Removal(_)
            | Event::Opening(_)
            | Event::Attempts(_)
            | Event::Pruning(_)
            | Event::Sealing(_) => Self::Plain,
        }
    }
}

impl Carried {
    /// Takes up a leaf at its index.
    pub(super) fn take(&mut self, index: u64, mark: Mark) {
        match mark {
            Mark::Plain => {}
            Mark::Intent => {
                self.open_intents.insert(index);
            }
            Mark::Outcome { intent, anchor } => {
                self.open_intents.remove(&intent);
                // An incarnation begins with an anchor on record, and outcomes come behind it.
                let incarnation = self.anchor.map_or(FIRST_INCARNATION, |it| it.incarnation);
                if let Some((seq, t)) = anchor {
                    self.take_anchor(AnchorNote {
                        incarnation,
                        seq,
                        t,
                    });
                }
            }
            Mark::Anchor(anchor) => self.take_anchor(anchor),
        }
    }

    /// Outcomes of changes that ran side by side come in any order.
    fn take_anchor(&mut self, seen: AnchorNote) {
        let order = |anchor: &AnchorNote| (anchor.incarnation, anchor.seq);
        if self
            .anchor
            .is_none_or(|known| order(&seen) >= order(&known))
        {
            self.anchor = Some(seen);
        }
    }
}

impl Writer {
    /// Writes one leaf from the caller's own thread, before the writer runs.
    ///
    /// # Errors
    /// [`AuditError`].
    pub(super) fn append_now(&mut self, leaf: &Leaf) -> Result<(), AuditError> {
        let (answer, _) = oneshot::channel();
        let encoded = leaf.encode().map_err(AuditError::Leaf)?;
        let append = Append {
            mark: Mark::of(&leaf.event),
            leaf: encoded,
            answer,
        };
        self.write(&[append])?;
        Ok(())
    }

    /// Writes until it is told to close or nobody is left to ask.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut waiting = None;
        loop {
            let Some(job) = waiting.take().or_else(|| jobs.blocking_recv()) else {
                return;
            };
            match job {
                Job::Append(first) => waiting = self.commit_from(*first, &mut jobs),
                Job::HoldSegment(held) => {
                    let made = self.hold_segment().map_err(AuditError::from);
                    drop(held.send(made));
                }
                Job::Close(closed) => {
                    jobs.close();
                    while let Some(job) = jobs.blocking_recv() {
                        if let Job::Append(last) = job {
                            self.commit(vec![*last]);
                        }
                    }
                    drop(self);
                    drop(closed);
                    return;
                }
                #[cfg(test)]
                Job::BreakDisk => {
                    if let Some(file) = &mut self.file {
                        file.break_writes();
                    }
                }
            }
        }
    }

    /// Commits `first` with whatever waits behind it, and answers the job that did not belong to the batch.
    fn commit_from(&mut self, first: Append, jobs: &mut mpsc::Receiver<Job>) -> Option<Job> {
        let limit = BATCH_BYTES.min(self.segment_bytes / 4);
        let mut bytes = first.record_bytes();
        let mut batch = vec![first];
        let mut other = None;
        while bytes < limit {
            match jobs.try_recv() {
                Ok(Job::Append(next)) if bytes + next.record_bytes() <= limit => {
                    bytes += next.record_bytes();
                    batch.push(*next);
                }
                Ok(job) => {
                    other = Some(job);
                    break;
                }
                Err(_) => break,
            }
        }
        self.commit(batch);
        other
    }

    fn commit(&mut self, batch: Vec<Append>) {
        match self.write(&batch) {
            Ok(first_index) => {
                let size = self.frontier.size();
                for (append, index) in batch.into_iter().zip(first_index..) {
                    let receipt = AuditReceipt::durable(index, size, *append.leaf.hash());
                    // Nobody waits for a receipt whose caller is gone: the leaf stands all the same.
                    drop(append.answer.send(Ok(receipt)));
                }
            }
            Err(failure) => {
                for append in batch {
                    drop(append.answer.send(Err(failure.into())));
                }
            }
        }
    }

    /// Makes a batch durable and answers the index of its first leaf.
    fn write(&mut self, batch: &[Append]) -> Result<u64, Failure> {
        if *self.state.borrow() == LogState::Failed {
            return Err(Failure::Poisoned);
        }
        let first_index = self.frontier.size();
        let mut building = Batch::new(&self.frontier);
        for append in batch {
            building.push(&append.leaf);
        }
        let signer = self.signer()?;
        let sealed = self.seal(building, &signer)?;
        let end = self.offset + sealed.bytes.len() as u64;
        let signed_by = self.signed_by.as_ref();
        let another_key = signed_by.is_some_and(|it| it != signer.verifier());
        match &self.file {
            Some(file) if !another_key && end <= file.size_bytes() => {
                if let Err(error) = file.write_durable(self.offset, &sealed.bytes) {
                    return Err(self.poison("write", &error));
                }
                self.catalog
                    .note_batch(self.header.first_index, first_index, self.offset);
                self.offset = end;
            }
            Some(_) | None => self.begin_segment(&sealed, another_key)?,
        }
        for (append, index) in batch.iter().zip(first_index..) {
            self.carried.take(index, append.mark);
        }
        self.publish(sealed, signer.verifier());
        if self.offset > self.segment_bytes / 2 {
            self.spares.ask();
        }
        Ok(first_index)
    }

    /// A pair that lives for one batch: it is built from the arena's seed and not wiped by its library.
    fn signer(&mut self) -> Result<Signer, Failure> {
        let signer = self.keys.signer(&self.origin);
        signer.map_err(|error| self.poison("sign", &io::Error::other(error)))
    }

    fn seal(&mut self, batch: Batch, signer: &Signer) -> Result<SealedBatch, Failure> {
        let sealed = batch.seal(signer);
        sealed.map_err(|error| self.poison("sign", &io::Error::other(error)))
    }

    fn publish(&mut self, sealed: SealedBatch, signed_by: &Verifier) {
        let vkey = if self.signed_by.as_ref() == Some(signed_by) {
            Arc::clone(&self.head.borrow().vkey)
        } else {
            self.signed_by = Some(signed_by.clone());
            signed_by.vkey().into()
        };
        self.frontier = sealed.frontier;
        self.head.send_replace(Head {
            size: sealed.checkpoint.size,
            root: sealed.checkpoint.root,
            checkpoint: sealed.note.into(),
            vkey,
        });
        self.stands(LogState::Writing);
    }

    /// Tells whoever watches, when it is news.
    fn stands(&self, state: LogState) {
        self.state
            .send_if_modified(|before| std::mem::replace(before, state) != state);
    }

    /// Puts a batch at the beginning of the next segment, which gets its name once the batch is in it: a segment
    /// that is there has a checkpoint.
    fn begin_segment(&mut self, sealed: &SealedBatch, another_key: bool) -> Result<(), Failure> {
        let header = Header {
            first_index: self.frontier.size(),
            ..self.header
        };
        let content = [&header.encode(), sealed.bytes.as_slice()].concat();
        match self.place_segment(header.first_index, &content, another_key) {
            Ok(file) => {
                self.file = Some(file);
                self.header = header;
                self.offset = content.len() as u64;
                self.catalog.note_segment(header.first_index);
                Ok(())
            }
            Err(Beginning::Prepare(error)) => {
                let failure = self.not_prepared(&error);
                if let Failure::DiskFull { needed_bytes } = failure {
                    tracing::error!(needed_bytes, dir = %self.dir.display(), "audit disk full");
                } else {
                    tracing::error!(dir = %self.dir.display(), %error, "the next audit segment cannot be prepared");
                }
                self.stands(LogState::Full);
                Err(failure)
            }
            Err(Beginning::Place(error)) => Err(self.poison("begin a segment", &error)),
        }
    }

    /// Here the log goes on in the segment that it has, whatever comes of it.
    fn hold_segment(&mut self) -> Result<(), Failure> {
        if *self.state.borrow() == LogState::Failed {
            return Err(Failure::Poisoned);
        }
        let held = self.spares.hold();
        held.map_err(|error| self.not_prepared(&error))
    }

    /// What it is when the next segment cannot be had.
    fn not_prepared(&self, error: &io::Error) -> Failure {
        if is_disk_full(error) {
            let needed_bytes = self.segment_bytes;
            return Failure::DiskFull { needed_bytes };
        }
        Failure::NotPrepared(error.raw_os_error())
    }

    fn place_segment(
        &mut self,
        first_index: u64,
        content: &[u8],
        another_key: bool,
    ) -> Result<SegmentFile, Beginning> {
        let taken = match another_key {
            true => self.spares.take_held(),
            false => self.spares.take(),
        };
        let mut file = taken.map_err(Beginning::Prepare)?;
        self.summarize(first_index);
        if let Err(error) = file.write_durable(0, content) {
            if !is_disk_full(&error) {
                return Err(Beginning::Place(error));
            }
            // The file has no name yet: one that did not fit is as if it had never been.
            self.spares.take_back(file, content);
            return Err(Beginning::Prepare(error));
        }
        file.rename(&segment_path(&self.dir, first_index), &self.folder)
            .map_err(Beginning::Place)?;
        Ok(file)
    }

    /// Puts the summary beside a segment. Without it the next start reads more; that stops nothing here.
    fn summarize(&self, first_index: u64) {
        if first_index == 0 {
            return;
        }
        let signer = self.keys.signer(&key_name(&self.origin));
        let stored = signer.map_err(io::Error::other).and_then(|signer| {
            Summary::of(&self.frontier, &self.carried).store(&self.dir, &signer)
        });
        if let Err(error) = stored {
            tracing::warn!(first_index, dir = %self.dir.display(), %error,
                "an audit segment has no summary: a start reads the whole log until the segment after it has one");
        }
    }

    fn poison(&mut self, action: &'static str, error: &io::Error) -> Failure {
        self.stands(LogState::Failed);
        tracing::error!(action, dir = %self.dir.display(), %error, "the audit log failed; it stays closed until a restart");
        Failure::Poisoned
    }
}

impl Append {
    fn record_bytes(&self) -> u64 {
        RECORD_HEAD_BYTES + self.leaf.body().len() as u64
    }
}

impl From<Failure> for AuditError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::DiskFull { needed_bytes } => Self::DiskFull { needed_bytes },
            Failure::NotPrepared(errno) => Self::NotPrepared(errno.map_or_else(
                || io::Error::other("see the broker's log"),
                io::Error::from_raw_os_error,
            )),
            Failure::Poisoned => Self::Poisoned,
        }
    }
}

/// No space, or no quota for more.
pub(super) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
