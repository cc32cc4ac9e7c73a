//! Reading a log as an enemy would have left it: everything that does not follow from its signed checkpoints is found,
//! with the place.
//!
//! [`Audit`] takes the segments in order and ends in a [`Report`]. [`recover`] is what a broker does at its start: it
//! reads to the last checkpoint whose root and signature verify and says what to cut, if and only if a torn last write
//! explains the rest. Neither must ever call a log good that one byte was changed in.
//!
//! A log alone does not show that its end is missing, or that its signer wrote two of them: that takes a checkpoint
//! that was kept elsewhere.

mod recovery;

pub use recovery::{Recovered, RecoveryError, TornTail, recover};

use std::fmt;

use thiserror::Error;

use crate::checkpoint::{Checkpoint, CheckpointError, log_ids};
use crate::leaf::Leaf;
use crate::note::Verifier;
use crate::segment::{HEADER_BYTES, Header, Record, Records, SegmentError};
use crate::succession::LogKeys;
use crate::tree::{Frontier, Hash, leaf_hash};

/// What was found in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How many segments were read.
    pub segments: usize,
    /// How many leaves the log has.
    pub leaves: u64,
    /// How many checkpoints verified.
    pub checkpoints: u64,
    /// The last checkpoint up to which all is as it was signed.
    pub verified: Option<Checkpoint>,
    /// The key that signed it.
    pub signed_by: Option<Verifier>,
    /// The place behind it, as segment and byte: nothing before it was changed.
    pub verified_to: (usize, usize),
    /// What is wrong, in the order of the log.
    pub findings: Vec<Finding>,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which segment, counted from zero as they were given.
    pub segment: usize,
    /// The byte in that segment.
    pub offset: usize,
    /// The index of the leaf that is, or would come, there.
    pub index: u64,
    /// What.
    pub found: Found,
}

/// What is wrong at one place of a log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Found {
    /// The segment's header is no header.
    #[error("damaged header: {0}")]
    Header(SegmentError),
    /// The segment is of another store or chain than the key.
    #[error("the segment is of another log")]
    OtherLog,
    /// The segment does not begin where the one before it ended: one is missing, or they are out of order.
    #[error("the segment begins with leaf {first_index}: one is missing or out of order")]
    Gap {
        /// The index that its header names.
        first_index: u64,
    },
    /// The records cannot be read on.
    #[error("damaged record: {0}")]
    Record(SegmentError),
    /// The checkpoint is not one that a key of the log, whose turn it was, signed for this log.
    #[error("the checkpoint is not as it was signed: {0}")]
    Checkpoint(CheckpointError),
    /// The checkpoint is for another number of leaves than precede it.
    #[error("the checkpoint was signed for {signed} leaves: leaves are missing or were added")]
    Size {
        /// The size that was signed.
        signed: u64,
    },
    /// No checkpoint is signed by the known key, or by one that follows from it: the log may be of whoever had a key before.
    #[error("no checkpoint is signed by the key that is known, or by one after it")]
    NotVouched,
    /// A checkpoint that covers no new leaf.
    #[error("the checkpoint is there twice")]
    Repeated,
    /// The leaves since the last good checkpoint are not those that were signed. What follows cannot be held against
    /// the later checkpoints of this log any more.
    #[error("of the leaves {first} to {last}, one at least was edited or moved{}", Suspects(.suspects))]
    Root {
        /// The first leaf of the batch.
        first: u64,
        /// The last leaf of the batch.
        last: u64,
        /// Those of them that cannot even be parsed.
        suspects: Vec<u64>,
    },
    /// Leaves at the end that no checkpoint covers: a write was torn, or the end was changed.
    #[error("{leaves} leaves at the end are covered by no checkpoint")]
    Unsigned {
        /// How many.
        leaves: u64,
    },
    /// The log verifies up to fewer leaves than the kept checkpoint has: it was truncated.
    #[error(
        "the kept checkpoint has {kept} leaves, and the log does not verify that far: it was truncated"
    )]
    Truncated {
        /// The size of the kept checkpoint.
        kept: u64,
    },
    /// The log has another history than the kept checkpoint.
    #[error("the first {kept} leaves are not those of the kept checkpoint: the log was rewritten")]
    Forked {
        /// The size of the kept checkpoint.
        kept: u64,
    },
}

struct Suspects<'a>(&'a [u64]);

impl fmt::Display for Suspects<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, " (malformed: {:?})", self.0)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "segment {}, byte {}, leaf {}: {}",
            self.segment, self.offset, self.index, self.found
        )
    }
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// A verification in progress: feed it the segments in order.
pub struct Audit<'k> {
    keys: &'k LogKeys,
    /// The place of the key that signed last: it signs next, or one that it endorsed.
    signed_by: Option<usize>,
    /// The place of the key of the last checkpoint up to which all is well.
    verified_by: Option<usize>,
    store: [u8; 16],
    chain: [u8; 16],
    kept: Option<Checkpoint>,
    kept_root: Option<Hash>,
    report: Report,
    /// The tree over the leaves read; of no use any more once something was found.
    frontier: Frontier,
    /// The index of the next leaf, as the log itself counts.
    index: u64,
    batch: BatchRead,
    /// The tree at the last checkpoint up to which all is well.
    good: Option<Frontier>,
}

/// The leaves read since the last checkpoint.
#[derive(Default)]
struct BatchRead {
    first: u64,
    place: (usize, usize),
    suspects: Vec<u64>,
}

impl<'k> Audit<'k> {
    /// Begins at the first segment of the log that the keys are named after. `kept`: a checkpoint that was kept
    /// elsewhere, which the log must continue.
    ///
    /// # Errors
    /// [`CheckpointError::Origin`] when the keys' name is no log's.
    pub fn new(keys: &'k LogKeys, kept: Option<Checkpoint>) -> Result<Self, CheckpointError> {
        Self::resume(keys, kept, Frontier::new())
    }

    /// Begins at a later segment, behind the leaves of `frontier`.
    fn resume(
        keys: &'k LogKeys,
        kept: Option<Checkpoint>,
        frontier: Frontier,
    ) -> Result<Self, CheckpointError> {
        let (store, chain) = log_ids(keys.name()).ok_or(CheckpointError::Origin)?;
        let index = frontier.size();
        let report = Report {
            segments: 0,
            leaves: index,
            checkpoints: 0,
            verified: None,
            signed_by: None,
            verified_to: (0, 0),
            findings: Vec::new(),
        };
        let mut audit = Self {
            keys,
            signed_by: None,
            verified_by: None,
            store,
            chain,
            kept,
            kept_root: None,
            report,
            frontier,
            index,
            // Each segment begins one.
            batch: BatchRead::default(),
            good: None,
        };
        audit.meet_kept();
        Ok(audit)
    }

    /// Reads the next segment, whole.
    pub fn segment(&mut self, segment: &[u8]) {
        match Header::parse(segment) {
            Err(error) => self.find(0, Found::Header(error)),
            Ok(header) if (header.store, header.chain) != (self.store, self.chain) => {
                self.find(0, Found::OtherLog);
            }
            Ok(Header { first_index, .. }) if first_index != self.index => {
                self.find(0, Found::Gap { first_index });
                self.index = first_index;
            }
            Ok(_) => {}
        }
        self.batch = BatchRead {
            first: self.index,
            place: (self.report.segments, HEADER_BYTES),
            suspects: Vec::new(),
        };
        self.records(segment);
        let unsigned = self.index.saturating_sub(self.batch.first);
        if unsigned > 0 {
            self.find(self.batch.place.1, Found::Unsigned { leaves: unsigned });
        }
        self.report.segments += 1;
    }

    /// Ends the verification.
    #[must_use]
    pub fn finish(mut self) -> Report {
        if self
            .verified_by
            .is_some_and(|place| !self.keys.vouches(place))
        {
            self.find_at_end(Found::NotVouched);
            self.report.verified = None;
        }
        if let Some(kept) = self.kept {
            match self.kept_root {
                Some(root) if root == kept.root => {}
                Some(_) => self.find_at_end(Found::Forked { kept: kept.size }),
                None => self.find_at_end(Found::Truncated { kept: kept.size }),
            }
        }
        self.report.leaves = self.index;
        let signed_by = self.verified_by.and_then(|place| self.keys.at(place));
        self.report.signed_by = signed_by.cloned();
        self.report
    }

    fn records(&mut self, segment: &[u8]) {
        let mut records = Records::new(segment);
        while let Some((offset, record)) = records.next() {
            match record {
                Ok(Record::Leaf(body)) => self.leaf(body),
                Ok(Record::Checkpoint(note)) => {
                    self.checkpoint(offset, note);
                    let place = (self.report.segments, records.offset());
                    self.batch = BatchRead {
                        first: self.index,
                        place,
                        suspects: Vec::new(),
                    };
                    self.mark_good(records.offset());
                }
                Err(error) => {
                    self.find(offset, Found::Record(error));
                    // Read on at the next checkpoint, which tells again how many leaves there are.
                    let Some(next) = next_checkpoint(segment, offset + 1, self.keys.name()) else {
                        return;
                    };
                    records = Records::from_offset(segment, next);
                }
            }
        }
    }

    fn leaf(&mut self, body: &[u8]) {
        if Leaf::parse(body).is_err() {
            self.batch.suspects.push(self.index);
        }
        self.index += 1;
        if self.report.is_clean() {
            self.frontier.append(leaf_hash(body));
            self.meet_kept();
        }
    }

    fn checkpoint(&mut self, offset: usize, note: &[u8]) {
        let opened = std::str::from_utf8(note).map_err(|_| CheckpointError::Malformed);
        let opened = opened.and_then(|note| self.keys.open_after(self.signed_by, note));
        let (signed, signed_by) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.find(offset, Found::Checkpoint(error)),
        };
        self.signed_by = Some(signed_by);
        let clean = self.report.is_clean();
        if clean && signed.size != self.index {
            self.find(
                offset,
                Found::Size {
                    signed: signed.size,
                },
            );
        } else if clean && self.index == self.batch.first {
            self.find(offset, Found::Repeated);
        } else if clean && signed.root != self.frontier.root() {
            let (first, last) = (self.batch.first, self.index - 1);
            let suspects = std::mem::take(&mut self.batch.suspects);
            self.find(
                self.batch.place.1,
                Found::Root {
                    first,
                    last,
                    suspects,
                },
            );
        } else if clean {
            self.report.verified = Some(signed);
            self.verified_by = Some(signed_by);
        }
        self.report.checkpoints += 1;
        self.index = signed.size;
    }

    fn mark_good(&mut self, offset: usize) {
        if self.report.is_clean() {
            self.report.verified_to = (self.report.segments, offset);
            self.good = Some(self.frontier.clone());
        }
    }

    /// Takes the root when the tree is as large as the kept checkpoint's.
    fn meet_kept(&mut self) {
        if self
            .kept
            .is_some_and(|kept| kept.size == self.frontier.size())
        {
            self.kept_root = Some(self.frontier.root());
        }
    }

    fn find(&mut self, offset: usize, found: Found) {
        self.report.findings.push(Finding {
            segment: self.report.segments,
            offset,
            index: self.index,
            found,
        });
    }

    /// A finding about the log as a whole, placed behind its last good checkpoint.
    fn find_at_end(&mut self, found: Found) {
        let (segment, offset) = self.report.verified_to;
        let index = self.report.verified.map_or(0, |checkpoint| checkpoint.size);
        self.report.findings.push(Finding {
            segment,
            offset,
            index,
            found,
        });
    }
}

/// The offset, from `from` on, of the next record that looks like a checkpoint of this log: a length that a note has,
/// the kind, and the origin. Nothing in a leaf can look so: texts hold no control characters, as the kind is one, and
/// other items are shorter than an origin.
pub(crate) fn next_checkpoint(segment: &[u8], from: usize, origin: &str) -> Option<usize> {
    const HEAD: usize = 5;
    const KIND: u8 = 2;
    let pattern = [&[KIND], origin.as_bytes(), b"\n"].concat();
    let mut from = from;
    loop {
        let kind = from + find_bytes(segment.get(from + HEAD - 1..)?, &pattern)? + HEAD - 1;
        if let Some([0, 0, high @ 0..=3, low]) = segment.get(kind + 1 - HEAD..kind)
            && usize::from(u16::from_be_bytes([*high, *low])) > pattern.len()
        {
            return Some(kind + 1 - HEAD);
        }
        from = kind + 2 - HEAD;
    }
}

fn find_bytes(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}

#[cfg(test)]
mod tests;
