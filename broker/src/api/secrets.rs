//! Secrets: `Secrets` of attache.v1. No answer here holds a value.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use attache_envelope::{
    MAX_FIELDS,
    id::{BootId, KeyId, RequestId, SecretId, ValueId},
    name::{Keyspace, SecretPath, SecretRef, SecretVersion},
    put::FLAG_REPLACE,
    x25519::Enc,
};
use attache_proto::attache::v1 as pb;
use pb::secrets_server::Secrets;
use tonic::{Request, Response, Status};

use super::{
    backups,
    field::{after, fixed, missing, note, optional, page, page_token, parse, required, time_ms},
    mutate::{Asked, Prepared, digest, mutate},
    peer::{OperatorPeer, Peers},
    rpc_error::RpcError,
};
use crate::{
    audit::Clock,
    background::apart,
    mutation::Mutations,
    retention::Prunings,
    vault::{
        BrokerVault, DestroyRequest, PinRequest, PreparedDestroy, PruneScope, PutRequest, PutValue,
        RollbackRequest, SecretView, VaultError, VersionView,
    },
};

/// How many pinned versions an answer names.
const PINNED: usize = 32;

/// The service.
#[derive(Clone)]
pub struct SecretService {
    /// Admits callers.
    pub peers: Peers,
    /// The secrets.
    pub vault: Arc<BrokerVault>,
    /// What is being pruned.
    pub prunings: Prunings,
    /// Changes.
    pub mutations: Mutations,
    /// The time on record.
    pub clock: Clock,
}

#[tonic::async_trait]
impl Secrets for SecretService {
    async fn begin_put(
        &self,
        request: Request<pb::BeginPutRequest>,
    ) -> Result<Response<pb::BeginPutResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let path = path(request.into_inner().path)?;
        let begin = self.vault.begin_put(&path).await.map_err(RpcError::from)?;
        Ok(Response::new(pb::BeginPutResponse {
            store: begin.store.as_bytes().to_vec(),
            secret: begin
                .secret
                .map(|id| id.as_bytes().to_vec())
                .unwrap_or_default(),
            head_version: begin.head_version,
            receive_key: begin.receive_key.as_bytes().to_vec(),
            key_id: begin.key_id.as_bytes().to_vec(),
            boot: begin.boot.as_bytes().to_vec(),
            broker_id: self.vault.broker().to_string(),
            fields: begin.fields.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn commit_put(
        &self,
        request: Request<pb::CommitPutRequest>,
    ) -> Result<Response<pb::CommitPutResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = required("mutation", asked.mutation.take())?;
        let put = put_request(&peer, &mutation, asked)?;
        let checked = self.vault.check_put(put).await.map_err(RpcError::from)?;
        let (digest, path) = (*checked.digest().as_bytes(), checked.path().clone());
        let object = path.to_string();
        // What the keyspace does not keep is pruned once it is committed; a repeat commits nothing.
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let prepare = async {
            let prepared = self.vault.prepare_put(checked, self.clock.now_ms()).await?;
            is_over.store(prepared.over, Ordering::Relaxed);
            let answer = pb::CommitPutResponse {
                committed: None,
                version: prepared.version.number(),
            };
            Ok(Prepared {
                change: prepared.change,
                answer,
            })
        };
        let asked = Asked {
            peer,
            verb: "secret.put",
            object,
            mutation: Some(mutation),
            digest,
            reason: String::new(),
        };
        let prunings = self.prunings.clone();
        let take_up = move |_| {
            if over.load(Ordering::Relaxed) {
                prunings.begin(PruneScope::Secret(path));
            }
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, take_up).await?;
        Ok(Response::new(pb::CommitPutResponse {
            committed: Some(committed),
            ..answer
        }))
    }

    async fn list_secrets(
        &self,
        request: Request<pb::ListSecretsRequest>,
    ) -> Result<Response<pb::ListSecretsResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let asked = request.into_inner();
        let page = page(asked.page)?;
        let keyspace: Option<Keyspace> = optional("keyspace", &asked.keyspace)?;
        let after: Option<SecretPath> = after(page.after.as_deref())?;
        let mut views = self
            .vault
            .secrets(keyspace.as_ref(), after.as_ref(), page.size + 1)
            .await
            .map_err(RpcError::from)?;
        let more = views.len() > page.size;
        views.truncate(page.size);
        let last = views.last().filter(|_| more).map(|v| v.path.to_string());
        Ok(Response::new(pb::ListSecretsResponse {
            next_token: page_token(last.as_deref()),
            secrets: views.into_iter().map(secret_view).collect(),
        }))
    }

    async fn show_secret(
        &self,
        request: Request<pb::ShowSecretRequest>,
    ) -> Result<Response<pb::SecretView>, Status> {
        self.peers.operator(request.extensions()).await?;
        let path = path(request.into_inner().path)?;
        let view = self.vault.secret(&path).await.map_err(RpcError::from)?;
        let pinned = self.vault.pinned(view.secret, PINNED).await;
        let pinned = pinned.map_err(RpcError::from)?;
        let newest = pinned.newest.iter().map(|it| it.number());
        Ok(Response::new(pb::SecretView {
            pinned_versions: newest.collect(),
            pinned_count: pinned.count,
            ..secret_view(view)
        }))
    }

    async fn list_versions(
        &self,
        request: Request<pb::ListVersionsRequest>,
    ) -> Result<Response<pb::ListVersionsResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let asked = request.into_inner();
        let page = page(asked.page)?;
        let path = path(asked.path)?;
        let before: Option<SecretVersion> = after(page.after.as_deref())?;
        let mut views = self
            .vault
            .versions(&path, before, page.size + 1)
            .await
            .map_err(RpcError::from)?;
        let more = views.len() > page.size;
        views.truncate(page.size);
        let last = views.last().filter(|_| more).map(|v| v.number.to_string());
        Ok(Response::new(pb::ListVersionsResponse {
            next_token: page_token(last.as_deref()),
            versions: views.into_iter().map(version_view).collect(),
        }))
    }

    async fn rollback(
        &self,
        request: Request<pb::RollbackRequest>,
    ) -> Result<Response<pb::RollbackResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("secret.rollback", &asked);
        let rollback = RollbackRequest {
            path: path(asked.path)?,
            to: SecretVersion::new(asked.to_version),
            expected_active: SecretVersion::new(asked.expected_active_version),
            by: peer.id.clone(),
            now_ms: self.clock.now_ms(),
        };
        let prepare = async {
            let prepared = self.vault.prepare_rollback(&rollback).await?;
            let answer = pb::RollbackResponse {
                committed: None,
                active_version: prepared.active.number(),
                previous_version: prepared.previous.map_or(0, SecretVersion::number),
            };
            Ok(Prepared {
                change: prepared.change,
                answer,
            })
        };
        let asked = Asked {
            peer,
            verb: "secret.rollback",
            object: rollback.path.to_string(),
            mutation,
            digest,
            reason: String::new(),
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, |_| ()).await?;
        Ok(Response::new(pb::RollbackResponse {
            committed: Some(committed),
            ..answer
        }))
    }

    async fn pin_version(
        &self,
        request: Request<pb::PinVersionRequest>,
    ) -> Result<Response<pb::PinVersionResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("secret.pin", &asked);
        let pin = pin_request(asked.path, asked.version, true)?;
        let asked = Asked {
            peer,
            verb: "secret.pin",
            object: pin.reference().to_string(),
            mutation,
            digest,
            reason: note("reason", asked.reason)?,
        };
        Ok(Response::new(pb::PinVersionResponse {
            committed: Some(self.change_pin(asked, pin).await?),
        }))
    }

    async fn unpin_version(
        &self,
        request: Request<pb::UnpinVersionRequest>,
    ) -> Result<Response<pb::UnpinVersionResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("secret.unpin", &asked);
        let unpin = pin_request(asked.path, asked.version, false)?;
        let asked = Asked {
            peer,
            verb: "secret.unpin",
            object: unpin.reference().to_string(),
            mutation,
            digest,
            reason: note("reason", asked.reason)?,
        };
        Ok(Response::new(pb::UnpinVersionResponse {
            committed: Some(self.change_pin(asked, unpin).await?),
        }))
    }

    async fn destroy_secret(
        &self,
        request: Request<pb::DestroySecretRequest>,
    ) -> Result<Response<pb::DestroySecretResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("secret.destroy", &asked);
        let destroy = DestroyRequest {
            path: path(asked.path)?,
            version: SecretVersion::new(asked.version),
            by: peer.id.clone(),
            now_ms: self.clock.now_ms(),
        };
        let prepare = async {
            let prepared = self.prepare_destroy(destroy.clone()).await?;
            let (backups, backup_count) = backups::since(&self.vault, prepared.since_ms).await?;
            let answer = pb::DestroySecretResponse {
                committed: None,
                versions: prepared.versions,
                values: prepared.values,
                kept: prepared.kept,
                backups,
                backup_count,
            };
            Ok(Prepared {
                change: prepared.change,
                answer,
            })
        };
        let asked = Asked {
            peer,
            verb: "secret.destroy",
            object: destroyed(&destroy),
            mutation,
            digest,
            reason: String::new(),
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, |_| ()).await?;
        Ok(Response::new(pb::DestroySecretResponse {
            committed: Some(committed),
            ..answer
        }))
    }
}

impl SecretService {
    /// Pins a version, or unpins it: the answers to both have the same one field.
    async fn change_pin(&self, asked: Asked, pin: PinRequest) -> Result<pb::Committed, RpcError> {
        let prepare = async {
            let change = self.vault.prepare_pin(&pin).await?;
            let answer = pb::PinVersionResponse { committed: None };
            Ok(Prepared { change, answer })
        };
        let (prunings, path) = (self.prunings.clone(), pin.path.clone());
        let unpinned = !pin.pinned;
        let take_up = move |_| {
            if unpinned {
                // It may be over, now that nothing keeps it.
                prunings.begin(PruneScope::Secret(path));
            }
        };
        let (_, committed) = mutate(&self.mutations, asked, prepare, take_up).await?;
        Ok(committed)
    }

    /// Reads versions and values where that holds up nobody's IO.
    async fn prepare_destroy(&self, destroy: DestroyRequest) -> Result<PreparedDestroy, RpcError> {
        let vault = Arc::clone(&self.vault);
        let reading = apart(
            "destroy",
            async move { vault.prepare_destroy(&destroy).await },
        );
        Ok(reading.await.map_err(|_| VaultError::Stopping)??)
    }
}

fn put_request(
    peer: &OperatorPeer,
    mutation: &pb::Mutation,
    asked: pb::CommitPutRequest,
) -> Result<PutRequest, RpcError> {
    if asked.values.is_empty() {
        return Err(missing("values"));
    }
    for (field, count) in [
        ("values", asked.values.len()),
        ("carried", asked.carried.len()),
    ] {
        if count > MAX_FIELDS {
            return Err(RpcError::invalid(
                field,
                format!("are {count}; a version has {MAX_FIELDS} fields at most"),
            ));
        }
    }
    if asked.flags & !FLAG_REPLACE != 0 {
        return Err(RpcError::invalid(
            "flags",
            "has a bit that this broker does not know; upgrade the broker first",
        ));
    }
    let value = |v: pb::PutValue| {
        let value = ValueId::from_bytes(fixed::<16>("values.value", &v.value)?);
        Ok(PutValue {
            field: parse("values.field", &v.field)?,
            value,
            ct: v.ct,
        })
    };
    Ok(PutRequest {
        operator: peer.id.clone(),
        request: RequestId::from_bytes(fixed::<16>("mutation.request_id", &mutation.request_id)?),
        path: path(asked.path)?,
        secret: SecretId::from_bytes(fixed::<16>("secret", &asked.secret)?),
        expected_head_version: asked.expected_head_version,
        flags: asked.flags,
        note: note("note", asked.note)?,
        values: asked
            .values
            .into_iter()
            .map(value)
            .collect::<Result<_, RpcError>>()?,
        carried: asked
            .carried
            .iter()
            .map(|f| parse("carried", f))
            .collect::<Result<_, _>>()?,
        boot: BootId::from_bytes(fixed::<16>("boot", &asked.boot)?),
        key_id: KeyId::from_bytes(fixed::<16>("key_id", &asked.key_id)?),
        enc: Enc::from_bytes(fixed::<32>("enc", &asked.enc)?),
        sealed_keys: asked.sealed_keys.into(),
    })
}

/// A secret's path, both of whose parts must be there.
pub(super) fn path(path: Option<pb::SecretPath>) -> Result<SecretPath, RpcError> {
    let path = required("path", path)?;
    Ok(SecretPath {
        keyspace: parse("path.keyspace", &path.keyspace)?,
        name: parse("path.name", &path.name)?,
    })
}

/// A pin, or its end. Which version it is has to be said.
fn pin_request(
    of: Option<pb::SecretPath>,
    version: u64,
    pinned: bool,
) -> Result<PinRequest, RpcError> {
    Ok(PinRequest {
        path: path(of)?,
        version: SecretVersion::new(version).ok_or_else(|| missing("version"))?,
        pinned,
    })
}

/// What the audit calls it.
fn destroyed(request: &DestroyRequest) -> String {
    let reference = SecretRef {
        path: request.path.clone(),
        version: request.version,
        field: None,
    };
    reference.to_string()
}

fn secret_view(view: SecretView) -> pb::SecretView {
    pb::SecretView {
        path: Some(pb::SecretPath {
            keyspace: view.path.keyspace.to_string(),
            name: view.path.name.to_string(),
        }),
        secret: view.secret.as_bytes().to_vec(),
        active_version: view.active.map_or(0, SecretVersion::number),
        latest_version: view.latest.number(),
        fields: view.fields.iter().map(ToString::to_string).collect(),
        created: time_ms(view.created_ms),
        changed: time_ms(view.changed_ms),
        changed_by: view.changed_by,
        state: view.state.name().to_owned(),
        pinned_versions: Vec::new(),
        pinned_count: 0,
    }
}

fn version_view(view: VersionView) -> pb::VersionView {
    let fields = view.fields.into_iter().map(|f| pb::FieldView {
        field: f.field.to_string(),
        value: f.value.as_bytes().to_vec(),
        size_bytes: u64::try_from(f.size_bytes).unwrap_or(u64::MAX),
    });
    pb::VersionView {
        version: view.number.number(),
        active: view.active,
        fields: fields.collect(),
        created: time_ms(view.created_ms),
        created_by: view.created_by,
        note: view.note,
        pinned: view.pinned,
    }
}
