//! Limits and hardening. Both are of the whole process, and root is exempt from the limit on locked memory, so each
//! case runs in a child: this test binary again, with one test that is ignored otherwise, and without capabilities.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use attache_arena::{
    Arena, ArenaError, LockedBuf, MemfdWriter, PinnedMap, harden_process, raise_memlock_limit,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

fn run_in_child(test: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            test,
            "--include-ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("1 passed"), "the child ran nothing: {text}");
}

fn limit_memlock(soft: u64, hard: u64) {
    setrlimit(
        Resource::Memlock,
        Rlimit {
            current: Some(soft),
            maximum: Some(hard),
        },
    )
    .unwrap();
}

/// Root's CAP_IPC_LOCK lifts the limit; capabilities are of the thread, and the tests' one is enough.
fn drop_capabilities() {
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )
    .unwrap();
}

#[test]
fn an_arena_past_the_limit_is_an_error_that_names_the_mend() {
    run_in_child("child_runs_out_of_locked_memory");
}

#[test]
#[ignore = "runs in a child of an_arena_past_the_limit_is_an_error_that_names_the_mend"]
fn child_runs_out_of_locked_memory() {
    limit_memlock(192 * 1024, 192 * 1024);
    drop_capabilities();

    let arena = Arena::new().unwrap();
    let mut keys = Vec::new();
    let error = loop {
        match arena.random_key() {
            Ok(key) => keys.push(key),
            Err(error) => break error,
        }
        assert!(
            keys.len() <= 3 * 2048,
            "192 KiB hold no more than 6,144 keys"
        );
    };
    assert_eq!(keys.len(), 3 * 2048, "every cell of three regions");
    assert!(
        matches!(error, ArenaError::Exhausted { bytes: 65_536, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("LimitMEMLOCK"), "{error}");

    assert!(matches!(
        Arena::new().err().unwrap(),
        ArenaError::Exhausted { .. }
    ));
    assert!(matches!(
        LockedBuf::new(4096).err().unwrap(),
        ArenaError::Exhausted { .. }
    ));
    assert!(matches!(
        MemfdWriter::new("values", 4096).err().unwrap(),
        ArenaError::Exhausted { .. }
    ));

    keys.truncate(2048);
    assert!(arena.random_key().is_ok(), "a wiped cell is used again");
    assert!(arena.random_key().is_ok());
    drop(keys);
    drop(arena);
    assert!(
        Arena::new().is_ok(),
        "an arena without keys gives its regions back"
    );
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    run_in_child("child_raises_its_limit");
}

#[test]
#[ignore = "runs in a child of the_soft_limit_is_raised_to_the_hard_one"]
fn child_raises_its_limit() {
    limit_memlock(4096, 1024 * 1024);
    drop_capabilities();
    assert!(Arena::new().is_err(), "positive control");
    assert_eq!(raise_memlock_limit().unwrap(), Some(1024 * 1024));
    assert_eq!(getrlimit(Resource::Memlock).current, Some(1024 * 1024));
    assert!(Arena::new().is_ok());
}

#[test]
fn a_hard_limit_under_a_mebibyte_refuses_the_start() {
    run_in_child("child_has_too_low_a_hard_limit");
}

#[test]
#[ignore = "runs in a child of a_hard_limit_under_a_mebibyte_refuses_the_start"]
fn child_has_too_low_a_hard_limit() {
    limit_memlock(4096, 1024 * 1024 - 1);
    let error = raise_memlock_limit().unwrap_err();
    assert!(matches!(
        error,
        ArenaError::LimitTooLow {
            hard_bytes: 1_048_575,
            needed_bytes: 1_048_576
        }
    ));
    assert!(error.to_string().contains("LimitMEMLOCK"), "{error}");
    assert_eq!(
        getrlimit(Resource::Memlock).current,
        Some(4096),
        "nothing was changed"
    );
}

#[test]
fn a_hardened_process_is_undumpable_and_still_passes_values() {
    run_in_child("child_hardens_itself");
}

#[test]
#[ignore = "runs in a child of a_hardened_process_is_undumpable_and_still_passes_values"]
fn child_hardens_itself() {
    use std::os::unix::fs::MetadataExt;
    let nobody = rustix::process::Uid::from_raw(65_534);
    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
    harden_process().unwrap();
    assert_eq!(
        rustix::process::dumpable_behavior().unwrap(),
        rustix::process::DumpableBehavior::NotDumpable
    );
    assert_eq!(
        std::fs::metadata("/proc/self/mem").unwrap().uid(),
        0,
        "no longer its own user's to read"
    );

    let mut writer = MemfdWriter::new("values", 5).unwrap();
    writer.write_all(b"value").unwrap();
    let map = PinnedMap::sealed(writer.seal().unwrap(), 5).unwrap();
    assert_eq!(map.as_slice(), b"value");
}
