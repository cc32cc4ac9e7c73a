//! kill -9 of the broker during puts: every acknowledged put is there, none half.
//!
//! The instant is uniform over the measured length of a put; seed and hits in mid-operation are printed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use attache_tests::{Bed, Scene, bed::NODE, pod::Pod};
use serde_json::Value;

const ROUNDS: u32 = 200;
/// At least so many kills must hit a put that is under way.
const MID_HITS: u32 = 60;

/// A small generator with a printed seed (xorshift64*): what matters is that a run can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: Duration) -> Duration {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        Duration::from_nanos(drawn % u64::try_from(limit.as_nanos()).unwrap().max(1))
    }
}

fn put(bed: &Bed, value: &str) -> std::process::Child {
    bed.attache_command()
        .unwrap()
        .args([
            "secret",
            "put",
            "payments/db",
            "--quiet",
            "--literal",
            &format!("password={value}"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn active_version(bed: &Bed) -> u64 {
    let shown: Value = serde_json::from_str(
        &bed.attache_ok(&["secret", "show", "payments/db", "--output", "json"])
            .unwrap(),
    )
    .unwrap();
    shown["active_version"].as_u64().expect("active_version")
}

#[test]
fn an_acknowledged_put_outlives_kill_9() {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    let length = (0..10)
        .map(|i| {
            let from = Instant::now();
            assert!(
                put(&scene.bed, &format!("warm-{i}"))
                    .wait()
                    .unwrap()
                    .success()
            );
            from.elapsed()
        })
        .min()
        .unwrap();
    let seed = u64::from(std::process::id()) | 1 << 40;
    println!("seed {seed}, a put takes {length:?}");
    let mut dice = Dice(seed);
    let (mut hits, mut acknowledged, mut last) = (0, 0, String::new());
    let mut version = active_version(&scene.bed);
    for round in 0..ROUNDS {
        let value = format!("round-{round}");
        let mut cli = put(&scene.bed, &value);
        thread::sleep(dice.below(length));
        let under_way = cli.try_wait().unwrap().is_none();
        hits += u32::from(under_way);
        scene.bed.broker.take().unwrap().kill().unwrap();
        scene
            .bed
            .start_broker()
            .unwrap_or_else(|e| panic!("round {round}, seed {seed}: {e:#}"));
        let done = cli.wait().unwrap().success();
        let now = active_version(&scene.bed);
        if done {
            assert!(
                now > version,
                "round {round}, seed {seed}: acknowledged and not there"
            );
            acknowledged += 1;
            last = value;
        } else if now > version {
            // Not acknowledged and committed all the same: allowed, whole.
            last = value;
        }
        version = now;
    }
    println!("{hits} of {ROUNDS} kills hit a put under way; {acknowledged} puts were acknowledged");
    assert!(
        hits >= MID_HITS,
        "{hits} mid-operation hits are too few to prove anything"
    );
    assert!(acknowledged > 0);
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    assert_eq!(
        scene.read(&pod, "db/password").unwrap(),
        last,
        "seed {seed}"
    );
    let checked =
        std::process::Command::new(attache_tests::process::bin("attache-broker").unwrap())
            .args(["check-store", "--config"])
            .arg(scene.bed.broker_config())
            .output()
            .unwrap();
    assert!(
        checked.status.success(),
        "seed {seed}: {}",
        String::from_utf8_lossy(&checked.stdout)
    );
    scene.bed.attache_ok(&["audit", "verify"]).unwrap();
}
