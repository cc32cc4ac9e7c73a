//! How fast leaves become durable, beside the disk's own floor, and how long a start takes: run by hand, in release.
//!
//! ```text
//! cargo test --release -p attache-broker --lib audit::tests::speed -- --ignored --nocapture --test-threads=1
//! ```

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use attache_translog::{Generation, Release, ReleasedValue};

use super::*;

const LASTS: Duration = Duration::from_secs(3);

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

fn whole_size(dir: &Path) -> LogOptions {
    LogOptions {
        segment_bytes: LogOptions::SEGMENT_BYTES,
        clock: Clock::system(),
        ..options(dir)
    }
}

/// Syncs of 1 KiB into a file of zeros, one after the other.
fn floor(dir: &Path) -> (u64, Duration) {
    let file = std::fs::File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(dir.join("floor"))
        .unwrap();
    file.write_all_at(&vec![0; 16 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < LASTS {
        file.write_all_at(&[1; 1024], (count * 1024) % (16 << 20))
            .unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    (count, began.elapsed())
}

async fn appends(log: &AuditLog, callers: u64) -> (u64, Duration, Vec<Duration>) {
    let began = Instant::now();
    let tasks = (0..callers).map(|caller| {
        let log = log.clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            while began.elapsed() < LASTS {
                let one = Instant::now();
                let _receipt = log.append(release(caller)).await.unwrap();
                took.push(one.elapsed());
            }
            took
        })
    });
    let mut took = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        took.extend(task.await.unwrap());
    }
    took.sort_unstable();
    (took.len() as u64, began.elapsed(), took)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn appends_a_second_and_the_time_of_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let (count, took) = floor(dir.path());
    println!(
        "floor: {:.0} fdatasync/s",
        count as f64 / took.as_secs_f64()
    );
    let (log, _) = AuditLog::open(whole_size(dir.path()), TestSeed(SEED)).unwrap();
    for callers in [1, 16, 64] {
        let (count, lasted, took) = appends(&log, callers).await;
        let at = |part: usize| took[took.len() * part / 100];
        println!(
            "{callers:3} callers: {:7.0} appends/s, p50 {:?}, p99 {:?}",
            count as f64 / lasted.as_secs_f64(),
            at(50),
            at(99)
        );
    }
    let size = log.head().size;
    log.close().await;
    let began = Instant::now();
    let (log, recovered) = AuditLog::open(whole_size(dir.path()), TestSeed(SEED)).unwrap();
    println!("start with {size} leaves: {:?}", began.elapsed());
    assert_eq!(recovered.size, size);
    log.close().await;
    // A segment full of lone leaves has the most checkpoints.
    let lone = tempfile::tempdir().unwrap();
    let (log, _) = AuditLog::open(whole_size(lone.path()), TestSeed(SEED)).unwrap();
    for number in 0..7_000 {
        let _receipt = log.append(release(number)).await.unwrap();
    }
    log.close().await;
    let began = Instant::now();
    let (log, _) = AuditLog::open(whole_size(lone.path()), TestSeed(SEED)).unwrap();
    println!(
        "start with a segment of 7000 lone leaves: {:?}",
        began.elapsed()
    );
    log.close().await;
}
