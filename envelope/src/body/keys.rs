//! Keyspaces, wrapped data keys and their index.

use super::{MAX_SPIFFE_ID_BYTES, decode, flag};
use crate::error::EnvelopeError;
use crate::id::{ID_BYTES, KeyId, SecretId, ValueId};
use crate::lp::{Fault, Lp, Malformed, Reader};
use crate::name::Keyspace;
use crate::value::CtHash;
use crate::wrap::WrappedKey;
use crate::{MAX_VERSION_BYTES, TAG_BYTES};

/// What may be done with a keyspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyspaceState {
    /// It is used.
    Active,
    /// Its keys are gone, and nothing is left of it but this row, by which its name stays taken for good.
    Destroyed,
    /// Its keys are gone. Rows that they wrapped may be left, and are being removed.
    Removing,
}

impl KeyspaceState {
    /// The word for it, as operators see it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Destroyed => "destroyed",
            Self::Removing => "removing",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Active => 1,
            Self::Destroyed => 2,
            Self::Removing => 3,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Active),
            2 => Some(Self::Destroyed),
            3 => Some(Self::Removing),
            _ => None,
        }
    }
}

/// What a keyspace demands of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPolicy {
    /// No key is to wrap for longer, in seconds; 0 for no limit.
    pub max_age_s: u32,
    /// No key is to wrap so often; 0 for no limit.
    pub max_wraps: u64,
    /// Whether the broker rotates by itself what is past a limit.
    pub automatic: bool,
    /// How long backups are kept, in seconds: so long a retired key is not destroyed; 0 when it is not said.
    pub backup_age_s: u32,
}

/// Table `keyspace`: `LP(state u8, key epoch u32, created u64, who, max versions u32, max age u32, max wraps u64,
/// automatic u8, backup age u32)`.
///
/// Key: the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyspaceBody {
    /// What may be done with it.
    pub state: KeyspaceState,
    /// The epoch of the KEK that new data keys are wrapped under, from 1.
    pub key_epoch: u32,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Who made it.
    pub created_by: String,
    /// How many versions of a secret are kept, the newest, beside the active one; 0 for all.
    pub max_versions: u32,
    /// What is demanded of its keys.
    pub policy: KeyPolicy,
}

impl KeyspaceBody {
    const RECORD: &str = "the keyspace";

    /// The row's key.
    #[must_use]
    pub fn key(keyspace: &Keyspace) -> Vec<u8> {
        keyspace.as_str().as_bytes().to_vec()
    }

    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Lp::record()
            .u8(self.state.code())
            .u32(self.key_epoch)
            .u64(self.created_ms)
            .str(&self.created_by)
            .u32(self.max_versions)
            .u32(self.policy.max_age_s)
            .u64(self.policy.max_wraps)
            .u8(self.policy.automatic.into())
            .u32(self.policy.backup_age_s)
            .into_bytes()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`EnvelopeError::Format`], [`EnvelopeError::Suite`], [`EnvelopeError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        decode(Self::RECORD, bytes, |reader| {
            Ok(Self {
                state: KeyspaceState::from_code(reader.u8("state")?)
                    .ok_or(Malformed::new("state", Fault::Unknown))?,
                key_epoch: epoch(reader, "key epoch")?,
                created_ms: reader.u64("created")?,
                created_by: reader.str("who", MAX_SPIFFE_ID_BYTES)?.to_owned(),
                max_versions: reader.u32("max versions")?,
                policy: KeyPolicy {
                    max_age_s: reader.u32("max age")?,
                    max_wraps: reader.u64("max wraps")?,
                    automatic: flag(reader, "automatic")?,
                    backup_age_s: reader.u32("backup age")?,
                },
            })
        })
    }
}

/// Table `value-key`: `LP(secret, key_id, SHA-256(ct) 32, ct length u32, wrap 112)`.
///
/// Key: the value's 16 bytes. `secret` lets a rewrap find the associated data from this row alone; the length lets a
/// put sum up carried values without reading them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueKeyBody {
    /// The secret that the value was put to.
    pub secret: SecretId,
    /// The KEK that wraps.
    pub kek: KeyId,
    /// SHA-256 of the payload.
    pub ct_hash: CtHash,
    /// Bytes of the payload, its tag included.
    pub ct_bytes: u32,
    /// The data key.
    pub wrapped: WrappedKey,
}

impl ValueKeyBody {
    const RECORD: &str = "the value key";

    /// The row's key, and that of the payload.
    #[must_use]
    pub fn key(value: ValueId) -> Vec<u8> {
        value.as_bytes().to_vec()
    }

    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Lp::record()
            .id(self.secret)
            .id(self.kek)
            .bytes(self.ct_hash.as_bytes())
            .u32(self.ct_bytes)
            .bytes(self.wrapped.as_bytes())
            .into_bytes()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`EnvelopeError::Format`], [`EnvelopeError::Suite`], [`EnvelopeError::Malformed`]; a length that no
    /// ciphertext has is [`Fault::Length`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        decode(Self::RECORD, bytes, |reader| {
            let body = Self {
                secret: reader.id("secret")?,
                kek: reader.id("key_id")?,
                ct_hash: CtHash::from_bytes(reader.array("SHA-256(ct)")?),
                ct_bytes: reader.u32("ct length")?,
                wrapped: WrappedKey::from_bytes(reader.array("wrap")?),
            };
            let found = usize::try_from(body.ct_bytes).unwrap_or(usize::MAX);
            if !(TAG_BYTES..=MAX_VERSION_BYTES + TAG_BYTES).contains(&found) {
                return Err(Malformed::new("ct length", Fault::Length));
            }
            Ok(body)
        })
    }

    /// Bytes of the value itself.
    #[must_use]
    pub fn plaintext_bytes(&self) -> usize {
        usize::try_from(self.ct_bytes)
            .unwrap_or(usize::MAX)
            .saturating_sub(TAG_BYTES)
    }
}

/// Table `kek-index`: which values a KEK wraps. Key: `kek_id 16 || value 16`; there is nothing under it.
///
/// It says nothing that the value-key rows do not say: each of those has one of these, and nothing vouches for one without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KekIndexKey {
    /// The KEK.
    pub kek: KeyId,
    /// The value whose key it wraps.
    pub value: ValueId,
}

impl KekIndexKey {
    const RECORD: &str = "the KEK index";

    /// The row's key.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [self.kek.as_bytes().as_slice(), self.value.as_bytes()].concat()
    }

    /// What the keys of all rows of a KEK begin with.
    #[must_use]
    pub fn prefix(kek: KeyId) -> Vec<u8> {
        kek.as_bytes().to_vec()
    }

    /// Reads a row's key.
    ///
    /// # Errors
    /// [`EnvelopeError::Malformed`] unless it has 32 bytes.
    pub fn decode(key: &[u8]) -> Result<Self, EnvelopeError> {
        match key.as_chunks::<ID_BYTES>() {
            ([kek, value], []) => Ok(Self {
                kek: KeyId::from_bytes(*kek),
                value: ValueId::from_bytes(*value),
            }),
            _ => Err(EnvelopeError::malformed(Self::RECORD)(Malformed::new(
                "the key",
                Fault::Length,
            ))),
        }
    }

    /// That of a value-key row, from its key and its body; none for one that cannot be read.
    #[must_use]
    pub fn of(key: &[u8], body: &[u8]) -> Option<Self> {
        Some(Self {
            kek: ValueKeyBody::decode(body).ok()?.kek,
            value: ValueId::try_from(key).ok()?,
        })
    }
}

fn epoch(reader: &mut Reader<'_>, field: &'static str) -> Result<u32, Malformed> {
    match reader.u32(field)? {
        0 => Err(Malformed::new(field, Fault::Unknown)),
        epoch => Ok(epoch),
    }
}
