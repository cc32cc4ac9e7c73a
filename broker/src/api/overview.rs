//! How the broker is: `Status` of attache.v1.

use std::sync::Arc;

use attache_envelope::body::KeyspaceState;
use attache_mtls::tls::Credentials;
use attache_proto::attache::v1 as pb;
use jiff::{SignedDuration, Timestamp};
use pb::status_server::Status as StatusRpc;
use tonic::{Request, Response, Status};

use super::{
    field::{time, time_ms},
    peer::Peers,
    rpc_error::RpcError,
};
use crate::{
    audit::AuditLog, keys::SlotSet, release::Counters, scrub::LastScrub, vault::BrokerVault,
};

/// A server certificate that ends sooner than this is a finding.
const CERTIFICATE_SOON: SignedDuration = SignedDuration::from_hours(24 * 14);
/// Keyspaces read at once while secrets are counted.
const PAGE: usize = 256;

/// How many nodes a finding names; the others are counted.
const NAMED: usize = 8;

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
            audit_vkey: self.log.vkey().to_owned(),
            releases: counted.releases,
            refusals: counted.refusals,
            unchanged: counted.unchanged,
            server_certificate_not_after: time(not_after),
            findings: self.findings(not_after, &slots).await?,
            secrets: self.secrets().await?,
            nodes: u64::try_from(nodes).unwrap_or(u64::MAX),
            keyring_number: slots.keyring_number(),
            slots: u32::try_from(slots.slots().len()).unwrap_or(u32::MAX),
        }))
    }
}

impl OverviewService {
    async fn secrets(&self) -> Result<u64, RpcError> {
        let (mut after, mut count) = (None, 0_u64);
        loop {
            let page = self.vault.keyspaces(after.as_ref(), PAGE).await?;
            count = page
                .iter()
                .filter(|keyspace| keyspace.state == KeyspaceState::Active)
                .fold(count, |sum, keyspace| sum.saturating_add(keyspace.secrets));
            match page.into_iter().next_back() {
                Some(last) => after = Some(last.name),
                None => return Ok(count),
            }
        }
    }

    /// What an operator should look at.
    async fn findings(
        &self,
        certificate_ends: Timestamp,
        slots: &SlotSet,
    ) -> Result<Vec<String>, RpcError> {
        let scrubbed = self.scrubbed.borrow().clone();
        let mut findings: Vec<_> = scrubbed.and_then(|it| it.finding()).into_iter().collect();
        if slots.slots().len() == 1 {
            findings.push(
                "the store opens by one slot only: without its key the store is lost; keep a copy of it apart from the \
                 store, or add another slot: attache slot add"
                    .to_owned(),
            );
        }
        if self.vault.keys().arena().protection() == attache_arena::Protection::Plain {
            findings.push(
                "keys are in ordinary memory (keys.danger_plain_key_arena): never serve like this"
                    .to_owned(),
            );
        }
        if Timestamp::now().duration_until(certificate_ends) < CERTIFICATE_SOON {
            findings.push(format!(
                "the server certificate ends at {certificate_ends}; restart the broker to renew it"
            ));
        }
        findings.extend(self.weak_nodes());
        let approvals = self.peers.gate().approvals().await?.into_iter();
        let waiting = approvals.filter(|(_, record)| record.decision.is_none());
        match waiting.count() {
            0 => {}
            count => findings.push(format!(
                "enrollments of nodes that have an identity wait for an operator: {count}; see attache approval list"
            )),
        }
        Ok(findings)
    }

    /// What nodes say that their kernels lack, and what follows from it.
    fn weak_nodes(&self) -> impl Iterator<Item = String> + use<> {
        let directory = self.peers.gate().directory();
        let now = Timestamp::now();
        let weaknesses = [
            (
                directory.nodes_lacking(|lacks| lacks.inode_flags, now),
                "tmpfs has no inode flags (kernel 6.6 has): that a container does not change its secrets rests on \
                 csi.readOnly alone",
            ),
            (
                directory.nodes_lacking(|lacks| lacks.noswap, now),
                "tmpfs has no noswap (kernel 6.4 has): keep swap off, secrets are not mounted while it is on",
            ),
        ];
        weaknesses
            .into_iter()
            .filter(|(nodes, _)| !nodes.is_empty())
            .map(|(nodes, weakness)| format!("{}: {weakness}", named(&nodes)))
    }
}

/// `node a`, `nodes a, b`, `nodes a, b and 7 more`.
fn named(nodes: &[String]) -> String {
    let noun = if nodes.len() == 1 { "node" } else { "nodes" };
    let names: Vec<_> = nodes.iter().take(NAMED).map(String::as_str).collect();
    let names = names.join(", ");
    match nodes.len().saturating_sub(NAMED) {
        0 => format!("{noun} {names}"),
        more => format!("{noun} {names} and {more} more (attache node list)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_eight_nodes_and_counts_the_others() {
        let nodes: Vec<_> = (0..10).map(|n| format!("n{n}")).collect();
        assert_eq!(named(&nodes[..1]), "node n0");
        assert_eq!(named(&nodes[..2]), "nodes n0, n1");
        assert_eq!(
            named(&nodes),
            "nodes n0, n1, n2, n3, n4, n5, n6, n7 and 2 more (attache node list)"
        );
    }
}
