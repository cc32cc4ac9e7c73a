//! `attache-broker volumes-in-use`: which pods have volumes of ours, for whoever is about to take the node plugin away.
//!
//! It needs neither settings nor store: it asks an API server, and its account may do nothing but list pods.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::block_on;
use crate::attest::DRIVER;
use crate::kubernetes::{ApiAddress, CREDENTIALS_IN_POD, Client};
use crate::metrics::ApiMetrics;

/// What it exits with when there are some.
const FOUND: u8 = 8;
/// So many are named; a log of thousands helps nobody.
const NAMED: usize = 50;

/// Prints the pods with volumes of ours that have not ended; 0 when there is none, else 8.
///
/// # Errors
/// When the API server cannot be asked.
pub fn volumes_in_use(api_server: Option<&str>, credentials: Option<PathBuf>) -> Result<ExitCode> {
    let address = match api_server {
        Some(url) => url.parse().context("--api-server")?,
        None => ApiAddress::InCluster,
    };
    let folder = credentials.unwrap_or_else(|| CREDENTIALS_IN_POD.into());
    let client = Client::new(&address, folder, ApiMetrics::default());
    let found = block_on(async {
        let asked = find(&client).await;
        asked.context("whether pods have volumes of ours cannot be told")
    })?;
    let mut out = std::io::stdout();
    if found.is_empty() {
        writeln!(out, "no pod has a volume of {DRIVER}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "pods with volumes of {DRIVER}, which could not end without the node plugin: {}",
        found.len()
    )?;
    for pod in found.iter().take(NAMED) {
        writeln!(out, "  {pod}")?;
    }
    if found.len() > NAMED {
        writeln!(out, "  and {} more", found.len() - NAMED)?;
    }
    writeln!(
        out,
        "delete them, or scale down what makes them, and uninstall again; docs/kubernetes.md says what --no-hooks leaves behind"
    )?;
    Ok(ExitCode::from(FOUND))
}

async fn find(client: &Client) -> Result<Vec<String>> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page: Pods = client.pods(&after).await?;
        found.extend(page.items.into_iter().filter_map(Pod::in_use));
        after = page.metadata.after;
        if after.is_empty() {
            return Ok(found);
        }
    }
}

#[derive(Deserialize)]
struct Pods {
    metadata: Page,
    #[serde(default)]
    items: Vec<Pod>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default, rename = "continue")]
    after: String,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Name,
    spec: Spec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Deserialize)]
struct Name {
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: String,
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
struct Volume {
    csi: Option<Csi>,
}

#[derive(Deserialize)]
struct Csi {
    driver: String,
}

#[derive(Default, Deserialize)]
struct PodStatus {
    #[serde(default)]
    phase: String,
}

impl Pod {
    /// Where it is, if a volume of ours may be mounted for it: kubelet unmounts those of a pod that has ended, and mounts
    /// none for one that is on no node.
    fn in_use(self) -> Option<String> {
        let Self {
            metadata,
            spec,
            status,
        } = self;
        let ours = |volume: &Volume| volume.csi.as_ref().is_some_and(|it| it.driver == DRIVER);
        let ended = ["Succeeded", "Failed"].contains(&status.phase.as_str());
        let used = !ended && !spec.node_name.is_empty() && spec.volumes.iter().any(ours);
        let Name { namespace, name } = metadata;
        used.then(|| format!("{namespace}/{name} on {}", spec.node_name))
    }
}
