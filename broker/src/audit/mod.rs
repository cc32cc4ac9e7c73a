//! The audit log of this broker: what is about to be let go is on record, durable and signed, before it is.
//!
//! ```text
//! caller -- Leaf --> queue -> writer thread: leaves, one signed checkpoint -> one write, one fdatasync -> AuditReceipt
//! ```
//!
//! An [`AuditReceipt`] is the proof that a leaf is durable; releases and first refusals cannot be answered without one.
//! [`Refusals`] folds what is refused again and again. A log whose disk failed stays closed: this module must never
//! write behind bytes that it does not know, and never answer a receipt before the sync.

mod clock;
mod error;
mod explain;
mod read;
mod receipt;
mod recover;
mod refusals;
mod segment_file;
#[cfg(test)]
pub(crate) mod small_disk;
mod spare;
mod summary;
mod torn;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use attache_envelope::id::{BootId, ChainId, StoreId};
use attache_translog::{Event, Hash, Leaf, NoteError, Signer};
use tokio::sync::{mpsc, oneshot, watch};

use crate::keys::Keys;
pub use clock::Clock;
pub use error::{AuditError, OpenError};
pub use explain::{DecisionId, Evaluation};
use read::Catalog;
pub use read::StoredLeaf;
pub use receipt::AuditReceipt;
pub use recover::{OpenIntent, Recovered};
pub use refusals::{Refusals, RefuseError, WINDOW};
use writer::Job;

/// How many leaves may wait for the writer; a caller past it waits.
const QUEUE: usize = 4096;

/// Where a log is and whose it is.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The audit folder.
    pub dir: PathBuf,
    /// The store.
    pub store: StoreId,
    /// This broker's chain.
    pub chain: ChainId,
    /// This process.
    pub boot: BootId,
    /// What the store's anchor knows of this log: the size and the root of one of its checkpoints.
    pub anchored: Option<(u64, Hash)>,
    /// The size of new segments, [`LogOptions::SEGMENT_BYTES`] outside of tests. A start reads one.
    pub segment_bytes: u64,
    /// Stamps the leaves.
    pub clock: Clock,
}

/// The Ed25519 keys of checkpoints (RFC 8032): one signs, those before it have signed.
pub trait CheckpointKeys: Send + Sync + 'static {
    /// Signs notes of that name, by the key that signs now; asked for once a batch.
    ///
    /// # Errors
    /// [`NoteError`].
    fn signer(&self, name: &str) -> Result<Signer, NoteError>;

    /// Their public halves, ascending: the last one signs.
    ///
    /// # Errors
    /// [`NoteError`].
    fn public(&self) -> Result<Vec<[u8; 32]>, NoteError>;
}

/// The newest durable checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// How many leaves are durable.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// The signed note that says so.
    pub checkpoint: Arc<str>,
    /// The public key that it verifies under, as a C2SP vkey.
    pub vkey: Arc<str>,
}

/// Whether the log takes leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogState {
    /// The last batch is durable.
    Writing,
    /// There is no room for the next segment; what is appended tries again.
    Full,
    /// A write or a sync failed. Nothing more is written by this process, which should stop.
    Failed,
}

/// A handle to the log; a clone is another one. The writer ends with the last handle or with [`AuditLog::close`].
#[derive(Clone)]
pub struct AuditLog {
    jobs: mpsc::Sender<Job>,
    head: watch::Receiver<Head>,
    state: watch::Receiver<LogState>,
    catalog: Arc<Catalog>,
    options: Arc<LogOptions>,
}

/// A leaf that is queued: its hash is final, and it is on its way to the disk whether or not anybody waits.
#[must_use = "a queued leaf proves nothing until it is durable"]
pub struct QueuedLeaf {
    hash: Hash,
    done: oneshot::Receiver<Result<AuditReceipt, AuditError>>,
}

impl LogOptions {
    /// What a segment takes on the disk: read by a start in some 30 ms, filled in less than a second at 18,000 releases
    /// a second.
    pub const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
}

impl CheckpointKeys for Arc<Keys> {
    fn signer(&self, name: &str) -> Result<Signer, NoteError> {
        self.audit_key().signer(name)
    }

    fn public(&self) -> Result<Vec<[u8; 32]>, NoteError> {
        let epochs = self.audit_epochs().map_err(|_| NoteError::Signature)?;
        Ok(epochs.into_iter().map(|it| it.public).collect())
    }
}

impl AuditLog {
    /// Takes up the log in `options.dir`, or begins one where there is none.
    ///
    /// What a crash left behind the last checkpoint is cut, and the cut is on record before this answers.
    ///
    /// # Errors
    /// [`OpenError`]; a log that does not verify under these keys as this store's, or that lacks the checkpoint that the
    /// store's anchor knows, is never written to.
    pub fn open(
        options: LogOptions,
        keys: impl CheckpointKeys,
    ) -> Result<(Self, Recovered), OpenError> {
        recover::open(options, Box::new(keys))
    }

    /// Makes a leaf of what happens now in this process.
    #[must_use]
    pub fn leaf(&self, event: impl Into<Event>) -> Leaf {
        Leaf {
            time_ms: self.options.clock.now_ms(),
            boot: *self.options.boot.as_bytes(),
            event: event.into(),
        }
    }

    /// Queues a leaf; waits while the queue is full.
    ///
    /// # Errors
    /// [`AuditError::Leaf`], [`AuditError::LeafTooLarge`], [`AuditError::Closed`].
    ///
    /// # Cancel safety
    /// A future dropped before it answers has queued nothing.
    pub async fn queue(&self, leaf: &Leaf) -> Result<QueuedLeaf, AuditError> {
        let encoded = leaf.encode().map_err(AuditError::Leaf)?;
        let limit_bytes = writer::leaf_limit(self.options.segment_bytes);
        if encoded.body().len() > limit_bytes {
            return Err(AuditError::LeafTooLarge {
                size_bytes: encoded.body().len(),
                limit_bytes,
            });
        }
        let hash = *encoded.hash();
        let (answer, done) = oneshot::channel();
        let job = Job::append(&leaf.event, encoded, answer);
        self.jobs.send(job).await.map_err(|_| AuditError::Closed)?;
        Ok(QueuedLeaf { hash, done })
    }

    /// Puts an event on record and waits until it is durable.
    ///
    /// # Errors
    /// [`AuditError`]: then the event must not happen.
    ///
    /// # Cancel safety
    /// A future that is dropped may have queued the leaf: what follows a receipt belongs into a task of its own.
    pub async fn append(&self, event: impl Into<Event>) -> Result<AuditReceipt, AuditError> {
        self.queue(&self.leaf(event)).await?.durable().await
    }

    /// Has a segment whole on the disk for what must begin one, the first leaf under another key. Leaves that begin the next
    /// one for want of room take it only where they get no other.
    ///
    /// # Errors
    /// [`AuditError::DiskFull`], [`AuditError::NotPrepared`], [`AuditError::Poisoned`], [`AuditError::Closed`]. The log goes on
    /// in the segment that it has.
    pub async fn hold_segment(&self) -> Result<(), AuditError> {
        let (answer, held) = oneshot::channel();
        let job = Job::HoldSegment(answer);
        self.jobs.send(job).await.map_err(|_| AuditError::Closed)?;
        held.await.unwrap_or(Err(AuditError::Closed))
    }

    /// The newest durable checkpoint.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head.borrow().clone()
    }

    /// Sees every new head, or the newest of several.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Head> {
        self.head.clone()
    }

    /// Whether the log takes leaves, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LogState> {
        self.state.clone()
    }

    /// This broker's chain.
    #[must_use]
    pub fn chain(&self) -> &ChainId {
        &self.options.chain
    }

    /// The clock that stamps the leaves.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.options.clock
    }

    /// At most `limit` durable leaves from `first` on, and no more than about 1 MiB; reads the disk off the runtime.
    ///
    /// # Errors
    /// [`AuditError::Read`], [`AuditError::Damaged`].
    pub async fn read(&self, first: u64, limit: usize) -> Result<Vec<StoredLeaf>, AuditError> {
        let catalog = Arc::clone(&self.catalog);
        let size = self.head.borrow().size;
        tokio::task::spawn_blocking(move || catalog.read(first, size, limit))
            .await
            .unwrap_or(Err(AuditError::Closed))
    }

    /// Writes what is queued, and gives the folder back. Later appends answer [`AuditError::Closed`].
    pub async fn close(&self) {
        let (answer, closed) = oneshot::channel();
        if self.jobs.send(Job::Close(answer)).await.is_ok() {
            // The writer drops its end when it is done: either answer means that.
            drop(closed.await);
        }
    }

    /// Makes the next write fail, as a broken disk does.
    #[cfg(test)]
    pub(crate) async fn break_disk(&self) {
        drop(self.jobs.send(Job::BreakDisk).await);
    }
}

impl QueuedLeaf {
    /// `SHA-256(0x00 || body)`, final though not durable.
    #[must_use]
    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    /// Waits until the leaf is on the disk.
    ///
    /// # Errors
    /// [`AuditError`]: it is not, as far as is known.
    pub async fn durable(self) -> Result<AuditReceipt, AuditError> {
        self.done.await.unwrap_or(Err(AuditError::Closed))
    }
}

#[cfg(test)]
mod tests;
