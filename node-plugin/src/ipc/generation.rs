//! The memory file that carries one generation of a volume from the agent to the mounter. Pure but for the sealed
//! memory itself.
//!
//! The agent builds it with [`SealedGeneration::seal`]; the mounter pins it (seals and size are checked first) and
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

use std::os::fd::{AsFd, BorrowedFd};

use attache_arena::{ArenaError, MemfdWriter, SealedMemfd};
use sha2::{Digest, Sha256};
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

const MAGIC: &[u8; 8] = b"attache-";
const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 20;
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

/// One file to be carried.
#[derive(Clone, Copy)]
pub struct NewFile<'a> {
    /// Relative to the mount.
    pub path: &'a str,
    /// Permission bits, a subset of 0o444.
    pub mode: u16,
    /// The container's user.
    pub uid: u32,
    /// The container's group; none is owner:0.
    pub gid: Option<u32>,
    /// The content.
    pub value: &'a [u8],
}

/// A generation in a sealed memory file, ready to be handed to the mounter.
pub struct SealedGeneration {
    memfd: SealedMemfd,
    len: u64,
}

impl SealedGeneration {
    /// Lays `files`, in any order, and the `metadata` of `.attache.json` into a sealed memory file. The values are
    /// copied into locked memory and nowhere else.
    ///
    /// # Errors
    /// [`SealError::Format`] for what the mounter would refuse; [`SealError::Memory`] when no memory can be locked.
    pub fn seal(
        generation: &Generation,
        files: &[NewFile<'_>],
        metadata: &[u8],
    ) -> Result<Self, SealError> {
        let mut files = files.to_vec();
        files.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        let paths_bytes: usize = files.iter().map(|file| file.path.len()).sum();
        let values_bytes: usize = files.iter().map(|file| file.value.len()).sum();
        let frame = HEADER_BYTES + files.len() * ENTRY_BYTES + paths_bytes + metadata.len();
        let len = frame + values_bytes;
        let mut head = Vec::with_capacity(frame);
        encode_header(&mut head, generation, files.len(), metadata.len())?;
        for file in &files {
            encode_entry(&mut head, file)?;
        }
        for file in &files {
            head.extend_from_slice(file.path.as_bytes());
        }
        head.extend_from_slice(metadata);
        Frame::parse(&head)?.checked(values_bytes)?;
        let mut memfd = MemfdWriter::new("attache-generation", len)?;
        memfd.write_all(&head)?;
        for file in &files {
            memfd.write_all(file.value)?;
        }
        Ok(Self {
            memfd: memfd.seal()?,
            len: len as u64,
        })
    }

    /// The file's size.
    #[must_use]
    pub fn memfd_bytes(&self) -> u64 {
        self.len
    }
}

impl AsFd for SealedGeneration {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

/// Why a generation could not be sealed.
#[derive(Debug, Error)]
pub enum SealError {
    /// It breaks a rule of the format.
    #[error("the generation cannot be carried to the mounter")]
    Format(#[from] FormatError),
    /// No memory file, or no memory to lock it in.
    #[error("no locked memory for the generation")]
    Memory(#[from] ArenaError),
}

fn encode_header(
    head: &mut Vec<u8>,
    generation: &Generation,
    files: usize,
    metadata: usize,
) -> Result<(), FormatError> {
    let files = u16::try_from(files).map_err(|_| FormatError::TooLarge("files"))?;
    let metadata = u32::try_from(metadata).map_err(|_| FormatError::TooLarge("metadata"))?;
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&FORMAT.to_be_bytes());
    head.extend_from_slice(&files.to_be_bytes());
    head.extend_from_slice(&generation.incarnation.to_be_bytes());
    head.extend_from_slice(&generation.seq.to_be_bytes());
    head.extend_from_slice(&generation.digest);
    head.extend_from_slice(&metadata.to_be_bytes());
    head.extend_from_slice(&[0; 4]);
    Ok(())
}

fn encode_entry(head: &mut Vec<u8>, file: &NewFile<'_>) -> Result<(), FormatError> {
    let path =
        u16::try_from(file.path.len()).map_err(|_| FormatError::TooLarge("bytes in a path"))?;
    let value =
        u32::try_from(file.value.len()).map_err(|_| FormatError::TooLarge("bytes in a value"))?;
    head.extend_from_slice(&path.to_be_bytes());
    head.extend_from_slice(&file.mode.to_be_bytes());
    head.extend_from_slice(&file.uid.to_be_bytes());
    head.extend_from_slice(&file.gid.unwrap_or(0).to_be_bytes());
    head.extend_from_slice(&u32::from(file.gid.is_some()).to_be_bytes());
    head.extend_from_slice(&value.to_be_bytes());
    Ok(())
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
struct Frame<'a> {
    generation: Generation,
    entries: Vec<Entry>,
    paths: Vec<&'a str>,
    metadata: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Frame<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
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
    fn checked(&self, values_bytes: usize) -> Result<(), FormatError> {
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

/// The digest of a set of files as they lie in a volume, contents aside: what the agent notes in `.attache.json`
/// and compares with [`VolumeStat::file_set`](super::VolumeStat) after a restart.
///
/// SHA-256 over, for each file by ascending path, `u16 length of the path || path || u16 mode || u32 owner ||
/// u32 group || u64 size`, big-endian.
#[derive(Default)]
pub struct FileSet {
    hash: Sha256,
    files: u32,
    bytes: u64,
}

impl FileSet {
    /// The set of `files`, in any order.
    #[must_use]
    pub fn of(files: &[NewFile<'_>]) -> Self {
        let mut files = files.to_vec();
        files.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        let mut set = Self::default();
        for file in files {
            set.add(
                file.path.as_bytes(),
                file.mode,
                (file.uid, file.gid.unwrap_or(0)),
                file.value.len() as u64,
            );
        }
        set
    }

    /// Adds the next file in the order of paths.
    pub(crate) fn add(&mut self, path: &[u8], mode: u16, (uid, gid): (u32, u32), size: u64) {
        self.hash
            .update(u16::try_from(path.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.hash.update(path);
        self.hash.update(mode.to_be_bytes());
        self.hash.update(uid.to_be_bytes());
        self.hash.update(gid.to_be_bytes());
        self.hash.update(size.to_be_bytes());
        self.files += 1;
        self.bytes += size;
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    /// How many files.
    #[must_use]
    pub fn files(&self) -> u32 {
        self.files
    }

    /// How many bytes in all of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests;
