//! Keyspaces' keys: rotated under running puts, through kill -9, to their end.
//!
//! The instant of a kill is uniform over the measured length of a re-wrap; the seed is printed, and `ATTACHE_SEED` repeats
//! a run.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    io::{Read, Write},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use attache_tests::{
    Scene,
    bed::NODE,
    fill::{commit_puts, seal_puts},
    kills::{Dice, Length, say},
    pod::Pod,
    process::{PATIENCE, until},
    scene::{PASSWORD, USERNAME},
    wire,
};
use serde_json::{Value, json};

/// Kills of one run.
const ROUNDS: u32 = 36;
/// At least so many of them must hit a re-wrap that is under way.
const MID_HITS: u32 = 8;
/// Secrets beside the scene's own, one value each.
const SECRETS: u64 = 1500;
/// With it they take a second: what is left of one at a kill is still so when the next process is asked.
const RATE: &str = "1500";

/// Name, state and values of each key.
fn keys(scene: &Scene) -> Vec<(String, String, u64)> {
    let told = scene.bed.attache_json(&["key", "list"]).unwrap();
    let all = told["keys"].as_array().unwrap().iter();
    let text = |of: &Value| of.as_str().unwrap().to_owned();
    all.map(|key| {
        (
            text(&key["key"]),
            text(&key["state"]),
            key["values"].as_u64().unwrap(),
        )
    })
    .collect()
}

fn key(name: &str, state: &str, values: u64) -> (String, String, u64) {
    (name.to_owned(), state.to_owned(), values)
}

/// Puts [`SECRETS`] secrets of one value each.
fn fill(scene: &Scene) {
    scene.runtime.block_on(async {
        let channel = wire::operator(&scene.bed).unwrap();
        let sealed = seal_puts(channel.clone(), "fill", SECRETS).await.unwrap();
        commit_puts(channel, 16, sealed).await.unwrap();
    });
}

/// Delivers `payments/db` to a new pod and takes it away again; answers the password that it read.
fn delivered(scene: &Scene, pod: &str) -> String {
    let pod = Pod::new("shop", pod, "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    let password = scene.read(&pod, "db/password").unwrap();
    assert_eq!(scene.read(&pod, "db/username").unwrap(), USERNAME);
    scene.unpublish(&pod).unwrap();
    password
}

#[test]
fn a_key_is_listed_with_the_values_that_it_wraps() {
    let scene = Scene::start().unwrap();
    scene
        .bed
        .attache_ok(&["keyspace", "create", "web"])
        .unwrap();
    assert_eq!(
        keys(&scene),
        [key("payments@1", "active", 2), key("web@1", "active", 0)]
    );
    let told = scene
        .bed
        .attache_ok(&["key", "status", "payments"])
        .unwrap();
    let row: Vec<_> = told.lines().nth(1).unwrap().split_whitespace().collect();
    assert!(
        matches!(
            row.as_slice(),
            ["payments", "payments@1", _, "89d", "2", "2", "0", "-", "-"]
        ),
        "{told}"
    );
    let absent = scene.bed.attache(&["key", "list", "paymnets"]).unwrap();
    assert_eq!(absent.status.code(), Some(5));
}

#[test]
fn a_rotation_ends_and_everything_opens_afterwards() {
    let scene = Scene::start().unwrap();
    let planned = scene
        .bed
        .attache_json(&["key", "rotate", "payments", "--dry-run"])
        .unwrap();
    assert_eq!(
        json!([planned["key"], planned["seq"], planned["dry_run"]]),
        json!(["payments@2", 0, true])
    );
    let rotated = scene
        .bed
        .attache_json(&["key", "rotate", "payments"])
        .unwrap();
    assert_eq!(
        json!([rotated["key"], rotated["previous"], rotated["rewrapped"]]),
        json!(["payments@2", "payments@1", true])
    );
    assert_eq!(
        keys(&scene),
        [
            key("payments@1", "retired", 0),
            key("payments@2", "active", 2)
        ]
    );
    assert_eq!(delivered(&scene, "web-0"), PASSWORD);
    let status = scene
        .bed
        .attache_json(&["key", "status", "payments", "--wait"])
        .unwrap();
    assert_eq!(status["keyspaces"][0]["retired"], json!(["payments@1"]));
    let audit = scene.audit().unwrap();
    for expected in ["key.rotate", "\"kind\":\"retirement\"", "payments@1"] {
        assert!(audit.contains(expected), "{expected}");
    }
    scene.bed.check_store().unwrap();
    let absent = scene.bed.attache(&["key", "rotate", "paymnets"]).unwrap();
    assert_eq!(absent.status.code(), Some(5));
}

#[test]
fn a_key_is_destroyed_once_it_is_retired_and_by_its_name_typed() {
    let scene = Scene::start().unwrap();
    let destroy = |more: &[&str]| {
        let words = [&["key", "destroy", "payments@1"], more].concat();
        scene.bed.attache(&words).unwrap()
    };
    let told = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let active = destroy(&["--yes"]);
    assert_eq!(active.status.code(), Some(5));
    assert!(
        told(&active).contains("only a retired key"),
        "{}",
        told(&active)
    );
    scene
        .bed
        .attache_ok(&["key", "rotate", "payments"])
        .unwrap();
    let none = String::from_utf8_lossy(&destroy(&["--dry-run"]).stdout).into_owned();
    assert!(none.contains("no backup on record has it"), "{none}");
    let file = scene.bed.dir.join("store.backup");
    let create = ["backup", "create", file.to_str().unwrap()];
    scene.bed.attache_ok(&create).unwrap();
    let listed = scene.bed.attache_json(&["backup", "list"]).unwrap();
    let backup = listed.pointer("/backups/0/backup").and_then(Value::as_str);
    let asked = destroy(&[]);
    assert_eq!(asked.status.code(), Some(2), "{}", told(&asked));
    assert_eq!(destroy(&["--dry-run"]).status.code(), Some(0));
    assert_eq!(keys(&scene)[0], key("payments@1", "retired", 0));
    let done = destroy(&["--yes"]);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(said.contains("gone from the live store at seq"), "{said}");
    let has_it = format!("backups on record that have it: {}", backup.unwrap());
    assert!(
        said.contains("recoverable from copies taken before") && said.contains(&has_it),
        "{said}"
    );
    assert_eq!(
        keys(&scene),
        [
            key("payments@1", "destroyed", 0),
            key("payments@2", "active", 2)
        ]
    );
    let audit = scene.audit().unwrap();
    assert!(
        audit.contains("key.destroy") && audit.contains("recoverable from copies taken before")
    );
    assert_eq!(destroy(&["--yes"]).status.code(), Some(5));
    assert_eq!(delivered(&scene, "web-0"), PASSWORD);
    scene.bed.check_store().unwrap();
}

#[test]
fn puts_go_on_while_a_key_is_rotated_and_none_is_lost() {
    let last = rotated_under_puts("0", |last| SECRETS + 2 + last);
    assert!(last > 0);
}

#[test]
fn old_versions_are_pruned_under_puts_and_rotations() {
    // The username, and as many passwords as are kept.
    let last = rotated_under_puts("5", |_| SECRETS + 1 + 5);
    assert!(last > 5, "{last} puts are too few to prune anything");
}

/// Puts versions of one secret while the key is rotated, in a keyspace that keeps so many. In the end the active key wraps as
/// many values as `values` says of the number of puts, which is answered.
fn rotated_under_puts(keeps: &str, values: impl Fn(u64) -> u64) -> u64 {
    let scene = Scene::start().unwrap();
    let set = ["keyspace", "set", "payments", "--max-versions", keeps];
    scene.bed.attache_ok(&set).unwrap();
    fill(&scene);
    let over = AtomicBool::new(false);
    let rotations = 4;
    let last = std::thread::scope(|threads| {
        let putting = threads.spawn(|| {
            let mut last = 0;
            while !over.load(Ordering::Relaxed) {
                last += 1;
                let value = format!("password={last}");
                let words = [
                    "secret",
                    "put",
                    "payments/db",
                    "--quiet",
                    "--literal",
                    &value,
                ];
                scene.bed.attache_ok(&words).unwrap();
            }
            last
        });
        for _ in 0..rotations {
            scene
                .bed
                .attache_ok(&["key", "rotate", "payments"])
                .unwrap();
        }
        over.store(true, Ordering::Relaxed);
        putting.join().unwrap()
    });
    let values = values(last);
    until(PATIENCE, "all of it is under the last key", || {
        (keys(&scene).last() == Some(&key("payments@5", "active", values))).then_some(())
    })
    .unwrap();
    let found = keys(&scene);
    assert!(
        found
            .iter()
            .rev()
            .skip(1)
            .all(|(_, state, _)| state == "retired"),
        "{found:?}"
    );
    assert_eq!(delivered(&scene, "web-0"), last.to_string());
    scene.bed.check_store().unwrap();
    last
}

#[test]
fn of_two_operators_who_rotate_at_once_one_is_told() {
    let scene = Scene::start().unwrap();
    let mut told = 0;
    for _ in 0..10 {
        let rotate = || {
            let words = ["key", "rotate", "payments", "--no-wait", "--quiet"];
            scene.bed.attache(&words).unwrap()
        };
        let outputs = std::thread::scope(|threads| {
            let both = [threads.spawn(rotate), threads.spawn(rotate)];
            both.map(|one| one.join().unwrap())
        });
        for output in outputs {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            match output.status.code() {
                Some(0) => {}
                Some(5) => {
                    assert!(words.contains("somebody else rotated"), "{words}");
                    told += 1;
                }
                other => panic!("{other:?}: {words}"),
            }
        }
        if told > 0 {
            break;
        }
    }
    assert!(told > 0, "no two of them ever met");
    scene
        .bed
        .attache_ok(&["key", "status", "payments", "--wait"])
        .unwrap();
    let active = keys(&scene)
        .into_iter()
        .filter(|(_, state, _)| state == "active");
    assert_eq!(active.count(), 1);
}

#[test]
fn a_rate_is_kept_also_by_the_next_process() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    fill(&scene);
    let begun = Instant::now();
    let rotate = ["key", "rotate", "payments", "--no-wait", "--rate", "400"];
    scene.bed.attache_ok(&rotate).unwrap();
    let rewrap = |scene: &Scene| {
        scene.bed.attache_json(&["key", "status"]).unwrap()["keyspaces"][0]["rewraps"][0].take()
    };
    until(PATIENCE, "a part is wrapped again", || {
        (rewrap(&scene)["done"].as_u64() > Some(0)).then_some(())
    })
    .unwrap();
    scene.bed.broker.take().unwrap().kill().unwrap();
    scene.bed.start_broker().unwrap();
    until(PATIENCE, "the part is known", || {
        (rewrap(&scene)["done"].as_u64() > Some(0)).then_some(())
    })
    .unwrap();
    let now = rewrap(&scene);
    assert_eq!(
        json!([now["key"], now["total"], now["rate"]]),
        json!(["payments@1", SECRETS + 2, 400])
    );
    scene
        .bed
        .attache_ok(&["key", "status", "payments", "--wait"])
        .unwrap();
    let least = Duration::from_millis(1000 * (SECRETS - 400) / 400);
    assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
    assert_eq!(keys(&scene)[0], key("payments@1", "retired", 0));
}

#[test]
fn whoever_waits_for_so_long_is_told_what_is_left() {
    let scene = Scene::start().unwrap();
    fill(&scene);
    let slow = ["key", "rotate", "payments", "--rate", "400", "--wait=1s"];
    let begun = Instant::now();
    let output = scene.bed.attache(&slow).unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{told}");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(
        told.contains("payments@1: ") && told.contains("--wait"),
        "{told}"
    );
    assert_eq!(keys(&scene)[0].1, "decrypt-only");
    // The broker has gone on, and who waits long enough sees the end of both.
    let words = ["key", "rotate", "payments", "--wait=5min"];
    scene.bed.attache_ok(&words).unwrap();
    let retired =
        |found: &[(String, String, u64)]| found.iter().filter(|it| it.1 == "retired").count() == 2;
    assert!(retired(&keys(&scene)), "{:?}", keys(&scene));
}

/// The command line with a terminal; what is written to its input is typed there.
fn on_a_terminal(scene: &Scene, words: &str) -> Child {
    let attache = scene.bed.attache_command().unwrap();
    let line = format!("{} {words}", attache.get_program().to_str().unwrap());
    let environment = attache.get_envs();
    Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .envs(environment.filter_map(|(name, value)| Some((name, value?))))
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// How far a bar says that it is: of its last line, the number before `/total`.
fn shown(screen: &str, total: u64) -> Option<u64> {
    let (before, _) = screen.rsplit_once(&format!("/{total}  "))?;
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[test]
fn a_bar_is_left_with_ctrl_c_and_joined_again_where_it_is() {
    let scene = Scene::start().unwrap();
    fill(&scene);
    let total = SECRETS + 2;
    let mut first = on_a_terminal(&scene, "key rotate payments --rate 200");
    let mut screen = String::new();
    let mut output = first.stdout.take().unwrap();
    let mut some = [0; 4096];
    // Until it has moved.
    while shown(&screen, total).is_none_or(|done| done == 0) {
        let read = output.read(&mut some).unwrap();
        assert_ne!(read, 0, "{screen}");
        screen.push_str(&String::from_utf8_lossy(&some[..read]));
    }
    first.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    output.read_to_string(&mut screen).unwrap();
    let code = first.wait().unwrap().code();
    assert_eq!(code, Some(130), "{screen}");
    assert!(
        screen.contains("/s  ") && screen.contains(" s left"),
        "{screen}"
    );
    assert!(
        screen.contains("attache key status payments --wait"),
        "{screen}"
    );
    assert_eq!(keys(&scene)[0].1, "decrypt-only");
    let left_at = shown(&screen, total).unwrap();

    let joined = on_a_terminal(&scene, "key status payments --wait");
    let joined = joined.wait_with_output().unwrap();
    let screen = String::from_utf8_lossy(&joined.stdout).into_owned();
    assert_eq!(joined.status.code(), Some(0), "{screen}");
    let (first_line, _) = screen.split_once("left").unwrap();
    let at = shown(&format!("{first_line}left"), total);
    assert!(at >= Some(left_at), "{at:?} after {left_at}: {screen}");
    assert_eq!(keys(&scene)[0], key("payments@1", "retired", 0));
}

#[test]
fn kill_9_at_any_instant_of_a_rotation_loses_nothing_and_it_ends() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    fill(&scene);
    let rotate = |scene: &Scene| {
        scene
            .bed
            .attache_ok(&["key", "rotate", "payments", "--no-wait", "--rate", RATE])
    };
    let wait = |scene: &Scene| {
        scene
            .bed
            .attache_ok(&["key", "status", "payments", "--wait"])
    };
    let mut length = Length::default();
    while !length.is_known() {
        let begun = Instant::now();
        rotate(&scene).unwrap();
        wait(&scene).unwrap();
        length.add(begun.elapsed());
    }
    let mut dice = Dice::new().unwrap();
    let seed = dice.seed();
    let mut hits = 0;
    for round in 0..ROUNDS {
        // Every third as fast as it goes, which is over in a moment.
        let words = ["key", "rotate", "payments", "--no-wait", "--rate", RATE];
        let words = words.get(..if round % 3 == 2 { 4 } else { 6 }).unwrap();
        let mut rotating = scene
            .bed
            .attache_command()
            .unwrap()
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        dice.wait(length.now());
        scene.bed.broker.take().unwrap().kill().unwrap();
        rotating.wait().unwrap();
        let restarted = scene.bed.start_broker();
        restarted.unwrap_or_else(|error| panic!("round {round}, seed {seed}: {error:#}"));
        let found = keys(&scene);
        let active = found
            .iter()
            .filter(|(_, state, _)| state == "active")
            .count();
        assert_eq!(active, 1, "round {round}, seed {seed}: {found:?}");
        hits += u32::from(found.iter().any(|(_, state, _)| state == "decrypt-only"));
        if round % 6 == 0 {
            assert_eq!(
                delivered(&scene, &format!("web-{round}")),
                PASSWORD,
                "seed {seed}"
            );
        }
    }
    say(&format!(
        "{hits} of {ROUNDS} kills left a key that was decrypt-only, in {:?}",
        length.now()
    ));
    assert!(
        hits >= MID_HITS,
        "{hits} hits are too few to prove anything"
    );
    wait(&scene).unwrap();
    rotate(&scene).unwrap();
    wait(&scene).unwrap();
    let found = keys(&scene);
    let active = found.iter().filter(|(_, state, _)| state == "active");
    let values: Vec<_> = active.map(|(_, _, values)| *values).collect();
    assert_eq!(values, [SECRETS + 2], "seed {seed}");
    assert!(
        found
            .iter()
            .all(|(_, state, values)| state == "active" || (state == "retired" && *values == 0)),
        "seed {seed}: {found:?}"
    );
    assert_eq!(delivered(&scene, "web-last"), PASSWORD, "seed {seed}");
    scene.bed.check_store().unwrap();
    scene.bed.attache_ok(&["audit", "verify"]).unwrap();
}
