//! `docs/formats.md` against the code: every kind and every tag with its number and name, and the vectors.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs;

use attache_translog::{Event, Header, Leaf, Stop, Tag};

/// The pages on formats, as one text. The audit sections may still have a page of their own.
fn formats() -> String {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
    let pages = ["formats.md", "formats-audit.md"];
    let text: String = pages
        .iter()
        .filter_map(|page| fs::read_to_string(format!("{docs}/{page}")).ok())
        .collect();
    let at = text
        .find("## Audit leaf")
        .expect("the formats page has a section on audit leaves");
    text.get(at..).unwrap().to_owned()
}

/// The first two columns of the table whose first column has this head.
fn table(page: &str, head: &str) -> Vec<(u16, String)> {
    let start = page.find(&format!("| {head} | name |")).unwrap();
    let rows = page
        .get(start..)
        .unwrap()
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| {
        row.split('|')
            .map(str::trim)
            .skip(1)
            .take(2)
            .map(String::from)
            .collect::<Vec<_>>()
    });
    cells
        .map(|cells| {
            (
                cells.first().unwrap().parse().unwrap(),
                cells.last().unwrap().clone(),
            )
        })
        .collect()
}

#[test]
fn every_kind_is_documented_with_its_number() {
    let kinds: Vec<(u16, String)> = Event::KINDS
        .iter()
        .map(|(number, name)| (*number, (*name).to_owned()))
        .collect();
    assert_eq!(table(&formats(), "kind"), kinds);
}

#[test]
fn every_tag_is_documented_with_its_number() {
    let tags: Vec<(u16, String)> = Tag::ALL
        .iter()
        .map(|tag| (tag.number(), tag.name().to_owned()))
        .collect();
    assert_eq!(table(&formats(), "tag"), tags);
}

#[test]
fn the_vectors_on_the_page_are_what_the_code_makes() {
    let page = formats();
    let event = Stop {
        broker: "spiffe://example.internal/broker/b0".into(),
    }
    .into();
    let leaf = Leaf {
        time_ms: 1_795_000_000_000,
        boot: [0xb0; 16],
        event,
    }
    .encode()
    .unwrap();
    let header = Header {
        store: [0x11; 16],
        chain: [0x22; 16],
        first_index: 20,
    };
    for (what, bytes) in [
        ("body", leaf.body()),
        ("hash", leaf.hash()),
        ("header", &header.encode()),
    ] {
        let hex = hex::encode(bytes);
        assert!(page.contains(&hex), "{what}: {hex}");
    }
}
