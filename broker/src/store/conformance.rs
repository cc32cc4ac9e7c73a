//! What every engine must do, as one generic suite; the ledger's suite of two writers is in `ledger/tests.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use attache_envelope::Table;
use attache_envelope::id::StoreId;
use bytes::Bytes;
use tokio::time::timeout;

use super::embedded::RedbStore;
use super::engine::{AnchorSeq, Batch, Health, Outcome, Rows, Snapshot, Store};
use super::fake::RestlessStore;

const HEADS: Table = Table::Head;

#[tokio::test]
async fn redb_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let mut number = 0;
    for check in CHECKS {
        number += 1;
        let path = dir.path().join(format!("{check:?}-{number}.redb"));
        let id = StoreId::from_bytes([7; 16]);
        check
            .run(Arc::new(RedbStore::create(&path, id).unwrap()))
            .await;
    }
}

#[tokio::test]
async fn an_engine_that_moves_at_random_conforms() {
    for seed in 0..8 {
        for check in CHECKS {
            let id = StoreId::from_bytes([7; 16]);
            check.run(Arc::new(RestlessStore::new(id, seed, 3))).await;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Check {
    StartsEmpty,
    CommitIsWhole,
    StaleExpectWritesNothing,
    SnapshotStandsStill,
    ScanPages,
    ShowsAsGetFinds,
    TablesAreApart,
    EveryByteStringIsAKey,
    WatchWakes,
    WritersRace,
}

const CHECKS: [Check; 10] = [
    Check::StartsEmpty,
    Check::CommitIsWhole,
    Check::StaleExpectWritesNothing,
    Check::SnapshotStandsStill,
    Check::ScanPages,
    Check::ShowsAsGetFinds,
    Check::TablesAreApart,
    Check::EveryByteStringIsAKey,
    Check::WatchWakes,
    Check::WritersRace,
];

impl Check {
    async fn run<S: Store>(self, store: Arc<S>) {
        match self {
            Self::StartsEmpty => starts_empty(&*store).await,
            Self::CommitIsWhole => commit_is_whole(&*store).await,
            Self::StaleExpectWritesNothing => stale_expect_writes_nothing(&*store).await,
            Self::SnapshotStandsStill => snapshot_stands_still(&*store).await,
            Self::ScanPages => scan_pages(&*store).await,
            Self::ShowsAsGetFinds => shows_as_get_finds(&*store).await,
            Self::TablesAreApart => tables_are_apart(&*store).await,
            Self::EveryByteStringIsAKey => every_byte_string_is_a_key(&*store).await,
            Self::WatchWakes => watch_wakes(store).await,
            Self::WritersRace => writers_race(store).await,
        }
    }
}

fn put(table: Table, key: &[u8], value: &[u8]) -> Batch {
    Batch {
        puts: vec![(table, key.to_vec(), Bytes::copy_from_slice(value))],
        deletes: Vec::new(),
    }
}

/// Commits on top of whatever there is, as often as the engine says Moved.
async fn commit<S: Store>(store: &S, batch: Batch) -> AnchorSeq {
    for _ in 0..1000 {
        let expect = store.snapshot().await.unwrap().seq();
        match store.commit(expect, batch.clone()).await.unwrap() {
            Outcome::Committed => return AnchorSeq(expect.0 + 1),
            Outcome::Moved(at) => assert!(at >= expect),
        }
    }
    panic!("a thousand times Moved");
}

async fn starts_empty<S: Store>(store: &S) {
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.seq(), AnchorSeq(0));
    assert_eq!(store.id(), StoreId::from_bytes([7; 16]));
    assert_eq!(*store.health().borrow(), Health::Serving);
    for table in Table::ALL.iter().copied() {
        assert_eq!(store.get(table, b"").await.unwrap(), None);
        assert!(store.scan(table, b"", None, 10).await.unwrap().is_empty());
    }
}

async fn commit_is_whole<S: Store>(store: &S) {
    let batch = Batch {
        puts: vec![
            (HEADS, b"a".to_vec(), Bytes::from_static(b"1")),
            (HEADS, b"b".to_vec(), Bytes::from_static(b"2")),
            (Table::Payload, b"p".to_vec(), Bytes::from(vec![9; 1 << 20])),
        ],
        deletes: vec![(HEADS, b"absent".to_vec())],
    };
    assert_eq!(commit(store, batch).await, AnchorSeq(1));
    let next = Batch {
        puts: vec![(HEADS, b"a".to_vec(), Bytes::from_static(b"3"))],
        deletes: vec![(HEADS, b"b".to_vec())],
    };
    assert_eq!(commit(store, next).await, AnchorSeq(2));
    assert_eq!(store.get(HEADS, b"a").await.unwrap().unwrap(), "3");
    assert_eq!(store.get(HEADS, b"b").await.unwrap(), None);
    let payload = store.get(Table::Payload, b"p").await.unwrap().unwrap();
    assert_eq!(payload.len(), 1 << 20);
}

async fn stale_expect_writes_nothing<S: Store>(store: &S) {
    commit(store, put(HEADS, b"a", b"1")).await;
    for expect in [0, 2, u64::MAX] {
        let outcome = store
            .commit(AnchorSeq(expect), put(HEADS, b"a", b"2"))
            .await;
        assert_eq!(outcome.unwrap(), Outcome::Moved(AnchorSeq(1)));
    }
    assert_eq!(store.get(HEADS, b"a").await.unwrap().unwrap(), "1");
    assert_eq!(store.snapshot().await.unwrap().seq(), AnchorSeq(1));
}

async fn snapshot_stands_still<S: Store>(store: &S) {
    commit(store, put(HEADS, b"a", b"1")).await;
    let before = store.snapshot().await.unwrap();
    commit(store, put(HEADS, b"a", b"2")).await;
    commit(store, put(HEADS, b"b", b"2")).await;
    assert_eq!(before.seq(), AnchorSeq(1));
    assert_eq!(before.get(HEADS, b"a").await.unwrap().unwrap(), "1");
    assert_eq!(before.scan(HEADS, b"", None, 10).await.unwrap().len(), 1);
    assert_eq!(store.snapshot().await.unwrap().seq(), AnchorSeq(3));
}

/// Keys that lie together, far apart, before the first, after the last, and between two that are there.
async fn shows_as_get_finds<S: Store>(store: &S) {
    let puts = (0..500u16).filter(|n| n % 3 != 0).map(|n| {
        (
            HEADS,
            n.to_be_bytes().to_vec(),
            Bytes::from(vec![u8::try_from(n % 251).unwrap(); 40]),
        )
    });
    let batch = Batch {
        puts: puts.collect(),
        deletes: Vec::new(),
    };
    commit(store, batch).await;
    let snapshot = store.snapshot().await.unwrap();
    for every in [1, 2, 7, 13, 100, 499, 600] {
        let keys: Vec<_> = (0..600u16).step_by(every).map(u16::to_be_bytes).collect();
        let keys: Vec<&[u8]> = keys.iter().map(<[u8; 2]>::as_slice).collect();
        let mut shown = Vec::new();
        let each = |value: Option<&[u8]>| shown.push(value.map(Bytes::copy_from_slice));
        snapshot.show(HEADS, &keys, each).await.unwrap();
        let mut found = Vec::new();
        for key in &keys {
            found.push(snapshot.get(HEADS, key).await.unwrap());
        }
        assert_eq!(shown, found, "every {every}");
    }
    snapshot
        .show(HEADS, &[], |_| panic!("nothing was asked for"))
        .await
        .unwrap();
    let mut absent = 0;
    let each = |value: Option<&[u8]>| absent += u32::from(value.is_none());
    snapshot
        .show(Table::Grant, &[b"a", b"b"], each)
        .await
        .unwrap();
    assert_eq!(absent, 2);
}

async fn scan_pages<S: Store>(store: &S) {
    let mut puts = Vec::new();
    for n in 0..25u8 {
        puts.push((HEADS, vec![b'k', n], Bytes::from(vec![n])));
    }
    puts.push((HEADS, b"j".to_vec(), Bytes::new()));
    puts.push((HEADS, b"l".to_vec(), Bytes::new()));
    let deletes = Vec::new();
    commit(store, Batch { puts, deletes }).await;
    let mut seen = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan(HEADS, b"k", after.as_deref(), 10).await.unwrap();
        assert!(page.len() <= 10);
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        seen.extend(page.into_iter().map(|(key, _)| key));
    }
    let want: Vec<_> = (0..25u8).map(|n| vec![b'k', n]).collect();
    assert_eq!(seen, want);
    let before_prefix = store.scan(HEADS, b"k", Some(b"a"), 100).await.unwrap();
    assert_eq!(before_prefix.len(), 25);
    assert!(
        store
            .scan(HEADS, b"k", Some(b"z"), 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(store.scan(HEADS, b"k", None, 0).await.unwrap().is_empty());
}

async fn tables_are_apart<S: Store>(store: &S) {
    let mut batch = Batch::default();
    for table in Table::ALL.iter().copied() {
        let name = Bytes::from_static(table.name().as_bytes());
        batch.puts.push((table, b"same".to_vec(), name));
    }
    commit(store, batch).await;
    for table in Table::ALL.iter().copied() {
        let value = store.get(table, b"same").await.unwrap().unwrap();
        assert_eq!(value, table.name());
    }
}

async fn every_byte_string_is_a_key<S: Store>(store: &S) {
    let keys = [&b""[..], &[0], &[0, 0], &[0xff; 64], "ä/\0".as_bytes()];
    for key in keys {
        commit(store, put(HEADS, key, key)).await;
    }
    let all = store.scan(HEADS, b"", None, 100).await.unwrap();
    let all: BTreeMap<_, _> = all.into_iter().collect();
    assert_eq!(all.len(), keys.len());
    for key in keys {
        assert_eq!(all[key], key);
    }
    assert_eq!(store.scan(HEADS, &[0xff], None, 9).await.unwrap().len(), 1);
}

async fn watch_wakes<S: Store>(store: Arc<S>) {
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.watch(AnchorSeq(0)).await.unwrap() }
    });
    commit(&*store, put(HEADS, b"a", b"1")).await;
    assert!(waiting.await.unwrap() >= AnchorSeq(1));
    assert_eq!(store.watch(AnchorSeq(0)).await.unwrap(), AnchorSeq(1));
    let none = timeout(Duration::from_millis(20), store.watch(AnchorSeq(1))).await;
    assert!(none.is_err());
}

/// Two writers add to one counter: no commit is lost, none counts twice.
async fn writers_race<S: Store>(store: Arc<S>) {
    const EACH: u64 = 50;
    let writer = |store: Arc<S>| async move {
        let mut done = 0;
        while done < EACH {
            let snapshot = store.snapshot().await.unwrap();
            let stored = snapshot.get(HEADS, b"n").await.unwrap();
            let count = stored.map_or(0, |n| u64::from_be_bytes(n.as_ref().try_into().unwrap()));
            tokio::task::yield_now().await;
            let next = put(HEADS, b"n", &(count + 1).to_be_bytes());
            match store.commit(snapshot.seq(), next).await.unwrap() {
                Outcome::Committed => done += 1,
                Outcome::Moved(_) => {}
            }
        }
    };
    let one = tokio::spawn(writer(Arc::clone(&store)));
    let two = tokio::spawn(writer(Arc::clone(&store)));
    one.await.unwrap();
    two.await.unwrap();
    let count = store.get(HEADS, b"n").await.unwrap().unwrap();
    assert_eq!(count.as_ref(), (2 * EACH).to_be_bytes());
    assert_eq!(store.snapshot().await.unwrap().seq(), AnchorSeq(2 * EACH));
}
