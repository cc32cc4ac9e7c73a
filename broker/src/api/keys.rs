//! Keyspaces' keys: `Keys` of attache.v1. No answer here holds a key.

use std::sync::Arc;

use attache_envelope::name::{KeyRef, Keyspace};
use attache_proto::attache::v1 as pb;
use pb::keys_server::Keys;
use tonic::{Request, Response, Status};

use super::{
    field::{after, optional, page, page_token, time_ms},
    peer::Peers,
    rpc_error::RpcError,
};
use crate::vault::{BrokerVault, KeyView};

/// The service.
#[derive(Clone)]
pub struct KeyService {
    /// Admits callers.
    pub peers: Peers,
    /// The keys.
    pub vault: Arc<BrokerVault>,
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
            .key_views(keyspace.as_ref(), after.as_ref(), page.size + 1)
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
    }
}
