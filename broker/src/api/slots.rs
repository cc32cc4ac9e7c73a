//! Slots and the store root key: `Slots` of attache.v1.

use std::sync::Arc;

use attache_arena::Key;
use attache_envelope::{
    SystemRandom,
    id::{BootId, KeyId, RequestId, SlotId},
    key::SlotSecret,
    name::SlotName,
    shares::ShareSet,
    slot::{Slot, SlotKind, SlotRequest, SlotSource, SlotVerb, passphrase::PassphraseParameters},
    x25519::Enc,
};
use attache_mtls::spiffe::OperatorId;
use attache_proto::attache::v1 as pb;
use pb::slots_server::Slots;
use subtle::ConstantTimeEq;
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
    kms::{KmsError, KmsPlugin},
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
    /// The KMS plugin that the settings name.
    pub kms: Option<KmsPlugin>,
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
        let kind = new_kind(&asked.kind)?;
        let (sent, shares) = (
            sent(kind, asked.secret)?,
            share_set(kind, &asked.share_set)?,
        );
        let request = SlotRequest {
            verb: SlotVerb::Add,
            store: self.vault.store_id(),
            request: request_id(&mutation)?,
            slot,
            kind,
            name: name.as_str(),
        };
        let operator = peer.id.clone();
        let changing = self.vault.keys().changing().await;
        let prepare = async {
            let set = self.read().await?;
            let (source, secret) = self
                .drawn((sent.as_ref(), shares.as_ref()), &operator, &request)
                .await?;
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
        let (answer, committed) =
            mutate(&self.mutations, asked, prepare, move |_| drop(changing)).await?;
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
        let request_id = request_id(&mutation)?;
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
            let sent = sent(request.kind, asked.secret)?;
            let secret = self
                .held(sent.as_ref(), &operator, &request, &source)
                .await?;
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
        let changing = self.vault.keys().changing().await;
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
        let (answer, committed) =
            mutate(&self.mutations, asked, prepare, move |_| drop(changing)).await?;
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
        let changing = self.vault.keys().changing().await;
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
        let (answer, committed) =
            mutate(&self.mutations, asked, prepare, move |_| drop(changing)).await?;
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

    /// How the secret of a new slot is to be had, and the secret: drawn here for the KMS plugin, else sent.
    async fn drawn(
        &self,
        (sent, set): (Option<&SentSecret>, Option<&ShareSet>),
        operator: &OperatorId,
        request: &SlotRequest<'_>,
    ) -> Result<(SlotSource, Key), SlotError> {
        let source = match request.kind {
            SlotKind::KeyFile => SlotSource::KeyFile,
            SlotKind::Passphrase => {
                SlotSource::Passphrase(PassphraseParameters::draw(&SystemRandom)?)
            }
            // That it is there was seen when the request was read.
            SlotKind::Shares => SlotSource::Shares(set.ok_or(SlotError::Sealed)?.clone()),
            SlotKind::Kms => {
                let kms = self.kms.as_ref().ok_or(SlotError::NoKms)?;
                let secret = self.vault.keys().arena().random_key()?;
                let of = (request.store, request.slot);
                let kept = kms.encrypt(of.0, of.1, &secret).await?;
                // A plugin that may encrypt and not decrypt would open nothing.
                let back = kms.decrypt(self.vault.keys().arena(), of, &kept).await?;
                if !bool::from(back.expose().ct_eq(secret.expose())) {
                    let socket = kms.socket().display().to_string();
                    return Err(SlotError::Kms(KmsError::OtherSecret { socket }));
                }
                return Ok((SlotSource::Kms(kept), secret));
            }
        };
        let secret = self.held(sent, operator, request, &source).await?;
        Ok((source, secret))
    }

    /// The secret of a slot of that source: what the KMS plugin decrypts, else what was sent.
    async fn held(
        &self,
        sent: Option<&SentSecret>,
        operator: &OperatorId,
        request: &SlotRequest<'_>,
        source: &SlotSource,
    ) -> Result<Key, SlotError> {
        let keys = self.vault.keys();
        if let SlotSource::Kms(kept) = source {
            let kms = self.kms.as_ref().ok_or(SlotError::NoKms)?;
            let of = (request.store, request.slot);
            return Ok(kms.decrypt(keys.arena(), of, kept).await?);
        }
        let ends = (self.vault.broker(), operator);
        let sent = sent.ok_or(SlotError::Sealed)?;
        sent.open(keys, self.vault.receive_keys(), ends, request, source)
            .await
    }

    fn added(&self, new: &NewSlot<'_>) -> pb::SlotView {
        pb::SlotView {
            slot: new.slot.as_bytes().to_vec(),
            name: new.name.to_string(),
            kind: new.source.kind().name().to_owned(),
            created: time_ms(new.now_ms),
            verified: None,
            opened: false,
            share_set: set_of(&new.source),
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
            // A row that was verified is one that was read.
            share_set: slot.identity.source().map_or(Vec::new(), |it| set_of(&it)),
        }
    }
}

fn new_kind(kind: &str) -> Result<SlotKind, RpcError> {
    let known = "must be key-file, passphrase, kms or shares";
    kind.parse().map_err(|_| RpcError::invalid("kind", known))
}

/// The set of a slot that shares open, which a slot of no other kind has.
fn share_set(kind: SlotKind, bytes: &[u8]) -> Result<Option<ShareSet>, RpcError> {
    const FIELD: &str = "share_set";
    match (kind, bytes) {
        (SlotKind::Shares, bytes) => ShareSet::decode(bytes)
            .map(Some)
            .map_err(|error| RpcError::invalid(FIELD, error.to_string())),
        (SlotKind::KeyFile | SlotKind::Passphrase | SlotKind::Kms, []) => Ok(None),
        (SlotKind::KeyFile | SlotKind::Passphrase | SlotKind::Kms, _) => Err(RpcError::invalid(
            FIELD,
            "is of kind shares alone; leave it out",
        )),
    }
}

fn set_of(source: &SlotSource) -> Vec<u8> {
    match source {
        SlotSource::Shares(set) => set.encode(),
        SlotSource::KeyFile | SlotSource::Passphrase(_) | SlotSource::Kms(_) => Vec::new(),
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

/// The secret that a slot of this kind needs an operator to send, if it does.
fn sent(kind: SlotKind, secret: Option<pb::SealedSecret>) -> Result<Option<SentSecret>, RpcError> {
    if kind == SlotKind::Kms {
        return match secret {
            None => Ok(None),
            Some(_) => {
                let why = "is not sent for a slot of kind kms, whose plugin keeps it; leave it out";
                Err(RpcError::invalid("secret", why))
            }
        };
    }
    let secret = required("secret", secret)?;
    Ok(Some(SentSecret {
        boot: BootId::from_bytes(fixed::<16>("secret.boot", &secret.boot)?),
        key_id: KeyId::from_bytes(fixed::<16>("secret.key_id", &secret.key_id)?),
        enc: Enc::from_bytes(fixed::<32>("secret.enc", &secret.enc)?),
        sealed: secret.sealed,
    }))
}

#[cfg(test)]
mod tests;
