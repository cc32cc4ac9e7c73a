//! What was asked for since the start of the process: for `status`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts requests by how they ended.
#[derive(Debug, Default)]
pub struct Counters {
    releases: AtomicU64,
    refusals: AtomicU64,
    unchanged: AtomicU64,
}

/// The counts of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Volumes that got new contents.
    pub releases: u64,
    /// Requests that were refused, repeats included.
    pub refusals: u64,
    /// Requests for what the volume held already.
    pub unchanged: u64,
}

impl Counters {
    /// The counts now.
    #[must_use]
    pub fn read(&self) -> Counted {
        Counted {
            releases: self.releases.load(Ordering::Relaxed),
            refusals: self.refusals.load(Ordering::Relaxed),
            unchanged: self.unchanged.load(Ordering::Relaxed),
        }
    }

    pub(super) fn released(&self) {
        self.releases.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unchanged(&self) {
        self.unchanged.fetch_add(1, Ordering::Relaxed);
    }
}
