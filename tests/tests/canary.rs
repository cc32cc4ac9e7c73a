//! I1, I3: a canary planted as a secret's value is where it belongs, in the mount, and nowhere else: no log, no error, no
//! answer of the CLI, no audit record, no store file, not in the broker's memory while it is written and read. And a sealed broker's memory holds no key, and no
//! share once a ceremony is over.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use attache_arena::Arena;
use attache_broker::{keys::Keys, store::RedbStore};
use attache_envelope::slot::ShareFile;
use attache_tests::{
    Bed, Scene,
    bed::{AUDIENCE, NODE},
    pod::Pod,
    process::{PATIENCE, until},
    scene::{PASSWORD, USERNAME},
};

/// How much of a process's memory is read at once, in bytes.
const CHUNK: usize = 1 << 20;

/// How often `needle` is in the readable memory of a process.
fn in_memory(pid: u32, needle: &[u8]) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = 0;
    for line in maps
        .lines()
        .filter(|l| l.split(' ').nth(1).is_some_and(|p| p.starts_with('r')))
    {
        let (from, to) = line
            .split(' ')
            .next()
            .and_then(|r| r.split_once('-'))
            .unwrap();
        let (mut at, to) = (
            u64::from_str_radix(from, 16).unwrap(),
            u64::from_str_radix(to, 16).unwrap(),
        );
        let mut kept: Vec<u8> = Vec::new();
        while at < to {
            let want = usize::try_from(to - at).unwrap().min(CHUNK);
            let mut chunk = vec![0; want];
            // Pages that the kernel hides or a mapping that has gone: nothing is read from there.
            let Ok(read) = memory.read_at(&mut chunk, at) else {
                break;
            };
            if read == 0 {
                break;
            }
            chunk.truncate(read);
            // A needle may lie across two chunks.
            kept.extend_from_slice(&chunk);
            found += kept.windows(needle.len()).filter(|w| *w == needle).count();
            let keep = kept.len().saturating_sub(needle.len() - 1);
            kept.drain(..keep);
            at += read as u64;
        }
    }
    found
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|w| w == needle)
}

#[test]
fn a_value_is_found_nowhere_but_in_its_mount() {
    let scene = Scene::start().unwrap();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    let token = scene.bed.token(&pod).unwrap();
    let mut printed = String::new();
    for round in 0..5 {
        scene
            .put(
                "payments/db",
                &[("password", PASSWORD), ("username", USERNAME)],
            )
            .unwrap();
        scene.publish_with(&pod, AUDIENCE, &token).unwrap();
        let stranger = Pod::new(
            "shop",
            &format!("batch-{round}"),
            "batch",
            NODE,
            "payments/db",
        );
        let refused = scene
            .refused(&stranger, AUDIENCE, &scene.bed.token(&stranger).unwrap())
            .unwrap();
        printed.push_str(refused.message());
    }
    for args in [
        &["secret", "list", "--output", "json"][..],
        &["secret", "show", "payments/db", "--output", "json"],
        &["secret", "versions", "payments/db", "--output", "json"],
        &["status", "--output", "json"],
        &["audit", "tail", "-n", "1000", "--output", "json"],
    ] {
        printed.push_str(&scene.bed.attache_ok(args).unwrap());
    }
    printed.push_str(&scene.logs());
    printed.push_str(&scene.bed.metrics().unwrap());
    assert!(
        scene.read(&pod, "db/password").unwrap() == PASSWORD,
        "the control: it is in the mount"
    );
    for needle in [PASSWORD, USERNAME, &token] {
        assert!(!printed.contains(needle), "in what was printed or logged");
        for folder in ["broker", "audit", "log", "etc", "cli", "node-state"] {
            for file in scene.files(folder).unwrap() {
                let bytes = fs::read(&file).unwrap_or_default();
                assert!(!holds(&bytes, needle.as_bytes()), "in {}", file.display());
            }
        }
    }
    let broker = scene.bed.broker.as_ref().unwrap().pid();
    for needle in [PASSWORD, USERNAME] {
        assert!(
            in_memory(std::process::id(), needle.as_bytes()) > 0,
            "the control: the scan finds what is there"
        );
        assert_eq!(
            in_memory(broker, needle.as_bytes()),
            0,
            "in the broker's memory"
        );
    }
}

/// Two keys of the broker's keyring, read from a copy of its store by its key file, and the key of that file.
fn keys_of(scene: &Scene) -> Vec<(&'static str, [u8; 32])> {
    let copy = scene.bed.dir.join("copy.redb");
    fs::copy(scene.bed.store_dir().join("store.redb"), &copy).unwrap();
    let file = scene.bed.dir.join("etc/slot.key");
    let arena = Arena::new_plain().unwrap();
    let runtime = &scene.runtime;
    let keys = runtime.block_on(async {
        let store = RedbStore::open(&copy).unwrap();
        Keys::open(&arena, &store, &file).await.unwrap()
    });
    vec![
        ("the audit log's key", *keys.audit_key().seed()),
        ("the CA's key", *keys.ca_key().seed()),
    ]
}

/// A broker whose keys lie in ordinary memory, where they are found.
fn plain() -> Bed {
    let bed = Bed::new().unwrap();
    let settings = fs::read_to_string(bed.broker_config()).unwrap();
    let settings = settings.replace("[keys]\n", "[keys]\ndanger_plain_key_arena = true\n");
    fs::write(bed.broker_config(), settings).unwrap();
    bed
}

/// The positive control is the same ceremony before: the share lies in ordinary memory, and is found there.
#[test]
fn no_share_is_in_the_brokers_memory_once_its_ceremony_is_over() {
    let scene = Scene::on(plain()).unwrap();
    let bed = &scene.bed;
    let folder = bed.dir.join("shares").display().to_string();
    let add = ["slot", "add", "shares", "--threshold", "2", "--shares", "2"];
    let named = ["--name", "recovery", "--out", &folder];
    bed.attache_ok(&[&add[..], &named].concat()).unwrap();
    let file = |number: u8| format!("{folder}/recovery-{number}-of-2.share");
    let pid = bed.broker.as_ref().unwrap().pid();
    bed.attache_ok(&["broker", "seal", "--yes"]).unwrap();
    let log = bed.dir.join("log/broker.log");
    let boot_key = until(PATIENCE, "the broker is sealed", || {
        let log = fs::read_to_string(&log).unwrap();
        let (_, key) = log.rsplit_once("boot_key=\"")?;
        Some(key.split_once('"')?.0.to_owned())
    })
    .unwrap();
    let give = |number: u8| {
        let unseal = ["broker", "unseal", "--boot-key", &boot_key, "--share"];
        bed.attache_ok(&[&unseal[..], &[&file(number)]].concat())
            .unwrap()
    };
    let share = ShareFile::parse(&fs::read(file(1)).unwrap()).unwrap().share;
    assert_eq!(in_memory(pid, share.value()), 0, "before it is given");
    give(1);
    assert!(in_memory(pid, share.value()) > 0, "the control");
    assert!(give(2).contains("is open, by the slot recovery"));
    assert_eq!(bed.broker.as_ref().unwrap().pid(), pid);
    for number in [1, 2] {
        let text = fs::read(file(number)).unwrap();
        let share = ShareFile::parse(&text).unwrap().share;
        let found = in_memory(pid, share.value());
        assert_eq!(found, 0, "share {number} is there after the ceremony");
    }
}

/// The positive control is the same broker before: its keys lie in ordinary memory, and are found there.
#[test]
fn no_key_is_in_the_brokers_memory_once_it_is_sealed() {
    let scene = Scene::on(plain()).unwrap();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    let pid = scene.bed.broker.as_ref().unwrap().pid();
    scene
        .bed
        .attache_ok(&["key", "rotate", "payments"])
        .unwrap();
    scene.bed.attache_ok(&["key", "rotate", "--root"]).unwrap();
    let keys = keys_of(&scene);
    for (name, key) in &keys {
        assert!(
            in_memory(pid, key) > 0,
            "{name} is not found while it is open"
        );
    }
    scene.bed.attache_ok(&["broker", "seal", "--yes"]).unwrap();
    until(PATIENCE, "the broker is sealed", || {
        let told = scene.bed.attache(&["broker", "status"]).unwrap();
        (told.status.code() == Some(8)).then_some(())
    })
    .unwrap();
    assert_eq!(scene.bed.broker.as_ref().unwrap().pid(), pid);
    for (name, key) in &keys {
        assert_eq!(in_memory(pid, key), 0, "{name} is there after the seal");
    }
}
