//! A CA, parties with credentials, certificates that the CA would never issue, and a meeting of two TLS ends.

use std::sync::Arc;
use std::time::Duration;

use attache_mtls::accept::{AcceptLimits, Acceptor};
use attache_mtls::bundle::TrustBundle;
use attache_mtls::ca::{
    CA_VALIDITY, CertificateAuthority, CertificateRequest, IssuedCertificate, default_validity,
};
use attache_mtls::connect::Connector;
use attache_mtls::identity::SpkiSha256;
use attache_mtls::key::LeafKey;
use attache_mtls::spiffe::{BrokerId, NodeId, OperatorId, PeerId, TrustDomain};
use attache_mtls::stream::{HandshakeError, MtlsStream};
use attache_mtls::tls::{Credentials, Material};
use jiff::Timestamp;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    SanType,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Long enough for a loaded machine; no test waits for it when all is well.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) fn td() -> TrustDomain {
    "example.org".parse().unwrap()
}

pub(crate) fn node() -> PeerId {
    NodeId::new(td(), "prod", "uid-1").unwrap().into()
}

pub(crate) fn operator() -> PeerId {
    OperatorId::new(td(), "alice").unwrap().into()
}

pub(crate) fn broker_id(name: &str) -> BrokerId {
    BrokerId::new(td(), name).unwrap()
}

pub(crate) fn broker() -> PeerId {
    broker_id("b1").into()
}

/// A CA with its seed.
pub(crate) struct Pki {
    pub(crate) ca: CertificateAuthority,
    seed: [u8; 32],
}

impl Pki {
    pub(crate) fn new(seed: u8) -> Self {
        Self::made_at(seed, Timestamp::now(), CA_VALIDITY)
    }

    pub(crate) fn made_at(seed: u8, now: Timestamp, validity: Duration) -> Self {
        let seed = [seed; 32];
        let ca =
            CertificateAuthority::create(&seed, &td(), "attache test CA", validity, now).unwrap();
        Self { ca, seed }
    }

    pub(crate) fn bundle(&self) -> Arc<TrustBundle> {
        bundle(&[self])
    }

    pub(crate) fn issue(&self, id: &PeerId, key: &LeafKey) -> IssuedCertificate {
        self.issue_at(id, key, Timestamp::now(), default_validity(id))
    }

    pub(crate) fn issue_at(
        &self,
        id: &PeerId,
        key: &LeafKey,
        now: Timestamp,
        validity: Duration,
    ) -> IssuedCertificate {
        let request = CertificateRequest::verify(&key.certificate_request().unwrap()).unwrap();
        self.ca
            .issue(&self.seed, &request, id, validity, now)
            .unwrap()
    }

    pub(crate) fn material(&self, id: &PeerId, bundle: Arc<TrustBundle>) -> Material {
        let key = LeafKey::generate().unwrap();
        Material::new(self.issue(id, &key).chain(), &key, bundle).unwrap()
    }

    pub(crate) fn credentials(&self, id: &PeerId) -> Credentials {
        Credentials::new(self.material(id, self.bundle()))
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.credentials(&broker()).server_config().unwrap()
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.credentials(&node())
            .client_config(broker_id("b1"))
            .unwrap()
    }

    /// A leaf that this CA's key has signed and this CA would not: a good one, changed by `change`.
    pub(crate) fn forge(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Forged {
        let issuer = Issuer::from_ca_cert_der(self.ca.certificate(), self.signing_key()).unwrap();
        let mut forged = Self::forge_by(&issuer, id, change);
        forged.chain.push(self.ca.certificate().clone());
        forged
    }

    fn forge_by(
        issuer: &Issuer<'_, rcgen::KeyPair>,
        id: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Forged {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let now = u64::try_from(Timestamp::now().as_second()).unwrap();
        params.not_before = epoch + Duration::from_secs(now - 60);
        params.not_after = epoch + Duration::from_secs(now + 3600);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.subject_alt_names = vec![uri(id)];
        change(&mut params);
        let key = LeafKey::generate().unwrap();
        let request = CertificateRequest::verify(&key.certificate_request().unwrap()).unwrap();
        let leaf = params.signed_by(&request, issuer).unwrap();
        Forged {
            chain: vec![leaf.into()],
            key,
        }
    }

    /// A good leaf, signed by an intermediate CA that this CA has signed.
    pub(crate) fn forge_under_intermediate(&self, id: &str) -> Forged {
        let root = Issuer::from_ca_cert_der(self.ca.certificate(), self.signing_key()).unwrap();
        forge_under_intermediate(&root, id)
    }

    /// The CA's seed as rcgen takes it: PKCS#8 of an Ed25519 key (RFC 8410, section 7).
    fn signing_key(&self) -> rcgen::KeyPair {
        const PREFIX: [u8; 16] = [
            0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
        ];
        rcgen::KeyPair::try_from([&PREFIX[..], &self.seed].concat()).unwrap()
    }
}

/// A good leaf below an intermediate CA below `root`, with that intermediate in its chain.
pub(crate) fn forge_under_intermediate(root: &Issuer<'_, rcgen::KeyPair>, id: &str) -> Forged {
    let key = Pki::new(99).signing_key();
    let params = ca_parameters("intermediate", rcgen::BasicConstraints::Constrained(0));
    let ca = CertificateDer::from(params.signed_by(&key, root).unwrap());
    let mut leaf = Pki::forge_by(&Issuer::new(params, key), id, |_| {});
    leaf.chain.push(ca);
    leaf
}

pub(crate) fn ca_parameters(name: &str, constraints: rcgen::BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![uri("spiffe://example.org")];
    params
}

pub(crate) fn bundle(pkis: &[&Pki]) -> Arc<TrustBundle> {
    let certificates = pkis
        .iter()
        .map(|pki| pki.ca.certificate().clone())
        .collect();
    Arc::new(TrustBundle::from_der(certificates).unwrap())
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A chain and key that go past the checks of [`Material`].
pub(crate) struct Forged {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: LeafKey,
}

impl Forged {
    fn resolver(&self) -> Arc<SingleCertAndKey> {
        let der = PrivateKeyDer::from_pem_slice(self.key.to_pem().as_bytes()).unwrap();
        let key = rustls::crypto::ring::sign::any_ecdsa_type(&der).unwrap();
        Arc::new(CertifiedKey::new(self.chain.clone(), key).into())
    }

    pub(crate) fn spki_sha256(&self) -> SpkiSha256 {
        self.key.spki_sha256()
    }

    pub(crate) fn as_client(&self, base: &ClientConfig) -> Arc<ClientConfig> {
        let mut config = base.clone();
        config.client_auth_cert_resolver = self.resolver();
        Arc::new(config)
    }

    pub(crate) fn as_server(&self, base: &ServerConfig) -> Arc<ServerConfig> {
        let mut config = base.clone();
        config.cert_resolver = self.resolver();
        Arc::new(config)
    }
}

/// How a handshake ended on both sides.
pub(crate) struct Meeting {
    pub(crate) server: Result<(), HandshakeError>,
    pub(crate) client: Result<(), HandshakeError>,
    /// What the client got when it then sent one byte and read one back.
    pub(crate) exchange: Option<std::io::Result<u8>>,
}

impl Meeting {
    pub(crate) fn assert_good(&self) {
        assert!(self.server.is_ok(), "{:?}", self.server);
        assert!(self.client.is_ok(), "{:?}", self.client);
        assert!(
            matches!(self.exchange, Some(Ok(b'!'))),
            "{:?}",
            self.exchange
        );
    }

    /// The server refused, and nothing was exchanged.
    pub(crate) fn server_refusal(self) -> HandshakeError {
        assert!(!matches!(self.exchange, Some(Ok(_))), "a byte came back");
        self.server.expect_err("the server accepted")
    }

    /// The client refused, and sent nothing.
    pub(crate) fn client_refusal(self) -> HandshakeError {
        assert!(self.exchange.is_none());
        self.client.expect_err("the client accepted")
    }
}

/// One handshake over loopback, and one byte each way.
pub(crate) async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Meeting {
    meet_by(server, Connector::new(client, LONG)).await
}

/// The same, by a connector of the caller's.
pub(crate) async fn meet_by(server: Arc<ServerConfig>, client: Connector) -> Meeting {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = tokio_rustls::TlsAcceptor::from(server).accept(tcp).await?;
        let mut byte = [0];
        if tls.read_exact(&mut byte).await.is_ok() {
            tls.write_all(b"!").await.unwrap();
            tls.flush().await.unwrap();
        }
        Ok(())
    });
    let (client, exchange) = match client.connect(address).await {
        Ok(mut stream) => (Ok(()), Some(exchange(&mut stream).await)),
        Err(error) => (Err(error), None),
    };
    Meeting {
        server: serving.await.unwrap(),
        client,
        exchange,
    }
}

/// Sends one byte and reads one.
pub(crate) async fn exchange(stream: &mut MtlsStream) -> std::io::Result<u8> {
    stream.write_all(b"?").await?;
    stream.flush().await?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await?;
    Ok(byte[0])
}

/// An accept loop on a free port.
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    pub(crate) acceptor: Acceptor,
    pub(crate) streams: mpsc::Receiver<MtlsStream>,
}

impl Listening {
    pub(crate) async fn start(config: Arc<ServerConfig>, limits: AcceptLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(config, limits);
        let (out, streams) = mpsc::channel(16);
        let running = acceptor.clone();
        tokio::spawn(async move { running.run(listener, out).await });
        Self {
            address,
            acceptor,
            streams,
        }
    }

    pub(crate) async fn connect(
        &self,
        config: &Arc<ClientConfig>,
    ) -> Result<MtlsStream, HandshakeError> {
        Connector::new(config.clone(), LONG)
            .connect(self.address)
            .await
    }

    /// The server's end of the next accepted connection.
    pub(crate) async fn next(&mut self) -> MtlsStream {
        tokio::time::timeout(LONG, self.streams.recv())
            .await
            .expect("no connection came")
            .unwrap()
    }

    /// Both ends of a new connection.
    pub(crate) async fn pair(&mut self, config: &Arc<ClientConfig>) -> (MtlsStream, MtlsStream) {
        let client = self.connect(config).await.unwrap();
        (self.next().await, client)
    }
}
