//! A leaf's private key, made where it is used.
//!
//! Nodes, operators and brokers each make their own P-256 key, send a request that proves possession of it, and never
//! send the key. On disk it is PKCS#8 in PEM in a private file. It has no `Debug`, no `Clone` and is wiped when dropped;
//! what ring and rustls derive from it for signing is theirs and is not.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SignatureAlgorithm, SigningKey,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::identity::SpkiSha256;
use crate::pem::{self, PemError};
use crate::private_file::{PrivateFileError, read_private, write_private};

/// Why a key was not made, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The system's random generator failed.
    #[error("the system's random generator failed")]
    Random,
    /// The PEM text is not one private key.
    #[error("the key is not PEM")]
    Pem(#[from] PemError),
    /// Not a P-256 key in PKCS#8.
    #[error("the key is not a P-256 key in PKCS#8")]
    NotP256,
    /// The request could not be encoded.
    #[error("the certificate request could not be encoded")]
    Encoding(#[source] rcgen::Error),
    /// The file.
    #[error("the key file")]
    File(#[from] PrivateFileError),
}

/// A P-256 private key.
pub struct LeafKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: RequestSigner,
}

impl LeafKey {
    /// Makes a new key from the system's random generator.
    ///
    /// # Errors
    /// [`KeyError::Random`] when there is none.
    pub fn generate() -> Result<Self, KeyError> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
                .map_err(|_| KeyError::Random)?;
        Self::from_pkcs8(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Reads a key from PEM.
    ///
    /// # Errors
    /// [`KeyError::Pem`] or [`KeyError::NotP256`].
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        Self::from_pkcs8(pem::private_key(text)?)
    }

    /// Reads a key from a private file (regular, ours, closed to others).
    ///
    /// # Errors
    /// [`KeyError::File`] says what is wrong with the file, the others with its content.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        Self::from_pem(&read_private(path)?)
    }

    /// Writes the key as PEM, 0600, durably and whole.
    ///
    /// # Errors
    /// [`KeyError::File`].
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        Ok(write_private(path, self.to_pem().as_bytes())?)
    }

    /// The key as PEM.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.pkcs8)
    }

    /// A certificate request (PKCS#10, DER) that proves possession of the key and asks for nothing.
    ///
    /// # Errors
    /// [`KeyError::Encoding`].
    pub fn certificate_request(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params
            .serialize_request(&self.pair)
            .map_err(KeyError::Encoding)?;
        Ok(request.der().to_vec())
    }

    /// Signs a message: ECDSA with SHA-256, the signature as DER. What is signed must begin with words of its own, so that
    /// it is good for nothing else; see [`crate::identity::PeerIdentity::has_signed`].
    ///
    /// # Errors
    /// [`KeyError::Random`] when there is no randomness.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.pair.sign(message).map_err(|_| KeyError::Random)
    }

    /// The public key's fingerprint.
    #[must_use]
    pub fn spki_sha256(&self) -> SpkiSha256 {
        SpkiSha256::of(&self.pair.subject_public_key_info())
    }

    /// The key as rustls signs with it.
    pub(crate) fn signing_key(&self) -> Result<Arc<dyn rustls::sign::SigningKey>, KeyError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.as_slice()));
        rustls::crypto::ring::sign::any_ecdsa_type(&der).map_err(|_| KeyError::NotP256)
    }

    fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            &pkcs8,
            &SystemRandom::new(),
        )
        .map_err(|_| KeyError::NotP256)?;
        Ok(Self {
            pkcs8,
            pair: RequestSigner(pair),
        })
    }
}

/// ring's pair as rcgen's signing key: rcgen's own would keep a second copy of the PKCS#8 bytes.
struct RequestSigner(EcdsaKeyPair);

impl PublicKeyData for RequestSigner {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for RequestSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self
            .0
            .sign(&SystemRandom::new(), message)
            .map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csr::CertificateRequest;
    use crate::vectors::{Expected, run};
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    #[test]
    fn a_key_written_and_read_is_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leaf.key");
        let key = LeafKey::generate().unwrap();
        key.write(&path).unwrap();
        let read = LeafKey::read(&path).unwrap();
        assert_eq!(read.spki_sha256(), key.spki_sha256());
        assert_ne!(
            LeafKey::generate().unwrap().spki_sha256(),
            key.spki_sha256()
        );
    }

    #[test]
    fn its_request_proves_possession_of_that_key() {
        let key = LeafKey::generate().unwrap();
        let request = CertificateRequest::verify(&key.certificate_request().unwrap()).unwrap();
        assert_eq!(request.spki_sha256(), key.spki_sha256());
    }

    /// A signature has a nonce of its own, so what is signed is compared, and the other's request is taken.
    #[test]
    fn key_and_request_are_the_vectors() {
        run("certificate-request", true, |case, expected| {
            let Expected::Out(out) = expected else {
                CertificateRequest::verify(&case.bytes("request")).unwrap_err();
                return;
            };
            let key = LeafKey::from_pem(out.text("key_pem").as_bytes()).unwrap();
            assert_eq!(key.to_pem().as_str(), out.text("key_pem"));
            let spki_sha256 = SpkiSha256::from_bytes(out.array("spki_sha256"));
            assert_eq!(key.spki_sha256(), spki_sha256);
            let (own, info) = (key.certificate_request().unwrap(), out.bytes("info"));
            let (_, parsed) = X509CertificationRequest::from_der(&own).unwrap();
            assert_eq!(parsed.certification_request_info.raw, info);
            let theirs = CertificateRequest::verify(&out.bytes("request")).unwrap();
            assert_eq!(theirs.spki_sha256(), spki_sha256);
        });
    }

    /// What a new key is written as is the form of the vectors.
    #[test]
    fn a_new_key_has_the_form_of_the_vectors() {
        let head = |der: &[u8]| der.get(..36).map(<[u8]>::to_vec);
        run("certificate-request", true, |_, expected| {
            let Expected::Out(out) = expected else { return };
            let theirs = pem::private_key(out.text("key_pem").as_bytes()).unwrap();
            let own = LeafKey::generate().unwrap();
            assert_eq!(own.pkcs8.len(), theirs.len());
            assert_eq!(head(&own.pkcs8), head(&theirs));
        });
    }

    #[test]
    fn other_keys_are_refused() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384)
            .unwrap()
            .serialize_pem();
        let ed = rcgen::KeyPair::generate_for(&PKCS_ED25519)
            .unwrap()
            .serialize_pem();
        assert!(matches!(
            LeafKey::from_pem(p384.as_bytes()),
            Err(KeyError::NotP256)
        ));
        assert!(matches!(
            LeafKey::from_pem(ed.as_bytes()),
            Err(KeyError::NotP256)
        ));
        assert!(matches!(LeafKey::from_pem(b""), Err(KeyError::Pem(_))));
        let junk = pem::encode("PRIVATE KEY", b"junk");
        assert!(matches!(
            LeafKey::from_pem(junk.as_bytes()),
            Err(KeyError::NotP256)
        ));
    }

    use rcgen::PKCS_ED25519;
}
