//! Files that are no secret: certificates, requests, bundles, checkpoints. Read whole, up to a limit, and never waited
//! for: a pipe or a device in a file's place is refused, where reading it would hold the process for ever.

use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags};

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

#[cfg(test)]
mod tests {
    use super::*;

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
