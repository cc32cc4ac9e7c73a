//! Who a peer is: the identity read from a certificate that has been verified.
//!
//! [`PeerIdentity`] is the proof that later steps take. It is made in one place, [`crate::verify`], after the chain,
//! the validity, the usage and the names have been checked; there is no other constructor.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use ring::digest;
use rustls_pki_types::CertificateDer;

use crate::spiffe::PeerId;
use crate::{csr, verify};

/// A peer's identity, from its verified certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    pub(crate) id: PeerId,
    pub(crate) serial: Serial,
    pub(crate) spki_sha256: SpkiSha256,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) certificate: CertificateDer<'static>,
}

impl PeerIdentity {
    /// The SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &PeerId {
        &self.id
    }

    /// The certificate's serial number.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// The hash of the certificate's public key.
    #[must_use]
    pub fn spki_sha256(&self) -> SpkiSha256 {
        self.spki_sha256
    }

    /// The first second at which the certificate is valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last second at which the certificate is valid.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether the certificate's key has signed this message (ECDSA with SHA-256 as DER, or Ed25519).
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        verify::parse(&self.certificate)
            .is_ok_and(|leaf| csr::has_signed(leaf.public_key(), message, signature))
    }

    /// The certificate itself, DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerIdentity")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// A certificate's serial number: the DER integer's bytes, big-endian. Displays as lower-case hexadecimal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    pub(crate) fn from_be_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// The bytes, big-endian, as encoded.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `SHA-256(SubjectPublicKeyInfo)`, DER: a public key's fingerprint and a CA's pin (RFC 7469, section 2.4).
///
/// Displays and parses as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpkiSha256([u8; 32]);

impl SpkiSha256 {
    /// Takes a hash that was computed or recorded before.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Hashes a SubjectPublicKeyInfo in DER.
    pub(crate) fn of(spki_der: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, spki_der).as_ref());
        Self(hash)
    }
}

/// The text is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key fingerprint must be 64 lower-case hexadecimal digits")]
pub struct FingerprintError;

impl FromStr for SpkiSha256 {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(FingerprintError),
        };
        if text.len() != 64 {
            return Err(FingerprintError);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            if let [high, low] = *pair {
                *byte = digit(high)? << 4 | digit(low)?;
            }
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for SpkiSha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SpkiSha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_round_trips_and_nothing_else_parses() {
        let pin = SpkiSha256::of(b"spki");
        let text = pin.to_string();
        assert_eq!(text.parse(), Ok(pin));
        for bad in [
            String::new(),
            text[1..].to_owned(),
            format!("{text}0"),
            text.to_uppercase(),
            format!("{}é", &text[2..]),
            format!("{}  ", &text[2..]),
        ] {
            assert_eq!(bad.parse::<SpkiSha256>(), Err(FingerprintError), "{bad}");
        }
    }

    #[test]
    fn a_serial_shows_every_byte() {
        assert_eq!(
            Serial::from_be_bytes(&[0x00, 0x0a, 0xff]).to_string(),
            "000aff"
        );
    }
}
