use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::*;
use crate::vectors::{Expected, run};

fn id() -> StoreId {
    StoreId::from_bytes([3; 16])
}

fn batch(value: &'static [u8]) -> Batch {
    Batch {
        puts: vec![(Table::Head, b"k".to_vec(), Bytes::from_static(value))],
        deletes: Vec::new(),
    }
}

fn refused(path: &Path) -> StoreError {
    match RedbStore::open(path) {
        Ok(_) => panic!("it opens"),
        Err(error) => error,
    }
}

fn set_header(path: &Path, field: &str, value: &[u8]) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(HEADER)
        .unwrap()
        .insert(field, value)
        .unwrap();
    transaction.commit().unwrap();
}

#[tokio::test]
async fn headers_are_those_of_the_vectors() {
    let cases = std::sync::Mutex::new(Vec::new());
    run("store-header", false, |given, expected| {
        let Expected::Out(out) = expected else {
            panic!("a header refuses nothing")
        };
        let fields = ["format", "store", "seq"].map(|name| (name, out.bytes(name)));
        let case = (given.array("store_id"), given.u64("at"), fields);
        cases.lock().unwrap().push(case);
    });
    for (id, commits, fields) in cases.into_inner().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let store = RedbStore::create(&path, StoreId::from_bytes(id)).unwrap();
        for seq in 0..commits {
            store.commit(AnchorSeq(seq), batch(b"1")).await.unwrap();
        }
        drop(store);
        let database = Database::open(&path).unwrap();
        let header = database.begin_read().unwrap().open_table(HEADER).unwrap();
        for (name, bytes) in fields {
            assert_eq!(header.get(name).unwrap().unwrap().value(), bytes, "{name}");
        }
        assert_eq!(header.iter().unwrap().count(), 3);
    }
}

#[tokio::test]
async fn a_store_reopens_where_it_stood() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = RedbStore::create(&path, id()).unwrap();
    store.commit(AnchorSeq(0), batch(b"1")).await.unwrap();
    drop(store);
    let store = RedbStore::open(&path).unwrap();
    assert_eq!(store.id(), id());
    assert_eq!(store.snapshot().await.unwrap().seq(), AnchorSeq(1));
    assert_eq!(store.get(Table::Head, b"k").await.unwrap().unwrap(), "1");
}

#[test]
fn a_second_opener_is_told_that_the_store_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = RedbStore::create(&path, id()).unwrap();
    let error = refused(&path);
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("one broker at a time"));
}

#[test]
fn a_store_of_a_newer_format_is_refused_by_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(RedbStore::create(&path, id()).unwrap());
    set_header(&path, HEADER_FORMAT, &7u16.to_be_bytes());
    let error = refused(&path);
    assert!(matches!(error, StoreError::Newer { found: 7, known: 5 }));
    assert!(error.to_string().contains("format 7"));
}

#[test]
fn what_is_no_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    assert!(matches!(refused(&path), StoreError::Absent { .. }));
    for bytes in [&b""[..], b"hello", &[0; 8192]] {
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(refused(&path), StoreError::Unreadable { .. }));
    }
    std::fs::remove_file(&path).unwrap();
    drop(Database::create(&path).unwrap());
    assert!(matches!(refused(&path), StoreError::Unreadable { .. }));
    for (field, value) in [
        (HEADER_FORMAT, &[0, 0][..]),
        (HEADER_FORMAT, &[1]),
        (HEADER_STORE, &[0; 15]),
        (HEADER_SEQ, &[0; 7]),
    ] {
        std::fs::remove_file(&path).unwrap();
        drop(RedbStore::create(&path, id()).unwrap());
        set_header(&path, field, value);
        assert!(matches!(refused(&path), StoreError::Unreadable { .. }));
    }
}

#[test]
fn init_never_overwrites_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(RedbStore::create(&path, id()).unwrap());
    let again = RedbStore::create(&path, StoreId::from_bytes([4; 16]));
    assert!(matches!(again, Err(StoreError::Exists { .. })));
    assert_eq!(RedbStore::open(&path).unwrap().id(), id());
}

#[test]
fn only_the_owner_may_read_the_file() {
    use std::os::unix::fs::MetadataExt;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(RedbStore::create(&path, id()).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

/// A flipped byte anywhere in the file: the store opens or says why not, reads answer or fail; nothing panics.
#[tokio::test]
async fn damaged_pages_are_errors_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = RedbStore::create(&path, id()).unwrap();
    let puts = (0..200u32)
        .map(|n| {
            (
                Table::Head,
                n.to_be_bytes().to_vec(),
                Bytes::from(vec![7; 300]),
            )
        })
        .collect();
    let deletes = Vec::new();
    store
        .commit(AnchorSeq(0), Batch { puts, deletes })
        .await
        .unwrap();
    drop(store);
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len().min(400_000)).step_by(997) {
        let mut bad = good.clone();
        bad[at] ^= 0x41;
        std::fs::write(&path, &bad).unwrap();
        let Ok(store) = RedbStore::open(&path) else {
            continue;
        };
        let _read = store.scan(Table::Head, b"", None, 1000).await;
        let mut after: Option<Vec<u8>> = None;
        for page in 0.. {
            assert!(page < 100, "byte {at}: the pages go round");
            match store.scan(Table::Head, b"", after.as_deref(), 16).await {
                Ok(rows) if !rows.is_empty() => after = rows.last().map(|(key, _)| key.clone()),
                Ok(_) | Err(_) => break,
            }
        }
        let _written = store.commit(AnchorSeq(1), batch(b"2")).await;
    }
}

/// A disk whose fsync fails when it is told to.
#[derive(Debug)]
struct FailingDisk {
    memory: InMemoryBackend,
    fails: Arc<AtomicBool>,
}

impl StorageBackend for FailingDisk {
    fn len(&self) -> Result<u64, io::Error> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.memory.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.memory.write(offset, data)
    }
}

#[tokio::test]
async fn a_failed_fsync_is_fatal_and_every_later_call_says_so() {
    let fails = Arc::new(AtomicBool::new(false));
    let disk = FailingDisk {
        memory: InMemoryBackend::new(),
        fails: Arc::clone(&fails),
    };
    let database = Database::builder().create_with_backend(disk).unwrap();
    let store = RedbStore::initialise(database, id()).unwrap();
    let mut health = store.health();
    store.commit(AnchorSeq(0), batch(b"1")).await.unwrap();
    assert_eq!(*health.borrow_and_update(), Health::Serving);
    fails.store(true, Ordering::Relaxed);
    let failed = store.commit(AnchorSeq(1), batch(b"2")).await;
    assert!(matches!(failed, Err(StoreError::Failed(_))));
    assert!(health.has_changed().unwrap());
    assert!(matches!(&*health.borrow(), Health::Failed(_)));
    // The disk recovers; the store does not, since what is on it is not known.
    fails.store(false, Ordering::Relaxed);
    let late = [
        store.get(Table::Head, b"k").await.map(drop),
        store.scan(Table::Head, b"", None, 1).await.map(drop),
        store.snapshot().await.map(drop),
        store.commit(AnchorSeq(1), batch(b"3")).await.map(drop),
        store.watch(AnchorSeq(1)).await.map(drop),
    ];
    for call in late {
        assert!(matches!(call, Err(StoreError::Failed(_))));
    }
}

/// Without quick repair a start after a crash walks the whole file, seconds at a million records.
#[tokio::test]
async fn a_start_after_a_crash_needs_no_full_repair() {
    let dir = tempfile::tempdir().unwrap();
    let (path, crashed) = (dir.path().join("s"), dir.path().join("crashed"));
    let store = RedbStore::create(&path, id()).unwrap();
    for n in 0..5 {
        store.commit(AnchorSeq(n), batch(b"1")).await.unwrap();
    }
    std::fs::copy(&path, &crashed).unwrap();
    let repairs = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let seen = Arc::clone(&repairs);
    let opened = Database::builder()
        .set_repair_callback(move |_| {
            seen.fetch_add(1, Ordering::Relaxed);
        })
        .open(&crashed);
    assert!(opened.is_ok());
    assert_eq!(repairs.load(Ordering::Relaxed), 0);
}
