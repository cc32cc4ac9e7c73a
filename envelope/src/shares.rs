//! A secret of 32 bytes in m shares of which any n give it back, and n - 1 say nothing: Shamir's scheme over GF(256), byte
//! by byte.
//!
//! ```text
//! GF(256)    polynomials over GF(2) modulo x^8 + x^4 + x^3 + x + 1
//! y_i        = secret + c_1 i + c_2 i^2 + ... + c_(n-1) i^(n-1)      i = 1 .. m; each c of 32 random bytes, zeros among them
//! share      = set 16 || i u8 || y_i 32
//! commitment = SHA-256(LP("attache/share/1", set, i u8, y_i))
//! set        = LP(set 16, n u8, [commitment])                        public: it stands in the slot
//! ```
//!
//! A share has as much entropy as the secret, so that its commitment hides it. By the commitments a wrong share, one of
//! another set and one that is there already are told apart before anything is combined, and none of them spoils those that
//! are there. The field's arithmetic has no table and no branch on what is secret; the numbers of shares are public.

use subtle::ConstantTimeEq as _;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::error::EnvelopeError;
use crate::kdf;
use crate::key::{KEY_BYTES, SlotSecret};
use crate::lp::{Fault, Lp, Malformed, Reader};
use crate::random::Random;

const SET_BYTES: usize = 16;
const RECORD: &str = "the set of shares";

/// The most shares of a set.
pub const MAX_SHARES: u8 = 32;

/// Bytes of a share.
pub const SHARE_BYTES: usize = SET_BYTES + 1 + KEY_BYTES;

/// What is known of a set of shares to whoever collects them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSet {
    set: [u8; SET_BYTES],
    threshold: u8,
    commitments: Vec<[u8; 32]>,
}

/// One share. It is wiped when it is dropped, and cannot be printed.
pub struct Share {
    set: [u8; SET_BYTES],
    index: u8,
    /// Boxed, so that moving it leaves no copy.
    y: Box<Zeroizing<[u8; KEY_BYTES]>>,
}

/// Why a share is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ShareError {
    /// It is of another set.
    #[error(
        "the share is of another set: it belongs to another slot, or to one that was made anew"
    )]
    OtherSet,
    /// It has a number of this set, and is not that share.
    #[error(
        "share {index} is not what was handed out under that number: it was copied wrongly, or altered"
    )]
    Wrong {
        /// Its number.
        index: u8,
    },
    /// It is there already.
    #[error("share {index} is there already: another one is needed")]
    Twice {
        /// Its number.
        index: u8,
    },
}

/// Shares that were collected.
pub struct Collected<'s> {
    set: &'s ShareSet,
    shares: Vec<Share>,
}

/// Splits a secret.
///
/// # Errors
/// [`EnvelopeError::Rule`] unless 2 <= threshold <= count <= [`MAX_SHARES`]; [`EnvelopeError::Random`].
pub fn split(
    random: &dyn Random,
    secret: SlotSecret<'_>,
    threshold: u8,
    count: u8,
) -> Result<(ShareSet, Vec<Share>), EnvelopeError> {
    if !within(threshold, usize::from(count)) {
        return Err(EnvelopeError::Rule(
            "a set has at most 32 shares, of which at least 2 and at most all are needed",
        ));
    }
    let mut set = [0; SET_BYTES];
    random.fill(&mut set)?;
    // From the coefficient of the lowest power, which the secret itself comes before.
    let mut coefficients = Zeroizing::new(vec![[0; KEY_BYTES]; usize::from(threshold) - 1]);
    for coefficient in coefficients.iter_mut() {
        random.fill(coefficient)?;
    }
    let share = |index: u8| {
        let mut y = Box::new(Zeroizing::new([0; KEY_BYTES]));
        // Horner's rule, from the highest power down.
        let powers = coefficients.iter().rev().chain([secret.bytes()]);
        for coefficient in powers {
            for (sum, c) in y.iter_mut().zip(coefficient) {
                *sum = multiply(*sum, index) ^ c;
            }
        }
        Share { set, index, y }
    };
    let shares: Vec<Share> = (1..=count).map(share).collect();
    let commitments = shares.iter();
    let commitments = commitments.map(|it| commitment(&it.set, it.index, &it.y));
    let public = ShareSet {
        set,
        threshold,
        commitments: commitments.collect(),
    };
    Ok((public, shares))
}

impl ShareSet {
    /// How many shares are needed.
    #[must_use]
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u8 {
        u8::try_from(self.commitments.len()).unwrap_or(MAX_SHARES)
    }

    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let commitments = self.commitments.iter();
        Lp::new()
            .bytes(&self.set)
            .u8(self.threshold)
            .list(commitments.map(|commitment| Lp::new().bytes(commitment)))
            .into_bytes()
    }

    /// Takes stored bytes, which are hostile.
    ///
    /// # Errors
    /// [`EnvelopeError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        Self::read(Reader::new(bytes)).map_err(EnvelopeError::malformed(RECORD))
    }

    pub(crate) fn read_all(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::read(Reader::new(bytes))
    }

    /// The set's own id, which each of its shares has.
    #[must_use]
    pub fn id(&self) -> &[u8; SET_BYTES] {
        &self.set
    }

    /// Whether a share is one of this set.
    ///
    /// # Errors
    /// [`ShareError::OtherSet`], [`ShareError::Wrong`].
    pub fn check(&self, share: &Share) -> Result<(), ShareError> {
        self.is_ours(&share.set, share.index, &share.y)
    }

    /// Takes the bytes of a share apart where they lie, into number and part of the secret, if it is one of this set.
    ///
    /// # Errors
    /// As [`ShareSet::check`].
    pub fn check_bytes<'b>(
        &self,
        bytes: &'b [u8; SHARE_BYTES],
    ) -> Result<(u8, &'b [u8; KEY_BYTES]), ShareError> {
        let parts = bytes.split_first_chunk().and_then(|(set, rest)| {
            let (index, y) = rest.split_first()?;
            Some((set, *index, y.first_chunk()?))
        });
        let (set, index, y) = parts.ok_or(ShareError::OtherSet)?;
        self.is_ours(set, index, y)?;
        Ok((index, y))
    }

    fn is_ours(
        &self,
        set: &[u8; SET_BYTES],
        index: u8,
        y: &[u8; KEY_BYTES],
    ) -> Result<(), ShareError> {
        if *set != self.set {
            return Err(ShareError::OtherSet);
        }
        let place = usize::from(index).checked_sub(1);
        let wanted = place.and_then(|place| self.commitments.get(place));
        if wanted.is_some_and(|wanted| commitment(set, index, y).ct_eq(wanted).into()) {
            Ok(())
        } else {
            Err(ShareError::Wrong { index })
        }
    }

    /// Gives the secret back, into `out`: from shares that were checked, each once, by their numbers.
    ///
    /// # Errors
    /// [`EnvelopeError::Rule`] while more are needed; `out` is then as it was.
    pub fn combine(
        &self,
        shares: &[(u8, &[u8; KEY_BYTES])],
        out: &mut [u8; KEY_BYTES],
    ) -> Result<(), EnvelopeError> {
        let used = shares.get(..usize::from(self.threshold));
        let used = used.ok_or(EnvelopeError::Rule("more shares are needed"))?;
        out.fill(0);
        for (index, y) in used {
            // Lagrange's polynomial of this share at 0; a sum and a difference are one here.
            let others = used.iter().filter(|(other, _)| other != index);
            let weight = others.fold(1, |weight, (other, _)| {
                let quotient = multiply(*other, inverse(other ^ index));
                multiply(weight, quotient)
            });
            for (sum, y) in out.iter_mut().zip(y.iter()) {
                *sum ^= multiply(*y, weight);
            }
        }
        Ok(())
    }

    fn read(mut reader: Reader<'_>) -> Result<Self, Malformed> {
        let set = Self {
            set: reader.array("set")?,
            threshold: reader.u8("threshold")?,
            commitments: reader.list("commitments", usize::from(MAX_SHARES), |part| {
                part.array("commitments")
            })?,
        };
        reader.finish("the record")?;
        if within(set.threshold, set.commitments.len()) {
            Ok(set)
        } else {
            Err(Malformed::new("threshold", Fault::Conflict))
        }
    }
}

impl Share {
    /// Takes the bytes of a share; whether they are one of a set shows in [`Collected::take`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8; SHARE_BYTES]) -> Self {
        let mut set = [0; SET_BYTES];
        let mut y = Box::new(Zeroizing::new([0; KEY_BYTES]));
        let (head, tail) = bytes.split_at(SET_BYTES);
        set.copy_from_slice(head);
        let (index, tail) = tail.split_first().unwrap_or((&0, &[]));
        y.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
        Self {
            set,
            index: *index,
            y,
        }
    }

    /// Writes its bytes, which are as secret as it is.
    pub fn write(&self, out: &mut [u8; SHARE_BYTES]) {
        let parts = self.set.iter().chain([&self.index]).chain(self.y.iter());
        out.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
    }

    /// Its own part of the secret, as secret as it is.
    #[must_use]
    pub fn value(&self) -> &[u8; KEY_BYTES] {
        &self.y
    }

    /// The id of its set.
    #[must_use]
    pub fn set(&self) -> &[u8; SET_BYTES] {
        &self.set
    }

    /// Its number, from 1.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }
}

/// What a share is known by. The secret part is hashed where it lies.
fn commitment(set: &[u8; SET_BYTES], index: u8, y: &[u8; KEY_BYTES]) -> [u8; 32] {
    /// That LP has before the last field.
    const LENGTH: [u8; 4] = [0, 0, 0, 32];
    let head = Lp::labelled("attache/share/1").bytes(set).u8(index);
    kdf::sha256_of(&[head.as_bytes(), &LENGTH, y])
}

impl<'s> Collected<'s> {
    /// Nothing yet.
    #[must_use]
    pub const fn new(set: &'s ShareSet) -> Self {
        let shares = Vec::new();
        Self { set, shares }
    }

    /// Takes a share, and answers how many are still needed.
    ///
    /// # Errors
    /// [`ShareError`]; what was collected before stays.
    pub fn take(&mut self, share: Share) -> Result<usize, ShareError> {
        self.set.check(&share)?;
        let index = share.index;
        if self.shares.iter().any(|known| known.index == index) {
            return Err(ShareError::Twice { index });
        }
        self.shares.push(share);
        Ok(self.needed())
    }

    /// How many more are needed.
    #[must_use]
    pub fn needed(&self) -> usize {
        usize::from(self.set.threshold).saturating_sub(self.shares.len())
    }

    /// Gives the secret back, into `out`.
    ///
    /// # Errors
    /// [`EnvelopeError::Rule`] while more are needed; `out` is then as it was.
    pub fn combine(&self, out: &mut [u8; KEY_BYTES]) -> Result<(), EnvelopeError> {
        let shares = self.shares.iter();
        let shares: Vec<_> = shares.map(|share| (share.index, share.value())).collect();
        self.set.combine(&shares, out)
    }
}

pub(crate) fn within(threshold: u8, count: usize) -> bool {
    threshold >= 2 && usize::from(threshold) <= count && count <= usize::from(MAX_SHARES)
}

/// The product in GF(256): eight steps whatever the factors are.
const fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut product, mut step) = (a, b, 0u8, 0);
    while step < 8 {
        // All ones for a set bit, else zeros.
        product ^= a & (b & 1).wrapping_neg();
        let reduce = 0x1b & (a >> 7).wrapping_neg();
        a = (a << 1) ^ reduce;
        b >>= 1;
        step += 1;
    }
    product
}

/// The inverse, as the 254th power; 0 for 0.
const fn inverse(a: u8) -> u8 {
    let (mut power, mut square, mut step) = (1, a, 0);
    // 254 = 2 + 4 + 8 + 16 + 32 + 64 + 128.
    while step < 7 {
        square = multiply(square, square);
        power = multiply(power, square);
        step += 1;
    }
    power
}

#[cfg(test)]
mod tests;
