//! The secret of a passphrase slot: Argon2id over what a person knows; RFC 9106.
//!
//! ```text
//! parameters = memory in KiB u32 || passes u32 || lanes u32 || salt 32
//! secret     = Argon2id, version 0x13 (passphrase, salt, memory, passes, lanes) of 32 bytes
//! ```
//!
//! The parameters stand in the slot's row, which is hostile when they are read: what they may cost is capped. Lowered in
//! the row they open nothing, since the slot's blob is bound to them. The work memory is too much for locked memory; it is
//! wiped.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use thiserror::Error;
use zeroize::Zeroize as _;

use crate::error::EnvelopeError;
use crate::key::KEY_BYTES;
use crate::lp::{Fault, Malformed};
use crate::random::Random;

const SALT_BYTES: usize = 32;

/// Bytes of the stored parameters.
pub const PARAMETERS_BYTES: usize = 12 + SALT_BYTES;

/// What new slots take: the second recommended option of RFC 9106, section 4.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 4;

/// The most that a row may ask for: memory, and memory times passes, both in KiB.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_WORK_KIB: u32 = 4 * 1024 * 1024;
const MAX_LANES: u32 = 64;

/// A passphrase has at least this many characters, and this many different ones.
const MIN_CHARACTERS: usize = 16;
const MIN_DIFFERENT: usize = 8;

/// How a passphrase becomes a slot's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassphraseParameters {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: [u8; SALT_BYTES],
}

/// Why a passphrase is too weak to open a store. Never says what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WeakPassphrase {
    /// It is not text.
    #[error("the passphrase is not UTF-8")]
    NotText,
    /// Too few characters.
    #[error(
        "the passphrase has fewer than {MIN_CHARACTERS} characters: take six words or more that were drawn, not chosen"
    )]
    Short,
    /// Too few different ones.
    #[error("the passphrase has fewer than {MIN_DIFFERENT} different characters")]
    Uniform,
}

impl PassphraseParameters {
    /// Parameters of a new slot, with a salt of its own.
    ///
    /// # Errors
    /// [`EnvelopeError::Random`].
    pub fn draw(random: &dyn Random) -> Result<Self, EnvelopeError> {
        let mut salt = [0; SALT_BYTES];
        random.fill(&mut salt)?;
        Ok(Self {
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            lanes: LANES,
            salt,
        })
    }

    /// Takes stored bytes, which are hostile.
    ///
    /// # Errors
    /// [`Fault::Length`]; [`Fault::TooLong`] for what may not be asked for.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        const FIELD: &str = "KDF parameters";
        let (numbers, salt) = bytes
            .split_last_chunk::<SALT_BYTES>()
            .ok_or(Malformed::new(FIELD, Fault::Length))?;
        let ([memory, passes, lanes], []) = numbers.as_chunks::<4>() else {
            return Err(Malformed::new(FIELD, Fault::Length));
        };
        let parameters = Self {
            memory_kib: u32::from_be_bytes(*memory),
            passes: u32::from_be_bytes(*passes),
            lanes: u32::from_be_bytes(*lanes),
            salt: *salt,
        };
        let work = parameters.memory_kib.checked_mul(parameters.passes);
        let within = parameters.memory_kib <= MAX_MEMORY_KIB
            && work.is_some_and(|work| work <= MAX_WORK_KIB)
            && parameters.lanes <= MAX_LANES
            && parameters.argon2().is_ok();
        if within {
            Ok(parameters)
        } else {
            Err(Malformed::new(FIELD, Fault::TooLong))
        }
    }

    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let numbers = [self.memory_kib, self.passes, self.lanes];
        let mut bytes = Vec::with_capacity(PARAMETERS_BYTES);
        numbers
            .iter()
            .for_each(|number| bytes.extend_from_slice(&number.to_be_bytes()));
        bytes.extend_from_slice(&self.salt);
        bytes
    }

    /// Takes parameters that came apart, which are hostile.
    ///
    /// # Errors
    /// As [`PassphraseParameters::decode`].
    pub fn from_parts(
        memory_kib: u32,
        passes: u32,
        lanes: u32,
        salt: [u8; SALT_BYTES],
    ) -> Result<Self, Malformed> {
        let parameters = Self {
            memory_kib,
            passes,
            lanes,
            salt,
        };
        Self::decode(&parameters.encode())
    }

    /// Memory in KiB, passes and lanes.
    #[must_use]
    pub const fn cost(&self) -> (u32, u32, u32) {
        (self.memory_kib, self.passes, self.lanes)
    }

    /// The salt.
    #[must_use]
    pub const fn salt(&self) -> &[u8; SALT_BYTES] {
        &self.salt
    }

    /// Derives the slot's secret into `out`. Takes a tenth of a second and 64 MiB with the parameters of new slots.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`] for what Argon2 does not take, or no memory.
    pub fn derive(
        &self,
        passphrase: &[u8],
        out: &mut [u8; KEY_BYTES],
    ) -> Result<(), EnvelopeError> {
        let argon2 = self.argon2()?;
        let count = argon2.params().block_count();
        let mut work: Vec<Block> = Vec::new();
        work.try_reserve_exact(count)
            .map_err(|_| EnvelopeError::Refused)?;
        work.resize(count, Block::default());
        let derived = argon2.hash_password_into_with_memory(
            passphrase,
            &self.salt,
            out.as_mut_slice(),
            work.as_mut_slice(),
        );
        work.zeroize();
        derived.map_err(|_| EnvelopeError::Refused)
    }

    fn argon2(&self) -> Result<Argon2<'static>, EnvelopeError> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_BYTES));
        let params = params.map_err(|_| EnvelopeError::Refused)?;
        Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }
}

/// Whether a passphrase may be given to a new slot.
///
/// # Errors
/// [`WeakPassphrase`].
pub fn check_strength(passphrase: &[u8]) -> Result<(), WeakPassphrase> {
    let text = str::from_utf8(passphrase).map_err(|_| WeakPassphrase::NotText)?;
    if text.chars().count() < MIN_CHARACTERS {
        return Err(WeakPassphrase::Short);
    }
    let first_of_its_kind = |(at, c): &(usize, char)| text.find(*c) == Some(*at);
    if text.char_indices().filter(first_of_its_kind).count() < MIN_DIFFERENT {
        return Err(WeakPassphrase::Uniform);
    }
    Ok(())
}

/// The passphrase in a file: its bytes without the one newline at their end.
#[must_use]
pub fn of_file(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.strip_suffix(b"\r").unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRandom;

    fn small() -> PassphraseParameters {
        PassphraseParameters {
            memory_kib: 64,
            passes: 1,
            lanes: 1,
            salt: [7; SALT_BYTES],
        }
    }

    #[test]
    fn parameters_read_back_and_what_costs_too_much_is_refused() {
        let drawn = PassphraseParameters::draw(&SystemRandom).unwrap();
        assert_eq!(PassphraseParameters::decode(&drawn.encode()), Ok(drawn));
        assert_eq!(drawn.encode().len(), PARAMETERS_BYTES);
        let asked = |memory_kib, passes, lanes| {
            let asked = PassphraseParameters {
                memory_kib,
                passes,
                lanes,
                ..small()
            };
            PassphraseParameters::decode(&asked.encode()).map_err(|error| error.fault)
        };
        assert!(asked(8, 1, 1).is_ok());
        assert!(asked(MAX_MEMORY_KIB, 4, MAX_LANES).is_ok());
        for (memory, passes, lanes) in [
            (MAX_MEMORY_KIB + 1, 1, 1),
            (MAX_MEMORY_KIB, 5, 1),
            (u32::MAX, u32::MAX, 1),
            (64 * 1024, 0, 1),
            (64 * 1024, 1, 0),
            (64 * 1024, 1, MAX_LANES + 1),
            (7, 1, 1),
            (0, 1, 1),
        ] {
            let refused = asked(memory, passes, lanes);
            assert_eq!(refused, Err(Fault::TooLong), "{memory} {passes} {lanes}");
        }
        for bytes in [&[][..], &[0; 31], &[0; 43], &[0; 45], &[0; 48]] {
            let refused = PassphraseParameters::decode(bytes).map_err(|error| error.fault);
            assert_eq!(refused, Err(Fault::Length), "{}", bytes.len());
        }
    }

    #[test]
    fn another_passphrase_salt_or_cost_makes_another_secret() {
        let derive = |parameters: PassphraseParameters, passphrase: &[u8]| {
            let mut out = [0; KEY_BYTES];
            parameters.derive(passphrase, &mut out).unwrap();
            out
        };
        let secret = derive(small(), b"correct horse battery staple");
        assert_eq!(derive(small(), b"correct horse battery staple"), secret);
        assert_ne!(derive(small(), b"correct horse battery stable"), secret);
        for other in [
            PassphraseParameters {
                salt: [8; SALT_BYTES],
                ..small()
            },
            PassphraseParameters {
                passes: 2,
                ..small()
            },
            PassphraseParameters {
                memory_kib: 65,
                ..small()
            },
        ] {
            assert_ne!(derive(other, b"correct horse battery staple"), secret);
        }
    }

    #[test]
    fn a_passphrase_has_a_floor() {
        assert_eq!(check_strength(b"correct horse battery staple"), Ok(()));
        assert_eq!(check_strength("ümlautë sind Zeichen".as_bytes()), Ok(()));
        assert_eq!(check_strength(b""), Err(WeakPassphrase::Short));
        assert_eq!(
            check_strength(b"fifteen letters"),
            Err(WeakPassphrase::Short)
        );
        assert_eq!(
            check_strength(b"aaaaaaaaaaaaaaaabbbbbbbbb"),
            Err(WeakPassphrase::Uniform)
        );
        assert_eq!(check_strength(&[0xff; 32]), Err(WeakPassphrase::NotText));
    }

    #[test]
    fn one_newline_at_the_end_of_a_file_is_not_of_the_passphrase() {
        for (text, passphrase) in [
            (&b"words"[..], &b"words"[..]),
            (b"words\n", b"words"),
            (b"words\r\n", b"words"),
            (b"words\n\n", b"words\n"),
            (b" words \n", b" words "),
        ] {
            assert_eq!(of_file(text), passphrase);
        }
    }
}
