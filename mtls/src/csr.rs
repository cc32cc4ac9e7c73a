//! Certificate requests (PKCS#10, RFC 2986), of which only the public key is taken.
//!
//! A request is hostile input. [`CertificateRequest::verify`] checks its size, its form, the kind of key and the
//! signature that proves possession of the private key; everything else in it (subject, requested names, requested
//! extensions) is never looked at, and the type cannot carry it any further.

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SignatureAlgorithm};
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::der_parser::asn1_rs::Oid;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
    OID_PKCS1_RSAENCRYPTION, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use crate::identity::SpkiSha256;

/// The largest request that is read, in bytes. One for a P-256 key takes about 200, for RSA-4096 about 1,700.
pub const MAX_CSR_BYTES: usize = 4096;

/// Why a certificate request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Over [`MAX_CSR_BYTES`].
    #[error("the certificate request has {bytes} bytes; at most {MAX_CSR_BYTES} are read")]
    TooLarge {
        /// What was given.
        bytes: usize,
    },
    /// Not one PKCS#10 request in DER.
    #[error("the certificate request is not PKCS#10 in DER")]
    Malformed,
    /// A key that is neither P-256 nor Ed25519.
    #[error("the certificate request is for {found}; make a P-256 or Ed25519 key")]
    KeyAlgorithm {
        /// The algorithm's name, or its OID.
        found: String,
    },
    /// Signed by an algorithm that does not belong to the key.
    #[error(
        "the certificate request must be signed by ecdsa-with-SHA256 or Ed25519, as its key is"
    )]
    SignatureAlgorithm,
    /// The signature does not verify: possession of the private key is not proven.
    #[error("the certificate request's signature does not verify under its own key")]
    Possession,
}

/// A certificate request whose signature proved possession of the private key; of what it says only the public one is
/// taken.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    der: Vec<u8>,
    key: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl CertificateRequest {
    /// Parses a request in DER and checks the proof of possession.
    ///
    /// # Errors
    /// [`CsrError`] when it is too large, malformed, for another kind of key, or not signed by that key.
    pub fn verify(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR_BYTES {
            return Err(CsrError::TooLarge { bytes: der.len() });
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        let info = &request.certification_request_info;
        let kind = KeyKind::of(&info.subject_pki)?;
        let signed_by = &request.signature_algorithm;
        if signed_by.algorithm != kind.signature_oid() || signed_by.parameters.is_some() {
            return Err(CsrError::SignatureAlgorithm);
        }
        let key = whole_bytes(&info.subject_pki.subject_public_key)?;
        let signature = whole_bytes(&request.signature_value)?;
        UnparsedPublicKey::new(kind.verification(), key)
            .verify(info.raw, signature)
            .map_err(|_| CsrError::Possession)?;
        Ok(Self {
            der: der.to_vec(),
            key: key.to_vec(),
            algorithm: kind.signature(),
        })
    }

    /// The request as it came, DER.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.der
    }

    /// The hash of the key that the certificate will carry.
    #[must_use]
    pub fn spki_sha256(&self) -> SpkiSha256 {
        SpkiSha256::of(&self.subject_public_key_info())
    }
}

impl std::fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CertificateRequest")
            .field(&self.spki_sha256())
            .finish()
    }
}

impl PublicKeyData for CertificateRequest {
    fn der_bytes(&self) -> &[u8] {
        &self.key
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

/// Whether the key of a SubjectPublicKeyInfo, of a kind that gets a certificate, has signed the message.
pub(crate) fn has_signed(
    spki: &SubjectPublicKeyInfo<'_>,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let (Ok(kind), Ok(key)) = (KeyKind::of(spki), whole_bytes(&spki.subject_public_key)) else {
        return false;
    };
    UnparsedPublicKey::new(kind.verification(), key)
        .verify(message, signature)
        .is_ok()
}

/// The kinds of key that get a certificate.
#[derive(Clone, Copy)]
enum KeyKind {
    P256,
    Ed25519,
}

impl KeyKind {
    fn of(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, CsrError> {
        let algorithm = &spki.algorithm;
        if algorithm.algorithm == OID_SIG_ED25519 && algorithm.parameters.is_none() {
            return Ok(Self::Ed25519);
        }
        let curve = curve(algorithm);
        if curve.as_ref() == Some(&OID_EC_P256) {
            return Ok(Self::P256);
        }
        Err(CsrError::KeyAlgorithm {
            found: name_of(algorithm, curve.as_ref()),
        })
    }

    fn signature_oid(self) -> Oid<'static> {
        match self {
            Self::P256 => OID_SIG_ECDSA_WITH_SHA256,
            Self::Ed25519 => OID_SIG_ED25519,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1,
            Self::Ed25519 => &ED25519,
        }
    }

    fn signature(self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256 => &PKCS_ECDSA_P256_SHA256,
            Self::Ed25519 => &PKCS_ED25519,
        }
    }
}

/// The named curve of an EC key (RFC 5480, section 2.1.1).
fn curve<'a>(algorithm: &'a AlgorithmIdentifier<'a>) -> Option<Oid<'a>> {
    (algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY)
        .then(|| algorithm.parameters.as_ref()?.as_oid().ok())
        .flatten()
}

fn name_of(algorithm: &AlgorithmIdentifier<'_>, curve: Option<&Oid<'_>>) -> String {
    match curve {
        Some(curve) if *curve == OID_NIST_EC_P384 => "an EC key on P-384".to_owned(),
        Some(curve) if *curve == OID_NIST_EC_P521 => "an EC key on P-521".to_owned(),
        Some(curve) => format!("an EC key on curve {curve}"),
        None if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION => "an RSA key".to_owned(),
        None if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY => {
            "an EC key without a named curve".to_owned()
        }
        None => format!("a key of algorithm {}", algorithm.algorithm),
    }
}

/// The bytes of a BIT STRING that has no loose bits.
fn whole_bytes<'a>(
    bits: &'a x509_parser::der_parser::asn1_rs::BitString<'_>,
) -> Result<&'a [u8], CsrError> {
    if bits.unused_bits == 0 {
        Ok(bits.data.as_ref())
    } else {
        Err(CsrError::Malformed)
    }
}
