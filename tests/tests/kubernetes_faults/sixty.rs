//! What a volume of ours costs a pod's start, beside an emptyDir in the same run: sixty pods at once, and one after the other.
//!
//! The figures are printed and not held against a bound. On an idle machine they are worth something:
//! `ATTACHE_SINGLE_PODS=30 cargo test --release -p attache-tests --test kubernetes_faults sixty -- --nocapture`.

#![expect(
    clippy::indexing_slicing,
    reason = "a scenario bends objects of the API server"
)]

use std::{
    env, fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use attache_tests::{
    kubernetes::{
        Namespace,
        cluster::NODES,
        namespace::asking_for,
        stage::{cluster, granted_namespace},
    },
    measure::{self, Run},
    pod::merge,
};
use serde_json::{Value, json};

use crate::alone;

/// Pods that are made at once.
const CROWD: usize = 60;
/// Pods of each kind that start alone, unless `ATTACHE_SINGLE_PODS` says another number.
const SINGLE: usize = 5;

/// What the pods differ by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    EmptyDir,
    Ours,
}

/// Ours first: whoever is first finds caches cold.
const KINDS: [Kind; 2] = [Kind::Ours, Kind::EmptyDir];

/// A pod that notes when its first command ran, on the clock of `/proc/uptime`; without its secret it would end.
fn spec(kind: Kind, node: &str) -> Value {
    let mut spec = asking_for("payments/db");
    merge(&mut spec, &json!({ "nodeName": node }));
    let check = match kind {
        Kind::Ours => "test -s /secrets/db/password || exit 1",
        Kind::EmptyDir => {
            spec["volumes"] = json!([{ "name": "secrets", "emptyDir": {} }]);
            "test -d /secrets || exit 1"
        }
    };
    let note = "cut -d' ' -f1 /proc/uptime >/dev/termination-log";
    let stay = "trap 'exit 0' TERM; sleep 2147483647 & wait";
    let line = format!("{note}; {check}; {stay}");
    spec["containers"][0]["command"] = json!(["/bin/sh", "-c", line]);
    spec
}

/// Since the machine was started.
fn uptime(text: &str) -> Result<Duration> {
    let seconds = text.split_whitespace().next().context("a number")?;
    Ok(Duration::from_secs_f64(seconds.parse()?))
}

/// The time from asking for a pod to its first command.
fn start_alone(namespace: &Namespace, name: &str, kind: Kind) -> Result<Duration> {
    let asked = uptime(&fs::read_to_string("/proc/uptime")?)?;
    namespace.start_pod(name, &spec(kind, NODES[1]))?;
    let ran = uptime(&namespace.shell(name, "cat /dev/termination-log")?)?;
    end_all(namespace)?;
    Ok(ran.saturating_sub(asked))
}

/// The time from asking for sixty pods to all of them being ready, as the API server says.
fn start_crowd(namespace: &Namespace, kind: Kind) -> Result<Duration> {
    let pods = (0..CROWD).map(|number| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": namespace.name, "name": format!("web-{number}") },
            "spec": spec(kind, NODES[number % NODES.len()]),
        })
    });
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": pods.collect::<Vec<_>>() });
    let file = tempfile::NamedTempFile::new()?;
    fs::write(&file, serde_json::to_vec(&list)?)?;
    let path = file.path().to_str().context("a path of text")?;
    let asked = Instant::now();
    cluster().kubectl().run(&["create", "-f", path])?;
    let ready = ["--all", "--for=condition=Ready", "--timeout=300s"];
    let wait = ["wait", "pods", "-n", &namespace.name];
    cluster().kubectl().run(&[&wait[..], &ready].concat())?;
    let took = asked.elapsed();
    end_all(namespace)?;
    Ok(took)
}

fn end_all(namespace: &Namespace) -> Result<()> {
    let args = [
        "delete",
        "pods",
        "-n",
        &namespace.name,
        "--all",
        "--timeout=300s",
    ];
    cluster().kubectl().run(&args)?;
    Ok(())
}

#[test]
fn sixty_pods_at_once_on_two_nodes_all_run() -> Result<()> {
    let _alone = alone();
    let namespace = granted_namespace("sixty-crowd")?;
    println!("{}", measure::machine()?);
    for kind in KINDS {
        let took = start_crowd(&namespace, kind)?;
        println!("{CROWD} pods with {kind:?}: all ready after {took:?}");
    }
    Ok(())
}

#[test]
fn a_pod_start_is_measured_beside_that_of_a_pod_with_an_empty_dir() -> Result<()> {
    let _alone = alone();
    let namespace = granted_namespace("sixty-single")?;
    let single = match env::var("ATTACHE_SINGLE_PODS") {
        Ok(number) => number.parse()?,
        Err(_) => SINGLE,
    };
    println!("{}", measure::machine()?);
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..single {
        for (kind, times) in KINDS.into_iter().zip(&mut times) {
            times.push(start_alone(&namespace, &format!("web-{number}"), kind)?);
        }
    }
    for (kind, times) in KINDS.into_iter().zip(times) {
        let run = Run::of(times);
        let [p50, p90] = [50, 90].map(|percent| run.percentile_us(percent) / 1e3);
        println!(
            "{single} pods with {kind:?}, one after the other: first command after {p50:.0} ms (p50), {p90:.0} ms (p90)"
        );
    }
    Ok(())
}
