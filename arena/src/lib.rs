//! Locked, hidden memory: for keys, for the plaintexts of a delivery, and for the memory file that carries them
//! between two processes.
//!
//! Everything that holds a key of ours for longer than one call takes it from an [`Arena`]; the node plugin
//! opens values into a [`LockedBuf`] and hands them over in a [`MemfdWriter`], which the other side reads as a
//! [`PinnedMap`]. The pages are never swapped, never dumped and never shared with a forked child, and where the
//! kernel has `memfd_secret` the arena's are not even mapped in the kernel.
//!
//! This crate must never fall back to the heap: memory that cannot be locked is an error. It is the only one with
//! `unsafe`; each block says why it holds.

mod arena;
mod error;
mod locked;
mod mapping;
mod memfd;
mod process;

pub use arena::{Arena, Key, Protection};
pub use error::ArenaError;
pub use locked::{LockedBuf, LockedPool};
pub use memfd::{MemfdWriter, PinnedMap, SealedMemfd, check_seals};
pub use process::{MIN_MEMLOCK_BYTES, harden_process, inherit_nothing, raise_memlock_limit};
