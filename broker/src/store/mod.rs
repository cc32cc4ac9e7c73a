//! Where everything is kept: engines of plain bytes, and above them the ledger, which makes them tamper-evident.
//!
//! `engine` is what an engine must do, `embedded` the one of redb. `ledger` reads and applies changes, `group` commits
//! them in batches, `draft` builds a batch, `rows` and `slab` are what it is made of, `anchor_copy` what lies beside. Nothing above this folder
//! reaches an engine's rows but through the ledger.

mod anchor_copy;
mod change;
mod draft;
mod embedded;
mod engine;
mod group;
mod ledger;
mod rows;
mod slab;

#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod fixture;

pub(crate) use anchor_copy::MakeSigner;
pub(crate) use anchor_copy::beside as anchor_beside;
pub(crate) use change::shown;
pub use change::{Applied, ApplyError, Change, Condition, LedgerError, Put, Row};
pub use embedded::{Loading, RedbSnapshot, RedbStore, STORE_FORMAT};
pub(crate) use engine::all_shown;
pub use engine::{AnchorSeq, Batch, Entry, Health, Outcome, Rows, Snapshot, Store, StoreError};
pub(crate) use ledger::open_tip_of as open_tip;
pub use ledger::{AuditHead, Ledger, LedgerOptions, OpenError, anchored_head};
pub use rows::ReadRow;
pub(crate) use rows::{PreparedCodec, RowCodec, Tip};
pub(crate) use slab::Slab;

pub use attache_envelope::Table;

/// The incarnation of a store that was never restored from a backup.
pub const FIRST_INCARNATION: u32 = 1;

/// The ledger that the broker runs on.
pub type BrokerLedger = Ledger<RedbStore>;
