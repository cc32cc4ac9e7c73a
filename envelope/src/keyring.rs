//! The keyring: one sealed record of random keys, each for one purpose and epoch.
//!
//! ```text
//! key    = HKDF-SHA256-Expand(SRK, LP("attache/keyring/1", store, number), 32)
//! ct     = AES-256-GCM(key, nonce 0, record, LP("attache/keyring-aad/1", format, suite, store, number))
//! record = format u16 || suite u16 || count u32 || count * (purpose u8 || state u8 || epoch u32 || id 16 || key 32)
//! stored = format u16 || suite u16 || LP(number u64, ct)
//! ```
//!
//! Each number has an SRK of its own, which seals once: a [`FreshSrk`] is consumed by it. The record is written to and
//! read from memory that the caller gives, which is locked.

use attache_arena::Key;
use zeroize::Zeroizing;

use crate::error::EnvelopeError;
use crate::id::{ID_BYTES, KeyId, StoreId};
use crate::key::{KEY_BYTES, Srk};
use crate::lp::{Fault, Lp, Malformed, Reader};
use crate::{FORMAT, SUITE, TAG_BYTES, gcm, kdf};

const RECORD: &str = "the keyring";
const HEAD_BYTES: usize = 8;
const ENTRY_BYTES: usize = 1 + 1 + 4 + ID_BYTES + KEY_BYTES;

/// The most keys of a keyring: old epochs are dropped long before.
pub const MAX_KEYS: usize = 1024;

macro_rules! purposes {
    ($($(#[$doc:meta])+ $name:ident = $code:literal, $text:literal;)+) => {
        /// What a key of the keyring is for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Purpose {
            $($(#[$doc])+ $name,)+
        }

        impl Purpose {
            /// Every purpose, in the order of the record.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The byte in the record.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self {
                    $(Self::$name => $code,)+
                }
            }

            /// The word for it, as `key list` shows it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

purposes! {
    /// Authenticates rows ([`crate::key::RowMacKey`]).
    RowMac = 1, "row-mac";
    /// The elements of the set hashes ([`crate::key::SetHashKey`]).
    SetHash = 2, "set-hash";
    /// Wraps the anchor ([`crate::key::AnchorSealKey`]).
    AnchorSeal = 3, "anchor-seal";
    /// Chains the anchors ([`crate::key::AnchorMacKey`]).
    AnchorMac = 4, "anchor-mac";
    /// Makes denial ids ([`crate::key::DenialKey`]).
    Denial = 5, "denial";
    /// Wraps KEKs ([`crate::key::KekWrapKey`]).
    KekWrap = 6, "kek-wrap";
    /// Ed25519 seed: signs checkpoints and anchors.
    AuditSigning = 7, "audit-signing";
    /// Ed25519 seed: the broker's CA.
    Ca = 8, "ca";
    /// Ed25519 seed: signs SRK seals.
    Rekey = 9, "rekey";
}

/// Whether a key still makes something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// Seals, signs and authenticates. One a purpose.
    Active,
    /// Only opens and verifies what it made.
    Old,
}

impl KeyState {
    const fn code(self) -> u8 {
        match self {
            Self::Active => 1,
            Self::Old => 2,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Active),
            2 => Some(Self::Old),
            _ => None,
        }
    }
}

/// One key of the keyring, borrowed.
#[derive(Clone, Copy)]
pub struct KeyringEntry<'a> {
    /// What it is for.
    pub purpose: Purpose,
    /// Whether it makes something new.
    pub state: KeyState,
    /// Its epoch within the purpose, from 1.
    pub epoch: u32,
    /// Its id.
    pub id: KeyId,
    /// The key itself.
    pub key: &'a [u8; KEY_BYTES],
}

/// Bytes of a record of this many keys.
#[must_use]
pub const fn record_bytes(keys: usize) -> usize {
    HEAD_BYTES + keys * ENTRY_BYTES
}

/// Writes a record into `out`, which must have [`record_bytes`] of them.
///
/// # Errors
/// [`EnvelopeError::Malformed`] for entries that no record may have: out of order by purpose and epoch, a purpose
/// without exactly one active key, an epoch 0, an id twice; [`EnvelopeError::Limit`], [`EnvelopeError::Buffer`].
pub fn write_record(entries: &[KeyringEntry<'_>], out: &mut [u8]) -> Result<(), EnvelopeError> {
    check(entries).map_err(EnvelopeError::malformed(RECORD))?;
    gcm::check_buffer("the keyring", record_bytes(entries.len()), out)?;
    let count = u32::try_from(entries.len()).map_err(|_| too_many(entries.len()))?;
    if entries.len() > MAX_KEYS {
        return Err(too_many(entries.len()));
    }
    let mut rest = out;
    put(&mut rest, &FORMAT.to_be_bytes());
    put(&mut rest, &SUITE.to_be_bytes());
    put(&mut rest, &count.to_be_bytes());
    for entry in entries {
        put(&mut rest, &[entry.purpose.code(), entry.state.code()]);
        put(&mut rest, &entry.epoch.to_be_bytes());
        put(&mut rest, entry.id.as_bytes());
        put(&mut rest, entry.key);
    }
    Ok(())
}

/// Reads a record; the keys stay where they are.
///
/// # Errors
/// [`EnvelopeError::Format`], [`EnvelopeError::Suite`]; [`EnvelopeError::Malformed`] for anything that
/// [`write_record`] would not write.
pub fn read_record(record: &[u8]) -> Result<Vec<KeyringEntry<'_>>, EnvelopeError> {
    // Checks format and suite; the rest of a record is of fixed size and has no prefixes.
    Reader::record(RECORD, record)?;
    let entries = read_entries(record).map_err(EnvelopeError::malformed(RECORD))?;
    check(&entries).map_err(EnvelopeError::malformed(RECORD))?;
    Ok(entries)
}

/// An SRK that has not sealed its keyring yet. Sealing consumes it, so that it seals one keyring and no second:
///
/// ```compile_fail,E0382
/// # use attache_envelope::{id::StoreId, keyring::FreshSrk};
/// # fn twice(srk: FreshSrk, store: StoreId) {
/// let _ = srk.seal(store, 1, b"one");
/// let _ = srk.seal(store, 2, b"other");
/// # }
/// ```
pub struct FreshSrk(Key);

impl FreshSrk {
    /// Takes a key drawn for this and nothing else: `arena.random_key()`.
    #[must_use]
    pub const fn new(key: Key) -> Self {
        Self(key)
    }

    /// Seals the keyring of `number`, and gives back the SRK to be sealed to every slot.
    ///
    /// # Errors
    /// [`EnvelopeError::Limit`] for a record of more than [`MAX_KEYS`].
    pub fn seal(
        self,
        store: StoreId,
        number: u64,
        record: &[u8],
    ) -> Result<(SealedKeyring, Key), EnvelopeError> {
        if record.len() > record_bytes(MAX_KEYS) {
            return Err(too_many(record.len() / ENTRY_BYTES));
        }
        let key = sealing_key(Srk::new(self.0.expose()), store, number)?;
        let ct = gcm::seal(&key, record, &aad(store, number))?;
        Ok((SealedKeyring { number, ct }, self.0))
    }
}

/// A keyring as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedKeyring {
    number: u64,
    ct: Vec<u8>,
}

impl SealedKeyring {
    /// Its number: one more with each change.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The ciphertext of the record, and its tag.
    #[must_use]
    pub fn ct(&self) -> &[u8] {
        &self.ct
    }

    /// Bytes of the record within.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        self.ct.len().saturating_sub(TAG_BYTES)
    }

    /// The stored bytes: `format || suite || LP(number, ct)`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Lp::record().u64(self.number).bytes(&self.ct).into_bytes()
    }

    /// Takes stored bytes, which are hostile until opened.
    ///
    /// # Errors
    /// [`EnvelopeError::Format`], [`EnvelopeError::Suite`], [`EnvelopeError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let mut reader = Reader::record(RECORD, bytes)?;
        let limit = record_bytes(MAX_KEYS) + TAG_BYTES;
        let mut read = || {
            let number = reader.u64("number")?;
            let ct = reader.bytes_up_to("ct", limit)?.to_vec();
            reader.clone().finish("the record")?;
            Ok(Self { number, ct })
        };
        read().map_err(EnvelopeError::malformed(RECORD))
    }

    /// Opens the record into `out`, which must have [`SealedKeyring::record_bytes`]; then [`read_record`].
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`], [`EnvelopeError::Buffer`]; `out` is then as it was.
    pub fn open(&self, srk: Srk<'_>, store: StoreId, out: &mut [u8]) -> Result<(), EnvelopeError> {
        let key = sealing_key(srk, store, self.number)?;
        gcm::open(&key, &self.ct, &aad(store, self.number), out)
    }
}

fn sealing_key(
    srk: Srk<'_>,
    store: StoreId,
    number: u64,
) -> Result<Zeroizing<[u8; KEY_BYTES]>, EnvelopeError> {
    let info = Lp::labelled("attache/keyring/1").id(store).u64(number);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    kdf::expand(srk.bytes(), info.as_bytes(), key.as_mut_slice())?;
    Ok(key)
}

fn aad(store: StoreId, number: u64) -> Vec<u8> {
    Lp::labelled("attache/keyring-aad/1")
        .format_and_suite()
        .id(store)
        .u64(number)
        .into_bytes()
}

fn check(entries: &[KeyringEntry<'_>]) -> Result<(), Malformed> {
    if !entries.is_sorted_by(|a, b| (a.purpose, a.epoch) < (b.purpose, b.epoch)) {
        return Err(Malformed::new("the keys", Fault::Order));
    }
    if entries.iter().any(|entry| entry.epoch == 0) {
        return Err(Malformed::new("epoch", Fault::Unknown));
    }
    for purpose in Purpose::ALL {
        let active = entries
            .iter()
            .filter(|entry| entry.purpose == *purpose && entry.state == KeyState::Active);
        if active.count() != 1 {
            return Err(Malformed::new("state", Fault::Conflict));
        }
    }
    let mut ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
    ids.sort_unstable();
    if ids.is_sorted_by(|a, b| a < b) {
        Ok(())
    } else {
        Err(Malformed::new("id", Fault::Order))
    }
}

fn read_entries(record: &[u8]) -> Result<Vec<KeyringEntry<'_>>, Malformed> {
    let truncated = |field| Malformed::new(field, Fault::Truncated);
    let (head, rest) = record
        .split_first_chunk::<HEAD_BYTES>()
        .ok_or(truncated("count"))?;
    let [_, _, _, _, count @ ..] = *head;
    let count = usize::try_from(u32::from_be_bytes(count)).unwrap_or(usize::MAX);
    let (entries, over) = rest.as_chunks::<ENTRY_BYTES>();
    if count > MAX_KEYS {
        return Err(Malformed::new("count", Fault::TooLong));
    }
    if count > entries.len() {
        return Err(truncated("the keys"));
    }
    if count < entries.len() || !over.is_empty() {
        return Err(Malformed::new("the keys", Fault::Trailing));
    }
    entries.iter().map(read_entry).collect()
}

fn read_entry(bytes: &[u8; ENTRY_BYTES]) -> Result<KeyringEntry<'_>, Malformed> {
    let short = Malformed::new("the keys", Fault::Truncated);
    let [purpose, state, rest @ ..] = bytes;
    let (epoch, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
    let (id, rest) = rest.split_first_chunk::<ID_BYTES>().ok_or(short)?;
    Ok(KeyringEntry {
        purpose: Purpose::from_code(*purpose).ok_or(Malformed::new("purpose", Fault::Unknown))?,
        state: KeyState::from_code(*state).ok_or(Malformed::new("state", Fault::Unknown))?,
        epoch: u32::from_be_bytes(*epoch),
        id: KeyId::from_bytes(*id),
        key: rest.first_chunk::<KEY_BYTES>().ok_or(short)?,
    })
}

/// Writes at the front of what is left. The length was checked for the whole.
fn put(rest: &mut &mut [u8], bytes: &[u8]) {
    if let Some(front) = rest.split_off_mut(..bytes.len()) {
        front.copy_from_slice(bytes);
    }
}

fn too_many(found: usize) -> EnvelopeError {
    EnvelopeError::Limit {
        what: "the keyring, in keys,",
        found,
        limit: MAX_KEYS,
    }
}

#[cfg(test)]
mod tests;
