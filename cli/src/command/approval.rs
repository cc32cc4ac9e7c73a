//! `attache approval`: second enrollments of nodes that have an identity, which wait for an operator.

use attache_proto::attache::v1::{self as pb, approvals_client::ApprovalsClient};
use serde::Serialize;

use super::{Changed, Shell, or_dash, time, with_suggestion};
use crate::args::DryRun;
use crate::args::approval::{Approve, OneApproval, Reject};
use crate::failure::Failure;
use crate::output::{Human, Report};
use crate::session::{Session, mutation};
use crate::terminal::confirm;

#[derive(Debug, Serialize)]
struct ApprovalJson {
    id: String,
    state: String,
    spiffe_id: String,
    node: String,
    key: String,
    evidence: String,
    asked: Option<String>,
    not_after: Option<String>,
    decided_by: Option<String>,
    decided: Option<String>,
}

#[derive(Debug, Serialize)]
struct DecidedJson {
    #[serde(flatten)]
    approval: ApprovalJson,
    #[serde(flatten)]
    changed: Changed,
}

impl From<pb::Approval> for ApprovalJson {
    fn from(approval: pb::Approval) -> Self {
        Self {
            id: approval.id,
            state: approval.state,
            spiffe_id: approval.spiffe_id,
            node: approval.node,
            key: approval.key.iter().map(|b| format!("{b:02x}")).collect(),
            evidence: approval.evidence,
            asked: time(approval.asked),
            not_after: time(approval.not_after),
            decided_by: Some(approval.decided_by).filter(|by| !by.is_empty()),
            decided: time(approval.decided),
        }
    }
}

impl ApprovalJson {
    fn card(&self) -> Human {
        Human::Card(vec![
            ("approval", self.id.clone()),
            ("state", self.state.clone()),
            ("node", self.node.clone()),
            ("identity", self.spiffe_id.clone()),
            ("key", self.key.clone()),
            ("evidence", self.evidence.clone()),
            ("asked", or_dash(self.asked.as_deref())),
            ("until", or_dash(self.not_after.as_deref())),
            ("decided by", or_dash(self.decided_by.as_deref())),
            ("decided", or_dash(self.decided.as_deref())),
        ])
    }
}

/// Lists approvals.
///
/// # Errors
/// As [`crate::status`] says, here and below.
pub async fn list(shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let approvals: Vec<ApprovalJson> = all(&session).await?.into_iter().map(Into::into).collect();
    let row = |approval: &ApprovalJson| {
        vec![
            approval.id.clone(),
            approval.state.clone(),
            approval.node.clone(),
            or_dash(approval.asked.as_deref()),
            or_dash(approval.not_after.as_deref()),
            approval.evidence.clone(),
        ]
    };
    let human = Human::Table {
        heads: &["APPROVAL", "STATE", "NODE", "ASKED", "UNTIL", "EVIDENCE"],
        rows: approvals.iter().map(row).collect(),
    };
    let names = approvals
        .iter()
        .map(|approval| approval.id.clone())
        .collect();
    Report::new(&serde_json::json!({ "approvals": approvals }), names, human)
}

/// Shows one.
///
/// # Errors
/// As [`list`].
pub async fn show(args: OneApproval, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let approval = one(&session, &args.id).await?;
    Report::new(&approval, vec![approval.id.clone()], approval.card())
}

/// Lets a node enroll again with the key that asked.
///
/// # Errors
/// As [`list`]; when the id is not confirmed.
pub async fn approve(args: Approve, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    if !args.dry_run.dry_run && !args.yes.yes {
        let asked = one(&session, &args.id).await?;
        let what = format!(
            "Node {} ({}) will be enrolled anew with the key {}, and what runs with its present keys ends",
            asked.node, asked.spiffe_id, asked.key
        );
        confirm(&what, &args.id, args.yes)?;
    }
    decide(true, &args.id, args.reason, args.dry_run, &session).await
}

/// Refuses it.
///
/// # Errors
/// As [`list`].
pub async fn reject(args: Reject, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    decide(false, &args.id, args.reason, args.dry_run, &session).await
}

async fn decide(
    approved: bool,
    approval: &str,
    reason: Option<String>,
    dry_run: DryRun,
    session: &Session,
) -> Result<Report, Failure> {
    let word = if approved { "approved" } else { "rejected" };
    let (id, mutation) = mutation(dry_run.dry_run);
    let request = pb::DecideEnrollmentRequest {
        mutation,
        id: approval.to_owned(),
        reason: reason.unwrap_or_default(),
    };
    let answer: Result<pb::DecideEnrollmentResponse, _> = session
        .change(
            &format!("approval {approval} was not {word}"),
            id,
            &request,
            |channel, request| async move {
                let mut client = ApprovalsClient::new(channel);
                if approved {
                    client.approve_enrollment(request).await
                } else {
                    client.reject_enrollment(request).await
                }
            },
        )
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => return Err(suggested(failure, approval, session).await),
    };
    let changed = Changed::new(id, answer.committed, dry_run.dry_run);
    let approval: ApprovalJson = answer.approval.unwrap_or_default().into();
    let does = changed.says("is", "would be");
    let text = if approved {
        format!(
            "the second enrollment of node {} {does} approved, for its key alone, until {}",
            approval.node,
            or_dash(approval.not_after.as_deref())
        )
    } else {
        format!(
            "the second enrollment of node {} {does} rejected",
            approval.node
        )
    };
    let name = approval.id.clone();
    Report::new(
        &DecidedJson { approval, changed },
        vec![name],
        Human::Text(text),
    )
}

async fn one(session: &Session, id: &str) -> Result<ApprovalJson, Failure> {
    let request = pb::ShowApprovalRequest { id: id.to_owned() };
    let answer: Result<pb::Approval, _> =
        session
            .read(
                &format!("approval {id} cannot be shown"),
                &request,
                |channel, request| async move {
                    ApprovalsClient::new(channel).show_approval(request).await
                },
            )
            .await;
    match answer {
        Ok(approval) => Ok(approval.into()),
        Err(failure) => Err(suggested(failure, id, session).await),
    }
}

async fn suggested(failure: Failure, id: &str, session: &Session) -> Failure {
    let ids = async {
        Ok(all(session)
            .await?
            .into_iter()
            .map(|approval| approval.id)
            .collect())
    };
    with_suggestion(failure, id, ids).await
}

async fn all(session: &Session) -> Result<Vec<pb::Approval>, Failure> {
    session
        .pages(|page| {
            let request = pb::ListApprovalsRequest { page: Some(page) };
            async move {
                let answer: pb::ListApprovalsResponse = session
                    .read(
                        "approvals cannot be listed",
                        &request,
                        |channel, request| async move {
                            ApprovalsClient::new(channel).list_approvals(request).await
                        },
                    )
                    .await?;
                Ok((answer.approvals, answer.next_token))
            }
        })
        .await
}
