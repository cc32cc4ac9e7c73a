//! Takes the startup taint off nodes that came to a certificate, once kubelet knows their plugin.
//!
//! Which nodes: those that enrolled or renewed since the last look, and at a start all. A node whose plugin does not
//! register is looked at for ten minutes, and again when it renews.

use std::{collections::HashMap, sync::Arc, time::Duration};

use attache_envelope::name::NodeName;
use attache_mtls::spiffe::NodeId;
use jiff::Timestamp;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Directory, View};
use crate::{
    attest::ClusterRegistry,
    kubernetes::{ApiError, StartupTaint},
};

/// Between looks: about what a pod waits for longer than it must.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a plugin may take from its certificate until kubelet knows it.
const WAITS_FOR: Duration = Duration::from_secs(600);
/// So many nodes are looked at side by side: attestation asks the same server.
const AT_ONCE: usize = 4;

/// A node that may have the taint.
struct Waiting {
    cluster: String,
    name: NodeName,
    until: Instant,
}

/// Looks until told to stop. What goes wrong is in the log once a node, and tried again.
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn keep_untainted(
    directory: Directory,
    clusters: Arc<ClusterRegistry>,
    stop: CancellationToken,
) {
    let mut seen = HashMap::new();
    let mut waiting: HashMap<String, Waiting> = HashMap::new();
    let mut told: HashMap<String, String> = HashMap::new();
    loop {
        let now = Instant::now();
        waiting.extend(came(&directory.view(), &mut seen, now));
        waiting.retain(|_, node| node.until > now);
        told.retain(|id, _| waiting.contains_key(id));
        for (id, outcome) in look(&waiting, &clusters).await {
            match outcome {
                Ok(StartupTaint::Waits) => continue,
                Ok(StartupTaint::Absent) => {}
                Ok(StartupTaint::Lifted) => {
                    tracing::info!(node = %id, "the startup taint is taken off: kubelet knows the plugin");
                }
                Err(error) => {
                    let error = error.to_string();
                    if told.get(&id) != Some(&error) {
                        tracing::warn!(node = %id, error, "the startup taint stays; trying again");
                        told.insert(id, error);
                    }
                    continue;
                }
            }
            waiting.remove(&id);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The nodes that came to a certificate since `seen`, which is brought up to date.
fn came(
    view: &View,
    seen: &mut HashMap<String, Timestamp>,
    now: Instant,
) -> Vec<(String, Waiting)> {
    seen.retain(|id, _| view.nodes.contains_key(id));
    let wall = Timestamp::now();
    let nodes = view.nodes.iter().filter_map(|(id, (_, node))| {
        if seen.get(id) == Some(&node.renewed) {
            return None;
        }
        seen.insert(id.clone(), node.renewed);
        if view.bans.contains_key(id) || node.keys.not_after() < wall {
            return None;
        }
        let waiting = Waiting {
            cluster: id.parse::<NodeId>().ok()?.cluster().to_owned(),
            name: node.name.parse().ok()?,
            until: now + WAITS_FOR,
        };
        Some((id.clone(), waiting))
    });
    nodes.collect()
}

/// One look at each of them. Clusters without an API server have no taints.
async fn look(
    waiting: &HashMap<String, Waiting>,
    clusters: &ClusterRegistry,
) -> Vec<(String, Result<StartupTaint, ApiError>)> {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut looks = JoinSet::new();
    for (id, node) in waiting {
        let cluster = clusters.cluster(&node.cluster);
        let api = cluster.as_ref().and_then(|it| it.api()).cloned();
        let (id, name, slots) = (id.clone(), node.name.clone(), Arc::clone(&slots));
        looks.spawn(async move {
            let Some(api) = api else {
                return (id, Ok(StartupTaint::Absent));
            };
            let _slot = slots.acquire().await;
            let outcome = api.lift_startup_taint(&name).await;
            (id, outcome)
        });
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = looks.join_next().await {
        outcomes.extend(outcome.ok());
    }
    outcomes
}
