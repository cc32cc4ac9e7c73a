//! Reading durable leaves by their index, while the log is being written.
//!
//! In memory are the segments' first indexes and, for one leaf in 128, where it lies; segments from before this start
//! get theirs when they are first read. It must never read past the durable size: behind it the writer is at work.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use attache_translog::{HEADER_BYTES, MAX_LEAF_BYTES, Record, Records};

use super::error::AuditError;
use super::segment_file::segment_path;

/// One leaf in how many has its place kept.
const MARK_EVERY: u64 = 128;

/// What one read answers at most, of bodies, unless a single one is larger.
const ANSWER_BYTES: usize = 1024 * 1024;

/// What is read from the file at once; the second size holds any record whole.
const WINDOWS: [usize; 2] = [256 * 1024, 2 * MAX_LEAF_BYTES];

/// A durable leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLeaf {
    /// Its place in the chain.
    pub index: u64,
    /// Its canonical body, for `attache_translog::Leaf::parse`.
    pub body: Vec<u8>,
}

/// Where the leaves are.
pub(super) struct Catalog {
    dir: PathBuf,
    /// First index of a segment -> places in it, ascending.
    segments: Mutex<BTreeMap<u64, Vec<Place>>>,
}

/// A record that begins at `offset`, when `index` leaves precede it.
#[derive(Clone, Copy)]
struct Place {
    index: u64,
    offset: u64,
}

/// What a read still has to find: leaves from `next` up to `end`.
struct Wanted {
    next: u64,
    end: u64,
    limit: usize,
    bytes: usize,
    found: Vec<StoredLeaf>,
}

impl Catalog {
    pub(super) fn new(dir: PathBuf, first_indexes: &[u64]) -> Self {
        let segments = first_indexes.iter().map(|&first| (first, beginning(first)));
        Self {
            dir,
            segments: Mutex::new(segments.collect()),
        }
    }

    /// A segment was begun.
    pub(super) fn note_segment(&self, first_index: u64) {
        self.lock().insert(first_index, beginning(first_index));
    }

    /// A batch that begins with leaf `index` was written at `offset`, or a scan came by there.
    pub(super) fn note_batch(&self, segment: u64, index: u64, offset: u64) {
        if let Some(places) = self.lock().get_mut(&segment)
            && places
                .last()
                .is_none_or(|last| index >= last.index + MARK_EVERY)
        {
            places.push(Place { index, offset });
        }
    }

    /// At most `limit` leaves from `first` on, of the `size` that are durable.
    ///
    /// # Errors
    /// [`AuditError::Read`], [`AuditError::Damaged`].
    pub(super) fn read(
        &self,
        first: u64,
        size: u64,
        limit: usize,
    ) -> Result<Vec<StoredLeaf>, AuditError> {
        let mut wanted = Wanted {
            next: first,
            end: size,
            limit,
            bytes: 0,
            found: Vec::new(),
        };
        while !wanted.is_done() {
            self.read_segment(&mut wanted)?;
        }
        Ok(wanted.found)
    }

    /// Reads on to the end of the segment that holds the next leaf.
    fn read_segment(&self, wanted: &mut Wanted) -> Result<(), AuditError> {
        let (segment, start, end) = self.place(wanted.next);
        let path = segment_path(&self.dir, segment);
        let read_error = |source| AuditError::Read {
            path: path.clone(),
            source,
        };
        let damaged = |offset| AuditError::Damaged {
            path: path.clone(),
            offset,
        };
        let file = File::open(&path).map_err(read_error)?;
        let (mut index, mut offset, mut window) = (start.index, start.offset, 0);
        let end = end.min(wanted.end);
        while index < end && !wanted.is_done() {
            let bytes = read_window(&file, offset, WINDOWS.get(window).copied().unwrap_or(0))
                .map_err(read_error)?;
            let mut records = Records::from_offset(&bytes, 0);
            while index < end
                && !wanted.is_done()
                && let Some((at, Ok(record))) = records.next()
            {
                if let Record::Leaf(body) = record {
                    self.note_batch(segment, index, offset + at as u64);
                    wanted.take(index, body);
                    index += 1;
                }
            }
            // Records stop where the window ends in the midst of one: go on from there, or with a larger window.
            window = if records.offset() == 0 { window + 1 } else { 0 };
            if window == WINDOWS.len() {
                return Err(damaged(offset));
            }
            offset += records.offset() as u64;
        }
        Ok(())
    }

    /// The segment that holds leaf `index`, the nearest kept place before it, and where the next segment begins.
    fn place(&self, index: u64) -> (u64, Place, u64) {
        let segments = self.lock();
        let end = segments
            .range(index.saturating_add(1)..)
            .next()
            .map_or(u64::MAX, |(first, _)| *first);
        let (segment, places) = match segments.range(..=index).next_back() {
            Some((first, places)) => (*first, places.as_slice()),
            None => (0, [].as_slice()),
        };
        let before = places.partition_point(|place| place.index <= index);
        let start = places.get(before.saturating_sub(1)).copied();
        (
            segment,
            start.unwrap_or(Place {
                index: segment,
                offset: HEADER_BYTES as u64,
            }),
            end,
        )
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<Place>>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    fn is_done(&self) -> bool {
        self.next >= self.end || self.found.len() >= self.limit || self.bytes >= ANSWER_BYTES
    }

    fn take(&mut self, index: u64, body: &[u8]) {
        if index == self.next {
            self.next += 1;
            self.bytes += body.len();
            self.found.push(StoredLeaf {
                index,
                body: body.to_vec(),
            });
        }
    }
}

fn beginning(first_index: u64) -> Vec<Place> {
    vec![Place {
        index: first_index,
        offset: HEADER_BYTES as u64,
    }]
}

fn read_window(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
