//! Why a volume could not be mounted, filled or unmounted. The log has all of it; the agent gets a code and an errno.

use attache_arena::ArenaError;
use rustix::io::Errno;
use thiserror::Error;

use crate::ipc::{Fault, FaultCode, FormatError};

/// Why the mounter did not do what it was asked for.
#[derive(Debug, Error)]
pub enum MountError {
    /// Kubelet's folder of the volume is not there.
    #[error("kubelet's folder of the volume is not there")]
    NoVolumeFolder,
    /// A link, a file or a way out of kubelet's folder where a plain folder must be.
    #[error("a part of the target path is not a plain folder")]
    PathRefused {
        /// ELOOP for a link, EXDEV for a way out, ENOTDIR for what is no folder.
        source: Errno,
    },
    /// Something that is not this volume's tmpfs is mounted at the target.
    #[error("something else is mounted at the target")]
    ForeignMount,
    /// The volume is not mounted.
    #[error("the volume is not mounted")]
    NotMounted,
    /// The memory file cannot be trusted or pinned.
    #[error("the memory file is refused")]
    Memfd(#[from] ArenaError),
    /// The memory file's content breaks a rule.
    #[error("the generation is malformed")]
    Format(#[from] FormatError),
    /// tmpfs could be swapped out.
    #[error("swap is on, and this kernel cannot keep tmpfs out of it (6.4 can): turn swap off")]
    SwapOn,
    /// What was read back differs.
    #[error("read back after writing: {0}")]
    NotAsWritten(&'static str),
    /// A system call failed.
    #[error("{call} failed")]
    Os {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

impl MountError {
    /// Turns an errno of `call` into an error: for use in `map_err`.
    pub(super) fn os(call: &'static str) -> impl Fn(Errno) -> Self {
        move |source| Self::Os { call, source }
    }

    /// What the agent is told.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let (code, errno) = match self {
            Self::NoVolumeFolder => (FaultCode::NoVolumeFolder, None),
            Self::PathRefused { source } => (FaultCode::PathRefused, Some(*source)),
            Self::ForeignMount => (FaultCode::ForeignMount, None),
            Self::NotMounted => (FaultCode::NotMounted, None),
            Self::Memfd(ArenaError::Exhausted { source, .. }) => {
                (FaultCode::NoMemory, Some(*source))
            }
            Self::Memfd(ArenaError::Os { source, .. }) => (FaultCode::Os, Some(*source)),
            Self::Memfd(_) => (FaultCode::BadMemfd, None),
            Self::Format(_) => (FaultCode::BadGeneration, None),
            Self::SwapOn => (FaultCode::SwapOn, None),
            Self::NotAsWritten(_) => (FaultCode::NotAsWritten, None),
            Self::Os {
                source: Errno::NOSPC,
                ..
            } => (FaultCode::NoSpace, Some(Errno::NOSPC)),
            Self::Os {
                source: Errno::NOMEM,
                ..
            } => (FaultCode::NoMemory, Some(Errno::NOMEM)),
            Self::Os { source, .. } => (FaultCode::Os, Some(*source)),
        };
        let errno = errno.and_then(|errno| u16::try_from(errno.raw_os_error()).ok());
        Fault { code, errno }
    }
}
