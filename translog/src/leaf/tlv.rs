//! The byte form of leaves: tagged items in ascending order, read strictly.
//!
//! One record has one byte form. A reader here must never skip what it does not know, or take an item twice.

use thiserror::Error;

use super::event::Tag;

/// The longest body: 1 MiB.
pub const MAX_LEAF_BYTES: usize = 1024 * 1024;

const FORMAT: u16 = 1;
const SUITE: u16 = 1;

/// A leaf body that is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LeafError {
    /// A number of a format, suite or kind that is not known here.
    #[error("{what} {number} is not known")]
    Unknown {
        /// Which number.
        what: &'static str,
        /// Its value.
        number: u16,
    },
    /// The body ends within an item.
    #[error("the body ends within an item")]
    Short,
    /// The body is longer than [`MAX_LEAF_BYTES`].
    #[error("the body is longer than {MAX_LEAF_BYTES} bytes")]
    TooLong,
    /// Tags do not ascend, or one comes twice.
    #[error("tag {tag} does not ascend")]
    Order {
        /// The tag that is not greater than the one before it.
        tag: u16,
    },
    /// An item that this kind must have is not there.
    #[error("tag {tag} is missing")]
    Missing {
        /// The tag that is asked for.
        tag: u16,
    },
    /// An item that this kind does not have.
    #[error("tag {tag} does not belong to this kind")]
    Unexpected {
        /// The tag that is there.
        tag: u16,
    },
    /// An item's value is not of its tag's type, or not in its one form.
    #[error("the value of tag {tag} is malformed")]
    Value {
        /// The item's tag.
        tag: u16,
    },
}

/// Builds a body. Items must be put in ascending order of their tags.
pub(super) struct Writer {
    out: Vec<u8>,
    value: Vec<u8>,
}

impl Writer {
    pub(super) fn new() -> Self {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&FORMAT.to_be_bytes());
        out.extend_from_slice(&SUITE.to_be_bytes());
        Self {
            out,
            value: Vec::new(),
        }
    }

    /// Appends one item whose value `put` writes.
    pub(super) fn item(&mut self, tag: u16, put: impl FnOnce(&mut Vec<u8>)) {
        self.value.clear();
        put(&mut self.value);
        self.out.extend_from_slice(&tag.to_be_bytes());
        put_field(&mut self.out, &self.value);
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, LeafError> {
        if self.out.len() > MAX_LEAF_BYTES {
            Err(LeafError::TooLong)
        } else {
            Ok(self.out)
        }
    }
}

/// The items of a body, tag and value, of whatever kind; ends after the first error.
#[derive(Debug, Clone)]
pub struct Items<'b> {
    rest: &'b [u8],
    last_tag: Option<u16>,
}

impl<'b> Items<'b> {
    /// Reads format and suite.
    ///
    /// # Errors
    /// [`LeafError::Short`], [`LeafError::TooLong`], [`LeafError::Unknown`].
    pub fn new(body: &'b [u8]) -> Result<Self, LeafError> {
        if body.len() > MAX_LEAF_BYTES {
            return Err(LeafError::TooLong);
        }
        let mut rest = body;
        for (what, known) in [("format", FORMAT), ("suite", SUITE)] {
            let number = u16::from_be_bytes(take(&mut rest).ok_or(LeafError::Short)?);
            if number != known {
                return Err(LeafError::Unknown { what, number });
            }
        }
        Ok(Self {
            rest,
            last_tag: None,
        })
    }

    fn read(&mut self) -> Result<(u16, &'b [u8]), LeafError> {
        let tag = u16::from_be_bytes(take(&mut self.rest).ok_or(LeafError::Short)?);
        let value = take_field(&mut self.rest).ok_or(LeafError::Short)?;
        if self.last_tag.is_some_and(|last| tag <= last) {
            return Err(LeafError::Order { tag });
        }
        self.last_tag = Some(tag);
        Ok((tag, value))
    }
}

impl<'b> Iterator for Items<'b> {
    type Item = Result<(u16, &'b [u8]), LeafError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = self.read();
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}

/// Hands out the items of a body by tag, in ascending order, and leaves none unread.
pub(super) struct Reader<'b> {
    items: Items<'b>,
    ahead: Option<(u16, &'b [u8])>,
}

impl<'b> Reader<'b> {
    pub(super) fn new(body: &'b [u8]) -> Result<Self, LeafError> {
        let mut items = Items::new(body)?;
        let ahead = items.next().transpose()?;
        Ok(Self { items, ahead })
    }

    /// Takes the next item's value if it is `tag`'s, or nothing if a later tag, or none, follows.
    pub(super) fn take(&mut self, tag: Tag) -> Result<Option<&'b [u8]>, LeafError> {
        match self.ahead {
            Some((found, value)) if found == tag.number() => {
                self.ahead = self.items.next().transpose()?;
                Ok(Some(value))
            }
            Some((found, _)) if found < tag.number() => Err(LeafError::Unexpected { tag: found }),
            Some(_) | None => Ok(None),
        }
    }

    /// Makes sure that nothing is left.
    pub(super) fn finish(self) -> Result<(), LeafError> {
        match self.ahead {
            Some((tag, _)) => Err(LeafError::Unexpected { tag }),
            None => Ok(()),
        }
    }
}

/// Appends `bytes` behind their length, u32 big-endian.
pub(crate) fn put_field(out: &mut Vec<u8>, bytes: &[u8]) {
    // A body past 1 MiB is refused whole when it is finished, so a length that saturates is never used.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Takes what [`put_field`] put.
pub(super) fn take_field<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::try_from(u32::from_be_bytes(take(bytes)?)).ok()?;
    let (field, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(field)
}

/// Takes `N` bytes.
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}
