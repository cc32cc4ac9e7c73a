//! A change whose outcome finds no room in the log.

use std::sync::atomic::AtomicBool;

use attache_translog::Stop;
use tokio::runtime::Handle;

use super::*;
use crate::audit::small_disk::SmallDisk;

const SEGMENT_BYTES: u64 = 1024 * 1024;

/// Appends until nothing fits, the smallest leaf least of all.
async fn fill(log: &AuditLog) {
    for bytes in [8192, 256, 1] {
        let broker = "b".repeat(bytes);
        while log
            .append(Stop {
                broker: broker.clone(),
            })
            .await
            .is_ok()
        {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_change_is_in_effect_though_its_outcome_found_no_room_and_is_on_record_once_there_is()
 {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&dir.path().join("audit"), SEGMENT_BYTES + 64 * 1024);
    init(dir.path()).await;
    let runtime = Handle::current();
    let (log, _, ledger, _) = parts_with(dir.path(), move |log| runtime.block_on(fill(log))).await;
    let tasks = TaskTracker::new();
    let mutations = Mutations::open(log.clone(), ledger.clone(), Vec::new(), tasks.clone())
        .await
        .unwrap();
    let in_effect = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&in_effect);
    let take_up = move |seq| seen.store(seq == 2, Ordering::SeqCst);
    let id = request(NOW_MS);
    let error = mutations
        .run(mutation(id, 1), worked(add("web"), vec![1]), take_up)
        .await
        .unwrap_err();
    assert!(matches!(error, MutationError::Outcome(_)), "{error}");
    assert!(in_effect.load(Ordering::SeqCst));
    let known = mutations.known(&ann(), id, &[1; 32]).await.unwrap();
    assert_eq!(known.map(|done| (done.repeated, done.seq)), Some((true, 2)));

    // Also the request itself, once more, waits for no outcome.
    let again = mutations.run(mutation(id, 1), worked(add("web"), vec![1]), |_| ());
    assert!(again.await.unwrap().repeated);

    let full = log.head().size;
    disk.grow(4 * SEGMENT_BYTES);
    log.subscribe()
        .wait_for(|head| head.size > full)
        .await
        .unwrap();
    let leaf = log.read(full, 1).await.unwrap().pop().unwrap();
    let Event::Outcome(outcome) = Leaf::parse(&leaf.body).unwrap().event else {
        panic!("the outcome is not the first leaf that fits");
    };
    assert_eq!(
        (outcome.intent, outcome.ending, outcome.seq),
        (0, Ending::Committed, Some(2))
    );
}
