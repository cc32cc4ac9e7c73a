//! A pod that takes another's name is another pod (S5), and a pod that is struck from the list loses its mount.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use attache_broker::attest::facts::POD_KNOWN_FOR;
use attache_tests::{
    kubernetes::{
        Caller, Namespace,
        caller::{AUDIENCE, pod_of},
        cluster::NODES,
        namespace::{asking_for, stubborn},
        stage::{PASSWORD, cluster, granted_namespace},
    },
    pod::{Pod, merge},
    process::until,
};
use serde_json::json;

/// How long kubelet may take to have a pod's end done.
const GONE: Duration = Duration::from_secs(60);

/// Pod 0 of the StatefulSet, when it is ready and is not the one before.
fn pod_zero(namespace: &Namespace, before: Option<&Pod>) -> Result<Pod> {
    let another = || {
        let pod = pod_of(&namespace.get("pod", "db-0").ok()?).ok()?;
        before
            .is_none_or(|before| before.uid != pod.uid)
            .then_some(())
    };
    until(GONE, "db-0 is made", another)?;
    namespace.wait_for("pod/db-0", "condition=Ready")?;
    pod_of(&namespace.get("pod", "db-0")?)
}

#[test]
fn pod_0_made_anew_has_its_secret_and_the_token_of_the_one_before_opens_nothing() -> Result<()> {
    let namespace = granted_namespace("replacement-set")?;
    let mut spec = asking_for("payments/db");
    merge(&mut spec, &json!({ "nodeName": NODES[1] }));
    let labels = json!({ "app": "db" });
    let set = json!({ "apiVersion": "apps/v1", "spec": {
        "serviceName": "db", "replicas": 1, "selector": { "matchLabels": labels },
        "template": { "metadata": { "labels": labels }, "spec": spec },
    } });
    namespace.create_object("StatefulSet", "db", &set)?;
    let old = pod_zero(&namespace, None)?;
    let old_token = namespace.token(AUDIENCE, Some("db-0"))?;
    let node = &cluster().nodes[1];
    let caller = Caller::on(node)?;
    caller.publish(&old, &old_token).context("the control")?;
    let deleted = Instant::now();
    namespace.delete_pod("db-0", &["--wait=false"])?;
    let new = pod_zero(&namespace, Some(&old))?;
    println!(
        "{} ms from the deletion to the next pod 0",
        deleted.elapsed().as_millis()
    );
    assert_eq!(
        namespace.shell("db-0", "cat /secrets/db/password")?,
        PASSWORD
    );

    // For the pod that it was made for, which is gone.
    until(
        POD_KNOWN_FOR * 2,
        "the broker knows that it is gone",
        || {
            let status = caller.refused(&old, &old_token).ok()?;
            status
                .message()
                .contains("has no pod replacement-set/db-0")
                .then_some(())
        },
    )?;
    assert_eq!(node.volumes_of(&old.uid)?, [""; 0]);
    // For the pod that has the name now: its mount is there, and what the token is worth is the volume's condition.
    let trouble_by = |token: &str, wanted: &str| {
        until(GONE, wanted, || {
            caller.publish(&new, token).ok()?;
            let told = caller.trouble(&new).ok()?;
            (told.unwrap_or_default().contains(wanted)).then_some(())
        })
    };
    trouble_by(&old_token, "is not that of the pod's token")?;
    let new_token = namespace.token(AUDIENCE, Some("db-0"))?;
    until(GONE, "the new token mends it", || {
        caller.publish(&new, &new_token).ok()?;
        caller.trouble(&new).ok()?.is_none().then_some(())
    })?;
    assert_eq!(
        namespace.shell("db-0", "cat /secrets/db/password")?,
        PASSWORD
    );
    Ok(())
}

/// The API server has forgotten the pod at once; its processes have not ended yet.
#[test]
fn a_pod_that_was_deleted_by_force_loses_its_mount_when_kubelet_has_ended_it() -> Result<()> {
    let namespace = granted_namespace("replacement-force")?;
    for node in &cluster().nodes {
        let mut spec = stubborn("payments/db");
        merge(&mut spec, &json!({ "nodeName": node.name() }));
        let pod = pod_of(&namespace.start_pod(node.name(), &spec)?)?;
        assert_eq!(node.volumes_of(&pod.uid)?.len(), 1);
        let deleted = Instant::now();
        namespace.delete_pod(node.name(), &["--grace-period=0", "--force"])?;
        node.wait_until_gone(&pod.uid)?;
        println!(
            "{}: {} ms to the mount's end",
            node.name(),
            deleted.elapsed().as_millis()
        );
    }
    Ok(())
}
