//! Ids of 16 bytes, each a type of its own.
//!
//! Things that live in the store have uuids (RFC 9562): version 4, and version 7 for requests, whose time tells how
//! old they are. Things that live for one exchange (nonce, session, release) are 16 random bytes, shown as hex.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::error::EnvelopeError;
use crate::random::{self, Random};

/// Bytes of every id here.
pub const ID_BYTES: usize = 16;

/// Text that is no id of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{kind} is not {shape}")]
pub struct IdError {
    /// Which id.
    pub kind: &'static str,
    /// What it should look like.
    pub shape: &'static str,
}

const UUID_SHAPE: &str = "a uuid (8-4-4-4-12 lower-case hex digits)";
const HEX_SHAPE: &str = "32 lower-case hex digits";

macro_rules! id {
    ($(#[$doc:meta])+ $name:ident, $kind:literal) => {
        $(#[$doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; ID_BYTES]);

        impl $name {
            /// Takes the 16 bytes as they are.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
                &self.0
            }
        }

        impl AsRef<[u8; ID_BYTES]> for $name {
            fn as_ref(&self) -> &[u8; ID_BYTES] {
                &self.0
            }
        }

        impl From<[u8; ID_BYTES]> for $name {
            fn from(bytes: [u8; ID_BYTES]) -> Self {
                Self(bytes)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;

            /// For bytes off the wire: refused unless there are 16.
            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                let error = IdError { kind: $kind, shape: "16 bytes" };
                bytes.try_into().map(Self).map_err(|_| error)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

macro_rules! uuid_text {
    ($name:ident, $kind:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let error = IdError {
                    kind: $kind,
                    shape: UUID_SHAPE,
                };
                parse_uuid(text).map(Self).ok_or(error)
            }
        }
    };
}

macro_rules! uuids {
    ($($(#[$doc:meta])+ $name:ident, $kind:literal;)+) => {$(
        id!($(#[$doc])+ $name, $kind);
        uuid_text!($name, $kind);

        impl $name {
            /// Draws a uuid of version 4; RFC 9562, section 5.4.
            ///
            /// # Errors
            /// [`EnvelopeError::Random`].
            pub fn random(random: &dyn Random) -> Result<Self, EnvelopeError> {
                random::array(random).map(|bytes| Self(with_version(bytes, 4)))
            }
        }
    )+};
}

macro_rules! tokens {
    ($($(#[$doc:meta])+ $name:ident, $kind:literal;)+) => {$(
        id!($(#[$doc])+ $name, $kind);

        impl $name {
            /// Draws 16 bytes.
            ///
            /// # Errors
            /// [`EnvelopeError::Random`].
            pub fn random(random: &dyn Random) -> Result<Self, EnvelopeError> {
                random::array(random).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let error = IdError { kind: $kind, shape: HEX_SHAPE };
                parse_hex(text.as_bytes()).map(Self).ok_or(error)
            }
        }
    )+};
}

uuids! {
    /// A store: made by `init`, and in the associated data of everything in it.
    StoreId, "the store id";
    /// A secret, for as long as its name means the same one.
    SecretId, "the secret id";
    /// A value: one field of one put.
    ValueId, "the value id";
    /// A key: of the keyring, a KEK, or a broker's receive key.
    KeyId, "the key id";
    /// One run of a broker process.
    BootId, "the boot id";
    /// A slot.
    SlotId, "the slot id";
    /// An audit chain: one broker instance.
    ChainId, "the chain id";
    /// A backup of a store.
    BackupId, "the backup id";
}

tokens! {
    /// What an agent draws for each attempt at a delivery.
    Nonce, "the nonce";
    /// One attempt at a release, drawn by the broker.
    ReleaseId, "the release id";
    /// One HPKE setup between a broker and a node plugin's key.
    SessionId, "the session id";
}

id!(
    /// A mutation, as its caller names it: a uuid of version 7, so that its age can be told.
    RequestId, "the request id"
);
uuid_text!(RequestId, "the request id");

impl RequestId {
    /// Makes the id of a request of this moment, in milliseconds since 1970; RFC 9562, section 5.7.
    ///
    /// # Errors
    /// [`EnvelopeError::Random`].
    pub fn new(unix_ms: u64, random: &dyn Random) -> Result<Self, EnvelopeError> {
        let mut bytes = random::array::<ID_BYTES>(random)?;
        let [_, _, time @ ..] = unix_ms.to_be_bytes();
        for (byte, of_time) in bytes.iter_mut().zip(time) {
            *byte = of_time;
        }
        Ok(Self(with_version(bytes, 7)))
    }

    /// When the request was made, in milliseconds since 1970; none when this is no uuid of version 7.
    #[must_use]
    pub fn unix_ms(&self) -> Option<u64> {
        let [a, b, c, d, e, f, version, _, variant, ..] = self.0;
        (version >> 4 == 7 && variant >> 6 == 0b10)
            .then(|| u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }
}

/// Sets the version and the variant; RFC 9562, sections 4.1 and 4.2.
fn with_version(mut bytes: [u8; ID_BYTES], version: u8) -> [u8; ID_BYTES] {
    let [_, _, _, _, _, _, six, _, eight, ..] = &mut bytes;
    *six = (*six & 0x0f) | (version << 4);
    *eight = (*eight & 0x3f) | 0x80;
    bytes
}

fn write_uuid(bytes: &[u8; ID_BYTES], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

fn parse_uuid(text: &str) -> Option<[u8; ID_BYTES]> {
    let mut groups = text.split('-');
    let mut digits = Vec::with_capacity(2 * ID_BYTES);
    for length in [8, 4, 4, 4, 12] {
        let group = groups.next().filter(|group| group.len() == length)?;
        digits.extend_from_slice(group.as_bytes());
    }
    if groups.next().is_some() {
        return None;
    }
    parse_hex(&digits)
}

/// Reads exactly `2 * N` lower-case hex digits.
pub(crate) fn parse_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (nibble(*high)? << 4) | nibble(*low)?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
