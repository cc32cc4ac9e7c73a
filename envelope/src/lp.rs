//! LP, the length-prefixed encoding under every MAC, hash and associated data, and the strict reader of records.
//!
//! `LP(a, b, ...)` is each field as `u32 big-endian length || bytes`. A list adds its `u32` count as one field, then
//! one field per element that holds `LP(parts of the element)`. Two different sequences of fields never give the
//! same bytes, as long as the reader knows which fields are lists.
//!
//! A stored record is `format u16 || suite u16 || LP(...)`: [`Lp::record`] writes it, [`Reader::record`] reads it. The
//! reader must never accept what the writer would not have written: no trailing bytes, no short field, no unknown
//! state.

use thiserror::Error;

use crate::error::EnvelopeError;
use crate::{FORMAT, SUITE};

const PREFIX_BYTES: usize = 4;

/// Builds LP bytes, one field a call.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Lp {
    bytes: Vec<u8>,
}

impl Lp {
    /// LP without a label: the element of a list, or a digest that is told apart by its use.
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// LP whose first field is a domain label, such as `attache/row/1`.
    pub fn labelled(label: &str) -> Self {
        // Most of ours are a few ids and a name or two; a value's key row is the longest of those that come by the million.
        let bytes = Vec::with_capacity(384);
        Self { bytes }.str(label)
    }

    /// A stored record: `format u16 || suite u16`, bare, then the fields.
    pub fn record() -> Self {
        // As long as the body of a value's key row, of which there are millions.
        let mut bytes = Vec::with_capacity(224);
        bytes.extend_from_slice(&FORMAT.to_be_bytes());
        bytes.extend_from_slice(&SUITE.to_be_bytes());
        Self { bytes }
    }

    /// Adds `format` and `suite` as two fields, as associated data has them.
    pub fn format_and_suite(self) -> Self {
        self.u16(FORMAT).u16(SUITE)
    }

    /// Adds a field of one byte.
    pub fn u8(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    /// Adds a field of two bytes, big-endian.
    pub fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Adds a field of four bytes, big-endian.
    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Adds a field of eight bytes, big-endian.
    pub fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Adds an id: a field of its 16 raw bytes.
    pub fn id(self, id: impl AsRef<[u8; 16]>) -> Self {
        self.bytes(id.as_ref())
    }

    /// Adds text as UTF-8.
    pub fn str(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Adds a field of these bytes.
    pub fn bytes(mut self, field: &[u8]) -> Self {
        self.bytes.extend_from_slice(&length(field.len()));
        self.bytes.extend_from_slice(field);
        self
    }

    /// Adds a list: its count, then each element as one field.
    pub fn list<I>(self, elements: I) -> Self
    where
        I: IntoIterator<Item = Self>,
        I::IntoIter: ExactSizeIterator,
    {
        let elements = elements.into_iter();
        let counted = self.bytes(&length(elements.len()));
        elements.fold(counted, |lp, element| lp.bytes(&element.bytes))
    }

    /// The encoding.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The encoding, borrowed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[expect(
    clippy::expect_used,
    reason = "a wrapped length would make the encoding ambiguous, and no parser of ours takes a field near 4 GiB"
)]
fn length(n: usize) -> [u8; PREFIX_BYTES] {
    u32::try_from(n)
        .expect("a field of LP is shorter than 4 GiB")
        .to_be_bytes()
}

/// A field of a record that is not as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("field {field}: {fault}")]
pub struct Malformed {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// The record ends within it.
    #[error("the record ends within it")]
    Truncated,
    /// Bytes follow the last field.
    #[error("bytes follow the last field")]
    Trailing,
    /// It has another length than its type.
    #[error("wrong length")]
    Length,
    /// It is longer, or has more elements, than is allowed.
    #[error("too long")]
    TooLong,
    /// It is not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// Its value is none of the known ones.
    #[error("unknown value")]
    Unknown,
    /// It is text outside of its grammar.
    #[error("not of its grammar")]
    Grammar,
    /// Its elements are out of order, or one is there twice.
    #[error("out of order, or twice")]
    Order,
    /// It contradicts another field.
    #[error("contradicts another field")]
    Conflict,
}

impl Malformed {
    /// A fault of one field.
    #[must_use]
    pub const fn new(field: &'static str, fault: Fault) -> Self {
        Self { field, fault }
    }
}

/// Reads LP bytes, strictly and in order. Finish with [`Reader::finish`].
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads bytes that are LP from the first one.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Reads a stored record: checks `format` and `suite`, then stands at its first field.
    ///
    /// # Errors
    /// [`EnvelopeError::Format`] or [`EnvelopeError::Suite`] with the number found; [`EnvelopeError::Malformed`]
    /// when even those are missing.
    pub fn record(record: &'static str, bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let truncated =
            |field| EnvelopeError::malformed(record)(Malformed::new(field, Fault::Truncated));
        let (format, rest) = bytes.split_first_chunk().ok_or(truncated("format"))?;
        match u16::from_be_bytes(*format) {
            FORMAT => {}
            found => return Err(EnvelopeError::Format { record, found }),
        }
        let (suite, rest) = rest.split_first_chunk().ok_or(truncated("suite"))?;
        match u16::from_be_bytes(*suite) {
            SUITE => Ok(Self { rest }),
            found => Err(EnvelopeError::Suite { record, found }),
        }
    }

    /// Reads the next field.
    ///
    /// # Errors
    /// [`Fault::Truncated`] when the record ends within it.
    pub fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], Malformed> {
        let truncated = Malformed::new(field, Fault::Truncated);
        let (prefix, rest) = self
            .rest
            .split_first_chunk::<PREFIX_BYTES>()
            .ok_or(truncated)?;
        // On a target where usize is smaller, a length that does not fit is truncated for sure.
        let length = usize::try_from(u32::from_be_bytes(*prefix)).map_err(|_| truncated)?;
        let (bytes, rest) = rest.split_at_checked(length).ok_or(truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Reads the next field, of `max` bytes at most.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::TooLong`].
    pub fn bytes_up_to(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], Malformed> {
        let bytes = self.bytes(field)?;
        if bytes.len() > max {
            return Err(Malformed::new(field, Fault::TooLong));
        }
        Ok(bytes)
    }

    /// Reads a field of exactly `N` bytes.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::Length`].
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Malformed> {
        self.bytes(field)?
            .try_into()
            .map_err(|_| Malformed::new(field, Fault::Length))
    }

    /// Reads a field of one byte.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::Length`].
    pub fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        self.array(field).map(u8::from_be_bytes)
    }

    /// Reads a field of two bytes.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::Length`].
    pub fn u16(&mut self, field: &'static str) -> Result<u16, Malformed> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Reads a field of four bytes.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::Length`].
    pub fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Reads a field of eight bytes.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::Length`].
    pub fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// Reads an id of 16 raw bytes.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::Length`].
    pub fn id<T: From<[u8; 16]>>(&mut self, field: &'static str) -> Result<T, Malformed> {
        self.array::<16>(field).map(T::from)
    }

    /// Reads text of `max` bytes at most.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::TooLong`], [`Fault::NotUtf8`].
    pub fn str(&mut self, field: &'static str, max: usize) -> Result<&'a str, Malformed> {
        str::from_utf8(self.bytes_up_to(field, max)?)
            .map_err(|_| Malformed::new(field, Fault::NotUtf8))
    }

    /// Reads text that has a type of its own.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::NotUtf8`]; [`Fault::Grammar`] when the type refuses it.
    pub fn parse<T: std::str::FromStr>(&mut self, field: &'static str) -> Result<T, Malformed> {
        str::from_utf8(self.bytes(field)?)
            .map_err(|_| Malformed::new(field, Fault::NotUtf8))?
            .parse()
            .map_err(|_| Malformed::new(field, Fault::Grammar))
    }

    /// Reads a list of `max` elements at most; `read` takes the parts of one, and may leave none over.
    ///
    /// # Errors
    /// [`Fault::TooLong`] for more elements than `max`; what a part's reader answers; [`Fault::Trailing`] for
    /// parts that `read` left.
    pub fn list<T>(
        &mut self,
        field: &'static str,
        max: usize,
        mut read: impl FnMut(&mut Reader<'a>) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = usize::try_from(self.u32(field)?).unwrap_or(usize::MAX);
        if count > max {
            return Err(Malformed::new(field, Fault::TooLong));
        }
        // Each element has its prefix in the record: memory follows bytes that are there, not a number.
        let mut elements = Vec::with_capacity(count.min(self.rest.len() / PREFIX_BYTES));
        for _ in 0..count {
            let mut parts = Reader::new(self.bytes(field)?);
            elements.push(read(&mut parts)?);
            parts.finish(field)?;
        }
        Ok(elements)
    }

    /// Ends the record.
    ///
    /// # Errors
    /// [`Fault::Trailing`] when bytes are left; `field` names the record or list for the message.
    pub fn finish(self, field: &'static str) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::new(field, Fault::Trailing))
        }
    }
}

#[cfg(test)]
mod tests;
