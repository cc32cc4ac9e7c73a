//! Refusals: the first on record before the answer, repeats counted, keys bounded.

use std::time::Duration;

use super::super::small_disk::SmallDisk;
use super::*;

const NODE: &str = "spiffe://example.internal/node/local/a";

fn with_clock(dir: &Path, clock: &TestClock) -> (AuditLog, Refusals) {
    let options = LogOptions {
        clock: clock.clock(),
        ..options(dir)
    };
    let (log, mut recovered) = AuditLog::open(options, TestSeed(SEED)).unwrap();
    let refusals = Refusals::new(log.clone(), &mut recovered);
    (log, refusals)
}

const WINDOW_MS: u64 = 5 * 60 * 1000;

#[tokio::test]
async fn the_first_is_a_leaf_and_repeats_are_one_count() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(1_000);
    let (log, refusals) = with_clock(dir.path(), &clock);
    for _ in 0..4 {
        refusals
            .record(denial(NODE, Some([1; 4]), "no grant", "absent"))
            .await
            .unwrap();
        clock.advance(10);
    }
    assert_eq!(log.head().size, 1);
    refusals.sweep().await.unwrap();
    assert_eq!(log.head().size, 1, "the window has not ended");
    clock.advance(WINDOW_MS);
    refusals.sweep().await.unwrap();
    let leaves = parsed(&log, 0, 10).await;
    assert_eq!(leaves.len(), 2);
    assert_eq!(
        leaves[0].event,
        denial(NODE, Some([1; 4]), "no grant", "absent").into()
    );
    let Event::Refusals(counted) = &leaves[1].event else {
        panic!("{:?}", leaves[1]);
    };
    assert_eq!(
        (counted.count, counted.first_ms, counted.last_ms),
        (3, 1_010, 1_030)
    );
    assert_eq!(counted.denial, Some([1; 4]));
}

#[tokio::test]
async fn a_key_that_fell_silent_is_a_first_again_and_one_that_did_not_stays_folded() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(1_000);
    let (log, refusals) = with_clock(dir.path(), &clock);
    let again = || denial(NODE, Some([1; 4]), "no grant", "absent");
    refusals.record(again()).await.unwrap();
    refusals.record(again()).await.unwrap();
    clock.advance(WINDOW_MS);
    refusals.sweep().await.unwrap();
    refusals.record(again()).await.unwrap();
    assert_eq!(log.head().size, 2, "still folded: a denial and one count");
    clock.advance(WINDOW_MS);
    refusals.sweep().await.unwrap();
    assert_eq!(log.head().size, 3);
    clock.advance(WINDOW_MS);
    refusals.sweep().await.unwrap();
    assert_eq!(log.head().size, 3, "nothing to count");
    refusals.record(again()).await.unwrap();
    assert!(matches!(
        parsed(&log, 3, 1).await[0].event,
        Event::Denial(_)
    ));
}

#[tokio::test]
async fn a_shutdown_puts_the_counts_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let (log, refusals) = with_clock(dir.path(), &TestClock::at(1_000));
    for _ in 0..3 {
        refusals
            .record(denial(
                NODE,
                None,
                "the token is for another audience",
                "aud=x",
            ))
            .await
            .unwrap();
    }
    refusals.flush().await.unwrap();
    let Event::Refusals(counted) = &parsed(&log, 1, 1).await[0].event else {
        panic!("no count");
    };
    assert_eq!((counted.count, counted.denial), (2, None));
}

#[tokio::test]
async fn refusals_that_come_together_are_one_leaf_and_none_is_answered_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, refusals) = with_clock(dir.path(), &TestClock::at(1_000));
    let mut tasks = Vec::new();
    for _ in 0..32 {
        let (log, refusals) = (log.clone(), refusals.clone());
        tasks.push(tokio::spawn(async move {
            refusals
                .record(denial(NODE, Some([1; 4]), "no grant", "absent"))
                .await
                .unwrap();
            assert_eq!(log.head().size, 1, "answered before it was durable");
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(log.head().size, 1);
}

#[tokio::test]
async fn a_refusal_that_is_not_durable_is_not_told_and_is_a_first_after_that() {
    let dir = tempfile::tempdir().unwrap();
    let audit = dir.path().join("audit");
    let disk = SmallDisk::mount(&audit, SEGMENT_BYTES + 16 * 1024);
    let (log, refusals) = with_clock(&audit, &TestClock::at(1_000));
    let again = || denial(NODE, Some([1; 4]), "no grant", &"x".repeat(2_000));
    while log.append(ban(0)).await.is_ok() {}
    for _ in 0..3 {
        let error = refusals.record(again()).await.unwrap_err();
        assert!(
            matches!(error, RefuseError::Audit(AuditError::DiskFull { .. })),
            "{error}"
        );
    }
    assert!(refusals.explain([1; 4]).is_none(), "nobody was told of it");
    disk.grow(8 * SEGMENT_BYTES);
    let before = log.head().size;
    refusals.record(again()).await.unwrap();
    refusals.flush().await.unwrap();
    let leaves = parsed(&log, before, usize::MAX).await;
    let kinds: Vec<&str> = leaves.iter().map(|leaf| leaf.event.name()).collect();
    assert_eq!(kinds, ["denial"], "the first, and nothing to count");
    assert_eq!(refusals.explain([1; 4]).unwrap().count, 1);
    log.close().await;
}

#[tokio::test]
async fn one_actors_kinds_are_bounded_and_anothers_are_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions {
        segment_bytes: 4 * 1024 * 1024,
        ..options(dir.path())
    };
    let (log, mut recovered) = AuditLog::open(options, TestSeed(SEED)).unwrap();
    let refusals = Refusals::new(log.clone(), &mut recovered);
    let mut too_many = 0;
    for number in 0..1_010_u32 {
        let id = Some(number.to_be_bytes());
        match refusals
            .record(denial(NODE, id, "no grant", "absent"))
            .await
        {
            Ok(()) => {}
            Err(RefuseError::TooMany) => too_many += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(too_many, 10);
    assert_eq!(log.head().size, 1_000);
    // Its known kinds are still folded, and another node is not concerned.
    refusals
        .record(denial(NODE, Some([0; 4]), "no grant", "absent"))
        .await
        .unwrap();
    refusals
        .record(denial("other", Some([0xFF; 4]), "no grant", "absent"))
        .await
        .unwrap();
    assert_eq!(log.head().size, 1_001);
}

#[tokio::test]
async fn why_shows_the_latest_evaluation_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(1_000);
    let (log, refusals) = with_clock(dir.path(), &clock);
    refusals
        .record(denial(NODE, Some([7; 4]), "no grant", "no such secret"))
        .await
        .unwrap();
    clock.advance(5);
    refusals
        .record(denial(
            NODE,
            Some([7; 4]),
            "no grant",
            "no policy permits it",
        ))
        .await
        .unwrap();
    let latest = refusals.explain([7; 4]).unwrap();
    assert_eq!(latest.denial.true_reason, "no policy permits it");
    assert_eq!(
        (latest.count, latest.first_ms, latest.last_ms),
        (2, 1_000, 1_005)
    );
    assert_eq!(refusals.explain([8; 4]), None);
    refusals.flush().await.unwrap();
    log.close().await;
    let (_log, refusals) = with_clock(dir.path(), &clock);
    let latest = refusals.explain([7; 4]).unwrap();
    assert_eq!(
        (latest.count, latest.first_ms, latest.last_ms),
        (2, 1_000, 1_005)
    );
    assert_eq!(
        latest.denial.true_reason, "no such secret",
        "the log holds the first's"
    );
}

#[test]
fn the_window_is_five_minutes() {
    assert_eq!(WINDOW, Duration::from_millis(WINDOW_MS));
}

/// A pod whose author varies what it asks for uses up its own share, and neither its node's nor a neighbour's.
#[tokio::test]
async fn one_pods_kinds_are_bounded_and_its_neighbours_are_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, refusals) = with_clock(dir.path(), &TestClock::at(1_000));
    let of_pod = |pod: &str, number: u32| Denial {
        pod_uid: Some(pod.into()),
        ..denial(NODE, Some(number.to_be_bytes()), "no grant", "absent")
    };
    for number in 0..100 {
        refusals.record(of_pod("loud", number)).await.unwrap();
    }
    let refused = refusals.record(of_pod("loud", 100)).await;
    assert!(matches!(refused, Err(RefuseError::TooMany)), "{refused:?}");
    refusals.record(of_pod("loud", 99)).await.unwrap();
    refusals.record(of_pod("quiet", 100)).await.unwrap();
}
