//! `attache doctor`: what there is to look at, what goes away once it is done, and the exit that a script goes by.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use attache_tests::Bed;
use serde_json::Value;

/// All findings; the exit has to say whether there are any.
fn findings(bed: &Bed) -> String {
    let output = bed.attache(&["doctor", "--output", "json"]).unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = told["findings"].as_array().unwrap();
    let exit = if all.is_empty() { 0 } else { 8 };
    assert_eq!(output.status.code(), Some(exit), "{told}");
    let status = bed.attache_json(&["status"]).unwrap();
    assert_eq!(status["findings"], told["findings"]);
    told.to_string()
}

#[test]
fn a_new_store_lacks_a_second_slot_and_a_backup_until_they_are_made() {
    let bed = Bed::signed_in().unwrap();
    let (slot, none) = ("by one slot only", "no backup of the store is on record");
    let unverified = "no backup on record was found whole";
    let found = findings(&bed);
    assert!(found.contains(slot) && found.contains(none), "{found}");
    let text = bed.attache(&["doctor"]).unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("attache backup create"), "{text}");

    let key = bed.dir.join("second.key");
    let add = ["slot", "add", "key-file", "--out", key.to_str().unwrap()];
    bed.attache_ok(&[&add[..], &["--name", "second"]].concat())
        .unwrap();
    let file = bed.dir.join("store.backup");
    let file = file.to_str().unwrap();
    bed.attache_ok(&["backup", "create", file]).unwrap();
    let found = findings(&bed);
    assert!(!found.contains(slot) && !found.contains(none), "{found}");
    assert!(found.contains(unverified), "{found}");
    let vkey = bed.audit_vkey().unwrap();
    bed.attache_ok(&["backup", "verify", file, "--vkey", &vkey])
        .unwrap();
    let found = findings(&bed);
    assert!(!found.contains(unverified), "{found}");
}
