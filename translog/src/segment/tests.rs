//! Headers and records, whole and in every damaged form.

use super::*;
use crate::checkpoint::log_origin;
use crate::leaf::{Leaf, Stop};

const HEADER: Header = Header {
    store: [1; 16],
    chain: [2; 16],
    first_index: 0x0102_0304_0506_0708,
};

fn leaf(number: u64) -> EncodedLeaf {
    let event = Stop {
        broker: format!("spiffe://example.internal/broker/{number}"),
    }
    .into();
    Leaf {
        time_ms: number,
        boot: [3; 16],
        event,
    }
    .encode()
    .unwrap()
}

#[test]
fn the_header_is_laid_out_as_documented() {
    let bytes = HEADER.encode();
    assert_eq!(&bytes[..8], b"ATTAUDIT");
    assert_eq!(bytes[8..12], [0, 1, 0, 1]);
    assert_eq!(bytes[12..28], [1; 16]);
    assert_eq!(bytes[28..44], [2; 16]);
    assert_eq!(bytes[44..52], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bytes[52..], [0; 12]);
    assert_eq!(Header::parse(&bytes), Ok(HEADER));
}

#[test]
fn damaged_headers_are_refused_by_what_is_wrong() {
    let good = HEADER.encode();
    assert_eq!(Header::parse(&good[..63]), Err(SegmentError::Short));
    for (at, expected) in [
        (0, SegmentError::Magic),
        (7, SegmentError::Magic),
        (
            8,
            SegmentError::Unknown {
                what: "format",
                number: 0xff01,
            },
        ),
        (
            11,
            SegmentError::Unknown {
                what: "suite",
                number: 0x00fe,
            },
        ),
        (52, SegmentError::Magic),
        (63, SegmentError::Magic),
    ] {
        let mut bytes = good;
        bytes[at] ^= 0xff;
        assert_eq!(Header::parse(&bytes), Err(expected), "byte {at}");
    }
}

#[test]
fn a_batch_reads_back_as_its_leaves_and_one_checkpoint() {
    let signer = Signer::from_seed(&log_origin(&[1; 16], &[2; 16]), &[4; 32]).unwrap();
    let mut batch = Batch::new(&Frontier::new());
    assert!(batch.is_empty());
    let leaves: Vec<EncodedLeaf> = (0..3).map(leaf).collect();
    let indexes: Vec<u64> = leaves.iter().map(|leaf| batch.push(leaf)).collect();
    assert_eq!(indexes, [0, 1, 2]);
    assert!(!batch.is_empty() && batch.len() > 3 * 64);
    let sealed = batch.seal(&signer).unwrap();
    assert_eq!((sealed.checkpoint.size, sealed.frontier.size()), (3, 3));
    assert_eq!(
        Checkpoint::open(&sealed.note, signer.verifier()),
        Ok(sealed.checkpoint)
    );

    for zeros in [0, 1, 3, 4, 5, 4096] {
        let segment = [&HEADER.encode()[..], &sealed.bytes, &vec![0; zeros]].concat();
        let mut records = Records::new(&segment);
        for leaf in &leaves {
            assert!(
                matches!(records.next(), Some((_, Ok(Record::Leaf(body)))) if body == leaf.body())
            );
        }
        let (_, last) = records.next().unwrap();
        assert_eq!(last, Ok(Record::Checkpoint(sealed.note.as_bytes())));
        assert_eq!(records.next(), None);
        assert_eq!(records.offset(), segment.len() - zeros);
    }
}

#[test]
fn damaged_records_are_named_with_their_offset_and_end_the_reading() {
    let mut good = HEADER.encode().to_vec();
    push_leaf(&mut good, &leaf(1));
    let end = good.len();
    let damaged: [(&[u8], SegmentError); 6] = [
        (&[0, 0, 0, 1, 9, 0], SegmentError::Kind { kind: 9 }),
        (&[0, 0, 0, 2, 1, 0], SegmentError::Length { length: 2 }),
        (&[0, 0, 0, 1], SegmentError::Length { length: 1 }),
        (
            &[0xff, 0xff, 0xff, 0xff, 1, 0],
            SegmentError::Length { length: u32::MAX },
        ),
        (&[0, 0, 0, 0, 1], SegmentError::Trailing),
        (&[1], SegmentError::Trailing),
    ];
    for (bytes, expected) in damaged {
        let segment = [&good[..], bytes].concat();
        let mut records = Records::new(&segment);
        assert!(matches!(
            records.next(),
            Some((HEADER_BYTES, Ok(Record::Leaf(_))))
        ));
        assert_eq!(records.next(), Some((end, Err(expected))), "{bytes:?}");
        assert_eq!(records.next(), None);
    }
}
