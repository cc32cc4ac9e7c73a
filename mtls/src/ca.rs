//! The broker's own certificate authority.
//!
//! [`CertificateAuthority`] holds the CA certificate and no key: the 32-byte Ed25519 seed stays in the broker's key
//! arena and is borrowed for one signature at a time; the signing pair that ring makes of it is dropped at once.
//!
//! A leaf is built from four things: the key of a verified request, an identity that the broker decided, a length, and
//! the clock. The request's own wishes do not exist here ([`CertificateRequest`] cannot carry them).
//!
//! ```text
//! CA    CN = name; basicConstraints critical CA:true pathLen 0; keyUsage critical certSign|crlSign; URI spiffe://td
//! leaf  empty subject; basicConstraints critical CA:false; keyUsage critical digitalSignature;
//!       URI critical = the identity, nothing else; clientAuth, for a broker serverAuth too;
//!       serial 16 random bytes, positive; notBefore = now - 60 s; notAfter = now + length, or the CA's if earlier
//! ```
//! Source: RFC 5280 section 4.2; SPIFFE X509-SVID sections 3 and 4.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm, SigningKey,
};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls_pki_types::CertificateDer;
use x509_parser::oid_registry::OID_SIG_ED25519;

pub use crate::csr::{CertificateRequest, CsrError, MAX_CSR_BYTES};
use crate::identity::{PeerIdentity, Serial};
use crate::pem;
use crate::spiffe::{PeerId, SpiffeError, TrustDomain};
use crate::verify::{self, CaCertificate};

/// A node's certificate: one hour.
pub const NODE_VALIDITY: Duration = Duration::from_secs(3600);
/// An operator's certificate: one day.
pub const OPERATOR_VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// A broker's certificate: ninety days.
pub const BROKER_VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);
/// The CA's own certificate: ten years.
pub const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far a certificate's beginning lies before its making, for peers whose clocks are behind.
pub const BACKDATE: Duration = Duration::from_secs(60);
/// The longest subject name of a CA, in bytes (ub-common-name, RFC 5280 appendix A).
pub const MAX_COMMON_NAME_BYTES: usize = 64;

const SERIAL_BYTES: usize = 16;

/// Why the CA did not load or did not sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The certificate is not one that this CA made: self-signed, Ed25519, one trust-domain name.
    #[error(
        "this is not a CA certificate of a broker (self-signed, Ed25519, one trust domain as its name)"
    )]
    NotOurs,
    /// The CA's name is empty, too long, or has a control character.
    #[error("the CA's name must be 1 to {MAX_COMMON_NAME_BYTES} bytes without control characters")]
    CommonName,
    /// The seed that was lent is not the one that made the CA certificate.
    #[error("the CA key does not belong to the CA certificate")]
    WrongKey,
    /// The identity is of another trust domain than the CA.
    #[error("the identity is of trust domain {found}; this CA signs for {expected}")]
    TrustDomain {
        /// The CA's.
        expected: TrustDomain,
        /// The identity's.
        found: TrustDomain,
    },
    /// The length is zero, or ends past what a certificate can say.
    #[error("a certificate's length must be at least one second and end before the year 9999")]
    Validity,
    /// The CA certificate itself has ended, or has not begun.
    #[error("the CA certificate is not valid at {now}; it is from {not_before} to {not_after}")]
    NotValidNow {
        /// The clock's time.
        now: Timestamp,
        /// The CA's first second.
        not_before: Timestamp,
        /// The CA's last second.
        not_after: Timestamp,
    },
    /// The system's random generator failed.
    #[error("the system's random generator failed")]
    Random,
    /// The certificate could not be encoded.
    #[error("the certificate could not be encoded")]
    Encoding(#[source] rcgen::Error),
}

/// A CA certificate that can sign once its seed is lent.
#[derive(Clone)]
pub struct CertificateAuthority {
    certificate: CaCertificate,
    public_key: [u8; 32],
    trust_domain: TrustDomain,
}

impl CertificateAuthority {
    /// Makes the self-signed CA certificate of a seed.
    ///
    /// # Errors
    /// [`CaError::CommonName`], [`CaError::Validity`], [`CaError::Random`], [`CaError::Encoding`].
    pub fn create(
        seed: &[u8; 32],
        trust_domain: &TrustDomain,
        common_name: &str,
        validity: Duration,
        now: Timestamp,
    ) -> Result<Self, CaError> {
        Self::create_with(seed, trust_domain, common_name, validity, now, drawn()?)
    }

    /// [`Self::create`] with the random bytes of the serial number given.
    fn create_with(
        seed: &[u8; 32],
        trust_domain: &TrustDomain,
        common_name: &str,
        validity: Duration,
        now: Timestamp,
        drawn: [u8; SERIAL_BYTES],
    ) -> Result<Self, CaError> {
        let named = (1..=MAX_COMMON_NAME_BYTES).contains(&common_name.len());
        if !named || common_name.chars().any(char::is_control) {
            return Err(CaError::CommonName);
        }
        let (not_before, not_after) = lifetime(now, validity)?;
        let mut params = parameters(not_before, not_after, &trust_domain.id(), drawn)?;
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let signer = SeedSigner::of(seed)?;
        let certificate = params.self_signed(&signer).map_err(CaError::Encoding)?;
        Self::load(certificate.into())
    }

    /// Takes up the CA certificate that [`Self::create`] made earlier.
    ///
    /// # Errors
    /// [`CaError::NotOurs`] when it is anything else.
    pub fn load(der: CertificateDer<'static>) -> Result<Self, CaError> {
        let certificate = CaCertificate::parse(der).map_err(|_| CaError::NotOurs)?;
        let parsed = verify::parse(&certificate.der).map_err(|_| CaError::NotOurs)?;
        let spki = parsed.public_key();
        if spki.algorithm.algorithm != OID_SIG_ED25519 || !certificate.has_signed(&certificate.der)
        {
            return Err(CaError::NotOurs);
        }
        let public_key = spki
            .subject_public_key
            .data
            .as_ref()
            .try_into()
            .map_err(|_| CaError::NotOurs)?;
        let name = verify::the_one_uri(&parsed).map_err(|_| CaError::NotOurs)?;
        let trust_domain = trust_domain_of(name).map_err(|_| CaError::NotOurs)?;
        Ok(Self {
            public_key,
            trust_domain,
            certificate,
        })
    }

    /// Signs a leaf for `identity` with the request's key, valid from `now` for `validity`.
    ///
    /// The uses follow from the identity: clientAuth for nodes and operators, both for brokers. See
    /// [`default_validity`] for the usual lengths.
    ///
    /// # Errors
    /// [`CaError::WrongKey`] for another CA's seed, [`CaError::TrustDomain`], [`CaError::Validity`],
    /// [`CaError::NotValidNow`], [`CaError::Random`], [`CaError::Encoding`].
    pub fn issue(
        &self,
        seed: &[u8; 32],
        request: &CertificateRequest,
        identity: &PeerId,
        validity: Duration,
        now: Timestamp,
    ) -> Result<IssuedCertificate, CaError> {
        self.issue_with(seed, request, identity, validity, now, drawn()?)
    }

    /// [`Self::issue`] with the random bytes of the serial number given.
    fn issue_with(
        &self,
        seed: &[u8; 32],
        request: &CertificateRequest,
        identity: &PeerId,
        validity: Duration,
        now: Timestamp,
        drawn: [u8; SERIAL_BYTES],
    ) -> Result<IssuedCertificate, CaError> {
        if identity.trust_domain() != &self.trust_domain {
            return Err(CaError::TrustDomain {
                expected: self.trust_domain.clone(),
                found: identity.trust_domain().clone(),
            });
        }
        let CaCertificate {
            not_before,
            not_after,
            ..
        } = self.certificate;
        if now < not_before || now >= not_after {
            return Err(CaError::NotValidNow {
                now,
                not_before,
                not_after,
            });
        }
        let signer = SeedSigner {
            seed,
            public_key: self.public_key,
        };
        signer.pair().map_err(|_| CaError::WrongKey)?;

        let (begin, end) = lifetime(now, validity)?;
        let mut params = parameters(
            begin.max(not_before),
            end.min(not_after),
            &identity.to_string(),
            drawn,
        )?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match identity {
            PeerId::Node(_) | PeerId::Operator(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
            PeerId::Broker(_) => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        };
        params.use_authority_key_identifier_extension = true;
        let issuer =
            Issuer::from_ca_cert_der(&self.certificate.der, signer).map_err(CaError::Encoding)?;
        let leaf = params
            .signed_by(request, &issuer)
            .map_err(CaError::Encoding)?;
        let identity = verify::read_leaf(leaf.der())
            .map_err(|_| CaError::Encoding(rcgen::Error::CouldNotParseCertificate))?;
        Ok(IssuedCertificate {
            identity,
            issuer: self.certificate.der.clone(),
        })
    }

    /// The CA certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate.der
    }

    /// The pin of the CA's key, for join tokens.
    #[must_use]
    pub fn spki_sha256(&self) -> crate::identity::SpkiSha256 {
        self.certificate.spki_sha256
    }

    /// The trust domain for which the CA signs.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The last second of the CA certificate.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.certificate.not_after
    }
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("trust_domain", &self.trust_domain)
            .field("spki_sha256", &self.certificate.spki_sha256)
            .finish_non_exhaustive()
    }
}

/// A leaf as signed, with its issuer.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    identity: PeerIdentity,
    issuer: CertificateDer<'static>,
}

impl IssuedCertificate {
    /// What the certificate says: ID, serial, key fingerprint and times, for the broker's records.
    #[must_use]
    pub fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    /// The serial number.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        self.identity.serial()
    }

    /// The leaf, DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.identity.certificate()
    }

    /// Leaf, then CA certificate, DER: what a broker serves, so that a joining node can check its pin.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate().clone(), self.issuer.clone()]
    }

    /// [`Self::chain`] as PEM.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(&self.chain())
    }
}

/// The usual length of a certificate for a peer of this kind.
#[must_use]
pub fn default_validity(identity: &PeerId) -> Duration {
    match identity {
        PeerId::Node(_) => NODE_VALIDITY,
        PeerId::Operator(_) => OPERATOR_VALIDITY,
        PeerId::Broker(_) => BROKER_VALIDITY,
    }
}

/// What CA and leaf have in common: times, a serial, no subject, one URI.
fn parameters(
    not_before: Timestamp,
    not_after: Timestamp,
    uri: &str,
    drawn: [u8; SERIAL_BYTES],
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + seconds(not_before)?;
    params.not_after = epoch + seconds(not_after)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial(drawn)));
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(CaError::Encoding)?)];
    Ok(params)
}

/// Random bytes for one serial number.
fn drawn() -> Result<[u8; SERIAL_BYTES], CaError> {
    let mut bytes = [0; SERIAL_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| CaError::Random)?;
    Ok(bytes)
}

/// A serial number of them: the first bit is 0 (positive), the second 1 (always 16 bytes long).
fn serial(mut drawn: [u8; SERIAL_BYTES]) -> [u8; SERIAL_BYTES] {
    let [first, ..] = &mut drawn;
    *first = *first & 0x7f | 0x40;
    drawn
}

/// From a minute before `now` to `validity` after it, in whole seconds.
fn lifetime(now: Timestamp, validity: Duration) -> Result<(Timestamp, Timestamp), CaError> {
    if validity < Duration::from_secs(1) {
        return Err(CaError::Validity);
    }
    let begin = now.checked_sub(BACKDATE).map_err(|_| CaError::Validity)?;
    let end = now.checked_add(validity).map_err(|_| CaError::Validity)?;
    Ok((begin, end))
}

fn seconds(at: Timestamp) -> Result<Duration, CaError> {
    u64::try_from(at.as_second())
        .map(Duration::from_secs)
        .map_err(|_| CaError::Validity)
}

fn trust_domain_of(uri: &str) -> Result<TrustDomain, SpiffeError> {
    uri.strip_prefix("spiffe://")
        .ok_or(SpiffeError::Scheme)?
        .parse()
}

/// A borrowed seed as rcgen's signing key. The pair exists only inside [`SigningKey::sign`].
struct SeedSigner<'a> {
    seed: &'a [u8; 32],
    public_key: [u8; 32],
}

impl<'a> SeedSigner<'a> {
    fn of(seed: &'a [u8; 32]) -> Result<Self, CaError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| CaError::WrongKey)?;
        let public_key = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| CaError::WrongKey)?;
        Ok(Self { seed, public_key })
    }

    /// The pair, if the seed is the public key's.
    fn pair(&self) -> Result<Ed25519KeyPair, rcgen::Error> {
        Ed25519KeyPair::from_seed_and_public_key(self.seed, &self.public_key)
            .map_err(|error| rcgen::Error::RingKeyRejected(error.to_string()))
    }
}

impl PublicKeyData for SeedSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.public_key
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl SigningKey for SeedSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.pair()?.sign(message).as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests;
