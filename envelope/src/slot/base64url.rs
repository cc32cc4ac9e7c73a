//! base64url without padding (RFC 4648, section 5) for what is secret: in place, and in time that tells nothing of it.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Why characters are no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A character is not of the alphabet.
    Alphabet,
    /// The last character has bits that belong to no byte.
    SpareBits,
}

/// Gives the characters of bytes, one after the other.
pub(super) fn write(bytes: &[u8], mut put: impl FnMut(u8)) {
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        held += 8;
        while held >= 6 {
            held -= 6;
            put(digit(bits >> held));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        put(digit(bits << (6 - held)));
    }
}

/// Reads characters into `out`, which must have their length in bytes.
pub(super) fn read(digits: &[u8], out: &mut [u8]) -> Result<(), Fault> {
    let (mut bits, mut held) = (0u32, 0u32);
    let mut cells = out.iter_mut();
    for character in digits {
        bits = (bits << 6) | sextet(*character).ok_or(Fault::Alphabet)?;
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
        Err(Fault::SpareBits)
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
