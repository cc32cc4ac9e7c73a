//! What waits for an operator: `Approvals` of attache.v1.

use attache_proto::attache::v1 as pb;
use pb::approvals_server::Approvals;
use tonic::{Code, Request, Response, Status};

use super::{
    field::{missing, note, page, page_token, time},
    mutate::{Asked, Prepared, digest, mutate},
    peer::Peers,
    rpc_error::RpcError,
};
use crate::{
    audit::Clock,
    identity::approval::{ApprovalRecord, Decision, ID_DIGITS, Verdict},
    mutation::Mutations,
    store::{Change, Table},
};

/// The service.
#[derive(Clone)]
pub struct ApprovalService {
    /// Admits callers, and knows what waits.
    pub peers: Peers,
    /// Changes.
    pub mutations: Mutations,
    /// The time on record.
    pub clock: Clock,
}

#[tonic::async_trait]
impl Approvals for ApprovalService {
    async fn list_approvals(
        &self,
        request: Request<pb::ListApprovalsRequest>,
    ) -> Result<Response<pb::ListApprovalsResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let page = page(request.into_inner().page)?;
        let mut standing = self
            .peers
            .gate()
            .approvals()
            .await
            .map_err(RpcError::from)?;
        if let Some(after) = page.after {
            standing.retain(|(_, record)| record.id() > after);
        }
        let more = standing.len() > page.size;
        standing.truncate(page.size);
        let last = standing
            .last()
            .filter(|_| more)
            .map(|(_, record)| record.id());
        let next_token = page_token(last.as_deref());
        let approvals = standing.iter().map(|(_, record)| view(record)).collect();
        Ok(Response::new(pb::ListApprovalsResponse {
            approvals,
            next_token,
        }))
    }

    async fn show_approval(
        &self,
        request: Request<pb::ShowApprovalRequest>,
    ) -> Result<Response<pb::Approval>, Status> {
        self.peers.operator(request.extensions()).await?;
        let (_, record) = self.standing(&request.into_inner().id).await?;
        Ok(Response::new(view(&record)))
    }

    async fn approve_enrollment(
        &self,
        request: Request<pb::DecideEnrollmentRequest>,
    ) -> Result<Response<pb::DecideEnrollmentResponse>, Status> {
        Ok(self
            .decide(request, "approval.approve", Verdict::Approved)
            .await?)
    }

    async fn reject_enrollment(
        &self,
        request: Request<pb::DecideEnrollmentRequest>,
    ) -> Result<Response<pb::DecideEnrollmentResponse>, Status> {
        Ok(self
            .decide(request, "approval.reject", Verdict::Rejected)
            .await?)
    }
}

impl ApprovalService {
    async fn decide(
        &self,
        request: Request<pb::DecideEnrollmentRequest>,
        verb: &'static str,
        verdict: Verdict,
    ) -> Result<Response<pb::DecideEnrollmentResponse>, RpcError> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest(verb, &asked);
        let reason = note("reason", asked.reason)?;
        let id = parsed(&asked.id)?.to_owned();
        let decision = Decision {
            verdict,
            by: peer.id.to_string(),
            at: self.clock.now(),
        };
        let prepare = async {
            let (seq, record) = self.standing(&id).await?;
            if record.verdict() == Some(verdict) {
                let told = format!("approval {id} is {} already", record.state());
                let code = Code::FailedPrecondition;
                return Err(RpcError::new(code, "ALREADY_DECIDED", told));
            }
            let decided = record.decided(decision);
            let mut change = Change::default();
            change.require_at(Table::Approval, id.clone(), seq);
            change.put(Table::Approval, id.clone(), decided.encode());
            let answer = pb::DecideEnrollmentResponse {
                committed: None,
                approval: Some(view(&decided)),
            };
            Ok(Prepared { change, answer })
        };
        let asked = Asked {
            peer,
            verb,
            object: id.clone(),
            mutation,
            digest,
            reason,
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, |_| ()).await?;
        Ok(Response::new(pb::DecideEnrollmentResponse {
            committed: Some(committed),
            ..answer
        }))
    }

    /// The approval of this id, with its commit.
    async fn standing(&self, id: &str) -> Result<(u64, ApprovalRecord), RpcError> {
        let id = parsed(id)?;
        let standing = self.peers.gate().approvals().await?;
        let found = standing.into_iter().find(|(_, record)| record.id() == id);
        found.ok_or_else(|| {
            RpcError::new(
                Code::NotFound,
                "NO_APPROVAL",
                format!(
                    "there is no approval {id}: it was used, or is over; see those there are with: attache approval list"
                ),
            )
        })
    }
}

/// An id as it is shown.
fn parsed(id: &str) -> Result<&str, RpcError> {
    if id.is_empty() {
        return Err(missing("id"));
    }
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if id.len() != ID_DIGITS || !id.bytes().all(is_digit) {
        let problem = format!("must be {ID_DIGITS} lower-case hexadecimal digits");
        return Err(RpcError::invalid("id", problem));
    }
    Ok(id)
}

fn view(record: &ApprovalRecord) -> pb::Approval {
    let decision = record.decision.as_ref();
    pb::Approval {
        id: record.id(),
        spiffe_id: record.node.clone(),
        node: record.name.clone(),
        key: record.spki.as_bytes().to_vec(),
        evidence: record.evidence.clone(),
        asked: time(record.asked),
        not_after: time(record.not_after),
        state: record.state().to_owned(),
        decided_by: decision.map(|it| it.by.clone()).unwrap_or_default(),
        decided: decision.and_then(|it| time(it.at)),
    }
}
