//! The embedded engine: one redb file, one process.
//!
//! The header table holds the format, the store id and the sequence; the other tables are bytes to it. Every write
//! transaction is opened in one place, [`RedbStore::write`], with two-phase commit and quick repair. After a
//! failed commit it must never serve again: what the disk holds is then not known before the next start.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Once, OnceLock};

use attache_envelope::Table;
use attache_envelope::id::StoreId;
use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition, TableError, WriteTransaction,
};
use tokio::sync::watch;

use super::engine::{AnchorSeq, Batch, Entry, Health, Outcome, Rows, Snapshot, Store, StoreError};

/// The newest format of the header and of the tables that this program reads and writes.
pub const STORE_FORMAT: u16 = 5;

/// Pages that redb keeps in memory: those at the top of its trees, and half of it what a commit has not written yet. The kernel has
/// the others. Four times as much was no faster, in re-wraps and releases of a store of 400,000 values, and is what a broker then takes
/// for good.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Rows that are passed by on the way to one, before it is looked up, which takes as long as some of them.
const STEPS: u32 = 8;

const HEADER: TableDefinition<'static, &'static str, &'static [u8]> =
    TableDefinition::new("attache");
/// u16 big-endian.
const HEADER_FORMAT: &str = "format";
/// 16 bytes.
const HEADER_STORE: &str = "store";
/// u64 big-endian.
const HEADER_SEQ: &str = "seq";

type BytesTable = TableDefinition<'static, &'static [u8], &'static [u8]>;
type OpenTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// A store in one redb file.
///
/// Reads come from redb's cache in about a microsecond, from the disk in one read a page: they run where they are
/// called. A commit blocks until two fdatasync are through: it belongs on a thread of its own.
pub struct RedbStore {
    database: Database,
    id: StoreId,
    seq: watch::Sender<AnchorSeq>,
    health: watch::Sender<Health>,
}

/// A read transaction of redb.
pub struct RedbSnapshot {
    transaction: ReadTransaction,
    seq: AnchorSeq,
    /// Those that were read from, in the order of [`Table::ALL`]: finding one takes longer than a row of it.
    tables: [OnceLock<Option<OpenTable>>; Table::ALL.len()],
}

impl RedbStore {
    /// Makes a store with nothing in it, at sequence 0: a file of mode 0600 that must not exist yet.
    ///
    /// # Errors
    /// [`StoreError::Exists`], or [`StoreError::Unreadable`] when it cannot be written.
    pub fn create(path: &Path, id: StoreId) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| {
                if error.kind() == ErrorKind::AlreadyExists {
                    let path = path.display().to_string();
                    return StoreError::Exists { path };
                }
                unreadable(path, error)
            })?;
        let database = database(path, file)?;
        Self::initialise(database, id).map_err(|error| unreadable(path, error))
    }

    /// Opens the store at `path`, after a crash too.
    ///
    /// # Errors
    /// [`StoreError::Absent`], [`StoreError::InUse`] (redb locks the file), [`StoreError::Newer`] by the header's
    /// format, [`StoreError::Unreadable`] for anything that is no store.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| {
                if error.kind() == ErrorKind::NotFound {
                    let path = path.display().to_string();
                    return StoreError::Absent { path };
                }
                unreadable(path, error)
            })?;
        // redb makes an empty file a database; to us it is an init that was cut short.
        if file.metadata().is_ok_and(|found| found.len() == 0) {
            return Err(unreadable(path, "the file is empty"));
        }
        let opened = caught(|| open_database(path, file));
        let (database, header) =
            opened.unwrap_or_else(|| Err(unreadable(path, "its pages do not parse")))?;
        Ok(Self::serving(database, header.id, header.seq))
    }

    /// Writes the header and makes every table.
    fn initialise(database: Database, id: StoreId) -> Result<Self, redb::Error> {
        let transaction = Self::write(&database)?;
        {
            let mut header = transaction.open_table(HEADER)?;
            header.insert(HEADER_FORMAT, STORE_FORMAT.to_be_bytes().as_slice())?;
            header.insert(HEADER_STORE, id.as_bytes().as_slice())?;
            header.insert(HEADER_SEQ, 0u64.to_be_bytes().as_slice())?;
        }
        for table in Table::ALL.iter().copied() {
            transaction.open_table(definition(table))?;
        }
        transaction.commit()?;
        Ok(Self::serving(database, id, AnchorSeq(0)))
    }

    fn serving(database: Database, id: StoreId, seq: AnchorSeq) -> Self {
        Self {
            database,
            id,
            seq: watch::Sender::new(seq),
            health: watch::Sender::new(Health::Serving),
        }
    }

    /// The one place that opens a write transaction.
    ///
    /// Quick repair writes the allocator's state with each commit, which makes a start after a crash a matter of
    /// milliseconds, and implies two-phase commit: a half-written page is never taken for a commit.
    fn write(database: &Database) -> Result<WriteTransaction, redb::TransactionError> {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    fn write_batch(&self, expect: AnchorSeq, batch: &Batch) -> Result<Outcome, redb::Error> {
        let transaction = Self::write(&self.database)?;
        let next = {
            let mut header = transaction.open_table(HEADER)?;
            let seq = header
                .get(HEADER_SEQ)?
                .and_then(|value| be_u64(value.value()))
                .ok_or_else(|| redb::Error::Corrupted("the header has no sequence".into()))?;
            if seq != expect.0 {
                drop(header);
                transaction.abort()?;
                return Ok(Outcome::Moved(AnchorSeq(seq)));
            }
            let next = seq
                .checked_add(1)
                .ok_or_else(|| redb::Error::Corrupted("the sequence is at its end".into()))?;
            header.insert(HEADER_SEQ, next.to_be_bytes().as_slice())?;
            next
        };
        for run in batch.puts.chunk_by(|a, b| a.0 == b.0) {
            let Some((table, ..)) = run.first() else {
                continue;
            };
            let mut rows = transaction.open_table(definition(*table))?;
            for (_, key, value) in run {
                rows.insert(key.as_slice(), value.as_ref())?;
            }
        }
        for run in batch.deletes.chunk_by(|a, b| a.0 == b.0) {
            let Some((table, _)) = run.first() else {
                continue;
            };
            let mut rows = transaction.open_table(definition(*table))?;
            for (_, key) in run {
                rows.remove(key.as_slice())?;
            }
        }
        transaction.commit()?;
        self.seq.send_replace(AnchorSeq(next));
        Ok(Outcome::Committed)
    }

    fn serving_or_failed(&self) -> Result<(), StoreError> {
        match &*self.health.borrow() {
            Health::Serving => Ok(()),
            Health::Failed(why) => Err(StoreError::Failed(Arc::clone(why))),
        }
    }

    fn fail(&self, why: &str) -> StoreError {
        let why: Arc<str> = why.into();
        tracing::error!(%why, "the store failed; the broker must stop");
        self.health.send_replace(Health::Failed(Arc::clone(&why)));
        StoreError::Failed(why)
    }

    fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        self.serving_or_failed()?;
        guarded(|| Ok(self.database.begin_read()?))
    }
}

impl Rows for RedbStore {
    async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let transaction = self.begin_read()?;
        guarded(|| one(existing(&transaction, table)?.as_ref(), key))
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let transaction = self.begin_read()?;
        guarded(|| {
            let rows = existing(&transaction, table)?;
            range(rows.as_ref(), table, prefix, after, limit)
        })
    }
}

impl Store for RedbStore {
    type Snapshot = RedbSnapshot;

    fn id(&self) -> StoreId {
        self.id
    }

    async fn snapshot(&self) -> Result<RedbSnapshot, StoreError> {
        let transaction = self.begin_read()?;
        let seq = guarded(|| {
            let header = transaction.open_table(HEADER)?;
            let seq = header.get(HEADER_SEQ)?;
            seq.and_then(|value| be_u64(value.value()))
                .ok_or_else(|| redb::Error::Corrupted("the header has no sequence".into()))
        })?;
        Ok(RedbSnapshot {
            transaction,
            seq: AnchorSeq(seq),
            tables: Default::default(),
        })
    }

    async fn commit(&self, expect: AnchorSeq, batch: Batch) -> Result<Outcome, StoreError> {
        self.serving_or_failed()?;
        match caught(|| self.write_batch(expect, &batch)) {
            Some(Ok(outcome)) => Ok(outcome),
            Some(Err(error)) => Err(self.fail(&error.to_string())),
            None => Err(self.fail("a commit met pages that do not parse")),
        }
    }

    async fn watch(&self, from: AnchorSeq) -> Result<AnchorSeq, StoreError> {
        let mut seq = self.seq.subscribe();
        let mut health = self.health.subscribe();
        tokio::select! {
            moved = seq.wait_for(|seq| *seq > from) => match moved {
                Ok(seq) => Ok(*seq),
                Err(_) => Err(StoreError::Failed("the store is closed".into())),
            },
            failed = health.wait_for(|health| *health != Health::Serving) => {
                drop(failed);
                self.serving_or_failed()?;
                Err(StoreError::Failed("the store is closed".into()))
            }
        }
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}

impl Rows for RedbSnapshot {
    fn get(
        &self,
        table: Table,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send {
        std::future::ready(guarded(|| one(self.table(table)?, key)))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Entry>, StoreError>> + Send {
        std::future::ready(guarded(|| {
            range(self.table(table)?, table, prefix, after, limit)
        }))
    }
}

impl RedbSnapshot {
    fn table(&self, table: Table) -> Result<Option<&OpenTable>, redb::Error> {
        let place = Table::ALL.iter().zip(&self.tables);
        let Some((_, place)) = place.into_iter().find(|(of, _)| **of == table) else {
            return Ok(None);
        };
        if let Some(open) = place.get() {
            return Ok(open.as_ref());
        }
        let open = existing(&self.transaction, table)?;
        Ok(place.get_or_init(|| open).as_ref())
    }
}

impl Snapshot for RedbSnapshot {
    fn seq(&self) -> AnchorSeq {
        self.seq
    }

    fn show(
        &self,
        table: Table,
        keys: &[&[u8]],
        each: impl FnMut(Option<&[u8]>) + Send,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        std::future::ready(guarded(|| several(self.table(table)?, keys, each)))
    }
}

struct Header {
    id: StoreId,
    seq: AnchorSeq,
}

fn open_database(path: &Path, file: File) -> Result<(Database, Header), StoreError> {
    let database = database(path, file)?;
    let header = read_header(&database, path)?;
    Ok((database, header))
}

/// The database in a file, which redb locks against every other process.
fn database(path: &Path, file: File) -> Result<Database, StoreError> {
    FileBackend::new(file)
        .and_then(|backend| {
            Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(backend)
        })
        .map_err(|error| cannot_open(path, error))
}

fn read_header(database: &Database, path: &Path) -> Result<Header, StoreError> {
    let absent = || unreadable(path, "it has no header");
    let transaction = database
        .begin_read()
        .map_err(|error| unreadable(path, error))?;
    let header = transaction.open_table(HEADER).map_err(|_| absent())?;
    let field = |name| match header.get(name) {
        Ok(Some(value)) => Ok(value.value().to_vec()),
        Ok(None) => Err(absent()),
        Err(error) => Err(unreadable(path, error)),
    };
    // The format is read first: nothing else is known to mean what it means here.
    let format = <[u8; 2]>::try_from(field(HEADER_FORMAT)?.as_slice())
        .map(u16::from_be_bytes)
        .map_err(|_| absent())?;
    match format {
        STORE_FORMAT => {}
        0 => return Err(absent()),
        found => {
            return Err(StoreError::Newer {
                found,
                known: STORE_FORMAT,
            });
        }
    }
    let id = <[u8; 16]>::try_from(field(HEADER_STORE)?.as_slice()).map_err(|_| absent())?;
    let seq = be_u64(&field(HEADER_SEQ)?).ok_or_else(absent)?;
    Ok(Header {
        id: StoreId::from_bytes(id),
        seq: AnchorSeq(seq),
    })
}

fn one(rows: Option<&OpenTable>, key: &[u8]) -> Result<Option<Bytes>, redb::Error> {
    let Some(rows) = rows else {
        return Ok(None);
    };
    let value = rows.get(key)?;
    Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
}

/// Walks from each key to the next, and looks up those that are further away.
fn several(
    rows: Option<&OpenTable>,
    keys: &[&[u8]],
    mut each: impl FnMut(Option<&[u8]>),
) -> Result<(), redb::Error> {
    let (Some(rows), [first, .., last] | [first @ last]) = (rows, keys) else {
        keys.iter().for_each(|_| each(None));
        return Ok(());
    };
    let mut walk = rows.range::<&[u8]>(*first..=*last)?;
    let mut at = walk.next().transpose()?;
    for key in keys {
        let mut steps = 0;
        while at.as_ref().is_some_and(|(found, _)| found.value() < *key) {
            if steps == STEPS {
                walk = rows.range::<&[u8]>(*key..=*last)?;
            }
            steps += 1;
            at = walk.next().transpose()?;
        }
        let found = at.as_ref().filter(|(found, _)| found.value() == *key);
        each(found.map(|(_, value)| value.value()));
    }
    Ok(())
}

fn range(
    rows: Option<&OpenTable>,
    table: Table,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Entry>, redb::Error> {
    use std::ops::Bound;

    let Some(rows) = rows else {
        return Ok(Vec::new());
    };
    let start = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        Some(_) | None => Bound::Included(prefix),
    };
    let mut entries: Vec<Entry> = Vec::new();
    for entry in rows.range::<&[u8]>((start, Bound::Unbounded))?.take(limit) {
        let (key, value) = entry?;
        let last = entries.last().map(|(last, _)| last.as_slice()).or(after);
        // Whoever goes on from the last key of a page would go round for ever.
        if last.is_some_and(|last| key.value() <= last) {
            let why = format!("the keys of table {table} are not in order");
            return Err(redb::Error::Corrupted(why));
        }
        if !key.value().starts_with(prefix) {
            break;
        }
        entries.push((key.value().to_vec(), Bytes::copy_from_slice(value.value())));
    }
    Ok(entries)
}

/// The table, unless an older version of this program made the store without it.
fn existing(transaction: &ReadTransaction, table: Table) -> Result<Option<OpenTable>, redb::Error> {
    match transaction.open_table(definition(table)) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Runs a read: a damaged page is this read's error alone.
fn guarded<T>(read: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
    match caught(read) {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(StoreError::Read(error.to_string())),
        None => Err(StoreError::Read("a page does not parse".into())),
    }
}

/// Runs what may meet pages that do not parse, on some of which redb asserts; none when it did. Such an assertion is an
/// error like others, so it is told by the caller, and the hook that reports a panic of ours leaves it to the log.
fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    thread_local!(static CATCHING: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            if CATCHING.get() {
                let at = panicked.location().map(ToString::to_string);
                tracing::error!(at, "the store's engine met a page that does not parse");
            } else {
                report(panicked);
            }
        }));
    });
    let outer = CATCHING.replace(true);
    let done = catch_unwind(AssertUnwindSafe(run));
    CATCHING.set(outer);
    done.ok()
}

fn definition(table: Table) -> BytesTable {
    TableDefinition::new(table.name())
}

fn be_u64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

fn cannot_open(path: &Path, error: DatabaseError) -> StoreError {
    if let DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch = error {
        let path = path.display().to_string();
        return StoreError::InUse { path };
    }
    unreadable(path, error)
}

fn unreadable(path: &Path, why: impl ToString) -> StoreError {
    StoreError::Unreadable {
        path: path.display().to_string(),
        why: why.to_string(),
    }
}

mod loading;

pub use loading::Loading;

#[cfg(test)]
mod tests;
