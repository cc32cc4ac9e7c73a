//! The taint that keeps pods from a new node until its plugin can serve them.
//!
//! ```text
//! admin: kubelet --register-with-taints=attache.dev/agent-not-ready:NoSchedule
//! broker: node tainted? -> CSINode lists csi.attache.dev? -> the taint is taken off, as it was read and no other
//! ```
//! Without it a pod may come before the plugin: kubelet does not find the driver then, and tries again ever more seldom.
//! Written only where the settings say so; the role that it takes lets the broker patch nodes.

use attache_envelope::name::NodeName;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Call, Client, Operation};
use super::error::ApiError;
use super::questions::{body, read};

/// The taint's key; of whatever value and effect.
const TAINT: &str = "attache.dev/agent-not-ready";
/// The plugin, as kubelet registers it.
const DRIVER: &str = "csi.attache.dev";

/// What became of a node's startup taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartupTaint {
    /// There is none, or no such node.
    Absent,
    /// It stays: kubelet does not know the plugin yet.
    Waits,
    /// It was taken off now.
    Lifted,
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    spec: NodeSpec,
}

#[derive(Default, Deserialize)]
struct NodeSpec {
    #[serde(default)]
    taints: Vec<Value>,
}

#[derive(Deserialize)]
struct CsiNode {
    #[serde(default)]
    spec: CsiNodeSpec,
}

#[derive(Default, Deserialize)]
struct CsiNodeSpec {
    #[serde(default)]
    drivers: Vec<Driver>,
}

#[derive(Deserialize)]
struct Driver {
    name: String,
}

impl Client {
    /// Takes the startup taint off a node whose kubelet knows the plugin.
    ///
    /// # Errors
    /// [`ApiError`]; [`ApiError::Refused`] when the node's taints were changed at the same moment.
    ///
    /// # Cancel safety
    /// May be dropped at any time; the taint is then there or not.
    pub async fn lift_startup_taint(&self, node: &NodeName) -> Result<StartupTaint, ApiError> {
        let path = format!("/api/v1/nodes/{node}");
        let found: Option<Node> = self.find(read(Operation::Node, path.clone())).await?;
        let taints = found.map(|node| node.spec.taints).unwrap_or_default();
        let others: Vec<_> = taints.iter().filter(|taint| !is_ours(taint)).collect();
        if others.len() == taints.len() {
            return Ok(StartupTaint::Absent);
        }
        if !self.knows_plugin(node).await? {
            return Ok(StartupTaint::Waits);
        }
        let patch = json!([
            {"op": "test", "path": "/spec/taints", "value": taints},
            {"op": "replace", "path": "/spec/taints", "value": others},
        ]);
        let call = Call {
            operation: Operation::LiftTaint,
            method: Method::PATCH,
            path,
            body: Some(body(Operation::LiftTaint, &patch)?),
        };
        let _patched: Value = self.ask(call).await?;
        Ok(StartupTaint::Lifted)
    }

    /// Whether kubelet has the plugin on its list of registered drivers.
    async fn knows_plugin(&self, node: &NodeName) -> Result<bool, ApiError> {
        let path = format!("/apis/storage.k8s.io/v1/csinodes/{node}");
        let found: Option<CsiNode> = self.find(read(Operation::CsiNode, path)).await?;
        let drivers = found.into_iter().flat_map(|node| node.spec.drivers);
        Ok(drivers.into_iter().any(|driver| driver.name == DRIVER))
    }
}

fn is_ours(taint: &Value) -> bool {
    taint.get("key").and_then(Value::as_str) == Some(TAINT)
}
