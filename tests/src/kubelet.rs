//! Kubelet's part: a CSI client over the driver's unix socket, which adds to a pod's volume what kubelet adds.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use attache_proto::csi::v1 as csi;
use csi::{identity_client::IdentityClient, node_client::NodeClient};
use serde_json::json;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::pod::Pod;

/// The key under which kubelet hands the pod's tokens over.
pub const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// A kubelet with one driver.
#[derive(Debug, Clone)]
pub struct Kubelet {
    /// Its root folder.
    pub dir: PathBuf,
    node: NodeClient<Channel>,
    identity: IdentityClient<Channel>,
}

impl Kubelet {
    /// Connects, lazily, to the driver's socket.
    ///
    /// # Errors
    /// When the socket's path is no URI.
    pub fn new(dir: &Path, socket: &Path) -> Result<Self> {
        // As kubelet's own client does: the path, percent-encoded, is the host.
        let host = socket.display().to_string().replace('/', "%2F");
        let channel = Endpoint::try_from(format!("unix:{}", socket.display()))?
            .origin(format!("http://{host}").parse()?)
            .connect_lazy();
        Ok(Self {
            dir: dir.to_owned(),
            node: NodeClient::new(channel.clone()),
            identity: IdentityClient::new(channel),
        })
    }

    /// The driver's node service.
    #[must_use]
    pub fn node(&self) -> NodeClient<Channel> {
        self.node.clone()
    }

    /// The driver's identity service.
    #[must_use]
    pub fn identity(&self) -> IdentityClient<Channel> {
        self.identity.clone()
    }

    /// Where a pod's volume is mounted.
    #[must_use]
    pub fn target(&self, pod: &Pod) -> PathBuf {
        self.dir
            .join("pods")
            .join(&pod.uid)
            .join("volumes/kubernetes.io~csi")
            .join(&pod.volume)
            .join("mount")
    }

    /// The request that kubelet would send for a pod's volume.
    #[must_use]
    pub fn publish_request(
        &self,
        pod: &Pod,
        audience: &str,
        token: &str,
    ) -> csi::NodePublishVolumeRequest {
        let mut context: HashMap<String, String> = pod.attributes.clone().into_iter().collect();
        for (key, value) in [
            ("csi.storage.k8s.io/pod.name", pod.name.as_str()),
            ("csi.storage.k8s.io/pod.namespace", &pod.namespace),
            ("csi.storage.k8s.io/pod.uid", &pod.uid),
            (
                "csi.storage.k8s.io/serviceAccount.name",
                &pod.service_account,
            ),
            ("csi.storage.k8s.io/ephemeral", "true"),
        ] {
            context.insert(key.into(), value.into());
        }
        let tokens =
            json!({ audience: { "token": token, "expirationTimestamp": "2100-01-01T00:00:00Z" } });
        csi::NodePublishVolumeRequest {
            volume_id: pod.volume_id(),
            publish_context: HashMap::new(),
            staging_target_path: String::new(),
            target_path: self.target(pod).display().to_string(),
            volume_capability: Some(csi::VolumeCapability {
                access_mode: Some(csi::volume_capability::AccessMode {
                    mode: csi::volume_capability::access_mode::Mode::SingleNodeWriter.into(),
                }),
                access_type: Some(csi::volume_capability::AccessType::Mount(
                    csi::volume_capability::MountVolume {
                        fs_type: String::new(),
                        mount_flags: Vec::new(),
                        volume_mount_group: pod
                            .security_context
                            .get("fsGroup")
                            .map(ToString::to_string)
                            .unwrap_or_default(),
                    },
                )),
            }),
            readonly: pod.read_only,
            secrets: HashMap::from([(TOKENS.into(), tokens.to_string())]),
            volume_context: context,
        }
    }

    /// Makes the target's parent as kubelet does, then publishes.
    ///
    /// # Errors
    /// The driver's answer.
    pub async fn publish(&self, pod: &Pod, audience: &str, token: &str) -> Result<(), Status> {
        self.prepare(pod)
            .map_err(|e| Status::internal(format!("harness: {e:#}")))?;
        let request = self.publish_request(pod, audience, token);
        self.node().node_publish_volume(request).await.map(drop)
    }

    /// Makes the folder that kubelet makes before it calls: 0750, and vol_data.json in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn prepare(&self, pod: &Pod) -> Result<()> {
        let target = self.target(pod);
        let parent = target.parent().context("the target has a parent")?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(parent)?;
        fs::set_permissions(parent, fs::Permissions::from_mode(0o750))?;
        fs::write(parent.join("vol_data.json"), "{}")?;
        Ok(())
    }

    /// Unpublishes a pod's volume.
    ///
    /// # Errors
    /// The driver's answer.
    pub async fn unpublish(&self, pod: &Pod) -> Result<(), Status> {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: pod.volume_id(),
            target_path: self.target(pod).display().to_string(),
        };
        self.node().node_unpublish_volume(request).await.map(drop)
    }
}
