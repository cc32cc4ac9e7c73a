//! A fault at each step of each verb that changes keys: `kill -9`, a full disk and a failing one, at the n-th write and the
//! n-th sync of the store's file and of the audit log's.
//!
//! ```text
//! verb x (store, log) x (pwrite64, fdatasync) x (kill -9, ENOSPC, EIO) x n = 1 .. until the verb no longer comes so far
//! ```
//! After each the broker is started again and everything opens, a keyspace has one active key, and the verb can be repeated
//! to its end. A run takes [`ROUNDS`] faults by lot; `ATTACHE_STEPS=all` takes all of them, in order.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use attache_tests::{
    Bed,
    independent::open_backup,
    inject::{Effect, Fault, Injection, came_about, with_fault},
    kills::{Dice, say},
    process::{PATIENCE, run, until},
};
use serde_json::Value;

/// Faults of a run that takes them by lot.
const ROUNDS: u32 = 84;
/// At least so many of them must come about.
const CAME_ABOUT: u32 = 50;
/// After it each verb has had its turn.
const LAST: &str = "back up";
/// Writes to the store from which a lot draws: every verb makes some more than that.
const STEPS: u64 = 14;
/// No verb writes more often: one that does is not looked at to its end, which is an error.
const STEPS_MAX: u32 = 80;
/// The environment variable that takes all faults.
const ALL: &str = "ATTACHE_STEPS";

const KILL: Effect = Effect::Kill;
const FULL: Effect = Effect::Fails("ENOSPC");
const BROKEN: Effect = Effect::Fails("EIO");
const EFFECTS: [(&str, Effect); 5] = [
    ("pwrite64", KILL),
    ("fdatasync", KILL),
    ("pwrite64", FULL),
    ("pwrite64", BROKEN),
    ("fdatasync", BROKEN),
];

/// A verb under faults.
struct Verb {
    name: &'static str,
    /// What must be there first; answers the verb's words.
    prepare: fn(&Bed, u32) -> Vec<String>,
    /// Repeats it to its end, or finds it ended.
    settle: fn(&Bed, u32),
}

const VERBS: [Verb; 13] = [
    Verb {
        name: "rotate",
        prepare: |_, _| words("key rotate payments"),
        settle: |bed, _| {
            ok(bed, "key status payments --wait");
            rotated(bed);
        },
    },
    Verb {
        name: "destroy a key",
        prepare: |bed, _| {
            rotated(bed);
            words(&format!("key destroy {} --yes", retired(bed).unwrap()))
        },
        settle: |bed, _| {
            while let Some(key) = retired(bed) {
                ok(bed, &format!("key destroy {key} --yes"));
            }
        },
    },
    Verb {
        name: "rekey",
        prepare: |_, _| words("key rotate --root"),
        settle: |bed, _| ok(bed, "key rotate --root"),
    },
    Verb {
        name: "rotate the MAC key",
        prepare: |_, _| words("key rotate --mac"),
        settle: |bed, _| {
            retagged(bed);
            ok(bed, "key rotate --mac");
            retagged(bed);
        },
    },
    Verb {
        name: "rotate the audit key",
        prepare: |_, _| words("key rotate --audit"),
        settle: |bed, _| {
            ok(bed, "key rotate --audit");
            ok(bed, "audit verify");
        },
    },
    Verb {
        name: "rotate the CA",
        prepare: |_, _| words("key rotate --ca"),
        settle: |bed, _| {
            if cas(bed).len() == 1 {
                ok(bed, "key rotate --ca");
            }
            one_ca(bed);
        },
    },
    Verb {
        name: "drop a CA",
        prepare: |bed, _| {
            ok(bed, "key rotate --ca");
            renewed(bed);
            let before = cas(bed).last().copied().unwrap();
            words(&format!("key rotate --ca --drop {before} --yes"))
        },
        settle: |bed, _| one_ca(bed),
    },
    Verb {
        name: "add a slot",
        prepare: |bed, round| words(&add(bed, round)),
        settle: |bed, round| {
            if !slot(bed, round) {
                let _nothing = fs::remove_file(key_file(bed, round));
                ok(bed, &add(bed, round));
            }
            removed(bed, round);
        },
    },
    Verb {
        name: "remove a slot",
        prepare: |bed, round| {
            ok(bed, &add(bed, round));
            words(&format!("slot remove slot-{round} --yes"))
        },
        settle: |bed, round| {
            if slot(bed, round) {
                removed(bed, round);
            }
        },
    },
    Verb {
        name: "put",
        prepare: |_, round| words(&put(round)),
        settle: |bed, round| ok(bed, &put(round)),
    },
    Verb {
        name: "destroy a version",
        prepare: |bed, round| {
            ok(bed, &put(round));
            ok(bed, &put(round + 1));
            words(&format!(
                "secret destroy payments/db@{} --yes",
                latest(bed) - 1
            ))
        },
        settle: |bed, _| {
            let version = format!("secret destroy payments/db@{} --yes", latest(bed) - 1);
            let again = bed.attache(&borrowed(&words(&version))).unwrap();
            assert!(matches!(again.status.code(), Some(0 | 5)), "{again:?}");
        },
    },
    Verb {
        name: "destroy a keyspace",
        prepare: |bed, round| {
            ok(bed, &format!("keyspace create tenant-{round}"));
            let put = format!("secret put tenant-{round}/db --quiet --literal password=gone");
            ok(bed, &put);
            words(&shred(round))
        },
        settle: |bed, round| {
            let again = bed.attache(&borrowed(&words(&shred(round)))).unwrap();
            assert!(matches!(again.status.code(), Some(0 | 5)), "{again:?}");
            until(PATIENCE, "nothing is left of it", || {
                let told = bed.attache_json(&["keyspace", "list"]).unwrap();
                let all = told["keyspaces"].as_array().unwrap();
                let name = format!("tenant-{round}");
                let it = all.iter().find(|it| it["name"] == name)?;
                (it["state"] == "destroyed").then_some(())
            })
            .unwrap();
        },
    },
    Verb {
        name: "back up",
        prepare: |bed, round| words(&back_up(bed, round)),
        settle: |bed, round| {
            if !backup_file(bed, round).exists() {
                ok(bed, &back_up(bed, round));
            }
            let file = backup_file(bed, round);
            ok(bed, &format!("backup verify {}", file.display()));
            fs::remove_file(file).unwrap();
        },
    },
];

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn ok(bed: &Bed, text: &str) {
    bed.attache_ok(&borrowed(&words(text))).unwrap();
}

fn put(round: u32) -> String {
    format!("secret put payments/db --quiet --literal password=round-{round}")
}

fn latest(bed: &Bed) -> u64 {
    let shown = bed
        .attache_json(&["secret", "show", "payments/db"])
        .unwrap();
    shown["latest_version"].as_u64().unwrap()
}

fn shred(round: u32) -> String {
    format!("keyspace destroy tenant-{round} --yes")
}

fn key_file(bed: &Bed, round: u32) -> PathBuf {
    bed.dir.join(format!("etc/slot-{round}.key"))
}

fn add(bed: &Bed, round: u32) -> String {
    let file = key_file(bed, round);
    format!(
        "slot add key-file --name slot-{round} --out {}",
        file.display()
    )
}

fn slot(bed: &Bed, round: u32) -> bool {
    let listed = bed.attache_json(&["slot", "list"]).unwrap();
    let name = format!("slot-{round}");
    let slots = listed["slots"].as_array().unwrap();
    slots.iter().any(|slot| slot["name"] == name)
}

/// The slot opens by its file, and goes.
fn removed(bed: &Bed, round: u32) {
    let file = key_file(bed, round);
    ok(
        bed,
        &format!("slot verify slot-{round} --key-file {}", file.display()),
    );
    ok(bed, &format!("slot remove slot-{round} --yes"));
    fs::remove_file(file).unwrap();
}

fn backup_file(bed: &Bed, round: u32) -> PathBuf {
    bed.dir.join(format!("store-{round}.backup"))
}

fn back_up(bed: &Bed, round: u32) -> String {
    format!("backup create {}", backup_file(bed, round).display())
}

fn rotated(bed: &Bed) {
    ok(bed, "key rotate payments");
    ok(bed, "key status payments --wait");
}

/// Every row has a tag of the active key.
fn retagged(bed: &Bed) {
    until(PATIENCE, "every row is tagged anew", || {
        let told = bed.attache_json(&["key", "status", "--mac"]).unwrap();
        assert_eq!(told["problem"], Value::Null, "{told}");
        (told["before"].as_array().unwrap().is_empty()).then_some(())
    })
    .unwrap();
}

/// The epochs of the CAs, the active one first.
fn cas(bed: &Bed) -> Vec<u64> {
    let told = bed.attache_json(&["key", "status", "--ca"]).unwrap();
    let cas = told["cas"].as_array().unwrap().iter();
    cas.map(|ca| ca["epoch"].as_u64().unwrap()).collect()
}

/// The operator's certificate is of the active CA, and so is the one before it.
fn renewed(bed: &Bed) {
    for _ in 0..2 {
        ok(bed, "login");
        ok(bed, "status");
    }
}

/// The CA before is dropped, by us or by the broker itself.
fn one_ca(bed: &Bed) {
    renewed(bed);
    if let [_, before] = cas(bed)[..] {
        let drop = format!("key rotate --ca --drop {before} --yes");
        let dropped = bed.attache(&borrowed(&words(&drop))).unwrap();
        assert!(matches!(dropped.status.code(), Some(0 | 5)), "{dropped:?}");
    }
    assert_eq!(cas(bed).len(), 1);
}

fn keys(bed: &Bed, state: &str) -> Vec<Value> {
    let told = bed.attache_json(&["key", "list"]).unwrap();
    let keys = told["keys"].as_array().unwrap().iter();
    let of_payments = keys.filter(|key| key["key"].as_str().unwrap().starts_with("payments@"));
    of_payments
        .filter(|key| key["state"] == state)
        .cloned()
        .collect()
}

fn retired(bed: &Bed) -> Option<String> {
    Some(keys(bed, "retired").first()?["key"].as_str()?.to_owned())
}

/// A broker with an operator, two secrets, and where it listens held fast.
fn bed() -> Bed {
    let bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    ok(&bed, "keyspace create payments");
    ok(&bed, "secret put payments/other --literal name=kept");
    ok(&bed, &put(0));
    bed
}

/// The store's file, or those of the log.
fn files(bed: &Bed, of_log: bool) -> Vec<PathBuf> {
    if !of_log {
        return vec![bed.store_dir().join("store.redb")];
    }
    let (mut found, mut folders) = (Vec::new(), vec![bed.audit_dir()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let into = if path.is_dir() {
                &mut folders
            } else {
                &mut found
            };
            into.push(path);
        }
    }
    found
}

fn start(bed: &Bed, words: &[String]) -> Child {
    let mut command = bed.attache_command().unwrap();
    command.args(words).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Waits for a command's end, and starts the broker again when it is found ended meanwhile.
fn ended(bed: &mut Bed, cli: &mut Child, case: &str) {
    let deadline = Instant::now() + PATIENCE;
    while cli.try_wait().unwrap().is_none() {
        revived(bed, case);
        assert!(
            Instant::now() < deadline,
            "{case}: the command does not end"
        );
        thread::sleep(Duration::from_millis(5));
    }
    revived(bed, case);
}

fn revived(bed: &mut Bed, case: &str) {
    if !bed.broker.as_mut().unwrap().runs() {
        bed.broker = None;
        bed.start_broker()
            .unwrap_or_else(|why| panic!("{case}: {why:#}"));
    }
}

/// A process that was ended by a fault is started again; one that a fault must end is waited for.
fn over(bed: &mut Bed, faulty: u32, case: &str) {
    until(PATIENCE, "the broker has ended", || {
        let broker = bed.broker.as_mut().unwrap();
        (broker.pid() != faulty || !broker.runs()).then_some(())
    })
    .unwrap_or_else(|error| panic!("{case}: {error:#}"));
    revived(bed, case);
}

/// One verb under one fault. Answers whether the fault came about.
fn under(bed: &mut Bed, verb: &Verb, round: u32, fault: &Fault) -> bool {
    let case = format!("{}, {fault}, round {round}", verb.name);
    let words = (verb.prepare)(bed, round);
    let pid = bed.broker.as_ref().unwrap().pid();
    let injection = Injection::into_process(pid, fault, &bed.dir).unwrap();
    let mut cli = start(bed, &words);
    ended(bed, &mut cli, &case);
    // What comes about until it is out counts: the broker that is settled with has no fault in it any more.
    let came_about = injection.take_out().unwrap();
    if came_about {
        // Where a write of the store or of a segment that has its room fails, the process ends by design.
        over(bed, pid, &case);
        sound(bed, &case);
    }
    (verb.settle)(bed, round);
    if came_about {
        sound(bed, &case);
        bed.attache_ok(&["audit", "verify"])
            .unwrap_or_else(|error| panic!("{case}: {error:#}"));
    }
    came_about
}

/// Every row and payload is as it was written, and one key is active.
fn sound(bed: &Bed, case: &str) {
    bed.check_store()
        .unwrap_or_else(|found| panic!("{case}: {found:#}"));
    let active = keys(bed, "active");
    assert_eq!(active.len(), 1, "{case}: {active:?}");
    let told = fs::read_to_string(bed.dir.join("log/broker.log")).unwrap();
    assert!(!told.contains("panicked"), "{case}: {told}");
}

/// Every value opens to what was put, by the slot's key file and the formats alone: keys are unwrapped that no check of rows needs.
fn opens(bed: &Bed, after: &str) {
    let file = bed.dir.join("opens.backup");
    ok(bed, &format!("backup create {}", file.display()));
    let opened = open_backup(&file, &[bed.key_file()]).unwrap();
    let said = String::from_utf8_lossy(&opened.stderr);
    assert!(opened.status.success(), "after {after}: {said}");
    fs::remove_file(file).unwrap();
    let opened: Value = serde_json::from_slice(&opened.stdout).unwrap();
    let secrets = &opened["secrets"];
    let kept = &secrets["payments/other"]["1"]["name"];
    assert_eq!(*kept, hex::encode("kept"), "after {after}");
    let newest = &secrets["payments/db"][latest(bed).to_string()]["password"];
    let newest = newest.as_str().unwrap_or_default();
    assert!(newest.starts_with(&hex::encode("round-")), "after {after}");
}

/// How many faults came about, by verb and effect.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, [u32; 3]>);

impl Tally {
    const EFFECTS: [Effect; 3] = [KILL, FULL, BROKEN];

    fn add(&mut self, verb: &'static str, effect: Effect, faults: u32) {
        let counts = self.0.entry(verb).or_default();
        for (count, of) in counts.iter_mut().zip(Self::EFFECTS) {
            *count += if of == effect { faults } else { 0 };
        }
    }

    /// Of all verbs together, by effect.
    fn sums(&self) -> [u32; 3] {
        let all = self.0.values();
        all.fold([0; 3], |[a, b, c], [x, y, z]| [a + x, b + y, c + z])
    }

    fn sum(&self) -> u32 {
        self.sums().iter().sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sums = self.sums();
        let rows = self.0.iter().map(|(verb, counts)| (*verb, counts));
        write!(f, "{:24}{:>8}{:>8}{:>8}", "", "kill -9", "ENOSPC", "EIO")?;
        for (verb, [killed, full, broken]) in rows.chain([("all", &sums)]) {
            write!(f, "\n{verb:24}{killed:>8}{full:>8}{broken:>8}")?;
        }
        Ok(())
    }
}

/// Each fault of each verb, in order.
fn all(bed: &mut Bed) -> Tally {
    let (mut round, mut faults) = (0, Tally::default());
    for verb in &VERBS {
        for of_log in [false, true] {
            for (call, effect) in EFFECTS {
                let mut steps = 0;
                for nth in 1..=STEPS_MAX {
                    let files = files(bed, of_log);
                    let fault = Fault {
                        call,
                        files,
                        nth,
                        effect,
                    };
                    round += 1;
                    if !under(bed, verb, round, &fault) {
                        break;
                    }
                    steps = nth;
                }
                assert!(
                    steps < STEPS_MAX,
                    "{}: more steps than are looked at",
                    verb.name
                );
                faults.add(verb.name, effect, steps);
                let file = if of_log { "log" } else { "store" };
                let what = Fault {
                    call,
                    files: Vec::new(),
                    nth: steps,
                    effect,
                };
                say(&format!("{}: {file}, up to {what}", verb.name));
            }
        }
        opens(bed, verb.name);
    }
    faults
}

/// Faults by lot, the same number of each verb.
fn by_lot(bed: &mut Bed) -> Tally {
    let mut dice = Dice::new().unwrap();
    let mut faults = Tally::default();
    for (round, verb) in (1..=ROUNDS).zip(VERBS.iter().cycle()) {
        let drawn = usize::try_from(dice.below(EFFECTS.len() as u64)).unwrap();
        let (call, effect) = EFFECTS[drawn];
        let of_log = dice.below(2) == 1;
        let steps = if of_log || call == "fdatasync" {
            2
        } else {
            STEPS
        };
        let fault = Fault {
            call,
            files: files(bed, of_log),
            nth: 1 + u32::try_from(dice.below(steps)).unwrap(),
            effect,
        };
        let came_about = under(bed, verb, round, &fault);
        faults.add(verb.name, effect, u32::from(came_about));
        if verb.name == LAST || round == ROUNDS {
            opens(bed, &format!("round {round}"));
        }
    }
    assert!(
        faults.sum() >= CAME_ABOUT && faults.sums().iter().all(|of_effect| *of_effect > 0),
        "too few to prove anything:\n{faults}"
    );
    faults
}

#[test]
fn a_fault_at_any_step_of_a_verb_loses_nothing_and_it_can_be_repeated_to_its_end() {
    let mut bed = bed();
    let begun = Instant::now();
    let faults = if std::env::var(ALL).is_ok_and(|all| all == "all") {
        all(&mut bed)
    } else {
        by_lot(&mut bed)
    };
    say(&format!(
        "{} faults came about, in {:?}:\n{faults}",
        faults.sum(),
        begun.elapsed()
    ));
}

fn broker(bed: &Bed, args: &[&str]) -> Command {
    bed.broker_command(args).unwrap()
}

fn succeeds(output: &Output) {
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

/// A restore is one rename at its end: whatever happens before, it can be run again. A store that stands is whole.
#[test]
fn a_fault_at_any_step_of_a_restore_leaves_no_store_or_a_whole_one_and_it_can_be_run_again() {
    let mut bed = bed();
    ok(&bed, &back_up(&bed, 0));
    let backup = backup_file(&bed, 0);
    bed.broker.take().unwrap().stop().unwrap();
    let restore = ["restore", backup.to_str().unwrap()];
    let store = bed.store_dir().join("store.redb");
    let told = bed.dir.join("strace.calls");
    fs::remove_file(&store).unwrap();
    let (mut faults, mut harmless) = (Tally::default(), 0);
    for (call, effect) in EFFECTS
        .into_iter()
        .chain([("renameat2", KILL), ("fsync", KILL)])
    {
        for nth in 1..=STEPS_MAX {
            let fault = Fault {
                call,
                files: Vec::new(),
                nth,
                effect,
            };
            let output = run(&mut with_fault(&broker(&bed, &restore), &fault, &told)).unwrap();
            if !came_about(&fs::read_to_string(&told).unwrap()) {
                succeeds(&output);
                fs::remove_file(&store).unwrap();
                say(&format!("restore: {} {call}, {effect:?}", nth - 1));
                break;
            }
            assert!(nth < STEPS_MAX, "restore: more steps than are looked at");
            faults.add("restore", effect, 1);
            let case = format!("restore, {fault}");
            let said = String::from_utf8_lossy(&output.stderr);
            // Killed past the rename it is restored too, whatever became of the words that say so.
            let killed = output.status.code().is_none();
            let (done, stands) = (output.status.success(), store.exists());
            assert!(killed || done == stands, "{case}: {said}");
            if stands {
                let checked = bed.check_store();
                let checked = checked.unwrap_or_else(|found| panic!("{case}: {found:#}"));
                assert!(checked.contains(" 0 findings"), "{case}: {checked}");
                fs::remove_file(&store).unwrap();
            }
            harmless += u32::from(done);
        }
    }
    // At its close a store writes what spares the next one who opens it a repair.
    say(&format!(
        "{faults}\n{harmless} of them did no harm: the store was repaired when it was opened"
    ));
    assert!(harmless < faults.sum() / 4, "{harmless} of\n{faults}");
    assert!(faults.sum() > 20, "{faults}");
    succeeds(&run(&mut broker(&bed, &restore)).unwrap());
    bed.start_broker().unwrap();
    sound(&bed, "restored");
    opens(&bed, "a restore");
}
