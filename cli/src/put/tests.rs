//! What the CLI sends, opened the way the broker opens it.

use attache_envelope::channel::Channel;
use attache_envelope::id::{BootId, KeyId};
use attache_envelope::key::{Dek, SecretKey};
use attache_envelope::x25519::Enc;
use attache_proto::details::Details;
use zeroize::Zeroizing;

use super::*;

const BROKER: &str = "spiffe://example/broker/broker-0";
const OPERATOR: &str = "spiffe://example/operator/ada";
const RECEIVE_SECRET: [u8; 32] = [0x42; 32];

fn answer(secret: &[u8], head_version: u64, fields: &[&str]) -> pb::BeginPutResponse {
    pb::BeginPutResponse {
        store: vec![1; 16],
        secret: secret.to_vec(),
        head_version,
        receive_key: SecretKey::new(&RECEIVE_SECRET)
            .public_key()
            .unwrap()
            .as_bytes()
            .to_vec(),
        key_id: vec![3; 16],
        boot: vec![4; 16],
        broker_id: BROKER.into(),
        fields: fields.iter().map(|field| (*field).to_owned()).collect(),
    }
}

fn plan(fields: &[(&str, &[u8])], replace: bool) -> Plan {
    let values = fields
        .iter()
        .map(|(field, value)| FieldValue {
            field: field.parse().unwrap(),
            value: Zeroizing::new(value.to_vec()),
        })
        .collect();
    Plan {
        path: "payments/db".parse().unwrap(),
        values,
        replace,
        expect_version: None,
        dry_run: false,
    }
}

/// Opens a request as the broker would: rebuilds the put, opens the keys, decrypts each value.
fn open(request: &pb::CommitPutRequest) -> Vec<(String, Vec<u8>)> {
    let path: SecretPath = "payments/db".parse().unwrap();
    let secret = SecretId::try_from(request.secret.as_slice()).unwrap();
    let store = StoreId::from_bytes([1; 16]);
    let id = |value: &pb::PutValue| ValueId::try_from(value.value.as_slice()).unwrap();
    let commit = CommitPut::new(PutParts {
        store,
        request: RequestId::try_from(request.mutation.as_ref().unwrap().request_id.as_slice())
            .unwrap(),
        path: path.clone(),
        secret,
        expected_head_version: request.expected_head_version,
        flags: request.flags,
        note: request.note.clone(),
        fields: request
            .values
            .iter()
            .map(|value| PutField {
                field: value.field.parse().unwrap(),
                value: id(value),
                ct_hash: CtHash::of(&value.ct),
            })
            .collect(),
        carried: request
            .carried
            .iter()
            .map(|field| field.parse().unwrap())
            .collect(),
    })
    .unwrap();
    let channel = Channel {
        store,
        broker_id: BROKER,
        boot: BootId::try_from(request.boot.as_slice()).unwrap(),
        key_id: KeyId::try_from(request.key_id.as_slice()).unwrap(),
        operator_id: OPERATOR,
    };
    let enc = Enc::try_from(request.enc.as_slice()).unwrap();
    let mut deks = vec![0; 32 * request.values.len()];
    commit
        .open_keys(
            SecretKey::new(&RECEIVE_SECRET),
            &enc,
            &channel,
            &request.sealed_keys,
            &mut deks,
        )
        .unwrap();
    request
        .values
        .iter()
        .zip(deks.as_chunks::<32>().0)
        .map(|(value, dek)| {
            let field = value.field.parse().unwrap();
            let binding = ValueBinding {
                store,
                keyspace: &path.keyspace,
                secret,
                value: id(value),
                field: &field,
            };
            Dek::new(dek).verify_tag(&value.ct, &binding).unwrap();
            let mut plain = vec![0; value.ct.len() - 16];
            Dek::new(dek).open(&value.ct, &binding, &mut plain).unwrap();
            (value.field.clone(), plain)
        })
        .collect()
}

#[test]
fn the_broker_opens_what_is_sealed_whatever_the_order_of_the_words() {
    let begun = Begun::check(&answer(&[], 0, &[]), BROKER).unwrap();
    let values: [(&str, &[u8]); 3] = [
        ("username", b"app"),
        ("password", b"hunter2"),
        ("Zone", b""),
    ];
    let (id, request) = seal(OPERATOR, BROKER, &begun, &plan(&values, false)).unwrap();
    let opened = open(&request);
    assert_eq!(
        opened,
        [
            ("Zone".to_owned(), vec![]),
            ("password".to_owned(), b"hunter2".to_vec()),
            ("username".to_owned(), b"app".to_vec())
        ]
    );
    assert_eq!(request.mutation.unwrap().request_id, id.as_bytes());
    assert_eq!(id.get_version_num(), 7);
}

#[test]
fn fields_that_are_not_named_are_carried_unless_replaced() {
    let begun = Begun::check(
        &answer(&[9; 16], 4, &["password", "port", "username"]),
        BROKER,
    )
    .unwrap();
    let (_, request) = seal(
        OPERATOR,
        BROKER,
        &begun,
        &plan(&[("password", b"new")], false),
    )
    .unwrap();
    assert_eq!(
        (
            request.carried.clone(),
            request.flags,
            request.expected_head_version
        ),
        (vec!["port".into(), "username".into()], 0, 4)
    );
    assert_eq!(request.secret, [9; 16]);
    assert_eq!(open(&request), [("password".to_owned(), b"new".to_vec())]);
    let (_, request) = seal(
        OPERATOR,
        BROKER,
        &begun,
        &plan(&[("password", b"new")], true),
    )
    .unwrap();
    assert_eq!((request.carried.len(), request.flags), (0, FLAG_REPLACE));
    open(&request);
}

#[test]
fn sealing_again_shares_nothing_with_the_first_time() {
    let begun = Begun::check(&answer(&[9; 16], 4, &[]), BROKER).unwrap();
    let plan = plan(&[("password", b"hunter2")], false);
    let (first_id, first) = seal(OPERATOR, BROKER, &begun, &plan).unwrap();
    let (second_id, second) = seal(OPERATOR, BROKER, &begun, &plan).unwrap();
    assert_ne!(first_id, second_id);
    assert_ne!(first.values[0].ct, second.values[0].ct);
    assert_ne!(first.values[0].value, second.values[0].value);
    assert_ne!(
        (first.enc, first.sealed_keys),
        (second.enc, second.sealed_keys)
    );
}

#[test]
fn nothing_of_a_value_is_in_the_bytes_that_leave() {
    use prost::Message;
    let begun = Begun::check(&answer(&[], 0, &[]), BROKER).unwrap();
    let (_, request) = seal(
        OPERATOR,
        BROKER,
        &begun,
        &plan(&[("password", b"canary-7f3a9c")], false),
    )
    .unwrap();
    let bytes = request.encode_to_vec();
    assert!(!bytes.windows(13).any(|window| window == b"canary-7f3a9c"));
}

#[test]
fn an_answer_that_is_not_right_is_refused() {
    let good = || answer(&[9; 16], 4, &["a"]);
    assert!(Begun::check(&good(), BROKER).is_ok());
    let other = Begun::check(&good(), "spiffe://example/broker/broker-1").unwrap_err();
    assert!(
        other.contains("broker-0") && other.contains("broker-1"),
        "{other}"
    );
    let spoilt: [fn(&mut pb::BeginPutResponse); 9] = [
        |a| a.store.clear(),
        |a| a.secret = vec![9; 15],
        |a| a.secret.clear(),
        |a| a.receive_key = vec![0; 32],
        |a| a.receive_key = vec![1; 33],
        |a| a.key_id.clear(),
        |a| a.boot = vec![1; 17],
        |a| a.fields = vec!["a b".into()],
        |a| a.broker_id.clear(),
    ];
    for (index, spoil) in spoilt.iter().enumerate() {
        let mut bad = good();
        spoil(&mut bad);
        assert!(Begun::check(&bad, BROKER).is_err(), "{index}");
    }
}

#[test]
fn only_these_codes_begin_again() {
    let again = [Code::Aborted, Code::FailedPrecondition];
    for code in (0..=16).map(Code::from_i32) {
        assert_eq!(lost_race(code), again.contains(&code), "{code:?}");
    }
}

#[test]
fn a_put_on_an_expected_version_begins_again_when_only_a_row_below_it_changed() {
    let status = |reason: &str| {
        let details = Details {
            reason: reason.to_owned(),
            field: None,
            retry_after: None,
        };
        details.status(Code::Aborted, "changed")
    };
    let expecting = Plan {
        expect_version: Some(1),
        ..plan(&[], false)
    };
    assert!(begins_again(&status("CHANGED_MEANWHILE"), &expecting));
    assert!(!begins_again(&status("HEAD_MOVED"), &expecting));
    assert!(begins_again(&status("HEAD_MOVED"), &plan(&[], false)));
}
