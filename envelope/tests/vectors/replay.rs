//! Replaying the randomness that a vector names.

use std::cell::RefCell;

use attache_envelope::{EnvelopeError, Random};

/// Randomness that was drawn before: fails when it is used up.
pub(crate) struct Replay(RefCell<Vec<u8>>);

impl Replay {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(RefCell::new(bytes.to_vec()))
    }
}

impl Random for Replay {
    fn fill(&self, out: &mut [u8]) -> Result<(), EnvelopeError> {
        let mut rest = self.0.borrow_mut();
        if rest.len() < out.len() {
            return Err(EnvelopeError::Random);
        }
        out.copy_from_slice(&rest[..out.len()]);
        rest.drain(..out.len());
        Ok(())
    }
}
