//! A log that is held against what the store's anchor knows of it.

use super::*;

fn open_with(dir: &Path, anchored: (u64, Hash)) -> Result<AuditLog, OpenError> {
    let options = LogOptions {
        anchored: Some(anchored),
        ..options(dir)
    };
    AuditLog::open(options, TestSeed(SEED)).map(|(log, _)| log)
}

/// A log of `count` leaves, closed, with its head after each.
async fn heads_of(dir: &Path, count: u64) -> Vec<(u64, Hash)> {
    let (log, _) = open(dir);
    let mut heads = Vec::new();
    for number in 0..count {
        let _receipt = log.append(ban(number)).await.unwrap();
        heads.push((log.head().size, log.head().root));
    }
    log.close().await;
    heads
}

#[tokio::test]
async fn a_log_with_the_checkpoint_that_the_store_knows_opens_wherever_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let heads = heads_of(dir.path(), 400).await;
    let segments = list_segments(dir.path()).unwrap();
    assert!(segments.len() > 2);
    let begins = segments.iter().filter(|first| **first > 0);
    let around = begins.flat_map(|first| [first - 1, *first, first + 1]);
    for size in around.chain([1, 400]) {
        let known = heads[usize::try_from(size).unwrap() - 1];
        assert_eq!(known.0, size);
        let log = open_with(dir.path(), known).unwrap();
        log.close().await;
        let forked = open_with(dir.path(), (size, [9; 32]))
            .map(drop)
            .unwrap_err();
        assert!(
            matches!(forked, OpenError::Forked { size: at } if at == size),
            "{forked}"
        );
    }
}

#[tokio::test]
async fn a_log_that_ends_before_what_the_store_knows_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let heads = heads_of(dir.path(), 5).await;
    let path = last_segment(dir.path());
    let whole = std::fs::read(&path).unwrap();
    let mut short = whole.clone();
    short[record_offsets(&whole)[4]..].fill(0);
    std::fs::write(&path, &short).unwrap();
    let refused = open_with(dir.path(), heads[4]).map(drop).unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::Behind {
                found: 2,
                anchored: 5
            }
        ),
        "{refused}"
    );
    std::fs::remove_file(&path).unwrap();
    let refused = open_with(dir.path(), heads[4]).map(drop).unwrap_err();
    assert!(
        matches!(refused, OpenError::Behind { found: 0, .. }),
        "{refused}"
    );
}

/// One flipped bit looks like a torn write. What the store knows of was acknowledged: it is kept as it is.
#[tokio::test]
async fn a_damaged_last_batch_that_the_store_knows_of_is_no_torn_write() {
    let dir = tempfile::tempdir().unwrap();
    let heads = heads_of(dir.path(), 3).await;
    let path = last_segment(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let offset = record_offsets(&bytes)[4] + 40;
    bytes[offset] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let refused = open_with(dir.path(), heads[2]).map(drop).unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::Behind {
                found: 2,
                anchored: 3
            }
        ),
        "{refused}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing is zeroed");
    let log = open_with(dir.path(), heads[1]).unwrap();
    assert_eq!(log.head().size, 3, "the cut is on record");
}
