//! The audit log alone: leaves made durable and signed beside a bare `fdatasync`, and how long a start takes.
#![expect(clippy::print_stdout, reason = "prints its figures")]

use std::{path::Path, time::Instant};

use anyhow::{Result, ensure};
use attache_broker::audit::{AuditLog, CheckpointKeys, Clock, LogOptions};
use attache_envelope::id::{BootId, ChainId, StoreId};
use attache_tests::measure::{self, load};
use attache_translog::{Generation, NoteError, Release, ReleasedValue, Signer};
use tempfile::TempDir;

/// Callers at one time, and leaves in all.
const LEVELS: [(u64, u64); 3] = [(1, 5_000), (16, 50_000), (64, 100_000)];
/// Leaves that are written one by one: such a segment has the most checkpoints.
const LONE: u64 = 7_000;

struct Seed;

impl CheckpointKeys for Seed {
    fn signer(&self, name: &str) -> Result<Signer, NoteError> {
        Signer::from_seed(name, &[9; 32])
    }

    fn public(&self) -> Result<Vec<[u8; 32]>, NoteError> {
        Ok(vec![*self.signer("key")?.verifier().key()])
    }
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measured())
}

async fn measured() -> Result<()> {
    let dir = TempDir::new()?;
    println!("audit log: {}", measure::machine()?);
    let floor = measure::fdatasync(dir.path(), 2000)?;
    println!("             fdatasync of 1 KiB   {}", floor.row());
    let (log, _) = AuditLog::open(options(&dir.path().join("log")), Seed)?;
    for (callers, leaves) in LEVELS {
        let appending = log.clone();
        let run = load(callers, leaves, move |number| {
            let log = appending.clone();
            async move { Ok(log.append(release(number)).await.map(drop)?) }
        })
        .await?;
        println!(
            "  {callers:>2} callers  durable leaves      {}   p50 = {:.1} fdatasync",
            run.row(),
            run.percentile_us(50) / floor.percentile_us(50)
        );
    }
    let size = log.head().size;
    log.close().await;
    start(&dir.path().join("log"), size).await?;

    let lone = TempDir::new()?;
    let (log, _) = AuditLog::open(options(&lone.path().join("log")), Seed)?;
    for number in 0..LONE {
        log.append(release(number)).await.map(drop)?;
    }
    let size = log.head().size;
    log.close().await;
    start(&lone.path().join("log"), size).await
}

async fn start(dir: &Path, size: u64) -> Result<()> {
    let from = Instant::now();
    let (log, recovered) = AuditLog::open(options(dir), Seed)?;
    println!("  start with {size} leaves: {:?}", from.elapsed());
    ensure!(recovered.size == size, "a leaf is missing");
    log.close().await;
    Ok(())
}

fn options(dir: &Path) -> LogOptions {
    LogOptions {
        dir: dir.to_owned(),
        store: StoreId::from_bytes([1; 16]),
        chain: ChainId::from_bytes([2; 16]),
        boot: BootId::from_bytes([3; 16]),
        anchored: None,
        segment_bytes: LogOptions::SEGMENT_BYTES,
        clock: Clock::system(),
    }
}

/// The leaf of a release of two fields, as long as they are.
fn release(number: u64) -> Release {
    let value = |field: &str| ReleasedValue {
        keyspace: "payments".into(),
        name: "db".into(),
        secret: [1; 16],
        version: number,
        field: field.into(),
        value: [2; 16],
    };
    Release {
        node: "spiffe://example.internal/node/local/aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa".into(),
        serial: vec![1; 16],
        release: [3; 16],
        session: [4; 16],
        nonce: [5; 16],
        plugin_key: [6; 32],
        cluster: "local".into(),
        namespace: "shop".into(),
        service_account: "web".into(),
        pod_name: "web-0".into(),
        pod_uid: "11111111-1111-4111-8111-111111111111".into(),
        container: "app".into(),
        image: Some("registry.example/web@sha256:00".into()),
        volume_id: format!("csi-{}", "0".repeat(64)),
        volume_name: "secrets".into(),
        values: vec![value("password"), value("username")],
        left_out: None,
        generation: Generation {
            incarnation: 1,
            seq: number,
            digest: [7; 32],
        },
        policies: vec!["grant/web-db".into()],
    }
}
