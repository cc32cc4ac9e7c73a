//! Slots and the store root key: what opens a store after each change of its keyring, and after kill -9 in the middle of
//! one.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

use attache_tests::{
    Bed, Scene,
    bed::NODE,
    kills::{Dice, Length, say},
    kms::KmsPlugin,
    pod::Pod,
};
use serde_json::Value as Json;

/// How often the broker is killed while the root key is rotated.
const ROUNDS: u32 = 60;
/// So many of them must hit a rotation that is under way.
const MID_HITS: u32 = 15;

fn number(bed: &Bed) -> u64 {
    bed.attache_json(&["status"]).unwrap()["keyring_number"]
        .as_u64()
        .unwrap()
}

#[test]
fn a_new_root_key_changes_nothing_for_whom_the_broker_serves() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    scene.put("payments/db", &[("password", "before")]).unwrap();
    let slots = scene.bed.attache_json(&["slot", "list"]).unwrap();
    assert_eq!(slots["keyring_number"], 1);
    assert_eq!(slots["slots"].as_array().unwrap().len(), 1);
    assert_eq!(slots["slots"][0]["name"], "key-file");
    assert_eq!(slots["slots"][0]["opened"], true);
    assert_eq!(slots["slots"][0]["verified"], Json::Null);
    let status = scene.status().unwrap().to_string();
    assert!(status.contains("by one slot only"), "{status}");

    let would = scene
        .bed
        .attache_json(&["key", "rotate", "--root", "--dry-run"])
        .unwrap();
    assert_eq!(
        (&would["keyring_number"], number(&scene.bed)),
        (&Json::from(2), 1)
    );
    let did = scene
        .bed
        .attache_json(&["key", "rotate", "--root"])
        .unwrap();
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
    scene.bed.restart_broker().unwrap();
    assert_eq!(number(&scene.bed), 2);
    scene.publish(&pods[1]).unwrap();
    assert_eq!(scene.read(&pods[1], "db/password").unwrap(), "before");
    scene.bed.check_store().unwrap();
}

/// What a broker says that starts sealed, since nothing opens a slot. It is ended again.
fn starts_sealed(bed: &mut Bed) -> String {
    let log = bed.dir.join("log/broker.log");
    let before = fs::read_to_string(&log).unwrap().len();
    bed.start_broker().unwrap();
    bed.broker.take().unwrap().stop().unwrap();
    let told = fs::read_to_string(&log).unwrap().split_off(before);
    assert!(told.contains("sealed: open it"), "{told}");
    told
}

/// The settings of the broker name another key file from its next start on.
fn name_slot_file(bed: &Bed, file: &str) {
    let settings = fs::read_to_string(bed.broker_config()).unwrap();
    let (before, after) = settings.split_once("slot_file = \"").unwrap();
    let (_, after) = after.split_once('"').unwrap();
    let settings = format!("{before}slot_file = \"{file}\"{after}");
    fs::write(bed.broker_config(), settings).unwrap();
}

/// A bed, the key file of its first slot, and where that of another one is to be.
fn bed_with_files() -> (Bed, String, String) {
    let bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    let [first, safe] =
        ["slot.key", "safe.key"].map(|name| format!("{}/etc/{name}", bed.dir.display()));
    (bed, first, safe)
}

fn add(bed: &Bed, file: &str, more: &[&str]) -> Output {
    let add = [
        "slot", "add", "key-file", "--out", file, "--name", "safe", "--output", "json",
    ];
    bed.attache(&[&add[..], more].concat()).unwrap()
}

#[test]
fn a_slot_is_added_with_its_key_file_and_only_that_file_verifies_it() {
    let (bed, first, safe) = bed_with_files();
    let dry = add(&bed, &safe, &["--dry-run"]);
    assert!(
        dry.status.success() && !Path::new(&safe).exists(),
        "{dry:?}"
    );
    let added: Json = serde_json::from_slice(&add(&bed, &safe, &[]).stdout).unwrap();
    let told = (&added["name"], &added["keyring_number"]);
    assert_eq!(told, (&Json::from("safe"), &Json::from(2)));
    let mode = fs::metadata(&safe).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o400);
    let findings = bed.attache_json(&["status"]).unwrap().to_string();
    assert!(!findings.contains("by one slot only"), "{findings}");

    // A file that is there is not touched, and one whose slot is refused does not stay.
    let key = fs::read(&safe).unwrap();
    assert_eq!(add(&bed, &safe, &[]).status.code(), Some(1));
    assert_eq!(fs::read(&safe).unwrap(), key);
    let other = format!("{safe}.other");
    assert_eq!(add(&bed, &other, &[]).status.code(), Some(5));
    assert!(!Path::new(&other).exists());

    for (slot, file, code) in [
        ("safe", &safe, 0),
        ("key-file", &first, 0),
        ("safe", &first, 5),
        ("key-file", &safe, 5),
        ("saef", &safe, 5),
    ] {
        let verify = ["slot", "verify", slot, "--key-file", file];
        let output = bed.attache(&verify).unwrap();
        assert_eq!(output.status.code(), Some(code), "{slot}: {output:?}");
    }
    let listed = bed.attache_json(&["slot", "list"]).unwrap();
    let slots = listed["slots"].as_array().unwrap();
    assert!(slots.iter().all(|slot| slot["verified"].is_string()));

    let audit = ["audit", "tail", "-n", "100", "--output", "json"];
    let audit = bed.attache_ok(&audit).unwrap();
    assert!(audit.contains("slot.add") && audit.contains("slot.verify"));
    // Neither key is anywhere but in its file.
    let log = fs::read_to_string(bed.dir.join("log/broker.log")).unwrap();
    for file in [&first, &safe] {
        let text = fs::read_to_string(file).unwrap();
        let key = text.trim().rsplit_once(':').unwrap().1;
        assert!(!log.contains(key) && !audit.contains(key));
    }
}

#[test]
fn a_broker_starts_by_a_slot_that_was_added_and_sealed_by_one_that_was_removed() {
    let (mut bed, first, safe) = bed_with_files();
    assert!(add(&bed, &safe, &[]).status.success());
    name_slot_file(&bed, &safe);
    bed.restart_broker().unwrap();
    let opened = bed.attache_json(&["slot", "list"]).unwrap();
    assert_eq!(
        (&opened["slots"][1]["name"], &opened["slots"][1]["opened"]),
        (&Json::from("safe"), &Json::from(true))
    );

    let removed = bed.attache(&["slot", "remove", "key-file"]).unwrap();
    assert_eq!(removed.status.code(), Some(2), "nobody can be asked");
    let removed = bed.attache_ok(&["slot", "remove", "key-file", "--yes"]);
    assert!(removed.unwrap().contains("revokes no copy"));
    assert_eq!(number(&bed), 3);
    let last = bed.attache(&["slot", "remove", "safe", "--yes"]).unwrap();
    assert_eq!(last.status.code(), Some(5));
    let told = String::from_utf8_lossy(&last.stderr).into_owned();
    assert!(told.contains("is the last slot"), "{told}");

    bed.broker.take().unwrap().stop().unwrap();
    name_slot_file(&bed, &first);
    let told = starts_sealed(&mut bed);
    assert!(told.contains("does not open this store"), "{told}");
    name_slot_file(&bed, &safe);
    bed.start_broker().unwrap();
    bed.check_store().unwrap();
}

fn private(bed: &Bed, name: &str, text: &str) -> String {
    let path = bed.dir.join("etc").join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

#[test]
fn a_broker_starts_by_a_passphrase_and_without_any_key_file() {
    const WORDS: &str = "correct horse battery staple";
    let (mut bed, first, _) = bed_with_files();
    let words = private(&bed, "words", &format!("{WORDS}\n"));
    let other = private(&bed, "other", "battery horse correct staple");
    let weak = private(&bed, "weak", "hunter2");
    let passphrase = |verb: &[&str], file: &str| {
        let file = ["--passphrase-file", file];
        bed.attache(&[&["slot"], verb, &file].concat()).unwrap()
    };
    let add = ["add", "passphrase", "--name", "board"];
    let refused = passphrase(&add, &weak);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(passphrase(&add, &words).status.success());
    for (verify, file, code) in [
        (["verify", "board"], &words, 0),
        (["verify", "board"], &other, 5),
        (["verify", "key-file"], &words, 2),
    ] {
        let output = passphrase(&verify, file);
        assert_eq!(output.status.code(), Some(code), "{verify:?}: {output:?}");
    }
    let nobody = bed.attache(&["slot", "verify", "board"]).unwrap();
    assert_eq!(nobody.status.code(), Some(2), "nobody can be asked");

    // Each in its turn: the key file is gone, the passphrase opens.
    bed.broker.take().unwrap().stop().unwrap();
    fs::remove_file(&first).unwrap();
    let named = |words: &str| format!("slot_file = \"{first}\"\npassphrase_file = \"{words}\"");
    bed.name_openers(&named(&words)).unwrap();
    bed.start_broker().unwrap();
    let opened = bed.attache_json(&["slot", "list"]).unwrap();
    let board = &opened["slots"][0];
    assert_eq!(
        (&board["kind"], &board["opened"]),
        (&Json::from("passphrase"), &Json::from(true))
    );
    bed.attache_ok(&["slot", "remove", "key-file", "--yes"])
        .unwrap();
    bed.name_openers(&format!("passphrase_file = \"{words}\""))
        .unwrap();
    bed.restart_broker().unwrap();
    bed.check_store().unwrap();

    bed.broker.take().unwrap().stop().unwrap();
    bed.name_openers(&named(&other)).unwrap();
    let told = starts_sealed(&mut bed);
    for part in ["board (passphrase)", "slot.key", "another one"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    bed.name_openers("danger_plain_key_arena = false").unwrap();
    let told = starts_sealed(&mut bed);
    assert!(
        told.contains("the settings name nothing that could open the store"),
        "{told}"
    );
    // A check that needs keys does not wait for them.
    let refused = bed.check_store().unwrap_err().to_string();
    assert!(refused.contains("the settings name nothing"), "{refused}");
    let log = fs::read_to_string(bed.dir.join("log/broker.log")).unwrap();
    assert!(
        log.contains("the store is open") && !log.contains(WORDS),
        "{log}"
    );
}

/// As KMS v2 has it: a real plugin on a unix socket, which the broker calls when it starts.
#[test]
fn a_broker_starts_by_its_kms_plugin_with_nobody_there_and_sealed_without_the_plugin() {
    let (mut bed, first, _) = bed_with_files();
    let socket = bed.dir.join("kms.sock");
    let start = |key: u8| KmsPlugin::start(&socket, &[key; 32]).unwrap();
    let add = ["slot", "add", "kms", "--name", "cloud"];
    let none = bed.attache(&add).unwrap();
    let told = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(
        none.status.code() == Some(5) && told.contains("keys.kms_socket"),
        "{told}"
    );

    let kms = format!("kms_socket = \"{}\"", socket.display());
    let both = format!("slot_file = \"{first}\"\n{kms}");
    bed.name_openers(&both).unwrap();
    bed.restart_broker().unwrap();
    let away = bed.attache(&add).unwrap();
    assert_eq!(away.status.code(), Some(4), "{away:?}");
    let plugin = start(1);
    let added = bed.attache_json(&add).unwrap();
    assert_eq!(
        (&added["kind"], &added["keyring_number"]),
        (&Json::from("kms"), &Json::from(2))
    );
    bed.attache_ok(&["slot", "verify", "cloud"]).unwrap();
    let file = bed.attache(&["slot", "verify", "cloud", "--key-file", &first]);
    assert_eq!(file.unwrap().status.code(), Some(2));
    bed.attache_ok(&["key", "rotate", "--root"]).unwrap();

    bed.name_openers(&kms).unwrap();
    bed.restart_broker().unwrap();
    let slots = bed.attache_json(&["slot", "list"]).unwrap();
    assert_eq!(
        (&slots["slots"][0]["name"], &slots["slots"][0]["opened"]),
        (&Json::from("cloud"), &Json::from(true))
    );

    // The plugin goes: what runs goes on, its slot's verbs say so, and nothing is opened by it.
    drop(plugin);
    let away = bed.attache(&["slot", "verify", "cloud"]).unwrap();
    assert_eq!(away.status.code(), Some(4), "{away:?}");
    bed.attache_ok(&["key", "rotate", "--root"]).unwrap();
    bed.broker.take().unwrap().stop().unwrap();
    let told = starts_sealed(&mut bed);
    assert!(
        told.contains("does not answer") && told.contains("kms.sock"),
        "{told}"
    );
    // Another plugin under that socket, with a key of its own.
    let other = start(2);
    let told = starts_sealed(&mut bed);
    assert!(told.contains("refuses"), "{told}");
    drop(other);
    bed.name_openers(&both).unwrap();
    bed.start_broker().unwrap();
    bed.broker.take().unwrap().stop().unwrap();
    let _plugin = start(1);
    bed.name_openers(&kms).unwrap();
    bed.start_broker().unwrap();
    bed.check_store().unwrap();
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
    bed.check_store().unwrap();
    bed.attache_ok(&["audit", "verify"]).unwrap();
}

/// Runs a command of `attache` and kills the broker while it is under way; answers whether the command says that it is
/// done, and whether it was under way.
fn killed(bed: &mut Bed, dice: &mut Dice, length: Duration, args: &[&str]) -> (bool, bool) {
    let mut command = bed.attache_command().unwrap();
    let quiet = command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut cli = quiet.spawn().unwrap();
    dice.wait(length);
    let under_way = cli.try_wait().unwrap().is_none();
    bed.broker.take().unwrap().kill().unwrap();
    let seed = dice.seed();
    bed.start_broker()
        .unwrap_or_else(|e| panic!("{args:?}, seed {seed}: {e:#}"));
    (cli.wait().unwrap().success(), under_way)
}

/// Whatever the instant: a slot that is there has its key file and opens by it, and one that is not there has none that opens.
#[test]
fn a_slot_is_there_with_its_key_file_or_not_at_all_after_kill_9_while_it_is_added_and_removed() {
    let (mut bed, first, _) = bed_with_files();
    let mut dice = Dice::new().unwrap();
    let seed = dice.seed();
    let from = Instant::now();
    let safe = format!("{first}.rehearsal");
    assert!(add(&bed, &safe, &[]).status.success());
    let length = from.elapsed();
    bed.attache_ok(&["slot", "remove", "safe", "--yes"])
        .unwrap();
    let there = |bed: &Bed, name: &str| {
        let listed = bed.attache_json(&["slot", "list"]).unwrap();
        let slots = listed["slots"].as_array().unwrap();
        slots.iter().any(|slot| slot["name"] == name)
    };
    let (mut hits, mut added, mut removed) = (0, 0, 0);
    for round in 0..ROUNDS / 2 {
        let (name, file) = (format!("round-{round}"), format!("{first}.{round}"));
        let add = ["slot", "add", "key-file", "--out", &file, "--name", &name];
        let (done, under_way) = killed(&mut bed, &mut dice, length, &add);
        hits += u32::from(under_way);
        let is_there = there(&bed, &name);
        assert!(
            is_there || !done,
            "round {round}, seed {seed}: told, and not there"
        );
        if !is_there {
            continue;
        }
        added += 1;
        let verify = ["slot", "verify", &name, "--key-file", &file];
        bed.attache_ok(&verify)
            .unwrap_or_else(|e| panic!("round {round}, seed {seed}: {e:#}"));
        let remove = ["slot", "remove", &name, "--yes"];
        let (done, under_way) = killed(&mut bed, &mut dice, length, &remove);
        hits += u32::from(under_way);
        let is_there = there(&bed, &name);
        assert!(
            !is_there || !done,
            "round {round}, seed {seed}: told, and still there"
        );
        if is_there {
            bed.attache_ok(&verify).unwrap();
            // It can be repeated to its end.
            bed.attache_ok(&remove).unwrap();
        }
        removed += 1;
    }
    say(&format!(
        "{hits} kills hit a slot's verb under way; {added} slots were added, {removed} removed"
    ));
    assert!(hits >= MID_HITS && added > 0);
    bed.attache_ok(&["slot", "verify", "key-file", "--key-file", &first])
        .unwrap();
    bed.check_store().unwrap();
    bed.attache_ok(&["audit", "verify"]).unwrap();
}
