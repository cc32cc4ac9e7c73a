use proptest::prelude::*;

use super::*;
use crate::SystemRandom;
use crate::testing::{NoRandom, flipped, name, truncations};

const KEY: [u8; 32] = [0x11; 32];
const DEK: [u8; 32] = [0x22; 32];

fn dek_binding(keyspace: &Keyspace) -> DekBinding<'_> {
    DekBinding {
        store: StoreId::from_bytes([1; 16]),
        keyspace,
        secret: SecretId::from_bytes([2; 16]),
        value: ValueId::from_bytes([3; 16]),
        kek: KeyId::from_bytes([4; 16]),
        ct_hash: CtHash::from_bytes([5; 32]),
    }
}

fn kek(key: &[u8; 32]) -> PreparedKek {
    PreparedKek::new(Kek::new(key)).unwrap()
}

fn opens(key: &[u8; 32], binding: &DekBinding<'_>, wrapped: &WrappedKey) -> bool {
    let mut out = [0; 32];
    match kek(key).unwrap_dek(binding, wrapped, &mut out) {
        Ok(()) => {
            assert_eq!(out, DEK);
            true
        }
        Err(error) => {
            assert_eq!(error, EnvelopeError::Refused);
            assert_eq!(out, [0; 32], "nothing is written");
            false
        }
    }
}

proptest! {
    #[test]
    fn a_wrapped_key_opens_and_with_any_bit_flipped_does_not(at: prop::sample::Index) {
        let keyspace = name("payments");
        let binding = dek_binding(&keyspace);
        let wrapped = kek(&KEY).wrap_dek(&SystemRandom, &binding, Dek::new(&DEK)).unwrap();
        prop_assert!(opens(&KEY, &binding, &wrapped));
        let damaged = flipped(wrapped.as_bytes(), at).try_into().unwrap();
        prop_assert!(!opens(&KEY, &binding, &WrappedKey::from_bytes(damaged)));
        let other = flipped(&KEY, at).try_into().unwrap();
        prop_assert!(!opens(&other, &binding, &wrapped));
    }

    #[test]
    fn any_record_wraps_and_opens(record: Vec<u8>, at: prop::sample::Index) {
        let binding = AnchorBinding { store: StoreId::from_bytes([1; 16]), incarnation: 1, seq: 2 };
        let (key, id) = (AnchorSealKey::new(&KEY), KeyId::from_bytes([4; 16]));
        let wrapped = wrap_anchor(&SystemRandom, key, id, &binding, &record).unwrap();
        prop_assert_eq!(wrapped.len(), record.len() + OVERHEAD_BYTES);
        prop_assert_eq!(unwrap_anchor(key, id, &binding, &wrapped), Ok(record));
        let damaged = flipped(&wrapped, at);
        prop_assert_eq!(unwrap_anchor(key, id, &binding, &damaged), Err(EnvelopeError::Refused));
    }
}

#[test]
fn another_field_of_a_deks_binding_is_refused() {
    let (keyspace, other) = (name("payments"), name("billing"));
    let right = dek_binding(&keyspace);
    let wrapped = kek(&KEY)
        .wrap_dek(&SystemRandom, &right, Dek::new(&DEK))
        .unwrap();
    assert!(opens(&KEY, &right, &wrapped));
    for swapped in [
        DekBinding {
            store: StoreId::from_bytes([9; 16]),
            ..right
        },
        DekBinding {
            keyspace: &other,
            ..right
        },
        DekBinding {
            secret: SecretId::from_bytes([9; 16]),
            ..right
        },
        DekBinding {
            value: ValueId::from_bytes([9; 16]),
            ..right
        },
        DekBinding {
            kek: KeyId::from_bytes([9; 16]),
            ..right
        },
        DekBinding {
            ct_hash: CtHash::from_bytes([9; 32]),
            ..right
        },
    ] {
        assert!(!opens(&KEY, &swapped, &wrapped), "{swapped:?}");
    }
}

#[test]
fn another_field_of_a_keks_binding_is_refused() {
    let (keyspace, other) = (name("payments"), name("billing"));
    let right = KekBinding {
        store: StoreId::from_bytes([1; 16]),
        keyspace: &keyspace,
        epoch: 1,
        kek: KeyId::from_bytes([2; 16]),
    };
    let (key, id) = (KekWrapKey::new(&KEY), KeyId::from_bytes([3; 16]));
    let wrapped = wrap_kek(&SystemRandom, key, id, &right, Kek::new(&DEK)).unwrap();
    let open = |id, binding: &KekBinding<'_>| unwrap_kek(key, id, binding, &wrapped, &mut [0; 32]);
    assert_eq!(open(id, &right), Ok(()));
    for swapped in [
        KekBinding {
            store: StoreId::from_bytes([9; 16]),
            ..right
        },
        KekBinding {
            keyspace: &other,
            ..right
        },
        KekBinding { epoch: 2, ..right },
        KekBinding {
            kek: KeyId::from_bytes([9; 16]),
            ..right
        },
    ] {
        assert_eq!(
            open(id, &swapped),
            Err(EnvelopeError::Refused),
            "{swapped:?}"
        );
    }
    assert_eq!(
        open(KeyId::from_bytes([9; 16]), &right),
        Err(EnvelopeError::Refused)
    );
}

#[test]
fn another_field_of_a_slots_binding_is_refused() {
    let right = SlotBinding {
        store: StoreId::from_bytes([1; 16]),
        slot: SlotId::from_bytes([2; 16]),
        kind: SlotKind::Passphrase,
        kdf_parameters: &[1, 2],
    };
    let secret = SlotSecret::new(&KEY);
    let wrapped = wrap_slot_blob(&SystemRandom, secret, &right, &[7; 64]).unwrap();
    let open =
        |binding: &SlotBinding<'_>| unwrap_slot_blob(secret, binding, &wrapped, &mut [0; 64]);
    assert_eq!(open(&right), Ok(()));
    for swapped in [
        SlotBinding {
            store: StoreId::from_bytes([9; 16]),
            ..right
        },
        SlotBinding {
            slot: SlotId::from_bytes([9; 16]),
            ..right
        },
        SlotBinding {
            kind: SlotKind::KeyFile,
            ..right
        },
        SlotBinding {
            kdf_parameters: &[1, 3],
            ..right
        },
    ] {
        assert_eq!(open(&swapped), Err(EnvelopeError::Refused), "{swapped:?}");
    }
    let short = unwrap_slot_blob(secret, &right, &wrapped, &mut [0; 63]);
    assert!(matches!(
        short,
        Err(EnvelopeError::Buffer {
            needed_bytes: 64,
            ..
        })
    ));
}

#[test]
fn another_field_of_the_anchors_binding_is_refused() {
    let right = AnchorBinding {
        store: StoreId::from_bytes([1; 16]),
        incarnation: 1,
        seq: 2,
    };
    let (key, id) = (AnchorSealKey::new(&KEY), KeyId::from_bytes([3; 16]));
    let wrapped = wrap_anchor(&SystemRandom, key, id, &right, b"record").unwrap();
    for swapped in [
        AnchorBinding {
            store: StoreId::from_bytes([9; 16]),
            ..right
        },
        AnchorBinding {
            incarnation: 2,
            ..right
        },
        AnchorBinding { seq: 3, ..right },
    ] {
        let result = unwrap_anchor(key, id, &swapped, &wrapped);
        assert_eq!(result, Err(EnvelopeError::Refused), "{swapped:?}");
    }
}

#[test]
fn a_wrap_cut_anywhere_is_refused() {
    let binding = AnchorBinding {
        store: StoreId::from_bytes([1; 16]),
        incarnation: 1,
        seq: 2,
    };
    let (key, id) = (AnchorSealKey::new(&KEY), KeyId::from_bytes([3; 16]));
    let wrapped = wrap_anchor(&SystemRandom, key, id, &binding, b"record").unwrap();
    for cut in truncations(&wrapped) {
        assert_eq!(
            unwrap_anchor(key, id, &binding, cut),
            Err(EnvelopeError::Refused)
        );
    }
}

/// With the commitment of another salt, everything that GCM checks still holds: only the commitment refuses.
#[test]
fn the_commitment_is_checked_by_itself() {
    let aad = b"aad";
    let (salt, id) = ([6; 32], KeyId::from_bytes([3; 16]));
    let key = Expanding::new(&KEY).unwrap();
    let okm = Okm::derive(&key, id, &salt).unwrap();
    let ct = gcm::seal(okm.enc(), b"plaintext", aad).unwrap();
    let mut out = [0; 9];
    let right = [salt.as_slice(), okm.commit(), &ct].concat();
    assert_eq!(unwrap(&key, id, &right, aad, &mut out), Ok(()));
    let other = Okm::derive(&key, id, &[7; 32]).unwrap();
    let wrong = [salt.as_slice(), other.commit(), &ct].concat();
    assert_eq!(
        unwrap(&key, id, &wrong, aad, &mut out),
        Err(EnvelopeError::Refused)
    );
}

#[test]
fn no_two_wraps_are_alike() {
    let keyspace = name("payments");
    let binding = dek_binding(&keyspace);
    let wrap = || {
        kek(&KEY)
            .wrap_dek(&SystemRandom, &binding, Dek::new(&DEK))
            .unwrap()
    };
    assert_ne!(wrap(), wrap());
    let failed = kek(&KEY).wrap_dek(&NoRandom, &binding, Dek::new(&DEK));
    assert_eq!(failed, Err(EnvelopeError::Random));
}
