//! A node with the startup taint takes pods once kubelet knows the plugin, where the chart is told to see to that.

use std::path::Path;

use anyhow::Result;
use attache_tests::{
    kubernetes::{cluster::NODES, namespace::sleeper, stage::cluster},
    process::until,
};
use serde_json::{Value, json};

use crate::{
    alone,
    upgrade::Upgrade,
    volumes::{PATIENCE, fresh},
};

const TAINT: &str = "attache.dev/agent-not-ready";

/// The second node has the taint, until this is dropped at the latest.
struct Tainted;

impl Tainted {
    fn now() -> Result<Self> {
        let taint = format!("{TAINT}:NoSchedule");
        cluster()
            .kubectl()
            .run(&["taint", "node", NODES[1], &taint])?;
        Ok(Self)
    }

    fn is_there() -> Result<bool> {
        let node = cluster().kubectl().get("", "node", NODES[1])?;
        let taints = node.and_then(|node| node.pointer("/spec/taints").cloned());
        let taints = taints.as_ref().and_then(Value::as_array);
        Ok(taints.is_some_and(|taints| taints.iter().any(|taint| taint["key"] == TAINT)))
    }
}

impl Drop for Tainted {
    fn drop(&mut self) {
        let args = ["taint", "node", NODES[1], &format!("{TAINT}-")];
        let _ = cluster().kubectl().output(&args);
    }
}

#[test]
fn the_startup_taint_keeps_pods_away_until_the_chart_is_told_to_lift_it() -> Result<()> {
    let _alone = alone();
    let namespace = fresh("startup-taint")?;
    let _tainted = Tainted::now()?;
    let spec = json!({
        "containers": [sleeper()], "nodeSelector": { "kubernetes.io/hostname": NODES[1] },
    });
    namespace.create_object("Pod", "web", &json!({ "spec": spec }))?;
    namespace.wait_for("pod/web", "condition=PodScheduled=false")?;
    assert!(Tainted::is_there()?, "nobody was told to lift it");

    let upgrade = Upgrade::to(Path::new("deploy/chart"), &["--set=startupTaint.lift=true"])?;
    until(PATIENCE, "the taint is lifted", || {
        Tainted::is_there().ok().filter(|there| !there)
    })?;
    namespace.wait_for("pod/web", "condition=Ready")?;
    upgrade.roll_back()
}
