use attache_arena::Arena;
use proptest::prelude::*;

use super::*;
use crate::testing::{flipped, truncations};

const STORE: StoreId = StoreId::from_bytes([1; 16]);
const KEY: [u8; 32] = [0x77; 32];

fn entry(purpose: Purpose, epoch: u32, state: KeyState, id: u8) -> KeyringEntry<'static> {
    KeyringEntry {
        purpose,
        state,
        epoch,
        id: KeyId::from_bytes([id; 16]),
        key: &KEY,
    }
}

fn entries() -> Vec<KeyringEntry<'static>> {
    let mut entries: Vec<_> = Purpose::ALL
        .iter()
        .map(|purpose| entry(*purpose, 1, KeyState::Active, purpose.code()))
        .collect();
    // Row MAC keys have rotated once.
    entries[0].state = KeyState::Old;
    entries.insert(1, entry(Purpose::RowMac, 2, KeyState::Active, 100));
    entries
}

fn record() -> Vec<u8> {
    let mut record = vec![0; record_bytes(10)];
    write_record(&entries(), &mut record).unwrap();
    record
}

fn fault(result: Result<Vec<KeyringEntry<'_>>, EnvelopeError>) -> (&'static str, Fault) {
    match result {
        Err(EnvelopeError::Malformed {
            record: "the keyring",
            source,
        }) => (source.field, source.fault),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was read"),
    }
}

fn refused(change: impl FnOnce(&mut Vec<KeyringEntry<'static>>)) -> (&'static str, Fault) {
    let mut entries = entries();
    change(&mut entries);
    let mut record = vec![0; record_bytes(entries.len())];
    let written = write_record(&entries, &mut record).map(|()| Vec::new());
    fault(written)
}

proptest! {
    #[test]
    fn a_sealed_keyring_opens_and_with_any_bit_flipped_does_not(number: u64, at: prop::sample::Index) {
        let arena = Arena::new_plain().unwrap();
        let srk = arena.random_key().unwrap();
        let (sealed, srk) = FreshSrk::new(srk).seal(STORE, number, &record()).unwrap();
        let stored = sealed.encode();
        prop_assert_eq!(SealedKeyring::decode(&stored), Ok(sealed.clone()));
        let open = |bytes: &[u8], store| -> Result<Vec<u8>, EnvelopeError> {
            let sealed = SealedKeyring::decode(bytes)?;
            let mut out = vec![0; sealed.record_bytes()];
            sealed.open(Srk::new(srk.expose()), store, &mut out)?;
            Ok(out)
        };
        prop_assert_eq!(open(&stored, STORE), Ok(record()));
        prop_assert!(open(&flipped(&stored, at), STORE).is_err());
        let other = StoreId::from_bytes([9; 16]);
        prop_assert_eq!(open(&stored, other), Err(EnvelopeError::Refused));
    }

    #[test]
    fn hostile_records_never_panic(bytes: Vec<u8>, number: u64) {
        let _ = read_record(&bytes).map(|_| ());
        let _ = SealedKeyring::decode(&bytes);
        let headed = [[0, 1, 0, 1].as_slice(), &number.to_be_bytes(), &bytes].concat();
        let _ = read_record(&headed).map(|_| ());
    }
}

#[test]
fn a_record_reads_back() {
    let record = record();
    let read = read_record(&record).unwrap();
    assert_eq!(read.len(), 10);
    for (read, written) in read.iter().zip(entries()) {
        assert_eq!(read.purpose, written.purpose);
        assert_eq!((read.state, read.epoch), (written.state, written.epoch));
        assert_eq!((read.id, read.key), (written.id, written.key));
    }
}

#[test]
fn purposes_have_their_own_bytes_and_words() {
    assert_eq!(Purpose::ALL.len(), 9);
    for (at, purpose) in (1u8..).zip(Purpose::ALL) {
        assert_eq!(purpose.code(), at);
        assert_eq!(Purpose::from_code(at), Some(*purpose));
    }
    assert_eq!(Purpose::from_code(0), None);
    assert_eq!(Purpose::from_code(10), None);
    assert_eq!(Purpose::Rekey.name(), "rekey");
}

#[test]
fn entries_that_no_keyring_has_are_refused() {
    let order = ("the keys", Fault::Order);
    assert_eq!(refused(|keys| keys.swap(2, 3)), order);
    assert_eq!(refused(|keys| keys.swap(0, 1)), order);
    assert_eq!(refused(|keys| keys[1].epoch = 1), order, "an epoch twice");
    assert_eq!(refused(|keys| keys[0].epoch = 0), ("epoch", Fault::Unknown));
    let state = ("state", Fault::Conflict);
    assert_eq!(
        refused(|keys| keys[0].state = KeyState::Active),
        state,
        "two active"
    );
    assert_eq!(
        refused(|keys| keys[1].state = KeyState::Old),
        state,
        "none active"
    );
    assert_eq!(
        refused(|keys| keys.truncate(9)),
        state,
        "a purpose is missing"
    );
    assert_eq!(refused(Vec::clear), state, "nothing at all");
    assert_eq!(
        refused(|keys| keys[0].id = keys[5].id),
        ("id", Fault::Order)
    );
}

#[test]
fn bytes_that_no_keyring_has_are_refused() {
    let with = |at: usize, byte: u8| {
        let mut record = record();
        record[at] = byte;
        fault(read_record(&record))
    };
    assert_eq!(with(8, 0), ("purpose", Fault::Unknown));
    assert_eq!(with(8, 10), ("purpose", Fault::Unknown));
    assert_eq!(with(9, 0), ("state", Fault::Unknown));
    assert_eq!(with(9, 3), ("state", Fault::Unknown));
    assert_eq!(with(7, 9), ("the keys", Fault::Trailing));
    assert_eq!(with(7, 11), ("the keys", Fault::Truncated));
    assert_eq!(with(4, 1), ("count", Fault::TooLong));
}

#[test]
fn an_unknown_format_or_suite_is_refused_by_number() {
    let mut bytes = record();
    bytes[1] = 2;
    let result = read_record(&bytes).map(|_| ());
    assert_eq!(
        result,
        Err(EnvelopeError::Format {
            record: "the keyring",
            found: 2
        })
    );
    let mut bytes = record();
    bytes[3] = 2;
    let result = read_record(&bytes).map(|_| ());
    assert_eq!(
        result,
        Err(EnvelopeError::Suite {
            record: "the keyring",
            found: 2
        })
    );
}

#[test]
fn a_record_cut_anywhere_is_refused() {
    for cut in truncations(&record()) {
        assert!(read_record(cut).is_err(), "{} bytes", cut.len());
    }
    let long = [record(), vec![0]].concat();
    assert_eq!(fault(read_record(&long)), ("the keys", Fault::Trailing));
}

/// A record's worth of that many keys, of which all but eight are row MAC keys.
fn many(keys: u16) -> Vec<KeyringEntry<'static>> {
    let others = entries().split_off(2);
    let row_macs = keys - u16::try_from(others.len()).unwrap();
    let row_mac = |n: u16| {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&n.to_be_bytes());
        let last = n == row_macs;
        let state = if last {
            KeyState::Active
        } else {
            KeyState::Old
        };
        KeyringEntry {
            id: KeyId::from_bytes(id),
            ..entry(Purpose::RowMac, n.into(), state, 0)
        }
    };
    let other = |rest: KeyringEntry<'static>| KeyringEntry {
        id: KeyId::from_bytes([200 + rest.purpose.code(); 16]),
        ..rest
    };
    (1..=row_macs)
        .map(row_mac)
        .chain(others.into_iter().map(other))
        .collect()
}

#[test]
fn a_thousand_and_24_keys_are_the_most() {
    let arena = Arena::new_plain().unwrap();
    for (keys, fit) in [(1024, true), (1025, false)] {
        let mut out = vec![0; record_bytes(keys.into())];
        let refusal = EnvelopeError::Limit {
            what: "the keyring, in keys,",
            found: keys.into(),
            limit: 1024,
        };
        let expected = if fit { Ok(()) } else { Err(refusal.clone()) };
        assert_eq!(write_record(&many(keys), &mut out), expected);
        if fit {
            assert_eq!(read_record(&out).unwrap().len(), 1024);
        }
        let fresh = FreshSrk::new(arena.random_key().unwrap());
        let sealed = fresh.seal(STORE, 1, &out).map(drop);
        assert_eq!(sealed, expected, "{keys} keys");
    }
}

#[test]
fn a_buffer_of_another_length_is_refused() {
    let mut short = vec![0; record_bytes(9)];
    assert!(matches!(
        write_record(&entries(), &mut short),
        Err(EnvelopeError::Buffer { .. })
    ));
    let arena = Arena::new_plain().unwrap();
    let fresh = FreshSrk::new(arena.random_key().unwrap());
    let (sealed, srk) = fresh.seal(STORE, 1, &record()).unwrap();
    let result = sealed.open(Srk::new(srk.expose()), STORE, &mut short);
    assert!(matches!(result, Err(EnvelopeError::Buffer { .. })));
}

#[test]
fn a_stored_keyring_cut_anywhere_is_refused() {
    let arena = Arena::new_plain().unwrap();
    let fresh = FreshSrk::new(arena.random_key().unwrap());
    let (sealed, _) = fresh.seal(STORE, 1, &record()).unwrap();
    let stored = sealed.encode();
    for cut in truncations(&stored) {
        assert!(SealedKeyring::decode(cut).is_err(), "{} bytes", cut.len());
    }
    assert!(SealedKeyring::decode(&[stored, vec![0]].concat()).is_err());
    let largest = Lp::record().u64(1).bytes(&vec![0; record_bytes(1024) + 16]);
    assert!(SealedKeyring::decode(largest.as_bytes()).is_ok());
    let long = Lp::record().u64(1).bytes(&vec![0; record_bytes(1024) + 17]);
    assert!(matches!(
        SealedKeyring::decode(long.as_bytes()),
        Err(EnvelopeError::Malformed {
            source: Malformed {
                field: "ct",
                fault: Fault::TooLong
            },
            ..
        })
    ));
}
