//! Another key signs: a segment of its own, and starts that know both, or the one.

use std::sync::Mutex;

use attache_translog::{Audit, Batch, Header, Succession, leaf_hash, log_origin};

use super::super::segment_file::summary_path;
use super::super::small_disk::SmallDisk;
use super::*;

/// Seeds, ascending: the last one signs.
#[derive(Clone)]
struct Seeds(Arc<Mutex<Vec<[u8; 32]>>>);

impl CheckpointKeys for Seeds {
    fn signer(&self, name: &str) -> Result<Signer, NoteError> {
        Signer::from_seed(name, self.0.lock().unwrap().last().unwrap())
    }

    fn public(&self) -> Result<Vec<[u8; 32]>, NoteError> {
        let seeds = self.0.lock().unwrap().clone();
        let public = seeds.iter().map(|seed| Ok(*signer(seed)?.verifier().key()));
        public.collect()
    }
}

fn signer(seed: &[u8; 32]) -> Result<Signer, NoteError> {
    Signer::from_seed(&log_origin(&STORE, &CHAIN), seed)
}

fn knows(seeds: &[u8]) -> Seeds {
    Seeds(Arc::new(Mutex::new(
        seeds.iter().map(|seed| [*seed; 32]).collect(),
    )))
}

/// Two leaves under 1, its endorsement of 2, and two leaves under 2.
async fn rotated(dir: &Path) -> AuditLog {
    let keys = knows(&[1]);
    let (log, _) = AuditLog::open(options(dir), keys.clone()).unwrap();
    for number in 0..2 {
        let _receipt = log.append(ban(number)).await.unwrap();
    }
    let after = *signer(&[2; 32]).unwrap().verifier().key();
    let told = Succession::endorse(&STORE, &signer(&[1; 32]).unwrap(), 2, after).unwrap();
    let _receipt = log.append(told).await.unwrap();
    let before = log.head();
    assert_eq!(*before.vkey, signer(&[1; 32]).unwrap().verifier().vkey());
    keys.0.lock().unwrap().push([2; 32]);
    for number in 3..5 {
        let _receipt = log.append(ban(number)).await.unwrap();
    }
    log
}

fn findings(dir: &Path, known: u8) -> usize {
    let segments = list_segments(dir).unwrap();
    let read = |first: &u64| std::fs::read(segment_path(dir, *first)).unwrap();
    let segments: Vec<_> = segments.iter().map(read).collect();
    let leaves = segments.iter().flat_map(|it| Records::new(it).leaves());
    let told: Vec<_> = leaves.filter_map(LogKeys::told_by).collect();
    let known = signer(&[known; 32]).unwrap().verifier().clone();
    let keys = LogKeys::follow(known, &told).unwrap();
    let mut audit = Audit::new(&keys, None).unwrap();
    segments.iter().for_each(|it| audit.segment(it));
    audit.finish().findings.len()
}

#[tokio::test]
async fn another_key_begins_another_segment_and_the_log_verifies_by_either() {
    let dir = tempfile::tempdir().unwrap();
    let log = rotated(dir.path()).await;
    assert_eq!(list_segments(dir.path()).unwrap(), [0, 3]);
    let head = log.head();
    assert_eq!(
        (head.size, &*head.vkey),
        (5, &*signer(&[2; 32]).unwrap().verifier().vkey())
    );
    assert_eq!(parsed(&log, 0, 10).await.len(), 5);
    log.close().await;
    assert_eq!((findings(dir.path(), 1), findings(dir.path(), 2)), (0, 0));

    // The same key goes on in the same segment.
    let (log, recovered) = AuditLog::open(options(dir.path()), knows(&[1, 2])).unwrap();
    assert_eq!((recovered.size, recovered.cut), (5, None));
    let _receipt = log.append(ban(5)).await.unwrap();
    log.close().await;
    assert_eq!(list_segments(dir.path()).unwrap(), [0, 3]);
    assert_eq!((findings(dir.path(), 1), findings(dir.path(), 2)), (0, 0));
}

#[tokio::test]
async fn a_crash_before_the_new_key_has_signed_is_gone_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = AuditLog::open(options(dir.path()), knows(&[1])).unwrap();
    let _receipt = log.append(intent(1)).await.unwrap();
    log.close().await;
    let (log, recovered) = AuditLog::open(options(dir.path()), knows(&[1, 2])).unwrap();
    assert_eq!((recovered.size, recovered.open_intents.len()), (1, 1));
    let _receipt = log.append(ban(1)).await.unwrap();
    log.close().await;
    assert_eq!(list_segments(dir.path()).unwrap(), [0, 1]);
    // What the first segment left open is still known from the second one's summary.
    let (log, recovered) = AuditLog::open(options(dir.path()), knows(&[1, 2])).unwrap();
    assert_eq!((recovered.size, recovered.open_intents.len()), (2, 1));
    log.close().await;
}

#[tokio::test]
async fn a_start_without_the_key_that_signed_last_takes_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    rotated(dir.path()).await.close().await;
    for seeds in [[1], [3]] {
        let opened = AuditLog::open(options(dir.path()), knows(&seeds)).map(drop);
        let unverifiable = matches!(opened, Err(OpenError::Unverifiable { .. }));
        assert!(unverifiable, "{seeds:?}: {opened:?}");
    }
    let (log, _) = AuditLog::open(options(dir.path()), knows(&[1, 2])).unwrap();
    log.close().await;
}

#[tokio::test]
async fn a_log_that_the_key_before_was_made_to_sign_on_is_not_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let log = rotated(dir.path()).await;
    let mut frontier = Frontier::new();
    for leaf in log.read(0, 10).await.unwrap() {
        frontier.append(leaf_hash(&leaf.body));
    }
    log.close().await;
    // As whoever stole the key before, and can write the folder: one more segment.
    let first_index = frontier.size();
    let mut batch = Batch::new(&frontier);
    batch.push(&log.leaf(ban(9)).encode().unwrap());
    let sealed = batch.seal(&signer(&[1; 32]).unwrap()).unwrap();
    let header = Header {
        store: STORE,
        chain: CHAIN,
        first_index,
    };
    let segment = [&header.encode()[..], &sealed.bytes].concat();
    std::fs::write(segment_path(dir.path(), first_index), segment).unwrap();
    let opened = AuditLog::open(options(dir.path()), knows(&[1, 2])).map(drop);
    assert!(matches!(opened, Err(OpenError::Unverifiable { .. })));
    // Whoever knows either key finds it.
    assert_eq!((findings(dir.path(), 1), findings(dir.path(), 2)), (1, 1));
    std::fs::remove_file(segment_path(dir.path(), first_index)).unwrap();
    let (log, _) = AuditLog::open(options(dir.path()), knows(&[1, 2])).unwrap();
    log.close().await;
}

#[tokio::test]
async fn a_segment_that_is_held_is_there_for_another_key_whatever_the_disk_has_room_for() {
    let dir = tempfile::tempdir().unwrap();
    let segment_bytes = options(dir.path()).segment_bytes;
    let disk = SmallDisk::mount(dir.path(), segment_bytes + segment_bytes / 2);
    let keys = knows(&[1]);
    let (log, _) = AuditLog::open(options(dir.path()), keys.clone()).unwrap();
    let _receipt = log.append(ban(0)).await.unwrap();
    let held = log.hold_segment().await;
    assert!(matches!(held, Err(AuditError::DiskFull { .. })), "{held:?}");
    // It goes on in what it has.
    assert_eq!(*log.state().borrow(), LogState::Writing);
    let _receipt = log.append(ban(1)).await.unwrap();
    disk.grow(3 * segment_bytes);
    log.hold_segment().await.unwrap();
    log.hold_segment().await.unwrap();
    fill(dir.path());
    keys.0.lock().unwrap().push([2; 32]);
    let _receipt = log.append(ban(2)).await.unwrap();
    assert_eq!(list_segments(dir.path()).unwrap(), [0, 2]);
    log.close().await;
    // There was no room for its summary: a start reads the whole log.
    assert!(!summary_path(dir.path(), 2).exists());
    assert!(!summary_path(dir.path(), 2).with_extension("tmp").exists());
    let (log, recovered) = AuditLog::open(options(dir.path()), keys).unwrap();
    assert_eq!(recovered.size, 3);
    let _receipt = log.append(ban(3)).await.unwrap();
    log.close().await;
}

#[tokio::test]
async fn a_segment_that_is_held_is_left_to_another_key_by_those_that_are_full() {
    let dir = tempfile::tempdir().unwrap();
    let _disk = SmallDisk::mount(dir.path(), 4 * SEGMENT_BYTES);
    let keys = knows(&[1]);
    let (log, _) = AuditLog::open(options(dir.path()), keys.clone()).unwrap();
    log.hold_segment().await.unwrap();
    append_until_segments(&log, dir.path(), 2).await;
    fill(dir.path());
    keys.0.lock().unwrap().push([2; 32]);
    let receipt = log.append(ban(0)).await.unwrap();
    let segments = list_segments(dir.path()).unwrap();
    assert_eq!((segments.len(), segments[2]), (3, receipt.index()));
    log.close().await;
}

#[tokio::test]
async fn a_segment_that_is_held_is_taken_by_any_leaf_that_finds_no_other_room() {
    let dir = tempfile::tempdir().unwrap();
    let _disk = SmallDisk::mount(dir.path(), 4 * SEGMENT_BYTES);
    let (log, _) = AuditLog::open(options(dir.path()), knows(&[1])).unwrap();
    let _receipt = log.append(ban(0)).await.unwrap();
    log.hold_segment().await.unwrap();
    fill(dir.path());
    append_until_segments(&log, dir.path(), 2).await;
    log.close().await;
}

/// Until the disk has no block left.
fn fill(dir: &Path) {
    let disk = || rustix::fs::statvfs(dir).unwrap();
    let more = disk().f_blocks * disk().f_frsize;
    let full = std::fs::write(dir.join("other"), vec![1; usize::try_from(more).unwrap()]);
    assert!(full.is_err());
    assert_eq!(disk().f_bavail, 0);
}

async fn append_until_segments(log: &AuditLog, dir: &Path, count: usize) {
    while list_segments(dir).unwrap().len() < count {
        let _receipt = log.append(ban(0)).await.unwrap();
    }
}
