//! The worker over a real store and a real log, by a clock that a test moves.

use std::sync::atomic::AtomicU64;

use attache_envelope::body::KekPhase;
use attache_envelope::name::Keyspace;
use attache_translog::{Event, Leaf, Stop};
use tempfile::TempDir;

use super::*;
use crate::audit::Clock;
use crate::vault::SetSettings;
use crate::vault::tests::{Bench, NOW, opened, pairs};

const HOUR_MS: u64 = 3_600_000;

struct World {
    _dir: TempDir,
    bench: Bench,
    log: AuditLog,
    rotations: Rotations,
    overdue: OverdueKeys,
    /// Milliseconds since the keyspace was made.
    passed_ms: Arc<AtomicU64>,
}

impl World {
    async fn new() -> Self {
        let bench = Bench::new().await;
        let passed_ms = Arc::new(AtomicU64::new(0));
        let of_clock = Arc::clone(&passed_ms);
        let clock = Clock::from_fn(move || NOW + of_clock.load(Ordering::Relaxed));
        let (log, dir) = bench.log_by(clock);
        Self {
            _dir: dir,
            bench,
            log,
            rotations: Rotations::default(),
            overdue: OverdueKeys::default(),
            passed_ms,
        }
    }

    fn pass(&self, ms: u64) {
        self.passed_ms.store(ms, Ordering::Relaxed);
    }

    async fn demand(&self, set: SetSettings) {
        let (vault, name) = (&self.bench.vault, payments());
        let (change, _) = vault.prepare_settings(&name, set).await.unwrap();
        vault.ledger().apply(change).await.unwrap();
    }

    fn worker(&self) -> Worker {
        let (vault, log) = (Arc::clone(&self.bench.vault), self.log.clone());
        Worker::new(vault, log, self.rotations.clone(), self.overdue.clone())
    }

    async fn phases(&self) -> Vec<KekPhase> {
        let views = self
            .bench
            .vault
            .key_views(None, None, 10, NOW)
            .await
            .unwrap();
        views.iter().map(|view| view.phase).collect()
    }

    async fn findings(&self) -> Vec<String> {
        let now_ms = self.log.clock().now_ms();
        let (vault, rotations) = (&self.bench.vault, &self.rotations);
        let findings = self.overdue.findings(vault, rotations, now_ms);
        findings.await.unwrap()
    }

    /// What is on record of keys that the broker rotated.
    async fn on_record(&self) -> Vec<(String, String)> {
        let leaves = self.log.read(0, 1000).await.unwrap();
        let events = leaves.iter().map(|it| Leaf::parse(&it.body).unwrap().event);
        let rotated = events.filter_map(|event| {
            let Event::Rotation(it) = event else {
                return None;
            };
            Some((it.key, it.reason))
        });
        rotated.collect()
    }
}

fn payments() -> Keyspace {
    "payments".parse().unwrap()
}

fn an_hour(automatic: bool) -> SetSettings {
    SetSettings {
        max_age_s: Some(3_600),
        automatic: Some(automatic),
        ..SetSettings::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_too_old_is_rotated_once_and_that_is_on_record() {
    let world = World::new().await;
    world.bench.put("payments/db", &[("a", "1")]).await;
    world.demand(an_hour(true)).await;
    let (mut worker, stop) = (world.worker(), CancellationToken::new());
    world.pass(HOUR_MS - 1);
    worker.look(&stop).await;
    assert_eq!(world.phases().await, [KekPhase::Active]);
    world.pass(HOUR_MS);
    worker.look(&stop).await;
    let rotated = [KekPhase::DecryptOnly, KekPhase::Active];
    assert_eq!(world.phases().await, rotated);
    let [(key, why)] = world.on_record().await.try_into().unwrap();
    assert_eq!(key, "payments@1");
    assert!(why.contains("is to wrap for 60 minutes at most"), "{why}");
    assert_eq!(world.overdue.count(), 0);
    assert_eq!(world.rotations.under_way(None, None, 9).len(), 1);
    // However the clock steps, neither while the values are wrapped again nor after that.
    for step in 2..9 {
        world.pass(step * 1000 * HOUR_MS);
        worker.look(&stop).await;
        assert_eq!(world.phases().await, rotated);
        assert_eq!(world.overdue.count(), 1);
    }
    assert!(world.findings().await[0].contains("once the rotation before has ended"));
    let now = opened(&world.bench.vault, "payments/db", None).await;
    assert_eq!(now, pairs(&[("a", "1")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_wrapped_too_often_is_rotated_unless_the_next_would_be_no_better() {
    let world = World::new().await;
    for value in ["1", "2", "3"] {
        world.bench.put("payments/db", &[("a", value)]).await;
    }
    let wraps = |most| SetSettings {
        max_wraps: Some(most),
        ..SetSettings::default()
    };
    let (mut worker, stop) = (world.worker(), CancellationToken::new());
    world.demand(wraps(4)).await;
    worker.look(&stop).await;
    assert_eq!(world.findings().await, Vec::<String>::new());
    // All three are in the store, and the next key would wrap them all.
    world.demand(wraps(3)).await;
    worker.look(&stop).await;
    assert_eq!(world.phases().await, [KekPhase::Active]);
    let told = world.findings().await;
    assert!(told[0].contains("--max-key-wraps 6"), "{told:?}");
    // A wrap that came to nothing was one, too.
    let raced = world.bench.put_is_prepared("payments/db", &[("a", "4")]);
    raced.await;
    world.demand(wraps(4)).await;
    worker.look(&stop).await;
    let rotated = [KekPhase::DecryptOnly, KekPhase::Active];
    assert_eq!(world.phases().await, rotated);
    let [(_, why)] = world.on_record().await.try_into().unwrap();
    assert_eq!(why, "it has wrapped 4 times, and is to 4 at most");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_keyspace_says_by_hand_it_is_only_told() {
    let world = World::new().await;
    world.demand(an_hour(false)).await;
    let (mut worker, stop) = (world.worker(), CancellationToken::new());
    world.pass(2 * HOUR_MS);
    worker.look(&stop).await;
    assert_eq!(world.phases().await, [KekPhase::Active]);
    assert_eq!(world.overdue.count(), 1);
    assert_eq!(
        world.findings().await,
        [
            "payments@1 is overdue: it is 2 hours old, and is to wrap for 60 minutes at most; attache key rotate payments"
        ]
    );
    assert_eq!(world.on_record().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_cannot_be_put_on_record_is_not_made_and_not_tried_at_every_look() {
    let world = World::new().await;
    world.demand(an_hour(true)).await;
    // A segment is there to be broken once something is in the log.
    let broker = "spiffe://example.internal/broker/broker-0".to_owned();
    let _receipt = world.log.append(Stop { broker }).await.unwrap();
    world.log.break_disk().await;
    world.pass(2 * HOUR_MS);
    let (mut worker, stop) = (world.worker(), CancellationToken::new());
    worker.look(&stop).await;
    assert_eq!(world.phases().await, [KekPhase::Active]);
    assert_eq!(world.overdue.count(), 1);
    let told = world.findings().await;
    assert!(
        told[0].contains(
            "could not rotate it, and tries again: the rotation could not be put on record"
        ),
        "{told:?}"
    );
    let key = world
        .bench
        .vault
        .active_keys()
        .await
        .unwrap()
        .keys
        .remove(0);
    let past = key.overdue(world.log.clock().now_ms()).unwrap();
    let at = (world.log.clock().now_ms(), Instant::now());
    assert_eq!(
        worker.attempts.decide(&key, past, false, at),
        Decision::Later
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_has_the_keys_looked_at_and_a_stop_ends_it() {
    let world = World::new().await;
    world.pass(2 * HOUR_MS);
    let stop = CancellationToken::new();
    let worker = tokio::spawn(world.worker().run(stop.clone()));
    world.demand(an_hour(true)).await;
    world.overdue.look();
    let rotated = async {
        while world.on_record().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let rotated = tokio::time::timeout(Duration::from_secs(20), rotated).await;
    rotated.unwrap();
    stop.cancel();
    worker.await.unwrap();
}
