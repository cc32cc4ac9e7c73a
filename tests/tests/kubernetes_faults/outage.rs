//! The broker goes away and comes back: what runs goes on, what starts waits.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use attache_tests::{
    kubernetes::{
        Namespace,
        cluster::NODES,
        installation::NAMESPACE,
        namespace::asking_for,
        stage::{PASSWORD, cluster, granted_namespace},
    },
    pod::merge,
    process::until,
};
use serde_json::{Value, json};

use crate::{
    alone,
    away::{BrokerAway, BrokerReplaced, KubeletAway},
};

/// So many pods are made on each node while the broker is deleted.
const PODS: usize = 8;
/// How long a crashed container may take to run again.
const AGAIN: Duration = Duration::from_secs(120);

/// The spec of a pod of a node that has the secret.
fn on(node: &str) -> Value {
    let mut spec = asking_for("payments/db");
    merge(&mut spec, &json!({ "nodeName": node }));
    spec
}

fn read(namespace: &Namespace, pod: &str) -> Result<()> {
    let seen = namespace.shell(pod, "cat /secrets/db/password")?;
    assert_eq!(seen, PASSWORD, "{pod}");
    Ok(())
}

#[test]
fn a_pod_that_starts_while_the_broker_restarts_has_its_secret_in_the_end() -> Result<()> {
    let _alone = alone();
    let namespace = granted_namespace("outage-restart")?;
    let broker = BrokerReplaced::now()?;
    broker.gone()?;
    namespace.start_pod("web", &asking_for("payments/db"))?;
    read(&namespace, "web")
}

#[test]
fn under_load_the_broker_is_deleted_and_running_pods_keep_their_files_and_new_ones_all_start()
-> Result<()> {
    let _alone = alone();
    let namespace = granted_namespace("outage-load")?;
    for node in NODES {
        namespace.start_pod(node, &on(node))?;
    }
    let began = Instant::now();
    let make = |node: &'static str| {
        let namespace = &namespace;
        move || -> Result<()> {
            for number in 0..PODS {
                let name = format!("{node}-{number}");
                namespace.create_object("Pod", &name, &json!({ "spec": on(node) }))?;
            }
            Ok(())
        }
    };
    let back = thread::scope(|scope| -> Result<Duration> {
        let making = NODES.map(|node| scope.spawn(make(node)));
        until(AGAIN, "pods are being made", || {
            namespace.get("pod", "node-a-1").is_ok().then_some(())
        })?;
        let deleted = Instant::now();
        let broker = BrokerReplaced::now()?;
        for node in NODES {
            read(&namespace, node)?;
        }
        for making in making {
            making
                .join()
                .map_err(|_| anyhow!("making pods panicked"))??;
        }
        for node in NODES {
            read(&namespace, node)?;
        }
        broker.back()?;
        Ok(deleted.elapsed())
    })?;
    println!(
        "{} ms from the broker's deletion until it was ready again",
        back.as_millis()
    );
    for pod in NODES
        .iter()
        .flat_map(|node| (0..PODS).map(move |number| format!("{node}-{number}")))
    {
        namespace.wait_for(&format!("pod/{pod}"), "condition=Ready")?;
        read(&namespace, &pod)?;
        let status = namespace.get("pod", &pod)?;
        assert_eq!(status["status"]["phase"], json!("Running"), "{pod}");
    }
    // Without one that had to wait, this would have shown nothing.
    let waited = waited(&namespace)?;
    assert!(waited > 0, "no pod met the outage");
    println!("{waited} of {} pods met the outage", 2 * PODS);
    println!(
        "{} ms from the first apply until all {} pods had read",
        began.elapsed().as_millis(),
        2 * PODS
    );
    for node in NODES {
        read(&namespace, node)?;
        let pod = namespace.get("pod", node)?;
        assert_eq!(restarts(&pod), Some(0), "{node}");
    }
    Ok(())
}

/// After its own restart kubelet has every volume published again before it restarts a container of the pod: the plugin
/// answers for what is mounted and whole from its own record.
#[test]
fn a_container_that_crashes_after_kubelets_restart_runs_again_while_the_broker_is_away()
-> Result<()> {
    let _alone = alone();
    let namespace = granted_namespace("outage-crash")?;
    let node = &cluster().nodes[1];
    let pod = namespace.start_pod("web", &on(node.name()))?;
    let uid = pod["metadata"]["uid"].as_str().context("a uid")?;
    let broker = BrokerAway::now()?;
    KubeletAway::now(node)?.end()?;
    until(AGAIN, "kubelet knows the pod again", || {
        namespace.shell("web", "true").ok()
    })?;
    let crashed = Instant::now();
    // It may end the very shell that says it.
    namespace.exec("web", "kill 1")?;
    until(AGAIN, "the container runs again", || {
        let pod = namespace.get("pod", "web").ok()?;
        let running = pod
            .pointer("/status/containerStatuses/0/state/running")
            .is_some();
        (restarts(&pod) == Some(1) && running).then_some(())
    })?;
    read(&namespace, "web")?;
    println!(
        "{} ms from the crash until the container read again, without a broker",
        crashed.elapsed().as_millis()
    );
    assert!(broker_pods()?.is_empty(), "the broker is away all the time");
    assert_eq!(node.volumes_of(uid)?.len(), 1);

    // A pod that starts meanwhile waits, and starts then.
    namespace.create_object("Pod", "late", &json!({ "spec": on(node.name()) }))?;
    until(AGAIN, "its mount is tried", || {
        let events = namespace.events("late").ok()?;
        events
            .into_iter()
            .find(|event| event.reason == "FailedMount")
    })?;
    println!(
        "{} ms until the broker was ready again",
        broker.end()?.as_millis()
    );
    let back = Instant::now();
    namespace.wait_for("pod/late", "condition=Ready")?;
    println!(
        "{} ms more until the waiting pod ran",
        back.elapsed().as_millis()
    );
    read(&namespace, "late")
}

/// How many pods of a namespace were once told that their volume cannot be mounted now.
fn waited(namespace: &Namespace) -> Result<usize> {
    let selector = "--field-selector=reason=FailedMount";
    let path = "-o=jsonpath={.items[*].involvedObject.name}";
    let args = ["get", "events", "-n", &namespace.name, selector, path];
    let names = cluster().kubectl().run(&args)?;
    let pods: BTreeSet<&str> = names.split_whitespace().collect();
    Ok(pods.len())
}

/// How often the first container of a pod was started again.
fn restarts(pod: &Value) -> Option<u64> {
    pod.pointer("/status/containerStatuses/0/restartCount")?
        .as_u64()
}

fn broker_pods() -> Result<String> {
    let broker = "app.kubernetes.io/name=attache-broker";
    cluster()
        .kubectl()
        .run(&["get", "pods", "-n", NAMESPACE, "-l", broker, "-o", "name"])
}
