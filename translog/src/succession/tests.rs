use super::*;
use crate::checkpoint::log_origin;
use crate::leaf::Stop;
use crate::segment::{Batch, HEADER_BYTES, Header};
use crate::tree::Frontier;
use crate::verify::{Audit, Found, Report};

const STORE: [u8; 16] = [0x51; 16];
const CHAIN: [u8; 16] = [0xc4; 16];

fn signer(number: u8) -> Signer {
    Signer::from_seed(&log_origin(&STORE, &CHAIN), &[number; 32]).unwrap()
}

fn key(number: u8) -> Verifier {
    signer(number).verifier().clone()
}

fn endorse(before: u8, epoch: u32, after: u8) -> Succession {
    Succession::endorse(&STORE, &signer(before), epoch, *key(after).key()).unwrap()
}

/// Batches of one leaf each: what it is, and who signs it.
fn log(batches: &[(Event, u8)]) -> Vec<u8> {
    let header = Header {
        store: STORE,
        chain: CHAIN,
        first_index: 0,
    };
    let (mut segment, mut frontier) = (header.encode().to_vec(), Frontier::new());
    for (event, by) in batches {
        let leaf = Leaf {
            time_ms: 1,
            boot: [0xb0; 16],
            event: event.clone(),
        };
        let mut batch = Batch::new(&frontier);
        batch.push(&leaf.encode().unwrap());
        let sealed = batch.seal(&signer(*by)).unwrap();
        segment.extend_from_slice(&sealed.bytes);
        frontier = sealed.frontier;
    }
    segment
}

fn plain() -> Event {
    let broker = "spiffe://example.internal/broker/broker-0".into();
    Stop { broker }.into()
}

/// Signed by 1, then by 3 (the rotation to 2 came to nothing), then by 4.
fn rotated_twice() -> Vec<u8> {
    log(&[
        (plain(), 1),
        (endorse(1, 2, 2).into(), 1),
        (endorse(1, 2, 3).into(), 1),
        (plain(), 3),
        (endorse(3, 3, 4).into(), 3),
        (plain(), 4),
        (plain(), 4),
    ])
}

fn told(segment: &[u8]) -> Vec<Succession> {
    let leaves = Records::new(segment).leaves();
    leaves.filter_map(LogKeys::told_by).collect()
}

fn verify(segment: &[u8], known: u8) -> Report {
    let keys = LogKeys::follow(key(known), &told(segment)).unwrap();
    let mut audit = Audit::new(&keys, None).unwrap();
    audit.segment(segment);
    audit.finish()
}

fn found(segment: &[u8], known: u8) -> Vec<Found> {
    let findings = verify(segment, known).findings;
    findings.into_iter().map(|it| it.found).collect()
}

#[test]
fn a_log_verifies_by_any_of_its_keys_to_its_end() {
    for known in [1, 3, 4] {
        let report = verify(&rotated_twice(), known);
        assert_eq!(report.findings, [], "by {known}");
        assert_eq!(report.verified.unwrap().size, 7, "by {known}");
    }
}

#[test]
fn by_a_key_that_never_signed_or_is_of_no_such_log_nothing_verifies() {
    for known in [2, 9] {
        let report = verify(&rotated_twice(), known);
        assert_eq!(report.verified, None, "by {known}");
        assert!(!report.is_clean());
    }
    assert_eq!(
        LogKeys::follow(key(1).named("example.org/log").unwrap(), &[]).unwrap_err(),
        CheckpointError::Origin
    );
}

#[test]
fn a_key_signs_no_more_once_the_next_has() {
    let again = log(&[
        (endorse(1, 2, 3).into(), 1),
        (plain(), 3),
        (plain(), 1),
        (plain(), 1),
    ]);
    for known in [1, 3] {
        let unsigned = Found::Checkpoint(CheckpointError::Note(NoteError::Unsigned));
        assert_eq!(found(&again, known), [unsigned.clone(), unsigned]);
        assert_eq!(verify(&again, known).verified.unwrap().size, 2);
    }
}

#[test]
fn a_log_that_ends_before_the_known_key_signed_is_not_vouched_for() {
    let stolen = log(&[(plain(), 1), (endorse(1, 2, 3).into(), 1), (plain(), 1)]);
    assert_eq!(verify(&stolen, 1).findings, []);
    assert_eq!(found(&stolen, 3), [Found::NotVouched]);
    assert_eq!(verify(&stolen, 3).verified, None);
}

#[test]
fn an_old_key_cannot_bring_another_one_in_behind_the_known_one() {
    // Whoever stole key 1 endorses a key of their own, and signs on with it.
    let usurped = log(&[
        (endorse(1, 2, 3).into(), 1),
        (plain(), 3),
        (endorse(1, 2, 7).into(), 3),
        (plain(), 7),
    ]);
    let unsigned = Found::Checkpoint(CheckpointError::Note(NoteError::Unsigned));
    for known in [1, 3] {
        assert_eq!(
            found(&usurped, known),
            std::slice::from_ref(&unsigned),
            "by {known}"
        );
        assert_eq!(verify(&usurped, known).verified.unwrap().size, 3);
    }
}

#[test]
fn a_checkpoint_that_a_later_key_signed_is_not_gone_on_from_under_another_heir_of_the_key_before() {
    let told = [endorse(1, 2, 3), endorse(1, 2, 7), endorse(3, 3, 4)];
    let keys = LogKeys::follow(key(1), &told).unwrap();
    let root = [5; 32];
    let kept = |by| Checkpoint { size: 9, root }.sign(&signer(by)).unwrap();
    for (by, last, goes_on) in [
        (3, 3, true),
        (3, 4, true),
        (1, 4, true),
        (3, 7, false),
        (3, 1, false),
        (4, 3, false),
        (9, 3, false),
    ] {
        let found = keys.go_on_from(&kept(by), &key(last));
        assert_eq!(found, goes_on, "{by} then {last}");
    }
}

#[test]
fn successions_behind_damage_are_found() {
    let mut segment = rotated_twice();
    let whole = LogKeys::told_in(&segment, key(1).name());
    assert_eq!(whole, told(&segment));
    assert_eq!(whole.len(), 3);
    segment[HEADER_BYTES] ^= 1;
    assert_eq!(told(&segment), []);
    assert_eq!(LogKeys::told_in(&segment, key(1).name()), whole);
}

#[test]
fn an_endorsement_is_of_this_store_and_of_exactly_these_keys() {
    let other = Succession::endorse(&[0x52; 16], &signer(1), 2, *key(3).key()).unwrap();
    let forged = [
        Succession {
            endorsement: [7; 64],
            ..endorse(1, 2, 3)
        },
        Succession {
            epoch: 9,
            ..endorse(1, 2, 3)
        },
        Succession {
            after: *key(3).key(),
            ..endorse(1, 2, 4)
        },
        other,
    ];
    for told in forged {
        let segment = log(&[(told.clone().into(), 1), (plain(), 3)]);
        let unsigned = Found::Checkpoint(CheckpointError::Note(NoteError::Unsigned));
        assert_eq!(found(&segment, 1), [unsigned], "{told:?}");
        assert_eq!(verify(&segment, 3).verified, None, "{told:?}");
    }
}

#[test]
fn keys_of_several_names_are_of_no_log() {
    assert!(LogKeys::all_known(vec![]).is_none());
    let other = key(2).named("attache/elsewhere").unwrap();
    assert!(LogKeys::all_known(vec![key(1), other]).is_none());
    assert!(LogKeys::all_known(vec![key(1), key(2)]).is_some());
}
