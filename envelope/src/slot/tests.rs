use attache_arena::Arena;
use proptest::prelude::*;

use super::*;
use crate::SystemRandom;
use crate::keyring::{FreshSrk, SealedKeyring};
use crate::shares;
use crate::testing::{flipped, truncations};

const STORE: StoreId = StoreId::from_bytes([1; 16]);
const SLOT: SlotId = SlotId::from_bytes([2; 16]);
const SECRET: [u8; 32] = [0x33; 32];
const REKEY: [u8; 32] = [0x44; 32];
const SRK: [u8; 32] = [0x55; 32];
/// Up to here everything of a key-file slot is under its own wrap and signature.
const SEALED_BYTES: usize = 392;

/// A slot of this source, which reads back as it is.
fn opened_by(source: SlotSource, key: SlotSecret<'_>) -> Slot {
    let rekey = SigningSeed::new(&REKEY);
    let verifying = rekey.verifying_key().unwrap();
    let identity = SlotIdentity::new(&SystemRandom, STORE, SLOT, &source, key, verifying).unwrap();
    let seal = identity.seal_srk(&SystemRandom, STORE, 7, Srk::new(&SRK), rekey);
    let slot = Slot {
        identity,
        seal: seal.unwrap(),
        ..slot_of(STORE, 7)
    };
    assert_eq!(Slot::decode(&slot.encode()), Ok(slot.clone()));
    assert_eq!(slot.identity.source(), Ok(source));
    slot
}

/// The number of the keyring that the secret opens through a slot.
fn number(slot: &Slot, key: SlotSecret<'_>) -> Result<u64, EnvelopeError> {
    slot.open(STORE, key, &mut [0; 32])
        .map(|opened| opened.number)
}

fn slot_of(store: StoreId, number: u64) -> Slot {
    let rekey = SigningSeed::new(&REKEY);
    let verifying = rekey.verifying_key().unwrap();
    let secret = SlotSecret::new(&SECRET);
    let identity = SlotIdentity::key_file(&SystemRandom, store, SLOT, secret, verifying).unwrap();
    let srk = Srk::new(&SRK);
    let seal = identity
        .seal_srk(&SystemRandom, store, number, srk, rekey)
        .unwrap();
    let about = SlotAbout {
        name: "key-file".parse().unwrap(),
        created_ms: 5,
        verified_ms: None,
    };
    Slot {
        identity,
        seal,
        about,
    }
}

fn open(slot: &Slot) -> Result<(u64, [u8; 32]), EnvelopeError> {
    let mut srk = [0; 32];
    let opened = slot.open(STORE, SlotSecret::new(&SECRET), &mut srk);
    if opened.is_err() {
        assert_eq!(srk, [0; 32], "nothing is written");
    }
    opened.map(|opened| (opened.number, srk))
}

fn refused(change: impl FnOnce(&mut Slot)) {
    let mut slot = slot_of(STORE, 7);
    change(&mut slot);
    assert_eq!(open(&slot), Err(EnvelopeError::Refused));
}

fn fault(bytes: &[u8]) -> (&'static str, Fault) {
    match Slot::decode(bytes) {
        Err(EnvelopeError::Malformed {
            record: "the slot",
            source,
        }) => (source.field, source.fault),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_stored_slot_opens_and_with_any_bit_flipped_does_not(at: prop::sample::Index) {
        let slot = slot_of(STORE, 7);
        let stored = slot.encode();
        prop_assert_eq!(Slot::decode(&stored), Ok(slot.clone()));
        prop_assert_eq!(open(&slot), Ok((7, SRK)));
        // What operators know it by is protected by the row's MAC alone.
        let (sealed, about) = stored.split_at(SEALED_BYTES);
        let damaged = [flipped(sealed, at), about.to_vec()].concat();
        prop_assert!(Slot::decode(&damaged).and_then(|slot| open(&slot)).is_err());
    }

    #[test]
    fn hostile_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Slot::decode(&bytes);
        let _ = Slot::decode(&[[0, 1, 0, 1].as_slice(), &bytes].concat());
        let _ = ShareFile::parse(&bytes);
        let _ = ShareFile::parse(&[b"attache-share-1\nstore ".as_slice(), &bytes, b"\n"].concat());
        let _ = parse_key_file(&bytes, &mut [0; 32]);
        let _ = parse_key_file(&[b"attache-slot-key-1:".as_slice(), &bytes, b"\n"].concat(), &mut [0; 32]);
    }

    #[test]
    fn a_key_file_reads_back_and_says_nothing_else(secret: [u8; 32], other in "[A-Za-z0-9_-]{43}") {
        let mut text = [0; KEY_FILE_BYTES];
        write_key_file(SlotSecret::new(&secret), &mut text);
        let mut read = [0; 32];
        prop_assert_eq!(parse_key_file(&text, &mut read), Ok(()));
        prop_assert_eq!(read, secret);
        // Whatever reads at all is written back as it was: one text a secret.
        let other = format!("attache-slot-key-1:{other}\n");
        if parse_key_file(other.as_bytes(), &mut read).is_ok() {
            write_key_file(SlotSecret::new(&read), &mut text);
            prop_assert_eq!(text.as_slice(), other.as_bytes());
        }
    }
}

#[test]
fn a_passphrase_slot_opens_by_what_its_own_parameters_make_of_the_passphrase() {
    let parameters = PassphraseParameters::decode(
        &[&[0, 0, 0, 64][..], &[0, 0, 0, 1], &[0, 0, 0, 1], &[5; 32]].concat(),
    );
    let parameters = parameters.unwrap();
    let mut secret = [0; 32];
    parameters
        .derive(b"correct horse battery staple", &mut secret)
        .unwrap();
    let key = SlotSecret::new(&secret);
    let mut slot = opened_by(SlotSource::Passphrase(parameters), key);
    let open = |slot: &Slot| number(slot, key);
    assert_eq!(open(&slot), Ok(7));
    // Whoever makes the guess cheaper in the row has a slot that nothing opens.
    slot.identity.kdf_parameters[3] = 8;
    assert_eq!(open(&slot), Err(EnvelopeError::Refused));
}

#[test]
fn a_slot_of_shares_has_its_set_in_the_row_and_another_threshold_there_opens_nothing() {
    let secret = [0x35; 32];
    let key = SlotSecret::new(&secret);
    let (set, _) = shares::split(&SystemRandom, key, 2, 3).unwrap();
    let mut slot = opened_by(SlotSource::Shares(set), key);
    let open = |slot: &Slot| number(slot, key);
    assert_eq!(open(&slot), Ok(7));
    // Threshold after the set's id: LP(16 bytes, u8, ..).
    slot.identity.kdf_parameters[24] = 3;
    assert!(Slot::decode(&slot.encode()).is_ok());
    assert_eq!(open(&slot), Err(EnvelopeError::Refused));
    slot.identity.kdf_parameters[24] = 1;
    assert!(Slot::decode(&slot.encode()).is_err());
}

/// Who can write the store knows every public key in it, and nothing else.
#[test]
fn a_keyring_forged_from_the_public_key_alone_does_not_open() {
    let victim = slot_of(STORE, 7);
    let arena = Arena::new_plain().unwrap();
    let forged_srk = arena.random_key().unwrap();
    let (forged_keyring, forged_srk) = FreshSrk::new(forged_srk)
        .seal(STORE, 8, b"their keys")
        .unwrap();
    let their_rekey = [0x66; 32];
    let their_rekey = SigningSeed::new(&their_rekey);
    let srk = Srk::new(forged_srk.expose());
    let seal = victim
        .identity
        .seal_srk(&SystemRandom, STORE, 8, srk, their_rekey)
        .unwrap();

    let forged = Slot {
        identity: victim.identity.clone(),
        seal: seal.clone(),
        about: victim.about.clone(),
    };
    assert_eq!(open(&forged), Err(EnvelopeError::Refused));

    // The forgery is whole but for the signature: signed by the rekey of the slot's own blob, it would open.
    let rekey = SigningSeed::new(&REKEY);
    let message = signed(STORE, SLOT, &victim.identity.pk, 8, &seal.enc, &seal.ct);
    let signature = rekey.sign(&message).unwrap();
    let control = Slot {
        seal: SrkSeal { signature, ..seal },
        ..victim
    };
    let (number, srk) = open(&control).unwrap();
    let mut record = [0; 10];
    assert_eq!(number, forged_keyring.number());
    assert_eq!(
        forged_keyring.open(Srk::new(&srk), STORE, &mut record),
        Ok(())
    );
    assert_eq!(&record, b"their keys");
    assert!(SealedKeyring::decode(&forged_keyring.encode()).is_ok());
}

#[test]
fn another_slots_or_stores_seal_is_refused() {
    refused(|slot| slot.seal = slot_of(STORE, 7).seal);
    refused(|slot| *slot = slot_of(StoreId::from_bytes([9; 16]), 7));
    refused(|slot| slot.identity.slot = SlotId::from_bytes([9; 16]));
    refused(|slot| slot.identity.pk = slot_of(STORE, 7).identity.pk);
    refused(|slot| slot.identity.kind = SlotKind::Passphrase);
    refused(|slot| slot.identity.kdf_parameters = vec![1]);
    refused(|slot| slot.seal.number = 8);
    refused(|slot| slot.seal.enc = Enc::from_bytes([0; 32]));
}

#[test]
fn an_older_seal_of_the_same_slot_still_says_its_own_number() {
    let slot = slot_of(STORE, 7);
    assert_eq!(
        open(&slot),
        Ok((7, SRK)),
        "the anchor, not the slot, tells that it is old"
    );
}

#[test]
fn another_secret_is_refused() {
    let result = slot_of(STORE, 7).open(STORE, SlotSecret::new(&[0x34; 32]), &mut [0; 32]);
    assert_eq!(result.err(), Some(EnvelopeError::Refused));
}

#[test]
fn a_row_cut_anywhere_is_refused() {
    let stored = slot_of(STORE, 7).encode();
    for cut in truncations(&stored) {
        assert!(Slot::decode(cut).is_err(), "{} bytes", cut.len());
    }
    assert_eq!(
        fault(&[stored, vec![0]].concat()),
        ("the record", Fault::Trailing)
    );
}

#[test]
fn hostile_sizes_are_refused_by_field() {
    let row = |kind: &str, kdf: usize, blob: usize, ct: usize, signature: usize| {
        Lp::record()
            .id(SLOT)
            .str(kind)
            .bytes(&vec![1; kdf])
            .bytes(&[9; 32])
            .bytes(&vec![0; blob])
            .u64(1)
            .bytes(&[9; 32])
            .bytes(&vec![0; ct])
            .bytes(&vec![0; signature])
            .str("a-slot")
            .u64(1)
            .u64(0)
            .into_bytes()
    };
    assert!(Slot::decode(&row("key-file", 0, 144, 48, 64)).is_ok());
    assert_eq!(fault(&row("hsm", 0, 144, 48, 64)), ("kind", Fault::Grammar));
    assert_eq!(
        fault(&row("kms", 48 * 1024 + 1, 144, 48, 64)),
        ("KDF parameters", Fault::TooLong)
    );
    assert_eq!(
        fault(&row("kms", 0, 144, 48, 64)),
        ("key id", Fault::Truncated)
    );
    for bytes in [0, 43, 45, 256] {
        assert_eq!(
            fault(&row("passphrase", bytes, 144, 48, 64)),
            ("KDF parameters", Fault::Length)
        );
    }
    // Numbers of ones: more than any row may cost.
    assert_eq!(
        fault(&row("passphrase", 44, 144, 48, 64)),
        ("KDF parameters", Fault::TooLong)
    );
    assert_eq!(
        fault(&row("key-file", 1, 144, 48, 64)),
        ("KDF parameters", Fault::Conflict)
    );
    assert_eq!(
        fault(&row("key-file", 0, 145, 48, 64)),
        ("blob", Fault::Length)
    );
    assert_eq!(
        fault(&row("key-file", 0, 144, 47, 64)),
        ("ct", Fault::Length)
    );
    assert_eq!(
        fault(&row("key-file", 0, 144, 48, 65)),
        ("signature", Fault::Length)
    );
}

#[test]
fn a_slot_is_known_by_a_name_of_the_grammar_and_a_time_that_may_be_missing() {
    let mut slot = slot_of(STORE, 7);
    assert_eq!(Slot::decode(&slot.encode()).unwrap().about, slot.about);
    slot.about.verified_ms = Some(9);
    assert_eq!(Slot::decode(&slot.encode()).unwrap(), slot);
    let stored = slot.encode();
    let mut shouting = stored.clone();
    let name = stored.windows(8).rposition(|part| part == b"key-file");
    shouting[name.unwrap()] = b'K';
    assert_eq!(fault(&shouting), ("name", Fault::Grammar));
}

#[test]
fn each_fault_of_a_key_file_is_told_apart() {
    let digits = "A".repeat(43);
    let parse = |text: &str| parse_key_file(text.as_bytes(), &mut [0; 32]);
    assert_eq!(parse(&format!("attache-slot-key-1:{digits}\n")), Ok(()));
    assert_eq!(parse(""), Err(KeyFileError::Prefix));
    assert_eq!(
        parse(&format!("attache-slot-key-2:{digits}\n")),
        Err(KeyFileError::Prefix)
    );
    assert_eq!(
        parse(&format!("attache-slot-key-1:{digits}")),
        Err(KeyFileError::Newline)
    );
    assert_eq!(
        parse(&format!("attache-slot-key-1:{digits}\r\n")),
        Err(KeyFileError::Length)
    );
    assert_eq!(
        parse(&format!("attache-slot-key-1:{digits}=\n")),
        Err(KeyFileError::Length)
    );
    assert_eq!(
        parse(&format!("attache-slot-key-1:{}+\n", &digits[1..])),
        Err(KeyFileError::Alphabet)
    );
    assert_eq!(
        parse(&format!("attache-slot-key-1:{}B\n", &digits[1..])),
        Err(KeyFileError::SpareBits)
    );
    let not_utf8 = [b"attache-slot-key-1:".as_slice(), &[0xff; 43], b"\n"].concat();
    assert_eq!(
        parse_key_file(&not_utf8, &mut [0; 32]),
        Err(KeyFileError::Alphabet)
    );
}
