//! Reading the audit log: `Audit` of attache.v1. What is answered proves itself, or does not.

use std::pin::Pin;

use attache_proto::attache::v1 as pb;
use pb::audit_server::Audit;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::{field::time_ms, peer::Peers, rpc_error::RpcError};
use crate::audit::{AuditLog, Evaluation, Refusals};

/// Leaves in one message.
const CHUNK: usize = 256;
/// Messages that wait for a slow reader.
const QUEUED: usize = 4;

/// The service.
#[derive(Clone)]
pub struct AuditService {
    /// Admits callers.
    pub peers: Peers,
    /// The log.
    pub log: AuditLog,
    /// What was refused, and why.
    pub refusals: Refusals,
    /// Ends the streams that follow: a broker that stops waits for none of them.
    pub stop: CancellationToken,
}

type Leaves = Pin<Box<dyn Stream<Item = Result<pb::ReadLeavesResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Audit for AuditService {
    type ReadLeavesStream = Leaves;

    async fn latest_checkpoint(
        &self,
        request: Request<pb::LatestCheckpointRequest>,
    ) -> Result<Response<pb::LatestCheckpointResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let head = self.log.head();
        Ok(Response::new(pb::LatestCheckpointResponse {
            checkpoint: head.checkpoint.to_string(),
            vkey: head.vkey.to_string(),
        }))
    }

    async fn read_leaves(
        &self,
        request: Request<pb::ReadLeavesRequest>,
    ) -> Result<Response<Leaves>, Status> {
        self.peers.operator(request.extensions()).await?;
        let extensions = request.extensions().clone();
        let asked = request.into_inner();
        let size = self.log.head().size;
        let first = if asked.last > 0 {
            size.saturating_sub(asked.last)
        } else {
            asked.first_index
        };
        if first > size {
            return Err(RpcError::invalid(
                "first_index",
                format!("is past the end: the log has {size} leaves"),
            )
            .into());
        }
        let left = if asked.limit == 0 {
            u64::MAX
        } else {
            asked.limit
        };
        let (send, receive) = mpsc::channel(QUEUED);
        let reader = Reader {
            service: self.clone(),
            next: first,
            left,
            follow: asked.follow,
        };
        tokio::spawn(reader.run(send, extensions));
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::ExplainResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let decision = request.into_inner().decision;
        let mut id = [0; 4];
        if decision.len() != 8 || hex::decode_to_slice(&decision, &mut id).is_err() {
            return Err(RpcError::invalid(
                "decision",
                "must be the 8 hex digits that the refusal names",
            )
            .into());
        }
        let found = self.refusals.explain(id).ok_or_else(|| {
            RpcError::new(
                Code::NotFound,
                "NO_DECISION",
                format!("decision {decision} is not among those kept; look for it with: attache audit tail"),
            )
        })?;
        Ok(Response::new(explained(decision, found)))
    }
}

/// Streams leaves to one caller.
struct Reader {
    service: AuditService,
    next: u64,
    left: u64,
    follow: bool,
}

impl Reader {
    /// Reads on until the end, or for ever when it follows; a caller who is banned meanwhile gets no more, and one that
    /// follows a broker that stops is told to come again.
    async fn run(
        mut self,
        send: mpsc::Sender<Result<pb::ReadLeavesResponse, Status>>,
        extensions: tonic::Extensions,
    ) {
        let mut heads = self.service.log.subscribe();
        let stop = self.service.stop.clone();
        while self.left > 0 {
            if let Err(refused) = self.service.peers.operator(&extensions).await {
                drop(send.send(Err(refused.into())).await);
                return;
            }
            let want = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
            let leaves = match self.service.log.read(self.next, want).await {
                Ok(leaves) => leaves,
                Err(error) => {
                    drop(send.send(Err(RpcError::from(error).into())).await);
                    return;
                }
            };
            if leaves.is_empty() {
                let closed = send.closed();
                let changed = async { self.follow && heads.changed().await.is_ok() };
                tokio::select! {
                    () = closed => return,
                    () = stop.cancelled(), if self.follow => {
                        let told = RpcError::unavailable("STOPPING", "the broker is stopping; follow it again from here");
                        drop(send.send(Err(told.into())).await);
                        return;
                    }
                    more = changed => if !more { return },
                }
                continue;
            }
            let count = u64::try_from(leaves.len()).unwrap_or(u64::MAX);
            self.next = self.next.saturating_add(count);
            self.left = self.left.saturating_sub(count);
            let leaves = leaves
                .into_iter()
                .map(|l| pb::AuditLeaf {
                    index: l.index,
                    body: l.body.into(),
                })
                .collect();
            if send
                .send(Ok(pb::ReadLeavesResponse { leaves }))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

fn explained(decision: String, found: Evaluation) -> pb::ExplainResponse {
    let denial = found.denial;
    let workload = denial.cluster.map(|cluster| pb::Workload {
        cluster,
        namespace: denial.namespace.unwrap_or_default(),
        service_account: denial.service_account.unwrap_or_default(),
        container: denial.container.unwrap_or_default(),
    });
    pb::ExplainResponse {
        decision,
        public_reason: denial.public_reason,
        reason: denial.true_reason,
        workload,
        pod_uid: denial.pod_uid.unwrap_or_default(),
        pod_name: denial.pod_name.unwrap_or_default(),
        volume_name: denial.volume_name.unwrap_or_default(),
        node_id: denial.actor,
        count: found.count,
        first: time_ms(found.first_ms),
        last: time_ms(found.last_ms),
        policies: denial.policies.unwrap_or_default(),
        references: denial.references.unwrap_or_default(),
    }
}
