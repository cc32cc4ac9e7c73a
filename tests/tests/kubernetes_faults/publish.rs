//! What a publish takes in a cluster, and what it asks of the API server: with nothing known of the pod, and within the
//! seconds for which an answer is believed. Figures are printed; how often is asked, is held.

use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use attache_tests::{
    bed,
    kubernetes::{
        Caller,
        caller::{AUDIENCE, pod_that_kubelet_leaves},
        installation::NAMESPACE,
        stage::{cluster, granted_namespace},
    },
    measure::{self, Run},
    pod::Pod,
};

use crate::alone;

/// So many pods, unless `ATTACHE_PUBLISHED_PODS` says another number.
const PODS: usize = 10;

/// Questions about tokens, pods and nodes that the broker has asked until now, as it counts itself.
fn questions() -> Result<u64> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/attache-broker-0:9443/proxy/metrics");
    let told = cluster().kubectl().run(&["get", "--raw", &path])?;
    bed::questions(&told, &["token_review", "pod", "node"])
}

/// A publish at the socket, which is undone.
fn publish(caller: &Caller<'_>, pod: &Pod, token: &str) -> Result<Duration> {
    caller.prepare(pod)?;
    let began = Instant::now();
    caller.publish(pod, token).context("publish")?;
    let took = began.elapsed();
    caller.unpublish(pod).context("unpublish")?;
    Ok(took)
}

#[test]
fn a_publish_asks_the_api_server_twice_and_the_next_one_within_seconds_not_at_all() -> Result<()> {
    let _alone = alone();
    let namespace = granted_namespace("publish-speed")?;
    println!("{}", measure::machine()?);
    let node = &cluster().nodes[1];
    let caller = Caller::on(node)?;
    let pods = match env::var("ATTACHE_PUBLISHED_PODS") {
        Ok(number) => number.parse()?,
        Err(_) => PODS,
    };
    let mut prepared = Vec::new();
    for number in 0..=pods {
        let name = format!("web-{number}");
        let pod = pod_that_kubelet_leaves(&namespace, &name, node.name())?;
        let token = namespace.token(AUDIENCE, Some(&name))?;
        prepared.push((pod, token));
    }
    let ((first, token), measured) = prepared.split_first().context("pods")?;
    // The node, the issuer's keys and the session with the plugin are known after this one.
    publish(&caller, first, token)?;
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    let (mut asked_cold, mut asked_warm) = (0, 0);
    for (pod, token) in measured {
        let before = questions()?;
        cold.push(publish(&caller, pod, token)?);
        let between = questions()?;
        warm.push(publish(&caller, pod, token)?);
        asked_cold += between - before;
        asked_warm += questions()? - between;
    }
    for (kind, times, asked) in [("cold", cold, asked_cold), ("warm", warm, asked_warm)] {
        let run = Run::of(times);
        let [p50, p90] = [50, 90].map(|percent| run.percentile_us(percent) / 1e3);
        println!(
            "{pods} publishes, {kind}: {p50:.1} ms (p50), {p90:.1} ms (p90); {asked} questions"
        );
    }
    // The node is looked at anew every ten seconds.
    let looks = u64::try_from(pods)?;
    assert!(
        asked_cold >= 2 * looks && asked_cold <= 3 * looks,
        "{asked_cold}"
    );
    assert!(asked_warm <= looks / 2, "{asked_warm}");
    Ok(())
}
