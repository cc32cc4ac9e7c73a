//! Slots that shares open: made and verified where the shares are, and given to a sealed broker by several people, each from
//! a context of their own.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use attache_envelope::{
    SystemRandom,
    id::{BootId, SlotId, StoreId},
    shares::SHARE_BYTES,
    slot::ShareFile,
    unseal::UnsealChannel,
    x25519::PublicKey,
};
use attache_mtls::{bundle::TrustBundle, connect::Connector, tls::anonymous_client_config};
use attache_proto::{attache::v1 as pb, details::Details};
use attache_tests::{
    Bed,
    bed::TRUST_DOMAIN,
    independent::open_backup,
    process::{clock, run, until},
    wire,
};
use pb::unsealing_client::UnsealingClient;
use serde_json::{Value as Json, json};
use tonic::{Code, transport::Channel};

const SOON: Duration = Duration::from_secs(20);

/// Makes a slot that 2 of 3 shares open; where the shares are.
fn add(bed: &Bed, name: &str) -> Vec<String> {
    let out = folder(bed, name);
    let add = [
        "slot",
        "add",
        "shares",
        "--threshold",
        "2",
        "--shares",
        "3",
        "--out",
        &out,
        "--name",
        name,
    ];
    let added = bed.attache_json(&add).unwrap();
    let files = added["share_files"].as_array().unwrap();
    files
        .iter()
        .map(|file| file.as_str().unwrap().to_owned())
        .collect()
}

fn folder(bed: &Bed, name: &str) -> String {
    bed.dir.join("etc").join(name).display().to_string()
}

fn slot(bed: &Bed, name: &str) -> Json {
    let listed = bed.attache_json(&["slot", "list"]).unwrap();
    let mut slots = listed["slots"].as_array().unwrap().iter();
    slots.find(|slot| slot["name"] == name).unwrap().clone()
}

fn share(path: &str) -> ShareFile {
    ShareFile::parse(&fs::read(path).unwrap()).unwrap()
}

/// A copy of a share's file with a part of its text at another.
fn bent(path: &str, from: &str, to: &str) -> String {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    static BENT: AtomicU32 = AtomicU32::new(0);
    let number = BENT.fetch_add(1, Ordering::Relaxed);
    private(
        &format!("{path}.bent-{number}"),
        &text.replacen(from, to, 1),
    )
}

fn of_another_store(path: &str) -> String {
    let store = share(path).store.to_string();
    bent(path, &store, "5b3f9c1e-1111-4222-8333-444455556666")
}

/// A copy of a share that is another one under its number.
fn wrong(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap();
    let digits = text.lines().last().unwrap();
    let (head, tail) = digits.split_at(digits.len() - 20);
    let other = if tail.starts_with('A') { "B" } else { "A" };
    bent(path, digits, &format!("{head}{other}{}", &tail[1..]))
}

fn private(path: &str, text: &str) -> String {
    let _ = fs::remove_file(path);
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_owned()
}

fn told(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(error)
}

#[test]
fn shares_are_files_of_their_slot_that_are_never_written_over_and_go_when_it_is_refused() {
    let bed = Bed::signed_in().unwrap();
    let out = folder(&bed, "recovery");
    let add_shares = |name: &str, out: &str, more: &[&str]| {
        let add = [
            "slot", "add", "shares", "--shares", "3", "--name", name, "--out", out,
        ];
        bed.attache(&[&add[..], more].concat()).unwrap()
    };
    let never = add_shares("recovery", &out, &["--threshold", "4"]);
    assert_eq!(never.status.code(), Some(2), "{never:?}");
    let dry = add_shares("recovery", &out, &["--threshold", "2", "--dry-run"]);
    assert!(dry.status.success(), "{dry:?}");
    assert!(!Path::new(&out).exists());

    let files = add(&bed, "recovery");
    assert_eq!(files[1], format!("{out}/recovery-2-of-3.share"));
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&out), mode(&files[0])), (0o700, 0o400));
    let listed = slot(&bed, "recovery");
    assert_eq!(listed["shares"], json!({"needed": 2, "of": 3}));
    let table = bed.attache_ok(&["slot", "list"]).unwrap();
    assert!(table.contains("shares, 2 of 3"), "{table}");
    let read = share(&files[2]);
    assert_eq!(
        (
            read.slot.to_string(),
            read.share.index(),
            read.threshold,
            read.count
        ),
        (listed["slot"].as_str().unwrap().to_owned(), 3, 2, 3)
    );

    // No file is written over, and none stays whose slot was refused.
    let before = fs::read(&files[0]).unwrap();
    let again = add_shares("recovery", &out, &["--threshold", "2"]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert_eq!(fs::read(&files[0]).unwrap(), before);
    let taken = add_shares("recovery", &format!("{out}-2"), &["--threshold", "2"]);
    assert_eq!(taken.status.code(), Some(5), "{taken:?}");
    assert_eq!(fs::read_dir(format!("{out}-2")).unwrap().count(), 0);
}

#[test]
fn a_share_is_known_by_its_slot_and_enough_of_them_open_it() {
    let bed = Bed::signed_in().unwrap();
    let (files, others) = (add(&bed, "recovery"), add(&bed, "other"));
    let bent_number = bent(&files[0], "any 2", "any 3");
    let verify = |slot: &str, given: &[&str]| {
        let given = given.iter().flat_map(|file| ["--share", file]);
        let words = ["slot", "verify", slot].into_iter().chain(given);
        bed.attache(&words.collect::<Vec<_>>()).unwrap()
    };
    for (given, code, says) in [
        (vec![&files[1]], 0, "share 2 is right"),
        (vec![&files[0], &files[0]], 5, "share 1 is there already"),
        (vec![&files[0], &others[1]], 5, "of another slot"),
        (vec![&bent_number], 5, "was edited"),
        (
            vec![&wrong(&files[1]), &files[0]],
            5,
            "share 2 is not what was handed out",
        ),
        (vec![], 2, "--share FILE"),
    ] {
        let given: Vec<_> = given.into_iter().map(String::as_str).collect();
        let output = verify("recovery", &given);
        assert_eq!(output.status.code(), Some(code), "{given:?}: {output:?}");
        assert!(told(&output).contains(says), "{says}: {output:?}");
    }
    let another = verify("recovery", &[&of_another_store(&files[0])]);
    assert!(told(&another).contains("of another store"), "{another:?}");
    assert_eq!(verify("key-file", &[&files[0]]).status.code(), Some(2));
    let one = ["slot", "verify", "recovery", "--share", &files[2]];
    let one = bed.attache_json(&one).unwrap();
    assert_eq!(one["shares_given"], json!([3]));
    // One share shows nothing of the slot: nothing is changed, and the time in the list stays.
    assert_eq!(one.get("request_id"), None);
    assert_eq!(slot(&bed, "recovery")["verified"], Json::Null);
    bed.attache_ok(&["key", "rotate", "--root"]).unwrap();
    for given in [[&files[0], &files[2]], [&files[2], &files[1]]] {
        let output = verify("recovery", &given.map(String::as_str));
        assert!(told(&output).contains("slot recovery opens"), "{output:?}");
    }
    assert!(slot(&bed, "recovery")["verified"].is_string());

    let log = fs::read_to_string(bed.dir.join("log/broker.log")).unwrap();
    let tail = ["audit", "tail", "-n", "1000", "--output", "json"];
    let audit = bed.attache_ok(&tail).unwrap();
    assert!(audit.contains("slot.add") && audit.contains("recovery"));
    for file in files.iter().chain(&others) {
        let text = fs::read_to_string(file).unwrap();
        let digits = text.lines().last().unwrap();
        assert!(!log.contains(digits) && !audit.contains(digits));
    }
    bed.attache_ok(&["slot", "remove", "other", "--yes"])
        .unwrap();
    bed.check_store().unwrap();
}

/// A broker that is sealed, since its key file is away, and the shares that open it.
fn sealed() -> (Bed, Vec<String>) {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    let files = add(&bed, "recovery");
    seal(&mut bed);
    (bed, files)
}

/// Its key file goes, and it starts anew.
fn seal(bed: &mut Bed) {
    let key_file = bed.dir.join("etc/slot.key");
    bed.broker.take().unwrap().stop().unwrap();
    fs::rename(&key_file, key_file.with_extension("away")).unwrap();
    start_sealed(bed);
}

/// It says where it listens before it says its boot key.
fn start_sealed(bed: &mut Bed) {
    let log = bed.dir.join("log/broker.log");
    let before = fs::read_to_string(&log).unwrap().len();
    bed.start_broker().unwrap();
    until(SOON, "sealed", || {
        let log = fs::read_to_string(&log).unwrap();
        log[before..].contains("boot_key=").then_some(())
    })
    .unwrap();
}

fn enroll(bed: &Bed) -> String {
    let text = fs::read_to_string(bed.store_dir().join("listen.json")).unwrap();
    let json: Json = serde_json::from_str(&text).unwrap();
    json["enroll"].as_str().unwrap().to_owned()
}

/// The last one in the broker's log, as an operator finds it.
fn boot_key(bed: &Bed) -> String {
    let log = fs::read_to_string(bed.dir.join("log/broker.log")).unwrap();
    let (_, last) = log.rsplit_once("boot_key=\"").unwrap();
    last.split_once('"').unwrap().0.to_owned()
}

/// `attache broker unseal --share FILE` in somebody's context.
fn give(bed: &Bed, context: &Path, file: &str, more: &[&str]) -> Output {
    let (enroll, boot_key) = (enroll(bed), boot_key(bed));
    let mut command = bed.attache_command().unwrap();
    command.env("ATTACHE_CONFIG", context);
    let unseal = ["broker", "unseal", "--share", file];
    let there = ["--enroll", &enroll, "--boot-key", &boot_key];
    run(command.args(unseal).args(there).args(more)).unwrap()
}

/// A share that is taken.
fn given(bed: &Bed, context: &Path, file: &str) -> Json {
    let output = give(bed, context, file, &["--output", "json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What `attache broker status` says of the ceremony of `recovery`.
fn ceremony(bed: &Bed) -> Json {
    let enroll = enroll(bed);
    let words = ["broker", "status", "--enroll", &enroll, "--output", "json"];
    let output = bed.attache(&words).unwrap();
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let told: Json = serde_json::from_slice(&output.stdout).unwrap();
    let mut slots = told["slots"].as_array().unwrap().iter();
    let slot = slots.find(|slot| slot["name"] == "recovery").unwrap();
    slot["ceremony"].clone()
}

/// A second operator, with files of their own.
fn bob(bed: &Bed) -> PathBuf {
    let code = bed.attache_ok(&["operator", "add", "bob"]).unwrap();
    let code = private(&format!("{}/bob.code", bed.dir.display()), &code);
    let context = bed.dir.join("bob/config.toml");
    let (grpc, enroll) = bed.broker_addresses().unwrap();
    let (grpc, enroll) = (grpc.to_string(), enroll.to_string());
    let mut command = bed.attache_command().unwrap();
    command.env("ATTACHE_CONFIG", &context);
    let login = ["login", "--new", "bob", "--code", &format!("@{code}")];
    let to = ["--broker", &grpc, "--enroll", &enroll];
    let output = run(command.args(login).args(to)).unwrap();
    assert!(output.status.success(), "{output:?}");
    context
}

fn anybody(bed: &Bed) -> Channel {
    let bundle = fs::read(bed.store_dir().join("trust-bundle.pem")).unwrap();
    let bundle = Arc::new(TrustBundle::from_pem(&bundle).unwrap());
    let broker = format!("spiffe://{TRUST_DOMAIN}/broker/broker-0");
    let tls = anonymous_client_config(bundle, broker.parse().unwrap()).unwrap();
    let connector = Connector::new(tls, Duration::from_secs(5));
    wire::channel(connector, enroll(bed).parse().unwrap())
}

/// Sends bytes for the slot `recovery`, sealed as they should be, whatever they are: the reason for which they are refused.
async fn refused(bed: &Bed, bytes: &[u8]) -> (Code, String) {
    let mut client = UnsealingClient::new(anybody(bed));
    let seal = client.get_seal(pb::GetSealRequest {}).await;
    let seal = seal.unwrap().into_inner();
    let id = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).unwrap();
    let slot = seal.slots.iter().find(|slot| slot.name == "recovery");
    let slot = slot.unwrap().slot.clone();
    let channel = UnsealChannel {
        store: StoreId::from_bytes(id(&seal.store)),
        broker_id: &seal.broker_id,
        boot: BootId::from_bytes(id(&seal.boot)),
        boot_key: PublicKey::try_from(seal.boot_key.as_slice()).unwrap(),
        slot: SlotId::from_bytes(id(&slot)),
    };
    let (enc, sealed) = channel.seal(&SystemRandom, bytes).unwrap();
    let request = pb::UnsealRequest {
        boot: seal.boot,
        slot,
        enc: enc.as_bytes().to_vec(),
        sealed,
    };
    let status = client.unseal(request).await.unwrap_err();
    (status.code(), Details::of(&status).unwrap().reason)
}

fn bytes(file: &str) -> [u8; SHARE_BYTES] {
    let mut bytes = [0; SHARE_BYTES];
    share(file).share.write(&mut bytes);
    bytes
}

/// The leaves of what was given while the broker was sealed, in words.
fn attempts(bed: &Bed) -> Vec<String> {
    let tail = ["audit", "tail", "-n", "1000", "--output", "json"];
    let leaves = bed.attache_ok(&tail).unwrap();
    let leaves = leaves
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap());
    leaves
        .filter(|leaf| leaf["kind"] == "unseal-attempts" || leaf["kind"] == "opening")
        .map(|leaf| leaf.to_string())
        .collect()
}

/// What is no share of its slot does not leave an operator's machine.
fn others_stay(bed: &Bed, files: &[String], others: &[String]) {
    for (file, more, says) in [
        (&of_another_store(&files[0]), &[][..], "of another store"),
        (&others[0], &["--slot", "recovery"], "of another slot"),
        (&wrong(&files[0]), &[], "share 1 is not what was handed out"),
    ] {
        let output = give(bed, &bed.cli_config(), file, more);
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        assert!(
            told(&output).contains(says) && told(&output).contains("nothing was sent"),
            "{output:?}"
        );
    }
    assert!(!bed.store_dir().join("unseal-attempts").exists());
}

/// Nor does the broker take it from somebody who sends it all the same; the first share is there.
fn others_are_refused(bed: &Bed, files: &[String], others: &[String]) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut flipped = bytes(&files[1]);
    flipped[SHARE_BYTES - 1] ^= 1;
    let mut beyond = bytes(&files[1]);
    beyond[16] = 4;
    for (sent, code, reason) in [
        (&flipped[..], Code::FailedPrecondition, "WRONG_SHARE"),
        (&beyond, Code::FailedPrecondition, "WRONG_SHARE"),
        (&bytes(&others[1]), Code::FailedPrecondition, "OTHER_SET"),
        (&bytes(&files[0]), Code::AlreadyExists, "SHARE_TWICE"),
        (&[7; 32], Code::InvalidArgument, "INVALID_FIELD"),
    ] {
        let refused = runtime.block_on(refused(bed, sent));
        assert_eq!(refused, (code, reason.to_owned()));
        assert_eq!(ceremony(bed)["given"], json!([1]));
    }
}

fn all_is_on_record(bed: &Bed) {
    let leaves = attempts(bed);
    let opening = leaves.iter().rfind(|leaf| leaf.contains("\"opening\""));
    let by = "unsealed by shares 1, 3, the last from 127.0.0.1";
    assert!(opening.unwrap().contains(by), "{opening:?}");
    let attempts: Vec<_> = leaves
        .iter()
        .filter(|leaf| leaf.contains("unseal-attempts"))
        .collect();
    let expected = [
        "a share was taken: number 1",
        "a share that is not what was handed out: number 2",
        "a share that is not what was handed out: number 4",
        "a share of another set",
        "a share that was there already: number 1",
        "sealed for another broker, boot or slot",
        "a share that was there already: number 1",
        "a share was taken: number 3",
        "opened: number 3",
    ];
    assert_eq!(attempts.len(), expected.len(), "{attempts:#?}");
    for (leaf, says) in attempts.iter().zip(expected) {
        assert!(leaf.contains(&format!("\"{says}\"")), "{says}: {leaf}");
    }
}

#[test]
fn two_operators_open_a_sealed_broker_and_what_is_no_share_of_its_slot_is_told_apart_and_changes_nothing()
 {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    let (files, others) = (add(&bed, "recovery"), add(&bed, "other"));
    let (ada, bob) = (bed.cli_config(), bob(&bed));
    seal(&mut bed);
    let none = json!({"needed": 2, "of": 3, "given": [], "ends": null, "lapsed": null});
    assert_eq!(ceremony(&bed), none);

    others_stay(&bed, &files, &others);

    let first = given(&bed, &ada, &files[0]);
    assert_eq!(
        (
            &first["serving"],
            &first["slot"],
            &first["ceremony"]["given"]
        ),
        (&json!(false), &Json::Null, &json!([1]))
    );
    let standing = ceremony(&bed);
    assert_eq!(standing["given"], json!([1]));
    let ends: jiff::Timestamp = standing["ends"].as_str().unwrap().parse().unwrap();
    let left = jiff::Timestamp::now().duration_until(ends).as_secs();
    assert!((840..=900).contains(&left), "{left} s are left");

    others_are_refused(&bed, &files, &others);
    let twice = give(&bed, &ada, &files[0], &[]);
    assert_eq!(twice.status.code(), Some(5), "{twice:?}");
    assert!(
        told(&twice).contains("share 1 is there already"),
        "{twice:?}"
    );
    // A share of another slot that shares open begins a ceremony of its own.
    assert_eq!(
        given(&bed, &bob, &others[2])["ceremony"]["given"],
        json!([3])
    );
    let still = ceremony(&bed);
    assert_eq!(still["given"], json!([1]));
    let again: jiff::Timestamp = still["ends"].as_str().unwrap().parse().unwrap();
    assert!(
        ends.duration_until(again).as_secs().abs() <= 1,
        "{ends} {again}"
    );

    let opened = given(&bed, &bob, &files[2]);
    assert_eq!(
        (&opened["serving"], &opened["slot"]),
        (&json!(true), &json!("recovery"))
    );
    assert_eq!(slot(&bed, "recovery")["opened"], true);
    all_is_on_record(&bed);
    bed.attache_ok(&["audit", "verify"]).unwrap();
    bed.check_store().unwrap();
}

#[test]
fn a_ceremony_does_not_outlive_its_process_and_begins_anew_after_kill_9() {
    let (mut bed, files) = sealed();
    let ada = bed.cli_config();
    assert_eq!(given(&bed, &ada, &files[0])["serving"], false);
    let before = boot_key(&bed);
    bed.broker.take().unwrap().kill().unwrap();
    start_sealed(&mut bed);
    assert_ne!(boot_key(&bed), before);
    let none = json!({"needed": 2, "of": 3, "given": [], "ends": null, "lapsed": null});
    assert_eq!(ceremony(&bed), none);
    // The other one alone is not enough, and the first can be given again.
    assert_eq!(given(&bed, &ada, &files[1])["serving"], false);
    assert_eq!(given(&bed, &ada, &files[0])["serving"], true);
    let taken = attempts(&bed);
    let taken = taken
        .iter()
        .filter(|leaf| leaf.contains("a share was taken"));
    assert_eq!(taken.count(), 2, "that of before the kill is on record too");
    // With nothing but shares it waits for people at each start: that is a finding.
    let finding = "by shares alone";
    let found = |bed: &Bed| told(&bed.attache(&["doctor"]).unwrap());
    assert!(!found(&bed).contains(finding));
    bed.attache_ok(&["slot", "remove", "key-file", "--yes"])
        .unwrap();
    assert!(found(&bed).contains(finding), "{}", found(&bed));
    bed.check_store().unwrap();
}

/// What is not on record opens nothing, and is not kept either: the share can be given again.
#[test]
fn a_share_that_cannot_be_put_on_record_is_not_kept_and_can_be_given_again() {
    let (bed, files) = sealed();
    let ada = bed.cli_config();
    let record = bed.store_dir().join("unseal-attempts");
    let in_its_place = |given: Json, file: &str| {
        fs::create_dir(&record).unwrap();
        let refused = give(&bed, &ada, file, &[]);
        assert_eq!(refused.status.code(), Some(4), "{refused:?}");
        assert_eq!(ceremony(&bed)["given"], given);
        fs::remove_dir(&record).unwrap();
    };
    in_its_place(json!([]), &files[0]);
    assert_eq!(ceremony(&bed)["ends"], Json::Null);
    assert_eq!(given(&bed, &ada, &files[0])["serving"], false);
    fs::remove_file(&record).unwrap();
    // The one that makes it whole neither: the first one stays, and nothing is open.
    in_its_place(json!([1]), &files[2]);
    assert_eq!(given(&bed, &ada, &files[2])["serving"], true);
}

/// Moves the clock of a process while it runs, as a file says: the monotonic one, by which a ceremony ends, too.
fn moving_clock(file: &Path) -> Vec<(&'static str, String)> {
    let preload = clock("+0")
        .into_iter()
        .filter(|(name, _)| *name == "LD_PRELOAD");
    let moving = [
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
    ];
    preload.chain(moving).collect()
}

#[test]
fn shares_that_are_too_few_after_15_minutes_are_forgotten_and_the_next_one_begins_anew_and_says_so()
{
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    let files = add(&bed, "recovery");
    let hands = bed.dir.join("hands");
    fs::write(&hands, "+0\n").unwrap();
    bed.environment = moving_clock(&hands);
    seal(&mut bed);
    let ada = bed.cli_config();
    assert_eq!(
        given(&bed, &ada, &files[0])["ceremony"]["given"],
        json!([1])
    );
    fs::write(&hands, "+16m\n").unwrap();
    // The broker looks by itself: nobody asks in between.
    let log = bed.dir.join("log/broker.log");
    until(SOON, "the shares are wiped", || {
        let log = fs::read_to_string(&log).unwrap();
        log.contains("the time for the shares of a slot is over")
            .then_some(())
    })
    .unwrap();
    let standing = ceremony(&bed);
    assert_eq!(
        (&standing["given"], &standing["ends"]),
        (&json!([]), &Json::Null)
    );
    assert!(standing["lapsed"].is_string(), "{standing}");

    let second = give(&bed, &ada, &files[1], &[]);
    assert!(told(&second).contains("this one begins anew"), "{second:?}");
    assert_eq!(ceremony(&bed)["given"], json!([2]));
    // The first one is gone: with the second alone the broker stays sealed, and it can be given again.
    assert_eq!(given(&bed, &ada, &files[0])["serving"], true);
}

/// A second implementation, written from the page of formats alone, opens a backup of a real broker with shares.
#[test]
fn an_independent_decoder_opens_a_whole_backup_with_enough_shares() {
    let bed = Bed::signed_in().unwrap();
    let (files, others) = (add(&bed, "recovery"), add(&bed, "other"));
    bed.attache_ok(&["keyspace", "create", "payments"]).unwrap();
    let put = [
        "secret",
        "put",
        "payments/db",
        "--literal",
        "password=by shares",
    ];
    bed.attache_ok(&put).unwrap();
    bed.attache_ok(&["key", "rotate", "--root"]).unwrap();
    let backup = bed.dir.join("one.backup").display().to_string();
    bed.attache_ok(&["backup", "create", &backup]).unwrap();
    let open = |shares: &[&String]| open_backup(Path::new(&backup), shares).unwrap();
    let opened = open(&[&files[2], &files[0]]);
    assert!(opened.status.success(), "{opened:?}");
    let opened: Json = serde_json::from_slice(&opened.stdout).unwrap();
    let fields = BTreeMap::from([("password", hex::encode("by shares"))]);
    assert_eq!(opened["secrets"], json!({"payments/db": {"1": fields}}));
    for (shares, why) in [
        (vec![&files[2]], "too few"),
        (vec![&files[2], &files[2]], "twice"),
        (vec![&files[2], &others[0]], "other slot"),
        (vec![&files[2], &wrong(&files[1])], "commitment"),
    ] {
        let refused = open(&shares);
        assert!(
            told(&refused).contains(&format!("refused: {why}")),
            "{refused:?}"
        );
    }
}
