//! Folders of a volume: the immutable flag, listing, removal. Everything goes by an open folder and one name in it;
//! nothing follows a link.
//!
//! A file belongs to its container, whose processes may take a lease on it (fcntl(2), F_SETLEASE): every open of the
//! file then fails or waits. So nothing here rests on opening a file that a container could reach: one that cannot be
//! removed is set aside under a name of its own, closed and frozen, and is tried again with each change of the volume.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, IFlags, Mode, OFlags, RenameFlags, Uid, fchmod, fchown, fstat,
    ioctl_setflags, openat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::error::MountError;
use crate::telemetry::chain;

/// What the names of those begin with that were set aside; a number follows.
const ASIDE: &str = "..left-";

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

    /// Removes every entry of the root that `keep` does not want; within [`unlocked`](Self::unlocked) only. What
    /// cannot be removed is set aside: it stands in the way of nothing, and is no reason to refuse a change.
    pub(super) fn remove_others(&self, keep: impl Fn(&CStr) -> bool) -> Result<(), MountError> {
        for name in names(self.fd.as_fd())? {
            if keep(&name) {
                continue;
            }
            let Err(error) = self.remove(self.fd.as_fd(), &name) else {
                continue;
            };
            // Once: it is tried again with every change.
            if !is_aside(&name) {
                let error = chain(&error);
                let aside = self.set_aside(&name).is_ok();
                tracing::warn!(
                    ?name,
                    %error,
                    aside,
                    "a part of a volume cannot be removed yet: a process may hold a lease on a file of it"
                );
            }
        }
        Ok(())
    }

    /// Renames a folder of the root to the first free name of those that are set aside.
    fn set_aside(&self, name: &CStr) -> Result<(), MountError> {
        let folder = self.thaw_folder(name)?;
        let root = self.fd.as_fd();
        for number in 0_u32.. {
            match renameat_with(
                root,
                name,
                root,
                format!("{ASIDE}{number}"),
                RenameFlags::NOREPLACE,
            ) {
                Ok(()) => break,
                Err(Errno::EXIST) => {}
                Err(source) => {
                    return Err(MountError::Os {
                        call: "rename(aside)",
                        source,
                    });
                }
            }
        }
        self.freeze(folder.as_fd())
    }

    /// Removes an entry and all beneath it. What has to stay is frozen again, and in a folder the rest goes all the
    /// same.
    ///
    /// An owner may change the mode of its file as soon as that is thawed, by a path or through a descriptor that it
    /// holds. So a folder is closed to everyone but root before anything in it is touched, and a file goes to root
    /// right after it is thawed; those who have it open read on. In between, for as long as three system calls take, its
    /// owner can change the mode through a descriptor, since nothing takes the flag and the owner away at once: of a file
    /// that has no way to it any more, and on a read-write mount only.
    pub(super) fn remove(&self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), MountError> {
        let fd = match open_old(parent, name, OFlags::RDONLY) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            // A link: it has no flags of its own.
            Err(Errno::LOOP) => return unlink(parent, name, AtFlags::empty()),
            Err(source) => return Err(MountError::os("open(old)")(source)),
        };
        let stat = fstat(&fd).map_err(MountError::os("fstat(old)"))?;
        self.thaw(fd.as_fd())?;
        let removed = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            self.remove_folder(fd.as_fd(), parent, name)
        } else {
            remove_file(fd.as_fd(), parent, name)
        };
        if removed.is_err() {
            self.freeze(fd.as_fd())?;
        }
        removed
    }

    fn remove_folder(
        &self,
        folder: BorrowedFd<'_>,
        parent: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(), MountError> {
        take_away(folder)?;
        let mut emptied = Ok(());
        for inner in names(folder)? {
            emptied = emptied.and(self.remove(folder, &inner));
        }
        emptied?;
        unlink(parent, name, AtFlags::REMOVEDIR)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Answers whether an entry of the root has the name of one that was set aside.
pub(super) fn is_aside(name: &CStr) -> bool {
    let number = name.to_bytes().strip_prefix(ASIDE.as_bytes());
    number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
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

/// Opens what is to be removed; never waits.
fn open_old(parent: BorrowedFd<'_>, name: &CStr, access: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn remove_file(
    file: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &CStr,
) -> Result<(), MountError> {
    // What is open for writing can have no lease and no delegation (F_SETDELEG, kernel 6.19), and changing the owner
    // of a file with a delegation, or removing it, would wait for that.
    let _unleased =
        open_old(parent, name, OFlags::WRONLY).map_err(MountError::os("open(old, to write)"))?;
    take_away(file)?;
    unlink(parent, name, AtFlags::empty())
}

/// Makes a thawed file or folder root's, with no mode bit.
fn take_away(fd: BorrowedFd<'_>) -> Result<(), MountError> {
    fchown(fd, Some(Uid::ROOT), Some(Gid::ROOT)).map_err(MountError::os("fchown(old)"))?;
    fchmod(fd, Mode::empty()).map_err(MountError::os("fchmod(old)"))
}

fn unlink(parent: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), MountError> {
    unlinkat(parent, name, flags).map_err(MountError::os("unlink"))
}
