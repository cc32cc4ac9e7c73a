//! When to renew a certificate: a pure function of its validity, a random draw and the clock.
//!
//! The instant is half of the certificate's life, moved by up to a tenth of it either way, so that a fleet that
//! enrolled together does not renew together. The draw is made once a certificate: a draw a tick would always find an
//! early one. The loop that calls, sleeps and retries belongs to the processes.
//!
//! ```text
//! renew_at = not_before + life * (0.4 + 0.2 * jitter / 2^32)        life = not_after - not_before
//! ```

use jiff::{SignedDuration, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};

/// How long after a sign-in an operator's certificate is renewed. What was renewed last lives to its own end.
pub const OPERATOR_RENEWS_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How long after its certificate's end a node is renewed by proof of its key: an outage must not strand a fleet.
pub const NODE_RENEWS_LATE_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A random draw, uniform over 32 bits, made once a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jitter(u32);

impl Jitter {
    /// Draws from the system's generator; the middle when that fails, since a renewal at half life is right too.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 4];
        match SystemRandom::new().fill(&mut bytes) {
            Ok(()) => Self(u32::from_be_bytes(bytes)),
            Err(_) => Self(u32::MAX / 2),
        }
    }

    /// A given draw.
    #[must_use]
    pub const fn from_u32(draw: u32) -> Self {
        Self(draw)
    }
}

/// Where a certificate stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing to do before `renew_at`.
    Fresh {
        /// When it becomes due.
        renew_at: Timestamp,
    },
    /// Renew now; the certificate still works until `not_after`.
    Due {
        /// The last second at which it works.
        not_after: Timestamp,
    },
    /// Past its end: it opens no connection any more.
    Expired {
        /// The second at which it ended.
        not_after: Timestamp,
    },
}

/// The plan for one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    renew_at: Timestamp,
    not_after: Timestamp,
}

impl Renewal {
    /// Makes the plan. A certificate whose end is not after its beginning is due at once.
    #[must_use]
    pub fn new(not_before: Timestamp, not_after: Timestamp, jitter: Jitter) -> Self {
        let life = not_after
            .as_second()
            .saturating_sub(not_before.as_second())
            .max(0);
        // life * (4/10 + 2/10 * jitter / 2^32), in 128 bits so that nothing is lost or overflows.
        let tenth = 10 * (1i128 << 32);
        let share = 4 * (1i128 << 32) + 2 * i128::from(jitter.0);
        let seconds = i64::try_from(i128::from(life) * share / tenth).unwrap_or(0);
        let renew_at = not_before
            .checked_add(SignedDuration::from_secs(seconds))
            .unwrap_or(not_before);
        Self {
            renew_at,
            not_after,
        }
    }

    /// When the certificate becomes due.
    #[must_use]
    pub fn renew_at(&self) -> Timestamp {
        self.renew_at
    }

    /// Where the certificate stands at `now`. Its last second still counts as valid, as in RFC 5280.
    #[must_use]
    pub fn freshness(&self, now: Timestamp) -> Freshness {
        if now.as_second() > self.not_after.as_second() {
            Freshness::Expired {
                not_after: self.not_after,
            }
        } else if now >= self.renew_at {
            Freshness::Due {
                not_after: self.not_after,
            }
        } else {
            Freshness::Fresh {
                renew_at: self.renew_at,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_hour_is_due_around_its_half() {
        let plan = |draw| Renewal::new(at(1_000), at(4_600), Jitter::from_u32(draw));
        assert_eq!(plan(0).renew_at(), at(1_000 + 1_440));
        assert_eq!(plan(1 << 31).renew_at(), at(1_000 + 1_800));
        assert_eq!(plan(u32::MAX).renew_at(), at(1_000 + 2_159));
    }

    #[test]
    fn the_three_states_meet_at_their_seconds() {
        let plan = Renewal::new(at(0), at(100), Jitter::from_u32(1 << 31));
        assert_eq!(
            plan.freshness(at(49)),
            Freshness::Fresh { renew_at: at(50) }
        );
        assert_eq!(
            plan.freshness(at(50)),
            Freshness::Due { not_after: at(100) }
        );
        assert_eq!(
            plan.freshness(at(100)),
            Freshness::Due { not_after: at(100) }
        );
        assert_eq!(
            plan.freshness(at(101)),
            Freshness::Expired { not_after: at(100) }
        );
    }

    #[test]
    fn a_certificate_without_a_life_is_never_fresh() {
        let plan = Renewal::new(at(500), at(400), Jitter::from_u32(u32::MAX));
        assert_eq!(plan.renew_at(), at(500));
        assert_eq!(
            plan.freshness(at(450)),
            Freshness::Expired { not_after: at(400) }
        );
        let instant = Renewal::new(at(500), at(500), Jitter::from_u32(7));
        assert_eq!(
            instant.freshness(at(500)),
            Freshness::Due { not_after: at(500) }
        );
    }

    #[test]
    fn draws_differ() {
        let draws: Vec<_> = (0..8).map(|_| Jitter::random()).collect();
        assert!(draws.iter().any(|draw| *draw != draws[0]));
    }

    proptest! {
        #[test]
        fn the_instant_lies_between_two_and_three_fifths(
            begin in -1_000_000_000i64..4_000_000_000, life in 0i64..400_000_000, draw: u32
        ) {
            let plan = Renewal::new(at(begin), at(begin + life), Jitter::from_u32(draw));
            let offset = plan.renew_at().as_second() - begin;
            prop_assert!(offset >= life * 4 / 10 && offset <= life * 6 / 10);
        }
    }
}
