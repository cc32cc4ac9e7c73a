//! Leaves of every kind, and every way in which a body is not canonical.

use std::collections::HashSet;

use proptest::prelude::*;

use super::examples::examples;
use super::*;

fn leaf(event: Event) -> Leaf {
    Leaf {
        time_ms: 1_795_000_000_000,
        boot: [0xb0; 16],
        event,
    }
}

/// A body of the items given, whether or not they make sense.
fn body(items: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![0, 1, 0, 1];
    for (tag, value) in items {
        body.extend_from_slice(&tag.to_be_bytes());
        body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value);
    }
    body
}

const STOP: [(u16, &[u8]); 4] = [
    (1, &[0, 2]),
    (2, &[0; 8]),
    (3, &[5; 16]),
    (4, b"spiffe://x"),
];

/// The items of [`STOP`] with one of them changed.
fn stop_with(at: usize, item: (u16, &'static [u8])) -> Vec<u8> {
    let mut items = STOP;
    items[at] = item;
    body(&items)
}

#[test]
fn every_kind_has_an_example_and_reads_back_to_itself() {
    let kinds: HashSet<u16> = examples().iter().map(Event::kind).collect();
    let registry: HashSet<u16> = Event::KINDS.iter().map(|(number, _)| *number).collect();
    assert_eq!(kinds, registry);
    for event in examples() {
        let leaf = leaf(event);
        let encoded = leaf.encode().unwrap();
        assert_eq!(Leaf::parse(encoded.body()), Ok(leaf));
        assert_eq!(*encoded.hash(), leaf_hash(encoded.body()));
    }
}

#[test]
fn numbers_of_kinds_and_tags_are_used_once() {
    let ascends = |numbers: &[u16]| numbers.windows(2).all(|pair| pair[0] < pair[1]);
    let kinds: Vec<u16> = Event::KINDS.iter().map(|(number, _)| *number).collect();
    let tags: Vec<u16> = Tag::ALL.iter().map(|tag| tag.number()).collect();
    assert!(ascends(&kinds) && ascends(&tags));
    let names: HashSet<&str> = Tag::ALL.iter().map(|tag| tag.name()).collect();
    assert_eq!(names.len(), tags.len());
}

#[test]
fn a_leaf_is_laid_out_as_documented() {
    let event = Stop {
        broker: "spiffe://x".into(),
    }
    .into();
    let encoded = Leaf {
        time_ms: 0,
        boot: [5; 16],
        event,
    }
    .encode()
    .unwrap();
    assert_eq!(encoded.body(), body(&STOP));
}

#[test]
fn people_see_every_item_that_is_there() {
    let anchor: Event = Anchor {
        incarnation: 1,
        seq: 43,
        t: [0xab; 32],
    }
    .into();
    assert_eq!(anchor.name(), "anchor");
    let shown = anchor.items();
    assert_eq!(
        shown,
        [
            (Tag::Incarnation, "1".to_owned()),
            (Tag::Seq, "43".to_owned()),
            (Tag::AnchorT, "ab".repeat(32))
        ]
    );
    for event in examples() {
        let encoded = leaf(event.clone()).encode().unwrap();
        let items = event.items();
        assert_eq!(
            items.len() + 3,
            count_items(encoded.body()),
            "{}",
            event.name()
        );
        assert!(
            items
                .iter()
                .all(|(tag, text)| !text.is_empty() || matches!(tag, Tag::Values | Tag::Policies))
        );
    }
}

#[test]
fn people_see_each_kind_of_value_in_its_own_form() {
    let shown = |event: &Event, tag: Tag| {
        let items = event.items().into_iter();
        let found = items.filter(|(of, _)| *of == tag).map(|(_, text)| text);
        found.collect::<Vec<_>>().concat()
    };
    let events = examples();
    let release = &events
        .iter()
        .find(|event| event.name() == "release")
        .unwrap();
    for (tag, text) in [
        (Tag::Cluster, "local"),
        (Tag::ReleaseId, "03030303-0303-0303-0303-030303030303"),
        (Tag::PluginKey, &"06".repeat(32)),
        (
            Tag::Values,
            "payments/db@3#password, payments/db@3#username",
        ),
        (Tag::References, "payments/extra"),
        (Tag::Generation, &format!("1/2a-{}", "07".repeat(32))),
        (Tag::Policies, "grant-1"),
    ] {
        assert_eq!(shown(release, tag), text, "{tag:?}");
    }
    let mut intent = None;
    let mut endings = Vec::new();
    for event in &events {
        match event.name() {
            "intent" => intent = Some(shown(event, Tag::Serial)),
            "outcome" => endings.push(shown(event, Tag::Ending)),
            _ => {}
        }
    }
    assert_eq!(intent.unwrap(), hex::encode(examples::serial()));
    assert_eq!(endings, ["committed", "committed", "not committed"]);
}

#[test]
fn a_body_of_a_mebibyte_is_the_longest() {
    let stop = |length: usize| Stop {
        broker: "x".repeat(length),
    };
    let around = leaf(stop(0).into()).encode().unwrap().body().len();
    let longest = leaf(stop((1 << 20) - around).into()).encode().unwrap();
    assert_eq!(longest.body().len(), 1 << 20);
    assert!(Leaf::parse(longest.body()).is_ok());
    let longer = leaf(stop((1 << 20) - around + 1).into()).encode();
    assert_eq!(longer, Err(LeafError::TooLong));
}

fn count_items(body: &[u8]) -> usize {
    let (mut at, mut count) = (4, 0);
    while at < body.len() {
        let length = u32::from_be_bytes(body[at + 2..at + 6].try_into().unwrap());
        at += 6 + length as usize;
        count += 1;
    }
    count
}

#[test]
fn bodies_that_are_not_canonical_are_refused() {
    assert!(Leaf::parse(&body(&STOP)).is_ok(), "positive control");
    let mut longer = STOP.to_vec();
    longer.push((5, &[1]));
    let mut twice = STOP.to_vec();
    twice.push((4, b"spiffe://x"));
    let mut late = STOP.to_vec();
    late.push((3, &[5; 16]));
    let mut swapped = STOP;
    swapped.swap(1, 2);
    let unknown = |what, number| LeafError::Unknown { what, number };
    let refused: [(Vec<u8>, LeafError); 19] = [
        (vec![], LeafError::Short),
        (vec![0, 1, 0], LeafError::Short),
        (vec![0, 2, 0, 1], unknown("format", 2)),
        (vec![0, 1, 0, 9], unknown("suite", 9)),
        (vec![0, 1, 0, 1], LeafError::Missing { tag: 1 }),
        (vec![0, 1, 0, 1, 0], LeafError::Short),
        (vec![0, 1, 0, 1, 0, 1, 0, 0, 0, 2, 0], LeafError::Short),
        (
            stop_with(0, (1, &[0xff, 0xff])),
            unknown("leaf kind", 0xffff),
        ),
        (stop_with(0, (1, &[0, 0])), unknown("leaf kind", 0)),
        (stop_with(0, (1, &[2])), LeafError::Value { tag: 1 }),
        (stop_with(1, (2, &[0; 9])), LeafError::Value { tag: 2 }),
        (stop_with(2, (3, &[0; 15])), LeafError::Value { tag: 3 }),
        (stop_with(3, (4, &[0xff])), LeafError::Value { tag: 4 }),
        (body(&STOP[..3]), LeafError::Missing { tag: 4 }),
        (body(&STOP[1..]), LeafError::Missing { tag: 1 }),
        (body(&longer), LeafError::Unexpected { tag: 5 }),
        (body(&twice), LeafError::Order { tag: 4 }),
        (body(&late), LeafError::Order { tag: 3 }),
        (body(&swapped), LeafError::Missing { tag: 2 }),
    ];
    for (bytes, expected) in refused {
        assert_eq!(Leaf::parse(&bytes), Err(expected), "{bytes:02x?}");
    }
}

/// The writer against bodies that were made elsewhere; the reader's side is in `tests/vectors.rs`.
#[test]
fn the_writer_makes_the_bodies_of_the_vectors() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/independent/vectors/audit-leaf.json"
    );
    let vectors: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut checked = 0;
    for case in vectors["cases"].as_array().unwrap() {
        let Some(items) = case["in"]["items"].as_array() else {
            continue;
        };
        let mut out = Writer::new();
        for item in items {
            let value = hex::decode(item["value"].as_str().unwrap()).unwrap();
            let tag = item["tag"].as_u64().unwrap().try_into().unwrap();
            out.item(tag, |bytes| bytes.extend_from_slice(&value));
        }
        assert_eq!(
            hex::encode(out.finish().unwrap()),
            case["out"]["body"].as_str().unwrap()
        );
        checked += 1;
    }
    assert!(checked >= 4);
}

#[test]
fn an_item_of_another_kind_is_refused_in_any_place() {
    // An outcome without its optional reason: tag 30 may be there, tags 29 and 31 may not.
    let parts: [(u16, &[u8]); 6] = [
        (1, &[0, 7]),
        (2, &[0; 8]),
        (3, &[0; 16]),
        (4, b"spiffe://x"),
        (6, &[1; 16]),
        (35, &[2]),
    ];
    let end: [(u16, &[u8]); 1] = [(39, &[0; 8])];
    let with = |tag: u16| {
        let mut items = parts.to_vec();
        items.extend_from_slice(&end);
        items.push((tag, b"why"));
        items.sort_unstable();
        Leaf::parse(&body(&items)).map(|_| ())
    };
    assert_eq!(with(30), Ok(()));
    assert_eq!(with(29), Err(LeafError::Unexpected { tag: 29 }));
    assert_eq!(with(31), Err(LeafError::Unexpected { tag: 31 }));
    assert_eq!(with(0), Err(LeafError::Unexpected { tag: 0 }));
    assert_eq!(with(0xffff), Err(LeafError::Unexpected { tag: 0xffff }));
}

#[test]
fn lists_are_read_in_their_one_form() {
    let list = |bytes: &[u8]| -> Option<Vec<String>> { value::Value::take(bytes) };
    let good = [0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 1, b'a'];
    assert_eq!(list(&good), Some(vec!["a".to_owned()]));
    assert_eq!(list(&[0, 0, 0, 4, 0, 0, 0, 0]), Some(vec![]));
    assert_eq!(list(&[]), None);
    assert_eq!(
        list(&[0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 1, b'a']),
        None,
        "fewer than the count"
    );
    assert_eq!(
        list(&[0, 0, 0, 4, 0, 0, 0, 0, 0]),
        None,
        "more than the count"
    );
    assert_eq!(
        list(&[0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 1, b'a', 0]),
        None,
        "more than its parts"
    );
    assert_eq!(
        list(&[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]),
        None,
        "a count that is a lie"
    );
    assert_eq!(list(&[0, 0, 0, 3, 0, 0, 1]), None, "a count of three bytes");
    assert!(<Ending as value::Value>::take(&[3]).is_none());
    assert!(<Ending as value::Value>::take(&[1, 1]).is_none());
}

#[test]
fn texts_hold_no_control_characters_and_serials_at_most_twenty_bytes() {
    let event = Ban {
        identity: "a\n\u{1b}[31m\0b".into(),
        reason: "\u{9b}\u{7f}ok".into(),
    }
    .into();
    let encoded = leaf(event).encode().unwrap();
    let clean = Ban {
        identity: "a\u{fffd}\u{fffd}[31m\u{fffd}b".into(),
        reason: "\u{fffd}\u{fffd}ok".into(),
    };
    assert_eq!(Leaf::parse(encoded.body()).unwrap().event, clean.into());
    for text in [&b"spiffe://x\n"[..], b"\0", b"\x1b[31m", b"\xc2\x9b"] {
        let mut items = STOP;
        items[3] = (4, text);
        assert_eq!(Leaf::parse(&body(&items)), Err(LeafError::Value { tag: 4 }));
    }
    let list: Option<Vec<String>> =
        value::Value::take(&[0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 1, b'\n']);
    assert_eq!(list, None);

    let serial = |length: u8| -> Vec<u8> { (1..=length).collect() };
    assert_eq!(
        <Vec<u8> as value::Value>::take(&serial(20)),
        Some(serial(20))
    );
    assert_eq!(<Vec<u8> as value::Value>::take(&serial(21)), None);
    let mut out = Vec::new();
    value::Value::put(&serial(30), &mut out);
    assert_eq!(out, serial(20));
}

#[test]
fn a_leaf_past_the_limit_is_refused_by_writer_and_reader() {
    let event = Stop {
        broker: "x".repeat(MAX_LEAF_BYTES),
    }
    .into();
    assert_eq!(leaf(event).encode(), Err(LeafError::TooLong));
    assert_eq!(
        Leaf::parse(&vec![0; MAX_LEAF_BYTES + 1]),
        Err(LeafError::TooLong)
    );
}

proptest! {
    /// One record has one byte form: whatever parses encodes to the very bytes that were parsed.
    #[test]
    fn what_parses_after_an_edit_is_canonical(example in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte: u8) {
        let examples = examples();
        let encoded = leaf(examples[example.index(examples.len())].clone()).encode().unwrap();
        let mut edited = encoded.body().to_vec();
        let at = at.index(edited.len());
        edited[at] = byte;
        if let Ok(parsed) = Leaf::parse(&edited) {
            let again = parsed.encode().unwrap();
            prop_assert_eq!(again.body(), &edited[..]);
        }
    }

    #[test]
    fn any_bytes_parse_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Leaf::parse(&bytes);
        let _ = Leaf::parse(&[&[0, 1, 0, 1][..], &bytes].concat());
    }
}
