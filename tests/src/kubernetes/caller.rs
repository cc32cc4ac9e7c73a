//! Whoever is root on a node and speaks to the plugin's CSI socket: what kubelet would say, or something else.
//!
//! What he asks for is mounted on the node's machine, where kubelet has its volumes too. Kubelet takes away what is below a
//! folder of a pod that is not the node's: [`Caller::prepare`] is for pods that are.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use attache_proto::csi::v1 as csi;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::{Code, Status};

use super::{Namespace, Node, namespace::asking_for};
use crate::{
    kubelet::Kubelet,
    pod::{Pod, merge},
    process::until,
};

/// The audience of the tokens that the chart has kubelet ask for.
pub const AUDIENCE: &str = "attache";
/// Kubelet's folder on a node.
const KUBELET_DIR: &str = "/var/lib/kubelet";
/// The socket, as the chart has it.
const SOCKET: &str = "/var/lib/kubelet/plugins/csi.attache.dev/kubelet@csi.sock";
/// How long the plugin may be busy with a volume.
const BUSY: Duration = Duration::from_secs(30);

/// A caller at one node's socket.
pub struct Caller<'a> {
    node: &'a Node,
    kubelet: Kubelet,
    runtime: Runtime,
}

impl<'a> Caller<'a> {
    /// Goes to the socket of a node.
    ///
    /// # Errors
    /// When the node is not booted.
    pub fn on(node: &'a Node) -> Result<Self> {
        let runtime = Runtime::new()?;
        let kubelet = {
            let _guard = runtime.enter();
            Kubelet::new(Path::new(KUBELET_DIR), &node.machine.path(SOCKET)?)?
        };
        Ok(Self {
            node,
            kubelet,
            runtime,
        })
    }

    /// Makes the folder that kubelet makes before it asks.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn prepare(&self, pod: &Pod) -> Result<()> {
        let target = self.kubelet.target(pod);
        let parent = target.parent().context("a target has a parent")?.display();
        let line =
            format!("mkdir -p {parent} && chmod 750 {parent} && echo {{}} >{parent}/vol_data.json");
        self.node.machine.shell(&line).map(drop)
    }

    /// Asks for a pod's volume with a token.
    ///
    /// # Errors
    /// The plugin's answer.
    pub fn publish(&self, pod: &Pod, token: &str) -> Result<(), Status> {
        let request = self.kubelet.publish_request(pod, AUDIENCE, token);
        let ask = || {
            let mut node = self.kubelet.node();
            let asked = node.node_publish_volume(request.clone());
            self.runtime.block_on(asked).map(drop)
        };
        when_not_busy(ask)
    }

    /// As [`Caller::publish`], which must be refused; answers with what words.
    ///
    /// # Errors
    /// When it is not refused.
    pub fn refused(&self, pod: &Pod, token: &str) -> Result<Status> {
        self.publish(pod, token)
            .err()
            .with_context(|| format!("{}/{} is given its volume", pod.namespace, pod.name))
    }

    /// Has a pod's volume taken away.
    ///
    /// # Errors
    /// The plugin's answer.
    pub fn unpublish(&self, pod: &Pod) -> Result<(), Status> {
        when_not_busy(|| self.runtime.block_on(self.kubelet.unpublish(pod)))
    }

    /// What is wrong with a pod's mounted volume, as its condition has it; none when nothing is.
    ///
    /// # Errors
    /// The plugin's answer.
    pub fn trouble(&self, pod: &Pod) -> Result<Option<String>, Status> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: pod.volume_id(),
            volume_path: self.kubelet.target(pod).display().to_string(),
            staging_target_path: String::new(),
        };
        let mut node = self.kubelet.node();
        let asked = node.node_get_volume_stats(request);
        let told = self.runtime.block_on(asked)?.into_inner();
        let condition = told.volume_condition.filter(|told| told.abnormal);
        Ok(condition.map(|told| told.message))
    }
}

/// Asks again while the plugin is at work on the volume, as kubelet would.
fn when_not_busy(ask: impl Fn() -> Result<(), Status>) -> Result<(), Status> {
    let answered =
        || Some(ask()).filter(|told| !matches!(told, Err(s) if s.code() == Code::Aborted));
    until(BUSY, "the plugin is not busy with the volume", answered)
        .unwrap_or_else(|error| Err(Status::aborted(format!("{error:#}"))))
}

/// A pod of a node whose kubelet has refused to run it: everything of it is as it should be, and kubelet mounts nothing of it.
///
/// # Errors
/// When the API server refuses it; when kubelet does not.
pub fn pod_that_kubelet_leaves(namespace: &Namespace, name: &str, node: &str) -> Result<Pod> {
    let mut spec = asking_for("payments/db");
    let elsewhere =
        json!({ "nodeName": node, "nodeSelector": { "kubernetes.io/hostname": "none" } });
    merge(&mut spec, &elsewhere);
    namespace.create_object("Pod", name, &json!({ "spec": spec }))?;
    namespace.wait_for(&format!("pod/{name}"), "jsonpath={.status.phase}=Failed")?;
    pod_of(&namespace.get("pod", name)?)
}

/// The pod behind an object of the API server's, with its first volume.
///
/// # Errors
/// When the object is no pod with a volume of ours.
pub fn pod_of(object: &Value) -> Result<Pod> {
    let text = |pointer: &str| {
        let value = object.pointer(pointer).and_then(Value::as_str);
        value.with_context(|| format!("a pod has {pointer}"))
    };
    let mut pod = Pod::new(
        text("/metadata/namespace")?,
        text("/metadata/name")?,
        text("/spec/serviceAccountName")?,
        (text("/spec/nodeName")?, ""),
        "",
    );
    pod.uid = text("/metadata/uid")?.to_owned();
    pod.volume = text("/spec/volumes/0/name")?.to_owned();
    let attributes = object.pointer("/spec/volumes/0/csi/volumeAttributes");
    let attributes = attributes.context("a CSI volume has attributes")?;
    pod.attributes = serde_json::from_value(attributes.clone())?;
    Ok(pod)
}
