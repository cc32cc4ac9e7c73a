//! The system calls that the mounter may make once it is up: a default-deny list, anything else fails with EPERM.
//!
//! No new process, program, thread or socket; no ptrace, no module, no key, no clock; memory is never made
//! executable; of all ioctls only those of inode flags; of fcntl's commands only those used.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Calls that are allowed with any arguments.
const ALLOWED: &[c_long] = &[
    // files, by descriptor and name
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    // mounts
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_move_mount,
    libc::SYS_umount2,
    // the agent's connection
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_getsockopt,
    libc::SYS_shutdown,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    // memory (mmap and mprotect: below)
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_brk,
    // the language's runtime: locks, random seeds of maps, time stamps of logs, the end
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// `FS_IOC_GETFLAGS` and `FS_IOC_SETFLAGS` of linux/fs.h, `_IOR('f', 1, long)` and `_IOW('f', 2, long)`.
const INODE_FLAGS: [u64; 2] = [0x8008_6601, 0x4008_6602];

/// Compiles the filter.
///
/// # Errors
/// The compiler's, for an architecture that it does not know.
pub(super) fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let not_executable = SeccompCmpOp::MaskedEq(constant(libc::PROT_EXEC));
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(
            call,
            vec![rule(2, SeccompCmpArgLen::Dword, not_executable.clone(), 0)?],
        );
    }
    let equal = |arg, value| rule(arg, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let ioctls = INODE_FLAGS.iter().map(|command| equal(1, *command));
    rules.insert(libc::SYS_ioctl, ioctls.collect::<Result<_, _>>()?);
    let commands = [
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GET_SEALS,
    ];
    let fcntls = commands.iter().map(|command| equal(1, constant(*command)));
    rules.insert(libc::SYS_fcntl, fcntls.collect::<Result<_, _>>()?);
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(
        rules,
        denied,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

fn rule(
    arg: u8,
    len: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(arg, len, operator, value)?])
}

/// A constant of libc's, none of which is negative.
fn constant(value: i32) -> u64 {
    value.unsigned_abs().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles_for_this_machine() {
        assert!(filter().unwrap().len() > ALLOWED.len());
    }

    #[test]
    fn no_call_that_leads_out_is_on_the_list() {
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_mount,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_io_uring_setup,
            libc::SYS_open_by_handle_at,
            libc::SYS_open_tree,
            libc::SYS_mount_setattr,
            libc::SYS_mknodat,
            libc::SYS_linkat,
            libc::SYS_setuid,
            libc::SYS_capset,
            libc::SYS_prctl,
            libc::SYS_keyctl,
            libc::SYS_kill,
            libc::SYS_tgkill,
            libc::SYS_memfd_create,
            libc::SYS_userfaultfd,
            libc::SYS_sethostname,
        ] {
            assert!(!ALLOWED.contains(&call), "{call}");
        }
    }
}
