//! A locked buffer: where the plaintexts of one delivery are opened.
//!
//! It must never be larger than the delivery: it counts against RLIMIT_MEMLOCK by whole pages.

use std::slice;
use std::sync::{Mutex, PoisonError};

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

/// Locked buffers of one length that are used again, for what happens thousands of times a second: to unmap one
/// interrupts every core that runs the process.
pub struct LockedPool {
    len: usize,
    spare: Mutex<Vec<LockedBuf>>,
}

impl LockedPool {
    /// Buffers beyond these are unmapped when they come back.
    const SPARE: usize = 8;

    /// A pool of buffers of `len` bytes. Nothing is mapped before the first use.
    #[must_use]
    pub const fn new(len: usize) -> Self {
        Self {
            len,
            spare: Mutex::new(Vec::new()),
        }
    }

    /// Lends a zeroed buffer to `work`, and wipes it when `work` is through, also by a panic.
    ///
    /// # Errors
    /// Whatever `work` answers; [`ArenaError`] when a buffer cannot be had.
    pub fn with<T, E: From<ArenaError>>(
        &self,
        work: impl FnOnce(&mut [u8]) -> Result<T, E>,
    ) -> Result<T, E> {
        let spare = self.lock().pop();
        let mut lent = Lent {
            pool: self,
            buf: Some(spare.map_or_else(|| LockedBuf::new(self.len), Ok)?),
        };
        work(lent.buf.as_mut().map_or(&mut [], LockedBuf::as_mut_slice))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<LockedBuf>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer of a pool on loan.
struct Lent<'a> {
    pool: &'a LockedPool,
    buf: Option<LockedBuf>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let Some(mut buf) = self.buf.take() else {
            return;
        };
        buf.as_mut_slice().zeroize();
        let mut spare = self.pool.lock();
        if spare.len() < LockedPool::SPARE {
            spare.push(buf);
        }
    }
}
