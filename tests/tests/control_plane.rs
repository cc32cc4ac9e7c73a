//! What the harness promises of an API server: a real one, and gone with its owner.

use anyhow::{Context, Result};
use attache_tests::kubernetes::{ControlPlane, NEWEST, cgroup::Cgroup};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64URL};
use serde_json::{Value, json};

#[test]
fn an_api_server_mints_tokens_that_name_a_pod_and_its_node_by_uid() -> Result<()> {
    let control_plane = ControlPlane::start()?;
    let kubectl = control_plane.kubectl();
    let version = kubectl.json(&["version"])?;
    assert_eq!(
        version.pointer("/serverVersion/gitVersion"),
        Some(&json!(format!("v{NEWEST}")))
    );

    kubectl.create(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": "default", "name": "web" },
    }))?;
    let node = kubectl
        .create(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-a" } }))?;
    let pod = kubectl.create(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "default", "name": "web-0" },
        "spec": { "serviceAccountName": "web", "nodeName": "node-a", "containers": [{ "name": "web", "image": "web" }] },
    }))?;
    let token = kubectl.run(&[
        "create",
        "token",
        "web",
        "--audience=attache",
        "--bound-object-kind=Pod",
        "--bound-object-name=web-0",
    ])?;

    let body = token.split('.').nth(1).context("a JWT has three parts")?;
    let claims: Value = serde_json::from_slice(&B64URL.decode(body)?)?;
    let at = |pointer: &str| claims.pointer(pointer).cloned();
    assert_eq!(at("/aud"), Some(json!(["attache"])));
    assert_eq!(at("/kubernetes.io/node/name"), Some(json!("node-a")));
    assert_eq!(
        at("/kubernetes.io/node/uid").as_ref(),
        node.pointer("/metadata/uid")
    );
    assert_eq!(
        at("/kubernetes.io/pod/uid").as_ref(),
        pod.pointer("/metadata/uid")
    );
    control_plane.stop()
}

#[test]
fn nothing_of_an_api_server_is_left_when_it_is_dropped() -> Result<()> {
    let control_plane = ControlPlane::start()?;
    let (dir, group) = (
        control_plane.dir().to_owned(),
        Cgroup::named(control_plane.cgroup())?,
    );
    assert!(dir.exists() && !group.is_empty());
    drop(control_plane);
    assert!(!dir.exists());
    assert!(!group.entrance().exists());
    Ok(())
}
