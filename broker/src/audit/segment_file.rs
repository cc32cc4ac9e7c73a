//! Segments as files: their names, making one ahead of time, writing to it, zeroing its torn end.
//!
//! ```text
//! <audit dir>/lock                          held by the process that writes
//!             <first index, 20 digits>.seg  64-byte header, records, zeros up to the segment's size
//!             <first index, 20 digits>.sum  what a start needs of all segments before this one (summary.rs)
//!             spare.tmp                     the next segment, being zero-filled
//!             held.tmp                      one that is kept for another key (spare.rs)
//!             <first index>-<offset>.torn   what was cut behind a checkpoint (torn.rs)
//! ```
//!
//! A segment is written full of zeros before it is used: a write into it then changes no block map and no size, so
//! that `fdatasync` flushes the data and nothing else. A segment must never carry its name before its size is
//! final and durable.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Digits of a first index in a file's name: the names then sort as the indexes do.
pub(super) const NAME_DIGITS: usize = 20;

/// How much is zero-filled between two syncs, so that a flush of the filling does not hold up the log's own.
const FILL_CHUNK_BYTES: usize = 1024 * 1024;

/// A segment that this process writes to.
pub(super) struct SegmentFile {
    file: File,
    path: PathBuf,
    size_bytes: u64,
}

impl SegmentFile {
    /// Makes `path`, `size_bytes` long and zero, durable in content though not in name.
    ///
    /// # Errors
    /// What the system says; `StorageFull` leaves no file behind.
    pub(super) fn create_zeroed(path: &Path, size_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        let made = Self {
            file,
            path: path.to_owned(),
            size_bytes,
        };
        match made.fill(0) {
            Ok(()) => Ok(made),
            Err(error) => {
                made.remove();
                Err(error)
            }
        }
    }

    /// Opens a segment that exists, and fills it up with zeros when it is shorter than `size_bytes`.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(path: &Path, size_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = file.metadata()?.len();
        let opened = Self {
            file,
            path: path.to_owned(),
            size_bytes: size_bytes.max(length),
        };
        if length < size_bytes {
            opened.fill(length)?;
        }
        Ok(opened)
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Writes at an offset and returns once it is on the disk.
    ///
    /// # Errors
    /// What the system says; what the disk then holds is not known.
    pub(super) fn write_durable(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        self.file.sync_data()
    }

    /// Zeroes what is not zero of `tail`, which was read at `offset`, and returns once that is on the disk.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn zero(&self, offset: u64, tail: &[u8]) -> io::Result<()> {
        let end = written_length(tail);
        if end > 0 {
            self.file.write_all_at(&vec![0; end], offset)?;
        }
        self.file.sync_data()
    }

    /// Gives the file its final name in `folder`, durably.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn rename(&mut self, to: &Path, folder: &File) -> io::Result<()> {
        self.move_to(to)?;
        folder.sync_all()
    }

    /// Gives the file a name that a crash may take from it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn move_to(&mut self, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        self.path = to.to_owned();
        Ok(())
    }

    /// Removes the file, which has no final name: it would hold the very space that is missing.
    pub(super) fn remove(self) {
        drop(std::fs::remove_file(&self.path));
    }

    /// Stands for a disk that fails: the file becomes one that the kernel refuses to write.
    #[cfg(test)]
    pub(super) fn break_writes(&mut self) {
        self.file = File::open(&self.path).unwrap();
    }

    fn fill(&self, from: u64) -> io::Result<()> {
        // Asks for all of the space at once: a full disk answers here, before anything is written.
        match fallocate(&self.file, FallocateFlags::empty(), 0, self.size_bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
        let zeros = vec![0; FILL_CHUNK_BYTES];
        let mut offset = from;
        while offset < self.size_bytes {
            let left = usize::try_from(self.size_bytes - offset).unwrap_or(usize::MAX);
            let chunk = zeros.get(..left).unwrap_or(&zeros);
            self.file.write_all_at(chunk, offset)?;
            self.file.sync_data()?;
            offset += chunk.len() as u64;
        }
        self.file.sync_all()
    }
}

/// How many bytes are left once the zeros at the end are taken off.
pub(super) fn written_length(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1)
}

/// The file of the segment that begins with leaf `first_index`.
pub(super) fn segment_path(dir: &Path, first_index: u64) -> PathBuf {
    dir.join(format!("{first_index:0NAME_DIGITS$}.seg"))
}

/// The summary that stands beside that segment.
pub(super) fn summary_path(dir: &Path, first_index: u64) -> PathBuf {
    dir.join(format!("{first_index:0NAME_DIGITS$}.sum"))
}

/// Where the next segment is prepared.
pub(super) fn spare_path(dir: &Path) -> PathBuf {
    dir.join("spare.tmp")
}

/// Where one is kept for another key.
pub(super) fn held_path(dir: &Path) -> PathBuf {
    dir.join("held.tmp")
}

/// The first index that a name begins with: exactly its digits.
pub(super) fn first_index(digits: &str) -> Option<u64> {
    let whole = digits.len() == NAME_DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| whole)
}

/// The first indexes of the segments in a folder, ascending.
///
/// # Errors
/// What the system says.
pub(super) fn list_segments(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let index: Option<u64> = name
            .to_str()
            .and_then(|name| name.strip_suffix(".seg"))
            .and_then(first_index);
        found.extend(index);
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segments_sort_as_their_indexes() {
        let dir = Path::new("/a");
        assert_eq!(
            segment_path(dir, 7),
            Path::new("/a/00000000000000000007.seg")
        );
        assert!(segment_path(dir, 9) < segment_path(dir, 10));
        assert!(segment_path(dir, 10) < segment_path(dir, u64::MAX));
    }

    #[test]
    fn only_whole_segment_names_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "00000000000000000010.seg",
            "00000000000000000000.seg",
            "7.seg",
            "spare.tmp",
            "00000000000000000010.sum",
            "+0000000000000000010.seg",
        ] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        assert_eq!(list_segments(dir.path()).unwrap(), [0, 10]);
    }

    #[test]
    fn zeroing_leaves_what_is_before_the_offset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let file = SegmentFile::create_zeroed(&path, 4096).unwrap();
        file.write_durable(100, b"keptTORN\0X").unwrap();
        file.zero(104, b"TORN\0X").unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 4096);
        assert_eq!(&bytes[100..104], b"kept");
        assert_eq!(written_length(&bytes), 104);
    }

    #[test]
    fn a_short_segment_is_filled_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(SegmentFile::open(&path, 8192).unwrap().size_bytes(), 8192);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), written_length(&bytes)), (8192, 3));
    }
}
