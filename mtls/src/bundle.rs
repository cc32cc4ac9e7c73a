//! The trust bundle: the CA certificates whose leaves a process accepts.
//!
//! Loaded from a file, a ConfigMap or an enrollment answer, replaced as a whole by
//! [`crate::tls::Credentials::reload`]. An empty bundle does not exist, and a text that holds anything else than CA
//! certificates is refused whole.

use std::fmt;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use crate::identity::{PeerIdentity, SpkiSha256};
use crate::pem::{self, PemError};
use crate::verify::{self, CaCertificate, NotACa, PeerError, Purpose};

/// The most CA certificates that a bundle may hold.
pub const MAX_CERTIFICATES: usize = 32;

/// Why a trust bundle was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The text is not PEM certificates.
    #[error("the trust bundle is not PEM certificates")]
    Pem(#[from] PemError),
    /// None at all, or more than [`MAX_CERTIFICATES`].
    #[error("the trust bundle holds {found} certificates; 1 to {MAX_CERTIFICATES} are allowed")]
    Count {
        /// How many there are.
        found: usize,
    },
    /// One of them is not a CA's.
    #[error("certificate {position} of the trust bundle (counted from 1) cannot be a root")]
    Certificate {
        /// Its place, counted from 1.
        position: usize,
        /// Why not.
        source: NotACa,
    },
    /// One of them is there twice.
    #[error(
        "certificate {position} of the trust bundle (counted from 1) is there twice; remove one"
    )]
    Duplicate {
        /// The place of the second.
        position: usize,
    },
}

/// One or more CA certificates, each checked to be one.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustBundle {
    roots: Vec<CaCertificate>,
}

impl TrustBundle {
    /// Reads a bundle from PEM.
    ///
    /// # Errors
    /// [`BundleError`] when anything in the text is not a CA certificate.
    pub fn from_pem(text: &[u8]) -> Result<Self, BundleError> {
        Self::from_der(pem::certificates(text)?)
    }

    /// Makes a bundle of certificates in DER.
    ///
    /// # Errors
    /// [`BundleError`] when one is not a CA certificate, when there is none, or too many.
    pub fn from_der(certificates: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        if certificates.is_empty() || certificates.len() > MAX_CERTIFICATES {
            return Err(BundleError::Count {
                found: certificates.len(),
            });
        }
        let mut roots: Vec<CaCertificate> = Vec::with_capacity(certificates.len());
        for (der, position) in certificates.into_iter().zip(1..) {
            if roots.iter().any(|root| root.der == der) {
                return Err(BundleError::Duplicate { position });
            }
            roots.push(
                CaCertificate::parse(der)
                    .map_err(|source| BundleError::Certificate { position, source })?,
            );
        }
        Ok(Self { roots })
    }

    /// The bundle as PEM, in its order.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(self.certificates())
    }

    /// The CA certificates, DER.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|root| &root.der)
    }

    /// The hash of each CA's public key: what a join token carries as its pin.
    pub fn pins(&self) -> impl Iterator<Item = SpkiSha256> {
        self.roots.iter().map(|root| root.spki_sha256)
    }

    /// Verifies a chain, leaf first, and reads the peer's identity from it.
    ///
    /// This proves what the certificate says, not that somebody holds its key: the handshake proves that, and a server
    /// takes its peer's identity from the connection ([`crate::stream::MtlsStream::connect_info`]).
    ///
    /// # Errors
    /// [`PeerError`] when the chain, the validity, the usage or the names are not in order.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        purpose: Purpose,
        now: Timestamp,
    ) -> Result<PeerIdentity, PeerError> {
        let (leaf, intermediates) = chain.split_first().ok_or(PeerError::Malformed)?;
        verify::verify(
            leaf,
            intermediates,
            self.roots.iter(),
            purpose,
            verify::unix_time(now),
        )
    }

    /// As [`Self::verify`], and a certificate past its end is taken as it was in its last second.
    ///
    /// The identity is then that of somebody whom this CA once certified. It opens no connection, and is good for as much
    /// as the caller demands beside it.
    ///
    /// # Errors
    /// As [`Self::verify`], save for [`PeerError::Expired`] of the leaf.
    pub fn verify_ended(
        &self,
        chain: &[CertificateDer<'_>],
        purpose: Purpose,
        now: Timestamp,
    ) -> Result<PeerIdentity, PeerError> {
        let leaf = verify::read_leaf(chain.first().ok_or(PeerError::Malformed)?)?;
        self.verify(chain, purpose, now.min(leaf.not_after()))
    }

    pub(crate) fn roots(&self) -> &[CaCertificate] {
        &self.roots
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TrustBundle")
            .field(&self.pins().collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::{CA_VALIDITY, CertificateAuthority};
    use crate::key::LeafKey;

    fn ca(seed: u8) -> CertificateAuthority {
        let td = "example.org".parse().unwrap();
        CertificateAuthority::create(&[seed; 32], &td, "CA", CA_VALIDITY, Timestamp::now()).unwrap()
    }

    #[test]
    fn a_bundle_round_trips_through_pem_and_pins_each_key() {
        let (one, two) = (ca(1), ca(2));
        let bundle =
            TrustBundle::from_der(vec![one.certificate().clone(), two.certificate().clone()])
                .unwrap();
        assert_eq!(
            TrustBundle::from_pem(bundle.to_pem().as_bytes()).unwrap(),
            bundle
        );
        assert_eq!(
            bundle.pins().collect::<Vec<_>>(),
            [one.spki_sha256(), two.spki_sha256()]
        );
    }

    #[test]
    fn an_ended_certificate_is_taken_as_it_was_and_no_other_rule_is_left_out() {
        let ca = ca(1);
        let key = LeafKey::generate().unwrap();
        let request = key.certificate_request().unwrap();
        let request = crate::ca::CertificateRequest::verify(&request).unwrap();
        let id = "spiffe://example.org/node/local/n".parse().unwrap();
        let now = Timestamp::now();
        let hour = std::time::Duration::from_secs(3600);
        let issue = |seed, ca: &CertificateAuthority| {
            let issued = ca.issue(&[seed; 32], &request, &id, hour, now).unwrap();
            issued.certificate().clone()
        };
        let leaf = issue(1, &ca);
        let bundle = TrustBundle::from_der(vec![ca.certificate().clone()]).unwrap();
        let later = now + 2 * hour;
        assert!(matches!(
            bundle.verify(std::slice::from_ref(&leaf), Purpose::Client, later),
            Err(PeerError::Expired { .. })
        ));
        let peer = bundle.verify_ended(std::slice::from_ref(&leaf), Purpose::Client, later);
        let peer = peer.unwrap();
        assert_eq!((peer.id(), peer.spki_sha256()), (&id, key.spki_sha256()));
        // Its key signs, and no other does.
        let signature = key.sign(b"message").unwrap();
        assert!(peer.has_signed(b"message", &signature));
        assert!(!peer.has_signed(b"massage", &signature));
        assert!(!peer.has_signed(b"message", b""));
        let other = LeafKey::generate().unwrap().sign(b"message").unwrap();
        assert!(!peer.has_signed(b"message", &other));
        let refused = [
            (
                issue(2, &self::ca(2)),
                Purpose::Client,
                later,
                PeerError::Chain(webpki::Error::InvalidSignatureForPublicKey),
            ),
            (
                leaf.clone(),
                Purpose::Server,
                later,
                PeerError::Usage {
                    wanted: "serverAuth",
                },
            ),
        ];
        // Before its time, and before its issuer's: which of the two is said first hangs on a second.
        let before = bundle.verify_ended(&[leaf], Purpose::Client, now - 2 * hour);
        assert!(
            matches!(
                before,
                Err(PeerError::UnknownIssuer | PeerError::NotYetValid { .. })
            ),
            "{before:?}"
        );
        for (leaf, purpose, at, why) in refused {
            assert_eq!(bundle.verify_ended(&[leaf], purpose, at), Err(why));
        }
        assert_eq!(
            bundle.verify_ended(&[], Purpose::Client, later),
            Err(PeerError::Malformed)
        );
    }

    #[test]
    fn anything_but_distinct_ca_certificates_is_refused_whole() {
        let ca = ca(1);
        let good = ca.certificate().clone();
        let request = LeafKey::generate().unwrap().certificate_request().unwrap();
        let request = crate::ca::CertificateRequest::verify(&request).unwrap();
        let id = "spiffe://example.org/broker/b".parse().unwrap();
        let leaf = ca
            .issue(&[1; 32], &request, &id, CA_VALIDITY, Timestamp::now())
            .unwrap();
        let leaf = leaf.certificate().clone();
        assert_eq!(
            TrustBundle::from_der(vec![]),
            Err(BundleError::Count { found: 0 })
        );
        assert_eq!(
            TrustBundle::from_der(vec![good.clone(); 33]),
            Err(BundleError::Count { found: 33 })
        );
        assert_eq!(
            TrustBundle::from_der(vec![good.clone(), good.clone()]),
            Err(BundleError::Duplicate { position: 2 })
        );
        assert_eq!(
            TrustBundle::from_der(vec![good.clone(), leaf]),
            Err(BundleError::Certificate {
                position: 2,
                source: NotACa
            })
        );
        let mut trailing = good.to_vec();
        trailing.push(0);
        assert!(TrustBundle::from_der(vec![trailing.into()]).is_err());
        assert!(matches!(
            TrustBundle::from_pem(b"no PEM"),
            Err(BundleError::Pem(_))
        ));
    }
}
