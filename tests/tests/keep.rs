//! `deploy/try.sh --keep DIR` and the `stop.sh` that it leaves: they take down what is theirs, all of it, and nothing else.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
};

use attache_tests::{mounts, process::bin_dir};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_folder_that_is_in_use_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(dir.path().join("theirs"), "").unwrap();
    let output = run(Command::new(bin_dir().unwrap().join("attache-try"))
        .arg("--keep")
        .arg(dir.path()));
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is not empty"), "{said}");
    let mode = fs::metadata(dir.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// The programs are deleted while they run, as a build does it, and somebody else's tmpfs lies under the folder.
#[test]
fn stop_ends_all_that_was_kept_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (bin, kept) = (dir.path().join("bin"), dir.path().join("kept"));
    fs::create_dir(&bin).unwrap();
    for name in [
        "attache",
        "attache-broker",
        "attache-node-plugin",
        "attache-try",
    ] {
        fs::copy(bin_dir().unwrap().join(name), bin.join(name)).unwrap();
    }
    let told = run(Command::new(bin.join("attache-try"))
        .arg("--keep")
        .arg(&kept));
    assert!(told.status.success(), "{told:?}");
    let pids: Vec<String> = fs::read_to_string(kept.join("env"))
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once("_PID='"))
        .map(|(_, pid)| pid.trim_end_matches('\'').to_owned())
        .collect();
    // One that has ended and that init has not looked at yet has no program any more.
    let program = |pid: &&String| fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    let running = || pids.iter().filter(program);
    assert_eq!((pids.len(), running().count()), (4, 4));
    let theirs = kept.join("kubelet/pods/theirs");
    fs::create_dir(&theirs).unwrap();
    mount("theirs", &theirs, c"tmpfs", MountFlags::empty(), None).unwrap();
    fs::remove_dir_all(&bin).unwrap();
    let stopped = run(&mut Command::new(kept.join("stop.sh")));
    let left = mounts::below(dir.path()).unwrap();
    unmount(&theirs, UnmountFlags::DETACH).unwrap();
    assert_eq!(running().count(), 0, "{stopped:?}");
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left.iter().all(|mount| mount.source == "theirs"));
}
