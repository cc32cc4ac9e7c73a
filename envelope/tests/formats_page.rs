//! Holds `docs/formats.md` against the code and the vectors: a byte that changes here changes there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use attache_envelope::Table;
use attache_envelope::keyring::Purpose;
use serde_json::Value;

/// Both pages on formats, as one text.
fn page() -> String {
    ["formats.md", "formats-audit.md"]
        .iter()
        .map(|page| {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/");
            fs::read_to_string(format!("{path}{page}")).unwrap()
        })
        .collect()
}

#[test]
fn every_purpose_of_a_key_is_listed() {
    for purpose in Purpose::ALL {
        let listed = format!("{} {}", purpose.code(), purpose.name());
        assert!(page().contains(&listed), "the page does not list {listed}");
    }
}

#[test]
fn every_table_is_listed() {
    for table in Table::ALL {
        assert!(
            page().contains(table.name()),
            "the page does not name {table}"
        );
    }
}

/// Where the pages show what a vector holds: file, case, members of `out`; `a..b` is a part of it, in bytes.
const SHOWN: &[(&str, &str, &[&str])] = &[
    ("lp", "list of pairs", &["lp"]),
    ("keyring-record", "nine keys", &["record 0..62"]),
    ("keyring", "number 1", &["key"]),
    ("wrap-dek", "a DEK", &["aad", "stored"]),
    ("value", "a password", &["ct"]),
    ("srk-seal", "number 1", &["enc", "ct", "signature"]),
    ("key-file", "random", &["text"]),
    ("passphrase", "the least", &["secret"]),
    ("kms-slot", "two annotations", &["parameters"]),
    ("shares", "2 of 2", &["record"]),
    ("share-file", "2 of 3", &["text"]),
    (
        "slot-secret",
        "a key file is added",
        &["digest", "enc", "sealed"],
    ),
    ("unseal", "a key file's secret", &["info", "enc", "sealed"]),
    ("row", "empty body", &["row"]),
    ("body", "head", &["body"]),
    ("body", "version", &["body"]),
    ("body", "slot", &["body 0..76"]),
    (
        "anchor-row",
        "two tables, one chain",
        &["row 0..44", "plaintext"],
    ),
    ("anchor-chain", "step 1, from T_0", &["t"]),
    (
        "put",
        "one field of a new secret",
        &["info", "digest", "enc", "sealed"],
    ),
    ("release", "one value", &["info", "k", "enc", "sealed"]),
    ("denial", "no grant", &["id"]),
    (
        "generation",
        "one file",
        &["digest_input", "digest", "folder"],
    ),
    ("identity-body", "identity", &["body"]),
    ("identity-body", "operator", &["body"]),
    ("identity-body", "ban", &["body"]),
    ("identity-body", "join-token", &["body"]),
    ("approval-body", "approval, approved", &["body"]),
    ("registry-body", "cluster", &["body"]),
    ("registry-body", "grant", &["body"]),
    ("registry-body", "policy", &["body"]),
    ("join-token", "random", &["text", "hash"]),
    ("operator-code", "random", &["text", "hash"]),
    ("operator-code-body", "operator-code", &["body"]),
    ("late-renewal", "an hour's certificate", &["transcript"]),
    ("request-digest", "keyspace.create", &["digest"]),
    ("listen", "two ports", &["text"]),
    ("ipc-request", "write", &["message"]),
    ("ipc-answer", "hello", &["message 0..20"]),
    ("ipc-answer", "stat, whole", &["message 0..80"]),
    ("ipc-answer", "list, one", &["message 0..176"]),
    ("ipc-generation", "two files", &["memfd", "file_set"]),
    ("metadata", "two files, one missing", &["text"]),
    ("contexts", "signed in", &["text"]),
    ("certificate-ca", "a store's", &["certificate"]),
    ("certificate-leaf", "a node's", &["certificate"]),
    ("certificate-request", "a small key", &["key_pem", "info"]),
    ("agent-folder", "joined", &["broker-id"]),
    (
        "file-list",
        "two files, one for the group",
        &["message", "digest"],
    ),
    ("segment", "no record", &["header"]),
    ("segment", "a batch of two leaves", &[]),
    ("checkpoint", "size 33", &["note"]),
    ("anchor-note", "seq 42", &["note"]),
    ("summary", "seven leaves, two open intents", &["note"]),
    ("chain-id", "broker-0", &["chain"]),
    (
        "backup",
        "two tables with rows and one without",
        &["note", "file 0..160", "file 160..203"],
    ),
];

/// The bodies that the page lists under their rows' names, after the first two.
const BODIES: &[&str] = &["value-key", "kek", "keyspace", "request", "backup"];

#[test]
fn vectors_are_as_the_pages_show() {
    let page = page();
    let bodies = BODIES.iter().map(|row| ("body", *row, &["body"][..]));
    for (file, name, members) in SHOWN.iter().copied().chain(bodies) {
        let path = format!(
            "{}/../tests/independent/vectors/{file}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let whole: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let cases = whole["cases"].as_array().unwrap();
        let case = cases.iter().find(|case| case["name"] == *name);
        let case = case.unwrap_or_else(|| panic!("{file} has no case {name}"));
        for member in members {
            let (member, part) = member.split_once(' ').unwrap_or((member, ""));
            let mut text = case["out"][member].as_str().unwrap().trim_end();
            if let Some((from, to)) = part.split_once("..") {
                let byte = |at: &str| 2 * at.parse::<usize>().unwrap();
                text = &text[byte(from)..byte(to)];
            }
            assert!(page.contains(text), "{file}, {name}, {member}: {text}");
        }
        let cited = format!("`{file}.json`, \"{name}\"");
        let listed = file == "body" && BODIES.contains(&name);
        assert!(listed || page.contains(&cited), "{cited}");
    }
}

/// What the pages cite is there.
#[test]
fn every_cited_vector_exists() {
    let page = page();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/independent/vectors");
    let mut cited = 0;
    for (at, _) in page.match_indices(".json`, \"") {
        let before = page[..at].rsplit('`').next().unwrap();
        let case = page[at..].split('"').nth(1).unwrap();
        let text = fs::read_to_string(format!("{folder}/{before}.json")).unwrap();
        let whole: Value = serde_json::from_str(&text).unwrap();
        let mut cases = whole["cases"].as_array().unwrap().iter();
        assert!(cases.any(|known| known["name"] == case), "{before}: {case}");
        cited += 1;
    }
    assert!(cited >= SHOWN.len(), "{cited}");
}

/// Every label in the code of any crate is on the page, and the other way round.
#[test]
fn labels_are_those_of_the_code() {
    let labels = |text: &str| -> std::collections::BTreeSet<String> {
        text.split('"')
            .filter(|part| part.starts_with("attache/") && part.ends_with("/1"))
            .map(str::to_owned)
            .collect()
    };
    let mut of_code = std::collections::BTreeSet::new();
    let mut folders: Vec<std::path::PathBuf> = [
        "envelope",
        "translog",
        "backup",
        "broker",
        "node-plugin",
        "cli",
    ]
    .iter()
    .map(|name| {
        [env!("CARGO_MANIFEST_DIR"), "..", name, "src"]
            .iter()
            .collect()
    })
    .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                of_code.extend(labels(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(of_code.len() >= 16, "{of_code:?}");
    assert_eq!(labels(&page()), of_code);
}
