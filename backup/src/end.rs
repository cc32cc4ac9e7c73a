//! How a backup ends: a note, signed by the audit key, over the hash of all that comes before it.
//!
//! ```text
//! attache/backup/<store uuid> "\n" backup uuid "\n" incarnation "\n" seq "\n" size "\n" base64(SHA-256) "\n"
//! ```
//!
//! Size and hash are of the file up to the frame of this note. Nothing of the note is read before its signature holds.

use attache_envelope::id::StoreId;
use attache_translog::{NoteError, Signer, Verifier, log_ids};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::head::Head;

const PREFIX: &str = "attache/backup/";

/// `attache/backup/<store uuid>`: origin and key name of the notes that backups of a store end in.
#[must_use]
pub fn backup_origin(store: StoreId) -> String {
    format!("{PREFIX}{store}")
}

/// What verifies the backups of the store whose audit log `audit` verifies; none when that is no log's key.
#[must_use]
pub fn verifier_of(audit: &Verifier) -> Option<Verifier> {
    let (store, _chain) = log_ids(audit.name())?;
    audit.named(&backup_origin(StoreId::from_bytes(store))).ok()
}

/// What a backup came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// What it says of itself.
    pub head: Head,
    /// How many rows it holds, payloads among them.
    pub rows: u64,
    /// The bytes before the frame of its note.
    pub size: u64,
    /// SHA-256 of those.
    pub hash: [u8; 32],
}

/// Why the end of a backup is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EndError {
    /// The note is not one of the key that it is held against.
    #[error("its end is not signed by the store's audit key: {0}")]
    Note(#[from] NoteError),
    /// The note is of another store, backup or state than the head, or says other bytes than there are.
    #[error("its end is of another backup: the bytes before it are not those that were signed")]
    OtherBytes,
}

/// A backup that was read to its last byte, and whose end is still to be verified.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct End {
    pub(crate) sealed: Sealed,
    pub(crate) note: String,
}

impl End {
    /// What was read, before anybody has vouched for it.
    #[must_use]
    pub fn unverified(&self) -> &Sealed {
        &self.sealed
    }

    /// Holds the note against the key that must have signed it and against what was read.
    ///
    /// # Errors
    /// [`EndError`].
    pub fn verify(&self, verifier: &Verifier) -> Result<Sealed, EndError> {
        let text = verifier.open(&self.note)?;
        if verifier.name() == backup_origin(self.sealed.head.store) && text == text_of(&self.sealed)
        {
            Ok(self.sealed)
        } else {
            Err(EndError::OtherBytes)
        }
    }
}

/// Signs what a backup came to.
pub(crate) fn sign(sealed: &Sealed, signer: &Signer) -> Result<String, EndError> {
    if signer.verifier().name() != backup_origin(sealed.head.store) {
        return Err(EndError::OtherBytes);
    }
    Ok(signer.sign(&text_of(sealed))?)
}

/// The one text of a note.
fn text_of(sealed: &Sealed) -> String {
    let Sealed {
        head, size, hash, ..
    } = sealed;
    format!(
        "{}\n{}\n{}\n{}\n{size}\n{}\n",
        backup_origin(head.store),
        head.backup,
        head.incarnation,
        head.seq,
        STANDARD.encode(hash)
    )
}
