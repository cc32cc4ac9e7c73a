//! Names, randomness and strategies that the unit tests share.

use proptest::prelude::*;

use crate::error::EnvelopeError;
use crate::random::Random;

/// A source that fails.
pub(crate) struct NoRandom;

impl Random for NoRandom {
    fn fill(&self, _: &mut [u8]) -> Result<(), EnvelopeError> {
        Err(EnvelopeError::Random)
    }
}

/// Parses a name that the test knows to be right.
pub(crate) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// The bytes with one bit flipped; `at` picks which.
pub(crate) fn flipped(bytes: &[u8], at: prop::sample::Index) -> Vec<u8> {
    let bit = at.index(bytes.len() * 8);
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}

/// Every way to lose bytes at the end.
pub(crate) fn truncations(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..bytes.len()).map(|end| &bytes[..end])
}

prop_compose! {
    /// A keyspace, cluster or segment of a name.
    pub(crate) fn segment()(text in "[a-z0-9][a-z0-9._-]{0,62}") -> String { text }
}

prop_compose! {
    /// A field's name.
    pub(crate) fn field()(text in "[A-Za-z0-9_][A-Za-z0-9._-]{0,127}") -> String { text }
}
