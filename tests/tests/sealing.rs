//! A broker that is sealed: that starts so, is sealed by an operator, is opened again, and bears what anybody may send it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use attache_envelope::{
    SystemRandom,
    id::{BootId, SlotId, StoreId},
    unseal::UnsealChannel,
    x25519::PublicKey,
};
use attache_mtls::{bundle::TrustBundle, connect::Connector, tls::anonymous_client_config};
use attache_proto::{attache::v1 as pb, details::Details};
use attache_tests::{
    Bed, Scene,
    bed::{NODE, TRUST_DOMAIN},
    kms::KmsPlugin,
    pod::Pod,
    process::{bin, clock, run, until},
    wire,
};
use pb::unsealing_client::UnsealingClient;
use serde_json::Value as Json;
use tonic::{Code, Status, transport::Channel};

const SOON: Duration = Duration::from_secs(20);
const WORDS: &str = "correct horse battery staple";

fn key_file(bed: &Bed) -> String {
    bed.dir.join("etc/slot.key").display().to_string()
}

/// The last one in the broker's log, as an operator finds it.
fn boot_key(bed: &Bed) -> Option<String> {
    let log = fs::read_to_string(bed.dir.join("log/broker.log")).unwrap();
    let (_, last) = log.rsplit_once("boot_key=\"")?;
    Some(last.split_once('"')?.0.to_owned())
}

/// `attache broker VERB`, told where a sealed broker is.
fn broker(bed: &Bed, args: &[&str]) -> Output {
    let enroll = enroll(bed).to_string();
    let boot_key = boot_key(bed);
    let compared: &[&str] = match (args.first(), &boot_key) {
        (Some(&"unseal"), Some(key)) => &["--boot-key", key],
        _ => &[],
    };
    let words = [
        &["broker"],
        args,
        compared,
        &["--enroll", &enroll, "--output", "json"],
    ]
    .concat();
    bed.attache(&words).unwrap()
}

fn enroll(bed: &Bed) -> SocketAddr {
    let text = fs::read_to_string(bed.store_dir().join("listen.json")).unwrap();
    let json: Json = serde_json::from_str(&text).unwrap();
    json["enroll"].as_str().unwrap().parse().unwrap()
}

/// What `attache broker status` says, and that its exit code says the same.
fn status(bed: &Bed) -> Json {
    let output = broker(bed, &["status"]);
    let told: Json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic_with(&output, "attache broker status"));
    let code = if told["sealed"] == true { 8 } else { 0 };
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    told
}

#[expect(clippy::panic, reason = "a helper of a test")]
fn panic_with(output: &Output, what: &str) -> Json {
    panic!("{what}: {output:?}")
}

fn unseals(bed: &Bed, by: &[&str]) -> Json {
    let output = broker(bed, &[&["unseal"], by].concat());
    assert!(output.status.success(), "{output:?}");
    let told: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["serving"], true);
    told
}

/// A bed whose broker has stopped, with its key file taken away; where that is now.
fn without_key_file() -> (Bed, String) {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    bed.attache_ok(&["status"]).unwrap();
    bed.broker.take().unwrap().stop().unwrap();
    let away = format!("{}.away", key_file(&bed));
    fs::rename(key_file(&bed), &away).unwrap();
    (bed, away)
}

fn private(bed: &Bed, name: &str, text: &str) -> String {
    let path = bed.dir.join("etc").join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn audit(bed: &Bed) -> Vec<Json> {
    let told = bed
        .attache_ok(&["audit", "tail", "-n", "1000", "--output", "json"])
        .unwrap();
    told.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn of_kind(leaves: &[Json], kind: &str) -> Vec<String> {
    let of_kind = leaves.iter().filter(|leaf| leaf["kind"] == kind);
    of_kind.map(Json::to_string).collect()
}

fn health(bed: &Bed, more: &[&str]) -> Option<i32> {
    let mut command = Command::new(bin("attache-broker").unwrap());
    let asked = command
        .args(["health", "--config"])
        .arg(bed.broker_config());
    run(asked.args(more)).unwrap().status.code()
}

#[test]
fn a_broker_without_its_key_file_starts_sealed_and_does_nothing_but_be_opened() {
    let (mut bed, away) = without_key_file();
    let (grpc, _) = pinned(&bed);
    bed.start_broker().unwrap();
    let told = status(&bed);
    assert_eq!(
        (
            &told["sealed"],
            &told["by_operator"],
            &told["slots"][0]["name"]
        ),
        (
            &Json::from(true),
            &Json::from(false),
            &Json::from("key-file")
        )
    );
    // It is alive, unready, measured, holds the store, and listens for nobody else.
    assert_eq!(health(&bed, &["--live"]), Some(0));
    assert_eq!(health(&bed, &[]), Some(8));
    assert!(bed.metrics().unwrap().contains("attache_broker_sealed 1"));
    assert!(TcpStream::connect(grpc).is_err());
    let other = run(Command::new(bin("attache-broker").unwrap())
        .args(["serve", "--config"])
        .arg(bed.broker_config()));
    assert!(!other.unwrap().status.success(), "the store is locked");
    assert_eq!(status(&bed)["sealed"], true, "and its sockets are its own");
    let log = fs::read_to_string(bed.dir.join("log/broker.log")).unwrap();
    let boot_key = told["boot_key"].as_str().unwrap();
    for part in ["sealed", "key-file (key-file)", "No such file", boot_key] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let joining = bed.attache(&["status"]).unwrap();
    assert_eq!(joining.status.code(), Some(4), "{joining:?}");

    let other = private(&bed, "other.key", &key_file_text([7; 32]));
    // Nothing is sent to a boot key that nobody compared, or that is not the one in the log.
    let at = enroll(&bed).to_string();
    let unseal = ["broker", "unseal", "--key-file", &away, "--enroll", &at];
    assert_eq!(bed.attache(&unseal).unwrap().status.code(), Some(2));
    let another = "0".repeat(64);
    let compared = [&unseal[..], &["--boot-key", &another]].concat();
    let refused = bed.attache(&compared).unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(5) && told.contains("nothing was sent"),
        "{told}"
    );
    let wrong = broker(&bed, &["unseal", "--key-file", &other]);
    assert_eq!(wrong.status.code(), Some(5), "{wrong:?}");
    let no_slot = broker(
        &bed,
        &["unseal", "--slot", "kye-file", "--key-file", &other],
    );
    assert!(String::from_utf8_lossy(&no_slot.stderr).contains("did you mean key-file?"));
    assert_eq!(status(&bed)["sealed"], true);
    let told = unseals(&bed, &["--key-file", &away]);
    assert_eq!(told["slot"], "key-file");
    assert_eq!(status(&bed)["sealed"], false);
    assert_eq!(health(&bed, &[]), Some(0));
    assert!(bed.metrics().unwrap().contains("attache_broker_sealed 0"));

    // What was tried is on record, and nowhere else any more.
    let leaves = audit(&bed);
    let attempts = of_kind(&leaves, "unseal-attempts");
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    assert!(attempts[0].contains("not what opens that slot") && attempts[0].contains("127.0.0.1"));
    assert!(attempts[1].contains("\"opened\""), "{attempts:?}");
    let openings = of_kind(&leaves, "opening");
    assert!(
        openings
            .last()
            .unwrap()
            .contains("unsealed by key-file, from 127.0.0.1")
    );
    assert!(openings[0].contains("the key file"), "{openings:?}");
    assert!(!bed.store_dir().join("unseal-attempts").exists());
    bed.attache_ok(&["audit", "verify"]).unwrap();
    bed.check_store().unwrap();
}

fn key_file_text(secret: [u8; 32]) -> String {
    let mut text = [0; attache_envelope::slot::KEY_FILE_BYTES];
    let secret = attache_envelope::key::SlotSecret::new(&secret);
    attache_envelope::slot::write_key_file(secret, &mut text);
    String::from_utf8(text.to_vec()).unwrap()
}

/// Where the settings say that the broker listens.
fn pinned(bed: &Bed) -> (SocketAddr, SocketAddr) {
    let settings = fs::read_to_string(bed.broker_config()).unwrap();
    let after = |key: &str| {
        let rest = settings.split_once(&format!("{key} = \"")).unwrap().1;
        rest.split_once('"').unwrap().0.parse().unwrap()
    };
    (after("grpc"), after("enroll"))
}

#[test]
fn a_sealed_broker_opens_by_a_passphrase_that_never_reaches_it() {
    let (mut bed, away) = without_key_file();
    fs::rename(&away, key_file(&bed)).unwrap();
    bed.start_broker().unwrap();
    let words = private(&bed, "words", &format!("{WORDS}\n"));
    let add = [
        "slot",
        "add",
        "passphrase",
        "--name",
        "board",
        "--passphrase-file",
    ];
    bed.attache_ok(&[&add[..], &[&words]].concat()).unwrap();
    bed.broker.take().unwrap().stop().unwrap();
    fs::rename(key_file(&bed), &away).unwrap();
    bed.start_broker().unwrap();
    let nobody = broker(&bed, &["unseal"]);
    assert_eq!(nobody.status.code(), Some(2), "nobody can be asked");
    let other = private(&bed, "other", "battery horse correct staple");
    let wrong = broker(&bed, &["unseal", "--passphrase-file", &other]);
    assert_eq!(wrong.status.code(), Some(5), "{wrong:?}");
    let kind = broker(
        &bed,
        &["unseal", "--slot", "key-file", "--passphrase-file", &words],
    );
    assert_eq!(kind.status.code(), Some(5), "{kind:?}");
    let told = unseals(&bed, &["--passphrase-file", &words]);
    assert_eq!(told["slot"], "board");
    let slots = bed.attache_json(&["slot", "list"]).unwrap();
    assert_eq!(
        (&slots["slots"][0]["name"], &slots["slots"][0]["opened"]),
        (&Json::from("board"), &Json::from(true))
    );
}

/// Damage is no lack of a key: waiting for one would hide it.
#[test]
fn a_broker_with_a_damaged_or_absent_store_does_not_start_sealed() {
    let (bed, _) = without_key_file();
    let store = bed.store_dir().join("store.redb");
    let serve = || {
        let mut command = Command::new(bin("attache-broker").unwrap());
        run(command.args(["serve", "--config"]).arg(bed.broker_config())).unwrap()
    };
    let whole = fs::read(&store).unwrap();
    for bytes in [b"no store".to_vec(), whole[..whole.len() / 2].to_vec()] {
        fs::write(&store, bytes).unwrap();
        assert_eq!(serve().status.code(), Some(1));
    }
    fs::remove_file(&store).unwrap();
    assert_eq!(serve().status.code(), Some(1));
}

#[test]
fn an_operators_seal_cuts_what_runs_and_stays_until_somebody_opens_it() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    scene.bed.restart_broker().unwrap();
    let pods =
        ["web-0", "web-1", "web-2"].map(|name| Pod::new("shop", name, "web", NODE, "payments/db"));
    until(SOON, "the plugin is there", || scene.publish(&pods[0]).ok()).unwrap();
    let mut follows = scene.bed.attache_command().unwrap();
    let mut follows = follows
        .args(["audit", "tail", "--follow"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    let bed = &scene.bed;
    let dry = bed.attache(&["broker", "seal", "--dry-run"]).unwrap();
    assert!(dry.status.success(), "{dry:?}");
    let asked = bed.attache(&["broker", "seal"]).unwrap();
    assert_eq!(asked.status.code(), Some(2), "nobody can be asked");
    assert_eq!(status(bed)["sealed"], false);
    let pid = bed.broker.as_ref().unwrap().pid();
    let from = Instant::now();
    let why = ["broker", "seal", "--yes", "--reason", "memory was read"];
    let sealed = bed.attache_json(&why).unwrap();
    assert_eq!(sealed["repeated"], false);
    until(SOON, "sealed", || {
        (status(bed)["sealed"] == true).then_some(())
    })
    .unwrap();
    let took = from.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    let told = status(bed);
    assert_eq!(told["by_operator"], true);
    assert_eq!(bed.broker.as_ref().unwrap().pid(), pid, "the same process");
    until(SOON, "the stream has ended", || follows.try_wait().unwrap()).unwrap();
    // What is mounted stays, and nothing is released.
    assert!(scene.read(&pods[0], "db/password").is_ok());
    assert!(scene.publish(&pods[1]).is_err());

    // Its own key file is there all the time: three of the pauses after which it would be tried.
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(15) {
        assert_eq!(status(bed)["sealed"], true);
        std::thread::sleep(Duration::from_millis(500));
    }
    unseals(bed, &["--key-file", &key_file(bed)]);
    until(SOON, "released again", || scene.publish(&pods[1]).ok()).unwrap();
    let leaves = audit(bed);
    let told: Vec<_> = leaves
        .iter()
        .map(|leaf| leaf["kind"].as_str().unwrap())
        .collect();
    let seal = leaves
        .iter()
        .position(|leaf| leaf.to_string().contains("broker.seal"))
        .unwrap();
    let after: Vec<_> = told[seal..]
        .iter()
        .filter(|kind| ["intent", "outcome", "stop", "start", "opening"].contains(*kind))
        .take(5)
        .copied()
        .collect();
    assert_eq!(after, ["intent", "outcome", "stop", "start", "opening"]);
    assert!(leaves[seal].to_string().contains("memory was read"));

    scene.bed.attache_ok(&["audit", "verify"]).unwrap();
    scene.bed.check_store().unwrap();
    assert!(!scene.logs().contains("panicked"));
}

/// Seals by the signed-in operator, and waits until it is.
fn seal(bed: &Bed, reason: &str) -> Json {
    let sealed = bed.attache_json(&["broker", "seal", "--yes", "--reason", reason]);
    let sealed = sealed.unwrap();
    assert_eq!(
        (&sealed["not_on_record"], &sealed["not_kept"]),
        (&Json::Null, &Json::Null)
    );
    until(SOON, "sealed", || {
        (status(bed)["sealed"] == true).then_some(())
    })
    .unwrap();
    sealed
}

#[test]
fn an_operators_seal_outlives_the_process_until_somebody_opens_it() {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    bed.restart_broker().unwrap();
    bed.attache_ok(&["status"]).unwrap();
    let note = bed.store_dir().join("sealed-by-operator");
    assert!(!note.exists());
    let request = seal(&bed, "memory was read")["request_id"].clone();
    let sealed = status(&bed);
    let by = sealed["sealed_by"].as_str().unwrap().to_owned();
    assert!(by.contains("/operator/"), "{sealed}");
    assert!(sealed["sealed_at"].is_string(), "{sealed}");
    let at = enroll(&bed).to_string();
    let told = bed.attache(&["broker", "status", "--enroll", &at]).unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("since") && told.contains(&by), "{told}");

    // In order, by a kill, and again: its own key file is there all the time.
    for kill in [false, true, true] {
        let process = bed.broker.take().unwrap();
        if kill {
            process.kill().unwrap();
        } else {
            process.stop().unwrap();
        }
        bed.start_broker().unwrap();
        let told = status(&bed);
        for same in ["sealed", "by_operator", "sealed_by", "sealed_at"] {
            assert_eq!(told[same], sealed[same], "{same}");
        }
        assert!(note.exists());
    }
    let log = fs::read_to_string(bed.dir.join("log/broker.log")).unwrap();
    let at_start = log.rsplit_once("by an operator since").unwrap().1;
    for part in [&by, "attache-broker unseal", "sealed-by-operator"] {
        assert!(at_start.contains(part), "{part}: {at_start}");
    }
    // More than the pause after which its own openers would be tried.
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(8) {
        assert_eq!(status(&bed)["sealed"], true);
        std::thread::sleep(Duration::from_millis(500));
    }

    unseals(&bed, &["--key-file", &key_file(&bed)]);
    assert!(!note.exists());
    let leaves = of_kind(&audit(&bed), "operator-seal");
    let request = request.as_str().unwrap();
    assert_eq!(leaves.len(), 1, "{leaves:?}");
    for part in [by.as_str(), "memory was read", request] {
        assert!(leaves[0].contains(part), "{part}: {leaves:?}");
    }
    for kill in [false, true] {
        let process = bed.broker.take().unwrap();
        if kill {
            process.kill().unwrap();
        } else {
            process.stop().unwrap();
        }
        bed.start_broker().unwrap();
        assert_eq!(status(&bed)["sealed"], false, "it opens by itself again");
    }
    assert_eq!(of_kind(&audit(&bed), "operator-seal").len(), 1);
    bed.attache_ok(&["audit", "verify"]).unwrap();
    bed.check_store().unwrap();
}

/// Whoever is on the machine has other ways out, which leave a trace where they can.
#[test]
fn a_seal_ends_on_the_brokers_machine_too_and_a_damaged_note_of_one_is_a_seal() {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    bed.restart_broker().unwrap();
    bed.attache_ok(&["status"]).unwrap();
    let note = bed.store_dir().join("sealed-by-operator");
    let own = |bed: &Bed| run(&mut bed.broker_command(&["unseal"]).unwrap()).unwrap();
    let open = own(&bed);
    assert!(!open.status.success());
    assert!(String::from_utf8_lossy(&open.stderr).contains("is not sealed any more"));

    // What nobody wrote counts, and nobody is named.
    bed.broker.take().unwrap().stop().unwrap();
    fs::write(&note, "no note").unwrap();
    let serve = ["serve", "--accept-rollback-to", "1"];
    let rollback = run(&mut bed.broker_command(&serve).unwrap()).unwrap();
    let told = String::from_utf8_lossy(&rollback.stderr).into_owned();
    assert!(
        !rollback.status.success() && told.contains("an operator sealed the broker"),
        "{told}"
    );
    bed.start_broker().unwrap();
    let told = status(&bed);
    assert_eq!(
        (&told["by_operator"], &told["sealed_by"], &told["sealed_at"]),
        (&Json::from(true), &Json::Null, &Json::Null)
    );

    // What the settings name is tried at a word on the admin socket, and says what is wrong with it.
    let away = format!("{}.away", key_file(&bed));
    fs::rename(key_file(&bed), &away).unwrap();
    let lacking = own(&bed);
    let told = String::from_utf8_lossy(&lacking.stderr).into_owned();
    assert!(
        !lacking.status.success() && told.contains("No such file"),
        "{told}"
    );
    assert_eq!(status(&bed)["sealed"], true);
    fs::rename(&away, key_file(&bed)).unwrap();
    let opened = own(&bed);
    assert!(opened.status.success(), "{opened:?}");
    until(SOON, "open", || {
        (status(&bed)["sealed"] == false).then_some(())
    })
    .unwrap();
    assert!(!note.exists());
    let leaves = audit(&bed);
    let seals = of_kind(&leaves, "operator-seal");
    assert!(seals[0].contains("could not be read"), "{seals:?}");
    let openings = of_kind(&leaves, "opening");
    assert!(
        openings
            .last()
            .unwrap()
            .contains("asked for on the admin socket"),
        "{openings:?}"
    );

    // The file taken away is the end of the seal, as the log at the start says.
    seal(&bed, "ticket 4713");
    bed.broker.take().unwrap().stop().unwrap();
    fs::remove_file(&note).unwrap();
    bed.start_broker().unwrap();
    assert_eq!(status(&bed)["sealed"], false);
    bed.attache_ok(&["audit", "verify"]).unwrap();
}

#[expect(clippy::panic, reason = "a helper of a test")]
fn panic_with_log(log: &str) {
    panic!("{log}");
}

/// What a retry may mend ends no sealed process: here the files that it shows itself by.
#[test]
fn a_sealed_broker_that_cannot_listen_stays_and_listens_once_it_can() {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    bed.restart_broker().unwrap();
    bed.attache_ok(&["status"]).unwrap();
    let pid = bed.broker.as_ref().unwrap().pid();
    let bundle = bed.store_dir().join("trust-bundle.pem");
    let text = fs::read(&bundle).unwrap();
    fs::write(&bundle, "no bundle").unwrap();
    bed.attache_ok(&["broker", "seal", "--yes"]).unwrap();
    let log = bed.dir.join("log/broker.log");
    let says = || fs::read_to_string(&log).unwrap();
    until(SOON, "it says why", || {
        says().contains("cannot be opened now").then_some(())
    })
    .unwrap_or_else(|_| panic_with_log(&says()));
    assert!(bed.broker.as_mut().unwrap().runs());
    fs::write(&bundle, text).unwrap();
    until(SOON, "sealed, and there", || {
        (broker(&bed, &["status"]).status.code() == Some(8)).then_some(())
    })
    .unwrap();
    assert_eq!(bed.broker.as_ref().unwrap().pid(), pid);
    unseals(&bed, &["--key-file", &key_file(&bed)]);
}

#[test]
fn a_kms_plugin_that_was_away_opens_a_sealed_broker_when_it_is_back_and_an_open_one_serves_without()
{
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    let socket = bed.dir.join("kms.sock");
    let start = || KmsPlugin::start(&socket, &[1; 32]).unwrap();
    let kms = format!("kms_socket = \"{}\"", socket.display());
    bed.name_openers(&format!("slot_file = \"{}\"\n{kms}", key_file(&bed)))
        .unwrap();
    bed.restart_broker().unwrap();
    let plugin = start();
    bed.attache_ok(&["slot", "add", "kms", "--name", "cloud"])
        .unwrap();
    bed.name_openers(&kms).unwrap();
    bed.restart_broker().unwrap();

    drop(plugin);
    bed.attache_ok(&["keyspace", "create", "payments"]).unwrap();
    let away = bed.attache(&["slot", "verify", "cloud"]).unwrap();
    assert_eq!(away.status.code(), Some(4), "{away:?}");
    bed.restart_broker().unwrap();
    assert_eq!(status(&bed)["sealed"], true);
    // Nobody can send what opens that slot.
    let sent = broker(
        &bed,
        &["unseal", "--slot", "cloud", "--key-file", &key_file(&bed)],
    );
    assert_eq!(sent.status.code(), Some(5), "{sent:?}");
    assert_eq!(status(&bed)["sealed"], true);
    let _plugin = start();
    until(Duration::from_secs(60), "opened by itself", || {
        (status(&bed)["sealed"] == false).then_some(())
    })
    .unwrap();
    let slots = bed.attache_json(&["slot", "list"]).unwrap();
    assert_eq!(
        (&slots["slots"][0]["name"], &slots["slots"][0]["opened"]),
        (&Json::from("cloud"), &Json::from(true))
    );
    // Sealed by an operator, it is not asked before somebody on the machine says so.
    seal(&bed, "ticket 4713");
    let opened = run(&mut bed.broker_command(&["unseal"]).unwrap()).unwrap();
    assert!(
        opened.status.success() && String::from_utf8_lossy(&opened.stdout).contains("slot cloud"),
        "{opened:?}"
    );
    until(SOON, "open", || {
        (status(&bed)["sealed"] == false).then_some(())
    })
    .unwrap();
}

/// An outage of a hundred days: the broker's certificate has ended, and what could sign another one is sealed.
#[test]
fn a_sealed_broker_whose_certificate_has_ended_is_known_by_its_recorded_key_and_opened() {
    let (mut bed, away) = without_key_file();
    bed.environment = clock("+100d");
    bed.start_broker().unwrap();
    assert_eq!(status(&bed)["sealed"], true);
    let recorded = bed.dir.join("cli/default.broker-key");
    let key = fs::read(&recorded).unwrap();
    for other in [None, Some(format!("{}\n", "0".repeat(64)))] {
        match other {
            None => fs::remove_file(&recorded).unwrap(),
            Some(other) => fs::write(&recorded, other).unwrap(),
        }
        let refused = broker(&bed, &["unseal", "--key-file", &away]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(told.contains("ended"), "{told}");
    }
    fs::write(&recorded, key).unwrap();
    unseals(&bed, &["--key-file", &away]);
    // It has made itself a new one: that is good without the record.
    fs::remove_file(&recorded).unwrap();
    assert_eq!(status(&bed)["sealed"], false);
}

/// A channel of anybody, from an address of this machine.
fn anybody(bed: &Bed) -> Channel {
    anybody_at(bed, enroll(bed))
}

/// A channel of anybody to where the broker is reached.
fn anybody_at(bed: &Bed, address: SocketAddr) -> Channel {
    let bundle = fs::read(bed.store_dir().join("trust-bundle.pem")).unwrap();
    let bundle = Arc::new(TrustBundle::from_pem(&bundle).unwrap());
    let broker = format!("spiffe://{TRUST_DOMAIN}/broker/broker-0")
        .parse()
        .unwrap();
    let tls = anonymous_client_config(bundle, broker).unwrap();
    wire::channel(Connector::new(tls, Duration::from_secs(5)), address)
}

/// An attempt with this secret, sealed as it should be.
fn attempt(seal: &pb::GetSealResponse, secret: &[u8; 32]) -> pb::UnsealRequest {
    let id = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).unwrap();
    let boot_key = PublicKey::try_from(seal.boot_key.as_slice()).unwrap();
    let channel = UnsealChannel {
        store: StoreId::from_bytes(id(&seal.store)),
        broker_id: &seal.broker_id,
        boot: BootId::from_bytes(id(&seal.boot)),
        boot_key,
        slot: SlotId::from_bytes(id(&seal.slots[0].slot)),
    };
    let (enc, sealed) = channel.seal(&SystemRandom, secret).unwrap();
    pb::UnsealRequest {
        boot: seal.boot.clone(),
        slot: seal.slots[0].slot.clone(),
        enc: enc.as_bytes().to_vec(),
        sealed,
    }
}

fn reason(status: &Status) -> String {
    Details::of(status).map(|it| it.reason).unwrap_or_default()
}

/// How an attempt is bent.
type Bend = fn(&mut pb::UnsealRequest);

#[test]
fn an_attempt_that_is_malformed_or_for_another_broker_is_refused_by_name() {
    const BENT: [(Bend, Code, &str); 7] = [
        (|it| it.boot.clear(), Code::InvalidArgument, "boot"),
        (|it| it.slot.push(0), Code::InvalidArgument, "slot"),
        (|it| it.enc.truncate(31), Code::InvalidArgument, "enc"),
        (|it| it.sealed.truncate(47), Code::InvalidArgument, "sealed"),
        (|it| it.sealed[0] ^= 1, Code::InvalidArgument, "sealed"),
        (|it| it.boot = vec![9; 16], Code::Aborted, ""),
        (|it| it.slot = vec![9; 16], Code::NotFound, ""),
    ];
    let (mut bed, away) = without_key_file();
    bed.start_broker().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let mut client = UnsealingClient::new(anybody(&bed));
    runtime.block_on(async {
        let seal = client.get_seal(pb::GetSealRequest {}).await;
        let good = attempt(&seal.unwrap().into_inner(), &[7; 32]);
        for (bend, code, named) in BENT {
            let mut request = good.clone();
            bend(&mut request);
            let refused = client.unseal(request).await.unwrap_err();
            let field = Details::of(&refused).unwrap().field.unwrap_or_default();
            assert_eq!((refused.code(), field.as_str()), (code, named));
        }
        let large = pb::UnsealRequest {
            sealed: vec![0; 32 * 1024],
            ..good
        };
        let refused = client.unseal(large).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("larger than is read"));
    });
    assert_eq!(status(&bed)["sealed"], true);
    unseals(&bed, &["--key-file", &away]);
    let attempts = of_kind(&audit(&bed), "unseal-attempts");
    for ending in [
        "sealed for another broker, boot or slot",
        "sealed to another boot key",
        "the store has no such slot",
    ] {
        assert!(
            attempts.iter().any(|leaf| leaf.contains(ending)),
            "{ending}: {attempts:?}"
        );
    }
}

/// Their own typing error, or somebody else behind the same address: an operator has to wait, and need not try again.
#[test]
fn the_cli_waits_as_long_as_the_broker_says() {
    let (mut bed, away) = without_key_file();
    bed.start_broker().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let mut client = UnsealingClient::new(anybody(&bed));
    runtime.block_on(async {
        let seal = client.get_seal(pb::GetSealRequest {}).await;
        let wrong = attempt(&seal.unwrap().into_inner(), &[7; 32]);
        while client.unseal(wrong.clone()).await.unwrap_err().code() != Code::ResourceExhausted {}
    });
    let opened = broker(&bed, &["unseal", "--key-file", &away]);
    assert!(opened.status.success(), "{opened:?}");
    let told = String::from_utf8_lossy(&opened.stderr).into_owned();
    assert!(told.contains("waiting"), "{told}");
}

#[test]
fn a_flood_of_attempts_is_bounded_and_keeps_no_operator_out() {
    let (mut bed, away) = without_key_file();
    bed.start_broker().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let mut client = UnsealingClient::new(anybody(&bed));
    let (exhausted, others) = runtime.block_on(async {
        let seal = client.get_seal(pb::GetSealRequest {}).await;
        let wrong = attempt(&seal.unwrap().into_inner(), &[7; 32]);
        let (mut exhausted, mut others) = (0, Vec::new());
        for _ in 0..300 {
            let refused = client.unseal(wrong.clone()).await.unwrap_err();
            if refused.code() == Code::ResourceExhausted {
                assert_eq!(reason(&refused), "TOO_MANY_ATTEMPTS");
                assert!(Details::of(&refused).unwrap().retry_after.is_some());
                exhausted += 1;
            } else {
                others.push(reason(&refused));
            }
        }
        (exhausted, others)
    });
    assert!(exhausted > 280, "{others:?}");
    assert!(
        others.iter().all(|told| told == "WRONG_SECRET"),
        "{others:?}"
    );
    let file = bed.store_dir().join("unseal-attempts");
    assert!(fs::metadata(&file).unwrap().len() < 64 * 1024);
    let notes = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(notes & 0o777, 0o600);

    // Somebody with another address is heard at once, while the first one goes on.
    let flood = runtime.spawn(async move {
        loop {
            let seal = client.get_seal(pb::GetSealRequest {}).await;
            let Ok(seal) = seal.map(tonic::Response::into_inner) else {
                return;
            };
            if !seal.sealed {
                return;
            }
            let _ = client.unseal(attempt(&seal, &[7; 32])).await;
        }
    });
    let told = runtime.block_on(from_elsewhere(&bed, &away));
    assert!(told.unwrap());
    runtime.block_on(flood).unwrap();
    until(SOON, "open", || {
        (status(&bed)["sealed"] == false).then_some(())
    })
    .unwrap();
    let attempts = of_kind(&audit(&bed), "unseal-attempts");
    assert!(
        attempts.len() < 100 && attempts.iter().any(|it| it.contains("127.0.0.2")),
        "{attempts:?}"
    );
    // The others are one number.
    let not_tried = attempts.iter().filter(|it| it.contains("not tried"));
    assert_eq!(not_tried.count(), 1, "{attempts:?}");
    bed.attache_ok(&["audit", "verify"]).unwrap();
}

/// Unseals from 127.0.0.2.
async fn from_elsewhere(bed: &Bed, key_file: &str) -> Result<bool, Status> {
    let proxy = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let (here, to) = (proxy.local_addr().unwrap(), enroll(bed));
    // A connection of ours begins at a loopback address that only a socket of ours can choose: one goes between.
    tokio::spawn(async move {
        while let Ok((mut from, _)) = proxy.accept().await {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket
                .bind((Ipv4Addr::new(127, 0, 0, 2), 0).into())
                .unwrap();
            let mut onward = socket.connect(to).await.unwrap();
            tokio::spawn(
                async move { tokio::io::copy_bidirectional(&mut from, &mut onward).await },
            );
        }
    });
    let mut client = UnsealingClient::new(anybody_at(bed, here));
    let seal = client.get_seal(pb::GetSealRequest {}).await?.into_inner();
    let mut secret = [0; 32];
    attache_envelope::slot::parse_key_file(&fs::read(key_file).unwrap(), &mut secret).unwrap();
    let answer = client.unseal(attempt(&seal, &secret)).await?;
    Ok(answer.into_inner().open)
}
