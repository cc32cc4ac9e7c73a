//! What can go wrong with locked memory. Never holds a byte of it.

use rustix::io::Errno;
use thiserror::Error;

/// Why locked memory could not be had, or a memory file not be trusted.
#[derive(Debug, Error)]
pub enum ArenaError {
    /// The limit on locked memory is used up; the caller answers RESOURCE_EXHAUSTED.
    #[error(
        "no more locked memory ({bytes} bytes asked for): raise LimitMEMLOCK of the systemd unit, or the container's \
         memlock limit"
    )]
    Exhausted {
        /// How much was asked for.
        bytes: usize,
        /// What the kernel said.
        source: Errno,
    },
    /// The hard limit is too low to start with.
    #[error(
        "the hard limit on locked memory is {hard_bytes} bytes, at least {needed_bytes} are needed: raise LimitMEMLOCK \
         of the systemd unit, or the container's memlock limit"
    )]
    LimitTooLow {
        /// RLIMIT_MEMLOCK, hard, as found.
        hard_bytes: u64,
        /// What a start takes.
        needed_bytes: u64,
    },
    /// A memory file lacks a seal, so that its sender could still change it.
    #[error("the memory file is not sealed against {missing}")]
    NotSealed {
        /// The names of the missing seals.
        missing: String,
    },
    /// A memory file has another size than was announced.
    #[error("the memory file has {found_bytes} bytes where {expected_bytes} were announced")]
    WrongSize {
        /// The size announced.
        expected_bytes: u64,
        /// The size found.
        found_bytes: u64,
    },
    /// More was written to a memory file than it was made for.
    #[error(
        "the memory file was made for {expected_bytes} bytes and is given more, or is sealed with less"
    )]
    Unfilled {
        /// The size it was made with.
        expected_bytes: u64,
    },
    /// A system call failed.
    #[error("{call} failed")]
    Os {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

impl ArenaError {
    /// Turns an errno of `call` into an error: for use in `map_err`.
    pub(crate) fn os(call: &'static str) -> impl Fn(Errno) -> Self {
        move |source| Self::Os { call, source }
    }

    /// Tells "over the limit" (EAGAIN, ENOMEM, or EPERM under a limit of zero) from other failures of a call
    /// that locks memory.
    pub(crate) fn locking(call: &'static str, bytes: usize) -> impl Fn(Errno) -> Self {
        move |source| match source {
            Errno::AGAIN | Errno::NOMEM | Errno::PERM => Self::Exhausted { bytes, source },
            _ => Self::Os { call, source },
        }
    }
}
