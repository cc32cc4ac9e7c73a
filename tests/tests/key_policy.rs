//! What a keyspace demands of its keys: how old they get and how often they wrap, who rotates them, and how long a retired
//! one stays because of backups.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::process::Output;

use attache_tests::{
    Bed, Scene,
    process::{PATIENCE, until},
};
use serde_json::{Value, json};

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `attache keyspace set payments` with these words.
fn set(bed: &Bed, words: &[&str]) -> Value {
    bed.attache_json(&[&["keyspace", "set", "payments"], words].concat())
        .unwrap()
}

/// The settings of a keyspace that are about its keys.
fn policy(of: &Value) -> Value {
    json!([
        of["max_versions"],
        of["max_key_age_s"],
        of["max_key_wraps"],
        of["rotate_automatically"],
        of["backup_age_s"]
    ])
}

fn state(bed: &Bed, key: &str) -> String {
    let told = bed.attache_json(&["key", "list", "payments"]).unwrap();
    let mut all = told["keys"].as_array().unwrap().iter();
    let found = all.find(|it| it["key"] == key).unwrap();
    found["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_keyspace_has_a_policy_which_is_set_part_by_part_and_kept() {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    bed.attache_ok(&["keyspace", "create", "payments"]).unwrap();
    let shown =
        |bed: &Bed, name: &str| policy(&bed.attache_json(&["keyspace", "show", name]).unwrap());
    let by_default = json!([20, 7_776_000, 4_294_967_296_u64, true, null]);
    assert_eq!(shown(&bed, "payments"), by_default);
    let asked = [
        "keyspace",
        "create",
        "web",
        "--max-key-age",
        "36h",
        "--max-key-wraps",
        "0",
        "--rotate-automatically",
        "no",
        "--backup-age",
        "30d",
    ];
    bed.attache_ok(&asked).unwrap();
    let web = json!([20, 129_600, null, false, 2_592_000]);
    assert_eq!(shown(&bed, "web"), web);

    // What is not named stays.
    let planned = set(&bed, &["--max-key-age", "0", "--dry-run"]);
    assert_eq!(planned["max_key_age_s"], Value::Null);
    assert_eq!(shown(&bed, "payments"), by_default);
    let now = set(
        &bed,
        &["--max-key-age", "0", "--rotate-automatically", "no"],
    );
    let after = json!([20, null, 4_294_967_296_u64, false, null]);
    assert_eq!(policy(&now), after);
    set(&bed, &["--max-versions", "3", "--backup-age", "7d"]);
    let after = json!([3, null, 4_294_967_296_u64, false, 604_800]);
    bed.broker.take().unwrap().kill().unwrap();
    bed.start_broker().unwrap();
    assert_eq!(shown(&bed, "payments"), after);
    assert_eq!(shown(&bed, "web"), web);

    // A slip of the hand does not rotate for ever.
    for (words, field) in [
        (["--max-key-age", "59min"], "--max-key-age"),
        (["--max-key-age", "30"], "--max-key-age"),
        (["--max-key-age", "3651d"], "--max-key-age"),
        (["--max-key-wraps", "many"], "--max-key-wraps"),
        (
            ["--rotate-automatically", "maybe"],
            "--rotate-automatically",
        ),
        (["--backup-age", "for ever"], "--backup-age"),
    ] {
        let refused = bed.attache(&[&["keyspace", "set", "payments"], &words[..]].concat());
        let refused = refused.unwrap();
        assert_eq!(refused.status.code(), Some(2), "{words:?}");
        assert!(told(&refused).contains(field), "{}", told(&refused));
    }
    let nothing = bed.attache(&["keyspace", "set", "payments"]).unwrap();
    assert_eq!(nothing.status.code(), Some(2));
    let audit = bed
        .attache_ok(&["audit", "tail", "--output", "json"])
        .unwrap();
    assert!(
        audit.contains("max-key-age 0s, rotate-automatically no"),
        "{audit}"
    );
    bed.attache_ok(&["audit", "verify"]).unwrap();
}

#[test]
fn a_retired_key_stays_until_the_backup_age_is_over_unless_an_operator_says_otherwise() {
    let scene = Scene::start().unwrap();
    let bed = &scene.bed;
    set(bed, &["--backup-age", "30d"]);
    bed.attache_ok(&["key", "rotate", "payments"]).unwrap();
    bed.attache_ok(&["key", "rotate", "payments"]).unwrap();
    for more in [&["--dry-run"][..], &["--yes"]] {
        let refused = bed.attache(&[&["key", "destroy", "payments@1"], more].concat());
        let refused = refused.unwrap();
        assert_eq!(refused.status.code(), Some(5), "{}", told(&refused));
        let why = told(&refused);
        assert!(why.contains("may be destroyed from 2"), "{why}");
        assert!(
            why.contains("attache key destroy payments@1 --now"),
            "{why}"
        );
    }
    assert_eq!(state(bed, "payments@1"), "retired");
    bed.attache_ok(&["key", "destroy", "payments@1", "--now", "--yes"])
        .unwrap();
    assert_eq!(state(bed, "payments@1"), "destroyed");
    let audit = scene.audit().unwrap();
    assert!(audit.contains("now, whatever the backup age"), "{audit}");
    // Once it is over, nothing has to be said.
    set(bed, &["--backup-age", "2s"]);
    until(PATIENCE, "the backup age is over", || {
        let done = bed.attache(&["key", "destroy", "payments@2", "--yes"]);
        let done = done.unwrap();
        assert!(matches!(done.status.code(), Some(0 | 5)), "{}", told(&done));
        done.status.success().then_some(())
    })
    .unwrap();
    assert_eq!(state(bed, "payments@2"), "destroyed");
    bed.check_store().unwrap();
    bed.attache_ok(&["audit", "verify"]).unwrap();
}
