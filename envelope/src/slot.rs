//! Slots: each is one way to the store root key.
//!
//! ```text
//! blob      = Wrap(slot's own secret, key_id = slot, sk 32 || rekey_pk 32, LP("attache/slot/1", ...))
//! enc, ct   = HPKE base 0x0020/0x0001/0x0002 to pk of the SRK, aad empty,
//!             info = LP("attache/srk/1", format, suite, store, slot, pk)
//! signature = Ed25519(rekey, LP("attache/srk-sig/1", store, slot, pk, number, enc, ct))
//! stored    = format u16 || suite u16 || LP(slot, kind, KDF parameters, pk, blob, number, enc, ct, signature,
//!             name, created u64, verified u64)
//! key file  = "attache-slot-key-1:" || base64url of the slot's secret, no padding || "\n"
//! ```
//!
//! A slot row is hostile until the keyring is open. HPKE base has no sender, so each seal is signed by `rekey`, and
//! the signature is checked with the `rekey_pk` inside the slot's own blob before anything is opened: who can write
//! the store cannot bring a keyring of their own.

mod base64url;
mod key_file;
pub mod kms;
pub mod passphrase;
mod sealed;
mod share_file;

use zeroize::Zeroizing;

pub use key_file::{KEY_FILE_BYTES, KeyFileError, parse_key_file, write_key_file};
pub use sealed::{MAX_SECRET_BYTES, SlotRequest, SlotVerb};
pub use share_file::{MAX_SHARE_FILE_BYTES, ShareFile, ShareFileError};

use crate::TAG_BYTES;
use crate::error::EnvelopeError;
use crate::id::{SlotId, StoreId};
use crate::key::{KEY_BYTES, SecretKey, SigningSeed, SlotSecret, Srk};
use crate::lp::{Fault, Lp, Malformed, Reader};
use crate::name::SlotName;
use crate::random::Random;
use crate::shares::ShareSet;
use crate::sign::{SIGNATURE_BYTES, VerifyingKey};
use crate::wrap::{self, OVERHEAD_BYTES, SlotBinding};
use crate::x25519::{self, Enc, PublicKey};
use kms::KmsCiphertext;
use passphrase::PassphraseParameters;

const RECORD: &str = "the slot";
const BLOB_BYTES: usize = 2 * KEY_BYTES;
const WRAPPED_BLOB_BYTES: usize = OVERHEAD_BYTES + BLOB_BYTES;
const SEALED_SRK_BYTES: usize = KEY_BYTES + TAG_BYTES;

/// The most bytes of KDF parameters, of whatever kind; each kind has its own bounds within.
const MAX_KDF_BYTES: usize = 48 * 1024;

/// How a slot's secret is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotKind {
    /// From a key file; no derivation.
    KeyFile,
    /// From a passphrase by Argon2id, with the parameters in the row.
    Passphrase,
    /// From a KMS plugin, which decrypts what is in the row.
    Kms,
    /// From shares that several people have, whose set is in the row.
    Shares,
}

impl SlotKind {
    /// The word in the row and in the associated data.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeyFile => "key-file",
            Self::Passphrase => "passphrase",
            Self::Kms => "kms",
            Self::Shares => "shares",
        }
    }
}

impl std::str::FromStr for SlotKind {
    type Err = Malformed;

    fn from_str(name: &str) -> Result<Self, Malformed> {
        match name {
            "key-file" => Ok(Self::KeyFile),
            "passphrase" => Ok(Self::Passphrase),
            "kms" => Ok(Self::Kms),
            "shares" => Ok(Self::Shares),
            _ => Err(Malformed::new("kind", Fault::Unknown)),
        }
    }
}

/// How the secret of a slot is had, with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotSource {
    /// From a key file.
    KeyFile,
    /// From a passphrase.
    Passphrase(PassphraseParameters),
    /// From a KMS plugin.
    Kms(KmsCiphertext),
    /// From the shares of this set.
    Shares(ShareSet),
}

impl SlotSource {
    /// The kind of the slot.
    #[must_use]
    pub const fn kind(&self) -> SlotKind {
        match self {
            Self::KeyFile => SlotKind::KeyFile,
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::Kms(_) => SlotKind::Kms,
            Self::Shares(_) => SlotKind::Shares,
        }
    }

    fn kdf_parameters(&self) -> Vec<u8> {
        match self {
            Self::KeyFile => Vec::new(),
            Self::Passphrase(parameters) => parameters.encode(),
            Self::Kms(kept) => kept.encode(),
            Self::Shares(set) => set.encode(),
        }
    }
}

/// A slot without what is sealed to it: this part does not change when the keyring does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotIdentity {
    /// The slot.
    pub slot: SlotId,
    /// How its secret is had.
    pub kind: SlotKind,
    /// Parameters of its key derivation; empty for a key file.
    pub kdf_parameters: Vec<u8>,
    /// What the SRK is sealed to.
    pub pk: PublicKey,
    blob: [u8; WRAPPED_BLOB_BYTES],
}

/// The SRK of one keyring number, sealed to a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrkSeal {
    /// The keyring's number.
    pub number: u64,
    /// The sender's half of the HPKE setup.
    pub enc: Enc,
    /// The sealed SRK.
    pub ct: [u8; SEALED_SRK_BYTES],
    /// By `rekey`.
    pub signature: [u8; SIGNATURE_BYTES],
}

/// What operators know a slot by. Only the row's MAC protects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotAbout {
    /// Its name, one of a kind in its store.
    pub name: SlotName,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When its secret was last shown to open it, in milliseconds since 1970.
    pub verified_ms: Option<u64>,
}

/// A slot's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// What does not change.
    pub identity: SlotIdentity,
    /// What is sealed anew with each keyring.
    pub seal: SrkSeal,
    /// What operators know it by.
    pub about: SlotAbout,
}

/// What opening a slot proves beside the SRK itself.
#[derive(Debug, Clone, Copy)]
pub struct OpenedSlot {
    /// The keyring that the SRK opens.
    pub number: u64,
    /// Who signs SRK seals, as the slot itself remembers it; the keyring's rekey key must match.
    pub rekey: VerifyingKey,
}

impl SlotIdentity {
    /// Makes a key-file slot, as [`SlotIdentity::new`].
    ///
    /// # Errors
    /// [`EnvelopeError::Random`].
    pub fn key_file(
        random: &dyn Random,
        store: StoreId,
        slot: SlotId,
        secret: SlotSecret<'_>,
        rekey: VerifyingKey,
    ) -> Result<Self, EnvelopeError> {
        Self::new(random, store, slot, &SlotSource::KeyFile, secret, rekey)
    }

    /// Makes a slot: draws its key pair and wraps the private half, with `rekey`, under the slot's secret.
    ///
    /// # Errors
    /// [`EnvelopeError::Random`].
    pub fn new(
        random: &dyn Random,
        store: StoreId,
        slot: SlotId,
        source: &SlotSource,
        secret: SlotSecret<'_>,
        rekey: VerifyingKey,
    ) -> Result<Self, EnvelopeError> {
        let mut blob = Box::new(Zeroizing::new([0; BLOB_BYTES]));
        let (sk, rekey_pk) = halves_mut(&mut blob)?;
        random.fill(sk)?;
        *rekey_pk = *rekey.as_bytes();
        let pk = SecretKey::new(sk).public_key()?;
        let (kind, kdf_parameters) = (source.kind(), source.kdf_parameters());
        let binding = SlotBinding {
            store,
            slot,
            kind,
            kdf_parameters: &kdf_parameters,
        };
        let wrapped = wrap::wrap_slot_blob(random, secret, &binding, blob.as_slice())?;
        Ok(Self {
            slot,
            kind,
            kdf_parameters,
            pk,
            blob: wrapped.try_into().map_err(|_| EnvelopeError::Refused)?,
        })
    }

    /// How its secret is had, with its parameters.
    ///
    /// # Errors
    /// [`EnvelopeError::Malformed`] never for what was decoded.
    pub fn source(&self) -> Result<SlotSource, EnvelopeError> {
        self.read_source().map_err(EnvelopeError::malformed(RECORD))
    }

    fn read_source(&self) -> Result<SlotSource, Malformed> {
        let parameters = &self.kdf_parameters;
        match self.kind {
            SlotKind::KeyFile if parameters.is_empty() => Ok(SlotSource::KeyFile),
            SlotKind::KeyFile => Err(Malformed::new("KDF parameters", Fault::Conflict)),
            SlotKind::Passphrase => {
                PassphraseParameters::decode(parameters).map(SlotSource::Passphrase)
            }
            SlotKind::Kms => KmsCiphertext::decode(parameters).map(SlotSource::Kms),
            SlotKind::Shares => ShareSet::read_all(parameters).map(SlotSource::Shares),
        }
    }

    /// Seals an SRK to this slot. Nothing of the slot's secret is needed.
    ///
    /// # Errors
    /// [`EnvelopeError::PublicKey`], [`EnvelopeError::Random`].
    pub fn seal_srk(
        &self,
        random: &dyn Random,
        store: StoreId,
        number: u64,
        srk: Srk<'_>,
        rekey: SigningSeed<'_>,
    ) -> Result<SrkSeal, EnvelopeError> {
        let info = srk_info(store, self.slot, &self.pk);
        let (enc, ct) = x25519::seal(random, &self.pk, &info, srk.bytes(), &[])?;
        let ct = ct.try_into().map_err(|_| EnvelopeError::Refused)?;
        let signature = rekey.sign(&signed(store, self.slot, &self.pk, number, &enc, &ct))?;
        Ok(SrkSeal {
            number,
            enc,
            ct,
            signature,
        })
    }
}

impl Slot {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Lp::record()
            .id(self.identity.slot)
            .str(self.identity.kind.name())
            .bytes(&self.identity.kdf_parameters)
            .bytes(self.identity.pk.as_bytes())
            .bytes(&self.identity.blob)
            .u64(self.seal.number)
            .bytes(self.seal.enc.as_bytes())
            .bytes(&self.seal.ct)
            .bytes(&self.seal.signature)
            .str(self.about.name.as_str())
            .u64(self.about.created_ms)
            .u64(self.about.verified_ms.unwrap_or(0))
            .into_bytes()
    }

    /// Takes stored bytes, which are hostile: every size is fixed or capped here.
    ///
    /// # Errors
    /// [`EnvelopeError::Format`], [`EnvelopeError::Suite`], [`EnvelopeError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        Self::read(Reader::record(RECORD, bytes)?).map_err(EnvelopeError::malformed(RECORD))
    }

    /// Opens the SRK into `out`: unwraps the blob, checks the signature, which covers the slot, its `pk` and the number,
    /// with the blob's own `rekey_pk`, and only then opens the seal.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`], whichever of these does not hold; `out` is then as it was.
    pub fn open(
        &self,
        store: StoreId,
        secret: SlotSecret<'_>,
        out: &mut [u8; KEY_BYTES],
    ) -> Result<OpenedSlot, EnvelopeError> {
        let SlotIdentity { slot, pk, .. } = &self.identity;
        let binding = SlotBinding {
            store,
            slot: *slot,
            kind: self.identity.kind,
            kdf_parameters: &self.identity.kdf_parameters,
        };
        let mut blob = Box::new(Zeroizing::new([0; BLOB_BYTES]));
        wrap::unwrap_slot_blob(secret, &binding, &self.identity.blob, blob.as_mut_slice())?;
        let (sk, rekey_pk) = halves_mut(&mut blob)?;
        let sk = SecretKey::new(sk);
        let SrkSeal {
            number,
            enc,
            ct,
            signature,
        } = &self.seal;
        let rekey = VerifyingKey::from_bytes(*rekey_pk);
        rekey.verify(&signed(store, *slot, pk, *number, enc, ct), signature)?;
        let info = srk_info(store, *slot, pk);
        x25519::open(sk, enc, &info, ct, &[], out).map_err(|_| EnvelopeError::Refused)?;
        Ok(OpenedSlot {
            number: *number,
            rekey,
        })
    }

    fn read(mut reader: Reader<'_>) -> Result<Self, Malformed> {
        let slot = Self {
            identity: SlotIdentity {
                slot: reader.id("slot")?,
                kind: reader.parse("kind")?,
                kdf_parameters: reader
                    .bytes_up_to("KDF parameters", MAX_KDF_BYTES)?
                    .to_vec(),
                pk: PublicKey::from_bytes(reader.array("pk")?),
                blob: reader.array("blob")?,
            },
            seal: SrkSeal {
                number: reader.u64("number")?,
                enc: Enc::from_bytes(reader.array("enc")?),
                ct: reader.array("ct")?,
                signature: reader.array("signature")?,
            },
            about: SlotAbout {
                name: reader.parse("name")?,
                created_ms: reader.u64("created")?,
                verified_ms: Some(reader.u64("verified")?).filter(|at| *at != 0),
            },
        };
        reader.finish("the record")?;
        slot.identity.read_source().map(|_| slot)
    }
}

/// `LP("attache/srk/1", format, suite, store, slot, pk)`.
fn srk_info(store: StoreId, slot: SlotId, pk: &PublicKey) -> Vec<u8> {
    Lp::labelled("attache/srk/1")
        .format_and_suite()
        .id(store)
        .id(slot)
        .bytes(pk.as_bytes())
        .into_bytes()
}

/// `LP("attache/srk-sig/1", store, slot, pk, number, enc, ct)`.
fn signed(
    store: StoreId,
    slot: SlotId,
    pk: &PublicKey,
    number: u64,
    enc: &Enc,
    ct: &[u8; SEALED_SRK_BYTES],
) -> Vec<u8> {
    Lp::labelled("attache/srk-sig/1")
        .id(store)
        .id(slot)
        .bytes(pk.as_bytes())
        .u64(number)
        .bytes(enc.as_bytes())
        .bytes(ct)
        .into_bytes()
}

type Half = [u8; KEY_BYTES];

/// The blob's two halves: `sk` and `rekey_pk`.
fn halves_mut(blob: &mut [u8; BLOB_BYTES]) -> Result<(&mut Half, &mut Half), EnvelopeError> {
    match blob.as_chunks_mut::<KEY_BYTES>() {
        ([sk, rekey_pk], []) => Ok((sk, rekey_pk)),
        _ => Err(EnvelopeError::Refused),
    }
}

#[cfg(test)]
mod tests;
