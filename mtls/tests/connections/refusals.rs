//! Handshakes that must fail, each by its own rule, and each beside a control that differs in that rule alone.

use std::time::Duration;

use attache_mtls::key::LeafKey;
use attache_mtls::spiffe::{OperatorId, PeerId, SpiffeError};
use attache_mtls::stream::HandshakeError;
use attache_mtls::tls::Material;
use attache_mtls::verify::PeerError;
use jiff::Timestamp;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};
use rustls::AlertDescription;

use crate::fixture::{Forged, Meeting, Pki, broker, broker_id, bundle, meet, node, uri};

const NODE: &str = "spiffe://example.org/node/prod/uid-1";
const BROKER: &str = "spiffe://example.org/broker/b1";

/// Meets our server with a forged client certificate.
async fn as_client(pki: &Pki, forged: &Forged) -> Meeting {
    meet(pki.server(), forged.as_client(&pki.client())).await
}

/// Meets our client with a forged server certificate.
async fn as_server(pki: &Pki, forged: &Forged) -> Meeting {
    meet(forged.as_server(&pki.server()), pki.client()).await
}

/// The forged certificate is refused on both sides, for the same reason.
async fn refused_on_both_sides(
    change: impl Fn(&mut CertificateParams),
    why: impl Fn(&PeerError) -> bool,
) {
    let pki = Pki::new(1);
    as_client(&pki, &pki.forge(NODE, |_| {}))
        .await
        .assert_good();
    as_server(&pki, &pki.forge(BROKER, |_| {}))
        .await
        .assert_good();
    let HandshakeError::Peer(error) = as_client(&pki, &pki.forge(NODE, &change))
        .await
        .server_refusal()
    else {
        panic!("refused for another reason");
    };
    assert!(why(&error), "{error:?}");
    let HandshakeError::Peer(error) = as_server(&pki, &pki.forge(BROKER, &change))
        .await
        .client_refusal()
    else {
        panic!("refused for another reason");
    };
    assert!(why(&error), "{error:?}");
}

#[tokio::test]
async fn two_uris_are_refused() {
    refused_on_both_sides(
        |params| {
            params
                .subject_alt_names
                .push(uri("spiffe://example.org/operator/admin"))
        },
        |error| *error == PeerError::Names { uris: 2, others: 0 },
    )
    .await;
}

#[tokio::test]
async fn the_same_uri_twice_is_refused() {
    refused_on_both_sides(
        |params| {
            params
                .subject_alt_names
                .push(params.subject_alt_names[0].clone())
        },
        |error| *error == PeerError::Names { uris: 2, others: 0 },
    )
    .await;
}

#[tokio::test]
async fn a_dns_name_is_refused() {
    refused_on_both_sides(
        |params| {
            params
                .subject_alt_names
                .push(SanType::DnsName("broker.example.org".try_into().unwrap()))
        },
        |error| *error == PeerError::Names { uris: 1, others: 1 },
    )
    .await;
}

#[tokio::test]
async fn an_address_or_mailbox_in_place_of_an_id_is_refused() {
    refused_on_both_sides(
        |params| params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())],
        |error| *error == PeerError::Names { uris: 0, others: 1 },
    )
    .await;
    refused_on_both_sides(
        |params| {
            params.subject_alt_names =
                vec![SanType::Rfc822Name("a@example.org".try_into().unwrap())]
        },
        |error| *error == PeerError::Names { uris: 0, others: 1 },
    )
    .await;
}

#[tokio::test]
async fn a_certificate_without_a_name_is_refused() {
    refused_on_both_sides(
        |params| params.subject_alt_names.clear(),
        |error| *error == PeerError::Names { uris: 0, others: 0 },
    )
    .await;
}

#[tokio::test]
async fn a_name_that_is_no_id_of_ours_is_refused() {
    for (name, why) in [
        ("https://example.org/operator/a", SpiffeError::Scheme),
        ("spiffe://example.org", SpiffeError::Kind),
        (
            "spiffe://example.org/ns/default/sa/default",
            SpiffeError::Kind,
        ),
        ("spiffe://example.org/broker/b1/", SpiffeError::Segment),
        (
            "spiffe://example.org/broker/b1?x",
            SpiffeError::QueryOrFragment,
        ),
        ("spiffe://EXAMPLE.org/broker/b1", SpiffeError::TrustDomain),
    ] {
        refused_on_both_sides(
            |params| params.subject_alt_names = vec![uri(name)],
            |error| *error == PeerError::Spiffe(why),
        )
        .await;
    }
}

#[tokio::test]
async fn another_trust_domain_is_refused_even_under_our_ca() {
    refused_on_both_sides(
        |params| {
            let theirs = if params.subject_alt_names == [uri(NODE)] {
                "spiffe://example.com/node/prod/uid-1"
            } else {
                "spiffe://example.com/broker/b1"
            };
            params.subject_alt_names = vec![uri(theirs)];
        },
        |error| matches!(error, PeerError::TrustDomain { found, .. } if found.as_str() == "example.com"),
    )
    .await;
}

#[tokio::test]
async fn a_certificate_without_the_use_is_refused() {
    refused_on_both_sides(
        |params| params.extended_key_usages.clear(),
        |error| matches!(error, PeerError::Usage { .. }),
    )
    .await;
    let pki = Pki::new(1);
    let only = |id, usage| pki.forge(id, |params| params.extended_key_usages = vec![usage]);
    let server_only = as_client(&pki, &only(NODE, ExtendedKeyUsagePurpose::ServerAuth))
        .await
        .server_refusal();
    assert!(matches!(
        server_only,
        HandshakeError::Peer(PeerError::Usage {
            wanted: "clientAuth"
        })
    ));
    let client_only = as_server(&pki, &only(BROKER, ExtendedKeyUsagePurpose::ClientAuth))
        .await
        .client_refusal();
    assert!(matches!(
        client_only,
        HandshakeError::Peer(PeerError::Usage {
            wanted: "serverAuth"
        })
    ));
    let any = as_client(&pki, &only(NODE, ExtendedKeyUsagePurpose::Any))
        .await
        .server_refusal();
    assert!(matches!(
        any,
        HandshakeError::Peer(PeerError::Usage {
            wanted: "clientAuth"
        })
    ));
}

#[tokio::test]
async fn a_leaf_that_may_sign_certificates_is_refused() {
    for usages in [
        vec![],
        vec![KeyUsagePurpose::KeyEncipherment],
        vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ],
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign],
    ] {
        refused_on_both_sides(
            |params| params.key_usages = usages.clone(),
            |error| *error == PeerError::KeyUsage,
        )
        .await;
    }
}

#[tokio::test]
async fn a_ca_certificate_is_no_leaf() {
    refused_on_both_sides(
        |params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
        |error| matches!(error, PeerError::Chain(_)),
    )
    .await;
}

/// The broker's CA says pathLen 0, and that holds although it is a root.
#[tokio::test]
async fn an_intermediate_below_our_ca_is_refused() {
    let pki = Pki::new(1);
    let too_deep = |error: &HandshakeError| {
        matches!(
            error,
            HandshakeError::Peer(PeerError::Chain(webpki::Error::PathLenConstraintViolated))
        )
    };
    let refusal = as_client(&pki, &pki.forge_under_intermediate(NODE))
        .await
        .server_refusal();
    assert!(too_deep(&refusal), "{refusal:?}");
    let refusal = as_server(&pki, &pki.forge_under_intermediate(BROKER))
        .await
        .client_refusal();
    assert!(too_deep(&refusal), "{refusal:?}");
}

#[tokio::test]
async fn expired_and_future_certificates_are_refused() {
    let now = u64::try_from(Timestamp::now().as_second()).unwrap();
    let at = |second: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(second);
    refused_on_both_sides(
        |params| params.not_after = at(now - 5),
        |error| matches!(error, PeerError::Expired { not_after } if not_after.as_second() == i64::try_from(now - 5).unwrap()),
    )
    .await;
    refused_on_both_sides(
        |params| params.not_before = at(now + 600),
        |error| matches!(error, PeerError::NotYetValid { .. }),
    )
    .await;
}

#[tokio::test]
async fn a_client_learns_by_the_alert_that_its_certificate_has_ended() {
    let pki = Pki::new(1);
    let (key, hours_ago) = (
        LeafKey::generate().unwrap(),
        Timestamp::now() - Duration::from_secs(7200),
    );
    let old = Pki::made_at(1, hours_ago, Duration::from_secs(86400));
    let ended = old.issue_at(&node(), &key, hours_ago, Duration::from_secs(3600));
    let material = Material::new(ended.chain(), &key, pki.bundle()).unwrap();
    let client = attache_mtls::tls::Credentials::new(material)
        .client_config(broker_id("b1"))
        .unwrap();
    let meeting = meet(pki.server(), client).await;
    let answer = meeting.exchange.as_ref().unwrap().as_ref().unwrap_err();
    let alert = answer
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    assert_eq!(
        alert,
        Some(&rustls::Error::AlertReceived(
            AlertDescription::CertificateExpired
        ))
    );
    assert!(matches!(
        meeting.server_refusal(),
        HandshakeError::Peer(PeerError::Expired { .. })
    ));
}

#[tokio::test]
async fn a_root_that_has_ended_vouches_for_nobody() {
    let ago = Timestamp::now() - Duration::from_secs(7200);
    let ended = Pki::made_at(1, ago, Duration::from_secs(3600));
    let valid = Pki::made_at(1, ago, Duration::from_secs(86400));
    as_client(&valid, &valid.forge(NODE, |_| {}))
        .await
        .assert_good();
    let material = valid.material(&broker(), bundle(&[&ended]));
    let server = attache_mtls::tls::Credentials::new(material)
        .server_config()
        .unwrap();
    let refusal = meet(server, valid.client()).await.server_refusal();
    assert!(
        matches!(refusal, HandshakeError::Peer(PeerError::UnknownIssuer)),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn another_ca_is_refused_on_both_sides() {
    let (ours, theirs) = (Pki::new(1), Pki::new(2));
    // Same names, same trust domain, same CA subject; the other end trusts them.
    let foreign_client = theirs.material(&node(), ours.bundle());
    let client = attache_mtls::tls::Credentials::new(foreign_client)
        .client_config(broker_id("b1"))
        .unwrap();
    let refusal = meet(ours.server(), client).await.server_refusal();
    assert!(
        matches!(
            refusal,
            HandshakeError::Peer(PeerError::UnknownIssuer | PeerError::Chain(_))
        ),
        "{refusal:?}"
    );

    let foreign_server = theirs.material(&broker(), ours.bundle());
    let server = attache_mtls::tls::Credentials::new(foreign_server)
        .server_config()
        .unwrap();
    let refusal = meet(server, ours.client()).await.client_refusal();
    assert!(
        matches!(
            refusal,
            HandshakeError::Peer(PeerError::UnknownIssuer | PeerError::Chain(_))
        ),
        "{refusal:?}"
    );
}

/// S8: a broker is who its certificate says, not who answers at its address.
#[tokio::test]
async fn a_server_with_another_brokers_id_is_refused() {
    let pki = Pki::new(1);
    let other = pki
        .credentials(&broker_id("b2").into())
        .server_config()
        .unwrap();
    let refusal = meet(other.clone(), pki.client()).await.client_refusal();
    let HandshakeError::Peer(PeerError::OtherBroker { expected, found }) = refusal else {
        panic!("refused for another reason: {refusal:?}");
    };
    assert_eq!((expected, found), (broker(), PeerId::from(broker_id("b2"))));
    let asked_for = pki
        .credentials(&node())
        .client_config(broker_id("b2"))
        .unwrap();
    meet(other, asked_for).await.assert_good();
}

#[tokio::test]
async fn a_node_or_operator_cannot_play_the_broker() {
    let pki = Pki::new(1);
    for id in [
        node(),
        PeerId::from(OperatorId::new(crate::fixture::td(), "b1").unwrap()),
    ] {
        let refusal = meet(pki.credentials(&id).server_config().unwrap(), pki.client())
            .await
            .client_refusal();
        assert!(
            matches!(refusal, HandshakeError::Peer(PeerError::Usage { .. })),
            "{refusal:?}"
        );
        let with_the_use = as_server(&pki, &pki.forge(&id.to_string(), |_| {}))
            .await
            .client_refusal();
        assert!(
            matches!(
                with_the_use,
                HandshakeError::Peer(PeerError::OtherBroker { .. })
            ),
            "{with_the_use:?}"
        );
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let pki = Pki::new(1);
    let anonymous =
        attache_mtls::tls::anonymous_client_config(pki.bundle(), broker_id("b1")).unwrap();
    let refusal = meet(pki.server(), anonymous).await.server_refusal();
    assert!(
        matches!(
            refusal,
            HandshakeError::Tls(rustls::Error::NoCertificatesPresented)
        ),
        "{refusal:?}"
    );
}
