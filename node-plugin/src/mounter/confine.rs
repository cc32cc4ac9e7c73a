//! Gives up every privilege that mounting does not take, before the first request is read.
//!
//! Kept: SYS_ADMIN (mount), DAC_OVERRIDE (kubelet's folders), CHOWN and FOWNER (files of the container's),
//! LINUX_IMMUTABLE. Gone for good, from the bounding set too: all others. Then no_new_privs, no core dump, and the
//! filter of [`super::seccomp`]. Capabilities belong to threads, so the process must have one only.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};
use thiserror::Error;

use super::seccomp;

const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::LINUX_IMMUTABLE);

/// Why privileges could not be given up; the process must not go on.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// Other threads would keep theirs.
    #[error("the process has {threads} threads and must have one only to give up its privileges")]
    Threads {
        /// How many.
        threads: usize,
    },
    /// The kernel refuses.
    #[error("{call} failed")]
    Os {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// A capability that mounting takes is not there.
    #[error(
        "the mounter needs the capabilities SYS_ADMIN, DAC_OVERRIDE, CHOWN, FOWNER and LINUX_IMMUTABLE; missing: {missing}"
    )]
    Missing {
        /// Their names.
        missing: String,
    },
    /// Memory cannot be protected.
    #[error("the process cannot protect its memory")]
    Memory(#[from] attache_arena::ArenaError),
    /// The filter was refused.
    #[error("the system call filter was refused")]
    Filter(#[from] seccompiler::Error),
    /// The filter cannot be made for this architecture.
    #[error("the system call filter cannot be made for this architecture")]
    Architecture(#[from] seccompiler::BackendError),
}

/// Gives up the privileges of this process, which must be root's and have one thread; it cannot be undone.
///
/// # Errors
/// [`ConfineError`]; some may be given up already.
pub fn confine() -> Result<(), ConfineError> {
    let filter = seccomp::filter()?;
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(ConfineError::Threads { threads });
    }
    attache_arena::raise_memlock_limit()?;
    attache_arena::harden_process()?;
    drop_capabilities()?;
    set_no_new_privs(true).map_err(os("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    seccompiler::apply_filter(&filter)?;
    Ok(())
}

fn drop_capabilities() -> Result<(), ConfineError> {
    let missing = KEPT.difference(capabilities(None).map_err(os("capget"))?.permitted);
    if !missing.is_empty() {
        let missing = missing
            .iter_names()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
            .join(", ");
        return Err(ConfineError::Missing { missing });
    }
    clear_ambient_capability_set().map_err(os("prctl(PR_CAP_AMBIENT)"))?;
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !KEPT.contains(one) => {
                remove_capability_from_bounding_set(one).map_err(os("prctl(PR_CAPBSET_DROP)"))?;
            }
            Ok(_) => {}
            // Past the last one that the kernel knows.
            Err(Errno::INVAL) => break,
            Err(source) => return Err(os("prctl(PR_CAPBSET_READ)")(source)),
        }
    }
    let kept = CapabilitySets {
        effective: KEPT,
        permitted: KEPT,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept).map_err(os("capset"))
}

fn os(call: &'static str) -> impl Fn(Errno) -> ConfineError {
    move |source| ConfineError::Os { call, source }
}
