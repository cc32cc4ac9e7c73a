//! The admin socket: `Admin` of attache.v1, for root or the broker's own user on this machine.

use std::{io, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use attache_mtls::spiffe::{OperatorId, TrustDomain};
use attache_proto::attache::v1 as pb;
use pb::admin_server::Admin;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    enrollment::{certificate, certificate_request},
    rpc_error::RpcError,
};
use crate::{
    identity::Gate,
    seal::UnsealError,
    vault::{BrokerVault, CheckReport, check_store},
};

/// The service.
#[derive(Clone)]
pub struct AdminService {
    /// Signs.
    pub gate: Arc<Gate>,
    /// The store.
    pub vault: Arc<BrokerVault>,
    /// Ends what holds keys.
    pub seal: CancellationToken,
    /// Of the operators that are made here.
    pub trust_domain: TrustDomain,
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn bootstrap_operator(
        &self,
        request: Request<pb::BootstrapOperatorRequest>,
    ) -> Result<Response<pb::BootstrapOperatorResponse>, Status> {
        let asked = request.into_inner();
        let id = OperatorId::new(self.trust_domain.clone(), &asked.name)
            .map_err(|e| RpcError::invalid("name", e.to_string()))?;
        let request = certificate_request(&asked.csr)?;
        let issued = self
            .gate
            .bootstrap_operator(id, request)
            .await
            .map_err(RpcError::from)?;
        Ok(Response::new(pb::BootstrapOperatorResponse {
            certificate: Some(certificate(&self.gate, &issued)?),
        }))
    }

    async fn check_store(
        &self,
        _request: Request<pb::CheckStoreRequest>,
    ) -> Result<Response<pb::CheckStoreResponse>, Status> {
        let (vault, seal) = (Arc::clone(&self.vault), self.seal.clone());
        // Seconds of CPU and disk: not on the runtime's threads.
        let checked = tokio::task::spawn_blocking(move || {
            let check = check_store(vault.ledger().store().as_ref(), vault.keys());
            tokio::runtime::Handle::current().block_on(seal.run_until_cancelled(check))
        });
        let report = checked
            .await
            .ok()
            .flatten()
            .ok_or_else(|| RpcError::unavailable("STOPPING", "the broker is stopping"))?
            .map_err(RpcError::from)?;
        Ok(Response::new(report.into()))
    }

    async fn unseal_broker(
        &self,
        _request: Request<pb::UnsealBrokerRequest>,
    ) -> Result<Response<pb::UnsealBrokerResponse>, Status> {
        Err(RpcError::from(UnsealError::NotSealed).into())
    }
}

impl From<CheckReport> for pb::CheckStoreResponse {
    fn from(report: CheckReport) -> Self {
        let findings = report.findings.into_iter().map(|f| pb::StoreFinding {
            table: f.table.name().to_owned(),
            key: f.key,
            problem: f.problem.to_owned(),
        });
        Self {
            seq: report.seq,
            rows: report.rows,
            payloads: report.payloads,
            findings: findings.collect(),
        }
    }
}

/// Binds the admin socket, 0600, in place of a stale one.
///
/// # Errors
/// When the folder cannot be made or the socket not bound.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The connections of root and of this process's own user; others are closed.
pub fn accepted(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    let own = rustix::process::geteuid().as_raw();
    UnixListenerStream::new(listener).filter_map(move |stream| match stream {
        Ok(stream) => {
            let uid = stream.peer_cred().map(|c| c.uid());
            match uid {
                Ok(uid) if uid == 0 || uid == own => Some(Ok(stream)),
                Ok(uid) => {
                    tracing::warn!(uid, "a connection to the admin socket was refused");
                    None
                }
                Err(_) => None,
            }
        }
        Err(error) => Some(Err(error)),
    })
}
