//! A store of a test: made by init in a folder of its own, opened as often as the test likes.

use std::path::PathBuf;
use std::sync::Arc;

use attache_arena::Arena;
use attache_envelope::SystemRandom;
use attache_envelope::id::StoreId;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tempfile::TempDir;

use super::{BrokerLedger, Change, Ledger, LedgerOptions, OpenError, RedbStore, Store, Table};
use crate::keys::Keys;

pub(crate) struct Fixture {
    dir: TempDir,
    pub(crate) arena: Arena,
    pub(crate) id: StoreId,
}

impl Fixture {
    /// Runs what `init` runs.
    pub(crate) async fn new() -> Self {
        let fixture = Self {
            dir: tempfile::tempdir().unwrap(),
            arena: Arena::new().unwrap(),
            id: StoreId::random(&SystemRandom).unwrap(),
        };
        let store = RedbStore::create(&fixture.store_path(), fixture.id).unwrap();
        let (keys, rows) = Keys::create(&fixture.arena, fixture.id, &fixture.slot_path()).unwrap();
        let applied = Ledger::initialise(&store, &keys, &rows).await.unwrap();
        assert_eq!(applied.seq, 1);
        fixture
    }

    pub(crate) fn store_path(&self) -> PathBuf {
        self.dir.path().join("store.redb")
    }

    pub(crate) fn slot_path(&self) -> PathBuf {
        self.dir.path().join("slot.key")
    }

    pub(crate) fn note_path(&self) -> PathBuf {
        self.dir.path().join("anchor.note")
    }

    pub(crate) fn options(&self) -> LedgerOptions {
        LedgerOptions {
            anchor_note: self.note_path(),
            audit_head: Box::new(|| None),
            audited: None,
        }
    }

    pub(crate) async fn keys<S: Store>(&self, store: &S) -> Arc<Keys> {
        let keys = Keys::open(&self.arena, store, &self.slot_path()).await;
        Arc::new(keys.unwrap())
    }

    pub(crate) async fn open(&self) -> (BrokerLedger, Arc<Keys>) {
        self.try_open(self.options()).await.unwrap()
    }

    pub(crate) async fn try_open(
        &self,
        options: LedgerOptions,
    ) -> Result<(BrokerLedger, Arc<Keys>), OpenError> {
        let store = RedbStore::open(&self.store_path())?;
        let keys = self.keys(&store).await;
        let ledger = Ledger::open(Arc::new(store), &keys, options).await?;
        Ok((ledger, keys))
    }

    /// Why the store does not open.
    pub(crate) async fn refused(&self) -> OpenError {
        match self.try_open(self.options()).await {
            Ok(_) => panic!("the store opens"),
            Err(error) => error,
        }
    }

    /// Changes the bytes of the engine behind the ledger's back. The store must be closed.
    pub(crate) fn tamper(&self, table: Table, change: impl FnOnce(&mut RawTable)) {
        let database = Database::open(self.store_path()).unwrap();
        let definition: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new(table.name());
        let transaction = database.begin_write().unwrap();
        {
            let mut opened = transaction.open_table(definition).unwrap();
            let mut rows: RawTable = opened
                .iter()
                .unwrap()
                .map(|entry| entry.unwrap())
                .map(|(key, value)| (key.value().to_vec(), value.value().to_vec()))
                .collect();
            for key in rows.keys() {
                opened.remove(key.as_slice()).unwrap();
            }
            change(&mut rows);
            for (key, value) in &rows {
                opened.insert(key.as_slice(), value.as_slice()).unwrap();
            }
        }
        transaction.commit().unwrap();
    }

    /// The bytes of the engine. The store must be closed.
    pub(crate) fn raw(&self, table: Table) -> RawTable {
        let database = Database::open(self.store_path()).unwrap();
        let definition: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new(table.name());
        let transaction = database.begin_read().unwrap();
        let opened = transaction.open_table(definition).unwrap();
        opened
            .iter()
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|(key, value)| (key.value().to_vec(), value.value().to_vec()))
            .collect()
    }
}

pub(crate) type RawTable = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;

/// A change of one row.
pub(crate) fn put(table: Table, key: &[u8], body: &[u8]) -> Change {
    let mut change = Change::default();
    change.put(table, key, body);
    change
}
