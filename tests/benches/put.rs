//! Durable puts: the rows of one-field puts with MACs, sets and anchor beside the bare engine, then whole puts by RPC.
//!
//! A put by RPC is an audit intent, a commit and an audit outcome, each durable before the next: its floor at one caller is
//! a handful of `fdatasync`. What clients seal is sealed before the clock starts.
#![expect(clippy::print_stdout, reason = "prints its figures")]

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use attache_arena::Arena;
use attache_broker::{
    keys::Keys,
    store::{
        Batch, BrokerLedger, Change, Ledger, LedgerOptions, Outcome, RedbStore, Snapshot, Store,
        Table,
    },
};
use attache_envelope::{
    SystemRandom,
    body::{KekIndexKey, ValueKeyBody},
    id::{KeyId, StoreId, ValueId},
    value::CtHash,
    wrap::WrappedKey,
};
use attache_tests::{
    Scene,
    fill::{commit_puts, seal_puts},
    measure::{self, Run, cpu, load},
    wire,
};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

/// Callers at one time, and puts in all.
const LEVELS: [(u64, u64); 3] = [(1, 3_000), (16, 15_000), (64, 30_000)];
/// The most puts that the bare engine takes into one batch, as the ledger does.
const BATCH: usize = 256;
/// What all values are wrapped under.
const KEK: [u8; 16] = [3; 16];

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    println!("put of one field of 1 KiB: {}", measure::machine()?);
    for (in_flight, puts) in LEVELS {
        // Each twice, in turn: what else runs on the machine then meets both.
        for _ in 0..2 {
            let whole = runtime.block_on(with_everything(in_flight, puts))?;
            let bare = runtime.block_on(engine_alone(in_flight, puts))?;
            println!(
                "  {in_flight:>2} callers  engine alone            {}",
                bare.row()
            );
            println!(
                "  {in_flight:>2} callers  with MACs and anchor    {}   {:.0} % of the engine",
                whole.row(),
                100.0 * whole.rate() / bare.rate()
            );
        }
    }
    by_rpc()
}

// --- Rows ------------------------------------------------------------------------------------------------------------

/// The rows of a one-field put of 1 KiB, the request row among them; sizes as the vault writes them.
fn change(number: u64) -> Result<Change> {
    let id = |tag: u64| [number.to_be_bytes(), tag.to_be_bytes()].concat();
    let mut change = Change::default();
    let head = format!("payments/secret-{number:012}").into_bytes();
    let version = [id(1), 1u64.to_be_bytes().to_vec()].concat();
    let request = [
        b"spiffe://example.internal/operator/ada\0".as_slice(),
        &id(4),
    ]
    .concat();
    change.require_absent(Table::Head, head.clone());
    change.require_absent(Table::Version, version.clone());
    change.require_absent(Table::ValueKey, id(2));
    change.put(Table::Head, head, [7; 120]);
    change.put(Table::Version, version, [7; 130]);
    let value_key = ValueKeyBody {
        secret: id(1).as_slice().try_into()?,
        kek: KeyId::from_bytes(KEK),
        ct_hash: CtHash::from_bytes([7; 32]),
        ct_bytes: 1040,
        wrapped: WrappedKey::from_bytes([7; 112]),
    };
    change.put(Table::ValueKey, id(2), value_key.encode());
    change.put(Table::Request, request, [7; 90]);
    let value = ValueId::try_from(id(2).as_slice())?;
    change.payloads.push((value, Bytes::from(vec![7; 1040])));
    Ok(change)
}

async fn with_everything(callers: u64, puts: u64) -> Result<Run> {
    let dir = TempDir::new()?;
    let ledger = new_ledger(&dir).await?;
    let applying = ledger.clone();
    let run = load(callers, puts, move |number| {
        let ledger = applying.clone();
        async move { Ok(ledger.apply(change(number)?).await.map(drop)?) }
    })
    .await?;
    ledger.close().await;
    Ok(run)
}

async fn new_ledger(dir: &TempDir) -> Result<BrokerLedger> {
    let arena = Arena::new()?;
    let id = StoreId::random(&SystemRandom)?;
    let store = RedbStore::create(&dir.path().join("store.redb"), id)?;
    let (keys, rows) = Keys::create(&arena, id, &dir.path().join("slot.key"))?;
    Ledger::initialise(&store, &keys, &rows).await?;
    let options = LedgerOptions {
        anchor_note: dir.path().join("anchor.note"),
        audit_head: Box::new(|| None),
        audited: None,
    };
    Ok(Ledger::open(Arc::new(store), &keys, options).await?)
}

type Job = (Change, oneshot::Sender<()>);

async fn engine_alone(callers: u64, puts: u64) -> Result<Run> {
    let dir = TempDir::new()?;
    let id = StoreId::random(&SystemRandom)?;
    let store = Arc::new(RedbStore::create(&dir.path().join("store.redb"), id)?);
    let (jobs, queue) = mpsc::channel::<Job>(1024);
    let engine = std::thread::spawn({
        let runtime = tokio::runtime::Handle::current();
        move || commit_groups(&runtime, &store, queue)
    });
    let run = load(callers, puts, move |number| {
        let jobs = jobs.clone();
        async move {
            let (answer, done) = oneshot::channel();
            jobs.send((change(number)?, answer)).await?;
            Ok(done.await?)
        }
    })
    .await?;
    engine
        .join()
        .map_err(|_| anyhow::anyhow!("the engine's thread failed"))??;
    Ok(run)
}

/// The same engine and the same grouping, nothing above it.
fn commit_groups(
    runtime: &tokio::runtime::Handle,
    store: &RedbStore,
    mut queue: mpsc::Receiver<Job>,
) -> Result<()> {
    while let Some(first) = queue.blocking_recv() {
        let mut group = vec![first];
        while group.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            group.push(next);
        }
        let mut batch = Batch::default();
        for (change, _) in &group {
            batch.puts.extend(change.puts.iter().map(|put| {
                // As long as a row of ours: head and tag.
                let row = [&[0; 14][..], &put.body, &[0; 32]].concat();
                (put.table, put.key.to_vec(), Bytes::from(row))
            }));
            batch.puts.extend(
                change
                    .payloads
                    .iter()
                    .map(|(value, ct)| (Table::Payload, value.as_bytes().to_vec(), ct.clone())),
            );
            // The ledger's own: the index of the value's key row.
            batch.puts.extend(change.payloads.iter().map(|(value, _)| {
                let (kek, value) = (KeyId::from_bytes(KEK), *value);
                let key = KekIndexKey { kek, value }.encode();
                (Table::KekIndex, key, Bytes::new())
            }));
        }
        batch.puts.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let seq = runtime.block_on(store.snapshot())?.seq();
        let outcome = runtime.block_on(store.commit(seq, batch))?;
        ensure!(outcome == Outcome::Committed, "the engine moved by itself");
        for (_, answer) in group {
            let _gone = answer.send(());
        }
    }
    Ok(())
}

// --- By RPC ----------------------------------------------------------------------------------------------------------

fn by_rpc() -> Result<()> {
    let scene = Scene::start()?;
    let broker = scene.bed.broker.as_ref().context("the broker runs")?.pid();
    let disk = measure::fdatasync(&scene.bed.store_dir(), 1000)?;
    println!("  fdatasync of 1 KiB                 {}", disk.row());
    let channel = {
        let _guard = scene.runtime.enter();
        wire::operator(&scene.bed)?
    };
    for (in_flight, puts) in LEVELS {
        let prefix = format!("bench-{in_flight}");
        let sealed = scene
            .runtime
            .block_on(seal_puts(channel.clone(), &prefix, puts))?;
        let before = cpu(broker)?;
        let run = scene
            .runtime
            .block_on(commit_puts(channel.clone(), in_flight, sealed))?;
        println!(
            "  {in_flight:>2} callers  CommitPut by RPC        {}   cpu {:>5.0} us   p50 = {:.1} fdatasync",
            run.row(),
            run.cpu_us(before, cpu(broker)?),
            run.percentile_us(50) / disk.percentile_us(50)
        );
    }
    Ok(())
}
