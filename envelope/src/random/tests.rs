use super::*;
use crate::testing::NoRandom;

#[test]
fn the_system_fills_what_it_is_given() {
    // 2^-512 for two draws to be equal.
    let draw = || array::<64>(&SystemRandom).unwrap();
    assert_ne!(draw(), draw());
}

#[test]
fn a_failure_is_remembered() {
    let mut random = HpkeRandom::new(&NoRandom);
    assert_eq!(random.check(), Ok(()));
    let _ = random.try_next_u32();
    assert_eq!(random.check(), Err(EnvelopeError::Random));
}

#[test]
fn words_are_drawn_from_the_source() {
    let mut random = HpkeRandom::new(&SystemRandom);
    assert_ne!(random.try_next_u64(), random.try_next_u64());
    assert_eq!(random.check(), Ok(()));
}
