use proptest::prelude::*;

use super::*;
use crate::SystemRandom;

fn bytes(share: &Share) -> [u8; SHARE_BYTES] {
    let mut out = [0; SHARE_BYTES];
    share.write(&mut out);
    out
}

fn copy(share: &Share) -> Share {
    Share::from_bytes(&bytes(share))
}

fn split_of(secret: &[u8; 32], threshold: u8, count: u8) -> (ShareSet, Vec<Share>) {
    split(&SystemRandom, SlotSecret::new(secret), threshold, count).unwrap()
}

fn combined(set: &ShareSet, shares: &[&Share]) -> Result<[u8; 32], EnvelopeError> {
    let mut collected = Collected::new(set);
    for share in shares {
        collected.take(copy(share)).unwrap();
    }
    let mut out = [0; 32];
    collected.combine(&mut out).map(|()| out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_shares_of_the_threshold_give_the_secret_back_in_any_order(
        secret: [u8; 32],
        (threshold, count) in (2u8..=6).prop_flat_map(|n| (Just(n), n..=9)),
        seed: u64,
    ) {
        let (set, shares) = split_of(&secret, threshold, count);
        prop_assert_eq!(ShareSet::decode(&set.encode()), Ok(set.clone()));
        // An order of the seed's own.
        let mut order: Vec<&Share> = shares.iter().collect();
        order.sort_by_key(|share| seed.rotate_left(u32::from(share.index) * 7) ^ u64::from(share.index));
        let enough = usize::from(threshold);
        prop_assert_eq!(combined(&set, &order[..enough]), Ok(secret));
        prop_assert_eq!(combined(&set, &order), Ok(secret));
        prop_assert!(combined(&set, &order[..enough - 1]).is_err());
    }

    #[test]
    fn a_share_with_any_bit_flipped_is_told_and_spoils_nothing(secret: [u8; 32], at in 0..SHARE_BYTES * 8) {
        let (set, shares) = split_of(&secret, 2, 3);
        let mut flipped = bytes(&shares[0]);
        flipped[at / 8] ^= 1 << (at % 8);
        let mut collected = Collected::new(&set);
        prop_assert_eq!(collected.take(copy(&shares[1])), Ok(1));
        let good = bytes(&shares[0]);
        prop_assert_eq!(set.check_bytes(&good), Ok((1, shares[0].value())));
        let refused = collected.take(Share::from_bytes(&flipped)).unwrap_err();
        prop_assert_eq!(set.check_bytes(&flipped), Err(refused));
        let expected = if at < 128 {
            ShareError::OtherSet
        } else {
            ShareError::Wrong { index: flipped[16] }
        };
        prop_assert_eq!(refused, expected);
        prop_assert_eq!(collected.take(copy(&shares[2])), Ok(0));
        let mut out = [0; 32];
        collected.combine(&mut out).unwrap();
        prop_assert_eq!(out, secret);
    }

    #[test]
    fn hostile_sets_never_panic(bytes: Vec<u8>) {
        let _ = ShareSet::decode(&bytes);
    }
}

#[test]
fn the_three_faults_of_a_share_are_told_apart_and_what_was_collected_stays() {
    let (set, shares) = split_of(&[7; 32], 3, 5);
    let (_, others) = split_of(&[7; 32], 3, 5);
    let mut collected = Collected::new(&set);
    assert_eq!(collected.take(copy(&shares[4])), Ok(2));
    assert_eq!(
        collected.take(copy(&shares[4])),
        Err(ShareError::Twice { index: 5 })
    );
    assert_eq!(collected.take(copy(&others[0])), Err(ShareError::OtherSet));
    let mut wrong = copy(&shares[0]);
    wrong.y[31] ^= 1;
    assert_eq!(collected.take(wrong), Err(ShareError::Wrong { index: 1 }));
    for index in [0, 6, 255] {
        let mut beyond = copy(&shares[0]);
        beyond.index = index;
        assert_eq!(collected.take(beyond), Err(ShareError::Wrong { index }));
    }
    assert_eq!(collected.needed(), 2);
    let mut out = [9; 32];
    assert!(collected.combine(&mut out).is_err());
    assert_eq!(out, [9; 32]);
    assert_eq!(collected.take(copy(&shares[0])), Ok(1));
    assert_eq!(collected.take(copy(&shares[2])), Ok(0));
    collected.combine(&mut out).unwrap();
    assert_eq!(out, [7; 32]);
}

#[test]
fn a_set_has_at_least_two_and_at_most_all_needed() {
    let refused = |threshold, count| {
        split(&SystemRandom, SlotSecret::new(&[1; 32]), threshold, count).is_err()
    };
    for (threshold, count) in [(0, 3), (1, 3), (4, 3), (2, 1), (2, 33), (255, 255)] {
        assert!(refused(threshold, count), "{threshold} of {count}");
    }
    assert!(!refused(2, 2) && !refused(32, 32));
    let stored = |threshold: u8, count: usize| {
        let commitments = vec![[5; 32]; count];
        let set = ShareSet {
            set: [1; 16],
            threshold,
            commitments,
        };
        ShareSet::decode(&set.encode()).is_ok()
    };
    assert!(stored(2, 2) && stored(32, 32));
    assert!(!stored(1, 2) && !stored(3, 2) && !stored(2, 33) && !stored(0, 0));
}

/// With one share less than needed every secret is as likely: for each there is a polynomial through what is known.
#[test]
fn less_than_the_threshold_says_nothing_of_the_secret() {
    // One byte, 2 of n: y = s + c x. For a known (x, y) each s has exactly one c.
    for (x, y) in [(1, 0), (2, 77), (9, 255)] {
        let mut seen = [0u16; 256];
        for s in 0..=255u8 {
            let c = multiply(y ^ s, inverse(x));
            assert_eq!(multiply(c, x) ^ s, y);
            seen[usize::from(c)] += 1;
        }
        assert_eq!(seen, [1; 256]);
    }
}

/// The highest coefficient may be zero, as any other: a scheme that draws it anew says something of the secret.
#[test]
fn a_coefficient_of_zeros_is_taken_as_it_is() {
    struct Zeros;
    impl Random for Zeros {
        fn fill(&self, out: &mut [u8]) -> Result<(), EnvelopeError> {
            out.fill(0);
            Ok(())
        }
    }
    let (set, shares) = split(&Zeros, SlotSecret::new(&[6; 32]), 3, 4).unwrap();
    for share in &shares {
        assert_eq!(share.y.as_slice(), [6; 32]);
    }
    assert_eq!(
        combined(&set, &[&shares[3], &shares[0], &shares[1]]),
        Ok([6; 32])
    );
}

#[test]
fn the_field_is_a_field() {
    // FIPS 197, section 4.2.
    assert_eq!(multiply(0x57, 0x83), 0xc1);
    assert_eq!(multiply(0x57, 0x13), 0xfe);
    for a in 0..=255u8 {
        assert_eq!(multiply(a, 1), a);
        assert_eq!(multiply(a, inverse(a)), u8::from(a != 0));
        for b in 0..=255u8 {
            assert_eq!(multiply(a, b), multiply(b, a));
        }
    }
}
