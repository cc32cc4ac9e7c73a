//! The keys that puts are sealed to: random, in memory only, changed every hour.
//!
//! `BeginPut` shows the public half of the current one; `CommitPut` names the one that it used. A key must never be
//! stored, and never open anything later than [`REPLACED_FOR`] after its successor was due.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use attache_arena::{Arena, Key};
use attache_envelope::SystemRandom;
use attache_envelope::id::{BootId, KeyId};
use attache_envelope::key::SecretKey;
use attache_envelope::x25519::PublicKey;
use tokio::time::Instant;

use super::error::KeysError;

/// How long a key is offered.
pub const OFFERED_FOR: Duration = Duration::from_secs(60 * 60);
/// How long a key that is no longer offered still opens what was sealed to it.
pub const REPLACED_FOR: Duration = Duration::from_secs(5 * 60);

/// The receive keys of one broker process.
pub struct ReceiveKeys {
    arena: Arena,
    boot: BootId,
    pair: Mutex<Pair>,
}

/// A receive key: what a put is sealed to.
pub struct ReceiveKey {
    /// What a put names it by.
    pub id: KeyId,
    /// The public half.
    pub public: PublicKey,
    secret: Key,
    made: Instant,
}

struct Pair {
    current: Arc<ReceiveKey>,
    previous: Option<Arc<ReceiveKey>>,
}

impl ReceiveKeys {
    /// Draws the first key of this process.
    ///
    /// # Errors
    /// [`KeysError`] when the arena is full or the generator fails.
    pub fn new(arena: Arena, boot: BootId) -> Result<Self, KeysError> {
        let current = Arc::new(ReceiveKey::draw(&arena)?);
        Ok(Self {
            arena,
            boot,
            pair: Mutex::new(Pair {
                current,
                previous: None,
            }),
        })
    }

    /// This run of the process; a key id means nothing in another.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// The key to offer now; draws the next one when it is due.
    ///
    /// # Errors
    /// [`KeysError`] when the arena is full or the generator fails.
    pub fn current(&self) -> Result<Arc<ReceiveKey>, KeysError> {
        let mut pair = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        pair.forget_expired();
        if pair.current.made.elapsed() >= OFFERED_FOR {
            let next = Arc::new(ReceiveKey::draw(&self.arena)?);
            let replaced = std::mem::replace(&mut pair.current, next);
            pair.previous = Some(replaced);
            pair.forget_expired();
        }
        Ok(Arc::clone(&pair.current))
    }

    /// The key of that id, while it may still be used.
    #[must_use]
    pub fn find(&self, boot: BootId, id: KeyId) -> Option<Arc<ReceiveKey>> {
        if boot != self.boot {
            return None;
        }
        let mut pair = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        pair.forget_expired();
        [Some(&pair.current), pair.previous.as_ref()]
            .into_iter()
            .flatten()
            .find(|key| key.id == id && !key.expired())
            .map(Arc::clone)
    }
}

impl Pair {
    fn forget_expired(&mut self) {
        if self.previous.as_ref().is_some_and(|key| key.expired()) {
            self.previous = None;
        }
    }
}

impl ReceiveKey {
    fn draw(arena: &Arena) -> Result<Self, KeysError> {
        let secret = arena.random_key()?;
        Ok(Self {
            id: KeyId::random(&SystemRandom)?,
            public: SecretKey::new(secret.expose()).public_key()?,
            secret,
            made: Instant::now(),
        })
    }

    /// The private half, for one call.
    #[must_use]
    pub fn secret(&self) -> SecretKey<'_> {
        SecretKey::new(self.secret.expose())
    }

    fn expired(&self) -> bool {
        self.made.elapsed() >= OFFERED_FOR + REPLACED_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> ReceiveKeys {
        let boot = BootId::from_bytes([1; 16]);
        ReceiveKeys::new(Arena::new().unwrap(), boot).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_offered_for_an_hour_and_opens_for_five_minutes_more() {
        let keys = keys();
        let boot = keys.boot();
        let first = keys.current().unwrap().id;
        tokio::time::advance(OFFERED_FOR - Duration::from_secs(1)).await;
        assert_eq!(keys.current().unwrap().id, first);
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = keys.current().unwrap().id;
        assert_ne!(first, second);
        assert!(keys.find(boot, first).is_some());
        tokio::time::advance(REPLACED_FOR).await;
        assert!(keys.find(boot, first).is_none());
        assert!(keys.find(boot, second).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_nobody_asked_about_expires_all_the_same() {
        let keys = keys();
        let first = keys.current().unwrap().id;
        tokio::time::advance(OFFERED_FOR + REPLACED_FOR).await;
        assert!(keys.find(keys.boot(), first).is_none());
        assert_ne!(keys.current().unwrap().id, first);
        assert!(keys.find(keys.boot(), first).is_none());
    }

    #[tokio::test]
    async fn a_key_of_another_boot_or_an_unknown_one_is_not_found() {
        let keys = keys();
        let id = keys.current().unwrap().id;
        assert!(keys.find(keys.boot(), id).is_some());
        assert!(keys.find(BootId::from_bytes([2; 16]), id).is_none());
        assert!(keys.find(keys.boot(), KeyId::from_bytes([0; 16])).is_none());
    }
}
