//! A volume's file system: a small tmpfs, made detached, hardened before anybody can see it, then moved onto the
//! mount point's descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use super::error::MountError;
use super::folder;
use super::target::proc_path;
use crate::ipc::Facts;

/// How much a volume may hold, its old generations that are still open somewhere included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeLimits {
    /// Bytes of pages.
    pub size_bytes: u64,
    /// Files, folders and links.
    pub inodes: u32,
}

impl Default for VolumeLimits {
    /// 16 MiB and 8,192 inodes: the largest generation fifteen times over, or hundreds of small ones held open.
    fn default() -> Self {
        Self {
            size_bytes: 16 * 1024 * 1024,
            inodes: 8192,
        }
    }
}

/// What files carry under SELinux: the type that containers may read, without categories, so whichever the runtime draws
/// for the pod. Kubelet hands a label over for persistent volumes alone, and what is mounted read-only nobody relabels.
const LABEL: &str = "system_u:object_r:container_file_t:s0";

/// What a tmpfs is made with where the kernel can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Options {
    /// Its pages stay in memory.
    pub(super) noswap: bool,
    /// Its files have [`LABEL`]: SELinux is on.
    pub(super) label: bool,
}

impl Options {
    /// Every set, best first.
    const ALL: [Self; 4] = [
        Self::of(true, true),
        Self::of(true, false),
        Self::of(false, true),
        Self::of(false, false),
    ];

    const fn of(noswap: bool, label: bool) -> Self {
        Self { noswap, label }
    }
}

/// Finds out what this kernel's tmpfs can do, and whether it takes [`LABEL`], on one that nobody sees;
/// `without_inode_flags` is for tests of what happens without.
///
/// # Errors
/// [`MountError::Os`] when this process cannot make a tmpfs at all.
pub(super) fn probe(without_inode_flags: bool) -> Result<(Facts, bool), MountError> {
    let (mount, options) = best()?;
    let root = open_root(mount.as_fd())?;
    let inode_flags = match folder::set_immutable(root.as_fd(), true) {
        Ok(()) => !without_inode_flags,
        Err(MountError::Os {
            source: Errno::NOTTY | Errno::OPNOTSUPP,
            ..
        }) => false,
        Err(error) => return Err(error),
    };
    let facts = Facts {
        noswap: options.noswap,
        inode_flags,
    };
    Ok((facts, options.label))
}

/// A tmpfs with the best options that the kernel takes.
fn best() -> Result<(OwnedFd, Options), MountError> {
    let limits = VolumeLimits::default();
    let [first @ .., last] = Options::ALL;
    for options in first {
        match make("attache-probe", limits, options) {
            Ok(mount) => return Ok((mount, options)),
            // It does not know one of them.
            Err(MountError::Os {
                source: Errno::INVAL,
                ..
            }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((make("attache-probe", limits, last)?, last))
}

/// Makes a tmpfs that is mounted nowhere yet: nosuid, nodev, noexec, its root 0555 and root's.
///
/// # Errors
/// [`MountError::Os`]; EINVAL for `noswap` on a kernel before 6.4, and for a label where SELinux is off.
pub(super) fn make(
    source: &str,
    limits: VolumeLimits,
    options: Options,
) -> Result<OwnedFd, MountError> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(MountError::os("fsopen"))?;
    let size = limits.size_bytes.to_string();
    let inodes = limits.inodes.to_string();
    let settings = [
        ("source", source),
        ("size", &size),
        ("nr_inodes", &inodes),
        ("mode", "0555"),
        ("uid", "0"),
        ("gid", "0"),
    ];
    for (key, value) in settings {
        fsconfig_set_string(&context, key, value).map_err(MountError::os("fsconfig"))?;
    }
    if options.noswap {
        fsconfig_set_flag(&context, "noswap").map_err(MountError::os("fsconfig(noswap)"))?;
    }
    if options.label {
        fsconfig_set_string(&context, "context", LABEL)
            .map_err(MountError::os("fsconfig(context)"))?;
    }
    fsconfig_create(&context).map_err(MountError::os("fsconfig(create)"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(MountError::os("fsmount"))
}

/// Opens the root of a mount that [`make`] made.
pub(super) fn open_root(mount: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(mount, ".", flags, Mode::empty()).map_err(MountError::os("open(tmpfs)"))
}

/// Moves a detached mount onto an open folder, by descriptors alone.
pub(super) fn move_onto(mount: BorrowedFd<'_>, folder: BorrowedFd<'_>) -> Result<(), MountError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", folder, "", flags).map_err(MountError::os("move_mount"))
}

/// Unmounts the very mount that `mount` is open on, wherever it has got to.
pub(super) fn unmount_itself(mount: BorrowedFd<'_>) -> Result<(), MountError> {
    unmount(proc_path(mount), UnmountFlags::DETACH).map_err(MountError::os("umount"))
}

/// Answers whether any swap is on, from the text of `/proc/swaps`: a headline, then a line a device or file.
pub(super) fn swap_is_on(swaps: &str) -> bool {
    swaps.lines().skip(1).any(|line| !line.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::swap_is_on;

    #[test]
    fn swap_is_on_when_a_line_follows_the_headline() {
        let headline = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(!swap_is_on(headline));
        assert!(!swap_is_on(""));
        assert!(swap_is_on(&format!(
            "{headline}/dev/sda2 partition\t1048572\t0\t-2\n"
        )));
    }
}
