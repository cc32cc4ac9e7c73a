//! The first 160 bytes: of which store a backup is, of which of its states, and where the audit log stood.
//!
//! ```text
//! 0   8  magic "ATBACKUP"     48  4  incarnation, u32      104 16  audit chain
//! 8   2  format u16 = 1       52  4  zero                  120  8  its size, u64
//! 10  2  suite u16 = 1        56  8  seq, u64              128 32  its root
//! 12  2  store format, u16    64  8  created, u64, ms
//! 14  2  zero                 72 32  T, the anchor's
//! 16 16  store
//! 32 16  backup
//! ```

use attache_envelope::id::{BackupId, ChainId, StoreId};
use attache_envelope::{FORMAT, SUITE};

use crate::reader::{BackupError, Found};

/// The length of the head.
pub const HEAD_BYTES: usize = 160;

const MAGIC: [u8; 8] = *b"ATBACKUP";

/// What a backup says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// In which form its rows are stored. Whoever does not know it can see that the backup is whole, and no more.
    pub store_format: u16,
    /// The store.
    pub store: StoreId,
    /// This backup, and no other of the same state.
    pub backup: BackupId,
    /// The store's incarnation.
    pub incarnation: u32,
    /// The commit whose state it holds.
    pub seq: u64,
    /// When it was begun, in milliseconds since 1970.
    pub created_ms: u64,
    /// The anchor chain's value at that commit.
    pub anchor_t: [u8; 32],
    /// The audit log of the broker that made it, as it was when the backup was begun.
    pub audit: AuditHead,
}

/// A durable checkpoint of an audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHead {
    /// The log.
    pub chain: ChainId,
    /// How many records it had.
    pub size: u64,
    /// The root over them.
    pub root: [u8; 32],
}

impl Head {
    /// The 160 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        let parts: [&[u8]; 15] = [
            &MAGIC,
            &FORMAT.to_be_bytes(),
            &SUITE.to_be_bytes(),
            &self.store_format.to_be_bytes(),
            &[0; 2],
            self.store.as_bytes(),
            self.backup.as_bytes(),
            &self.incarnation.to_be_bytes(),
            &[0; 4],
            &self.seq.to_be_bytes(),
            &self.created_ms.to_be_bytes(),
            &self.anchor_t,
            self.audit.chain.as_bytes(),
            &self.audit.size.to_be_bytes(),
            &self.audit.root,
        ];
        for (place, byte) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *place = *byte;
        }
        out
    }

    /// Reads the head of a file.
    ///
    /// # Errors
    /// [`Found::NoBackup`], [`Found::Newer`], [`Found::Zero`].
    pub(crate) fn parse(bytes: &[u8; HEAD_BYTES]) -> Result<Self, BackupError> {
        let mut rest = bytes.as_slice();
        let at = |offset, found| BackupError { offset, found };
        if take(&mut rest) != MAGIC {
            return Err(at(0, Found::NoBackup));
        }
        for (offset, what, known) in [(8, "format", FORMAT), (10, "suite", SUITE)] {
            let number = u16::from_be_bytes(take(&mut rest));
            if number != known {
                return Err(at(offset, Found::Newer { what, number }));
            }
        }
        let store_format = u16::from_be_bytes(take(&mut rest));
        let zeros: [u8; 2] = take(&mut rest);
        let store = StoreId::from_bytes(take(&mut rest));
        let backup = BackupId::from_bytes(take(&mut rest));
        let incarnation = u32::from_be_bytes(take(&mut rest));
        let more_zeros: [u8; 4] = take(&mut rest);
        for (offset, zeros) in [(14, zeros.as_slice()), (52, &more_zeros)] {
            if zeros.iter().any(|byte| *byte != 0) {
                return Err(at(offset, Found::Zero));
            }
        }
        Ok(Self {
            store_format,
            store,
            backup,
            incarnation,
            seq: u64::from_be_bytes(take(&mut rest)),
            created_ms: u64::from_be_bytes(take(&mut rest)),
            anchor_t: take(&mut rest),
            audit: AuditHead {
                chain: ChainId::from_bytes(take(&mut rest)),
                size: u64::from_be_bytes(take(&mut rest)),
                root: take(&mut rest),
            },
        })
    }
}

/// The next `N` bytes of a head, whose length is known to hold them; zeros past its end.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    match rest.split_first_chunk() {
        Some((taken, left)) => {
            *rest = left;
            *taken
        }
        None => [0; N],
    }
}
