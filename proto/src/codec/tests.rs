use super::*;
use crate::{attache::v1 as pb, csi::v1 as csi};

/// What is said of the bytes of a `U`: the field of its details, and the message.
fn refused<U: Name>(bytes: &[u8]) -> (String, String) {
    let status = check::<U>(bytes).expect_err("must be refused");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = Details::of(&status).expect("details");
    assert_eq!(details.reason, "MALFORMED_MESSAGE");
    (details.field.unwrap(), status.message().to_owned())
}

fn add_grant() -> pb::AddGrantRequest {
    pb::AddGrantRequest {
        mutation: Some(pb::Mutation {
            request_id: vec![0xff; 16],
            dry_run: true,
        }),
        name: "web-db".into(),
        fields: vec!["password".into(), "é".into()],
        to: Some(pb::Workload::default()),
        ..Default::default()
    }
}

#[test]
fn a_request_as_declared_passes() {
    check::<pb::AddGrantRequest>(&add_grant().encode_to_vec()).unwrap();
    check::<pb::AddGrantRequest>(&[]).unwrap();
    let deliver = pb::DeliverRequest {
        attributes: [("container".to_owned(), "app".to_owned())].into(),
        held: Some(pb::Generation {
            seq: u64::MAX,
            ..Default::default()
        }),
        volume_mount_group: Some(0),
        ..Default::default()
    };
    check::<pb::DeliverRequest>(&deliver.encode_to_vec()).unwrap();
}

#[test]
fn each_fault_names_its_field() {
    for (bytes, field) in [
        // name as a number, mutation as a number, mutation.dry_run as text, mutation.request_id as a number
        (&b"\x10\x01"[..], "name"),
        (b"\x08\x01", "mutation"),
        (b"\x0a\x02\x12\x00", "mutation.dry_run"),
        (b"\x0a\x02\x08\x01", "mutation.request_id"),
        // fields and to.container that are no text
        (b"\x22\x01\xff", "fields"),
        (b"\x2a\x03\x22\x01\xff", "to.container"),
        // cut in a length, in a value, in a nested message, and a value longer than what holds it
        (b"\x12\x05a", "name"),
        (b"\x0a\x02\x0a\x10", "mutation.request_id"),
        // mutation.dry_run as 2
        (b"\x0a\x02\x10\x02", "mutation.dry_run"),
        // a key that is none: number 0 is unknown, eleven bytes are no varint
        (
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            "AddGrantRequest",
        ),
        // groups
        (b"\x13\x14", "name"),
    ] {
        let (named, message) = refused::<pb::AddGrantRequest>(bytes);
        assert_eq!(named, field, "{bytes:?}: {message}");
        assert!(message.starts_with(&format!("{field}: ")), "{message}");
    }
}

#[test]
fn a_number_is_never_cut_to_its_type() {
    // volume_mount_group: 2^32 - 1 is one, 2^32 would be read as root's.
    check::<pb::DeliverRequest>(b"\x60\xff\xff\xff\xff\x0f").unwrap();
    let (named, _) = refused::<pb::DeliverRequest>(b"\x60\x80\x80\x80\x80\x10");
    assert_eq!(named, "volume_mount_group");
    // to_version: 64 bits and no more.
    check::<pb::RollbackRequest>(b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").unwrap();
    let (named, _) =
        refused::<pb::RollbackRequest>(b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02");
    assert_eq!(named, "to_version");
    // An enum may be negative, and then has all of its 64 bits.
    let mode = |number: &[u8]| {
        [
            b"\x2a".as_slice(),
            &[u8::try_from(number.len() + 3).unwrap()],
            b"\x1a",
            &[u8::try_from(number.len() + 1).unwrap()],
            b"\x08",
            number,
        ]
        .concat()
    };
    check::<csi::NodePublishVolumeRequest>(&mode(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
        .unwrap();
    let (named, _) = refused::<csi::NodePublishVolumeRequest>(&mode(b"\x80\x80\x80\x80\x10"));
    assert_eq!(named, "volume_capability.access_mode.mode");
}

#[test]
fn an_unknown_field_is_refused_in_our_own_requests_alone() {
    let mut bytes = add_grant().encode_to_vec();
    bytes.extend_from_slice(b"\x9a\x06\x01x");
    let (named, message) = refused::<pb::AddGrantRequest>(&bytes);
    assert!(
        named == "AddGrantRequest" && message.contains("a field 99 "),
        "{message}"
    );
    let (named, _) = refused::<pb::AddGrantRequest>(b"\x0a\x04\x9a\x06\x01x");
    assert_eq!(named, "mutation");
    let (named, _) = refused::<pb::AddGrantRequest>(b"\x00\x01");
    assert_eq!(named, "AddGrantRequest", "number 0 is nobody's");
    // Kubelet may be newer, and so may the broker that answers.
    check::<csi::NodePublishVolumeRequest>(b"\x9a\x06\x01x").unwrap();
    check::<pb::AddGrantResponse>(b"\x9a\x06\x01x").unwrap();
}

#[test]
fn no_fault_repeats_a_value() {
    let mut bytes = b"\x1a\x20attache-canary".to_vec();
    bytes.resize(34, 0xff);
    let (named, message) = refused::<pb::DeliverRequest>(&bytes);
    assert!(
        named == "pod_token" && !message.contains("canary"),
        "{message}"
    );
}

#[test]
fn what_the_transport_answers_is_said_in_our_codes() {
    let answer =
        |status: Status| Status::from_header_map(own_words(status.into_http()).headers()).unwrap();
    let large = answer(Status::out_of_range(
        "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
    ));
    assert_eq!(large.code(), Code::ResourceExhausted);
    assert!(large.message().contains("found 9 bytes"), "{large:?}");
    assert_eq!(
        answer(Status::internal("Missing request message.")).code(),
        Code::InvalidArgument
    );
    // What has details is the product's own word; what is no fault of the frame stays.
    let own = malformed("x", "y");
    assert_eq!(answer(own.clone()).details(), own.details());
    assert_eq!(
        answer(Status::internal("attache: a defect")).code(),
        Code::Internal
    );
}
