//! Logs as an enemy or a crash would leave them.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::log_origin;
use crate::leaf::examples::examples;
use crate::leaf::{EncodedLeaf, Leaf};
use crate::note::Signer;
use crate::segment::{Batch, push_checkpoint, push_leaf};

pub(super) const STORE: [u8; 16] = [0x51; 16];
pub(super) const CHAIN: [u8; 16] = [0xc4; 16];
const ZEROS: usize = 40;

pub(super) fn signer() -> Signer {
    Signer::from_seed(&log_origin(&STORE, &CHAIN), &[0x5e; 32]).unwrap()
}

pub(super) fn keys() -> LogKeys {
    LogKeys::one(signer().verifier().clone())
}

/// Leaves of every kind, no two alike.
pub(super) fn leaf(number: u64) -> EncodedLeaf {
    let examples = examples();
    let event = examples[usize::try_from(number).unwrap() % examples.len()].clone();
    Leaf {
        time_ms: 1_795_000_000_000 + number,
        boot: [0xb0; 16],
        event,
    }
    .encode()
    .unwrap()
}

/// A log in the making: segments without their zeros, and every checkpoint that was signed.
pub(super) struct Log {
    pub(super) segments: Vec<Vec<u8>>,
    pub(super) frontier: Frontier,
    pub(super) checkpoints: Vec<Checkpoint>,
}

impl Log {
    pub(super) fn new() -> Self {
        let mut log = Self {
            segments: vec![],
            frontier: Frontier::new(),
            checkpoints: vec![],
        };
        log.begin_segment();
        log
    }

    /// A log of two segments with batches of the sizes given in each.
    pub(super) fn of(first: &[u64], second: &[u64]) -> Self {
        let mut log = Self::new();
        first.iter().for_each(|size| log.append(*size));
        log.begin_segment();
        second.iter().for_each(|size| log.append(*size));
        log
    }

    pub(super) fn begin_segment(&mut self) {
        let header = Header {
            store: STORE,
            chain: CHAIN,
            first_index: self.frontier.size(),
        };
        self.segments.push(header.encode().to_vec());
    }

    pub(super) fn batch(&self, size: u64) -> crate::segment::SealedBatch {
        let mut batch = Batch::new(&self.frontier);
        for number in 0..size {
            batch.push(&leaf(self.frontier.size() + number));
        }
        batch.seal(&signer()).unwrap()
    }

    pub(super) fn append(&mut self, size: u64) {
        let sealed = self.batch(size);
        self.segments
            .last_mut()
            .unwrap()
            .extend_from_slice(&sealed.bytes);
        self.frontier = sealed.frontier;
        self.checkpoints.push(sealed.checkpoint);
    }

    fn zero_filled(&self) -> Vec<Vec<u8>> {
        self.segments
            .iter()
            .map(|segment| [&segment[..], &[0; ZEROS]].concat())
            .collect()
    }
}

fn verify(segments: &[Vec<u8>], kept: Option<Checkpoint>) -> Report {
    let keys = keys();
    let mut audit = Audit::new(&keys, kept).unwrap();
    segments.iter().for_each(|segment| audit.segment(segment));
    audit.finish()
}

/// Fifty leaves in nine batches over two segments.
static FIFTY: LazyLock<Log> = LazyLock::new(|| Log::of(&[1, 2, 7, 1, 9], &[12, 3, 14, 1]));

#[test]
fn an_honest_log_verifies_against_every_checkpoint_that_was_kept() {
    let log = &*FIFTY;
    let report = verify(&log.zero_filled(), None);
    assert_eq!(report.findings, []);
    assert!(report.is_clean());
    assert_eq!(
        (report.segments, report.leaves, report.checkpoints),
        (2, 50, 9)
    );
    assert_eq!(report.verified, log.checkpoints.last().copied());
    let empty = Checkpoint {
        size: 0,
        root: crate::tree::empty_root(),
    };
    for kept in log.checkpoints.iter().chain([&empty]) {
        assert!(
            verify(&log.zero_filled(), Some(*kept)).is_clean(),
            "{kept:?}"
        );
    }
}

#[test]
fn every_single_byte_edit_is_reported() {
    let good = Log::of(&[1, 22], &[27]).zero_filled();
    for number in 0..good.len() {
        for at in 0..good[number].len() {
            let mut edited = good.clone();
            edited[number][at] ^= 1 << (at % 8);
            let report = verify(&edited, None);
            assert!(!report.is_clean(), "segment {number}, byte {at}");
            assert!(
                report.verified_to <= (number, at),
                "segment {number}, byte {at}: {report:?}"
            );
        }
    }
}

#[test]
fn every_byte_that_is_zeroed_or_set_in_a_short_log_is_reported() {
    let log = Log::of(&[1, 2], &[1]);
    let good = log.zero_filled();
    for number in 0..good.len() {
        for at in 0..good[number].len() {
            for byte in [0x00, 0x01, 0x02, 0x7f, 0xff]
                .into_iter()
                .filter(|byte| *byte != good[number][at])
            {
                let mut edited = good.clone();
                edited[number][at] = byte;
                assert!(
                    !verify(&edited, None).is_clean(),
                    "segment {number}, byte {at} as {byte}"
                );
            }
        }
    }
}

/// The places of the records of one kind, each as (segment, start, end).
fn places(segments: &[Vec<u8>], leaves: bool) -> Vec<(usize, usize, usize)> {
    let mut found = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        let mut records = Records::new(segment);
        while let Some((start, record)) = records.next() {
            if matches!(record, Ok(Record::Leaf(_))) == leaves {
                found.push((number, start, records.offset()));
            }
        }
    }
    found
}

#[test]
fn any_two_swapped_leaves_are_reported_at_the_batch_of_the_first() {
    let good = &FIFTY.segments;
    let leaves = places(good, true);
    assert_eq!(leaves.len(), 50);
    let starts: Vec<u64> = [0]
        .into_iter()
        .chain(FIFTY.checkpoints.iter().map(|c| c.size))
        .collect();
    for first in 0..leaves.len() {
        for second in first + 1..leaves.len() {
            let swapped = swap(good, leaves[first], leaves[second]);
            let report = verify(&swapped, None);
            let batch = starts
                .iter()
                .rposition(|start| *start <= first as u64)
                .unwrap();
            let Found::Root {
                first: from,
                last,
                suspects,
            } = &report.findings[0].found
            else {
                panic!("{first} and {second}: {:?}", report.findings);
            };
            assert_eq!(
                (*from, *last + 1, suspects.len()),
                (starts[batch], starts[batch + 1], 0)
            );
            assert_eq!(
                report.verified.map_or(0, |checkpoint| checkpoint.size),
                starts[batch]
            );
        }
    }
}

fn swap(
    segments: &[Vec<u8>],
    first: (usize, usize, usize),
    second: (usize, usize, usize),
) -> Vec<Vec<u8>> {
    let cut = |(number, start, end): (usize, usize, usize)| segments[number][start..end].to_vec();
    let (one, other) = (cut(first), cut(second));
    let mut swapped = segments.to_vec();
    // The later place first, so that the earlier one does not move.
    swapped[second.0].splice(second.1..second.2, one);
    swapped[first.0].splice(first.1..first.2, other);
    swapped
}

#[test]
fn a_leaf_that_is_dropped_doubled_or_added_is_reported() {
    let good = &FIFTY.segments;
    for (index, (number, start, end)) in places(good, true).into_iter().enumerate() {
        let mut dropped = good.clone();
        dropped[number].drain(start..end);
        let report = verify(&dropped, None);
        assert!(
            matches!(
                report.findings[0].found,
                Found::Size { .. } | Found::Repeated
            ),
            "{index}: {report:?}"
        );

        let mut doubled = good.clone();
        doubled[number].splice(start..start, good[number][start..end].iter().copied());
        assert!(
            matches!(verify(&doubled, None).findings[0].found, Found::Size { .. }),
            "{index}"
        );
    }
    for place in [&FIFTY.segments[0], &FIFTY.segments[1]] {
        let mut added = good.clone();
        let number = usize::from(std::ptr::eq(place, &FIFTY.segments[1]));
        push_leaf(&mut added[number], &leaf(99));
        let report = verify(&added, None);
        assert_eq!(
            report.findings.len(),
            1 + usize::from(number == 0),
            "{:?}",
            report.findings
        );
        assert_eq!(report.findings[0].found, Found::Unsigned { leaves: 1 });
    }
}

#[test]
fn checkpoints_that_are_dropped_doubled_or_moved_are_reported() {
    let good = &FIFTY.segments;
    let checkpoints = places(good, false);
    let sizes: Vec<u64> = FIFTY
        .checkpoints
        .iter()
        .map(|checkpoint| checkpoint.size)
        .collect();
    for (at, (number, start, end)) in checkpoints.iter().copied().enumerate() {
        let mut doubled = good.clone();
        doubled[number].splice(start..start, good[number][start..end].iter().copied());
        assert_eq!(
            verify(&doubled, None).findings[0].found,
            Found::Repeated,
            "{at}"
        );

        // Without its checkpoint a batch is signed by the next one, which is as good: unless there is none.
        let mut dropped = good.clone();
        dropped[number].drain(start..end);
        let report = verify(&dropped, None);
        let last_of_segment = end == good[number].len();
        assert_eq!(
            report.is_clean(),
            !last_of_segment,
            "{at}: {:?}",
            report.findings
        );
        if let Some(next) = checkpoints.get(at + 1) {
            let report = verify(&swap(good, checkpoints[at], *next), None);
            let signed = sizes[at + 1];
            assert_eq!(report.findings[0].found, Found::Size { signed });
        }
    }
}

#[test]
fn truncation_is_found_against_a_kept_checkpoint_only() {
    let log = &*FIFTY;
    let kept = *log.checkpoints.last().unwrap();
    let ends = places(&log.segments, false);
    for (number, _, end) in &ends[..ends.len() - 1] {
        let mut shorter = log.segments[..=*number].to_vec();
        shorter[*number].truncate(*end);
        let zeroed = {
            let mut zeroed = log.segments[..=*number].to_vec();
            zeroed[*number][*end..].fill(0);
            zeroed
        };
        for truncated in [shorter, zeroed] {
            assert!(
                verify(&truncated, None).is_clean(),
                "nothing shows it from within"
            );
            let report = verify(&truncated, Some(kept));
            assert_eq!(report.findings.len(), 1);
            assert_eq!(report.findings[0].found, Found::Truncated { kept: 50 });
            assert_eq!(report.findings[0].offset, *end);
            assert_eq!(
                Some(report.findings[0].index),
                report.verified.map(|checkpoint| checkpoint.size)
            );
        }
    }
    assert_eq!(
        verify(&[], Some(kept)).findings[0].found,
        Found::Truncated { kept: 50 }
    );
}

#[test]
fn another_history_is_found_against_a_kept_checkpoint_only() {
    let mut fork = Log::of(&[1, 2, 7, 1, 9], &[12, 3]);
    let mut batch = Batch::new(&fork.frontier);
    (0..15).for_each(|number| {
        batch.push(&leaf(1000 + number));
    });
    let sealed = batch.seal(&signer()).unwrap();
    fork.segments[1].extend_from_slice(&sealed.bytes);
    assert_eq!(sealed.checkpoint.size, 50);
    assert!(
        verify(&fork.segments, None).is_clean(),
        "its signer wrote it"
    );
    for (kept, clean) in FIFTY
        .checkpoints
        .iter()
        .zip([true, true, true, true, true, true, true, false, false])
    {
        let report = verify(&fork.segments, Some(*kept));
        assert_eq!(report.is_clean(), clean, "{kept:?}");
        if !clean {
            assert_eq!(report.findings[0].found, Found::Forked { kept: kept.size });
        }
    }
}

#[test]
fn missing_swapped_and_foreign_segments_are_reported() {
    let [first, second] = [&FIFTY.segments[0], &FIFTY.segments[1]].map(Clone::clone);
    let found = |segments: &[Vec<u8>]| verify(segments, None).findings[0].found.clone();
    assert_eq!(
        found(std::slice::from_ref(&second)),
        Found::Gap { first_index: 20 }
    );
    assert_eq!(
        found(&[second.clone(), first.clone()]),
        Found::Gap { first_index: 20 }
    );
    assert_eq!(
        found(&[first.clone(), first.clone()]),
        Found::Gap { first_index: 0 }
    );
    for foreign in [
        Header {
            store: CHAIN,
            chain: CHAIN,
            first_index: 20,
        },
        Header {
            store: STORE,
            chain: STORE,
            first_index: 20,
        },
    ] {
        let mut segment = foreign.encode().to_vec();
        segment.extend_from_slice(&second[HEADER_BYTES..]);
        assert_eq!(found(&[first.clone(), segment]), Found::OtherLog);
    }
    assert_eq!(found(&[vec![]]), Found::Header(SegmentError::Short));
}

#[test]
fn a_log_signed_by_another_key_is_reported_at_every_checkpoint() {
    let other = Signer::from_seed(&log_origin(&STORE, &CHAIN), &[0x0f; 32]).unwrap();
    let others = LogKeys::one(other.verifier().clone());
    let mut audit = Audit::new(&others, None).unwrap();
    FIFTY
        .segments
        .iter()
        .for_each(|segment| audit.segment(segment));
    let report = audit.finish();
    assert_eq!(report.findings.len(), 9);
    assert_eq!((report.verified, report.checkpoints), (None, 0));
    let unnamed = Signer::from_seed("example.org/log", &[0x5e; 32]).unwrap();
    let unnamed = LogKeys::one(unnamed.verifier().clone());
    assert!(Audit::new(&unnamed, None).is_err());
}

#[test]
fn reading_goes_on_behind_damage_and_counts_on_as_the_log_does() {
    let mut edited = FIFTY.segments.clone();
    // The length of leaf 4, and a signature in the second segment.
    let (number, start, _) = places(&FIFTY.segments, true)[4];
    edited[number][start] = 0x7f;
    let (number, _, end) = places(&FIFTY.segments, false)[6];
    edited[number][end - 8] ^= 1;
    let report = verify(&edited, None);
    let found: Vec<(usize, u64)> = report
        .findings
        .iter()
        .map(|f| (f.segment, f.index))
        .collect();
    assert_eq!(found, [(0, 4), (1, 35)], "{:?}", report.findings);
    assert_eq!((report.leaves, report.checkpoints), (50, 8));
    assert_eq!(report.verified.unwrap().size, 3);
    assert!(
        report.findings[0].to_string().contains("leaf 4"),
        "{}",
        report.findings[0]
    );
}

#[test]
fn an_edit_that_breaks_a_leafs_form_is_named_by_its_index() {
    let mut edited = FIFTY.segments.clone();
    let (number, start, _) = places(&FIFTY.segments, true)[13];
    edited[number][start + 6] ^= 0x40;
    let report = verify(&edited, None);
    assert_eq!(
        report.findings[0].found,
        Found::Root {
            first: 11,
            last: 19,
            suspects: vec![13]
        }
    );
    assert!(report.findings[0].to_string().contains("malformed: [13]"));
}

#[test]
fn a_checkpoint_is_not_mistaken_for_a_leafs_text() {
    // A leaf that quotes a whole checkpoint record reads as one leaf, also where reading resumes in the midst of it.
    let mut record = Vec::new();
    push_checkpoint(&mut record, &FIFTY.batch(1).note);
    let quoted = String::from_utf8_lossy(&record).into_owned();
    let event = crate::leaf::Stop { broker: quoted }.into();
    let leaf = Leaf {
        time_ms: 1,
        boot: [1; 16],
        event,
    }
    .encode()
    .unwrap();
    let mut segment = Vec::new();
    push_leaf(&mut segment, &leaf);
    assert_eq!(
        next_checkpoint(&segment, 0, signer().verifier().name()),
        None
    );
    assert_eq!(
        next_checkpoint(&record, 0, signer().verifier().name()),
        Some(0),
        "positive control"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// However leaves are batched and segmented, the tree is the same, and the log verifies.
    #[test]
    fn random_batches_give_the_same_root(batches in prop::collection::vec((1u64..9, any::<bool>()), 1..20)) {
        let mut log = Log::new();
        let mut plain = Frontier::new();
        for (size, new_segment) in batches {
            if new_segment {
                log.begin_segment();
            }
            for _ in 0..size {
                plain.append(*leaf(plain.size()).hash());
            }
            log.append(size);
            prop_assert_eq!(&log.frontier, &plain);
        }
        let report = verify(&log.zero_filled(), log.checkpoints.first().copied());
        prop_assert_eq!(report.findings, vec![]);
        prop_assert_eq!(report.verified.unwrap().root, plain.root());
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), with_header: bool) {
        let header = Header { store: STORE, chain: CHAIN, first_index: 0 }.encode();
        let segment = if with_header { [&header[..], &bytes].concat() } else { bytes };
        let report = verify(&[segment], None);
        prop_assert_eq!(report.verified, None);
    }
}

/// What has the origin and no note's length is passed over, and the record behind it is found.
#[test]
fn a_checkpoint_is_known_by_its_length_too() {
    let origin = signer().verifier().name().to_owned();
    let looks = [&[2], origin.as_bytes(), b"\n"].concat();
    let record = |length: usize| {
        let length = u32::try_from(length).unwrap().to_be_bytes();
        [&length[..], &looks].concat()
    };
    let (shortest, short) = (looks.len() + 1, looks.len());
    let mut segment = vec![0; 100];
    for false_length in [0, short, 1024, 0x0102_0304] {
        segment.extend(record(false_length));
    }
    assert_eq!(next_checkpoint(&segment, 0, &origin), None);
    let at = segment.len();
    segment.extend(record(shortest));
    assert_eq!(next_checkpoint(&segment, 0, &origin), Some(at));
    assert_eq!(next_checkpoint(&segment, at, &origin), Some(at));
    assert_eq!(next_checkpoint(&segment, at + 1, &origin), None);
}
