//! The ceremonies of a sealed broker: one for each slot that shares open.
//!
//! A share is opened in locked memory, held against its slot's set, and lies in the arena until enough are there or its time
//! is over. One attempt runs at a time, so that no two shares meet here.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use attache_arena::{Key, LockedBuf};
use attache_envelope::id::SlotId;
use attache_envelope::shares::{SHARE_BYTES, ShareSet};
use attache_envelope::slot::{Slot, SlotSource};

use super::ceremony::{Ceremony, CeremonyError, Standing, Taken};
use super::{Sealed, SentToSealed, UnsealError};

/// Ceremonies are looked at this often, so that shares go when their time is over, also when nobody asks any more.
const SWEEP: Duration = Duration::from_secs(5);

/// The ceremony of a slot.
#[derive(Debug, Clone)]
pub struct Collecting {
    /// By which shares are known.
    pub set: ShareSet,
    /// The numbers of the shares that were given, ascending.
    pub given: Vec<u8>,
    /// When it ends, in milliseconds since 1970, once there is a share.
    pub ends_ms: Option<u64>,
    /// When the last one ended that had too few.
    pub lapsed_ms: Option<u64>,
}

/// The ceremonies, by slot.
pub(super) struct Ceremonies(Mutex<BTreeMap<SlotId, Ceremony>>);

impl Ceremonies {
    pub(super) fn of(slots: &[Slot]) -> Self {
        let of_shares = |slot: &Slot| match slot.identity.source() {
            Ok(SlotSource::Shares(set)) => Some((slot.identity.slot, Ceremony::new(set))),
            Ok(SlotSource::KeyFile | SlotSource::Passphrase(_) | SlotSource::Kms(_)) | Err(_) => {
                None
            }
        };
        Self(Mutex::new(slots.iter().filter_map(of_shares).collect()))
    }

    /// Wipes what was given. Nothing is taken any more.
    pub(super) fn end(&self) {
        self.lock().clear();
    }

    /// Wipes one share, whose attempt came to nothing.
    pub(super) fn take_back(&self, slot: SlotId, number: u8) {
        if let Some(ceremony) = self.lock().get_mut(&slot) {
            ceremony.take_back(number);
        }
    }

    /// How a whole ceremony opens its slot, for the audit log.
    pub(super) fn told(&self, slot: SlotId, from: IpAddr) -> String {
        let ceremonies = self.lock();
        let standing = ceremonies
            .get(&slot)
            .map(|ceremony| ceremony.standing(Instant::now()));
        let given = standing.map(|standing| standing.given);
        let numbers: Vec<_> = given.iter().flatten().map(u8::to_string).collect();
        format!(
            "unsealed by shares {}, the last from {from}",
            numbers.join(", ")
        )
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SlotId, Ceremony>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sealed {
    /// The ceremony of a slot, if shares open it.
    #[must_use]
    pub fn collecting(&self, slot: SlotId) -> Option<Collecting> {
        let (mut ceremonies, now) = (self.ceremonies.lock(), Instant::now());
        let ceremony = ceremonies.get_mut(&slot)?;
        expire(slot, ceremony, now);
        let Standing {
            given,
            left,
            lapsed,
            ..
        } = ceremony.standing(now);
        let now_ms = self.clock.now_ms();
        let ms = |of: Duration| u64::try_from(of.as_millis()).unwrap_or(u64::MAX);
        Some(Collecting {
            set: ceremony.set().clone(),
            given,
            ends_ms: left.map(|left| now_ms.saturating_add(ms(left))),
            lapsed_ms: lapsed.map(|ago| now_ms.saturating_sub(ms(ago))),
        })
    }

    /// Wipes the shares of ceremonies whose time is over, for as long as it runs.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn sweep(&self) -> Infallible {
        loop {
            tokio::time::sleep(SWEEP).await;
            let now = Instant::now();
            for (slot, ceremony) in self.ceremonies.lock().iter_mut() {
                expire(*slot, ceremony, now);
            }
        }
    }

    /// Gives a share that was sent to its ceremony: its number, and the slot's secret once there are enough.
    pub(super) fn share(&self, sent: &SentToSealed) -> Result<(u8, Option<Key>), UnsealError> {
        let mut bytes = LockedBuf::new(SHARE_BYTES)?;
        self.open_into(sent, bytes.as_mut_slice())?;
        let share = bytes.as_slice().first_chunk().ok_or(UnsealError::Sealed)?;
        let mut ceremonies = self.ceremonies.lock();
        let ceremony = ceremonies.get_mut(&sent.slot);
        let ceremony = ceremony.ok_or(UnsealError::NotSealed)?;
        let now = Instant::now();
        expire(sent.slot, ceremony, now);
        match ceremony.take(&self.arena, share, sent.enc, now) {
            Ok((number, Taken::Whole(secret))) => Ok((number, Some(secret))),
            Ok((number, Taken::Collected)) => Ok((number, None)),
            Err(CeremonyError::Share(error)) => Err(error.into()),
            Err(CeremonyError::Keys(error)) => Err(error.into()),
        }
    }
}

fn expire(slot: SlotId, ceremony: &mut Ceremony, now: Instant) {
    if let Some(given) = ceremony.expire(now) {
        tracing::warn!(%slot, given, "the time for the shares of a slot is over: those that were given are wiped");
    }
}
