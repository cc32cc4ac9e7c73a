//! `attache key rotate --audit` and `attache key status --audit`: the key that signs the audit log, copies of the anchor and
//! backups.

use attache_proto::attache::v1::{self as pb, keys_client::KeysClient};
use serde::Serialize;

use super::{Changed, Shell};
use crate::args::key::Rotate;
use crate::failure::Failure;
use crate::output::{Human, Report};
use crate::session::mutation;

#[derive(Debug, Serialize)]
struct StatusJson {
    /// The one that signs first.
    keys: Vec<KeyJson>,
}

#[derive(Debug, Serialize)]
struct KeyJson {
    epoch: u32,
    /// `active` or `verifies`.
    state: &'static str,
    vkey: String,
}

#[derive(Debug, Serialize)]
struct RotatedJson {
    epoch: u32,
    /// Not of a dry run: the key is drawn anew.
    vkey: Option<String>,
    keyring_number: u64,
    #[serde(flatten)]
    changed: Changed,
}

/// Shows the keys that sign, or have signed.
///
/// # Errors
/// As [`crate::status`] says, here and below.
pub async fn status(shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let answer: pb::ShowAuditKeysResponse =
        session
            .read(
                "the audit keys cannot be shown",
                &pb::ShowAuditKeysRequest {},
                |channel, request| async move {
                    KeysClient::new(channel).show_audit_keys(request).await
                },
            )
            .await?;
    let keys = answer.keys.into_iter().enumerate();
    let keys = keys.map(|(place, key)| KeyJson {
        epoch: key.epoch,
        state: if place == 0 { "active" } else { "verifies" },
        vkey: key.vkey,
    });
    let data = StatusJson {
        keys: keys.collect(),
    };
    let names = data.keys.iter().map(|key| name(key.epoch)).collect();
    let rows = data
        .keys
        .iter()
        .map(|key| vec![name(key.epoch), key.state.to_owned(), key.vkey.clone()])
        .collect();
    let heads = &["KEY", "STATE", "VKEY"];
    Report::new(&data, names, Human::Table { heads, rows })
}

/// Has another key sign.
///
/// # Errors
/// As [`status`].
pub async fn rotate(args: Rotate, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let (id, mutation) = mutation(dry_run);
    let request = pb::RotateAuditKeyRequest {
        mutation,
        reason: String::new(),
    };
    let answer: pb::RotateAuditKeyResponse =
        session
            .change(
                "the audit key was not rotated",
                id,
                &request,
                |channel, request| async move {
                    KeysClient::new(channel).rotate_audit_key(request).await
                },
            )
            .await?;
    let key = answer.key.unwrap_or_default();
    let data = RotatedJson {
        epoch: key.epoch,
        vkey: Some(key.vkey).filter(|vkey| !vkey.is_empty()),
        keyring_number: answer.keyring_number,
        changed: Changed::new(id, answer.committed, dry_run),
    };
    let name = name(data.epoch);
    let text = match &data.vkey {
        None => format!("{name} would sign the audit log"),
        Some(vkey) => format!(
            "{name} signs the audit log, and of the key before only the public half is left here; keep this one elsewhere, as the one before: {vkey}"
        ),
    };
    Report::new(&data, vec![name], Human::Text(text))
}

fn name(epoch: u32) -> String {
    format!("audit-signing@{epoch}")
}
