//! A pod's mount ends with the pod, by kubelet's word alone: no broker is asked, and the pod may be unknown already.

use std::time::Instant;

use anyhow::Result;
use attache_tests::{
    kubernetes::{
        Namespace, Node,
        caller::pod_of,
        namespace::{asking_for, stubborn},
        stage::{cluster, granted_namespace},
    },
    pod::{Pod, merge},
};
use serde_json::{Value, json};

use crate::{
    alone,
    away::{BrokerAway, KubeletAway},
};

fn start(namespace: &Namespace, node: &Node, mut spec: Value) -> Result<Pod> {
    merge(&mut spec, &json!({ "nodeName": node.name() }));
    let pod = pod_of(&namespace.start_pod("web", &spec)?)?;
    assert_eq!(node.volumes_of(&pod.uid)?.len(), 1);
    Ok(pod)
}

/// Waits until nothing is mounted for the pod; answers after how many milliseconds since `began` that was.
fn gone(node: &Node, pod: &Pod, began: Instant) -> Result<u128> {
    node.wait_until_gone(&pod.uid)?;
    Ok(began.elapsed().as_millis())
}

#[test]
fn without_the_broker_a_deleted_pod_and_one_deleted_by_force_lose_their_mounts() -> Result<()> {
    let _alone = alone();
    let node = &cluster().nodes[1];
    for (name, spec, how) in [
        (
            "loss-plain",
            asking_for("payments/db"),
            &["--wait=false"][..],
        ),
        (
            "loss-force",
            stubborn("payments/db"),
            &["--grace-period=0", "--force"],
        ),
    ] {
        let namespace = granted_namespace(name)?;
        let pod = start(&namespace, node, spec)?;
        let broker = BrokerAway::now()?;
        let deleted = Instant::now();
        namespace.delete_pod("web", how)?;
        let after = gone(node, &pod, deleted)?;
        println!("{name}: {after} ms from the deletion to the mount's end");
        broker.end()?;
    }
    Ok(())
}

/// As when a node is lost, its pods are struck from the list, and it comes back.
#[test]
fn a_node_that_was_lost_takes_the_mount_of_a_pod_away_that_was_struck_meanwhile_without_the_broker()
-> Result<()> {
    let _alone = alone();
    let namespace = granted_namespace("loss-node")?;
    let node = &cluster().nodes[1];
    let pod = start(&namespace, node, asking_for("payments/db"))?;
    let broker = BrokerAway::now()?;
    let kubelet = KubeletAway::now(node)?;
    namespace.delete_pod("web", &["--grace-period=0", "--force"])?;
    assert!(namespace.get("pod", "web").is_err(), "struck");
    assert_eq!(
        node.volumes_of(&pod.uid)?.len(),
        1,
        "nobody has said so there"
    );
    let back = Instant::now();
    kubelet.end()?;
    let after = gone(node, &pod, back)?;
    println!("{after} ms from kubelet's start to the mount's end");
    broker.end().map(drop)
}
