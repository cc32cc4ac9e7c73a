//! How often anybody may try to unseal: a bucket for each address, so that one does not use up what the others have, and
//! one for all. Both fill by the clock.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// An address: so many at once, then one in so long.
const ADDRESS: Bounds = Bounds {
    burst: 10,
    every: Duration::from_secs(2),
};
/// All together.
const ALL: Bounds = Bounds {
    burst: 60,
    every: Duration::from_millis(50),
};
/// Addresses that are told apart; beyond them the bound of all together holds alone.
const ADDRESSES: usize = 1024;

struct Bounds {
    burst: u32,
    every: Duration,
}

/// Attempts that are owed, as the instant at which none is any more: one number a bucket.
#[derive(Clone, Copy)]
struct Bucket {
    empty_at: Instant,
}

/// The buckets.
#[derive(Default)]
pub(super) struct Rates {
    all: Option<Bucket>,
    addresses: HashMap<IpAddr, Bucket>,
}

impl Rates {
    /// Takes an attempt, or answers after what time the next one is taken.
    pub(super) fn admit(&mut self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let all = Bucket::take(self.all, &ALL, now)?;
        if !self.addresses.contains_key(&from) && self.addresses.len() >= ADDRESSES {
            self.addresses.retain(|_, bucket| bucket.empty_at > now);
        }
        let known = self.addresses.get(&from).copied();
        if known.is_some() || self.addresses.len() < ADDRESSES {
            let bucket = Bucket::take(known, &ADDRESS, now)?;
            self.addresses.insert(from, bucket);
        }
        self.all = Some(all);
        Ok(())
    }
}

impl Bucket {
    fn take(known: Option<Self>, bounds: &Bounds, now: Instant) -> Result<Self, Duration> {
        let owed_until = known.map_or(now, |bucket| bucket.empty_at.max(now));
        let empty_at = owed_until + bounds.every;
        let full = bounds.every * bounds.burst;
        match empty_at.duration_since(now).checked_sub(full) {
            None | Some(Duration::ZERO) => Ok(Self { empty_at }),
            Some(over) => Err(over),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn an_address_has_a_burst_and_then_one_every_two_seconds() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        for _ in 0..10 {
            rates.admit(address(1), now).unwrap();
        }
        assert_eq!(rates.admit(address(1), now), Err(Duration::from_secs(2)));
        let later = now + Duration::from_secs(2);
        rates.admit(address(1), later).unwrap();
        assert_eq!(rates.admit(address(1), later), Err(Duration::from_secs(2)));
    }

    #[test]
    fn one_address_uses_up_nothing_of_another_and_all_together_are_bounded() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        while rates.admit(address(1), now).is_ok() {}
        rates.admit(address(2), now).unwrap();
        let admitted = (3..=255).filter(|it| rates.admit(address(*it), now).is_ok());
        assert_eq!(admitted.count(), 60 - 11);
    }

    #[test]
    fn addresses_that_are_told_apart_are_bounded() {
        let (mut rates, mut now) = (Rates::default(), Instant::now());
        for n in 0..4000u32 {
            now += Duration::from_millis(50);
            let _ = rates.admit(IpAddr::from(n.to_be_bytes()), now);
            assert!(rates.addresses.len() <= ADDRESSES);
        }
        assert!(
            rates
                .admit(address(1), now + Duration::from_secs(60))
                .is_ok()
        );
    }
}
