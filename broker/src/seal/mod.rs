//! A sealed broker: it holds the store's lock and no key of the store, and waits for what opens a slot.
//!
//! ```text
//! CLI -- GetSeal --> boot key, slots      CLI -- Unseal: a slot's secret, sealed to the boot key --> SRK -> keyring -> open
//!                                                       | on record in a file beside the store, before the answer
//! ```
//! Nobody is known here: the rows of operators do not verify without keys, so anybody may try, and everything is bounded:
//! one attempt at a time, a rate for an address and one for all, sizes, and the file. A secret that opens a slot is the
//! proof. The slots are the store's own word until the keyring is open. Nothing here may keep a secret longer than an
//! attempt, write one anywhere, or open anything that the caller has not opened.

mod attempts;
mod rate;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use attache_arena::{Arena, ArenaError, Key};
use attache_envelope::EnvelopeError;
use attache_envelope::SystemRandom;
use attache_envelope::id::{BootId, SlotId, StoreId};
use attache_envelope::key::SecretKey;
use attache_envelope::slot::{Slot, SlotKind};
use attache_envelope::unseal::UnsealChannel;
use attache_envelope::x25519::{Enc, PublicKey};
use attache_mtls::spiffe::BrokerId;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};

pub use attempts::{Attempt, Attempts, Ending};
use rate::Rates;

use crate::audit::Clock;
use crate::keys::{Keys, KeysError, UnlockError, unverified_slots};
use crate::store::{RedbStore, Store};

/// How long an attempt waits for those before it.
const TURN: Duration = Duration::from_secs(5);

/// One sealed time of this process. It ends with the key that it drew.
pub struct Sealed {
    arena: Arena,
    store: Arc<RedbStore>,
    broker: BrokerId,
    boot: BootId,
    /// Absent once the sealed time is over: whoever still holds this holds no key.
    boot_key: Mutex<Option<Key>>,
    public: PublicKey,
    by_operator: bool,
    slots: Vec<Slot>,
    turn: Semaphore,
    rates: Mutex<Rates>,
    attempts: Arc<Mutex<Attempts>>,
    clock: Clock,
    opened: mpsc::Sender<Keys>,
}

/// A slot's secret as it came.
pub struct SentToSealed {
    /// Which boot it is sealed to.
    pub boot: BootId,
    /// The slot.
    pub slot: SlotId,
    /// The sender's half of the HPKE setup.
    pub enc: Enc,
    /// The secret.
    pub sealed: Vec<u8>,
}

/// Why a broker was not opened.
#[derive(Debug, Error)]
pub enum UnsealError {
    /// Too many attempts.
    #[error("there were too many attempts: wait for {after:?}")]
    TooMany {
        /// When another one is taken.
        after: Duration,
    },
    /// Others are being tried.
    #[error("other attempts are being tried; try again in a moment")]
    Busy,
    /// What was sent is for another sealed time.
    #[error(
        "the boot key is not this broker's any more: it was started or sealed again; begin again"
    )]
    OtherBoot,
    /// It is not there.
    #[error("the store has no slot {slot}")]
    Absent {
        /// Its uuid.
        slot: SlotId,
    },
    /// Nobody can send what opens it.
    #[error("a slot of kind {kind} is opened by the broker itself, which tries again and again")]
    Kind {
        /// The slot's kind.
        kind: &'static str,
    },
    /// The sealed secret does not open for this broker, boot and slot.
    #[error("does not open: it is for another broker, boot or slot")]
    Sealed,
    /// The secret is another's.
    #[error("this is not what opens the slot {name}")]
    WrongSecret {
        /// The slot's name.
        name: String,
    },
    /// The broker is open, or about to be.
    #[error("the broker is not sealed any more")]
    NotSealed,
    /// The attempt could not be written down.
    #[error("the attempt could not be put on record, and nothing is opened without")]
    Record(#[source] std::io::Error),
    /// The slot opened, and what it belongs to did not.
    #[error("the slot opened, and the store did not: {0}")]
    Store(#[source] UnlockError),
    /// No locked memory left.
    #[error(transparent)]
    Arena(#[from] ArenaError),
}

impl Sealed {
    /// Begins a sealed time: draws its boot and the key that secrets are sealed to. Keys of an opened store come out of
    /// the receiver.
    ///
    /// # Errors
    /// [`UnlockError`] when the store cannot be read or has no slot.
    pub async fn begin(
        arena: &Arena,
        store: Arc<RedbStore>,
        broker: BrokerId,
        by_operator: bool,
        attempts: Attempts,
    ) -> Result<(Self, mpsc::Receiver<Keys>), BeginError> {
        let slots = unverified_slots(store.as_ref()).await?;
        let boot_key = arena.random_key()?;
        let public = SecretKey::new(boot_key.expose()).public_key()?;
        let (opened, receiver) = mpsc::channel(1);
        let sealed = Self {
            arena: arena.clone(),
            store,
            broker,
            boot: BootId::random(&SystemRandom)?,
            boot_key: Mutex::new(Some(boot_key)),
            public,
            by_operator,
            slots,
            turn: Semaphore::new(1),
            rates: Mutex::default(),
            attempts: Arc::new(Mutex::new(attempts)),
            clock: Clock::system(),
            opened,
        };
        Ok((sealed, receiver))
    }

    /// The store.
    #[must_use]
    pub fn store_id(&self) -> StoreId {
        self.store.id()
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &BrokerId {
        &self.broker
    }

    /// This sealed time.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// What secrets are sealed to.
    #[must_use]
    pub fn boot_key(&self) -> &PublicKey {
        &self.public
    }

    /// Whether an operator sealed it.
    #[must_use]
    pub fn by_operator(&self) -> bool {
        self.by_operator
    }

    /// The slots, by name, unverified.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Wipes the boot key: nothing opens by this sealed time any more.
    pub fn end(&self) {
        drop(
            self.boot_key
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    /// Tries what was sent. What fails is on record before this answers, and what opens before anything is open.
    ///
    /// # Errors
    /// [`UnsealError`].
    ///
    /// # Cancel safety
    /// Dropped early, it may have noted an attempt that then opened nothing: run it in a task of its own.
    pub async fn unseal(&self, sent: &SentToSealed, from: IpAddr) -> Result<(), UnsealError> {
        let admitted = self.rates.lock();
        let admitted = admitted
            .unwrap_or_else(PoisonError::into_inner)
            .admit(from, Instant::now());
        admitted.map_err(|after| UnsealError::TooMany { after })?;
        let turn = tokio::time::timeout(TURN, self.turn.acquire()).await;
        let _turn = turn.map_err(|_| UnsealError::Busy)?;
        if sent.boot != self.boot {
            return Err(UnsealError::OtherBoot);
        }
        let slot = self
            .slots
            .iter()
            .find(|slot| slot.identity.slot == sent.slot);
        let slot = slot.ok_or(UnsealError::Absent { slot: sent.slot })?;
        if self.opened.is_closed() {
            return Err(UnsealError::NotSealed);
        }
        let tried = self.open(slot, sent, from).await;
        let ending = match &tried {
            Ok(_) => Ending::Opened,
            Err(UnsealError::WrongSecret { .. }) => Ending::WrongSecret,
            Err(UnsealError::Sealed) => Ending::NotForThis,
            Err(UnsealError::Kind { .. }) => Ending::Kind,
            Err(_) => Ending::Failed,
        };
        self.note(slot, ending, from).await?;
        // No other is tried before this one is over, so that there is a place.
        self.opened
            .try_send(tried?)
            .map_err(|_| UnsealError::NotSealed)
    }

    async fn open(
        &self,
        slot: &Slot,
        sent: &SentToSealed,
        from: IpAddr,
    ) -> Result<Keys, UnsealError> {
        match slot.identity.kind {
            SlotKind::KeyFile | SlotKind::Passphrase => {}
            kind @ SlotKind::Kms => return Err(UnsealError::Kind { kind: kind.name() }),
        }
        let channel = UnsealChannel {
            store: self.store.id(),
            broker_id: &self.broker.to_string(),
            boot: self.boot,
            boot_key: self.public,
            slot: sent.slot,
        };
        let secret = self.arena.key_with(|cell| -> Result<(), UnsealError> {
            let boot_key = self.boot_key.lock().unwrap_or_else(PoisonError::into_inner);
            let boot_key = boot_key.as_ref().ok_or(UnsealError::NotSealed)?;
            let boot_key = SecretKey::new(boot_key.expose());
            let opened = channel.open(boot_key, &sent.enc, &sent.sealed, cell);
            opened.map_err(|_| UnsealError::Sealed)
        })?;
        let how = format!("unsealed by {}, from {from}", slot.identity.kind.name());
        let opened = Keys::open_with(&self.arena, self.store.as_ref(), slot, &secret, how).await;
        opened.map_err(|error| {
            if matches!(error, UnlockError::WrongSecret) {
                let name = slot.about.name.to_string();
                return UnsealError::WrongSecret { name };
            }
            UnsealError::Store(error)
        })
    }

    async fn note(&self, slot: &Slot, ending: Ending, from: IpAddr) -> Result<(), UnsealError> {
        let attempt = Attempt {
            time_ms: self.clock.now_ms(),
            slot: slot.identity.slot,
            ending,
            from: from.to_string(),
        };
        tracing::warn!(slot = %slot.about.name, %from, ending = ending.told(), "an attempt to unseal");
        let attempts = Arc::clone(&self.attempts);
        let noted = tokio::task::spawn_blocking(move || {
            let mut attempts = attempts.lock().unwrap_or_else(PoisonError::into_inner);
            attempts.note(attempt)
        });
        let noted = noted.await.map_err(|_| UnsealError::NotSealed)?;
        noted.map_err(UnsealError::Record)
    }
}

/// Why a sealed time did not begin.
#[derive(Debug, Error)]
pub enum BeginError {
    /// The store.
    #[error(transparent)]
    Store(#[from] UnlockError),
    /// The boot key.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

impl From<ArenaError> for BeginError {
    fn from(error: ArenaError) -> Self {
        Self::Keys(error.into())
    }
}

impl From<EnvelopeError> for BeginError {
    fn from(error: EnvelopeError) -> Self {
        Self::Keys(error.into())
    }
}
