//! From a snapshot to the bytes of a backup, a page of rows at a time.
//!
//! Reads block on the disk and hash every byte: all of this runs on a thread of its own, and holds one page and one piece
//! in memory. While the snapshot is held, the store's file does not reuse the pages of that state.

use attache_backup::{AuditHead, Head, Sealed, WriteError, Writer, backup_origin};
use attache_envelope::Table;
use attache_envelope::id::BackupId;
use thiserror::Error;

use crate::keys::{AuditKey, Keys};
use crate::store::{Ledger, LedgerError, RedbStore, Rows, STORE_FORMAT, Store, StoreError};

/// Rows read at once.
const PAGE: usize = 512;
/// Payloads read at once: each may have 1 MiB.
const PAYLOADS: usize = 16;
/// A piece is handed on from this size on.
const PIECE_BYTES: usize = 256 * 1024;

/// When and by which log a backup is made.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The backup.
    pub backup: BackupId,
    /// The time, in milliseconds since 1970.
    pub now_ms: u64,
    /// The audit log, with the intent in it.
    pub audit: AuditHead,
}

/// Why a backup was not written.
#[derive(Debug, Error)]
pub enum BackupWriteError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its anchor does not open.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What it holds does not fit a backup, or the backup cannot be signed.
    #[error("the backup cannot be written: {0}")]
    Write(#[from] WriteError),
    /// Nobody takes the pieces any more.
    #[error("{0}")]
    Gone(&'static str),
}

/// A backup that is about to be written, of one state.
pub struct Writing<S: Store = RedbStore> {
    snapshot: S::Snapshot,
    head: Head,
    signer: AuditKey,
}

impl<S: Store> Writing<S> {
    /// Takes the newest state.
    ///
    /// # Errors
    /// [`BackupWriteError::Store`], [`BackupWriteError::Ledger`].
    pub async fn of(
        ledger: &Ledger<S>,
        keys: &Keys,
        moment: Moment,
    ) -> Result<Self, BackupWriteError> {
        // The key that signs its end has to be the one that its own keyring has.
        let unchanged = keys.changing().await;
        let (snapshot, tip) = ledger.snapshot().await?;
        let signer = keys.audit_key();
        drop(unchanged);
        let head = Head {
            store_format: STORE_FORMAT,
            store: ledger.store_id(),
            backup: moment.backup,
            incarnation: tip.anchor.incarnation,
            seq: tip.anchor.seq,
            created_ms: moment.now_ms,
            anchor_t: *tip.t.as_bytes(),
            audit: moment.audit,
        };
        Ok(Self {
            snapshot,
            head,
            signer,
        })
    }

    /// The key that signs it.
    #[must_use]
    pub fn signer(&self) -> &AuditKey {
        &self.signer
    }

    /// What it will say of itself.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Writes it; each piece goes to `send`, which may wait, and may end it.
    ///
    /// # Errors
    /// [`BackupWriteError`].
    pub async fn write(
        self,
        mut send: impl AsyncFnMut(Vec<u8>) -> Result<(), &'static str>,
    ) -> Result<Sealed, BackupWriteError> {
        let mut piece = Vec::with_capacity(2 * PIECE_BYTES);
        let mut writer = Writer::begin(self.head, &mut piece);
        // In the order of their names, as the file has them.
        let mut tables = Table::ALL.to_vec();
        tables.sort();
        for table in tables {
            writer.table(table.name(), &mut piece)?;
            let page = if table == Table::Payload {
                PAYLOADS
            } else {
                PAGE
            };
            let mut after: Option<Vec<u8>> = None;
            loop {
                let rows = self.snapshot.scan(table, b"", after.as_deref(), page);
                let rows = rows.await?;
                for (key, value) in &rows {
                    writer.row(key, value, &mut piece)?;
                    if piece.len() >= PIECE_BYTES {
                        let full =
                            std::mem::replace(&mut piece, Vec::with_capacity(2 * PIECE_BYTES));
                        send(full).await.map_err(BackupWriteError::Gone)?;
                    }
                }
                match rows.into_iter().next_back() {
                    Some((last, _)) => after = Some(last),
                    None => break,
                }
            }
        }
        let signer = self.signer.signer(&backup_origin(self.head.store));
        let signer = signer.map_err(|error| WriteError::Sign(error.into()))?;
        let sealed = writer.finish(&signer, &mut piece)?;
        send(piece).await.map_err(BackupWriteError::Gone)?;
        Ok(sealed)
    }
}
