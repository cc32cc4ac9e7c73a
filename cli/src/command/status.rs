//! `attache status`.

use attache_proto::attache::v1::{self as pb, status_client::StatusClient};
use serde::Serialize;

use super::{Shell, or_dash, time, uuid_text};
use crate::failure::Failure;
use crate::output::{Human, Report};
use crate::session::Session;

#[derive(Debug, Serialize)]
struct StatusJson {
    broker_id: String,
    version: String,
    store: String,
    boot: String,
    started: Option<String>,
    seq: u64,
    engine: String,
    key_memory: String,
    audit_size: u64,
    audit_vkey: String,
    releases: u64,
    refusals: u64,
    unchanged: u64,
    secrets: u64,
    nodes: u64,
    keyring_number: u64,
    slots: u32,
    server_certificate_not_after: Option<String>,
    findings: Vec<String>,
    operator: String,
}

/// Shows how the broker is, and who this operator is to it.
///
/// # Errors
/// As [`crate::status`] says.
pub async fn status(shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let answer = shown(&session).await?;
    let status = StatusJson {
        broker_id: answer.broker_id,
        version: answer.version,
        store: uuid_text(&answer.store),
        boot: uuid_text(&answer.boot),
        started: time(answer.started),
        seq: answer.seq,
        engine: answer.engine,
        key_memory: answer.key_memory,
        audit_size: answer.audit_size,
        audit_vkey: answer.audit_vkey,
        releases: answer.releases,
        refusals: answer.refusals,
        unchanged: answer.unchanged,
        secrets: answer.secrets,
        nodes: answer.nodes,
        keyring_number: answer.keyring_number,
        slots: answer.slots,
        server_certificate_not_after: time(answer.server_certificate_not_after),
        findings: answer.findings,
        operator: session.operator().to_owned(),
    };
    let mut card = vec![
        ("broker", status.broker_id.clone()),
        ("version", status.version.clone()),
        ("started", or_dash(status.started.as_deref())),
        (
            "certificate until",
            or_dash(status.server_certificate_not_after.as_deref()),
        ),
        (
            "store",
            format!(
                "{} ({}, seq {})",
                status.store,
                or_dash(Some(&status.engine)),
                status.seq
            ),
        ),
        ("key memory", or_dash(Some(&status.key_memory))),
        (
            "keyring",
            format!("{}, slots: {}", status.keyring_number, status.slots),
        ),
        ("secrets", status.secrets.to_string()),
        ("nodes", status.nodes.to_string()),
        (
            "since start",
            format!(
                "{} releases, {} unchanged, {} refusals",
                status.releases, status.unchanged, status.refusals
            ),
        ),
        ("audit", format!("{} records", status.audit_size)),
        ("audit key", status.audit_vkey.clone()),
        ("you", status.operator.clone()),
    ];
    card.extend(
        status
            .findings
            .iter()
            .map(|finding| ("look at", finding.clone())),
    );
    Report::new(&status, vec![status.broker_id.clone()], Human::Card(card))
}

/// What the broker says of itself.
///
/// # Errors
/// As [`crate::status`] says.
pub(super) async fn shown(session: &Session) -> Result<pb::ShowStatusResponse, Failure> {
    session
        .read(
            "the broker's status cannot be shown",
            &pb::ShowStatusRequest {},
            |channel, request| async move { StatusClient::new(channel).show_status(request).await },
        )
        .await
}
