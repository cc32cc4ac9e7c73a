//! The rotation of the key that signs the audit log: whoever pinned any of its keys verifies the log, through restarts and
//! kill -9, and what the key before alone would sign is refused.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{fs, process::Stdio, time::Instant};

use attache_tests::{
    Bed,
    kills::{Dice, say},
    process::run,
};
use serde_json::Value;
use tempfile::TempDir;

/// The exit code of a verification that found something.
const FOUND: i32 = 8;
/// Kills of one run.
const ROUNDS: u32 = 12;

fn keys(bed: &Bed) -> Vec<(u64, String, String)> {
    let shown = bed.attache_json(&["key", "status", "--audit"]).unwrap();
    let keys = shown["keys"].as_array().unwrap().iter().map(|key| {
        let text = |field: &str| key[field].as_str().unwrap().to_owned();
        (key["epoch"].as_u64().unwrap(), text("state"), text("vkey"))
    });
    keys.collect()
}

fn rotate(bed: &Bed) -> String {
    let rotated = bed.attache_json(&["key", "rotate", "--audit"]).unwrap();
    rotated["vkey"].as_str().unwrap().to_owned()
}

/// Online and offline, by this key.
fn verifies(bed: &Bed, vkey: &str) {
    bed.attache_ok(&["audit", "verify", "--vkey", vkey])
        .unwrap();
    let dir = bed.audit_dir();
    bed.attache_ok(&["audit", "verify", dir.to_str().unwrap(), "--vkey", vkey])
        .unwrap();
}

fn findings(bed: &Bed, args: &[&str]) -> String {
    let args = [&["audit", "verify"], args, &["--output", "json"]].concat();
    let out = bed.attache(&args).unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(FOUND), "{said}");
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    told["findings"].to_string()
}

#[test]
fn the_log_verifies_by_each_of_its_keys_and_a_kept_checkpoint_of_before_is_continued() {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    let first = bed.audit_vkey().unwrap();
    let aside = TempDir::new().unwrap();
    let kept = aside.path().join("kept");
    let kept = kept.to_str().unwrap();
    bed.attache_ok(&["audit", "verify", "--save", kept])
        .unwrap();

    let planned = ["key", "rotate", "--audit", "--dry-run"];
    let answer = bed.attache_json(&planned).unwrap();
    assert_eq!(answer.get("vkey"), Some(&Value::Null));
    assert_eq!(bed.audit_vkey().unwrap(), first);

    let second = rotate(&bed);
    assert_ne!(second, first);
    assert_eq!(bed.audit_vkey().unwrap(), second);
    bed.restart_broker().unwrap();
    let third = rotate(&bed);
    let shown = keys(&bed);
    let expected = [
        (3, "active", &third),
        (2, "verifies", &second),
        (1, "verifies", &first),
    ];
    for ((epoch, state, vkey), shown) in expected.iter().zip(&shown) {
        assert_eq!((epoch, *state, *vkey), (&shown.0, &*shown.1, &shown.2));
    }
    for vkey in [&first, &second, &third] {
        verifies(&bed, vkey);
        bed.attache_ok(&["audit", "verify", "--vkey", vkey, "--at-least", kept])
            .unwrap();
    }
    bed.attache_ok(&["audit", "verify", "--save", kept])
        .unwrap();
    bed.attache_ok(&["audit", "verify", "--vkey", &first, "--at-least", kept])
        .unwrap();

    // Another store's key is none of them.
    let other = Bed::signed_in().unwrap();
    let other = other.audit_vkey().unwrap();
    let said = findings(&bed, &["--vkey", &other]);
    assert!(said.contains("not signed by the log's key"), "{said}");

    bed.broker.take().unwrap().stop().unwrap();
    bed.check_store().unwrap();
}

#[test]
fn a_log_that_ends_before_the_rotation_is_not_that_of_the_new_key() {
    let bed = Bed::signed_in().unwrap();
    let first = bed.audit_vkey().unwrap();
    // As whoever has the key before could still make one: a log in which it signed last.
    let copy = TempDir::new().unwrap();
    for entry in fs::read_dir(bed.audit_dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "seg") {
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let second = rotate(&bed);
    let dir = copy.path().to_str().unwrap();
    bed.attache_ok(&["audit", "verify", dir, "--vkey", &first])
        .unwrap();
    let said = findings(&bed, &[dir, "--vkey", &second]);
    assert!(
        said.contains("the checkpoint is not as it was signed"),
        "{said}"
    );
}

#[test]
fn backups_are_signed_by_the_key_of_their_own_keyring_and_restored() {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    bed.attache_ok(&["keyspace", "create", "payments"]).unwrap();
    let first = bed.audit_vkey().unwrap();
    let aside = TempDir::new().unwrap();
    let file = |name: &str| aside.path().join(name).to_str().unwrap().to_owned();
    let (before, after) = (file("before.backup"), file("after.backup"));
    bed.attache_ok(&["backup", "create", &before]).unwrap();
    let second = rotate(&bed);
    bed.attache_ok(&["backup", "create", &after]).unwrap();
    // By the broker's own word either is good.
    for file in [&before, &after] {
        bed.attache_ok(&["backup", "verify", file]).unwrap();
    }
    for (file, vkey, other) in [(&before, &first, &second), (&after, &second, &first)] {
        bed.attache_ok(&["backup", "verify", file, "--vkey", vkey])
            .unwrap();
        let refused = bed.attache(&["backup", "verify", file, "--vkey", other]);
        assert_eq!(refused.unwrap().status.code(), Some(FOUND));
    }

    // Its keyring does not know the key that has signed the log since.
    bed.broker.take().unwrap().stop().unwrap();
    fs::rename(bed.store_dir(), aside.path().join("store")).unwrap();
    let restore = |file: &str| {
        let restored = run(&mut bed.broker_command(&["restore", file]).unwrap()).unwrap();
        let said = String::from_utf8_lossy(&restored.stderr).into_owned();
        (restored.status.success(), said)
    };
    let (done, said) = restore(&before);
    assert!(!done, "{said}");
    assert!(
        said.contains("signed by a key that came after the backup"),
        "{said}"
    );
    assert!(said.contains("--new-log"), "{said}");
    let (done, said) = restore(&after);
    assert!(done, "{said}");
    bed.start_broker().unwrap();
    verifies(&bed, &first);
    verifies(&bed, &second);
}

#[test]
fn killed_at_any_instant_of_a_rotation_the_log_goes_on_under_one_key_or_the_other() {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    let first = bed.audit_vkey().unwrap();
    let begun = Instant::now();
    rotate(&bed);
    let length = begun.elapsed();
    let mut dice = Dice::new().unwrap();
    let mut rotated = 0;
    for _ in 0..ROUNDS {
        let before = keys(&bed)[0].0;
        let mut rotating = bed.attache_command().unwrap();
        rotating.args(["key", "rotate", "--audit"]);
        rotating.stdout(Stdio::null()).stderr(Stdio::null());
        let mut rotating = rotating.spawn().unwrap();
        dice.wait(length);
        bed.broker.take().unwrap().kill().unwrap();
        rotating.kill().unwrap();
        rotating.wait().unwrap();
        bed.start_broker().unwrap();
        rotated += keys(&bed)[0].0 - before;
        verifies(&bed, &first);
        verifies(&bed, &bed.audit_vkey().unwrap());
    }
    say(&format!(
        "{rotated} of {ROUNDS} kills left another key than before"
    ));
    rotate(&bed);
    verifies(&bed, &first);
    bed.broker.take().unwrap().stop().unwrap();
    bed.check_store().unwrap();
}
