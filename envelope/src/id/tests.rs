use proptest::prelude::*;

use super::*;
use crate::SystemRandom;
use crate::testing::NoRandom;

proptest! {
    #[test]
    fn text_parses_back(bytes: [u8; 16]) {
        let store = StoreId::from_bytes(bytes);
        prop_assert_eq!(store.to_string().parse(), Ok(store));
        prop_assert_eq!(store.to_string().len(), 36);
        let nonce = Nonce::from_bytes(bytes);
        prop_assert_eq!(nonce.to_string().parse(), Ok(nonce));
        let request = RequestId::from_bytes(bytes);
        prop_assert_eq!(request.to_string().parse(), Ok(request));
    }

    #[test]
    fn a_request_tells_its_time(unix_ms in 0u64..1 << 48) {
        let request = RequestId::new(unix_ms, &SystemRandom).unwrap();
        prop_assert_eq!(request.unix_ms(), Some(unix_ms));
        prop_assert_eq!(&request.to_string()[14..15], "7");
    }

    #[test]
    fn requests_are_ordered_by_time(a in 0u64..1 << 48, b in 0u64..1 << 48) {
        let draw = |unix_ms| RequestId::new(unix_ms, &SystemRandom).unwrap();
        prop_assert!(a == b || (draw(a) < draw(b)) == (a < b));
    }
}

#[test]
fn a_uuid_is_written_in_five_groups() {
    let bytes = [
        0xb5, 0x76, 0xac, 0xa5, 0xe2, 0x44, 0x4c, 0x5e, 0x90, 0x57, 0x89, 0x85, 0x00, 0x29, 0x1a,
        0xa0,
    ];
    let text = "b576aca5-e244-4c5e-9057-898500291aa0";
    assert_eq!(ValueId::from_bytes(bytes).to_string(), text);
    assert_eq!(
        format!("{:?}", ValueId::from_bytes(bytes)),
        format!("ValueId({text})")
    );
}

#[test]
fn a_random_uuid_has_version_and_variant() {
    for _ in 0..64 {
        let text = SecretId::random(&SystemRandom).unwrap().to_string();
        assert_eq!(&text[14..15], "4");
        assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"), "{text}");
    }
    assert_ne!(Nonce::random(&SystemRandom), Nonce::random(&SystemRandom));
}

#[test]
fn text_of_another_form_is_refused() {
    for wrong in [
        "",
        "b576aca5e2444c5e9057898500291aa0",
        "b576aca5-e244-4c5e-9057-898500291aa",
        "b576aca5-e244-4c5e-9057-898500291aa00",
        "B576ACA5-E244-4C5E-9057-898500291AA0",
        "b576aca5-e244-4c5e-9057-898500291ag0",
        "b576aca5e-244-4c5e-9057-898500291aa0",
        "{b576aca5-e244-4c5e-9057-898500291aa0}",
        "b576aca5-e244-4c5e-9057-898500291aa0-",
        "b576aca5-e244-4c5e-9057-8985\u{e9}029\u{e9}a0",
    ] {
        let error = wrong.parse::<StoreId>().unwrap_err();
        assert_eq!(error.kind, "the store id", "{wrong}");
    }
    for wrong in [
        "",
        "00",
        "B576aca5e2444c5e9057898500291aa0",
        "b576aca5-e244-4c5e-9057-898500291aa0",
    ] {
        assert!(wrong.parse::<Nonce>().is_err(), "{wrong}");
    }
}

#[test]
fn bytes_of_another_length_are_refused() {
    for length in [0, 15, 17] {
        let bytes = vec![1; length];
        assert!(SecretId::try_from(bytes.as_slice()).is_err());
    }
    assert_eq!(
        SecretId::try_from([1; 16].as_slice()),
        Ok(SecretId::from_bytes([1; 16]))
    );
}

#[test]
fn a_request_of_another_version_has_no_time() {
    let uuid_v4 = *ValueId::random(&SystemRandom).unwrap().as_bytes();
    assert_eq!(RequestId::from_bytes(uuid_v4).unix_ms(), None);
    assert_eq!(
        RequestId::from_bytes([0x77; 16]).unix_ms(),
        None,
        "wrong variant"
    );
}

#[test]
fn no_randomness_no_id() {
    assert_eq!(StoreId::random(&NoRandom), Err(EnvelopeError::Random));
    assert_eq!(Nonce::random(&NoRandom), Err(EnvelopeError::Random));
    assert_eq!(RequestId::new(0, &NoRandom), Err(EnvelopeError::Random));
}
