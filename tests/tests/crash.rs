//! kill -9 of the broker during puts: every acknowledged put is there, none half.
//!
//! The instant is uniform over the measured length of a put; seed and hits in mid-operation are printed. `ATTACHE_SEED`
//! repeats a run.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{process::Stdio, time::Instant};

use attache_tests::{
    Bed, Scene,
    bed::NODE,
    kills::{Dice, Length, MID_HITS, ROUNDS, say},
    pod::Pod,
};
use serde_json::Value;

/// How long a put takes is measured anew after so many rounds.
const ROUNDS_PER_REHEARSAL: u32 = 4;
const REHEARSAL: &str = "rehearsal";

fn put(bed: &Bed, value: &str) -> std::process::Child {
    bed.attache_command()
        .unwrap()
        .args([
            "secret",
            "put",
            "payments/db",
            "--quiet",
            "--literal",
            &format!("password={value}"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn active_version(bed: &Bed) -> u64 {
    let shown: Value = serde_json::from_str(
        &bed.attache_ok(&["secret", "show", "payments/db", "--output", "json"])
            .unwrap(),
    )
    .unwrap();
    shown["active_version"].as_u64().expect("active_version")
}

#[test]
fn an_acknowledged_put_outlives_kill_9() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    let mut length = Length::default();
    let rehearse = |bed: &Bed, length: &mut Length| {
        let from = Instant::now();
        assert!(put(bed, REHEARSAL).wait().unwrap().success());
        length.add(from.elapsed());
    };
    while !length.is_known() {
        rehearse(&scene.bed, &mut length);
    }
    let mut dice = Dice::new().unwrap();
    let seed = dice.seed();
    say(&format!("a put takes {:?}", length.now()));
    let (mut hits, mut acknowledged, mut last) = (0, 0, String::new());
    let mut version = active_version(&scene.bed);
    for round in 0..ROUNDS {
        if round % ROUNDS_PER_REHEARSAL == 0 {
            rehearse(&scene.bed, &mut length);
            (version, last) = (version + 1, REHEARSAL.to_owned());
        }
        let value = format!("round-{round}");
        let mut cli = put(&scene.bed, &value);
        dice.wait(length.now());
        let under_way = cli.try_wait().unwrap().is_none();
        hits += u32::from(under_way);
        scene.bed.broker.take().unwrap().kill().unwrap();
        scene
            .bed
            .start_broker()
            .unwrap_or_else(|e| panic!("round {round}, seed {seed}: {e:#}"));
        let done = cli.wait().unwrap().success();
        let now = active_version(&scene.bed);
        if done {
            assert!(
                now > version,
                "round {round}, seed {seed}: acknowledged and not there"
            );
            acknowledged += 1;
            last = value;
        } else if now > version {
            // Not acknowledged and committed all the same: allowed, whole.
            last = value;
        }
        version = now;
    }
    let log = scene.logs();
    let closed = log
        .matches("closed an intent that a crash left open")
        .count();
    say(&format!(
        "{hits} of {ROUNDS} kills hit a put under way, {closed} of them between its intent and its outcome; \
         {acknowledged} puts were acknowledged"
    ));
    assert!(
        hits >= MID_HITS,
        "{hits} mid-operation hits are too few to prove anything"
    );
    assert!(acknowledged > 0 && closed > 0);
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    assert_eq!(
        scene.read(&pod, "db/password").unwrap(),
        last,
        "seed {seed}"
    );
    let checked = scene.bed.check_store();
    checked.unwrap_or_else(|found| panic!("seed {seed}: {found:#}"));
    scene.bed.attache_ok(&["audit", "verify"]).unwrap();
}
