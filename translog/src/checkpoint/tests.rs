//! Checkpoints and anchor copies: one text each, signed by the key that is named after what it speaks of.

use super::*;

const STORE: [u8; 16] = [0x11; 16];
const CHAIN: [u8; 16] = [0x2a; 16];

fn signer(name: &str) -> Signer {
    Signer::from_seed(name, &[7; 32]).unwrap()
}

#[test]
fn origins_name_their_uuids() {
    let origin = log_origin(&STORE, &CHAIN);
    assert_eq!(
        origin,
        "attache/11111111-1111-1111-1111-111111111111/2a2a2a2a-2a2a-2a2a-2a2a-2a2a2a2a2a2a"
    );
    assert_eq!(log_ids(&origin), Some((STORE, CHAIN)));
    assert_eq!(
        anchor_origin(&STORE),
        "attache/anchor/11111111-1111-1111-1111-111111111111"
    );
    assert_eq!(log_ids(&anchor_origin(&STORE)), None);
    for refused in [
        "",
        "attache/",
        &origin.to_uppercase(),
        &origin.replace('-', ""),
        &format!("{origin}/"),
        &format!("{origin}0"),
        &origin.replace("attache", "other"),
    ] {
        assert_eq!(log_ids(refused), None, "{refused}");
    }
}

#[test]
fn a_checkpoint_opens_under_its_own_key_only() {
    let origin = log_origin(&STORE, &CHAIN);
    let (signer, checkpoint) = (
        signer(&origin),
        Checkpoint {
            size: 1234,
            root: [9; 32],
        },
    );
    let note = checkpoint.sign(&signer).unwrap();
    assert!(note.starts_with(&format!("{origin}\n1234\nCQkJ")));
    assert_eq!(Checkpoint::open(&note, signer.verifier()), Ok(checkpoint));

    let other = Signer::from_seed(&origin, &[8; 32]).unwrap();
    assert_eq!(
        Checkpoint::open(&note, other.verifier()),
        Err(NoteError::Unsigned.into())
    );
}

#[test]
fn an_anchor_opens_under_its_own_key_only() {
    let signer = signer(&anchor_origin(&STORE));
    let anchor = AnchorNote {
        incarnation: 3,
        seq: 77,
        t: [5; 32],
    };
    let note = anchor.sign(&signer).unwrap();
    assert_eq!(AnchorNote::open(&note, signer.verifier()), Ok(anchor));
    let other = Signer::from_seed(&anchor_origin(&CHAIN), &[7; 32]).unwrap();
    assert_eq!(
        AnchorNote::open(&note, other.verifier()),
        Err(NoteError::Unsigned.into())
    );
}

#[test]
fn a_key_signs_only_what_it_is_named_after() {
    let anchor = AnchorNote {
        incarnation: 0,
        seq: 0,
        t: [0; 32],
    };
    let checkpoint = Checkpoint {
        size: 0,
        root: [0; 32],
    };
    assert_eq!(
        checkpoint.sign(&signer(&anchor_origin(&STORE))),
        Err(CheckpointError::Origin)
    );
    assert_eq!(
        anchor.sign(&signer(&log_origin(&STORE, &CHAIN))),
        Err(CheckpointError::Origin)
    );
}

#[test]
fn texts_that_are_not_canonical_are_refused_though_signed() {
    let origin = log_origin(&STORE, &CHAIN);
    let signer = signer(&origin);
    let root = STANDARD.encode([9; 32]);
    let refused = [
        format!("{origin}\n01\n{root}\n"),
        format!("{origin}\n+1\n{root}\n"),
        format!("{origin}\n-1\n{root}\n"),
        format!("{origin}\n 1\n{root}\n"),
        format!("{origin}\n\n{root}\n"),
        format!("{origin}\n18446744073709551616\n{root}\n"),
        format!("{origin}\n1\n{}\n", root.trim_end_matches('=')),
        format!("{origin}\n1\n{}\n", STANDARD.encode([9; 31])),
        format!("{origin}\n1\n{}\n", STANDARD.encode([9; 33])),
        format!("{origin}\n1\n"),
        format!("{origin}\n1\n{root}\nextension\n"),
        format!("{origin}\n1\n{root}\n\n"),
    ];
    for text in refused {
        let note = signer.sign(&text).unwrap();
        assert_eq!(
            Checkpoint::open(&note, signer.verifier()),
            Err(CheckpointError::Malformed),
            "{text}"
        );
    }
    let other = format!("{}\n1\n{root}\n", log_origin(&CHAIN, &STORE));
    let note = signer.sign(&other).unwrap();
    assert_eq!(
        Checkpoint::open(&note, signer.verifier()),
        Err(CheckpointError::Origin)
    );
}
