//! Appending, rolling, reading, a full and a broken disk.

use super::super::small_disk::SmallDisk;
use super::*;

#[tokio::test]
async fn a_receipt_names_the_leaf_that_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (log, recovered) = open(dir.path());
    assert_eq!((recovered.size, recovered.cut), (0, None));
    let receipt = log.append(ban(1)).await.unwrap();
    assert_eq!((receipt.index(), receipt.size()), (0, 1));
    let bytes = std::fs::read(last_segment(dir.path())).unwrap();
    let Some((HEADER_BYTES, Ok(Record::Leaf(body)))) = Records::new(&bytes).next() else {
        panic!("no leaf in the segment");
    };
    assert_eq!(*receipt.leaf_hash(), attache_translog::leaf_hash(body));
    assert_eq!(log.head().size, 1);
}

#[tokio::test]
async fn a_queued_leaf_has_its_final_hash() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let queued = log.queue(&log.leaf(ban(1))).await.unwrap();
    let hash = *queued.hash();
    assert_eq!(*queued.durable().await.unwrap().leaf_hash(), hash);
}

#[tokio::test]
async fn a_leaf_whose_caller_went_away_is_written_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    drop(log.queue(&log.leaf(ban(1))).await.unwrap());
    assert_eq!(log.append(ban(2)).await.unwrap().index(), 1);
}

#[tokio::test]
async fn what_is_written_over_many_segments_verifies_and_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    for number in 0..700 {
        let _receipt = log.append(ban(number)).await.unwrap();
    }
    assert!(list_segments(dir.path()).unwrap().len() > 3);
    let report = verify(dir.path(), &log);
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!(report.leaves, 700);
    for first in [0, 1, 127, 128, 129, 400, 699] {
        let leaf = parsed(&log, first, 1).await.pop().unwrap();
        assert_eq!(leaf.event, ban(first).into());
    }
    let all = parsed(&log, 0, usize::MAX).await;
    assert_eq!(all.len(), 700);
    assert!(log.read(700, 10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_that_wait_together_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let _first = log.append(ban(0)).await.unwrap();
    for _ in 0..4 {
        let mut tasks = Vec::new();
        for number in 0..64 {
            let log = log.clone();
            tasks.push(tokio::spawn(async move { log.append(ban(number)).await }));
        }
        for task in tasks {
            let _receipt = task.await.unwrap().unwrap();
        }
    }
    let report = verify(dir.path(), &log);
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!(report.leaves, 257);
    // Each checkpoint is one sync.
    assert!(
        report.checkpoints <= 64,
        "{} syncs for 257 leaves",
        report.checkpoints
    );
}

#[tokio::test]
async fn a_leaf_that_fits_no_segment_is_refused_by_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let mut large = ban(1);
    large.reason = "x".repeat(16 * 1024);
    let error = log.append(large).await.unwrap_err();
    assert!(matches!(error, AuditError::LeafTooLarge { .. }), "{error}");
    let _receipt = log.append(ban(1)).await.unwrap();
}

#[tokio::test]
async fn a_failed_write_closes_the_log_until_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let _receipt = log.append(ban(1)).await.unwrap();
    log.break_disk().await;
    for _ in 0..3 {
        let error = log.append(ban(2)).await.unwrap_err();
        assert!(matches!(error, AuditError::Poisoned), "{error}");
    }
    assert_eq!(log.head().size, 1);
    assert_eq!(*log.state().borrow(), LogState::Failed);
    log.close().await;
    let (log, recovered) = open(dir.path());
    assert_eq!(recovered.size, 1);
    assert_eq!(log.append(ban(3)).await.unwrap().index(), 1);
}

#[tokio::test]
async fn a_closed_log_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    log.close().await;
    log.close().await;
    assert!(matches!(log.append(ban(1)).await, Err(AuditError::Closed)));
}

#[tokio::test]
async fn two_writers_cannot_have_one_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, _) = open(dir.path());
    assert!(matches!(refused(dir.path()), OpenError::InUse { .. }));
}

#[tokio::test]
async fn a_full_disk_refuses_leaves_and_takes_them_again_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let _disk = SmallDisk::mount(dir, 4 * SEGMENT_BYTES);
    std::fs::write(dir.join("ballast"), vec![1; 64 * 1024]).unwrap();
    let (log, _) = open(dir);
    let mut written = 0;
    let error = loop {
        match log.append(ban(written)).await {
            Ok(receipt) => assert_eq!(receipt.index(), written),
            Err(error) => break error,
        }
        written += 1;
        assert!(written < 10_000, "the disk never filled");
    };
    assert!(error.to_string().contains("audit disk full"), "{error}");
    assert!(matches!(
        log.append(ban(0)).await,
        Err(AuditError::DiskFull { .. })
    ));
    assert!(verify(dir, &log).is_clean());
    assert_eq!(*log.state().borrow(), LogState::Full);
    std::fs::remove_file(dir.join("ballast")).unwrap();
    assert_eq!(log.append(ban(written)).await.unwrap().index(), written);
    assert_eq!(*log.state().borrow(), LogState::Writing);
    assert!(verify(dir, &log).is_clean());
    log.close().await;
    assert_eq!(open(dir).1.size, written + 1);
}

#[tokio::test]
async fn a_log_that_finds_the_disk_full_at_its_first_leaf_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let _disk = SmallDisk::mount(dir.path(), SEGMENT_BYTES / 2);
    let (log, _) = open(dir.path());
    let error = log.append(ban(0)).await.unwrap_err();
    assert!(matches!(error, AuditError::DiskFull { .. }), "{error}");
    log.close().await;
    assert_eq!(open(dir.path()).1.size, 0);
}

/// The spare is asked for at half a segment; what it met then says nothing of the disk at the roll.
#[tokio::test]
async fn room_that_came_back_before_it_was_needed_refuses_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(dir.path(), SEGMENT_BYTES + SEGMENT_BYTES / 2);
    let (log, _) = open(dir.path());
    let half = SEGMENT_BYTES / 2 / 300;
    for number in 0..half + 20 {
        let _receipt = log.append(ban(number)).await.unwrap();
    }
    disk.grow(4 * SEGMENT_BYTES);
    for number in half + 20..3 * half {
        let _receipt = log.append(ban(number)).await.unwrap();
    }
    assert!(list_segments(dir.path()).unwrap().len() > 1);
}

/// Nothing is written yet when the next segment cannot be prepared, so the log goes on as soon as it can be.
#[tokio::test]
async fn a_segment_that_cannot_be_prepared_refuses_leaves_and_closes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let _receipt = log.append(ban(0)).await.unwrap();
    // Where the spare is made: a folder cannot be written, as a file cannot be opened without descriptors.
    let spare = dir.path().join("spare.tmp");
    std::fs::create_dir(&spare).unwrap();
    let mut written = 1;
    let error = loop {
        match log.append(ban(written)).await {
            Ok(_receipt) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AuditError::NotPrepared(_)), "{error}");
    std::fs::remove_dir(&spare).unwrap();
    assert_eq!(log.append(ban(written)).await.unwrap().index(), written);
    assert!(verify(dir.path(), &log).is_clean());
}

#[tokio::test]
async fn a_follower_sees_the_head_grow() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let mut heads = log.subscribe();
    let _receipt = log.append(ban(1)).await.unwrap();
    assert_eq!(
        heads.wait_for(|head| head.size == 1).await.unwrap().root,
        log.head().root
    );
}
