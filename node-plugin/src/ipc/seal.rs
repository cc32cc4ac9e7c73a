//! Lays a generation into a sealed memory file; its layout is in [`generation`](super::generation).
//!
//! The values go from the caller's memory into the pinned pages and nowhere else.

use std::os::fd::{AsFd, BorrowedFd};

use attache_arena::{ArenaError, MemfdWriter, SealedMemfd};
use thiserror::Error;

use super::generation::{ENTRY_BYTES, FORMAT, FormatError, Frame, Generation, HEADER_BYTES, MAGIC};

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
