//! `attache why`: the latest evaluation behind a decision, with the true reason.

use attache_proto::attache::v1::{self as pb, audit_client::AuditClient};
use serde::Serialize;

use super::{Shell, or_dash, time};
use crate::args::audit::Why;
use crate::failure::Failure;
use crate::output::{Human, Report};

#[derive(Debug, Serialize)]
struct WhyJson {
    decision: String,
    public_reason: String,
    reason: String,
    workload: Option<String>,
    pod_uid: String,
    pod_name: String,
    volume_name: String,
    node_id: String,
    count: u64,
    first: Option<String>,
    last: Option<String>,
    policies: Vec<String>,
    references: Vec<String>,
}

/// Explains a decision.
///
/// # Errors
/// As [`crate::status`] says.
pub async fn why(args: Why, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let decision = args.decision.as_str();
    let request = pb::ExplainRequest {
        decision: decision.to_owned(),
    };
    let answer: pb::ExplainResponse = session
        .read(
            &format!("decision {decision} cannot be explained"),
            &request,
            |channel, request| async move { AuditClient::new(channel).explain(request).await },
        )
        .await?;
    let workload = answer.workload.map(|to| {
        format!(
            "{}/{}/{}/{}",
            to.cluster, to.namespace, to.service_account, to.container
        )
    });
    let why = WhyJson {
        decision: answer.decision,
        public_reason: answer.public_reason,
        reason: answer.reason,
        workload,
        pod_uid: answer.pod_uid,
        pod_name: answer.pod_name,
        volume_name: answer.volume_name,
        node_id: answer.node_id,
        count: answer.count,
        first: time(answer.first),
        last: time(answer.last),
        policies: answer.policies,
        references: answer.references,
    };
    let human = Human::Card(vec![
        ("decision", why.decision.clone()),
        ("reason", why.reason.clone()),
        ("the pod was told", why.public_reason.clone()),
        ("workload", or_dash(why.workload.as_deref())),
        (
            "pod",
            format!(
                "{} ({})",
                or_dash(Some(&why.pod_name)),
                or_dash(Some(&why.pod_uid))
            ),
        ),
        ("volume", or_dash(Some(&why.volume_name))),
        ("references", or_dash(Some(&why.references.join(", ")))),
        ("policies", or_dash(Some(&why.policies.join(", ")))),
        ("node", or_dash(Some(&why.node_id))),
        (
            "times",
            format!(
                "{}, first {}, last {}",
                why.count,
                or_dash(why.first.as_deref()),
                or_dash(why.last.as_deref())
            ),
        ),
    ]);
    Report::new(&why, vec![why.decision.clone()], human)
}
