use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use attache_envelope::SystemRandom;
use attache_envelope::key::SlotSecret;
use attache_envelope::shares::{Share, split};
use proptest::prelude::*;

use super::*;

const SECRET: [u8; 32] = [0x5a; 32];

type Bytes = [u8; SHARE_BYTES];

/// What happens to a ceremony.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A share of the set, by its place.
    Share(usize),
    /// One of its shares, with a bit that is another.
    Wrong(usize),
    /// A share of another set of the same secret.
    Other(usize),
    /// What the last share of a whole one opened did not open, or could not be put on record.
    Fails(usize),
    /// So many seconds go by.
    Wait(u64),
    /// The process dies and begins anew.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..8usize).prop_map(Step::Share),
        2 => (0..8usize).prop_map(Step::Wrong),
        1 => (0..8usize).prop_map(Step::Other),
        2 => (0..8usize).prop_map(Step::Fails),
        3 => (0..600u64).prop_map(Step::Wait),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 0..60)
}

fn drawn(threshold: u8, count: u8) -> (ShareSet, Vec<Bytes>) {
    let secret = SlotSecret::new(&SECRET);
    let (set, shares) = split(&SystemRandom, secret, threshold, count).unwrap();
    let bytes = |share: &Share| {
        let mut bytes = [0; SHARE_BYTES];
        share.write(&mut bytes);
        bytes
    };
    (set, shares.iter().map(bytes).collect())
}

fn number(share: &Bytes) -> u8 {
    share[16]
}

/// What is to be: the numbers that were given, and until when they stay.
#[derive(Default)]
struct Model {
    given: BTreeSet<u8>,
    ends: Option<Instant>,
    lapsed: Option<Instant>,
}

impl Model {
    fn at(&mut self, now: Instant) {
        if let Some(ends) = self.ends.filter(|ends| now >= *ends) {
            self.given.clear();
            (self.ends, self.lapsed) = (None, Some(ends));
        }
    }
}

/// One that no other share was sent by.
fn sending() -> Enc {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    Enc::from_bytes(bytes)
}

/// An answer that was lost is asked for again by the same bytes; whoever has a copy of the share makes others of it.
#[test]
fn one_sending_is_one_share_however_often_it_comes() {
    let arena = Arena::new_plain().unwrap();
    let (set, shares) = drawn(2, 3);
    let mut ceremony = Ceremony::new(set);
    let (now, once) = (Instant::now(), sending());
    for _ in 0..3 {
        let taken = ceremony.take(&arena, &shares[1], once, now);
        assert!(matches!(taken, Ok((2, Taken::Collected))));
    }
    assert_eq!(arena.keys(), 1);
    let another = ceremony.take(&arena, &shares[1], sending(), now).err();
    let twice = ShareError::Twice { index: 2 };
    assert!(matches!(another, Some(CeremonyError::Share(it)) if it == twice));
    // It opens nothing by itself.
    let third = ceremony.take(&arena, &shares[2], once, now);
    assert!(matches!(third, Ok((3, Taken::Whole(_)))));
}

/// Gives a share to both, and answers whether it made the ceremony whole.
fn give(
    arena: &Arena,
    (ceremony, model): (&mut Ceremony, &mut Model),
    share: &Bytes,
    now: Instant,
) -> Result<bool, TestCaseError> {
    let index = number(share);
    let taken = ceremony.take(arena, share, sending(), now);
    if model.given.contains(&index) {
        let twice = ShareError::Twice { index };
        prop_assert!(matches!(taken, Err(CeremonyError::Share(it)) if it == twice));
        return Ok(false);
    }
    model.given.insert(index);
    model.ends.get_or_insert(now + LASTS);
    if model.given.len() < usize::from(ceremony.set().threshold()) {
        prop_assert!(matches!(taken, Ok((it, Taken::Collected)) if it == index));
        return Ok(false);
    }
    let Ok((_, Taken::Whole(secret))) = taken else {
        return Err(TestCaseError::fail("enough, and no secret"));
    };
    prop_assert_eq!(secret.expose(), &SECRET);
    Ok(true)
}

proptest! {
    /// Against a model that is a set of numbers and an instant: the secret comes out when the last share that is needed
    /// comes in time, and at no other time; what is refused changes nothing; nothing outlives a ceremony.
    #[test]
    fn a_ceremony_gives_the_secret_for_enough_shares_in_time_and_nothing_else(
        threshold in 2..5u8, more in 0..4u8, steps in steps()
    ) {
        let arena = Arena::new_plain().unwrap();
        let ((set, shares), (_, others)) = (drawn(threshold, threshold + more), drawn(threshold, threshold + more));
        let of = |shares: &[Bytes], at: usize| shares[at % shares.len()];
        let mut ceremony = Ceremony::new(set.clone());
        let (mut model, mut now) = (Model::default(), Instant::now());
        for step in steps {
            model.at(now);
            match step {
                Step::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    let before = model.given.len();
                    model.at(now);
                    let lapsed = model.given.is_empty() && before > 0;
                    prop_assert_eq!(ceremony.expire(now), lapsed.then_some(before));
                }
                Step::Crash => (ceremony, model) = (Ceremony::new(set.clone()), Model::default()),
                Step::Wrong(at) => {
                    let mut share = of(&shares, at);
                    share[SHARE_BYTES - 1] ^= 1;
                    let wrong = ShareError::Wrong { index: number(&share) };
                    let refused = ceremony.take(&arena, &share, sending(), now).err();
                    prop_assert!(matches!(refused, Some(CeremonyError::Share(it)) if it == wrong));
                }
                Step::Other(at) => {
                    let refused = ceremony.take(&arena, &of(&others, at), sending(), now).err();
                    prop_assert!(matches!(refused, Some(CeremonyError::Share(ShareError::OtherSet))));
                }
                Step::Fails(at) => {
                    let share = of(&shares, at);
                    let is_new = !model.given.contains(&number(&share));
                    give(&arena, (&mut ceremony, &mut model), &share, now)?;
                    if is_new {
                        ceremony.take_back(number(&share));
                        model.given.remove(&number(&share));
                        model.ends = model.ends.filter(|_| !model.given.is_empty());
                    }
                }
                Step::Share(at) => {
                    let is_whole = give(&arena, (&mut ceremony, &mut model), &of(&shares, at), now)?;
                    if is_whole {
                        (ceremony, model) = (Ceremony::new(set.clone()), Model::default());
                    }
                }
            }
            let standing = ceremony.standing(now);
            prop_assert_eq!(standing.given, model.given.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(standing.left, model.ends.map(|ends| ends - now));
            prop_assert_eq!(standing.lapsed, model.lapsed.map(|lapsed| now - lapsed));
            // What was given and nothing more lies in the arena.
            prop_assert_eq!(arena.keys(), model.given.len());
        }
    }
}

/// With no room for the secret nothing is lost: the last share can be given again.
#[test]
fn a_share_that_is_taken_back_leaves_the_others_and_their_time() {
    let arena = Arena::new_plain().unwrap();
    let (set, shares) = drawn(2, 3);
    let mut ceremony = Ceremony::new(set);
    let begun = Instant::now();
    let later = begun + Duration::from_secs(60);
    assert!(matches!(
        ceremony.take(&arena, &shares[2], sending(), begun),
        Ok((3, Taken::Collected))
    ));
    assert!(matches!(
        ceremony.take(&arena, &shares[0], sending(), later),
        Ok((1, Taken::Whole(_)))
    ));
    ceremony.take_back(1);
    let standing = ceremony.standing(later);
    assert_eq!(
        (standing.given, standing.left),
        (vec![3], Some(LASTS - Duration::from_secs(60)))
    );
    ceremony.take_back(3);
    assert_eq!(ceremony.standing(later).left, None);
    assert_eq!(arena.keys(), 0);
}
