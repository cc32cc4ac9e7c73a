//! The plugin's own X25519 key, and the HPKE sessions that brokers set up to it.
//!
//! One key a process, in an arena cell, never written anywhere, replaced hourly. An attempt holds the key that it sent
//! until its answer is opened, so a replaced key lives as long as the attempts that were begun with it (a call's
//! deadline) and no longer; its sessions go with it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use attache_arena::{Arena, ArenaError, Key};
use attache_envelope::EnvelopeError;
use attache_envelope::id::{BootId, SessionId, StoreId};
use attache_envelope::key::SecretKey;
use attache_envelope::release::{Session, SessionBinding};
use attache_envelope::x25519::{Enc, PublicKey};
use thiserror::Error;

/// For how long one key is sent.
pub const KEY_LIFE: Duration = Duration::from_secs(60 * 60);

/// How many sessions of one key are kept: a fleet of brokers, each with a restart or two in an hour.
const KEPT_SESSIONS: usize = 8;

/// Why there is no key.
#[derive(Debug, Error)]
pub enum PluginKeyError {
    /// No locked memory for it.
    #[error("no locked memory for the plugin's key")]
    Memory(#[from] ArenaError),
    /// Its public half could not be computed.
    #[error("the plugin's key could not be made")]
    Envelope(#[from] EnvelopeError),
}

/// The key in use.
pub struct PluginKeys {
    arena: Arena,
    current: Mutex<Arc<PluginKey>>,
}

/// One key, with the sessions that were set up to it.
pub struct PluginKey {
    secret: Key,
    public: PublicKey,
    made: Instant,
    sessions: Mutex<VecDeque<Known>>,
}

struct Known {
    name: SessionName,
    session: Arc<Session>,
}

/// What a broker says of a session: all of it must be the same for a session to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionName {
    /// Its id.
    pub session: SessionId,
    /// The sender's ephemeral key.
    pub enc: Enc,
    /// The store.
    pub store: StoreId,
    /// The broker's run.
    pub boot: BootId,
}

impl PluginKeys {
    /// Makes the first key.
    ///
    /// # Errors
    /// [`PluginKeyError`].
    pub fn new(arena: Arena) -> Result<Self, PluginKeyError> {
        let first = Arc::new(PluginKey::new(&arena)?);
        Ok(Self {
            arena,
            current: Mutex::new(first),
        })
    }

    /// The key for a new attempt; after an hour a new one.
    ///
    /// # Errors
    /// [`PluginKeyError`].
    pub fn current(&self) -> Result<Arc<PluginKey>, PluginKeyError> {
        let mut current = lock(&self.current);
        if current.made.elapsed() >= KEY_LIFE {
            *current = Arc::new(PluginKey::new(&self.arena)?);
        }
        Ok(Arc::clone(&current))
    }
}

impl PluginKey {
    fn new(arena: &Arena) -> Result<Self, PluginKeyError> {
        let secret = arena.random_key()?;
        let public = SecretKey::new(secret.expose()).public_key()?;
        Ok(Self {
            secret,
            public,
            made: Instant::now(),
            sessions: Mutex::default(),
        })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The session that `broker_id` set up with this key of `node_id`, set up here at first sight: two scalar
    /// multiplications, so not on the runtime's threads.
    ///
    /// # Errors
    /// [`EnvelopeError::PublicKey`] for an `enc` that no sender makes.
    pub fn session(
        &self,
        name: SessionName,
        broker_id: &str,
        node_id: &str,
    ) -> Result<Arc<Session>, EnvelopeError> {
        // Held over the setup: the releases that wait need the same session.
        let mut sessions = lock(&self.sessions);
        if let Some(known) = sessions.iter().find(|known| known.name == name) {
            return Ok(Arc::clone(&known.session));
        }
        let binding = SessionBinding {
            store: name.store,
            broker_id,
            boot: name.boot,
            node_id,
            plugin_key: self.public,
            session: name.session,
        };
        let session = Arc::new(Session::receiver(
            SecretKey::new(self.secret.expose()),
            &name.enc,
            &binding,
        )?);
        sessions.truncate(KEPT_SESSIONS - 1);
        sessions.push_front(Known {
            name,
            session: Arc::clone(&session),
        });
        Ok(session)
    }
}

/// What is behind these locks is never half changed, so a poisoned one is as good as another.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use attache_envelope::SystemRandom;
    use attache_envelope::id::{Nonce, ReleaseId};

    use super::*;

    const BROKER: &str = "spiffe://example.internal/broker/broker-0";
    const NODE: &str = "spiffe://example.internal/node/local/n1";

    fn sender(key: &PluginKey, number: u8) -> (SessionName, Session) {
        let (store, boot) = (StoreId::from_bytes([1; 16]), BootId::from_bytes([2; 16]));
        let session = SessionId::from_bytes([number; 16]);
        let binding = SessionBinding {
            store,
            broker_id: BROKER,
            boot,
            node_id: NODE,
            plugin_key: key.public(),
            session,
        };
        let (enc, sender) = Session::sender(&SystemRandom, &binding).unwrap();
        (
            SessionName {
                session,
                enc,
                store,
                boot,
            },
            sender,
        )
    }

    #[test]
    fn a_session_is_set_up_once_and_eight_are_kept() {
        let keys = PluginKeys::new(Arena::new().unwrap()).unwrap();
        let key = keys.current().unwrap();
        let (name, _) = sender(&key, 0);
        let first = key.session(name, BROKER, NODE).unwrap();
        assert!(Arc::ptr_eq(
            &first,
            &key.session(name, BROKER, NODE).unwrap()
        ));
        for number in 1..=8 {
            let (name, _) = sender(&key, number);
            key.session(name, BROKER, NODE).unwrap();
        }
        assert_eq!(lock(&key.sessions).len(), KEPT_SESSIONS);
        assert!(
            !Arc::ptr_eq(&first, &key.session(name, BROKER, NODE).unwrap()),
            "the oldest went"
        );
    }

    #[test]
    fn both_ends_export_the_same_key_and_another_broker_does_not() {
        let keys = PluginKeys::new(Arena::new().unwrap()).unwrap();
        let key = keys.current().unwrap();
        let (name, sender) = sender(&key, 1);
        let (nonce, release) = (Nonce::from_bytes([3; 16]), ReleaseId::from_bytes([4; 16]));
        let own = binding_free_probe(&sender, nonce, release);
        let receiver = key.session(name, BROKER, NODE).unwrap();
        assert!(opens(&receiver, nonce, release, &own));
        let other = SessionName {
            boot: BootId::from_bytes([9; 16]),
            ..name
        };
        let stranger = key.session(other, BROKER, NODE).unwrap();
        assert!(!opens(&stranger, nonce, release, &own));
    }

    fn probe_binding<'a>(
        nonce: Nonce,
        release: ReleaseId,
        names: &'a Names,
    ) -> attache_envelope::release::ReleaseBinding<'a> {
        attache_envelope::release::ReleaseBinding {
            store: StoreId::from_bytes([1; 16]),
            session: SessionId::from_bytes([1; 16]),
            nonce,
            release,
            leaf_hash: [0; 32],
            volume: &names.0,
            cluster: &names.1,
            namespace: &names.2,
            pod: &names.3,
            container: &names.4,
            granted: &[],
        }
    }

    type Names = (
        attache_envelope::name::VolumeId,
        attache_envelope::name::ClusterName,
        attache_envelope::name::Namespace,
        attache_envelope::name::PodUid,
        attache_envelope::name::ContainerName,
    );

    fn names() -> Names {
        let pod = "uid-1".parse().unwrap();
        let volume = attache_envelope::name::VolumeId::of(&pod, &"secrets".parse().unwrap());
        (
            volume,
            "local".parse().unwrap(),
            "shop".parse().unwrap(),
            pod,
            "app".parse().unwrap(),
        )
    }

    fn binding_free_probe(session: &Session, nonce: Nonce, release: ReleaseId) -> Vec<u8> {
        let names = names();
        let key = session.release_key(nonce, release).unwrap();
        key.seal(&probe_binding(nonce, release, &names), &[])
            .unwrap()
    }

    fn opens(session: &Session, nonce: Nonce, release: ReleaseId, sealed: &[u8]) -> bool {
        let names = names();
        let key = session.release_key(nonce, release).unwrap();
        key.open(&probe_binding(nonce, release, &names), sealed, &mut [])
            .is_ok()
    }
}
