//! `attache keyspace`.

use attache_proto::attache::v1::{self as pb, keyspaces_client::KeyspacesClient};
use serde::Serialize;

use super::{Changed, Shell, or_dash, time};
use crate::args::secret::Create;
use crate::failure::Failure;
use crate::output::{Human, Report};
use crate::session::{Session, mutation};

#[derive(Debug, Serialize)]
struct KeyspaceJson {
    name: String,
    secrets: u64,
    key_epoch: u32,
    created: Option<String>,
}

#[derive(Debug, Serialize)]
struct CreatedJson {
    name: String,
    #[serde(flatten)]
    changed: Changed,
}

/// Makes a keyspace.
///
/// # Errors
/// As [`crate::status`] says, here and below.
pub async fn create(args: Create, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let (id, mutation) = mutation(args.dry_run.dry_run);
    let name = args.name.to_string();
    let request = pb::CreateKeyspaceRequest {
        mutation,
        name: name.clone(),
    };
    let answer: pb::CreateKeyspaceResponse = session
        .change(
            &format!("keyspace {name} was not made"),
            id,
            &request,
            |channel, request| async move {
                KeyspacesClient::new(channel).create_keyspace(request).await
            },
        )
        .await?;
    let changed = Changed::new(id, answer.committed, args.dry_run.dry_run);
    let text = format!(
        "keyspace {name} {}",
        changed.says("is made", "would be made")
    );
    Report::new(
        &CreatedJson {
            name: name.clone(),
            changed,
        },
        vec![name],
        Human::Text(text),
    )
}

/// Lists keyspaces.
///
/// # Errors
/// As [`create`].
pub async fn list(shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let views = views(&session).await?;
    let keyspaces: Vec<KeyspaceJson> = views
        .into_iter()
        .map(|view| KeyspaceJson {
            name: view.name,
            secrets: view.secrets,
            key_epoch: view.key_epoch,
            created: time(view.created),
        })
        .collect();
    let rows = keyspaces
        .iter()
        .map(|keyspace| {
            vec![
                keyspace.name.clone(),
                keyspace.secrets.to_string(),
                keyspace.key_epoch.to_string(),
                or_dash(keyspace.created.as_deref()),
            ]
        })
        .collect();
    let names = keyspaces
        .iter()
        .map(|keyspace| keyspace.name.clone())
        .collect();
    let human = Human::Table {
        heads: &["KEYSPACE", "SECRETS", "KEY EPOCH", "CREATED"],
        rows,
    };
    Report::new(&serde_json::json!({ "keyspaces": keyspaces }), names, human)
}

/// The names of all keyspaces.
///
/// # Errors
/// As [`create`].
pub async fn names(session: &Session) -> Result<Vec<String>, Failure> {
    Ok(views(session)
        .await?
        .into_iter()
        .map(|view| view.name)
        .collect())
}

async fn views(session: &Session) -> Result<Vec<pb::KeyspaceView>, Failure> {
    session
        .pages(|page| {
            let request = pb::ListKeyspacesRequest { page: Some(page) };
            async move {
                let answer: pb::ListKeyspacesResponse = session
                    .read(
                        "keyspaces cannot be listed",
                        &request,
                        |channel, request| async move {
                            KeyspacesClient::new(channel).list_keyspaces(request).await
                        },
                    )
                    .await?;
                Ok((answer.keyspaces, answer.next_token))
            }
        })
        .await
}
