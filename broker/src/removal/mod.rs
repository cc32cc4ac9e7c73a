//! What is left of destroyed keyspaces, removed in the background until nothing is.
//!
//! ```text
//! start: every keyspace whose rows may be left        destroy: the one
//!   -> job (what next) -> a page removed (vault) -> one commit -> ... -> removal on record -> destroyed -> anchor on record
//! ```
//! The keys are gone before this begins: nothing here is in a hurry, and nothing that stays can be opened. Keyspaces take
//! turns, a page each, in a room of the `background`.

mod job;
mod worker;

use attache_envelope::name::Keyspace;

use crate::background::UnderWay;
pub use worker::Worker;

/// Which keyspaces are being removed, and how far each is. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Removals {
    under_way: UnderWay<Keyspace, Progress>,
}

/// How far a keyspace is whose rows are removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// How many values were removed since this process took it up.
    pub values: u64,
    /// How many rows stay, of those that were looked at in this pass: they are damaged, or lead to one that is.
    pub unreadable: u64,
    /// Why it stands still, while it does.
    pub problem: Option<String>,
}

impl Removals {
    /// Takes up a keyspace that has just been destroyed.
    pub fn begin(&self, keyspace: Keyspace) {
        self.under_way.begin(keyspace, Progress::default());
    }

    /// The first `limit` that are under way.
    #[must_use]
    pub fn under_way(&self, limit: usize) -> Vec<(Keyspace, Progress)> {
        self.under_way.page(None, limit, |_| true)
    }

    /// How far one is; none when it is not under way.
    #[must_use]
    pub fn of(&self, keyspace: &Keyspace) -> Option<Progress> {
        self.under_way.of(keyspace)
    }
}
