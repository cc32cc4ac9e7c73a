//! What a keyspace keeps: versions over go in the background, but for those that are pinned or mounted; no value that a kept
//! version needs goes with them, and old keys come to their end because of it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{fs, process::Output};

use attache_tests::{
    Bed, Scene,
    bed::NODE,
    pod::Pod,
    process::{PATIENCE, until},
    scene::{PASSWORD, USERNAME},
};
use serde_json::{Value, json};

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The numbers of a secret's versions, newest first.
fn versions(bed: &Bed, reference: &str) -> Vec<u64> {
    let told = bed
        .attache_json(&["secret", "versions", reference])
        .unwrap();
    let all = told["versions"].as_array().unwrap().iter();
    all.map(|it| it["version"].as_u64().unwrap()).collect()
}

fn until_versions(bed: &Bed, reference: &str, wanted: &[u64]) {
    until(PATIENCE, "what is over is pruned", || {
        (versions(bed, reference) == wanted).then_some(())
    })
    .unwrap();
}

fn keep(bed: &Bed, count: &str) -> Value {
    bed.attache_json(&["keyspace", "set", "payments", "--max-versions", count])
        .unwrap()
}

/// State and values of a key.
fn key(bed: &Bed, name: &str) -> (String, u64) {
    let told = bed.attache_json(&["key", "list", "payments"]).unwrap();
    let all = told["keys"].as_array().unwrap().iter();
    let found = all.clone().find(|it| it["key"] == name).unwrap();
    let state = found["state"].as_str().unwrap().to_owned();
    (state, found["values"].as_u64().unwrap())
}

#[test]
fn the_newest_versions_and_the_active_one_stay_and_pods_read_on() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    let bed = &scene.bed;
    let shown = bed.attache_json(&["keyspace", "show", "payments"]).unwrap();
    assert_eq!(
        json!([shown["state"], shown["max_versions"]]),
        json!(["active", 20])
    );
    bed.put_versions(4).unwrap();
    assert_eq!(versions(bed, "payments/db"), [5, 4, 3, 2, 1]);
    let planned = [
        "keyspace",
        "set",
        "payments",
        "--max-versions",
        "2",
        "--dry-run",
    ];
    bed.attache_ok(&planned).unwrap();
    // A version that a rollback made active stays, however old it is.
    bed.attache_ok(&["secret", "rollback", "payments/db@2"])
        .unwrap();
    let set = keep(bed, "2");
    assert_eq!(set["max_versions"], 2);
    until_versions(bed, "payments/db", &[5, 4, 2]);
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    assert_eq!(scene.read(&pod, "db/password").unwrap(), "p0");
    assert_eq!(scene.read(&pod, "db/username").unwrap(), USERNAME);
    // A pod that asks for one that is gone is told what it is told of one that was never there.
    let old = Pod::new("shop", "web-1", "web", NODE, "payments/db@3");
    scene.publish(&old).unwrap_err();
    let back = bed
        .attache(&["secret", "rollback", "payments/db@3"])
        .unwrap();
    assert_eq!(back.status.code(), Some(5), "{}", told(&back));
    // At once after a put, too; and no number comes back.
    bed.put_versions(1).unwrap();
    until_versions(bed, "payments/db", &[6, 5]);
    let audit = scene.audit().unwrap();
    for expected in [
        "keyspace.set",
        "max-versions 2",
        "\"kind\":\"pruning\"",
        "payments/db@3",
    ] {
        assert!(audit.contains(expected), "{expected}");
    }
    // What is kept is kept by the next process, and 0 keeps all.
    scene.bed.broker.take().unwrap().kill().unwrap();
    scene.bed.start_broker().unwrap();
    let bed = &scene.bed;
    let shown = bed.attache_json(&["keyspace", "show", "payments"]).unwrap();
    assert_eq!(shown["max_versions"], 2);
    assert_eq!(keep(bed, "0")["max_versions"], Value::Null);
    bed.put_versions(3).unwrap();
    assert_eq!(versions(bed, "payments/db"), [9, 8, 7, 6, 5]);
    bed.check_store().unwrap();
    bed.attache_ok(&["audit", "verify"]).unwrap();
}

#[test]
fn a_start_prunes_what_a_kill_cut_off() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    scene.bed.put_versions(30).unwrap();
    // Twenty are kept unless it is said.
    let newest: Vec<u64> = (12..=31).rev().collect();
    until_versions(&scene.bed, "payments/db", &newest);
    for keeps in ["15", "9", "3"] {
        keep(&scene.bed, keeps);
        scene.bed.broker.take().unwrap().kill().unwrap();
        scene.bed.start_broker().unwrap();
        let count: u64 = keeps.parse().unwrap();
        let newest: Vec<u64> = (32 - count..=31).rev().collect();
        until_versions(&scene.bed, "payments/db", &newest);
    }
    scene.bed.check_store().unwrap();
    scene.bed.attache_ok(&["audit", "verify"]).unwrap();
}

#[test]
fn an_old_key_comes_to_its_end_with_the_old_versions_pruned() {
    let scene = Scene::start().unwrap();
    let bed = &scene.bed;
    bed.put_versions(9).unwrap();
    assert_eq!(key(bed, "payments@1"), ("active".into(), 11));
    keep(bed, "3");
    until_versions(bed, "payments/db", &[10, 9, 8]);
    // Only what is kept is wrapped again: three passwords, and the username that all of them carry.
    bed.attache_ok(&["key", "rotate", "payments"]).unwrap();
    assert_eq!(key(bed, "payments@1"), ("retired".into(), 0));
    assert_eq!(key(bed, "payments@2"), ("active".into(), 4));
    bed.attache_ok(&["key", "destroy", "payments@1", "--yes"])
        .unwrap();
    assert_eq!(key(bed, "payments@1"), ("destroyed".into(), 0));
    bed.put_versions(3).unwrap();
    until_versions(bed, "payments/db", &[13, 12, 11]);
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    assert_eq!(scene.read(&pod, "db/username").unwrap(), USERNAME);
    bed.check_store().unwrap();
}

/// What the CLI refuses, of a state that does not allow it.
fn refused(bed: &Bed, args: &[&str]) -> String {
    let output = bed.attache(args).unwrap();
    assert_eq!(output.status.code(), Some(5), "{args:?}");
    told(&output)
}

/// Of versions 4 and 2 the second is pinned.
fn assert_pinned_is_told(bed: &Bed) {
    let shown = bed
        .attache_json(&["secret", "show", "payments/db"])
        .unwrap();
    assert_eq!(
        json!([shown["pinned_versions"], shown["pinned_count"]]),
        json!([[2], 1])
    );
    let listed = bed
        .attache_json(&["secret", "versions", "payments/db"])
        .unwrap();
    let all = listed["versions"].as_array().unwrap().iter();
    let all: Vec<_> = all
        .map(|it| json!([it["version"], it["active"], it["pinned"]]))
        .collect();
    assert_eq!(json!(all), json!([[4, true, false], [2, false, true]]));
    let table = bed
        .attache_ok(&["secret", "versions", "payments/db"])
        .unwrap();
    assert!(table.contains("pinned"), "{table}");
}

#[test]
fn a_pinned_version_stays_until_it_is_unpinned() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    let bed = &scene.bed;
    bed.put_versions(3).unwrap();
    let planned = bed
        .attache_json(&["secret", "pin", "payments/db@2", "--dry-run"])
        .unwrap();
    assert_eq!(planned["pinned"], true);
    let pin = [
        "secret",
        "pin",
        "payments/db@2",
        "--reason",
        "the last good one",
    ];
    let pinned = bed.attache_json(&pin).unwrap();
    assert_eq!(
        json!([pinned["reference"], pinned["pinned"]]),
        json!(["payments/db@2", true])
    );
    let again = refused(bed, &pin);
    assert!(
        again.contains("version 2 of payments/db is pinned already"),
        "{again}"
    );
    keep(bed, "1");
    until_versions(bed, "payments/db", &[4, 2]);
    let gone = refused(bed, &["secret", "pin", "payments/db@3"]);
    assert!(gone.contains("there is no version 3"), "{gone}");
    assert!(
        gone.contains("attache secret versions payments/db"),
        "{gone}"
    );

    // It is told, and stays that through a start, another key and a destruction that does not say that it is meant.
    let key = ["key", "rotate", "payments"];
    bed.attache_ok(&key).unwrap();
    bed.attache_ok(&["key", "destroy", "payments@1", "--yes"])
        .unwrap();
    scene.bed.restart_broker().unwrap();
    let bed = &scene.bed;
    assert_pinned_is_told(bed);
    let kept = refused(bed, &["secret", "destroy", "payments/db@2", "--yes"]);
    assert!(
        kept.contains("attache secret unpin payments/db@2"),
        "{kept}"
    );
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db@2");
    scene.publish(&pod).unwrap();
    assert_eq!(scene.read(&pod, "db/password").unwrap(), "p0");
    scene.unpublish(&pod).unwrap();

    bed.attache_ok(&["secret", "unpin", "payments/db@2"])
        .unwrap();
    until_versions(bed, "payments/db", &[4]);
    let again = refused(bed, &["secret", "unpin", "payments/db@4"]);
    assert!(
        again.contains("version 4 of payments/db is not pinned"),
        "{again}"
    );
    let audit = scene.audit().unwrap();
    for expected in ["\"secret.pin\"", "the last good one", "\"secret.unpin\""] {
        assert!(audit.contains(expected), "{expected}");
    }
    bed.check_store().unwrap();
    bed.attache_ok(&["audit", "verify"]).unwrap();
}

#[test]
fn a_version_that_a_volume_names_stays_as_long_as_nodes_ask_for_it() {
    let bed = Bed::new().unwrap();
    let settings = fs::read_to_string(bed.broker_config()).unwrap();
    let longer = settings.replace("mounted_window_s = 1\n", "mounted_window_s = 10\n");
    assert_ne!(longer, settings);
    fs::write(bed.broker_config(), longer).unwrap();
    let scene = Scene::on(bed).unwrap();
    let bed = &scene.bed;
    let first = Pod::new("shop", "web-0", "web", NODE, "payments/db@1");
    scene.publish(&first).unwrap();
    keep(bed, "1");
    // Kubelet asks for the volume again and again, and the node with it.
    let until_left = |pods: &[&Pod], wanted: &[u64]| {
        until(
            2 * PATIENCE,
            "what is over and not mounted is pruned",
            || {
                for pod in pods {
                    scene.publish(pod).unwrap();
                }
                let left = versions(bed, "payments/db");
                assert!(left.contains(&1), "{left:?}");
                (left == wanted).then_some(())
            },
        )
        .unwrap();
    };
    for _ in 0..4 {
        bed.put_versions(1).unwrap();
        scene.publish(&first).unwrap();
    }
    until_left(&[&first], &[5, 1]);
    assert_eq!(scene.read(&first, "db/password").unwrap(), PASSWORD);

    // The pod is made anew, and another one beside it.
    scene.unpublish(&first).unwrap();
    scene.publish(&first).unwrap();
    let second = Pod::new("shop", "web-1", "web", NODE, "payments/db@1");
    scene.publish(&second).unwrap();
    bed.put_versions(1).unwrap();
    until_left(&[&first, &second], &[6, 1]);
    for pod in [&first, &second] {
        assert_eq!(scene.read(pod, "db/password").unwrap(), PASSWORD);
        assert_eq!(scene.read(pod, "db/username").unwrap(), USERNAME);
        scene.unpublish(pod).unwrap();
    }
    assert!(
        scene
            .logs()
            .contains("as long as volumes of pods name them")
    );
    until(2 * PATIENCE, "nobody names it any more", || {
        (versions(bed, "payments/db") == [6]).then_some(())
    })
    .unwrap();
    scene.publish(&first).unwrap_err();
    bed.check_store().unwrap();
}
