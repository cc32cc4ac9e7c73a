//! Rotations that end: the values of every decrypt-only key are wrapped again in the background, then it is retired.
//!
//! ```text
//! start: every decrypt-only key        rotate: the one before
//!   -> job (what next) -> a page wrapped again (vault) -> one commit -> ... -> retirement on record -> retired -> anchor on record
//! ```
//! Keys take turns, a page each, in a room of the `background`.

mod job;
mod pace;
mod worker;

use std::time::Duration;

use attache_envelope::name::{KeyRef, Keyspace};

use crate::background::UnderWay;
pub use worker::Worker;

/// Which keys are being re-wrapped, and how far each is. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Rotations {
    under_way: UnderWay<KeyRef, Progress>,
}

/// How far a key is whose values are wrapped again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// How many values it wrapped in the beginning; 0 until that is counted.
    pub total: u64,
    /// How many of them are wrapped again.
    pub done: u64,
    /// How many a second may be; 0 for as many as go.
    pub limit: u32,
    /// How many a second are, on average since this process took it up.
    pub per_second: u64,
    /// How many values cannot be read, of those that were looked at in this pass.
    pub unreadable: u64,
    /// Why it stands still, while it does.
    pub problem: Option<String>,
}

impl Progress {
    /// How long it takes from now at this speed; none when that is not known.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let values = self.total.checked_sub(self.done)?;
        if self.total == 0 || self.per_second == 0 {
            return None;
        }
        Some(Duration::from_secs(values.div_ceil(self.per_second)))
    }
}

impl Rotations {
    /// Takes up a key that has just become decrypt-only.
    pub fn begin(&self, key: KeyRef, limit: u32) {
        let progress = Progress {
            limit,
            ..Progress::default()
        };
        self.under_way.begin(key, progress);
    }

    /// The first `limit` keys after `after` that are under way, of one keyspace or of all.
    #[must_use]
    pub fn under_way(
        &self,
        keyspace: Option<&Keyspace>,
        after: Option<&KeyRef>,
        limit: usize,
    ) -> Vec<(KeyRef, Progress)> {
        self.under_way.page(after, limit, |key| {
            keyspace.is_none_or(|keyspace| key.keyspace == *keyspace)
        })
    }
}
