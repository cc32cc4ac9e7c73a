//! The certificate checks that rustls calls in a handshake, on both sides.
//!
//! Each is a thin coat around [`crate::verify`] that adds whom this end expects. They read the roots at each
//! handshake, so that a reload holds from the next one. TLS 1.2 is refused even if a configuration offered it.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Credentials;
use crate::bundle::TrustBundle;
use crate::identity::{PeerIdentity, SpkiSha256};
use crate::spiffe::{BrokerId, PeerId, TrustDomain};
use crate::verify::{CaCertificate, PeerError, Purpose, read_leaf, unix_time, verify};

/// Server side: a client of our trust domain, always with a certificate.
pub(super) struct ClientVerifier {
    credentials: Credentials,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            algorithms: algorithms(),
        }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerError> {
        let material = self.credentials.current.load();
        let peer = verify(
            leaf,
            intermediates,
            material.bundle.roots().iter(),
            Purpose::Client,
            now,
        )?;
        same_trust_domain(self.credentials.trust_domain(), &peer)
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientVerifier")
            .field(&self.credentials)
            .finish()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// None: the list would have to be the bundle at the time of a reload, and our clients have one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Which server a client accepts.
pub(super) trait Expectation: Send + Sync + fmt::Debug + 'static {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerError>;
}

/// Where a client's roots come from.
#[derive(Debug)]
pub(super) enum Roots {
    /// The credentials' bundle of the moment.
    Reloadable(Credentials),
    /// One bundle, of a client without credentials.
    Fixed(Arc<TrustBundle>),
}

/// Exactly this broker, under the bundle.
#[derive(Debug)]
pub(super) struct PinnedBroker {
    pub(super) broker: BrokerId,
    pub(super) roots: Roots,
}

impl Expectation for PinnedBroker {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerError> {
        let bundle = match &self.roots {
            Roots::Reloadable(credentials) => credentials.current.load().bundle.clone(),
            Roots::Fixed(bundle) => bundle.clone(),
        };
        let peer = verify(
            leaf,
            intermediates,
            bundle.roots().iter(),
            Purpose::Server,
            now,
        )?;
        same_trust_domain(self.broker.trust_domain(), &peer)?;
        let expected = PeerId::from(self.broker.clone());
        if peer.id() != &expected {
            return Err(PeerError::OtherBroker {
                expected,
                found: peer.id().clone(),
            });
        }
        Ok(())
    }
}

/// This broker under the bundle, or the same broker with the key that it was seen with, though its certificate has ended:
/// nothing else is forgiven.
#[derive(Debug)]
pub(super) struct RecordedBroker {
    pub(super) by_bundle: PinnedBroker,
    pub(super) recorded: SpkiSha256,
}

impl Expectation for RecordedBroker {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerError> {
        let Err(refused) = self.by_bundle.check(leaf, intermediates, now) else {
            return Ok(());
        };
        if !matches!(refused, PeerError::Expired { .. }) {
            return Err(refused);
        }
        // Only the end is forgiven, and only to the recorded key: all else must hold in the certificate's last second.
        let peer = read_leaf(leaf)?;
        let last = unix_time(peer.not_after());
        self.by_bundle.check(leaf, intermediates, last)?;
        if peer.spki_sha256() == self.recorded {
            Ok(())
        } else {
            Err(refused)
        }
    }
}

/// Any broker that a CA with the pinned key has signed. The CA certificate comes with the chain; all that is taken on
/// trust in it is the key, whose hash is the pin.
#[derive(Debug)]
pub(super) struct AnyBroker {
    pub(super) ca_pin: SpkiSha256,
}

impl Expectation for AnyBroker {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerError> {
        let pinned = intermediates
            .iter()
            .filter_map(|der| CaCertificate::parse(der.clone().into_owned()).ok())
            .find(|ca| ca.spki_sha256 == self.ca_pin)
            .ok_or(PeerError::PinnedCaAbsent { pin: self.ca_pin })?;
        let peer = verify(leaf, &[], std::iter::once(&pinned), Purpose::Server, now)?;
        match peer.id() {
            PeerId::Broker(_) => Ok(()),
            PeerId::Node(_) | PeerId::Operator(_) => Err(PeerError::NotABroker {
                found: peer.id().clone(),
            }),
        }
    }
}

/// Client side: the server that is expected, without regard to any host name.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    expectation: Box<dyn Expectation>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(super) fn new(expectation: impl Expectation) -> Self {
        Self {
            expectation: Box::new(expectation),
            algorithms: algorithms(),
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.expectation.check(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn same_trust_domain(expected: &TrustDomain, peer: &PeerIdentity) -> Result<(), PeerError> {
    let found = peer.id().trust_domain();
    if found == expected {
        Ok(())
    } else {
        Err(PeerError::TrustDomain {
            expected: expected.clone(),
            found: found.clone(),
        })
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    rustls::crypto::ring::default_provider().signature_verification_algorithms
}
