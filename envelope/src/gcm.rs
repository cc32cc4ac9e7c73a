//! AES-256-GCM with a zero nonce, for keys that encrypt exactly once.
//!
//! Private to the crate: a zero nonce is right only where the key is used for one encryption by construction, and
//! the types that see to that ([`crate::value::DataKey`], a fresh salt in [`crate::wrap`], and so on) are the callers.
//! NIST SP 800-38D.

use aes::Aes256;
use aes::cipher::{Array, BlockCipherEncrypt as _};
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut as _, Aes256Gcm, KeyInit as _};
use ghash::GHash;
use ghash::universal_hash::UniversalHash as _;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

use crate::TAG_BYTES;
use crate::error::EnvelopeError;
use crate::key::KEY_BYTES;

const NONCE_BYTES: usize = 12;
const ZERO_NONCE: [u8; NONCE_BYTES] = [0; NONCE_BYTES];

/// Encrypts once: `ciphertext || tag16`. The plaintext is only ever read.
pub(crate) fn seal(
    key: &[u8; KEY_BYTES],
    plaintext: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    seal_with(&ZERO_NONCE, key, plaintext, aad)
}

/// Checks the tag, then decrypts into `out`, which must have the ciphertext's length without the tag. A refused
/// ciphertext leaves `out` as it was.
pub(crate) fn open(
    key: &[u8; KEY_BYTES],
    sealed: &[u8],
    aad: &[u8],
    out: &mut [u8],
) -> Result<(), EnvelopeError> {
    open_with(&ZERO_NONCE, key, sealed, aad, out)
}

/// Checks the tag alone: `GHASH(H, aad, ct) xor AES(key, J0)`, `H = AES(key, 0)`. Not one block of plaintext is
/// computed. The comparison takes the same time wherever the tags differ.
pub(crate) fn verify_tag(
    key: &[u8; KEY_BYTES],
    sealed: &[u8],
    aad: &[u8],
) -> Result<(), EnvelopeError> {
    verify_tag_with(&ZERO_NONCE, key, sealed, aad)
}

// The nonce is a parameter of these three for published vectors alone; nothing outside of this file reaches them.

fn seal_with(
    nonce: &[u8; NONCE_BYTES],
    key: &[u8; KEY_BYTES],
    plaintext: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let mut sealed = vec![0; plaintext.len() + TAG_BYTES];
    let (ct, tag) = split_mut(&mut sealed)?;
    let buffer = InOutBuf::new(plaintext, ct).map_err(|_| EnvelopeError::Refused)?;
    let computed = Aes256Gcm::new(key.into())
        .encrypt_inout_detached(nonce.into(), aad, buffer)
        .map_err(|_| EnvelopeError::Refused)?;
    *tag = computed.into();
    Ok(sealed)
}

fn open_with(
    nonce: &[u8; NONCE_BYTES],
    key: &[u8; KEY_BYTES],
    sealed: &[u8],
    aad: &[u8],
    out: &mut [u8],
) -> Result<(), EnvelopeError> {
    let (ct, tag) = split(sealed)?;
    check_buffer("the plaintext", ct.len(), out)?;
    let buffer = InOutBuf::new(ct, out).map_err(|_| EnvelopeError::Refused)?;
    Aes256Gcm::new(key.into())
        .decrypt_inout_detached(nonce.into(), aad, buffer, tag.into())
        .map_err(|_| EnvelopeError::Refused)
}

fn verify_tag_with(
    nonce: &[u8; NONCE_BYTES],
    key: &[u8; KEY_BYTES],
    sealed: &[u8],
    aad: &[u8],
) -> Result<(), EnvelopeError> {
    let (ct, tag) = split(sealed)?;
    let cipher = Aes256::new(key.into());
    let mut h = Array::from([0; 16]);
    cipher.encrypt_block(&mut h);
    let mut ghash = GHash::new(&h);
    h.zeroize();
    ghash.update_padded(aad);
    ghash.update_padded(ct);
    ghash.update(&[lengths(aad, ct)?.into()]);
    let mut expected = ghash.finalize();
    let mut mask = Array::from(j0(nonce));
    cipher.encrypt_block(&mut mask);
    for (byte, of_mask) in expected.iter_mut().zip(&mask) {
        *byte ^= of_mask;
    }
    mask.zeroize();
    if bool::from(expected.as_slice().ct_eq(tag)) {
        Ok(())
    } else {
        Err(EnvelopeError::Refused)
    }
}

/// `J0 = nonce || 1` as 32 bits; SP 800-38D, section 7.1, step 2.
fn j0(nonce: &[u8; NONCE_BYTES]) -> [u8; 16] {
    let mut block = [0; 16];
    let (front, counter) = block.split_at_mut(NONCE_BYTES);
    front.copy_from_slice(nonce);
    counter.copy_from_slice(&1u32.to_be_bytes());
    block
}

/// Refuses an output buffer of another length than what it is to hold.
pub(crate) fn check_buffer(
    what: &'static str,
    needed_bytes: usize,
    out: &[u8],
) -> Result<(), EnvelopeError> {
    if out.len() == needed_bytes {
        Ok(())
    } else {
        Err(EnvelopeError::Buffer {
            what,
            needed_bytes,
            found_bytes: out.len(),
        })
    }
}

/// The last block of GHASH: the lengths in bits; SP 800-38D, section 7.1, step 5.
fn lengths(aad: &[u8], ct: &[u8]) -> Result<[u8; 16], EnvelopeError> {
    let bits = |bytes: &[u8]| u128::try_from(bytes.len()).map(|n| n * 8);
    match (bits(aad), bits(ct)) {
        (Ok(aad), Ok(ct)) => Ok(((aad << 64) | ct).to_be_bytes()),
        _ => Err(EnvelopeError::Refused),
    }
}

fn split(sealed: &[u8]) -> Result<(&[u8], &[u8; TAG_BYTES]), EnvelopeError> {
    sealed.split_last_chunk().ok_or(EnvelopeError::Refused)
}

fn split_mut(sealed: &mut [u8]) -> Result<(&mut [u8], &mut [u8; TAG_BYTES]), EnvelopeError> {
    sealed.split_last_chunk_mut().ok_or(EnvelopeError::Refused)
}

#[cfg(test)]
mod tests;
