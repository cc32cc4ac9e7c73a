//! What a storage engine has to do: ordered bytes, one sequence, all-or-nothing commits.
//!
//! An engine knows nothing of MACs, keys or meaning; all of that is above it, once, in the ledger. It must never
//! answer a commit before the bytes are durable, and never serve again after a commit failed.

use std::future::Future;
use std::sync::Arc;

use attache_envelope::Table;
use attache_envelope::id::StoreId;
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::watch;

/// The number of a committed batch; the store before its first commit stands at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AnchorSeq(pub u64);

/// A key and its value.
pub type Entry = (Vec<u8>, Bytes);

/// What one commit writes. A key stands in it once.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Written, in place of what was there.
    pub puts: Vec<(Table, Vec<u8>, Bytes)>,
    /// Removed; absent keys are no error.
    pub deletes: Vec<(Table, Vec<u8>)>,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Durable, whole, at `expect + 1`.
    Committed,
    /// Nothing was written: the store stands elsewhere than expected.
    Moved(AnchorSeq),
}

/// Whether an engine still serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Serving,
    /// It does not and never will in this process, which should stop: what went wrong.
    Failed(Arc<str>),
}

/// Reading, either the newest state or one that stands still.
pub trait Rows: Send + Sync {
    /// The value under `key`.
    ///
    /// # Errors
    /// [`StoreError`] when the engine cannot read.
    fn get(
        &self,
        table: Table,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// At most `limit` entries whose keys begin with `prefix`, ascending by key, those greater than `after`.
    ///
    /// # Errors
    /// [`StoreError`] when the engine cannot read.
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Entry>, StoreError>> + Send;
}

/// A storage engine. Two implementations share the ledger above them and the conformance suite.
///
/// Conditions are no part of it: whoever commits has read at `expect`, and any other commit moves the sequence.
pub trait Store: Rows + 'static {
    /// A state that stands still while others commit.
    type Snapshot: Snapshot;

    /// The store's own name, from its header.
    fn id(&self) -> StoreId;

    /// The newest committed state.
    ///
    /// # Errors
    /// [`StoreError`] when the engine cannot read.
    fn snapshot(&self) -> impl Future<Output = Result<Self::Snapshot, StoreError>> + Send;

    /// Writes the batch as `expect + 1`, durably and whole, if the store stands at `expect`.
    ///
    /// # Errors
    /// [`StoreError`]; the engine then serves nothing more, since what is on the disk is not known.
    fn commit(
        &self,
        expect: AnchorSeq,
        batch: Batch,
    ) -> impl Future<Output = Result<Outcome, StoreError>> + Send;

    /// Waits until the store has moved past `from`, and tells where it stands then.
    ///
    /// # Errors
    /// [`StoreError`] when the engine stops serving.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping the future.
    fn watch(&self, from: AnchorSeq) -> impl Future<Output = Result<AnchorSeq, StoreError>> + Send;

    /// Whether it serves, now and from now on.
    fn health(&self) -> watch::Receiver<Health>;
}

/// A state of a store at one sequence.
pub trait Snapshot: Rows {
    /// The commit that this state was made by.
    fn seq(&self) -> AnchorSeq;

    /// Shows what is under each of `keys`, one after the other, as [`Rows::get`] finds it. They ascend; those that lie
    /// together are read together.
    ///
    /// # Errors
    /// [`StoreError`] when the engine cannot read; some may have been shown by then.
    fn show(
        &self,
        table: Table,
        keys: &[&[u8]],
        each: impl FnMut(Option<&[u8]>) + Send,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Whether [`Snapshot::show`] has shown as many rows as it was asked for: one short, and others would be taken for those
/// behind it.
pub(crate) fn all_shown(shown: usize, asked: usize) -> Result<(), StoreError> {
    if shown == asked {
        return Ok(());
    }
    let why = format!("{shown} of {asked} rows were shown");
    Err(StoreError::Read(why))
}

/// Why an engine could not do it.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// There is no store.
    #[error(
        "there is no store at {path}: run attache-broker init, or name the folder in store.dir"
    )]
    Absent {
        /// Where it was looked for.
        path: String,
    },
    /// Init would overwrite a store.
    #[error("there is a store at {path} already; init makes new ones only")]
    Exists {
        /// Where it is.
        path: String,
    },
    /// Another process has it open.
    #[error("the store {path} is open in another process; one broker at a time")]
    InUse {
        /// Where it is.
        path: String,
    },
    /// Written by a newer version of this program, or by one of before its rows had the form that they have now.
    #[error(
        "the store has format {found}, this program knows {known}: use the version that wrote it"
    )]
    Newer {
        /// The format in the header.
        found: u16,
        /// The newest format known here.
        known: u16,
    },
    /// Not a store, or damaged beyond reading.
    #[error("{path} is no store of this program, or damaged: {why}")]
    Unreadable {
        /// Where it is.
        path: String,
        /// What was found.
        why: String,
    },
    /// The engine could not read.
    #[error("the store cannot be read: {0}")]
    Read(String),
    /// A commit failed; nothing more is served.
    #[error("the store failed and serves nothing more until the broker is restarted: {0}")]
    Failed(Arc<str>),
}
