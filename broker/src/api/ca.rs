//! The CA's rotation: the part of `Keys` of attache.v1 that is about certificates.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use attache_mtls::spiffe::PeerId;
use attache_proto::attache::v1 as pb;
use tonic::{Code, Request};

use super::{
    field::{missing, note, time, time_ms},
    keys::KeyService,
    mutate::{Asked, Prepared, digest, mutate},
    rpc_error::RpcError,
};
use crate::{
    identity::{Ca, CaChangeError, InNeed},
    keys::SlotSet,
};

/// An operator who has cut themselves off has so long to read the answer.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// So many of those who need the CA before are named.
const NAMED: usize = 100;

impl From<CaChangeError> for RpcError {
    fn from(error: CaChangeError) -> Self {
        let told = error.to_string();
        match error {
            CaChangeError::UnderWay { .. } => {
                Self::new(Code::FailedPrecondition, "CA_UNDER_WAY", told)
            }
            CaChangeError::NotThere { .. } => Self::new(Code::NotFound, "NO_CA", told),
            CaChangeError::Keys(error) => error.into(),
            CaChangeError::Authority(error) => error.into(),
            CaChangeError::Ledger(error) => error.into(),
        }
    }
}

impl KeyService {
    pub(super) async fn ca(
        &self,
        request: Request<pb::ShowCaRequest>,
    ) -> Result<pb::ShowCaResponse, RpcError> {
        self.peers.operator(request.extensions()).await?;
        let gate = self.peers.gate();
        let cas = gate.authority().cas();
        let mut views = vec![view(&cas.active, None)];
        let Some((before, since_ms)) = &cas.before else {
            return Ok(pb::ShowCaResponse {
                cas: views,
                ..Default::default()
            });
        };
        views.push(view(before, Some(*since_ms)));
        let (needed_by, needed_count) = named(&gate.in_need());
        let waits = gate.ca_waits_for().await?;
        Ok(pb::ShowCaResponse {
            cas: views,
            needed_by,
            needed_count,
            open_tokens: waits.tokens,
            unpublished: waits.publication,
        })
    }

    pub(super) async fn new_ca(
        &self,
        request: Request<pb::RotateCaRequest>,
    ) -> Result<pb::RotateCaResponse, RpcError> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("key.rotate-ca", &asked);
        let reason = note("reason", asked.reason)?;
        let now = asked.now;
        let caller = PeerId::from(peer.id.clone());
        let gate = Arc::clone(self.peers.gate());
        let changing = self.vault.keys().changing().await;
        let kept = Arc::new(Mutex::new(None));
        let prepared = Arc::clone(&kept);
        let prepare = async {
            let set = SlotSet::read(self.vault.ledger()).await?;
            let new = gate.new_ca(&set, now)?;
            let (cut_off, cut_off_count) = named(&new.cut_off);
            let answer = pb::RotateCaResponse {
                committed: None,
                epoch: new.epoch,
                key: new.certificate.spki_sha256().as_bytes().to_vec(),
                keyring_number: new.keyring_number,
                cut_off,
                cut_off_count,
            };
            let (mut change, taken_up) = new.into_parts();
            if now {
                change.deletes.extend(gate.one_time_rows().await?);
            }
            *prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken_up);
            Ok(Prepared { change, answer })
        };
        let asked = Asked {
            peer,
            verb: "key.rotate-ca",
            object: "ca".to_owned(),
            mutation,
            digest,
            reason,
        };
        let taker = Arc::clone(&gate);
        let take_up = move |_| {
            let taken_up = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(taken_up) = taken_up {
                taker.ca_rotated(taken_up, &caller);
                if now {
                    tokio::spawn(async move {
                        tokio::time::sleep(LAST_ANSWER).await;
                        taker.cut_off_caller(&caller);
                    });
                }
            }
            drop(changing);
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, take_up).await?;
        Ok(pb::RotateCaResponse {
            committed: Some(committed),
            ..answer
        })
    }

    pub(super) async fn end_ca(
        &self,
        request: Request<pb::DropCaRequest>,
    ) -> Result<pb::DropCaResponse, RpcError> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("key.drop-ca", &asked);
        let reason = note("reason", asked.reason)?;
        let epoch = Some(asked.epoch).filter(|epoch| *epoch > 0);
        let epoch = epoch.ok_or_else(|| missing("epoch"))?;
        let gate = Arc::clone(self.peers.gate());
        let changing = self.vault.keys().changing().await;
        let kept = Arc::new(Mutex::new(None));
        let prepared = Arc::clone(&kept);
        let prepare = async {
            let set = SlotSet::read(self.vault.ledger()).await?;
            let (mut change, epochs, in_need) = gate.ca_end(&set, epoch)?.into_parts();
            change.deletes.extend(gate.one_time_rows().await?);
            let (cut_off, cut_off_count) = named(&in_need);
            let kept = Some((epochs, in_need));
            *prepared.lock().unwrap_or_else(PoisonError::into_inner) = kept;
            let answer = pb::DropCaResponse {
                committed: None,
                cut_off,
                cut_off_count,
            };
            Ok(Prepared { change, answer })
        };
        let asked = Asked {
            peer,
            verb: "key.drop-ca",
            object: format!("ca@{epoch}"),
            mutation,
            digest,
            reason,
        };
        let taker = Arc::clone(&gate);
        let take_up = move |_| {
            let taken_up = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((epochs, in_need)) = taken_up {
                taker.ca_dropped(epochs, &in_need);
            }
            drop(changing);
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, take_up).await?;
        Ok(pb::DropCaResponse {
            committed: Some(committed),
            ..answer
        })
    }
}

fn view(ca: &Ca, since_ms: Option<u64>) -> pb::CaView {
    let state = if since_ms.is_some() {
        "trusted"
    } else {
        "active"
    };
    pb::CaView {
        epoch: ca.epoch(),
        key: ca.pin().as_bytes().to_vec(),
        state: state.to_owned(),
        since: since_ms.and_then(time_ms),
        not_after: time(ca.certificate().not_after()),
    }
}

/// The first of them, and how many they are.
fn named(in_need: &[InNeed]) -> (Vec<pb::CaNeed>, u32) {
    let first = in_need.iter().take(NAMED).map(|it| pb::CaNeed {
        spiffe_id: it.id.clone(),
        name: it.name.clone(),
        until: time(it.until),
    });
    let count = u32::try_from(in_need.len()).unwrap_or(u32::MAX);
    (first.collect(), count)
}
