//! HKDF-Expand and HMAC over keys of ours, both SHA-256 and both wiped.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use ring::digest::{SHA256, digest};
use sha2::{Digest as _, Sha256};

use crate::error::EnvelopeError;
use crate::key::KEY_BYTES;

/// `okm = HKDF-SHA256-Expand(key, info, okm.len())`; RFC 5869, section 2.3.
pub(crate) fn expand(
    key: &[u8; KEY_BYTES],
    info: &[u8],
    okm: &mut [u8],
) -> Result<(), EnvelopeError> {
    Expanding::new(key)?.expand(info, okm)
}

/// A key of HKDF-SHA256-Expand after its two blocks, for many infos. It is as good as the key, and is wiped like it.
pub(crate) struct Expanding(Hkdf<Sha256>);

impl Expanding {
    pub(crate) fn new(key: &[u8; KEY_BYTES]) -> Result<Self, EnvelopeError> {
        let hkdf = Hkdf::from_prk(key).map_err(|_| EnvelopeError::Refused)?;
        Ok(Self(hkdf))
    }

    /// As [`expand`].
    pub(crate) fn expand(&self, info: &[u8], okm: &mut [u8]) -> Result<(), EnvelopeError> {
        let expanded = self.0.expand(info, okm);
        expanded.map_err(|_| EnvelopeError::Refused)
    }
}

/// `HMAC-SHA256(key, message)`; RFC 2104.
pub(crate) fn hmac(key: &[u8; KEY_BYTES], message: &[u8]) -> [u8; 32] {
    Keyed::new(key).hmac(message)
}

/// A key of HMAC-SHA256 after its two blocks, for many messages. It is as good as the key, and is wiped like it.
pub(crate) struct Keyed(Hmac<Sha256>);

impl Keyed {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    pub(crate) fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    pub(crate) fn hmac(&self, message: &[u8]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(message);
        mac.finalize().into_bytes().into()
    }
}

/// `SHA-256(bytes)`; FIPS 180-4. Of what is no secret: ring's, which wipes nothing, and takes half as long as others where the
/// processor has no SHA instructions.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// `SHA-256` of parts, one behind the other: what is secret among them is not copied together.
pub(crate) fn sha256_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
