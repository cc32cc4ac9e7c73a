//! Backups: one state of the store as a file, and what is known of those that were made.
//!
//! ```text
//! snapshot of the store -> its anchor -> head || every table, rows as they are stored || end, signed by the audit key
//! ```
//! Nothing is opened on the way out: what leaves is as sealed as it lies in the store. A backup must never be written from
//! two states.

mod read;
mod record;
mod write;

pub use read::{Opened, RestoreError};
pub use record::{BackupRecord, Records, RecordsError};
pub use write::{BackupWriteError, Moment, Writing};
