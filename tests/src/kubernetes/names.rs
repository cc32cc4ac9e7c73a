//! Names in the cluster: CoreDNS on this machine, behind the service that pods are told to ask.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    Kubectl, Release,
    authority::{Authority, User},
    network::HOST,
    node::{DOMAIN, NAMES},
    service::Service,
};

/// Where CoreDNS listens: the usual port is this machine's own.
const PORT: u16 = 5353;

/// Writes what CoreDNS needs into `dir`; starts nothing.
///
/// # Errors
/// When it cannot be written.
pub fn lay_out(
    dir: &Path,
    cgroup: &str,
    release: &Release,
    authority: &Authority,
    api_server: &str,
) -> Result<Service> {
    let (kubeconfig, corefile) = (dir.join("coredns.conf"), dir.join("Corefile"));
    let user = User {
        name: "coredns",
        group: "system:masters",
    };
    authority.kubeconfig(&kubeconfig, user, api_server)?;
    let config = format!(
        "{DOMAIN}:{PORT} {{\n  bind {HOST}\n  errors\n  kubernetes {DOMAIN} {{\n    kubeconfig {} attache\n  }}\n}}\n",
        kubeconfig.display()
    );
    fs::write(&corefile, config)?;
    let corefile = corefile.to_str().context("a path in UTF-8")?;
    let service = Service::new(
        "coredns",
        &release.tool("coredns"),
        cgroup,
        &dir.join("log"),
    )?;
    Ok(service.args(["-conf", corefile]))
}

/// Makes the service: it has no pods, but this machine as its one endpoint.
///
/// # Errors
/// When the API server refuses it.
pub fn publish(kubectl: &Kubectl) -> Result<()> {
    let metadata = json!({ "namespace": "kube-system", "name": "kube-dns" });
    let ports = ["UDP", "TCP"].map(
        |protocol| json!({ "name": protocol.to_lowercase(), "protocol": protocol, "port": 53 }),
    );
    kubectl.create(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": { "clusterIP": NAMES, "ports": ports },
    }))?;
    let ports = ["UDP", "TCP"].map(
        |protocol| json!({ "name": protocol.to_lowercase(), "protocol": protocol, "port": PORT }),
    );
    kubectl.create(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "namespace": "kube-system", "name": "kube-dns-1",
            "labels": { "kubernetes.io/service-name": "kube-dns" } },
        "endpoints": [{ "addresses": [HOST] }], "ports": ports,
    }))?;
    Ok(())
}
