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

/// How many new keys a node may show at once: a plugin has a new one each time that it starts.
const KEYS_AT_ONCE: u32 = 8;
/// How long until it may show one more after that. Each costs the broker a key pair and a Diffie-Hellman.
const KEY_EVERY: Duration = Duration::from_secs(10);

/// Why there is no session.
#[derive(Debug, Error)]
pub enum SessionError {
    /// More than eight new keys at once, or than one every ten seconds after that.
    #[error("the node plugin has started too often lately: one new key every {} seconds; trying again", KEY_EVERY.as_secs())]
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
    /// When all new keys so far are paid for, at one every [`KEY_EVERY`].
    paid: Instant,
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
                paid: now + KEY_EVERY,
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
        let paid = keys.paid.max(now) + KEY_EVERY;
        if paid > now + KEY_EVERY * KEYS_AT_ONCE {
            return Err(SessionError::TooManyKeys);
        }
        keys.paid = paid;
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
    async fn the_current_and_the_previous_key_are_kept() {
        let sessions = sessions();
        let id = async |number| sessions.session(&node("a"), key(number)).await.unwrap().id;
        let (first, second) = (id(1).await, id(2).await);
        assert_ne!(first, second);
        assert_eq!(id(1).await, first);
        let third = id(3).await;
        assert_eq!(id(2).await, second);
        assert_ne!(id(1).await, first);
        assert_eq!(id(3).await, third);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_shows_eight_new_keys_at_once_and_one_more_every_ten_seconds() {
        let sessions = sessions();
        let shown = async |name: &str, number| {
            let session = sessions.session(&node(name), key(number)).await;
            session.map(drop)
        };
        for number in 1..=8 {
            shown("a", number).await.unwrap();
        }
        let refused = shown("a", 9).await.unwrap_err();
        assert!(matches!(refused, SessionError::TooManyKeys), "{refused}");
        // What it has shown is good meanwhile, and other nodes are.
        shown("a", 8).await.unwrap();
        shown("b", 9).await.unwrap();
        tokio::time::advance(KEY_EVERY).await;
        shown("a", 9).await.unwrap();
        assert!(shown("a", 10).await.is_err());
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
