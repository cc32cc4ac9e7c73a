//! A start that cuts a torn end, and one that is itself cut short while it does.

use std::fs;

use attache_translog::{Checkpoint, Event, Signer, leaf_hash, log_origin};

use super::*;

/// Files of the folder by their ending.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == extension))
        .collect()
}

/// Three leaves, of which the last batch has lost its first bytes; answers the segment, whole, and where that batch is.
async fn torn_log(dir: &Path) -> (Vec<u8>, usize) {
    let (log, _) = open(dir);
    for number in 0..3 {
        let _receipt = log.append(ban(number)).await.unwrap();
    }
    log.close().await;
    let path = segment_path(dir, 0);
    let whole = fs::read(&path).unwrap();
    let begin = record_offsets(&whole)[4];
    let mut torn = whole.clone();
    torn[begin..begin + 8].fill(0);
    fs::write(&path, &torn).unwrap();
    (torn, begin)
}

async fn cuts(log: &AuditLog) -> Vec<attache_translog::Cut> {
    let mut cuts = Vec::new();
    for leaf in parsed(log, 0, usize::MAX).await {
        if let Event::Cut(cut) = leaf.event {
            cuts.push(cut);
        }
    }
    cuts
}

#[tokio::test]
async fn what_is_cut_is_kept_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (torn, begin) = torn_log(dir.path()).await;
    let (log, recovered) = open(dir.path());
    let cut = recovered.cut.unwrap();
    assert_eq!(cuts(&log).await, [cut]);
    let [kept] = &files(dir.path(), "torn")[..] else {
        panic!("one cut, one copy");
    };
    let end = written_length(&torn);
    assert_eq!(fs::read(kept).unwrap(), torn[begin..end]);
    assert!(files(dir.path(), "pending").is_empty());
}

/// As after a kill between any two of: copy, zeros, record, name.
#[tokio::test]
async fn a_start_that_ends_within_a_cut_leaves_it_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (torn, begin) = torn_log(dir.path()).await;
    let (first, recovered) = open(dir.path());
    first.close().await;
    let cut = recovered.cut.unwrap();
    let recorded = fs::read(segment_path(dir.path(), 0)).unwrap();
    let copy = fs::read(&files(dir.path(), "torn")[0]).unwrap();
    let mut zeroed = torn.clone();
    zeroed[begin..].fill(0);
    let pending = format!("{:020}-{begin}.pending", 0);
    for (at, segment, copied) in [
        ("nothing yet", &torn, false),
        ("the copy", &torn, true),
        ("the zeros", &zeroed, true),
        ("the record", &recorded, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(segment_path(dir.path(), 0), segment).unwrap();
        if copied {
            fs::write(dir.path().join(&pending), &copy).unwrap();
        }
        let (log, recovered) = open(dir.path());
        assert_eq!(cuts(&log).await, std::slice::from_ref(&cut), "after {at}");
        assert_eq!(recovered.cut.is_none(), at == "the record", "after {at}");
        assert_eq!(
            fs::read(&files(dir.path(), "torn")[0]).unwrap(),
            copy,
            "after {at}"
        );
        assert!(files(dir.path(), "pending").is_empty(), "after {at}");
        assert!(verify(dir.path(), &log).is_clean(), "after {at}");
        log.close().await;
        let (log, again) = open(dir.path());
        assert_eq!((again.cut, cuts(&log).await.len()), (None, 1), "after {at}");
    }
}

#[tokio::test]
async fn files_that_are_not_ours_stay() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("report.tmp"), b"mine").unwrap();
    fs::create_dir(dir.path().join("folder.tmp")).unwrap();
    let drafts = [
        "spare.tmp",
        "00000000000000000009.tmp",
        "00000000000000000000-64.tmp",
    ];
    for name in drafts {
        fs::write(dir.path().join(name), b"half").unwrap();
    }
    let (_log, _) = open(dir.path());
    assert_eq!(fs::read(dir.path().join("report.tmp")).unwrap(), b"mine");
    assert!(dir.path().join("folder.tmp").is_dir());
    for name in drafts {
        assert!(!dir.path().join(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn the_folder_of_another_log_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    torn_log(dir.path()).await;
    fs::write(dir.path().join("spare.tmp"), b"half").unwrap();
    let before = fs::read(segment_path(dir.path(), 0)).unwrap();
    let mut other = options(dir.path());
    other.store = StoreId::from_bytes([0x99; 16]);
    assert!(AuditLog::open(other, TestSeed(SEED)).is_err());
    assert_eq!(fs::read(segment_path(dir.path(), 0)).unwrap(), before);
    assert!(dir.path().join("spare.tmp").exists());
}

/// A leaf of a later version could be an intent that is open.
#[tokio::test]
async fn a_leaf_that_is_not_known_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let origin = log_origin(&STORE, &CHAIN);
    let signer = Signer::from_seed(&origin, &SEED).unwrap();
    let mut body = parts(&ban(0)).await;
    // The kind is the first item: tag 1, 2 bytes.
    assert_eq!(body[4..10], [0, 1, 0, 0, 0, 2]);
    body[10..12].copy_from_slice(&999u16.to_be_bytes());
    let mut tree = Frontier::new();
    tree.append(leaf_hash(&body));
    let checkpoint = Checkpoint {
        size: 1,
        root: tree.root(),
    };
    let note = checkpoint.sign(&signer).unwrap();
    let header = attache_translog::Header {
        store: STORE,
        chain: CHAIN,
        first_index: 0,
    };
    let record = |kind: u8, body: &[u8]| {
        let length = u32::try_from(body.len()).unwrap();
        [&length.to_be_bytes(), &[kind][..], body].concat()
    };
    let segment = [
        header.encode().to_vec(),
        record(1, &body),
        record(2, note.as_bytes()),
    ]
    .concat();
    fs::write(segment_path(dir.path(), 0), segment).unwrap();
    let error = refused(dir.path());
    assert!(
        matches!(error, OpenError::UnknownLeaf { index: 0 }),
        "{error}"
    );
}

/// The body of a leaf, as it is written.
async fn parts(event: &Ban) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let _receipt = log.append(event.clone()).await.unwrap();
    log.read(0, 1).await.unwrap().pop().unwrap().body
}

/// An intent of an older segment is closed by what it says: it must be what was written.
#[tokio::test]
async fn an_open_intent_of_an_edited_segment_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let _receipt = log.append(intent(7)).await.unwrap();
    for number in 0..400 {
        let _receipt = log.append(ban(number)).await.unwrap();
    }
    log.close().await;
    assert!(list_segments(dir.path()).unwrap().len() > 2);
    let (log, recovered) = open(dir.path());
    assert_eq!(recovered.open_intents[0].digest, [7; 32]);
    log.close().await;
    let path = segment_path(dir.path(), 0);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(32).position(|it| it == [7; 32]).unwrap();
    bytes[at] = 8;
    fs::write(&path, bytes).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::Unverifiable { .. }), "{error}");
}

/// What stands where the next segment is to go is nothing that room on the disk would mend.
#[tokio::test]
async fn a_segment_that_cannot_get_its_name_closes_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    for first in 1..2_000 {
        fs::create_dir(segment_path(dir.path(), first)).unwrap();
    }
    let mut refusal = None;
    for number in 0..2_000 {
        refusal = log.append(ban(number)).await.err();
        if refusal.is_some() {
            break;
        }
    }
    let error = refusal.expect("the segment is full by now");
    assert!(matches!(error, AuditError::Poisoned), "{error}");
    assert_eq!(*log.state().borrow(), LogState::Failed);
}
