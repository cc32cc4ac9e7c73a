//! Good handshakes, and what a connection knows of its peer.

use std::sync::Arc;

use attache_mtls::accept::AcceptLimits;
use attache_mtls::bundle::TrustBundle;
use attache_mtls::key::LeafKey;
use attache_mtls::stream::MtlsStream;
use attache_mtls::tls::{Credentials, Material};
use rustls::client::Resumption;
use rustls::{CommonState, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsStream;

use crate::fixture::{
    Listening, Pki, broker, broker_id, ca_parameters, exchange, forge_under_intermediate, meet,
    node, operator,
};

#[tokio::test]
async fn both_ends_learn_who_the_other_is() {
    let pki = Pki::new(1);
    for id in [node(), operator(), broker()] {
        let key = LeafKey::generate().unwrap();
        let issued = pki.issue(&id, &key);
        let credentials =
            Credentials::new(Material::new(issued.chain(), &key, pki.bundle()).unwrap());
        let served = pki.credentials(&broker());
        let mut listening =
            Listening::start(served.server_config().unwrap(), AcceptLimits::default()).await;

        let config = credentials.client_config(broker_id("b1")).unwrap();
        let (server, client) = listening.pair(&config).await;

        let seen = server.connect_info();
        let peer = seen.peer.as_deref().unwrap();
        assert_eq!(peer.id(), &id);
        assert_eq!(peer.serial(), issued.serial());
        assert_eq!(peer.spki_sha256(), key.spki_sha256());
        assert_eq!(peer.not_after(), issued.identity().not_after());
        assert_eq!(peer.certificate(), issued.certificate());
        assert!(seen.remote.ip().is_loopback());
        assert_eq!(
            client.connect_info().peer.as_deref(),
            Some(served.current().identity())
        );
    }
}

#[tokio::test]
async fn bytes_cross_both_ways_over_tls_1_3_and_h2() {
    let pki = Pki::new(1);
    let mut listening = Listening::start(pki.server(), AcceptLimits::default()).await;
    let (mut server, mut client) = listening.pair(&pki.client()).await;
    assert_eq!(
        session(&client).protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
    assert_eq!(session(&client).alpn_protocol(), Some(&b"h2"[..]));

    let sent: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let copy = sent.clone();
    let writer = tokio::spawn(async move {
        client.write_all(&copy).await.unwrap();
        client.flush().await.unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
        client.shutdown().await.unwrap();
        answer
    });
    let mut got = vec![0; sent.len()];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(got, sent);
    server.write_all(b"done").await.unwrap();
    server.flush().await.unwrap();
    assert_eq!(&writer.await.unwrap(), b"done");
    assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0, "a clean end");
}

/// S9: a rejected client must not come back on an old session. The client here is as eager as one can be.
#[tokio::test]
async fn a_client_that_wants_to_resume_gets_a_full_handshake() {
    let pki = Pki::new(1);
    let mut eager = (*pki.client()).clone();
    eager.resumption = Resumption::in_memory_sessions(16);
    eager.enable_early_data = true;
    let eager = Arc::new(eager);
    let mut listening = Listening::start(pki.server(), AcceptLimits::default()).await;
    for _ in 0..3 {
        let (mut server, mut client) = listening.pair(&eager).await;
        // A ticket would come with the server's first bytes: let some cross.
        let echo = async {
            assert_eq!(server.read_u8().await.unwrap(), b'?');
            server.write_all(b"!").await.unwrap();
            server.flush().await.unwrap();
        };
        let (answer, ()) = tokio::join!(exchange(&mut client), echo);
        assert_eq!(answer.unwrap(), b'!');
        assert_eq!(session(&client).handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session(&server).handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(tickets(&client), 0);
    }
}

/// The control of the test above: the same client resumes with a server that lets it.
#[tokio::test]
async fn the_same_client_does_resume_where_tickets_are_sent() {
    let pki = Pki::new(1);
    let mut eager = (*pki.client()).clone();
    eager.resumption = Resumption::in_memory_sessions(16);
    let mut lax = (*pki.server()).clone();
    lax.send_tls13_tickets = 2;
    lax.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
    let (eager, mut listening) = (
        Arc::new(eager),
        Listening::start(Arc::new(lax), AcceptLimits::default()).await,
    );
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (mut server, mut client) = listening.pair(&eager).await;
        server.write_all(b"!").await.unwrap();
        server.flush().await.unwrap();
        client.read_u8().await.unwrap();
        kinds.push(session(&client).handshake_kind());
        assert_eq!(tickets(&client), 2);
    }
    assert_eq!(
        kinds,
        [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]
    );
}

#[tokio::test]
async fn our_own_client_asks_for_no_session_even_where_tickets_are_sent() {
    let pki = Pki::new(1);
    let mut lax = (*pki.server()).clone();
    lax.send_tls13_tickets = 2;
    lax.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
    let (config, mut listening) = (
        pki.client(),
        Listening::start(Arc::new(lax), AcceptLimits::default()).await,
    );
    for _ in 0..2 {
        let (mut server, mut client) = listening.pair(&config).await;
        server.write_all(b"!").await.unwrap();
        server.flush().await.unwrap();
        client.read_u8().await.unwrap();
        assert_eq!(session(&client).handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_meeting_of_two_good_ends_is_good() {
    let pki = Pki::new(1);
    meet(pki.server(), pki.client()).await.assert_good();
}

/// SPIRE signs through intermediates, which name no extended key usage.
#[tokio::test]
async fn a_chain_through_an_intermediate_is_good_on_both_sides() {
    let pki = Pki::new(1);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = ca_parameters("root", rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap();
    let roots = vec![pki.ca.certificate().clone(), root.into()];
    let roots = Arc::new(TrustBundle::from_der(roots).unwrap());
    let issuer = rcgen::Issuer::new(params, key);

    let client = forge_under_intermediate(&issuer, &node().to_string());
    let server = Credentials::new(pki.material(&broker(), roots.clone()));
    let server = server.server_config().unwrap();
    meet(server, client.as_client(&pki.client()))
        .await
        .assert_good();

    let server = forge_under_intermediate(&issuer, &broker().to_string());
    let client = Credentials::new(pki.material(&node(), roots));
    let client = client.client_config(broker_id("b1")).unwrap();
    meet(server.as_server(&pki.server()), client)
        .await
        .assert_good();
}

fn session(stream: &MtlsStream) -> &CommonState {
    stream.tls().get_ref().1
}

fn tickets(client: &MtlsStream) -> u32 {
    match client.tls() {
        TlsStream::Client(tls) => tls.get_ref().1.tls13_tickets_received(),
        TlsStream::Server(_) => panic!("the server's end"),
    }
}
