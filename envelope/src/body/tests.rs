use proptest::prelude::*;

use super::*;
use crate::id::{KeyId, RequestId, SecretId, ValueId};
use crate::lp::{Fault, Lp};
use crate::name::{FieldName, SecretVersion};
use crate::testing::{field, name, segment, truncations};
use crate::value::CtHash;
use crate::wrap::{WRAPPED_KEY_BYTES, WrappedKey};

fn version() -> impl Strategy<Value = SecretVersion> {
    (1u64..).prop_map(|number| SecretVersion::new(number).unwrap())
}

fn wrapped() -> impl Strategy<Value = WrappedKey> {
    prop::array::uniform16(any::<[u8; 7]>()).prop_map(|bytes| {
        let bytes: [u8; WRAPPED_KEY_BYTES] = bytes.as_flattened().try_into().unwrap();
        WrappedKey::from_bytes(bytes)
    })
}

fn head() -> impl Strategy<Value = HeadBody> {
    let state = prop::sample::select(vec![
        HeadState::Active,
        HeadState::Disabled,
        HeadState::Destroyed,
    ]);
    (
        any::<[u8; 16]>(),
        state,
        version(),
        any::<bool>(),
        any::<(u64, u64)>(),
        "[ -~]{0,80}",
    )
        .prop_map(
            |(secret, state, latest, staged, (created_ms, changed_ms), changed_by)| HeadBody {
                secret: SecretId::from_bytes(secret),
                state,
                active: (!staged).then_some(latest),
                latest,
                created_ms,
                changed_ms,
                changed_by,
            },
        )
}

fn kek_state() -> impl Strategy<Value = KekState> {
    let key = (any::<[u8; 16]>(), wrapped());
    (0..4, key, any::<(u32, u64)>()).prop_map(|(state, (wrap_key, wrapped), (rate, values))| {
        let wrap_key = KeyId::from_bytes(wrap_key);
        let kek = WrappedKek { wrap_key, wrapped };
        match state {
            0 => KekState::Active(kek),
            1 => KekState::DecryptOnly(kek, Rewrap { rate, values }),
            2 => KekState::Retired(kek),
            _ => KekState::Destroyed,
        }
    })
}

proptest! {
    #[test]
    fn heads_read_back(body in head()) {
        prop_assert_eq!(HeadBody::decode(&body.encode()), Ok(body));
    }

    #[test]
    fn versions_read_back(
        number in version(), created_ms: u64, created_by: String, note in ".{0,80}",
        fields in prop::collection::btree_map(field(), any::<[u8; 16]>(), 0..=64), pinned: bool,
    ) {
        let pinned = pinned && !fields.is_empty();
        let fields = fields
            .into_iter()
            .map(|(field, value)| (name::<FieldName>(&field), ValueId::from_bytes(value)))
            .collect();
        let body = VersionBody { number, fields, created_ms, created_by, note, pinned };
        prop_assert_eq!(VersionBody::decode(&body.encode()), Ok(body));
    }

    #[test]
    fn requests_read_back(digest: [u8; 32], result: Vec<u8>, created_ms: u64) {
        let body = RequestBody { digest, result, created_ms };
        prop_assert_eq!(RequestBody::decode(&body.encode()), Ok(body));
    }

    #[test]
    fn keyspaces_read_back(
        state in 0..3usize,
        key_epoch in 1u32..,
        created_ms: u64,
        created_by: String,
        max_versions: u32,
        (max_age_s, max_wraps, automatic, backup_age_s) in any::<(u32, u64, bool, u32)>(),
    ) {
        let state = [KeyspaceState::Active, KeyspaceState::Destroyed, KeyspaceState::Removing][state];
        let policy = KeyPolicy { max_age_s, max_wraps, automatic, backup_age_s };
        let body = KeyspaceBody { state, key_epoch, created_ms, created_by, max_versions, policy };
        prop_assert_eq!(KeyspaceBody::decode(&body.encode()), Ok(body));
    }

    #[test]
    fn keks_read_back(kek: [u8; 16], state in kek_state(), created_ms: u64, changed_ms: u64) {
        let body = KekBody { kek: KeyId::from_bytes(kek), state, created_ms, changed_ms };
        prop_assert_eq!(KekBody::decode(&body.encode()), Ok(body));
    }

    #[test]
    fn value_keys_read_back(
        secret: [u8; 16], kek: [u8; 16], hash: [u8; 32], bytes in 16..=16 + 1024 * 1024u32, wrapped in wrapped(),
    ) {
        let body = ValueKeyBody {
            secret: SecretId::from_bytes(secret), kek: KeyId::from_bytes(kek),
            ct_hash: CtHash::from_bytes(hash), ct_bytes: bytes, wrapped,
        };
        prop_assert_eq!(body.plaintext_bytes() + 16, usize::try_from(bytes).unwrap());
        prop_assert_eq!(ValueKeyBody::decode(&body.encode()), Ok(body));
    }

    #[test]
    fn hostile_bytes_never_panic(bytes: Vec<u8>) {
        let headed = [[0, 1, 0, 1].as_slice(), &bytes].concat();
        for bytes in [&bytes, &headed] {
            let _ = HeadBody::decode(bytes);
            let _ = VersionBody::decode(bytes);
            let _ = RequestBody::decode(bytes);
            let _ = KeyspaceBody::decode(bytes);
            let _ = KekBody::decode(bytes);
            let _ = ValueKeyBody::decode(bytes);
            let _ = KekIndexKey::decode(bytes);
            let _ = KekIndexKey::of(bytes, bytes);
        }
    }

    #[test]
    fn index_keys_read_back(kek: [u8; 16], value: [u8; 16]) {
        let key = KekIndexKey { kek: KeyId::from_bytes(kek), value: ValueId::from_bytes(value) };
        prop_assert_eq!(KekIndexKey::decode(&key.encode()), Ok(key));
    }

    #[test]
    fn keys_of_a_keyspace_do_not_run_into_anothers(a in segment(), b in segment(), epoch: u32) {
        let (one, other) = (name(&a), name(&b));
        let (one, other) = (KekBody::key(&one, epoch), KekBody::key(&other, epoch));
        prop_assert_eq!(one.starts_with(&other[..b.len() + 1]), a == b);
    }
}

/// Cuts a body everywhere and lengthens it: nothing but the whole is read.
fn whole_or_nothing<T: std::fmt::Debug>(
    body: Vec<u8>,
    decode: fn(&[u8]) -> Result<T, EnvelopeError>,
) {
    decode(&body).unwrap();
    for cut in truncations(&body) {
        assert!(decode(cut).is_err(), "{} bytes", cut.len());
    }
    let Err(EnvelopeError::Malformed { source, .. }) = decode(&[body.clone(), vec![0]].concat())
    else {
        panic!("a trailing byte was read")
    };
    assert_eq!(source.fault, Fault::Trailing);
    for (at, number) in [(1, "format"), (3, "suite")] {
        let mut unknown = body.clone();
        unknown[at] = 2;
        let error = decode(&unknown).unwrap_err();
        assert!(
            error.to_string().contains(&format!("{number} 2")),
            "{error}"
        );
    }
}

fn fault<T: std::fmt::Debug>(result: Result<T, EnvelopeError>) -> (&'static str, Fault) {
    match result {
        Err(EnvelopeError::Malformed { source, .. }) => (source.field, source.fault),
        other => panic!("{other:?}"),
    }
}

fn head_lp(state: u8, active: u64, latest: u64) -> Vec<u8> {
    let lp = Lp::record().id(SecretId::from_bytes([1; 16])).u8(state);
    lp.u64(active)
        .u64(latest)
        .u64(1)
        .u64(2)
        .str("who")
        .into_bytes()
}

#[test]
fn malformed_heads_are_refused_by_field() {
    whole_or_nothing(head_lp(1, 2, 2), HeadBody::decode);
    assert_eq!(
        fault(HeadBody::decode(&head_lp(0, 1, 2))),
        ("state", Fault::Unknown)
    );
    assert_eq!(
        fault(HeadBody::decode(&head_lp(4, 1, 2))),
        ("state", Fault::Unknown)
    );
    assert_eq!(
        fault(HeadBody::decode(&head_lp(1, 3, 2))),
        ("active version", Fault::Conflict)
    );
    assert_eq!(
        fault(HeadBody::decode(&head_lp(1, 0, 0))),
        ("latest version", Fault::Unknown)
    );
}

fn version_lp(number: u64, fields: &[&str], note: &str) -> Vec<u8> {
    pinned_lp(number, fields, note, 0)
}

fn pinned_lp(number: u64, fields: &[&str], note: &str, pinned: u8) -> Vec<u8> {
    let fields = fields
        .iter()
        .map(|field| Lp::new().str(field).id(ValueId::from_bytes([1; 16])));
    let lp = Lp::record().u64(number).list(fields);
    lp.u64(1).str("who").str(note).u8(pinned).into_bytes()
}

#[test]
fn malformed_versions_are_refused_by_field() {
    let decode = VersionBody::decode;
    whole_or_nothing(version_lp(1, &["a", "b"], "note"), decode);
    assert_eq!(
        fault(decode(&version_lp(0, &["a"], ""))),
        ("number", Fault::Unknown)
    );
    assert_eq!(
        fault(decode(&version_lp(1, &["b", "a"], ""))),
        ("fields", Fault::Order)
    );
    assert_eq!(
        fault(decode(&version_lp(1, &["a", "a"], ""))),
        ("fields", Fault::Order)
    );
    assert_eq!(
        fault(decode(&version_lp(1, &[".a"], ""))),
        ("field", Fault::Grammar)
    );
    assert_eq!(
        fault(decode(&version_lp(1, &["a"], &"n".repeat(1025)))),
        ("note", Fault::TooLong)
    );
    let names: Vec<_> = (0..65).map(|n| format!("f{n:02}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    assert_eq!(
        fault(decode(&version_lp(1, &names, ""))),
        ("fields", Fault::TooLong)
    );
    whole_or_nothing(pinned_lp(1, &["a"], "", 1), decode);
    assert_eq!(
        fault(decode(&pinned_lp(1, &["a"], "", 2))),
        ("pinned", Fault::Unknown)
    );
    // Nothing of a destroyed version is there to be kept.
    assert_eq!(
        fault(decode(&pinned_lp(1, &[], "", 1))),
        ("pinned", Fault::Conflict)
    );
}

#[test]
fn malformed_requests_are_refused_by_field() {
    let body = |digest: usize, result: usize| {
        Lp::record()
            .bytes(&vec![1; digest])
            .bytes(&vec![2; result])
            .u64(3)
            .into_bytes()
    };
    whole_or_nothing(body(32, 5), RequestBody::decode);
    assert!(RequestBody::decode(&body(32, 65_536)).is_ok());
    assert_eq!(
        fault(RequestBody::decode(&body(31, 5))),
        ("digest", Fault::Length)
    );
    let long = body(32, 65_537);
    assert_eq!(
        fault(RequestBody::decode(&long)),
        ("result", Fault::TooLong)
    );
}

#[test]
fn malformed_keyspaces_are_refused_by_field() {
    let rotated = |state: u8, epoch: u32, automatic: u8| {
        let lp = Lp::record().u8(state).u32(epoch).u64(1).str("who").u32(20);
        lp.u32(7).u64(8).u8(automatic).u32(9).into_bytes()
    };
    let body = |state, epoch| rotated(state, epoch, 1);
    whole_or_nothing(body(1, 1), KeyspaceBody::decode);
    assert_eq!(
        fault(KeyspaceBody::decode(&rotated(1, 1, 2))),
        ("automatic", Fault::Unknown)
    );
    assert_eq!(
        fault(KeyspaceBody::decode(&body(4, 1))),
        ("state", Fault::Unknown)
    );
    assert_eq!(
        fault(KeyspaceBody::decode(&body(1, 0))),
        ("key epoch", Fault::Unknown)
    );
    let long = Lp::record()
        .u8(1)
        .u32(1)
        .u64(1)
        .str(&"w".repeat(2049))
        .into_bytes();
    assert_eq!(fault(KeyspaceBody::decode(&long)), ("who", Fault::TooLong));
}

#[test]
fn malformed_keks_are_refused_by_field() {
    let rewrapped = |state: u8, id: usize, wrap: usize, (rate, values): (u32, u64)| {
        let lp = Lp::record().id(KeyId::from_bytes([1; 16])).u8(state);
        let lp = lp.bytes(&vec![2; id]).bytes(&vec![3; wrap]);
        lp.u64(1).u64(2).u32(rate).u64(values).into_bytes()
    };
    let body = |state, id, wrap| rewrapped(state, id, wrap, (0, 0));
    whole_or_nothing(body(1, 16, 112), KekBody::decode);
    whole_or_nothing(rewrapped(2, 16, 112, (500, 7)), KekBody::decode);
    whole_or_nothing(body(4, 0, 0), KekBody::decode);
    for (malformed, expected) in [
        (body(5, 16, 112), ("state", Fault::Unknown)),
        (body(1, 0, 0), ("wrap key_id", Fault::Length)),
        (body(2, 16, 111), ("wrap", Fault::Length)),
        (body(4, 16, 112), ("wrap key_id", Fault::Length)),
        (body(4, 0, 112), ("wrap", Fault::Length)),
        (rewrapped(1, 16, 112, (1, 0)), ("rate", Fault::Unknown)),
        (rewrapped(3, 16, 112, (0, 1)), ("rate", Fault::Unknown)),
        (rewrapped(4, 0, 0, (0, 1)), ("rate", Fault::Unknown)),
    ] {
        assert_eq!(fault(KekBody::decode(&malformed)), expected);
    }
}

#[test]
fn a_keks_row_says_its_keyspace_and_epoch() {
    let key = KekBody::key(&name("payments"), 258);
    assert_eq!(KekBody::parse_key(&key).unwrap(), (name("payments"), 258));
    for other in [
        &b"payments\0\0\0\0\0"[..],
        b"payments\0\0\0\x01",
        b"Payments\0\0\0\0\x01",
        b"\0\0\0\0\x01",
        b"",
    ] {
        assert!(KekBody::parse_key(other).is_err(), "{other:?}");
    }
}

#[test]
fn a_value_keys_row_is_named_by_its_value() {
    let value = ValueId::from_bytes([7; 16]);
    assert_eq!(ValueKeyBody::key(value), [7; 16]);
}

#[test]
fn malformed_value_keys_are_refused_by_field() {
    let body = |bytes: u32, wrap: usize| {
        let lp = Lp::record()
            .id(SecretId::from_bytes([1; 16]))
            .id(KeyId::from_bytes([2; 16]));
        lp.bytes(&[3; 32])
            .u32(bytes)
            .bytes(&vec![4; wrap])
            .into_bytes()
    };
    whole_or_nothing(body(16, 112), ValueKeyBody::decode);
    assert_eq!(
        fault(ValueKeyBody::decode(&body(15, 112))),
        ("ct length", Fault::Length)
    );
    // A version's mebibyte in one value, and its tag.
    assert!(ValueKeyBody::decode(&body(1_048_592, 112)).is_ok());
    let over = 1_048_593;
    assert_eq!(
        fault(ValueKeyBody::decode(&body(over, 112))),
        ("ct length", Fault::Length)
    );
    assert_eq!(
        fault(ValueKeyBody::decode(&body(16, 113))),
        ("wrap", Fault::Length)
    );
}

#[test]
fn an_index_row_is_its_key() {
    for length in [0, 16, 31, 33, 48] {
        assert_eq!(
            fault(KekIndexKey::decode(&vec![0; length])),
            ("the key", Fault::Length)
        );
    }
}

#[test]
fn keys_are_laid_out_for_scans() {
    let path = name("payments/db");
    assert_eq!(HeadBody::key(&path), b"payments/db");
    let secret = SecretId::from_bytes([1; 16]);
    let key = |number| VersionBody::key(secret, SecretVersion::new(number).unwrap());
    assert_eq!(key(1).len(), 24);
    assert!(key(255) < key(256), "versions lie in order");
    let request = |ms: u8| {
        request_key(
            "spiffe://td/operator/alice",
            RequestId::from_bytes([ms; 16]),
        )
    };
    assert!(request(1) < request(2), "requests lie in order of time");
    assert!(request(1).starts_with(&request_prefix("spiffe://td/operator/alice")));
    assert!(!request(1).starts_with(&request_prefix("spiffe://td/operator/ali")));
}
