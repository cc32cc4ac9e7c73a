//! Segments: the files of a log, as bytes.
//!
//! ```text
//! 0   8  magic "ATTAUDIT"          28 16  chain uuid
//! 8   2  format u16 = 1            44  8  index of the first leaf, u64
//! 10  2  suite u16 = 1             52 12  zero
//! 12 16  store uuid                64     records, then zeros to the end of the file
//!
//! record = length u32 || kind u8 (1 leaf, 2 checkpoint) || body of that length        length 0 = the end
//! ```
//!
//! Files are zero-filled ahead, so an unwritten end reads as length 0. A [`Batch`] is appended whole: leaves, then the
//! checkpoint over them. Reading must never trust a length: each is held against the bytes that are there.

use thiserror::Error;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::leaf::{EncodedLeaf, MAX_LEAF_BYTES};
use crate::note::Signer;
use crate::tree::Frontier;

/// The length of a segment's header.
pub const HEADER_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"ATTAUDIT";
const FORMAT: u16 = 1;
const SUITE: u16 = 1;
const KIND_LEAF: u8 = 1;
const KIND_CHECKPOINT: u8 = 2;
const RECORD_HEAD_BYTES: usize = 5;

/// Bytes that are no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// Fewer bytes than a header has.
    #[error("the segment is shorter than its header")]
    Short,
    /// Another kind of file, or a damaged header.
    #[error(
        "the segment does not begin with the magic of an audit log, or reserved bytes are not zero"
    )]
    Magic,
    /// A format or suite that is not known here.
    #[error("{what} {number} of the segment is not known")]
    Unknown {
        /// Which number.
        what: &'static str,
        /// Its value.
        number: u16,
    },
    /// A record of a kind that is not known.
    #[error("record kind {kind} is not known")]
    Kind {
        /// The kind byte.
        kind: u8,
    },
    /// A record longer than any leaf may be, or than the bytes that are left.
    #[error("a record of {length} bytes does not fit")]
    Length {
        /// The length field.
        length: u32,
    },
    /// A byte that is not zero behind the end.
    #[error("there are bytes behind the end of the records")]
    Trailing,
}

/// A segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The store's uuid.
    pub store: [u8; 16],
    /// The chain's uuid: one broker's log.
    pub chain: [u8; 16],
    /// The index of the first leaf in this segment.
    pub first_index: u64,
}

impl Header {
    /// The 64 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let parts: [&[u8]; 6] = [
            &MAGIC,
            &FORMAT.to_be_bytes(),
            &SUITE.to_be_bytes(),
            &self.store,
            &self.chain,
            &self.first_index.to_be_bytes(),
        ];
        for (place, byte) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *place = *byte;
        }
        out
    }

    /// Reads the header of a segment.
    ///
    /// # Errors
    /// [`SegmentError::Short`], [`SegmentError::Magic`], [`SegmentError::Unknown`].
    pub fn parse(segment: &[u8]) -> Result<Self, SegmentError> {
        let mut rest = segment.get(..HEADER_BYTES).ok_or(SegmentError::Short)?;
        if take(&mut rest) != Some(MAGIC) {
            return Err(SegmentError::Magic);
        }
        for (what, known) in [("format", FORMAT), ("suite", SUITE)] {
            let number = take(&mut rest)
                .map(u16::from_be_bytes)
                .ok_or(SegmentError::Short)?;
            if number != known {
                return Err(SegmentError::Unknown { what, number });
            }
        }
        let header = Self {
            store: take(&mut rest).ok_or(SegmentError::Short)?,
            chain: take(&mut rest).ok_or(SegmentError::Short)?,
            first_index: take(&mut rest)
                .map(u64::from_be_bytes)
                .ok_or(SegmentError::Short)?,
        };
        if rest.iter().all(|byte| *byte == 0) {
            Ok(header)
        } else {
            Err(SegmentError::Magic)
        }
    }
}

/// One record of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'s> {
    /// A leaf's body, not yet parsed.
    Leaf(&'s [u8]),
    /// A checkpoint's signed note, not yet verified.
    Checkpoint(&'s [u8]),
}

/// The records of a segment, each with the offset at which it begins; ends after the first error.
#[derive(Debug, Clone)]
pub struct Records<'s> {
    segment: &'s [u8],
    offset: usize,
    ended: bool,
}

impl<'s> Records<'s> {
    /// Reads the records of a whole segment, behind its header.
    #[must_use]
    pub fn new(segment: &'s [u8]) -> Self {
        Self::from_offset(segment, HEADER_BYTES)
    }

    /// Reads the records of a whole segment from the one that begins at `offset`.
    #[must_use]
    pub fn from_offset(segment: &'s [u8], offset: usize) -> Self {
        Self {
            segment,
            offset,
            ended: false,
        }
    }

    /// Where the next record begins; where the records end, once there is none.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The bodies of the leaves among the records, up to the first that is broken.
    pub fn leaves(self) -> impl Iterator<Item = &'s [u8]> {
        self.filter_map(|(_, record)| match record {
            Ok(Record::Leaf(body)) => Some(body),
            Ok(Record::Checkpoint(_)) | Err(_) => None,
        })
    }

    /// Reads the record at the offset: `None` at the end, which must be followed by zeros only.
    fn read(&self) -> Option<Result<(Record<'s>, usize), SegmentError>> {
        let mut rest = self.segment.get(self.offset..).unwrap_or_default();
        let length = take(&mut rest).map_or(0, u32::from_be_bytes);
        if length == 0 {
            let tail = self.segment.get(self.offset..).unwrap_or_default();
            return tail
                .iter()
                .any(|byte| *byte != 0)
                .then_some(Err(SegmentError::Trailing));
        }
        let Some([kind]) = take(&mut rest) else {
            return Some(Err(SegmentError::Length { length }));
        };
        let body = usize::try_from(length)
            .ok()
            .filter(|length| *length <= MAX_LEAF_BYTES);
        let Some(body) = body.and_then(|length| rest.get(..length)) else {
            return Some(Err(SegmentError::Length { length }));
        };
        let record = match kind {
            KIND_LEAF => Record::Leaf(body),
            KIND_CHECKPOINT => Record::Checkpoint(body),
            kind => return Some(Err(SegmentError::Kind { kind })),
        };
        Some(Ok((record, self.offset + RECORD_HEAD_BYTES + body.len())))
    }
}

impl<'s> Iterator for Records<'s> {
    type Item = (usize, Result<Record<'s>, SegmentError>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let start = self.offset;
        match self.read() {
            Some(Ok((record, end))) => {
                self.offset = end;
                Some((start, Ok(record)))
            }
            Some(Err(error)) => {
                self.ended = true;
                Some((start, Err(error)))
            }
            None => {
                self.ended = true;
                None
            }
        }
    }
}

/// Appends a leaf's record.
pub fn push_leaf(out: &mut Vec<u8>, leaf: &EncodedLeaf) {
    push(out, KIND_LEAF, leaf.body());
}

/// Appends a checkpoint's record.
pub fn push_checkpoint(out: &mut Vec<u8>, note: &str) {
    push(out, KIND_CHECKPOINT, note.as_bytes());
}

fn push(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    // Bodies are bounded: a leaf's by its encoder, a note's by its three short lines.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.push(kind);
    out.extend_from_slice(body);
}

/// One group commit: leaves that become durable together, under one checkpoint.
///
/// It works on a copy of the frontier, so that a batch whose write fails leaves nothing behind.
pub struct Batch {
    frontier: Frontier,
    bytes: Vec<u8>,
}

/// A batch, ready to be written.
pub struct SealedBatch {
    /// What to append to the segment: the leaves' records and the checkpoint's.
    pub bytes: Vec<u8>,
    /// The tree behind this batch: the next one begins with it, once the bytes are durable.
    pub frontier: Frontier,
    /// The size and root that were signed.
    pub checkpoint: Checkpoint,
    /// The signed note.
    pub note: String,
}

impl Batch {
    /// Begins a batch behind `frontier`.
    #[must_use]
    pub fn new(frontier: &Frontier) -> Self {
        Self {
            frontier: frontier.clone(),
            bytes: Vec::new(),
        }
    }

    /// Adds a leaf and answers its index.
    pub fn push(&mut self, leaf: &EncodedLeaf) -> u64 {
        let index = self.frontier.size();
        self.frontier.append(*leaf.hash());
        push_leaf(&mut self.bytes, leaf);
        index
    }

    /// How many bytes the leaves take so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no leaf yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Signs the tree as it is now and closes the batch.
    ///
    /// # Errors
    /// [`CheckpointError::Origin`] when the signer's key is not named after a log.
    pub fn seal(mut self, signer: &Signer) -> Result<SealedBatch, CheckpointError> {
        let checkpoint = Checkpoint {
            size: self.frontier.size(),
            root: self.frontier.root(),
        };
        let note = checkpoint.sign(signer)?;
        push_checkpoint(&mut self.bytes, &note);
        Ok(SealedBatch {
            bytes: self.bytes,
            frontier: self.frontier,
            checkpoint,
            note,
        })
    }
}

/// Takes `N` bytes.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests;
