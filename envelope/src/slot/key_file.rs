//! The key file of a slot: one line of text with the slot's secret.
//!
//! Read and written in place, so that no copy of the secret stays behind.

use thiserror::Error;

use crate::key::{KEY_BYTES, SlotSecret};

const PREFIX: &[u8] = b"attache-slot-key-1:";
const DIGITS: usize = 43;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

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
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in secret.bytes() {
        bits = (bits << 8) | u32::from(*byte);
        held += 8;
        while held >= 6 {
            held -= 6;
            put(digit(bits >> held));
        }
        bits &= (1 << held) - 1;
    }
    put(digit(bits << (6 - held)));
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
    let (mut bits, mut held) = (0u32, 0u32);
    let mut cells = out.iter_mut();
    for character in digits {
        bits = (bits << 6) | sextet(*character).ok_or(KeyFileError::Alphabet)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            if let Some(cell) = cells.next() {
                let [.., byte] = (bits >> held).to_be_bytes();
                *cell = byte;
            }
            bits &= (1 << held) - 1;
        }
    }
    if bits == 0 {
        Ok(())
    } else {
        Err(KeyFileError::SpareBits)
    }
}

/// The character of the low six bits. Walks the alphabet whole, so that time tells nothing of the secret.
fn digit(bits: u32) -> u8 {
    let wanted = bits & 63;
    (0u32..).zip(ALPHABET).fold(
        0,
        |found, (value, character)| {
            if value == wanted { *character } else { found }
        },
    )
}

fn sextet(character: u8) -> Option<u32> {
    (0u32..)
        .zip(ALPHABET)
        .fold(None, |found, (value, of_alphabet)| {
            if *of_alphabet == character {
                Some(value)
            } else {
                found
            }
        })
}
