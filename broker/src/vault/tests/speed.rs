//! How fast the rows of one-field puts are committed, with MACs, sets and anchor and without: run by hand, in release.
//!
//! ```text
//! cargo test --release -p attache-broker --lib speed -- --ignored --nocapture --test-threads=1
//! ```

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::store::{Batch, Change, Outcome, RedbStore, Rows, Snapshot, Table};

const LASTS: Duration = Duration::from_secs(4);

/// The rows of a one-field put of 1 KiB, the request row among them; sizes as the vault writes them.
fn change(n: u64) -> Change {
    let id = |tag: u64| [n.to_be_bytes(), tag.to_be_bytes()].concat();
    let mut change = Change::default();
    let head = format!("payments/secret-{n:012}").into_bytes();
    let version = [id(1), 1u64.to_be_bytes().to_vec()].concat();
    change.require_absent(Table::Head, head.clone());
    change.require_absent(Table::Version, version.clone());
    change.require_absent(Table::ValueKey, id(2));
    change.put(Table::Head, head, [7; 120]);
    change.put(Table::Version, version, [7; 130]);
    change.put(Table::ValueKey, id(2), [7; 220]);
    change.put(Table::KekIndex, [id(3), id(2)].concat(), [7; 4]);
    change.put(
        Table::Request,
        [
            b"spiffe://example.internal/operator/ada\0".as_slice(),
            &id(4),
        ]
        .concat(),
        [7; 90],
    );
    let value = ValueId::from_bytes(id(2).try_into().unwrap());
    change.payloads.push((value, Bytes::from(vec![7; 1040])));
    change
}

type Bare = (Change, oneshot::Sender<()>);

/// The same engine and the same grouping, nothing above it.
fn bare(store: Arc<RedbStore>, mut jobs: mpsc::Receiver<Bare>) {
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = vec![first];
            while group.len() < 256
                && let Ok(next) = jobs.try_recv()
            {
                group.push(next);
            }
            let mut batch = Batch::default();
            for (change, _) in &group {
                let rows = change.puts.iter();
                batch.puts.extend(rows.map(|put| {
                    // As long as a row of ours: head and tag.
                    let row = [&[0; 14][..], &put.body, &[0; 32]].concat();
                    (put.table, put.key.clone(), Bytes::from(row))
                }));
                let payloads = change.payloads.iter();
                batch
                    .puts
                    .extend(payloads.map(|(value, ct)| {
                        (Table::Payload, value.as_bytes().to_vec(), ct.clone())
                    }));
            }
            batch.puts.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            let seq = runtime.block_on(store.snapshot()).unwrap().seq();
            let outcome = runtime.block_on(store.commit(seq, batch)).unwrap();
            assert_eq!(outcome, Outcome::Committed);
            for (_, answer) in group {
                let _gone = answer.send(());
            }
        }
    });
}

async fn rate<F, T>(callers: u64, mut call: impl FnMut() -> F) -> f64
where
    F: Fn(u64) -> T + Send + 'static,
    T: Future<Output = ()> + Send,
{
    let begun = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let call = call();
            tokio::spawn(async move {
                let mut done = 0u64;
                while begun.elapsed() < LASTS {
                    call((callers << 48) | (caller << 32) | done).await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.unwrap();
    }
    done as f64 / begun.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: by hand, in release"]
async fn speed_of_commits() {
    for callers in [1, 16, 64] {
        // Each twice, in turn: what else runs on the machine then meets both.
        for _ in 0..2 {
            let whole = with_everything(callers).await;
            let bare = engine_alone(callers).await;
            println!(
                "{callers:>3} callers: {whole:>8.0}/s with MACs and anchor, {bare:>8.0}/s without: {:.0} %",
                100.0 * whole / bare
            );
        }
    }
}

async fn with_everything(callers: u64) -> f64 {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    let rate = rate(callers, || {
        let ledger = ledger.clone();
        move |n| {
            let ledger = ledger.clone();
            async move { ledger.apply(change(n)).await.map(|_| ()).unwrap() }
        }
    })
    .await;
    ledger.close().await;
    rate
}

async fn engine_alone(callers: u64) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let id = StoreId::from_bytes([1; 16]);
    let store = Arc::new(RedbStore::create(&dir.path().join("s"), id).unwrap());
    let (jobs, queue) = mpsc::channel::<Bare>(1024);
    bare(store, queue);
    rate(callers, || {
        let jobs = jobs.clone();
        move |n| {
            let jobs = jobs.clone();
            async move {
                let (answer, done) = oneshot::channel();
                jobs.send((change(n), answer)).await.unwrap();
                done.await.unwrap();
            }
        }
    })
    .await
}

/// Ready with a million secrets, also after kill -9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: by hand, in release"]
async fn speed_of_opening_a_million_secrets() {
    const SECRETS: u64 = 1_000_000;
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    let begun = Instant::now();
    for from in (0..SECRETS).step_by(2000) {
        let mut many = Change::default();
        for n in from..from + 2000 {
            let mut one = change(n);
            one.conditions.clear();
            many.merge(one);
        }
        ledger.apply(many).await.unwrap();
    }
    println!("filled in {:?}", begun.elapsed());
    let crashed = Fixture::new().await;
    std::fs::copy(fixture.store_path(), crashed.store_path()).unwrap();
    std::fs::remove_file(crashed.slot_path()).unwrap();
    std::fs::copy(fixture.slot_path(), crashed.slot_path()).unwrap();
    for what in ["after kill -9", "again"] {
        let begun = Instant::now();
        let (after, _) = crashed.open().await;
        println!("{what}: open in {:?}, seq {}", begun.elapsed(), after.seq());
        after.close().await;
    }
    let store = RedbStore::open(&crashed.store_path()).unwrap();
    let begun = Instant::now();
    let mut read = 0u32;
    for n in (0..SECRETS).step_by(37) {
        let key = format!("payments/secret-{n:012}");
        read += u32::from(
            store
                .get(Table::Head, key.as_bytes())
                .await
                .unwrap()
                .is_some(),
        );
    }
    println!("{read} reads, {:?} each", begun.elapsed() / read);
}
