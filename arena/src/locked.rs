//! A locked buffer: where the plaintexts of one delivery are opened.
//!
//! It must never be larger than the delivery: it counts against RLIMIT_MEMLOCK by whole pages.

use std::slice;

use zeroize::Zeroize;

use crate::error::ArenaError;
use crate::mapping::Mapping;

/// `len` zeroed bytes of memory that is locked, left out of core dumps and forked children, and wiped on drop.
pub struct LockedBuf {
    mapping: Mapping,
    len: usize,
}

impl LockedBuf {
    /// Maps a buffer of `len` bytes; nothing at all is a buffer too.
    ///
    /// # Errors
    /// [`ArenaError::Exhausted`] past RLIMIT_MEMLOCK; [`ArenaError::Os`] for a failed call.
    pub fn new(len: usize) -> Result<Self, ArenaError> {
        let mapping = Mapping::locked(len.max(1))?;
        Ok(Self { mapping, len })
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        #[expect(unsafe_code, reason = "a slice over the mapping")]
        // SAFETY: `len` bytes are mapped and initialised (zeroed by the kernel) for as long as `self` lives, and
        // only this value reaches them; `&self` excludes writing.
        let bytes = unsafe { slice::from_raw_parts(self.mapping.base().as_ptr(), self.len) };
        bytes
    }

    /// The bytes, to be written in place.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        #[expect(unsafe_code, reason = "a slice over the mapping")]
        // SAFETY: as in `as_slice`; `&mut self` excludes every other access.
        let bytes = unsafe { slice::from_raw_parts_mut(self.mapping.base().as_ptr(), self.len) };
        bytes
    }
}

impl Drop for LockedBuf {
    fn drop(&mut self) {
        self.as_mut_slice().zeroize();
    }
}
