//! The worker over a real store and a real log.

use std::time::Duration;

use attache_translog::{Event, Leaf};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::mounted::{Named, tests::pass_time};
use crate::vault::SetSettings;
use crate::vault::tests::Bench;

struct World {
    _dir: TempDir,
    bench: Bench,
    log: AuditLog,
    prunings: Prunings,
    mounted: Mounted,
}

impl World {
    /// In which nothing counts as mounted.
    async fn new() -> Self {
        Self::beside(Mounted::new(Duration::ZERO)).await
    }

    async fn beside(mounted: Mounted) -> Self {
        let bench = Bench::new().await;
        let (log, dir) = bench.log();
        Self {
            _dir: dir,
            bench,
            log,
            prunings: Prunings::default(),
            mounted,
        }
    }

    async fn keep(&self, max_versions: u32) {
        let (vault, name) = (&self.bench.vault, "payments".parse().unwrap());
        let set = SetSettings {
            max_versions: Some(max_versions),
            ..SetSettings::default()
        };
        let (change, _) = vault.prepare_settings(&name, set).await.unwrap();
        vault.ledger().apply(change).await.unwrap();
    }

    async fn put(&self, count: u32) {
        for number in 0..count {
            let value = number.to_string();
            self.bench.put("payments/db", &[("a", &value)]).await;
        }
    }

    /// A worker as a start makes it.
    async fn work(&self) -> (JoinHandle<()>, CancellationToken) {
        let stop = CancellationToken::new();
        let (vault, log) = (Arc::clone(&self.bench.vault), self.log.clone());
        let (prunings, mounted) = (self.prunings.clone(), self.mounted.clone());
        let worker = Worker::new(vault, log, prunings, mounted).await;
        (tokio::spawn(worker.unwrap().run(stop.clone())), stop)
    }

    async fn until_over(&self) {
        let looking = async {
            while !self.prunings.under_way.page(None, 1, |_| true).is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let looked = tokio::time::timeout(Duration::from_secs(20), looking).await;
        assert!(looked.is_ok(), "{:?}", self.prunings);
    }

    /// Until so many prunings are on record.
    async fn until_pruned(&self, count: usize) -> Vec<String> {
        let looking = async {
            loop {
                let found = self.on_record().await;
                if found.len() == count {
                    return found.into_iter().flat_map(|it| it.1).collect();
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let looked = tokio::time::timeout(Duration::from_secs(20), looking).await;
        looked.unwrap()
    }

    async fn on_record(&self) -> Vec<(String, Vec<String>, u64)> {
        let leaves = self.log.read(0, 1000).await.unwrap();
        let event = |body: &[u8]| Leaf::parse(body).unwrap().event;
        let events = leaves.iter().map(|leaf| event(&leaf.body));
        let pruned = events.filter_map(|event| {
            let Event::Pruning(it) = event else {
                return None;
            };
            Some((it.keyspace, it.versions, it.values))
        });
        pruned.collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_and_a_put_prune_and_what_goes_is_on_record() {
    let world = World::new().await;
    world.put(4).await;
    world.keep(2).await;
    let (worker, stop) = world.work().await;
    world.until_over().await;
    let of = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|it| (*it).to_owned()).collect();
        let count = names.len() as u64;
        ("payments".to_owned(), names, count)
    };
    let first = of(&["payments/db@1", "payments/db@2"]);
    assert_eq!(world.on_record().await[..], *std::slice::from_ref(&first));
    world.put(1).await;
    let path = "payments/db".parse().unwrap();
    world.prunings.begin(PruneScope::Secret(path));
    world.until_over().await;
    assert_eq!(world.on_record().await, [first, of(&["payments/db@3"])]);
    stop.cancel();
    worker.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_while_it_is_under_way_is_gone_through_again() {
    let world = World::new().await;
    world.put(4).await;
    let payments = PruneScope::Keyspace("payments".parse().unwrap());
    world.prunings.begin(payments.clone());
    world.prunings.begin(payments.clone());
    world.prunings.under_way.begin(payments, ());
    world.keep(1).await;
    let (worker, stop) = world.work().await;
    world.until_over().await;
    let versions: usize = world.on_record().await.iter().map(|it| it.1.len()).sum();
    assert_eq!(versions, 3);
    stop.cancel();
    worker.await.unwrap();
}

#[tokio::test]
async fn nothing_is_pruned_before_nodes_have_had_the_time_to_ask() {
    const WINDOW: Duration = Duration::from_secs(3600);
    let world = World::beside(Mounted::new(WINDOW)).await;
    world.put(3).await;
    world.keep(1).await;
    let (worker, stop) = world.work().await;
    world.until_over().await;
    // A put's secret is gone through with its keyspace.
    world.put(1).await;
    let path = "payments/db".parse().unwrap();
    world.prunings.begin(PruneScope::Secret(path));
    world.until_over().await;
    assert_eq!(world.on_record().await, []);
    assert_eq!(world.prunings.later.count(), 1);
    pass_time(WINDOW).await;
    let pruned = world.until_pruned(1).await;
    assert_eq!(pruned, ["payments/db@1", "payments/db@2", "payments/db@3"]);
    world.until_over().await;
    assert_eq!(world.prunings.later.count(), 0);
    stop.cancel();
    worker.await.unwrap();
}

#[tokio::test]
async fn what_is_mounted_is_pruned_once_its_window_is_over() {
    const WINDOW: Duration = Duration::from_secs(3600);
    let world = World::beside(Mounted::new(WINDOW)).await;
    pass_time(WINDOW).await;
    world.put(4).await;
    world.keep(1).await;
    let path = "payments/db".parse().unwrap();
    let secret = world.bench.vault.secret(&path).await.unwrap().secret;
    let second = Named {
        keyspace: "payments".parse().unwrap(),
        secret,
        version: "2".parse().unwrap(),
    };
    world.mounted.named(&second);
    let (worker, stop) = world.work().await;
    world.until_over().await;
    let others = ["payments/db@1", "payments/db@3"];
    assert_eq!(world.until_pruned(1).await, others);
    // It is named again, and the look that was due finds it mounted still.
    pass_time(WINDOW / 2).await;
    world.mounted.named(&second);
    pass_time(WINDOW / 2).await;
    world.until_over().await;
    assert_eq!(world.until_pruned(1).await, others);
    pass_time(WINDOW).await;
    let all = world.until_pruned(2).await;
    assert_eq!(all, ["payments/db@1", "payments/db@3", "payments/db@2"]);
    stop.cancel();
    worker.await.unwrap();
}

#[tokio::test]
async fn a_keyspace_that_is_held_holds_no_other() {
    const WINDOW: Duration = Duration::from_secs(3600);
    let world = World::beside(Mounted::new(WINDOW)).await;
    pass_time(WINDOW).await;
    world.put(2).await;
    world.keep(1).await;
    world.mounted.unanswered_of(&"orders".parse().unwrap());
    let (worker, stop) = world.work().await;
    world.until_over().await;
    assert_eq!(world.until_pruned(1).await, ["payments/db@1"]);
    world.mounted.unanswered_of(&"payments".parse().unwrap());
    world.put(1).await;
    let path = "payments/db".parse().unwrap();
    world.prunings.begin(PruneScope::Secret(path));
    world.until_over().await;
    assert_eq!(world.prunings.later.count(), 1);
    assert_eq!(world.on_record().await.len(), 1);
    stop.cancel();
    worker.await.unwrap();
}
