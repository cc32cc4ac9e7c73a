//! The ledger: the only way to the rows for the rest of the broker.
//!
//! Above an engine it adds what no engine does: a MAC on every row, the set hash and count of every table, and the
//! sealed anchor that both stand in. Opening it compares the store with every copy of the anchor that is known, so
//! that an older store does not start. It must never serve a row whose tag is wrong, and never read the tables that
//! grow with the number of secrets when it opens.

use std::cmp::Ordering;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use attache_envelope::Table;
use attache_envelope::anchor::TableSum;
use attache_envelope::id::{ChainId, StoreId, ValueId};
use attache_envelope::row::RowTag;
use attache_translog::AnchorNote;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::anchor_copy::{self, AnchorCopy};
use super::change::{Applied, ApplyError, Change, LedgerError, Row};
use super::draft::Draft;
use super::engine::{AnchorSeq, Outcome, Snapshot, Store, StoreError};
use super::group::{Committer, Job, Message, QUEUE};
use super::rows::{ANCHOR_KEY, RowCodec, Tip, set_head};
use crate::keys::Keys;

/// Rows read at once while a table is verified or read whole.
const PAGE: usize = 512;

/// The tables that are verified whole when a ledger opens, removed rows included. The others grow with the number of
/// secrets and of requests: a start must not read them.
const VERIFIED_AT_OPEN: [Table; 14] = [
    Table::Approval,
    Table::Backup,
    Table::Ban,
    Table::Cluster,
    Table::Grant,
    Table::Identity,
    Table::JoinToken,
    Table::Kek,
    Table::Keyspace,
    Table::Meta,
    Table::Operator,
    Table::OperatorCode,
    Table::Policy,
    Table::Slot,
];

/// Of those, the tables of which a damaged row keeps no broker from starting: it is refused wherever it is read, and only its
/// own keyspace stands on it. What a row of the others says, or that there is one, all of the broker stands on.
const SERVED_BY_ROW: [Table; 2] = [Table::Kek, Table::Keyspace];

/// The newest durable checkpoint of this broker's audit chain: chain, size, root.
pub type AuditHead = Box<dyn Fn() -> Option<(ChainId, u64, [u8; 32])> + Send + Sync>;

/// What a ledger is opened with besides store and keys.
pub struct LedgerOptions {
    /// The file of the anchor's copy.
    pub anchor_note: PathBuf,
    /// Asked once a batch, after the batch's intents are durable.
    pub audit_head: AuditHead,
    /// The newest anchor in the audit log, if the log has one.
    pub audited: Option<AnchorNote>,
}

/// Rows with MACs, sets and the anchor, over an engine; a clone is another handle.
pub struct Ledger<S: Store> {
    shared: Arc<Shared<S>>,
    jobs: mpsc::Sender<Message>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// What the callers and the committing thread both see.
pub(crate) struct Shared<S: Store> {
    pub(crate) store: Arc<S>,
    pub(crate) codec: Arc<RowCodec>,
    pub(crate) audit_head: AuditHead,
    position: Mutex<Applied>,
    commits: watch::Sender<AnchorSeq>,
    incarnation: u32,
}

/// Why a ledger does not open. The broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The engine.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store has no anchor: init was cut short.
    #[error("the store has no anchor, since its init was cut short: remove it and run init again")]
    Unfinished,
    /// The anchor does not open under the keyring.
    #[error(
        "the anchor of the store does not open under its keyring: another store's keys, or a damaged anchor"
    )]
    Anchor,
    /// A copy of the anchor is not by this store's keys.
    #[error(
        "{source_name} is of another store, or damaged: it does not verify under this store's keys"
    )]
    AnotherStore {
        /// Which copy.
        source_name: String,
    },
    /// The store is older than a copy of its anchor.
    #[error(
        "the store is older than it was: it stands at sequence {store}, {source_name} knows sequence {known}. \
         Put the newer store file back; an older one needs to be accepted: serve --accept-rollback-to SEQ"
    )]
    RolledBack {
        /// Where the store stands.
        store: u64,
        /// What the copy knows.
        known: u64,
        /// Which copy.
        source_name: String,
    },
    /// The store is of an incarnation before the one that a copy of its anchor knows.
    #[error(
        "the store is of incarnation {store}, {source_name} knows incarnation {known}: it was restored or rolled back since. \
         Put the newer store file back; an older one needs to be accepted: serve --accept-rollback-to SEQ"
    )]
    OlderIncarnation {
        /// The store's.
        store: u32,
        /// What the copy knows.
        known: u32,
        /// Which copy.
        source_name: String,
    },
    /// Store and copy have the same sequence and another history.
    #[error(
        "the store and {source_name} both stand at sequence {seq} with different contents: one of them is of a fork"
    )]
    Forked {
        /// Where both stand.
        seq: u64,
        /// Which copy.
        source_name: String,
    },
    /// The copy cannot be read.
    #[error("the anchor's copy {path} cannot be read")]
    Copy {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A row of a table that is verified at the start is damaged.
    #[error("{0}")]
    Row(LedgerError),
    /// Rows were added to or removed from a table behind the broker's back, or an old one was put back.
    #[error(
        "the {table} table does not match its anchor ({found} rows, {anchored} anchored): rows were removed, added \
         or put back behind the broker; attache-broker check-store tells more"
    )]
    Set {
        /// The table.
        table: Table,
        /// Rows that are there.
        found: u32,
        /// Rows that the anchor counts.
        anchored: u32,
    },
    /// A thread could not be started.
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
}

impl<S: Store> Clone for Ledger<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            jobs: self.jobs.clone(),
            thread: Arc::clone(&self.thread),
        }
    }
}

impl<S: Store> Ledger<S> {
    /// Writes the first commit of a new store: the rows of `change`, at sequence 1 of the first incarnation.
    ///
    /// # Errors
    /// [`ApplyError`]; [`ApplyError::Conflict`] never, since there is nothing yet.
    pub async fn initialise(
        store: &S,
        keys: &Keys,
        change: &Change,
    ) -> Result<Applied, ApplyError> {
        let codec = keys.row_codec();
        let snapshot = store.snapshot().await.map_err(LedgerError::from)?;
        let mut draft = Draft::new(&codec, &snapshot);
        draft.admit(change).await?;
        let mut anchor = Tip::genesis().next()?;
        let mut batch = draft.finish(&mut anchor)?;
        let sealed = codec.seal_anchor(&anchor).map_err(LedgerError::from)?;
        batch
            .puts
            .push((Table::Anchor, ANCHOR_KEY.to_vec(), sealed));
        let committed = store.commit(AnchorSeq(0), batch).await;
        match committed.map_err(LedgerError::from)? {
            Outcome::Committed => Ok(codec.tip(anchor).applied()),
            Outcome::Moved(_) => Err(ApplyError::Busy),
        }
    }

    /// Writes the first commit of another incarnation of a store: `change`, at the sequence after the one where it stands.
    /// `head` is where the audit log stands.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn begin_incarnation(
        store: &S,
        keys: &Keys,
        incarnation: u32,
        change: &Change,
        head: Option<(ChainId, u64, [u8; 32])>,
    ) -> Result<Applied, ApplyError> {
        let codec = keys.row_codec();
        let snapshot = store.snapshot().await.map_err(LedgerError::from)?;
        let tip = codec.read_tip(&snapshot).await?;
        let mut draft = Draft::new(&codec, &snapshot);
        draft.admit(change).await?;
        let mut anchor = tip.next()?;
        anchor.incarnation = incarnation;
        let mut batch = draft.finish(&mut anchor)?;
        set_head(&mut anchor, head);
        let sealed = codec.seal_anchor(&anchor).map_err(LedgerError::from)?;
        batch
            .puts
            .push((Table::Anchor, ANCHOR_KEY.to_vec(), sealed));
        let expect = snapshot.seq();
        drop(snapshot);
        let committed = store.commit(expect, batch).await;
        match committed.map_err(LedgerError::from)? {
            Outcome::Committed => Ok(codec.tip(anchor).applied()),
            Outcome::Moved(_) => Err(ApplyError::Busy),
        }
    }

    /// Opens the ledger of a store: reads the anchor, compares it with its copies, verifies the small tables whole,
    /// and starts the committing thread.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        store: Arc<S>,
        keys: &Keys,
        options: LedgerOptions,
    ) -> Result<Self, OpenError> {
        let codec = keys.row_codec();
        let snapshot = store.snapshot().await?;
        let tip = open_tip(&codec, &snapshot).await?;
        compare_with_copies(&tip, keys, &options)?;
        for table in VERIFIED_AT_OPEN {
            let anchored = tip.anchor.tables.get(&table);
            let anchored = anchored.copied().unwrap_or(TableSum::EMPTY);
            verify_table(&codec, &snapshot, table, anchored).await?;
        }
        drop(snapshot);
        let copy = AnchorCopy::start(options.anchor_note, keys.anchor_signer())
            .map_err(OpenError::Thread)?;
        copy.publish(note_of(&tip));
        let shared = Arc::new(Shared {
            store,
            codec,
            audit_head: options.audit_head,
            position: Mutex::new(tip.applied()),
            commits: watch::Sender::new(AnchorSeq(tip.anchor.seq)),
            incarnation: tip.anchor.incarnation,
        });
        let (jobs, queue) = mpsc::channel(QUEUE);
        let committer = Committer {
            shared: Arc::clone(&shared),
            tip,
            copy,
            runtime: Handle::current(),
        };
        let thread = committer.start(queue).map_err(OpenError::Thread)?;
        Ok(Self {
            shared,
            jobs,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// The store's name.
    #[must_use]
    pub fn store_id(&self) -> StoreId {
        self.shared.store.id()
    }

    /// The store's incarnation: one more with each restore and each accepted rollback.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.shared.incarnation
    }

    /// The engine, for its health and for a scan of everything.
    #[must_use]
    pub fn store(&self) -> &Arc<S> {
        &self.shared.store
    }

    /// The newest state, standing still, and its anchor.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(crate) async fn snapshot(&self) -> Result<(S::Snapshot, Tip), LedgerError> {
        let snapshot = self.shared.store.snapshot().await?;
        let tip = self.shared.codec.read_tip(&snapshot).await?;
        Ok((snapshot, tip))
    }

    /// The newest commit of this ledger.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.position().seq
    }

    /// The anchor of the newest commit.
    #[must_use]
    pub fn anchor_t(&self) -> [u8; 32] {
        self.position().anchor_t
    }

    /// The newest commit and its anchor, of one instant.
    #[must_use]
    pub fn position(&self) -> Applied {
        *self
            .shared
            .position
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Told of each commit, after it is durable.
    #[must_use]
    pub fn commits(&self) -> watch::Receiver<AnchorSeq> {
        self.shared.commits.subscribe()
    }

    /// The newest row under `key`, its tag verified.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn read(&self, table: Table, key: &[u8]) -> Result<Option<Row>, LedgerError> {
        let stored = self.shared.store.get(table, key).await?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        let row = self.shared.codec.verify(table, key, &stored)?;
        Ok(Some(row.into_row()))
    }

    /// Every row of a table that is kept in memory anyway, ascending; each tag verified.
    ///
    /// # Errors
    /// As [`Ledger::scan`].
    pub async fn whole(&self, table: Table) -> Result<Vec<(Vec<u8>, Row)>, LedgerError> {
        let mut rows: Vec<(Vec<u8>, Row)> = Vec::new();
        loop {
            let after = rows.last().map(|(key, _)| key.as_slice());
            let page = self.scan(table, b"", after, PAGE).await?;
            let last = page.len() < PAGE;
            rows.extend(page);
            if last {
                return Ok(rows);
            }
        }
    }

    /// At most `limit` rows whose keys begin with `prefix`, ascending, those after `after`; each tag verified.
    ///
    /// # Errors
    /// [`LedgerError`]; one damaged row fails the whole page, and the error names it.
    pub async fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Row)>, LedgerError> {
        let stored = self.shared.store.scan(table, prefix, after, limit).await?;
        stored
            .into_iter()
            .map(|(key, stored)| {
                let row = self.shared.codec.verify(table, &key, &stored)?;
                Ok((key, row.into_row()))
            })
            .collect()
    }

    /// The ciphertext of a value, as stored. Its hash stands in the value's key row; it is not computed here.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] when it is gone.
    pub async fn payload(&self, value: ValueId) -> Result<Bytes, LedgerError> {
        let payload = self
            .shared
            .store
            .get(Table::Payload, value.as_bytes())
            .await?;
        payload.ok_or_else(|| LedgerError::damaged(Table::Payload, value.as_bytes()))
    }

    /// Applies the change durably, together with whatever else waits, or not at all.
    ///
    /// # Errors
    /// [`ApplyError`]; nothing was written then, but after [`ApplyError::Closed`] and a store that failed, where it is
    /// not known before the next start.
    ///
    /// # Cancel safety
    /// A change that was queued is applied although its caller has gone.
    pub async fn apply(&self, change: Change) -> Result<Applied, ApplyError> {
        let (answer, applied) = oneshot::channel();
        self.jobs
            .try_send(Message::Apply(Job { change, answer }))
            .map_err(|refused| match refused {
                mpsc::error::TrySendError::Full(_) => ApplyError::Busy,
                mpsc::error::TrySendError::Closed(_) => ApplyError::Closed,
            })?;
        applied.await.map_err(|_| ApplyError::Closed)?
    }

    /// Commits what is queued, writes the anchor's copy and ends the thread. Later changes are refused.
    pub async fn close(&self) {
        // A full queue is waited for; a thread that is gone needs no message.
        drop(self.jobs.send(Message::Close).await);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            drop(tokio::task::spawn_blocking(move || thread.join()).await);
        }
    }
}

impl<S: Store> Shared<S> {
    /// Shows a durable commit to everybody.
    pub(crate) fn publish(&self, tip: &Tip) {
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = tip.applied();
        self.commits.send_replace(AnchorSeq(tip.anchor.seq));
    }
}

/// How long the log of `chain` was as the store knows it: the head that the newest anchor holds, before anything is
/// compared with it. An audit log without that head is not this store's whole log.
///
/// # Errors
/// [`OpenError::Store`], [`OpenError::Unfinished`], [`OpenError::Anchor`].
pub async fn anchored_head<S: Store>(
    store: &S,
    keys: &Keys,
    chain: ChainId,
) -> Result<Option<(u64, [u8; 32])>, OpenError> {
    let snapshot = store.snapshot().await?;
    let tip = open_tip(&keys.row_codec(), &snapshot).await?;
    let head = tip.anchor.heads.get(&chain);
    Ok(head.map(|head| (head.size, head.root)))
}

/// Where a store stands that is not open yet.
///
/// # Errors
/// [`OpenError::Store`], [`OpenError::Unfinished`], [`OpenError::Anchor`].
pub(crate) async fn open_tip_of<S: Store>(codec: &RowCodec, store: &S) -> Result<Tip, OpenError> {
    let snapshot = store.snapshot().await?;
    open_tip(codec, &snapshot).await
}

/// The published form of an anchor.
pub(crate) fn note_of(tip: &Tip) -> AnchorNote {
    AnchorNote {
        incarnation: tip.anchor.incarnation,
        seq: tip.anchor.seq,
        t: *tip.t.as_bytes(),
    }
}

async fn open_tip<V: Snapshot>(codec: &RowCodec, snapshot: &V) -> Result<Tip, OpenError> {
    if snapshot.seq() == AnchorSeq(0) {
        return Err(OpenError::Unfinished);
    }
    codec.read_tip(snapshot).await.map_err(|error| match error {
        LedgerError::Store(error) => OpenError::Store(error),
        LedgerError::Damaged { .. } | LedgerError::Anchor(_) | LedgerError::Full => {
            OpenError::Anchor
        }
    })
}

/// Holds the store's anchor against the copy beside it and against the audit log.
fn compare_with_copies(tip: &Tip, keys: &Keys, options: &LedgerOptions) -> Result<(), OpenError> {
    let path = &options.anchor_note;
    let verifiers = keys.anchor_verifiers().map_err(|_| OpenError::Anchor)?;
    let copy = anchor_copy::read(path, &verifiers).map_err(|source| OpenError::Copy {
        path: path.display().to_string(),
        source,
    })?;
    let name = format!("the anchor's copy {}", path.display());
    match copy {
        None => tracing::warn!(path = %path.display(),
            "the anchor's copy is missing: a store that was rolled back is not noticed by it"),
        Some(Err(_)) => return Err(OpenError::AnotherStore { source_name: name }),
        Some(Ok(copy)) => compare(tip, &copy, name)?,
    }
    match &options.audited {
        Some(audited) => compare(tip, audited, "the audit log".into()),
        None => Ok(()),
    }
}

fn compare(tip: &Tip, known: &AnchorNote, source_name: String) -> Result<(), OpenError> {
    let (store, seq) = (tip.anchor.seq, known.seq);
    match known.incarnation.cmp(&tip.anchor.incarnation) {
        // Of before a restore or an accepted rollback.
        Ordering::Less => return Ok(()),
        Ordering::Greater => {
            return Err(OpenError::OlderIncarnation {
                store: tip.anchor.incarnation,
                known: known.incarnation,
                source_name,
            });
        }
        Ordering::Equal => {}
    }
    if store < seq {
        return Err(OpenError::RolledBack {
            store,
            known: seq,
            source_name,
        });
    }
    if store == seq && *tip.t.as_bytes() != known.t {
        return Err(OpenError::Forked { seq, source_name });
    }
    Ok(())
}

/// Reads a table whole: every tag, the count and the set hash. Where a damaged row may stay, the tag that it has must still be
/// the one in the set: else another row may have been put back or taken out behind it.
async fn verify_table<V: Snapshot>(
    codec: &RowCodec,
    snapshot: &V,
    table: Table,
    anchored: TableSum,
) -> Result<(), OpenError> {
    let mut found = TableSum::EMPTY;
    let mut damaged = None;
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = snapshot.scan(table, b"", after.as_deref(), PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (key, stored) in page {
            let tag = match codec.verify(table, &key, &stored) {
                Ok(row) => row.tag,
                Err(error) => {
                    let tag = stored
                        .last_chunk()
                        .filter(|_| SERVED_BY_ROW.contains(&table));
                    let tag = tag.ok_or_else(|| OpenError::Row(error.clone()))?;
                    tracing::error!(%error, "what stands on this record is not served, and the rest is");
                    damaged.get_or_insert(error);
                    RowTag::from_bytes(*tag)
                }
            };
            let element = codec.element(table, &key, &tag);
            found
                .insert(&element)
                .map_err(|error| OpenError::Row(error.into()))?;
        }
    }
    if found == anchored {
        return Ok(());
    }
    if let Some(error) = damaged {
        return Err(OpenError::Row(error));
    }
    Err(OpenError::Set {
        table,
        found: found.count(),
        anchored: anchored.count(),
    })
}

#[cfg(test)]
mod tests;
