//! The client that knows a broker by the key that it was last seen with: the end of its certificate is forgiven, and
//! nothing else.

use std::time::Duration;

use attache_mtls::connect::Connector;
use attache_mtls::identity::SpkiSha256;
use attache_mtls::stream::HandshakeError;
use attache_mtls::tls::recorded_client_config;
use attache_mtls::verify::PeerError;
use jiff::Timestamp;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType};

use crate::fixture::{Forged, LONG, Meeting, Pki, broker, broker_id, meet_by, uri};

const BROKER: &str = "spiffe://example.org/broker/b1";

/// Ended five seconds ago.
fn ended(params: &mut CertificateParams) {
    let now = u64::try_from(Timestamp::now().as_second()).unwrap();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now - 5);
}

async fn met(pki: &Pki, server: &Forged, recorded: SpkiSha256) -> Meeting {
    let base = pki.credentials(&broker()).enrollment_server_config();
    let client = recorded_client_config(pki.bundle(), broker_id("b1"), recorded).unwrap();
    let client = Connector::for_recorded_key(client, LONG);
    meet_by(server.as_server(&base.unwrap()), client).await
}

async fn refusal(pki: &Pki, server: &Forged, recorded: SpkiSha256) -> PeerError {
    let HandshakeError::Peer(error) = met(pki, server, recorded).await.client_refusal() else {
        panic!("refused for another reason");
    };
    error
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_good_with_the_recorded_key_and_with_no_other() {
    let pki = Pki::new(1);
    let live = pki.forge(BROKER, |_| {});
    met(&pki, &live, SpkiSha256::from_bytes([0; 32]))
        .await
        .assert_good();
    let old = pki.forge(BROKER, ended);
    met(&pki, &old, old.spki_sha256()).await.assert_good();
    let error = refusal(&pki, &old, live.spki_sha256()).await;
    assert!(matches!(error, PeerError::Expired { .. }), "{error:?}");
}

#[tokio::test]
async fn no_other_defect_is_forgiven_whether_or_not_the_certificate_has_ended() {
    type Change = fn(&mut CertificateParams);
    type Why = fn(&PeerError) -> bool;
    let (pki, other) = (Pki::new(1), Pki::new(2));
    let defects: [(&str, Change, Why); 5] = [
        (
            "not a server's",
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            |why| matches!(why, PeerError::Usage { .. }),
        ),
        (
            "no use named",
            |params| params.extended_key_usages.clear(),
            |why| matches!(why, PeerError::Usage { .. }),
        ),
        (
            "another broker's",
            |params| params.subject_alt_names = vec![uri("spiffe://example.org/broker/b2")],
            |why| matches!(why, PeerError::OtherBroker { .. }),
        ),
        (
            "a second name",
            |params| {
                params
                    .subject_alt_names
                    .push(SanType::DnsName("b1.example.org".try_into().unwrap()));
            },
            |why| matches!(why, PeerError::Names { .. }),
        ),
        (
            "no leaf's key usage",
            |params| params.key_usages.clear(),
            |why| matches!(why, PeerError::KeyUsage),
        ),
    ];
    for (what, change, why) in defects {
        let live = pki.forge(BROKER, change);
        let old = pki.forge(BROKER, |params| {
            change(params);
            ended(params);
        });
        for server in [live, old] {
            let error = refusal(&pki, &server, server.spki_sha256()).await;
            assert!(why(&error), "{what}: {error:?}");
        }
    }
    let strange = [other.forge(BROKER, |_| {}), other.forge(BROKER, ended)];
    for server in strange {
        let error = refusal(&pki, &server, server.spki_sha256()).await;
        assert!(
            matches!(error, PeerError::UnknownIssuer | PeerError::Chain(_)),
            "{error:?}"
        );
    }
    let early = pki.forge(BROKER, |params| {
        params.not_before = params.not_after - Duration::from_secs(60);
    });
    let error = refusal(&pki, &early, early.spki_sha256()).await;
    assert!(matches!(error, PeerError::NotYetValid { .. }), "{error:?}");
}
