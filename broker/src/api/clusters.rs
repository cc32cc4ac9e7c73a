//! Clusters: `Clusters` of attache.v1.

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
    attest::ClusterError,
    audit::Clock,
    kubernetes::ApiAddress,
    metrics::Metrics,
    mutation::Mutations,
    registry::{ClusterRecord, ClusterSource, KubernetesRecord, Registry, View, adopt},
    store::{Change, Table},
};

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
        let record = ClusterRecord {
            issuer: cluster.issuer,
            audience: cluster.audience,
            source: source(cluster.source)?,
            created: self.clock.now(),
            by: peer.id.to_string(),
        };
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
            let record = adopt(&name, record, self.metrics.api())
                .await
                .map_err(RpcError::from)?;
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

fn kubernetes(source: pb::KubernetesSource) -> Result<KubernetesRecord, RpcError> {
    // First what is there, then what is not.
    if !source.api_server.is_empty() {
        let address: Result<ApiAddress, _> = source.api_server.parse();
        address.map_err(ClusterError::from)?;
    }
    if source.credentials.is_empty() && !source.api_server.is_empty() {
        return Err(RpcError::invalid(
            "cluster.kubernetes.credentials",
            "is missing: the folder with ca.crt and token on the broker's machine",
        ));
    }
    Ok(KubernetesRecord {
        api_server: source.api_server,
        credentials: source.credentials.into(),
        enroll_account: source.enroll_service_account,
        enroll_audience: source.enroll_audience,
    }
    .or_default())
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
