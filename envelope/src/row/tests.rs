use proptest::prelude::*;

use super::*;
use crate::testing::{flipped, truncations};

const KEY: [u8; 32] = [0x11; 32];

fn row_name(key: &[u8]) -> RowName<'_> {
    RowName {
        store: StoreId::from_bytes([1; 16]),
        table: Table::Head,
        key,
    }
}

fn verify<'a>(bytes: &'a [u8], name: &RowName<'_>) -> Result<Row<'a>, EnvelopeError> {
    UnverifiedRow::parse(bytes)?.verify(RowMacKey::new(&KEY), name)
}

proptest! {
    #[test]
    fn a_row_verifies_and_with_any_bit_flipped_does_not(
        epoch: u32, seq: u64, key: Vec<u8>, body: Vec<u8>, at: prop::sample::Index,
    ) {
        let name = row_name(&key);
        let sealed = seal(RowMacKey::new(&KEY), epoch, &name, seq, &body);
        let row = verify(&sealed.bytes, &name).unwrap();
        prop_assert_eq!((row.mac_epoch, row.seq, row.body), (epoch, seq, body.as_slice()));
        prop_assert!(row.tag == sealed.tag);
        prop_assert!(verify(&flipped(&sealed.bytes, at), &name).is_err());
    }

    #[test]
    fn hostile_bytes_never_verify(bytes: Vec<u8>) {
        prop_assert!(verify(&bytes, &row_name(b"payments/db")).is_err());
    }
}

#[test]
fn a_row_under_another_name_is_refused() {
    let right = row_name(b"payments/db");
    let sealed = seal(RowMacKey::new(&KEY), 1, &right, 7, b"body");
    for swapped in [
        RowName {
            store: StoreId::from_bytes([9; 16]),
            ..right
        },
        RowName {
            table: Table::Version,
            ..right
        },
        RowName {
            key: b"payments/dc",
            ..right
        },
    ] {
        assert_eq!(
            verify(&sealed.bytes, &swapped).err(),
            Some(EnvelopeError::Refused)
        );
    }
    let other = UnverifiedRow::parse(&sealed.bytes).unwrap();
    let result = other.verify(RowMacKey::new(&[0x12; 32]), &right);
    assert_eq!(result.err(), Some(EnvelopeError::Refused));
}

#[test]
fn a_row_cut_anywhere_is_refused() {
    let name = row_name(b"payments/db");
    let sealed = seal(RowMacKey::new(&KEY), 1, &name, 7, b"body");
    for cut in truncations(&sealed.bytes) {
        assert!(verify(cut, &name).is_err(), "{} bytes", cut.len());
        if cut.len() < HEAD_BYTES + TAG_BYTES {
            assert!(matches!(
                UnverifiedRow::parse(cut),
                Err(EnvelopeError::Malformed {
                    record: "the row",
                    ..
                })
            ));
        }
    }
}

#[test]
fn an_unknown_format_is_refused_by_number() {
    let name = row_name(b"payments/db");
    let mut sealed = seal(RowMacKey::new(&KEY), 1, &name, 7, b"body");
    sealed.bytes[1] = 3;
    assert_eq!(
        UnverifiedRow::parse(&sealed.bytes).err(),
        Some(EnvelopeError::Format {
            record: "the row",
            found: 3
        })
    );
}

#[test]
fn a_set_element_is_of_its_name_and_tag() {
    let key = SetHashKey::new(&KEY);
    let right = row_name(b"payments/db");
    let tag = RowTag::from_bytes([5; 32]);
    let one = set_element(key, &right, &tag);
    assert!(one == set_element(key, &right, &tag));
    for other in [
        set_element(SetHashKey::new(&[0x12; 32]), &right, &tag),
        set_element(
            key,
            &RowName {
                store: StoreId::from_bytes([9; 16]),
                ..right
            },
            &tag,
        ),
        set_element(
            key,
            &RowName {
                table: Table::Version,
                ..right
            },
            &tag,
        ),
        set_element(
            key,
            &RowName {
                key: b"payments/dc",
                ..right
            },
            &tag,
        ),
        set_element(key, &right, &RowTag::from_bytes([6; 32])),
    ] {
        assert!(one != other);
    }
}

#[test]
fn a_tag_is_not_shown() {
    assert_eq!(format!("{:?}", RowTag([0xab; TAG_BYTES])), "RowTag(..)");
}
