//! Known answers: every construction against the vectors of `tests/independent`, which were made by a second
//! implementation in another language. This side only reads them.

#[cfg(test)]
mod case;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod records;
#[cfg(test)]
mod travel;

use std::collections::BTreeSet;

/// Checked here.
const OURS: &[&str] = &[
    "anchor-chain",
    "denial",
    "generation",
    "key-file",
    "keyring",
    "lp",
    "put",
    "release",
    "release-setup",
    "row",
    "set-hash",
    "srk-seal",
    "value",
    "wrap-anchor",
    "wrap-dek",
    "wrap-kek",
    "wrap-slot",
];

/// Checked by the crate of the audit log.
const OF_THE_AUDIT_LOG: &[&str] = &[
    "anchor-note",
    "audit-leaf",
    "checkpoint",
    "merkle-consistency",
    "merkle-inclusion",
    "merkle-root",
    "segment",
    "signed-note",
];

#[test]
fn every_vector_file_is_checked_somewhere() {
    let known: BTreeSet<_> = OURS.iter().chain(OF_THE_AUDIT_LOG).copied().collect();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(case::folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        found.insert(name.strip_suffix(".json").unwrap().to_owned());
    }
    for name in &found {
        assert!(
            known.contains(name.as_str()),
            "{name}.json is checked nowhere"
        );
    }
    for name in OURS {
        assert!(found.contains(*name), "{name}.json is missing");
    }
}
