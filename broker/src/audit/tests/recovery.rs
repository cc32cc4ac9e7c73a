//! Taking up a log after an orderly end, a torn write, and damage.

use super::*;

/// A log of `count` leaves, each in a batch of its own, closed in order.
async fn log_of(dir: &Path, count: u64) -> Report {
    let (log, _) = open(dir);
    for number in 0..count {
        let _receipt = log.append(ban(number)).await.unwrap();
    }
    log.close().await;
    verify(dir, &log)
}

async fn closed(log: AuditLog) {
    log.close().await;
}

#[tokio::test]
async fn a_log_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    log_of(dir.path(), 5).await;
    let (log, recovered) = open(dir.path());
    assert_eq!((recovered.size, recovered.cut), (5, None));
    assert_eq!(recovered.root, log.head().root);
    assert_eq!(log.append(ban(5)).await.unwrap().index(), 5);
    assert!(verify(dir.path(), &log).is_clean());
}

/// Opens a copy of `whole` whose tail from `at` on was changed by `tear`.
async fn reopened(
    whole: &[u8],
    tear: impl FnOnce(&mut Vec<u8>),
) -> (AuditLog, Recovered, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = whole.to_vec();
    tear(&mut bytes);
    std::fs::write(segment_path(dir.path(), 0), bytes).unwrap();
    let (log, recovered) = open(dir.path());
    (log, recovered, dir)
}

#[tokio::test]
async fn a_last_batch_torn_at_any_byte_is_cut_and_the_cut_is_on_record() {
    let dir = tempfile::tempdir().unwrap();
    log_of(dir.path(), 3).await;
    let whole = std::fs::read(segment_path(dir.path(), 0)).unwrap();
    let offsets = record_offsets(&whole);
    let [.., begin, _, end] = offsets.as_slice() else {
        panic!("three batches have six records");
    };
    for at in *begin..*end {
        let (log, recovered, dir) = reopened(&whole, |bytes| bytes[at..].fill(0)).await;
        assert_eq!(recovered.size, 2, "torn at {at}");
        if written_length(&whole[*begin..at]) == 0 {
            // Nothing but zeros of it came: nothing to cut.
            assert_eq!(recovered.cut, None);
        } else {
            let cut = recovered.cut.expect("a cut");
            assert_eq!((cut.offset, cut.size), (*begin as u64, 2), "torn at {at}");
            assert_eq!(parsed(&log, 2, 1).await.pop().unwrap().event, cut.into());
        }
        let _receipt = log.append(ban(9)).await.unwrap();
        let report = verify(dir.path(), &log);
        assert!(report.is_clean(), "torn at {at}: {:?}", report.findings);
        closed(log).await;
    }
}

#[tokio::test]
async fn a_file_cut_short_within_the_last_batch_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    log_of(dir.path(), 3).await;
    let whole = std::fs::read(segment_path(dir.path(), 0)).unwrap();
    let offsets = record_offsets(&whole);
    for at in offsets[4]..offsets[6] {
        let (log, recovered, dir) = reopened(&whole, |bytes| bytes.truncate(at)).await;
        assert_eq!(recovered.size, 2, "cut at {at}");
        let size = std::fs::metadata(segment_path(dir.path(), 0))
            .unwrap()
            .len();
        assert_eq!(size, SEGMENT_BYTES);
        closed(log).await;
    }
}

#[tokio::test]
async fn sectors_written_out_of_order_are_cut_too() {
    let dir = tempfile::tempdir().unwrap();
    log_of(dir.path(), 3).await;
    let whole = std::fs::read(segment_path(dir.path(), 0)).unwrap();
    let offsets = record_offsets(&whole);
    // The leaf never came, its checkpoint did.
    let (log, recovered, _dir) =
        reopened(&whole, |bytes| bytes[offsets[4]..offsets[5]].fill(0)).await;
    assert_eq!(recovered.size, 2);
    assert!(recovered.cut.is_some());
    closed(log).await;
}

#[tokio::test]
async fn one_wrong_bit_in_the_last_batch_never_passes_for_the_leaf() {
    let dir = tempfile::tempdir().unwrap();
    log_of(dir.path(), 3).await;
    let whole = std::fs::read(segment_path(dir.path(), 0)).unwrap();
    let offsets = record_offsets(&whole);
    for at in offsets[4]..offsets[6] {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(segment_path(dir.path(), 0), &bytes).unwrap();
        match AuditLog::open(options(dir.path()), TestSeed(SEED)) {
            Ok((log, recovered)) => {
                assert_eq!(recovered.size, 2, "flipped at {at}");
                closed(log).await;
            }
            // No torn write looks like that: refused, and left as it is.
            Err(_) => assert_eq!(std::fs::read(segment_path(dir.path(), 0)).unwrap(), bytes),
        }
    }
}

#[tokio::test]
async fn damage_before_the_last_batch_refuses_to_start_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    log_of(dir.path(), 4).await;
    let path = segment_path(dir.path(), 0);
    let whole = std::fs::read(&path).unwrap();
    let offsets = record_offsets(&whole);
    for at in [offsets[2] + 20, offsets[3] + 20, offsets[0] + 30] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = refused(dir.path());
        assert!(
            matches!(error, OpenError::Damaged { .. }),
            "byte {at}: {error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

#[tokio::test]
async fn damage_far_before_the_end_is_found_too() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    for number in 0..130 {
        let _receipt = log.append(ban(number)).await.unwrap();
    }
    closed(log).await;
    let path = segment_path(dir.path(), 0);
    let mut bytes = std::fs::read(&path).unwrap();
    // In the text of the first leaf, more checkpoints before the end than have their signatures verified.
    bytes[HEADER_BYTES + 60] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn another_stores_chains_or_keys_log_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    log_of(dir.path(), 2).await;
    let before = std::fs::read(segment_path(dir.path(), 0)).unwrap();
    let other_store = LogOptions {
        store: StoreId::from_bytes([9; 16]),
        ..options(dir.path())
    };
    let other_chain = LogOptions {
        chain: ChainId::from_bytes([9; 16]),
        ..options(dir.path())
    };
    for other in [other_store, other_chain] {
        let error = AuditLog::open(other, TestSeed(SEED)).map(drop).unwrap_err();
        assert!(matches!(error, OpenError::OtherLog { .. }), "{error}");
    }
    let error = AuditLog::open(options(dir.path()), TestSeed([9; 32]))
        .map(drop)
        .unwrap_err();
    assert!(matches!(error, OpenError::Unverifiable { .. }), "{error}");
    assert_eq!(std::fs::read(segment_path(dir.path(), 0)).unwrap(), before);
}

#[tokio::test]
async fn a_segment_that_is_none_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    for bytes in [Vec::new(), vec![0; 4096], b"ATTAUDIT\0\x02".repeat(100)] {
        std::fs::write(segment_path(dir.path(), 0), bytes).unwrap();
        let error = refused(dir.path());
        assert!(matches!(error, OpenError::Header { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_start_needs_no_other_segment_than_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let report = log_of(dir.path(), 500).await;
    assert!(report.segments > 2);
    let segments = list_segments(dir.path()).unwrap();
    for first in &segments[..segments.len() - 1] {
        std::fs::rename(
            segment_path(dir.path(), *first),
            dir.path().join(format!("{first}.away")),
        )
        .unwrap();
    }
    let (log, recovered) = open(dir.path());
    assert_eq!(recovered.size, 500);
    assert_eq!(log.append(ban(500)).await.unwrap().index(), 500);
    closed(log).await;
    for first in &segments[..segments.len() - 1] {
        std::fs::rename(
            dir.path().join(format!("{first}.away")),
            segment_path(dir.path(), *first),
        )
        .unwrap();
    }
    let (log, _) = open(dir.path());
    assert!(verify(dir.path(), &log).is_clean());
}

#[tokio::test]
async fn a_start_without_a_summary_reads_the_whole_log() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let open_intent = log.append(intent(7)).await.unwrap().index();
    let closed_intent = log.append(intent(8)).await.unwrap().index();
    let _receipt = log.append(committed(closed_intent, 8, 41)).await.unwrap();
    for number in 0..400 {
        let _receipt = log.append(ban(number)).await.unwrap();
    }
    closed(log).await;
    let mut found = Vec::new();
    for damage in [false, true] {
        if damage {
            for first in &list_segments(dir.path()).unwrap()[1..] {
                let path = segment_file::summary_path(dir.path(), *first);
                let mut note = std::fs::read_to_string(&path).unwrap();
                note = note.replace("intent 0", "intent 1");
                std::fs::write(path, note).unwrap();
            }
        }
        let (log, recovered) = open(dir.path());
        assert_eq!(recovered.size, 403);
        assert_eq!(recovered.audited, Some(anchor(41)));
        let [open] = recovered.open_intents.as_slice() else {
            panic!("{:?}", recovered.open_intents);
        };
        assert_eq!(
            (open.index, open.request, open.digest),
            (open_intent, [7; 16], [7; 32])
        );
        found.push(log.head().root);
        closed(log).await;
    }
    assert_eq!(found[0], found[1]);
}

#[tokio::test]
async fn a_missing_segment_is_a_gap_once_the_whole_log_must_be_read() {
    let dir = tempfile::tempdir().unwrap();
    log_of(dir.path(), 500).await;
    let segments = list_segments(dir.path()).unwrap();
    std::fs::remove_file(segment_file::summary_path(
        dir.path(),
        *segments.last().unwrap(),
    ))
    .unwrap();
    std::fs::remove_file(segment_path(dir.path(), segments[1])).unwrap();
    let error = refused(dir.path());
    assert!(
        matches!(error, OpenError::Gap { index } if index == segments[1]),
        "{error}"
    );
}

#[tokio::test]
async fn what_a_crash_left_of_a_roll_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    log_of(dir.path(), 3).await;
    std::fs::write(segment_file::spare_path(dir.path()), b"half").unwrap();
    let (_log, recovered) = open(dir.path());
    assert_eq!((recovered.size, recovered.cut), (3, None));
    assert!(!segment_file::spare_path(dir.path()).exists());
}

#[tokio::test]
async fn the_newest_anchor_wins_whatever_the_order_of_outcomes() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let first = log.append(intent(1)).await.unwrap().index();
    let second = log.append(intent(2)).await.unwrap().index();
    let _receipt = log.append(committed(second, 2, 9)).await.unwrap();
    let _receipt = log.append(committed(first, 1, 8)).await.unwrap();
    closed(log).await;
    let (_log, recovered) = open(dir.path());
    assert_eq!(recovered.audited, Some(anchor(9)));
    assert!(recovered.open_intents.is_empty());
}

/// The tree over the last segment's leaves, by a frontier of its own.
#[tokio::test]
async fn the_head_after_a_start_is_the_tree_over_the_leaves() {
    let dir = tempfile::tempdir().unwrap();
    log_of(dir.path(), 77).await;
    let (log, _) = open(dir.path());
    let mut tree = Frontier::new();
    for leaf in log.read(0, usize::MAX).await.unwrap() {
        tree.append(attache_translog::leaf_hash(&leaf.body));
    }
    assert_eq!((log.head().size, log.head().root), (77, tree.root()));
    assert!(written_length(&std::fs::read(last_segment(dir.path())).unwrap()) > HEADER_BYTES);
}

#[tokio::test]
async fn a_long_torn_end_is_zero_before_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let _receipt = log.append(ban(0)).await.unwrap();
    let mut long = ban(1);
    long.reason = "x".repeat(8_000);
    let _receipt = log.append(long).await.unwrap();
    closed(log).await;
    let path = segment_path(dir.path(), 0);
    let whole = std::fs::read(&path).unwrap();
    let offsets = record_offsets(&whole);
    // All of the leaf came, nothing of its checkpoint.
    let (log, recovered, dir) = reopened(&whole, |bytes| bytes[offsets[3]..].fill(0)).await;
    let cut = recovered.cut.unwrap();
    assert_eq!((cut.leaves, cut.size), (1, 1));
    let path = segment_path(dir.path(), 0);
    let end = written_length(&std::fs::read(&path).unwrap());
    assert!(end < offsets[3], "{end} of what was torn is still there");
    assert!(verify(dir.path(), &log).is_clean());
}

/// An anchor of the first incarnation.
fn anchor(seq: u8) -> attache_translog::AnchorNote {
    attache_translog::AnchorNote {
        incarnation: 1,
        seq: seq.into(),
        t: [seq; 32],
    }
}

#[test]
fn an_anchor_of_a_later_incarnation_is_newer_whatever_its_sequence() {
    use super::super::writer::{Carried, Mark};

    let mut carried = Carried::default();
    carried.take(0, Mark::Anchor(anchor(41)));
    let restored = attache_translog::AnchorNote {
        incarnation: 2,
        ..anchor(9)
    };
    carried.take(1, Mark::Anchor(restored));
    assert_eq!(carried.anchor, Some(restored));
    carried.take(2, Mark::Anchor(anchor(42)));
    assert_eq!(carried.anchor, Some(restored));
    let outcome = Mark::Outcome {
        intent: 0,
        anchor: Some((10, [10; 32])),
    };
    carried.take(3, outcome);
    let newer = attache_translog::AnchorNote {
        incarnation: 2,
        ..anchor(10)
    };
    assert_eq!(carried.anchor, Some(newer));
}
