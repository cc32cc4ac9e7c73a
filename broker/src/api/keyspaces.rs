//! Keyspaces: `Keyspaces` of attache.v1. No answer here holds a key.

use std::sync::Arc;

use attache_envelope::name::Keyspace;
use attache_proto::attache::v1 as pb;
use pb::keyspaces_server::Keyspaces;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::{
    backups,
    field::{after, page, page_token, parse, setting_s, time_ms},
    mutate::{Asked, Prepared, digest, mutate},
    peer::Peers,
    rpc_error::RpcError,
};
use crate::{
    audit::Clock,
    mutation::Mutations,
    overdue::OverdueKeys,
    registry::Registry,
    removal::Removals,
    retention::Prunings,
    vault::{
        BrokerVault, DESTROYED, KeyspaceSettings, KeyspaceView, PreparedKeyspaceDestruction,
        PruneScope, SetSettings, VaultError,
    },
};

/// And so many grants.
const NAMED_GRANTS: usize = 32;

/// A key wraps an hour at least: a slip of the hand does not rotate for ever.
const LEAST_KEY_AGE_S: u32 = 3_600;
/// Ten years: no age is longer.
const MOST_AGE_S: u32 = 10 * 365 * 24 * 3_600;

/// The service.
#[derive(Clone)]
pub struct KeyspaceService {
    /// Admits callers.
    pub peers: Peers,
    /// The keyspaces.
    pub vault: Arc<BrokerVault>,
    /// Grants that name their secrets.
    pub registry: Arc<Registry>,
    /// What is being removed.
    pub removals: Removals,
    /// What is being pruned.
    pub prunings: Prunings,
    /// Keys that are past what is demanded of them.
    pub overdue: OverdueKeys,
    /// Changes.
    pub mutations: Mutations,
    /// The time on record.
    pub clock: Clock,
    /// Ends what holds keys.
    pub seal: CancellationToken,
}

#[tonic::async_trait]
impl Keyspaces for KeyspaceService {
    async fn create_keyspace(
        &self,
        request: Request<pb::CreateKeyspaceRequest>,
    ) -> Result<Response<pb::CreateKeyspaceResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("keyspace.create", &asked);
        let name: Keyspace = parse("name", &asked.name)?;
        let set = settings(SetSettings {
            max_versions: asked.max_versions,
            max_age_s: asked.max_key_age_s,
            max_wraps: asked.max_key_wraps,
            automatic: asked.rotate_automatically,
            backup_age_s: asked.backup_age_s,
        })?;
        let by = peer.id.clone();
        let prepare = async {
            let settings = set.over(KeyspaceSettings::default());
            let change = self
                .vault
                .prepare_keyspace(&name, settings, &by, self.clock.now_ms())
                .await?;
            Ok(Prepared {
                change,
                answer: pb::CreateKeyspaceResponse::default(),
            })
        };
        let asked_for = Asked {
            peer,
            verb: "keyspace.create",
            object: name.to_string(),
            mutation,
            digest,
            reason: String::new(),
        };
        let (_, committed): (pb::CreateKeyspaceResponse, _) =
            mutate(&self.mutations, asked_for, prepare, |_| ()).await?;
        Ok(Response::new(pb::CreateKeyspaceResponse {
            committed: Some(committed),
        }))
    }

    async fn list_keyspaces(
        &self,
        request: Request<pb::ListKeyspacesRequest>,
    ) -> Result<Response<pb::ListKeyspacesResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let page = page(request.into_inner().page)?;
        let after: Option<Keyspace> = after(page.after.as_deref())?;
        let mut views = self
            .vault
            .keyspaces(after.as_ref(), page.size + 1)
            .await
            .map_err(RpcError::from)?;
        let more = views.len() > page.size;
        views.truncate(page.size);
        let last = views.last().filter(|_| more).map(|v| v.name.to_string());
        let keyspaces = views.into_iter().map(|view| self.shown(view)).collect();
        let next_token = page_token(last.as_deref());
        Ok(Response::new(pb::ListKeyspacesResponse {
            keyspaces,
            next_token,
        }))
    }
    async fn show_keyspace(
        &self,
        request: Request<pb::ShowKeyspaceRequest>,
    ) -> Result<Response<pb::KeyspaceView>, Status> {
        self.peers.operator(request.extensions()).await?;
        let name: Keyspace = parse("name", &request.into_inner().name)?;
        let view = self.vault.one_keyspace(&name).await;
        Ok(Response::new(self.shown(view.map_err(RpcError::from)?)))
    }

    async fn set_keyspace(
        &self,
        request: Request<pb::SetKeyspaceRequest>,
    ) -> Result<Response<pb::SetKeyspaceResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("keyspace.set", &asked);
        let name: Keyspace = parse("name", &asked.name)?;
        let set = settings(SetSettings {
            max_versions: asked.max_versions,
            max_age_s: asked.max_key_age_s,
            max_wraps: asked.max_key_wraps,
            automatic: asked.rotate_automatically,
            backup_age_s: asked.backup_age_s,
        })?;
        if set == SetSettings::default() {
            let none = "is missing, and so is every other setting: name what is to change";
            return Err(RpcError::invalid("max_versions", none).into());
        }
        let prepare = async {
            let (change, now) = self.vault.prepare_settings(&name, set).await?;
            Ok(Prepared {
                change,
                answer: pb::SetKeyspaceResponse {
                    committed: None,
                    max_versions: now.max_versions,
                    max_key_age_s: now.policy.max_age_s,
                    max_key_wraps: now.policy.max_wraps,
                    rotate_automatically: now.policy.automatic,
                    backup_age_s: now.policy.backup_age_s,
                },
            })
        };
        let asked_for = Asked {
            peer,
            verb: "keyspace.set",
            object: name.to_string(),
            mutation,
            digest,
            reason: told(set),
        };
        let (prunings, of) = (self.prunings.clone(), PruneScope::Keyspace(name.clone()));
        let overdue = self.overdue.clone();
        let take_up = move |_| {
            prunings.begin(of);
            overdue.look();
        };
        let (answer, committed): (pb::SetKeyspaceResponse, _) =
            mutate(&self.mutations, asked_for, prepare, take_up).await?;
        Ok(Response::new(pb::SetKeyspaceResponse {
            committed: Some(committed),
            ..answer
        }))
    }

    async fn destroy_keyspace(
        &self,
        request: Request<pb::DestroyKeyspaceRequest>,
    ) -> Result<Response<pb::DestroyKeyspaceResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("keyspace.destroy", &asked);
        let name: Keyspace = parse("name", &asked.name)?;
        let prepare = async {
            let destruction = self.prepare_destruction(name.clone()).await?;
            let (grants, grant_count) = self.grants(&name);
            let (backups, backup_count) =
                backups::since(&self.vault, destruction.created_ms).await?;
            let answer = pb::DestroyKeyspaceResponse {
                committed: None,
                secrets: destruction.secrets,
                keys: destruction.keys,
                statement: DESTROYED.to_owned(),
                backups,
                backup_count,
                grants,
                grant_count,
            };
            Ok(Prepared {
                change: destruction.change,
                answer,
            })
        };
        let asked = Asked {
            peer,
            verb: "keyspace.destroy",
            object: name.to_string(),
            mutation,
            digest,
            // On record before it happens: who reads the log must not take it for more than it is.
            reason: format!("every key gone from the live store with this commit; {DESTROYED}"),
        };
        let (vault, removals, of) = (Arc::clone(&self.vault), self.removals.clone(), name.clone());
        let take_up = move |_| {
            vault.forget_keyspace(&of);
            removals.begin(of);
        };
        let done = mutate(&self.mutations, asked, prepare, take_up).await;
        let (answer, committed) = done.map_err(|error| beaten(error, &name))?;
        Ok(Response::new(pb::DestroyKeyspaceResponse {
            committed: Some(committed),
            ..answer
        }))
    }
}

impl KeyspaceService {
    /// Counts secrets where that holds up nobody's IO.
    async fn prepare_destruction(
        &self,
        name: Keyspace,
    ) -> Result<PreparedKeyspaceDestruction, RpcError> {
        let (vault, now_ms) = (Arc::clone(&self.vault), self.clock.now_ms());
        let (runtime, seal) = (Handle::current(), self.seal.clone());
        let counting = tokio::task::spawn_blocking(move || {
            let counting = vault.prepare_keyspace_destruction(&name, now_ms);
            runtime.block_on(seal.run_until_cancelled(counting))
        });
        let counted = counting.await.ok().flatten();
        Ok(counted.ok_or(VaultError::Stopping)??)
    }

    /// The grants of a keyspace's secrets, by name: some of them, and how many there are.
    fn grants(&self, keyspace: &Keyspace) -> (Vec<String>, u64) {
        let view = self.registry.view();
        let of_it = view.grants.iter();
        let mut of_it = of_it.filter(|(_, (_, it))| it.spec.secret().keyspace == *keyspace);
        let named: Vec<_> = of_it
            .by_ref()
            .take(NAMED_GRANTS)
            .map(|(name, _)| name.clone())
            .collect();
        let count = named.len() as u64 + of_it.count() as u64;
        (named, count)
    }

    fn shown(&self, view: KeyspaceView) -> pb::KeyspaceView {
        let removal = self.removals.of(&view.name);
        pb::KeyspaceView {
            name: view.name.to_string(),
            secrets: view.secrets,
            key_epoch: view.key_epoch,
            created: time_ms(view.created_ms),
            state: view.state.name().to_owned(),
            problem: removal.and_then(|it| it.problem).unwrap_or_default(),
            max_versions: view.settings.max_versions,
            max_key_age_s: view.settings.policy.max_age_s,
            max_key_wraps: view.settings.policy.max_wraps,
            rotate_automatically: view.settings.policy.automatic,
            backup_age_s: view.settings.policy.backup_age_s,
        }
    }
}

/// Settings as they are asked for, within their bounds.
fn settings(asked: SetSettings) -> Result<SetSettings, RpcError> {
    let of = |field, least_s, age_s: Option<u32>| match age_s {
        Some(age_s) => setting_s(field, age_s, least_s..=MOST_AGE_S).map(Some),
        None => Ok(None),
    };
    Ok(SetSettings {
        max_age_s: of("max_key_age_s", LEAST_KEY_AGE_S, asked.max_age_s)?,
        backup_age_s: of("backup_age_s", 1, asked.backup_age_s)?,
        ..asked
    })
}

/// What is set, as the options of the command have it.
fn told(set: SetSettings) -> String {
    let automatic = set.automatic.map(|it| if it { "yes" } else { "no" });
    let all = [
        ("max-versions", set.max_versions.map(|it| it.to_string())),
        ("max-key-age", set.max_age_s.map(|it| format!("{it}s"))),
        ("max-key-wraps", set.max_wraps.map(|it| it.to_string())),
        ("rotate-automatically", automatic.map(str::to_owned)),
        ("backup-age", set.backup_age_s.map(|it| format!("{it}s"))),
    ];
    let all = all.into_iter();
    let all: Vec<_> = all
        .filter_map(|(name, value)| Some(format!("{name} {}", value?)))
        .collect();
    all.join(", ")
}

/// A key of it was rotated, counted or retired at the same instant: nothing was changed, and it pays to ask again.
fn beaten(error: RpcError, name: &Keyspace) -> RpcError {
    if error.reason() != "CHANGED_MEANWHILE" {
        return error;
    }
    let told = format!(
        "a key of {name} changed at the same time, and nothing was destroyed by this request: repeat the command"
    );
    RpcError::new(Code::Aborted, "KEYSPACE_CHANGED", told)
}
