//! What a KMS plugin keeps of a slot's secret: its ciphertext, with what the plugin wants back to decrypt it.
//!
//! ```text
//! plaintext  = LP("attache/kms-slot/1", store, slot, secret 32)          what the plugin encrypts
//! parameters = LP(key id, ciphertext, [(annotation, value)] by annotation)
//! ```
//!
//! The plugin knows no associated data, so that store and slot stand in the plaintext: a ciphertext that was moved to
//! another slot opens nothing there. The limits are those of Kubernetes' KMS v2.

use std::collections::BTreeMap;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::error::EnvelopeError;
use crate::id::{SlotId, StoreId};
use crate::key::{KEY_BYTES, SlotSecret};
use crate::lp::{Fault, Lp, Malformed, Reader};

/// The most bytes of a key id, and of a ciphertext.
const MAX_PART_BYTES: usize = 1024;
/// The most annotations, and the most bytes of all of them.
const MAX_ANNOTATIONS: usize = 64;
const MAX_ANNOTATION_BYTES: usize = 32 * 1024;

/// A ciphertext by a KMS plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsCiphertext {
    key_id: String,
    ciphertext: Vec<u8>,
    annotations: BTreeMap<String, Vec<u8>>,
}

impl KmsCiphertext {
    /// Takes what a plugin answered.
    ///
    /// # Errors
    /// The part that is empty, or larger than KMS v2 allows.
    pub fn new(
        key_id: String,
        ciphertext: Vec<u8>,
        annotations: BTreeMap<String, Vec<u8>>,
    ) -> Result<Self, Malformed> {
        let within = |field, bytes: usize| match bytes {
            0 => Err(Malformed::new(field, Fault::Length)),
            1..=MAX_PART_BYTES => Ok(()),
            _ => Err(Malformed::new(field, Fault::TooLong)),
        };
        within("key id", key_id.len())?;
        within("ciphertext", ciphertext.len())?;
        let size = |(name, value): (&String, &Vec<u8>)| name.len().saturating_add(value.len());
        let bytes = annotations.iter().map(size).fold(0, usize::saturating_add);
        if annotations.len() > MAX_ANNOTATIONS || bytes > MAX_ANNOTATION_BYTES {
            return Err(Malformed::new("annotations", Fault::TooLong));
        }
        Ok(Self {
            key_id,
            ciphertext,
            annotations,
        })
    }

    /// Takes stored parameters, which are hostile.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let key_id = reader.str("key id", MAX_PART_BYTES)?.to_owned();
        let ciphertext = reader.bytes_up_to("ciphertext", MAX_PART_BYTES)?.to_vec();
        let list = reader.list("annotations", MAX_ANNOTATIONS, |part| {
            let name = part.str("annotations", MAX_ANNOTATION_BYTES)?.to_owned();
            let value = part.bytes_up_to("annotations", MAX_ANNOTATION_BYTES)?;
            Ok((name, value.to_vec()))
        })?;
        reader.finish("KDF parameters")?;
        if !list.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(Malformed::new("annotations", Fault::Order));
        }
        Self::new(key_id, ciphertext, list.into_iter().collect())
    }

    /// The stored parameters.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let annotations = self.annotations.iter();
        Lp::new()
            .str(&self.key_id)
            .bytes(&self.ciphertext)
            .list(annotations.map(|(name, value)| Lp::new().str(name).bytes(value)))
            .into_bytes()
    }

    /// The plugin's name for its key.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// What the plugin made of the plaintext.
    #[must_use]
    pub fn ciphertext(&self) -> &[u8] {
        &self.ciphertext
    }

    /// What the plugin wants back.
    #[must_use]
    pub fn annotations(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.annotations
    }
}

/// What a plugin is to encrypt.
#[must_use]
pub fn plaintext(store: StoreId, slot: SlotId, secret: SlotSecret<'_>) -> Zeroizing<Vec<u8>> {
    let lp = head(store, slot).bytes(secret.bytes());
    Zeroizing::new(lp.into_bytes())
}

/// The secret in what a plugin decrypted, into `out`.
///
/// # Errors
/// [`EnvelopeError::Refused`] for that of another store or slot, or of no slot; `out` is then as it was.
pub fn read_plaintext(
    plaintext: &[u8],
    store: StoreId,
    slot: SlotId,
    out: &mut [u8; KEY_BYTES],
) -> Result<(), EnvelopeError> {
    let (found, secret) = plaintext
        .split_last_chunk::<KEY_BYTES>()
        .ok_or(EnvelopeError::Refused)?;
    let mut wanted = head(store, slot).into_bytes();
    wanted.extend_from_slice(&[0, 0, 0, 32]);
    if bool::from(found.ct_eq(&wanted)) {
        out.copy_from_slice(secret);
        Ok(())
    } else {
        Err(EnvelopeError::Refused)
    }
}

fn head(store: StoreId, slot: SlotId) -> Lp {
    Lp::labelled("attache/kms-slot/1").id(store).id(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId::from_bytes([1; 16]);
    const SLOT: SlotId = SlotId::from_bytes([2; 16]);

    fn made(
        key_id: usize,
        ciphertext: usize,
        annotations: usize,
        value: usize,
    ) -> Result<KmsCiphertext, Malformed> {
        let annotations = (0..annotations).map(|n| (format!("{n:03}.example"), vec![7; value]));
        KmsCiphertext::new(
            "k".repeat(key_id),
            vec![7; ciphertext],
            annotations.collect(),
        )
    }

    #[test]
    fn parameters_read_back_within_the_limits_of_kms_v2() {
        for made in [
            made(1, 1, 0, 0),
            made(1024, 1024, 64, 500),
            made(9, 90, 1, 8),
        ] {
            let made = made.unwrap();
            assert_eq!(KmsCiphertext::decode(&made.encode()), Ok(made));
        }
        for (made, field) in [
            (made(0, 1, 0, 0), "key id"),
            (made(1025, 1, 0, 0), "key id"),
            (made(1, 0, 0, 0), "ciphertext"),
            (made(1, 1025, 0, 0), "ciphertext"),
            (made(1, 1, 65, 0), "annotations"),
            (made(1, 1, 1, 33_000), "annotations"),
        ] {
            assert_eq!(made.unwrap_err().field, field);
        }
    }

    #[test]
    fn parameters_that_are_cut_out_of_order_or_lengthened_are_refused() {
        let stored = made(3, 40, 2, 8).unwrap().encode();
        for end in 0..stored.len() {
            assert!(KmsCiphertext::decode(&stored[..end]).is_err(), "{end}");
        }
        assert!(KmsCiphertext::decode(&[&stored[..], &[0]].concat()).is_err());
        let element = |name: &str| Lp::new().str(name).bytes(b"v");
        let list = |names: [&str; 2]| {
            let lp = Lp::new().str("k").bytes(b"c").list(names.map(element));
            KmsCiphertext::decode(lp.as_bytes()).map(|read| read.annotations().len())
        };
        assert_eq!(list(["a", "b"]), Ok(2));
        for names in [["b", "a"], ["a", "a"]] {
            assert_eq!(list(names).unwrap_err().fault, Fault::Order);
        }
    }

    #[test]
    fn a_secret_is_that_of_its_own_store_and_slot() {
        let secret = [9; KEY_BYTES];
        let plaintext = plaintext(STORE, SLOT, SlotSecret::new(&secret));
        let read = |bytes: &[u8], store, slot| {
            let mut out = [0; KEY_BYTES];
            read_plaintext(bytes, store, slot, &mut out).map(|()| out)
        };
        assert_eq!(read(&plaintext, STORE, SLOT), Ok(secret));
        let refused = Err(EnvelopeError::Refused);
        assert_eq!(
            read(&plaintext, StoreId::from_bytes([3; 16]), SLOT),
            refused
        );
        assert_eq!(
            read(&plaintext, STORE, SlotId::from_bytes([3; 16])),
            refused
        );
        assert_eq!(read(&plaintext[1..], STORE, SLOT), refused);
        assert_eq!(read(&[], STORE, SLOT), refused);
        assert_eq!(read(&[&plaintext[..], &[0]].concat(), STORE, SLOT), refused);
    }
}
