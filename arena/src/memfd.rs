//! Values on their way from one process to another: a memory file, pinned in memory from its first byte to its last,
//! sealed before it is sent, and refused unsealed by its receiver.
//!
//! Pages of a memory file swap, so the writer locks them through a read-only mapping before it writes the first
//! byte (a writable one would stand in the way of `F_SEAL_WRITE`), and the receiver locks them again before it reads.
//! Nobody must ever read a memory file here that its sender can still change.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::slice;

use rustix::fs::{
    MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate,
    memfd_create, open,
};
use rustix::io::Errno;

use crate::error::ArenaError;
use crate::mapping::Mapping;

const SEALS: [(SealFlags, &str); 4] = [
    (SealFlags::WRITE, "writing"),
    (SealFlags::SHRINK, "shrinking"),
    (SealFlags::GROW, "growing"),
    (SealFlags::SEAL, "further seals"),
];

/// A memory file of a fixed size, being filled: locked in memory from before the first byte.
pub struct MemfdWriter {
    fd: OwnedFd,
    pin: Option<Mapping>,
    len: u64,
    written: u64,
}

impl MemfdWriter {
    /// Makes an empty memory file of `len` bytes and pins its pages. `name` shows in `/proc/PID/fd`, so it must
    /// not tell more than the purpose.
    ///
    /// # Errors
    /// [`ArenaError::Exhausted`] past RLIMIT_MEMLOCK; [`ArenaError::Os`] for a failed call.
    pub fn new(name: &str, len: usize) -> Result<Self, ArenaError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            // Kernels before 6.3 do not know the flag; such a file is executable, and nobody executes it.
            Err(Errno::INVAL) => memfd_create(name, flags),
            made => made,
        };
        let fd = fd.map_err(ArenaError::os("memfd_create"))?;
        ftruncate(&fd, len as u64).map_err(ArenaError::os("ftruncate"))?;
        let pin = pin(fd.as_fd(), len)?;
        Ok(Self {
            fd,
            pin,
            len: len as u64,
            written: 0,
        })
    }

    /// Appends `bytes` to the file.
    ///
    /// # Errors
    /// [`ArenaError::Unfilled`] when they do not fit; [`ArenaError::Os`] for a failed write.
    pub fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), ArenaError> {
        if bytes.len() as u64 > self.len - self.written {
            return Err(ArenaError::Unfilled {
                expected_bytes: self.len,
            });
        }
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, bytes) {
                Ok(count) => {
                    self.written += count as u64;
                    bytes = bytes.get(count..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(source) => {
                    return Err(ArenaError::Os {
                        call: "write",
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Seals the full file against every change. The result keeps the pages pinned: hold it until the receiver
    /// has pinned them too.
    ///
    /// # Errors
    /// [`ArenaError::Unfilled`] when fewer bytes were written than the file has; [`ArenaError::Os`] when the
    /// seals are refused.
    pub fn seal(self) -> Result<SealedMemfd, ArenaError> {
        if self.written != self.len {
            return Err(ArenaError::Unfilled {
                expected_bytes: self.len,
            });
        }
        let all = SEALS
            .iter()
            .fold(SealFlags::empty(), |seals, (seal, _)| seals | *seal);
        fcntl_add_seals(&self.fd, all).map_err(ArenaError::os("fcntl(F_ADD_SEALS)"))?;
        Ok(SealedMemfd {
            fd: self.fd,
            _pin: self.pin,
        })
    }
}

/// A memory file that nobody can change any more, pinned while this value lives: ready to be sent.
pub struct SealedMemfd {
    fd: OwnedFd,
    _pin: Option<Mapping>,
}

impl AsFd for SealedMemfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A received memory file, whose seals and size were checked before its pages were locked and mapped.
pub struct PinnedMap {
    pin: Option<Mapping>,
    len: usize,
}

impl PinnedMap {
    /// Checks seals and size, then maps and locks the whole file; the descriptor is not needed afterwards.
    ///
    /// # Errors
    /// [`ArenaError::NotSealed`] and [`ArenaError::WrongSize`] as [`check_seals`]; [`ArenaError::Exhausted`] past
    /// RLIMIT_MEMLOCK; [`ArenaError::Os`] for a failed call.
    pub fn sealed<Fd: AsFd>(fd: Fd, expected_len: usize) -> Result<Self, ArenaError> {
        check_seals(fd.as_fd(), expected_len)?;
        Ok(Self {
            pin: pin(fd.as_fd(), expected_len)?,
            len: expected_len,
        })
    }

    /// The file's bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        let Some(mapping) = &self.pin else {
            return &[];
        };
        #[expect(unsafe_code, reason = "a slice over the mapping")]
        // SAFETY: `len` bytes are mapped for as long as `self` lives. The file is sealed against writing, shrinking
        // and removal of those seals, so no process can change or truncate it under this slice.
        let bytes = unsafe { slice::from_raw_parts(mapping.base().as_ptr(), self.len) };
        bytes
    }
}

/// Checks that the memory file `fd` is sealed against writing, shrinking, growing and further seals, and that it has
/// exactly `expected_len` bytes. Once it passed, nobody can make it untrue.
///
/// # Errors
/// [`ArenaError::NotSealed`] naming what is missing (all of it where the file has no seals at all);
/// [`ArenaError::WrongSize`]; [`ArenaError::Os`] for a failed fstat.
pub fn check_seals<Fd: AsFd>(fd: Fd, expected_len: usize) -> Result<(), ArenaError> {
    let seals = match fcntl_get_seals(fd.as_fd()) {
        Ok(seals) => seals,
        // Not a memory file at all.
        Err(Errno::INVAL) => SealFlags::empty(),
        Err(source) => {
            return Err(ArenaError::Os {
                call: "fcntl(F_GET_SEALS)",
                source,
            });
        }
    };
    let missing: Vec<&str> = SEALS
        .iter()
        .filter(|(seal, _)| !seals.contains(*seal))
        .map(|(_, against)| *against)
        .collect();
    if !missing.is_empty() {
        return Err(ArenaError::NotSealed {
            missing: missing.join(", "),
        });
    }
    let found = fstat(fd.as_fd()).map_err(ArenaError::os("fstat"))?.st_size;
    let expected_bytes = expected_len as u64;
    match u64::try_from(found) {
        Ok(found_bytes) if found_bytes == expected_bytes => Ok(()),
        Ok(found_bytes) => Err(ArenaError::WrongSize {
            expected_bytes,
            found_bytes,
        }),
        Err(_) => Err(ArenaError::Os {
            call: "fstat",
            source: Errno::OVERFLOW,
        }),
    }
}

/// Locks the file's pages through a mapping of a descriptor opened for reading only; nothing for an empty file.
fn pin(fd: BorrowedFd<'_>, len: usize) -> Result<Option<Mapping>, ArenaError> {
    if len == 0 {
        return Ok(None);
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let read_only =
        open(path, flags, Mode::empty()).map_err(ArenaError::os("open(/proc/self/fd)"))?;
    Mapping::pinned(read_only.as_fd(), len).map(Some)
}
