//! The cluster's key set: which keys may verify a token, and each by its one algorithm.
//!
//! ```text
//! kty RSA, n of 2,048 to 8,192 bits, e >= 65537   -> RS256
//! kty EC,  crv P-256                              -> ES256
//! kty OKP, crv Ed25519                            -> EdDSA
//! ```
//! The algorithm follows from the key and never from the token, so a token cannot choose how it is checked. A key that
//! is of another kind or use is kept as unusable: it verifies nothing, and a token that names it is refused with the
//! reason. Source: RFC 7517 (JWK), RFC 7518 section 6, RFC 8037 section 2.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;
use thiserror::Error;

/// The most bytes of a key set.
pub(super) const MAX_JWKS_BYTES: usize = 256 * 1024;
/// The most keys of a key set.
const MAX_KEYS: usize = 64;
/// The most bytes of a key id.
pub(super) const MAX_KID_BYTES: usize = 256;

/// An algorithm that a token may be signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// The name in a token's header; RFC 7518 section 3.1, RFC 8037 section 3.1.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// Why a key set is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JwksError {
    /// Too large.
    #[error("the key set has more than {MAX_JWKS_BYTES} bytes")]
    TooLarge,
    /// Not a key set.
    #[error("the key set is not a JSON object with a list `keys` (RFC 7517)")]
    Malformed,
    /// Too many keys.
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooMany,
    /// Two keys under one id, or two without: which one a token means would be a guess.
    #[error("two keys of the key set have the same kid, or none")]
    Ambiguous,
    /// A key id that is empty or too long.
    #[error("a kid of the key set is empty or longer than {MAX_KID_BYTES} bytes")]
    KeyId,
}

/// Why a key verifies nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unusable {
    /// Neither RSA nor EC nor OKP.
    #[error("its kty is not RSA, EC or OKP")]
    Type,
    /// Not a curve of ours.
    #[error("its crv is not P-256 (EC) or Ed25519 (OKP)")]
    Curve,
    /// For something else than signatures.
    #[error("its use or key_ops is not for verifying signatures")]
    Use,
    /// Made for another algorithm than the one of its kind.
    #[error("its alg is not RS256 (RSA), ES256 (EC) or EdDSA (OKP)")]
    Algorithm,
    /// A coordinate or number that is missing or of the wrong length.
    #[error("a coordinate or number of the key is missing or malformed")]
    Numbers,
    /// RSA of too few or too many bits.
    #[error("its RSA modulus is not of 2,048 to 8,192 bits, or its exponent is under 65537")]
    Rsa,
}

/// The keys of a cluster's issuer.
pub struct KeySet {
    keys: Vec<Key>,
}

struct Key {
    kid: Option<Box<str>>,
    material: Result<VerifyKey, Unusable>,
}

/// A key that verifies, by one algorithm.
pub(super) enum VerifyKey {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl KeySet {
    /// Parses a JSON Web Key Set.
    ///
    /// # Errors
    /// [`JwksError`]; keys of other kinds and uses are not an error, since RFC 7517 section 5 has them ignored.
    pub fn parse(json: &[u8]) -> Result<Self, JwksError> {
        if json.len() > MAX_JWKS_BYTES {
            return Err(JwksError::TooLarge);
        }
        let set: JwkSet = serde_json::from_slice(json).map_err(|_| JwksError::Malformed)?;
        if set.keys.len() > MAX_KEYS {
            return Err(JwksError::TooMany);
        }
        let mut keys: Vec<Key> = Vec::with_capacity(set.keys.len());
        for jwk in set.keys {
            if jwk.kid.as_deref().is_some_and(|kid| !is_key_id(kid)) {
                return Err(JwksError::KeyId);
            }
            if keys.iter().any(|key| key.kid == jwk.kid) {
                return Err(JwksError::Ambiguous);
            }
            let material = jwk.verify_key();
            let kid = jwk.kid;
            keys.push(Key { kid, material });
        }
        Ok(Self { keys })
    }

    /// The key that a token's `kid` names; without one, the only key of the set.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<Result<&VerifyKey, Unusable>> {
        let key = match (kid, self.keys.as_slice()) {
            (Some(kid), keys) => keys.iter().find(|key| key.kid.as_deref() == Some(kid))?,
            (None, [only]) => only,
            (None, _) => return None,
        };
        Some(key.material.as_ref().map_err(|unusable| *unusable))
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({} keys)", self.keys.len())
    }
}

impl VerifyKey {
    /// The one algorithm of this key.
    pub(super) const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Whether the signature is this key's.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa { n, e } => RsaPublicKeyComponents { n, e }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            Self::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(message, signature)
                .is_ok(),
            Self::Ed25519(point) => UnparsedPublicKey::new(&ED25519, point)
                .verify(message, signature)
                .is_ok(),
        }
    }
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

/// What is read of a key; private parts of one, should they stand there, are not.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<Box<str>>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    fn verify_key(&self) -> Result<VerifyKey, Unusable> {
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        if self.usage.as_deref().is_some_and(|usage| usage != "sig")
            || !self.key_ops.as_ref().is_none_or(verifies)
        {
            return Err(Unusable::Use);
        }
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", None) => self.rsa()?,
            ("EC", Some("P-256")) => {
                let (x, y) = (coordinate(&self.x)?, coordinate(&self.y)?);
                // SEC 1 section 2.3.3: an uncompressed point.
                VerifyKey::P256([&[4], x.as_slice(), y.as_slice()].concat())
            }
            ("OKP", Some("Ed25519")) => VerifyKey::Ed25519(coordinate(&self.x)?),
            ("RSA" | "EC" | "OKP", _) => return Err(Unusable::Curve),
            _ => return Err(Unusable::Type),
        };
        match self.alg.as_deref() {
            Some(alg) if alg != key.algorithm().name() => Err(Unusable::Algorithm),
            Some(_) | None => Ok(key),
        }
    }

    fn rsa(&self) -> Result<VerifyKey, Unusable> {
        let (n, e) = (number(&self.n)?, number(&self.e)?);
        let bits = |number: &[u8]| match number {
            [first, rest @ ..] => {
                rest.len() * 8 + usize::try_from(8 - first.leading_zeros()).unwrap_or(0)
            }
            [] => 0,
        };
        let odd = e.last().is_some_and(|last| last & 1 == 1);
        // The smallest odd number of 17 bits is 65537, and ring takes no more than 33.
        if !(2048..=8192).contains(&bits(&n)) || !(17..=33).contains(&bits(&e)) || !odd {
            return Err(Unusable::Rsa);
        }
        Ok(VerifyKey::Rsa { n, e })
    }
}

fn is_key_id(kid: &str) -> bool {
    (1..=MAX_KID_BYTES).contains(&kid.len())
}

/// A coordinate of a curve of 256 bits: all 32 bytes; RFC 7518 section 6.2.1.2.
fn coordinate(text: &Option<String>) -> Result<Vec<u8>, Unusable> {
    decode(text)
        .filter(|bytes| bytes.len() == 32)
        .ok_or(Unusable::Numbers)
}

/// A Base64urlUInt: without leading zeros; RFC 7518 section 2.
fn number(text: &Option<String>) -> Result<Vec<u8>, Unusable> {
    decode(text)
        .filter(|bytes| bytes.first().is_some_and(|first| *first != 0))
        .ok_or(Unusable::Numbers)
}

fn decode(text: &Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.as_ref()?).ok()
}

#[cfg(test)]
mod tests;
