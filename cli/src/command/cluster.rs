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
    api_server: Option<String>,
    in_cluster: bool,
    credentials: Option<String>,
    enroll_service_account: Option<String>,
    enroll_audience: Option<String>,
    created: Option<String>,
    created_by: String,
}

impl From<pb::Cluster> for ClusterJson {
    fn from(cluster: pb::Cluster) -> Self {
        let (folder, kubernetes) = match cluster.source {
            Some(Source::Folder(folder)) => (Some(folder), None),
            Some(Source::Kubernetes(source)) => (None, Some(source)),
            None => (None, None),
        };
        let in_cluster = kubernetes
            .as_ref()
            .is_some_and(|it| it.api_server.is_empty());
        let kubernetes = kubernetes.unwrap_or_default();
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let enroll_service_account = given(kubernetes.enroll_service_account);
        Self {
            name: cluster.name,
            issuer: cluster.issuer,
            audience: cluster.audience,
            folder,
            api_server: given(kubernetes.api_server),
            in_cluster,
            credentials: given(kubernetes.credentials),
            enroll_audience: given(kubernetes.enroll_audience)
                .filter(|_| enroll_service_account.is_some()),
            enroll_service_account,
            created: time(cluster.created),
            created_by: cluster.created_by,
        }
    }
}

impl ClusterJson {
    /// Where its record is, in a word.
    fn source(&self) -> String {
        if self.in_cluster {
            return "in-cluster".to_owned();
        }
        or_dash(self.api_server.as_deref().or(self.folder.as_deref()))
    }

    /// Who enrolls its nodes.
    fn enrolls(&self) -> String {
        let account = self.enroll_service_account.as_deref();
        let audience = self.enroll_audience.as_deref().unwrap_or_default();
        account.map_or_else(
            || "join tokens alone".to_owned(),
            |account| format!("{account}, by tokens for {audience}"),
        )
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
        source: Some(source(&args)),
        issuer: args.issuer.unwrap_or_default(),
        audience: args.audience,
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

fn source(args: &AddCluster) -> Source {
    if let Some(folder) = &args.folder {
        return Source::Folder(folder.clone());
    }
    let or_broker = |given: &Option<String>| given.clone().unwrap_or_default();
    Source::Kubernetes(pb::KubernetesSource {
        api_server: or_broker(&args.api_server),
        credentials: or_broker(&args.credentials),
        enroll_service_account: or_broker(&args.enroll_service_account),
        enroll_audience: or_broker(&args.enroll_audience),
    })
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
                cluster.source(),
            ]
        })
        .collect();
    let names = clusters
        .iter()
        .map(|cluster| cluster.name.clone())
        .collect();
    let human = Human::Table {
        heads: &["CLUSTER", "ISSUER", "AUDIENCE", "SOURCE"],
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
        ("source", cluster.source()),
        ("credentials", or_dash(cluster.credentials.as_deref())),
        ("enrolls", cluster.enrolls()),
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
