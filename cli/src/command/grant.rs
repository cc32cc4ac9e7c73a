//! `attache grant`.

use attache_proto::attache::v1::{self as pb, grants_client::GrantsClient};
use serde::Serialize;

use super::{Changed, Shell, or_dash, time, with_suggestion};
use crate::args::access::{Add, List, Remove, Show};
use crate::failure::Failure;
use crate::output::{Human, Report};
use crate::put::wire_path;
use crate::session::{Session, mutation};
use crate::terminal::confirm;

#[derive(Debug, Serialize)]
struct GrantJson {
    name: String,
    /// KEYSPACE/NAME.
    secret: String,
    /// Empty: every field.
    fields: Vec<String>,
    to: WorkloadJson,
    created: Option<String>,
    created_by: String,
}

#[derive(Debug, Serialize)]
struct WorkloadJson {
    cluster: String,
    namespace: String,
    service_account: String,
    container: String,
}

impl From<pb::Grant> for GrantJson {
    fn from(grant: pb::Grant) -> Self {
        let (path, to) = (
            grant.secret.unwrap_or_default(),
            grant.to.unwrap_or_default(),
        );
        Self {
            name: grant.name,
            secret: format!("{}/{}", path.keyspace, path.name),
            fields: grant.fields,
            to: WorkloadJson {
                cluster: to.cluster,
                namespace: to.namespace,
                service_account: to.service_account,
                container: to.container,
            },
            created: time(grant.created),
            created_by: grant.created_by,
        }
    }
}

impl GrantJson {
    /// What it lets be read, as references.
    fn reads(&self) -> String {
        if self.fields.is_empty() {
            return self.secret.clone();
        }
        self.fields
            .iter()
            .map(|field| format!("{}#{field}", self.secret))
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn workload(&self) -> String {
        format!(
            "{}/{}/{}/{}",
            self.to.cluster, self.to.namespace, self.to.service_account, self.to.container
        )
    }
}

#[derive(Debug, Serialize)]
struct ChangedGrantJson {
    name: String,
    #[serde(flatten)]
    changed: Changed,
}

/// Lets a workload read a secret or a field of it.
///
/// # Errors
/// As [`crate::status`] says, here and below.
pub async fn add(args: Add, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let (id, mutation) = mutation(args.dry_run.dry_run);
    let (name, to) = (args.name.to_string(), &args.to);
    let request = pb::AddGrantRequest {
        mutation,
        name: name.clone(),
        secret: Some(wire_path(&args.reference.path)),
        fields: args
            .reference
            .field
            .iter()
            .map(ToString::to_string)
            .collect(),
        to: Some(pb::Workload {
            cluster: to.cluster.to_string(),
            namespace: to.namespace.to_string(),
            service_account: to.service_account.to_string(),
            container: to.container.to_string(),
        }),
    };
    let answer: pb::AddGrantResponse = session
        .change(
            &format!("grant {name} was not added"),
            id,
            &request,
            |channel, request| async move { GrantsClient::new(channel).add_grant(request).await },
        )
        .await?;
    let changed = Changed::new(id, answer.committed, args.dry_run.dry_run);
    let text = format!(
        "grant {name}: {} {} {}",
        args.to,
        changed.says("may read", "could read"),
        args.reference
    );
    Report::new(
        &ChangedGrantJson {
            name: name.clone(),
            changed,
        },
        vec![name],
        Human::Text(text),
    )
}

/// Lists grants.
///
/// # Errors
/// As [`add`].
pub async fn list(args: List, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let keyspace = args
        .keyspace
        .map(|keyspace| keyspace.to_string())
        .unwrap_or_default();
    let grants: Vec<GrantJson> = all(&session, &keyspace)
        .await?
        .into_iter()
        .map(GrantJson::from)
        .collect();
    let rows = grants
        .iter()
        .map(|grant| {
            vec![
                grant.name.clone(),
                grant.reads(),
                grant.workload(),
                or_dash(grant.created.as_deref()),
            ]
        })
        .collect();
    let names = grants.iter().map(|grant| grant.name.clone()).collect();
    let human = Human::Table {
        heads: &["GRANT", "READS", "WORKLOAD", "CREATED"],
        rows,
    };
    Report::new(&serde_json::json!({ "grants": grants }), names, human)
}

/// Shows one grant.
///
/// # Errors
/// As [`add`].
pub async fn show(args: Show, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let name = args.name.to_string();
    let request = pb::ShowGrantRequest { name: name.clone() };
    let shown: Result<pb::Grant, _> = session
        .read(
            &format!("grant {name} cannot be shown"),
            &request,
            |channel, request| async move { GrantsClient::new(channel).show_grant(request).await },
        )
        .await;
    let grant = match shown {
        Ok(grant) => GrantJson::from(grant),
        Err(failure) => return Err(with_suggestion(failure, &name, names(&session)).await),
    };
    let human = Human::Card(vec![
        ("grant", grant.name.clone()),
        ("reads", grant.reads()),
        ("workload", grant.workload()),
        ("created", or_dash(grant.created.as_deref())),
        ("created by", or_dash(Some(&grant.created_by))),
    ]);
    Report::new(&grant, vec![name], human)
}

/// Takes a grant back.
///
/// # Errors
/// As [`add`]; when the name is not confirmed.
pub async fn remove(args: Remove, shell: &Shell) -> Result<Report, Failure> {
    let name = args.name.to_string();
    if !args.dry_run.dry_run {
        confirm(&format!("Grant {name} will be removed"), &name, args.yes)?;
    }
    let session = shell.session().await?;
    let (id, mutation) = mutation(args.dry_run.dry_run);
    let request = pb::RemoveGrantRequest {
        mutation,
        name: name.clone(),
    };
    let answer: Result<pb::RemoveGrantResponse, _> = session
        .change(&format!("grant {name} was not removed"), id, &request, |channel, request| async move {
            GrantsClient::new(channel).remove_grant(request).await
        })
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => return Err(with_suggestion(failure, &name, names(&session)).await),
    };
    let changed = Changed::new(id, answer.committed, args.dry_run.dry_run);
    let text = format!(
        "grant {name} {}; what is mounted stays until its pod ends",
        changed.says("is removed", "would be removed")
    );
    Report::new(
        &ChangedGrantJson {
            name: name.clone(),
            changed,
        },
        vec![name],
        Human::Text(text),
    )
}

async fn names(session: &Session) -> Result<Vec<String>, Failure> {
    Ok(all(session, "")
        .await?
        .into_iter()
        .map(|grant| grant.name)
        .collect())
}

async fn all(session: &Session, keyspace: &str) -> Result<Vec<pb::Grant>, Failure> {
    session
        .pages(|page| {
            let request = pb::ListGrantsRequest {
                keyspace: keyspace.to_owned(),
                page: Some(page),
            };
            async move {
                let answer: pb::ListGrantsResponse = session
                    .read(
                        "grants cannot be listed",
                        &request,
                        |channel, request| async move {
                            GrantsClient::new(channel).list_grants(request).await
                        },
                    )
                    .await?;
                Ok((answer.grants, answer.next_token))
            }
        })
        .await
}
