//! `attache operator`.

use attache_proto::attache::v1::{self as pb, operators_client::OperatorsClient};
use serde::Serialize;

use super::{Changed, Shell, or_dash, time, with_suggestion};
use crate::args::DryRun;
use crate::args::fleet::{BanOperator, UnbanOperator};
use crate::failure::Failure;
use crate::output::{Human, Report};
use crate::session::{Session, mutation};
use crate::terminal::confirm;

#[derive(Debug, Serialize)]
struct OperatorJson {
    spiffe_id: String,
    name: String,
    role: String,
    serial: String,
    created: Option<String>,
    not_after: Option<String>,
    banned: bool,
}

/// Lists operators.
///
/// # Errors
/// As [`crate::status`] says, here and below.
pub async fn list(shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let operators: Vec<OperatorJson> = all(&session)
        .await?
        .into_iter()
        .map(|view| OperatorJson {
            spiffe_id: view.spiffe_id,
            name: view.name,
            role: view.role,
            serial: view.serial,
            created: time(view.created),
            not_after: time(view.not_after),
            banned: view.banned,
        })
        .collect();
    let rows = operators
        .iter()
        .map(|operator| {
            let state = if operator.banned { "banned" } else { "" };
            vec![
                operator.name.clone(),
                operator.role.clone(),
                or_dash(operator.not_after.as_deref()),
                or_dash(operator.created.as_deref()),
                state.to_owned(),
            ]
        })
        .collect();
    let names = operators
        .iter()
        .map(|operator| operator.name.clone())
        .collect();
    let human = Human::Table {
        heads: &["OPERATOR", "ROLE", "CERTIFICATE UNTIL", "CREATED", "STATE"],
        rows,
    };
    Report::new(&serde_json::json!({ "operators": operators }), names, human)
}

/// Refuses every call of an operator from now on.
///
/// # Errors
/// As [`list`]; when the name is not confirmed.
pub async fn ban(args: BanOperator, shell: &Shell) -> Result<Report, Failure> {
    if !args.dry_run.dry_run {
        confirm(
            &format!("Operator {} will be banned", args.name),
            &args.name,
            args.yes,
        )?;
    }
    set_ban(true, &args.name, args.reason, args.dry_run, shell).await
}

/// Lets a banned operator call again.
///
/// # Errors
/// As [`list`].
pub async fn unban(args: UnbanOperator, shell: &Shell) -> Result<Report, Failure> {
    set_ban(false, &args.name, args.reason, args.dry_run, shell).await
}

#[derive(Debug, Serialize)]
struct BanJson {
    name: String,
    banned: bool,
    #[serde(flatten)]
    changed: Changed,
}

async fn set_ban(
    banned: bool,
    name: &str,
    reason: Option<String>,
    dry_run: DryRun,
    shell: &Shell,
) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let word = if banned { "banned" } else { "unbanned" };
    let (id, mutation) = mutation(dry_run.dry_run);
    let request = pb::BanOperatorRequest {
        mutation,
        name: name.to_owned(),
        reason: reason.unwrap_or_default(),
    };
    let answer: Result<pb::BanResponse, _> = session
        .change(
            &format!("operator {name} was not {word}"),
            id,
            &request,
            |channel, request| async move {
                let mut client = OperatorsClient::new(channel);
                if banned {
                    client.ban_operator(request).await
                } else {
                    client.unban_operator(request).await
                }
            },
        )
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => {
            let names = async {
                Ok(all(&session)
                    .await?
                    .into_iter()
                    .map(|operator| operator.name)
                    .collect())
            };
            return Err(with_suggestion(failure, name, names).await);
        }
    };
    let changed = Changed::new(id, answer.committed, dry_run.dry_run);
    let text = format!("operator {name} {} {word}", changed.says("is", "would be"));
    Report::new(
        &BanJson {
            name: name.to_owned(),
            banned,
            changed,
        },
        vec![name.to_owned()],
        Human::Text(text),
    )
}

async fn all(session: &Session) -> Result<Vec<pb::OperatorView>, Failure> {
    session
        .pages(|page| {
            let request = pb::ListOperatorsRequest { page: Some(page) };
            async move {
                let answer: pb::ListOperatorsResponse = session
                    .read(
                        "operators cannot be listed",
                        &request,
                        |channel, request| async move {
                            OperatorsClient::new(channel).list_operators(request).await
                        },
                    )
                    .await?;
                Ok((answer.operators, answer.next_token))
            }
        })
        .await
}
