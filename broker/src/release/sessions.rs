//! HPKE sessions with node plugins: one setup serves a plugin process for an hour.
//!
//! A setup costs two scalar multiplications, so it runs off the runtime, once for all who wait for it, and is kept by
//! (node, plugin key): the current and the previous key of a node, and no more. A node that shows a third new key
//! within a minute is refused, so that nobody buys setups by the thousand. A ban ends a node's sessions. The end of a
//! certificate does not, and need not: a session serves only callers that were admitted with a live one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use attache_envelope::id::{BootId, SessionId, StoreId};
use attache_envelope::release::{Session, SessionBinding};
use attache_envelope::x25519::{Enc, PublicKey};
use attache_envelope::{EnvelopeError, SystemRandom};
use attache_mtls::spiffe::{BrokerId, NodeId};
use thiserror::Error;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// For how long a session is used.
pub const KEPT_FOR: Duration = Duration::from_secs(60 * 60);

/// Within which time a node may show two new keys and no third.
pub const KEY_CHANGES: Duration = Duration::from_secs(60);

/// Why there is no session.
#[derive(Debug, Error)]
pub enum SessionError {
    /// A third new key within [`KEY_CHANGES`].
    #[error("the node plugin showed three keys within {} seconds; try again later", KEY_CHANGES.as_secs())]
    TooManyKeys,
    /// The key is none: all zeros, or of small order.
    #[error("plugin_key: not an X25519 public key that can be used")]
    PluginKey,
    /// The setup failed for another reason.
    #[error("the session could not be set up")]
    Setup(#[source] EnvelopeError),
    /// The thread that sets up is gone: the broker is stopping.
    #[error("the broker is stopping")]
    Stopping,
}

/// A session as it stands: what the answer names, and what releases export their keys from.
pub struct PluginSession {
    /// Its id, drawn here.
    pub id: SessionId,
    /// What the agent needs for its own setup.
    pub enc: Enc,
    /// Exports release keys.
    pub keys: Session,
}

/// The sessions of all nodes. A clone shares them.
#[derive(Clone)]
pub struct Sessions {
    shared: Arc<Shared>,
}

struct Shared {
    store: StoreId,
    broker: String,
    boot: BootId,
    nodes: Mutex<HashMap<NodeId, Keys>>,
}

/// What one node's plugin has shown.
struct Keys {
    current: Entry,
    previous: Option<Entry>,
}

struct Entry {
    key: PublicKey,
    shown: Instant,
    session: Arc<OnceCell<Arc<PluginSession>>>,
}

impl Sessions {
    /// No sessions yet.
    #[must_use]
    pub fn new(store: StoreId, broker: &BrokerId, boot: BootId) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                broker: broker.to_string(),
                boot,
                nodes: Mutex::new(HashMap::new()),
            }),
        }
    }

    /// The store, the broker and its run, as every session of this process is bound to them.
    #[must_use]
    pub fn bound_to(&self) -> (StoreId, &str, BootId) {
        (self.shared.store, &self.shared.broker, self.shared.boot)
    }

    /// The session with the plugin process of that key, set up if need be.
    ///
    /// # Errors
    /// [`SessionError`].
    ///
    /// # Cancel safety
    /// A setup that was begun is waited for by the next who asks, or done anew.
    pub async fn session(
        &self,
        node: &NodeId,
        key: PublicKey,
    ) -> Result<Arc<PluginSession>, SessionError> {
        let cell = self.shared.cell(node, key)?;
        cell.get_or_try_init(|| self.set_up(node, key))
            .await
            .cloned()
    }

    /// Ends the sessions of a node that was banned or that joined anew.
    pub fn end(&self, node: &NodeId) {
        self.shared.lock().remove(node);
    }

    /// Ends the sessions whose hour is over. Call it every few minutes: those of nodes that are gone ask no more.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.shared.lock().retain(|_, keys| {
            keys.previous.take_if(|previous| previous.is_over(now));
            !keys.current.is_over(now) || keys.previous.is_some()
        });
    }

    async fn set_up(
        &self,
        node: &NodeId,
        plugin_key: PublicKey,
    ) -> Result<Arc<PluginSession>, SessionError> {
        let shared = Arc::clone(&self.shared);
        let node_id = node.to_string();
        let work = tokio::task::spawn_blocking(move || {
            let id = SessionId::random(&SystemRandom)?;
            let binding = SessionBinding {
                store: shared.store,
                broker_id: &shared.broker,
                boot: shared.boot,
                node_id: &node_id,
                plugin_key,
                session: id,
            };
            let (enc, keys) = Session::sender(&SystemRandom, &binding)?;
            Ok(Arc::new(PluginSession { id, enc, keys }))
        });
        let set_up = work.await.map_err(|_| SessionError::Stopping)?;
        set_up.map_err(|error| {
            if matches!(error, EnvelopeError::PublicKey) {
                SessionError::PluginKey
            } else {
                SessionError::Setup(error)
            }
        })
    }
}

impl Shared {
    /// The place of the session for that key; a new key takes the current one's, which becomes the previous.
    fn cell(
        &self,
        node: &NodeId,
        key: PublicKey,
    ) -> Result<Arc<OnceCell<Arc<PluginSession>>>, SessionError> {
        let now = Instant::now();
        let mut nodes = self.lock();
        let Some(keys) = nodes.get_mut(node) else {
            let entry = Entry::new(key, now);
            let cell = Arc::clone(&entry.session);
            let keys = Keys {
                current: entry,
                previous: None,
            };
            nodes.insert(node.clone(), keys);
            return Ok(cell);
        };
        if let Some(known) = keys.find(key) {
            if known.is_over(now) {
                // The same key for another hour, by a new setup: no new key was shown.
                known.session = Arc::default();
                known.shown = now;
            }
            return Ok(Arc::clone(&known.session));
        }
        let previous_is_new = |previous: &Entry| now.duration_since(previous.shown) < KEY_CHANGES;
        if keys.previous.as_ref().is_some_and(previous_is_new) {
            return Err(SessionError::TooManyKeys);
        }
        let replaced = std::mem::replace(&mut keys.current, Entry::new(key, now));
        keys.previous = Some(replaced);
        Ok(Arc::clone(&keys.current.session))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Keys>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    fn find(&mut self, key: PublicKey) -> Option<&mut Entry> {
        [Some(&mut self.current), self.previous.as_mut()]
            .into_iter()
            .flatten()
            .find(|entry| entry.key == key)
    }
}

impl Entry {
    fn new(key: PublicKey, shown: Instant) -> Self {
        Self {
            key,
            shown,
            session: Arc::default(),
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.shown) >= KEPT_FOR
    }
}

#[cfg(test)]
mod tests {
    use attache_envelope::key::SecretKey;

    use super::*;

    fn sessions() -> Sessions {
        let broker = "spiffe://example.internal/broker/broker-0".parse().unwrap();
        Sessions::new(
            StoreId::from_bytes([1; 16]),
            &broker,
            BootId::from_bytes([2; 16]),
        )
    }

    fn node(name: &str) -> NodeId {
        format!("spiffe://example.internal/node/local/{name}")
            .parse()
            .unwrap()
    }

    fn key(number: u8) -> PublicKey {
        SecretKey::new(&[number; 32]).public_key().unwrap()
    }

    #[tokio::test]
    async fn one_setup_serves_all_who_wait_for_it() {
        let sessions = sessions();
        let mut tasks = Vec::new();
        for _ in 0..32 {
            let sessions = sessions.clone();
            tasks.push(tokio::spawn(async move {
                sessions.session(&node("a"), key(1)).await.unwrap().id
            }));
        }
        let mut ids = Vec::new();
        for task in tasks {
            ids.push(task.await.unwrap());
        }
        ids.dedup();
        assert_eq!(ids.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_current_and_the_previous_key_are_kept_and_a_third_within_a_minute_is_refused() {
        let sessions = sessions();
        let first = sessions.session(&node("a"), key(1)).await.unwrap();
        let second = sessions.session(&node("a"), key(2)).await.unwrap();
        assert_ne!(first.id, second.id);
        assert_eq!(
            sessions.session(&node("a"), key(1)).await.unwrap().id,
            first.id
        );
        let refused = sessions
            .session(&node("a"), key(3))
            .await
            .map(drop)
            .unwrap_err();
        assert!(matches!(refused, SessionError::TooManyKeys), "{refused}");
        assert_eq!(
            sessions.session(&node("a"), key(2)).await.unwrap().id,
            second.id
        );
        sessions
            .session(&node("b"), key(3))
            .await
            .map(drop)
            .unwrap();
        tokio::time::advance(KEY_CHANGES).await;
        sessions
            .session(&node("a"), key(3))
            .await
            .map(drop)
            .unwrap();
        assert_eq!(
            sessions.session(&node("a"), key(2)).await.unwrap().id,
            second.id
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_after_an_hour_and_with_its_node() {
        let sessions = sessions();
        let first = sessions.session(&node("a"), key(1)).await.unwrap();
        tokio::time::advance(KEPT_FOR).await;
        let second = sessions.session(&node("a"), key(1)).await.unwrap();
        assert_ne!(first.id, second.id);
        sessions.end(&node("a"));
        assert_ne!(
            sessions.session(&node("a"), key(1)).await.unwrap().id,
            second.id
        );
        tokio::time::advance(KEPT_FOR).await;
        sessions.sweep();
        assert!(sessions.shared.lock().is_empty());
    }

    #[tokio::test]
    async fn a_key_that_is_none_is_refused_by_its_field() {
        let sessions = sessions();
        for _ in 0..2 {
            let zero = PublicKey::from_bytes([0; 32]);
            let refused = sessions
                .session(&node("a"), zero)
                .await
                .map(drop)
                .unwrap_err();
            assert!(matches!(refused, SessionError::PluginKey), "{refused}");
        }
    }
}
