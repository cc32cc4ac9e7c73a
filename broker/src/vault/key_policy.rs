//! What a keyspace demands of its active key, held against how the key stands.
//!
//! ```text
//! overdue = too old, or wrapped too often: a new key mends it        held to a limit that it cannot keep: it does not
//! ```
//! How often a key has wrapped is known as far as this process saw it: the index says how many values it wraps now, and the
//! process how often it has wrapped since its start; the greater counts. The clock is told, and is not believed.

use std::fmt;

use attache_envelope::Table;
use attache_envelope::body::{KekBody, KekPhase, KeyPolicy, KeyspaceState};
use attache_envelope::name::{KeyRef, Keyspace};
use jiff::Timestamp;

use super::Vault;
use super::error::VaultError;
use super::key::key_ref;
use super::records::decoded;
use crate::store::{LedgerError, Store};

/// Keyspaces read at once.
const PAGE: usize = 512;
/// A key that is dated further ahead of the clock than this was made by another clock.
const AHEAD_MS: u64 = 60 * 60 * 1000;

/// A keyspace's active key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveKey {
    /// Its name.
    pub key: KeyRef,
    /// What is demanded of it.
    pub policy: KeyPolicy,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// How many values it wraps, by the index; none where they cannot be as many as the limit.
    pub values: Option<u64>,
    /// How often it has wrapped since the process started.
    pub wraps: u64,
}

/// What an active key is past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// It is older than it is to get.
    Age {
        /// How old it is, in seconds.
        age_s: u64,
        /// How old it is to get, in seconds.
        limit_s: u32,
    },
    /// It has wrapped more often than it is to.
    Wraps {
        /// How often, as far as that is known.
        wraps: u64,
        /// How often it is to.
        limit: u64,
    },
    /// It wraps so many values that the next one would be past the limit at once.
    Values {
        /// How many.
        values: u64,
        /// How often a key is to wrap.
        limit: u64,
    },
    /// It was made by a clock that was ahead of this one: its age is not known.
    Ahead {
        /// When it says that it was made, in milliseconds since 1970.
        created_ms: u64,
    },
}

impl ActiveKey {
    /// When it is too old, in milliseconds since 1970; none without such a limit.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        let age_ms = u64::from(self.policy.max_age_s) * 1000;
        (age_ms > 0).then(|| self.created_ms.saturating_add(age_ms))
    }

    /// What it is past now.
    #[must_use]
    pub fn overdue(&self, now_ms: u64) -> Option<Overdue> {
        let policy = self.policy;
        if self.due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            let age_s = now_ms.saturating_sub(self.created_ms) / 1000;
            let limit_s = policy.max_age_s;
            return Some(Overdue::Age { age_s, limit_s });
        }
        let (limit, values) = (policy.max_wraps, self.values.unwrap_or_default());
        if limit > 0 && values >= limit {
            return Some(Overdue::Values { values, limit });
        }
        if limit > 0 && self.wraps >= limit {
            let wraps = self.wraps;
            return Some(Overdue::Wraps { wraps, limit });
        }
        let ahead = self.created_ms > now_ms.saturating_add(AHEAD_MS);
        (policy.max_age_s > 0 && ahead).then_some(Overdue::Ahead {
            created_ms: self.created_ms,
        })
    }
}

impl Overdue {
    /// Whether a new key is within the limits, which the broker may make by itself.
    #[must_use]
    pub const fn is_mended_by_a_rotation(self) -> bool {
        matches!(self, Self::Age { .. } | Self::Wraps { .. })
    }
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Age { age_s, limit_s } => write!(
                f,
                "it is {} old, and is to wrap for {} at most",
                Span(*age_s),
                Span(u64::from(*limit_s))
            ),
            Self::Wraps { wraps, limit } => {
                write!(f, "it has wrapped {wraps} times, and is to {limit} at most")
            }
            Self::Values { values, limit } => write!(
                f,
                "it wraps {values} values, and a key of its keyspace is to wrap {limit} times at most: the next one would be \
                 past that at once"
            ),
            Self::Ahead { created_ms } => {
                let ms = i64::try_from(*created_ms).unwrap_or(i64::MAX);
                let at = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
                write!(
                    f,
                    "it was made at {at}, by a clock that was ahead of this one: its age is not known"
                )
            }
        }
    }
}

/// A time in its largest unit.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            s if s >= 2 * 86_400 => write!(f, "{} days", s / 86_400),
            s if s >= 2 * 3_600 => write!(f, "{} hours", s / 3_600),
            s if s >= 120 => write!(f, "{} minutes", s / 60),
            s => write!(f, "{s} seconds"),
        }
    }
}

/// The active keys of all keyspaces in use.
#[derive(Debug, Default)]
pub struct ActiveKeys {
    /// Those that can be read, by keyspace.
    pub keys: Vec<ActiveKey>,
    /// Keyspaces whose key's row is damaged.
    pub unreadable: Vec<Keyspace>,
}

impl<S: Store> Vault<S> {
    /// The active keys of all keyspaces in use, each with what is demanded of it.
    ///
    /// Counts what a key wraps where that may be past its limit, about a million a second: run it where it holds up nobody's
    /// IO.
    ///
    /// # Errors
    /// [`VaultError::Ledger`] when the keyspaces cannot be read.
    pub async fn active_keys(&self) -> Result<ActiveKeys, VaultError> {
        let (_, tip) = self.ledger.snapshot().await?;
        let values = tip.anchor.tables.get(&Table::ValueKey);
        let all_values = values.map_or(0, |sum| u64::from(sum.count()));
        let mut found = ActiveKeys::default();
        let mut after: Option<Keyspace> = None;
        loop {
            let rows = self.keyspace_rows(after.as_ref(), PAGE).await?;
            let Some((last, _)) = rows.last() else {
                return Ok(found);
            };
            after = Some(last.clone());
            for (name, keyspace) in rows {
                if keyspace.body.state != KeyspaceState::Active {
                    continue;
                }
                let (epoch, policy) = (keyspace.body.key_epoch, keyspace.body.policy);
                match self.active_key(&name, epoch, policy, all_values).await {
                    Ok(key) => found.keys.extend(key),
                    Err(VaultError::Ledger(LedgerError::Damaged { .. })) => {
                        found.unreadable.push(name);
                    }
                    Err(error) => return Err(error),
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// None when it was rotated or destroyed since its keyspace was read.
    async fn active_key(
        &self,
        keyspace: &Keyspace,
        epoch: u32,
        policy: KeyPolicy,
        all_values: u64,
    ) -> Result<Option<ActiveKey>, VaultError> {
        let row_key = KekBody::key(keyspace, epoch);
        let Some(row) = self.ledger.read(Table::Kek, &row_key).await? else {
            return Ok(None);
        };
        let kek = decoded(Table::Kek, &row_key, row, KekBody::decode)?.body;
        if kek.state.phase() != KekPhase::Active {
            return Ok(None);
        }
        let wraps = self.keks.used(kek.kek).wraps;
        let limit = policy.max_wraps;
        let values = if limit > 0 && all_values.max(wraps) >= limit {
            Some(self.count_wrapped(kek.kek).await?)
        } else {
            None
        };
        Ok(Some(ActiveKey {
            key: key_ref(&row_key)?,
            policy,
            created_ms: kek.created_ms,
            values,
            wraps,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;
    const MADE: u64 = 1_800_000_000_000;

    fn key(max_age_s: u32, max_wraps: u64, values: Option<u64>, wraps: u64) -> ActiveKey {
        ActiveKey {
            key: "payments@1".parse().unwrap(),
            policy: KeyPolicy {
                max_age_s,
                max_wraps,
                automatic: true,
                backup_age_s: 0,
            },
            created_ms: MADE,
            values,
            wraps,
        }
    }

    #[test]
    fn a_key_is_overdue_from_the_end_of_its_age_on() {
        let aged = key(90 * 86_400, 0, None, 0);
        assert_eq!(aged.due_ms(), Some(MADE + 90 * DAY_MS));
        assert_eq!(aged.overdue(MADE + 90 * DAY_MS - 1), None);
        let past = aged.overdue(MADE + 91 * DAY_MS).unwrap();
        assert_eq!(
            past.to_string(),
            "it is 91 days old, and is to wrap for 90 days at most"
        );
        assert!(past.is_mended_by_a_rotation());
        let ageless = key(0, 0, None, u64::MAX);
        assert_eq!((ageless.due_ms(), ageless.overdue(u64::MAX)), (None, None));
    }

    #[test]
    fn a_key_is_overdue_once_it_has_wrapped_as_often_as_it_is_to() {
        assert_eq!(key(0, 5, Some(2), 4).overdue(MADE), None);
        let past = key(0, 5, Some(2), 5).overdue(MADE).unwrap();
        assert_eq!(past, Overdue::Wraps { wraps: 5, limit: 5 });
        assert!(past.is_mended_by_a_rotation());
        // The next key would wrap all of them again: a new one after the other, and none within the limit.
        let past = key(0, 5, Some(5), 5).overdue(MADE).unwrap();
        assert!(!past.is_mended_by_a_rotation(), "{past}");
    }

    #[test]
    fn a_clock_that_stood_ahead_is_said_and_an_hour_of_it_is_forgiven() {
        let aged = key(3_600, 0, None, 0);
        assert_eq!(aged.overdue(MADE - AHEAD_MS), None);
        let past = aged.overdue(MADE - AHEAD_MS - 1).unwrap();
        assert!(!past.is_mended_by_a_rotation(), "{past}");
        assert!(past.to_string().contains("2027-01-15T08:00:00Z"), "{past}");
        assert_eq!(key(0, 9, None, 0).overdue(0), None);
    }
}
