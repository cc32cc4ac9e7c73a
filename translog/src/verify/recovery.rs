//! The recovery rule: what a broker does with its own log when it starts.
//!
//! Batches are written one after the other, each durable before the next begins. So a crash leaves at most one batch
//! behind the last good checkpoint, torn in any way. What is more than that is damage, which must never be zeroed: it
//! is evidence.

use thiserror::Error;

use super::{Audit, Finding, Found, next_checkpoint};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::note::{NoteError, Verifier};
use crate::segment::{HEADER_BYTES, Records, SegmentError};
use crate::succession::LogKeys;
use crate::tree::Frontier;

/// Where a log goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The tree up to there.
    pub frontier: Frontier,
    /// The last good checkpoint; none in a log without any.
    pub checkpoint: Option<Checkpoint>,
    /// The key that signed it.
    pub signed_by: Option<Verifier>,
    /// The segment that it goes on in, counted from zero as they were given. Later ones are to be removed.
    pub segment: usize,
    /// The byte in that segment at which the next batch goes. From there on it is to be zeroed first if torn.
    pub offset: usize,
    /// What a torn last write left behind that place.
    pub torn: Option<TornTail>,
}

/// What a torn write left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornTail {
    /// How many bytes, up to the last that is not zero.
    pub bytes: u64,
    /// How many whole leaves are among them.
    pub leaves: u64,
}

/// A log that no crash explains. It must be left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecoveryError {
    /// The key's name is no log's.
    #[error("the key is not named after a log")]
    Key(#[from] CheckpointError),
    /// There is no segment.
    #[error("the log has no segment")]
    Empty,
    /// A segment is of another log, or signed by another key.
    #[error("segment {segment} is of another log, or was signed by another key")]
    OtherLog {
        /// Which.
        segment: usize,
    },
    /// A segment's header is damaged, or of a newer format.
    #[error("segment {segment} has no header that is known here: {error}")]
    Header {
        /// Which.
        segment: usize,
        /// Why.
        error: SegmentError,
    },
    /// More is wrong than one torn write.
    #[error(
        "the log is damaged in segment {segment}, byte {offset}, behind leaf {size}, and no crash explains it: keep it \
         and verify it, then move it away or restore it"
    )]
    Damaged {
        /// The segment.
        segment: usize,
        /// The byte behind the last good checkpoint.
        offset: usize,
        /// How many leaves are good.
        size: u64,
    },
}

/// Reads the segments that follow the leaves of `start` (an empty one: all segments), to the last checkpoint whose root
/// and signature verify.
///
/// # Errors
/// [`RecoveryError`] for whatever one torn last write does not explain.
pub fn recover(
    segments: &[&[u8]],
    keys: &LogKeys,
    start: Frontier,
) -> Result<Recovered, RecoveryError> {
    let mut audit = Audit::resume(keys, None, start.clone())?;
    // A segment that holds nothing but zeros was made and never begun.
    let begun = segments
        .iter()
        .rposition(|segment| segment.iter().any(|byte| *byte != 0));
    let segments = begun
        .and_then(|last| segments.get(..=last))
        .ok_or(RecoveryError::Empty)?;
    for segment in segments {
        audit.segment(segment);
    }
    let (frontier, (segment, offset)) = match audit.good.take() {
        Some(frontier) => (frontier, audit.report.verified_to),
        None => (start, (0, HEADER_BYTES)),
    };
    let checkpoint = audit.report.verified;
    let signed_by = audit.verified_by.and_then(|place| keys.at(place)).cloned();
    let findings = &audit.report.findings;
    if findings.is_empty() {
        // The last segment may have been begun without a batch: go on there.
        let last = segments.len() - 1;
        let (segment, offset) = if segment < last {
            (last, HEADER_BYTES)
        } else {
            (segment, offset)
        };
        return Ok(Recovered {
            frontier,
            checkpoint,
            signed_by,
            segment,
            offset,
            torn: None,
        });
    }
    let damaged = RecoveryError::Damaged {
        segment,
        offset,
        size: frontier.size(),
    };
    check_findings(findings, &damaged)?;
    // One batch is in one segment, the last; the one before it may have ended in order.
    let (torn_segment, torn_offset) = match findings.first() {
        Some(first) if first.segment > segment => (first.segment, HEADER_BYTES),
        _ => (segment, offset),
    };
    let Some(bytes) = segments
        .get(torn_segment)
        .filter(|_| torn_segment + 1 == segments.len())
    else {
        return Err(damaged);
    };
    let torn = torn_tail(bytes, torn_offset, keys.name()).ok_or(damaged)?;
    Ok(Recovered {
        frontier,
        checkpoint,
        signed_by,
        segment: torn_segment,
        offset: torn_offset,
        torn: Some(torn),
    })
}

/// Refuses what is found in no torn write.
fn check_findings(findings: &[Finding], damaged: &RecoveryError) -> Result<(), RecoveryError> {
    for finding in findings {
        let segment = finding.segment;
        match &finding.found {
            Found::Header(error) => {
                return Err(RecoveryError::Header {
                    segment,
                    error: *error,
                });
            }
            Found::OtherLog | Found::Checkpoint(CheckpointError::Note(NoteError::Unsigned)) => {
                return Err(RecoveryError::OtherLog { segment });
            }
            Found::Gap { .. } => return Err(damaged.clone()),
            Found::Record(_)
            | Found::Checkpoint(_)
            | Found::Size { .. }
            | Found::NotVouched
            | Found::Repeated
            | Found::Root { .. }
            | Found::Unsigned { .. }
            | Found::Truncated { .. }
            | Found::Forked { .. } => {}
        }
    }
    Ok(())
}

/// Measures what is behind `offset`; `None` when it is more than one batch.
fn torn_tail(segment: &[u8], offset: usize, origin: &str) -> Option<TornTail> {
    if let Some(first) = next_checkpoint(segment, offset, origin)
        && next_checkpoint(segment, first + 1, origin).is_some()
    {
        return None;
    }
    let tail = segment.get(offset..)?;
    let bytes = tail
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let leaves = Records::from_offset(segment, offset).leaves().count();
    Some(TornTail {
        bytes: bytes as u64,
        leaves: leaves as u64,
    })
}

#[cfg(test)]
mod tests;
