//! X25519 keys and the two HPKE uses of the product: keys sealed in one shot, and contexts that only export.
//!
//! HPKE base mode (RFC 9180) with DHKEM(X25519, HKDF-SHA256) 0x0020, HKDF-SHA256 0x0001, and AES-256-GCM 0x0002 or
//! export only 0xFFFF. The private key is borrowed for a call and rebuilt in it; the library wipes its copy.

use std::fmt;

use hpke::aead::{AeadCtxR, AeadCtxS, AesGcm256, ExportOnlyAead};
use hpke::inout::InOutBuf;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, HpkeError, Kem, OpModeR, OpModeS, Serializable as _};

use crate::TAG_BYTES;
use crate::error::EnvelopeError;
use crate::gcm::check_buffer;
use crate::key::{KEY_BYTES, SecretKey};
use crate::random::{HpkeRandom, Random};

type HpkePrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type HpkePublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type HpkeEnc = <X25519HkdfSha256 as Kem>::EncappedKey;

/// An X25519 public key; RFC 7748. Whether a shared secret can be made with it shows only when one is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

/// What the sender of an HPKE setup sends along: its ephemeral public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Enc([u8; KEY_BYTES]);

macro_rules! public_bytes {
    ($name:ident) => {
        impl $name {
            /// Takes the 32 bytes as they are.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = EnvelopeError;

            /// For bytes off the wire: refused unless there are 32, and not all zero.
            fn try_from(bytes: &[u8]) -> Result<Self, EnvelopeError> {
                match <[u8; KEY_BYTES]>::try_from(bytes) {
                    Ok(bytes) if bytes != [0; KEY_BYTES] => Ok(Self(bytes)),
                    _ => Err(EnvelopeError::PublicKey),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))?;
                f.write_str("(")?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str(")")
            }
        }
    };
}

public_bytes!(PublicKey);
public_bytes!(Enc);

impl SecretKey<'_> {
    /// The public half. Any 32 random bytes are a private key; X25519 clamps them.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`] never happens for 32 bytes; it stands for the library's check of the length.
    pub fn public_key(self) -> Result<PublicKey, EnvelopeError> {
        let public = X25519HkdfSha256::sk_to_pk(&self.rebuild()?);
        Ok(PublicKey(public.to_bytes().into()))
    }

    fn rebuild(self) -> Result<HpkePrivateKey, EnvelopeError> {
        HpkePrivateKey::from_bytes(self.bytes()).map_err(|_| EnvelopeError::Refused)
    }
}

/// Seals once to a public key, at sequence number 0: `(enc, ciphertext || tag16)`.
pub(crate) fn seal(
    random: &dyn Random,
    recipient: &PublicKey,
    info: &[u8],
    plaintext: &[u8],
    aad: &[u8],
) -> Result<(Enc, Vec<u8>), EnvelopeError> {
    let (enc, mut context) = setup_sender::<AesGcm256>(random, recipient, info)?;
    let mut sealed = vec![0; plaintext.len() + TAG_BYTES];
    let (ct, tag) = sealed
        .split_last_chunk_mut::<TAG_BYTES>()
        .ok_or(EnvelopeError::Refused)?;
    let buffer = InOutBuf::new(plaintext, ct).map_err(|_| EnvelopeError::Refused)?;
    let computed = context
        .seal_inout_detached(buffer, aad)
        .map_err(|_| EnvelopeError::Refused)?;
    *tag = computed.to_bytes().into();
    Ok((enc, sealed))
}

/// Opens what [`seal`] made into `out`, which must have the plaintext's length. A refused ciphertext leaves `out` as
/// it was.
pub(crate) fn open(
    secret: SecretKey<'_>,
    enc: &Enc,
    info: &[u8],
    sealed: &[u8],
    aad: &[u8],
    out: &mut [u8],
) -> Result<(), EnvelopeError> {
    let (ct, tag) = sealed
        .split_last_chunk::<TAG_BYTES>()
        .ok_or(EnvelopeError::Refused)?;
    check_buffer("the plaintext", ct.len(), out)?;
    let tag = hpke::aead::AeadTag::from_bytes(tag).map_err(|_| EnvelopeError::Refused)?;
    let buffer = InOutBuf::new(ct, out).map_err(|_| EnvelopeError::Refused)?;
    setup_receiver::<AesGcm256>(secret, enc, info)?
        .open_inout_detached(buffer, aad, &tag)
        .map_err(|_| EnvelopeError::Refused)
}

/// An HPKE context that can only export: its `seal` and `open` would panic, so they are not here.
///
/// Boxed, so that moving it copies no secret.
pub(crate) enum ExportOnly {
    Sender(Box<AeadCtxS<ExportOnlyAead, HkdfSha256, X25519HkdfSha256>>),
    Receiver(Box<AeadCtxR<ExportOnlyAead, HkdfSha256, X25519HkdfSha256>>),
}

impl ExportOnly {
    pub(crate) fn sender(
        random: &dyn Random,
        recipient: &PublicKey,
        info: &[u8],
    ) -> Result<(Enc, Self), EnvelopeError> {
        let (enc, context) = setup_sender(random, recipient, info)?;
        Ok((enc, Self::Sender(Box::new(context))))
    }

    pub(crate) fn receiver(
        secret: SecretKey<'_>,
        enc: &Enc,
        info: &[u8],
    ) -> Result<Self, EnvelopeError> {
        setup_receiver(secret, enc, info)
            .map(Box::new)
            .map(Self::Receiver)
    }

    /// `LabeledExpand(exporter_secret, "sec", context, 32)`; RFC 9180, section 5.3.
    pub(crate) fn export(
        &self,
        context: &[u8],
        out: &mut [u8; KEY_BYTES],
    ) -> Result<(), EnvelopeError> {
        match self {
            Self::Sender(setup) => setup.export(context, out),
            Self::Receiver(setup) => setup.export(context, out),
        }
        .map_err(|_| EnvelopeError::Refused)
    }
}

fn setup_sender<A: hpke::aead::Aead>(
    random: &dyn Random,
    recipient: &PublicKey,
    info: &[u8],
) -> Result<(Enc, AeadCtxS<A, HkdfSha256, X25519HkdfSha256>), EnvelopeError> {
    check_info(info)?;
    let recipient = HpkePublicKey::from_bytes(&recipient.0).map_err(setup_error)?;
    let mut random = HpkeRandom::new(random);
    let (enc, context) = hpke::setup_sender_with_rng::<A, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &recipient,
        info,
        &mut random,
    )
    .map_err(setup_error)?;
    random.check()?;
    Ok((Enc(enc.to_bytes().into()), context))
}

fn setup_receiver<A: hpke::aead::Aead>(
    secret: SecretKey<'_>,
    enc: &Enc,
    info: &[u8],
) -> Result<AeadCtxR<A, HkdfSha256, X25519HkdfSha256>, EnvelopeError> {
    check_info(info)?;
    let enc = HpkeEnc::from_bytes(&enc.0).map_err(setup_error)?;
    hpke::setup_receiver(&OpModeR::Base, &secret.rebuild()?, &enc, info).map_err(setup_error)
}

/// The library panics on an info of 64 KiB or more; ours are a few hundred bytes.
fn check_info(info: &[u8]) -> Result<(), EnvelopeError> {
    const LIMIT: usize = 4096;
    if info.len() <= LIMIT {
        return Ok(());
    }
    Err(EnvelopeError::Limit {
        what: "the HPKE info, in bytes,",
        found: info.len(),
        limit: LIMIT,
    })
}

/// The one way for a setup to fail is a shared secret of all zeros: a public key of small order, zero among them.
fn setup_error(_: HpkeError) -> EnvelopeError {
    EnvelopeError::PublicKey
}

#[cfg(test)]
mod tests;
