//! The one place where a volume's path is walked: from a held descriptor of kubelet's folder, part by part, through
//! no link, to the mount point.
//!
//! A [`Target`] decides the path; this module decides what is really there. It must never follow a link, and never
//! take a folder for a mount: what counts is whether the mount point's mount is another one than its parent's.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, fstatfs, mkdirat, open, openat, openat2, readlink,
    unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::error::MountError;
use super::mount_id::{KnownMounts, MountId, table_id};
use super::mountinfo;
use crate::volume::{Target, VolumeId};

const MOUNT: &str = "mount";
/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Kubelet's folder, held open.
pub(super) struct KubeletDir {
    fd: OwnedFd,
    /// As the kernel names it, without links: what mountinfo's paths begin with.
    pub(super) path: PathBuf,
    known: KnownMounts,
}

impl KubeletDir {
    /// Opens kubelet's folder. Links in `path` itself are the administrator's and are followed.
    pub(super) fn open(path: &Path) -> Result<Self, MountError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty()).map_err(MountError::os("open(kubelet_dir)"))?;
        let name = readlink(proc_path(fd.as_fd()), Vec::new())
            .map_err(MountError::os("readlink(kubelet_dir)"))?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(name.into_bytes()));
        Ok(Self {
            fd,
            path,
            known: KnownMounts::default(),
        })
    }

    /// Opens the folder that kubelet made for a volume.
    pub(super) fn volume(&self, target: &Target) -> Result<VolumeFolder<'_>, MountError> {
        match open_folder(self.fd.as_fd(), &target.folder())? {
            Some(fd) => Ok(VolumeFolder {
                fd,
                id: target.volume_id(),
                known: &self.known,
            }),
            None => Err(MountError::NoVolumeFolder),
        }
    }
}

/// The folder that kubelet made for a volume; its `mount` is the mount point.
pub(super) struct VolumeFolder<'a> {
    fd: OwnedFd,
    pub(super) id: VolumeId,
    known: &'a KnownMounts,
}

/// What is at the mount point.
pub(super) enum Found {
    /// No folder at all.
    Nothing,
    /// A folder with nothing mounted.
    Folder(OwnedFd),
    /// This volume's tmpfs.
    Ours(Mounted),
}

/// A mounted volume.
pub(super) struct Mounted {
    /// The root of the tmpfs, O_PATH.
    fd: OwnedFd,
    pub(super) id: MountId,
}

impl Mounted {
    /// Opens the root for reading, to list and to flag it.
    pub(super) fn root(&self) -> Result<OwnedFd, MountError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.fd, ".", flags, Mode::empty()).map_err(MountError::os("open(volume)"))
    }
}

impl VolumeFolder<'_> {
    /// Looks at the mount point.
    ///
    /// # Errors
    /// [`MountError::ForeignMount`] when anything but this volume's tmpfs is mounted there.
    pub(super) fn look(&self) -> Result<Found, MountError> {
        let Some(fd) = open_folder(self.fd.as_fd(), MOUNT)? else {
            return Ok(Found::Nothing);
        };
        let id = MountId::of(fd.as_fd())?;
        if id == MountId::of(self.fd.as_fd())? {
            return Ok(Found::Folder(fd));
        }
        if !self.known.are(id, self.id) {
            self.check(fd.as_fd())?;
            self.known.learn(id, self.id);
        }
        Ok(Found::Ours(Mounted { fd, id }))
    }

    /// Looks up in the mount table whether the root of a mount is that of this volume's tmpfs.
    fn check(&self, root: BorrowedFd<'_>) -> Result<(), MountError> {
        let kind = fstatfs(root).map_err(MountError::os("fstatfs"))?.f_type;
        let id = table_id(root)?;
        let source = self.id.to_string();
        let is_ours = |mount: mountinfo::Mount| {
            mount.id == id
                && mount.is_tmpfs()
                && mount.is_whole()
                && mount.source == source.as_bytes()
        };
        if u64::try_from(kind) == Ok(TMPFS_MAGIC) && mountinfo::read()?.mounts().any(is_ours) {
            Ok(())
        } else {
            Err(MountError::ForeignMount)
        }
    }

    /// The mounted volume.
    ///
    /// # Errors
    /// [`MountError::NotMounted`]; [`MountError::ForeignMount`].
    pub(super) fn mounted(&self) -> Result<Mounted, MountError> {
        match self.look()? {
            Found::Ours(mounted) => Ok(mounted),
            Found::Nothing | Found::Folder(_) => Err(MountError::NotMounted),
        }
    }

    /// Answers whether `mount` is what is on top of the mount point.
    pub(super) fn has(&self, mount: MountId) -> Result<bool, MountError> {
        match open_folder(self.fd.as_fd(), MOUNT)? {
            Some(fd) => Ok(MountId::of(fd.as_fd())? == mount),
            None => Ok(false),
        }
    }

    /// Remembers a tmpfs that was made for this volume and is in its place.
    pub(super) fn learn(&self, mount: MountId) {
        self.known.learn(mount, self.id);
    }

    /// Makes the mount point, which is for the driver to do; only root gets in until it is covered.
    pub(super) fn make_mount_point(&self) -> Result<OwnedFd, MountError> {
        mkdirat(&self.fd, MOUNT, Mode::from_raw_mode(0o750))
            .map_err(MountError::os("mkdir(mount)"))?;
        match self.look()? {
            Found::Folder(fd) => Ok(fd),
            Found::Nothing | Found::Ours(_) => {
                Err(MountError::NotAsWritten("the mount point is another"))
            }
        }
    }

    /// Removes the mount point. One that is gone already is fine; one that is not empty holds what nobody here put
    /// there, and stays.
    pub(super) fn remove_mount_point(&self) -> Result<(), MountError> {
        match unlinkat(&self.fd, MOUNT, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
            Err(source) => Err(MountError::Os {
                call: "rmdir(mount)",
                source,
            }),
        }
    }

    /// Unmounts the volume, which was seen on top of the mount point, busy or not. The last part of the path is not
    /// followed, and those before it are this open folder.
    pub(super) fn unmount(&self, mounted: &Mounted) -> Result<(), MountError> {
        let path = format!("{}/{MOUNT}", proc_path(self.fd.as_fd()));
        unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(MountError::os("umount"))?;
        self.known.forget(mounted.id);
        Ok(())
    }
}

/// The path by which the kernel finds an open file of this process, whatever its name is by now.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Opens a folder beneath `from`, through no link of any kind; `None` when it is not there.
fn open_folder(from: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, MountError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(from, path, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(source @ (Errno::LOOP | Errno::XDEV | Errno::NOTDIR)) => {
            Err(MountError::PathRefused { source })
        }
        Err(source) => Err(MountError::Os {
            call: "openat2",
            source,
        }),
    }
}

#[cfg(test)]
mod tests;
