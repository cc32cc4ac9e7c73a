//! Those who stand beside the mounter: one who swaps links in at the target, and a container that wants to write.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;
use crate::ipc::FaultCode;
use crate::mounter::MountError;

/// Tells the other thread to stop, also when this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const CONTAINER: &str = "ATTACHE_TEST_CONTAINER";
const SWAPS: u64 = 1000;
/// Descriptors of as many generations, which the container keeps open through all of them.
const HELD: usize = 200;

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
        // On a busy machine the two sides may take turns for long: until there was a race, for a while at most.
        for round in 0..60_000 {
            if round >= 2000 && attached > 20 && refused > 20 {
                break;
            }
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
    let swap = |round: u64| {
        let value = format!("value {round}");
        let files = [("db/password", value.as_str()), ("token", "t")];
        assert!(write(&volumes, &target, &sealed(round, &files)), "{round}");
    };
    swap(1);
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
    let holding = AtomicBool::new(false);
    let mut round = 1;
    let report: Vec<String> = std::thread::scope(|scope| {
        let report = scope.spawn(|| {
            let held = report.any(|line| line.contains("holding"));
            holding.store(held, Ordering::Relaxed);
            report.filter(|line| line.contains("of attack")).collect()
        });
        // It gets its descriptors from the first swaps; those that count come when it holds them all.
        while !holding.load(Ordering::Relaxed) && !report.is_finished() {
            round += 1;
            swap(round);
        }
        for _ in 0..SWAPS {
            round += 1;
            swap(round);
        }
        drop(container.stdin.take());
        report.join().unwrap()
    });
    println!("{SWAPS} swaps of {round}: {report:#?}");
    assert!(container.wait().unwrap().success(), "{report:?}");
    assert_eq!(report.len(), ATTACKS.len() + 1, "{report:?}");
    assert!(volumes.stat(&target).unwrap().0.whole);
}

/// How often one way of attacking was tried and how it was refused.
#[derive(Default)]
struct Refusals {
    /// EPERM, EACCES or EROFS.
    refused: u64,
    /// ENOENT: the generation went between its name and the attack.
    gone: u64,
}

impl Refusals {
    fn count(&mut self, name: &str, error: &std::io::Error) {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::EROFS) => self.refused += 1,
            Some(libc::ENOENT) => self.gone += 1,
            _ => panic!("{name}: {error}"),
        }
    }
}

/// The container of the test above: uid 1000 with a read-write bind of the volume, until its standard input closes.
#[test]
#[ignore = "a part of a_container_cannot_change_its_own_volume, run by it under uid 1000"]
fn container() {
    let Some(mount) = std::env::var_os(CONTAINER).map(PathBuf::from) else {
        return;
    };
    assert_eq!(rustix::process::getuid().as_raw(), 1000);
    for (name, attack) in ATTACKS {
        let (mount, generation) = unprotected();
        attack(mount.path(), &generation).expect(name);
    }
    let ended = AtomicBool::new(false);
    let mut held: Vec<(File, String)> = Vec::new();
    let mut tallies: Vec<Refusals> = ATTACKS.iter().map(|_| Refusals::default()).collect();
    let mut by_descriptor = Refusals::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _eof = std::io::stdin().read_to_end(&mut Vec::new());
            ended.store(true, Ordering::Relaxed);
        });
        let _ended = Stop(&ended);
        while !ended.load(Ordering::Relaxed) {
            if held.len() < HELD {
                let last = held.last().map(|(_, value)| value.as_str());
                let opened = open_and_read(&mount).filter(|(_, value)| last != Some(value));
                held.extend(opened);
                if held.len() == HELD {
                    println!("holding");
                }
            }
            let generation = mount.join(std::fs::read_link(mount.join("..data")).unwrap());
            for ((name, attack), tally) in ATTACKS.iter().zip(&mut tallies) {
                tally.count(name, &attack(&mount, &generation).expect_err(name));
            }
            let present = open_and_read(&mount);
            for (file, _) in held.iter().take(3).chain(&present) {
                attack_by_descriptor(file, &mut by_descriptor);
            }
        }
    });
    for (file, first) in &held {
        let mut again = [0; 32];
        let len = rustix::io::pread(file, &mut again, 0).unwrap();
        assert_eq!(&again[..len], first.as_bytes());
    }
    let Refusals { refused, gone } = by_descriptor;
    println!(
        "{} descriptors held at the end of attack: {refused} times refused, {gone} times in its removal",
        held.len()
    );
    assert_eq!(held.len(), HELD);
    assert!(refused > SWAPS, "{refused}");
    for ((name, _), Refusals { refused, gone }) in ATTACKS.iter().zip(&tallies) {
        println!("{name}: {refused} times of attack refused, {gone} times too late");
        assert!(
            *refused > SWAPS / 10,
            "{name}: no race was run ({refused}, {gone})"
        );
    }
}

/// The control: a mount's layout in a plain folder of the container's own, where every attack must succeed.
fn unprotected() -> (tempfile::TempDir, PathBuf) {
    let mount = tempfile::tempdir().unwrap();
    let generation = mount.path().join("..1-0");
    std::fs::create_dir_all(generation.join("db")).unwrap();
    for file in ["db/password", "token"] {
        std::fs::write(generation.join(file), "value 0").unwrap();
    }
    symlink("..1-0", mount.path().join("..data")).unwrap();
    symlink("..data/token", mount.path().join("token")).unwrap();
    (mount, generation)
}

/// A file that is held open is immutable while it has a name, and root's once it has none. In between, thawed to be
/// removed, it may give in to its owner: then it must be about to go, and only who holds it open will see it again.
fn attack_by_descriptor(file: &File, refusals: &mut Refusals) {
    let has_name = || file.metadata().unwrap().nlink() > 0;
    let may_be_thawed = has_name();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    for (name, done) in [
        (
            "chmod of a held file",
            file.set_permissions(PermissionsExt::from_mode(0o600)),
        ),
        (
            "write to a held file",
            open_to_write(Path::new(&path), false),
        ),
    ] {
        let Err(error) = done else {
            assert!(may_be_thawed, "{name}, which had no name any more");
            let start = Instant::now();
            while has_name() {
                assert!(start.elapsed().as_secs() < 20, "{name}, which stays");
            }
            refusals.gone += 1;
            continue;
        };
        refusals.count(name, &error);
    }
}

fn open_and_read(mount: &Path) -> Option<(File, String)> {
    let mut file = File::open(mount.join("db/password")).ok()?;
    let mut value = String::new();
    file.read_to_string(&mut value).unwrap();
    assert!(value.starts_with("value "), "half a value: {value:?}");
    Some((file, value))
}

/// A way of changing something, given the mount and the generation that was present a moment ago.
type Attack = (&'static str, fn(&Path, &Path) -> std::io::Result<()>);

const ATTACKS: [Attack; 19] = [
    ("chmod", |_, g| set_mode(&g.join("db/password"), 0o600)),
    ("chmod through a link", |m, _| {
        set_mode(&m.join("token"), 0o600)
    }),
    ("chmod of a folder", |_, g| set_mode(&g.join("db"), 0o777)),
    ("chmod of the generation", |_, g| set_mode(g, 0o777)),
    ("chmod of the root", |m, _| set_mode(m, 0o777)),
    ("write", |_, g| open_to_write(&g.join("db/password"), false)),
    ("write through a link", |m, _| {
        open_to_write(&m.join("token"), false)
    }),
    ("truncate", |_, g| {
        open_to_write(&g.join("db/password"), true)
    }),
    ("create in the root", |m, _| {
        File::create(m.join("mine")).map(drop)
    }),
    ("create in the generation", |_, g| {
        File::create(g.join("mine")).map(drop)
    }),
    ("create in a folder", |_, g| {
        File::create(g.join("db/mine")).map(drop)
    }),
    ("mkdir", |m, _| std::fs::create_dir(m.join("..mine"))),
    ("symlink", |m, _| symlink("/etc", m.join("mine"))),
    ("link", |m, g| {
        std::fs::hard_link(g.join("db/password"), m.join("mine"))
    }),
    ("rename", |_, g| {
        std::fs::rename(g.join("db/password"), g.join("db/mine"))
    }),
    ("rename of ..data", |m, _| {
        std::fs::rename(m.join("..data"), m.join("..mine"))
    }),
    ("rename of a link", |m, _| {
        std::fs::rename(m.join("token"), m.join("mine"))
    }),
    ("unlink", |_, g| std::fs::remove_file(g.join("db/password"))),
    ("unlink of a link", |m, _| {
        std::fs::remove_file(m.join("token"))
    }),
];

fn set_mode(path: &Path, bits: u32) -> std::io::Result<()> {
    std::fs::set_permissions(path, PermissionsExt::from_mode(bits))
}

fn open_to_write(path: &Path, truncate: bool) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).truncate(truncate).open(path).map(drop)
}

/// A process of a container that holds leases on files of its volume, with no capability; ended when dropped.
struct Lessee(Child);

impl Lessee {
    fn new(uid: u32) -> Self {
        let (reuid, regid) = (format!("--reuid={uid}"), format!("--regid={uid}"));
        let child = Command::new("setpriv")
            .args([&reuid, &regid])
            .args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
            .args(["--no-new-privs", "python3", "-c"])
            .arg(include_str!("../../../tests/lease.py"))
            // The system's, which every user may run.
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn hold(&mut self, kind: &str, path: &Path) {
        writeln!(self.0.stdin.as_ref().unwrap(), "{kind} {}", path.display()).unwrap();
        let mut answer = [0; 5];
        let held = self.0.stdout.as_mut().unwrap().read_exact(&mut answer);
        assert!(
            held.is_ok() && answer == *b"held\n",
            "{kind} on {}: no lease was taken",
            path.display()
        );
    }
}

impl Drop for Lessee {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn bind_read_only(kubelet: &Kubelet, target: &Target) -> PathBuf {
    let bind = kubelet.path().join("bind");
    std::fs::create_dir(&bind).unwrap();
    rustix::mount::mount_bind(kubelet.mount_point(target), &bind).unwrap();
    rustix::mount::mount_remount(
        &bind,
        rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::RDONLY,
        c"",
    )
    .unwrap();
    bind
}

#[test]
fn a_lease_on_a_file_holds_up_no_swap() {
    fn files(value: &str) -> [(&str, &str); 2] {
        [("db/password", value), ("token", "t")]
    }
    for kind in ["F_WRLCK", "F_RDLCK"] {
        let kubelet = Kubelet::new();
        let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
        volumes.attach(&target).unwrap();
        let bind = bind_read_only(&kubelet, &target);
        write(&volumes, &target, &sealed(1, &files("value 1")));
        let mut container = Lessee::new(1000);
        container.hold(kind, &bind.join("db/password"));
        for seq in 2..5 {
            let value = format!("value {seq}");
            let generation = sealed(seq, &files(&value));
            assert!(write(&volumes, &target, &generation), "{kind} {seq}");
            assert_eq!(visible(&bind), owned(&files(&value)), "{kind}");
            assert!(
                volumes.stat(&target).unwrap().0.whole,
                "what was set aside is no damage"
            );
            assert!(!write(&volumes, &target, &generation), "{kind} {seq}");
        }
        let mount = kubelet.mount_point(&target);
        let aside = mount.join("..left-0");
        assert_eq!(hidden(&mount)[1..], ["..data", "..left-0"], "{kind}");
        assert!(is_immutable(&aside) && super::kind(&aside) == (0, 0, 0));
        let left: Vec<_> = std::fs::read_dir(aside.join("db")).unwrap().collect();
        assert_eq!(left.len(), 1, "the file with the lease");
        assert!(!aside.join("token").exists(), "and no other");
        assert!(is_immutable(&aside.join("db/password")) && is_immutable(&aside.join("db")));
        drop(container);
        write(&volumes, &target, &sealed(9, &files("value 9")));
        assert_eq!(hidden(&mount).len(), 2, "{kind}: {:?}", hidden(&mount));
    }
}

#[test]
fn leases_can_fill_a_volume_and_cost_nobody_else() {
    let kubelet = Kubelet::new();
    let limits = VolumeLimits {
        inodes: 64,
        ..VolumeLimits::default()
    };
    let (volumes, target) = (kubelet.volumes_with(limits), kubelet.volume("secrets"));
    volumes.attach(&target).unwrap();
    let bind = bind_read_only(&kubelet, &target);
    let files = [("db/password", "same length")];
    let mut container = Lessee::new(1000);
    let mut seq = 0;
    let refused = loop {
        seq += 1;
        assert!(seq < 64, "64 inodes hold no 64 generations");
        let generation = sealed(seq, &files);
        match volumes.write(&target, memfd(&generation), generation.memfd_bytes()) {
            Ok(changed) => assert!(changed),
            Err(error) => break error,
        }
        container.hold("F_WRLCK", &bind.join("db/password"));
    };
    assert_eq!(refused.fault().code, FaultCode::NoSpace);
    let stat = volumes.stat(&target).unwrap().0;
    assert!(stat.whole && stat.generation.unwrap().seq == seq - 1);
    assert_eq!(visible(&bind), owned(&files));
    let other = kubelet.volume("others");
    volumes.attach(&other).unwrap();
    assert!(write(&volumes, &other, &sealed(1, &files)));
    drop(container);
    assert!(write(&volumes, &target, &sealed(seq, &files)));
    assert_eq!(hidden(&kubelet.mount_point(&target)).len(), 2);
    assert!(volumes.detach(&target).unwrap() && volumes.detach(&other).unwrap());
}

#[test]
fn a_lease_on_the_metadata_is_no_failure() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    volumes.attach(&target).unwrap();
    let bind = bind_read_only(&kubelet, &target);
    let files = [("db/password", "value")];
    write(&volumes, &target, &sealed(1, &files));
    let mut container = Lessee::new(0);
    container.hold("F_WRLCK", &bind.join(".attache.json"));
    let (stat, metadata) = volumes.stat(&target).unwrap();
    assert!(stat.mounted && !stat.whole && metadata.is_none());
    assert!(
        write(&volumes, &target, &sealed(1, &files)),
        "the same generation mends it"
    );
    let (stat, metadata) = volumes.stat(&target).unwrap();
    assert!(stat.whole && metadata.is_some());
    assert!(volumes.detach(&target).unwrap());
}
