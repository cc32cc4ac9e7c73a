//! The rotation of the rows' MAC key: the part of `Keys` of attache.v1 that is about tags.

use std::sync::{Arc, Mutex, PoisonError};

use attache_proto::attache::v1 as pb;
use tonic::{Code, Request};

use super::{
    field::note,
    keys::KeyService,
    mutate::{Asked, Prepared, digest, mutate},
    rpc_error::RpcError,
};
use crate::keys::{MacChange, SlotSet};

impl KeyService {
    pub(super) async fn mac(
        &self,
        request: Request<pb::ShowMacRequest>,
    ) -> Result<pb::ShowMacResponse, RpcError> {
        self.peers.operator(request.extensions()).await?;
        let keys = self.vault.keys();
        let progress = self.retagging.progress().unwrap_or_default();
        Ok(pb::ShowMacResponse {
            epoch: keys.mac_epoch(),
            before: keys.mac_epochs_before(),
            rows: progress.rows,
            looked: progress.looked,
            tagged: progress.tagged,
            problem: progress.problem.unwrap_or_default(),
        })
    }

    pub(super) async fn new_mac(
        &self,
        request: Request<pb::RotateMacRequest>,
    ) -> Result<pb::RotateMacResponse, RpcError> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("key.rotate-mac", &asked);
        let reason = note("reason", asked.reason)?;
        let changing = self.vault.keys().changing().await;
        let kept = Arc::new(Mutex::new(None));
        let prepared = Arc::clone(&kept);
        let prepare = async {
            let keys = self.vault.keys();
            if let [before, ..] = keys.mac_epochs_before()[..] {
                return Err(RpcError::new(
                    Code::FailedPrecondition,
                    "MAC_UNDER_WAY",
                    format!(
                        "rows still have tags of row-mac@{before}: every row is being tagged anew, see: attache key status --mac"
                    ),
                ));
            }
            let set = SlotSet::read(self.vault.ledger()).await?;
            let MacChange { rekeyed, epochs } = keys.rotate_mac(&set)?;
            let answer = pb::RotateMacResponse {
                committed: None,
                epoch: epochs.active(),
                keyring_number: rekeyed.number,
            };
            *prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(epochs);
            let change = rekeyed.change;
            Ok(Prepared { change, answer })
        };
        let asked = Asked {
            peer,
            verb: "key.rotate-mac",
            object: "row-mac".to_owned(),
            mutation,
            digest,
            reason,
        };
        let (vault, retagging) = (Arc::clone(&self.vault), self.retagging.clone());
        let take_up = move |_| {
            let taken_up = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(epochs) = taken_up {
                vault.keys().take_up_macs(epochs);
                retagging.begin();
            }
            drop(changing);
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, take_up).await?;
        Ok(pb::RotateMacResponse {
            committed: Some(committed),
            ..answer
        })
    }
}
