use attache_envelope::shares::split;

use super::*;

#[test]
fn a_set_of_shares_is_of_its_kind_alone_and_has_to_be_one() {
    let secret = SlotSecret::new(&[7; 32]);
    let (set, _) = split(&SystemRandom, secret, 2, 3).unwrap();
    let bytes = set.encode();
    assert_eq!(share_set(SlotKind::Shares, &bytes).unwrap(), Some(set));
    for kind in [SlotKind::KeyFile, SlotKind::Passphrase, SlotKind::Kms] {
        assert_eq!(share_set(kind, &[]).unwrap(), None);
        let refused = share_set(kind, &bytes).unwrap_err();
        assert!(Status::from(refused).message().contains("leave it out"));
    }
    // The threshold stands behind the set's id: LP(16 bytes, u8, ..).
    let threshold = |threshold: u8| {
        let mut bytes = bytes.clone();
        bytes[24] = threshold;
        bytes
    };
    for bent in [
        Vec::new(),
        bytes[1..].to_vec(),
        [&bytes[..], &[0]].concat(),
        threshold(1),
        threshold(4),
    ] {
        let refused = Status::from(share_set(SlotKind::Shares, &bent).unwrap_err());
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}
