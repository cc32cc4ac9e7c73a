//! Heads, versions and requests.

use std::collections::BTreeMap;

use super::{MAX_RESULT_BYTES, MAX_SPIFFE_ID_BYTES, decode, flag};
use crate::MAX_FIELDS;
use crate::error::EnvelopeError;
use crate::id::{RequestId, SecretId, ValueId};
use crate::lp::{Fault, Lp, Malformed, Reader};
use crate::name::{FieldName, SecretPath, SecretVersion};
use crate::put::MAX_NOTE_BYTES;

/// What may be done with a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadState {
    /// It is released.
    Active,
    /// It is not released until it is enabled again.
    Disabled,
    /// Its values are gone; the name and its numbers stay taken.
    Destroyed,
}

impl HeadState {
    /// The word for it, as operators see it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Destroyed => "destroyed",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Active => 1,
            Self::Disabled => 2,
            Self::Destroyed => 3,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Active),
            2 => Some(Self::Disabled),
            3 => Some(Self::Destroyed),
            _ => None,
        }
    }
}

/// Table `head`: `LP(secret, state u8, active version u64 (0: none), latest version u64, created u64, changed u64, who)`.
///
/// Key: the path, `KEYSPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadBody {
    /// The secret.
    pub secret: SecretId,
    /// What may be done with it.
    pub state: HeadState,
    /// What is released; none while every version is staged or destroyed.
    pub active: Option<SecretVersion>,
    /// The highest number ever given, so that none is given twice.
    pub latest: SecretVersion,
    /// When the secret was first put, in milliseconds since 1970.
    pub created_ms: u64,
    /// When this row last changed, in milliseconds since 1970.
    pub changed_ms: u64,
    /// Who changed it.
    pub changed_by: String,
}

impl HeadBody {
    const RECORD: &str = "the head";

    /// The row's key.
    #[must_use]
    pub fn key(path: &SecretPath) -> Vec<u8> {
        path.to_string().into_bytes()
    }

    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Lp::record()
            .id(self.secret)
            .u8(self.state.code())
            .u64(self.active.map_or(0, SecretVersion::number))
            .u64(self.latest.number())
            .u64(self.created_ms)
            .u64(self.changed_ms)
            .str(&self.changed_by)
            .into_bytes()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`EnvelopeError::Format`], [`EnvelopeError::Suite`], [`EnvelopeError::Malformed`]; an active version above
    /// the latest is [`Fault::Conflict`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        decode(Self::RECORD, bytes, |reader| {
            let body = Self {
                secret: reader.id("secret")?,
                state: HeadState::from_code(reader.u8("state")?)
                    .ok_or(Malformed::new("state", Fault::Unknown))?,
                active: SecretVersion::new(reader.u64("active version")?),
                latest: version(reader, "latest version")?,
                created_ms: reader.u64("created")?,
                changed_ms: reader.u64("changed")?,
                changed_by: reader.str("who", MAX_SPIFFE_ID_BYTES)?.to_owned(),
            };
            if body.active.is_some_and(|active| active > body.latest) {
                return Err(Malformed::new("active version", Fault::Conflict));
            }
            Ok(body)
        })
    }
}

/// Table `version`: `LP(number u64, [(field, value)] by field, created u64, who, note, pinned u8)`.
///
/// Key: `secret 16 || number u64 big-endian`, so that a secret's versions lie together and in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionBody {
    /// Its number.
    pub number: SecretVersion,
    /// Which value each field has; a value may be that of an older version.
    pub fields: BTreeMap<FieldName, ValueId>,
    /// When it was put, in milliseconds since 1970.
    pub created_ms: u64,
    /// Who put it.
    pub created_by: String,
    /// Why, in their words.
    pub note: String,
    /// Whether it stays however many versions its keyspace keeps; a destroyed one does not.
    pub pinned: bool,
}

impl VersionBody {
    const RECORD: &str = "the version";

    /// Whether it is a first version whose values are destroyed: only such a one has no fields.
    #[must_use]
    pub fn is_destroyed(&self) -> bool {
        self.fields.is_empty()
    }

    /// The row's key.
    #[must_use]
    pub fn key(secret: SecretId, number: SecretVersion) -> Vec<u8> {
        [secret.as_bytes().as_slice(), &number.number().to_be_bytes()].concat()
    }

    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Lp::record()
            .u64(self.number.number())
            .list(
                self.fields
                    .iter()
                    .map(|(field, value)| Lp::new().str(field.as_str()).id(value)),
            )
            .u64(self.created_ms)
            .str(&self.created_by)
            .str(&self.note)
            .u8(self.pinned.into())
            .into_bytes()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`EnvelopeError::Format`], [`EnvelopeError::Suite`], [`EnvelopeError::Malformed`]; fields out of order or
    /// twice are [`Fault::Order`], a destroyed version that is pinned is [`Fault::Conflict`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        decode(Self::RECORD, bytes, |reader| {
            let body = Self {
                number: version(reader, "number")?,
                fields: fields(reader)?,
                created_ms: reader.u64("created")?,
                created_by: reader.str("who", MAX_SPIFFE_ID_BYTES)?.to_owned(),
                note: reader.str("note", MAX_NOTE_BYTES)?.to_owned(),
                pinned: flag(reader, "pinned")?,
            };
            if body.pinned && body.is_destroyed() {
                return Err(Malformed::new("pinned", Fault::Conflict));
            }
            Ok(body)
        })
    }
}

/// Table `request`: `LP(digest 32, result, created u64)`.
///
/// Key: [`request_key`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestBody {
    /// What was asked, so that the same id with another request is refused.
    pub digest: [u8; 32],
    /// What was answered, so that a repeat gets the same.
    pub result: Vec<u8>,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
}

impl RequestBody {
    const RECORD: &str = "the request";

    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Lp::record()
            .bytes(&self.digest)
            .bytes(&self.result)
            .u64(self.created_ms)
            .into_bytes()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`EnvelopeError::Format`], [`EnvelopeError::Suite`], [`EnvelopeError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        decode(Self::RECORD, bytes, |reader| {
            Ok(Self {
                digest: reader.array("digest")?,
                result: reader.bytes_up_to("result", MAX_RESULT_BYTES)?.to_vec(),
                created_ms: reader.u64("created")?,
            })
        })
    }
}

/// The key of a request's row: the operator's SPIFFE ID, a zero byte, the 16 bytes of the id. An operator's requests lie
/// together, oldest first, since the id begins with its time.
#[must_use]
pub fn request_key(operator_id: &str, request: RequestId) -> Vec<u8> {
    [request_prefix(operator_id).as_slice(), request.as_bytes()].concat()
}

/// What the keys of all of an operator's requests begin with. No SPIFFE ID has a zero byte.
#[must_use]
pub fn request_prefix(operator_id: &str) -> Vec<u8> {
    [operator_id.as_bytes(), &[0]].concat()
}

fn version(reader: &mut Reader<'_>, field: &'static str) -> Result<SecretVersion, Malformed> {
    SecretVersion::new(reader.u64(field)?).ok_or(Malformed::new(field, Fault::Unknown))
}

fn fields(reader: &mut Reader<'_>) -> Result<BTreeMap<FieldName, ValueId>, Malformed> {
    let pairs = reader.list("fields", MAX_FIELDS, |parts| {
        Ok((parts.parse::<FieldName>("field")?, parts.id("value")?))
    })?;
    if pairs.is_sorted_by(|(a, _), (b, _)| a < b) {
        Ok(pairs.into_iter().collect())
    } else {
        Err(Malformed::new("fields", Fault::Order))
    }
}
