//! Clusters: `Clusters` of attache.v1.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use attache_envelope::name::ClusterName;
use attache_proto::attache::v1 as pb;
use pb::{cluster::Source, clusters_server::Clusters};
use tokio::sync::Mutex;
use tonic::{Code, Request, Response, Status};

use super::{
    field::{page, parse, required, time},
    mutate::{Asked, Prepared, digest, mutate},
    peer::Peers,
    policy::paged,
    rpc_error::RpcError,
};
use crate::{
    attest::{self, Quoted},
    audit::Clock,
    kubernetes::CREDENTIALS_IN_POD,
    metrics::{ApiMetrics, Metrics},
    mutation::Mutations,
    registry::{ClusterRecord, ClusterSource, KubernetesRecord, Registry, View, cluster_spec},
    store::{Change, Table},
};

/// The audience of tokens that enroll nodes, unless another is given.
const ENROLL_AUDIENCE: &str = "attache-enroll";

/// The service.
#[derive(Clone)]
pub struct ClusterService {
    /// Admits callers.
    pub peers: Peers,
    /// The clusters.
    pub registry: Arc<Registry>,
    /// Changes.
    pub mutations: Mutations,
    /// The time on record.
    pub clock: Clock,
    /// Measures what is asked of a new cluster's API server.
    pub metrics: Metrics,
    /// One cluster is added at a time, from the look at the others until it is one of them.
    pub adding: Arc<Mutex<()>>,
}

#[tonic::async_trait]
impl Clusters for ClusterService {
    async fn add_cluster(
        &self,
        request: Request<pb::AddClusterRequest>,
    ) -> Result<Response<pb::AddClusterResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("cluster.add", &asked);
        let cluster = required("cluster", asked.cluster)?;
        for (field, set) in [
            ("cluster.created", cluster.created.is_some()),
            ("cluster.created_by", !cluster.created_by.is_empty()),
        ] {
            if set {
                return Err(
                    RpcError::invalid(field, "is the broker's to write; leave it out").into(),
                );
            }
        }
        let name: ClusterName = parse("cluster.name", &cluster.name)?;
        let mut record = ClusterRecord {
            issuer: cluster.issuer,
            audience: cluster.audience,
            source: source(cluster.source)?,
            created: self.clock.now(),
            by: peer.id.to_string(),
        };
        let asks = matches!(record.source, ClusterSource::Kubernetes(_));
        if !(asks && record.issuer.is_empty()) {
            cluster_spec(name.clone(), &record).map_err(RpcError::from)?;
        }
        let added: Arc<OnceLock<ClusterRecord>> = Arc::default();
        let prepare = async {
            let view = self.registry.view();
            if view.clusters.contains_key(name.as_str()) {
                return Err(RpcError::new(
                    Code::AlreadyExists,
                    "CLUSTER_EXISTS",
                    format!(
                        "there is a cluster {name} already; choose another name, or remove it first"
                    ),
                ));
            }
            there(&name, &mut record, self.metrics.api()).await?;
            refuse_twin(&view, &record)?;
            let mut change = Change::default();
            change.require_absent(Table::Cluster, name.as_str());
            change.put(Table::Cluster, name.as_str(), record.encode());
            let _first = added.set(record);
            Ok(Prepared {
                change,
                answer: pb::AddClusterResponse::default(),
            })
        };
        let (registry, taken, taken_name) =
            (Arc::clone(&self.registry), Arc::clone(&added), name.clone());
        // It goes where the change goes, whether or not the caller waits.
        let alone = Arc::clone(&self.adding).lock_owned().await;
        let asked = Asked {
            peer,
            verb: "cluster.add",
            object: name.to_string(),
            mutation,
            digest,
            reason: String::new(),
        };
        let (_, committed): (pb::AddClusterResponse, _) =
            mutate(&self.mutations, asked, prepare, move |seq| {
                let record = taken.get().cloned().map(|record| (seq, record));
                take_up(&registry, taken_name.as_str(), record);
                drop(alone);
            })
            .await?;
        Ok(Response::new(pb::AddClusterResponse {
            committed: Some(committed),
        }))
    }

    async fn list_clusters(
        &self,
        request: Request<pb::ListClustersRequest>,
    ) -> Result<Response<pb::ListClustersResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let page = page(request.into_inner().page)?;
        let view = self.registry.view();
        let (items, next_token) = paged(&view.clusters, &page, |_| true);
        let clusters = items
            .into_iter()
            .map(|(name, record)| cluster_view(name, record))
            .collect();
        Ok(Response::new(pb::ListClustersResponse {
            clusters,
            next_token,
        }))
    }

    async fn show_cluster(
        &self,
        request: Request<pb::ShowClusterRequest>,
    ) -> Result<Response<pb::Cluster>, Status> {
        self.peers.operator(request.extensions()).await?;
        let name: ClusterName = parse("name", &request.into_inner().name)?;
        let view = self.registry.view();
        let (_, record) = view
            .clusters
            .get(name.as_str())
            .ok_or_else(|| no_cluster(&name))?;
        Ok(Response::new(cluster_view(name.as_str(), record)))
    }

    async fn remove_cluster(
        &self,
        request: Request<pb::RemoveClusterRequest>,
    ) -> Result<Response<pb::RemoveClusterResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("cluster.remove", &asked);
        let name: ClusterName = parse("name", &asked.name)?;
        let prepare = async {
            let view = self.registry.view();
            let (seq, _) = view
                .clusters
                .get(name.as_str())
                .ok_or_else(|| no_cluster(&name))?;
            let mut change = Change::default();
            change.require_at(Table::Cluster, name.as_str(), *seq);
            change.deletes.push((Table::Cluster, name.as_str().into()));
            Ok(Prepared {
                change,
                answer: pb::RemoveClusterResponse::default(),
            })
        };
        let (registry, taken) = (Arc::clone(&self.registry), name.clone());
        let asked = Asked {
            peer,
            verb: "cluster.remove",
            object: name.to_string(),
            mutation,
            digest,
            reason: String::new(),
        };
        let (_, committed): (pb::RemoveClusterResponse, _) =
            mutate(&self.mutations, asked, prepare, move |_| {
                take_up(&registry, taken.as_str(), None)
            })
            .await?;
        Ok(Response::new(pb::RemoveClusterResponse {
            committed: Some(committed),
        }))
    }
}

/// NOT_FOUND for a cluster.
pub(super) fn no_cluster(name: &ClusterName) -> RpcError {
    RpcError::new(
        Code::NotFound,
        "NO_CLUSTER",
        format!("there is no cluster {name}; see those there are with: attache cluster list"),
    )
}

/// A token must belong to one cluster.
fn refuse_twin(view: &View, record: &ClusterRecord) -> Result<(), RpcError> {
    let twin = view
        .clusters
        .iter()
        .find(|(_, (_, c))| c.issuer == record.issuer && c.audience == record.audience);
    twin.map_or(Ok(()), |(twin, _)| {
        let problem = format!(
            "is that of cluster {twin}, with the same audience: a token must belong to one cluster"
        );
        Err(RpcError::invalid("cluster.issuer", problem))
    })
}

fn take_up(registry: &Registry, name: &str, record: Option<(u64, ClusterRecord)>) {
    if let Err(error) = registry.cluster_changed(name, record) {
        tracing::error!(%error, "a committed change of a cluster cannot be taken up; restart the broker");
    }
}

fn source(source: Option<Source>) -> Result<ClusterSource, RpcError> {
    match source {
        Some(Source::Folder(folder)) if !folder.is_empty() => {
            Ok(ClusterSource::Folder(folder.into()))
        }
        Some(Source::Kubernetes(source)) => kubernetes(source).map(ClusterSource::Kubernetes),
        Some(Source::Folder(_)) | None => Err(RpcError::invalid(
            "cluster.folder",
            "is missing, and so is an API server: the folder with nodes/, pods/ and jwks.json",
        )),
    }
}

/// What is left empty and has a meaning gets it here.
fn kubernetes(source: pb::KubernetesSource) -> Result<KubernetesRecord, RpcError> {
    let credentials = match (source.credentials.as_str(), source.api_server.as_str()) {
        ("", "") => CREDENTIALS_IN_POD,
        ("", _) => {
            return Err(RpcError::invalid(
                "cluster.kubernetes.credentials",
                "is missing: the folder with ca.crt and token on the broker's machine",
            ));
        }
        (credentials, _) => credentials,
    };
    let enroll_audience = match source.enroll_audience {
        audience if audience.is_empty() => ENROLL_AUDIENCE.to_owned(),
        audience => audience,
    };
    Ok(KubernetesRecord {
        credentials: credentials.into(),
        api_server: source.api_server,
        enroll_account: source.enroll_service_account,
        enroll_audience,
    })
}

/// A source that is not there would refuse every pod of its cluster; most likely it is not the one meant. Of an API server
/// the issuer is learned, when it was not given.
async fn there(
    name: &ClusterName,
    record: &mut ClusterRecord,
    metrics: &ApiMetrics,
) -> Result<(), RpcError> {
    if let ClusterSource::Folder(folder) = &record.source {
        return folder_is_there(folder).await;
    }
    let given = !record.issuer.is_empty();
    if !given {
        // Until the server says.
        record.issuer = "unknown".to_owned();
    }
    let spec = cluster_spec(name.clone(), record).map_err(RpcError::from)?;
    let attest::Source::Kubernetes(source) = spec.source() else {
        return Ok(());
    };
    let found = source.client(metrics).probe().await;
    let found = found.map_err(|error| {
        RpcError::new(
            Code::FailedPrecondition,
            "CLUSTER_NOT_USABLE",
            format!("the cluster was not added: {error}"),
        )
    })?;
    if !found.missing.is_empty() {
        let rules: Vec<&str> = found.missing.iter().map(|it| it.rule()).collect();
        return Err(RpcError::new(
            Code::FailedPrecondition,
            "CLUSTER_NOT_USABLE",
            format!(
                "the cluster was not added: the broker's account there may not {}; bind it to a ClusterRole with these rules",
                rules.join(", nor ")
            ),
        ));
    }
    if given && record.issuer != found.issuer {
        return Err(RpcError::invalid(
            "cluster.issuer",
            format!(
                "is not what the cluster says of itself; its issuer is {}",
                Quoted::new(&found.issuer)
            ),
        ));
    }
    record.issuer = found.issuer;
    cluster_spec(name.clone(), record).map_err(RpcError::from)?;
    Ok(())
}

async fn folder_is_there(folder: &Path) -> Result<(), RpcError> {
    let found = tokio::fs::metadata(folder).await;
    let problem = match found {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => "is not a folder".to_owned(),
        Err(error) => format!("cannot be read by the broker ({error})"),
    };
    let mend = "give the folder with nodes/, pods/ and jwks.json on the broker's machine";
    Err(RpcError::invalid(
        "cluster.folder",
        format!("{problem}; {mend}"),
    ))
}

fn cluster_view(name: &str, record: &ClusterRecord) -> pb::Cluster {
    let source = match &record.source {
        ClusterSource::Folder(folder) => Source::Folder(folder.display().to_string()),
        ClusterSource::Kubernetes(source) => Source::Kubernetes(pb::KubernetesSource {
            api_server: source.api_server.clone(),
            credentials: source.credentials.display().to_string(),
            enroll_service_account: source.enroll_account.clone(),
            enroll_audience: source.enroll_audience.clone(),
        }),
    };
    pb::Cluster {
        name: name.to_owned(),
        issuer: record.issuer.clone(),
        audience: record.audience.clone(),
        source: Some(source),
        created: time(record.created),
        created_by: record.by.clone(),
    }
}
