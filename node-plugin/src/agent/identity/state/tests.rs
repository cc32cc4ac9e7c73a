use std::os::unix::fs::PermissionsExt;

use attache_mtls::ca::{CA_VALIDITY, CertificateAuthority, CertificateRequest};
use attache_proto::attache::v1 as pb;

use super::*;
use crate::agent::identity::issued::IssuedError;
use crate::vectors::{Expected, Fields, run};

const SEED: [u8; 32] = [9; 32];
const HOUR: Duration = Duration::from_secs(3600);

fn ca() -> CertificateAuthority {
    let domain = "example.internal".parse().unwrap();
    CertificateAuthority::create(&SEED, &domain, "CA", CA_VALIDITY, Timestamp::now()).unwrap()
}

fn node(uid: &str) -> PeerId {
    NodeId::new("example.internal".parse().unwrap(), "local", uid)
        .unwrap()
        .into()
}

fn broker() -> BrokerId {
    "spiffe://example.internal/broker/broker-0".parse().unwrap()
}

fn certificate(key: &LeafKey, id: &PeerId, validity: Duration) -> pb::IssuedCertificate {
    let ca = ca();
    let request = CertificateRequest::verify(&key.certificate_request().unwrap()).unwrap();
    let issued = ca
        .issue(&SEED, &request, id, validity, Timestamp::now())
        .unwrap();
    pb::IssuedCertificate {
        chain: issued.chain().iter().map(|der| der.to_vec()).collect(),
        trust_bundle: vec![ca.certificate().to_vec()],
        spiffe_id: id.to_string(),
        not_before: None,
        not_after: None,
    }
}

fn issued(key: &LeafKey) -> Issued {
    Issued::check(
        Some(certificate(key, &node("n1"), HOUR)),
        key,
        Timestamp::now(),
    )
    .unwrap()
}

fn folder() -> (tempfile::TempDir, StateDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    (folder, state)
}

fn key_in_use(state: &StateDir) -> Option<SpkiSha256> {
    let joined = state.load(Timestamp::now()).unwrap()?.usable()?;
    Some(joined.material.identity().spki_sha256())
}

#[test]
fn an_adopted_identity_is_there_after_a_restart() {
    let (_folder, state) = folder();
    assert!(key_in_use(&state).is_none());
    let key = state.next_key().unwrap();
    assert_eq!(
        state.next_key().unwrap().spki_sha256(),
        key.spki_sha256(),
        "on disk before it is sent"
    );
    let joined = state.adopt(&issued(&key), &broker(), &key).unwrap();
    assert_eq!(joined.broker, broker());
    assert_eq!(key_in_use(&state), Some(key.spki_sha256()));
    assert_ne!(
        state.next_key().unwrap().spki_sha256(),
        key.spki_sha256(),
        "the next one is new"
    );
}

/// The note is about one key: what is enrolled after it is used.
#[test]
fn a_key_that_the_broker_does_not_know_is_not_used_again_after_a_restart() {
    let (_folder, state) = folder();
    let first = state.next_key().unwrap();
    state.adopt(&issued(&first), &broker(), &first).unwrap();
    state.note_unknown(first.spki_sha256()).unwrap();
    let found = state.load(Timestamp::now()).unwrap().unwrap();
    assert!(matches!(&found, Found::Unknown(of) if *of == broker()));
    assert!(found.usable().is_none());
    let second = state.next_key().unwrap();
    assert_ne!(second.spki_sha256(), first.spki_sha256());
    state.adopt(&issued(&second), &broker(), &second).unwrap();
    assert_eq!(key_in_use(&state), Some(second.spki_sha256()));
}

/// Ended, it is good for a late renewal all the same: the store of before may be back.
#[test]
fn an_unknown_key_whose_certificate_has_ended_is_an_ended_one() {
    let (_folder, state) = folder();
    let key = state.next_key().unwrap();
    state.adopt(&issued(&key), &broker(), &key).unwrap();
    state.note_unknown(key.spki_sha256()).unwrap();
    let later = Timestamp::now() + 2 * HOUR;
    let found = state.load(later).unwrap().unwrap();
    assert!(matches!(found, Found::Ended(_)));
}

/// Killed after any of the writes of a renewal, one of the two identities is whole, and a lost answer loses neither.
#[test]
fn a_renewal_cut_off_anywhere_leaves_a_usable_identity() {
    let (folder, state) = folder();
    let first = state.next_key().unwrap();
    state.adopt(&issued(&first), &broker(), &first).unwrap();
    // Before the answer.
    let second = state.next_key().unwrap();
    assert_eq!(key_in_use(&state), Some(first.spki_sha256()));
    // After the bundle, before the certificate.
    let answer = issued(&second);
    state
        .write(BUNDLE, answer.bundle.to_pem().as_bytes())
        .unwrap();
    assert_eq!(key_in_use(&state), Some(first.spki_sha256()));
    // After the certificate, before the key: the next start ends the step.
    state
        .write(
            CERTIFICATE,
            pem::encode_certificates(&answer.chain).as_bytes(),
        )
        .unwrap();
    assert_eq!(key_in_use(&state), Some(second.spki_sha256()));
    assert!(!folder.path().join(NEXT_KEY).exists());
    assert_eq!(
        LeafKey::read(&folder.path().join(KEY))
            .unwrap()
            .spki_sha256(),
        second.spki_sha256()
    );
}

#[test]
fn what_is_damaged_ended_or_not_of_one_pair_is_no_identity() {
    let (folder, state) = folder();
    let key = state.next_key().unwrap();
    state.adopt(&issued(&key), &broker(), &key).unwrap();
    let after = |change: &dyn Fn()| {
        let kept: Vec<_> = [KEY, CERTIFICATE, BUNDLE, BROKER_ID]
            .map(|file| (file, state.read(file).unwrap().unwrap()))
            .into();
        change();
        let usable = key_in_use(&state).is_some();
        for (file, bytes) in kept {
            state.write(file, &bytes).unwrap();
        }
        assert!(key_in_use(&state).is_some());
        usable
    };
    for file in [KEY, CERTIFICATE, BUNDLE, BROKER_ID] {
        assert!(
            !after(&|| std::fs::remove_file(folder.path().join(file)).unwrap()),
            "{file} gone"
        );
        assert!(
            !after(&|| state.write(file, b"damaged").unwrap()),
            "{file} damaged"
        );
        assert!(!after(&|| state.write(file, b"").unwrap()), "{file} empty");
    }
    let other = LeafKey::generate().unwrap();
    assert!(
        !after(&|| state.write(KEY, other.to_pem().as_bytes()).unwrap()),
        "another key"
    );
    let long_after = Timestamp::now() + jiff::SignedDuration::from_hours(2);
    let Some(Found::Ended(ended)) = state.load(long_after).unwrap() else {
        panic!("ended, and good for a late renewal")
    };
    assert_eq!(ended.key.spki_sha256(), key.spki_sha256());
    assert_eq!(PeerId::Node(ended.node), node("n1"));
}

/// The folder as another implementation writes it, and the same bytes as this one does.
#[test]
fn the_folder_is_the_vectors() {
    const FILES: [&str; 5] = [KEY, NEXT_KEY, CERTIFICATE, BUNDLE, BROKER_ID];
    run("agent-folder", true, |case, expected| {
        let now = Timestamp::from_second(case.u64("made").try_into().unwrap()).unwrap();
        let (_folder, state) = folder();
        let fill = |from: &Fields| {
            for file in FILES.into_iter().filter(|file| from.has(file)) {
                state.write(file, from.text(file).as_bytes()).unwrap();
            }
        };
        let text = |file| {
            state
                .read(file)
                .unwrap()
                .map(|it| String::from_utf8(it.to_vec()))
        };
        let Expected::Out(out) = expected else {
            fill(case);
            let found = state.load(now).unwrap();
            assert!(!matches!(found, Some(Found::Usable(_))));
            return;
        };
        fill(&out);
        let Some(Found::Usable(joined)) = state.load(now).unwrap() else {
            panic!("no usable identity")
        };
        assert_eq!(joined.broker.to_string(), case.text("broker"));
        let key = LeafKey::from_pem(out.text(out.text("used")).as_bytes()).unwrap();
        assert_eq!(joined.material.identity().spki_sha256(), key.spki_sha256());
        assert_eq!(text(KEY).unwrap().unwrap(), out.text(out.text("used")));
        let waits = out.has(NEXT_KEY) && out.text("used") == KEY;
        assert_eq!(text(NEXT_KEY).is_some(), waits);

        let (_folder, state) = folder();
        state.write(NEXT_KEY, key.to_pem().as_bytes()).unwrap();
        let certificate = pb::IssuedCertificate {
            chain: ders(case, "chain"),
            trust_bundle: ders(case, "bundle"),
            spiffe_id: joined.material.identity().id().to_string(),
            not_before: None,
            not_after: None,
        };
        let issued = Issued::check(Some(certificate), &key, now).unwrap();
        state.adopt(&issued, &joined.broker, &key).unwrap();
        for file in [CERTIFICATE, BUNDLE, BROKER_ID] {
            let written = state.read(file).unwrap().unwrap();
            assert_eq!(written.as_slice(), out.text(file).as_bytes(), "{file}");
        }
        let written = state.read(KEY).unwrap().unwrap();
        assert_eq!(written.as_slice(), out.text(out.text("used")).as_bytes());
        assert!(state.read(NEXT_KEY).unwrap().is_none());
    });
}

fn ders(case: &Fields, name: &str) -> Vec<Vec<u8>> {
    let texts = case.texts(name);
    texts.iter().map(|der| hex::decode(der).unwrap()).collect()
}

#[test]
fn a_folder_that_is_not_the_agents_alone_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
    assert!(matches!(
        StateDir::open(folder.path()),
        Err(StateError::Folder { mode: 0o750, .. })
    ));
    let absent = folder.path().join("none");
    assert!(matches!(
        StateDir::open(&absent),
        Err(StateError::Os { call: "open", .. })
    ));
    let (folder, state) = self::folder();
    let key = state.next_key().unwrap();
    state.adopt(&issued(&key), &broker(), &key).unwrap();
    let path = folder.path().join(KEY);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(
        state.load(Timestamp::now()),
        Err(StateError::File(PrivateFileError::Mode { .. }))
    ));
}

#[test]
fn one_agent_at_a_time() {
    let (folder, state) = folder();
    let path = folder.path().to_owned();
    let waiting = std::thread::spawn(move || StateDir::open(&path).map(drop));
    std::thread::sleep(3 * LOCK_LOOK);
    assert!(!waiting.is_finished(), "waits for the one that is ending");
    drop(state);
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_certificate_is_taken_only_for_this_key_this_node_and_this_ca() {
    let (key, other) = (LeafKey::generate().unwrap(), LeafKey::generate().unwrap());
    let now = Timestamp::now();
    let good = certificate(&key, &node("n1"), HOUR);
    let check = |certificate: pb::IssuedCertificate| Issued::check(Some(certificate), &key, now);
    let issued = check(good.clone()).unwrap();
    let PeerId::Node(id) = node("n1") else {
        panic!("a node")
    };
    issued.require_id(&id).unwrap();
    issued.require_pin(ca().spki_sha256()).unwrap();
    let PeerId::Node(stranger) = node("n2") else {
        panic!("a node")
    };
    assert!(matches!(
        issued.require_id(&stranger),
        Err(IssuedError::OtherNode { .. })
    ));
    let pin = SpkiSha256::from_bytes([0; 32]);
    assert!(matches!(issued.require_pin(pin), Err(IssuedError::Pin)));

    assert!(matches!(
        Issued::check(None, &key, now),
        Err(IssuedError::Chain)
    ));
    assert!(matches!(
        Issued::check(Some(good.clone()), &other, now),
        Err(IssuedError::Key)
    ));
    let bent = |bend: fn(&mut pb::IssuedCertificate)| {
        let mut certificate = good.clone();
        bend(&mut certificate);
        check(certificate).err().expect("must be refused")
    };
    assert!(matches!(bent(|c| c.chain.clear()), IssuedError::Chain));
    assert!(matches!(
        bent(|c| c.chain = vec![vec![0]; 9]),
        IssuedError::Chain
    ));
    assert!(matches!(
        bent(|c| c.chain[0] = vec![1, 2, 3]),
        IssuedError::Leaf(_)
    ));
    assert!(matches!(
        bent(|c| c.trust_bundle.clear()),
        IssuedError::Bundle(_)
    ));
    assert!(matches!(
        bent(|c| c.trust_bundle[0].push(0)),
        IssuedError::Bundle(_)
    ));
    assert!(matches!(bent(|c| c.spiffe_id.push('x')), IssuedError::Id));
    let operator: PeerId = "spiffe://example.internal/operator/ada".parse().unwrap();
    assert!(matches!(
        check(certificate(&key, &operator, HOUR)),
        Err(IssuedError::Id)
    ));
    let ended = now + jiff::SignedDuration::from_hours(2);
    assert!(matches!(
        Issued::check(Some(good.clone()), &key, ended),
        Err(IssuedError::Leaf(_))
    ));
}
