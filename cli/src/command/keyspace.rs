//! `attache keyspace`.

use attache_proto::attache::v1::{self as pb, keyspaces_client::KeyspacesClient};
use serde::Serialize;

use super::{Changed, Shell, held, or_dash, time, with_suggestion};
use crate::args::secret::{Create, DestroyKeyspace, OneKeyspace, SetKeyspace, YesNo};
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
    #[serde(flatten)]
    settings: SettingsJson,
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
            settings: SettingsJson {
                max_versions: Some(view.max_versions).filter(|it| *it > 0),
                max_key_age_s: Some(view.max_key_age_s).filter(|it| *it > 0),
                max_key_wraps: Some(view.max_key_wraps).filter(|it| *it > 0),
                rotate_automatically: view.rotate_automatically,
                backup_age_s: Some(view.backup_age_s).filter(|it| *it > 0),
            },
            created: time(view.created),
            problem: Some(view.problem).filter(|it| !it.is_empty()),
        }
    }
}

/// What a keyspace keeps, and demands of its keys.
#[derive(Debug, Serialize)]
struct SettingsJson {
    /// How many versions of a secret are kept; null: all.
    max_versions: Option<u32>,
    /// For how long a key is to wrap at most; null: no limit.
    max_key_age_s: Option<u32>,
    /// How often a key is to wrap at most; null: no limit.
    max_key_wraps: Option<u64>,
    /// Whether the broker rotates by itself a key that is past a limit.
    rotate_automatically: bool,
    /// How long backups are kept; null: not said.
    backup_age_s: Option<u32>,
}

impl SettingsJson {
    /// For how long, or how often, a key wraps at most.
    fn limit(&self) -> String {
        match (self.max_key_age_s, self.max_key_wraps) {
            (None, None) => "none".to_owned(),
            (Some(age), None) => span(age),
            (None, Some(wraps)) => format!("{wraps} wraps"),
            (Some(age), Some(wraps)) => format!("{} or {wraps} wraps", span(age)),
        }
    }

    fn rotation(&self) -> &'static str {
        if self.rotate_automatically {
            "by the broker"
        } else {
            "by hand"
        }
    }

    fn backup_age(&self) -> String {
        self.backup_age_s
            .map_or_else(|| "not said".to_owned(), span)
    }
}

/// A time in its largest unit that it is a whole number of.
fn span(seconds: u32) -> String {
    match seconds {
        it if it % 86_400 == 0 => format!("{}d", it / 86_400),
        it if it % 3_600 == 0 => format!("{}h", it / 3_600),
        it if it % 60 == 0 => format!("{}min", it / 60),
        it => format!("{it}s"),
    }
}

#[derive(Debug, Serialize)]
struct SetJson {
    name: String,
    #[serde(flatten)]
    settings: SettingsJson,
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
        max_key_age_s: args.keys.max_key_age,
        max_key_wraps: args.keys.max_key_wraps,
        rotate_automatically: args.keys.rotate_automatically.map(|it| it == YesNo::Yes),
        backup_age_s: args.keys.backup_age,
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
                kept(keyspace.settings.max_versions),
                keyspace.settings.limit(),
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
            "KEY LIMIT",
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
        ("versions kept", kept(keyspace.settings.max_versions)),
        ("key limit", keyspace.settings.limit()),
        ("rotated", keyspace.settings.rotation().to_owned()),
        ("backup age", keyspace.settings.backup_age()),
        ("created", or_dash(keyspace.created.as_deref())),
    ]);
    Report::new(&keyspace, vec![name], human)
}

/// Changes what a keyspace keeps, and demands of its keys.
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
        max_versions: args.max_versions,
        max_key_age_s: args.keys.max_key_age,
        max_key_wraps: args.keys.max_key_wraps,
        rotate_automatically: args.keys.rotate_automatically.map(|it| it == YesNo::Yes),
        backup_age_s: args.keys.backup_age,
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
    let settings = SettingsJson {
        max_versions: Some(answer.max_versions).filter(|it| *it > 0),
        max_key_age_s: Some(answer.max_key_age_s).filter(|it| *it > 0),
        max_key_wraps: Some(answer.max_key_wraps).filter(|it| *it > 0),
        rotate_automatically: answer.rotate_automatically,
        backup_age_s: Some(answer.backup_age_s).filter(|it| *it > 0),
    };
    let text = format!(
        "keyspace {name} {} of each secret the active version and the newest ones ({}); others go for good, in the background. \
         Limit of a key: {}, rotated {}; backup age: {}",
        changed.says("keeps", "would keep"),
        kept(settings.max_versions),
        settings.limit(),
        settings.rotation(),
        settings.backup_age()
    );
    let set = SetJson {
        name: name.clone(),
        settings,
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
