//! Key-encryption keys: one per keyspace and epoch, unwrapped when first needed and kept in the arena.
//!
//! ```text
//! KEK row: Wrap under the keyring's KEK-wrap key     value-key row: Wrap of the DEK under the KEK
//! ```
//!
//! A DEK is unwrapped straight into a cell of the arena. Nothing here may hand out a key's bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use attache_arena::Key;
use attache_envelope::body::{KekBody, KekPhase, KekState, KeyspaceBody, WrappedKek};
use attache_envelope::id::KeyId;
use attache_envelope::key;
use attache_envelope::key::{Dek, KekWrapKey};
use attache_envelope::name::Keyspace;
use attache_envelope::wrap::{self, DekBinding, KekBinding, WrappedKey};
use attache_envelope::{EnvelopeError, SystemRandom, Table};

use super::error::KeysError;
use super::keyring::Keys;
use crate::store::{Ledger, LedgerError, Put, Store};

/// KEKs kept open; past it the one that was used longest ago is dropped and wiped.
const OPEN_KEKS: usize = 1024;

/// KEK rows of one keyspace that are read at once.
const EPOCHS: usize = 256;

/// An open key-encryption key.
pub struct Kek {
    /// What wrapped DEKs name it by.
    pub id: KeyId,
    /// Its epoch in its keyspace.
    pub epoch: u32,
    key: Key,
    uses: Arc<Uses>,
}

/// What a KEK was used for since the process started, counted where it is used.
#[derive(Debug, Default)]
struct Uses {
    wraps: AtomicU64,
    /// When it was used last, in seconds since 1970; 0 for not yet.
    last_s: AtomicU64,
}

impl Uses {
    /// Releases come here: one look at the clock, and a write of a shared line once a second at most.
    fn now(&self) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_s = since.map_or(0, |since| since.as_secs());
        if self.last_s.load(Ordering::Relaxed) != now_s {
            self.last_s.store(now_s, Ordering::Relaxed);
        }
    }
}

/// How a KEK was used since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// How often it has wrapped.
    pub wraps: u64,
    /// When it wrapped or unwrapped last, in milliseconds since 1970, to the second; none: not since the start.
    pub last_ms: Option<u64>,
}

/// The open KEKs of a broker.
pub struct Keks {
    keys: Arc<Keys>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    keks: HashMap<(Keyspace, KeyId), (Arc<Kek>, u64)>,
    uses: u64,
    /// Of every KEK that was open since the process started, also when it is wiped again.
    used: HashMap<KeyId, Arc<Uses>>,
}

impl Keks {
    /// No KEK is open yet.
    #[must_use]
    pub fn new(keys: Arc<Keys>) -> Self {
        Self {
            keys,
            open: Mutex::default(),
        }
    }

    /// The keyring above.
    #[must_use]
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// Draws the KEK of a keyspace and epoch, and answers its row.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn draw(&self, keyspace: &Keyspace, epoch: u32, created_ms: u64) -> Result<Put, KeysError> {
        let kek = KeyId::random(&SystemRandom)?;
        let key = self.keys.arena().random_key()?;
        let wrap_key = self.keys.ring().kek_wrap.active();
        let binding = KekBinding {
            store: self.keys.store_id(),
            keyspace,
            epoch,
            kek,
        };
        let wrapped = wrap::wrap_kek(
            &SystemRandom,
            KekWrapKey::new(wrap_key.key.expose()),
            wrap_key.id,
            &binding,
            key::Kek::new(key.expose()),
        )?;
        let body = KekBody {
            kek,
            state: KekState::Active(WrappedKek {
                wrap_key: wrap_key.id,
                wrapped,
            }),
            created_ms,
            changed_ms: created_ms,
        };
        Ok(Put {
            table: Table::Kek,
            key: KekBody::key(keyspace, epoch).into(),
            body: body.encode().into(),
        })
    }

    /// The KEK that new DEKs of the keyspace are wrapped under, and the commit that its row is of.
    ///
    /// Whoever commits a wrap under it must require that row unchanged: a KEK that is retired meanwhile wraps nothing.
    ///
    /// # Errors
    /// [`KeysError::NoKek`] when it may wrap nothing; a damaged row is [`KeysError::Ledger`].
    pub async fn active<S: Store>(
        &self,
        ledger: &Ledger<S>,
        keyspace: &Keyspace,
        body: &KeyspaceBody,
    ) -> Result<(Arc<Kek>, u64), KeysError> {
        let epoch = body.key_epoch;
        let none = || KeysError::NoKek {
            keyspace: keyspace.clone(),
        };
        let row_key = KekBody::key(keyspace, epoch);
        let row = ledger.read(Table::Kek, &row_key).await?.ok_or_else(none)?;
        let found =
            KekBody::decode(&row.body).map_err(|_| LedgerError::damaged(Table::Kek, &row_key))?;
        match found.state.phase() {
            KekPhase::Active => Ok((self.opened(keyspace, epoch, found)?, row.seq)),
            KekPhase::DecryptOnly | KekPhase::Retired | KekPhase::Destroyed => Err(none()),
        }
    }

    /// The KEK of that id, to unwrap with.
    ///
    /// # Errors
    /// [`KeysError::NoKek`] when the keyspace has none of that id, or it is destroyed; a damaged row is
    /// [`KeysError::Ledger`].
    pub async fn of_id<S: Store>(
        &self,
        ledger: &Ledger<S>,
        keyspace: &Keyspace,
        id: KeyId,
    ) -> Result<Arc<Kek>, KeysError> {
        if let Some(kek) = self.cached(keyspace, id) {
            return Ok(kek);
        }
        let prefix = KekBody::prefix(keyspace);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows = ledger
                .scan(Table::Kek, &prefix, after.as_deref(), EPOCHS)
                .await?;
            let Some((last, _)) = rows.last() else {
                return Err(KeysError::NoKek {
                    keyspace: keyspace.clone(),
                });
            };
            after = Some(last.clone());
            for (row_key, row) in rows {
                let damaged = |_| LedgerError::damaged(Table::Kek, &row_key);
                let body = KekBody::decode(&row.body).map_err(damaged)?;
                if body.kek == id {
                    let (_, epoch) = KekBody::parse_key(&row_key).map_err(damaged)?;
                    return self.opened(keyspace, epoch, body);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// How a KEK was used since the process started.
    #[must_use]
    pub fn used(&self, id: KeyId) -> Used {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(uses) = open.used.get(&id) else {
            return Used::default();
        };
        let last_s = uses.last_s.load(Ordering::Relaxed);
        Used {
            wraps: uses.wraps.load(Ordering::Relaxed),
            last_ms: (last_s > 0).then(|| last_s.saturating_mul(1000)),
        }
    }

    /// Wipes an open KEK once nobody uses it any more.
    pub fn forget(&self, keyspace: &Keyspace, id: KeyId) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.keks.remove(&(keyspace.clone(), id));
    }

    /// Wipes all open KEKs of a keyspace once nobody uses them any more.
    pub fn forget_all(&self, keyspace: &Keyspace) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.keks.retain(|(of, _), _| of != keyspace);
    }

    fn cached(&self, keyspace: &Keyspace, id: KeyId) -> Option<Arc<Kek>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.uses += 1;
        let now = open.uses;
        let (kek, used) = open.keks.get_mut(&(keyspace.clone(), id))?;
        *used = now;
        Some(Arc::clone(kek))
    }

    /// Unwraps a KEK, unless it is open already, and keeps it.
    fn opened(
        &self,
        keyspace: &Keyspace,
        epoch: u32,
        body: KekBody,
    ) -> Result<Arc<Kek>, KeysError> {
        if let Some(kek) = self.cached(keyspace, body.kek) {
            return Ok(kek);
        }
        let uses = self.uses(body.kek);
        let kek = Arc::new(Kek::open(&self.keys, keyspace, epoch, &body, uses)?);
        self.keep(keyspace, Arc::clone(&kek));
        Ok(kek)
    }

    fn uses(&self, id: KeyId) -> Arc<Uses> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(open.used.entry(id).or_default())
    }

    fn keep(&self, keyspace: &Keyspace, kek: Arc<Kek>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.keks.len() >= OPEN_KEKS {
            let oldest = open.keks.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                open.keks.remove(&oldest);
            }
        }
        let used = open.uses;
        open.keks.insert((keyspace.clone(), kek.id), (kek, used));
    }
}

impl Kek {
    /// Unwraps the KEK of a row, for whoever only looks whether it opens.
    ///
    /// # Errors
    /// [`KeysError::NoKek`] when the row has none any more; [`KeysError::Envelope`] when it is of another keyring, keyspace or
    /// epoch; [`KeysError::Arena`].
    pub(crate) fn of_row(
        keys: &Keys,
        keyspace: &Keyspace,
        epoch: u32,
        body: &KekBody,
    ) -> Result<Self, KeysError> {
        Self::open(keys, keyspace, epoch, body, Arc::default())
    }

    fn open(
        keys: &Keys,
        keyspace: &Keyspace,
        epoch: u32,
        body: &KekBody,
        uses: Arc<Uses>,
    ) -> Result<Self, KeysError> {
        let wrapped = body.state.wrapped().ok_or_else(|| KeysError::NoKek {
            keyspace: keyspace.clone(),
        })?;
        let WrappedKek { wrap_key, wrapped } = wrapped;
        let wrapping = keys.ring().kek_wrap.of_id(*wrap_key);
        let wrapping = wrapping.ok_or(EnvelopeError::Refused)?;
        let binding = KekBinding {
            store: keys.store_id(),
            keyspace,
            epoch,
            kek: body.kek,
        };
        let key = keys.arena().key_with(|cell| {
            let wrapping = KekWrapKey::new(wrapping.key.expose());
            wrap::unwrap_kek(wrapping, *wrap_key, &binding, wrapped, cell).map_err(KeysError::from)
        })?;
        Ok(Self {
            id: body.kek,
            epoch,
            key,
            uses,
        })
    }

    /// This one, prepared to wrap and unwrap the DEKs of one page, put or release.
    ///
    /// # Errors
    /// [`KeysError::Envelope`] by a library that takes no key of its own length.
    pub fn prepared(&self) -> Result<PreparedKek<'_>, KeysError> {
        let key = wrap::PreparedKek::new(key::Kek::new(self.key.expose()))?;
        Ok(PreparedKek { kek: self, key })
    }
}

/// A [`Kek`] for the DEKs of one page, put or release. It has what is as good as the key, and must not outlive the call that made it.
pub struct PreparedKek<'a> {
    kek: &'a Kek,
    key: wrap::PreparedKek,
}

impl PreparedKek<'_> {
    /// The KEK's id.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.kek.id
    }

    /// Wraps a DEK. `binding.kek` must be this KEK's id.
    ///
    /// # Errors
    /// [`EnvelopeError::Random`].
    pub fn wrap_dek(
        &self,
        binding: &DekBinding<'_>,
        dek: Dek<'_>,
    ) -> Result<WrappedKey, EnvelopeError> {
        self.kek.uses.wraps.fetch_add(1, Ordering::Relaxed);
        self.kek.uses.now();
        self.key.wrap_dek(&SystemRandom, binding, dek)
    }

    /// Unwraps a DEK straight into a cell of the arena.
    ///
    /// # Errors
    /// [`KeysError::Envelope`] when the wrap is of another key, value or hash; [`KeysError::Arena`].
    pub fn unwrap_dek(
        &self,
        keys: &Keys,
        binding: &DekBinding<'_>,
        wrapped: &WrappedKey,
    ) -> Result<Key, KeysError> {
        self.kek.uses.now();
        keys.arena().key_with(|cell| {
            let opened = self.key.unwrap_dek(binding, wrapped, cell);
            opened.map_err(KeysError::from)
        })
    }
}
