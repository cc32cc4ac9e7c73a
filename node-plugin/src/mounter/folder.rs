//! Folders of a volume: the immutable flag, listing, removal. Everything goes by an open folder and one name in it;
//! nothing follows a link.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, IFlags, Mode, OFlags, Uid, fchmod, fchown, fstat, ioctl_setflags,
    openat, unlinkat,
};
use rustix::io::Errno;

use super::error::MountError;

/// The root of a mounted volume, open for reading; immutable except within [`unlocked`](Self::unlocked).
pub(super) struct Root {
    fd: OwnedFd,
    /// The kernel has inode flags on tmpfs.
    inode_flags: bool,
}

impl Root {
    pub(super) fn new(fd: OwnedFd, inode_flags: bool) -> Self {
        Self { fd, inode_flags }
    }

    /// Whether immutability can be had here.
    pub(super) fn inode_flags(&self) -> bool {
        self.inode_flags
    }

    /// Makes a file or folder of the volume immutable, where the kernel can.
    pub(super) fn freeze(&self, fd: BorrowedFd<'_>) -> Result<(), MountError> {
        if self.inode_flags {
            set_immutable(fd, true)
        } else {
            Ok(())
        }
    }

    fn thaw(&self, fd: BorrowedFd<'_>) -> Result<(), MountError> {
        if self.inode_flags {
            set_immutable(fd, false)
        } else {
            Ok(())
        }
    }

    /// Thaws a folder of the volume that is to be renamed or removed.
    pub(super) fn thaw_folder(&self, name: &CStr) -> Result<OwnedFd, MountError> {
        let folder = open_folder(self.fd.as_fd(), name)?;
        self.thaw(folder.as_fd())?;
        Ok(folder)
    }

    /// Runs `change` with the root thawed, and freezes it again whatever comes of it.
    pub(super) fn unlocked<T>(
        &self,
        change: impl FnOnce(BorrowedFd<'_>) -> Result<T, MountError>,
    ) -> Result<T, MountError> {
        self.thaw(self.fd.as_fd())?;
        let changed = change(self.fd.as_fd());
        let frozen = self.freeze(self.fd.as_fd());
        let value = changed?;
        frozen.map(|()| value)
    }

    /// Removes every entry of the root that `keep` does not want; within [`unlocked`](Self::unlocked) only.
    pub(super) fn remove_others(&self, keep: impl Fn(&CStr) -> bool) -> Result<(), MountError> {
        for name in names(self.fd.as_fd())? {
            if !keep(&name) {
                self.remove(self.fd.as_fd(), &name)?;
            }
        }
        Ok(())
    }

    /// Removes an entry and all beneath it.
    ///
    /// An owner may change the mode of its file as soon as that is thawed, by a path or through a descriptor that it
    /// holds. So a folder is closed to everyone but root before anything in it is touched, and a file goes to root
    /// right after it is thawed; those who have it open read on. In between, for as long as two system calls take, its
    /// owner can change the mode through a descriptor, since nothing takes the flag and the owner away at once: of a file
    /// that has no way to it any more, and on a read-write mount only.
    pub(super) fn remove(&self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), MountError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            // A link: it has no flags of its own.
            Err(Errno::LOOP) => return unlink(parent, name, AtFlags::empty()),
            Err(source) => {
                return Err(MountError::Os {
                    call: "open(old)",
                    source,
                });
            }
        };
        let stat = fstat(&fd).map_err(MountError::os("fstat(old)"))?;
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        self.thaw(fd.as_fd())?;
        fchown(&fd, Some(Uid::ROOT), Some(Gid::ROOT)).map_err(MountError::os("fchown(old)"))?;
        fchmod(&fd, Mode::empty()).map_err(MountError::os("fchmod(old)"))?;
        if !is_folder {
            return unlink(parent, name, AtFlags::empty());
        }
        for inner in names(fd.as_fd())? {
            self.remove(fd.as_fd(), &inner)?;
        }
        unlink(parent, name, AtFlags::REMOVEDIR)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sets or clears `FS_IMMUTABLE_FL`, and clears every other flag.
pub(super) fn set_immutable(fd: BorrowedFd<'_>, immutable: bool) -> Result<(), MountError> {
    let flags = if immutable {
        IFlags::IMMUTABLE
    } else {
        IFlags::empty()
    };
    ioctl_setflags(fd, flags).map_err(MountError::os("ioctl(FS_IOC_SETFLAGS)"))
}

/// The names in a folder, in no order.
pub(super) fn names(folder: BorrowedFd<'_>) -> Result<Vec<CString>, MountError> {
    let entries = Dir::read_from(folder).map_err(MountError::os("open(folder)"))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(MountError::os("getdents"))?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Opens a folder by its name in `parent`.
pub(super) fn open_folder(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(MountError::os("open(folder)"))
}

fn unlink(parent: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), MountError> {
    unlinkat(parent, name, flags).map_err(MountError::os("unlink"))
}
