//! The memory file that carries one generation of a volume from the agent to the mounter. Pure.
//!
//! The agent builds it with [`SealedGeneration::seal`](super::SealedGeneration::seal); the mounter pins it (seals and size are checked first) and
//! parses it with [`Contents::parse`], entry by entry, before it touches the volume. The format has no offsets: the
//! parts follow each other in order and fill the file exactly, so nothing overlaps, is left out or points elsewhere.
//!
//! ```text
//!  0  8  magic "attache-"                       all integers big-endian
//!  8  2  format = 1
//! 10  2  n, the number of files, at most 256
//! 12  4  incarnation                            entry, 20 bytes
//! 16  8  seq                                      0  2  length of the path, 1 to 1,024
//! 24 32  digest                                   2  2  mode, a subset of 0444
//! 56  4  length of the metadata, at most 64 Ki    4  4  owner, not 0xffffffff
//! 60  4  zero                                     8  4  group, not 0xffffffff; 0 when there is none
//! 64 20n entries, paths strictly ascending       12  4  1 = a group is given, 0 = none
//!        the paths, in that order                16  4  length of the value
//!        the metadata, for `.attache.json`
//!        the values, in that order, at most 1 MiB together
//! ```

use thiserror::Error;

use super::message::FolderName;

/// Most files in a generation.
pub const MAX_FILES: usize = 256;
/// Most bytes of all values together.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Most bytes of metadata.
pub const MAX_METADATA_BYTES: usize = 64 * 1024;
/// Most bytes of one path.
pub const MAX_PATH_BYTES: usize = 1024;
/// Most bytes of one part of a path.
pub const MAX_PART_BYTES: usize = 255;
/// Most parts of one path.
pub const MAX_DEPTH: usize = 8;
/// The largest memory file there can be.
pub const MAX_MEMFD_BYTES: usize = HEADER_BYTES
    + MAX_FILES * (ENTRY_BYTES + MAX_PATH_BYTES)
    + MAX_METADATA_BYTES
    + MAX_VALUE_BYTES;
/// The file in each generation that says what it is; no file of a manifest may have its name.
pub const METADATA_NAME: &str = ".attache.json";

pub(super) const MAGIC: &[u8; 8] = b"attache-";
pub(super) const FORMAT: u16 = 1;
pub(super) const HEADER_BYTES: usize = 64;
pub(super) const ENTRY_BYTES: usize = 20;
const READABLE: u16 = 0o444;
const READABLE_BY_GROUP: u16 = 0o040;

/// Why a generation cannot be carried. Holds no path and no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FormatError {
    /// The file ends early, goes on, or is not one of ours.
    #[error("the header or the sum of the lengths is wrong")]
    Frame,
    /// More than a limit allows.
    #[error("more {0} than allowed")]
    TooLarge(&'static str),
    /// A path is not relative, canonical and within the limits, or its name is reserved.
    #[error("the path of file {0} is not a canonical relative path")]
    Path(usize),
    /// Paths are not strictly ascending, so that one may be there twice.
    #[error("the path of file {0} is out of order or there twice")]
    Order(usize),
    /// A file's path is also a folder of another file's.
    #[error("the path of file {0} is also a folder")]
    FileIsFolder(usize),
    /// A mode with more than read bits, or with a group bit and no group.
    #[error("the mode of file {0} is not a subset of 0444, or gives to a group where none is")]
    Mode(usize),
    /// An owner or group that no file can have.
    #[error("the owner or group of file {0} is not an id")]
    Owner(usize),
}

/// Which state of a volume this is; the broker's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// Of the broker's store.
    pub incarnation: u32,
    /// The order of generations within an incarnation.
    pub seq: u64,
    /// Tells equal ones.
    pub digest: [u8; 32],
}

impl Generation {
    /// The name of its folder.
    #[must_use]
    pub fn folder(&self) -> FolderName {
        let [a, b, c, d, e, f, g, h, ..] = self.digest;
        FolderName {
            seq: self.seq,
            digest_prefix: [a, b, c, d, e, f, g, h],
        }
    }
}

/// One file of a parsed generation; every rule of the format holds for it.
#[derive(Clone, Copy)]
pub struct File<'a> {
    /// Canonical, relative, unique.
    pub path: &'a str,
    /// A subset of 0o444.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group; 0 when none was given.
    pub gid: u32,
    /// The content, in the pinned memory file.
    pub value: &'a [u8],
}

/// A parsed generation, borrowed from the pinned memory file.
pub struct Contents<'a> {
    /// Which one it is.
    pub generation: Generation,
    /// What `.attache.json` is to hold.
    pub metadata: &'a [u8],
    /// Its files, paths strictly ascending.
    pub files: Vec<File<'a>>,
}

impl<'a> Contents<'a> {
    /// Parses and checks a whole memory file.
    ///
    /// # Errors
    /// [`FormatError`] with the first rule that is broken.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let frame = Frame::parse(bytes)?;
        frame.checked(frame.rest.len())?;
        let mut rest = frame.rest;
        let mut files = Vec::with_capacity(frame.entries.len());
        for (entry, path) in frame.entries.iter().zip(&frame.paths) {
            let (value, after) = rest
                .split_at_checked(entry.value_len)
                .ok_or(FormatError::Frame)?;
            rest = after;
            files.push(File {
                path,
                mode: entry.mode,
                uid: entry.uid,
                gid: entry.gid,
                value,
            });
        }
        Ok(Self {
            generation: frame.generation,
            metadata: frame.metadata,
            files,
        })
    }
}

struct Entry {
    path_len: usize,
    mode: u16,
    uid: u32,
    gid: u32,
    has_gid: bool,
    value_len: usize,
}

/// All of a memory file but the values: the builder checks its own work with it.
pub(super) struct Frame<'a> {
    generation: Generation,
    entries: Vec<Entry>,
    paths: Vec<&'a str>,
    metadata: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Frame<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor(bytes);
        if cursor.array()? != *MAGIC || cursor.u16()? != FORMAT {
            return Err(FormatError::Frame);
        }
        let count = usize::from(cursor.u16()?);
        if count > MAX_FILES {
            return Err(FormatError::TooLarge("files"));
        }
        let generation = Generation {
            incarnation: cursor.u32()?,
            seq: u64::from_be_bytes(cursor.array()?),
            digest: cursor.array()?,
        };
        let metadata_len = cursor.len()?;
        if metadata_len > MAX_METADATA_BYTES {
            return Err(FormatError::TooLarge("metadata"));
        }
        if cursor.u32()? != 0 {
            return Err(FormatError::Frame);
        }
        let entries = (0..count)
            .map(|_| cursor.entry())
            .collect::<Result<Vec<_>, _>>()?;
        let mut paths = Vec::with_capacity(count);
        for (index, entry) in entries.iter().enumerate() {
            let path = std::str::from_utf8(cursor.bytes(entry.path_len)?);
            paths.push(path.map_err(|_| FormatError::Path(index))?);
        }
        let metadata = cursor.bytes(metadata_len)?;
        Ok(Self {
            generation,
            entries,
            paths,
            metadata,
            rest: cursor.0,
        })
    }

    /// Checks every entry, and that the values take exactly `values_bytes`.
    pub(super) fn checked(&self, values_bytes: usize) -> Result<(), FormatError> {
        let mut sum = 0_usize;
        let mut before: Option<&str> = None;
        for (index, (entry, path)) in self.entries.iter().zip(&self.paths).enumerate() {
            check_path(path).ok_or(FormatError::Path(index))?;
            if before.is_some_and(|before| before.as_bytes() >= path.as_bytes()) {
                return Err(FormatError::Order(index));
            }
            before = Some(path);
            check_owner(entry, index)?;
            sum = sum.saturating_add(entry.value_len);
        }
        for path in &self.paths {
            for (slash, _) in path.match_indices('/') {
                let folder = path.get(..slash).unwrap_or_default();
                if let Ok(index) = self.paths.binary_search(&folder) {
                    return Err(FormatError::FileIsFolder(index));
                }
            }
        }
        if sum > MAX_VALUE_BYTES {
            return Err(FormatError::TooLarge("bytes in all values"));
        }
        if sum == values_bytes {
            Ok(())
        } else {
            Err(FormatError::Frame)
        }
    }
}

fn check_owner(entry: &Entry, index: usize) -> Result<(), FormatError> {
    // chown(2) takes -1 for "leave it".
    if entry.uid == u32::MAX || entry.gid == u32::MAX || (!entry.has_gid && entry.gid != 0) {
        return Err(FormatError::Owner(index));
    }
    if entry.mode & !READABLE != 0 || (!entry.has_gid && entry.mode & READABLE_BY_GROUP != 0) {
        return Err(FormatError::Mode(index));
    }
    Ok(())
}

/// Answers for a canonical relative path: parts of 1 to 255 bytes without control characters, none `.`, none that
/// begins with `..`, and not the metadata's name in front.
fn check_path(path: &str) -> Option<()> {
    let part = |part: &str| {
        !part.is_empty()
            && part != "."
            && !part.starts_with("..")
            && part.len() <= MAX_PART_BYTES
            && !part.chars().any(char::is_control)
    };
    let parts = path.split('/');
    let first = parts.clone().next();
    let within = path.len() <= MAX_PATH_BYTES && parts.clone().count() <= MAX_DEPTH;
    (within && parts.into_iter().all(part) && first != Some(METADATA_NAME)).then_some(())
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(FormatError::Frame)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(FormatError::Frame)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn len(&mut self) -> Result<usize, FormatError> {
        usize::try_from(self.u32()?).map_err(|_| FormatError::Frame)
    }

    fn entry(&mut self) -> Result<Entry, FormatError> {
        let path_len = usize::from(self.u16()?);
        let (mode, uid, gid) = (self.u16()?, self.u32()?, self.u32()?);
        let has_gid = match self.u32()? {
            0 => false,
            1 => true,
            _ => return Err(FormatError::Frame),
        };
        Ok(Entry {
            path_len,
            mode,
            uid,
            gid,
            has_gid,
            value_len: self.len()?,
        })
    }
}

#[cfg(test)]
mod tests;
