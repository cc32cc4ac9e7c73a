//! Backups of a broker that serves: made, listed, verified, restored, and every fault of their files.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    sync::atomic::{AtomicBool, Ordering},
};

use attache_backup::{Item, Reader};
use attache_proto::attache::v1::{
    self as pb, backups_client::BackupsClient, create_backup_response::Part,
};
use attache_tests::{
    Bed, fill,
    kills::{Dice, Length, say},
    process::{PATIENCE, until},
    wire,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::Value;

/// Rounds of a test that interrupts.
const ROUNDS: u32 = 30;

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// A broker with a few secrets.
fn bed() -> Bed {
    let bed = Bed::signed_in().unwrap();
    bed.attache_ok(&["keyspace", "create", "payments"]).unwrap();
    for number in 0..3 {
        put(&bed, &format!("payments/db-{number}"), "hunter2");
    }
    bed
}

fn put(bed: &Bed, path: &str, value: &str) {
    let field = format!("password={value}");
    bed.attache_ok(&["secret", "put", path, "--quiet", "--literal", &field])
        .unwrap();
}

fn create(bed: &Bed, name: &str) -> (PathBuf, Value) {
    let file = bed.dir.join(name);
    let made = bed
        .attache_json(&["backup", "create", file.to_str().unwrap()])
        .unwrap();
    (file, made)
}

fn verify_offline(bed: &Bed, file: &Path, vkey: &str) -> Output {
    let file = file.to_str().unwrap();
    let args = [
        "backup",
        "verify",
        file,
        "--vkey",
        vkey,
        "--offline",
        "--output",
        "json",
    ];
    bed.attache(&args).unwrap()
}

/// Leaves of this kind in the audit log.
fn leaves(bed: &Bed, kind: &str) -> Vec<Value> {
    let audit = bed
        .attache_ok(&["audit", "tail", "-n", "10000", "--output", "json"])
        .unwrap();
    let leaves = audit
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    leaves.filter(|leaf| leaf["kind"] == kind).collect()
}

type Tables = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

fn tables(file: &Path) -> Tables {
    let mut reader = Reader::new();
    reader.push(&fs::read(file).unwrap());
    let (mut tables, mut table) = (Tables::new(), String::new());
    while let Some(item) = reader.item().unwrap() {
        match item {
            Item::Table(name) => {
                name.clone_into(&mut table);
                tables.insert(table.clone(), BTreeMap::new());
            }
            Item::Row { key, value } => {
                let rows = tables.get_mut(&table).unwrap();
                rows.insert(key.to_vec(), value.to_vec());
            }
            Item::Head(_) | Item::TableEnd | Item::End => {}
        }
    }
    tables
}

#[test]
fn a_backup_is_made_listed_verified_and_on_record() {
    let bed = bed();
    let (file, made) = create(&bed, "store.backup");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let listed = bed.attache_json(&["backup", "list"]).unwrap();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 1);
    let listed = &listed["backups"][0];
    for key in ["backup", "seq", "hash", "size_bytes", "created"] {
        assert_eq!(listed[key], made["backup"][key], "{key}");
    }
    assert_eq!(listed["verified"], Value::Null);

    let outcomes = leaves(&bed, "outcome");
    let outcome = outcomes.last().unwrap();
    assert_eq!(
        outcome["items"]["digest"], made["backup"]["hash"],
        "{outcome}"
    );
    assert!(outcome["items"]["seq"].is_string(), "{outcome}");
    let intents = leaves(&bed, "intent");
    let intent = intents.last().unwrap();
    assert_eq!(intent["items"]["verb"], "backup.create");
    assert_eq!(intent["items"]["object"], made["backup"]["backup"]);

    let vkey = bed.audit_vkey().unwrap();
    let found = bed
        .attache_json(&["backup", "verify", file.to_str().unwrap(), "--vkey", &vkey])
        .unwrap();
    assert_eq!(
        (&found["clean"], &found["recorded"]),
        (&true.into(), &true.into())
    );
    assert_eq!(found["backup"]["hash"], made["backup"]["hash"]);
    let listed = bed.attache_json(&["backup", "list"]).unwrap();
    assert_ne!(listed["backups"][0]["verified"], Value::Null);

    let offline = verify_offline(&bed, &file, &vkey);
    assert_eq!(code(&offline), 0, "{}", said(&offline));
    // Whatever the store says of itself, nothing of it is in clear that was not before.
    let bytes = fs::read(&file).unwrap();
    assert!(!bytes.windows(7).any(|it| it == b"hunter2"));
}

#[test]
fn a_file_that_is_there_is_not_replaced_and_a_dry_run_makes_none() {
    let bed = bed();
    let file = bed.dir.join("store.backup");
    let path = file.to_str().unwrap();
    let would = bed
        .attache_json(&["backup", "create", path, "--dry-run"])
        .unwrap();
    assert_eq!(would["dry_run"], true);
    assert!(!file.exists() && !bed.dir.join("store.backup.part").exists());
    fs::write(&file, "theirs").unwrap();
    let refused = bed.attache(&["backup", "create", path]).unwrap();
    assert_eq!(code(&refused), 5, "{}", said(&refused));
    assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
    assert_eq!(
        bed.attache_json(&["backup", "list"]).unwrap()["backups"],
        Value::Array(vec![])
    );
}

#[test]
fn the_backup_of_another_store_is_found() {
    let (bed, other) = (bed(), Bed::signed_in().unwrap());
    let (file, _) = create(&bed, "store.backup");
    let found = verify_offline(&bed, &file, &other.audit_vkey().unwrap());
    assert_eq!(code(&found), 8, "{}", said(&found));
    assert!(said(&found).contains("not signed"), "{}", said(&found));
}

/// Each is a run of the program: a few hundred bits, and cuts at as many places.
#[test]
fn a_flipped_bit_and_a_cut_anywhere_are_found() {
    let bed = bed();
    let (file, _) = create(&bed, "store.backup");
    let vkey = bed.audit_vkey().unwrap();
    let whole = fs::read(&file).unwrap();
    assert_eq!(code(&verify_offline(&bed, &file, &vkey)), 0);
    let edited = bed.dir.join("edited.backup");
    let mut runner = TestRunner::new(Config::with_cases(300));
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
            let found = verify_offline(&bed, &edited, &vkey);
            prop_assert_eq!(code(&found), 8, "{}", said(&found));
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_backup_under_running_puts_is_of_one_state() {
    let bed = Bed::signed_in().unwrap();
    bed.attache_ok(&["keyspace", "create", "payments"]).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let channel = {
        let _guard = runtime.enter();
        wire::operator(&bed).unwrap()
    };
    let done = AtomicBool::new(false);
    let mut seen = BTreeSet::new();
    std::thread::scope(|scope| {
        let puts = scope.spawn(|| {
            runtime.block_on(async {
                let mut round = 0;
                while !done.load(Ordering::Relaxed) {
                    let puts = fill::seal_puts(channel.clone(), &format!("r{round}"), 50).await;
                    let run = fill::commit_puts(channel.clone(), 8, puts.unwrap()).await;
                    run.unwrap();
                    round += 1;
                }
            });
        });
        for number in 0..10 {
            let (file, made) = create(&bed, &format!("{number}.backup"));
            let tables = tables(&file);
            let keys = |table: &str| tables[table].keys().cloned().collect::<BTreeSet<_>>();
            // A value is its key row, its ciphertext and its place in the index of keys: all of one commit.
            assert_eq!(keys("value-key"), keys("payload"), "backup {number}");
            let indexed: BTreeSet<_> = tables["kek-index"]
                .keys()
                .map(|key| key[16..].to_vec())
                .collect();
            assert_eq!(indexed, keys("payload"), "backup {number}");
            // One version and one value a secret.
            assert_eq!(
                tables["head"].len(),
                tables["payload"].len(),
                "backup {number}"
            );
            assert_eq!(
                tables["head"].len(),
                tables["version"].len(),
                "backup {number}"
            );
            seen.insert(made["backup"]["seq"].as_u64().unwrap());
        }
        done.store(true, Ordering::Relaxed);
        puts.join().unwrap();
    });
    assert!(seen.len() > 5, "nothing was put meanwhile: {seen:?}");
}

/// More than what waits on the way to a reader that does not read.
fn fill_up(bed: &Bed) {
    let value = bed.dir.join("etc/large");
    fs::write(&value, vec![7_u8; 1024 * 1024]).unwrap();
    for number in 0..12 {
        let path = format!("payments/large-{number}");
        let field = format!("value=@{}", value.display());
        bed.attache_ok(&["secret", "put", &path, &field]).unwrap();
    }
}

#[test]
fn one_that_was_broken_off_is_on_record_and_in_no_list() {
    let bed = bed();
    fill_up(&bed);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = BackupsClient::new(wire::operator(&bed).unwrap());
        let request = pb::CreateBackupRequest {
            mutation: Some(pb::Mutation {
                request_id: uuid::Uuid::now_v7().as_bytes().to_vec(),
                dry_run: false,
            }),
            reason: "before the upgrade".into(),
        };
        let mut stream = client.create_backup(request).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap();
        assert!(matches!(first.part, Some(Part::Begun(_))));
        // One at a time.
        let (id, again) = attache_cli::session::mutation(false);
        let again = pb::CreateBackupRequest {
            mutation: again,
            reason: String::new(),
        };
        let refused = client.create_backup(again).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{id}");
    });
    drop(runtime);
    let broken_off = until(PATIENCE, "an outcome", || {
        let outcomes = leaves(&bed, "outcome");
        let reason = outcomes.last()?["items"]["true-reason"]
            .as_str()?
            .to_owned();
        reason.contains("went away").then_some(reason)
    });
    broken_off.unwrap();
    assert_eq!(
        bed.attache_json(&["backup", "list"]).unwrap()["backups"],
        Value::Array(vec![])
    );
    create(&bed, "store.backup");
}

/// Ctrl-C and kill -9 of the command line: FILE is there whole or not at all, and the same command can be run again.
#[test]
fn an_interrupted_create_leaves_a_whole_file_or_none() {
    let bed = bed();
    fill_up(&bed);
    let vkey = bed.audit_vkey().unwrap();
    let file = bed.dir.join("store.backup");
    let part = bed.dir.join("store.backup.part");
    let begin = || {
        let mut command = bed.attache_command().unwrap();
        command.args(["backup", "create", file.to_str().unwrap(), "--quiet"]);
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        command.spawn().unwrap()
    };
    let mut length = Length::default();
    while !length.is_known() {
        let from = std::time::Instant::now();
        assert!(begin().wait().unwrap().success());
        length.add(from.elapsed());
        fs::remove_file(&file).unwrap();
    }
    let mut dice = Dice::new().unwrap();
    let (mut whole, mut interrupted) = (0, 0);
    for round in 0..ROUNDS {
        // What a kill left is of no interest here.
        let _none = fs::remove_file(&part);
        let mut child = begin();
        dice.wait(length.now());
        let kill = round % 2 == 0;
        let signal = if kill {
            rustix::process::Signal::KILL
        } else {
            rustix::process::Signal::INT
        };
        let pid = rustix::process::Pid::from_child(&child);
        let _ended = rustix::process::kill_process(pid, signal);
        let ended = child.wait().unwrap();
        if file.exists() {
            let checked = verify_offline(&bed, &file, &vkey);
            assert_eq!(
                code(&checked),
                0,
                "round {round}, {}: {}",
                dice.seed(),
                said(&checked)
            );
            fs::remove_file(&file).unwrap();
            whole += 1;
        } else {
            assert!(!ended.success(), "round {round}, seed {}", dice.seed());
            interrupted += 1;
        }
        assert!(
            kill || !part.exists(),
            "round {round}, seed {}: Ctrl-C left a part",
            dice.seed()
        );
    }
    say(&format!("{interrupted} interrupted, {whole} whole"));
    assert!(interrupted >= ROUNDS / 4, "too few were under way");
    // The one before may still be on its way out of the broker.
    until(PATIENCE, "the next backup", || {
        bed.attache(&["backup", "create", file.to_str()?])
            .ok()
            .filter(|it| it.status.success())
    })
    .unwrap();
}

/// kill -9 of the broker while it makes a backup: the file is there whole or not at all, its intent is closed at the next
/// start, and the next backup is made.
#[test]
fn a_broker_that_is_killed_under_a_backup_makes_the_next_one() {
    let mut bed = bed();
    fill_up(&bed);
    bed.pin_addresses().unwrap();
    let file = bed.dir.join("store.backup");
    let vkey = bed.audit_vkey().unwrap();
    let mut length = Length::default();
    while !length.is_known() {
        let from = std::time::Instant::now();
        create(&bed, "store.backup");
        length.add(from.elapsed());
        fs::remove_file(&file).unwrap();
    }
    let mut dice = Dice::new().unwrap();
    for round in 0..8 {
        let mut command = bed.attache_command().unwrap();
        command.args(["backup", "create", file.to_str().unwrap(), "--quiet"]);
        command.stdout(std::process::Stdio::null());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        dice.wait(length.now());
        bed.broker.take().unwrap().kill().unwrap();
        child.wait().unwrap();
        if file.exists() {
            let checked = verify_offline(&bed, &file, &vkey);
            assert_eq!(code(&checked), 0, "round {round}, seed {}", dice.seed());
            fs::remove_file(&file).unwrap();
        }
        bed.start_broker().unwrap();
        let (intents, outcomes) = (leaves(&bed, "intent"), leaves(&bed, "outcome"));
        assert_eq!(
            intents.len(),
            outcomes.len(),
            "round {round}, seed {}",
            dice.seed()
        );
        create(&bed, "store.backup");
        fs::remove_file(&file).unwrap();
    }
}
