//! Kubelet's plugin registration: who we are and where our CSI socket is, as kubelet sees its path.

use std::path::Path;

use attache_proto::pluginregistration as pb;
use pb::registration_server::{Registration as Service, RegistrationServer};
use tonic::{Request, Response, Status};

/// The kind of plugin, in kubelet's word.
const KIND: &str = "CSIPlugin";
/// The largest message that is read: kubelet's reason for refusing a driver is a sentence.
const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// The versions of the CSI specification's major line that kubelet knows by this list.
const VERSIONS: [&str; 1] = ["1.0.0"];

/// The registration service of one driver.
#[derive(Debug, Clone)]
pub struct Registration {
    driver: String,
    endpoint: String,
}

impl Registration {
    /// Registers `driver` at `csi_socket`.
    #[must_use]
    pub fn new(driver: &str, csi_socket: &Path) -> Self {
        Self {
            driver: driver.to_owned(),
            endpoint: csi_socket.display().to_string(),
        }
    }

    /// The gRPC service.
    #[must_use]
    pub fn server(self) -> RegistrationServer<Self> {
        RegistrationServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }
}

#[tonic::async_trait]
impl Service for Registration {
    async fn get_info(
        &self,
        _request: Request<pb::InfoRequest>,
    ) -> Result<Response<pb::PluginInfo>, Status> {
        Ok(Response::new(pb::PluginInfo {
            r#type: KIND.to_owned(),
            name: self.driver.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: VERSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<pb::RegistrationStatus>,
    ) -> Result<Response<pb::RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!(driver = self.driver, "kubelet has registered the driver");
        } else {
            tracing::error!(
                driver = self.driver,
                error = status.error,
                "kubelet refuses the driver"
            );
        }
        Ok(Response::new(pb::RegistrationStatusResponse {}))
    }
}
