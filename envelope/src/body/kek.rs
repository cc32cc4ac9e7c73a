//! KEKs: one a keyspace and epoch, and how far each is on its way out.
//!
//! ```text
//! active -> decrypt-only (its values are wrapped again) -> retired (the index has none of it) -> destroyed
//! ```

use std::fmt;

use super::decode;
use crate::error::EnvelopeError;
use crate::id::KeyId;
use crate::lp::{Fault, Lp, Malformed, Reader};
use crate::name::Keyspace;
use crate::wrap::WrappedKey;

/// What may be done with a KEK. It only ever goes down this list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KekState {
    /// Wraps and unwraps.
    Active(WrappedKek),
    /// Only unwraps: its values are being wrapped again, under the active one.
    DecryptOnly(WrappedKek, Rewrap),
    /// By the index it wraps nothing. It is still there, so that a look at every value comes before its end.
    Retired(WrappedKek),
    /// Gone; the row keeps its id from being used again.
    Destroyed,
}

/// A KEK as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKek {
    /// The keyring key that wraps it.
    pub wrap_key: KeyId,
    /// The KEK.
    pub wrapped: WrappedKey,
}

/// How the values of a KEK are wrapped again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rewrap {
    /// How many values a second at most; 0 for as many as go.
    pub rate: u32,
    /// How many values it wrapped when that was counted, after nothing new could come; 0 before.
    pub values: u64,
}

/// The states of a KEK without its key: what people see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KekPhase {
    /// Wraps and unwraps.
    Active,
    /// Only unwraps.
    DecryptOnly,
    /// Wraps nothing any more.
    Retired,
    /// Gone.
    Destroyed,
}

impl KekState {
    /// The state without the key.
    #[must_use]
    pub fn phase(&self) -> KekPhase {
        match self {
            Self::Active(_) => KekPhase::Active,
            Self::DecryptOnly(..) => KekPhase::DecryptOnly,
            Self::Retired(_) => KekPhase::Retired,
            Self::Destroyed => KekPhase::Destroyed,
        }
    }

    /// The key, while there is one.
    #[must_use]
    pub fn wrapped(&self) -> Option<&WrappedKek> {
        match self {
            Self::Active(kek) | Self::DecryptOnly(kek, _) | Self::Retired(kek) => Some(kek),
            Self::Destroyed => None,
        }
    }
}

impl KekPhase {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::DecryptOnly => "decrypt-only",
            Self::Retired => "retired",
            Self::Destroyed => "destroyed",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Active => 1,
            Self::DecryptOnly => 2,
            Self::Retired => 3,
            Self::Destroyed => 4,
        }
    }
}

impl fmt::Display for KekPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Table `kek`: `LP(kek_id, state u8, wrap key_id, wrap 112, created u64, changed u64, rate u32, values u64)`; the two of
/// a destroyed KEK are empty, and the last two are 0 in every state but decrypt-only.
///
/// Key: `keyspace || 0x00 || epoch u32 big-endian`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KekBody {
    /// Its id.
    pub kek: KeyId,
    /// What may be done with it, and the wrapped key while there is one.
    pub state: KekState,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it came to its state, in milliseconds since 1970.
    pub changed_ms: u64,
}

impl KekBody {
    const RECORD: &str = "the KEK";

    /// The row's key.
    #[must_use]
    pub fn key(keyspace: &Keyspace, epoch: u32) -> Vec<u8> {
        [&*Self::prefix(keyspace), &epoch.to_be_bytes()].concat()
    }

    /// What the keys of all KEK rows of a keyspace begin with.
    #[must_use]
    pub fn prefix(keyspace: &Keyspace) -> Vec<u8> {
        [keyspace.as_str().as_bytes(), &[0]].concat()
    }

    /// Whose a row's key is, and of which epoch.
    ///
    /// # Errors
    /// [`EnvelopeError::Malformed`] unless it is a keyspace's name, a zero byte and an epoch from 1.
    pub fn parse_key(key: &[u8]) -> Result<(Keyspace, u32), EnvelopeError> {
        let parsed = key.split_last_chunk().and_then(|(name, epoch)| {
            let name = std::str::from_utf8(name.strip_suffix(&[0])?).ok()?;
            let epoch = u32::from_be_bytes(*epoch);
            Some((name.parse().ok()?, epoch)).filter(|_| epoch > 0)
        });
        parsed.ok_or_else(|| {
            EnvelopeError::malformed(Self::RECORD)(Malformed::new("the key", Fault::Unknown))
        })
    }

    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let lp = Lp::record().id(self.kek).u8(self.state.phase().number());
        let lp = match self.state.wrapped() {
            Some(kek) => lp.id(kek.wrap_key).bytes(kek.wrapped.as_bytes()),
            None => lp.bytes(&[]).bytes(&[]),
        };
        let rewrap = match &self.state {
            KekState::DecryptOnly(_, rewrap) => *rewrap,
            KekState::Active(_) | KekState::Retired(_) | KekState::Destroyed => Rewrap::default(),
        };
        lp.u64(self.created_ms)
            .u64(self.changed_ms)
            .u32(rewrap.rate)
            .u64(rewrap.values)
            .into_bytes()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`EnvelopeError::Format`], [`EnvelopeError::Suite`], [`EnvelopeError::Malformed`]; a wrapped key in a
    /// destroyed KEK is [`Fault::Length`], a rate or a count in any state but decrypt-only [`Fault::Unknown`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        decode(Self::RECORD, bytes, |reader| {
            let kek = reader.id("kek_id")?;
            let state = match reader.u8("state")? {
                1 => KekState::Active(wrapped(reader)?),
                2 => KekState::DecryptOnly(wrapped(reader)?, Rewrap::default()),
                3 => KekState::Retired(wrapped(reader)?),
                4 => {
                    let [] = reader.array("wrap key_id")?;
                    let [] = reader.array("wrap")?;
                    KekState::Destroyed
                }
                _ => return Err(Malformed::new("state", Fault::Unknown)),
            };
            let (created_ms, changed_ms) = (reader.u64("created")?, reader.u64("changed")?);
            let rewrap = Rewrap {
                rate: reader.u32("rate")?,
                values: reader.u64("values")?,
            };
            let state = match state {
                KekState::DecryptOnly(kek, _) => KekState::DecryptOnly(kek, rewrap),
                state if rewrap == Rewrap::default() => state,
                KekState::Active(_) | KekState::Retired(_) | KekState::Destroyed => {
                    return Err(Malformed::new("rate", Fault::Unknown));
                }
            };
            Ok(Self {
                kek,
                state,
                created_ms,
                changed_ms,
            })
        })
    }
}

fn wrapped(reader: &mut Reader<'_>) -> Result<WrappedKek, Malformed> {
    Ok(WrappedKek {
        wrap_key: reader.id("wrap key_id")?,
        wrapped: WrappedKey::from_bytes(reader.array("wrap")?),
    })
}
