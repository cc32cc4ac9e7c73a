//! Each form of an answer, as it is printed.

use serde_json::json;

use super::*;

fn report() -> Report {
    let data = json!({ "secrets": [{ "fields": ["password", "username"], "latest_version": 2, "reference": "payments/db" }] });
    let human = Human::Table {
        heads: &["SECRET", "VERSION"],
        rows: vec![
            vec!["payments/db".into(), "2".into()],
            vec!["web/tls".into(), "11".into()],
        ],
    };
    Report::new(&data, vec!["payments/db".into(), "web/tls".into()], human).unwrap()
}

#[test]
fn a_table_has_aligned_columns_and_no_frame() {
    let shown = report().render(Format::Table, None, false);
    assert_eq!(
        shown,
        "SECRET       VERSION\npayments/db  2\nweb/tls      11\n"
    );
}

#[test]
fn colors_are_on_the_heads_only_and_only_when_asked_for() {
    let shown = report().render(Format::Table, None, true);
    assert!(
        shown.starts_with("\u{1b}[1mSECRET       VERSION\u{1b}[0m\npayments/db"),
        "{shown:?}"
    );
    assert!(!report().render(Format::Json, None, true).contains('\u{1b}'));
}

#[test]
fn json_is_indented_and_a_record_is_one_line() {
    let shown = report().render(Format::Json, None, false);
    assert_eq!(
        serde_json::from_str::<Value>(&shown).unwrap(),
        report().data
    );
    assert!(shown.lines().count() > 3);
    assert_eq!(
        report().render_record(Format::Json),
        "{\"secrets\":[{\"fields\":[\"password\",\"username\"],\"latest_version\":2,\"reference\":\"payments/db\"}]}\n"
    );
}

#[test]
fn yaml_is_block_style() {
    assert_eq!(
        report().render(Format::Yaml, None, false),
        "secrets:\n  - fields:\n      - \"password\"\n      - \"username\"\n    latest_version: 2\n    reference: \"payments/db\"\n"
    );
    let odd = Report::new(
        &json!({ "a b": null, "deep": [[1, 2], {"x": true}], "list": [], "map": {}, "y": "no" }),
        vec![],
        Human::Text(String::new()),
    )
    .unwrap();
    assert_eq!(
        odd.render_record(Format::Yaml),
        "---\n\"a b\": null\ndeep:\n  - - 1\n    - 2\n  - x: true\nlist: []\nmap: {}\n\"y\": \"no\"\n"
    );
}

#[test]
fn names_stand_alone() {
    assert_eq!(
        report().render(Format::Name, None, false),
        "payments/db\nweb/tls\n"
    );
}

#[test]
fn a_card_aligns_its_values() {
    let card = Human::Card(vec![
        ("broker", "b".into()),
        ("key memory", "memfd_secret".into()),
    ]);
    assert_eq!(
        card.render(None, false),
        "broker      b\nkey memory  memfd_secret\n"
    );
}

#[test]
fn nothing_reaches_the_terminal_that_steers_it() {
    let hostile = "a\u{1b}]0;x\u{7}\u{9b}2J\u{202e}b\nc";
    let report = Report::new(
        &json!({ "name": hostile }),
        vec![hostile.into()],
        Human::Card(vec![("name", hostile.into())]),
    )
    .unwrap();
    for format in [Format::Table, Format::Json, Format::Yaml, Format::Name] {
        let shown = report.render(format, None, false);
        assert!(
            !shown
                .trim_end_matches('\n')
                .contains(|c: char| steers(c) && c != '\n'),
            "{shown:?}"
        );
    }
    assert_eq!(
        report.render(Format::Name, None, false),
        "a\\u{1b}]0;x\\u{7}\\u{9b}2J\\u{202e}b\\u{a}c\n"
    );
    let json: Value = serde_json::from_str(&report.render(Format::Json, None, false)).unwrap();
    assert_eq!(json["name"], hostile);
    assert!(steers('\u{7f}') && !steers('é'));
}

#[test]
fn no_text_steers_a_terminal_or_begins_a_line_of_its_own() {
    let text = "node a\n  to do: \u{61c}obey\u{1b}[2J";
    let shown = "node a\\u{a}  to do: \\u{61c}obey\\u{1b}[2J";
    for human in [
        Human::Text(text.to_owned()),
        Human::Lines(vec![text.to_owned()]),
    ] {
        let report = Report::new(&json!({ "text": text }), vec![], human).unwrap();
        assert_eq!(
            report.render(Format::Table, None, false),
            format!("{shown}\n")
        );
        assert_eq!(
            report.render_record(Format::Json),
            "{\"text\":\"node a\\n  to do: \\u061cobey\\u001b[2J\"}\n"
        );
    }
}
