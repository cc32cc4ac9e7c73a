use super::*;
use crate::bundle::TrustBundle;
use crate::key::LeafKey;
use crate::spiffe::{BrokerId, NodeId, OperatorId};
use crate::vectors::{Expected, Fields, run};
use crate::verify::{PeerError, Purpose, parse};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

const SEED: [u8; 32] = [7; 32];

fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn td() -> TrustDomain {
    "example.org".parse().unwrap()
}

fn ca() -> CertificateAuthority {
    CertificateAuthority::create(&SEED, &td(), "attache CA", CA_VALIDITY, now()).unwrap()
}

fn node() -> PeerId {
    NodeId::new(td(), "prod", "uid-1").unwrap().into()
}

fn operator() -> PeerId {
    OperatorId::new(td(), "alice").unwrap().into()
}

fn broker() -> PeerId {
    BrokerId::new(td(), "b1").unwrap().into()
}

fn request() -> CertificateRequest {
    verified(&LeafKey::generate().unwrap().certificate_request().unwrap())
}

fn verified(der: &[u8]) -> CertificateRequest {
    CertificateRequest::verify(der).unwrap()
}

fn issue(request: &CertificateRequest, id: &PeerId) -> IssuedCertificate {
    ca().issue(&SEED, request, id, default_validity(id), now())
        .unwrap()
}

#[test]
fn the_ca_certificate_says_what_a_ca_must() {
    let ca = ca();
    let parsed = parse(ca.certificate()).unwrap();
    let constraints = parsed.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = parsed.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
    assert!(!usage.value.digital_signature());
    assert_eq!(
        verify::the_one_uri(&parsed).unwrap(),
        "spiffe://example.org"
    );
    assert_eq!(parsed.subject().to_string(), "CN=attache CA");
    assert_eq!(ca.not_after(), now() + CA_VALIDITY);
    assert_eq!(
        parsed.validity().not_before.timestamp(),
        now().as_second() - 60
    );
    let again = CertificateAuthority::load(ca.certificate().clone()).unwrap();
    assert_eq!(again.trust_domain(), &td());
    assert_eq!(again.spki_sha256(), ca.spki_sha256());
}

#[test]
fn a_leaf_has_one_name_its_uses_and_its_times() {
    for (id, server, length) in [
        (node(), false, NODE_VALIDITY),
        (operator(), false, OPERATOR_VALIDITY),
        (broker(), true, BROKER_VALIDITY),
    ] {
        let issued = issue(&request(), &id);
        let parsed = parse(issued.certificate()).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert!(names.critical, "an empty subject makes the name critical");
        assert_eq!(
            names.value.general_names,
            [GeneralName::URI(&id.to_string())]
        );
        assert_eq!(parsed.subject().iter().count(), 0);
        let uses = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(
            uses.client_auth && uses.server_auth == server && !uses.any && uses.other.is_empty()
        );
        assert!(!parsed.basic_constraints().unwrap().unwrap().value.ca);
        let usage = parsed.key_usage().unwrap().unwrap();
        assert!(
            usage.critical && usage.value.flags == 1,
            "digitalSignature alone"
        );
        assert_eq!(issued.identity().not_before(), now() - BACKDATE);
        assert_eq!(issued.identity().not_after(), now() + length);
        assert_eq!(issued.identity().id(), &id);
    }
}

#[test]
fn a_leaf_verifies_under_its_ca_and_no_other() {
    let issued = issue(&request(), &node());
    let bundle =
        |ca: &CertificateAuthority| TrustBundle::from_der(vec![ca.certificate().clone()]).unwrap();
    let chain = [issued.certificate().clone()];
    let peer = bundle(&ca())
        .verify(&chain, Purpose::Client, now())
        .unwrap();
    assert_eq!(&peer, issued.identity());
    let other =
        CertificateAuthority::create(&[8; 32], &td(), "attache CA", CA_VALIDITY, now()).unwrap();
    let refused = bundle(&other).verify(&chain, Purpose::Client, now());
    assert!(matches!(
        refused,
        Err(PeerError::UnknownIssuer | PeerError::Chain(_))
    ));
    assert!(bundle(&ca()).verify(&[], Purpose::Client, now()).is_err());
}

#[test]
fn serials_are_positive_of_sixteen_bytes_and_never_repeat() {
    let mut seen = std::collections::HashSet::new();
    let request = request();
    for _ in 0..64 {
        let issued = issue(&request, &node());
        let serial = issued.serial().clone();
        assert_eq!(serial.as_bytes().len(), 16);
        assert!(serial.as_bytes()[0] & 0x80 == 0);
        assert_eq!(serial.to_string().len(), 32);
        assert!(seen.insert(serial));
    }
}

#[test]
fn nothing_that_a_request_asks_for_is_granted() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut wishes =
        CertificateParams::new(vec!["broker.example.org".to_owned(), "10.0.0.1".to_owned()])
            .unwrap();
    wishes.subject_alt_names.push(SanType::URI(
        "spiffe://example.org/broker/b1".try_into().unwrap(),
    ));
    wishes
        .subject_alt_names
        .push(SanType::Rfc822Name("root@example.org".try_into().unwrap()));
    wishes
        .distinguished_name
        .push(DnType::CommonName, "spiffe://example.org/operator/admin");
    wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wishes.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    wishes.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::Any,
    ];
    wishes.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(
        &[1, 2, 3, 4],
        vec![5, 0],
    )];
    let csr = wishes.serialize_request(&key).unwrap();
    let (_, asked) = X509CertificationRequest::from_der(csr.der()).unwrap();
    assert_eq!(
        asked.requested_extensions().unwrap().count(),
        5,
        "the request does ask for all that"
    );

    let issued = issue(&verified(csr.der()), &node());
    let plain = issue(&request(), &node());
    let leaf = parse(issued.certificate()).unwrap();
    let expected = parse(plain.certificate()).unwrap();
    let extensions = |certificate: &x509_parser::certificate::X509Certificate<'_>| {
        certificate
            .extensions()
            .iter()
            .filter(|extension| {
                extension.oid != x509_parser::oid_registry::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER
            })
            .map(|extension| {
                (
                    extension.oid.to_id_string(),
                    extension.critical,
                    extension.value.to_vec(),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(extensions(&leaf), extensions(&expected));
    assert_eq!(leaf.subject().as_raw(), expected.subject().as_raw());
    assert_eq!(
        leaf.public_key().subject_public_key.data.as_ref(),
        key.public_key_raw()
    );
}

#[test]
fn requests_for_other_keys_are_refused_by_name() {
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let p384 = CertificateParams::default()
        .serialize_request(&p384)
        .unwrap()
        .der()
        .to_vec();
    let refused: [(&[u8], &str); 4] = [
        (
            include_bytes!("../../tests/data/rsa2048.csr.der"),
            "an RSA key",
        ),
        (&p384, "an EC key on P-384"),
        (
            include_bytes!("../../tests/data/p521.csr.der"),
            "an EC key on P-521",
        ),
        (
            include_bytes!("../../tests/data/ed448.csr.der"),
            "a key of algorithm 1.3.101.113",
        ),
    ];
    for (der, name) in refused {
        let error = CertificateRequest::verify(der).unwrap_err();
        assert_eq!(
            error,
            CsrError::KeyAlgorithm {
                found: name.to_owned()
            }
        );
    }
}

#[test]
fn p256_and_ed25519_are_taken_whoever_made_them() {
    verified(include_bytes!("../../tests/data/p256.csr.der"));
    let ed = rcgen::KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let csr = CertificateParams::default().serialize_request(&ed).unwrap();
    let issued = issue(&verified(csr.der()), &node());
    let leaf = parse(issued.certificate()).unwrap();
    assert_eq!(leaf.public_key().raw, ed.subject_public_key_info());
}

#[test]
fn a_request_signed_by_another_algorithm_is_refused() {
    let der = include_bytes!("../../tests/data/p256-sha384.csr.der");
    assert_eq!(
        CertificateRequest::verify(der),
        Err(CsrError::SignatureAlgorithm)
    );
}

#[test]
fn malformed_and_oversized_requests_are_refused() {
    let good = LeafKey::generate().unwrap().certificate_request().unwrap();
    let malformed = Err(CsrError::Malformed);
    assert_eq!(CertificateRequest::verify(b""), malformed);
    assert_eq!(CertificateRequest::verify(b"garbage"), malformed);
    assert_eq!(
        CertificateRequest::verify(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]),
        malformed
    );
    assert_eq!(
        CertificateRequest::verify(&[0xff; MAX_CSR_BYTES]),
        malformed
    );
    assert_eq!(
        CertificateRequest::verify(&[&good[..], b"\0"].concat()),
        malformed
    );
    assert_eq!(CertificateRequest::verify(ca().certificate()), malformed);
    for length in 0..good.len() {
        assert_eq!(
            CertificateRequest::verify(&good[..length]),
            malformed,
            "{length} bytes"
        );
    }
    let large = vec![0x30; MAX_CSR_BYTES + 1];
    assert_eq!(
        CertificateRequest::verify(&large),
        Err(CsrError::TooLarge {
            bytes: MAX_CSR_BYTES + 1
        })
    );
}

#[test]
fn a_request_signed_by_another_key_is_refused() {
    let (mine, theirs) = (
        LeafKey::generate().unwrap(),
        rcgen::KeyPair::generate().unwrap(),
    );
    let csr = mine.certificate_request().unwrap();
    let stolen = theirs.public_key_raw();
    let own = request_key(&csr);
    let at = csr
        .windows(own.len())
        .position(|window| window == own)
        .unwrap();
    let mut swapped = csr.clone();
    swapped[at..at + stolen.len()].copy_from_slice(stolen);
    assert_eq!(
        CertificateRequest::verify(&swapped),
        Err(CsrError::Possession)
    );
}

/// The wrapping around the signed part may be spelled in more than one way; that changes neither key nor proof.
#[test]
fn a_flipped_bit_is_refused_or_changes_nothing() {
    let csr = LeafKey::generate().unwrap().certificate_request().unwrap();
    let good = verified(&csr);
    let (_, parsed) = X509CertificationRequest::from_der(&csr).unwrap();
    let signed = parsed.certification_request_info.raw;
    let begin = csr
        .windows(signed.len())
        .position(|window| window == signed)
        .unwrap();
    let mut lax = std::collections::BTreeSet::new();
    for bit in 0..csr.len() * 8 {
        let mut flipped = csr.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(request) = CertificateRequest::verify(&flipped) {
            assert!(
                !(begin..begin + signed.len()).contains(&(bit / 8)),
                "bit {bit} is signed"
            );
            assert_eq!(request.spki_sha256(), good.spki_sha256(), "bit {bit}");
            lax.insert(bit / 8);
        }
    }
    // The parser overlooks four tags: of the request, of the algorithm, of its OID and of the signature.
    let end = begin + signed.len();
    assert_eq!(Vec::from_iter(lax), [0, end, end + 2, end + 12]);
}

#[test]
fn the_ca_signs_only_with_its_own_seed_domain_and_time() {
    let ca = ca();
    let issue =
        |seed: &[u8; 32], id: &PeerId, validity, at| ca.issue(seed, &request(), id, validity, at);
    assert!(matches!(
        issue(&[8; 32], &node(), NODE_VALIDITY, now()),
        Err(CaError::WrongKey)
    ));
    let foreign = PeerId::from(OperatorId::new("example.com".parse().unwrap(), "alice").unwrap());
    assert!(matches!(
        issue(&SEED, &foreign, NODE_VALIDITY, now()),
        Err(CaError::TrustDomain { .. })
    ));
    assert!(matches!(
        issue(&SEED, &node(), Duration::ZERO, now()),
        Err(CaError::Validity)
    ));
    assert!(matches!(
        issue(&SEED, &node(), Duration::MAX, now()),
        Err(CaError::Validity)
    ));
    let late = now() + CA_VALIDITY;
    assert!(matches!(
        issue(&SEED, &node(), NODE_VALIDITY, late),
        Err(CaError::NotValidNow { .. })
    ));
    let early = now() - Duration::from_secs(61);
    assert!(matches!(
        issue(&SEED, &node(), NODE_VALIDITY, early),
        Err(CaError::NotValidNow { .. })
    ));
}

#[test]
fn a_leaf_never_outlives_its_ca() {
    let late = now() + CA_VALIDITY - Duration::from_secs(600);
    let issued = ca()
        .issue(&SEED, &request(), &node(), NODE_VALIDITY, late)
        .unwrap();
    assert_eq!(issued.identity().not_after(), ca().not_after());
}

#[test]
fn names_and_certificates_that_are_not_a_cas_are_refused() {
    let create = |name: &str| CertificateAuthority::create(&SEED, &td(), name, CA_VALIDITY, now());
    for name in ["", "line\nbreak", &"x".repeat(65)] {
        assert!(matches!(create(name), Err(CaError::CommonName)), "{name:?}");
    }
    let load = |der: CertificateDer<'static>| CertificateAuthority::load(der);
    assert!(matches!(load(vec![1, 2, 3].into()), Err(CaError::NotOurs)));
    assert!(matches!(
        load(issue(&request(), &broker()).certificate().clone()),
        Err(CaError::NotOurs)
    ));
    let ecdsa = rcgen::KeyPair::generate().unwrap();
    let mut params = parameters(
        now(),
        now() + CA_VALIDITY,
        "spiffe://example.org",
        [7; SERIAL_BYTES],
    )
    .unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    assert!(matches!(
        load(params.self_signed(&ecdsa).unwrap().into()),
        Err(CaError::NotOurs)
    ));
    let ed = rcgen::KeyPair::generate_for(&PKCS_ED25519).unwrap();
    assert!(
        load(params.self_signed(&ed).unwrap().into()).is_ok(),
        "the control"
    );
    params.subject_alt_names = vec![SanType::URI(
        "spiffe://example.org/broker/b1".try_into().unwrap(),
    )];
    assert!(matches!(
        load(params.self_signed(&ed).unwrap().into()),
        Err(CaError::NotOurs)
    ));
}

fn request_key(csr: &[u8]) -> Vec<u8> {
    let (_, parsed) = X509CertificationRequest::from_der(csr).unwrap();
    parsed
        .certification_request_info
        .subject_pki
        .subject_public_key
        .data
        .to_vec()
}

fn at(case: &Fields) -> Timestamp {
    Timestamp::from_second(case.u64("made").try_into().unwrap()).unwrap()
}

#[test]
fn the_ca_certificate_is_the_vectors() {
    run("certificate-ca", true, |case, expected| match expected {
        Expected::Out(out) => {
            let (domain, name) = (case.parse("trust_domain"), case.text("name"));
            let (seed, drawn) = (case.array("seed"), case.array("random"));
            let ca = CertificateAuthority::create_with(
                &seed,
                &domain,
                name,
                CA_VALIDITY,
                at(case),
                drawn,
            )
            .unwrap();
            assert_eq!(hex::encode(ca.certificate()), out.text("certificate"));
            assert_eq!(ca.trust_domain(), &domain);
        }
        Expected::Refused => {
            let der = case.bytes("certificate").into();
            assert!(matches!(
                CertificateAuthority::load(der),
                Err(CaError::NotOurs)
            ));
        }
    });
}

#[test]
fn a_leaf_is_the_vectors_for_a_request_that_another_made() {
    run("certificate-leaf", true, |case, expected| {
        let ca = case.bytes("ca").into();
        let bundle = TrustBundle::from_der(vec![CertificateDer::clone(&ca)]).unwrap();
        let verify = |leaf: Vec<u8>| bundle.verify(&[leaf.into()], Purpose::Client, at(case));
        match expected {
            Expected::Out(out) => {
                let ca = CertificateAuthority::load(ca).unwrap();
                let (request, id) = (verified(&case.bytes("request")), case.parse("id"));
                let issued = ca
                    .issue_with(
                        &case.array("seed"),
                        &request,
                        &id,
                        default_validity(&id),
                        at(case),
                        case.array("random"),
                    )
                    .unwrap();
                let told = hex::encode(issued.certificate());
                assert_eq!(told, out.text("certificate"));
                assert_eq!(verify(out.bytes("certificate")).unwrap().id(), &id);
            }
            Expected::Refused => {
                verify(case.bytes("certificate")).unwrap_err();
            }
        }
    });
}

/// Why a new CA is trusted beside the one before, and not through a certificate that this signs for it: a CA of ours has
/// pathLen 0, so whoever knows the one before alone refuses what is signed below another CA, as it must.
#[test]
fn a_ca_that_another_one_signed_for_vouches_for_nobody() {
    let (seed, old) = ([8; 32], ca());
    let new = CertificateAuthority::create(&seed, &td(), "another CA", CA_VALIDITY, now()).unwrap();
    let (begin, end) = lifetime(now(), CA_VALIDITY).unwrap();
    let mut params = parameters(begin, end, &td().id(), [1; SERIAL_BYTES]).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, "another CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let signer = SeedSigner::of(&SEED).unwrap();
    let issuer = Issuer::from_ca_cert_der(old.certificate(), signer).unwrap();
    let crossed = params.signed_by(&SeedSigner::of(&seed).unwrap(), &issuer);
    let crossed: CertificateDer<'static> = crossed.unwrap().into();

    let id = broker();
    let leaf = new.issue(&seed, &request(), &id, default_validity(&id), now());
    let leaf = leaf.unwrap().certificate().clone();
    let verify = |roots: Vec<CertificateDer<'static>>| {
        let bundle = TrustBundle::from_der(roots).unwrap();
        bundle.verify(&[leaf.clone(), crossed.clone()], Purpose::Server, now())
    };
    let of_old = verify(vec![old.certificate().clone()]);
    assert_eq!(
        of_old,
        Err(PeerError::Chain(webpki::Error::PathLenConstraintViolated))
    );
    let both = verify(vec![old.certificate().clone(), new.certificate().clone()]);
    assert_eq!(both.unwrap().id(), &id);
}
