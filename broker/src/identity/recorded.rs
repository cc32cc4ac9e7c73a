//! Which keys of an identity are live: a pure state machine over current, next and previous.
//!
//! A renewal records *next*; it becomes *current* with the first call made with it, and the old one stays *previous* for
//! ten minutes, so that calls in flight and a lost answer do no harm. A call with any other key that our CA has signed
//! comes from a copy of the identity: the caller alarms and bans.
//!
//! ```text
//!   renew(from current)      {cur: A}            -> {cur: A, next: B}
//!   renew(from current)      {cur: A, next: B}   -> {cur: A, next: C}      no alarm: the answer was lost
//!   first call with B        {cur: A, next: B}   -> {cur: B, prev: A until now + 10 min}
//!   renew(from next)         first promotes, then as from current
//!   call with A, in time     {cur: B, prev: A}   -> admitted, may not renew
//!   call with A, later, or with anything else    -> a copy
//! ```

use attache_mtls::identity::SpkiSha256;
use jiff::{SignedDuration, Timestamp};

/// How long a superseded key is still admitted.
pub const PREVIOUS_GRACE: SignedDuration = SignedDuration::from_mins(10);

/// One key of an identity, as certified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedKey {
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki: SpkiSha256,
    /// The certificate's serial, lower-case hexadecimal.
    pub serial: String,
    /// The certificate's last second.
    pub not_after: Timestamp,
    /// The epoch of the CA that signed it.
    pub ca: u32,
}

/// The live keys of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedKeys {
    /// The key in use.
    pub current: RecordedKey,
    /// Certified, not used yet.
    pub next: Option<RecordedKey>,
    /// Superseded, and when.
    pub previous: Option<(RecordedKey, Timestamp)>,
}

/// How a presented key stands to the recorded ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The key in use.
    Current,
    /// The next key, used for the first time: promote it before anything else.
    Next,
    /// The key before, within its ten minutes.
    Previous,
    /// Signed by our CA and not live: somebody holds a copy.
    Copy,
}

impl RecordedKeys {
    /// The keys of an identity that has just been certified for the first time.
    #[must_use]
    pub fn first(key: RecordedKey) -> Self {
        Self {
            current: key,
            next: None,
            previous: None,
        }
    }

    /// How a presented key stands at `now`.
    #[must_use]
    pub fn standing(&self, presented: SpkiSha256, now: Timestamp) -> Standing {
        if self.current.spki == presented {
            return Standing::Current;
        }
        if self.next.as_ref().is_some_and(|k| k.spki == presented) {
            return Standing::Next;
        }
        match &self.previous {
            Some((key, since))
                if key.spki == presented && now.duration_since(*since) <= PREVIOUS_GRACE =>
            {
                Standing::Previous
            }
            Some(_) | None => Standing::Copy,
        }
    }

    /// The next key has been used: it is the current one from now on. Without a next key nothing changes.
    #[must_use]
    pub fn promoted(self, now: Timestamp) -> Self {
        match self.next {
            Some(next) => Self {
                current: next,
                next: None,
                previous: Some((self.current, now)),
            },
            None => self,
        }
    }

    /// A renewal from the current key was signed: `key` is the next one, in place of any other.
    #[must_use]
    pub fn renewed(self, key: RecordedKey) -> Self {
        Self {
            next: Some(key),
            ..self
        }
    }

    /// The last instant at which any live key's certificate is valid.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.next.as_ref().map_or(self.current.not_after, |n| {
            n.not_after.max(self.current.not_after)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> RecordedKey {
        RecordedKey {
            spki: SpkiSha256::from_bytes([n; 32]),
            serial: format!("{n:02x}"),
            not_after: at(3600),
            ca: 1,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn a_lost_answer_does_not_alarm() {
        let keys = RecordedKeys::first(key(1)).renewed(key(2)).renewed(key(3));
        assert_eq!(keys.standing(key(1).spki, at(0)), Standing::Current);
        assert_eq!(keys.standing(key(3).spki, at(0)), Standing::Next);
        assert_eq!(keys.standing(key(2).spki, at(0)), Standing::Copy);
    }

    #[test]
    fn the_key_before_is_admitted_for_ten_minutes_and_is_a_copy_after() {
        let keys = RecordedKeys::first(key(1)).renewed(key(2)).promoted(at(0));
        assert_eq!(keys.standing(key(2).spki, at(0)), Standing::Current);
        assert_eq!(keys.standing(key(1).spki, at(600)), Standing::Previous);
        assert_eq!(keys.standing(key(1).spki, at(601)), Standing::Copy);
    }

    #[test]
    fn the_key_before_the_one_before_is_a_copy() {
        let keys = RecordedKeys::first(key(1))
            .renewed(key(2))
            .promoted(at(0))
            .renewed(key(3))
            .promoted(at(1));
        assert_eq!(keys.standing(key(1).spki, at(1)), Standing::Copy);
        assert_eq!(keys.standing(key(2).spki, at(1)), Standing::Previous);
    }

    #[test]
    fn promoting_without_a_next_key_changes_nothing() {
        let keys = RecordedKeys::first(key(1));
        assert_eq!(keys.clone().promoted(at(0)), keys);
    }

    proptest! {
        /// Against the history itself: whatever the order of renewals and first uses, the newest used key is current,
        /// the one used before it is previous for ten minutes, the last renewed and unused is next, all else a copy.
        #[test]
        fn standing_follows_the_history(steps in proptest::collection::vec((any::<bool>(), 0_i64..1200), 0..12)) {
            let mut keys = RecordedKeys::first(key(0));
            let (mut now, mut made) = (0, 0_u8);
            let (mut used, mut pending, mut since) = (vec![0_u8], None, 0);
            for (renew, pause) in steps {
                now += pause;
                if renew {
                    made += 1;
                    keys = keys.renewed(key(made));
                    pending = Some(made);
                } else if let Some(n) = pending.take() {
                    keys = keys.promoted(at(now));
                    used.push(n);
                    since = now;
                }
            }
            for n in 0..=made {
                let before = used.len().checked_sub(2).map(|i| used[i]);
                let expected = if used.last() == Some(&n) { Standing::Current }
                    else if pending == Some(n) { Standing::Next }
                    else if before == Some(n) && now - since <= 600 { Standing::Previous }
                    else { Standing::Copy };
                prop_assert_eq!(keys.standing(key(n).spki, at(now)), expected, "key {}", n);
            }
        }
    }
}
