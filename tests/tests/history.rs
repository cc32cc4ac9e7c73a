//! A store with a history: versions, a secret, a key and a keyspace that are gone, one that is going, a key that is on its way out,
//! and second epochs of what has epochs. An independent decoder opens a backup of it, from the page of formats alone.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{collections::BTreeMap, fs, path::Path, process::Stdio};

use attache_tests::{
    Bed,
    fill::{commit_puts, seal_puts_of},
    independent::open_backup,
    process::{PATIENCE, until},
    wire,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Values that are to be wrapped again, one a second: more than the test takes.
const BEHIND: u64 = 300;
/// Secrets of a keyspace that is to be caught while they go.
const GOING: u64 = 3000;
/// Tries to catch one.
const TRIES: u32 = 8;

fn does(bed: &Bed, text: &str) {
    let words: Vec<_> = text.split(' ').collect();
    bed.attache_ok(&words).unwrap();
}

fn fill(bed: &Bed, runtime: &Runtime, keyspace: &str, secrets: u64) {
    does(bed, &format!("keyspace create {keyspace}"));
    runtime.block_on(async {
        let channel = wire::operator(bed).unwrap();
        let sealed = seal_puts_of(channel.clone(), keyspace, "fill", secrets);
        commit_puts(channel, 16, sealed.await.unwrap())
            .await
            .unwrap();
    });
}

fn until_destroyed(bed: &Bed, name: &str) {
    until(PATIENCE, "nothing of it is left", || {
        let all = bed.attache_json(&["keyspace", "list"]).unwrap();
        let all = all["keyspaces"].as_array().unwrap().iter();
        let it = all.clone().find(|it| it["name"] == name).unwrap();
        (it["state"] == "destroyed").then_some(())
    })
    .unwrap();
}

fn opened(bed: &Bed, file: &Path) -> Value {
    let opened = open_backup(file, &[bed.key_file()]).unwrap();
    let said = String::from_utf8_lossy(&opened.stderr);
    assert!(opened.status.success(), "{said}");
    serde_json::from_slice(&opened.stdout).unwrap()
}

/// Everything that a store goes through but what goes on while a backup is made.
fn with_a_past(bed: &Bed) {
    for keyspace in ["payments", "gone"] {
        does(bed, &format!("keyspace create {keyspace}"));
    }
    for number in 1..=3 {
        let put = format!("secret put payments/db --quiet --literal password=p{number}");
        does(bed, &put);
    }
    for verb in [
        "secret put payments/api --literal token=gone",
        "secret put gone/db --literal password=gone",
        "key rotate payments",
        "key destroy payments@1 --now --yes",
        "secret destroy payments/db@1 --yes",
        "secret destroy payments/db@2 --yes",
        "secret destroy payments/api --yes",
        "keyspace destroy gone --yes",
        "key rotate --root",
        "key rotate --mac",
    ] {
        does(bed, verb);
    }
    until_destroyed(bed, "gone");
    until(PATIENCE, "every row is tagged anew", || {
        let told = bed.attache_json(&["key", "status", "--mac"]).unwrap();
        (told["before"].as_array().unwrap().is_empty()).then_some(())
    })
    .unwrap();
    for verb in ["key rotate --audit", "key rotate --ca", "key rotate --root"] {
        does(bed, verb);
    }
}

/// A backup of a moment at which rows of a destroyed keyspace are going: what it holds, and that keyspace.
fn caught_going(bed: &Bed, runtime: &Runtime) -> (Value, String) {
    let file = bed.dir.join("store.backup");
    for number in 1..=TRIES {
        let name = format!("going-{number}");
        fill(bed, runtime, &name, GOING);
        let mut destroy = bed.attache_command().unwrap();
        destroy.args(["keyspace", "destroy", &name, "--yes"]);
        let mut destroying = destroy.stdout(Stdio::null()).spawn().unwrap();
        until(PATIENCE, "its keys are gone", || {
            let listed = bed.attache(&["secret", "list", &name]).unwrap();
            (!listed.status.success()).then_some(())
        })
        .unwrap();
        does(bed, &format!("backup create {}", file.display()));
        assert!(destroying.wait().unwrap().success());
        let held = opened(bed, &file);
        fs::remove_file(&file).unwrap();
        if held["keyspaces"][&name] == "removing" {
            return (held, name);
        }
    }
    panic!("{TRIES} keyspaces were gone, or not yet going");
}

#[test]
fn an_independent_decoder_opens_the_backup_of_a_store_with_a_history() {
    let bed = Bed::signed_in().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    with_a_past(&bed);
    fill(&bed, &runtime, "web", BEHIND);
    does(&bed, "key rotate web --no-wait --rate 1");
    does(&bed, "secret put web/new --literal password=new");
    let (held, going) = caught_going(&bed, &runtime);

    let (secrets, keys) = (held["secrets"].as_object().unwrap(), &held["keys"]);
    let of_payments = secrets
        .iter()
        .filter(|(path, _)| path.starts_with("payments/"));
    let of_payments: BTreeMap<_, _> = of_payments.map(|(path, it)| (path.as_str(), it)).collect();
    assert_eq!(
        of_payments,
        BTreeMap::from([
            ("payments/api", &json!({"1": {}})),
            (
                "payments/db",
                &json!({"1": {}, "3": {"password": hex::encode("p3")}})
            )
        ])
    );
    let of_web = json!({"1": {"value": hex::encode([7; 1024])}});
    let of_web = secrets.values().filter(|it| **it == of_web);
    assert_eq!(of_web.count() as u64, BEHIND);
    let new = &held["secrets"]["web/new"];
    assert_eq!(*new, json!({"1": {"password": hex::encode("new")}}));

    let states = &held["keyspaces"];
    assert_eq!(
        [&states["payments"], &states["web"], &states["gone"]],
        ["active", "active", "destroyed"]
    );
    for key in ["payments@1", "gone@1"] {
        assert_eq!(keys[key], json!(["destroyed", 0]), "{key}");
    }
    assert_eq!(keys["payments@2"], json!(["active", 1]));
    assert_eq!(keys[format!("{going}@1")][0], "destroyed");
    let wraps = |key: &str, state: &str| {
        assert_eq!(keys[key][0], state, "{key}");
        keys[key][1].as_u64().unwrap()
    };
    let (before, after) = (wraps("web@1", "decrypt-only"), wraps("web@2", "active"));
    assert!(before > 0 && after > 0, "{before} {after}");
    assert_eq!(before + after, BEHIND + 1);

    // Rows' MACs are of the second key alone; of the audit and the CA the one before is there too.
    assert_eq!(held["macs"], json!([2]));
    let ring = &held["ring"];
    assert_eq!(
        [&ring["1"], &ring["7"], &ring["8"]],
        [&json!([2]), &json!([1, 2]), &json!([1, 2])]
    );
}
