//! An engine in memory that answers Moved at random: what a store with several writers does to its callers.
//!
//! For tests of the ledger and of the conformance suite itself.

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use attache_envelope::Table;
use attache_envelope::id::StoreId;
use bytes::Bytes;
use tokio::sync::watch;

use super::engine::{AnchorSeq, Batch, Entry, Health, Outcome, Rows, Snapshot, Store, StoreError};

/// Rows in memory; one commit in `one_in` is refused although the store stands where it was expected to.
pub(crate) struct RestlessStore {
    id: StoreId,
    state: Mutex<FakeSnapshot>,
    seq: watch::Sender<AnchorSeq>,
    health: watch::Sender<Health>,
    random: AtomicU64,
    one_in: u64,
}

#[derive(Clone, Default)]
pub(crate) struct FakeSnapshot {
    seq: AnchorSeq,
    rows: Arc<BTreeMap<(Table, Vec<u8>), Bytes>>,
}

impl RestlessStore {
    pub(crate) fn new(id: StoreId, seed: u64, one_in: u64) -> Self {
        Self {
            id,
            state: Mutex::default(),
            seq: watch::Sender::new(AnchorSeq(0)),
            health: watch::Sender::new(Health::Serving),
            random: AtomicU64::new(seed),
            one_in,
        }
    }

    fn moves(&self) -> bool {
        // A linear congruential generator: repeatable, and random enough to hit every path.
        let step = |x: u64| {
            x.wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407)
        };
        let before = self
            .random
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |x| Some(step(x)))
            .unwrap();
        (step(before) >> 33).is_multiple_of(self.one_in)
    }

    /// Changes what is stored under a key by no commit: what whoever has the disk can do. Answers what it was.
    pub(crate) fn force(
        &self,
        table: Table,
        key: &[u8],
        change: impl FnOnce(&mut Vec<u8>),
    ) -> Bytes {
        let mut state = self.state.lock().unwrap();
        let row = Arc::make_mut(&mut state.rows).get_mut(&(table, key.to_vec()));
        let row = row.unwrap();
        let mut forced = row.to_vec();
        change(&mut forced);
        std::mem::replace(row, forced.into())
    }

    fn now(&self) -> FakeSnapshot {
        self.state.lock().unwrap().clone()
    }
}

impl Rows for RestlessStore {
    fn get(
        &self,
        table: Table,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send {
        ready(Ok(self.now().one(table, key)))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Entry>, StoreError>> + Send {
        ready(Ok(self.now().range(table, prefix, after, limit)))
    }
}

impl Store for RestlessStore {
    type Snapshot = FakeSnapshot;

    fn id(&self) -> StoreId {
        self.id
    }

    fn snapshot(&self) -> impl Future<Output = Result<FakeSnapshot, StoreError>> + Send {
        ready(Ok(self.now()))
    }

    async fn commit(&self, expect: AnchorSeq, batch: Batch) -> Result<Outcome, StoreError> {
        let mut state = self.state.lock().unwrap();
        if state.seq != expect || self.moves() {
            return Ok(Outcome::Moved(state.seq));
        }
        let rows = Arc::make_mut(&mut state.rows);
        for (table, key, value) in batch.puts {
            rows.insert((table, key), value);
        }
        for name in batch.deletes {
            rows.remove(&name);
        }
        state.seq = AnchorSeq(expect.0 + 1);
        self.seq.send_replace(state.seq);
        Ok(Outcome::Committed)
    }

    async fn watch(&self, from: AnchorSeq) -> Result<AnchorSeq, StoreError> {
        let mut seq = self.seq.subscribe();
        let moved = seq.wait_for(|seq| *seq > from).await;
        Ok(*moved.unwrap())
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}

impl FakeSnapshot {
    fn one(&self, table: Table, key: &[u8]) -> Option<Bytes> {
        self.rows.get(&(table, key.to_vec())).cloned()
    }

    fn range(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Entry> {
        self.rows
            .iter()
            .filter(|((its, key), _)| *its == table && key.starts_with(prefix))
            .filter(|((_, key), _)| after.is_none_or(|after| key.as_slice() > after))
            .take(limit)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    }
}

impl Rows for FakeSnapshot {
    fn get(
        &self,
        table: Table,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send {
        ready(Ok(self.one(table, key)))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Entry>, StoreError>> + Send {
        ready(Ok(self.range(table, prefix, after, limit)))
    }
}

impl Snapshot for FakeSnapshot {
    fn seq(&self) -> AnchorSeq {
        self.seq
    }

    fn show(
        &self,
        table: Table,
        keys: &[&[u8]],
        mut each: impl FnMut(Option<&[u8]>) + Send,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        keys.iter()
            .for_each(|key| each(self.one(table, key).as_deref()));
        ready(Ok(()))
    }
}
