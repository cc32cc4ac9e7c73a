//! The enrollment listener, and the client that has a join token's pin and nothing else.

use attache_mtls::accept::AcceptLimits;
use attache_mtls::identity::SpkiSha256;
use attache_mtls::stream::HandshakeError;
use attache_mtls::tls::{anonymous_client_config, spki_pinned_client_config};
use attache_mtls::verify::PeerError;

use crate::fixture::{Listening, Pki, broker, broker_id, meet, node};

#[tokio::test]
async fn the_right_pin_accepts_and_names_the_broker() {
    let pki = Pki::new(1);
    let server = pki
        .credentials(&broker())
        .enrollment_server_config()
        .unwrap();
    let client = spki_pinned_client_config(pki.ca.spki_sha256()).unwrap();
    let mut listening = Listening::start(server, AcceptLimits::default()).await;
    let (server, client) = listening.pair(&client).await;
    assert_eq!(
        client.connect_info().peer.as_deref().map(|peer| peer.id()),
        Some(&broker())
    );
    assert!(server.connect_info().peer.is_none());
}

#[tokio::test]
async fn the_wrong_pin_refuses() {
    let (pki, other) = (Pki::new(1), Pki::new(2));
    let server = pki
        .credentials(&broker())
        .enrollment_server_config()
        .unwrap();
    for pin in [other.ca.spki_sha256(), SpkiSha256::from_bytes([0; 32])] {
        let refusal = meet(server.clone(), spki_pinned_client_config(pin).unwrap())
            .await
            .client_refusal();
        assert!(
            matches!(refusal, HandshakeError::Peer(PeerError::PinnedCaAbsent { pin: p }) if p == pin)
        );
    }
}

/// Whoever has the CA certificate, which is public, can send it along.
#[tokio::test]
async fn the_pinned_certificate_in_a_chain_that_it_did_not_sign_is_refused() {
    let (pki, other) = (Pki::new(1), Pki::new(2));
    let mut forged = other.forge("spiffe://example.org/broker/b1", |_| {});
    forged.chain.push(pki.ca.certificate().clone());
    let server = forged.as_server(
        &pki.credentials(&broker())
            .enrollment_server_config()
            .unwrap(),
    );
    let refusal = meet(
        server,
        spki_pinned_client_config(pki.ca.spki_sha256()).unwrap(),
    )
    .await
    .client_refusal();
    assert!(
        matches!(
            refusal,
            HandshakeError::Peer(PeerError::UnknownIssuer | PeerError::Chain(_))
        ),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_server_that_sends_no_ca_certificate_is_refused() {
    let pki = Pki::new(1);
    let mut forged = pki.forge("spiffe://example.org/broker/b1", |_| {});
    let server = |forged: &crate::fixture::Forged| {
        forged.as_server(
            &pki.credentials(&broker())
                .enrollment_server_config()
                .unwrap(),
        )
    };
    let client = spki_pinned_client_config(pki.ca.spki_sha256()).unwrap();
    meet(server(&forged), client.clone()).await.assert_good();
    forged.chain.truncate(1);
    let refusal = meet(server(&forged), client).await.client_refusal();
    assert!(matches!(
        refusal,
        HandshakeError::Peer(PeerError::PinnedCaAbsent { .. })
    ));
}

#[tokio::test]
async fn a_node_under_the_pinned_ca_is_no_broker() {
    let pki = Pki::new(1);
    let forged = pki.forge(&node().to_string(), |_| {});
    let server = forged.as_server(
        &pki.credentials(&broker())
            .enrollment_server_config()
            .unwrap(),
    );
    let refusal = meet(
        server,
        spki_pinned_client_config(pki.ca.spki_sha256()).unwrap(),
    )
    .await
    .client_refusal();
    assert!(
        matches!(refusal, HandshakeError::Peer(PeerError::NotABroker { found }) if found == node())
    );
}

#[tokio::test]
async fn a_client_with_the_bundle_alone_checks_the_broker_as_always() {
    let (pki, other) = (Pki::new(1), Pki::new(2));
    let server = pki
        .credentials(&broker())
        .enrollment_server_config()
        .unwrap();
    meet(
        server.clone(),
        anonymous_client_config(pki.bundle(), broker_id("b1")).unwrap(),
    )
    .await
    .assert_good();
    let wrong_name = anonymous_client_config(pki.bundle(), broker_id("b2")).unwrap();
    let refusal = meet(server.clone(), wrong_name).await.client_refusal();
    assert!(matches!(
        refusal,
        HandshakeError::Peer(PeerError::OtherBroker { .. })
    ));
    let wrong_root = anonymous_client_config(other.bundle(), broker_id("b1")).unwrap();
    let refusal = meet(server, wrong_root).await.client_refusal();
    assert!(matches!(
        refusal,
        HandshakeError::Peer(PeerError::UnknownIssuer | PeerError::Chain(_))
    ));
}

#[tokio::test]
async fn a_client_with_a_certificate_is_served_without_being_asked_for_it() {
    let pki = Pki::new(1);
    let server = pki
        .credentials(&broker())
        .enrollment_server_config()
        .unwrap();
    let mut listening = Listening::start(server, AcceptLimits::default()).await;
    let (server, _client) = listening.pair(&pki.client()).await;
    assert!(server.connect_info().peer.is_none());
}
