//! One memory mapping, owned: the four ways in which this crate asks the kernel for memory.
//!
//! A mapping is only an address range here. Who may read or write it is decided by its owner (a cell, a locked
//! buffer, a sealed map). It must never outlive its owner's pointers: it is unmapped on drop.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::ftruncate;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous, munmap};
use zeroize::Zeroize;

use crate::error::ArenaError;

/// An owned address range of `len` bytes, at least one.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

#[expect(
    unsafe_code,
    reason = "a raw pointer makes the type neither Send nor Sync by itself"
)]
// SAFETY: the range belongs to this value alone and to no thread; all access goes through the owner's borrows.
unsafe impl Send for Mapping {}
#[expect(
    unsafe_code,
    reason = "a raw pointer makes the type neither Send nor Sync by itself"
)]
// SAFETY: a shared Mapping gives out its address only, which is a plain number until an owner dereferences it.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps zeroed memory of `memfd_secret(2)`: locked, and removed from the kernel's own map, so that neither
    /// `/proc/PID/mem` nor ptrace reads it, not even root's. The descriptor is closed again at once.
    ///
    /// `Ok(None)`: this kernel, or the process's seccomp filter, has no `memfd_secret`.
    ///
    /// # Errors
    /// [`ArenaError::Exhausted`] past RLIMIT_MEMLOCK; another failed call by its name.
    pub(crate) fn secret(len: usize) -> Result<Option<Self>, ArenaError> {
        let fd = match memfd_secret() {
            Ok(fd) => fd,
            Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => return Ok(None),
            Err(source) => {
                return Err(ArenaError::Os {
                    call: "memfd_secret",
                    source,
                });
            }
        };
        ftruncate(&fd, len as u64).map_err(ArenaError::os("ftruncate"))?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        #[expect(unsafe_code, reason = "mmap")]
        // SAFETY: the kernel picks the place (null hint, no MAP_FIXED), so nothing that exists is mapped over.
        let base = unsafe { mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, &fd, 0) };
        let mut mapping = Self::own(base.map_err(ArenaError::locking("mmap", len))?, len)?;
        mapping.advise(Advice::LinuxDontFork, "madvise(MADV_DONTFORK)")?;
        // Secret memory is not populated by mmap: touch it now, so that a lack of pages shows here.
        mapping.wipe();
        Ok(Some(mapping))
    }

    /// Maps zeroed anonymous memory: locked, left out of core dumps and of forked children.
    ///
    /// # Errors
    /// [`ArenaError::Exhausted`] past RLIMIT_MEMLOCK; another failed call by its name.
    pub(crate) fn locked(len: usize) -> Result<Self, ArenaError> {
        let mapping = Self::plain(len)?;
        mapping.advise(Advice::LinuxDontDump, "madvise(MADV_DONTDUMP)")?;
        mapping.advise(Advice::LinuxDontFork, "madvise(MADV_DONTFORK)")?;
        mapping.lock()?;
        Ok(mapping)
    }

    /// Maps zeroed anonymous memory with no protection at all.
    ///
    /// # Errors
    /// A failed mmap.
    pub(crate) fn plain(len: usize) -> Result<Self, ArenaError> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        #[expect(unsafe_code, reason = "mmap")]
        // SAFETY: the kernel picks the place (null hint, no MAP_FIXED), so nothing that exists is mapped over.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), len, prot, MapFlags::PRIVATE) };
        Self::own(base.map_err(ArenaError::os("mmap"))?, len)
    }

    /// Maps the first `len` bytes of `fd` shared and read-only, and locks its pages in memory for as long as the
    /// mapping lives. With a descriptor opened for reading only this is no obstacle to `F_SEAL_WRITE`.
    ///
    /// # Errors
    /// [`ArenaError::Exhausted`] past RLIMIT_MEMLOCK; another failed call by its name.
    pub(crate) fn pinned(fd: BorrowedFd<'_>, len: usize) -> Result<Self, ArenaError> {
        #[expect(unsafe_code, reason = "mmap")]
        // SAFETY: the kernel picks the place (null hint, no MAP_FIXED), so nothing that exists is mapped over.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::SHARED,
                fd,
                0,
            )
        };
        let mapping = Self::own(base.map_err(ArenaError::os("mmap"))?, len)?;
        mapping.advise(Advice::LinuxDontDump, "madvise(MADV_DONTDUMP)")?;
        mapping.advise(Advice::LinuxDontFork, "madvise(MADV_DONTFORK)")?;
        mapping.lock()?;
        Ok(mapping)
    }

    /// The first byte's address; `len` bytes follow for as long as the mapping lives.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Overwrites the whole range with zeros. Only for a mapping made writable.
    pub(crate) fn wipe(&mut self) {
        #[expect(unsafe_code, reason = "a slice over the mapping")]
        // SAFETY: `len` bytes at `base` are mapped, and zeroed by the kernel, so initialised; `&mut self` and the
        // callers (before the first pointer is handed out, after the last came back) exclude other access.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) };
        bytes.zeroize();
    }

    fn own(base: *mut core::ffi::c_void, len: usize) -> Result<Self, ArenaError> {
        let base = NonNull::new(base.cast()).ok_or(ArenaError::Os {
            call: "mmap",
            source: Errno::FAULT,
        })?;
        Ok(Self { base, len })
    }

    fn advise(&self, advice: Advice, call: &'static str) -> Result<(), ArenaError> {
        #[expect(unsafe_code, reason = "madvise")]
        // SAFETY: the range is this mapping's own, and DONTDUMP and DONTFORK change no byte of it.
        let advised = unsafe { madvise(self.base.as_ptr().cast(), self.len, advice) };
        advised.map_err(ArenaError::os(call))
    }

    fn lock(&self) -> Result<(), ArenaError> {
        #[expect(unsafe_code, reason = "mlock")]
        // SAFETY: the range is this mapping's own, and locking changes no byte of it.
        let locked = unsafe { mlock(self.base.as_ptr().cast(), self.len) };
        locked.map_err(ArenaError::locking("mlock", self.len))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "munmap")]
        // SAFETY: the range was mapped by this value and is unmapped once; the owners of pointers into it keep
        // this value alive until they are gone. It fails for no range that mmap returned.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// `memfd_secret(O_CLOEXEC)`, which rustix does not have.
fn memfd_secret() -> Result<OwnedFd, Errno> {
    #[expect(unsafe_code, reason = "a raw system call")]
    // SAFETY: the call takes one flag word and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let Some(fd) = i32::try_from(result).ok().filter(|fd| *fd >= 0) else {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    };
    #[expect(unsafe_code, reason = "takes ownership of a raw descriptor")]
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows its number.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(owned)
}
