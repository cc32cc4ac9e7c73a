//! `attache guardrail`.

use attache_proto::attache::v1::{self as pb, guardrails_client::GuardrailsClient};
use serde::Serialize;

use super::{Shell, or_dash, time};
use crate::failure::Failure;
use crate::output::{Human, Report};

#[derive(Debug, Serialize)]
struct GuardrailJson {
    name: String,
    demands: String,
    created: Option<String>,
    created_by: String,
}

/// Lists the guard rails.
///
/// # Errors
/// As [`crate::status`] says.
pub async fn list(shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let session = &session;
    let all = session
        .pages(|page| {
            let request = pb::ListGuardrailsRequest { page: Some(page) };
            async move {
                let answer: pb::ListGuardrailsResponse = session
                    .read(
                        "guard rails cannot be listed",
                        &request,
                        |channel, request| async move {
                            GuardrailsClient::new(channel)
                                .list_guardrails(request)
                                .await
                        },
                    )
                    .await?;
                Ok((answer.guardrails, answer.next_token))
            }
        })
        .await?;
    let guardrails: Vec<GuardrailJson> = all
        .into_iter()
        .map(|rail| GuardrailJson {
            name: rail.name,
            demands: rail.demands,
            created: time(rail.created),
            created_by: rail.created_by,
        })
        .collect();
    let rows = guardrails
        .iter()
        .map(|rail| {
            vec![
                rail.name.clone(),
                rail.demands.clone(),
                or_dash(rail.created.as_deref()),
            ]
        })
        .collect();
    let names = guardrails.iter().map(|rail| rail.name.clone()).collect();
    let human = Human::Table {
        heads: &["GUARD RAIL", "DEMANDS", "CREATED"],
        rows,
    };
    Report::new(
        &serde_json::json!({ "guardrails": guardrails }),
        names,
        human,
    )
}
