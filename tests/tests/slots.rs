//! Slots and the store root key: what opens a store after each change of its keyring, and after kill -9 in the middle of
//! one.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    process::{Child, Stdio},
    time::Instant,
};

use attache_tests::{
    Bed, Scene,
    bed::NODE,
    kills::{Dice, Length, say},
    pod::Pod,
    process::{bin, run},
};
use serde_json::Value as Json;

/// How often the broker is killed while the root key is rotated.
const ROUNDS: u32 = 60;
/// So many of them must hit a rotation that is under way.
const MID_HITS: u32 = 15;

fn json(bed: &Bed, args: &[&str]) -> Json {
    let mut args = args.to_vec();
    args.extend(["--output", "json"]);
    serde_json::from_str(&bed.attache_ok(&args).unwrap()).unwrap()
}

fn number(bed: &Bed) -> u64 {
    json(bed, &["status"])["keyring_number"].as_u64().unwrap()
}

fn restart(bed: &mut Bed) {
    bed.broker.take().unwrap().stop().unwrap();
    bed.start_broker().unwrap();
}

fn check_store(bed: &Bed) {
    let mut command = std::process::Command::new(bin("attache-broker").unwrap());
    let checked = command
        .args(["check-store", "--config"])
        .arg(bed.broker_config());
    let checked = run(checked).unwrap();
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "{told}");
}

#[test]
fn a_new_root_key_changes_nothing_for_whom_the_broker_serves() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    scene.put("payments/db", &[("password", "before")]).unwrap();
    let slots = json(&scene.bed, &["slot", "list"]);
    assert_eq!(slots["keyring_number"], 1);
    assert_eq!(slots["slots"].as_array().unwrap().len(), 1);
    assert_eq!(slots["slots"][0]["name"], "key-file");
    assert_eq!(slots["slots"][0]["opened"], true);
    assert_eq!(slots["slots"][0]["verified"], Json::Null);
    let status = scene.status().unwrap().to_string();
    assert!(status.contains("by one slot only"), "{status}");

    let would = json(&scene.bed, &["key", "rotate", "--root", "--dry-run"]);
    assert_eq!(
        (&would["keyring_number"], number(&scene.bed)),
        (&Json::from(2), 1)
    );
    let did = json(&scene.bed, &["key", "rotate", "--root"]);
    assert_eq!(
        (&did["keyring_number"], &did["slots"]),
        (&Json::from(2), &Json::from(1))
    );
    assert_eq!(number(&scene.bed), 2);
    assert!(scene.audit().unwrap().contains("key.rotate-root"));

    // The keys that were open go on, and those of the new root key are the same.
    let pods = ["web-0", "web-1"].map(|name| Pod::new("shop", name, "web", NODE, "payments/db"));
    scene.publish(&pods[0]).unwrap();
    assert_eq!(scene.read(&pods[0], "db/password").unwrap(), "before");
    restart(&mut scene.bed);
    assert_eq!(number(&scene.bed), 2);
    scene.publish(&pods[1]).unwrap();
    assert_eq!(scene.read(&pods[1], "db/password").unwrap(), "before");
    check_store(&scene.bed);
}

fn rotate(bed: &Bed) -> Child {
    let mut command = bed.attache_command().unwrap();
    let quiet = command
        .args(["key", "rotate", "--root", "--quiet"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.spawn().unwrap()
}

/// It is one commit: there is the keyring of before with its seals, or that of after with its own.
#[test]
fn a_store_opens_after_kill_9_at_any_instant_of_a_root_rotation() {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    let mut length = Length::default();
    while !length.is_known() {
        let from = Instant::now();
        assert!(rotate(&bed).wait().unwrap().success());
        length.add(from.elapsed());
    }
    let mut dice = Dice::new().unwrap();
    let seed = dice.seed();
    let (mut hits, mut acknowledged) = (0, 0);
    let mut before = number(&bed);
    for round in 0..ROUNDS {
        let mut cli = rotate(&bed);
        dice.wait(length.now());
        hits += u32::from(cli.try_wait().unwrap().is_none());
        bed.broker.take().unwrap().kill().unwrap();
        bed.start_broker()
            .unwrap_or_else(|e| panic!("round {round}, seed {seed}: {e:#}"));
        // It may have sent its request again, to the broker that is there now.
        let done = cli.wait().unwrap().success();
        let now = number(&bed);
        assert!(
            now == before + 1 || (now == before && !done),
            "round {round}, seed {seed}: from {before} to {now}, acknowledged: {done}"
        );
        acknowledged += u32::from(done);
        before = now;
    }
    say(&format!(
        "{hits} of {ROUNDS} kills hit a root rotation under way; {acknowledged} were acknowledged"
    ));
    assert!(
        hits >= MID_HITS,
        "{hits} hits are too few to prove anything"
    );
    assert!(acknowledged > 0);
    check_store(&bed);
    bed.attache_ok(&["audit", "verify"]).unwrap();
}
