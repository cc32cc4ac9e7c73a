//! Backups that were made.

use super::{MAX_SPIFFE_ID_BYTES, decode};
use crate::error::EnvelopeError;
use crate::id::BackupId;
use crate::lp::{Fault, Lp, Malformed};

/// Table `backup`: `LP(incarnation u32, seq u64, hash 32, size u64, created u64, who, [(verified u64, who)] (0 or 1))`.
///
/// Key: the backup's id. The row says that a file was made, not that it is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupBody {
    /// The incarnation of the state that it holds.
    pub incarnation: u32,
    /// The sequence of that state.
    pub seq: u64,
    /// SHA-256 of the file up to its end.
    pub hash: [u8; 32],
    /// The bytes of the file up to its end.
    pub size: u64,
    /// When it was begun, in milliseconds since 1970.
    pub created_ms: u64,
    /// Who made it.
    pub created_by: String,
    /// When it was last found whole, and by whom.
    pub verified: Option<(u64, String)>,
}

impl BackupBody {
    const RECORD: &str = "the backup";

    /// The row's key.
    #[must_use]
    pub fn key(backup: BackupId) -> Vec<u8> {
        backup.as_bytes().to_vec()
    }

    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let verified = self.verified.iter();
        let verified = verified.map(|(at_ms, by)| Lp::new().u64(*at_ms).str(by));
        Lp::record()
            .u32(self.incarnation)
            .u64(self.seq)
            .bytes(&self.hash)
            .u64(self.size)
            .u64(self.created_ms)
            .str(&self.created_by)
            .list(verified.collect::<Vec<_>>())
            .into_bytes()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`EnvelopeError::Format`], [`EnvelopeError::Suite`], [`EnvelopeError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        decode(Self::RECORD, bytes, |reader| {
            let incarnation = reader.u32("incarnation")?;
            if incarnation == 0 {
                return Err(Malformed::new("incarnation", Fault::Unknown));
            }
            Ok(Self {
                incarnation,
                seq: reader.u64("seq")?,
                hash: reader.array("hash")?,
                size: reader.u64("size")?,
                created_ms: reader.u64("created")?,
                created_by: reader.str("who", MAX_SPIFFE_ID_BYTES)?.to_owned(),
                verified: reader
                    .list("verified", 1, |reader| {
                        let at_ms = reader.u64("verified")?;
                        let by = reader.str("verified by", MAX_SPIFFE_ID_BYTES)?;
                        Ok((at_ms, by.to_owned()))
                    })?
                    .pop(),
            })
        })
    }
}
