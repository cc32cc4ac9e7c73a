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
//!
//! An operator's seal is a [`note`] beside the store as well, and holds over a restart.

mod attempts;
mod ceremony;
mod collecting;
pub mod note;
mod rate;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use attache_arena::{Arena, ArenaError, Key};
use attache_envelope::EnvelopeError;
use attache_envelope::SystemRandom;
use attache_envelope::id::{BootId, SlotId, StoreId};
use attache_envelope::key::SecretKey;
use attache_envelope::name::SlotName;
use attache_envelope::shares::ShareError;
use attache_envelope::slot::{Slot, SlotSource};
use attache_envelope::unseal::UnsealChannel;
use attache_envelope::x25519::{Enc, PublicKey};
use attache_mtls::spiffe::BrokerId;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};

pub use attempts::{Attempt, Attempts, Counted, Ending};
use collecting::Ceremonies;
pub use collecting::Collecting;
pub use note::{Note, OperatorSeal};
use rate::Rates;

use crate::audit::Clock;
use crate::causes::with_causes;
use crate::keys::{Keys, KeysError, Opener, UnlockError, unverified_slots};
use crate::store::{RedbStore, Store};

/// How long an attempt waits for those before it.
const TURN: Duration = Duration::from_secs(5);
/// How often the number of those that were not tried is written down.
const COUNTS: Duration = Duration::from_secs(1);

/// One sealed time of this process. It ends with the key that it drew.
pub struct Sealed {
    arena: Arena,
    store: Arc<RedbStore>,
    broker: BrokerId,
    boot: BootId,
    /// Absent once the sealed time is over: whoever still holds this holds no key.
    boot_key: Mutex<Option<Key>>,
    public: PublicKey,
    by_operator: OperatorSeal,
    openers: Vec<Opener>,
    slots: Vec<Slot>,
    /// Of the slots that are opened by shares.
    ceremonies: Ceremonies,
    turn: Semaphore,
    rates: Mutex<Rates>,
    attempts: Arc<Mutex<Attempts>>,
    /// Those that were not tried and are not written down yet, and when such were written down last.
    refused: Mutex<(Counted, Option<Instant>)>,
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
    #[error(
        "a slot of kind {kind} is opened by the broker itself: it tries again and again, but not after an operator's seal; have \
         it try with attache-broker unseal, on its machine"
    )]
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
    /// A share is not one that is needed. What was given before stays.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The broker is open, or about to be.
    #[error("the broker is not sealed any more")]
    NotSealed,
    /// The attempt could not be written down.
    #[error("the attempt could not be put on record, and nothing is opened without")]
    Record(#[source] std::io::Error),
    /// The broker tried what its settings name, and none of it opens.
    #[error("nothing that the settings name opens the store: {0}")]
    Openers(String),
    /// The slot opened, and what it belongs to did not.
    #[error("the slot opened, and the store did not: {0}")]
    Store(#[source] UnlockError),
    /// No locked memory left.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// No locked memory left, or a construction failed.
    #[error(transparent)]
    Keys(#[from] KeysError),
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
        by_operator: OperatorSeal,
        openers: &[Opener],
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
            openers: openers.to_vec(),
            ceremonies: Ceremonies::of(&slots),
            slots,
            turn: Semaphore::new(1),
            rates: Mutex::default(),
            attempts: Arc::new(Mutex::new(attempts)),
            refused: Mutex::default(),
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

    /// Whether an operator sealed it, and who.
    #[must_use]
    pub fn by_operator(&self) -> &OperatorSeal {
        &self.by_operator
    }

    /// The slots, by name, unverified.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Wipes the boot key and what was given of shares: nothing opens by this sealed time any more. What was counted since the last note is written down.
    pub async fn end(&self) {
        self.ceremonies.end();
        drop(
            self.boot_key
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let refused = self
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        if refused.count > 0 {
            // It says in the log what goes wrong.
            let _written = tokio::task::spawn_blocking(self.write_refused()).await;
        }
    }

    /// Tries what was sent. What fails is on record before this answers, and what opens before anything is open.
    /// `false`: it was a share, and more are needed.
    ///
    /// # Errors
    /// [`UnsealError`].
    ///
    /// # Cancel safety
    /// Dropped early, it may have noted an attempt that then opened nothing: run it in a task of its own.
    pub async fn unseal(&self, sent: &SentToSealed, from: IpAddr) -> Result<bool, UnsealError> {
        let admitted = self.rates.lock();
        let admitted = admitted
            .unwrap_or_else(PoisonError::into_inner)
            .admit(from, Instant::now());
        if let Err(after) = admitted {
            self.not_tried();
            return Err(UnsealError::TooMany { after });
        }
        let Ok(_turn) = tokio::time::timeout(TURN, self.turn.acquire()).await else {
            self.not_tried();
            return Err(UnsealError::Busy);
        };
        if sent.boot != self.boot {
            self.note(sent.slot, (Ending::OtherBoot, None), from)
                .await?;
            return Err(UnsealError::OtherBoot);
        }
        let slot = self
            .slots
            .iter()
            .find(|slot| slot.identity.slot == sent.slot);
        let Some(slot) = slot else {
            self.note(sent.slot, (Ending::Absent, None), from).await?;
            return Err(UnsealError::Absent { slot: sent.slot });
        };
        if self.opened.is_closed() {
            return Err(UnsealError::NotSealed);
        }
        let (taken, tried) = self.open(slot, sent, from).await;
        let noted = self.note(sent.slot, ending(taken, &tried), from).await;
        let opened = noted.and(tried);
        if let (Some(number), Err(_)) = (taken, &opened) {
            self.ceremonies.take_back(sent.slot, number);
        }
        let Some(keys) = opened? else {
            return Ok(false);
        };
        // No other is tried before this one is over, so that there is a place.
        self.opened
            .try_send(keys)
            .map_err(|_| UnsealError::NotSealed)?;
        Ok(true)
    }

    /// The number of a share that was taken, and the keys, or none while more shares are needed.
    async fn open(
        &self,
        slot: &Slot,
        sent: &SentToSealed,
        from: IpAddr,
    ) -> (Option<u8>, Result<Option<Keys>, UnsealError>) {
        let (taken, secret) = match slot.identity.source() {
            Ok(SlotSource::KeyFile | SlotSource::Passphrase(_)) => (None, self.secret(sent)),
            Ok(SlotSource::Shares(_)) => match self.share(sent) {
                Ok((number, None)) => return (Some(number), Ok(None)),
                Ok((number, Some(secret))) => (Some(number), Ok(secret)),
                Err(error) => (None, Err(error)),
            },
            Ok(SlotSource::Kms(_)) | Err(_) => {
                let kind = slot.identity.kind.name();
                (None, Err(UnsealError::Kind { kind }))
            }
        };
        let secret = match secret {
            Ok(secret) => secret,
            Err(error) => return (taken, Err(error)),
        };
        let how = match taken {
            Some(_) => self.ceremonies.told(sent.slot, from),
            None => format!("unsealed by {}, from {from}", slot.identity.kind.name()),
        };
        let opened = Keys::open_with(&self.arena, self.store.as_ref(), slot, &secret, how).await;
        let opened = opened.map(Some).map_err(|error| {
            if matches!(error, UnlockError::WrongSecret) {
                let name = slot.about.name.to_string();
                return UnsealError::WrongSecret { name };
            }
            UnsealError::Store(error)
        });
        (taken, opened)
    }

    /// A whole secret that was sent.
    fn secret(&self, sent: &SentToSealed) -> Result<Key, UnsealError> {
        self.arena.key_with(|cell| self.open_into(sent, cell))
    }

    fn open_into(&self, sent: &SentToSealed, out: &mut [u8]) -> Result<(), UnsealError> {
        let channel = UnsealChannel {
            store: self.store.id(),
            broker_id: &self.broker.to_string(),
            boot: self.boot,
            boot_key: self.public,
            slot: sent.slot,
        };
        let boot_key = self.boot_key.lock().unwrap_or_else(PoisonError::into_inner);
        let boot_key = boot_key.as_ref().ok_or(UnsealError::NotSealed)?;
        let boot_key = SecretKey::new(boot_key.expose());
        let opened = channel.open(boot_key, &sent.enc, &sent.sealed, out);
        opened.map_err(|_| UnsealError::Sealed)
    }

    /// Tries what the settings name, at the word of somebody on this machine: also after an operator's seal.
    ///
    /// # Errors
    /// [`UnsealError`].
    ///
    /// # Cancel safety
    /// Dropped early, it has opened nothing.
    pub async fn unseal_by_settings(&self) -> Result<SlotName, UnsealError> {
        let turn = tokio::time::timeout(TURN, self.turn.acquire()).await;
        let _turn = turn.map_err(|_| UnsealError::Busy)?;
        if self.opened.is_closed() {
            return Err(UnsealError::NotSealed);
        }
        let opened = Keys::open_by(&self.arena, self.store.as_ref(), &self.openers).await;
        let opened = opened.map_err(|error| {
            if error.lacks_an_opener() {
                return UnsealError::Openers(with_causes(&error));
            }
            UnsealError::Store(error)
        })?;
        let opened = opened.also_told("asked for on the admin socket");
        let name = opened.opening().name.clone();
        self.opened
            .try_send(opened)
            .map_err(|_| UnsealError::NotSealed)?;
        Ok(name)
    }

    async fn note(
        &self,
        slot: SlotId,
        (ending, share): (Ending, Option<u8>),
        from: IpAddr,
    ) -> Result<(), UnsealError> {
        let attempt = Attempt {
            time_ms: self.clock.now_ms(),
            slot,
            ending,
            share,
            from: from.to_string(),
        };
        tracing::warn!(%slot, %from, ending = attempt.told(), "an attempt to unseal");
        let (attempts, refused) = (Arc::clone(&self.attempts), self.take_refused());
        let noted = tokio::task::spawn_blocking(move || {
            let mut attempts = attempts.lock().unwrap_or_else(PoisonError::into_inner);
            attempts.count_refused(refused);
            attempts.note(attempt)
        });
        let noted = noted.await.map_err(|_| UnsealError::NotSealed)?;
        noted.map_err(UnsealError::Record)
    }

    /// Counts one that was not tried. A flood of them is written down once in a while, not one by one.
    fn not_tried(&self) {
        let due = {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            let (counted, written) = &mut *refused;
            counted.add(Counted::one(self.clock.now_ms()));
            let due = written.is_none_or(|at| at.elapsed() >= COUNTS);
            if due {
                *written = Some(Instant::now());
            }
            due
        };
        if due {
            tracing::warn!("there are too many attempts to unseal, and not all are tried");
            // Nobody waits for it: a refusal opens nothing.
            tokio::task::spawn_blocking(self.write_refused());
        }
    }

    fn take_refused(&self) -> Counted {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut refused.0)
    }

    fn write_refused(&self) -> impl FnOnce() + Send + 'static {
        let (attempts, refused) = (Arc::clone(&self.attempts), self.take_refused());
        move || {
            let mut attempts = attempts.lock().unwrap_or_else(PoisonError::into_inner);
            attempts.count_refused(refused);
            if let Err(error) = attempts.save() {
                tracing::warn!(%error, "attempts that were not tried are not on record yet");
            }
        }
    }
}

/// How an attempt ended, and the number of the share that it was.
fn ending(taken: Option<u8>, tried: &Result<Option<Keys>, UnsealError>) -> (Ending, Option<u8>) {
    match tried {
        Ok(Some(_)) => (Ending::Opened, taken),
        Ok(None) => (Ending::ShareTaken, taken),
        Err(UnsealError::Share(ShareError::Wrong { index })) => (Ending::WrongShare, Some(*index)),
        Err(UnsealError::Share(ShareError::Twice { index })) => (Ending::ShareTwice, Some(*index)),
        Err(UnsealError::Share(ShareError::OtherSet)) => (Ending::OtherSet, None),
        Err(UnsealError::WrongSecret { .. }) => (Ending::WrongSecret, taken),
        Err(UnsealError::Sealed) => (Ending::NotForThis, None),
        Err(UnsealError::Kind { .. }) => (Ending::Kind, None),
        Err(_) => (Ending::Failed, taken),
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
