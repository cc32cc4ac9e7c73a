//! Protocol versions and ALPN that are refused, and material that does not fit together.

use std::sync::Arc;

use attache_mtls::key::LeafKey;
use attache_mtls::stream::HandshakeError;
use attache_mtls::tls::{Material, MaterialError};
use attache_mtls::verify::PeerError;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConfig, PeerIncompatible, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
};

use crate::fixture::{Pki, broker, meet};

#[tokio::test]
async fn tls_1_2_is_refused_on_both_sides() {
    let pki = Pki::new(1);
    let refusal = meet(pki.server(), plain_client(&pki, &TLS12))
        .await
        .server_refusal();
    assert!(
        matches!(
            refusal,
            HandshakeError::Tls(rustls::Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                    | PeerIncompatible::Tls13RequiredForQuic
                    | PeerIncompatible::Tls12NotOfferedOrEnabled
            ))
        ),
        "{refusal:?}"
    );
    // The control: the same client with 1.3 gets as far as the certificates.
    let further = meet(pki.server(), plain_client(&pki, &TLS13))
        .await
        .client_refusal();
    assert!(
        matches!(
            further,
            HandshakeError::Tls(rustls::Error::InvalidCertificate(_))
        ),
        "{further:?}"
    );

    let refusal = meet(plain_server(&pki, &TLS12), pki.client())
        .await
        .client_refusal();
    let alert = rustls::Error::AlertReceived(AlertDescription::ProtocolVersion);
    assert!(
        matches!(&refusal, HandshakeError::Tls(error) if *error == alert),
        "{refusal:?}"
    );
    meet(plain_server(&pki, &TLS13), pki.client())
        .await
        .assert_good();
}

#[tokio::test]
async fn a_peer_that_does_not_speak_h2_is_refused() {
    let pki = Pki::new(1);
    let mut old = (*pki.client()).clone();
    old.alpn_protocols = vec![b"http/1.1".to_vec()];
    let refusal = meet(pki.server(), Arc::new(old.clone()))
        .await
        .server_refusal();
    assert!(
        matches!(
            refusal,
            HandshakeError::Tls(rustls::Error::NoApplicationProtocol)
        ),
        "{refusal:?}"
    );

    let mut silent = (*pki.server()).clone();
    silent.alpn_protocols.clear();
    let refusal = meet(Arc::new(silent), pki.client()).await.client_refusal();
    assert!(matches!(refusal, HandshakeError::Alpn), "{refusal:?}");
}

#[test]
fn material_that_does_not_fit_together_is_refused() {
    let pki = Pki::new(1);
    let (mine, other) = (LeafKey::generate().unwrap(), LeafKey::generate().unwrap());
    let issued = pki.issue(&broker(), &mine);
    let leaf_only = vec![issued.certificate().clone()];
    let new = |chain, key, bundle| {
        Material::new(chain, key, bundle).map(|material| material.chain().len())
    };
    assert!(matches!(
        new(issued.chain(), &other, pki.bundle()),
        Err(MaterialError::Mismatch)
    ));
    assert!(matches!(
        new(vec![], &mine, pki.bundle()),
        Err(MaterialError::Leaf(PeerError::Malformed))
    ));
    let ca_first = vec![pki.ca.certificate().clone()];
    assert!(matches!(
        new(ca_first, &mine, pki.bundle()),
        Err(MaterialError::Leaf(PeerError::KeyUsage))
    ));
    let stranger = Pki::new(2);
    assert!(matches!(
        new(leaf_only.clone(), &mine, stranger.bundle()),
        Err(MaterialError::IssuerAbsent)
    ));
    assert_eq!(
        new(leaf_only, &mine, pki.bundle()).unwrap(),
        2,
        "the CA certificate came from the bundle"
    );
    assert_eq!(new(issued.chain(), &mine, stranger.bundle()).unwrap(), 2);
    let pem = Material::from_pem(issued.chain_pem().as_bytes(), &mine, pki.bundle()).unwrap();
    assert_eq!(pem.identity(), issued.identity());
    assert!(matches!(
        Material::from_pem(b"", &mine, pki.bundle()),
        Err(MaterialError::Pem(_))
    ));
}

fn plain_client(pki: &Pki, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca.certificate().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(pki.client().client_auth_cert_resolver.clone());
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

fn plain_server(pki: &Pki, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(pki.server().cert_resolver.clone());
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}
