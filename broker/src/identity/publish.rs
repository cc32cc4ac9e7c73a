//! Keeps the CA's bundle published in every cluster whose nodes enroll by themselves: their plugins wait for it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::Gate;
use crate::{attest::ClusterRegistry, kubernetes::Published};

/// A bundle that somebody changed, and a cluster that was away or was added, are found this soon.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Publishes until told to stop. What goes wrong is in the log once, and tried again.
///
/// # Cancel safety
/// May be dropped at any time; what is published is whole.
pub async fn keep_published(
    gate: Arc<Gate>,
    clusters: Arc<ClusterRegistry>,
    stop: CancellationToken,
) {
    let mut told: HashMap<String, Result<Published, String>> = HashMap::new();
    loop {
        match gate.authority().bundle() {
            Ok(bundle) => {
                let pem = bundle.to_pem();
                told = publish(&clusters, &pem, told).await;
                if told.values().all(Result::is_ok) {
                    gate.is_published(pem);
                }
            }
            Err(error) => tracing::error!(%error, "the CA makes no trust bundle"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// One round over all clusters; answers what was said of each, so that it is said once.
async fn publish(
    clusters: &ClusterRegistry,
    pem: &str,
    told: HashMap<String, Result<Published, String>>,
) -> HashMap<String, Result<Published, String>> {
    let mut outcomes = HashMap::new();
    for cluster in clusters.all() {
        let (Some(enrollment), Some(api)) = (cluster.enrollment(), cluster.api()) else {
            continue;
        };
        let (namespace, _) = enrollment.account();
        let outcome = api.publish_bundle(pem, namespace).await;
        let outcome = outcome.map_err(|error| error.to_string());
        let name = cluster.spec().name().to_string();
        if told.get(&name) != Some(&outcome) {
            match &outcome {
                Ok(place) => {
                    tracing::info!(cluster = %name, ?place, "the trust bundle is published")
                }
                Err(error) => {
                    tracing::warn!(cluster = %name, %error, "the trust bundle is not published; trying again");
                }
            }
        }
        outcomes.insert(name, outcome);
    }
    outcomes
}
