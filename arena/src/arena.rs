//! The key arena: 32-byte cells, packed into regions of hidden memory.
//!
//! Every key of ours that lives longer than a call is one cell: filled in place, wiped and handed back on drop. A
//! key's bytes must never be copied out of its cell, so [`Key`] has no `Clone`, `Debug`, `PartialEq` or `Deref`.

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroize;

use crate::error::ArenaError;
use crate::mapping::Mapping;

const KEY_BYTES: usize = 32;
const REGION_BYTES: usize = 64 * 1024;
const CELLS_PER_REGION: usize = REGION_BYTES / KEY_BYTES;

/// What keeps an arena's memory from being read or written out. `status` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// `memfd_secret(2)`: locked, and absent from the kernel's map; root reading `/proc/PID/mem` gets EIO.
    Secret,
    /// `mlock(2)`, left out of core dumps and forked children; root can read it.
    Locked,
    /// None: the danger switch `danger_plain_key_arena`.
    Plain,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret => "memfd_secret",
            Self::Locked => "mlock",
            Self::Plain => "plain",
        })
    }
}

/// Memory for keys: regions of 64 KiB, each of 2,048 cells. A clone is another handle to the same memory.
///
/// Regions are added as keys need them and given back to the kernel when the arena and all of its keys are gone.
#[derive(Clone)]
pub struct Arena {
    shared: Arc<Shared>,
}

/// One 32-byte key in an [`Arena`], wiped when dropped.
pub struct Key {
    cell: Cell,
    shared: Arc<Shared>,
}

struct Shared {
    protection: Protection,
    cells: Mutex<Cells>,
}

/// The cells that nobody holds, and the mappings that all cells lie in.
struct Cells {
    free: Vec<Cell>,
    regions: Vec<Mapping>,
}

/// The address of 32 initialised bytes. Whoever holds the value has them alone: a cell is either in one `Key` or
/// once in the free list.
struct Cell(NonNull<[u8; KEY_BYTES]>);

#[expect(
    unsafe_code,
    reason = "a raw pointer makes the type neither Send nor Sync by itself"
)]
// SAFETY: a cell belongs to its holder alone and to no thread.
unsafe impl Send for Cell {}
#[expect(
    unsafe_code,
    reason = "a raw pointer makes the type neither Send nor Sync by itself"
)]
// SAFETY: a shared cell gives only `&[u8; 32]`; writing takes `&mut`.
unsafe impl Sync for Cell {}

impl Arena {
    /// Makes an arena with its first region, of `memfd_secret` where that works and of locked memory elsewhere;
    /// [`Arena::protection`] says which it became.
    ///
    /// # Errors
    /// [`ArenaError::Exhausted`] when the region does not fit under RLIMIT_MEMLOCK (no weaker kind is tried: the
    /// limit counts for both); [`ArenaError::Os`] for a failed call.
    pub fn new() -> Result<Self, ArenaError> {
        match Mapping::secret(REGION_BYTES)? {
            Some(region) => Ok(Self::from_region(Protection::Secret, region)),
            None => Ok(Self::from_region(
                Protection::Locked,
                Mapping::locked(REGION_BYTES)?,
            )),
        }
    }

    /// Makes an arena of plain, swappable, readable memory: for `danger_plain_key_arena` only, which exists so
    /// that a memory scan has something to find.
    ///
    /// # Errors
    /// [`ArenaError::Os`] for a failed mmap.
    pub fn new_plain() -> Result<Self, ArenaError> {
        Ok(Self::from_region(
            Protection::Plain,
            Mapping::plain(REGION_BYTES)?,
        ))
    }

    /// How this arena's memory is protected.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.shared.protection
    }

    /// How many keys lie in this arena: 0 once all of them were dropped, and so wiped.
    #[must_use]
    pub fn keys(&self) -> usize {
        let cells = self.shared.lock();
        (cells.regions.len() * CELLS_PER_REGION).saturating_sub(cells.free.len())
    }

    /// Makes a key whose bytes `fill` writes, straight into the cell. A refused fill leaves nothing behind.
    ///
    /// # Errors
    /// Whatever `fill` answers; [`ArenaError`] when a region cannot be had.
    pub fn key_with<E, F>(&self, fill: F) -> Result<Key, E>
    where
        E: From<ArenaError>,
        F: FnOnce(&mut [u8; KEY_BYTES]) -> Result<(), E>,
    {
        let cell = self.shared.take()?;
        let mut key = Key {
            cell,
            shared: Arc::clone(&self.shared),
        };
        fill(key.cell.bytes_mut())?;
        Ok(key)
    }

    /// Makes a key of 32 bytes that the kernel's generator writes straight into the cell.
    ///
    /// # Errors
    /// [`ArenaError`] when a region cannot be had or the generator fails.
    pub fn random_key(&self) -> Result<Key, ArenaError> {
        self.key_with(|bytes| {
            // Up to 256 bytes come whole once the generator is seeded (getrandom(2)); checked all the same.
            match getrandom(bytes.as_mut_slice(), GetRandomFlags::empty()) {
                Ok(KEY_BYTES) => Ok(()),
                Ok(_) => Err(ArenaError::Os {
                    call: "getrandom",
                    source: rustix::io::Errno::IO,
                }),
                Err(source) => Err(ArenaError::Os {
                    call: "getrandom",
                    source,
                }),
            }
        })
    }

    fn from_region(protection: Protection, region: Mapping) -> Self {
        let mut cells = Cells {
            free: Vec::new(),
            regions: Vec::new(),
        };
        cells.add(region);
        Self {
            shared: Arc::new(Shared {
                protection,
                cells: Mutex::new(cells),
            }),
        }
    }
}

impl Key {
    /// The key's bytes. They must not be copied anywhere that is not wiped.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        self.cell.bytes()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.cell.bytes_mut().zeroize();
        // This key is gone when drop returns, so the address has one holder again: the free list.
        let cell = Cell(self.cell.0);
        self.shared.lock().free.push(cell);
    }
}

impl Shared {
    fn take(&self) -> Result<Cell, ArenaError> {
        let mut cells = self.lock();
        if let Some(cell) = cells.free.pop() {
            return Ok(cell);
        }
        let region = match self.protection {
            Protection::Secret => Mapping::secret(REGION_BYTES)?.ok_or(ArenaError::Os {
                call: "memfd_secret",
                source: rustix::io::Errno::NOSYS,
            })?,
            Protection::Locked => Mapping::locked(REGION_BYTES)?,
            Protection::Plain => Mapping::plain(REGION_BYTES)?,
        };
        cells.add(region);
        cells.free.pop().ok_or(ArenaError::Exhausted {
            bytes: REGION_BYTES,
            source: rustix::io::Errno::NOMEM,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Cells> {
        // No code of a caller runs under the lock, and a list of addresses is whole between any two steps.
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cells {
    fn add(&mut self, region: Mapping) {
        let first = region.base().cast::<[u8; KEY_BYTES]>();
        self.regions.push(region);
        // Room for every cell there is, so that giving one back allocates nothing.
        self.free
            .reserve(self.regions.len() * CELLS_PER_REGION - self.free.len());
        for index in (0..CELLS_PER_REGION).rev() {
            #[expect(unsafe_code, reason = "the address of one cell")]
            // SAFETY: `index` cells of 32 bytes lie within the region's 64 KiB.
            let cell = unsafe { first.add(index) };
            self.free.push(Cell(cell));
        }
    }
}

impl Cell {
    fn bytes(&self) -> &[u8; KEY_BYTES] {
        #[expect(unsafe_code, reason = "the cell's memory")]
        // SAFETY: the region is mapped for as long as the key's `Arc<Shared>` lives, zeroed by the kernel, so
        // initialised; this cell is its one holder's, and `&self` excludes writing.
        let bytes = unsafe { self.0.as_ref() };
        bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8; KEY_BYTES] {
        #[expect(unsafe_code, reason = "the cell's memory")]
        // SAFETY: as in `bytes`; `&mut self` excludes every other access.
        let bytes = unsafe { self.0.as_mut() };
        bytes
    }
}
