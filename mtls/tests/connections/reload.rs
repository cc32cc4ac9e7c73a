//! New certificates and new roots reach a running listener without a restart.

use attache_mtls::accept::AcceptLimits;
use attache_mtls::key::LeafKey;
use attache_mtls::stream::HandshakeError;
use attache_mtls::tls::{Credentials, Material, MaterialError};
use attache_mtls::verify::PeerError;

use crate::fixture::{Listening, Pki, broker, broker_id, bundle, exchange, node, operator};

#[tokio::test]
async fn the_served_certificate_is_swapped() {
    let pki = Pki::new(1);
    let served = pki.credentials(&broker());
    let mut listening =
        Listening::start(served.server_config().unwrap(), AcceptLimits::default()).await;
    let config = pki.client();
    let (_server, client) = listening.pair(&config).await;
    let first = client.connect_info().peer.unwrap();

    let key = LeafKey::generate().unwrap();
    let renewed = pki.issue(&broker(), &key);
    served
        .reload(Material::new(renewed.chain(), &key, pki.bundle()).unwrap())
        .unwrap();

    let (_server, client) = listening.pair(&config).await;
    let second = client.connect_info().peer.unwrap();
    assert_ne!(first.serial(), second.serial());
    assert_eq!(second.serial(), renewed.serial());
}

#[tokio::test]
async fn the_clients_certificate_is_swapped_too() {
    let pki = Pki::new(1);
    let mine = pki.credentials(&node());
    let config = mine.client_config(broker_id("b1")).unwrap();
    let mut listening = Listening::start(pki.server(), AcceptLimits::default()).await;
    let (server, _client) = listening.pair(&config).await;
    assert_eq!(
        server.connect_info().peer.unwrap().serial(),
        mine.current().identity().serial()
    );
    mine.reload(pki.material(&node(), pki.bundle())).unwrap();
    let (again, _client) = listening.pair(&config).await;
    assert_eq!(
        again.connect_info().peer.unwrap().serial(),
        mine.current().identity().serial()
    );
    assert_ne!(
        server.connect_info().peer.unwrap().serial(),
        again.connect_info().peer.unwrap().serial()
    );
}

#[tokio::test]
async fn the_roots_that_a_server_accepts_are_swapped() {
    let (old, new) = (Pki::new(1), Pki::new(2));
    let served = Credentials::new(old.material(&broker(), bundle(&[&old])));
    let mut listening =
        Listening::start(served.server_config().unwrap(), AcceptLimits::default()).await;
    // Both clients trust the server's certificate, of the old CA.
    let client = |pki: &Pki| {
        Credentials::new(pki.material(&node(), bundle(&[&old, &new])))
            .client_config(broker_id("b1"))
            .unwrap()
    };
    let (of_old, of_new) = (client(&old), client(&new));

    listening.pair(&of_old).await;
    assert!(refused(&listening, &of_new).await);
    served.reload_bundle(bundle(&[&old, &new]));
    listening.pair(&of_old).await;
    listening.pair(&of_new).await;
    served.reload_bundle(bundle(&[&new]));
    listening.pair(&of_new).await;
    assert!(refused(&listening, &of_old).await);
}

#[tokio::test]
async fn the_roots_that_a_client_accepts_are_swapped() {
    let (old, new) = (Pki::new(1), Pki::new(2));
    let mine = Credentials::new(old.material(&node(), bundle(&[&old])));
    let config = mine.client_config(broker_id("b1")).unwrap();
    let served = Credentials::new(new.material(&broker(), bundle(&[&old])));
    let mut listening =
        Listening::start(served.server_config().unwrap(), AcceptLimits::default()).await;
    let refusal = listening.connect(&config).await.unwrap_err();
    assert!(matches!(
        refusal,
        HandshakeError::Peer(PeerError::UnknownIssuer | PeerError::Chain(_))
    ));
    mine.reload_bundle(bundle(&[&new]));
    listening.pair(&config).await;
}

#[tokio::test]
async fn a_certificate_for_somebody_else_is_not_taken() {
    let pki = Pki::new(1);
    let served = pki.credentials(&broker());
    let before = served.current().identity().clone();
    for id in [node(), operator(), broker_id("b2").into()] {
        let refusal = served.reload(pki.material(&id, pki.bundle())).unwrap_err();
        assert!(matches!(refusal, MaterialError::OtherIdentity { found, .. } if found == id));
        assert_eq!(served.current().identity(), &before);
    }
}

/// A client of TLS 1.3 is told of its refusal when it first reads.
async fn refused(listening: &Listening, config: &std::sync::Arc<rustls::ClientConfig>) -> bool {
    let before = listening.acceptor.stats().failed;
    let answer = match listening.connect(config).await {
        Ok(mut stream) => exchange(&mut stream).await.is_err(),
        Err(_) => true,
    };
    answer && listening.acceptor.stats().failed == before + 1
}
