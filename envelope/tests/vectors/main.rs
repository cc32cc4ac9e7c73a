//! Known answers: every construction against the vectors of `tests/independent`, which were made by a second
//! implementation in another language. This side only reads them.

#[cfg(test)]
mod bodies;
#[cfg(test)]
#[path = "../../../tests/independent/reader.rs"]
mod case;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod records;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod travel;

use std::collections::BTreeSet;

/// Checked here.
const OURS: &[&str] = &[
    "anchor-chain",
    "anchor-row",
    "body",
    "denial",
    "generation",
    "key-file",
    "keyring",
    "keyring-record",
    "late-renewal",
    "lp",
    "kms-slot",
    "passphrase",
    "put",
    "release",
    "release-setup",
    "row",
    "set-hash",
    "share-file",
    "shares",
    "slot-secret",
    "srk-seal",
    "unseal",
    "value",
    "wrap-anchor",
    "wrap-dek",
    "wrap-kek",
    "wrap-slot",
];

/// Checked by the crate of the audit log.
const OF_THE_AUDIT_LOG: &[&str] = &[
    "audit-key",
    "anchor-note",
    "audit-leaf",
    "checkpoint",
    "merkle-consistency",
    "merkle-inclusion",
    "merkle-root",
    "segment",
    "signed-note",
];

/// Checked by the crates whose formats they are.
const OF_OTHERS: &[&str] = &[
    "agent-folder",
    "approval-body",
    "backup",
    "ca",
    "certificate-ca",
    "certificate-leaf",
    "certificate-request",
    "chain-id",
    "call-id",
    "contexts",
    "file-list",
    "identity-body",
    "ipc-answer",
    "ipc-generation",
    "ipc-request",
    "join-token",
    "listen",
    "metadata",
    "operator-code",
    "operator-code-body",
    "page-token",
    "registry-body",
    "request-digest",
    "store-header",
    "summary",
];

#[test]
fn every_vector_file_is_checked_somewhere() {
    let known = [OURS, OF_THE_AUDIT_LOG, OF_OTHERS].concat();
    let known: BTreeSet<_> = known.into_iter().collect();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(case::folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        found.insert(name.strip_suffix(".json").unwrap().to_owned());
    }
    let found: BTreeSet<_> = found.iter().map(String::as_str).collect();
    assert_eq!(found, known, "each file is checked somewhere, and is there");
}
