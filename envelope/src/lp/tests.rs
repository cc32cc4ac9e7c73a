use proptest::prelude::*;

use super::*;
use crate::testing::truncations;

fn fault<T: std::fmt::Debug>(result: Result<T, Malformed>) -> (&'static str, Fault) {
    let Malformed { field, fault } = result.unwrap_err();
    (field, fault)
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        byte: u8, short: u16, word: u32, long: u64, id: [u8; 16],
        bytes: Vec<u8>, text: String, list in prop::collection::vec((any::<u32>(), any::<String>()), 0..9),
    ) {
        let written = Lp::record()
            .u8(byte).u16(short).u32(word).u64(long).id(crate::id::KeyId::from_bytes(id)).bytes(&bytes).str(&text)
            .list(list.iter().map(|(number, name)| Lp::new().u32(*number).str(name)))
            .into_bytes();
        let mut reader = Reader::record("the test", &written).unwrap();
        prop_assert_eq!(reader.u8("byte"), Ok(byte));
        prop_assert_eq!(reader.u16("short"), Ok(short));
        prop_assert_eq!(reader.u32("word"), Ok(word));
        prop_assert_eq!(reader.u64("long"), Ok(long));
        prop_assert_eq!(reader.id::<[u8; 16]>("id"), Ok(id));
        prop_assert_eq!(reader.bytes("bytes"), Ok(bytes.as_slice()));
        prop_assert_eq!(reader.str("text", usize::MAX), Ok(text.as_str()));
        let read = reader.list("list", 9, |parts| {
            Ok((parts.u32("number")?, parts.str("name", usize::MAX)?.to_owned()))
        });
        prop_assert_eq!(read, Ok(list));
        prop_assert_eq!(reader.finish("the test"), Ok(()));
    }

    #[test]
    fn hostile_bytes_never_panic(bytes: Vec<u8>) {
        let mut reader = Reader::new(&bytes);
        let _ = reader.list("list", usize::MAX, |parts| parts.bytes("part"));
        let _ = reader.u64("number");
        let _ = reader.str("text", 8);
        let _ = Reader::record("the test", &bytes);
    }
}

#[test]
fn a_record_that_ends_anywhere_is_truncated() {
    let whole = Lp::record().u32(7).str("text").into_bytes();
    for cut in truncations(&whole) {
        let read = || {
            let mut reader = Reader::record("the test", cut)?;
            let read = reader.u32("number").and_then(|_| reader.str("text", 9));
            read.map_err(EnvelopeError::malformed("the test"))
        };
        let Err(EnvelopeError::Malformed { source, .. }) = read() else {
            panic!("{} bytes of {}", cut.len(), whole.len())
        };
        assert_eq!(source.fault, Fault::Truncated);
    }
}

#[test]
fn an_unknown_format_is_refused_by_number() {
    let mut bytes = Lp::record().into_bytes();
    bytes[1] = 2;
    assert_eq!(
        Reader::record("the test", &bytes).err(),
        Some(EnvelopeError::Format {
            record: "the test",
            found: 2
        })
    );
}

#[test]
fn an_unknown_suite_is_refused_by_number() {
    let mut bytes = Lp::record().into_bytes();
    bytes[2] = 0x0a;
    assert_eq!(
        Reader::record("the test", &bytes).err(),
        Some(EnvelopeError::Suite {
            record: "the test",
            found: 0x0a01
        })
    );
}

#[test]
fn a_field_of_another_length_is_refused() {
    let bytes = Lp::new().bytes(&[1, 2, 3]).into_bytes();
    let wrong = ("number", Fault::Length);
    assert_eq!(fault(Reader::new(&bytes).u8("number")), wrong);
    assert_eq!(fault(Reader::new(&bytes).u16("number")), wrong);
    assert_eq!(fault(Reader::new(&bytes).u32("number")), wrong);
    assert_eq!(fault(Reader::new(&bytes).u64("number")), wrong);
    assert_eq!(fault(Reader::new(&bytes).array::<4>("number")), wrong);
}

#[test]
fn a_length_past_the_end_is_truncated() {
    assert_eq!(
        fault(Reader::new(&[0xff; 8]).bytes("field")),
        ("field", Fault::Truncated)
    );
}

#[test]
fn a_field_past_its_limit_is_too_long() {
    let bytes = Lp::new().str("12345").into_bytes();
    assert_eq!(Reader::new(&bytes).str("text", 5), Ok("12345"));
    assert_eq!(
        fault(Reader::new(&bytes).str("text", 4)),
        ("text", Fault::TooLong)
    );
    assert_eq!(
        fault(Reader::new(&bytes).bytes_up_to("text", 4)),
        ("text", Fault::TooLong)
    );
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let bytes = Lp::new().bytes(&[0xc3, 0x28]).into_bytes();
    assert_eq!(
        fault(Reader::new(&bytes).str("text", 9)),
        ("text", Fault::NotUtf8)
    );
    let name = Reader::new(&bytes).parse::<crate::name::FieldName>("text");
    assert_eq!(fault(name), ("text", Fault::NotUtf8));
}

#[test]
fn text_outside_of_its_grammar_is_refused() {
    let bytes = Lp::new().str("Payments").into_bytes();
    let name = Reader::new(&bytes).parse::<crate::name::Keyspace>("keyspace");
    assert_eq!(fault(name), ("keyspace", Fault::Grammar));
}

#[test]
fn trailing_bytes_are_refused() {
    let mut bytes = Lp::new().u8(1).into_bytes();
    bytes.push(0);
    let mut reader = Reader::new(&bytes);
    assert_eq!(reader.u8("number"), Ok(1));
    assert_eq!(
        fault(reader.finish("the test")),
        ("the test", Fault::Trailing)
    );
}

#[test]
fn a_list_of_more_than_its_limit_is_too_long() {
    let bytes = Lp::new().list((0..3).map(|n| Lp::new().u8(n))).into_bytes();
    let read = |max| Reader::new(&bytes).list("list", max, |parts| parts.u8("number"));
    assert_eq!(read(3), Ok(vec![0, 1, 2]));
    assert_eq!(fault(read(2)), ("list", Fault::TooLong));
}

#[test]
fn a_list_that_counts_more_than_it_has_is_truncated() {
    let bytes = Lp::new().u32(u32::MAX).u8(1).into_bytes();
    let read = Reader::new(&bytes).list("list", usize::MAX, |parts| {
        parts.bytes("part").map(<[u8]>::len)
    });
    assert!(matches!(fault(read), ("list" | "part", Fault::Truncated)));
}

#[test]
fn an_element_with_a_part_too_many_is_refused() {
    let bytes = Lp::new().list([Lp::new().u8(1).u8(2)]).into_bytes();
    let read = Reader::new(&bytes).list("list", 9, |parts| parts.u8("number"));
    assert_eq!(fault(read), ("list", Fault::Trailing));
}

#[test]
fn moving_a_boundary_changes_the_bytes() {
    assert_ne!(
        Lp::new().str("ab").str("c").as_bytes(),
        Lp::new().str("a").str("bc").as_bytes()
    );
    let flat = Lp::new().u32(1).bytes(Lp::new().u8(1).as_bytes());
    assert_eq!(
        Lp::new().list([Lp::new().u8(1)]).as_bytes(),
        flat.as_bytes()
    );
}
