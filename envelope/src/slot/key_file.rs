//! The key file of a slot: one line of text with the slot's secret.
//!
//! Read and written in place, so that no copy of the secret stays behind.

use thiserror::Error;

use super::base64url;
use crate::key::{KEY_BYTES, SlotSecret};

const PREFIX: &[u8] = b"attache-slot-key-1:";
const DIGITS: usize = 43;

/// Bytes of a key file, its newline included.
pub const KEY_FILE_BYTES: usize = PREFIX.len() + DIGITS + 1;

/// Why a file is no key file. Never says what stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyFileError {
    /// It begins otherwise.
    #[error(
        "the key file does not begin with attache-slot-key-1: (is it another file, or of a newer build?)"
    )]
    Prefix,
    /// It does not end in a newline.
    #[error("the key file does not end in a newline: it may be cut short")]
    Newline,
    /// Another number of characters stands between.
    #[error("the key file is not one line of {KEY_FILE_BYTES} bytes: restore it from its copy")]
    Length,
    /// A character is not of base64url.
    #[error("the key file has a character outside of A-Z a-z 0-9 - _")]
    Alphabet,
    /// The last character has bits that belong to no byte.
    #[error("the key file's last character is not one that is ever written: it was edited")]
    SpareBits,
}

/// Writes a key file into `out`; mode 0400 is the caller's part.
pub fn write_key_file(secret: SlotSecret<'_>, out: &mut [u8; KEY_FILE_BYTES]) {
    let mut cells = out.iter_mut();
    let mut put = |byte: u8| {
        if let Some(cell) = cells.next() {
            *cell = byte;
        }
    };
    PREFIX.iter().copied().for_each(&mut put);
    base64url::write(secret.bytes(), &mut put);
    put(b'\n');
}

/// Reads a key file into `out`.
///
/// # Errors
/// [`KeyFileError`]; `out` is not to be used then.
pub fn parse_key_file(text: &[u8], out: &mut [u8; KEY_BYTES]) -> Result<(), KeyFileError> {
    let rest = text.strip_prefix(PREFIX).ok_or(KeyFileError::Prefix)?;
    let digits = rest.strip_suffix(b"\n").ok_or(KeyFileError::Newline)?;
    if digits.len() != DIGITS {
        return Err(KeyFileError::Length);
    }
    base64url::read(digits, out).map_err(|fault| match fault {
        base64url::Fault::Alphabet => KeyFileError::Alphabet,
        base64url::Fault::SpareBits => KeyFileError::SpareBits,
    })
}
