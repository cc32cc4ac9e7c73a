//! Grants and guard rails: `Grants` and `Guardrails` of attache.v1.

use std::sync::Arc;

use attache_envelope::name::{GrantName, Keyspace, SecretPath, WorkloadRef};
use attache_proto::attache::v1 as pb;
use pb::{grants_server::Grants, guardrails_server::Guardrails};
use tonic::{Code, Request, Response, Status};

use super::{
    field::{PageRequest, optional, page, page_token, parse, required, time_ms},
    mutate::{Asked, Prepared, digest, mutate},
    peer::Peers,
    rpc_error::RpcError,
};
use crate::{
    audit::Clock,
    mutation::Mutations,
    policy::{GrantRecord, GrantSpec},
    registry::{Records, Registry},
    store::{Change, Table},
};

/// The service.
#[derive(Clone)]
pub struct PolicyService {
    /// Admits callers.
    pub peers: Peers,
    /// Grants and guard rails.
    pub registry: Arc<Registry>,
    /// Changes.
    pub mutations: Mutations,
    /// The time on record.
    pub clock: Clock,
}

#[tonic::async_trait]
impl Grants for PolicyService {
    async fn add_grant(
        &self,
        request: Request<pb::AddGrantRequest>,
    ) -> Result<Response<pb::AddGrantResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("grant.add", &asked);
        let record = GrantRecord {
            spec: grant_spec(asked)?,
            created_ms: self.clock.now_ms(),
            created_by: peer.id.to_string(),
        };
        let name = record.spec.name().to_string();
        let prepare = async {
            if let Some((_, held)) = self.registry.view().grants.get(&name) {
                return Err(RpcError::new(
                    Code::AlreadyExists,
                    "GRANT_EXISTS",
                    format!(
                        "there is a grant {name} already ({} to {}); choose another name, or remove it first",
                        held.spec.secret(),
                        held.spec.to()
                    ),
                ));
            }
            self.registry
                .policies()
                .load()
                .with_grant(record.spec.clone())?;
            let mut change = Change::default();
            change.require_absent(Table::Grant, name.clone());
            change.put(Table::Grant, name.clone(), record.encode());
            Ok(Prepared {
                change,
                answer: pb::AddGrantResponse::default(),
            })
        };
        let (registry, taken) = (Arc::clone(&self.registry), record.clone());
        let asked = Asked {
            peer,
            verb: "grant.add",
            object: name.clone(),
            mutation,
            digest,
            reason: String::new(),
        };
        let (_, committed): (pb::AddGrantResponse, _) = mutate(&self.mutations, asked, prepare, move |seq| {
            if let Err(error) = registry.grant_added(seq, taken) {
                tracing::error!(%error, "a committed grant cannot be taken up; restart the broker");
            }
        })
        .await?;
        Ok(Response::new(pb::AddGrantResponse {
            committed: Some(committed),
        }))
    }

    async fn list_grants(
        &self,
        request: Request<pb::ListGrantsRequest>,
    ) -> Result<Response<pb::ListGrantsResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let asked = request.into_inner();
        let page = page(asked.page)?;
        let keyspace: Option<Keyspace> = optional("keyspace", &asked.keyspace)?;
        let view = self.registry.view();
        let within = |grant: &GrantRecord| {
            keyspace
                .as_ref()
                .is_none_or(|k| grant.spec.secret().keyspace == *k)
        };
        let (items, next_token) = paged(&view.grants, &page, within);
        let grants = items
            .into_iter()
            .map(|(_, grant)| grant_view(grant))
            .collect();
        Ok(Response::new(pb::ListGrantsResponse { grants, next_token }))
    }

    async fn show_grant(
        &self,
        request: Request<pb::ShowGrantRequest>,
    ) -> Result<Response<pb::Grant>, Status> {
        self.peers.operator(request.extensions()).await?;
        let name: GrantName = parse("name", &request.into_inner().name)?;
        let view = self.registry.view();
        let (_, grant) = view
            .grants
            .get(name.as_str())
            .ok_or_else(|| no_grant(&name))?;
        Ok(Response::new(grant_view(grant)))
    }

    async fn remove_grant(
        &self,
        request: Request<pb::RemoveGrantRequest>,
    ) -> Result<Response<pb::RemoveGrantResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("grant.remove", &asked);
        let name: GrantName = parse("name", &asked.name)?;
        let prepare = async {
            let view = self.registry.view();
            let (seq, _) = view
                .grants
                .get(name.as_str())
                .ok_or_else(|| no_grant(&name))?;
            let mut change = Change::default();
            change.require_at(Table::Grant, name.as_str(), *seq);
            change.deletes.push((Table::Grant, name.as_str().into()));
            Ok(Prepared {
                change,
                answer: pb::RemoveGrantResponse::default(),
            })
        };
        let (registry, taken) = (Arc::clone(&self.registry), name.clone());
        let asked = Asked {
            peer,
            verb: "grant.remove",
            object: name.to_string(),
            mutation,
            digest,
            reason: String::new(),
        };
        let (_, committed): (pb::RemoveGrantResponse, _) =
            mutate(&self.mutations, asked, prepare, move |_| {
                registry.grant_removed(taken.as_str())
            })
            .await?;
        Ok(Response::new(pb::RemoveGrantResponse {
            committed: Some(committed),
        }))
    }
}

#[tonic::async_trait]
impl Guardrails for PolicyService {
    async fn list_guardrails(
        &self,
        request: Request<pb::ListGuardrailsRequest>,
    ) -> Result<Response<pb::ListGuardrailsResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let page = page(request.into_inner().page)?;
        let view = self.registry.view();
        let (items, next_token) = paged(&view.guardrails, &page, |_| true);
        let guardrails = items
            .into_iter()
            .map(|(name, rail)| pb::Guardrail {
                name: name.to_owned(),
                demands: rail.spec.condition.demands().to_owned(),
                created: time_ms(rail.created_ms),
                created_by: rail.created_by.clone(),
            })
            .collect();
        Ok(Response::new(pb::ListGuardrailsResponse {
            guardrails,
            next_token,
        }))
    }
}

/// A page of a view's records, and the token of the next one.
pub(super) fn paged<'a, T>(
    records: &'a Records<T>,
    page: &PageRequest,
    within: impl Fn(&T) -> bool,
) -> (Vec<(&'a str, &'a T)>, String) {
    let after = page.after.as_deref();
    let mut found = records
        .iter()
        .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after))
        .filter(|(_, (_, record))| within(record))
        .map(|(name, (_, record))| (name.as_str(), record));
    let items: Vec<_> = found.by_ref().take(page.size).collect();
    let more = found.next().is_some();
    let last = items.last().filter(|_| more).map(|(name, _)| *name);
    let token = page_token(last);
    (items, token)
}

fn grant_spec(asked: pb::AddGrantRequest) -> Result<GrantSpec, RpcError> {
    let secret = required("secret", asked.secret)?;
    let to = required("to", asked.to)?;
    let fields = asked
        .fields
        .iter()
        .map(|f| parse("fields", f))
        .collect::<Result<Vec<_>, _>>()?;
    let workload = WorkloadRef {
        cluster: parse("to.cluster", &to.cluster)?,
        namespace: parse("to.namespace", &to.namespace)?,
        service_account: parse("to.service_account", &to.service_account)?,
        container: parse("to.container", &to.container)?,
    };
    let path = SecretPath {
        keyspace: parse("secret.keyspace", &secret.keyspace)?,
        name: parse("secret.name", &secret.name)?,
    };
    Ok(GrantSpec::new(
        parse("name", &asked.name)?,
        path,
        fields,
        workload,
    )?)
}

fn grant_view(grant: &GrantRecord) -> pb::Grant {
    let spec = &grant.spec;
    pb::Grant {
        name: spec.name().to_string(),
        secret: Some(pb::SecretPath {
            keyspace: spec.secret().keyspace.to_string(),
            name: spec.secret().name.to_string(),
        }),
        fields: spec.fields().iter().map(ToString::to_string).collect(),
        to: Some(workload_view(spec.to())),
        created: time_ms(grant.created_ms),
        created_by: grant.created_by.clone(),
    }
}

fn workload_view(to: &WorkloadRef) -> pb::Workload {
    pb::Workload {
        cluster: to.cluster.to_string(),
        namespace: to.namespace.to_string(),
        service_account: to.service_account.to_string(),
        container: to.container.to_string(),
    }
}

fn no_grant(name: &GrantName) -> RpcError {
    RpcError::new(
        Code::NotFound,
        "NO_GRANT",
        format!("there is no grant {name}; see those there are with: attache grant list"),
    )
}
