use proptest::prelude::*;

use super::*;
use crate::SystemRandom;
use crate::key::SetHashKey;
use crate::row::{RowName, RowTag, set_element};
use crate::testing::{flipped, truncations};

const KEY: [u8; 32] = [0x11; 32];
const STORE: StoreId = StoreId::from_bytes([1; 16]);

fn element(n: u64) -> SetElement {
    let name = RowName {
        store: STORE,
        table: Table::Head,
        key: &n.to_be_bytes(),
    };
    set_element(SetHashKey::new(&KEY), &name, &RowTag::from_bytes([0; 32]))
}

fn anchor() -> Anchor {
    let mut heads = TableSum::EMPTY;
    heads.insert(&element(1)).unwrap();
    let head = AuditHead {
        size: 33,
        root: [7; 32],
    };
    Anchor {
        incarnation: 1,
        seq: 42,
        t_prev: AnchorTag::from_bytes([3; 32]),
        tables: [(Table::Head, heads), (Table::ValueKey, TableSum::EMPTY)].into(),
        heads: [(ChainId::from_bytes([5; 16]), head)].into(),
    }
}

fn seal(anchor: &Anchor) -> Vec<u8> {
    let id = KeyId::from_bytes([4; 16]);
    anchor
        .seal(&SystemRandom, AnchorSealKey::new(&KEY), id, STORE)
        .unwrap()
}

fn open(bytes: &[u8]) -> Result<Anchor, EnvelopeError> {
    SealedAnchor::parse(bytes)?.open(AnchorSealKey::new(&KEY), STORE)
}

/// Seals bytes that are no anchor record.
fn sealed_record(record: &Lp) -> Vec<u8> {
    let id = KeyId::from_bytes([4; 16]);
    let binding = AnchorBinding {
        store: STORE,
        incarnation: 1,
        seq: 42,
    };
    let key = AnchorSealKey::new(&KEY);
    let wrapped = wrap::wrap_anchor(&SystemRandom, key, id, &binding, record.as_bytes()).unwrap();
    Lp::record()
        .u32(1)
        .u64(42)
        .id(id)
        .bytes(&wrapped)
        .into_bytes()
}

fn fault(bytes: &[u8]) -> Malformed {
    let Err(EnvelopeError::Malformed {
        record: "the anchor",
        source,
    }) = open(bytes)
    else {
        panic!("not malformed")
    };
    source
}

proptest! {
    #[test]
    fn the_sum_does_not_depend_on_order(rows in prop::collection::btree_set(any::<u64>(), 0..20), seed: u64) {
        let (mut one, mut other) = (TableSum::EMPTY, TableSum::EMPTY);
        rows.iter().for_each(|n| one.insert(&element(*n)).unwrap());
        rows.iter().rev().for_each(|n| other.insert(&element(*n)).unwrap());
        prop_assert_eq!(one, other);
        prop_assert_eq!(usize::try_from(one.count()), Ok(rows.len()));
        let before = one;
        one.insert(&element(seed)).unwrap();
        prop_assert!(one != before);
        one.remove(&element(seed)).unwrap();
        prop_assert_eq!(one, before);
        rows.iter().for_each(|n| one.remove(&element(*n)).unwrap());
        prop_assert_eq!(one, TableSum::EMPTY);
    }

    #[test]
    fn a_flipped_bit_of_a_sealed_anchor_is_refused(at: prop::sample::Index) {
        let sealed = seal(&anchor());
        prop_assert_eq!(open(&sealed), Ok(anchor()));
        prop_assert!(open(&flipped(&sealed, at)).is_err());
    }
}

#[test]
fn sums_carry_and_borrow_through_all_bytes() {
    let one = {
        let mut one = [0; 32];
        one[31] = 1;
        one
    };
    let mut all = [0xff; 32];
    add(&mut all, &one);
    assert_eq!(all, [0; 32]);
    subtract(&mut all, &one);
    assert_eq!(all, [0xff; 32]);
}

#[test]
fn a_full_table_and_an_empty_one_are_told() {
    let mut full = TableSum::from_parts([1; 32], u32::MAX);
    assert!(matches!(
        full.insert(&element(1)),
        Err(EnvelopeError::Rule(_))
    ));
    assert_eq!(full, TableSum::from_parts([1; 32], u32::MAX), "as it was");
    let mut empty = TableSum::EMPTY;
    assert!(matches!(
        empty.remove(&element(1)),
        Err(EnvelopeError::Rule(_))
    ));
    assert_eq!(empty, TableSum::EMPTY, "as it was");
}

#[test]
fn t_depends_on_everything() {
    let key = AnchorMacKey::new(&KEY);
    let right = anchor();
    let t = right.t(key, STORE);
    let with = |change: fn(&mut Anchor)| {
        let mut other = right.clone();
        change(&mut other);
        other.t(key, STORE)
    };
    for other in [
        right.t(AnchorMacKey::new(&[9; 32]), STORE),
        right.t(key, StoreId::from_bytes([9; 16])),
        with(|anchor| anchor.incarnation = 2),
        with(|anchor| anchor.seq = 43),
        with(|anchor| anchor.t_prev = AnchorTag::ZERO),
        with(|anchor| {
            anchor.tables.remove(&Table::ValueKey);
        }),
        with(|anchor| {
            anchor
                .tables
                .insert(Table::ValueKey, TableSum::from_parts([0; 32], 1));
        }),
        with(|anchor| anchor.heads.clear()),
        with(|anchor| anchor.heads.values_mut().for_each(|head| head.size = 34)),
    ] {
        assert_ne!(t, other);
    }
}

#[test]
fn an_anchor_of_another_place_is_refused() {
    let sealed = seal(&anchor());
    let parsed = SealedAnchor::parse(&sealed).unwrap();
    assert_eq!((parsed.incarnation, parsed.seq), (1, 42));
    let key = AnchorSealKey::new(&KEY);
    let refused = Err(EnvelopeError::Refused);
    assert_eq!(parsed.open(key, StoreId::from_bytes([9; 16])), refused);
    assert_eq!(SealedAnchor { seq: 41, ..parsed }.open(key, STORE), refused);
    assert_eq!(
        SealedAnchor {
            incarnation: 2,
            ..parsed
        }
        .open(key, STORE),
        refused
    );
    let other = KeyId::from_bytes([9; 16]);
    assert_eq!(
        SealedAnchor {
            key_id: other,
            ..parsed
        }
        .open(key, STORE),
        refused
    );
}

#[test]
fn a_sealed_anchor_cut_anywhere_is_refused() {
    let sealed = seal(&anchor());
    for cut in truncations(&sealed) {
        assert!(open(cut).is_err());
    }
    let long = [sealed.as_slice(), &[0]].concat();
    assert_eq!(fault(&long), Malformed::new("the record", Fault::Trailing));
}

#[test]
fn tables_out_of_order_are_refused() {
    let table = |table: Table| Lp::new().str(table.name()).bytes(&[0; 32]).u32(0);
    let record = |tables: [Table; 2]| Lp::new().bytes(&[0; 32]).list(tables.map(table)).list([]);
    assert!(open(&sealed_record(&record([Table::Ban, Table::Head]))).is_ok());
    for wrong in [[Table::Head, Table::Ban], [Table::Head, Table::Head]] {
        let found = fault(&sealed_record(&record(wrong)));
        assert_eq!(found, Malformed::new("tables", Fault::Order));
    }
}

#[test]
fn an_unknown_table_is_refused() {
    let table = Lp::new().str("heads").bytes(&[0; 32]).u32(0);
    let record = Lp::new().bytes(&[0; 32]).list([table]).list([]);
    assert_eq!(
        fault(&sealed_record(&record)),
        Malformed::new("table", Fault::Grammar)
    );
}

#[test]
fn chains_out_of_order_are_refused() {
    let chain = |n: u8| {
        Lp::new()
            .id(ChainId::from_bytes([n; 16]))
            .u64(0)
            .bytes(&[0; 32])
    };
    let record = Lp::new()
        .bytes(&[0; 32])
        .list([])
        .list([chain(2), chain(1)]);
    assert_eq!(
        fault(&sealed_record(&record)),
        Malformed::new("chains", Fault::Order)
    );
}

#[test]
fn a_record_with_more_to_it_is_refused() {
    let record = Lp::new().bytes(&[0; 32]).list([]).list([]).u8(0);
    assert_eq!(
        fault(&sealed_record(&record)),
        Malformed::new("the record", Fault::Trailing)
    );
}

#[test]
fn a_sum_does_not_print_its_hash() {
    let sum = TableSum::from_parts([0xab; 32], 3);
    assert_eq!(format!("{sum:?}"), "TableSum(.., 3)");
}

#[test]
fn a_tag_is_shown_whole_and_a_sum_by_its_count_alone() {
    let tag = AnchorTag::from_bytes([0xab; 32]);
    assert_eq!(
        format!("{tag:?}"),
        format!("AnchorTag({})", "ab".repeat(32))
    );
    let sum = TableSum::from_parts([0xcd; 32], 7);
    assert_eq!(format!("{sum:?}"), "TableSum(.., 7)");
}
