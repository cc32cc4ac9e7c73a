//! A backup as bytes: one file that holds every row of a store as it is stored, and ends in a signed note.
//!
//! ```text
//! file  = head 160 || frame ...                       frame = kind u8 || key's length u32 || value's length u32 || key || value
//! kinds   1 table (its name)   2 row   3 end of the table (its count, u64)   4 the end of the file (a signed note)
//! ```
//!
//! The broker writes it ([`Writer`]) from one snapshot, the CLI and the broker read it ([`Reader`]). Neither side does
//! io, and neither needs a key of the store but the audit key's public half: rows stay as sealed as they are in the
//! store. What is read is nobody's word until its [`End`] was verified; a reader must never keep room for a length that
//! it has not held against the bounds here.

mod end;
mod frame;
mod hash;
mod head;
mod reader;
mod writer;

pub use end::{End, EndError, Sealed, backup_origin, verifier_of};
pub use frame::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
pub use head::{AuditHead, HEAD_BYTES, Head};
pub use reader::{BackupError, Found, Item, Reader};
pub use writer::{WriteError, Writer};

#[cfg(test)]
mod tests;
#[cfg(test)]
#[path = "../../tests/independent/reader.rs"]
mod vectors;
