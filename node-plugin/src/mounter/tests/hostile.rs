//! Those who stand beside the mounter: one who swaps links in at the target, and a container that wants to write.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::mounter::MountError;

/// Tells the other thread to stop, also when this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const CONTAINER: &str = "ATTACHE_TEST_CONTAINER";
const SWAPS: u64 = 100;

#[test]
fn a_link_swapped_in_at_the_target_is_never_followed() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    let victim = kubelet.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("file"), "theirs").unwrap();
    let point = kubelet.mount_point(&target);
    let stop = AtomicBool::new(false);
    let (mut attached, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Swaps a link and a plain folder, whichever is there, in and out of the mount point's name.
            while !stop.load(Ordering::Relaxed) {
                let _swapped = symlink(&victim, &point);
                let _swapped = std::fs::remove_file(&point);
                let _swapped = std::fs::create_dir(&point);
                let _swapped = std::fs::remove_dir(&point);
            }
        });
        let _stop = Stop(&stop);
        for round in 0..2000 {
            match volumes.attach(&target) {
                Ok(_) => attached += 1,
                Err(
                    MountError::PathRefused { .. }
                    | MountError::Os { .. }
                    | MountError::NotAsWritten(_),
                ) => refused += 1,
                Err(other) => panic!("round {round}: {other:?}"),
            }
            for line in kubelet.mounts() {
                assert!(
                    line.contains(&format!(" {} ", point.display())),
                    "mounted elsewhere: {line}"
                );
            }
            let _mounted = volumes.detach(&target);
        }
    });
    assert!(
        attached > 20 && refused > 20,
        "{attached} attached, {refused} refused: no race was run"
    );
    let _link = std::fs::remove_file(&point);
    volumes.detach(&target).unwrap();
    assert_eq!(kubelet.mounts(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 1);
    assert_eq!(std::fs::read(victim.join("file")).unwrap(), b"theirs");
}

#[test]
fn a_container_cannot_change_its_own_volume() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    volumes.attach(&target).unwrap();
    write(
        &volumes,
        &target,
        &sealed(1, &[("db/password", "value 1"), ("token", "t")]),
    );
    let bind = kubelet.path().join("bind");
    std::fs::create_dir(&bind).unwrap();
    rustix::mount::mount_bind(kubelet.mount_point(&target), &bind).unwrap();
    let mut container = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "mounter::tests::hostile::container",
            "--nocapture",
            "--include-ignored",
        ])
        .env(CONTAINER, &bind)
        .uid(1000)
        .gid(1000)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut report = BufReader::new(container.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(
        report.any(|line| line.contains("attacking")),
        "the container never started"
    );
    for round in 2..SWAPS + 2 {
        let files = [
            ("db/password", format!("value {round}")),
            ("token", "t".to_owned()),
        ];
        let files = files
            .each_ref()
            .map(|(path, value)| (*path, value.as_str()));
        assert!(write(&volumes, &target, &sealed(round, &files)), "{round}");
    }
    drop(container.stdin.take());
    let report: Vec<String> = report.filter(|line| line.contains("attempts")).collect();
    assert!(container.wait().unwrap().success(), "{report:?}");
    let numbers: Vec<u64> = report[0]
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    let [attempts, generations] = numbers[..] else {
        panic!("{report:?}")
    };
    assert!(
        attempts > 200 && generations > SWAPS / 10,
        "no race was run: {report:?}"
    );
    assert!(volumes.stat(&target).unwrap().0.whole);
}

/// The container of the test above: uid 1000 with a read-write bind of the volume, until its standard input closes.
#[test]
#[ignore = "a part of a_container_cannot_change_its_own_volume, run by it under uid 1000"]
fn container() {
    let Some(mount) = std::env::var_os(CONTAINER).map(PathBuf::from) else {
        return;
    };
    assert_eq!(rustix::process::getuid().as_raw(), 1000);
    let ended = AtomicBool::new(false);
    let (mut attempts, mut successes, mut held) = (0_u64, Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _eof = std::io::stdin().read_to_end(&mut Vec::new());
            ended.store(true, Ordering::Relaxed);
        });
        while !ended.load(Ordering::Relaxed) {
            let opened = open_and_read(&mount);
            let last = held.last().map(|(_, value)| value);
            if let Some(pair) = opened.filter(|(_, value)| held.len() < 200 && last != Some(value))
            {
                held.push(pair);
            }
            let generation = std::fs::read_link(mount.join("..data")).unwrap();
            for (name, done) in attack(&mount, &mount.join(generation)) {
                attempts += 1;
                if done {
                    successes.push(name);
                }
            }
            if attempts < 50 {
                println!("attacking");
            }
        }
    });
    for (file, first) in &held {
        let mut again = [0; 32];
        let len = rustix::io::pread(file, &mut again, 0).unwrap();
        assert_eq!(&again[..len], first.as_bytes());
    }
    println!(
        "attempts {attempts} on generations {} successes {successes:?}",
        held.len()
    );
    assert!(successes.is_empty() && !held.is_empty());
}

fn open_and_read(mount: &Path) -> Option<(File, String)> {
    let mut file = File::open(mount.join("db/password")).ok()?;
    let mut value = String::new();
    file.read_to_string(&mut value).unwrap();
    assert!(value.starts_with("value "), "half a value: {value:?}");
    Some((file, value))
}

/// Each way of changing something, and whether it worked.
fn attack(mount: &Path, generation: &Path) -> Vec<(&'static str, bool)> {
    let file = generation.join("db/password");
    let mode = |bits| std::fs::Permissions::from_mode(bits);
    let open = |path: &Path| OpenOptions::new().write(true).open(path).is_ok();
    let held = File::open(&file);
    vec![
        (
            "chmod",
            std::fs::set_permissions(&file, mode(0o600)).is_ok(),
        ),
        (
            "chmod through a link",
            std::fs::set_permissions(mount.join("token"), mode(0o600)).is_ok(),
        ),
        (
            "chmod of a held file",
            held.is_ok_and(|held| held.set_permissions(mode(0o600)).is_ok()),
        ),
        (
            "chmod of a folder",
            std::fs::set_permissions(generation.join("db"), mode(0o777)).is_ok(),
        ),
        (
            "chmod of the root",
            std::fs::set_permissions(mount, mode(0o777)).is_ok(),
        ),
        ("write", open(&file)),
        ("write through a link", open(&mount.join("token"))),
        (
            "truncate",
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(&file)
                .is_ok(),
        ),
        (
            "create in the root",
            File::create(mount.join("mine")).is_ok(),
        ),
        (
            "create in the generation",
            File::create(generation.join("mine")).is_ok(),
        ),
        (
            "create in a folder",
            File::create(generation.join("db/mine")).is_ok(),
        ),
        ("mkdir", std::fs::create_dir(mount.join("..mine")).is_ok()),
        ("symlink", symlink("/etc", mount.join("mine")).is_ok()),
        (
            "link",
            std::fs::hard_link(&file, mount.join("mine")).is_ok(),
        ),
        (
            "rename",
            std::fs::rename(&file, generation.join("db/mine")).is_ok(),
        ),
        (
            "rename of ..data",
            std::fs::rename(mount.join("..data"), mount.join("..mine")).is_ok(),
        ),
        (
            "rename of a link",
            std::fs::rename(mount.join("token"), mount.join("mine")).is_ok(),
        ),
        ("unlink", std::fs::remove_file(&file).is_ok()),
        (
            "unlink of a link",
            std::fs::remove_file(mount.join("token")).is_ok(),
        ),
    ]
}
