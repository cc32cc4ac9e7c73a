//! Where randomness comes from.
//!
//! Every function that draws takes its source as an argument, so that known-answer vectors can replay a salt or an
//! ephemeral key. Outside of tests the source is always [`SystemRandom`].

use std::convert::Infallible;

use hpke::rand_core::{TryCryptoRng, TryRng};
use ring::rand::SecureRandom as _;

use crate::error::EnvelopeError;

/// A source of unpredictable bytes.
pub trait Random {
    /// Fills `out`.
    ///
    /// # Errors
    /// [`EnvelopeError::Random`] when the source fails; `out` is then not to be used.
    fn fill(&self, out: &mut [u8]) -> Result<(), EnvelopeError>;
}

/// The kernel's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, out: &mut [u8]) -> Result<(), EnvelopeError> {
        ring::rand::SystemRandom::new()
            .fill(out)
            .map_err(|_| EnvelopeError::Random)
    }
}

/// Draws an array.
pub(crate) fn array<const N: usize>(random: &dyn Random) -> Result<[u8; N], EnvelopeError> {
    let mut out = [0; N];
    random.fill(&mut out)?;
    Ok(out)
}

/// [`Random`] as the HPKE library wants it, which has no way to fail: a failure is remembered, and what was made
/// with it must be thrown away ([`HpkeRandom::check`]).
pub(crate) struct HpkeRandom<'a> {
    source: &'a dyn Random,
    failed: bool,
}

impl<'a> HpkeRandom<'a> {
    pub(crate) fn new(source: &'a dyn Random) -> Self {
        Self {
            source,
            failed: false,
        }
    }

    pub(crate) fn check(&self) -> Result<(), EnvelopeError> {
        if self.failed {
            Err(EnvelopeError::Random)
        } else {
            Ok(())
        }
    }
}

impl TryRng for HpkeRandom<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.failed |= self.source.fill(out).is_err();
        Ok(())
    }
}

impl TryCryptoRng for HpkeRandom<'_> {}

#[cfg(test)]
mod tests;
