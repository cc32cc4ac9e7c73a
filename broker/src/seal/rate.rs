//! How often anybody may try to unseal: a bucket for each address, so that one does not use up what the others have, and
//! one for all, of which a part is kept for those who come for the first time. All fill by the clock.
//!
//! An IPv6 network of 64 bits counts as one address: whoever has one address of it has them all. Whoever is admitted owes
//! for a while; the bound on all together is therefore one on the number of addresses that are remembered, too.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// An address: so many at once, then one in so long.
const ADDRESS: Bounds = Bounds {
    burst: 10,
    every: Duration::from_secs(2),
};
/// All together, with what is kept for those who owe nothing.
const ALL: Bounds = Bounds {
    burst: 60,
    every: Duration::from_millis(50),
};
/// What those who owe may take of it.
const KNOWN: Bounds = Bounds {
    burst: 40,
    every: ALL.every,
};
/// Addresses that are told apart; never more owe at one time, and one that owes nothing need not be remembered.
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
        let from = network(from);
        let known = self.addresses.get(&from).copied();
        let owes = known.is_some_and(|bucket| bucket.empty_at > now);
        // First its own: what one address is refused takes nothing from the others.
        let own = Bucket::take(known, &ADDRESS, now)?;
        let bounds = if owes { &KNOWN } else { &ALL };
        let all = Bucket::take(self.all, bounds, now)?;
        if self.addresses.len() >= ADDRESSES {
            self.addresses.retain(|_, bucket| bucket.empty_at > now);
        }
        self.addresses.insert(from, own);
        self.all = Some(all);
        Ok(())
    }
}

/// What counts as one address.
fn network(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
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
    fn a_flood_from_many_addresses_leaves_room_for_those_who_come_for_the_first_time() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        for _ in 0..20 {
            for last in 1..=8 {
                let _ = rates.admit(address(last), now);
            }
        }
        assert!(rates.admit(address(1), now).is_err());
        let newcomers = (100..=255).filter(|it| rates.admit(address(*it), now).is_ok());
        assert_eq!(newcomers.count(), 20);
    }

    #[test]
    fn a_network_of_64_bits_is_one_address_and_an_ipv4_one_is_itself_in_either_form() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let within = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, host, 0, 0, host]);
        let admitted = (0..100).filter(|host| rates.admit(within(*host), now).is_ok());
        assert_eq!(admitted.count(), 10);
        rates
            .admit(IpAddr::from([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1]), now)
            .unwrap();
        while rates.admit(address(1), now).is_ok() {}
        let mapped = std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped();
        assert!(rates.admit(mapped.into(), now).is_err());
    }

    #[test]
    fn addresses_that_are_remembered_are_bounded() {
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
