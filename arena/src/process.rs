//! What a process that holds keys does to itself before it reads the first one.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

use crate::error::ArenaError;

/// The least hard limit on locked memory that a process with keys starts under: 1 MiB.
pub const MIN_MEMLOCK_BYTES: u64 = 1024 * 1024;

/// Raises the soft limit on locked memory to the hard one and answers it; `None` is no limit.
///
/// # Errors
/// [`ArenaError::LimitTooLow`] when the hard limit is under [`MIN_MEMLOCK_BYTES`]; [`ArenaError::Os`] when the
/// kernel refuses the change.
pub fn raise_memlock_limit() -> Result<Option<u64>, ArenaError> {
    let limit = getrlimit(Resource::Memlock);
    if let Some(hard_bytes) = limit.maximum.filter(|hard| *hard < MIN_MEMLOCK_BYTES) {
        return Err(ArenaError::LimitTooLow {
            hard_bytes,
            needed_bytes: MIN_MEMLOCK_BYTES,
        });
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Memlock, raised).map_err(ArenaError::os("setrlimit(RLIMIT_MEMLOCK)"))?;
    Ok(limit.maximum)
}

/// Makes the process undumpable: no core file, and no ptrace or `/proc/PID/mem` for others of its uid
/// (`PR_SET_DUMPABLE` 0). Root with CAP_SYS_PTRACE is not stopped by this.
///
/// # Errors
/// [`ArenaError::Os`] when the kernel refuses.
pub fn harden_process() -> Result<(), ArenaError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(ArenaError::os("prctl(PR_SET_DUMPABLE)"))
}

/// Has every descriptor of this process but the standard three closed when another program is started: whoever started
/// this one may have left it some. Nothing is closed in this process.
///
/// # Errors
/// [`ArenaError::Os`] when the kernel refuses.
pub fn inherit_nothing() -> Result<(), ArenaError> {
    const FIRST: libc::c_uint = 3;
    let flag = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    #[expect(unsafe_code, reason = "no safe form of close_range exists")]
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call sets a flag of each descriptor and closes none, so every owner of one
    // keeps it; it takes no pointer.
    let done = unsafe { libc::close_range(FIRST, libc::c_uint::MAX, flag) };
    if done == 0 {
        Ok(())
    } else {
        let error = std::io::Error::last_os_error();
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
        Err(ArenaError::os("close_range")(errno))
    }
}
