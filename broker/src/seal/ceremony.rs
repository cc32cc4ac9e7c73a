//! Collecting the shares of one slot, from several people, within a quarter of an hour: a core without time or transport.
//!
//! ```text
//! nothing given --a share of the set--> some given, ends in 15 min --enough of them--> the secret
//!       ^                                          |
//!       +--- its time is over: wiped, and said ----+
//! ```
//! A share that is wrong, of another set or there already changes nothing: neither what was given nor when it ends. A share
//! whose attempt fails in the end is taken back, so that it can be given again. Nothing of it is ever stored: shares lie in
//! the arena, and are wiped with the ceremony. One sending that comes twice, since its answer was lost, is one share: it is told
//! from another by the sender's half of its HPKE setup, which is drawn anew for each.

use std::time::{Duration, Instant};

use attache_arena::{Arena, ArenaError, Key};
use attache_envelope::EnvelopeError;
use attache_envelope::shares::{SHARE_BYTES, ShareError, ShareSet};
use attache_envelope::x25519::Enc;
use thiserror::Error;

use crate::keys::KeysError;

/// How long a ceremony lasts from its first share.
const LASTS: Duration = Duration::from_secs(15 * 60);

/// The shares of one slot.
pub(super) struct Ceremony {
    set: ShareSet,
    /// In the order in which they came.
    given: Vec<Given>,
    /// When it ends, once there is a share.
    ends: Option<Instant>,
    /// When the last one ended that had too few.
    lapsed: Option<Instant>,
}

/// A share that was given.
struct Given {
    index: u8,
    value: Key,
    sending: Enc,
}

/// Where a ceremony stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// The numbers of the shares that were given, ascending.
    pub(super) given: Vec<u8>,
    /// How long it still lasts, once there is a share.
    pub(super) left: Option<Duration>,
    /// How long ago the last one ended that had too few.
    pub(super) lapsed: Option<Duration>,
}

/// What a share brought about.
pub(super) enum Taken {
    /// More are needed.
    Collected,
    /// The slot's secret. What was given stays until the ceremony is over or what the secret opens is open.
    Whole(Key),
}

/// Why a share was not taken.
#[derive(Debug, Error)]
pub(super) enum CeremonyError {
    /// It is not one that is needed.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// No locked memory left, or too few shares, which is a defect.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

impl From<ArenaError> for CeremonyError {
    fn from(error: ArenaError) -> Self {
        Self::Keys(error.into())
    }
}

impl From<EnvelopeError> for CeremonyError {
    fn from(error: EnvelopeError) -> Self {
        Self::Keys(error.into())
    }
}

impl Ceremony {
    pub(super) fn new(set: ShareSet) -> Self {
        Self {
            set,
            given: Vec::new(),
            ends: None,
            lapsed: None,
        }
    }

    /// The set that the shares are held against.
    pub(super) fn set(&self) -> &ShareSet {
        &self.set
    }

    /// Wipes what was given, if its time is over, and says how many there were then.
    pub(super) fn expire(&mut self, now: Instant) -> Option<usize> {
        let ended = self.ends.filter(|ends| now >= *ends)?;
        let given = self.given.len();
        self.given.clear();
        self.ends = None;
        self.lapsed = Some(ended);
        Some(given)
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        let mut given: Vec<_> = self.given.iter().map(|given| given.index).collect();
        given.sort_unstable();
        Standing {
            given,
            left: self.ends.map(|ends| ends.saturating_duration_since(now)),
            lapsed: self.lapsed.map(|at| now.saturating_duration_since(at)),
        }
    }

    /// Takes a share, and answers its number. The same sending of one that was taken is taken again and changes nothing.
    pub(super) fn take(
        &mut self,
        arena: &Arena,
        share: &[u8; SHARE_BYTES],
        sending: Enc,
        now: Instant,
    ) -> Result<(u8, Taken), CeremonyError> {
        self.expire(now);
        let (index, value) = self.set.check_bytes(share)?;
        if let Some(known) = self.given.iter().find(|given| given.index == index) {
            return if known.sending == sending {
                Ok((index, Taken::Collected))
            } else {
                Err(ShareError::Twice { index }.into())
            };
        }
        let value = arena.key_with(|cell| {
            cell.copy_from_slice(value);
            Ok::<(), ArenaError>(())
        })?;
        self.given.push(Given {
            index,
            value,
            sending,
        });
        self.ends.get_or_insert(now + LASTS);
        if self.given.len() < usize::from(self.set.threshold()) {
            return Ok((index, Taken::Collected));
        }
        match self.secret(arena) {
            Ok(secret) => Ok((index, Taken::Whole(secret))),
            Err(error) => {
                self.take_back(index);
                Err(error)
            }
        }
    }

    /// Wipes one share, whose attempt came to nothing.
    pub(super) fn take_back(&mut self, index: u8) {
        self.given.retain(|given| given.index != index);
        if self.given.is_empty() {
            self.ends = None;
        }
    }

    fn secret(&self, arena: &Arena) -> Result<Key, CeremonyError> {
        let shares = self.given.iter();
        let shares = shares.map(|given| (given.index, given.value.expose()));
        let shares: Vec<_> = shares.collect();
        arena.key_with(|cell| -> Result<(), CeremonyError> { Ok(self.set.combine(&shares, cell)?) })
    }
}

#[cfg(test)]
mod tests;
