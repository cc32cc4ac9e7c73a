//! A mounter that dies: at each named place, and at any instant. The volume is then whole or not there, and the next
//! attach and write mend it.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::mounter::Failpoint;

const KUBELET: &str = "ATTACHE_TEST_KUBELET";
const FAILPOINT: &str = "ATTACHE_TEST_FAILPOINT";
const OLD: [(&str, &str); 3] = [
    ("db/password", "old"),
    ("db/username", "old"),
    ("gone", "old"),
];
const NEW: [(&str, &str); 3] = [
    ("db/password", "new"),
    ("db/username", "new"),
    ("added", "new"),
];

/// Another process that attaches and writes `NEW`, once.
fn mounter(kubelet: &Kubelet, failpoint: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "mounter::tests::crash::dying_mounter",
            "--nocapture",
            "--include-ignored",
        ])
        .env(KUBELET, kubelet.path())
        .env(FAILPOINT, failpoint)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[test]
#[ignore = "a part of the tests below, run by them"]
fn dying_mounter() {
    let Some(kubelet) = std::env::var_os(KUBELET) else {
        return;
    };
    let failpoint = std::env::var(FAILPOINT).unwrap();
    let failpoints = Failpoints(failpoint.parse().ok().into_iter().collect());
    let volumes = Volumes::open(Path::new(&kubelet), VolumeLimits::default(), failpoints).unwrap();
    let target = Target {
        pod: PodUid::parse(UID).unwrap(),
        volume: VolumeName::parse("secrets").unwrap(),
    };
    if failpoint == "after-unmount" {
        volumes.detach(&target).unwrap();
    }
    volumes.attach(&target).unwrap();
    if failpoint == "for-ever" {
        for seq in (2..).step_by(2) {
            write(&volumes, &target, &sealed(seq, &NEW));
            write(&volumes, &target, &sealed(seq + 1, &OLD));
        }
    }
    write(&volumes, &target, &sealed(2, &NEW));
}

/// Not there, empty, or one of the two generations with every file of it.
fn is_whole_or_absent(kubelet: &Kubelet, target: &Target) -> bool {
    let data = kubelet.mount_point(target).join("..data");
    !data.exists() || {
        let found = visible(&data);
        found == owned(&OLD) || found == owned(&NEW)
    }
}

fn mends(kubelet: &Kubelet, target: &Target, seq: u64) {
    let volumes = kubelet.volumes();
    volumes.attach(target).unwrap();
    write(&volumes, target, &sealed(seq, &NEW));
    let (stat, _) = volumes.stat(target).unwrap();
    assert!(stat.whole);
    assert_eq!(stat.file_set, digest(&NEW));
    assert_eq!(visible(&kubelet.mount_point(target)), owned(&NEW));
    assert_eq!(hidden(&kubelet.mount_point(target)).len(), 2);
    assert_eq!(kubelet.mounts().len(), 1);
}

#[test]
fn every_failpoint_leaves_a_volume_that_the_next_publish_mends() {
    for name in [
        "after-mount",
        "after-write",
        "before-swap",
        "after-swap",
        "after-unmount",
    ] {
        assert!(name.parse::<Failpoint>().is_ok());
        let kubelet = Kubelet::new();
        let target = kubelet.volume("secrets");
        if name != "after-mount" {
            let volumes = kubelet.volumes();
            volumes.attach(&target).unwrap();
            write(&volumes, &target, &sealed(1, &OLD));
        }
        let status = mounter(&kubelet, name).status().unwrap();
        assert!(status.signal().is_some(), "{name}: {status}");
        assert!(is_whole_or_absent(&kubelet, &target), "{name}");
        if name == "after-write" || name == "before-swap" {
            assert_eq!(
                visible(&kubelet.mount_point(&target).join("..data")),
                owned(&OLD)
            );
        }
        if name.ends_with("-swap") || name == "after-write" {
            let (stat, _) = kubelet.volumes().stat(&target).unwrap();
            assert!(stat.complete && !stat.whole, "{name}: {stat:?}");
        }
        if name == "before-swap" {
            // All that a reader is about to be led to is immutable before it is.
            let new = kubelet.mount_point(&target).join("..2-0202020202020202");
            for path in [
                "",
                "db",
                "db/password",
                "db/username",
                "added",
                ".attache.json",
            ] {
                assert!(is_immutable(&new.join(path)), "{path:?}");
            }
        }
        mends(&kubelet, &target, 2);
    }
}

#[test]
fn a_first_write_that_died_is_mended() {
    for name in ["after-write", "before-swap", "after-swap"] {
        let kubelet = Kubelet::new();
        let target = kubelet.volume("secrets");
        assert!(mounter(&kubelet, name).status().unwrap().signal().is_some());
        assert!(!kubelet.volumes().stat(&target).unwrap().0.whole, "{name}");
        assert!(is_whole_or_absent(&kubelet, &target), "{name}");
        mends(&kubelet, &target, 2);
    }
}

#[test]
fn killed_at_any_instant_the_volume_is_whole_or_absent() {
    let kubelet = Kubelet::new();
    let target = kubelet.volume("secrets");
    let data = || std::fs::read_link(kubelet.mount_point(&target).join("..data")).ok();
    let (mut unmended, mut kills) = (0, 0);
    for round in 0..300_u64 {
        // A loaded machine hits the middle of a write less often: go on until enough kills did.
        if round >= 30 && unmended >= 5 {
            break;
        }
        kills += 1;
        let before = data();
        let mut child = mounter(&kubelet, "for-ever").spawn().unwrap();
        let start = Instant::now();
        // Until this child has swapped once, and so goes on swapping.
        while data() == before {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "the mounter never wrote"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        // A step that is no multiple of a swap's length walks over all of it.
        std::thread::sleep(Duration::from_micros(37 * (round % 30)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_whole_or_absent(&kubelet, &target), "round {round}");
        unmended += u32::from(!kubelet.volumes().stat(&target).unwrap().0.whole);
        mends(&kubelet, &target, 1_000_000 + round);
    }
    println!("{unmended} of {kills} kills left something to clean up");
    assert!(
        unmended >= 5,
        "{unmended} of {kills} kills hit a write in the middle"
    );
}
