//! Files that only their owner may read: keys and what stands beside them.
//!
//! Written whole or not at all: a temporary file in the same folder, 0600 from its first byte, fsync, rename, fsync of
//! the folder. Read only after the open file (never the path) was seen to be regular, ours and closed to others; or root's
//! and readable by our own group alone, as a Secret is mounted for a pod whose user is not root.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::process::{getegid, geteuid};
use zeroize::Zeroizing;

/// The largest private file that is read, in bytes.
pub const MAX_PRIVATE_BYTES: u64 = 256 * 1024;

/// Why a private file was not written or not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateFileError {
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The path has no file name.
    #[error("{} does not name a file", path.display())]
    Name {
        /// The path.
        path: PathBuf,
    },
    /// A folder, device, socket or link.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// Open to the group or to others.
    #[error("{} has mode {mode:04o}; nobody but its owner may have access: chmod 600", path.display())]
    Mode {
        /// The path.
        path: PathBuf,
        /// The permission bits found.
        mode: u32,
    },
    /// Somebody else's.
    #[error("{} belongs to uid {found}; this process runs as uid {expected}", path.display())]
    Owner {
        /// The path.
        path: PathBuf,
        /// The owner found.
        found: u32,
        /// The effective uid of this process.
        expected: u32,
    },
    /// Over [`MAX_PRIVATE_BYTES`].
    #[error("{} is over {MAX_PRIVATE_BYTES} bytes", path.display())]
    TooLarge {
        /// The path.
        path: PathBuf,
    },
}

/// Replaces the file at `path` by `bytes`, mode 0600, durably.
///
/// # Errors
/// [`PrivateFileError::Io`] names the step; the old file is untouched unless the rename succeeded.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let temporary = temporary_beside(path)?;
    let written = create_new(&temporary, Mode::RUSR | Mode::WUSR)
        .and_then(|mut file| {
            let write = file.write_all(bytes).and_then(|()| file.sync_all());
            write.map_err(|source| io("write", &temporary, source))
        })
        .and_then(|()| {
            std::fs::rename(&temporary, path).map_err(|source| io("replace", path, source))
        });
    if let Err(error) = written {
        // The first failure is the one to tell; what is left is a file of 0600 under a random name.
        drop(std::fs::remove_file(&temporary));
        return Err(error);
    }
    let folder = folder_of(path);
    File::open(folder)
        .and_then(|open| open.sync_all())
        .map_err(|source| io("sync", folder, source))
}

/// Writes a new file, mode 0400, durably; a file that is there already is never touched.
///
/// # Errors
/// [`PrivateFileError::Io`] names the step; what was begun is taken away again.
pub fn create_private_once(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let mut file = create_new(path, Mode::RUSR)?;
    let folder = folder_of(path);
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|source| io("write", path, source))
        .and_then(|()| {
            let synced = File::open(folder).and_then(|open| open.sync_all());
            synced.map_err(|source| io("sync", folder, source))
        });
    if written.is_err() {
        drop(std::fs::remove_file(path));
    }
    written
}

/// Reads a file that must be regular, owned by this process's effective uid, and closed to group and others. A process that
/// is not root's also takes one of root's that nobody may write and only its own group may read.
///
/// # Errors
/// [`PrivateFileError`] says which of these it is not.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    // NONBLOCK: a FIFO put in the file's place must not hold the process.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let open =
        fs::open(path, flags, Mode::empty()).map_err(|source| io("open", path, source.into()))?;
    let size = check(&open, path)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0)));
    let mut limited = File::from(open).take(MAX_PRIVATE_BYTES + 1);
    limited
        .read_to_end(&mut bytes)
        .map_err(|source| io("read", path, source))?;
    if bytes.len() as u64 > MAX_PRIVATE_BYTES {
        return Err(PrivateFileError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

fn check(open: &OwnedFd, path: &Path) -> Result<u64, PrivateFileError> {
    let stat = fs::fstat(open).map_err(|source| io("inspect", path, source.into()))?;
    let path = path.to_owned();
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(PrivateFileError::NotRegular { path });
    }
    let mode = stat.st_mode & 0o7777;
    let expected = geteuid().as_raw();
    let mounted = expected != 0
        && stat.st_uid == 0
        && stat.st_gid == getegid().as_raw()
        && mode & !0o440 == 0;
    if mode & 0o077 != 0 && !mounted {
        return Err(PrivateFileError::Mode { path, mode });
    }
    if stat.st_uid != expected && !mounted {
        return Err(PrivateFileError::Owner {
            path,
            found: stat.st_uid,
            expected,
        });
    }
    u64::try_from(stat.st_size)
        .ok()
        .filter(|size| *size <= MAX_PRIVATE_BYTES)
        .ok_or(PrivateFileError::TooLarge { path })
}

fn create_new(path: &Path, mode: Mode) -> Result<File, PrivateFileError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    fs::open(path, flags, mode)
        .map(File::from)
        .map_err(|source| io("create", path, source.into()))
}

fn temporary_beside(path: &Path) -> Result<PathBuf, PrivateFileError> {
    let name = path.file_name().ok_or_else(|| PrivateFileError::Name {
        path: path.to_owned(),
    })?;
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).map_err(|_| {
        io(
            "name a temporary file beside",
            path,
            std::io::Error::other("no randomness"),
        )
    })?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:016x}", u64::from_be_bytes(random)));
    Ok(path.with_file_name(temporary))
}

/// The folder that a path's name stands in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> PrivateFileError {
    PrivateFileError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn what_is_written_reads_back_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        for bytes in [&b"first"[..], b"second, longer", b""] {
            write_private(&path, bytes).unwrap();
            assert_eq!(read_private(&path).unwrap().as_slice(), bytes);
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_made_once_is_0400_and_never_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slot.key");
        create_private_once(&path, b"first").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o400);
        let again = create_private_once(&path, b"second");
        assert!(matches!(
            again,
            Err(PrivateFileError::Io {
                action: "create",
                ..
            })
        ));
        assert_eq!(read_private(&path).unwrap().as_slice(), b"first");
        assert!(create_private_once(&folder.path().join("none/key"), b"k").is_err());
    }

    #[test]
    fn a_file_open_to_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private(&path, b"k").unwrap();
        for mode in [0o640, 0o604, 0o610, 0o601, 0o622] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let refused = read_private(&path);
            assert!(
                matches!(refused, Err(PrivateFileError::Mode { mode: m, .. }) if m == mode),
                "{mode:o}"
            );
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert!(read_private(&path).is_ok());
    }

    #[test]
    fn another_owners_file_is_refused() {
        if !geteuid().is_root() {
            eprintln!("skipped: giving a file away needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private(&path, b"k").unwrap();
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        assert!(matches!(
            read_private(&path),
            Err(PrivateFileError::Owner { found: 12345, .. })
        ));
    }

    #[test]
    fn links_folders_fifos_and_large_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private(&path, b"k").unwrap();
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(
            read_private(&link),
            Err(PrivateFileError::Io { action: "open", .. })
        ));
        assert!(matches!(
            read_private(folder.path()),
            Err(PrivateFileError::NotRegular { .. })
        ));
        let fifo = folder.path().join("fifo");
        fs::mknodat(fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(matches!(
            read_private(&fifo),
            Err(PrivateFileError::NotRegular { .. })
        ));
        let large = folder.path().join("large");
        write_private(&large, &vec![0; 256 * 1024 + 1]).unwrap();
        assert!(matches!(
            read_private(&large),
            Err(PrivateFileError::TooLarge { .. })
        ));
        assert!(matches!(
            read_private(&folder.path().join("absent")),
            Err(PrivateFileError::Io { .. })
        ));
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        assert!(matches!(
            write_private(&taken, b"k"),
            Err(PrivateFileError::Io {
                action: "replace",
                ..
            })
        ));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_private(&folder.path().join("none/key"), b"k").is_err());
        assert!(matches!(
            write_private(Path::new("/"), b"k"),
            Err(PrivateFileError::Name { .. })
        ));
    }
}
