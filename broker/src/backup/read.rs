//! From the file of a backup to a store: loaded as it is, then held against everything that it says of itself.
//!
//! ```text
//! file -> rows in a new store file -> keyring by a slot -> the end's signature, by the keyring's own audit key
//!   -> anchor -> every tag, count, set hash, reference and ciphertext
//! ```
//! The file is hostile until its end: what was loaded of one that is refused must be thrown away by whoever named the place.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use attache_arena::Arena;
use attache_backup::{BackupError, End, EndError, Item, Reader, Sealed, backup_origin};
use attache_envelope::Table;
use thiserror::Error;

use crate::keys::{Keys, Opener, UnlockError};
use crate::store::{Loading, OpenError, RedbStore, STORE_FORMAT, StoreError, Tip, open_tip};
use crate::vault::{CheckReport, check_store};

/// What is read at once.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Rows are committed from this many bytes on.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Why a backup does not become a store.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The file cannot be read.
    #[error("the backup cannot be read")]
    Io(#[from] io::Error),
    /// It is no whole backup.
    #[error("the backup is not as it was made: {0}")]
    Bytes(#[from] BackupError),
    /// Its rows have another form than they have here.
    #[error(
        "the backup is of a store of format {found}, this program knows {STORE_FORMAT}: restore it with the version that made it"
    )]
    Format {
        /// The format in its head.
        found: u16,
    },
    /// A table that this version does not have.
    #[error("the backup has a table that is not known here: use the version that made it")]
    UnknownTable,
    /// A store cannot be made of it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No slot opens it here.
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    /// Its end is not signed by the audit key that its own keyring holds.
    #[error("the backup is not as it was made: {0}")]
    End(#[from] EndError),
    /// Its anchor does not open, or is of another state than the head says.
    #[error("the anchor of the backup does not open, or is of another state than its head says")]
    Anchor,
}

/// A backup that was loaded and is what it says it is; whether every row is right is in the report.
pub struct Opened {
    /// The store that was made of it.
    pub store: Arc<RedbStore>,
    /// Its keyring.
    pub keys: Arc<Keys>,
    /// What its end vouches for.
    pub sealed: Sealed,
    /// What was found in its rows.
    pub report: CheckReport,
    pub(crate) tip: Tip,
}

impl Opened {
    /// Loads a backup into a store file at `into`, which must not be there, opens it with the slot file and checks all of it.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub async fn open(
        file: &Path,
        into: &Path,
        arena: &Arena,
        openers: &[Opener],
    ) -> Result<Self, RestoreError> {
        let (store, end) = load(file, into)?;
        let keys = Keys::open_by(arena, &store, openers).await?;
        let verifier = keys.audit_key().verifier(&backup_origin(keys.store_id()));
        let verifier = verifier.map_err(EndError::from)?;
        let sealed = end.verify(&verifier)?;
        let tip = open_tip(&keys.row_codec(), &store).await;
        let tip = tip.map_err(|error| match error {
            OpenError::Store(error) => RestoreError::Store(error),
            OpenError::Unfinished
            | OpenError::Anchor
            | OpenError::AnotherStore { .. }
            | OpenError::RolledBack { .. }
            | OpenError::OlderIncarnation { .. }
            | OpenError::Forked { .. }
            | OpenError::Copy { .. }
            | OpenError::Row(_)
            | OpenError::Set { .. }
            | OpenError::Thread(_) => RestoreError::Anchor,
        })?;
        let (anchor, head) = (&tip.anchor, &sealed.head);
        if anchor.incarnation != head.incarnation || *tip.t.as_bytes() != head.anchor_t {
            return Err(RestoreError::Anchor);
        }
        let report = check_store(&store, &keys).await?;
        Ok(Self {
            store: Arc::new(store),
            keys: Arc::new(keys),
            sealed,
            report,
            tip,
        })
    }
}

/// Writes every row of a whole file to a new store file.
fn load(file: &Path, into: &Path) -> Result<(RedbStore, End), RestoreError> {
    let mut source = File::open(file)?;
    let mut window = vec![0; WINDOW_BYTES];
    let mut reader = Reader::new();
    let mut rows = Rows::default();
    loop {
        let count = source.read(&mut window)?;
        let Some(piece) = window.get(..count).filter(|piece| !piece.is_empty()) else {
            break;
        };
        reader.push(piece);
        while let Some(item) = reader.item()? {
            rows.take(item, into)?;
        }
    }
    let end = reader.finish()?;
    let store = rows.finish(into, end.unverified().head.seq)?;
    Ok((store, end))
}

/// The rows on their way.
#[derive(Default)]
struct Rows {
    loading: Option<Loading>,
    table: Option<Table>,
    batch: Vec<(Table, Vec<u8>, Vec<u8>)>,
    bytes: usize,
}

impl Rows {
    fn take(&mut self, item: Item<'_>, into: &Path) -> Result<(), RestoreError> {
        match item {
            Item::Head(head) => {
                let found = head.store_format;
                if found != STORE_FORMAT {
                    return Err(RestoreError::Format { found });
                }
                self.loading = Some(Loading::begin(into, head.store)?);
            }
            Item::Table(name) => {
                let table = name.parse().map_err(|_| RestoreError::UnknownTable)?;
                self.table = Some(table);
            }
            Item::Row { key, value } => {
                let table = self.table.ok_or(RestoreError::UnknownTable)?;
                self.bytes += key.len() + value.len();
                self.batch.push((table, key.to_vec(), value.to_vec()));
                if self.bytes >= BATCH_BYTES {
                    self.commit()?;
                }
            }
            Item::TableEnd | Item::End => {}
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), RestoreError> {
        if let Some(loading) = &self.loading {
            loading.put(&self.batch)?;
        }
        self.batch.clear();
        self.bytes = 0;
        Ok(())
    }

    fn finish(mut self, into: &Path, seq: u64) -> Result<RedbStore, RestoreError> {
        self.commit()?;
        // A file that was read to its end has a head.
        let loading = self.loading.ok_or(RestoreError::Anchor)?;
        Ok(loading.finish(into, seq)?)
    }
}
