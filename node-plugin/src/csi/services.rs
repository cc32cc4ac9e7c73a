//! The CSI services Identity and Node: each handler parses, calls, and turns what comes back into its answer.

use std::path::PathBuf;

use attache_proto::csi::v1 as csi;
use csi::identity_server::{Identity, IdentityServer};
use csi::node_server::{Node, NodeServer};
use csi::node_service_capability::{Rpc, Type as CapabilityType, rpc::Type as RpcType};
use csi::volume_usage::Unit;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::request::{
    Expected, PublishRequest, parse_publish_target, parse_stats, parse_unpublish,
};
use super::status;
use crate::agent::volumes::{VolumeReport, Volumes};

/// The largest request that is read: a volume context at its bounds, and the tokens.
const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// What this driver says of itself, and what it holds requests against.
#[derive(Debug, Clone)]
pub struct Driver {
    /// Its name.
    pub name: String,
    /// The node's name.
    pub node_name: String,
    /// Kubelet's folder.
    pub kubelet_dir: PathBuf,
    /// The audience of the pods' tokens.
    pub audience: String,
}

/// Both services.
#[derive(Clone)]
pub struct Services {
    driver: Driver,
    volumes: Volumes,
    ready: watch::Receiver<bool>,
}

impl Services {
    /// Serves `volumes`; `ready` is what Probe answers.
    #[must_use]
    pub fn new(driver: Driver, volumes: Volumes, ready: watch::Receiver<bool>) -> Self {
        Self {
            driver,
            volumes,
            ready,
        }
    }

    /// The Identity service.
    #[must_use]
    pub fn identity(&self) -> IdentityServer<Self> {
        IdentityServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// The Node service.
    #[must_use]
    pub fn node(&self) -> NodeServer<Self> {
        NodeServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    fn expected(&self) -> Expected<'_> {
        Expected {
            kubelet_dir: &self.driver.kubelet_dir,
            audience: &self.driver.audience,
        }
    }
}

#[tonic::async_trait]
impl Identity for Services {
    async fn get_plugin_info(
        &self,
        _request: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: self.driver.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _request: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        // No controller: volumes are made where they are published.
        Ok(Response::new(csi::GetPluginCapabilitiesResponse::default()))
    }

    async fn probe(
        &self,
        _request: Request<csi::ProbeRequest>,
    ) -> Result<Response<csi::ProbeResponse>, Status> {
        Ok(Response::new(csi::ProbeResponse {
            ready: Some(*self.ready.borrow()),
        }))
    }
}

#[tonic::async_trait]
impl Node for Services {
    /// # Cancel safety
    /// A publish goes on to its end when kubelet goes away.
    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let (id, path) = (request.volume_id.clone(), request.target_path.clone());
        match PublishRequest::parse(request, self.expected()) {
            Ok(request) => self.volumes.publish(request).await?,
            Err(error) => {
                tracing::warn!(%error, "a publish request is refused");
                // INVALID_ARGUMENT would have kubelet forget, or even unmount, what is mounted.
                let target = parse_publish_target(&id, &path, self.expected()).ok();
                let kept = match target {
                    Some(target) => self.volumes.keep(&target, &error).await?,
                    None => false,
                };
                if !kept {
                    return Err(error.into());
                }
            }
        }
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }

    /// # Cancel safety
    /// An unpublish goes on to its end when kubelet goes away.
    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let target = parse_unpublish(request.get_ref(), self.expected())
            .inspect_err(|error| tracing::warn!(%error, "an unpublish request is refused"))?;
        self.volumes
            .unpublish(target.clone())
            .await
            .inspect_err(|error| tracing::warn!(%target, %error, "not unpublished"))?;
        tracing::info!(%target, "unpublished");
        Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        let target =
            parse_stats(request.get_ref(), self.expected())?.ok_or_else(status::not_found)?;
        let report = self
            .volumes
            .stat(target)
            .await?
            .ok_or_else(status::not_found)?;
        Ok(Response::new(stats(report)))
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        let capabilities = [
            RpcType::GetVolumeStats,
            RpcType::VolumeCondition,
            RpcType::VolumeMountGroup,
        ];
        let capabilities = capabilities.map(|kind| csi::NodeServiceCapability {
            r#type: Some(CapabilityType::Rpc(Rpc {
                r#type: kind.into(),
            })),
        });
        Ok(Response::new(csi::NodeGetCapabilitiesResponse {
            capabilities: capabilities.to_vec(),
        }))
    }

    async fn node_get_info(
        &self,
        _request: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        let node_id = self.driver.node_name.clone();
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id,
            ..Default::default()
        }))
    }

    async fn node_stage_volume(
        &self,
        _request: Request<csi::NodeStageVolumeRequest>,
    ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        Err(status::unimplemented("NodeStageVolume"))
    }

    async fn node_unstage_volume(
        &self,
        _request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        Err(status::unimplemented("NodeUnstageVolume"))
    }

    async fn node_expand_volume(
        &self,
        _request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
        Err(status::unimplemented("NodeExpandVolume"))
    }
}

/// The files of the present generation against the limits of the mount; what old generations take that are held open
/// somewhere is not seen.
fn stats(report: VolumeReport) -> csi::NodeGetVolumeStatsResponse {
    let usage = |unit: Unit, total: u64, used: u64| {
        let clamped = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        csi::VolumeUsage {
            unit: unit.into(),
            total: clamped(total),
            used: clamped(used),
            available: clamped(total.saturating_sub(used)),
        }
    };
    csi::NodeGetVolumeStatsResponse {
        usage: vec![
            usage(Unit::Bytes, report.limits.size_bytes, report.bytes),
            usage(
                Unit::Inodes,
                report.limits.inodes.into(),
                report.files.into(),
            ),
        ],
        volume_condition: Some(csi::VolumeCondition {
            abnormal: report.trouble.is_some(),
            message: report
                .trouble
                .unwrap_or_else(|| "the volume holds what was released".to_owned()),
        }),
    }
}
