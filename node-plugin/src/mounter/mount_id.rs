//! Which mount an open file lies on, and which mounts are known to be whose volume.
//!
//! Since kernel 6.8 a mount has an id that no other mount gets before the next boot. What was found out about such a
//! mount once stays true (its type and source cannot change), and saves reading the whole mount table again. Older
//! ids are used again and are compared within one call only. Neither leaves this process.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;

use super::error::MountError;
use crate::volume::VolumeId;

/// `STATX_MNT_ID_UNIQUE` of linux/stat.h.
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
/// Volumes that went without a detach leave their ids behind; this many are kept at most.
const MAX_KNOWN: usize = 4096;

/// The id of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MountId {
    number: u64,
    unique: bool,
}

impl MountId {
    /// The id of the mount that an open file lies on.
    pub(super) fn of(fd: BorrowedFd<'_>) -> Result<Self, MountError> {
        let stat = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID | UNIQUE)
            .map_err(MountError::os("statx"))?;
        let filled = StatxFlags::from_bits_retain(stat.stx_mask);
        if filled.intersects(StatxFlags::MNT_ID | UNIQUE) {
            Ok(Self {
                number: stat.stx_mnt_id,
                unique: filled.contains(UNIQUE),
            })
        } else {
            Err(MountError::Os {
                call: "statx(STATX_MNT_ID)",
                source: Errno::NOSYS,
            })
        }
    }
}

/// The id by which the mount table names the mount that an open file lies on.
pub(super) fn table_id(fd: BorrowedFd<'_>) -> Result<u64, MountError> {
    let stat =
        statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map_err(MountError::os("statx"))?;
    Ok(stat.stx_mnt_id)
}

/// Mounts that were seen to be volumes of ours.
#[derive(Default)]
pub(super) struct KnownMounts(RefCell<BTreeMap<u64, VolumeId>>);

impl KnownMounts {
    /// Answers whether `mount` was seen to be the volume `id`.
    pub(super) fn are(&self, mount: MountId, id: VolumeId) -> bool {
        mount.unique && self.0.borrow().get(&mount.number) == Some(&id)
    }

    /// Remembers that `mount` is the volume `id`.
    pub(super) fn learn(&self, mount: MountId, id: VolumeId) {
        let mut known = self.0.borrow_mut();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        if mount.unique {
            known.insert(mount.number, id);
        }
    }

    /// Forgets a mount that is gone.
    pub(super) fn forget(&self, mount: MountId) {
        self.0.borrow_mut().remove(&mount.number);
    }
}
