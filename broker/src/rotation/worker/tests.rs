//! The worker over a real store and a real log.

use std::collections::BTreeMap;
use std::time::Duration;

use attache_envelope::Table;
use attache_envelope::body::KekPhase;
use attache_envelope::name::Keyspace;
use attache_translog::{Event, Leaf, Stop};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::background::Turn;
use crate::rotation::pace::{BATCH, BESIDE_OTHERS};
use crate::vault::tests::{Bench, opened, pairs};

struct World {
    _dir: TempDir,
    bench: Bench,
    log: AuditLog,
    rotations: Rotations,
    metrics: Metrics,
}

impl World {
    async fn new() -> Self {
        Self::of(Bench::new().await)
    }

    fn of(bench: Bench) -> Self {
        let (log, dir) = bench.log();
        Self {
            _dir: dir,
            bench,
            log,
            rotations: Rotations::default(),
            metrics: Metrics::default(),
        }
    }

    /// Rotates `payments` as an operator's request does.
    async fn rotate(&self, rate: u32) {
        let (vault, payments) = (&self.bench.vault, "payments".parse().unwrap());
        let rotation = vault
            .prepare_rotation(&payments, None, rate, 1)
            .await
            .unwrap();
        vault.ledger().apply(rotation.change).await.unwrap();
        self.rotations.begin(rotation.previous, rate);
    }

    /// A worker as a start makes it.
    async fn work(&self) -> (JoinHandle<()>, CancellationToken) {
        let stop = CancellationToken::new();
        let (vault, log) = (Arc::clone(&self.bench.vault), self.log.clone());
        let (rotations, metrics) = (self.rotations.clone(), self.metrics.clone());
        let worker = Worker::new(vault, log, rotations, metrics).await.unwrap();
        (tokio::spawn(worker.run(stop.clone())), stop)
    }

    fn under_way(&self) -> Vec<(KeyRef, Progress)> {
        self.rotations.under_way(None, None, 10)
    }

    /// Waits until it is so with what is under way.
    async fn until(&self, so: impl Fn(&[(KeyRef, Progress)]) -> bool) {
        let looking = async {
            while !so(&self.under_way()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let looked = tokio::time::timeout(Duration::from_secs(20), looking).await;
        assert!(looked.is_ok(), "{:?}", self.under_way());
    }

    async fn until_over(&self) {
        self.until(<[_]>::is_empty).await;
    }

    async fn phases(&self) -> Vec<(KekPhase, u64)> {
        let views = self.bench.vault.key_views(None, None, 10, 0).await.unwrap();
        views.iter().map(|view| (view.phase, view.values)).collect()
    }

    async fn retirements(&self) -> Vec<(String, u64)> {
        let leaves = self.log.read(0, 1000).await.unwrap();
        let event = |body: &[u8]| Leaf::parse(body).unwrap().event;
        let events = leaves.iter().map(|leaf| event(&leaf.body));
        let retired = events.filter_map(|event| {
            let Event::Retirement(it) = event else {
                return None;
            };
            Some((it.key, it.values))
        });
        retired.collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_goes_on_to_its_end_and_the_end_is_on_record() {
    let world = World::new().await;
    let (worker, stop) = world.work().await;
    for number in 0..3 {
        let of = format!("payments/s{number}");
        world.bench.put(&of, &[("a", "1"), ("b", "2")]).await;
    }
    world.rotate(0).await;
    world.until_over().await;
    assert_eq!(
        world.phases().await,
        [(KekPhase::Retired, 0), (KekPhase::Active, 6)]
    );
    assert_eq!(world.retirements().await, [("payments@1".to_owned(), 6)]);
    let now = opened(&world.bench.vault, "payments/s2", None).await;
    assert_eq!(now, pairs(&[("a", "1"), ("b", "2")]));
    // One with nothing to wrap again ends too.
    let empty: Keyspace = "payments".parse().unwrap();
    assert!(world.rotations.under_way(Some(&empty), None, 1).is_empty());
    stop.cancel();
    worker.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stopped_worker_left_the_next_one_ends() {
    let world = World::new().await;
    for number in 0..4 {
        world
            .bench
            .put(&format!("payments/s{number}"), &[("a", "1")])
            .await;
    }
    // One a second: stopped long before its end.
    world.rotate(1).await;
    let (worker, stop) = world.work().await;
    world
        .until(|all| all.iter().any(|(_, progress)| progress.done > 0))
        .await;
    stop.cancel();
    worker.await.unwrap();
    let (key, progress) = world.under_way().remove(0);
    assert_eq!(
        (key.to_string().as_str(), progress.total, progress.limit),
        ("payments@1", 4, 1)
    );
    world.rotate(0).await;
    let (worker, stop) = world.work().await;
    world.until_over().await;
    stop.cancel();
    worker.await.unwrap();
    assert_eq!(
        world.phases().await,
        [
            (KekPhase::Retired, 0),
            (KekPhase::Retired, 0),
            (KekPhase::Active, 4)
        ]
    );
    let retired: Vec<_> = world
        .retirements()
        .await
        .into_iter()
        .map(|it| it.0)
        .collect();
    assert_eq!(retired.len(), 2, "{retired:?}");
    for number in 0..4 {
        let now = opened(&world.bench.vault, &format!("payments/s{number}"), None).await;
        assert_eq!(now, pairs(&[("a", "1")]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_retired_while_the_log_takes_nothing() {
    let world = World::new().await;
    world.bench.put("payments/db", &[("a", "1")]).await;
    // A segment is there to be broken once something is in the log.
    let broker = "spiffe://example.internal/broker/broker-0".to_owned();
    let _receipt = world.log.append(Stop { broker }).await.unwrap();
    world.log.break_disk().await;
    world.rotate(0).await;
    let (worker, stop) = world.work().await;
    world
        .until(|all| all.iter().any(|(_, progress)| progress.problem.is_some()))
        .await;
    assert_eq!(
        world.phases().await,
        [(KekPhase::DecryptOnly, 0), (KekPhase::Active, 1)]
    );
    stop.cancel();
    worker.await.unwrap();
}

/// Puts `count` secrets of 64 values each.
async fn fill(world: &World, count: u32) {
    let names: Vec<String> = (0..64).map(|number| format!("f{number}")).collect();
    let fields: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    for number in 0..count {
        let of = format!("payments/s{number}");
        world.bench.put(&of, &fields).await;
    }
}

/// Rotates, ends it and retires the key; answers how many commits that took.
async fn commits_of_a_rotation(world: &World) -> u64 {
    world.rotate(0).await;
    let before = world.bench.vault.ledger().seq();
    let (worker, stop) = world.work().await;
    world.until_over().await;
    stop.cancel();
    worker.await.unwrap();
    world.bench.vault.ledger().seq() - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_volumes_are_asked_for_the_pages_are_small_and_rest_in_between() {
    const VALUES: u64 = 80 * 64;
    let world = World::new().await;
    fill(&world, 80).await;
    let alone = commits_of_a_rotation(&world).await;
    // The count, the pages and the retirement.
    assert_eq!(alone, 2 + VALUES.div_ceil(BATCH as u64));
    // A volume that has what it may have leaves nothing on record, and is somebody who waits all the same.
    let (metrics, stop) = (world.metrics.clone(), CancellationToken::new());
    let stopped = stop.clone();
    let asking = std::thread::spawn(move || {
        while !stopped.is_cancelled() {
            metrics.delivered("unchanged", "");
            std::thread::sleep(Duration::from_micros(100));
        }
    });
    let beside = commits_of_a_rotation(&world).await;
    stop.cancel();
    asking.join().unwrap();
    // The first page is whole, and the one that is made while it is committed: nobody was there before them. Others are
    // whole where the thread that asks got no time in between.
    let small = (VALUES - 2 * BATCH as u64).div_ceil(BESIDE_OTHERS as u64);
    assert!((alone + 1..=4 + small).contains(&beside), "{beside}");
    assert_eq!(world.phases().await.last().unwrap().1, VALUES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_others_is_that_of_every_key_without_a_limit() {
    let world = World::new().await;
    fill(&world, 2).await;
    world.rotate(0).await;
    let (vault, log) = (Arc::clone(&world.bench.vault), world.log.clone());
    let (rotations, metrics) = (world.rotations.clone(), world.metrics.clone());
    let worker = Worker::new(vault, log, rotations, metrics).await.unwrap();
    let rest = Instant::now() + Duration::from_secs(60);
    worker.lock().rest = rest;
    let old = world.bench.vault.old_keys().await.unwrap().remove(0);
    let mut work = Work::new(old.clone());
    assert_eq!(worker.rest(&work), None, "counting holds up nobody");
    worker.advance(&mut work).await;
    assert_eq!(work.job.step(), Step::Rewrap { after: None });
    assert_eq!(worker.rest(&work), Some(rest));
    // A limit says all there is to say, and what is served beside it is news to the others still.
    let mut limited = old;
    limited.rewrap.rate = 100;
    let mut limited = Work::new(limited);
    worker.advance(&mut limited).await;
    assert_eq!(worker.rest(&limited), None);
    world.metrics.delivered("unchanged", "");
    worker.advance(&mut limited).await;
    assert!(matches!(
        limited.job.step(),
        Step::Rewrap { after: Some(_) }
    ));
    worker.advance(&mut work).await;
    assert!(worker.lock().rest < rest, "it is that of this page now");
    assert!(!work.pace.is_free());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_constant_deliveries_every_key_without_a_limit_has_its_turn() {
    let world = World::new().await;
    for _ in 0..2 {
        fill(&world, 40).await;
        world.rotate(0).await;
    }
    let (vault, log) = (Arc::clone(&world.bench.vault), world.log.clone());
    let (rotations, metrics) = (world.rotations.clone(), world.metrics.clone());
    let worker = Worker::new(vault, log, rotations, metrics).await.unwrap();
    let old = world.bench.vault.old_keys().await.unwrap();
    let mut turns: BTreeMap<_, _> = old
        .into_iter()
        .map(|old| (old.key.clone(), Turn::new(Work::new(old))))
        .collect();
    assert_eq!(turns.len(), 2);
    let mut had = Vec::new();
    for _ in 0..8 {
        world.metrics.delivered("unchanged", "");
        let (at, key, turn) =
            background::next(&mut turns, |work| background::at(&worker, work)).unwrap();
        had.push(key.epoch.get());
        tokio::time::sleep_until(at).await;
        worker.advance(&mut turn.work).await;
        turn.last = had.len() as u64;
    }
    // Each counts first.
    assert_eq!(had, [1, 2, 1, 2, 1, 2, 1, 2]);
    for turn in turns.values() {
        assert!(turn.work.job.done().0 > 0, "{:?}", turn.work.job);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strays_of_the_index_go_and_only_a_value_that_cannot_be_read_is_waited_for() {
    let world = World::new().await;
    let fields = [("a", "1"), ("b", "2")];
    world.bench.put("payments/db", &fields).await;
    world.rotate(0).await;
    let old = world.bench.vault.old_keys().await.unwrap().remove(0).id;
    let fixture = world.bench.close().await;
    fixture.tamper(Table::ValueKey, |rows| {
        let row = rows.values_mut().next().unwrap();
        *row.last_mut().unwrap() ^= 1;
    });
    fixture.tamper(Table::KekIndex, |rows| {
        for last in 0..2 {
            // Too long for a value's, and before all of those: they share the page with the value that is damaged.
            let key = [old.as_bytes().as_slice(), &[0; 16], &[last]].concat();
            rows.insert(key, Vec::new());
        }
    });
    let world = World::of(Bench::reopen(fixture).await);
    let (worker, stop) = world.work().await;
    let stuck = |all: &[(KeyRef, Progress)]| all.iter().any(|(_, it)| it.problem.is_some());
    world.until(stuck).await;
    stop.cancel();
    worker.await.unwrap();
    let (_, progress) = world.under_way().remove(0);
    assert_eq!(progress.unreadable, 1);
    assert_eq!(
        progress.problem.unwrap(),
        "1 of its values cannot be read: their records are damaged; attache-broker check-store names them"
    );
    assert_eq!(
        world.phases().await,
        [(KekPhase::DecryptOnly, 1), (KekPhase::Active, 1)]
    );
}
