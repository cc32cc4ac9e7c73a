//! How the broker is: `Status` of attache.v1.

use std::{path::PathBuf, sync::Arc};

use attache_mtls::tls::Credentials;
use attache_proto::attache::v1 as pb;
use pb::status_server::Status as StatusRpc;
use tonic::{Request, Response, Status};

use super::{
    field::{time, time_ms},
    peer::Peers,
    rpc_error::RpcError,
};
use crate::{
    audit::AuditLog, keys::SlotSet, overdue::OverdueKeys, release::Counters, removal::Removals,
    retagging::Retagging, rotation::Rotations, scrub::LastScrub, vault::BrokerVault,
};

/// The service.
#[derive(Clone)]
pub struct OverviewService {
    /// Admits callers.
    pub peers: Peers,
    /// The secrets, the keys and the store.
    pub vault: Arc<BrokerVault>,
    /// The log.
    pub log: AuditLog,
    /// What was released and refused since the start.
    pub counters: Arc<Counters>,
    /// The server certificate.
    pub credentials: Credentials,
    /// What the last scrub of the store found.
    pub scrubbed: LastScrub,
    /// When the process started serving, in milliseconds since 1970.
    pub started_ms: u64,
    /// Keys whose values are wrapped again.
    pub rotations: Rotations,
    /// Rows that are tagged anew.
    pub retagging: Retagging,
    /// Destroyed keyspaces that are removed.
    pub removals: Removals,
    /// Keys that are past what their keyspace demands.
    pub overdue: OverdueKeys,
    /// The folder of the audit log, and the store's file: their disks are looked at.
    pub disks: [PathBuf; 2],
}

#[tonic::async_trait]
impl StatusRpc for OverviewService {
    async fn show_status(
        &self,
        request: Request<pb::ShowStatusRequest>,
    ) -> Result<Response<pb::ShowStatusResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let counted = self.counters.read();
        let not_after = self.credentials.current().identity().not_after();
        let nodes = self.peers.gate().directory().view().nodes.len();
        let slots = SlotSet::read(self.vault.ledger()).await;
        let slots = slots.map_err(RpcError::from)?;
        Ok(Response::new(pb::ShowStatusResponse {
            broker_id: self.vault.broker().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store: self.vault.store_id().as_bytes().to_vec(),
            boot: self.vault.boot().as_bytes().to_vec(),
            started: time_ms(self.started_ms),
            seq: self.vault.ledger().seq(),
            engine: "redb".to_owned(),
            key_memory: self.vault.keys().arena().protection().to_string(),
            audit_size: self.log.head().size,
            audit_vkey: self.log.head().vkey.to_string(),
            releases: counted.releases,
            refusals: counted.refusals,
            unchanged: counted.unchanged,
            server_certificate_not_after: time(not_after),
            findings: self.findings(not_after, &slots).await?,
            secrets: self.vault.secrets_in_use().await.map_err(RpcError::from)?,
            nodes: u64::try_from(nodes).unwrap_or(u64::MAX),
            keyring_number: slots.keyring_number(),
            slots: u32::try_from(slots.slots().len()).unwrap_or(u32::MAX),
        }))
    }
}
