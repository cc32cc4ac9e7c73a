//! What a scenario takes away, and what puts it back.

use std::time::{Duration, Instant};

use anyhow::Result;
use attache_tests::{
    kubernetes::{Node, installation::NAMESPACE, stage::cluster},
    process::until,
};

/// How long a part may take to be back.
const BACK: Duration = Duration::from_secs(120);

/// The broker's pod.
const BROKER: &str = "attache-broker-0";

/// The broker is away until this is dropped.
pub(crate) struct BrokerAway;

impl BrokerAway {
    /// Takes it away, and waits until it is.
    ///
    /// # Errors
    /// When it does not go.
    pub(crate) fn now() -> Result<Self> {
        scale("0")?;
        let away = Self;
        let kubectl = cluster().kubectl();
        kubectl.wait_for(NAMESPACE, &format!("pod/{BROKER}"), "delete")?;
        Ok(away)
    }

    /// Brings it back; answers how long it took to be ready.
    ///
    /// # Errors
    /// When it does not come back.
    pub(crate) fn end(self) -> Result<Duration> {
        let began = Instant::now();
        drop(self);
        broker_is_ready()?;
        Ok(began.elapsed())
    }
}

impl Drop for BrokerAway {
    fn drop(&mut self) {
        let _ = scale("1").and_then(|()| broker_is_ready());
    }
}

/// The broker's pod was deleted, and the StatefulSet makes another; it is there when this is dropped.
pub(crate) struct BrokerReplaced {
    old: Option<String>,
}

impl BrokerReplaced {
    /// Deletes the pod, and waits for nothing.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub(crate) fn now() -> Result<Self> {
        let old = broker_uid();
        let args = ["delete", "pod", "-n", NAMESPACE, BROKER, "--wait=false"];
        cluster().kubectl().run(&args)?;
        Ok(Self { old })
    }

    /// Waits until the old one has ended.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) fn gone(&self) -> Result<()> {
        until(BACK, "the broker's pod has ended", || {
            (broker_uid() != self.old).then_some(())
        })
    }

    /// Waits until the new one is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(crate) fn back(&self) -> Result<()> {
        self.gone()?;
        broker_is_ready()
    }
}

impl Drop for BrokerReplaced {
    fn drop(&mut self) {
        let _ = self.back();
    }
}

/// Which pod the broker is, if it is one.
fn broker_uid() -> Option<String> {
    let path = "-o=jsonpath={.metadata.uid}";
    let args = ["get", "pod", "-n", NAMESPACE, BROKER, path];
    cluster().kubectl().run(&args).ok()
}

/// Waits until the broker's pod is there and ready.
fn broker_is_ready() -> Result<()> {
    let pod = format!("pod/{BROKER}");
    let kubectl = cluster().kubectl();
    kubectl.wait_for(NAMESPACE, &pod, "create")?;
    kubectl.wait_for(NAMESPACE, &pod, "condition=Ready")
}

fn scale(replicas: &str) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    let args = [
        "scale",
        "-n",
        NAMESPACE,
        "statefulset/attache-broker",
        &replicas,
    ];
    cluster().kubectl().run(&args).map(drop)
}

/// A node's kubelet is away until this is dropped; its pods run on.
pub(crate) struct KubeletAway<'a>(&'a Node);

impl<'a> KubeletAway<'a> {
    /// Stops it.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) fn now(node: &'a Node) -> Result<Self> {
        node.kubelet.stop()?;
        Ok(Self(node))
    }

    /// Starts it, and waits until it has spoken to the API server.
    ///
    /// # Errors
    /// When it does not come back.
    pub(crate) fn end(self) -> Result<()> {
        let before = heard_at(self.0);
        self.0.kubelet.start()?;
        until(BACK, "kubelet has renewed its lease", || {
            (heard_at(self.0) != before).then_some(())
        })
    }
}

impl Drop for KubeletAway<'_> {
    fn drop(&mut self) {
        if !self.0.kubelet.runs() {
            let _ = self.0.kubelet.start();
        }
    }
}

/// When a node's kubelet was last heard of.
fn heard_at(node: &Node) -> Option<String> {
    let path = "-o=jsonpath={.spec.renewTime}";
    let args = ["get", "lease", "-n", "kube-node-lease", node.name(), path];
    cluster().kubectl().run(&args).ok()
}
