use std::sync::Arc;

use super::*;
use crate::store::fixture::Fixture;
use crate::store::{ApplyError, BrokerLedger};

async fn rekey(ledger: &BrokerLedger, keys: &Keys) -> u64 {
    let set = SlotSet::read(ledger).await.unwrap();
    let Rekeyed { change, number } = keys.rekey(&set).unwrap();
    ledger.apply(change).await.unwrap();
    number
}

#[tokio::test]
async fn a_rekey_seals_the_same_keys_under_another_root_key_and_the_slot_still_opens() {
    let fixture = Fixture::new().await;
    let before = (fixture.raw(Table::Meta), fixture.raw(Table::Slot));
    let (ledger, keys) = fixture.open().await;
    assert_eq!(keys.keyring_number(), 1);
    assert_eq!(rekey(&ledger, &keys).await, 2);
    assert_eq!(rekey(&ledger, &keys).await, 3);
    // The keys that are open go on working.
    let row = ledger
        .read(Table::Meta, KEYRING_ROW)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(SealedKeyring::decode(&row.body).unwrap().number(), 3);
    ledger.close().await;
    drop(ledger);
    let (again, opened) = fixture.open().await;
    assert_eq!(opened.keyring_number(), 3);
    assert_eq!(opened.opened_by(), keys.opened_by());
    let keys_of = |keys: &Arc<Keys>| -> Vec<_> {
        let ca = keys.now();
        let entries = keys.ring().entries(&ca);
        entries
            .map(|entry| (entry.purpose, entry.epoch, entry.id, *entry.key))
            .collect()
    };
    assert_eq!(keys_of(&opened), keys_of(&keys));
    again.close().await;
    drop(again);
    let after = (fixture.raw(Table::Meta), fixture.raw(Table::Slot));
    assert!(before.0 != after.0 && before.1 != after.1);
}

/// The seals of before and the keyring of after, or the other way round, are a store that was mixed from two.
#[tokio::test]
async fn nothing_of_the_keyring_before_opens_the_one_after() {
    let fixture = Fixture::new().await;
    let before = fixture.raw(Table::Slot);
    let (ledger, keys) = fixture.open().await;
    rekey(&ledger, &keys).await;
    ledger.close().await;
    drop(ledger);
    fixture.tamper(Table::Slot, |rows| *rows = before);
    let store = crate::store::RedbStore::open(&fixture.store_path()).unwrap();
    let opened = Keys::open(&fixture.arena, &store, &fixture.slot_path()).await;
    assert!(matches!(
        opened.err(),
        Some(super::super::UnlockError::Keyring)
    ));
}

#[tokio::test]
async fn of_two_rekeys_of_one_reading_the_second_is_told() {
    let fixture = Fixture::new().await;
    let (ledger, keys) = fixture.open().await;
    let set = SlotSet::read(&ledger).await.unwrap();
    let (one, other) = (keys.rekey(&set).unwrap(), keys.rekey(&set).unwrap());
    ledger.apply(one.change).await.unwrap();
    let refused = ledger.apply(other.change).await.unwrap_err();
    assert!(matches!(refused, ApplyError::Conflict { .. }), "{refused}");
    assert_eq!(SlotSet::read(&ledger).await.unwrap().keyring_number(), 2);
}

#[tokio::test]
async fn a_slot_row_that_does_not_verify_is_named_and_never_sealed_to() {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    // A row with a right tag that is no slot, and one under another's key.
    for body in [b"no slot".to_vec(), slot_body(&ledger).await] {
        let mut change = Change::default();
        change.put(Table::Slot, [9; 16], body);
        ledger.apply(change).await.unwrap();
        let refused = SlotSet::read(&ledger).await.err().unwrap();
        let LedgerError::Damaged { table, key } = refused else {
            panic!("{refused}")
        };
        assert_eq!((table, key), (Table::Slot, hex::encode([9; 16])));
    }
}

async fn slot_body(ledger: &BrokerLedger) -> Vec<u8> {
    let rows = ledger.whole(Table::Slot).await.unwrap();
    rows[0].1.body.to_vec()
}

const SAFE: SlotId = SlotId::from_bytes([7; 16]);
const SECRET: [u8; 32] = [3; 32];

fn new(name: &str) -> NewSlot<'static> {
    NewSlot {
        slot: SAFE,
        name: name.parse().unwrap(),
        source: SlotSource::KeyFile,
        secret: SlotSecret::new(&SECRET),
        now_ms: 77,
    }
}

/// A key file with the secret, as the settings of a broker would name it.
fn key_file(fixture: &Fixture, secret: &[u8; 32]) -> std::path::PathBuf {
    use attache_envelope::slot::{KEY_FILE_BYTES, write_key_file};
    let path = fixture.slot_path().with_file_name("safe.key");
    let mut text = [0; KEY_FILE_BYTES];
    write_key_file(SlotSecret::new(secret), &mut text);
    attache_mtls::private_file::create_private_once(&path, &text).unwrap();
    path
}

#[tokio::test]
async fn each_slot_opens_the_store_and_a_removed_one_does_not() {
    let fixture = Fixture::new().await;
    let safe = key_file(&fixture, &SECRET);
    let (ledger, keys) = fixture.open().await;
    let set = SlotSet::read(&ledger).await.unwrap();
    let first = set.slots().next().unwrap().identity.slot;
    let added = keys.add_slot(&set, new("safe")).unwrap();
    assert_eq!(added.number, 2);
    ledger.apply(added.change).await.unwrap();
    let (store, arena) = (Arc::clone(ledger.store()), &fixture.arena);
    for (file, slot) in [(&fixture.slot_path(), first), (&safe, SAFE)] {
        let opened = Keys::open(arena, store.as_ref(), file).await.unwrap();
        assert_eq!((opened.keyring_number(), opened.opened_by()), (2, slot));
    }
    let set = SlotSet::read(&ledger).await.unwrap();
    let removed = keys.remove_slot(&set, first).unwrap();
    ledger.apply(removed.change).await.unwrap();
    let opened = Keys::open(arena, store.as_ref(), &safe).await.unwrap();
    assert_eq!(opened.keyring_number(), 3);
    let refused = Keys::open(arena, store.as_ref(), &fixture.slot_path()).await;
    assert!(matches!(
        refused.err(),
        Some(super::super::UnlockError::WrongSlotFile { .. })
    ));
    // And the ledger is whole: what was removed is out of its sums.
    ledger.close().await;
    drop((ledger, store, opened));
    let store = crate::store::RedbStore::open(&fixture.store_path()).unwrap();
    let keys = Keys::open(arena, &store, &safe).await.unwrap();
    let ledger = Ledger::open(Arc::new(store), &keys, fixture.options()).await;
    assert!(ledger.is_ok());
}

#[tokio::test]
async fn a_slot_that_cannot_be_changes_nothing() {
    let fixture = Fixture::new().await;
    let (ledger, keys) = fixture.open().await;
    let set = SlotSet::read(&ledger).await.unwrap();
    let first = set.slots().next().unwrap().identity.slot;
    let refused = |result: Result<Rekeyed, SlotError>| result.unwrap_err().to_string();
    let taken = refused(keys.add_slot(&set, new("key-file")));
    assert!(taken.contains("already: choose another name"), "{taken}");
    let last = refused(keys.remove_slot(&set, first));
    assert!(last.contains("is the last slot"), "{last}");
    let absent = refused(keys.remove_slot(&set, SAFE));
    assert!(absent.contains("there is no slot"), "{absent}");
    let again = NewSlot {
        slot: first,
        ..new("safe")
    };
    assert!(matches!(
        keys.add_slot(&set, again),
        Err(SlotError::IdTaken)
    ));
    for n in 1..u8::try_from(MAX_SLOTS).unwrap() {
        let set = SlotSet::read(&ledger).await.unwrap();
        let slot = NewSlot {
            slot: SlotId::from_bytes([100 + n; 16]),
            ..new(&format!("slot-{n}"))
        };
        let added = keys.add_slot(&set, slot).unwrap();
        ledger.apply(added.change).await.unwrap();
    }
    let set = SlotSet::read(&ledger).await.unwrap();
    assert_eq!(set.slots().len(), MAX_SLOTS);
    assert!(matches!(
        keys.add_slot(&set, new("safe")),
        Err(SlotError::Full { .. })
    ));
}

#[tokio::test]
async fn only_its_own_secret_verifies_a_slot() {
    let fixture = Fixture::new().await;
    let (ledger, keys) = fixture.open().await;
    let set = SlotSet::read(&ledger).await.unwrap();
    ledger
        .apply(keys.add_slot(&set, new("safe")).unwrap().change)
        .await
        .unwrap();
    let set = SlotSet::read(&ledger).await.unwrap();
    let first = set.slots().next().unwrap().identity.slot;
    for (slot, secret) in [(SAFE, [4; 32]), (first, SECRET)] {
        let refused = keys.verify_slot(&set, slot, SlotSecret::new(&secret), 99);
        assert!(matches!(refused, Err(SlotError::WrongSecret { .. })));
    }
    let secret = SlotSecret::new(&SECRET);
    let (change, verified) = keys.verify_slot(&set, SAFE, secret, 99).unwrap();
    assert_eq!(verified.about.verified_ms, Some(99));
    ledger.apply(change).await.unwrap();
    let after = SlotSet::read(&ledger).await.unwrap();
    assert_eq!(after.find(SAFE).unwrap(), &verified);
    assert_eq!(after.keyring_number(), 2);
    // It is of that row: a change of the keyring that was made from a reading before is not lost.
    let refused = ledger.apply(keys.rekey(&set).unwrap().change).await;
    assert!(matches!(refused, Err(ApplyError::Conflict { .. })));
    // A rekey keeps the time.
    let Rekeyed { change, .. } = keys.rekey(&after).unwrap();
    ledger.apply(change).await.unwrap();
    let after = SlotSet::read(&ledger).await.unwrap();
    assert_eq!(after.find(SAFE).unwrap().about.verified_ms, Some(99));
}
