use proptest::prelude::*;

use super::*;
use crate::SystemRandom;
use crate::testing::{NoRandom, flipped, name};

fn binding<'a>(keyspace: &'a Keyspace, field: &'a FieldName) -> ValueBinding<'a> {
    ValueBinding {
        store: StoreId::from_bytes([1; 16]),
        keyspace,
        secret: SecretId::from_bytes([2; 16]),
        value: ValueId::from_bytes([3; 16]),
        field,
    }
}

proptest! {
    #[test]
    fn a_value_opens_and_with_any_bit_flipped_does_not(
        plaintext in prop::collection::vec(any::<u8>(), 0..300),
        at: prop::sample::Index,
    ) {
        let (keyspace, field) = (name("payments"), name("password"));
        let binding = binding(&keyspace, &field);
        let key = DataKey::random(&SystemRandom).unwrap();
        let (ct, used) = key.seal(&plaintext, &binding).unwrap();
        let mut out = vec![0; plaintext_bytes(&ct).unwrap()];
        prop_assert_eq!(used.dek().open(&ct, &binding, &mut out), Ok(()));
        prop_assert_eq!(out, plaintext);
        prop_assert_eq!(used.dek().verify_tag(&ct, &binding), Ok(()));
        let damaged = flipped(&ct, at);
        prop_assert_eq!(used.dek().verify_tag(&damaged, &binding), Err(EnvelopeError::Refused));
        prop_assert_ne!(CtHash::of(&damaged), CtHash::of(&ct));
    }
}

#[test]
fn another_field_of_the_binding_is_refused() {
    let (keyspace, field) = (name("payments"), name("password"));
    let (other_keyspace, other_field) = (name("billing"), name("passwd"));
    let right = binding(&keyspace, &field);
    let (ct, used) = DataKey::random(&SystemRandom)
        .unwrap()
        .seal(b"value", &right)
        .unwrap();
    for swapped in [
        ValueBinding {
            store: StoreId::from_bytes([9; 16]),
            ..right
        },
        ValueBinding {
            keyspace: &other_keyspace,
            ..right
        },
        ValueBinding {
            secret: SecretId::from_bytes([9; 16]),
            ..right
        },
        ValueBinding {
            value: ValueId::from_bytes([9; 16]),
            ..right
        },
        ValueBinding {
            field: &other_field,
            ..right
        },
    ] {
        let refused = Err(EnvelopeError::Refused);
        assert_eq!(used.dek().verify_tag(&ct, &swapped), refused, "{swapped:?}");
        assert_eq!(
            used.dek().open(&ct, &swapped, &mut [0; 5]),
            refused,
            "{swapped:?}"
        );
    }
}

#[test]
fn a_value_ends_at_one_mebibyte() {
    let (keyspace, field) = (name("payments"), name("password"));
    let binding = binding(&keyspace, &field);
    let largest = vec![7; MAX_VERSION_BYTES];
    let key = || DataKey::random(&SystemRandom).unwrap();
    let (ct, used) = key().seal(&largest, &binding).unwrap();
    assert_eq!(used.dek().verify_tag(&ct, &binding), Ok(()));
    let over = [largest.as_slice(), &[7]].concat();
    assert!(matches!(
        key().seal(&over, &binding),
        Err(EnvelopeError::Limit { .. })
    ));
    let over = vec![0; MAX_VERSION_BYTES + TAG_BYTES + 1];
    assert!(matches!(
        used.dek().verify_tag(&over, &binding),
        Err(EnvelopeError::Limit { .. })
    ));
    assert!(matches!(
        used.dek().open(&over, &binding, &mut []),
        Err(EnvelopeError::Limit { .. })
    ));
}

#[test]
fn less_than_a_tag_is_refused() {
    assert_eq!(plaintext_bytes(&[0; 15]), Err(EnvelopeError::Refused));
    assert_eq!(plaintext_bytes(&[0; 16]), Ok(0));
}

#[test]
fn no_randomness_no_key() {
    assert_eq!(
        DataKey::random(&NoRandom).err(),
        Some(EnvelopeError::Random)
    );
}

#[test]
fn a_hash_is_shown_whole() {
    let hash = CtHash::from_bytes([0xab; 32]);
    assert_eq!(format!("{hash:?}"), format!("CtHash({})", "ab".repeat(32)));
}
