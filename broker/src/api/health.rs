//! Whether the broker serves: `grpc.health.v1.Health`, on each listener.
//!
//! ```text
//! SERVING      everything that a release needs is there: store and audit log
//! NOT_SERVING  one of them is away, or the broker is stopping
//! ```
//! One answer for the whole broker, under the empty service name: its services stand and fall together. It says nothing
//! that a refused call would not say. Over mutual TLS only a caller who is admitted is answered, as everywhere; joining
//! machines and root may ask too, but not watch: a watch is a stream that stands.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.

use std::pin::Pin;

use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Extensions, Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health,
};

use super::{peer::Peers, rpc_error::RpcError};

/// The service.
#[derive(Clone)]
pub struct HealthService {
    /// Admits callers, where they have certificates.
    pub peers: Option<Peers>,
    /// Whether the broker serves.
    pub serving: watch::Receiver<bool>,
    /// Ends the watches.
    pub stop: CancellationToken,
}

type Watch = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Watch;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.admit(request.extensions()).await?;
        the_whole_broker(&request.into_inner().service)?;
        Ok(Response::new(answer(*self.serving.borrow())))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Watch>, Status> {
        if self.peers.is_none() {
            return Err(RpcError::new(
                Code::Unimplemented,
                "NO_WATCH_HERE",
                "health is watched over mutual TLS only; ask with Check",
            )
            .into());
        }
        self.admit(request.extensions()).await?;
        the_whole_broker(&request.get_ref().service)?;
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(self.clone().tell(request.extensions().clone(), send));
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

impl HealthService {
    async fn admit(&self, extensions: &Extensions) -> Result<(), RpcError> {
        match &self.peers {
            Some(peers) => peers.caller(extensions).await.map(drop),
            None => Ok(()),
        }
    }

    /// Sends each state, the last one too, until the watcher goes or the broker stops; one that is banned meanwhile is
    /// told that.
    async fn tell(
        mut self,
        extensions: Extensions,
        send: mpsc::Sender<Result<HealthCheckResponse, Status>>,
    ) {
        loop {
            let state = self.admit(&extensions).await.map_err(Status::from);
            let refused = state.is_err();
            let state = state.map(|()| answer(*self.serving.borrow_and_update()));
            if send.send(state).await.is_err() || refused {
                return;
            }
            tokio::select! {
                biased;
                changed = self.serving.changed() => if changed.is_err() { return },
                () = send.closed() => return,
                () = self.stop.cancelled() => return,
            }
        }
    }
}

fn answer(serving: bool) -> HealthCheckResponse {
    let status = if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    HealthCheckResponse {
        status: status.into(),
    }
}

fn the_whole_broker(service: &str) -> Result<(), RpcError> {
    if service.is_empty() {
        return Ok(());
    }
    Err(RpcError::new(
        Code::NotFound,
        "NO_SERVICE",
        "the broker has one health for all of its services: ask with an empty service name",
    ))
}
