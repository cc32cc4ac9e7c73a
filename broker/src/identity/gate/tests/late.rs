//! Late renewal: who proves a recorded key is renewed for seven days after the certificate's end, and nobody else.

use attache_envelope::late_renewal::LateRenewal;

use super::*;

const WEEK_MS: u64 = 7 * DAY_MS;
const MINUTE_MS: u64 = 60 * 1000;

/// A node's key and certificate, as its state folder has them.
struct Held {
    key: LeafKey,
    peer: Arc<PeerIdentity>,
}

impl World {
    async fn held(&self) -> Held {
        let key = LeafKey::generate().unwrap();
        let peer = self.node_with(request_of(&key)).await;
        Held { key, peer }
    }

    async fn renew_late(&self, held: &Held) -> Result<Held, EnrollError> {
        let key = LeafKey::generate().unwrap();
        let issued = self
            .gate
            .renew_late(asked_at(held, &key, self.gate.now()))
            .await?;
        let peer = Arc::new(issued.identity().clone());
        Ok(Held { key, peer })
    }
}

/// What a plugin asks for that holds this, at that time.
fn asked_at(held: &Held, next: &LeafKey, at: Timestamp) -> LateRequest {
    let request = request_of(next);
    let certificate = held.peer.certificate().to_vec();
    let signed = LateRenewal {
        broker: BROKER,
        certificate: &certificate,
        request: request.as_der(),
        version: "2.0",
        at_ms: crate::identity::ms(at),
    };
    let signature = held.key.sign(&signed.transcript()).unwrap();
    LateRequest {
        certificate,
        request,
        version: version("2.0"),
        at,
        signature,
    }
}

fn late(result: Result<Held, EnrollError>) -> LateError {
    match result.map(drop) {
        Err(EnrollError::Late(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn not_admitted(result: Result<Held, EnrollError>) -> NotAdmitted {
    match result.map(drop) {
        Err(EnrollError::NotAdmitted(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_renews_for_seven_days_after_its_certificates_end() {
    let world = World::new().await;
    let mut held = world.held().await;
    for _ in 0..2 {
        world.pass(HOUR_MS + WEEK_MS);
        held = world.renew_late(&held).await.unwrap();
        world.gate.admit(&held.peer, false).await.unwrap();
    }
    world.pass(HOUR_MS + WEEK_MS + 1000);
    let error = late(world.renew_late(&held).await);
    assert!(matches!(error, LateError::Over { .. }), "{error}");
    assert!(error.to_string().contains("enroll anew"), "{error}");
}

#[tokio::test]
async fn a_late_renewal_is_on_record_as_one_and_takes_the_version_up() {
    let world = World::new().await;
    let held = world.held().await;
    world.pass(DAY_MS);
    world.renew_late(&held).await.unwrap();
    let events = world.events().await;
    let [
        Event::Enrollment(_),
        Event::Anchor(_),
        Event::Renewal(renewal),
        ..,
    ] = events.as_slice()
    else {
        panic!("{events:?}");
    };
    let evidence = renewal.evidence.as_deref().unwrap();
    assert!(evidence.contains("recorded key"), "{evidence}");
    let view = world.gate.directory().view();
    let (_, record) = &view.nodes[&held.peer.id().to_string()];
    assert_eq!(record.version, "2.0");
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again_and_the_last_one_counts() {
    let world = World::new().await;
    let held = world.held().await;
    world.pass(DAY_MS);
    world.renew_late(&held).await.unwrap();
    let next = world.renew_late(&held).await.unwrap();
    // The first use of what was renewed late may itself be late.
    world.pass(DAY_MS);
    let last = world.renew_late(&next).await.unwrap();
    world.gate.admit(&last.peer, false).await.unwrap();
    // The key before the current one is known for ten minutes: it is refused, and no copy.
    let error = not_admitted(world.renew_late(&next).await);
    assert_eq!(error, NotAdmitted::Superseded);
    world.gate.admit(&last.peer, false).await.unwrap();
}

#[tokio::test]
async fn a_key_older_than_the_one_before_is_a_copys() {
    let world = World::new().await;
    let old = world.held().await;
    world.pass(DAY_MS);
    let new = world.renew_late(&old).await.unwrap();
    world.gate.admit(&new.peer, false).await.unwrap();
    world.pass(11 * MINUTE_MS);
    let error = not_admitted(world.renew_late(&old).await);
    assert!(matches!(error, NotAdmitted::Copy { .. }), "{error}");
    // The ban holds for late renewals as for all else.
    let error = not_admitted(world.renew_late(&new).await);
    assert!(matches!(error, NotAdmitted::Banned { .. }), "{error}");
}

#[tokio::test]
async fn whoever_cannot_sign_for_the_certificate_gets_nothing_and_bans_nobody() {
    let world = World::new().await;
    let held = world.held().await;
    world.pass(DAY_MS);
    let thief = Held {
        key: LeafKey::generate().unwrap(),
        peer: Arc::clone(&held.peer),
    };
    let error = late(world.renew_late(&thief).await);
    assert!(matches!(error, LateError::Signature), "{error}");
    // Of a request that was signed nothing may be changed.
    let next = LeafKey::generate().unwrap();
    let bent: [fn(&mut LateRequest); 4] = [
        |asked| asked.request = csr(),
        |asked| asked.version = version("2.1"),
        |asked| asked.at += SignedDuration::from_millis(1),
        |asked| asked.signature[40] ^= 1,
    ];
    for bend in bent {
        let mut asked = asked_at(&held, &next, world.gate.now());
        bend(&mut asked);
        let error = world.gate.renew_late(asked).await.map(drop).unwrap_err();
        let refused = matches!(error, EnrollError::Late(LateError::Signature));
        assert!(refused, "{error}");
    }
    assert!(world.renew_late(&held).await.is_ok());
}

#[tokio::test]
async fn a_proof_is_good_for_five_minutes_either_way() {
    let world = World::new().await;
    let held = world.held().await;
    world.pass(DAY_MS);
    let key = LeafKey::generate().unwrap();
    let (now, limit) = (world.gate.now(), SignedDuration::from_mins(5));
    let more = SignedDuration::from_millis(1);
    for at in [now - limit, now + limit] {
        let asked = asked_at(&held, &key, at);
        world.gate.renew_late(asked).await.unwrap();
    }
    for at in [now - limit - more, now + limit + more] {
        let asked = asked_at(&held, &key, at);
        let error = world.gate.renew_late(asked).await.map(drop).unwrap_err();
        assert!(error.to_string().contains("compare the clocks"), "{error}");
    }
}

#[tokio::test]
async fn only_nodes_renew_late_and_only_those_of_this_ca() {
    let world = World::new().await;
    let key = LeafKey::generate().unwrap();
    let csr = request_of(&key);
    let issued = world.gate.bootstrap_operator(operator("ada"), csr).await;
    let peer = Arc::new(issued.unwrap().identity().clone());
    let error = late(world.renew_late(&Held { key, peer }).await);
    assert!(matches!(error, LateError::NotANode(_)), "{error}");
    let elsewhere = World::new().await;
    let stranger = elsewhere.held().await;
    let error = late(world.renew_late(&stranger).await);
    assert!(matches!(error, LateError::Certificate(_)), "{error}");
}
