//! Versions beyond what their keyspace keeps, pruned in the background.
//!
//! ```text
//! start, and keyspace set: a keyspace        put that has one over, and unpin: the secret
//!   -> a page (vault) -> pruning on record, with what goes -> one commit -> anchor on record -> ... -> over
//!      what is mounted stays, and is gone through again once nobody may have named it for the window: later
//! ```
//! Nothing is kept of a pass: what a crash cut off, the next start's pass finds. Passes take turns, a page each, in a room of
//! the `background`.

mod later;
mod worker;

use later::Later;

use crate::background::UnderWay;
use crate::vault::PruneScope;
pub use worker::Worker;

/// What is being pruned. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Prunings {
    under_way: UnderWay<PruneScope, ()>,
    later: Later,
}

impl Prunings {
    /// Takes up a keyspace whose settings have changed, or a secret that has a version over. One that is under way is gone
    /// through once more.
    pub fn begin(&self, scope: PruneScope) {
        self.under_way.begin(scope, ());
    }
}
