//! `attache secret`: names, versions and fields. No value passes through here but on its way into [`crate::put`].

mod destroy;
mod pin;

pub use destroy::destroy;
pub use pin::{pin, unpin};

use attache_proto::attache::v1::{self as pb, secrets_client::SecretsClient};
use serde::Serialize;

use super::{Changed, Shell, keyspace, or_dash, time, uuid_text, with_suggestion};
use crate::args::secret::{List, One, Put, Rollback};
use crate::failure::{Exit, Failure};
use crate::fields;
use crate::near::nearest;
use crate::output::{Human, Report};
use crate::put::{self, Plan, wire_path};
use crate::session::{Session, mutation};

#[derive(Debug, Serialize)]
struct SecretJson {
    reference: String,
    keyspace: String,
    name: String,
    secret: String,
    state: String,
    active_version: u64,
    latest_version: u64,
    fields: Vec<String>,
    created: Option<String>,
    changed: Option<String>,
    changed_by: String,
}

impl From<pb::SecretView> for SecretJson {
    fn from(view: pb::SecretView) -> Self {
        let path = view.path.unwrap_or_default();
        Self {
            reference: format!("{}/{}", path.keyspace, path.name),
            keyspace: path.keyspace,
            name: path.name,
            secret: uuid_text(&view.secret),
            state: view.state,
            active_version: view.active_version,
            latest_version: view.latest_version,
            fields: view.fields,
            created: time(view.created),
            changed: time(view.changed),
            changed_by: view.changed_by,
        }
    }
}

/// What `secret show` says beside what a list says.
#[derive(Debug, Serialize)]
struct ShownJson {
    #[serde(flatten)]
    secret: SecretJson,
    pinned_versions: Vec<u64>,
    pinned_count: u64,
}

#[derive(Debug, Serialize)]
struct VersionJson {
    version: u64,
    active: bool,
    pinned: bool,
    fields: Vec<FieldJson>,
    created: Option<String>,
    created_by: String,
    note: String,
}

#[derive(Debug, Serialize)]
struct FieldJson {
    field: String,
    value: String,
    size_bytes: u64,
}

impl From<pb::VersionView> for VersionJson {
    fn from(view: pb::VersionView) -> Self {
        let fields = view.fields.into_iter();
        Self {
            version: view.version,
            active: view.active,
            pinned: view.pinned,
            fields: fields
                .map(|field| FieldJson {
                    field: field.field,
                    value: uuid_text(&field.value),
                    size_bytes: field.size_bytes,
                })
                .collect(),
            created: time(view.created),
            created_by: view.created_by,
            note: view.note,
        }
    }
}

#[derive(Debug, Serialize)]
struct PutJson {
    reference: String,
    version: u64,
    sealed: Vec<String>,
    carried: Vec<String>,
    #[serde(flatten)]
    changed: Changed,
}

/// Stores a new version.
///
/// # Errors
/// As [`put::put`]; a missing keyspace is answered with the nearest one, or how to make it.
pub async fn put(args: Put, shell: &Shell) -> Result<Report, Failure> {
    let values = fields::read(
        fields::parse(&args.fields, &args.literal)?,
        args.trim_newline,
        &shell.console,
    )?;
    let dry_run = args.dry_run.dry_run;
    let plan = Plan {
        path: args.path,
        values,
        replace: args.replace,
        expect_version: args.expect_version,
        dry_run,
    };
    let session = shell.session().await?;
    let stored = match put::put(&session, &plan).await {
        Ok(stored) => stored,
        Err(failure) => {
            return Err(with_keyspace(failure, plan.path.keyspace.as_str(), &session).await);
        }
    };
    let changed = Changed {
        request_id: stored.request.to_string(),
        seq: stored.seq,
        repeated: stored.repeated,
        dry_run,
    };
    let carried = if stored.carried.is_empty() {
        String::new()
    } else {
        format!("; carried over: {}", stored.carried.join(", "))
    };
    let reference = format!("{}@{}", plan.path, stored.version);
    let text = format!(
        "{reference} {}: {}{carried}",
        changed.says("is stored", "would be stored"),
        stored.sealed.join(", ")
    );
    let data = PutJson {
        reference: plan.path.to_string(),
        version: stored.version,
        sealed: stored.sealed,
        carried: stored.carried,
        changed,
    };
    Report::new(&data, vec![reference], Human::Text(text))
}

/// A put into a keyspace that does not exist is a slip or a first time: says which.
async fn with_keyspace(failure: Failure, keyspace: &str, session: &Session) -> Failure {
    if failure.exit != Exit::Precondition || failure.mend.is_some() {
        return failure;
    }
    let Ok(known) = keyspace::names(session).await else {
        return failure;
    };
    if known.iter().any(|(name, _)| name == keyspace) {
        return failure;
    }
    let active = known.iter().filter(|(_, active)| *active);
    match nearest(keyspace, active.map(|(name, _)| name.as_str())) {
        Some(near) => failure.mend(format!(
            "did you mean {near}/...? If not: attache keyspace create {keyspace}"
        )),
        None => failure.mend(format!(
            "make the keyspace first: attache keyspace create {keyspace}"
        )),
    }
}

/// Lists secrets.
///
/// # Errors
/// As [`crate::status`] says, here and below.
pub async fn list(args: List, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let keyspace = args
        .keyspace
        .map(|keyspace| keyspace.to_string())
        .unwrap_or_default();
    let secrets: Vec<SecretJson> = views(&session, &keyspace)
        .await?
        .into_iter()
        .map(SecretJson::from)
        .collect();
    let rows = secrets
        .iter()
        .map(|secret| {
            vec![
                secret.reference.clone(),
                secret.active_version.to_string(),
                secret.fields.join(", "),
                or_dash(secret.changed.as_deref()),
            ]
        })
        .collect();
    let names = secrets
        .iter()
        .map(|secret| secret.reference.clone())
        .collect();
    let human = Human::Table {
        heads: &["SECRET", "ACTIVE", "FIELDS", "CHANGED"],
        rows,
    };
    Report::new(&serde_json::json!({ "secrets": secrets }), names, human)
}

/// Shows one secret.
///
/// # Errors
/// [`Exit::Precondition`] with the nearest name when there is none.
pub async fn show(args: One, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let request = pb::ShowSecretRequest {
        path: Some(wire_path(&args.path)),
    };
    let what = format!("{} cannot be shown", args.path);
    let shown: Result<pb::SecretView, _> = session
        .read(&what, &request, |channel, request| async move {
            SecretsClient::new(channel).show_secret(request).await
        })
        .await;
    let mut view = match shown {
        Ok(view) => view,
        Err(failure) => return Err(near_secret(failure, &args, &session).await),
    };
    let (pinned_versions, pinned_count) =
        (std::mem::take(&mut view.pinned_versions), view.pinned_count);
    let secret = SecretJson::from(view);
    let human = Human::Card(vec![
        ("secret", secret.reference.clone()),
        ("state", secret.state.clone()),
        ("active version", secret.active_version.to_string()),
        ("latest version", secret.latest_version.to_string()),
        ("pinned versions", pinned(&pinned_versions, pinned_count)),
        ("fields", secret.fields.join(", ")),
        ("created", or_dash(secret.created.as_deref())),
        ("changed", or_dash(secret.changed.as_deref())),
        ("changed by", or_dash(Some(&secret.changed_by))),
        ("id", secret.secret.clone()),
    ]);
    let names = vec![secret.reference.clone()];
    let shown = ShownJson {
        secret,
        pinned_versions,
        pinned_count,
    };
    Report::new(&shown, names, human)
}

/// The pinned versions that were named, and how many more there are.
fn pinned(versions: &[u64], count: u64) -> String {
    let named: Vec<String> = versions.iter().map(ToString::to_string).collect();
    let more = count.saturating_sub(named.len() as u64);
    match (named.is_empty(), more) {
        (true, _) => or_dash(None),
        (false, 0) => named.join(", "),
        (false, more) => format!("{} and {more} more", named.join(", ")),
    }
}

/// Shows a secret's versions, newest first.
///
/// # Errors
/// As [`show`].
pub async fn versions(args: One, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let what = format!("the versions of {} cannot be shown", args.path);
    let (path, session_ref, what_ref) = (wire_path(&args.path), &session, what.as_str());
    let all = session
        .pages(|page| {
            let request = pb::ListVersionsRequest {
                path: Some(path.clone()),
                page: Some(page),
            };
            async move {
                let answer: pb::ListVersionsResponse = session_ref
                    .read(what_ref, &request, |channel, request| async move {
                        SecretsClient::new(channel).list_versions(request).await
                    })
                    .await?;
                Ok((answer.versions, answer.next_token))
            }
        })
        .await;
    let versions: Vec<VersionJson> = match all {
        Ok(views) => views.into_iter().map(VersionJson::from).collect(),
        Err(failure) => return Err(near_secret(failure, &args, &session).await),
    };
    let rows = versions
        .iter()
        .map(|version| {
            let fields = version
                .fields
                .iter()
                .map(|field| format!("{} ({} B)", field.field, field.size_bytes));
            vec![
                version.version.to_string(),
                match (version.active, version.pinned) {
                    (true, true) => "active, pinned",
                    (true, false) => "active",
                    (false, true) => "pinned",
                    (false, false) => "",
                }
                .to_owned(),
                fields.collect::<Vec<_>>().join(", "),
                or_dash(version.created.as_deref()),
                or_dash(Some(&version.created_by)),
            ]
        })
        .collect();
    let names = versions
        .iter()
        .map(|version| format!("{}@{}", args.path, version.version))
        .collect();
    let human = Human::Table {
        heads: &["VERSION", "STATE", "FIELDS", "CREATED", "BY"],
        rows,
    };
    Report::new(
        &serde_json::json!({ "reference": args.path.to_string(), "versions": versions }),
        names,
        human,
    )
}

#[derive(Debug, Serialize)]
struct RollbackJson {
    reference: String,
    active_version: u64,
    previous_version: u64,
    #[serde(flatten)]
    changed: Changed,
}

/// Makes an earlier version the active one.
///
/// # Errors
/// [`Exit::Precondition`] when there is no such version.
pub async fn rollback(args: Rollback, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let path = args.reference.path;
    let (id, mutation) = mutation(dry_run);
    let request = pb::RollbackRequest {
        mutation,
        path: Some(wire_path(&path)),
        to_version: args.reference.version.map_or(0, |version| version.number()),
        expected_active_version: args.expect_version.unwrap_or_default(),
    };
    let what = format!("{path} was not rolled back");
    let answer: Result<pb::RollbackResponse, _> = session
        .change(&what, id, &request, |channel, request| async move {
            SecretsClient::new(channel).rollback(request).await
        })
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => {
            let failure = near_secret(failure, &One { path: path.clone() }, &session).await;
            return Err(match (failure.exit, &failure.mend) {
                (Exit::Precondition, None) => failure.mend(format!(
                    "look at what there is: attache secret versions {path}"
                )),
                _ => failure,
            });
        }
    };
    let changed = Changed::new(id, answer.committed, dry_run);
    let reference = format!("{path}@{}", answer.active_version);
    let text = format!(
        "{reference} {}; before: version {}",
        changed.says("is active", "would be active"),
        answer.previous_version
    );
    let data = RollbackJson {
        reference: path.to_string(),
        active_version: answer.active_version,
        previous_version: answer.previous_version,
        changed,
    };
    Report::new(&data, vec![reference], Human::Text(text))
}

async fn near_secret(failure: Failure, args: &One, session: &Session) -> Failure {
    let names = async {
        let views = views(session, "").await?;
        Ok(views
            .into_iter()
            .map(|view| SecretJson::from(view).reference)
            .collect())
    };
    with_suggestion(failure, &args.path.to_string(), names).await
}

async fn views(session: &Session, keyspace: &str) -> Result<Vec<pb::SecretView>, Failure> {
    session
        .pages(|page| {
            let request = pb::ListSecretsRequest {
                keyspace: keyspace.to_owned(),
                page: Some(page),
            };
            async move {
                let answer: pb::ListSecretsResponse = session
                    .read(
                        "secrets cannot be listed",
                        &request,
                        |channel, request| async move {
                            SecretsClient::new(channel).list_secrets(request).await
                        },
                    )
                    .await?;
                Ok((answer.secrets, answer.next_token))
            }
        })
        .await
}
