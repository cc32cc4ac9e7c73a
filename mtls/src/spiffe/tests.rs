use super::*;
use proptest::prelude::*;

fn td() -> TrustDomain {
    "example.org".parse().unwrap()
}

#[test]
fn each_kind_round_trips_through_its_string() {
    for text in [
        "spiffe://example.org/node/prod/0b5e2c9a-1111-4222-8333-444455556666",
        "spiffe://example.org/operator/alice",
        "spiffe://example.org/broker/b1",
        "spiffe://a/broker/B_1.x",
    ] {
        let id: PeerId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(format!("{id:?}"), text);
    }
    let node = NodeId::new(td(), "prod", "uid-1").unwrap();
    assert_eq!(node.to_string(), "spiffe://example.org/node/prod/uid-1");
    assert_eq!(PeerId::from(node.clone()).to_string(), node.to_string());
    assert_eq!((node.cluster(), node.node_uid()), ("prod", "uid-1"));
}

#[test]
fn every_malformed_id_is_refused_by_its_rule() {
    use SpiffeError as E;
    let long_name = format!("spiffe://a/operator/{}", "n".repeat(MAX_SEGMENT_BYTES + 1));
    let long_domain = format!(
        "spiffe://{}/operator/x",
        "d".repeat(MAX_TRUST_DOMAIN_BYTES + 1)
    );
    let long_id = format!("spiffe://a/{}", "x/".repeat(MAX_ID_BYTES));
    for (text, why) in [
        ("", E::Length { bytes: 0 }),
        (
            &*long_id,
            E::Length {
                bytes: long_id.len(),
            },
        ),
        ("https://example.org/operator/a", E::Scheme),
        ("SPIFFE://example.org/operator/a", E::Scheme),
        ("spiffe:/example.org/operator/a", E::Scheme),
        (" spiffe://example.org/operator/a", E::Scheme),
        ("spiffe://", E::TrustDomain),
        ("spiffe:///operator/a", E::TrustDomain),
        ("spiffe://Example.org/operator/a", E::TrustDomain),
        ("spiffe://example.org:443/operator/a", E::TrustDomain),
        ("spiffe://user@example.org/operator/a", E::TrustDomain),
        ("spiffe://ex%41mple.org/operator/a", E::TrustDomain),
        ("spiffe://exämple.org/operator/a", E::TrustDomain),
        (&*long_domain, E::TrustDomain),
        ("spiffe://example.org/operator/a?x=1", E::QueryOrFragment),
        ("spiffe://example.org/operator/a#x", E::QueryOrFragment),
        ("spiffe://example.org?/operator/a", E::QueryOrFragment),
        ("spiffe://example.org/", E::Segment),
        ("spiffe://example.org/operator/", E::Segment),
        ("spiffe://example.org/operator/a/", E::Segment),
        ("spiffe://example.org//operator/a", E::Segment),
        ("spiffe://example.org/operator//a", E::Segment),
        ("spiffe://example.org/operator/.", E::Segment),
        ("spiffe://example.org/node/../uid", E::Segment),
        ("spiffe://example.org/operator/a%62", E::Segment),
        ("spiffe://example.org/operator/a b", E::Segment),
        ("spiffe://example.org/operator/a\0", E::Segment),
        ("spiffe://example.org/operator/ä", E::Segment),
        (&*long_name, E::Segment),
        ("spiffe://example.org", E::Kind),
        ("spiffe://example.org/operator", E::Kind),
        ("spiffe://example.org/operator/a/b", E::Kind),
        ("spiffe://example.org/node/prod", E::Kind),
        ("spiffe://example.org/node/prod/uid/more", E::Kind),
        ("spiffe://example.org/Operator/a", E::Kind),
        ("spiffe://example.org/workload/a", E::Kind),
    ] {
        assert_eq!(text.parse::<PeerId>(), Err(why), "{text:?}");
    }
}

#[test]
fn a_typed_id_does_not_parse_another_kind() {
    assert_eq!(
        "spiffe://a/operator/x".parse::<BrokerId>(),
        Err(SpiffeError::Kind)
    );
    assert_eq!(
        "spiffe://a/broker/x".parse::<NodeId>(),
        Err(SpiffeError::Kind)
    );
    assert!("spiffe://a/operator/x".parse::<OperatorId>().is_ok());
}

#[test]
fn parts_are_checked_when_an_id_is_made() {
    for bad in [
        "",
        "a/b",
        "..",
        "a?b",
        "ü",
        &"x".repeat(MAX_SEGMENT_BYTES + 1),
    ] {
        assert_eq!(NodeId::new(td(), bad, "u"), Err(SpiffeError::Segment));
        assert_eq!(NodeId::new(td(), "c", bad), Err(SpiffeError::Segment));
        assert_eq!(BrokerId::new(td(), bad), Err(SpiffeError::Segment));
    }
}

proptest! {
    #[test]
    fn what_parses_prints_back_as_it_was(text in "spiffe://[a-z0-9._/?#%A-Z-]{0,40}") {
        if let Ok(id) = text.parse::<PeerId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn ids_made_from_parts_parse_to_themselves(
        domain in "[a-z0-9._-]{1,20}", cluster in "[A-Za-z0-9_-]{1,20}", uid in "[A-Za-z0-9_-]{1,20}"
    ) {
        let id = PeerId::from(NodeId::new(domain.parse().unwrap(), &cluster, &uid).unwrap());
        prop_assert_eq!(id.to_string().parse::<PeerId>(), Ok(id));
    }
}
