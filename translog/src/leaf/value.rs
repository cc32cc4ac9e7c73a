//! The types that a leaf's items have, each with its one byte form.
//!
//! Numbers are big-endian of fixed width, ids and hashes raw, texts UTF-8 without control characters (the writer puts
//! U+FFFD in their place), so that no text can play a record, or a command to a terminal. A list is the list of the project's `LP`
//! encoding: a field of its u32 count, then one field an element, which holds the LP of the element's parts.

use super::event::Tag;
use super::tlv::{LeafError, Reader, Writer, put_field, take_field};
use crate::checkpoint::uuid_text;

const SERIAL_BYTES: usize = 20;

/// One value of a release: which bytes were handed over, never the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleasedValue {
    /// The keyspace.
    pub keyspace: String,
    /// The secret's name within the keyspace.
    pub name: String,
    /// The secret's uuid.
    pub secret: [u8; 16],
    /// The version's number.
    pub version: u64,
    /// The field.
    pub field: String,
    /// The value's uuid.
    pub value: [u8; 16],
}

/// What a delivery holds: `LP(incarnation u32, seq u64, digest)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// The store's incarnation.
    pub incarnation: u32,
    /// The commit that it was read at; orders generations.
    pub seq: u64,
    /// Tells equal ones.
    pub digest: [u8; 32],
}

/// How a mutation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is in the store, at the seq of the same leaf.
    Committed,
    /// It is not, and never will be.
    NotCommitted,
}

/// A value of one type: how it is written, read in that form only, and shown to a person.
pub(super) trait Value: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(bytes: &[u8]) -> Option<Self>;
    fn show(&self) -> String;
}

/// A struct's field as items: one for a value, one or none for an option.
pub(super) trait Field: Sized {
    fn write(&self, tag: Tag, out: &mut Writer);
    fn read(tag: Tag, reader: &mut Reader<'_>) -> Result<Self, LeafError>;
    fn shown(&self) -> Option<String>;
}

impl<V: Value> Field for V {
    fn write(&self, tag: Tag, out: &mut Writer) {
        out.item(tag.number(), |bytes| self.put(bytes));
    }

    fn read(tag: Tag, reader: &mut Reader<'_>) -> Result<Self, LeafError> {
        Option::read(tag, reader)?.ok_or(LeafError::Missing { tag: tag.number() })
    }

    fn shown(&self) -> Option<String> {
        Some(self.show())
    }
}

impl<V: Value> Field for Option<V> {
    fn write(&self, tag: Tag, out: &mut Writer) {
        if let Some(value) = self {
            value.write(tag, out);
        }
    }

    fn read(tag: Tag, reader: &mut Reader<'_>) -> Result<Self, LeafError> {
        let Some(bytes) = reader.take(tag)? else {
            return Ok(None);
        };
        V::take(bytes)
            .map(Some)
            .ok_or(LeafError::Value { tag: tag.number() })
    }

    fn shown(&self) -> Option<String> {
        self.as_ref().map(Value::show)
    }
}

macro_rules! number_values {
    ($($number:ty),*) => { $(
        impl Value for $number {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
            fn take(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self::from_be_bytes)
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )* };
}
number_values!(u16, u32, u64);

impl Value for String {
    fn put(&self, out: &mut Vec<u8>) {
        if self.contains(char::is_control) {
            let clean = self.replace(char::is_control, "\u{fffd}");
            out.extend_from_slice(clean.as_bytes());
        } else {
            out.extend_from_slice(self.as_bytes());
        }
    }

    fn take(bytes: &[u8]) -> Option<Self> {
        Self::from_utf8(bytes.to_vec())
            .ok()
            .filter(|text| !text.contains(char::is_control))
    }

    fn show(&self) -> String {
        self.clone()
    }
}

/// A certificate's serial number: at most 20 bytes (RFC 5280, section 4.1.2.2), of a longer one the first 20.
impl Value for Vec<u8> {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.get(..SERIAL_BYTES).unwrap_or(self));
    }

    fn take(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= SERIAL_BYTES).then(|| bytes.to_vec())
    }

    fn show(&self) -> String {
        hex::encode(self)
    }
}

impl<const N: usize> Value for [u8; N] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn take(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok()
    }

    /// Sixteen bytes as a uuid, other lengths as hex.
    fn show(&self) -> String {
        self.as_slice()
            .try_into()
            .map_or_else(|_| hex::encode(self), uuid_text)
    }
}

impl Value for Ending {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Committed => 1,
            Self::NotCommitted => 2,
        });
    }

    fn take(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [1] => Some(Self::Committed),
            [2] => Some(Self::NotCommitted),
            _ => None,
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Committed => "committed",
            Self::NotCommitted => "not committed",
        }
        .to_owned()
    }
}

impl Value for Generation {
    fn put(&self, out: &mut Vec<u8>) {
        put_part(&self.incarnation, out);
        put_part(&self.seq, out);
        put_part(&self.digest, out);
    }

    fn take(mut bytes: &[u8]) -> Option<Self> {
        let generation = Self {
            incarnation: take_part(&mut bytes)?,
            seq: take_part(&mut bytes)?,
            digest: take_part(&mut bytes)?,
        };
        bytes.is_empty().then_some(generation)
    }

    fn show(&self) -> String {
        format!(
            "{}/{:x}-{}",
            self.incarnation,
            self.seq,
            hex::encode(self.digest)
        )
    }
}

/// An element of a list: its parts are the fields of one LP.
trait Element: Sized {
    fn put_parts(&self, out: &mut Vec<u8>);
    fn take_parts(bytes: &mut &[u8]) -> Option<Self>;
    fn show_parts(&self) -> String;
}

impl Element for String {
    fn put_parts(&self, out: &mut Vec<u8>) {
        put_part(self, out);
    }

    fn take_parts(bytes: &mut &[u8]) -> Option<Self> {
        take_part(bytes)
    }

    fn show_parts(&self) -> String {
        self.clone()
    }
}

impl Element for ReleasedValue {
    fn put_parts(&self, out: &mut Vec<u8>) {
        put_part(&self.keyspace, out);
        put_part(&self.name, out);
        put_part(&self.secret, out);
        put_part(&self.version, out);
        put_part(&self.field, out);
        put_part(&self.value, out);
    }

    fn take_parts(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self {
            keyspace: take_part(bytes)?,
            name: take_part(bytes)?,
            secret: take_part(bytes)?,
            version: take_part(bytes)?,
            field: take_part(bytes)?,
            value: take_part(bytes)?,
        })
    }

    fn show_parts(&self) -> String {
        format!(
            "{}/{}@{}#{}",
            self.keyspace, self.name, self.version, self.field
        )
    }
}

macro_rules! list_values {
    ($($element:ty),*) => { $(
        impl Value for Vec<$element> {
            fn put(&self, out: &mut Vec<u8>) {
                put_list(self, out);
            }
            fn take(bytes: &[u8]) -> Option<Self> {
                take_list(bytes)
            }
            fn show(&self) -> String {
                self.iter().map(Element::show_parts).collect::<Vec<_>>().join(", ")
            }
        }
    )* };
}
list_values!(String, ReleasedValue);

fn put_list<E: Element>(list: &[E], out: &mut Vec<u8>) {
    // A list of 2^32 elements does not fit into a body, which is refused whole then.
    let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
    put_field(out, &count.to_be_bytes());
    let mut parts = Vec::new();
    for element in list {
        parts.clear();
        element.put_parts(&mut parts);
        put_field(out, &parts);
    }
}

fn take_list<E: Element>(mut bytes: &[u8]) -> Option<Vec<E>> {
    let count: u32 = take_part(&mut bytes)?;
    // Not reserved ahead: the count is not yet known to be true.
    let mut list = Vec::new();
    for _ in 0..count {
        let mut parts = take_field(&mut bytes)?;
        list.push(E::take_parts(&mut parts)?);
        if !parts.is_empty() {
            return None;
        }
    }
    bytes.is_empty().then_some(list)
}

fn put_part<V: Value>(part: &V, out: &mut Vec<u8>) {
    let mut bytes = Vec::new();
    part.put(&mut bytes);
    put_field(out, &bytes);
}

fn take_part<V: Value>(bytes: &mut &[u8]) -> Option<V> {
    V::take(take_field(bytes)?)
}
