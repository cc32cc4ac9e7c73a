//! What the store knows of backups that were made: which of its states a file may hold, and whether anybody found it whole.

use std::cmp::Reverse;

use attache_backup::Sealed;
use attache_envelope::EnvelopeError;
use attache_envelope::body::BackupBody;
use attache_envelope::id::BackupId;
use thiserror::Error;

use crate::store::{Change, Ledger, LedgerError, RedbStore, Store, Table};

/// Records read at once.
const PAGE: usize = 256;

/// A backup on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupRecord {
    /// Its id.
    pub id: BackupId,
    /// What is known of it.
    pub body: BackupBody,
}

impl BackupRecord {
    /// The record of one that was just made.
    #[must_use]
    pub fn made(sealed: &Sealed, by: String) -> Self {
        Self {
            id: sealed.head.backup,
            body: BackupBody {
                incarnation: sealed.head.incarnation,
                seq: sealed.head.seq,
                hash: sealed.hash,
                size: sealed.size,
                created_ms: sealed.head.created_ms,
                created_by: by,
                verified: None,
            },
        }
    }

    /// Adds the row to a change.
    pub fn put(&self, change: &mut Change) {
        change.put(Table::Backup, BackupBody::key(self.id), self.body.encode());
    }
}

/// Why records cannot be read.
#[derive(Debug, Error)]
pub enum RecordsError {
    /// The store.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A record does not decode.
    #[error("the record of a backup cannot be read")]
    Record(#[from] EnvelopeError),
}

/// The records of a store.
pub struct Records<'a, S: Store = RedbStore>(pub &'a Ledger<S>);

impl<S: Store> Records<'_, S> {
    /// At most `limit` of them by their ids, those after `after`.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub async fn page(
        &self,
        after: Option<BackupId>,
        limit: usize,
    ) -> Result<Vec<BackupRecord>, RecordsError> {
        let after = after.map(BackupBody::key);
        let rows = self.0.scan(Table::Backup, b"", after.as_deref(), limit);
        rows.await?
            .into_iter()
            .map(|(key, row)| {
                let id = BackupId::try_from(key.as_slice());
                let id = id.map_err(|_| EnvelopeError::Rule("a backup's key is no id"))?;
                let body = BackupBody::decode(&row.body)?;
                Ok(BackupRecord { id, body })
            })
            .collect()
    }

    /// Those of backups that were made at or after a time, newest first: at most `limit` of them, and how many there are.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub async fn since(
        &self,
        created_ms: u64,
        limit: usize,
    ) -> Result<(Vec<BackupRecord>, u64), RecordsError> {
        let (mut found, mut count) = (Vec::new(), 0);
        let mut after = None;
        loop {
            let page = self.page(after, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok((found, count));
            };
            after = Some(last.id);
            let of_then = page.into_iter();
            let of_then = of_then.filter(|it| it.body.created_ms >= created_ms);
            let before = found.len();
            found.extend(of_then);
            count += (found.len() - before) as u64;
            found.sort_by_key(|it| Reverse(it.body.created_ms));
            found.truncate(limit);
        }
    }

    /// One of them, with the commit that wrote it.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub async fn one(&self, id: BackupId) -> Result<Option<(u64, BackupRecord)>, RecordsError> {
        let Some(row) = self.0.read(Table::Backup, &BackupBody::key(id)).await? else {
            return Ok(None);
        };
        let body = BackupBody::decode(&row.body)?;
        Ok(Some((row.seq, BackupRecord { id, body })))
    }
}
