//! `attache key rotate --mac` and `attache key status --mac`: the key that rows are tagged with.

use attache_proto::attache::v1::{self as pb, keys_client::KeysClient};
use serde::Serialize;

use super::{Changed, Shell, or_dash};
use crate::args::key::Rotate;
use crate::failure::Failure;
use crate::output::{Human, Report};
use crate::session::mutation;

#[derive(Debug, Serialize)]
struct StatusJson {
    /// Of the key that new tags are made with.
    epoch: u32,
    /// Of those that rows still have tags of.
    before: Vec<u32>,
    /// How many rows there are; 0 while none is tagged anew.
    rows: u64,
    looked: u64,
    tagged: u64,
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct RotatedJson {
    epoch: u32,
    keyring_number: u64,
    #[serde(flatten)]
    changed: Changed,
}

/// Shows the keys of the rows' MACs, and how far a rotation is.
///
/// # Errors
/// As [`crate::status`] says, here and below.
pub async fn status(shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let answer: pb::ShowMacResponse = session
        .read(
            "the key of the rows' MACs cannot be shown",
            &pb::ShowMacRequest {},
            |channel, request| async move { KeysClient::new(channel).show_mac(request).await },
        )
        .await?;
    let data = StatusJson {
        epoch: answer.epoch,
        before: answer.before,
        rows: answer.rows,
        looked: answer.looked,
        tagged: answer.tagged,
        problem: Some(answer.problem).filter(|problem| !problem.is_empty()),
    };
    let mut names = vec![name(data.epoch)];
    let mut rows = vec![vec![name(data.epoch), "active".to_owned(), "-".to_owned()]];
    let progress = match &data.problem {
        Some(problem) => format!("stands still: {problem}"),
        None => format!(
            "{} of {} rows looked at, {} tagged anew",
            data.looked, data.rows, data.tagged
        ),
    };
    for epoch in data.before.iter().rev() {
        names.push(name(*epoch));
        rows.push(vec![
            name(*epoch),
            "verifies".to_owned(),
            or_dash(Some(&progress)),
        ]);
    }
    let heads = &["KEY", "STATE", "PROGRESS"];
    Report::new(&data, names, Human::Table { heads, rows })
}

/// Gives the rows another MAC key.
///
/// # Errors
/// As [`status`]; [`crate::failure::Exit::Precondition`] while rows have tags of one before.
pub async fn rotate(args: Rotate, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let (id, mutation) = mutation(dry_run);
    let request = pb::RotateMacRequest {
        mutation,
        reason: String::new(),
    };
    let answer: pb::RotateMacResponse = session
        .change(
            "the key of the rows' MACs was not rotated",
            id,
            &request,
            |channel, request| async move { KeysClient::new(channel).rotate_mac(request).await },
        )
        .await?;
    let data = RotatedJson {
        epoch: answer.epoch,
        keyring_number: answer.keyring_number,
        changed: Changed::new(id, answer.committed, dry_run),
    };
    let name = name(data.epoch);
    let text = format!(
        "{name} {} what is written; every row is tagged anew, and the key before then dropped, see: attache key status --mac",
        data.changed.says("tags", "would tag")
    );
    Report::new(&data, vec![name], Human::Text(text))
}

fn name(epoch: u32) -> String {
    format!("row-mac@{epoch}")
}
