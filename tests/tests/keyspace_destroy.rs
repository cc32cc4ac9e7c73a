//! The end of a keyspace: shredded alone, under puts and releases, through kill -9, to the row that keeps its name.
//!
//! The instant of a kill is uniform over the measured length of a destruction with its removal; the seed is printed, and
//! `ATTACHE_SEED` repeats a run.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs,
    process::{Output, Stdio},
    time::Instant,
};

use attache_tests::{
    Bed, Scene,
    bed::NODE,
    fill::{commit_puts, seal_puts_of},
    kills::{Dice, Length, say},
    pod::Pod,
    process::{PATIENCE, until},
    scene::PASSWORD,
    wire,
};
use serde_json::{Value, json};

/// Kills of one run.
const ROUNDS: u32 = 20;
/// At least so many of them must hit a keyspace whose rows are going.
const MID_HITS: u32 = 4;
/// Secrets of each keyspace that is destroyed, one value each.
const SECRETS: u64 = 1500;

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// State and secrets of a keyspace.
fn listed(bed: &Bed, name: &str) -> (String, u64) {
    let all = bed.attache_json(&["keyspace", "list"]).unwrap();
    let found = all["keyspaces"].as_array().unwrap().iter();
    let found = found.clone().find(|it| it["name"] == name).unwrap();
    let state = found["state"].as_str().unwrap().to_owned();
    (state, found["secrets"].as_u64().unwrap())
}

fn until_destroyed(bed: &Bed, name: &str) {
    until(PATIENCE, "nothing of it is left", || {
        (listed(bed, name) == ("destroyed".into(), 0)).then_some(())
    })
    .unwrap();
}

/// Makes a keyspace with [`SECRETS`] secrets of one value each.
fn fill(scene: &Scene, keyspace: &str) {
    scene
        .bed
        .attache_ok(&["keyspace", "create", keyspace])
        .unwrap();
    scene.runtime.block_on(async {
        let channel = wire::operator(&scene.bed).unwrap();
        let sealed = seal_puts_of(channel.clone(), keyspace, "fill", SECRETS);
        commit_puts(channel, 16, sealed.await.unwrap())
            .await
            .unwrap();
    });
}

/// Verbs on `payments`, each of which says that it is destroyed.
fn every_verb_refuses(bed: &Bed) {
    for words in [
        &["secret", "put", "payments/db", "--literal", "password=x"][..],
        &["secret", "put", "payments/new", "--literal", "password=x"],
        &["secret", "show", "payments/db"],
        &["secret", "rollback", "payments/db@1"],
        &["secret", "list", "payments"],
        &["key", "rotate", "payments"],
        &["keyspace", "create", "payments"],
        &["keyspace", "destroy", "payments", "--yes"],
    ] {
        let refused = bed.attache(words).unwrap();
        assert_eq!(
            refused.status.code(),
            Some(5),
            "{words:?}: {}",
            told(&refused)
        );
        assert!(told(&refused).contains("destroyed"), "{}", told(&refused));
    }
}

/// What is left of `payments`, beside `web` with one secret.
fn only_the_name_is_left(scene: &Scene) {
    let bed = &scene.bed;
    let refused = bed.attache(&["keyspace", "create", "payments"]).unwrap();
    assert_eq!(refused.status.code(), Some(5), "{}", told(&refused));
    let keys = bed.attache_json(&["key", "list", "payments"]).unwrap();
    let keys: Vec<_> = keys["keys"].as_array().unwrap().iter().collect();
    assert!(
        keys.len() == 2
            && keys
                .iter()
                .all(|it| it["state"] == "destroyed" && it["values"] == 0),
        "{keys:?}"
    );
    let secrets = bed.attache_json(&["secret", "list"]).unwrap();
    assert_eq!(secrets["secrets"].as_array().unwrap().len(), 1);
    assert_eq!(secrets["secrets"][0]["reference"], "web/db");
    let audit = scene.audit().unwrap();
    for expected in [
        "keyspace.destroy",
        "recoverable from copies taken before",
        "\"kind\":\"removal\"",
    ] {
        assert!(audit.contains(expected), "{expected}");
    }
    bed.check_store().unwrap();
    bed.attache_ok(&["audit", "verify"]).unwrap();
}

#[test]
fn a_destroyed_keyspace_gives_nothing_and_its_name_is_not_given_again() {
    let scene = Scene::start().unwrap();
    let bed = &scene.bed;
    let pod = |name: &str| Pod::new("shop", name, "web", NODE, "payments/db");
    let before = pod("web-0");
    scene.publish(&before).unwrap();
    for words in [
        &["keyspace", "create", "web"][..],
        &["secret", "put", "web/db", "--literal", "password=other"],
        &["key", "rotate", "payments"],
        &[
            "secret",
            "put",
            "payments/late",
            "--literal",
            "password=late",
        ],
    ] {
        bed.attache_ok(words).unwrap();
    }
    let file = bed.dir.join("store.backup");
    bed.attache_ok(&["backup", "create", file.to_str().unwrap()])
        .unwrap();
    let destroy = |more: &[&str]| {
        let words = [&["keyspace", "destroy", "payments"], more].concat();
        bed.attache(&words).unwrap()
    };
    let unasked = destroy(&[]);
    assert_eq!(unasked.status.code(), Some(2), "{}", told(&unasked));
    assert_eq!(destroy(&["--dry-run"]).status.code(), Some(0));
    assert_eq!(listed(bed, "payments"), ("active".into(), 2));

    let done = destroy(&["--yes", "--output", "json"]);
    assert_eq!(done.status.code(), Some(0), "{}", told(&done));
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    let counts = json!([
        done["secrets"],
        done["keys"],
        done["backup_count"],
        done["grant_count"]
    ]);
    assert_eq!(
        counts,
        json!([2, 2, 1, done["grants"].as_array().unwrap().len()])
    );
    assert!(done["grant_count"].as_u64() > Some(0), "{done}");
    let statement = done["statement"].as_str().unwrap();
    assert!(statement.contains("recoverable from copies taken before"));

    // What a pod is told is what it is told of a secret that was never there.
    scene.publish(&pod("web-1")).unwrap_err();
    assert_eq!(scene.read(&before, "db/password").unwrap(), PASSWORD);
    every_verb_refuses(bed);
    until_destroyed(bed, "payments");
    only_the_name_is_left(&scene);
}

#[test]
fn a_rotation_of_a_keyspace_that_is_destroyed_is_over() {
    let scene = Scene::start().unwrap();
    fill(&scene, "tenant");
    let rotate = ["key", "rotate", "tenant", "--no-wait", "--rate", "100"];
    scene.bed.attache_ok(&rotate).unwrap();
    until(PATIENCE, "a part is wrapped again", || {
        let status = scene.bed.attache_json(&["key", "status", "tenant"]);
        let done = status.unwrap()["keyspaces"][0]["rewraps"][0]["done"].as_u64();
        (done > Some(0)).then_some(())
    })
    .unwrap();
    // A key that changes at the same instant is said, and the command repeated.
    until(PATIENCE, "it is destroyed", || {
        let words = ["keyspace", "destroy", "tenant", "--yes"];
        let output = scene.bed.attache(&words).unwrap();
        output.status.success().then_some(())
    })
    .unwrap();
    until_destroyed(&scene.bed, "tenant");
    until(PATIENCE, "the rotation is over", || {
        let status = scene.bed.attache_json(&["key", "status"]).unwrap();
        let all = status["keyspaces"].as_array().unwrap().iter();
        let mut rewraps = all.map(|it| it["rewraps"].as_array().unwrap().len());
        rewraps.all(|it| it == 0).then_some(())
    })
    .unwrap();
    scene.bed.check_store().unwrap();
}

/// How long a destruction takes, to the last row.
fn measured(scene: &Scene) -> Length {
    let mut length = Length::default();
    let mut number = 0;
    while !length.is_known() {
        number += 1;
        let name = format!("measure-{number}");
        fill(scene, &name);
        let begun = Instant::now();
        scene
            .bed
            .attache_ok(&["keyspace", "destroy", &name, "--yes"])
            .unwrap();
        until_destroyed(&scene.bed, &name);
        length.add(begun.elapsed());
    }
    length
}

/// How often a keyspace was found to be removed: a start says so.
fn found(scene: &Scene) -> usize {
    let log = fs::read_to_string(scene.bed.dir.join("log/broker.log")).unwrap();
    log.matches("removing what is left of a destroyed keyspace")
        .count()
}

#[test]
fn kill_9_at_any_instant_leaves_a_keyspace_whole_or_shredded_and_it_ends() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    let length = measured(&scene);
    let mut dice = Dice::new().unwrap();
    let seed = dice.seed();
    let (mut hits, mut whole) = (0, 0);
    for round in 0..ROUNDS {
        let name = format!("tenant-{round}");
        fill(&scene, &name);
        let mut destroying = scene
            .bed
            .attache_command()
            .unwrap()
            .args(["keyspace", "destroy", &name, "--yes"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        dice.wait(length.now());
        scene.bed.broker.take().unwrap().kill().unwrap();
        destroying.wait().unwrap();
        // While the broker is down the store is looked at as the kill left it.
        if round % 4 == 0 {
            scene.bed.check_store().unwrap();
        }
        let before = found(&scene);
        let restarted = scene.bed.start_broker();
        restarted.unwrap_or_else(|error| panic!("round {round}, seed {seed}: {error:#}"));
        let (state, secrets) = listed(&scene.bed, &name);
        match state.as_str() {
            "active" => {
                whole += 1;
                assert_eq!(secrets, SECRETS, "round {round}, seed {seed}");
                let repeat = ["keyspace", "destroy", &name, "--yes"];
                scene.bed.attache_ok(&repeat).unwrap();
            }
            "removing" => hits += 1,
            _ => {
                assert_eq!(secrets, 0, "round {round}, seed {seed}");
                hits += u32::from(found(&scene) > before);
            }
        }
        let put = format!("{name}/late");
        let words = ["secret", "put", &put, "--literal", "password=x"];
        let put = scene.bed.attache(&words).unwrap();
        assert_eq!(put.status.code(), Some(5), "round {round}, seed {seed}");
        until_destroyed(&scene.bed, &name);
    }
    say(&format!(
        "{hits} of {ROUNDS} kills left rows to remove, {whole} came before the commit, in {:?}",
        length.now()
    ));
    assert!(
        hits >= MID_HITS,
        "{hits} hits are too few to prove anything"
    );
    let pod = Pod::new("shop", "web-last", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    assert_eq!(
        scene.read(&pod, "db/password").unwrap(),
        PASSWORD,
        "seed {seed}"
    );
    scene.bed.check_store().unwrap();
    scene.bed.attache_ok(&["audit", "verify"]).unwrap();
}
