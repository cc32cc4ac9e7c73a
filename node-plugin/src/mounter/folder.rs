//! Folders of a volume: the immutable flag, listing, removal. Everything goes by an open folder and one name in it;
//! nothing follows a link.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, IFlags, Mode, OFlags, fchmod, ioctl_setflags, openat, unlinkat};
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

    /// Removes an entry and all beneath it. Its folder is closed to everyone but root first, so that no owner of a
    /// file gets to it by a path once the file is no longer immutable.
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
        match names(fd.as_fd()) {
            Ok(inner) => {
                self.thaw(fd.as_fd())?;
                fchmod(&fd, Mode::empty()).map_err(MountError::os("fchmod(old)"))?;
                for name in inner {
                    self.remove(fd.as_fd(), &name)?;
                }
                unlink(parent, name, AtFlags::REMOVEDIR)
            }
            Err(MountError::Os {
                source: Errno::NOTDIR,
                ..
            }) => {
                self.thaw(fd.as_fd())?;
                unlink(parent, name, AtFlags::empty())
            }
            Err(error) => Err(error),
        }
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
