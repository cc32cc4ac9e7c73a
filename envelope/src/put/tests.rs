use super::*;
use crate::SystemRandom;
use crate::id::{BootId, KeyId};
use crate::release::deks;
use crate::testing::name;

const SECRET: [u8; 32] = [0x33; 32];

fn field(text: &str, n: u8) -> PutField {
    PutField {
        field: name(text),
        value: ValueId::from_bytes([n; 16]),
        ct_hash: CtHash::from_bytes([n; 32]),
    }
}

fn parts() -> PutParts {
    PutParts {
        store: StoreId::from_bytes([1; 16]),
        request: RequestId::from_bytes([2; 16]),
        path: name("payments/db"),
        secret: SecretId::from_bytes([3; 16]),
        expected_head_version: 3,
        flags: 0,
        note: "rotated".to_owned(),
        fields: vec![field("username", 5), field("password", 6)],
        carried: vec![name("tls.key"), name("tls.crt")],
    }
}

fn channel() -> Channel<'static> {
    Channel {
        store: StoreId::from_bytes([1; 16]),
        broker_id: "spiffe://example.internal/broker/broker-0",
        boot: BootId::from_bytes([7; 16]),
        key_id: KeyId::from_bytes([8; 16]),
        operator_id: "spiffe://example.internal/operator/alice",
    }
}

fn rule(change: impl FnOnce(&mut PutParts)) -> &'static str {
    let mut parts = parts();
    change(&mut parts);
    match CommitPut::new(parts) {
        Err(EnvelopeError::Rule(rule)) => rule,
        other => panic!("{other:?}"),
    }
}

#[test]
fn fields_are_put_in_order() {
    let put = CommitPut::new(parts()).unwrap();
    let order: Vec<_> = put
        .fields()
        .iter()
        .map(|sent| sent.field.as_str())
        .collect();
    assert_eq!(order, ["password", "username"]);
    let carried: Vec<_> = put.carried().iter().map(FieldName::as_str).collect();
    assert_eq!(carried, ["tls.crt", "tls.key"]);
    let mut turned = parts();
    turned.fields.reverse();
    turned.carried.reverse();
    assert_eq!(CommitPut::new(turned).unwrap().digest(), put.digest());
}

#[test]
fn what_no_put_may_be_is_refused_by_its_rule() {
    assert_eq!(
        rule(|put| put.fields.clear()),
        "a put has at least one field"
    );
    assert_eq!(
        rule(|put| put.fields.push(field("password", 9))),
        "a field is put twice"
    );
    assert_eq!(
        rule(|put| put.fields.push(field("another", 6))),
        "two fields have one value id"
    );
    assert_eq!(
        rule(|put| put.carried.push(name("tls.key"))),
        "a field is carried twice"
    );
    assert_eq!(
        rule(|put| put.carried.push(name("password"))),
        "a field is both put and carried"
    );
    assert_eq!(
        rule(|put| put.flags = 2),
        "the put has a flag that this build does not know"
    );
    assert_eq!(
        rule(|put| put.flags = FLAG_REPLACE),
        "a replacing put carries no field"
    );
}

#[test]
fn a_replacing_put_without_carried_fields_is_one() {
    let mut replacing = parts();
    replacing.flags = FLAG_REPLACE;
    replacing.carried.clear();
    assert!(CommitPut::new(replacing).is_ok());
}

#[test]
fn a_put_ends_at_64_fields_carried_ones_included() {
    let with = |sent: u8| {
        let mut put = parts();
        put.fields = (0..sent).map(|n| field(&format!("f{n}"), n)).collect();
        CommitPut::new(put)
    };
    assert!(with(62).is_ok());
    assert!(matches!(
        with(63),
        Err(EnvelopeError::Limit {
            found: 65,
            limit: 64,
            ..
        })
    ));
}

#[test]
fn a_note_ends_at_1024_bytes() {
    let with = |bytes| {
        let mut put = parts();
        put.note = "n".repeat(bytes);
        CommitPut::new(put)
    };
    assert!(with(1024).is_ok());
    assert!(matches!(
        with(1025),
        Err(EnvelopeError::Limit { limit: 1024, .. })
    ));
}

#[test]
fn the_digest_is_of_everything() {
    let digest = CommitPut::new(parts()).unwrap().digest();
    let changes: [fn(&mut PutParts); 11] = [
        |put| put.store = StoreId::from_bytes([9; 16]),
        |put| put.request = RequestId::from_bytes([9; 16]),
        |put| put.path = name("billing/db"),
        |put| put.path = name("payments/dc"),
        |put| put.secret = SecretId::from_bytes([9; 16]),
        |put| put.expected_head_version = 4,
        |put| put.note.push('!'),
        |put| put.fields[0].field = name("user"),
        |put| put.fields[0].value = ValueId::from_bytes([9; 16]),
        |put| put.fields[0].ct_hash = CtHash::from_bytes([9; 32]),
        |put| put.carried.truncate(1),
    ];
    for change in changes {
        let mut parts = parts();
        change(&mut parts);
        assert_ne!(CommitPut::new(parts).unwrap().digest(), digest);
    }
}

#[test]
fn keys_open_for_this_put_on_this_channel_alone() {
    let secret = SecretKey::new(&SECRET);
    let put = CommitPut::new(parts()).unwrap();
    let sent = [[0x41; 32], [0x42; 32]];
    let borrowed = sent.each_ref().map(Dek::new);
    let pk = secret.public_key().unwrap();
    let (enc, sealed) = put
        .seal_keys(&SystemRandom, &pk, &channel(), &borrowed)
        .unwrap();
    let open = |put: &CommitPut, channel: &Channel<'_>| {
        let mut out = [0; 64];
        put.open_keys(secret, &enc, channel, &sealed, &mut out)
            .map(|()| out)
    };
    let opened = open(&put, &channel()).unwrap();
    assert_eq!(opened, *sent.as_flattened());
    assert_eq!(deks(&opened).len(), 2);

    let refused = Err(EnvelopeError::Refused);
    let mut other = parts();
    other.expected_head_version = 4;
    assert_eq!(open(&CommitPut::new(other).unwrap(), &channel()), refused);
    for swapped in [
        Channel {
            store: StoreId::from_bytes([9; 16]),
            ..channel()
        },
        Channel {
            broker_id: "spiffe://example.internal/broker/broker-1",
            ..channel()
        },
        Channel {
            boot: BootId::from_bytes([9; 16]),
            ..channel()
        },
        Channel {
            key_id: KeyId::from_bytes([9; 16]),
            ..channel()
        },
        Channel {
            operator_id: "spiffe://example.internal/operator/bob",
            ..channel()
        },
    ] {
        assert_eq!(open(&put, &swapped), refused, "{swapped:?}");
    }
}

#[test]
fn a_count_of_keys_that_does_not_fit_is_refused() {
    let secret = SecretKey::new(&SECRET);
    let pk = secret.public_key().unwrap();
    let put = CommitPut::new(parts()).unwrap();
    let one = [0x41; 32];
    let few = put.seal_keys(&SystemRandom, &pk, &channel(), &[Dek::new(&one)]);
    assert!(matches!(few, Err(EnvelopeError::Rule(_))));
    let two = [Dek::new(&one), Dek::new(&one)];
    let (enc, sealed) = put.seal_keys(&SystemRandom, &pk, &channel(), &two).unwrap();
    let open = |sealed: &[u8], out: &mut [u8]| put.open_keys(secret, &enc, &channel(), sealed, out);
    assert!(matches!(
        open(&sealed, &mut [0; 32]),
        Err(EnvelopeError::Buffer { .. })
    ));
    assert_eq!(
        open(&sealed[1..], &mut [0; 64]),
        Err(EnvelopeError::Refused)
    );
    assert_eq!(open(&[], &mut [0; 64]), Err(EnvelopeError::Refused));
}
