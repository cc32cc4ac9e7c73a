//! The rotation of the broker's CA: nodes and operators go through it without one refused call, and what the CA before
//! signed is good for nothing once that is dropped.
//!
//! Needs Debian's `faketime`: the broker's clock is almost an hour behind, so that a node's certificate ends soon and is
//! renewed every few seconds.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use attache_mtls::bundle::TrustBundle;
use attache_tests::{
    Bed, Scene,
    bed::{AUDIENCE, CLUSTER, NODE, OTHER_NODE},
    kills::{Dice, say},
    pod::Pod,
    process::{PATIENCE, bin, clock, run, until},
    scene::PASSWORD,
};
use serde_json::Value;
use tonic::Status;

/// A certificate of an hour, signed by a clock of so many seconds ago, ends in forty.
const BEHIND: &str = "-3560";
/// How long a rotation may take: every certificate is renewed within forty seconds.
const ROTATION: Duration = Duration::from_secs(180);

/// A broker whose clock is behind, a node that renews all the time, and a secret.
fn scene() -> Scene {
    let mut bed = Bed::new().unwrap();
    bed.environment = clock(BEHIND);
    let scene = Scene::on(bed).unwrap();
    scene.bed.pin_addresses().unwrap();
    scene
}

fn ca(bed: &Bed) -> Value {
    bed.attache_json(&["key", "status", "--ca"]).unwrap()
}

fn states(bed: &Bed) -> Vec<(u64, String)> {
    let shown = ca(bed);
    let cas = shown.pointer("/cas").and_then(Value::as_array).unwrap();
    let state = |ca: &Value| {
        let epoch = ca.pointer("/epoch").and_then(Value::as_u64).unwrap();
        let state = ca.pointer("/state").and_then(Value::as_str).unwrap();
        (epoch, state.to_owned())
    };
    cas.iter().map(state).collect()
}

fn is_dropped(bed: &Bed) -> bool {
    states(bed).len() == 1
}

fn bundle(path: &Path) -> TrustBundle {
    TrustBundle::from_pem(&fs::read(path).unwrap()).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// The CLI's contexts as they are now, in a folder of their own.
fn copied_desk(bed: &Bed, name: &str) -> PathBuf {
    let from = bed.cli_config();
    let to = bed.dir.join(name);
    let copied = run(Command::new("cp")
        .arg("-a")
        .args([from.parent().unwrap(), &to]))
    .unwrap();
    assert!(copied.status.success(), "{}", said(&copied));
    to.join(from.file_name().unwrap())
}

/// The operator's certificate is of the new CA, and so is the one before it, which is good for ten minutes more.
fn renew_operator(bed: &Bed) {
    for _ in 0..2 {
        bed.attache_ok(&["login"]).unwrap();
        bed.attache_ok(&["status"]).unwrap();
    }
}

/// Publishes with a token that the broker's clock has reached.
fn publish(scene: &Scene, pod: &Pod) -> Result<(), Status> {
    let issuer = &scene.bed.issuer;
    let mut claims = issuer.claims(pod, AUDIENCE);
    for time in ["iat", "nbf", "exp"] {
        let at = claims.get(time).and_then(Value::as_i64).unwrap();
        let shifted = at + BEHIND.parse::<i64>().unwrap();
        claims
            .as_object_mut()
            .unwrap()
            .insert(time.into(), shifted.into());
    }
    scene.publish_with(pod, AUDIENCE, &issuer.sign(&claims).unwrap())
}

/// Publishes one pod after the other and asks for the status as an operator, each of which must succeed, until `done`.
fn under_calls(scene: &Scene, done: impl Fn(&Bed) -> bool) -> usize {
    let mut calls = 0;
    until(ROTATION, "the rotation is through", || {
        calls += 1;
        let name = format!("web-{calls}");
        let pod = Pod::new("shop", &name, "web", NODE, "payments/db");
        publish(scene, &pod).unwrap();
        assert_eq!(scene.read(&pod, "db/password").unwrap(), PASSWORD);
        scene.unpublish(&pod).unwrap();
        scene.bed.attache_ok(&["status"]).unwrap();
        done(&scene.bed).then_some(())
    })
    .unwrap();
    calls
}

#[test]
fn a_node_and_an_operator_go_through_a_rotation_without_a_refused_call() {
    let scene = scene();
    let bed = &scene.bed;
    let before = bundle(&bed.store_dir().join("trust-bundle.pem"));
    assert_eq!(states(bed), [(1, "active".to_owned())]);
    let of_before = copied_desk(bed, "of-before");

    let told = bed.attache_ok(&["key", "rotate", "--ca"]).unwrap();
    assert!(told.contains("ca@2 signs nodes and operators"), "{told}");
    let both = [(2, "active".to_owned()), (1, "trusted".to_owned())];
    assert_eq!(states(bed), both);
    let again = bed.attache(&["key", "rotate", "--ca"]).unwrap();
    assert_eq!(
        again.status.code(),
        Some(5),
        "one at a time: {}",
        said(&again)
    );
    let published = bundle(&bed.store_dir().join("trust-bundle.pem"));
    assert_eq!(published.certificates().count(), 2);
    let shown = bed.attache_ok(&["key", "status", "--ca"]).unwrap();
    assert!(shown.contains("operator/ada"), "{shown}");

    // The node renews by itself, the operator by a word here and else within a day.
    renew_operator(bed);
    let calls = under_calls(&scene, is_dropped);
    say(&format!("{calls} rounds of calls under the rotation"));
    let after = bundle(&bed.store_dir().join("trust-bundle.pem"));
    assert_eq!(after.certificates().count(), 1);
    assert_ne!(after, before);
    under_calls(&scene, |_| true);

    // A copy of what the operator had is refused in the handshake, and bans nobody.
    let mut command = bed.attache_command().unwrap();
    command.env("ATTACHE_CONFIG", of_before).arg("status");
    let refused = run(&mut command).unwrap();
    assert!(!refused.status.success(), "{}", said(&refused));
    bed.attache_ok(&["status"]).unwrap();
    let audit = scene.audit().unwrap();
    for told in ["key.rotate-ca", "the CA of epoch 1 is trusted no more"] {
        assert!(audit.contains(told), "{told}: {audit}");
    }
    let checked = bed.check_store().unwrap();
    assert!(checked.contains(" 0 findings"), "{checked}");
}

/// Killed at any moment of it, a rotation goes on with the next start, and nobody is cut off.
#[test]
fn a_rotation_goes_on_after_kills_of_the_broker() {
    let mut scene = scene();
    let mut dice = Dice::new().unwrap();
    let seed = dice.seed();
    for round in 1..=6_u64 {
        scene.bed.attache_ok(&["key", "rotate", "--ca"]).unwrap();
        renew_operator(&scene.bed);
        let mut kills = 0;
        until(ROTATION, "the rotation is through", || {
            // The drop comes within seconds after the last renewal: some kills hit it.
            dice.wait(Duration::from_secs(4));
            scene.bed.broker.take().unwrap().kill().unwrap();
            kills += 1;
            scene.bed.start_broker().unwrap();
            scene.bed.attache_ok(&["status"]).unwrap();
            is_dropped(&scene.bed).then_some(())
        })
        .unwrap();
        say(&format!("round {round}: {kills} kills, seed {seed}"));
        assert_eq!(states(&scene.bed), [(round + 1, "active".to_owned())]);
        let pod = Pod::new("shop", &format!("web-{round}"), "web", NODE, "payments/db");
        until(PATIENCE, "the node is served", || {
            publish(&scene, &pod).ok()
        })
        .unwrap();
    }
    let checked = scene.bed.check_store().unwrap();
    assert!(checked.contains(" 0 findings"), "seed {seed}: {checked}");
    scene.bed.attache_ok(&["audit", "verify"]).unwrap();
}

/// A token of before is good while it lasts, and so is a slot: the CA's keys are in every keyring from then on.
#[test]
fn tokens_slots_and_backups_are_good_across_a_rotation() {
    let mut scene = scene();
    let words = [
        "node",
        "join-token",
        "--cluster",
        CLUSTER,
        "--node",
        OTHER_NODE.0,
    ];
    scene.bed.attache_ok(&words).unwrap();
    scene.bed.attache_ok(&["key", "rotate", "--ca"]).unwrap();
    renew_operator(&scene.bed);
    scene.bed.attache_ok(&["key", "rotate", "--root"]).unwrap();
    let waits = until(ROTATION, "only the token is open", || {
        let shown = ca(&scene.bed);
        let needed = shown.pointer("/needed_count").and_then(Value::as_u64)?;
        (needed == 0).then_some(shown)
    })
    .unwrap();
    assert_eq!(waits.pointer("/open_tokens"), Some(&Value::Bool(true)));
    let backup = scene.bed.dir.join("under-way.backup");
    let backup = backup.to_str().unwrap();
    scene.bed.attache_ok(&["backup", "create", backup]).unwrap();

    // Restored, it is where it was, and goes on: the node's and the operator's certificates are good.
    scene.bed.broker.take().unwrap().stop().unwrap();
    fs::remove_file(scene.bed.store_dir().join("store.redb")).unwrap();
    let mut restore = Command::new(bin("attache-broker").unwrap());
    restore.args(["restore", backup, "--config"]);
    restore.envs(scene.bed.environment.clone());
    let restored = run(restore.arg(scene.bed.broker_config())).unwrap();
    assert!(restored.status.success(), "{}", said(&restored));
    scene.bed.start_broker().unwrap();

    // The restore has ended the token; nothing is open, and the CA before goes.
    until(ROTATION, "the CA before is dropped", || {
        is_dropped(&scene.bed).then_some(())
    })
    .unwrap();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    until(PATIENCE, "the node is served", || {
        publish(&scene, &pod).ok()
    })
    .unwrap();
}

#[test]
fn a_join_token_of_before_works_after_the_rotation_was_begun() {
    let mut scene = scene();
    scene.bed.plugin.take().unwrap().stop().unwrap();
    for entry in fs::read_dir(scene.bed.dir.join("node-state")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    scene.bed.join_node(OTHER_NODE.0).unwrap();
    scene.bed.attache_ok(&["key", "rotate", "--ca"]).unwrap();
    scene.bed.start_plugin().unwrap();
    let pod = Pod::new("shop", "web-0", "web", OTHER_NODE, "payments/db");
    publish(&scene, &pod).unwrap();
}

/// In wrong hands, the CA before is dropped at once: who is cut off is named, and comes in anew.
#[test]
fn a_ca_in_wrong_hands_is_dropped_at_once_and_names_whom_it_cuts_off() {
    let mut scene = scene();
    scene.bed.attache_ok(&["key", "rotate", "--ca"]).unwrap();
    renew_operator(&scene.bed);
    scene.bed.plugin.take().unwrap().stop().unwrap();
    let drop = ["key", "rotate", "--ca", "--drop", "1", "--yes"];
    let other = ["key", "rotate", "--ca", "--drop", "7", "--yes"];
    let other = scene.bed.attache(&other).unwrap();
    assert!(
        said(&other).contains("no CA of epoch 7"),
        "{}",
        said(&other)
    );
    scene.bed.attache_ok(&drop).unwrap();
    assert!(is_dropped(&scene.bed));
    scene.bed.attache_ok(&["status"]).unwrap();

    for entry in fs::read_dir(scene.bed.dir.join("node-state")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    scene.bed.join_node(NODE.0).unwrap();
    scene.bed.start_plugin().unwrap();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    publish(&scene, &pod).unwrap();
}

/// An operator's sign-in by recovery: nobody is left who could make a code.
fn recover(bed: &mut Bed) {
    let (grpc, enroll) = bed.broker_addresses().unwrap();
    bed.broker.take().unwrap().stop().unwrap();
    let desk = bed.cli_config();
    let desk = desk.parent().unwrap();
    fs::rename(desk, desk.with_extension("cut-off")).unwrap();
    fs::create_dir(desk).unwrap();
    let (csr, chain) = (bed.dir.join("etc/again.csr"), bed.dir.join("etc/again.pem"));
    let bundle = bed.store_dir().join("trust-bundle.pem");
    let (grpc, enroll) = (grpc.to_string(), enroll.to_string());
    let new = [
        "login", "--new", "ada", "--broker", &grpc, "--enroll", &enroll,
    ];
    let pinned = [
        "--broker-id",
        "spiffe://attache.test/broker/broker-0",
        "--trust-bundle",
        bundle.to_str().unwrap(),
        "--csr",
        csr.to_str().unwrap(),
    ];
    bed.attache_ok(&[&new[..], &pinned].concat()).unwrap();
    let mut recover = Command::new(bin("attache-broker").unwrap());
    recover.args(["bootstrap", "operator", "ada", "--recover", "--csr"]);
    recover.arg(&csr).arg("--config").arg(bed.broker_config());
    let recovered = run(recover.envs(bed.environment.clone())).unwrap();
    assert!(recovered.status.success(), "{}", said(&recovered));
    fs::write(&chain, recovered.stdout).unwrap();
    bed.start_broker().unwrap();
    let finish = ["login", "--finish", chain.to_str().unwrap()];
    bed.attache_ok(&finish).unwrap();
}

/// A code with the CA that another one names: its last 32 bytes, in 43 characters.
fn with_ca_of(code: &str, other: &str) -> String {
    let at = code.len() - 43;
    format!("{}{}", &code[..at], &other[at..])
}

/// Signs in by the code in a file, at a desk of one's own.
fn sign_in(bed: &Bed, name: &str) -> Output {
    let (grpc, enroll) = bed.broker_addresses().unwrap();
    let (grpc, enroll) = (grpc.to_string(), enroll.to_string());
    let source = format!("@{}", bed.dir.join(format!("etc/{name}.code")).display());
    let mut command = bed.attache_command().unwrap();
    command.env(
        "ATTACHE_CONFIG",
        bed.dir.join(format!("desk-{name}/config.toml")),
    );
    let words = [
        "login", "--new", name, "--broker", &grpc, "--enroll", &enroll,
    ];
    run(command.args(words).args(["--code", &source])).unwrap()
}

/// In wrong hands, and nobody may learn of the new CA by what the old one signed: both in one commit.
#[test]
fn a_ca_in_wrong_hands_is_replaced_in_one_commit_and_everybody_comes_in_anew() {
    let mut scene = scene();
    let bed = &scene.bed;
    let now = ["key", "rotate", "--ca", "--now"];
    let code = |bed: &Bed, name: &str| {
        let code = bed.attache_ok(&["operator", "add", name]).unwrap();
        let file = bed.dir.join(format!("etc/{name}.code"));
        fs::write(&file, &code).unwrap();
        code.trim().to_owned()
    };
    code(bed, "bob");
    assert!(sign_in(bed, "bob").status.success());
    let early = code(bed, "kim");
    let asked = bed.attache(&now).unwrap();
    assert_eq!(asked.status.code(), Some(2), "{}", said(&asked));
    let dry = bed
        .attache_ok(&[&now[..], &["--dry-run"]].concat())
        .unwrap();
    assert!(
        dry.contains("would sign") && dry.contains("cut off: 3"),
        "{dry}"
    );
    assert_eq!(states(bed), [(1, "active".to_owned())]);
    let before = bundle(&bed.store_dir().join("trust-bundle.pem"));
    let told = bed.attache_json(&[&now[..], &["--yes"]].concat()).unwrap();
    assert_eq!(told.pointer("/cut_off_count"), Some(&Value::from(3)));
    let after = bundle(&bed.store_dir().join("trust-bundle.pem"));
    assert_eq!(after.certificates().count(), 1);
    assert_ne!(after, before);

    // The broker shows its new certificate at once, and takes none of the old ones.
    until(PATIENCE, "the operator is cut off", || {
        let refused = bed.attache(&["status"]).unwrap();
        (!refused.status.success()).then_some(())
    })
    .unwrap();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    assert!(publish(&scene, &pod).is_err());

    recover(&mut scene.bed);
    assert_eq!(states(&scene.bed), [(2, "active".to_owned())]);
    scene.bed.plugin.take().unwrap().stop().unwrap();
    for entry in fs::read_dir(scene.bed.dir.join("node-state")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    scene.bed.join_node(NODE.0).unwrap();
    scene.bed.start_plugin().unwrap();
    publish(&scene, &pod).unwrap();
    // Whoever was cut off comes back by a code, and one of before is none, whoever answers it names.
    code(&scene.bed, "bob");
    fs::remove_dir_all(scene.bed.dir.join("desk-bob")).unwrap();
    let back = sign_in(&scene.bed, "bob");
    assert!(back.status.success(), "{}", said(&back));
    let late = code(&scene.bed, "zoe");
    assert_eq!(early.len(), late.len());
    let file = scene.bed.dir.join("etc/kim.code");
    fs::write(file, with_ca_of(&early, &late)).unwrap();
    let refused = sign_in(&scene.bed, "kim");
    assert!(
        said(&refused).contains("attache operator add"),
        "{}",
        said(&refused)
    );
    assert!(sign_in(&scene.bed, "zoe").status.success());
    scene.bed.attache_ok(&["audit", "verify"]).unwrap();
    let checked = scene.bed.check_store().unwrap();
    assert!(checked.contains(" 0 findings"), "{checked}");
}
