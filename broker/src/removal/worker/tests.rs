//! The worker over a real store and a real log.

use std::time::Duration;

use attache_envelope::body::KeyspaceState;
use attache_translog::{Event, Leaf};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::vault::tests::Bench;

struct World {
    _dir: TempDir,
    bench: Bench,
    log: AuditLog,
    removals: Removals,
}

fn payments() -> Keyspace {
    "payments".parse().unwrap()
}

impl World {
    async fn new() -> Self {
        let bench = Bench::new().await;
        let (log, dir) = bench.log();
        Self {
            _dir: dir,
            bench,
            log,
            removals: Removals::default(),
        }
    }

    async fn destroy(&self) {
        let vault = &self.bench.vault;
        let prepared = vault.prepare_keyspace_destruction(&payments(), 1).await;
        vault
            .ledger()
            .apply(prepared.unwrap().change)
            .await
            .unwrap();
    }

    /// A worker as a start makes it.
    async fn work(&self) -> (JoinHandle<()>, CancellationToken) {
        let stop = CancellationToken::new();
        let (vault, log) = (Arc::clone(&self.bench.vault), self.log.clone());
        let worker = Worker::new(vault, log, self.removals.clone()).await;
        (tokio::spawn(worker.unwrap().run(stop.clone())), stop)
    }

    async fn until_over(&self) {
        let looking = async {
            while self.removals.of(&payments()).is_some() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let looked = tokio::time::timeout(Duration::from_secs(20), looking).await;
        assert!(looked.is_ok(), "{:?}", self.removals.of(&payments()));
    }

    async fn on_record(&self) -> Vec<(String, u64)> {
        let leaves = self.log.read(0, 1000).await.unwrap();
        let event = |body: &[u8]| Leaf::parse(body).unwrap().event;
        let events = leaves.iter().map(|leaf| event(&leaf.body));
        let removed = events.filter_map(|event| {
            let Event::Removal(it) = event else {
                return None;
            };
            Some((it.keyspace, it.values))
        });
        removed.collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_and_a_verb_take_a_keyspace_up_and_its_end_is_on_record() {
    for from_the_start in [true, false] {
        let world = World::new().await;
        for number in 0..3 {
            let of = format!("payments/s{number}");
            world.bench.put(&of, &[("a", "1"), ("b", "2")]).await;
        }
        if from_the_start {
            world.destroy().await;
        }
        let (worker, stop) = world.work().await;
        if !from_the_start {
            assert_eq!(world.removals.of(&payments()), None);
            world.destroy().await;
            world.removals.begin(payments());
        }
        world.until_over().await;
        assert_eq!(world.on_record().await, [("payments".to_owned(), 6)]);
        let views = world.bench.vault.keyspaces(None, 10).await.unwrap();
        assert_eq!(
            (views[0].state, views[0].secrets),
            (KeyspaceState::Destroyed, 0)
        );
        stop.cancel();
        worker.await.unwrap();
    }
}
