//! The verbs against real mounts, below a folder that plays kubelet's; as root.

mod crash;
mod hostile;
mod verbs;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::mount::{UnmountFlags, unmount};

use super::{Failpoints, VolumeLimits, Volumes};
use crate::ipc::{FileSet, Generation, NewFile, SealedGeneration};
use crate::volume::{PodUid, Target, VolumeName};

const UID: &str = "0b2ed5e2-2f7c-4a41-93a3-5d4bb1d6e8f0";

/// Kubelet's folder; whatever is mounted in it is unmounted in the end.
pub(super) struct Kubelet {
    dir: tempfile::TempDir,
}

impl Kubelet {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Kubelet's own is 0750; here uid 1000 is to come through.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self { dir }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A volume as kubelet prepares it: with its folder, without the mount point.
    pub(super) fn volume(&self, name: &str) -> Target {
        let target = Target {
            pod: PodUid::parse(UID).unwrap(),
            volume: VolumeName::parse(name).unwrap(),
        };
        std::fs::create_dir_all(self.path().join(target.folder())).unwrap();
        target
    }

    pub(super) fn volumes(&self) -> Volumes {
        self.volumes_with(VolumeLimits::default())
    }

    fn volumes_with(&self, limits: VolumeLimits) -> Volumes {
        Volumes::open(self.path(), limits, Failpoints::default()).unwrap()
    }

    pub(super) fn mount_point(&self, target: &Target) -> PathBuf {
        target.path(self.path())
    }

    /// The lines of mountinfo below this folder.
    fn mounts(&self) -> Vec<String> {
        let root = format!(" {}/", self.path().display());
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        table
            .lines()
            .filter(|line| line.contains(&root))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        for _ in 0..8 {
            for line in self.mounts().iter().rev() {
                let point = line.split(' ').nth(4).unwrap();
                let _gone = unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
            }
        }
    }
}

/// A generation of files that belong to uid 1000, and its metadata.
fn sealed(seq: u64, files: &[(&str, &str)]) -> SealedGeneration {
    sealed_with(seq, files, &format!("{{\"seq\":{seq}}}"))
}

fn sealed_with(seq: u64, files: &[(&str, &str)], metadata: &str) -> SealedGeneration {
    let generation = Generation {
        incarnation: 1,
        seq,
        digest: [u8::try_from(seq % 251).unwrap(); 32],
    };
    SealedGeneration::seal(&generation, &new_files(files), metadata.as_bytes()).unwrap()
}

fn new_files<'a>(files: &[(&'a str, &'a str)]) -> Vec<NewFile<'a>> {
    let file = |(path, value): &(&'a str, &'a str)| NewFile {
        path,
        mode: 0o400,
        uid: 1000,
        gid: None,
        value: value.as_bytes(),
    };
    files.iter().map(file).collect()
}

fn digest(files: &[(&str, &str)]) -> [u8; 32] {
    FileSet::of(&new_files(files)).digest()
}

fn memfd(sealed: &SealedGeneration) -> OwnedFd {
    sealed.as_fd().try_clone_to_owned().unwrap()
}

fn write(volumes: &Volumes, target: &Target, sealed: &SealedGeneration) -> bool {
    volumes
        .write(target, memfd(sealed), sealed.memfd_bytes())
        .unwrap()
}

/// The files that a container would find by walking the links at the root of its mount, `.attache.json` aside.
fn visible(mount: &Path) -> BTreeMap<String, String> {
    fn walk(folder: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("..") || name == ".attache.json" {
                continue;
            }
            let path = format!("{prefix}{name}");
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{path}/"), found);
            } else {
                found.insert(path, std::fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(mount, "", &mut found);
    found
}

fn owned(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files
        .iter()
        .map(|(path, value)| ((*path).to_owned(), (*value).to_owned()))
        .collect()
}

/// `..data`, its folder, and nothing else that begins with `..`.
fn hidden(mount: &Path) -> Vec<String> {
    let names = std::fs::read_dir(mount)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut hidden: Vec<String> = names.filter(|name| name.starts_with("..")).collect();
    hidden.sort();
    hidden
}

fn is_immutable(path: &Path) -> bool {
    let stat = statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS,
    )
    .unwrap();
    stat.stx_attributes.contains(StatxAttributes::IMMUTABLE)
}

/// Owner, group and permission bits.
fn kind(path: &Path) -> (u32, u32, u32) {
    let stat = std::fs::symlink_metadata(path).unwrap();
    (stat.uid(), stat.gid(), stat.mode() & 0o7777)
}
