//! Sealing a broker that serves: `Sealing` of attache.v1.

use attache_proto::attache::v1 as pb;
use pb::sealing_server::Sealing;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    field::note,
    mutate::{Asked, Prepared, digest, mutate},
    peer::Peers,
};
use crate::{mutation::Mutations, store::Change};

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
        let prepare = async {
            Ok(Prepared {
                change: Change::default(),
                answer: pb::SealBrokerResponse::default(),
            })
        };
        let asked = Asked {
            peer,
            verb: "broker.seal",
            object: self.broker.clone(),
            mutation,
            digest,
            reason,
        };
        let seal = self.seal.clone();
        // With the commit, whatever becomes of the answer: who asks for this cannot wait for a full disk.
        let (_, committed) =
            mutate(&self.mutations, asked, prepare, move |_| seal.cancel()).await?;
        Ok(Response::new(pb::SealBrokerResponse {
            committed: Some(committed),
        }))
    }
}
