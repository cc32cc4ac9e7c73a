//! Slots and the store root key: `Slots` of attache.v1.

use std::sync::Arc;

use attache_envelope::{name::SlotName, slot::Slot};
use attache_proto::attache::v1 as pb;
use pb::slots_server::Slots;
use tonic::{Request, Response, Status};

use super::{
    field::{after, page, page_token, time_ms},
    mutate::{Asked, Prepared, digest, mutate},
    peer::Peers,
    rpc_error::RpcError,
};
use crate::{
    keys::{Rekeyed, SlotSet},
    mutation::Mutations,
    vault::BrokerVault,
};

/// The service.
#[derive(Clone)]
pub struct SlotService {
    /// Admits callers.
    pub peers: Peers,
    /// The keys and the store.
    pub vault: Arc<BrokerVault>,
    /// Changes.
    pub mutations: Mutations,
}

#[tonic::async_trait]
impl Slots for SlotService {
    async fn list_slots(
        &self,
        request: Request<pb::ListSlotsRequest>,
    ) -> Result<Response<pb::ListSlotsResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let page = page(request.into_inner().page)?;
        let after: Option<SlotName> = after(page.after.as_deref())?;
        let set = self.read().await?;
        let mut slots: Vec<_> = set.slots().collect();
        if let Some(after) = after {
            slots.retain(|slot| slot.about.name > after);
        }
        let more = slots.len() > page.size;
        slots.truncate(page.size);
        let last = slots.last().filter(|_| more);
        Ok(Response::new(pb::ListSlotsResponse {
            next_token: page_token(last.map(|slot| slot.about.name.as_str())),
            slots: slots.into_iter().map(|slot| self.view(slot)).collect(),
            keyring_number: set.keyring_number(),
        }))
    }

    async fn rotate_root(
        &self,
        request: Request<pb::RotateRootRequest>,
    ) -> Result<Response<pb::RotateRootResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("key.rotate-root", &asked);
        let prepare = async {
            let set = self.read().await?;
            let Rekeyed { change, number } = self.vault.keys().rekey(&set)?;
            let answer = pb::RotateRootResponse {
                committed: None,
                keyring_number: number,
                slots: u32::try_from(set.slots().len()).unwrap_or(u32::MAX),
            };
            Ok(Prepared { change, answer })
        };
        let asked = Asked {
            peer,
            verb: "key.rotate-root",
            object: "root".to_owned(),
            mutation,
            digest,
            reason: String::new(),
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, |_| ()).await?;
        Ok(Response::new(pb::RotateRootResponse {
            committed: Some(committed),
            ..answer
        }))
    }
}

impl SlotService {
    async fn read(&self) -> Result<SlotSet, RpcError> {
        Ok(SlotSet::read(self.vault.ledger()).await?)
    }

    fn view(&self, slot: &Slot) -> pb::SlotView {
        pb::SlotView {
            slot: slot.identity.slot.as_bytes().to_vec(),
            name: slot.about.name.to_string(),
            kind: slot.identity.kind.name().to_owned(),
            created: time_ms(slot.about.created_ms),
            verified: slot.about.verified_ms.and_then(time_ms),
            opened: slot.identity.slot == self.vault.keys().opened_by(),
        }
    }
}
