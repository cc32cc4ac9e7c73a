//! The relay: kubelet's part between csi-sanity and the plugin's CSI socket.
//!
//! csi-sanity has volumes and no pods, and publishes all of them at `DIR/target`. For each of its volumes the relay records a
//! pod, whose volume's id and path take the place of csi-sanity's, and adds to a publish what kubelet adds: the pod's names
//! and its token. Everything else goes through as it came, missing fields and paths that are not `DIR/target` too, and so
//! do the answers. What stands at `DIR/target` is a link to the pod's target, so that csi-sanity looks at the plugin's folder;
//! the link goes when that folder is gone, by nobody else's doing than the plugin's.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use attache_proto::csi::v1 as csi;
use attache_tests::{
    Scene,
    bed::{AUDIENCE, NODE},
    cluster::ClusterFolder,
    issuer::Issuer,
    kubelet::Kubelet,
    mounts,
    pod::Pod,
};
use csi::{
    identity_server::Identity,
    node_server::Node,
    plugin_capability::{Service, Type as Capability, service::Type as ServiceType},
};
use tonic::{Code, Request, Response, Status};

/// What csi-sanity is given in place of the plugin's socket.
#[derive(Clone)]
pub(crate) struct Relay(Arc<Inner>);

struct Inner {
    kubelet: Kubelet,
    issuer: Arc<Issuer>,
    cluster: ClusterFolder,
    /// csi-sanity's `DIR`.
    dir: PathBuf,
    /// It says that there is a controller service, which the plugin does not have.
    claims_controller: bool,
    pods: Mutex<BTreeMap<String, Pod>>,
    seen: Mutex<Seen>,
}

/// What went through.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The plugin's refusals: the call, the code, the message.
    pub(crate) refusals: Vec<(&'static str, Code, String)>,
    /// What each publish left that the plugin answered with OK: how many mounts, and what `db/password` holds.
    pub(crate) published: Vec<(usize, String)>,
}

impl Relay {
    /// Stands before the plugin of `scene`; csi-sanity's folder for mounts is `dir`.
    pub(crate) fn new(scene: &Scene, dir: &Path, claims_controller: bool) -> Self {
        Self(Arc::new(Inner {
            kubelet: scene.kubelet.clone(),
            issuer: Arc::clone(&scene.bed.issuer),
            cluster: scene.bed.cluster.clone(),
            dir: dir.to_owned(),
            claims_controller,
            pods: Mutex::default(),
            seen: Mutex::default(),
        }))
    }

    /// What a pod's author writes; every pod of the relay says the same.
    pub(crate) fn attributes() -> BTreeMap<String, String> {
        new_pod("any").attributes
    }

    /// What went through until now.
    pub(crate) fn seen(&self) -> Seen {
        std::mem::take(&mut self.0.seen.lock().unwrap())
    }

    /// The pod whose volume stands for csi-sanity's, recorded in the cluster when it is new.
    fn pod(&self, volume_id: &str) -> Result<Pod, Status> {
        let mut pods = self.0.pods.lock().unwrap();
        if let Some(pod) = pods.get(volume_id) {
            return Ok(pod.clone());
        }
        let pod = new_pod(&format!("sanity-{}", pods.len()));
        self.0.cluster.add_pod(&pod).map_err(harness)?;
        pods.insert(volume_id.to_owned(), pod.clone());
        Ok(pod)
    }

    /// The id of the pod's volume for any of csi-sanity's; a missing one stays missing.
    fn id(pod: &Pod, asked: &str) -> String {
        if asked.is_empty() {
            String::new()
        } else {
            pod.volume_id()
        }
    }

    /// The pod's target for `DIR/target`; any other path stays as it is.
    fn path(&self, pod: &Pod, asked: &str) -> String {
        if Path::new(asked) == self.link() {
            self.0.kubelet.target(pod).display().to_string()
        } else {
            asked.to_owned()
        }
    }

    fn link(&self) -> PathBuf {
        self.0.dir.join("target")
    }

    /// csi-sanity's publish with what kubelet adds. `readonly` and the capability are csi-sanity's.
    fn completed(
        &self,
        pod: &Pod,
        asked: csi::NodePublishVolumeRequest,
    ) -> Result<csi::NodePublishVolumeRequest, Status> {
        self.0.kubelet.prepare(pod).map_err(harness)?;
        let token = self.0.issuer.mint(pod, AUDIENCE).map_err(harness)?;
        let kubelets = self.0.kubelet.publish_request(pod, AUDIENCE, &token);
        let names = kubelets.volume_context.into_iter();
        let names = names.filter(|(name, _)| name.starts_with("csi.storage.k8s.io/"));
        Ok(csi::NodePublishVolumeRequest {
            volume_id: Self::id(pod, &asked.volume_id),
            target_path: self.path(pod, &asked.target_path),
            volume_context: asked.volume_context.into_iter().chain(names).collect(),
            secrets: asked.secrets.into_iter().chain(kubelets.secrets).collect(),
            ..asked
        })
    }

    /// The plugin's answer, noted.
    fn answered<T>(
        &self,
        call: &'static str,
        answer: Result<Response<T>, Status>,
    ) -> Result<Response<T>, Status> {
        let refused = |status: Status| {
            let refusal = (call, status.code(), status.message().to_owned());
            self.0.seen.lock().unwrap().refusals.push(refusal);
            Status::new(status.code(), status.message())
        };
        // The head of the plugin's answer is of the plugin's connection.
        answer
            .map(|answer| Response::new(answer.into_inner()))
            .map_err(refused)
    }

    fn note_published(&self, pod: &Pod) -> Result<(), Status> {
        let target = self.0.kubelet.target(pod);
        let mounted = mounts::below(&target).map_err(harness)?.len();
        let value = fs::read_to_string(target.join("db/password")).map_err(harness)?;
        let mut seen = self.0.seen.lock().unwrap();
        seen.published.push((mounted, value));
        if fs::symlink_metadata(self.link()).is_err() {
            std::os::unix::fs::symlink(target, self.link()).map_err(harness)?;
        }
        Ok(())
    }

    fn note_unpublished(&self) -> Result<(), Status> {
        // A link that leads nowhere: what it led to was the plugin's to remove.
        if fs::symlink_metadata(self.link()).is_ok() && !self.link().exists() {
            fs::remove_file(self.link()).map_err(harness)?;
        }
        Ok(())
    }
}

fn new_pod(name: &str) -> Pod {
    Pod::new("shop", name, "web", NODE, "payments/db")
}

fn harness(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("harness: {error:#}"))
}

#[tonic::async_trait]
impl Identity for Relay {
    async fn get_plugin_info(
        &self,
        request: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        let answer = self.0.kubelet.identity().get_plugin_info(request).await;
        self.answered("GetPluginInfo", answer)
    }

    async fn get_plugin_capabilities(
        &self,
        request: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        let mut identity = self.0.kubelet.identity();
        let answer = identity.get_plugin_capabilities(request).await;
        let mut answer = self.answered("GetPluginCapabilities", answer)?;
        if self.0.claims_controller {
            answer.get_mut().capabilities.push(csi::PluginCapability {
                r#type: Some(Capability::Service(Service {
                    r#type: ServiceType::ControllerService.into(),
                })),
            });
        }
        Ok(answer)
    }

    async fn probe(
        &self,
        request: Request<csi::ProbeRequest>,
    ) -> Result<Response<csi::ProbeResponse>, Status> {
        let answer = self.0.kubelet.identity().probe(request).await;
        self.answered("Probe", answer)
    }
}

#[tonic::async_trait]
impl Node for Relay {
    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let asked = request.into_inner();
        let pod = self.pod(&asked.volume_id)?;
        let completed = self.completed(&pod, asked)?;
        let answer = self.0.kubelet.node().node_publish_volume(completed).await;
        let answer = self.answered("NodePublishVolume", answer)?;
        self.note_published(&pod)?;
        Ok(answer)
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let asked = request.into_inner();
        let pod = self.pod(&asked.volume_id)?;
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: Self::id(&pod, &asked.volume_id),
            target_path: self.path(&pod, &asked.target_path),
        };
        let answer = self.0.kubelet.node().node_unpublish_volume(request).await;
        let answer = self.answered("NodeUnpublishVolume", answer)?;
        self.note_unpublished()?;
        Ok(answer)
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        let asked = request.into_inner();
        let pod = self.pod(&asked.volume_id)?;
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: Self::id(&pod, &asked.volume_id),
            volume_path: self.path(&pod, &asked.volume_path),
            ..asked
        };
        let answer = self.0.kubelet.node().node_get_volume_stats(request).await;
        self.answered("NodeGetVolumeStats", answer)
    }

    async fn node_get_capabilities(
        &self,
        request: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        let answer = self.0.kubelet.node().node_get_capabilities(request).await;
        self.answered("NodeGetCapabilities", answer)
    }

    async fn node_get_info(
        &self,
        request: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        let answer = self.0.kubelet.node().node_get_info(request).await;
        self.answered("NodeGetInfo", answer)
    }

    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        let answer = self.0.kubelet.node().node_stage_volume(request).await;
        self.answered("NodeStageVolume", answer)
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        let answer = self.0.kubelet.node().node_unstage_volume(request).await;
        self.answered("NodeUnstageVolume", answer)
    }

    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
        let answer = self.0.kubelet.node().node_expand_volume(request).await;
        self.answered("NodeExpandVolume", answer)
    }
}
