//! SHA-256 of a file that goes by; FIPS 180-4.
//!
//! ring's: half of what a backup takes is this, and where the processor has no SHA instructions it takes half as long as others.

use ring::digest::{Context, SHA256};

/// The hash of the bytes so far.
pub(crate) struct Hash(Context);

impl Hash {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn value(&self) -> [u8; 32] {
        let mut value = [0; 32];
        value.copy_from_slice(self.0.clone().finish().as_ref());
        value
    }
}

impl Default for Hash {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}
