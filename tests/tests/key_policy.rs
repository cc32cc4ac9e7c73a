//! What a keyspace demands of its keys: how old they get and how often they wrap, who rotates them, and how long a retired
//! one stays because of backups.
//!
//! The clock of a broker is moved with Debian's `faketime`. Instants of kills are drawn; the seed is printed, and
//! `ATTACHE_SEED` repeats a run.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{process::Output, time::Duration};

use attache_tests::{
    Bed, Scene,
    bed::NODE,
    kills::Dice,
    pod::Pod,
    process::{PATIENCE, clock, until},
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

/// All findings of the doctor, whose exit has to say whether there are any.
fn findings(bed: &Bed) -> String {
    let output = bed.attache(&["doctor", "--output", "json"]).unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let none = told["findings"].as_array().unwrap().is_empty();
    assert_eq!(output.status.code(), Some(if none { 0 } else { 8 }));
    told["findings"].to_string()
}

fn key(bed: &Bed, name: &str) -> Value {
    let told = bed.attache_json(&["key", "list", "payments"]).unwrap();
    let mut all = told["keys"].as_array().unwrap().iter();
    all.find(|it| it["key"] == name)
        .cloned()
        .unwrap_or_default()
}

fn until_retired(bed: &Bed, name: &str) {
    until(PATIENCE, "the broker rotates it to its end", || {
        (key(bed, name)["state"] == "retired").then_some(())
    })
    .unwrap();
}

/// Six versions are put, and the newest is kept: its key has wrapped eight times, and wraps two values.
fn put_and_prune(bed: &Bed) {
    bed.put_versions(6).unwrap();
    set(bed, &["--max-versions", "1"]);
    until(PATIENCE, "what is over is pruned", || {
        (key(bed, "payments@1")["values"] == 2).then_some(())
    })
    .unwrap();
}

fn overdue_by_the_metric(bed: &Bed) -> bool {
    let told = bed.metrics().unwrap();
    assert!(told.contains("attache_broker_keys_overdue "), "{told}");
    !told.contains("attache_broker_keys_overdue 0")
}

#[test]
fn a_key_that_has_wrapped_as_often_as_it_is_to_is_rotated_by_the_broker_and_everything_opens() {
    let scene = Scene::start().unwrap();
    let bed = &scene.bed;
    put_and_prune(bed);
    // By hand it is only told, and rotated by hand it is told no more.
    let by_hand = ["--max-key-wraps", "5", "--rotate-automatically", "no"];
    set(bed, &by_hand);
    let told = findings(bed);
    assert!(
        told.contains("payments@1 is overdue: it has wrapped 8 times"),
        "{told}"
    );
    assert!(told.contains("attache key rotate payments"), "{told}");
    let status = bed.attache_json(&["key", "status", "payments"]).unwrap();
    let status = &status["keyspaces"][0];
    assert_eq!(status["wraps"], 8);
    assert!(
        status["overdue"]
            .as_str()
            .unwrap()
            .contains("wrapped 8 times")
    );
    until(PATIENCE, "the metric tells", || {
        overdue_by_the_metric(bed).then_some(())
    })
    .unwrap();
    bed.attache_ok(&["key", "rotate", "payments"]).unwrap();
    assert!(!findings(bed).contains("overdue"));
    assert_eq!(state(bed, "payments@2"), "active");

    // A limit that nothing can keep is said, and not rotated for ever.
    let now = ["--max-key-wraps", "2", "--rotate-automatically", "yes"];
    set(bed, &now);
    let told = findings(bed);
    assert!(told.contains("no rotation helps"), "{told}");
    assert_eq!(key(bed, "payments@3"), Value::Null);
    bed.check_store().unwrap();
    bed.attache_ok(&["audit", "verify"]).unwrap();
}

#[test]
fn by_itself_goes_a_key_of_few_wraps_under_puts_to_its_end() {
    let scene = Scene::start().unwrap();
    let bed = &scene.bed;
    put_and_prune(bed);
    set(bed, &["--max-key-wraps", "5"]);
    until_retired(bed, "payments@1");
    assert_eq!(key(bed, "payments@2")["values"], 2);
    // Within the hour there is no other, however often it wraps.
    bed.put_versions(6).unwrap();
    set(bed, &["--max-key-wraps", "4"]);
    until(PATIENCE, "the keys are looked at", || {
        overdue_by_the_metric(bed).then_some(())
    })
    .unwrap();
    assert_eq!(key(bed, "payments@3"), Value::Null);
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    assert_eq!(scene.read(&pod, "db/password").unwrap(), "p5");
    let audit = scene.audit().unwrap();
    let record = audit
        .lines()
        .find(|line| line.contains("\"kind\":\"rotation\""));
    let record = record.unwrap();
    assert!(record.contains("payments@1"), "{record}");
    assert!(
        record.contains("it has wrapped 8 times, and is to 5 at most"),
        "{record}"
    );
    assert_eq!(audit.matches("\"kind\":\"rotation\"").count(), 1);
    bed.check_store().unwrap();
    bed.attache_ok(&["audit", "verify"]).unwrap();
}

#[test]
fn a_key_is_rotated_once_when_its_age_is_over_and_not_again_when_the_clock_steps_back() {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    bed.attache_ok(&["keyspace", "create", "payments", "--max-key-age", "2h"])
        .unwrap();
    bed.attache_ok(&["secret", "put", "payments/db", "--literal", "a=1"])
        .unwrap();
    assert_eq!(key(&bed, "payments@1")["overdue"], Value::Null);
    // Three hours later.
    bed.broker.take().unwrap().stop().unwrap();
    bed.environment = clock("+3h");
    bed.start_broker().unwrap();
    until_retired(&bed, "payments@1");
    assert!(!findings(&bed).contains("overdue"));
    // And back: the new key is dated ahead, which is told, and is not rotated.
    bed.broker.take().unwrap().stop().unwrap();
    bed.environment.clear();
    bed.start_broker().unwrap();
    let told = findings(&bed);
    assert!(
        told.contains("payments@2 is overdue: it was made at"),
        "{told}"
    );
    assert!(told.contains("see that the clock is right"), "{told}");
    assert_eq!(key(&bed, "payments@3"), Value::Null);
    bed.check_store().unwrap();
    bed.attache_ok(&["audit", "verify"]).unwrap();
}

#[test]
fn a_key_says_when_it_was_used_last_as_far_as_this_process_knows() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    let used = key(&scene.bed, "payments@1")["last_used"].clone();
    assert!(used.is_string(), "a put wraps: {used}");
    scene.bed.broker.take().unwrap().kill().unwrap();
    scene.bed.start_broker().unwrap();
    assert_eq!(key(&scene.bed, "payments@1")["last_used"], Value::Null);
    let table = scene.bed.attache_ok(&["key", "list"]).unwrap();
    assert!(table.contains("not since start"), "{table}");
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    until(
        Duration::from_secs(30),
        "the node is connected again",
        || scene.publish(&pod).ok(),
    )
    .unwrap();
    let used = key(&scene.bed, "payments@1")["last_used"].clone();
    assert!(used.is_string(), "a release unwraps: {used}");
}

/// Kills of one run.
const ROUNDS: u32 = 8;
/// Keyspaces that are rotated at once.
const KEYSPACES: usize = 6;

#[test]
fn killed_in_its_own_rotations_the_broker_ends_them_after_the_next_start() {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    let names: Vec<_> = (0..KEYSPACES).map(|number| format!("k{number}")).collect();
    for name in &names {
        bed.attache_ok(&["keyspace", "create", name, "--max-key-age", "1h"])
            .unwrap();
        let secret = format!("{name}/db");
        let put = [
            "secret",
            "put",
            &secret,
            "--literal",
            "a=1",
            "--literal",
            "b=2",
        ];
        bed.attache_ok(&put).unwrap();
    }
    bed.broker.take().unwrap().stop().unwrap();
    let mut dice = Dice::new().unwrap();
    // Two hours later each time: every key is too old at every start.
    for round in 1..=ROUNDS {
        bed.environment = clock(&format!("+{}h", 2 * round));
        bed.start_broker().unwrap();
        dice.wait(Duration::from_millis(900));
        bed.broker.take().unwrap().kill().unwrap();
    }
    bed.start_broker().unwrap();
    let states = |bed: &Bed, name: &str| {
        let told = bed.attache_json(&["key", "list", name]).unwrap();
        let all = told["keys"].as_array().unwrap().iter();
        let state = |key: &Value| {
            let state = key["state"].as_str().unwrap().to_owned();
            (state, key["values"].as_u64().unwrap())
        };
        all.map(state).collect::<Vec<_>>()
    };
    let mut rotated = 0;
    for name in &names {
        let states = until(PATIENCE, "the values are under one key", || {
            let mut states = states(&bed, name);
            let active = states.pop();
            let ended = states.iter().all(|it| *it == ("retired".to_owned(), 0));
            (ended && active == Some(("active".to_owned(), 2))).then_some(states)
        });
        rotated += states.unwrap().len();
    }
    assert!(rotated >= KEYSPACES, "{rotated}, seed {}", dice.seed());
    let audit = ["audit", "tail", "-n", "1000", "--output", "json"];
    let audit = bed.attache_ok(&audit).unwrap();
    let told = audit.matches("\"kind\":\"rotation\"").count();
    // One that was cut off between its record and its commit is recorded again.
    assert!(told >= rotated, "{told} of {rotated}, seed {}", dice.seed());
    bed.check_store().unwrap();
    bed.attache_ok(&["audit", "verify"]).unwrap();
}
