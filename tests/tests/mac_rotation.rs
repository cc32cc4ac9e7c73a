//! The rotation of the rows' MAC key: under puts and releases, through kill -9, until no row has a tag of the key before.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use attache_tests::{
    Scene,
    bed::NODE,
    fill::{commit_puts, seal_puts},
    kills::{Dice, say},
    pod::Pod,
    process::{PATIENCE, until},
    scene::PASSWORD,
    wire,
};
use serde_json::{Value, json};

/// Secrets beside the scene's own: some 10,000 rows.
const SECRETS: u64 = 1500;
/// Kills of one run.
const ROUNDS: u32 = 12;

fn fill(scene: &Scene) {
    scene.runtime.block_on(async {
        let channel = wire::operator(&scene.bed).unwrap();
        let sealed = seal_puts(channel.clone(), "fill", SECRETS).await.unwrap();
        commit_puts(channel, 16, sealed).await.unwrap();
    });
}

fn mac(scene: &Scene) -> Value {
    scene.bed.attache_json(&["key", "status", "--mac"]).unwrap()
}

fn until_dropped(scene: &Scene) -> Value {
    until(PATIENCE, "the key before is dropped", || {
        let shown = mac(scene);
        assert_eq!(shown["problem"], Value::Null, "{shown}");
        (shown["before"] == json!([])).then_some(shown)
    })
    .unwrap()
}

fn delivered(scene: &Scene, name: &str) {
    let pod = Pod::new("shop", name, "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    assert_eq!(scene.read(&pod, "db/password").unwrap(), PASSWORD);
    scene.unpublish(&pod).unwrap();
}

#[test]
fn every_row_is_tagged_anew_under_puts_and_releases_and_the_key_before_is_dropped() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    fill(&scene);
    assert_eq!(mac(&scene)["epoch"], 1);
    let planned = ["key", "rotate", "--mac", "--dry-run"];
    assert_eq!(scene.bed.attache_json(&planned).unwrap()["epoch"], 2);
    assert_eq!(mac(&scene)["epoch"], 1);

    let done = AtomicBool::new(false);
    let puts = thread::scope(|scope| {
        let putting = scope.spawn(|| {
            let mut puts = 0;
            while !done.load(Ordering::Relaxed) {
                let value = format!("value={puts}");
                let put = [
                    "secret",
                    "put",
                    "payments/moving",
                    "--literal",
                    &value,
                    "--quiet",
                ];
                scene.bed.attache_ok(&put).unwrap();
                delivered(&scene, &format!("web-{puts}"));
                puts += 1;
            }
            puts
        });
        let rotated = scene.bed.attache_json(&["key", "rotate", "--mac"]).unwrap();
        assert_eq!(rotated["epoch"], 2);
        let shown = until_dropped(&scene);
        done.store(true, Ordering::Relaxed);
        assert_eq!(shown["epoch"], 2);
        putting.join().unwrap()
    });
    assert!(puts > 0);

    // On record: who asked for it, and that the key before went by itself.
    let log = scene.bed.attache_ok(&["audit", "tail", "--lines", "10000"]);
    let log = log.unwrap();
    assert!(log.contains("key.rotate-mac"), "{log}");
    assert!(log.contains("row-mac@1"), "{log}");
    scene.bed.attache_ok(&["audit", "verify"]).unwrap();

    // Whoever holds a row from before in memory may still change it.
    let listed = scene.bed.attache_json(&["grant", "list"]).unwrap();
    let name = listed["grants"][0]["name"].as_str().unwrap().to_owned();
    let remove = ["grant", "remove", &name, "--yes"];
    scene.bed.attache_ok(&remove).unwrap();

    scene.bed.restart_broker().unwrap();
    assert_eq!(mac(&scene)["epoch"], 2);
    scene.bed.broker.take().unwrap().stop().unwrap();
    scene.bed.check_store().unwrap();
}

#[test]
fn a_second_rotation_waits_for_the_end_of_the_first() {
    let scene = Scene::start().unwrap();
    fill(&scene);
    scene.bed.attache_ok(&["key", "rotate", "--mac"]).unwrap();
    let again = scene.bed.attache(&["key", "rotate", "--mac"]).unwrap();
    if !again.status.success() {
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(said.contains("row-mac@1"), "{said}");
    }
    until_dropped(&scene);
    scene.bed.attache_ok(&["key", "rotate", "--mac"]).unwrap();
    // The other keys of the keyring change beside it.
    scene.bed.attache_ok(&["key", "rotate", "--root"]).unwrap();
    scene
        .bed
        .attache_ok(&["key", "rotate", "payments"])
        .unwrap();
    until_dropped(&scene);
    delivered(&scene, "web");
}

#[test]
fn a_kill_at_any_instant_is_gone_on_from() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    fill(&scene);
    let begun = Instant::now();
    scene.bed.attache_ok(&["key", "rotate", "--mac"]).unwrap();
    until_dropped(&scene);
    let length = begun.elapsed();
    let mut dice = Dice::new().unwrap();
    let mut mid = 0;
    for _ in 0..ROUNDS {
        scene.bed.attache_ok(&["key", "rotate", "--mac"]).unwrap();
        dice.wait(length);
        scene.bed.broker.take().unwrap().kill().unwrap();
        scene.bed.start_broker().unwrap();
        mid += u32::from(mac(&scene)["before"] != json!([]));
        until_dropped(&scene);
        delivered(&scene, "web");
    }
    say(&format!(
        "{mid} of {ROUNDS} kills hit rows that were still to be tagged anew"
    ));
    assert!(mid > 0, "no kill hit a retagging");
    scene.bed.attache_ok(&["audit", "verify"]).unwrap();
    scene.bed.broker.take().unwrap().stop().unwrap();
    scene.bed.check_store().unwrap();
}
