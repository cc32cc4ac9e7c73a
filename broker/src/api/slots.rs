//! Slots and the store root key: `Slots` of attache.v1.

use std::sync::Arc;

use attache_arena::Key;
use attache_envelope::{
    SystemRandom,
    id::{BootId, KeyId, RequestId, SlotId},
    key::SlotSecret,
    name::SlotName,
    slot::{Slot, SlotKind, SlotRequest, SlotSource, SlotVerb, passphrase::PassphraseParameters},
    x25519::Enc,
};
use attache_mtls::spiffe::OperatorId;
use attache_proto::attache::v1 as pb;
use pb::slots_server::Slots;
use tonic::{Request, Response, Status};

use super::{
    field::{after, fixed, page, page_token, parse, required, time_ms},
    mutate::{Asked, Prepared, digest, mutate},
    peer::Peers,
    rpc_error::RpcError,
};
use crate::{
    audit::Clock,
    keys::{NewSlot, Rekeyed, SentSecret, SlotError, SlotSet},
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
    /// The time on record.
    pub clock: Clock,
}

#[tonic::async_trait]
impl Slots for SlotService {
    async fn begin_slot(
        &self,
        request: Request<pb::BeginSlotRequest>,
    ) -> Result<Response<pb::BeginSlotResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let receive = self.vault.receive_keys().current();
        let receive = receive.map_err(RpcError::from)?;
        Ok(Response::new(pb::BeginSlotResponse {
            store: self.vault.store_id().as_bytes().to_vec(),
            receive_key: receive.public.as_bytes().to_vec(),
            key_id: receive.id.as_bytes().to_vec(),
            boot: self.vault.boot().as_bytes().to_vec(),
            broker_id: self.vault.broker().to_string(),
        }))
    }

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

    async fn add_slot(
        &self,
        request: Request<pb::AddSlotRequest>,
    ) -> Result<Response<pb::AddSlotResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = required("mutation", asked.mutation.take())?;
        let digest = digest("slot.add", &asked);
        let slot = slot_id(&asked.slot)?;
        let name: SlotName = parse("name", &asked.name)?;
        let source = new_source(&asked.kind)?;
        let sent = sent(asked.secret)?;
        let request = SlotRequest {
            verb: SlotVerb::Add,
            store: self.vault.store_id(),
            request: request_id(&mutation)?,
            slot,
            kind: source.kind(),
            name: name.as_str(),
        };
        let operator = peer.id.clone();
        let prepare = async {
            let set = self.read().await?;
            let secret = self.open(&sent, &operator, &request, source).await?;
            let new = NewSlot {
                slot,
                name: name.clone(),
                source,
                secret: SlotSecret::new(secret.expose()),
                now_ms: self.clock.now_ms(),
            };
            let view = self.added(&new);
            let Rekeyed { change, number } = self.vault.keys().add_slot(&set, new)?;
            let answer = pb::AddSlotResponse {
                committed: None,
                slot: Some(view),
                keyring_number: number,
            };
            Ok(Prepared { change, answer })
        };
        let asked = Asked {
            peer,
            verb: "slot.add",
            object: name.to_string(),
            mutation: Some(mutation),
            digest,
            reason: String::new(),
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, |_| ()).await?;
        Ok(Response::new(pb::AddSlotResponse {
            committed: Some(committed),
            ..answer
        }))
    }

    async fn verify_slot(
        &self,
        request: Request<pb::VerifySlotRequest>,
    ) -> Result<Response<pb::VerifySlotResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = required("mutation", asked.mutation.take())?;
        let digest = digest("slot.verify", &asked);
        let slot = slot_id(&asked.slot)?;
        let (sent, request_id) = (sent(asked.secret)?, request_id(&mutation)?);
        let operator = peer.id.clone();
        let prepare = async {
            let set = self.read().await?;
            let request = SlotRequest {
                verb: SlotVerb::Verify,
                store: self.vault.store_id(),
                request: request_id,
                slot,
                kind: set.find(slot)?.identity.kind,
                name: "",
            };
            let source = set.find(slot)?.identity.source();
            let source = source.map_err(SlotError::from)?;
            let secret = self.open(&sent, &operator, &request, source).await?;
            let secret = SlotSecret::new(secret.expose());
            let now_ms = self.clock.now_ms();
            let verified = self.vault.keys().verify_slot(&set, slot, secret, now_ms);
            let (change, verified) = verified?;
            let answer = pb::VerifySlotResponse {
                committed: None,
                slot: Some(self.view(&verified)),
            };
            Ok(Prepared { change, answer })
        };
        let asked = Asked {
            peer,
            verb: "slot.verify",
            object: slot.to_string(),
            mutation: Some(mutation),
            digest,
            reason: String::new(),
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, |_| ()).await?;
        Ok(Response::new(pb::VerifySlotResponse {
            committed: Some(committed),
            ..answer
        }))
    }

    async fn remove_slot(
        &self,
        request: Request<pb::RemoveSlotRequest>,
    ) -> Result<Response<pb::RemoveSlotResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("slot.remove", &asked);
        let slot = slot_id(&asked.slot)?;
        let prepare = async {
            let set = self.read().await?;
            let Rekeyed { change, number } = self.vault.keys().remove_slot(&set, slot)?;
            let answer = pb::RemoveSlotResponse {
                committed: None,
                name: set.find(slot)?.about.name.to_string(),
                keyring_number: number,
                slots: counted(&set).saturating_sub(1),
            };
            Ok(Prepared { change, answer })
        };
        let asked = Asked {
            peer,
            verb: "slot.remove",
            object: slot.to_string(),
            mutation,
            digest,
            reason: String::new(),
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, |_| ()).await?;
        Ok(Response::new(pb::RemoveSlotResponse {
            committed: Some(committed),
            ..answer
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
                slots: counted(&set),
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

    async fn open(
        &self,
        sent: &SentSecret,
        operator: &OperatorId,
        request: &SlotRequest<'_>,
        source: SlotSource,
    ) -> Result<Key, SlotError> {
        let (keys, receive) = (self.vault.keys(), self.vault.receive_keys());
        let ends = (self.vault.broker(), operator);
        sent.open(keys, receive, ends, request, source).await
    }

    fn added(&self, new: &NewSlot<'_>) -> pb::SlotView {
        pb::SlotView {
            slot: new.slot.as_bytes().to_vec(),
            name: new.name.to_string(),
            kind: new.source.kind().name().to_owned(),
            created: time_ms(new.now_ms),
            verified: None,
            opened: false,
        }
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

/// How the secret of a slot of that kind is to be had.
fn new_source(kind: &str) -> Result<SlotSource, RpcError> {
    match kind.parse() {
        Ok(SlotKind::KeyFile) => Ok(SlotSource::KeyFile),
        Ok(SlotKind::Passphrase) => {
            let drawn = PassphraseParameters::draw(&SystemRandom);
            Ok(SlotSource::Passphrase(drawn.map_err(SlotError::from)?))
        }
        Err(_) => Err(RpcError::invalid("kind", "must be key-file or passphrase")),
    }
}

fn counted(set: &SlotSet) -> u32 {
    u32::try_from(set.slots().len()).unwrap_or(u32::MAX)
}

fn slot_id(bytes: &[u8]) -> Result<SlotId, RpcError> {
    Ok(SlotId::from_bytes(fixed::<16>("slot", bytes)?))
}

fn request_id(mutation: &pb::Mutation) -> Result<RequestId, RpcError> {
    let id = fixed::<16>("mutation.request_id", &mutation.request_id)?;
    Ok(RequestId::from_bytes(id))
}

fn sent(secret: Option<pb::SealedSecret>) -> Result<SentSecret, RpcError> {
    let secret = required("secret", secret)?;
    Ok(SentSecret {
        boot: BootId::from_bytes(fixed::<16>("secret.boot", &secret.boot)?),
        key_id: KeyId::from_bytes(fixed::<16>("secret.key_id", &secret.key_id)?),
        enc: Enc::from_bytes(fixed::<32>("secret.enc", &secret.enc)?),
        sealed: secret.sealed,
    })
}
