//! Keyspaces' keys: `Keys` of attache.v1. No answer here holds a key.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use attache_envelope::name::{KeyRef, Keyspace};
use attache_proto::attache::v1 as pb;
use pb::keys_server::Keys;
use tonic::{Code, Request, Response, Status};

use super::{
    backups,
    field::{after, missing, optional, page, page_token, parse, time_ms},
    looks::{Looked, Looks},
    mutate::{Asked, Prepared, digest, mutate},
    peer::Peers,
    rpc_error::RpcError,
};
use crate::{
    audit::AuditLog,
    mutation::Mutations,
    retagging::Retagging,
    rotation::{Progress, Rotations},
    vault::{BackupAge, BrokerVault, DESTROYED, KeyView},
};

/// A call waits so long at most for the look at every value; its caller asks again.
const LOOK: Duration = Duration::from_secs(5);

/// The service.
#[derive(Clone)]
pub struct KeyService {
    /// Admits callers.
    pub peers: Peers,
    /// The keys.
    pub vault: Arc<BrokerVault>,
    /// What is being wrapped again.
    pub rotations: Rotations,
    /// Rows that are being tagged anew.
    pub retagging: Retagging,
    /// Looks for values that need a key.
    pub looks: Looks,
    /// Changes.
    pub mutations: Mutations,
    /// The audit log.
    pub log: AuditLog,
}

#[tonic::async_trait]
impl Keys for KeyService {
    async fn list_keys(
        &self,
        request: Request<pb::ListKeysRequest>,
    ) -> Result<Response<pb::ListKeysResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let asked = request.into_inner();
        let page = page(asked.page)?;
        let keyspace: Option<Keyspace> = optional("keyspace", &asked.keyspace)?;
        let after: Option<KeyRef> = after(page.after.as_deref())?;
        let mut views = self
            .vault
            .key_views(
                keyspace.as_ref(),
                after.as_ref(),
                page.size + 1,
                self.log.clock().now_ms(),
            )
            .await
            .map_err(RpcError::from)?;
        let more = views.len() > page.size;
        views.truncate(page.size);
        let last = views.last().filter(|_| more).map(|v| v.key.to_string());
        Ok(Response::new(pb::ListKeysResponse {
            next_token: page_token(last.as_deref()),
            keys: views.into_iter().map(key_view).collect(),
        }))
    }

    async fn rotate_key(
        &self,
        request: Request<pb::RotateKeyRequest>,
    ) -> Result<Response<pb::RotateKeyResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("key.rotate", &asked);
        let keyspace: Keyspace = parse("keyspace", &asked.keyspace)?;
        let expected = NonZeroU32::new(asked.expected_epoch);
        // What the worker takes up once it is committed; a repeat commits nothing.
        let begun = Arc::new(Mutex::new(None));
        let prepared = Arc::clone(&begun);
        let prepare = async {
            let rotation = self
                .vault
                .prepare_rotation(&keyspace, expected, asked.rate, self.log.clock().now_ms())
                .await?;
            let answer = pb::RotateKeyResponse {
                committed: None,
                previous_epoch: rotation.previous.epoch.get(),
                epoch: rotation.key.epoch.get(),
            };
            *lock(&prepared) = Some(rotation.previous);
            Ok(Prepared {
                change: rotation.change,
                answer,
            })
        };
        let asked_for = Asked {
            peer,
            verb: "key.rotate",
            object: keyspace.to_string(),
            mutation,
            digest,
            reason: String::new(),
        };
        let (rotations, rate) = (self.rotations.clone(), asked.rate);
        let take_up = move |_| {
            if let Some(previous) = lock(&begun).take() {
                rotations.begin(previous, rate);
            }
        };
        let done = mutate(&self.mutations, asked_for, prepare, take_up).await;
        let (answer, committed) = done.map_err(|error| beaten(error, &keyspace))?;
        Ok(Response::new(pb::RotateKeyResponse {
            committed: Some(committed),
            ..answer
        }))
    }

    async fn show_ca(
        &self,
        request: Request<pb::ShowCaRequest>,
    ) -> Result<Response<pb::ShowCaResponse>, Status> {
        Ok(Response::new(self.ca(request).await?))
    }

    async fn rotate_ca(
        &self,
        request: Request<pb::RotateCaRequest>,
    ) -> Result<Response<pb::RotateCaResponse>, Status> {
        Ok(Response::new(self.new_ca(request).await?))
    }

    async fn drop_ca(
        &self,
        request: Request<pb::DropCaRequest>,
    ) -> Result<Response<pb::DropCaResponse>, Status> {
        Ok(Response::new(self.end_ca(request).await?))
    }

    async fn show_mac(
        &self,
        request: Request<pb::ShowMacRequest>,
    ) -> Result<Response<pb::ShowMacResponse>, Status> {
        Ok(Response::new(self.mac(request).await?))
    }

    async fn rotate_mac(
        &self,
        request: Request<pb::RotateMacRequest>,
    ) -> Result<Response<pb::RotateMacResponse>, Status> {
        Ok(Response::new(self.new_mac(request).await?))
    }

    async fn show_audit_keys(
        &self,
        request: Request<pb::ShowAuditKeysRequest>,
    ) -> Result<Response<pb::ShowAuditKeysResponse>, Status> {
        Ok(Response::new(self.audit_keys(request).await?))
    }

    async fn rotate_audit_key(
        &self,
        request: Request<pb::RotateAuditKeyRequest>,
    ) -> Result<Response<pb::RotateAuditKeyResponse>, Status> {
        Ok(Response::new(self.new_audit_key(request).await?))
    }

    async fn destroy_key(
        &self,
        request: Request<pb::DestroyKeyRequest>,
    ) -> Result<Response<pb::DestroyKeyResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("key.destroy", &asked);
        let key = KeyRef {
            keyspace: parse("keyspace", &asked.keyspace)?,
            epoch: NonZeroU32::new(asked.epoch).ok_or_else(|| missing("epoch"))?,
        };
        let wiped = Arc::new(Mutex::new(None));
        let prepared = Arc::clone(&wiped);
        let looking = Mutex::new(None);
        let still = &looking;
        let backup_age = if asked.now {
            BackupAge::Now
        } else {
            BackupAge::Wait
        };
        let prepare = async {
            if backup_age == BackupAge::Wait {
                // Said before every value is looked at.
                let now_ms = self.log.clock().now_ms();
                self.vault.refuse_within_backup_age(&key, now_ms).await?;
            }
            let unreferenced = match self.looks.join(&self.vault, &key, LOOK).await? {
                Looked::Clear(unreferenced) => unreferenced,
                Looked::Looking { looked, of } => {
                    *lock(still) = Some(pb::Look { looked, of });
                    return Err(RpcError::unavailable(
                        "LOOKING",
                        "the look at every value goes on",
                    ));
                }
            };
            let vault = &self.vault;
            let destruction = vault
                .prepare_destruction(&unreferenced, backup_age, self.log.clock().now_ms())
                .await?;
            *lock(&prepared) = Some(destruction.id);
            let (backups, backup_count) =
                backups::since(&self.vault, destruction.created_ms).await?;
            Ok(Prepared {
                change: destruction.change,
                answer: pb::DestroyKeyResponse {
                    committed: None,
                    key_id: destruction.id.as_bytes().to_vec(),
                    statement: DESTROYED.to_owned(),
                    backups,
                    backup_count,
                    looking: None,
                },
            })
        };
        let asked = Asked {
            peer,
            verb: "key.destroy",
            object: key.to_string(),
            mutation,
            digest,
            // On record before it happens: who reads the log must not take it for more than it is.
            reason: format!(
                "{}gone from the live store with this commit; {DESTROYED}",
                early(asked.now)
            ),
        };
        let (vault, of) = (Arc::clone(&self.vault), key.clone());
        let take_up = move |_| {
            if let Some(id) = lock(&wiped).take() {
                vault.forget_key(&of, id);
            }
        };
        let done = mutate(&self.mutations, asked, prepare, take_up).await;
        // Nothing is on record yet, and the same request asks again.
        if let Some(look) = lock(&looking).take() {
            return Ok(Response::new(pb::DestroyKeyResponse {
                looking: Some(look),
                ..Default::default()
            }));
        }
        let (answer, committed) = done?;
        Ok(Response::new(pb::DestroyKeyResponse {
            committed: Some(committed),
            ..answer
        }))
    }

    async fn list_rewraps(
        &self,
        request: Request<pb::ListRewrapsRequest>,
    ) -> Result<Response<pb::ListRewrapsResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let asked = request.into_inner();
        let page = page(asked.page)?;
        let keyspace: Option<Keyspace> = optional("keyspace", &asked.keyspace)?;
        let after: Option<KeyRef> = after(page.after.as_deref())?;
        let mut found = self
            .rotations
            .under_way(keyspace.as_ref(), after.as_ref(), page.size + 1);
        let more = found.len() > page.size;
        found.truncate(page.size);
        let last = found
            .last()
            .filter(|_| more)
            .map(|(key, _)| key.to_string());
        Ok(Response::new(pb::ListRewrapsResponse {
            next_token: page_token(last.as_deref()),
            rewraps: found.into_iter().map(rewrap).collect(),
        }))
    }
}

/// What is put on record of a destruction that does not wait for backups.
const fn early(now: bool) -> &'static str {
    if now {
        "now, whatever the backup age of its keyspace; "
    } else {
        ""
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of two rotations at the same instant one finds the keyspace changed when it is committed: then it is said what was.
fn beaten(error: RpcError, keyspace: &Keyspace) -> RpcError {
    if error.reason() != "CHANGED_MEANWHILE" {
        return error;
    }
    let told = format!(
        "somebody else rotated {keyspace} at the same time, and nothing was changed by this request; see attache key \
         status {keyspace}"
    );
    RpcError::new(Code::Aborted, "KEY_MOVED", told)
}

fn rewrap((key, progress): (KeyRef, Progress)) -> pb::Rewrap {
    pb::Rewrap {
        keyspace: key.keyspace.to_string(),
        epoch: key.epoch.get(),
        total: progress.total,
        done: progress.done,
        rate: progress.limit,
        per_second: progress.per_second,
        left_s: progress.left().map(|left| left.as_secs()),
        unreadable: progress.unreadable,
        problem: progress.problem.unwrap_or_default(),
    }
}

fn key_view(view: KeyView) -> pb::KeyView {
    pb::KeyView {
        keyspace: view.key.keyspace.to_string(),
        epoch: view.key.epoch.get(),
        key_id: view.id.as_bytes().to_vec(),
        state: view.phase.name().to_owned(),
        created: time_ms(view.created_ms),
        changed: time_ms(view.changed_ms),
        values: view.values,
        wraps: view.wraps,
        last_used: view.last_used_ms.and_then(time_ms),
        due: view.due_ms.and_then(time_ms),
        overdue: view.overdue.map(|it| it.to_string()).unwrap_or_default(),
    }
}
