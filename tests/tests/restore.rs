//! `attache-broker restore`, its drill, and `serve --accept-rollback-to`: a store of before, as a new incarnation.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use attache_tests::{
    Bed, Scene,
    bed::{NODE, TRUST_DOMAIN},
    independent::open_backup,
    kills::{Dice, Length, say},
    pod::Pod,
    process::{PATIENCE, run, send, until},
    scene::PASSWORD,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use rustix::process::Signal;
use serde_json::Value;

/// Rounds of the test that kills.
const ROUNDS: u32 = 40;

fn broker(bed: &Bed, args: &[&str]) -> Command {
    bed.broker_command(args).unwrap()
}

fn restore(bed: &Bed, file: &Path, more: &[&str]) -> Output {
    let args = [&["restore", file.to_str().unwrap()], more].concat();
    run(&mut broker(bed, &args)).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    said(output)
}

/// Refused, in these words, and no store was made.
fn refused(bed: &Bed, output: &Output, words: &str) {
    assert!(!output.status.success(), "{}", said(output));
    assert!(said(output).contains(words), "{words}: {}", said(output));
    assert!(!bed.store_dir().join("store.redb").exists());
    let left = fs::read_dir(bed.store_dir()).unwrap();
    let left: Vec<_> = left.map(|it| it.unwrap().file_name()).collect();
    let drafts = left
        .iter()
        .filter(|it| it.to_string_lossy().starts_with("store.redb"));
    assert_eq!(drafts.count(), 0, "{left:?}");
}

fn create(bed: &Bed) -> PathBuf {
    let file = bed.dir.join("store.backup");
    bed.attache_ok(&["backup", "create", file.to_str().unwrap()])
        .unwrap();
    file
}

fn put(bed: &Bed, value: &str) {
    let field = format!("password={value}");
    bed.attache_ok(&["secret", "put", "payments/db", "--literal", &field])
        .unwrap();
}

fn active_version(bed: &Bed) -> u64 {
    let args = ["secret", "show", "payments/db", "--output", "json"];
    let shown: Value = serde_json::from_str(&bed.attache_ok(&args).unwrap()).unwrap();
    shown["active_version"].as_u64().unwrap()
}

/// A broker with one secret, a backup of that, and a newer version; stopped.
fn backed_up() -> (Bed, PathBuf) {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    bed.attache_ok(&["keyspace", "create", "payments"]).unwrap();
    put(&bed, "first");
    let file = create(&bed);
    put(&bed, "second");
    assert_eq!(active_version(&bed), 2);
    bed.broker.take().unwrap().stop().unwrap();
    (bed, file)
}

fn lose_store(bed: &Bed) {
    fs::rename(
        bed.store_dir().join("store.redb"),
        bed.dir.join("lost.redb"),
    )
    .unwrap();
}

/// Every file below the bed's own folders, by content.
fn contents(bed: &Bed) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![bed.store_dir(), bed.audit_dir(), bed.dir.join("etc")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn audit(bed: &Bed) -> String {
    bed.attache_ok(&["audit", "tail", "-n", "10000", "--output", "json"])
        .unwrap()
}

#[test]
fn a_restored_broker_serves_the_backup_and_nodes_take_the_new_incarnation_up() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    let file = create(&scene.bed);
    put(&scene.bed, "newer");
    let refreshed = |scene: &Scene, value: &str| {
        until(PATIENCE, "the volume holds it", || {
            scene.publish(&pod).unwrap();
            (scene.read(&pod, "db/password").ok()? == value).then_some(())
        })
        .unwrap();
    };
    refreshed(&scene, "newer");
    let held = scene.metadata(&pod).unwrap()["generation"].clone();
    assert_eq!(held["incarnation"], 1);

    scene.bed.broker.take().unwrap().stop().unwrap();
    lose_store(&scene.bed);
    let told = succeeds(&restore(&scene.bed, &file, &[]));
    assert!(told.contains("incarnation    2 begins"), "{told}");
    assert!(!told.contains("look into it"), "{told}");
    scene.bed.start_broker().unwrap();
    refreshed(&scene, PASSWORD);
    let new = scene.metadata(&pod).unwrap()["generation"].clone();
    assert_eq!(new["incarnation"], 2);
    assert!(new["seq"].as_u64() < held["seq"].as_u64(), "{held} {new}");
    assert_eq!(active_version(&scene.bed), 1);
    let other = Pod::new("shop", "web-1", "web", NODE, "payments/db");
    scene.publish(&other).unwrap();
    assert_eq!(scene.read(&other, "db/password").unwrap(), PASSWORD);

    // The log goes on: one chain, and what happened is in it.
    scene.bed.attache_ok(&["audit", "verify"]).unwrap();
    let audit = audit(&scene.bed);
    assert!(audit.contains("is restored from backup"), "{audit}");
    let listed = scene.bed.attache_ok(&["backup", "list"]).unwrap();
    assert_eq!(
        listed.lines().count(),
        2,
        "the one that it was restored from: {listed}"
    );
    let checked = scene.bed.check_store().unwrap();
    assert!(checked.contains(" 0 findings"));

    // And it stays so: the next start has nothing to say, and the store of before does not start any more.
    put(&scene.bed, "after");
    scene.bed.broker.take().unwrap().stop().unwrap();
    scene.bed.start_broker().unwrap();
    refreshed(&scene, "after");
    scene.bed.broker.take().unwrap().stop().unwrap();
    fs::copy(
        scene.bed.dir.join("lost.redb"),
        scene.bed.store_dir().join("store.redb"),
    )
    .unwrap();
    let started = run(&mut broker(&scene.bed, &["serve"])).unwrap();
    assert!(!started.status.success());
    assert!(
        said(&started).contains("incarnation 1"),
        "{}",
        said(&started)
    );
}

#[test]
fn a_store_that_is_there_is_not_replaced() {
    let (bed, file) = backed_up();
    let before = contents(&bed);
    let output = restore(&bed, &file, &[]);
    assert!(!output.status.success());
    assert!(
        said(&output).contains("is there already"),
        "{}",
        said(&output)
    );
    assert_eq!(contents(&bed), before);
}

/// The log is the store's own, or none: one that lacks what the backup knows is not taken for it.
#[test]
fn a_log_is_the_stores_own_or_begins_anew_in_so_many_words() {
    let (mut bed, file) = backed_up();
    lose_store(&bed);
    let log = bed.dir.join("log-of-before");
    fs::rename(bed.audit_dir(), &log).unwrap();
    refused(&bed, &restore(&bed, &file, &[]), "--new-log");

    // A log that ends before the backup.
    fs::create_dir(bed.audit_dir()).unwrap();
    let segment = fs::read_dir(&log).unwrap().map(|it| it.unwrap().path());
    let segment = segment
        .into_iter()
        .find(|it| it.extension().is_some_and(|it| it == "seg"));
    let segment = segment.unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[4096..].fill(0);
    let cut = bed.audit_dir().join(segment.file_name().unwrap());
    fs::write(&cut, bytes).unwrap();
    refused(
        &bed,
        &restore(&bed, &file, &[]),
        "records that the backup knows",
    );
    refused(&bed, &restore(&bed, &file, &["--new-log"]), "is not empty");
    fs::remove_dir_all(bed.audit_dir()).unwrap();

    let told = succeeds(&restore(&bed, &file, &["--new-log"]));
    assert!(told.contains("restored store"), "{told}");
    bed.start_broker().unwrap();
    assert_eq!(active_version(&bed), 1);
    assert!(
        audit(&bed).contains("the log before is lost"),
        "{}",
        audit(&bed)
    );
    bed.attache_ok(&["audit", "verify"]).unwrap();
    put(&bed, "third");
    bed.broker.take().unwrap().stop().unwrap();
    bed.start_broker().unwrap();
    assert_eq!(active_version(&bed), 2);
}

fn copy(from: &Path, to: &Path) {
    let copied = run(Command::new("cp").arg("-a").args([from, to])).unwrap();
    assert!(copied.status.success(), "{}", said(&copied));
}

/// The anchor's copy beside the store still knows what the log had.
#[test]
fn a_log_that_was_cut_since_the_backup_is_taken_up_and_told() {
    let (mut bed, file) = backed_up();
    let older = bed.dir.join("log-of-before");
    copy(&bed.audit_dir(), &older);
    bed.start_broker().unwrap();
    put(&bed, "later");
    bed.broker.take().unwrap().stop().unwrap();
    lose_store(&bed);
    fs::remove_dir_all(bed.audit_dir()).unwrap();
    fs::rename(&older, bed.audit_dir()).unwrap();
    let told = succeeds(&restore(&bed, &file, &[]));
    assert!(told.contains("look into it: the anchor's copy"), "{told}");
    bed.start_broker().unwrap();
    let audit = audit(&bed);
    assert!(audit.contains("and the log ends before it"), "{audit}");
}

/// The store's log is found after a restore with a new one was begun and killed: it is taken up, and not for the begun one.
#[test]
fn a_log_that_is_put_back_after_a_killed_restore_is_kept() {
    let (mut bed, file) = backed_up();
    lose_store(&bed);
    fs::write(bed.store_dir().join("store.redb.new"), b"begun").unwrap();
    let note = format!("restore {}\n", "ab".repeat(16));
    fs::write(bed.store_dir().join("store.redb.new.log"), note).unwrap();
    let told = succeeds(&restore(&bed, &file, &[]));
    assert!(told.contains("restored store"), "{told}");
    bed.start_broker().unwrap();
    assert!(audit(&bed).contains("\"bootstrap\""), "its own log goes on");
    bed.attache_ok(&["audit", "verify"]).unwrap();
}

#[test]
fn an_edit_and_a_cut_anywhere_and_another_slots_key_restore_nothing() {
    let (bed, file) = backed_up();
    lose_store(&bed);
    let before = contents(&bed);
    let whole = fs::read(&file).unwrap();
    let edited = bed.dir.join("edited.backup");
    let mut runner = TestRunner::new(Config::with_cases(60));
    let places = (0..whole.len(), 0_u8..8, any::<bool>());
    runner
        .run(&places, |(at, bit, cut)| {
            let mut bytes = whole.clone();
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
            fs::write(&edited, &bytes).unwrap();
            refused(&bed, &restore(&bed, &edited, &[]), "attache-broker: ");
            Ok(())
        })
        .unwrap();
    assert_eq!(contents(&bed), before, "a refused restore leaves nothing");
    let other = Bed::new().unwrap();
    other.init_broker().unwrap();
    fs::remove_file(other.store_dir().join("store.redb")).unwrap();
    refused(&other, &restore(&other, &file, &[]), "slot");
}

#[test]
fn a_drill_tells_what_a_backup_holds_and_changes_nothing() {
    let (bed, file) = backed_up();
    let scratch = tempfile::tempdir().unwrap();
    let before = contents(&bed);
    let drill = |file: &Path| {
        let mut command = broker(&bed, &["restore", file.to_str().unwrap(), "--drill"]);
        run(command.env("TMPDIR", scratch.path())).unwrap()
    };
    let told = succeeds(&drill(&file));
    for words in [
        "payments: 1 secrets; keys: epoch 1 active",
        "key-file",
        " 0 findings",
        "nothing was changed",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let mut cut = fs::read(&file).unwrap();
    cut.pop();
    // The last byte of the store's format.
    let mut older = cut.clone();
    older[13] = 4;
    for (edited, why) in [
        (cut, "the backup is not as it was made"),
        (
            older,
            "the backup is of a store of format 4, this program knows 5: restore it with the version that made it",
        ),
    ] {
        let file = bed.dir.join("edited.backup");
        fs::write(&file, edited).unwrap();
        let refused = drill(&file);
        assert!(!refused.status.success());
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(contents(&bed), before);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

/// Told to end at any moment of it.
#[test]
fn a_drill_that_is_told_to_end_takes_its_folder_with_it() {
    let (bed, file) = backed_up();
    let scratch = tempfile::tempdir().unwrap();
    let drill = || {
        let mut command = broker(&bed, &["restore", file.to_str().unwrap(), "--drill"]);
        command.env("TMPDIR", scratch.path());
        command
    };
    let folders = || fs::read_dir(scratch.path()).unwrap().count();
    let mut under_way = 0;
    for signal in [Signal::TERM, Signal::INT].repeat(5) {
        let mut child = spawned(&mut drill());
        let begun = until(PATIENCE, "it is at work, or done", || {
            if folders() > 0 {
                return Some(true);
            }
            child.try_wait().unwrap().map(|_| false)
        });
        under_way += usize::from(begun.unwrap());
        send(child.id(), signal).unwrap();
        child.wait().unwrap();
        assert_eq!(folders(), 0, "{signal:?}");
    }
    assert!(under_way > 0, "none was under way");
}

/// It says what it does, and the store of before needs no word of an operator when it is put back.
#[test]
fn a_restore_that_fails_late_leaves_the_anchors_copy_as_it_was() {
    let (mut bed, file) = backed_up();
    lose_store(&bed);
    let copy = bed.store_dir().join("anchor.note");
    let before = fs::read(&copy).unwrap();
    let (tls, kept) = (bed.store_dir().join("tls"), bed.dir.join("tls"));
    fs::rename(&tls, &kept).unwrap();
    fs::write(&tls, b"in the way").unwrap();
    let output = restore(&bed, &file, &[]);
    refused(&bed, &output, "tls");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("the store is open"), "it has a log: {log}");
    assert_eq!(fs::read(&copy).unwrap(), before);
    fs::remove_file(&tls).unwrap();
    fs::rename(&kept, &tls).unwrap();
    fs::rename(
        bed.dir.join("lost.redb"),
        bed.store_dir().join("store.redb"),
    )
    .unwrap();
    bed.start_broker().unwrap();
    assert_eq!(active_version(&bed), 2);
}

#[test]
fn an_older_store_starts_only_where_its_sequence_is_accepted() {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    bed.attache_ok(&["keyspace", "create", "payments"]).unwrap();
    put(&bed, "first");
    bed.broker.take().unwrap().stop().unwrap();
    let store = bed.store_dir().join("store.redb");
    let older = bed.dir.join("older.redb");
    fs::copy(&store, &older).unwrap();
    bed.start_broker().unwrap();
    put(&bed, "second");
    bed.broker.take().unwrap().stop().unwrap();

    let newest = run(&mut broker(&bed, &["serve", "--accept-rollback-to", "3"])).unwrap();
    assert!(said(&newest).contains("is not older"), "{}", said(&newest));
    fs::copy(&older, &store).unwrap();
    let refused = run(&mut broker(&bed, &["serve"])).unwrap();
    assert!(!refused.status.success());
    let told = said(&refused);
    assert!(told.contains("--accept-rollback-to"), "{told}");
    let stands = told.split("stands at sequence ").nth(1).unwrap();
    let stands: u64 = stands.split(',').next().unwrap().parse().unwrap();
    let other = (stands + 1).to_string();
    let other = run(&mut broker(
        &bed,
        &["serve", "--accept-rollback-to", &other],
    ))
    .unwrap();
    assert!(said(&other).contains("name the one"), "{}", said(&other));

    let listening = bed.store_dir().join("listen.json");
    fs::remove_file(&listening).unwrap();
    let mut serving = spawned(&mut broker(
        &bed,
        &["serve", "--accept-rollback-to", &stands.to_string()],
    ));
    until(PATIENCE, "listening", || listening.exists().then_some(())).unwrap();
    let audit = audit(&bed);
    serving.kill().unwrap();
    serving.wait().unwrap();
    assert!(audit.contains("is accepted although"), "{audit}");
    bed.start_broker().unwrap();
    assert_eq!(active_version(&bed), 1);
    bed.attache_ok(&["audit", "verify"]).unwrap();
}

fn spawned(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null()).spawn().unwrap()
}

/// Whenever it is killed there is no store or a whole one, and the same command makes it in the end.
#[test]
fn a_killed_restore_can_be_run_again() {
    let (mut bed, file) = backed_up();
    lose_store(&bed);
    let store = bed.store_dir().join("store.redb");
    let args = ["restore", file.to_str().unwrap()];
    let mut length = Length::default();
    while !length.is_known() {
        let from = Instant::now();
        succeeds(&restore(&bed, &file, &[]));
        length.add(from.elapsed());
        fs::remove_file(&store).unwrap();
    }
    let mut dice = Dice::new().unwrap();
    let (mut killed, mut whole) = (0, 0);
    for round in 0..ROUNDS {
        let mut child = spawned(&mut broker(&bed, &args));
        dice.wait(length.now());
        child.kill().unwrap();
        child.wait().unwrap();
        if store.exists() {
            whole += 1;
            let told = bed.check_store().unwrap();
            assert!(
                told.contains(" 0 findings"),
                "round {round}, seed {}: {told}",
                dice.seed()
            );
            fs::remove_file(&store).unwrap();
        } else {
            killed += 1;
        }
    }
    say(&format!("{killed} killed under way, {whole} whole"));
    assert!(killed >= ROUNDS / 4, "too few were under way");
    let again = restore(&bed, &file, &[]);
    assert!(
        again.status.success(),
        "seed {}: {}",
        dice.seed(),
        said(&again)
    );
    bed.start_broker().unwrap();
    assert_eq!(active_version(&bed), 1);
    bed.attache_ok(&["audit", "verify", "--vkey", &bed.audit_vkey().unwrap()])
        .unwrap();
}

/// The store does not know which of the keys certified since is the newest: such a key calls no more, and nobody is banned
/// for it.
#[test]
fn a_key_that_was_certified_after_the_backup_is_refused_and_bans_nobody() {
    let (mut bed, file) = backed_up();
    bed.start_broker().unwrap();
    // Each login renews; the call after it makes the new key the current one.
    for _ in 0..3 {
        bed.attache_ok(&["login"]).unwrap();
        bed.attache_ok(&["status"]).unwrap();
    }
    bed.broker.take().unwrap().stop().unwrap();
    lose_store(&bed);
    succeeds(&restore(&bed, &file, &[]));
    bed.start_broker().unwrap();
    let refused = bed.attache(&["status"]).unwrap();
    assert_eq!(refused.status.code(), Some(7), "{}", said(&refused));
    assert!(
        said(&refused).contains("before the store was restored"),
        "{}",
        said(&refused)
    );
    bed.broker.take().unwrap().stop().unwrap();

    // On another machine.
    let (csr, bundle) = (
        bed.dir.join("etc/again.csr"),
        bed.store_dir().join("trust-bundle.pem"),
    );
    let again = |args: &[&str]| {
        let mut command = bed.attache_command().unwrap();
        command.env("ATTACHE_CONFIG", bed.dir.join("cli/again/config.toml"));
        run(command.args(args)).unwrap()
    };
    let id = format!("spiffe://{TRUST_DOMAIN}/broker/broker-0");
    let bundle = bundle.to_str().unwrap();
    let csr_file = csr.to_str().unwrap();
    let new = ["login", "--new", "ada", "--broker", "127.0.0.1:7443"];
    let of = [
        "--broker-id",
        &id,
        "--trust-bundle",
        bundle,
        "--csr",
        csr_file,
    ];
    succeeds(&again(&[new.as_slice(), &of].concat()));
    let args = [
        "bootstrap",
        "operator",
        "ada",
        "--recover",
        "--csr",
        csr_file,
    ];
    let chain = run(&mut broker(&bed, &args)).unwrap();
    assert!(
        chain.status.success(),
        "a banned operator is not recovered: {}",
        said(&chain)
    );
}

/// A second implementation, written from the page of formats alone, opens a backup of a real broker with the key file.
#[test]
fn an_independent_decoder_opens_a_whole_backup() {
    let bed = Bed::signed_in().unwrap();
    let mut expected: BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>> =
        BTreeMap::new();
    for keyspace in ["payments", "web"] {
        bed.attache_ok(&["keyspace", "create", keyspace]).unwrap();
        for version in 1..=2 {
            let path = format!("{keyspace}/team/db");
            let mut args = vec![
                "secret".to_owned(),
                "put".to_owned(),
                path.clone(),
                "--replace".to_owned(),
            ];
            let mut fields = BTreeMap::new();
            for field in ["password", "username"] {
                let value = format!("{keyspace} {field} {version}");
                args.extend(["--literal".to_owned(), format!("{field}={value}")]);
                fields.insert(field.to_owned(), hex::encode(value));
            }
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            bed.attache_ok(&args).unwrap();
            expected
                .entry(path)
                .or_default()
                .insert(version.to_string(), fields);
        }
    }
    let file = create(&bed);
    let open = |file: &Path, key_file: &Path| open_backup(file, &[key_file]).unwrap();
    let key_file = bed.key_file();
    let opened = open(&file, &key_file);
    assert!(opened.status.success(), "{}", said(&opened));
    let opened: Value = serde_json::from_slice(&opened.stdout).unwrap();
    assert_eq!(opened["secrets"], serde_json::to_value(expected).unwrap());
    assert_eq!(opened["incarnation"], 1);

    let other = Bed::new().unwrap();
    other.init_broker().unwrap();
    let refused = open(&file, &other.key_file());
    assert!(
        said(&refused).contains("refused: no slot"),
        "{}",
        said(&refused)
    );
    let mut edited = fs::read(&file).unwrap();
    let middle = edited.len() / 2;
    edited[middle] ^= 1;
    let copy = bed.dir.join("edited.backup");
    fs::write(&copy, edited).unwrap();
    let refused = open(&copy, &key_file);
    assert!(said(&refused).contains("refused: "), "{}", said(&refused));
}
