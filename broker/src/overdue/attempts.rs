//! When the broker rotates a key by itself: a core without IO, to which every time is told.
//!
//! ```text
//! overdue, and a new key mends it, and the keyspace says so, and none is under way -> rotate
//!   rotated -> not before FLOOR        failed -> not before a wait that doubles, FLOOR at most
//! ```
//! `FLOOR` goes by the monotonic clock: however the other one steps, a keyspace is not rotated twice in it. What is
//! forgotten by a restart is bounded by the key itself: no age is shorter than `FLOOR`, and a young key of a second epoch
//! waits.

use std::collections::BTreeMap;
use std::time::Duration;

use attache_envelope::name::Keyspace;
use tokio::time::Instant;

use crate::vault::{ActiveKey, Overdue};

/// Rotations of one keyspace by the broker itself are so far apart.
pub(super) const FLOOR: Duration = Duration::from_secs(60 * 60);
/// After one that failed.
const FIRST_WAIT: Duration = Duration::from_secs(60);

/// What is done about a key that is overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is rotated now.
    Rotate,
    /// Only an operator can, or may.
    Operator,
    /// The rotation before is not at its end.
    UnderWay,
    /// Not yet.
    Later,
}

/// What was tried, by keyspace.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    of: BTreeMap<Keyspace, Attempt>,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    not_before: Instant,
    failures: u32,
}

impl Attempts {
    /// What is to be done about an active key that is past something. `under_way`: a key of its keyspace is decrypt-only.
    pub(super) fn decide(
        &self,
        key: &ActiveKey,
        past: Overdue,
        under_way: bool,
        (now_ms, now): (u64, Instant),
    ) -> Decision {
        if !key.policy.automatic || !past.is_mended_by_a_rotation() {
            return Decision::Operator;
        }
        if under_way {
            return Decision::UnderWay;
        }
        // One whose date is ahead of the clock is not young: nobody knows how old it is.
        let age_ms = now_ms.checked_sub(key.created_ms);
        let young = age_ms.is_some_and(|age_ms| u128::from(age_ms) < FLOOR.as_millis());
        let tried = self.of.get(&key.key.keyspace);
        if tried.is_some_and(|it| now < it.not_before) || (young && key.key.epoch.get() > 1) {
            return Decision::Later;
        }
        Decision::Rotate
    }

    /// A keyspace was rotated.
    pub(super) fn rotated(&mut self, keyspace: &Keyspace, now: Instant) {
        let attempt = Attempt {
            not_before: now + FLOOR,
            failures: 0,
        };
        self.of.insert(keyspace.clone(), attempt);
    }

    /// It could not be; answers how long it is left alone.
    pub(super) fn failed(&mut self, keyspace: &Keyspace, now: Instant) -> Duration {
        let before = self.of.get(keyspace).map_or(0, |it| it.failures);
        let doubled = FIRST_WAIT.saturating_mul(1 << before.min(16));
        let wait = doubled.min(FLOOR);
        let attempt = Attempt {
            not_before: now + wait,
            failures: before.saturating_add(1),
        };
        self.of.insert(keyspace.clone(), attempt);
        wait
    }
}

#[cfg(test)]
mod tests {
    use attache_envelope::body::KeyPolicy;

    use super::*;

    const MADE: u64 = 1_800_000_000_000;
    const HOUR_MS: u64 = 3_600_000;
    const AGED: Overdue = Overdue::Age {
        age_s: 3_600,
        limit_s: 3_600,
    };
    const WRAPPED: Overdue = Overdue::Wraps { wraps: 5, limit: 5 };

    fn key(epoch: u32, automatic: bool) -> ActiveKey {
        ActiveKey {
            key: format!("payments@{epoch}").parse().unwrap(),
            policy: KeyPolicy {
                max_age_s: 3_600,
                max_wraps: 5,
                automatic,
                backup_age_s: 0,
            },
            created_ms: MADE,
            values: Some(1),
            wraps: 5,
        }
    }

    fn payments() -> Keyspace {
        "payments".parse().unwrap()
    }

    #[test]
    fn only_what_a_rotation_mends_is_rotated_and_only_where_the_keyspace_says_so() {
        let (attempts, at) = (Attempts::default(), (MADE + HOUR_MS, Instant::now()));
        let decide = |key: &ActiveKey, past, under_way| attempts.decide(key, past, under_way, at);
        assert_eq!(decide(&key(1, true), AGED, false), Decision::Rotate);
        assert_eq!(decide(&key(1, true), AGED, true), Decision::UnderWay);
        assert_eq!(decide(&key(1, false), AGED, false), Decision::Operator);
        let full = Overdue::Values {
            values: 5,
            limit: 5,
        };
        assert_eq!(decide(&key(1, true), full, false), Decision::Operator);
        let ahead = Overdue::Ahead { created_ms: MADE };
        assert_eq!(decide(&key(1, true), ahead, false), Decision::Operator);
    }

    #[test]
    fn however_the_clock_steps_a_keyspace_is_rotated_once_in_the_floor() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let mut rotations = Vec::new();
        // A clock that stands somewhere else each minute: every key is too old at every look.
        for minute in 0..180_u32 {
            let now = start + Duration::from_secs(60) * minute;
            let wall = MADE + u64::from(minute) * 24 * HOUR_MS;
            let key = ActiveKey {
                created_ms: wall - 23 * HOUR_MS,
                ..key(minute + 1, true)
            };
            if attempts.decide(&key, AGED, false, (wall, now)) == Decision::Rotate {
                attempts.rotated(&payments(), now);
                rotations.push(minute);
            }
        }
        assert_eq!(rotations, [0, 60, 120]);
    }

    #[test]
    fn a_restart_does_not_rotate_a_young_key_again() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let young = (MADE + HOUR_MS - 1, now);
        let decide = |epoch, at| attempts.decide(&key(epoch, true), WRAPPED, false, at);
        assert_eq!(decide(2, young), Decision::Later);
        assert_eq!(decide(2, (MADE + HOUR_MS, now)), Decision::Rotate);
        // The first one was made with its keyspace, and by no rotation.
        assert_eq!(decide(1, young), Decision::Rotate);
    }

    #[test]
    fn what_fails_is_left_alone_for_longer_and_longer_and_tried_on() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let minutes = |wait: Duration| wait.as_secs() / 60;
        let mut waits = Vec::new();
        let mut now = start;
        for _ in 0..9 {
            let wait = attempts.failed(&payments(), now);
            let decide = |at| attempts.decide(&key(1, true), AGED, false, (MADE + HOUR_MS, at));
            let just_before = now + wait.saturating_sub(Duration::from_millis(1));
            assert_eq!(decide(just_before), Decision::Later);
            now += wait;
            assert_eq!(decide(now), Decision::Rotate);
            waits.push(minutes(wait));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        attempts.rotated(&payments(), now);
        assert_eq!(minutes(attempts.failed(&payments(), now)), 1);
    }
}
