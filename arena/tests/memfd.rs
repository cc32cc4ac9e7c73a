//! Values between two processes: pinned, sealed, and refused in any other state.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use attache_arena::{ArenaError, LockedBuf, LockedPool, MemfdWriter, PinnedMap, check_seals};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

const ALL: SealFlags = SealFlags::WRITE
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

fn memory_file(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    File::from(fd.try_clone().unwrap())
        .write_all(bytes)
        .unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

/// The kernel counts locked memory by process, and tests share one: who locks does so alone.
static LOCKING: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    LOCKING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kilobytes of this process's locked memory, from the kernel's own account.
fn locked_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmLck:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn values_cross_pinned_and_sealed() {
    let _alone = alone();
    let before = locked_kib();
    let mut writer = MemfdWriter::new("values", 1024 * 1024).unwrap();
    assert!(
        locked_kib() >= before + 1024,
        "pinned before the first byte"
    );
    writer.write_all(&[7; 1_000_000]).unwrap();
    writer.write_all(&[8; 48_576]).unwrap();
    let sealed = writer
        .seal()
        .expect("the read-only pin does not stand in the way of F_SEAL_WRITE");

    let map = PinnedMap::sealed(&sealed, 1024 * 1024).unwrap();
    assert!(locked_kib() >= before + 2048, "both ends hold it in memory");
    assert_eq!(map.as_slice().len(), 1024 * 1024);
    assert!(map.as_slice()[..1_000_000].iter().all(|byte| *byte == 7));
    assert!(map.as_slice()[1_000_000..].iter().all(|byte| *byte == 8));
    drop(sealed);
    assert_eq!(map.as_slice()[0], 7, "the map needs no descriptor");
    drop(map);
    assert!(locked_kib() < before + 1024);
}

#[test]
fn a_sealed_file_takes_no_change() {
    let _alone = alone();
    let mut writer = MemfdWriter::new("values", 5).unwrap();
    writer.write_all(b"value").unwrap();
    let sealed = writer.seal().unwrap();
    let file = File::from(sealed.as_fd().try_clone_to_owned().unwrap());
    for refused in [file.write_all_at(b"x", 0), file.set_len(4), file.set_len(6)] {
        assert_eq!(
            refused.unwrap_err().raw_os_error(),
            Some(Errno::PERM.raw_os_error())
        );
    }
    assert_eq!(
        fcntl_add_seals(&file, SealFlags::FUTURE_WRITE),
        Err(Errno::PERM)
    );
    let reopened = File::options()
        .write(true)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .unwrap();
    assert!(reopened.write_all_at(b"x", 0).is_err());
}

#[test]
fn an_empty_file_crosses_too() {
    let _alone = alone();
    let sealed = MemfdWriter::new("values", 0).unwrap().seal().unwrap();
    assert_eq!(PinnedMap::sealed(&sealed, 0).unwrap().as_slice(), b"");
}

#[test]
fn a_writer_takes_exactly_the_announced_bytes() {
    let _alone = alone();
    let mut writer = MemfdWriter::new("values", 4).unwrap();
    assert!(matches!(
        writer.write_all(b"12345"),
        Err(ArenaError::Unfilled { expected_bytes: 4 })
    ));
    writer.write_all(b"123").unwrap();
    assert!(matches!(
        writer.write_all(b"45"),
        Err(ArenaError::Unfilled { expected_bytes: 4 })
    ));
    assert!(matches!(
        writer.seal(),
        Err(ArenaError::Unfilled { expected_bytes: 4 })
    ));
}

#[test]
fn a_file_that_lacks_a_seal_is_refused_by_the_seal() {
    let _alone = alone();
    for (seal, word) in [
        (SealFlags::WRITE, "writing"),
        (SealFlags::SHRINK, "shrinking"),
        (SealFlags::GROW, "growing"),
        (SealFlags::SEAL, "further seals"),
    ] {
        let fd = memory_file(b"value", ALL.difference(seal));
        match PinnedMap::sealed(&fd, 5) {
            Err(ArenaError::NotSealed { missing }) => assert_eq!(missing, word),
            other => panic!("{:?} without {word}", other.err()),
        }
    }
    assert!(matches!(
        check_seals(memory_file(b"value", SealFlags::empty()), 5),
        Err(ArenaError::NotSealed { .. })
    ));
    assert!(
        check_seals(memory_file(b"value", ALL), 5).is_ok(),
        "positive control"
    );
}

#[test]
fn a_file_of_another_size_is_refused() {
    let _alone = alone();
    let fd = memory_file(b"value", ALL);
    for wrong in [0, 4, 6, 1 << 40] {
        match PinnedMap::sealed(&fd, wrong) {
            Err(ArenaError::WrongSize {
                expected_bytes,
                found_bytes: 5,
            }) => assert_eq!(expected_bytes, wrong as u64),
            other => panic!("{:?} for {wrong}", other.err()),
        }
    }
}

#[test]
fn what_is_no_memory_file_is_refused() {
    let _alone = alone();
    let on_disk = tempfile::tempfile().unwrap();
    assert!(matches!(
        PinnedMap::sealed(&on_disk, 0),
        Err(ArenaError::NotSealed { .. } | ArenaError::Os { .. })
    ));
    let pipe = std::io::pipe().unwrap();
    assert!(PinnedMap::sealed(&pipe.0, 0).is_err());
}

#[test]
fn a_locked_buffer_is_locked_and_zeroed() {
    let _alone = alone();
    let before = locked_kib();
    let mut buffer = LockedBuf::new(1024 * 1024).unwrap();
    assert!(locked_kib() >= before + 1024);
    assert!(buffer.as_slice().iter().all(|byte| *byte == 0));
    buffer.as_mut_slice().fill(3);
    assert_eq!(buffer.as_slice(), vec![3; 1024 * 1024]);
    assert!(LockedBuf::new(0).unwrap().as_slice().is_empty());
}

/// A pipe can hold on to the very page of a buffer (vmsplice(2)), so what the pipe yields after the buffer is gone is
/// what the page was left with.
#[test]
fn a_locked_buffer_is_wiped_before_its_pages_go_back() {
    let _alone = alone();
    for (dropped_first, expected) in [(false, [0x99; 64]), (true, [0; 64])] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut buffer = LockedBuf::new(64).unwrap();
        buffer.as_mut_slice().fill(0x99);
        let slice = rustix::io::IoSlice::new(buffer.as_slice());
        #[expect(unsafe_code, reason = "vmsplice")]
        // SAFETY: without SPLICE_F_GIFT the page stays ours; the pipe keeps a reference of its own.
        let count = unsafe {
            let slice = rustix::pipe::IoSliceRaw::from_slice(&slice);
            rustix::pipe::vmsplice(&writer, &[slice], rustix::pipe::SpliceFlags::empty())
        };
        assert_eq!(count.unwrap(), 64);
        let kept = if dropped_first {
            drop(buffer);
            None
        } else {
            Some(buffer)
        };
        let mut left = [0xff; 64];
        reader.read_exact(&mut left).unwrap();
        assert_eq!(left, expected, "dropped first: {dropped_first}");
        drop(kept);
    }
}

#[test]
fn a_pool_lends_zeroed_buffers_again_and_again_and_keeps_a_few() {
    let _alone = alone();
    let before = locked_kib();
    let pool = LockedPool::new(64);
    assert_eq!(locked_kib(), before, "nothing is mapped ahead");
    let mut places = BTreeSet::new();
    for ending in ["answer", "refuse", "panic"] {
        let lent = std::panic::catch_unwind(|| {
            pool.with(|room| {
                assert_eq!(room, [0; 64], "after an earlier use");
                room.fill(0x77);
                match ending {
                    "answer" => Ok(room.as_ptr().addr()),
                    "refuse" => Err(ArenaError::Unfilled { expected_bytes: 64 }),
                    _ => panic!("on purpose"),
                }
            })
        });
        assert_eq!(lent.is_err(), ending == "panic");
        places.extend(lent.ok().and_then(Result::ok));
        pool.with(|room| {
            assert_eq!(room, [0; 64], "after {ending}");
            places.insert(room.as_ptr().addr());
            Ok::<_, ArenaError>(())
        })
        .unwrap();
    }
    assert_eq!(places.len(), 1, "the one buffer is used again");
    deep(&pool, 12);
    let kept = locked_kib() - before;
    assert!(kept <= 8 * 4, "{kept} KiB are kept of twelve pages");
    drop(pool);
    assert_eq!(locked_kib(), before);
}

/// Borrows `depth` buffers of the pool at one time.
fn deep(pool: &LockedPool, depth: usize) {
    pool.with(|room| {
        room.fill(1);
        if depth > 1 {
            deep(pool, depth - 1);
        }
        Ok::<_, ArenaError>(())
    })
    .unwrap();
}
