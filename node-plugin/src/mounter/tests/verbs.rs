use std::fs::File;
use std::io::Read;
use std::os::unix::fs::symlink;

use rustix::fs::{IFlags, Mode, OFlags, ioctl_setflags, open};
use rustix::mount::{MountFlags, mount};

use super::*;
use crate::ipc::message::LIST_PAGE;
use crate::ipc::{Facts, FaultCode, FolderName};
use crate::mounter::MountError;

const FILES: [(&str, &str); 3] = [
    ("db/username", "app"),
    ("db/password", "hunter2"),
    ("token", "t0ken"),
];

fn code(error: &MountError) -> FaultCode {
    error.fault().code
}

fn foreign_tmpfs(kubelet: &Kubelet, target: &Target, source: &str) {
    let point = kubelet.mount_point(target);
    std::fs::create_dir_all(&point).unwrap();
    mount(source, &point, c"tmpfs", MountFlags::empty(), None).unwrap();
}

#[test]
fn attach_mounts_a_hardened_tmpfs() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    assert!(volumes.attach(&target).unwrap());
    let mounts = kubelet.mounts();
    let [line] = mounts.as_slice() else {
        panic!("{mounts:?}")
    };
    let (mount, superblock) = line.split_once(" - ").unwrap();
    for option in ["nosuid", "nodev", "noexec"] {
        assert!(mount.contains(option), "{line}");
    }
    assert!(
        superblock.starts_with(&format!("tmpfs {} ", target.volume_id())),
        "{line}"
    );
    for option in ["size=16384k", "nr_inodes=8192", "mode=555", "noswap"] {
        assert!(superblock.contains(option), "{line}");
    }
    let point = kubelet.mount_point(&target);
    assert_eq!(kind(&point), (0, 0, 0o555));
    assert!(is_immutable(&point));
}

#[test]
fn attach_again_changes_nothing() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    assert!(volumes.attach(&target).unwrap());
    write(&volumes, &target, &sealed(1, &FILES));
    assert!(!volumes.attach(&target).unwrap());
    assert!(!kubelet.volumes().attach(&target).unwrap());
    assert_eq!(kubelet.mounts().len(), 1);
    assert_eq!(visible(&kubelet.mount_point(&target)), owned(&FILES));
}

#[test]
fn a_folder_without_a_mount_is_no_volume() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    let point = kubelet.mount_point(&target);
    std::fs::create_dir(&point).unwrap();
    assert_eq!(
        code(
            &volumes
                .write(
                    &target,
                    memfd(&sealed(1, &FILES)),
                    sealed(1, &FILES).memfd_bytes()
                )
                .unwrap_err()
        ),
        FaultCode::NotMounted
    );
    assert_eq!(
        code(&volumes.wipe(&target).unwrap_err()),
        FaultCode::NotMounted
    );
    assert!(!volumes.stat(&target).unwrap().0.mounted);
    assert_eq!(std::fs::read_dir(&point).unwrap().count(), 0);
    assert!(volumes.attach(&target).unwrap());
    assert_eq!(kubelet.mounts().len(), 1);
}

#[test]
fn without_kubelets_folder_nothing_is_made() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    std::fs::remove_dir_all(kubelet.path().join("pods")).unwrap();
    assert_eq!(
        code(&volumes.attach(&target).unwrap_err()),
        FaultCode::NoVolumeFolder
    );
    assert_eq!(std::fs::read_dir(kubelet.path()).unwrap().count(), 0);
    assert!(!volumes.detach(&target).unwrap());
    assert!(!volumes.stat(&target).unwrap().0.mounted);
}

#[test]
fn something_else_at_the_target_is_left_alone() {
    let kubelet = Kubelet::new();
    let volumes = kubelet.volumes();
    let other = kubelet.volume("other").volume_id().to_string();
    for (name, source) in [("plain", "tmpfs"), ("others", other.as_str())] {
        let target = kubelet.volume(name);
        foreign_tmpfs(&kubelet, &target, source);
        std::fs::write(kubelet.mount_point(&target).join("theirs"), "x").unwrap();
        let generation = sealed(1, &FILES);
        let refusals = [
            volumes.attach(&target),
            volumes.write(&target, memfd(&generation), generation.memfd_bytes()),
            volumes.wipe(&target),
            volumes.detach(&target),
            volumes.stat(&target).map(|_| true),
        ];
        for refused in refusals {
            assert_eq!(
                code(&refused.unwrap_err()),
                FaultCode::ForeignMount,
                "{name}"
            );
        }
        assert_eq!(
            std::fs::read(kubelet.mount_point(&target).join("theirs")).unwrap(),
            b"x"
        );
    }
    assert_eq!(kubelet.mounts().len(), 2);
    assert_eq!(volumes.list(None).unwrap(), (Vec::new(), false));
}

#[test]
fn something_stacked_on_a_volume_is_seen_and_no_second_one_is_stacked() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    assert!(volumes.attach(&target).unwrap());
    foreign_tmpfs(&kubelet, &target, "tmpfs");
    assert_eq!(
        code(&volumes.attach(&target).unwrap_err()),
        FaultCode::ForeignMount
    );
    assert_eq!(
        code(&volumes.detach(&target).unwrap_err()),
        FaultCode::ForeignMount
    );
    assert_eq!(kubelet.mounts().len(), 2);
    // What an older plugin may have stacked is all taken down.
    unmount(kubelet.mount_point(&target), UnmountFlags::DETACH).unwrap();
    foreign_tmpfs(&kubelet, &target, &target.volume_id().to_string());
    assert!(!volumes.attach(&target).unwrap());
    assert!(volumes.detach(&target).unwrap());
    assert_eq!(kubelet.mounts(), Vec::<String>::new());
}

#[test]
fn a_link_anywhere_in_the_path_is_refused() {
    let kubelet = Kubelet::new();
    let volumes = kubelet.volumes();
    let victim = kubelet.path().join("victim");
    std::fs::create_dir_all(victim.join("mount")).unwrap();
    let last = kubelet.volume("last");
    symlink(victim.join("mount"), kubelet.mount_point(&last)).unwrap();
    let inner = kubelet.volume("inner");
    std::fs::remove_dir(kubelet.path().join(inner.folder())).unwrap();
    symlink(&victim, kubelet.path().join(inner.folder())).unwrap();
    // Even one that stays beneath the folder from which it is looked up.
    let near = kubelet.volume("near");
    std::fs::create_dir(kubelet.path().join(near.folder()).join("real")).unwrap();
    symlink("real", kubelet.mount_point(&near)).unwrap();
    let sibling = kubelet.volume("sibling");
    std::fs::remove_dir(kubelet.path().join(sibling.folder())).unwrap();
    symlink("near", kubelet.path().join(sibling.folder())).unwrap();
    let file = kubelet.volume("file");
    std::fs::write(kubelet.mount_point(&file), "").unwrap();
    for target in [&last, &inner, &near, &sibling, &file] {
        for refused in [
            volumes.attach(target),
            volumes.wipe(target),
            volumes.detach(target),
        ] {
            assert_eq!(
                code(&refused.unwrap_err()),
                FaultCode::PathRefused,
                "{target}"
            );
        }
    }
    assert_eq!(kubelet.mounts(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(victim.join("mount")).unwrap().count(), 0);
}

const DEEP: [NewFile<'_>; 3] = [
    NewFile {
        path: "a/b/c",
        mode: 0o440,
        uid: 1000,
        gid: Some(2000),
        value: b"deep",
    },
    NewFile {
        path: "empty",
        mode: 0o400,
        uid: 1000,
        gid: None,
        value: b"",
    },
    NewFile {
        path: "raw",
        mode: 0o444,
        uid: 0,
        gid: Some(0),
        value: b"\0\xff\n",
    },
];

/// A volume that holds `DEEP` as generation 0x2a.
fn with_deep_files(kubelet: &Kubelet) -> (Volumes, Target) {
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    volumes.attach(&target).unwrap();
    let generation = Generation {
        incarnation: 1,
        seq: 0x2a,
        digest: [0xab; 32],
    };
    let sealed = SealedGeneration::seal(&generation, &DEEP, b"{\"what\":1}").unwrap();
    assert!(write(&volumes, &target, &sealed));
    (volumes, target)
}

#[test]
fn a_written_generation_is_what_was_sealed() {
    let kubelet = Kubelet::new();
    let (_, target) = with_deep_files(&kubelet);
    let point = kubelet.mount_point(&target);
    let folder = point.join("..2a-abababababababab");
    assert_eq!(hidden(&point), ["..2a-abababababababab", "..data"]);
    for (name, to) in [
        ("..data", "..2a-abababababababab"),
        ("a", "..data/a"),
        ("empty", "..data/empty"),
        (".attache.json", "..data/.attache.json"),
    ] {
        assert_eq!(
            std::fs::read_link(point.join(name)).unwrap().to_str(),
            Some(to)
        );
    }
    for (path, expected) in [
        ("", (0, 0, 0o555)),
        ("a", (0, 0, 0o555)),
        ("a/b", (0, 0, 0o555)),
        ("a/b/c", (1000, 2000, 0o440)),
        ("empty", (1000, 0, 0o400)),
        ("raw", (0, 0, 0o444)),
        (".attache.json", (0, 0, 0o444)),
    ] {
        assert_eq!(kind(&folder.join(path)), expected, "{path}");
        assert!(is_immutable(&folder.join(path)), "{path}");
    }
    assert!(is_immutable(&point));
    assert_eq!(std::fs::read(point.join("raw")).unwrap(), b"\0\xff\n");
    assert_eq!(std::fs::read(point.join("a/b/c")).unwrap(), b"deep");
    assert_eq!(
        std::fs::read(point.join(".attache.json")).unwrap(),
        b"{\"what\":1}"
    );
}

#[test]
fn stat_tells_what_was_written() {
    let kubelet = Kubelet::new();
    let (volumes, target) = with_deep_files(&kubelet);
    let (stat, metadata) = volumes.stat(&target).unwrap();
    assert!(stat.mounted && stat.whole);
    assert_eq!(
        stat.generation,
        Some(FolderName {
            seq: 0x2a,
            digest_prefix: [0xab; 8]
        })
    );
    assert_eq!((stat.files, stat.bytes), (3, 7));
    assert_eq!(stat.file_set, FileSet::of(&DEEP).digest());
    let mut text = String::new();
    File::from(metadata.unwrap())
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "{\"what\":1}");
}

#[test]
fn a_new_generation_replaces_every_file_of_the_old_one() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    volumes.attach(&target).unwrap();
    let point = kubelet.mount_point(&target);
    let rounds: [&[(&str, &str)]; 6] = [
        &FILES,
        &[
            ("db/username", "app"),
            ("db/password", "hunter3"),
            ("token", "t0ken"),
        ],
        &[("db", "now a file")],
        &[("db/password", "a folder again"), ("new", "1")],
        &[],
        &[("x", "2")],
    ];
    for (round, files) in rounds.iter().enumerate() {
        assert!(write(&volumes, &target, &sealed(round as u64 + 1, files)));
        assert_eq!(visible(&point), owned(files));
        assert_eq!(hidden(&point).len(), 2, "{:?}", hidden(&point));
        let (stat, _) = volumes.stat(&target).unwrap();
        assert!(stat.whole, "round {round}");
        assert_eq!(stat.file_set, digest(files));
    }
}

#[test]
fn an_open_file_keeps_its_bytes_through_swaps() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    volumes.attach(&target).unwrap();
    let point = kubelet.mount_point(&target);
    let mut held = Vec::new();
    for round in 0..200_u64 {
        let value = format!("value {round}");
        assert!(write(
            &volumes,
            &target,
            &sealed(round + 1, &[("db/password", &value), ("token", "t")])
        ));
        held.push((File::open(point.join("db/password")).unwrap(), value));
    }
    for (mut file, value) in held {
        let mut found = String::new();
        file.read_to_string(&mut found).unwrap();
        assert_eq!(found, value);
    }
}

#[test]
fn the_same_generation_is_not_written_again_and_other_metadata_is() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    volumes.attach(&target).unwrap();
    let point = kubelet.mount_point(&target);
    assert!(write(
        &volumes,
        &target,
        &sealed_with(7, &FILES, "{\"at\":1}")
    ));
    let inode = std::fs::metadata(point.join("token")).unwrap().ino();
    assert!(!write(
        &volumes,
        &target,
        &sealed_with(7, &FILES, "{\"at\":1}")
    ));
    assert_eq!(std::fs::metadata(point.join("token")).unwrap().ino(), inode);
    for metadata in ["{\"at\":2}", "{\"at\":22}", ""] {
        assert!(write(&volumes, &target, &sealed_with(7, &FILES, metadata)));
        assert_eq!(
            std::fs::read_to_string(point.join(".attache.json")).unwrap_or_default(),
            metadata
        );
        assert_eq!(visible(&point), owned(&FILES));
        assert!(volumes.stat(&target).unwrap().0.whole);
        assert_eq!(hidden(&point).len(), 2);
    }
}

#[test]
fn a_wiped_volume_holds_no_file() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    volumes.attach(&target).unwrap();
    write(&volumes, &target, &sealed(1, &FILES));
    assert!(volumes.wipe(&target).unwrap());
    assert!(!volumes.wipe(&target).unwrap());
    let point = kubelet.mount_point(&target);
    let mut names: Vec<_> = std::fs::read_dir(&point)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["..0-0000000000000000", "..data"]);
    assert_eq!(std::fs::read_dir(point.join("..data")).unwrap().count(), 0);
    let (stat, metadata) = volumes.stat(&target).unwrap();
    assert!(stat.whole && stat.files == 0 && metadata.is_none());
    assert_eq!(stat.generation, Some(FolderName::default()));
    assert!(write(&volumes, &target, &sealed(2, &FILES)));
    assert_eq!(visible(&point), owned(&FILES));
}

#[test]
fn detach_leaves_nothing_and_may_be_repeated() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    assert!(!volumes.detach(&target).unwrap());
    volumes.attach(&target).unwrap();
    write(&volumes, &target, &sealed(1, &FILES));
    // Another mount of the same tmpfs, as a leaked namespace would have one, and a file held open.
    let leaked = kubelet.path().join("leaked");
    std::fs::create_dir(&leaked).unwrap();
    rustix::mount::mount_bind(kubelet.mount_point(&target), &leaked).unwrap();
    let _busy = File::open(kubelet.mount_point(&target).join("token")).unwrap();
    assert!(volumes.detach(&target).unwrap());
    assert!(!kubelet.mount_point(&target).exists());
    assert!(kubelet.path().join(target.folder()).is_dir());
    assert_eq!(kubelet.mounts().len(), 1);
    assert_eq!(std::fs::read_dir(&leaked).unwrap().count(), 0);
    assert!(!volumes.detach(&target).unwrap());
    assert!(volumes.attach(&target).unwrap());
}

#[test]
fn detach_leaves_a_strangers_file_in_the_folder() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    std::fs::create_dir(kubelet.mount_point(&target)).unwrap();
    std::fs::write(kubelet.mount_point(&target).join("theirs"), "x").unwrap();
    volumes.attach(&target).unwrap();
    assert!(volumes.detach(&target).unwrap());
    assert_eq!(
        std::fs::read(kubelet.mount_point(&target).join("theirs")).unwrap(),
        b"x"
    );
}

#[test]
fn a_full_volume_keeps_what_it_has() {
    let kubelet = Kubelet::new();
    let limits = VolumeLimits {
        size_bytes: 64 * 1024,
        inodes: 24,
    };
    let (volumes, target) = (kubelet.volumes_with(limits), kubelet.volume("secrets"));
    volumes.attach(&target).unwrap();
    write(&volumes, &target, &sealed(1, &FILES));
    let big = "x".repeat(128 * 1024);
    let names: Vec<String> = (0..30).map(|n| format!("new{n:02}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    for files in [&[("db/password", big.as_str())][..], &many] {
        let generation = sealed(2, files);
        let refused = volumes
            .write(&target, memfd(&generation), generation.memfd_bytes())
            .unwrap_err();
        assert_eq!(refused.fault().code, FaultCode::NoSpace);
        assert_eq!(refused.fault().errno, Some(28));
        assert_eq!(visible(&kubelet.mount_point(&target)), owned(&FILES));
        let (stat, _) = volumes.stat(&target).unwrap();
        assert!(stat.whole);
        assert_eq!(stat.file_set, digest(&FILES));
    }
    assert!(write(&volumes, &target, &sealed(3, &[("x", "small")])));
}

#[test]
fn links_are_undone_when_the_swap_cannot_be_made() {
    let kubelet = Kubelet::new();
    // Inodes for the folder and its files, and for half of the links.
    let limits = VolumeLimits {
        size_bytes: 1024 * 1024,
        inodes: 40,
    };
    let (volumes, target) = (kubelet.volumes_with(limits), kubelet.volume("secrets"));
    volumes.attach(&target).unwrap();
    write(&volumes, &target, &sealed(1, &FILES));
    let names: Vec<String> = (0..20).map(|n| format!("new{n:02}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let generation = sealed(2, &many);
    let refused = volumes
        .write(&target, memfd(&generation), generation.memfd_bytes())
        .unwrap_err();
    assert!(
        matches!(
            &refused,
            MountError::Os {
                call: "symlink",
                ..
            }
        ),
        "{refused:?}"
    );
    assert!(volumes.stat(&target).unwrap().0.whole);
    assert_eq!(visible(&kubelet.mount_point(&target)), owned(&FILES));
    assert!(is_immutable(&kubelet.mount_point(&target)));
}

/// Sets or clears the immutable flag; the root's and `FILES`' folders and files.
fn flag(path: &Path, flags: IFlags) {
    let fd = open(path, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty()).unwrap();
    ioctl_setflags(fd, flags).unwrap();
}

/// Runs `damage` on a thawed file or folder.
fn on(path: &Path, damage: impl Fn(&Path)) {
    flag(path, IFlags::empty());
    damage(path);
    flag(path, IFlags::IMMUTABLE);
}

fn mode(path: &Path, bits: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(bits)).unwrap();
}

type Damage = (&'static str, fn(&Path));

/// What root, or a bug, could do to a volume that holds `FILES`.
const DAMAGES: [Damage; 13] = [
    ("a thawed root", |mount| flag(mount, IFlags::empty())),
    ("a thawed file", |mount| {
        flag(&mount.join("..data/token"), IFlags::empty())
    }),
    ("a thawed folder", |mount| {
        flag(&mount.join("..data/db"), IFlags::empty())
    }),
    ("another mode", |mount| {
        on(&mount.join("..data/token"), |file| mode(file, 0o440))
    }),
    ("a set-uid bit", |mount| {
        on(&mount.join("..data/token"), |file| mode(file, 0o4400))
    }),
    ("another owner", |mount| {
        on(&mount.join("..data/token"), |file| {
            std::os::unix::fs::chown(file, Some(0), None).unwrap()
        });
    }),
    ("another size", |mount| {
        on(&mount.join("..data/token"), |file| {
            std::fs::write(file, "longer than before").unwrap()
        });
    }),
    ("a file that is gone", |mount| {
        let folder = std::fs::canonicalize(mount.join("..data")).unwrap();
        flag(&folder.join("token"), IFlags::empty());
        on(&folder, |folder| {
            std::fs::remove_file(folder.join("token")).unwrap()
        });
    }),
    ("a link that is gone", |mount| {
        on(mount, |mount| {
            std::fs::remove_file(mount.join("token")).unwrap()
        })
    }),
    ("a link elsewhere", |mount| {
        on(mount, |mount| {
            std::fs::remove_file(mount.join("token")).unwrap();
            symlink("/etc/passwd", mount.join("token")).unwrap();
        });
    }),
    ("a file in place of a link", |mount| {
        on(mount, |mount| {
            std::fs::remove_file(mount.join("token")).unwrap();
            std::fs::write(mount.join("token"), "t0ken").unwrap();
        });
    }),
    ("an open folder with the name of one set aside", |mount| {
        on(mount, |mount| {
            std::fs::create_dir(mount.join("..left-0")).unwrap()
        })
    }),
    ("a folder in place of ..data", |mount| {
        on(mount, |mount| {
            std::fs::remove_file(mount.join("..data")).unwrap();
            std::fs::create_dir(mount.join("..data")).unwrap();
        });
    }),
];

#[test]
fn whatever_is_changed_in_a_volume_is_noticed_and_mended() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    volumes.attach(&target).unwrap();
    let point = kubelet.mount_point(&target);
    write(&volumes, &target, &sealed(1, &FILES));
    for (name, damage) in DAMAGES {
        damage(&point);
        let (stat, _) = volumes.stat(&target).unwrap();
        let same_files = stat.file_set == digest(&FILES);
        assert!(!stat.whole || !same_files, "{name}");
        // Of all this, a reader would not notice two.
        let unnoticed = [
            "a thawed root",
            "an open folder with the name of one set aside",
        ];
        let to_a_reader = stat.complete && same_files;
        assert_eq!(to_a_reader, unnoticed.contains(&name), "{name}");
        assert!(write(&volumes, &target, &sealed(1, &FILES)), "{name}");
        let (stat, _) = volumes.stat(&target).unwrap();
        assert!(stat.whole && stat.file_set == digest(&FILES), "{name}");
        assert_eq!(visible(&point), owned(&FILES), "{name}");
    }
}

#[test]
fn a_memory_file_that_is_not_one_changes_nothing() {
    let kubelet = Kubelet::new();
    let (volumes, target) = (kubelet.volumes(), kubelet.volume("secrets"));
    volumes.attach(&target).unwrap();
    let good = sealed(1, &FILES);
    let unsealed = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::write(&unsealed, b"abc").unwrap();
    let mut noise = attache_arena::MemfdWriter::new("test", 3).unwrap();
    noise.write_all(b"abc").unwrap();
    let noise = noise.seal().unwrap().as_fd().try_clone_to_owned().unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    for (fd, len, expected) in [
        (unsealed, 3, FaultCode::BadMemfd),
        (memfd(&good), good.memfd_bytes() + 1, FaultCode::BadMemfd),
        (memfd(&good), 1 << 40, FaultCode::BadGeneration),
        (noise, 3, FaultCode::BadGeneration),
        (socket.into(), 3, FaultCode::BadMemfd),
    ] {
        assert_eq!(
            code(&volumes.write(&target, fd, len).unwrap_err()),
            expected
        );
    }
    assert_eq!(volumes.stat(&target).unwrap().0.generation, None);
    assert!(write(&volumes, &target, &good));
}

#[test]
fn an_older_kernel_is_served_without_what_it_lacks() {
    let kubelet = Kubelet::new();
    let volumes = kubelet.volumes().with_facts(Facts::default());
    let target = kubelet.volume("secrets");
    volumes.attach(&target).unwrap();
    write(&volumes, &target, &sealed(1, &FILES));
    assert!(!kubelet.mounts().concat().contains("noswap"));
    assert!(!is_immutable(
        &kubelet.mount_point(&target).join("..data/token")
    ));
    assert!(volumes.stat(&target).unwrap().0.whole);
    assert!(write(&volumes, &target, &sealed(2, &FILES[..1])));
    assert!(volumes.detach(&target).unwrap());
}

#[test]
fn this_kernel_has_both() {
    // The tests of immutability and of noswap mean something only where this holds.
    let facts = Kubelet::new().volumes().facts();
    assert_eq!(
        facts,
        Facts {
            noswap: true,
            inode_flags: true
        }
    );
}

#[test]
fn list_names_every_volume_once_in_pages() {
    let kubelet = Kubelet::new();
    let volumes = kubelet.volumes();
    let names: Vec<String> = (0..LIST_PAGE + 3).map(|n| format!("v{n:02}")).collect();
    let mut all: Vec<Target> = names.iter().map(|name| kubelet.volume(name)).collect();
    for target in all.iter().rev() {
        volumes.attach(target).unwrap();
    }
    let stranger = kubelet.volume("stranger");
    foreign_tmpfs(&kubelet, &stranger, "tmpfs");
    all.sort();
    assert_eq!(
        volumes.list(None).unwrap(),
        (all[..LIST_PAGE].to_vec(), true)
    );
    assert_eq!(
        volumes.list(Some(&all[LIST_PAGE - 1])).unwrap(),
        (all[LIST_PAGE..].to_vec(), false)
    );
    assert_eq!(volumes.list(all.last()).unwrap(), (Vec::new(), false));
    // One in a folder of kubelet's that is reached by another name is still the same one.
    let link = kubelet.path().with_extension("link");
    symlink(kubelet.path(), &link).unwrap();
    let linked = Volumes::open(&link, VolumeLimits::default(), Failpoints::default()).unwrap();
    std::fs::remove_file(&link).unwrap();
    assert_eq!(linked.list(None).unwrap().0, all[..LIST_PAGE]);
}
