//! Sealing a broker that serves: `Sealing` of attache.v1.
//!
//! ```text
//! note beside the store -> intent, commit, outcome, within a bound -> sealed, whatever became of the two -> answer
//! ```
//! It is the safe direction, so nothing may stand in its way: a full disk, or one that does not answer, is told and not
//! waited for. The note is a record of its own, which comes into the audit log when the broker is opened.

use std::{path::PathBuf, time::Duration};

use attache_envelope::id::RequestId;
use attache_proto::attache::v1 as pb;
use pb::sealing_server::Sealing;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    field::{fixed, note, required},
    mutate::{Asked, Prepared, digest, mutate},
    peer::Peers,
    rpc_error::RpcError,
};
use crate::{
    audit::Clock,
    mutation::{MutationError, Mutations},
    seal::Note,
    store::Change,
};

/// How long a seal waits for its note, and how long for its place in the audit log.
const WAIT: Duration = Duration::from_secs(2);

/// The service.
#[derive(Clone)]
pub(super) struct SealingService {
    /// Admits callers.
    pub peers: Peers,
    /// Changes.
    pub mutations: Mutations,
    /// The broker, by its name.
    pub broker: String,
    /// Ends this open time of the broker.
    pub seal: CancellationToken,
    /// Where a seal is noted.
    pub note: PathBuf,
    /// The time in the note.
    pub clock: Clock,
}

#[tonic::async_trait]
impl Sealing for SealingService {
    async fn seal_broker(
        &self,
        request: Request<pb::SealBrokerRequest>,
    ) -> Result<Response<pb::SealBrokerResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("broker.seal", &asked);
        let reason = note("reason", asked.reason)?;
        let asked = Asked {
            peer,
            verb: "broker.seal",
            object: self.broker.clone(),
            mutation,
            digest,
            reason,
        };
        if asked.mutation.as_ref().is_some_and(|it| it.dry_run) {
            let committed = self.record(asked).await?;
            return Ok(Response::new(pb::SealBrokerResponse {
                committed: Some(committed),
                ..Default::default()
            }));
        }
        let request = self.request(&asked).await?;
        let service = self.clone();
        // It goes to its end whether or not the caller still waits.
        let sealed = tokio::spawn(async move { service.seal(asked, request).await });
        let answer = sealed.await.map_err(|_| {
            self.seal.cancel();
            RpcError::unavailable(
                "INTERRUPTED",
                "the broker is being sealed, and could not say more",
            )
        })?;
        Ok(Response::new(answer))
    }
}

impl SealingService {
    /// The request's id. Nothing is sealed by a request that is none.
    async fn request(&self, asked: &Asked) -> Result<RequestId, RpcError> {
        let mutation = required("mutation", asked.mutation.as_ref())?;
        let id = RequestId::from_bytes(fixed::<16>("mutation.request_id", &mutation.request_id)?);
        let known = self.mutations.known(&asked.peer.id, id, &asked.digest);
        match tokio::time::timeout(WAIT, known).await {
            Ok(Err(
                error @ (MutationError::RequestId
                | MutationError::TooOld
                | MutationError::OtherDigest),
            )) => Err(error.into()),
            // Whether it was asked for before is no matter: it is sealed now.
            Ok(Ok(_) | Err(_)) | Err(_) => Ok(id),
        }
    }

    async fn seal(self, asked: Asked, request: RequestId) -> pb::SealBrokerResponse {
        let noted = Note {
            time_ms: self.clock.now_ms(),
            operator: asked.peer.id.to_string(),
            serial: hex::decode(&asked.peer.serial).unwrap_or_default(),
            request,
            reason: asked.reason.clone(),
        };
        let not_kept = self.keep(noted).await.err();
        let recorded = tokio::time::timeout(WAIT, self.record(asked)).await;
        self.seal.cancel();
        let (committed, not_on_record) = match recorded {
            Ok(Ok(committed)) => (Some(committed), None),
            Ok(Err(error)) => (None, Some(error.message().to_owned())),
            Err(_) => (None, Some(format!("it takes more than {WAIT:?}"))),
        };
        for why in [&not_kept, &not_on_record].into_iter().flatten() {
            tracing::error!(why, "sealed, and it could not be written down as it should");
        }
        pb::SealBrokerResponse {
            committed,
            not_on_record: not_on_record.unwrap_or_default(),
            not_kept: not_kept.unwrap_or_default(),
        }
    }

    /// Writes the note down.
    async fn keep(&self, noted: Note) -> Result<(), String> {
        let file = self.note.clone();
        let writing = tokio::task::spawn_blocking(move || noted.write(&file));
        match tokio::time::timeout(WAIT, writing).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(crate::causes::with_causes(&error)),
            Ok(Err(_)) => Err("the broker is stopping".to_owned()),
            Err(_) => Err(format!("the store's disk takes more than {WAIT:?}")),
        }
    }

    /// Puts it on record as any change, though it changes no row.
    async fn record(&self, asked: Asked) -> Result<pb::Committed, RpcError> {
        let prepare = async {
            Ok(Prepared {
                change: Change::default(),
                answer: pb::SealBrokerResponse::default(),
            })
        };
        let (_, committed) = mutate(&self.mutations, asked, prepare, |_| ()).await?;
        Ok(committed)
    }
}
