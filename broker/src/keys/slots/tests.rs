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
        let entries = keys.ring().entries();
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
