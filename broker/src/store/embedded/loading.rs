//! A store file that is made of rows as they are: those of a backup, which have their tags already.
//!
//! Nothing is verified here and no sequence is counted: whoever loads a file holds all of it against its anchor afterwards.

use std::path::Path;

use attache_envelope::Table;
use attache_envelope::id::StoreId;

use super::{HEADER, HEADER_SEQ, RedbStore, definition, unreadable};
use crate::store::engine::{AnchorSeq, StoreError};

/// A store file in the making.
pub struct Loading {
    store: RedbStore,
}

impl Loading {
    /// Begins a store as [`RedbStore::create`] does.
    ///
    /// # Errors
    /// As there.
    pub fn begin(path: &Path, id: StoreId) -> Result<Self, StoreError> {
        let store = RedbStore::create(path, id)?;
        Ok(Self { store })
    }

    /// Adds rows, durably.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when they cannot be written.
    pub fn put(&self, rows: &[(Table, Vec<u8>, Vec<u8>)]) -> Result<(), StoreError> {
        self.write(rows, None)
    }

    /// All of them are there: the store stands at `seq`.
    ///
    /// # Errors
    /// As [`Loading::put`].
    pub fn finish(self, path: &Path, seq: u64) -> Result<RedbStore, StoreError> {
        self.write(&[], Some(seq))?;
        let RedbStore { database, id, .. } = self.store;
        drop(database);
        let store = RedbStore::open(path)?;
        if store.id == id && *store.seq.borrow() == AnchorSeq(seq) {
            Ok(store)
        } else {
            Err(unreadable(path, "it is not as it was written"))
        }
    }

    fn write(
        &self,
        rows: &[(Table, Vec<u8>, Vec<u8>)],
        seq: Option<u64>,
    ) -> Result<(), StoreError> {
        let written = || -> Result<(), redb::Error> {
            let transaction = RedbStore::write(&self.store.database)?;
            for run in rows.chunk_by(|a, b| a.0 == b.0) {
                let Some((table, ..)) = run.first() else {
                    continue;
                };
                let mut open = transaction.open_table(definition(*table))?;
                for (_, key, value) in run {
                    open.insert(key.as_slice(), value.as_slice())?;
                }
            }
            if let Some(seq) = seq {
                let mut header = transaction.open_table(HEADER)?;
                header.insert(HEADER_SEQ, seq.to_be_bytes().as_slice())?;
            }
            Ok(transaction.commit()?)
        };
        written().map_err(|error| StoreError::Failed(error.to_string().into()))
    }
}
