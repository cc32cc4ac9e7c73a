//! What scenarios look at: the volumes of a node, and what a pod finds in its own.

#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a scenario tells how long things took, and reads objects of the API server"
)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use attache_tests::{
    kubernetes::{
        Namespace, Node,
        namespace::asking_for,
        node::PODS_FOLDER,
        stage::{cluster, installation, namespace_with_secret, put_password},
    },
    mounts::{self, Mount},
    pod::merge,
    process::until,
};
use serde_json::{Value, json};

/// How long a changed secret may take, and a mount to go.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A namespace with a secret of its own, once nothing is left of the scenario before: no namespace or pod that is ending, no volume.
pub(crate) fn fresh(name: &str) -> Result<Namespace> {
    until(PATIENCE, "nothing is ending", || {
        let all = ["get", "namespaces,pods", "--all-namespaces"];
        let found = cluster().kubectl().json(&all).ok()?;
        let mut objects = found["items"].as_array()?.iter();
        objects
            .all(|object| object["metadata"]["deletionTimestamp"].is_null())
            .then_some(())
    })?;
    let namespace = namespace_with_secret(name)?;
    for node in &cluster().nodes {
        one_mount_each(node, &namespace, &[])?;
    }
    Ok(namespace)
}

/// A pod on a node that has `payments/NAMESPACE`.
pub(crate) fn pod_on(node: &Node, namespace: &Namespace) -> Value {
    let mut spec = asking_for(&format!("payments/{}", namespace.name));
    merge(&mut spec, &json!({ "nodeName": node.name() }));
    spec
}

/// What a pod finds in its volume: the mount with its id, and each file's name, inode, owner and time.
pub(crate) fn found_in(namespace: &Namespace, pod: &str) -> Result<String> {
    let look = "grep ' /secrets ' /proc/self/mountinfo && ls -lainR --full-time /secrets";
    namespace.shell(pod, look)
}

/// The password that a pod finds.
pub(crate) fn password_in(namespace: &Namespace, pod: &str) -> Result<String> {
    namespace.shell(pod, &format!("cat /secrets/{}/password", namespace.name))
}

/// Waits until the volumes of the node are those of these pods, one mount each; answers them.
pub(crate) fn one_mount_each(
    node: &Node,
    namespace: &Namespace,
    pods: &[&str],
) -> Result<Vec<Mount>> {
    let mut targets = Vec::new();
    for pod in pods {
        let pod = namespace.get("pod", pod)?;
        let uid = pod["metadata"]["uid"].as_str().context("a pod has a uid")?;
        targets.push(format!(
            "{PODS_FOLDER}/{uid}/volumes/kubernetes.io~csi/secrets/mount"
        ));
    }
    targets.sort();
    let mut found = Vec::new();
    until(
        PATIENCE,
        "each pod has one mount and there is no other",
        || {
            found = node.volumes().ok()?;
            found.sort_by(|a, b| a.point.cmp(&b.point));
            let points = found.iter().map(|mount| mount.point.display().to_string());
            points.eq(targets.iter().cloned()).then_some(())
        },
    )
    .with_context(|| format!("wanted {targets:#?}, found {found:#?}"))?;
    Ok(found)
}

/// In how many mount namespaces of this machine a pod's volume is: the node's, the mounter's, the container's.
pub(crate) const COPIES: usize = 3;

/// In how many it is.
pub(crate) fn copies(volume: &Mount) -> Result<usize> {
    Ok(mounts::anywhere(std::slice::from_ref(&volume.source))?.len())
}

/// How many mounts the node has of each kind of file system.
pub(crate) fn census(node: &Node) -> Result<BTreeMap<String, usize>> {
    let mut census = BTreeMap::new();
    for mount in node.machine.mounts()? {
        *census.entry(mount.kind).or_default() += 1;
    }
    Ok(census)
}

/// Gives `payments/NAME` another password when the broker can be reached again: the way to it ends with its pod or its node.
pub(crate) fn put_once_reached(name: &str, password: &str) -> Result<()> {
    until(PATIENCE, "the broker answers", || {
        let status = installation().attache(&["status"]).ok()?;
        status.status.success().then_some(())
    })?;
    put_password(name, password)
}

/// Waits until a running pod has another password in the mount that it had before.
pub(crate) fn refreshed(namespace: &Namespace, pod: &str, password: &str) -> Result<()> {
    let mount = |pod: &str| namespace.shell(pod, "grep ' /secrets ' /proc/self/mountinfo");
    let (from, before) = (Instant::now(), mount(pod)?);
    namespace.touch(pod)?;
    until(PATIENCE, &format!("{pod} has the changed secret"), || {
        (password_in(namespace, pod).ok()? == password).then_some(())
    })?;
    println!("{pod}: {:?} from the change to the file", from.elapsed());
    assert_eq!(mount(pod)?, before);
    Ok(())
}
