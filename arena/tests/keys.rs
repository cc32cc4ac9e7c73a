//! Keys: hidden while they live, wiped when they go, never shared between two holders.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;

use attache_arena::{Arena, ArenaError, Key, Protection};
use proptest::prelude::*;
use rustix::io::Errno;

/// What a debugger of this process would read at `address`.
fn read_own_memory(address: usize) -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/proc/self/mem")?.read_exact_at(&mut bytes, address as u64)?;
    Ok(bytes)
}

fn key_of(arena: &Arena, bytes: [u8; 32]) -> Key {
    arena
        .key_with(|cell| {
            cell.copy_from_slice(&bytes);
            Ok::<(), ArenaError>(())
        })
        .unwrap()
}

fn address_of(key: &Key) -> usize {
    key.expose().as_ptr() as usize
}

#[test]
fn a_key_in_secret_memory_is_hidden_from_root_and_one_in_plain_memory_is_not() {
    let plain = Arena::new_plain().unwrap();
    assert_eq!(plain.protection(), Protection::Plain);
    let seen = key_of(&plain, [0x5a; 32]);
    assert_eq!(
        read_own_memory(address_of(&seen)).unwrap(),
        [0x5a; 32],
        "positive control"
    );

    let arena = Arena::new().unwrap();
    let hidden = key_of(&arena, [0xa5; 32]);
    assert_eq!(hidden.expose(), &[0xa5; 32]);
    let read = read_own_memory(address_of(&hidden));
    if kernel_has_secret_memory() {
        assert_eq!(arena.protection(), Protection::Secret);
        assert_eq!(
            read.unwrap_err().raw_os_error(),
            Some(Errno::IO.raw_os_error())
        );
    } else {
        assert_eq!(arena.protection(), Protection::Locked);
        assert_eq!(read.unwrap(), [0xa5; 32]);
    }
}

fn kernel_has_secret_memory() -> bool {
    #[expect(
        unsafe_code,
        reason = "asks the kernel apart from the crate under test"
    )]
    // SAFETY: the call takes one flag word; the descriptor is left to the end of the test process.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    fd >= 0
}

#[test]
fn without_memfd_secret_the_arena_is_locked_and_says_so() {
    // A seccomp filter holds for the one thread that installs it.
    thread::spawn(|| {
        install_filter_without_memfd_secret();
        let arena = Arena::new().unwrap();
        assert_eq!(arena.protection(), Protection::Locked);
        let key = key_of(&arena, [0x77; 32]);
        assert_eq!(read_own_memory(address_of(&key)).unwrap(), [0x77; 32]);
        let flags = smaps_flags(address_of(&key));
        for (flag, meaning) in [("lo", "locked"), ("dd", "not dumped"), ("dc", "not forked")] {
            assert!(
                flags.iter().any(|have| have == flag),
                "{meaning}: {flags:?}"
            );
        }
    })
    .join()
    .unwrap();
}

fn install_filter_without_memfd_secret() {
    use seccompiler::{SeccompAction, SeccompFilter, TargetArch};
    let arch: TargetArch = std::env::consts::ARCH.try_into().unwrap();
    let refuse = SeccompAction::Errno(Errno::PERM.raw_os_error().unsigned_abs());
    let rules = [(libc::SYS_memfd_secret, vec![])].into_iter().collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// The VmFlags of the mapping that holds `address`, from /proc/self/smaps (proc(5)).
fn smaps_flags(address: usize) -> Vec<String> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let range = line
            .split(' ')
            .next()
            .and_then(|field| field.split_once('-'));
        if let Some((from, to)) = range {
            let bound = |text| usize::from_str_radix(text, 16);
            if let (Ok(from), Ok(to)) = (bound(from), bound(to)) {
                inside = (from..to).contains(&address);
            }
        }
        if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
            return flags.split_whitespace().map(String::from).collect();
        }
    }
    panic!("no mapping holds {address:#x}");
}

#[test]
fn a_dropped_key_is_wiped() {
    let arena = Arena::new_plain().unwrap();
    let key = key_of(&arena, [0xc3; 32]);
    let address = address_of(&key);
    assert_eq!(
        read_own_memory(address).unwrap(),
        [0xc3; 32],
        "positive control"
    );
    drop(key);
    assert_eq!(read_own_memory(address).unwrap(), [0; 32]);
}

#[test]
fn a_refused_or_panicking_fill_leaves_a_wiped_and_usable_cell() {
    let arena = Arena::new_plain().unwrap();
    let mut addresses = Vec::new();
    let refused: Result<Key, ArenaError> = arena.key_with(|cell| {
        cell.fill(0xee);
        addresses.push(cell.as_ptr() as usize);
        Err(ArenaError::Os {
            call: "fill",
            source: Errno::INVAL,
        })
    });
    assert!(refused.is_err());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = arena.key_with(|cell| -> Result<(), ArenaError> {
            cell.fill(0xdd);
            addresses.push(cell.as_ptr() as usize);
            panic!("in the fill");
        });
    }));
    assert!(panicked.is_err());
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        assert_eq!(read_own_memory(address).unwrap(), [0; 32]);
    }
    assert_eq!(key_of(&arena, [1; 32]).expose(), &[1; 32]);
}

#[test]
fn a_key_outlives_the_arena_it_came_from() {
    let arena = Arena::new().unwrap();
    let key = key_of(&arena, [9; 32]);
    drop(arena);
    assert_eq!(key.expose(), &[9; 32]);
}

#[test]
fn random_keys_differ() {
    let arena = Arena::new().unwrap();
    let keys: Vec<Key> = (0..64).map(|_| arena.random_key().unwrap()).collect();
    let distinct: HashSet<[u8; 32]> = keys.iter().map(|key| *key.expose()).collect();
    assert_eq!(distinct.len(), keys.len());
    assert!(!distinct.contains(&[0; 32]));
}

#[test]
fn keys_of_several_threads_do_not_mix() {
    let arena = Arena::new().unwrap();
    thread::scope(|scope| {
        for thread in 0..8u8 {
            let arena = arena.clone();
            scope.spawn(move || {
                let mut held = Vec::new();
                for round in 0..2_000usize {
                    held.push(key_of(&arena, [thread; 32]));
                    if round % 3 == 0 {
                        held.swap_remove(round % held.len());
                    }
                }
                assert!(held.iter().all(|key| key.expose() == &[thread; 32]));
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Ten thousand takes and drops in any order: every live key keeps its bytes and its own address, and every
    /// new cell comes wiped.
    #[test]
    fn the_arena_behaves_like_separate_allocations(steps in prop::collection::vec((any::<u16>(), 0..10u8), 10_000)) {
        let arena = Arena::new().unwrap();
        let mut model: Vec<(Key, [u8; 32])> = Vec::new();
        for (number, (pick, action)) in steps.iter().enumerate() {
            if *action < 3 && !model.is_empty() {
                let (key, bytes) = model.swap_remove(usize::from(*pick) % model.len());
                prop_assert_eq!(key.expose(), &bytes);
                continue;
            }
            let mut bytes = [0xff; 32];
            bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
            let key = arena.key_with(|cell| -> Result<(), ArenaError> {
                assert_eq!(*cell, [0; 32], "a cell comes wiped");
                *cell = bytes;
                Ok(())
            });
            model.push((key.unwrap(), bytes));
        }
        let addresses: HashSet<usize> = model.iter().map(|(key, _)| address_of(key)).collect();
        prop_assert_eq!(addresses.len(), model.len());
        prop_assert!(model.iter().all(|(key, bytes)| key.expose() == bytes));
    }
}
