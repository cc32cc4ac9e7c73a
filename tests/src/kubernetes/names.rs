//! Names in the cluster: CoreDNS on this machine, behind the service that pods are told to ask.

use std::{fs, net::Ipv4Addr, path::Path};

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    ControlPlane, Kubectl, Release,
    authority::User,
    node::{DOMAIN, NAMES},
    service::Service,
};

/// Where CoreDNS listens: the usual port is this machine's own.
const PORT: u16 = 5353;

/// Writes what CoreDNS needs into `dir`, to answer at `host`; starts nothing.
///
/// # Errors
/// When it cannot be written.
pub fn lay_out(
    dir: &Path,
    host: Ipv4Addr,
    release: &Release,
    control_plane: &ControlPlane,
) -> Result<Service> {
    let (kubeconfig, corefile) = (dir.join("coredns.conf"), dir.join("Corefile"));
    let user = User {
        name: "coredns",
        group: "system:masters",
    };
    let authority = &control_plane.authority;
    authority.kubeconfig(&kubeconfig, user, &control_plane.url())?;
    let config = format!(
        "{DOMAIN}:{PORT} {{\n  bind {host}\n  errors\n  kubernetes {DOMAIN} {{\n    kubeconfig {} attache\n  }}\n}}\n",
        kubeconfig.display()
    );
    fs::write(&corefile, config)?;
    let corefile = corefile.to_str().context("a path in UTF-8")?;
    let service = Service::new(
        "coredns",
        &release.tool("coredns"),
        control_plane.cgroup(),
        &dir.join("log"),
    )?;
    Ok(service.args(["-conf", corefile]))
}

/// Makes the service: it has no pods, but this machine as its one endpoint.
///
/// # Errors
/// When the API server refuses it.
pub fn publish(kubectl: &Kubectl, host: Ipv4Addr) -> Result<()> {
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
        "endpoints": [{ "addresses": [host] }], "ports": ports,
    }))?;
    Ok(())
}
