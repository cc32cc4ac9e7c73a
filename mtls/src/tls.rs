//! TLS configurations whose material can be replaced while they serve.
//!
//! [`Credentials`] keeps one [`Material`] (own certificate, its key, the accepted roots) behind one atomic pointer;
//! every configuration that it makes asks that pointer at each handshake, so that [`Credentials::reload`] reaches all
//! of them at once and no handshake sees the new certificate with the old roots. Connections that stand are not
//! touched: the caller closes them ([`crate::accept::Acceptor::close_where`]).
//!
//! Always: TLS 1.3 only, ALPN `h2`, no session tickets, no session store, no early data, no key log. A resumed session
//! would skip the check of a certificate that has since ended or lost its root.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;

use crate::bundle::TrustBundle;
use crate::identity::{PeerIdentity, SpkiSha256};
use crate::key::{KeyError, LeafKey};
use crate::pem::{self, PemError};
use crate::spiffe::{BrokerId, PeerId, TrustDomain};
use crate::verify::{CaCertificate, PeerError};

use verifiers::{AnyBroker, ClientVerifier, PinnedBroker, RecordedBroker, Roots, ServerVerifier};

mod verifiers;

/// The one application protocol: HTTP/2.
pub const ALPN: &[u8] = b"h2";

/// Why a certificate, key and bundle do not make [`Material`], or a configuration was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaterialError {
    /// The chain is not PEM certificates.
    #[error("the certificate chain is not PEM certificates")]
    Pem(#[from] PemError),
    /// The leaf is not one of this system.
    #[error("the own certificate does not do")]
    Leaf(#[from] PeerError),
    /// The key cannot be used.
    #[error("the own key does not do")]
    Key(#[from] KeyError),
    /// Certificate and key are not of one pair.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// A broker must send its CA certificate, for the pin of joining nodes.
    #[error(
        "the CA certificate that signed the broker's is neither in its chain nor in the trust bundle"
    )]
    IssuerAbsent,
    /// A reload may bring a new certificate, never a new name.
    #[error("the new certificate is for {found}; this process is {expected}")]
    OtherIdentity {
        /// Who this process is.
        expected: PeerId,
        /// Who the new certificate names.
        found: PeerId,
    },
    /// rustls refused the settings.
    #[error("the TLS configuration was refused")]
    Tls(#[source] rustls::Error),
}

/// Own certificate, its key and the accepted roots: what one handshake uses.
pub struct Material {
    certified: Arc<CertifiedKey>,
    own: PeerIdentity,
    bundle: Arc<TrustBundle>,
}

impl Material {
    /// Puts a chain (leaf first), its key and the accepted roots together.
    ///
    /// A broker's chain gets the CA certificate that signed it from the bundle, when it is not in the chain already.
    /// The leaf's times are not looked at: see [`crate::renew`].
    ///
    /// # Errors
    /// [`MaterialError`] when the leaf carries no ID of ours, the key is another, or a broker's issuer is not known.
    pub fn new(
        mut chain: Vec<CertificateDer<'static>>,
        key: &LeafKey,
        bundle: Arc<TrustBundle>,
    ) -> Result<Self, MaterialError> {
        let leaf = chain.first().ok_or(PeerError::Malformed)?;
        let own = crate::verify::read_leaf(leaf)?;
        if own.spki_sha256() != key.spki_sha256() {
            return Err(MaterialError::Mismatch);
        }
        if matches!(own.id(), PeerId::Broker(_)) {
            let sent = chain
                .iter()
                .skip(1)
                .filter_map(|der| CaCertificate::parse(der.clone()).ok());
            let known = bundle.roots().iter().cloned();
            let issuer = sent
                .chain(known)
                .find(|ca| ca.has_signed(leaf))
                .ok_or(MaterialError::IssuerAbsent)?;
            if !chain.contains(&issuer.der) {
                chain.push(issuer.der);
            }
        }
        let certified = Arc::new(CertifiedKey::new(chain, key.signing_key()?));
        Ok(Self {
            certified,
            own,
            bundle,
        })
    }

    /// As [`Self::new`], from PEM.
    ///
    /// # Errors
    /// As [`Self::new`], and [`MaterialError::Pem`].
    pub fn from_pem(
        chain: &[u8],
        key: &LeafKey,
        bundle: Arc<TrustBundle>,
    ) -> Result<Self, MaterialError> {
        Self::new(pem::certificates(chain)?, key, bundle)
    }

    /// The same certificate and key with other roots.
    #[must_use]
    pub fn with_bundle(&self, bundle: Arc<TrustBundle>) -> Self {
        Self {
            certified: self.certified.clone(),
            own: self.own.clone(),
            bundle,
        }
    }

    /// What the own certificate says.
    #[must_use]
    pub fn identity(&self) -> &PeerIdentity {
        &self.own
    }

    /// The chain as it is sent, leaf first, DER.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The accepted roots.
    #[must_use]
    pub fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material")
            .field("own", &self.own)
            .field("bundle", &self.bundle)
            .finish_non_exhaustive()
    }
}

/// The material in use, shared by every configuration made from it.
#[derive(Clone)]
pub struct Credentials {
    current: Arc<ArcSwap<Material>>,
    /// Who this process is; the certificate may change, this does not.
    id: PeerId,
}

impl Credentials {
    /// Begins with this material.
    #[must_use]
    pub fn new(material: Material) -> Self {
        let id = material.own.id().clone();
        Self {
            current: Arc::new(ArcSwap::from_pointee(material)),
            id,
        }
    }

    /// Replaces the material for every handshake that begins from now on.
    ///
    /// # Errors
    /// [`MaterialError::OtherIdentity`] when the certificate names somebody else; nothing is replaced then.
    pub fn reload(&self, material: Material) -> Result<(), MaterialError> {
        if material.own.id() != &self.id {
            return Err(MaterialError::OtherIdentity {
                expected: self.id.clone(),
                found: material.own.id().clone(),
            });
        }
        self.current.store(Arc::new(material));
        Ok(())
    }

    /// Replaces the roots and keeps certificate and key.
    pub fn reload_bundle(&self, bundle: Arc<TrustBundle>) {
        self.current
            .rcu(|material| material.with_bundle(bundle.clone()));
    }

    /// The material in use at this moment.
    #[must_use]
    pub fn current(&self) -> Arc<Material> {
        self.current.load_full()
    }

    /// Who this process is.
    #[must_use]
    pub fn id(&self) -> &PeerId {
        &self.id
    }

    /// The trust domain of this process, and of every peer that it accepts.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        self.id.trust_domain()
    }

    /// The server that requires a client certificate of this trust domain.
    ///
    /// # Errors
    /// [`MaterialError::Tls`] when rustls refuses the settings.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, MaterialError> {
        let verifier = Arc::new(ClientVerifier::new(self.clone()));
        Ok(server(
            server_builder()?
                .with_client_cert_verifier(verifier)
                .with_cert_resolver(self.resolver()),
        ))
    }

    /// The server of the enrollment listener: the same certificate, and no client certificate is asked for.
    ///
    /// # Errors
    /// [`MaterialError::Tls`] when rustls refuses the settings.
    pub fn enrollment_server_config(&self) -> Result<Arc<ServerConfig>, MaterialError> {
        Ok(server(
            server_builder()?
                .with_no_client_auth()
                .with_cert_resolver(self.resolver()),
        ))
    }

    /// The client that presents the own certificate and speaks to this one broker only.
    ///
    /// # Errors
    /// [`MaterialError::Tls`] when rustls refuses the settings.
    pub fn client_config(&self, broker: BrokerId) -> Result<Arc<ClientConfig>, MaterialError> {
        let roots = Roots::Reloadable(self.clone());
        let verifier = ServerVerifier::new(PinnedBroker { broker, roots });
        Ok(client(
            client_builder(verifier)?.with_client_cert_resolver(self.resolver()),
        ))
    }

    fn resolver(&self) -> Arc<Resolver> {
        Arc::new(Resolver(self.clone()))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials")
            .field(&self.current.load())
            .finish()
    }
}

/// The client of somebody who has the trust bundle and no certificate yet, or none any more: enrollment with evidence.
///
/// # Errors
/// [`MaterialError::Tls`] when rustls refuses the settings.
pub fn anonymous_client_config(
    bundle: Arc<TrustBundle>,
    broker: BrokerId,
) -> Result<Arc<ClientConfig>, MaterialError> {
    let verifier = ServerVerifier::new(PinnedBroker {
        broker,
        roots: Roots::Fixed(bundle),
    });
    Ok(client(client_builder(verifier)?.with_no_client_auth()))
}

/// The client of somebody who has a join token only: the server must be a broker whose chain ends in a CA certificate
/// with the pinned key.
///
/// The caller learns which broker it was from the connection, and the trust bundle from the enrollment's answer.
///
/// # Errors
/// [`MaterialError::Tls`] when rustls refuses the settings.
pub fn spki_pinned_client_config(ca_pin: SpkiSha256) -> Result<Arc<ClientConfig>, MaterialError> {
    let verifier = ServerVerifier::new(AnyBroker { ca_pin });
    Ok(client(client_builder(verifier)?.with_no_client_auth()))
}

/// As [`anonymous_client_config`], and the broker's recorded key is taken too where its certificate has ended and nothing else
/// is wrong with it: a sealed broker has nothing that could sign another one.
///
/// # Errors
/// [`MaterialError::Tls`] when rustls refuses the settings.
pub fn recorded_client_config(
    bundle: Arc<TrustBundle>,
    broker: BrokerId,
    recorded: SpkiSha256,
) -> Result<Arc<ClientConfig>, MaterialError> {
    let by_bundle = PinnedBroker {
        broker,
        roots: Roots::Fixed(bundle),
    };
    let verifier = ServerVerifier::new(RecordedBroker {
        by_bundle,
        recorded,
    });
    Ok(client(client_builder(verifier)?.with_no_client_auth()))
}

type ServerBuilder = rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>;
type ClientBuilder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn server_builder() -> Result<ServerBuilder, MaterialError> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(MaterialError::Tls)
}

fn server(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

fn client_builder(verifier: ServerVerifier) -> Result<ClientBuilder, MaterialError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(MaterialError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn client(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // Peers are named by SPIFFE ID; a host name would only tell an observer who is called.
    config.enable_sni = false;
    Arc::new(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Hands the certificate in use to rustls, on either side.
#[derive(Debug)]
struct Resolver(Credentials);

impl rustls::server::ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().certified.clone())
    }
}

impl rustls::client::ResolvesClientCert for Resolver {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
