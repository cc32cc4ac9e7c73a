//! The rotation of the key that signs the audit log: the part of `Keys` of attache.v1 that is about it.

use std::sync::{Arc, Mutex, PoisonError};

use attache_proto::attache::v1 as pb;
use attache_translog::{Verifier, log_origin};
use tonic::Request;

use super::{
    field::note,
    keys::KeyService,
    mutate::{Asked, Prepared, digest, mutate_after},
    rpc_error::RpcError,
};
use crate::{
    audit::AuditError,
    keys::{AuditChange, AuditEpoch, KeysError, SlotSet},
    mutation::BrokenOff,
};

impl KeyService {
    pub(super) async fn audit_keys(
        &self,
        request: Request<pb::ShowAuditKeysRequest>,
    ) -> Result<pb::ShowAuditKeysResponse, RpcError> {
        self.peers.operator(request.extensions()).await?;
        let epochs = self.vault.keys().audit_epochs().map_err(KeysError::from)?;
        let keys: Result<_, _> = epochs.into_iter().rev().map(|it| self.view(it)).collect();
        Ok(pb::ShowAuditKeysResponse { keys: keys? })
    }

    pub(super) async fn new_audit_key(
        &self,
        request: Request<pb::RotateAuditKeyRequest>,
    ) -> Result<pb::RotateAuditKeyResponse, RpcError> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let dry_run = mutation.as_ref().is_some_and(|it| it.dry_run);
        let digest = digest("key.rotate-audit", &asked);
        let reason = note("reason", asked.reason)?;
        let changing = self.vault.keys().changing().await;
        let kept = Arc::new(Mutex::new((None, None)));
        let prepared = Arc::clone(&kept);
        let prepare = async {
            let set = SlotSet::read(self.vault.ledger()).await?;
            let AuditChange {
                rekeyed,
                succession,
                epochs,
            } = self.vault.keys().rotate_audit(&set)?;
            let key = AuditEpoch {
                epoch: succession.epoch,
                public: succession.after,
            };
            let mut key = self.view(key)?;
            if dry_run {
                // Another one is drawn then.
                key.vkey.clear();
            }
            let answer = pb::RotateAuditKeyResponse {
                committed: None,
                key: Some(key),
                keyring_number: rekeyed.number,
            };
            *prepared.lock().unwrap_or_else(PoisonError::into_inner) =
                (Some(succession), Some(epochs));
            let change = rekeyed.change;
            Ok(Prepared { change, answer })
        };
        let asked = Asked {
            peer,
            verb: "key.rotate-audit",
            object: "audit-signing".to_owned(),
            mutation,
            digest,
            reason,
        };
        let (log, told) = (self.log.clone(), Arc::clone(&kept));
        let endorse = async move {
            let succession = told.lock().unwrap_or_else(PoisonError::into_inner).0.take();
            let gone = || BrokenOff("the new key is gone".into());
            let succession = succession.ok_or_else(gone)?;
            let unready = |error: AuditError| BrokenOff(error.to_string());
            // What comes after the commit begins a segment. This leaf may begin one too.
            log.hold_segment().await.map_err(unready)?;
            let _receipt = log.append(succession).await.map_err(unready)?;
            log.hold_segment().await.map_err(unready)
        };
        let vault = Arc::clone(&self.vault);
        let take_up = move |_| {
            let taken_up = kept.lock().unwrap_or_else(PoisonError::into_inner).1.take();
            if let Some(epochs) = taken_up {
                vault.keys().take_up_audit(epochs);
            }
            drop(changing);
        };
        let (answer, committed) =
            mutate_after(&self.mutations, asked, prepare, endorse, take_up).await?;
        Ok(pb::RotateAuditKeyResponse {
            committed: Some(committed),
            ..answer
        })
    }

    fn view(&self, key: AuditEpoch) -> Result<pb::AuditKeyView, RpcError> {
        let store = self.vault.keys().store_id();
        let origin = log_origin(store.as_bytes(), self.log.chain().as_bytes());
        let verifier = Verifier::new(&origin, key.public);
        let verifier =
            verifier.map_err(|error| RpcError::internal("AUDIT_KEY", error.to_string()))?;
        Ok(pb::AuditKeyView {
            epoch: key.epoch,
            vkey: verifier.vkey(),
        })
    }
}
