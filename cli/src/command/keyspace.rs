//! `attache keyspace`.

use attache_proto::attache::v1::{self as pb, keyspaces_client::KeyspacesClient};
use serde::Serialize;

use super::{Changed, Shell, held, or_dash, time, with_suggestion};
use crate::args::secret::{Create, DestroyKeyspace, OneKeyspace, SetKeyspace};
use crate::failure::Failure;
use crate::output::{Human, Report};
use crate::session::{Session, mutation};
use crate::terminal::confirm;

#[derive(Debug, Serialize)]
struct KeyspaceJson {
    name: String,
    /// `active`, `removing` or `destroyed`.
    state: String,
    secrets: u64,
    key_epoch: u32,
    /// How many versions of a secret are kept; null: all.
    max_versions: Option<u32>,
    created: Option<String>,
    /// Why the rows of a destroyed one do not go; none when they do.
    problem: Option<String>,
}

impl From<pb::KeyspaceView> for KeyspaceJson {
    fn from(view: pb::KeyspaceView) -> Self {
        Self {
            name: view.name,
            state: view.state,
            secrets: view.secrets,
            key_epoch: view.key_epoch,
            max_versions: Some(view.max_versions).filter(|it| *it > 0),
            created: time(view.created),
            problem: Some(view.problem).filter(|it| !it.is_empty()),
        }
    }
}

#[derive(Debug, Serialize)]
struct SetJson {
    name: String,
    max_versions: Option<u32>,
    #[serde(flatten)]
    changed: Changed,
}

#[derive(Debug, Serialize)]
struct DestroyedJson {
    name: String,
    secrets: u64,
    keys: u64,
    /// What is still to be known of the keys.
    statement: String,
    /// The backups on record that may have something of it, newest first.
    backups: Vec<held::ByJson>,
    /// How many there are.
    backup_count: u64,
    /// Grants that give nothing any more.
    grants: Vec<String>,
    /// How many there are.
    grant_count: u64,
    #[serde(flatten)]
    changed: Changed,
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
        max_versions: args.max_versions,
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
    let keyspaces: Vec<KeyspaceJson> = views.into_iter().map(KeyspaceJson::from).collect();
    let rows = keyspaces
        .iter()
        .map(|keyspace| {
            vec![
                keyspace.name.clone(),
                state(keyspace),
                keyspace.secrets.to_string(),
                keyspace.key_epoch.to_string(),
                kept(keyspace.max_versions),
                or_dash(keyspace.created.as_deref()),
            ]
        })
        .collect();
    let names = keyspaces
        .iter()
        .map(|keyspace| keyspace.name.clone())
        .collect();
    let human = Human::Table {
        heads: &[
            "KEYSPACE",
            "STATE",
            "SECRETS",
            "KEY EPOCH",
            "VERSIONS",
            "CREATED",
        ],
        rows,
    };
    Report::new(&serde_json::json!({ "keyspaces": keyspaces }), names, human)
}

/// Shows one keyspace.
///
/// # Errors
/// As [`create`].
pub async fn show(args: OneKeyspace, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let name = args.name.to_string();
    let request = pb::ShowKeyspaceRequest { name: name.clone() };
    let what = format!("keyspace {name} cannot be shown");
    let shown: Result<pb::KeyspaceView, _> = session
        .read(&what, &request, |channel, request| async move {
            KeyspacesClient::new(channel).show_keyspace(request).await
        })
        .await;
    let keyspace = match shown {
        Ok(view) => KeyspaceJson::from(view),
        Err(failure) => return Err(with_suggestion(failure, &name, active(&session)).await),
    };
    let human = Human::Card(vec![
        ("keyspace", keyspace.name.clone()),
        ("state", state(&keyspace)),
        ("secrets", keyspace.secrets.to_string()),
        ("key epoch", keyspace.key_epoch.to_string()),
        ("versions kept", kept(keyspace.max_versions)),
        ("created", or_dash(keyspace.created.as_deref())),
    ]);
    Report::new(&keyspace, vec![name], human)
}

/// Changes what a keyspace keeps.
///
/// # Errors
/// As [`create`].
pub async fn set(args: SetKeyspace, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let (name, dry_run) = (args.name.to_string(), args.dry_run.dry_run);
    let (id, mutation) = mutation(dry_run);
    let request = pb::SetKeyspaceRequest {
        mutation,
        name: name.clone(),
        max_versions: Some(args.max_versions),
    };
    let what = format!("keyspace {name} was not changed");
    let answer: Result<pb::SetKeyspaceResponse, _> = session
        .change(&what, id, &request, |channel, request| async move {
            KeyspacesClient::new(channel).set_keyspace(request).await
        })
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => return Err(with_suggestion(failure, &name, active(&session)).await),
    };
    let changed = Changed::new(id, answer.committed, dry_run);
    let max_versions = Some(args.max_versions).filter(|it| *it > 0);
    let text = format!(
        "keyspace {name} {} of each secret the active version and the newest ones ({}); others go for good, in the background",
        changed.says("keeps", "would keep"),
        kept(max_versions)
    );
    let set = SetJson {
        name: name.clone(),
        max_versions,
        changed,
    };
    Report::new(&set, vec![name], Human::Text(text))
}

/// How many versions of a secret are kept.
fn kept(max_versions: Option<u32>) -> String {
    max_versions.map_or_else(|| "all".to_owned(), |it| it.to_string())
}

/// Destroys a keyspace.
///
/// # Errors
/// As [`create`]; when the name is not confirmed.
pub async fn destroy(args: DestroyKeyspace, shell: &Shell) -> Result<Report, Failure> {
    let (name, dry_run) = (args.name.to_string(), args.dry_run.dry_run);
    if !dry_run {
        let asked = format!(
            "Keyspace {name} will be destroyed for good, with every secret in it, and its name is not given again"
        );
        confirm(&asked, &name, args.yes)?;
    }
    let session = shell.session().await?;
    let (id, mutation) = mutation(dry_run);
    let request = pb::DestroyKeyspaceRequest {
        mutation,
        name: name.clone(),
    };
    let what = format!("keyspace {name} was not destroyed");
    let answer: Result<pb::DestroyKeyspaceResponse, _> = session
        .change(&what, id, &request, |channel, request| async move {
            KeyspacesClient::new(channel)
                .destroy_keyspace(request)
                .await
        })
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => return Err(with_suggestion(failure, &name, active(&session)).await),
    };
    let changed = Changed::new(id, answer.committed, dry_run);
    let backups = held::by(&answer.backups);
    let still = held::told(&backups, answer.backup_count);
    let (secrets, keys) = (answer.secrets, answer.keys);
    let grants = grants(&answer.grants, answer.grant_count);
    let text = if dry_run {
        format!(
            "keyspace {name} would be destroyed: secrets {secrets}, keys {keys}; {still}{grants}"
        )
    } else {
        format!(
            "keyspace {name} is destroyed: its keys ({keys}) are gone from the live store at seq {}; {}; {still}; what they \
             wrapped (secrets {secrets}) is being removed, see: attache keyspace list; what pods have mounted stays until \
             they end{grants}",
            changed.seq, answer.statement
        )
    };
    let destroyed = DestroyedJson {
        name: name.clone(),
        secrets,
        keys,
        statement: answer.statement,
        backups,
        backup_count: answer.backup_count,
        grants: answer.grants,
        grant_count: answer.grant_count,
        changed,
    };
    Report::new(&destroyed, vec![name], Human::Text(text))
}

/// What becomes of the grants that name its secrets.
fn grants(named: &[String], count: u64) -> String {
    if named.is_empty() {
        return String::new();
    }
    let more = count.saturating_sub(named.len() as u64);
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    let named = named.join(", ");
    format!("; grants that give nothing any more, for attache grant remove: {named}{more}")
}

/// With why its rows do not go.
fn state(keyspace: &KeyspaceJson) -> String {
    match &keyspace.problem {
        Some(problem) => format!("{}: {problem}", keyspace.state),
        None => keyspace.state.clone(),
    }
}

/// The names of all keyspaces, and whether each is in use.
///
/// # Errors
/// As [`create`].
pub async fn names(session: &Session) -> Result<Vec<(String, bool)>, Failure> {
    let views = views(session).await?.into_iter();
    Ok(views
        .map(|view| (view.name, view.state == "active"))
        .collect())
}

/// The names of those in use.
async fn active(session: &Session) -> Result<Vec<String>, Failure> {
    let names = names(session).await?.into_iter();
    Ok(names
        .filter_map(|(name, active)| active.then_some(name))
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
