//! Rotations of the rows' MAC key that end: every row is tagged anew in the background, then the keys before are dropped.
//!
//! ```text
//! start with a key before, or rotate
//!   -> pass (what next) -> a page of rows tagged anew (vault) -> one commit -> ... -> a pass that found none -> on record -> dropped
//! ```
//! All that counts is in the store: the keyring says that there is a key before, and each row's head which key its tag is of.

mod pass;
mod worker;

use crate::background::UnderWay;
pub use worker::Worker;

/// The one retagging of a store, while it is under way. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Retagging {
    under_way: UnderWay<(), Progress>,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// How many rows there are; 0 until that is known.
    pub rows: u64,
    /// How many of them this pass has looked at.
    pub looked: u64,
    /// How many were tagged anew since this process took it up.
    pub tagged: u64,
    /// Why it stands still, while it does.
    pub problem: Option<String>,
}

impl Retagging {
    /// Takes it up: there is a key before.
    pub fn begin(&self) {
        self.under_way.begin((), Progress::default());
    }

    /// How far it is; none when it is not under way.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.under_way.of(&())
    }
}
