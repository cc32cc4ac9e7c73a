//! Rows that are tagged anew under another key, and what becomes of those that were not.

use super::*;
use crate::keys::{Keys, SlotSet};
use crate::store::{ReadRow, Rows};

/// A change of the keys of the rows' MACs, committed.
async fn rotate(ledger: &BrokerLedger, keys: &Keys) {
    let set = SlotSet::read(ledger).await.unwrap();
    let new = keys.rotate_mac(&set).unwrap();
    ledger.apply(new.rekeyed.change).await.unwrap();
    keys.take_up_macs(new.epochs);
}

async fn drop_old(ledger: &BrokerLedger, keys: &Keys) {
    let set = SlotSet::read(ledger).await.unwrap();
    let new = keys.drop_macs(&set).unwrap();
    ledger.apply(new.rekeyed.change).await.unwrap();
    keys.take_up_macs(new.epochs);
}

/// Tags every row anew.
async fn retag(ledger: &BrokerLedger) {
    for table in Table::ALL
        .iter()
        .copied()
        .filter(|it| it.is_authenticated())
    {
        let rows = ledger.scan(table, b"", None, 100).await.unwrap();
        let mut change = Change::default();
        change
            .reseals
            .extend(rows.into_iter().map(|(key, _)| (table, key)));
        ledger.apply(change).await.unwrap();
    }
}

fn epoch(row: &[u8]) -> u32 {
    u32::from_be_bytes(row[2..6].try_into().unwrap())
}

#[tokio::test]
async fn a_row_that_is_tagged_anew_is_the_same_row() {
    let fixture = Fixture::new().await;
    let (ledger, keys) = fixture.open().await;
    let written = ledger.apply(put(LARGE, b"k", b"1")).await.unwrap();
    rotate(&ledger, &keys).await;
    retag(&ledger).await;
    let row = ledger.read(LARGE, b"k").await.unwrap().unwrap();
    assert_eq!((row.seq, row.body.as_ref()), (written.seq, &b"1"[..]));
    // Whoever has read it before may stand on it.
    let mut moved = put(LARGE, b"k", b"2");
    moved.require_at(LARGE, b"k".as_slice(), written.seq);
    ledger.apply(moved).await.unwrap();
    drop_old(&ledger, &keys).await;
    assert_eq!(body(&ledger, LARGE, b"k").await.unwrap(), "2");
    assert_eq!((keys.mac_epoch(), keys.mac_epochs_before()), (2, vec![]));
    ledger.close().await;
    drop(ledger);
    assert_eq!(epoch(&fixture.raw(LARGE)[b"k".as_slice()]), 2);
    let (ledger, keys) = fixture.open().await;
    assert_eq!((keys.mac_epoch(), keys.mac_epochs_before()), (2, vec![]));
    let report = scrub_store(ledger.store().as_ref(), &keys).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[tokio::test]
async fn a_row_of_a_dropped_key_is_served_to_nobody() {
    let fixture = Fixture::new().await;
    let (ledger, keys) = fixture.open().await;
    ledger.apply(put(LARGE, b"k", b"1")).await.unwrap();
    ledger.close().await;
    drop((ledger, keys));
    let old = fixture.raw(LARGE)[b"k".as_slice()].clone();
    let (ledger, keys) = fixture.open().await;
    rotate(&ledger, &keys).await;
    retag(&ledger).await;
    drop_old(&ledger, &keys).await;
    ledger.close().await;
    drop((ledger, keys));
    fixture.tamper(LARGE, |rows| {
        rows.insert(b"k".to_vec(), old.clone());
    });
    let (ledger, _) = fixture.open().await;
    let read = ledger.read(LARGE, b"k").await;
    assert!(matches!(read, Err(LedgerError::Damaged { .. })), "{read:?}");
}

#[tokio::test]
async fn what_is_written_or_removed_in_the_same_batch_wins_over_another_tag() {
    let fixture = Fixture::new().await;
    let (ledger, keys) = fixture.open().await;
    for key in [b"a", b"b", b"c"] {
        ledger.apply(put(LARGE, key, b"1")).await.unwrap();
    }
    rotate(&ledger, &keys).await;
    let mut reseal = Change::default();
    for key in [b"a", b"b", b"c", b"x"] {
        reseal.reseals.push((LARGE, key.to_vec()));
    }
    let mut remove = Change::default();
    remove.deletes.push((LARGE, b"b".to_vec()));
    let (put, removed, resealed) = tokio::join!(
        ledger.apply(put(LARGE, b"a", b"2")),
        ledger.apply(remove),
        ledger.apply(reseal)
    );
    assert!(put.is_ok() && removed.is_ok() && resealed.is_ok());
    assert_eq!(body(&ledger, LARGE, b"a").await.unwrap(), "2");
    assert_eq!(body(&ledger, LARGE, b"b").await, None);
    assert_eq!(body(&ledger, LARGE, b"c").await.unwrap(), "1");
    assert_eq!(body(&ledger, LARGE, b"x").await, None);
    let report = scrub_store(ledger.store().as_ref(), &keys).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[tokio::test]
async fn a_look_that_was_begun_before_a_drop_goes_on_under_the_dropped_key() {
    let fixture = Fixture::new().await;
    let (ledger, keys) = fixture.open().await;
    ledger.apply(put(LARGE, b"k", b"1")).await.unwrap();
    let (standing, snapshot) = keys.standing(ledger.store().as_ref()).await.unwrap();
    rotate(&ledger, &keys).await;
    retag(&ledger).await;
    drop_old(&ledger, &keys).await;
    let stored = snapshot.get(LARGE, b"k").await.unwrap().unwrap();
    assert!(keys.row_codec().verify(LARGE, b"k", &stored).is_err());
    assert!(standing.verify(LARGE, b"k", &stored).is_ok());
}

#[tokio::test]
async fn what_was_read_may_be_replaced_unless_it_was_written_since() {
    let fixture = Fixture::new().await;
    let (ledger, keys) = fixture.open().await;
    let read = async |key: &[u8]| {
        let stored = ledger.store().get(LARGE, key).await.unwrap().unwrap();
        let codec = keys.row_codec();
        let key = Bytes::copy_from_slice(key);
        codec.prepared().read(LARGE, key, stored).unwrap()
    };
    let replaced = |row: ReadRow| {
        let mut change = put(LARGE, row.name().1, b"2");
        change.require_as_read(row);
        change
    };
    for key in [b"same", b"tags", b"gone", b"over"] {
        ledger.apply(put(LARGE, key, b"1")).await.unwrap();
    }
    let same = read(b"same").await;
    ledger.apply(replaced(same)).await.unwrap();
    let (tags, gone, over) = (
        read(b"tags").await,
        read(b"gone").await,
        read(b"over").await,
    );
    rotate(&ledger, &keys).await;
    retag(&ledger).await;
    ledger.apply(replaced(tags)).await.unwrap();
    let mut remove = Change::default();
    remove.deletes.push((LARGE, b"gone".to_vec()));
    ledger.apply(remove).await.unwrap();
    ledger.apply(put(LARGE, b"over", b"1")).await.unwrap();
    for late in [gone, over] {
        let refused = ledger.apply(replaced(late)).await;
        let conflict = matches!(refused, Err(ApplyError::Conflict { .. }));
        assert!(conflict, "{refused:?}");
    }
    assert_eq!(body(&ledger, LARGE, b"same").await.unwrap(), "2");
    assert_eq!(body(&ledger, LARGE, b"tags").await.unwrap(), "2");
    assert_eq!(body(&ledger, LARGE, b"over").await.unwrap(), "1");
    let report = scrub_store(ledger.store().as_ref(), &keys).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}
