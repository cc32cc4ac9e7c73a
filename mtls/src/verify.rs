//! Verification of a peer's certificate chain.
//!
//! Both TLS verifiers and the enrollment pin come through here. In order: chain, validity and extended key usage by
//! webpki against the CA certificates of the bundle that are valid now; then, on the leaf, the key usage and exactly
//! one name, a SPIFFE ID of ours. Only then is there a [`PeerIdentity`]. Host names play no part and are refused.
//!
//! Source: RFC 5280 section 6; SPIFFE X509-SVID sections 4 and 5.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::{CertificateError, OtherError};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::identity::{PeerIdentity, Serial, SpkiSha256};
use crate::spiffe::{PeerId, SpiffeError, TrustDomain};

/// The side of a connection that a certificate has to be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The peer calls: its certificate needs clientAuth.
    Client,
    /// The peer answers: its certificate needs serverAuth.
    Server,
}

impl Purpose {
    /// The extended key usage by its name (RFC 5280, section 4.2.1.12).
    fn wanted(self) -> &'static str {
        match self {
            Self::Client => "clientAuth",
            Self::Server => "serverAuth",
        }
    }
}

/// Why a peer's certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// No certificate, or not one in DER.
    #[error("the certificate is missing or malformed")]
    Malformed,
    /// No certificate of the trust bundle has signed it.
    #[error("no CA certificate of the trust bundle has signed the certificate")]
    UnknownIssuer,
    /// Past its end.
    #[error("the certificate ended at {not_after}")]
    Expired {
        /// Its last second.
        not_after: Timestamp,
    },
    /// Before its beginning: one of the two clocks is wrong.
    #[error("the certificate is valid from {not_before} only; compare the clocks")]
    NotYetValid {
        /// Its first second.
        not_before: Timestamp,
    },
    /// Another rule of path validation.
    #[error("the certificate chain does not verify: {0:?}")]
    Chain(webpki::Error),
    /// The extended key usage for this side of the connection is absent.
    #[error("the certificate is not for this use: {wanted} is absent")]
    Usage {
        /// `serverAuth` or `clientAuth`.
        wanted: &'static str,
    },
    /// Not a signing leaf: no digitalSignature, or the right to sign certificates or CRLs.
    #[error("the certificate's key usage is not that of a leaf")]
    KeyUsage,
    /// Not exactly one name, a URI.
    #[error(
        "the certificate must have exactly one name, a SPIFFE ID; it has {uris} URIs and {others} other names"
    )]
    Names {
        /// URI names found.
        uris: usize,
        /// Names of other kinds found, DNS names among them.
        others: usize,
    },
    /// The one name is no SPIFFE ID of this system.
    #[error("the certificate's name is not a SPIFFE ID of this system")]
    Spiffe(#[from] SpiffeError),
    /// A SPIFFE ID of somebody else's trust domain.
    #[error("the peer is of trust domain {found}, not {expected}")]
    TrustDomain {
        /// Ours.
        expected: TrustDomain,
        /// The peer's.
        found: TrustDomain,
    },
    /// The server is not the broker that was asked for.
    #[error("the server is {found}, not {expected}")]
    OtherBroker {
        /// The pinned ID.
        expected: PeerId,
        /// The server's.
        found: PeerId,
    },
    /// The server is no broker at all.
    #[error("the server is {found}, which is not a broker")]
    NotABroker {
        /// The server's ID.
        found: PeerId,
    },
    /// The server did not send a CA certificate with the pinned key.
    #[error("no certificate of the chain has the pinned CA key {pin}")]
    PinnedCaAbsent {
        /// The pin, of the join token.
        pin: SpkiSha256,
    },
}

/// Verifies a leaf against CA certificates and reads the identity in it.
///
/// The leaf may be accompanied by intermediates, in any order. CA certificates that are not valid at `now` count as
/// absent: a root's end ends what it vouches for.
pub(crate) fn verify<'a>(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: impl Iterator<Item = &'a CaCertificate>,
    purpose: Purpose,
    now: UnixTime,
) -> Result<PeerIdentity, PeerError> {
    let roots: Vec<&CaCertificate> = roots.filter(|ca| ca.is_valid_at(now)).collect();
    let anchors = roots
        .iter()
        .map(|ca| anchor_from_trusted_cert(&ca.der))
        .collect::<Result<Vec<TrustAnchor<'_>>, _>>()
        .map_err(PeerError::Chain)?;
    let usage = match purpose {
        Purpose::Client => KeyUsage::client_auth(),
        Purpose::Server => KeyUsage::server_auth(),
    };
    // A root's pathLen is not webpki's concern: an anchor is a name and a key to it (RFC 5280, section 6.1.1).
    let path_len_kept = |path: &VerifiedPath<'_>| {
        let depth = path.intermediate_certificates().count();
        let root = roots
            .iter()
            .zip(&anchors)
            .find(|(_, anchor)| *anchor == path.anchor());
        match root.and_then(|(ca, _)| ca.path_len) {
            Some(most) if depth > most => Err(webpki::Error::PathLenConstraintViolated),
            Some(_) | None => Ok(()),
        }
    };
    EndEntityCert::try_from(leaf)
        .map_err(|error| chain_error(error, purpose))?
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            intermediates,
            now,
            usage,
            None,
            Some(&path_len_kept),
        )
        .map_err(|error| chain_error(error, purpose))?;
    require_usage(&parse(leaf)?, purpose)?;
    read_leaf(leaf)
}

/// The leaf must name its use. webpki takes an absent extension for every use, as it has to for intermediates.
fn require_usage(leaf: &X509Certificate<'_>, purpose: Purpose) -> Result<(), PeerError> {
    let uses = leaf
        .extended_key_usage()
        .map_err(|_| PeerError::Malformed)?;
    let named = uses.is_some_and(|uses| match purpose {
        Purpose::Client => uses.value.client_auth,
        Purpose::Server => uses.value.server_auth,
    });
    if named {
        Ok(())
    } else {
        Err(PeerError::Usage {
            wanted: purpose.wanted(),
        })
    }
}

/// Reads the identity of a leaf: callers must have verified it, or own its private key.
pub(crate) fn read_leaf(leaf: &CertificateDer<'_>) -> Result<PeerIdentity, PeerError> {
    let certificate = parse(leaf)?;
    let usage = certificate
        .key_usage()
        .map_err(|_| PeerError::KeyUsage)?
        .ok_or(PeerError::KeyUsage)?
        .value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(PeerError::KeyUsage);
    }
    let id = the_one_uri(&certificate)?.parse()?;
    let validity = certificate.validity();
    Ok(PeerIdentity {
        id,
        serial: Serial::from_be_bytes(certificate.raw_serial()),
        spki_sha256: SpkiSha256::of(certificate.public_key().raw),
        not_before: timestamp(validity.not_before.timestamp())?,
        not_after: timestamp(validity.not_after.timestamp())?,
        certificate: leaf.clone().into_owned(),
    })
}

/// The only name of a certificate, which must be a URI.
pub(crate) fn the_one_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, PeerError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| PeerError::Malformed)?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    if let [GeneralName::URI(uri)] = names {
        return Ok(uri);
    }
    let uris = names
        .iter()
        .filter(|name| matches!(name, GeneralName::URI(_)))
        .count();
    Err(PeerError::Names {
        uris,
        others: names.len() - uris,
    })
}

/// Parses a certificate with nothing behind it.
pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PeerError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(PeerError::Malformed),
    }
}

/// A certificate that may sign others, parsed once.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CaCertificate {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) spki_sha256: SpkiSha256,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// How many intermediates may lie between this CA and a leaf; unbounded when absent.
    path_len: Option<usize>,
}

/// The certificate is not one of a CA: no critical basicConstraints with CA:true, or no keyCertSign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a CA certificate: it needs critical basicConstraints CA:true and keyUsage keyCertSign"
)]
pub struct NotACa;

impl CaCertificate {
    pub(crate) fn parse(der: CertificateDer<'static>) -> Result<Self, NotACa> {
        let certificate = parse(&der).map_err(|_| NotACa)?;
        let constraints = certificate
            .basic_constraints()
            .map_err(|_| NotACa)?
            .ok_or(NotACa)?;
        let usage = certificate.key_usage().map_err(|_| NotACa)?.ok_or(NotACa)?;
        if !constraints.critical || !constraints.value.ca || !usage.value.key_cert_sign() {
            return Err(NotACa);
        }
        let path_len = constraints
            .value
            .path_len_constraint
            .map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        anchor_from_trusted_cert(&der).map_err(|_| NotACa)?;
        let spki_sha256 = SpkiSha256::of(certificate.public_key().raw);
        let not_before =
            timestamp(certificate.validity().not_before.timestamp()).map_err(|_| NotACa)?;
        let not_after =
            timestamp(certificate.validity().not_after.timestamp()).map_err(|_| NotACa)?;
        Ok(Self {
            spki_sha256,
            not_before,
            not_after,
            path_len,
            der,
        })
    }

    fn is_valid_at(&self, now: UnixTime) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        (self.not_before.as_second()..=self.not_after.as_second()).contains(&now)
    }

    /// Whether this CA's key has signed the certificate, whose issuer must be its subject.
    pub(crate) fn has_signed(&self, leaf: &CertificateDer<'_>) -> bool {
        let (Ok(ca), Ok(leaf)) = (parse(&self.der), parse(leaf)) else {
            return false;
        };
        leaf.issuer().as_raw() == ca.subject().as_raw()
            && leaf.verify_signature(Some(ca.public_key())).is_ok()
    }
}

/// The instant as webpki takes it; times before 1970 count as 1970.
pub(crate) fn unix_time(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(
        u64::try_from(at.as_second()).unwrap_or(0),
    ))
}

fn timestamp(seconds: i64) -> Result<Timestamp, PeerError> {
    Timestamp::from_second(seconds).map_err(|_| PeerError::Malformed)
}

fn from_unix(at: UnixTime) -> Timestamp {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|s| Timestamp::from_second(s).ok())
        .unwrap_or(Timestamp::MAX)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other rule is reported by webpki's own name"
)]
fn chain_error(error: webpki::Error, purpose: Purpose) -> PeerError {
    match error {
        webpki::Error::BadDer | webpki::Error::TrailingData(_) => PeerError::Malformed,
        webpki::Error::UnknownIssuer => PeerError::UnknownIssuer,
        webpki::Error::CertExpired { not_after, .. } => PeerError::Expired {
            not_after: from_unix(not_after),
        },
        webpki::Error::CertNotValidYet { not_before, .. } => PeerError::NotYetValid {
            not_before: from_unix(not_before),
        },
        webpki::Error::RequiredEkuNotFoundContext(_) => PeerError::Usage {
            wanted: purpose.wanted(),
        },
        other => PeerError::Chain(other),
    }
}

/// What rustls reports and which alert it sends. The two that an honest peer can mend get their own alerts; a peer
/// learns no more than "certificate unknown" of the others. `PeerError::from_rustls` is the way back.
impl From<PeerError> for rustls::Error {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others share one alert")]
    fn from(error: PeerError) -> Self {
        Self::InvalidCertificate(match error {
            PeerError::UnknownIssuer => CertificateError::UnknownIssuer,
            PeerError::Expired { not_after } => CertificateError::ExpiredContext {
                time: UnixTime::now(),
                not_after: unix_time(not_after),
            },
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

impl PeerError {
    /// The reason inside an error of rustls, when the failure was the peer's certificate.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "everything else is not a refusal of ours"
    )]
    pub(crate) fn from_rustls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                Some(Self::UnknownIssuer)
            }
            rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
                not_after,
                ..
            }) => Some(Self::Expired {
                not_after: from_unix(*not_after),
            }),
            rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
                other.0.downcast_ref::<Self>().cloned()
            }
            _ => None,
        }
    }
}
