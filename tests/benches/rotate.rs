//! Rotation of a keyspace with many values: how long `RotateKey` takes, how fast the broker wraps values again beside the bare
//! engine that writes the same rows, what that takes of memory, and what releases notice of it.
//!
//! `ATTACHE_BENCH_VALUES=N` fills with N in place of a million. Values are written as rows, without payloads, which a re-wrap
//! never reads; the broker is the real program.
#![expect(clippy::print_stdout, reason = "prints its figures")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use attache_arena::Arena;
use attache_broker::{
    config::Config,
    keys::{Keks, Keys},
    store::{Batch, Change, Ledger, LedgerOptions, Outcome, RedbStore, Snapshot, Store, Table},
};
use attache_envelope::{
    SystemRandom,
    body::{KekIndexKey, KeyspaceBody, ValueKeyBody},
    id::{KeyId, SecretId, StoreId, ValueId},
    key::Dek,
    name::Keyspace,
    value::CtHash,
    wrap::DekBinding,
};
use attache_proto::attache::v1::{
    self as pb, delivery_client::DeliveryClient, keys_client::KeysClient,
};
use attache_tests::{
    Scene,
    bed::NODE,
    measure::{self, Run, anonymous_kib, load},
    pod::Pod,
    wire,
};
use bytes::Bytes;
use pb::deliver_response::Answer;
use tempfile::TempDir;
use tonic::transport::Channel;
use uuid::Uuid;

/// Values in one commit, as the broker's worker makes them.
const BATCH: usize = 1024;
/// Rotations before the store is filled, for what one takes when there is next to nothing, and of an empty keyspace in the full store.
const SMALL: usize = 20;
/// How often it is looked how far the broker is.
const LOOK: Duration = Duration::from_millis(50);
/// How long a scrub may take.
const SCRUBBED: Duration = Duration::from_secs(600);
/// Releases under way at one time, and how many are made between two looks.
const IN_FLIGHT: u64 = 4;
const RELEASES: u64 = 1000;

fn main() -> Result<()> {
    let count = match std::env::var("ATTACHE_BENCH_VALUES") {
        Ok(count) => count.parse()?,
        Err(_) => 1_000_000,
    };
    println!(
        "rotate a keyspace of {count} values: {}",
        measure::machine()?
    );
    let mut scene = Scene::start()?;
    let mut small = Vec::new();
    for _ in 0..SMALL {
        small.push(rotate(&scene, "payments")?);
        until_over(&scene)?;
    }
    println!("  RotateKey,         2 values         {}", told(&mut small));
    let beside = ["keyspace", "create", "beside"];
    scene.bed.attache_ok(&beside)?;
    scene.bed.broker.take().context("the broker runs")?.stop()?;
    let config = Config::read(&scene.bed.broker_config())?;
    scene.runtime.block_on(fill(&config, count))?;
    scene.bed.start_broker()?;
    until_scrubbed(&scene)?;
    let mut beside = Vec::new();
    for _ in 0..SMALL {
        beside.push(rotate(&scene, "beside")?);
        until_over(&scene)?;
    }
    println!("  RotateKey of one beside them       {}", told(&mut beside));
    for _ in 0..2 {
        let engine = scene.runtime.block_on(engine_alone(count))?;
        println!("  the rows by the engine alone       {engine:>8.0} values/s");
        whole(&scene, count, engine)?;
    }
    releases_meanwhile(&scene)
}

/// Releases of the keyspace alone, and while it is wrapped again.
fn releases_meanwhile(scene: &Scene) -> Result<()> {
    let pod = Pod::new("shop", "bench-0", "web", NODE, "payments/db");
    scene.bed.cluster.add_pod(&pod)?;
    releases(scene, &pod)?;
    let mut alone = Vec::new();
    for _ in 0..10 {
        alone.push(releases(scene, &pod)?);
    }
    rotate(scene, "payments")?;
    let mut meanwhile = Vec::new();
    while under_way(scene)? {
        meanwhile.push(releases(scene, &pod)?);
    }
    let (alone, meanwhile) = (Run::merge(alone), Run::merge(meanwhile));
    println!(
        "  releases, {IN_FLIGHT} in flight, alone       {}",
        alone.row()
    );
    println!(
        "  releases, while values are wrapped   {}   p99 {:.1} times that of alone",
        meanwhile.row(),
        meanwhile.percentile_us(99) / alone.percentile_us(99)
    );
    Ok(())
}

/// A bounded number of releases to one pod.
fn releases(scene: &Scene, pod: &Pod) -> Result<Run> {
    let request = wire::deliver_request(pod, &scene.bed.token(pod)?);
    scene.runtime.block_on(async {
        let client = DeliveryClient::new(wire::node(&scene.bed)?);
        let call = move |number: u64| {
            let (mut client, mut request) = (client.clone(), request.clone());
            async move {
                request.nonce = (u128::from(number) << 64
                    | u128::from(Uuid::now_v7().as_u64_pair().0))
                .to_be_bytes()
                .to_vec();
                let answer = client.deliver(request).await?.into_inner().answer;
                ensure!(matches!(answer, Some(Answer::Released(_))), "it is refused");
                anyhow::Ok(())
            }
        };
        load(IN_FLIGHT, RELEASES, call).await
    })
}

/// A start has every row looked at, which takes minutes of one core here and is no part of what is measured.
fn until_scrubbed(scene: &Scene) -> Result<()> {
    let begun = Instant::now();
    while !scene
        .bed
        .metrics()?
        .contains("\nattache_broker_scrub_age_seconds ")
    {
        ensure!(begun.elapsed() < SCRUBBED, "the scrub does not end");
        std::thread::sleep(Duration::from_secs(1));
    }
    println!(
        "  the scrub after the start          {:>8.0} s",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// One rotation, to its end.
fn whole(scene: &Scene, count: usize, engine: f64) -> Result<()> {
    let broker = scene.bed.broker.as_ref().context("the broker runs")?.pid();
    let before = anonymous_kib(broker)?;
    let mut took = vec![rotate(scene, "payments")?];
    println!("  RotateKey, {count:>9} values         {}", told(&mut took));
    let begun = Instant::now();
    let mut most = before;
    while under_way(scene)? {
        most = most.max(anonymous_kib(broker)?);
        std::thread::sleep(LOOK);
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    println!(
        "  wrapped again                      {rate:>8.0} values/s = {:.0} % of the engine; {} KiB more anonymous memory than the {before} before",
        100.0 * rate / engine,
        most.saturating_sub(before)
    );
    Ok(())
}

fn told(took: &mut [Duration]) -> String {
    took.sort_unstable();
    let middle = took.get(took.len() / 2).copied().unwrap_or_default();
    let last = took.last().copied().unwrap_or_default();
    format!("p50 {middle:?}, most {last:?}")
}

// --- By RPC ----------------------------------------------------------------------------------------------------------

fn channel(scene: &Scene) -> Result<Channel> {
    let _guard = scene.runtime.enter();
    wire::operator(&scene.bed)
}

/// How long the answer takes, the connection apart.
fn rotate(scene: &Scene, keyspace: &str) -> Result<Duration> {
    let mut client = KeysClient::new(channel(scene)?);
    scene.runtime.block_on(async {
        client
            .list_rewraps(pb::ListRewrapsRequest::default())
            .await?;
        let request = pb::RotateKeyRequest {
            mutation: Some(pb::Mutation {
                request_id: Uuid::now_v7().as_bytes().to_vec(),
                dry_run: false,
            }),
            keyspace: keyspace.into(),
            ..Default::default()
        };
        let begun = Instant::now();
        client.rotate_key(request).await?;
        Ok(begun.elapsed())
    })
}

fn under_way(scene: &Scene) -> Result<bool> {
    let mut client = KeysClient::new(channel(scene)?);
    let asked = pb::ListRewrapsRequest::default();
    let answer = scene.runtime.block_on(client.list_rewraps(asked))?;
    let rewraps = answer.into_inner().rewraps;
    if let Some(stuck) = rewraps.iter().find(|it| !it.problem.is_empty()) {
        anyhow::bail!("{}", stuck.problem);
    }
    Ok(!rewraps.is_empty())
}

fn until_over(scene: &Scene) -> Result<()> {
    while under_way(scene)? {
        std::thread::sleep(LOOK / 10);
    }
    Ok(())
}

// --- Rows ------------------------------------------------------------------------------------------------------------

/// Values of `payments` under its active key, written by a ledger while no broker runs.
async fn fill(config: &Config, count: usize) -> Result<()> {
    let arena = Arena::new()?;
    let store = RedbStore::open(&config.store.store())?;
    let key_file = config.keys.key_file().context("the bed has a key file")?;
    let keys = Arc::new(Keys::open(&arena, &store, key_file).await?);
    let options = LedgerOptions {
        anchor_note: config.store.anchor(),
        audit_head: Box::new(|| None),
        audited: None,
    };
    let ledger = Ledger::open(Arc::new(store), &keys, options).await?;
    let payments: Keyspace = "payments".parse()?;
    let row_key = KeyspaceBody::key(&payments);
    let row = ledger.read(Table::Keyspace, &row_key).await?;
    let row = row.context("the scene has the keyspace")?;
    let body = KeyspaceBody::decode(&row.body)?;
    let (kek, _) = Keks::new(Arc::clone(&keys))
        .active(&ledger, &payments, &body)
        .await?;
    let secret = SecretId::random(&SystemRandom)?;
    let begun = Instant::now();
    let mut left = count;
    while left > 0 {
        let mut change = Change::default();
        for _ in 0..BATCH.min(left) {
            let value = ValueId::random(&SystemRandom)?;
            let ct_hash = CtHash::from_bytes([7; 32]);
            let binding = DekBinding {
                store: keys.store_id(),
                keyspace: &payments,
                secret,
                value,
                kek: kek.id,
                ct_hash,
            };
            let body = ValueKeyBody {
                secret,
                kek: kek.id,
                ct_hash,
                ct_bytes: 1040,
                wrapped: kek.prepared()?.wrap_dek(&binding, Dek::new(&[7; 32]))?,
            };
            change.put(Table::ValueKey, ValueKeyBody::key(value), body.encode());
        }
        ledger.apply(change).await?;
        left = left.saturating_sub(BATCH);
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    println!(
        "  filled                             {rate:>8.0} values/s, with MACs, sets and anchor"
    );
    ledger.close().await;
    Ok(())
}

/// Values a second of a re-wrap's writes alone: for each its key row replaced, its index row removed and one added.
async fn engine_alone(count: usize) -> Result<f64> {
    let dir = TempDir::new()?;
    let store = new_store(dir.path())?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        values.push(ValueId::random(&SystemRandom)?);
    }
    values.sort_unstable_by_key(|value| *value.as_bytes());
    let (old, new) = (KeyId::random(&SystemRandom)?, KeyId::random(&SystemRandom)?);
    for batch in values.chunks(BATCH) {
        commit(&store, rows(batch, None, old)).await?;
    }
    let begun = Instant::now();
    for batch in values.chunks(BATCH) {
        commit(&store, rows(batch, Some(old), new)).await?;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

fn new_store(dir: &Path) -> Result<RedbStore> {
    let id = StoreId::random(&SystemRandom)?;
    Ok(RedbStore::create(&dir.join("store.redb"), id)?)
}

/// As long as rows of ours: head, body, tag.
fn rows(values: &[ValueId], from: Option<KeyId>, to: KeyId) -> Batch {
    let mut batch = Batch::default();
    let index = |kek, value| KekIndexKey { kek, value }.encode();
    for value in values {
        let row = (Table::KekIndex, index(to, *value), Bytes::new());
        batch.puts.push(row);
    }
    for value in values {
        let row = Bytes::from_static(&[7; 46 + 220]);
        batch
            .puts
            .push((Table::ValueKey, ValueKeyBody::key(*value), row));
    }
    let removed = from.into_iter().flat_map(|kek| {
        let of =
            move |value: &ValueId| (Table::KekIndex, KekIndexKey { kek, value: *value }.encode());
        values.iter().map(of)
    });
    batch.deletes.extend(removed);
    batch
}

async fn commit(store: &RedbStore, batch: Batch) -> Result<()> {
    let seq = store.snapshot().await?.seq();
    let outcome = store.commit(seq, batch).await?;
    ensure!(outcome == Outcome::Committed, "the engine moved by itself");
    Ok(())
}
