//! What the signed notes say: a chain's checkpoint (C2SP `tlog-checkpoint`), and a copy of the store's anchor.
//!
//! ```text
//! checkpoint  attache/<store uuid>/<chain uuid> "\n" size "\n" base64(root) "\n"
//! anchor      attache/anchor/<store uuid> "\n" incarnation "\n" seq "\n" base64(T) "\n"
//! ```
//!
//! The key's name is the origin. Numbers are decimal without leading zeros; a line more or less is refused.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::note::{NoteError, Signer, Verifier};
use crate::tree::Hash;

/// A checkpoint or an anchor copy that is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// The signed note around it.
    #[error("the signed note is refused")]
    Note(#[from] NoteError),
    /// The text has not the lines that it must have.
    #[error("malformed text: origin, numbers and one base64 hash, each on a line of its own")]
    Malformed,
    /// The text is of another log or store than the key that signed it.
    #[error("the origin is of another log or store")]
    Origin,
}

/// The size and root of a chain at the end of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// How many leaves there are.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
}

impl Checkpoint {
    /// Signs the checkpoint; the origin is the key's name.
    ///
    /// # Errors
    /// [`CheckpointError::Origin`] when the key's name is no log's.
    pub fn sign(&self, signer: &Signer) -> Result<String, CheckpointError> {
        let origin = signer.verifier().name();
        log_ids(origin).ok_or(CheckpointError::Origin)?;
        Ok(signer.sign(&format!(
            "{origin}\n{}\n{}\n",
            self.size,
            STANDARD.encode(self.root)
        ))?)
    }

    /// Verifies a signed checkpoint of the log that the key is named after.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn open(note: &str, verifier: &Verifier) -> Result<Self, CheckpointError> {
        let [size, root] = open_lines(note, verifier)?;
        Self::parse(size, root)
    }

    /// Reads what a note claims, whoever signed it: to know where to look before the key is known.
    ///
    /// # Errors
    /// [`CheckpointError::Malformed`].
    pub fn claimed(note: &str) -> Result<Self, CheckpointError> {
        let (text, _) = note.split_once("\n\n").ok_or(CheckpointError::Malformed)?;
        let lines: Vec<&str> = text.split('\n').collect();
        let [_origin, size, root] = lines[..] else {
            return Err(CheckpointError::Malformed);
        };
        Self::parse(size, root)
    }

    fn parse(size: &str, root: &str) -> Result<Self, CheckpointError> {
        Ok(Self {
            size: parse_number(size)?,
            root: parse_hash(root)?,
        })
    }
}

/// A copy of the store's anchor, as published outside of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnchorNote {
    /// Counts restores and accepted rollbacks.
    pub incarnation: u32,
    /// The commit that the anchor was made in.
    pub seq: u64,
    /// The anchor chain's value at that commit.
    pub t: Hash,
}

impl AnchorNote {
    /// Signs the copy; the origin is the key's name, [`anchor_origin`].
    ///
    /// # Errors
    /// [`CheckpointError::Origin`] when the key's name is no anchor's.
    pub fn sign(&self, signer: &Signer) -> Result<String, CheckpointError> {
        let origin = signer.verifier().name();
        origin
            .strip_prefix(ANCHOR_PREFIX)
            .and_then(parse_uuid)
            .ok_or(CheckpointError::Origin)?;
        let Self {
            incarnation,
            seq,
            t,
        } = self;
        Ok(signer.sign(&format!(
            "{origin}\n{incarnation}\n{seq}\n{}\n",
            STANDARD.encode(t)
        ))?)
    }

    /// Verifies a copy of the anchor of the store that the key is named after.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn open(note: &str, verifier: &Verifier) -> Result<Self, CheckpointError> {
        let [incarnation, seq, t] = open_lines(note, verifier)?;
        Ok(Self {
            incarnation: parse_number(incarnation)?,
            seq: parse_number(seq)?,
            t: parse_hash(t)?,
        })
    }
}

const LOG_PREFIX: &str = "attache/";
const ANCHOR_PREFIX: &str = "attache/anchor/";

/// `attache/<store uuid>/<chain uuid>`: origin and key name of one broker's audit log.
#[must_use]
pub fn log_origin(store: &[u8; 16], chain: &[u8; 16]) -> String {
    format!("{LOG_PREFIX}{}/{}", uuid_text(store), uuid_text(chain))
}

/// `attache/anchor/<store uuid>`: origin and key name of the published anchors of a store.
#[must_use]
pub fn anchor_origin(store: &[u8; 16]) -> String {
    format!("{ANCHOR_PREFIX}{}", uuid_text(store))
}

/// The store and chain that an origin names, if it is [`log_origin`]'s.
#[must_use]
pub fn log_ids(origin: &str) -> Option<([u8; 16], [u8; 16])> {
    let (store, chain) = origin.strip_prefix(LOG_PREFIX)?.split_once('/')?;
    Some((parse_uuid(store)?, parse_uuid(chain)?))
}

/// The canonical text of a uuid: lower-case hex, 8-4-4-4-12 (RFC 9562, section 4).
pub(crate) fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = hex::encode(uuid);
    for at in [20, 16, 12, 8] {
        text.insert(at, '-');
    }
    text
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut uuid = [0; 16];
    hex::decode_to_slice(text.replace('-', ""), &mut uuid).ok()?;
    (uuid_text(&uuid) == text).then_some(uuid)
}

/// Verifies a note and splits its text into the origin, which must be the key's name, and `N` further lines.
fn open_lines<'n, const N: usize>(
    note: &'n str,
    verifier: &Verifier,
) -> Result<[&'n str; N], CheckpointError> {
    let text = verifier
        .open(note)?
        .strip_suffix('\n')
        .ok_or(CheckpointError::Malformed)?;
    let mut lines = text.split('\n');
    if lines.next() != Some(verifier.name()) {
        return Err(CheckpointError::Origin);
    }
    let lines: Vec<&str> = lines.collect();
    lines.try_into().map_err(|_| CheckpointError::Malformed)
}

/// Reads a decimal number in its one canonical form.
fn parse_number<N: std::str::FromStr + ToString>(text: &str) -> Result<N, CheckpointError> {
    let number: N = text.parse().map_err(|_| CheckpointError::Malformed)?;
    if number.to_string() == text {
        Ok(number)
    } else {
        Err(CheckpointError::Malformed)
    }
}

fn parse_hash(text: &str) -> Result<Hash, CheckpointError> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| CheckpointError::Malformed)?;
    bytes.try_into().map_err(|_| CheckpointError::Malformed)
}

#[cfg(test)]
mod tests;
