//! Room for deliveries, a node at a time: how many are under way, and how many may begin.
//!
//! It is taken before a request's body is read and given back when the work has ended, whether or not the caller still
//! waits: a caller that resets its requests buys no more of them. A node past its room is told so; its neighbours are
//! not touched.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use attache_mtls::spiffe::PeerId;
use tokio::time::Instant;
use tonic::{Request, Status};

use super::{peer::Connection, rpc_error::RpcError};

/// Over which time a node's deliveries are counted against its rate: after a pause it may begin that many at once.
const RATE_OVER: Duration = Duration::from_secs(10);

/// The room of all nodes. A clone shares it.
#[derive(Clone)]
pub struct Room {
    shared: Arc<Shared>,
}

struct Shared {
    /// At one time.
    at_once: usize,
    /// What one delivery takes of a node's time.
    every: Duration,
    nodes: Mutex<HashMap<PeerId, Node>>,
}

struct Node {
    under_way: usize,
    /// When all that was begun is paid for at one in [`Shared::every`].
    paid_at: Instant,
}

/// One delivery under way; dropping it makes room.
pub struct Slot {
    shared: Arc<Shared>,
    node: PeerId,
}

impl Room {
    /// At most `at_once` deliveries of one node at a time, and `per_second` a second over ten seconds.
    #[must_use]
    pub fn new(at_once: usize, per_second: u32) -> Self {
        Self {
            shared: Arc::new(Shared {
                at_once,
                every: Duration::from_secs(1) / per_second.max(1),
                nodes: Mutex::default(),
            }),
        }
    }

    /// Takes room for a request by its connection alone, and leaves it with the request.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when there is none.
    pub fn admit(&self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let connection = request.extensions().get::<Connection>();
        // One without a certificate goes on: its handler refuses it.
        if let Some(peer) = connection.and_then(|it| it.info.peer.as_ref()) {
            let slot = self.take(peer.id())?;
            request.extensions_mut().insert(Arc::new(slot));
        }
        Ok(request)
    }

    fn take(&self, node: &PeerId) -> Result<Slot, RpcError> {
        let (shared, now) = (&self.shared, Instant::now());
        let mut nodes = shared.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if !nodes.contains_key(node) {
            // Of a node that was quiet for as long, nothing has to be known.
            nodes.retain(|_, it| it.under_way > 0 || it.paid_at > now);
        }
        let of_node = nodes.entry(node.clone()).or_insert(Node {
            under_way: 0,
            paid_at: now,
        });
        if of_node.under_way >= shared.at_once {
            return Err(RpcError::exhausted(
                "NODE_BUSY",
                format!(
                    "this node has {} deliveries under way, and may have no more; try again",
                    shared.at_once
                ),
            ));
        }
        let paid_at = of_node.paid_at.max(now) + shared.every;
        if paid_at > now + RATE_OVER {
            return Err(RpcError::exhausted(
                "NODE_RATE",
                "this node begins more deliveries than it may; try again later",
            ));
        }
        of_node.paid_at = paid_at;
        of_node.under_way += 1;
        drop(nodes);
        Ok(Slot {
            shared: Arc::clone(shared),
            node: node.clone(),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let nodes = self.shared.nodes.lock();
        let mut nodes = nodes.unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = nodes.get_mut(&self.node) {
            node.under_way = node.under_way.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> PeerId {
        format!("spiffe://example.internal/node/local/{name}")
            .parse()
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_has_room_for_so_many_at_once_and_its_neighbour_has_its_own() {
        let room = Room::new(2, 1000);
        let first = room.take(&node("a")).unwrap();
        let _second = room.take(&node("a")).unwrap();
        let refused = room.take(&node("a")).err().unwrap();
        assert_eq!(refused.reason(), "NODE_BUSY");
        let _other = room.take(&node("b")).unwrap();
        drop(first);
        let _third = room.take(&node("a")).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_begins_so_many_a_second_over_ten_seconds() {
        let room = Room::new(10, 5);
        for _ in 0..50 {
            drop(room.take(&node("a")).unwrap());
        }
        let refused = room.take(&node("a")).err().unwrap();
        assert_eq!(refused.reason(), "NODE_RATE");
        drop(room.take(&node("b")).unwrap());
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..5 {
            drop(room.take(&node("a")).unwrap());
        }
        assert!(room.take(&node("a")).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_quiet_is_forgotten() {
        let room = Room::new(1, 1);
        drop(room.take(&node("a")).unwrap());
        tokio::time::advance(RATE_OVER).await;
        drop(room.take(&node("b")).unwrap());
        let known = room.shared.nodes.lock().unwrap();
        assert!(known.len() == 1 && known.contains_key(&node("b")));
    }
}
