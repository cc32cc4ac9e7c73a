//! What the scenarios stand on: the cluster is a real one.

use anyhow::{Context, Result};
use attache_tests::{
    kubernetes::{
        cluster::NODES,
        namespace::{Namespace, sleeper},
        stage::{cluster, namespace},
    },
    pod::merge,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64URL};
use serde_json::{Value, json};

/// A sleeping pod on each node, called as its node is.
fn pod_on_each(namespace: &Namespace) -> Result<Vec<Value>> {
    let mut container = sleeper();
    // It writes the page that it serves.
    merge(
        &mut container,
        &json!({ "securityContext": { "readOnlyRootFilesystem": false } }),
    );
    let start = |node: &&str| {
        let spec = json!({ "nodeName": node, "containers": [container] });
        namespace.start_pod(node, &spec)
    };
    NODES.iter().map(start).collect()
}

/// The page that a server shows to a pod, which asks until there is one. Not by wget: busybox's, linked statically, crashes
/// on a name.
fn fetched(namespace: &Namespace, pod: &str, server: &str, port: u16) -> Result<String> {
    let ask = format!(
        r"printf 'GET /index.html HTTP/1.0\r\n\r\n' | nc -w 2 {server} {port} | tail -n 1 | grep ."
    );
    namespace.shell(
        pod,
        &format!("timeout 60 sh -c \"until {ask}; do :; done\""),
    )
}

#[test]
fn a_pod_runs_on_each_node_and_each_reaches_the_other_by_address_and_by_name() -> Result<()> {
    let namespace = namespace("ground-network")?;
    let pods = pod_on_each(&namespace)?;
    for (pod, other) in [(0, 1), (1, 0)] {
        namespace.shell(
            NODES[other],
            "mkdir -p /tmp/www && echo here >/tmp/www/index.html && httpd -p 8080 -h /tmp/www",
        )?;
        let address = pods[other]["status"]["podIP"]
            .as_str()
            .context("a pod IP")?;
        assert_eq!(fetched(&namespace, NODES[pod], address, 8080)?, "here\n");
    }
    namespace.create_object(
        "Service",
        "web",
        &json!({ "spec": { "selector": { "app": NODES[0] }, "ports": [{ "port": 80, "targetPort": 8080 }] } }),
    )?;
    for pod in NODES {
        // From its own node, where the reply must come by the node's translation, and from the other one.
        let page = fetched(&namespace, pod, "web.ground-network", 80)?;
        assert_eq!(page, "here\n", "from {pod}");
    }
    Ok(())
}

#[test]
fn the_api_server_is_reached_from_a_pod_by_its_service_name() -> Result<()> {
    let namespace = namespace("ground-api")?;
    pod_on_each(&namespace)?;
    for pod in NODES {
        let line = "nslookup -type=a kubernetes.default.svc.cluster.local | grep -q 'Address: 10.96.0.1$' && nc -w 5 kubernetes.default 443 </dev/null && echo reached";
        assert_eq!(namespace.shell(pod, line)?, "reached\n", "from {pod}");
    }
    Ok(())
}

#[test]
fn a_projected_token_of_our_audience_names_its_pod_and_its_node_by_uid() -> Result<()> {
    let namespace = namespace("ground-token")?;
    let mut container = sleeper();
    container["volumeMounts"] =
        json!([{ "name": "token", "mountPath": "/token", "readOnly": true }]);
    let spec = json!({
        "nodeName": NODES[1], "containers": [container],
        "volumes": [{ "name": "token", "projected": { "sources": [
            { "serviceAccountToken": { "audience": "attache", "path": "token", "expirationSeconds": 600 } },
        ] } }],
    });
    let pod = namespace.start_pod("web", &spec)?;
    let token = namespace.shell("web", "cat /token/token")?;
    let body = token.split('.').nth(1).context("a JWT has three parts")?;
    let claims: Value = serde_json::from_slice(&B64URL.decode(body)?)?;
    let node = cluster()
        .kubectl()
        .get("default", "node", NODES[1])?
        .context("the node is there")?;
    assert_eq!(claims["aud"], json!(["attache"]));
    let bound = &claims["kubernetes.io"];
    assert_eq!(bound["node"]["name"], json!(NODES[1]));
    assert_eq!(bound["node"]["uid"], node["metadata"]["uid"]);
    assert_eq!(bound["pod"]["uid"], pod["metadata"]["uid"]);
    Ok(())
}

#[test]
fn each_node_has_its_own_disk_so_one_host_path_is_two_folders() -> Result<()> {
    let namespace = namespace("ground-disk")?;
    for node in NODES {
        let mut container = sleeper();
        container["volumeMounts"] = json!([{ "name": "host", "mountPath": "/host" }]);
        container["securityContext"] = json!({ "runAsUser": 0 });
        let spec = json!({
            "nodeName": node, "containers": [container],
            "volumes": [{ "name": "host", "hostPath": { "path": "/var/lib/ground", "type": "DirectoryOrCreate" } }],
        });
        namespace.start_pod(node, &spec)?;
        namespace.shell(node, "echo $HOSTNAME >>/host/names")?;
    }
    for node in NODES {
        assert_eq!(
            namespace.shell(node, "cat /host/names")?,
            format!("{node}\n")
        );
    }
    assert!(!std::path::Path::new("/var/lib/ground").exists());
    Ok(())
}
