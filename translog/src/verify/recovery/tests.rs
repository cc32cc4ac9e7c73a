//! What a crash can leave is cut; what it cannot is refused and left alone.

use proptest::prelude::*;

use super::super::tests::{CHAIN, Log, STORE, keys, leaf, signer};
use super::*;
use crate::segment::{Header, push_leaf};
use crate::tree::Hash;

fn recovered(segments: &[Vec<u8>]) -> Result<Recovered, RecoveryError> {
    let segments: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
    recover(&segments, &keys(), Frontier::new())
}

/// Cuts as the broker does, and goes on: the result must be a whole log again.
fn cut_and_go_on(segments: &[Vec<u8>], recovered: &Recovered) {
    let mut log = Log::new();
    log.segments = segments[..=recovered.segment].to_vec();
    let segment = log.segments.last_mut().unwrap();
    segment[recovered.offset..].fill(0);
    segment.truncate(recovered.offset);
    log.frontier = recovered.frontier.clone();
    log.append(2);
    let keys = keys();
    let mut audit = Audit::new(&keys, None).unwrap();
    log.segments
        .iter()
        .for_each(|segment| audit.segment(segment));
    let report = audit.finish();
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!(report.leaves, recovered.frontier.size() + 2);
}

#[test]
fn a_log_that_was_closed_in_order_goes_on_where_it_ended() {
    let log = Log::of(&[3, 1], &[2]);
    let mut zero_filled = log.segments.clone();
    zero_filled[1].extend_from_slice(&[0; 4096]);
    let expected = Recovered {
        frontier: log.frontier.clone(),
        checkpoint: log.checkpoints.last().copied(),
        signed_by: Some(signer().verifier().clone()),
        segment: 1,
        offset: log.segments[1].len(),
        torn: None,
    };
    assert_eq!(recovered(&zero_filled), Ok(expected.clone()));
    // A further segment that was made and not begun is left out.
    zero_filled.push(vec![0; 4096]);
    assert_eq!(recovered(&zero_filled), Ok(expected.clone()));
    // And one that was begun and has no batch yet is gone on with.
    let header = Header {
        store: STORE,
        chain: CHAIN,
        first_index: 6,
    };
    zero_filled[2][..HEADER_BYTES].copy_from_slice(&header.encode());
    assert_eq!(
        recovered(&zero_filled),
        Ok(Recovered {
            segment: 2,
            offset: HEADER_BYTES,
            ..expected
        })
    );
}

#[test]
fn a_new_log_begins_behind_its_header() {
    let expected = Recovered {
        frontier: Frontier::new(),
        checkpoint: None,
        signed_by: None,
        segment: 0,
        offset: HEADER_BYTES,
        torn: None,
    };
    assert_eq!(recovered(&Log::new().segments), Ok(expected));
    assert_eq!(recovered(&[]), Err(RecoveryError::Empty));
    assert_eq!(recovered(&[vec![0; 4096]]), Err(RecoveryError::Empty));
}

#[test]
fn a_batch_that_ends_anywhere_is_cut() {
    let log = Log::of(&[3, 1], &[2]);
    let batch = log.batch(3).bytes;
    let offset = log.segments[1].len();
    for written in 1..batch.len() {
        let mut segments = log.segments.clone();
        segments[1].extend_from_slice(&batch[..written]);
        segments[1].extend_from_slice(&[0; 64]);
        let recovered = recovered(&segments).unwrap();
        assert_eq!(
            (recovered.segment, recovered.offset),
            (1, offset),
            "{written} bytes"
        );
        assert_eq!(recovered.checkpoint, log.checkpoints.last().copied());
        let nonzero = batch[..written].iter().rposition(|byte| *byte != 0);
        assert_eq!(
            recovered.torn.map(|torn| torn.bytes),
            nonzero.map(|last| last as u64 + 1)
        );
        if written % 50 == 1 {
            cut_and_go_on(&segments, &recovered);
        }
    }
}

#[test]
fn leaves_without_a_checkpoint_are_counted_and_cut() {
    for log in [Log::of(&[3], &[2]), Log::of(&[3], &[]), Log::new()] {
        let mut segments = log.segments.clone();
        let last = segments.last_mut().unwrap();
        let offset = last.len();
        (0..4).for_each(|number| push_leaf(last, &leaf(number)));
        let torn = TornTail {
            bytes: (last.len() - offset) as u64,
            leaves: 4,
        };
        let recovered = recovered(&segments).unwrap();
        assert_eq!(
            (recovered.segment, recovered.offset),
            (segments.len() - 1, offset)
        );
        assert_eq!(recovered.torn, Some(torn));
        cut_and_go_on(&segments, &recovered);
    }
}

#[test]
fn damage_further_back_is_refused_and_not_cut() {
    let log = Log::of(&[3, 1, 2], &[2, 1]);
    // Behind the first batch: a leaf of the second, two batches before the end of the segment, and the segment before
    // the last.
    let first_batch_end = HEADER_BYTES + Log::new().batch(3).bytes.len();
    let mut edited = log.segments.clone();
    edited[0][first_batch_end + 40] ^= 1;
    let expected = RecoveryError::Damaged {
        segment: 0,
        offset: first_batch_end,
        size: 3,
    };
    assert_eq!(recovered(&edited), Err(expected.clone()));
    assert_eq!(
        recovered(&edited[..1]),
        Err(expected.clone()),
        "two checkpoints follow"
    );
    // Nor does zeroing the framing hide the later checkpoints.
    edited[0][first_batch_end..first_batch_end + 5].fill(0);
    assert_eq!(recovered(&edited[..1]), Err(expected));
}

#[test]
fn a_torn_last_batch_of_a_first_segment_is_damage_once_another_segment_follows() {
    let mut log = Log::of(&[3, 1], &[2]);
    let end = log.segments[0].len();
    log.segments[0][end - 1] = 0;
    assert!(matches!(
        recovered(&log.segments),
        Err(RecoveryError::Damaged {
            segment: 0,
            size: 3,
            ..
        })
    ));
}

#[test]
fn another_log_another_key_and_unknown_headers_are_refused() {
    let log = Log::of(&[3], &[2]);
    let mut missing = log.segments.clone();
    missing.remove(0);
    assert!(matches!(
        recovered(&missing),
        Err(RecoveryError::Damaged {
            segment: 0,
            size: 0,
            ..
        })
    ));

    let segments: Vec<&[u8]> = log.segments.iter().map(Vec::as_slice).collect();
    let name = signer().verifier().name().to_owned();
    let other_key = crate::note::Signer::from_seed(&name, &[1; 32]).unwrap();
    let refused = recover(
        &segments[..1],
        &LogKeys::one(other_key.verifier().clone()),
        Frontier::new(),
    );
    assert_eq!(refused, Err(RecoveryError::OtherLog { segment: 0 }));
    let other_name = crate::checkpoint::log_origin(&CHAIN, &STORE);
    let other_log = crate::note::Signer::from_seed(&other_name, &[0x5e; 32]).unwrap();
    let refused = recover(
        &segments,
        &LogKeys::one(other_log.verifier().clone()),
        Frontier::new(),
    );
    assert_eq!(refused, Err(RecoveryError::OtherLog { segment: 0 }));

    let mut newer = log.segments.clone();
    newer[1][9] = 2;
    let error = SegmentError::Unknown {
        what: "format",
        number: 2,
    };
    assert_eq!(
        recovered(&newer),
        Err(RecoveryError::Header { segment: 1, error })
    );
}

#[test]
fn recovery_goes_on_from_a_kept_frontier() {
    let log = Log::of(&[3, 1], &[2, 2]);
    let boundary = log.checkpoints[1];
    let mut before = Frontier::new();
    (0..4).for_each(|number| before.append(*leaf(number).hash()));
    let peaks: Vec<Hash> = before.peaks().to_vec();
    let kept = Frontier::resume(boundary.size, peaks, &boundary.root).unwrap();
    let recovered = recover(&[&log.segments[1]], &keys(), kept).unwrap();
    assert_eq!(recovered.frontier, log.frontier);
    assert_eq!(
        (recovered.segment, recovered.offset),
        (0, log.segments[1].len())
    );
}

proptest! {
    /// A batch is written in blocks, of which a crash may keep any: whatever is kept, the log before it survives, and
    /// goes on.
    #[test]
    fn any_blocks_of_the_last_batch_may_be_lost(
        batches in prop::collection::vec(1u64..5, 0..5),
        last in 1u64..12,
        block in 16usize..300,
        kept in prop::collection::vec(any::<bool>(), 400),
    ) {
        let mut log = Log::new();
        batches.iter().for_each(|size| log.append(*size));
        let (sealed, offset) = (log.batch(last), log.segments[0].len());
        let mut written = sealed.bytes.clone();
        for (block, kept) in written.chunks_mut(block).zip(kept) {
            if !kept {
                block.fill(0);
            }
        }
        let whole = written == sealed.bytes;
        let mut segments = log.segments.clone();
        segments[0].extend_from_slice(&written);
        segments[0].extend_from_slice(&[0; 64]);
        let recovered = recovered(&segments).unwrap();
        if whole {
            prop_assert_eq!(&recovered.frontier, &sealed.frontier);
            prop_assert_eq!(recovered.torn, None);
        } else {
            prop_assert_eq!(&recovered.frontier, &log.frontier);
            prop_assert_eq!(recovered.offset, offset);
        }
        cut_and_go_on(&segments, &recovered);
    }
}
