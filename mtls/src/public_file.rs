//! Files that are no secret: certificates, requests, bundles, checkpoints, parts of a log.
//!
//! Written whole or not at all: a draft of a fixed name in the same folder, fsync, rename, fsync of the folder. Read whole,
//! up to a limit, and never waited for: a pipe or a device in a file's place is refused, where reading it would hold the
//! process for ever.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags};

use crate::private_file::folder_of;

/// Reads a regular file of at most `limit_bytes`. A link is followed: the path is its owner's to choose.
///
/// # Errors
/// What the system says; [`ErrorKind::InvalidInput`] for what is no regular file, [`ErrorKind::FileTooLarge`].
pub fn read_public(path: &Path, limit_bytes: u64) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let open = fs::open(path, flags, Mode::empty())?;
    let stat = fs::fstat(&open)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    let mut bytes = Vec::new();
    File::from(open)
        .take(limit_bytes.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(Error::new(
            ErrorKind::FileTooLarge,
            format!("it is larger than {limit_bytes} bytes"),
        ));
    }
    Ok(bytes)
}

/// Replaces the file at `path` by `bytes`, durably. `mode` has the permission bits of a file whose draft is new.
///
/// The draft has the extension `tmp` in the place of the path's own: one that a killed process left is written over, so
/// that none pile up, and one file has one writer at a time.
///
/// # Errors
/// What the system says. The old file is untouched unless the rename succeeded.
pub fn write_public(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let draft = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    File::open(folder_of(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_written_replaces_the_file_whole_and_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("anchor.note");
        std::fs::write(folder.path().join("anchor.tmp"), b"of a killed process").unwrap();
        for bytes in [&b"first, longer"[..], b"second", b""] {
            write_public(&path, bytes, 0o644).unwrap();
            assert_eq!(read_public(&path, 64).unwrap(), bytes);
        }
        let closed = folder.path().join("1.pending");
        write_public(&closed, b"cut", 0o600).unwrap();
        let mode = std::fs::metadata(&closed).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("anchor.note");
        write_public(&path, b"old", 0o644).unwrap();
        std::fs::create_dir(folder.path().join("anchor.tmp")).unwrap();
        write_public(&path, b"new", 0o644).unwrap_err();
        assert_eq!(read_public(&path, 64).unwrap(), b"old");
        write_public(&folder.path().join("none/anchor.note"), b"new", 0o644).unwrap_err();
    }

    #[test]
    fn a_regular_file_is_read_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.pem");
        std::fs::write(&path, b"four").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read_public(&path, 4).unwrap(), b"four");
        assert_eq!(read_public(&link, u64::MAX).unwrap(), b"four");
        assert_eq!(
            read_public(&path, 3).unwrap_err().kind(),
            ErrorKind::FileTooLarge
        );
    }

    #[test]
    fn nothing_else_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        fs::mknodat(fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        for path in [fifo.as_path(), folder.path(), Path::new("/dev/zero")] {
            let error = read_public(path, 4).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}", path.display());
        }
        let absent = read_public(&folder.path().join("absent"), 4).unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
    }
}
