//! `attache cluster`.

use attache_proto::attache::v1::{self as pb, cluster::Source, clusters_client::ClustersClient};
use serde::Serialize;

use super::{Changed, Shell, or_dash, time, with_suggestion};
use crate::args::fleet::{AddCluster, OneCluster, RemoveCluster};
use crate::failure::Failure;
use crate::output::{Human, Report};
use crate::session::{Session, mutation};
use crate::terminal::confirm;

#[derive(Debug, Serialize)]
struct ClusterJson {
    name: String,
    issuer: String,
    audience: String,
    folder: Option<String>,
    created: Option<String>,
    created_by: String,
}

impl From<pb::Cluster> for ClusterJson {
    fn from(cluster: pb::Cluster) -> Self {
        Self {
            name: cluster.name,
            issuer: cluster.issuer,
            audience: cluster.audience,
            folder: cluster.source.map(|Source::Folder(folder)| folder),
            created: time(cluster.created),
            created_by: cluster.created_by,
        }
    }
}

#[derive(Debug, Serialize)]
struct ChangedClusterJson {
    name: String,
    #[serde(flatten)]
    changed: Changed,
}

/// Tells the broker of a cluster.
///
/// # Errors
/// As [`crate::status`] says, here and below.
pub async fn add(args: AddCluster, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let (id, mutation) = mutation(args.dry_run.dry_run);
    let name = args.name.to_string();
    let cluster = pb::Cluster {
        name: name.clone(),
        issuer: args.issuer,
        audience: args.audience,
        source: Some(Source::Folder(args.folder)),
        created: None,
        created_by: String::new(),
    };
    let request = pb::AddClusterRequest {
        mutation,
        cluster: Some(cluster),
    };
    let answer: pb::AddClusterResponse =
        session
            .change(
                &format!("cluster {name} was not added"),
                id,
                &request,
                |channel, request| async move {
                    ClustersClient::new(channel).add_cluster(request).await
                },
            )
            .await?;
    let changed = Changed::new(id, answer.committed, args.dry_run.dry_run);
    let text = format!(
        "cluster {name} {}",
        changed.says("is added", "would be added")
    );
    Report::new(
        &ChangedClusterJson {
            name: name.clone(),
            changed,
        },
        vec![name],
        Human::Text(text),
    )
}

/// Lists clusters.
///
/// # Errors
/// As [`add`].
pub async fn list(shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let clusters: Vec<ClusterJson> = all(&session)
        .await?
        .into_iter()
        .map(ClusterJson::from)
        .collect();
    let rows = clusters
        .iter()
        .map(|cluster| {
            vec![
                cluster.name.clone(),
                cluster.issuer.clone(),
                cluster.audience.clone(),
                or_dash(cluster.folder.as_deref()),
            ]
        })
        .collect();
    let names = clusters
        .iter()
        .map(|cluster| cluster.name.clone())
        .collect();
    let human = Human::Table {
        heads: &["CLUSTER", "ISSUER", "AUDIENCE", "FOLDER"],
        rows,
    };
    Report::new(&serde_json::json!({ "clusters": clusters }), names, human)
}

/// Shows one cluster.
///
/// # Errors
/// As [`add`].
pub async fn show(args: OneCluster, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let name = args.name.to_string();
    let request = pb::ShowClusterRequest { name: name.clone() };
    let shown: Result<pb::Cluster, _> =
        session
            .read(
                &format!("cluster {name} cannot be shown"),
                &request,
                |channel, request| async move {
                    ClustersClient::new(channel).show_cluster(request).await
                },
            )
            .await;
    let cluster = match shown {
        Ok(cluster) => ClusterJson::from(cluster),
        Err(failure) => return Err(with_suggestion(failure, &name, names(&session)).await),
    };
    let human = Human::Card(vec![
        ("cluster", cluster.name.clone()),
        ("issuer", cluster.issuer.clone()),
        ("audience", cluster.audience.clone()),
        ("folder", or_dash(cluster.folder.as_deref())),
        ("created", or_dash(cluster.created.as_deref())),
        ("created by", or_dash(Some(&cluster.created_by))),
    ]);
    Report::new(&cluster, vec![name], human)
}

/// Forgets a cluster.
///
/// # Errors
/// As [`add`]; when the name is not confirmed.
pub async fn remove(args: RemoveCluster, shell: &Shell) -> Result<Report, Failure> {
    let name = args.name.to_string();
    if !args.dry_run.dry_run {
        confirm(
            &format!("Cluster {name} will be removed: its pods will be refused"),
            &name,
            args.yes,
        )?;
    }
    let session = shell.session().await?;
    let (id, mutation) = mutation(args.dry_run.dry_run);
    let request = pb::RemoveClusterRequest {
        mutation,
        name: name.clone(),
    };
    let answer: Result<pb::RemoveClusterResponse, _> =
        session
            .change(
                &format!("cluster {name} was not removed"),
                id,
                &request,
                |channel, request| async move {
                    ClustersClient::new(channel).remove_cluster(request).await
                },
            )
            .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => return Err(with_suggestion(failure, &name, names(&session)).await),
    };
    let changed = Changed::new(id, answer.committed, args.dry_run.dry_run);
    let text = format!(
        "cluster {name} {}",
        changed.says("is removed", "would be removed")
    );
    Report::new(
        &ChangedClusterJson {
            name: name.clone(),
            changed,
        },
        vec![name],
        Human::Text(text),
    )
}

pub(super) async fn names(session: &Session) -> Result<Vec<String>, Failure> {
    Ok(all(session)
        .await?
        .into_iter()
        .map(|cluster| cluster.name)
        .collect())
}

async fn all(session: &Session) -> Result<Vec<pb::Cluster>, Failure> {
    session
        .pages(|page| {
            let request = pb::ListClustersRequest { page: Some(page) };
            async move {
                let answer: pb::ListClustersResponse = session
                    .read(
                        "clusters cannot be listed",
                        &request,
                        |channel, request| async move {
                            ClustersClient::new(channel).list_clusters(request).await
                        },
                    )
                    .await?;
                Ok((answer.clusters, answer.next_token))
            }
        })
        .await
}
