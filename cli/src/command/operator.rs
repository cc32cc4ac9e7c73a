//! `attache operator`.

use attache_proto::attache::v1::{self as pb, operators_client::OperatorsClient};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Changed, Shell, is_one_time, or_dash, time, with_suggestion};
use crate::args::fleet::{AddOperator, BanOperator, UnbanOperator};
use crate::args::{DryRun, Format};
use crate::failure::{Exit, Failure};
use crate::output::{self, Human, Report};
use crate::session::{Session, mutation};
use crate::terminal::confirm;

/// What an operator's code begins with.
pub(super) const OPERATOR_CODE: &str = "attache-operator-1:";

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

#[derive(Serialize)]
struct CodeJson<'c> {
    name: String,
    not_after: Option<String>,
    /// Only where it was made and not printed already.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'c str>,
    #[serde(flatten)]
    changed: Changed,
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

/// Makes a code and prints it, alone, on standard output.
///
/// # Errors
/// As [`list`]; [`Exit::Failed`] when the code's only answer was lost.
pub async fn add(args: AddOperator, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let (dry_run, name) = (args.dry_run.dry_run, args.name);
    let (id, mutation) = mutation(dry_run);
    let request = pb::AddOperatorRequest {
        mutation,
        name: name.clone(),
    };
    let what = format!("no code was made for operator {name}");
    let answer: pb::AddOperatorResponse = session
        .change(&what, id, &request, |channel, request| async move {
            OperatorsClient::new(channel).add_operator(request).await
        })
        .await?;
    let code = Zeroizing::new(answer.code);
    let mut data = CodeJson {
        name,
        not_after: time(answer.not_after),
        code: None,
        changed: Changed::new(id, answer.committed, dry_run),
    };
    let name = &data.name;
    if dry_run {
        let text = format!("a code for operator {name} would be made");
        return Report::new(&data, Vec::new(), Human::Text(text));
    }
    if code.is_empty() {
        return Err(Failure::new(Exit::Failed, what)
            .because("it was made, and its only answer was lost")
            .of_request(id)
            .mend("make another one"));
    }
    // It is printed as it is.
    if !is_one_time(&code, OPERATOR_CODE) {
        return Err(Failure::new(Exit::Failed, what)
            .because("what the broker answered has not the form of an operator's code")
            .of_request(id));
    }
    shell.console.hint(&format!(
        "for operator {name}, once, until {}; there: attache login --new {name} --broker ADDR --code @FILE",
        or_dash(data.not_after.as_deref())
    ));
    match shell.console.format {
        // Alone on standard output, out of a buffer that is wiped.
        Format::Table | Format::Name => {
            let line = Zeroizing::new(format!("{}\n", code.as_str()));
            output::print(line.as_bytes())?;
        }
        Format::Json | Format::Yaml => data.code = Some(code.as_str()),
    }
    Report::new(&data, Vec::new(), Human::Text(String::new()))
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
