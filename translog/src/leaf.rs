//! Leaves: what the broker puts on record, as one canonical byte string each.
//!
//! ```text
//! body = format u16 || suite u16 || item ...      item = tag u16 || length u32 || value      tags ascending, none twice
//! ```
//!
//! Every body has the items kind, time and boot, then those of its [`Event`]; a tag that the kind does not have is
//! refused. A body holds nothing of its place in the log or of an answer, so its hash is final before it is queued. It
//! must never hold a value, a key or a token. Texts in it come from operators and clusters; they hold no control
//! characters.

mod event;
mod tlv;
mod value;

pub use event::{
    Alarm, Anchor, Attempts, Ban, Bootstrap, Cut, Denial, Enrollment, Event, Intent, Opening,
    Outcome, Pruning, Refusals, Release, Removal, Renewal, Retirement, Rotation, Sealing, Start,
    Stop, Succession, Tag,
};
pub use tlv::{Items, LeafError, MAX_LEAF_BYTES};
pub use value::{Ending, Generation, ReleasedValue};

use crate::tree::{Hash, leaf_hash};
pub(crate) use tlv::put_field;
use tlv::{Reader, Writer};
use value::Field;

/// One record: what happened, when, in which process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// When, in milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// The broker process, by the id that it drew when it started.
    pub boot: [u8; 16],
    /// What.
    pub event: Event,
}

/// A leaf's body with its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedLeaf {
    body: Vec<u8>,
    hash: Hash,
}

impl Leaf {
    /// The canonical body and its hash. Control characters in a text become U+FFFD.
    ///
    /// # Errors
    /// [`LeafError::TooLong`] past [`MAX_LEAF_BYTES`].
    pub fn encode(&self) -> Result<EncodedLeaf, LeafError> {
        let mut out = Writer::new();
        self.event.kind().write(Tag::Kind, &mut out);
        self.time_ms.write(Tag::Time, &mut out);
        self.boot.write(Tag::Boot, &mut out);
        self.event.write(&mut out);
        let body = out.finish()?;
        Ok(EncodedLeaf {
            hash: leaf_hash(&body),
            body,
        })
    }

    /// Reads a body; [`Leaf::encode`] makes exactly these bytes again.
    ///
    /// # Errors
    /// [`LeafError`] for a body that is not canonical, or not of a kind known here.
    pub fn parse(body: &[u8]) -> Result<Self, LeafError> {
        let mut reader = Reader::new(body)?;
        let kind = Field::read(Tag::Kind, &mut reader)?;
        let time_ms = Field::read(Tag::Time, &mut reader)?;
        let boot = Field::read(Tag::Boot, &mut reader)?;
        let event = Event::read(kind, &mut reader)?;
        reader.finish()?;
        Ok(Self {
            time_ms,
            boot,
            event,
        })
    }
}

impl EncodedLeaf {
    /// The canonical bytes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// `SHA-256(0x00 || body)`.
    #[must_use]
    pub fn hash(&self) -> &Hash {
        &self.hash
    }
}

#[cfg(test)]
pub(crate) mod examples;
#[cfg(test)]
mod tests;
