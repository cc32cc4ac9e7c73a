mod indexed;
mod retagged;
mod tampering;
mod writers;

use std::collections::BTreeMap;
use std::fs;

use attache_envelope::SystemRandom;
use proptest::prelude::*;

use super::*;
use crate::store::embedded::RedbStore;
use crate::store::fake::RestlessStore;
use crate::store::fixture::{Fixture, put};
use crate::store::{Condition, Health};
use crate::vault::{CheckReport, check_store, scrub_store};

/// A table that is read at the start, one that is not.
const SMALL: Table = Table::Grant;
const LARGE: Table = Table::Head;

async fn body(ledger: &BrokerLedger, table: Table, key: &[u8]) -> Option<Bytes> {
    ledger.read(table, key).await.unwrap().map(|row| row.body)
}

type BrokerLedger = Ledger<RedbStore>;

#[tokio::test]
async fn what_is_applied_is_read_back_after_a_restart() {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    assert_eq!(ledger.seq(), 1);
    let value = ValueId::from_bytes([9; 16]);
    let mut change = put(LARGE, b"a/b", b"one");
    change.payloads.push((value, Bytes::from_static(b"sealed")));
    let applied = ledger.apply(change).await.unwrap();
    assert_eq!(applied.seq, 2);
    assert_eq!(ledger.position(), applied);
    ledger.close().await;
    drop(ledger);
    let (ledger, _) = fixture.open().await;
    assert_eq!(ledger.position(), applied);
    let row = ledger.read(LARGE, b"a/b").await.unwrap().unwrap();
    assert_eq!((row.seq, row.body.as_ref()), (2, &b"one"[..]));
    assert_eq!(ledger.payload(value).await.unwrap(), "sealed");
    let absent = ledger.payload(ValueId::from_bytes([8; 16])).await;
    assert!(matches!(
        absent,
        Err(LedgerError::Damaged {
            table: Table::Payload,
            ..
        })
    ));
}

#[tokio::test]
async fn conditions_hold_or_nothing_is_written() {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    let first = ledger.apply(put(LARGE, b"k", b"1")).await.unwrap();
    let mut moved = put(LARGE, b"k", b"2");
    moved.require_at(LARGE, b"k".as_slice(), first.seq);
    let mut late = moved.clone();
    late.put(LARGE, b"other".as_slice(), b"never".as_slice());
    ledger.apply(moved).await.unwrap();
    let refused = ledger.apply(late).await;
    assert!(matches!(
        refused,
        Err(ApplyError::Conflict { table: LARGE, .. })
    ));
    assert_eq!(body(&ledger, LARGE, b"other").await, None);
    let mut absent = put(LARGE, b"k", b"3");
    absent.require_absent(LARGE, b"k".as_slice());
    assert!(matches!(
        ledger.apply(absent).await,
        Err(ApplyError::Conflict { .. })
    ));
    let mut missing = put(LARGE, b"x", b"3");
    missing.require_at(LARGE, b"nowhere".as_slice(), 1);
    assert!(matches!(
        ledger.apply(missing).await,
        Err(ApplyError::Conflict { .. })
    ));
    assert_eq!(body(&ledger, LARGE, b"k").await.unwrap(), "2");
}

#[tokio::test]
async fn one_conflict_in_a_batch_hurts_nobody_else() {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    // One winner of each name, whatever the batches come out as.
    let waiting: Vec<_> = (0..200u32)
        .map(|n| {
            let key = (n % 20).to_be_bytes();
            let mut change = put(LARGE, &key, &n.to_be_bytes());
            change.require_absent(LARGE, key);
            let ledger = ledger.clone();
            tokio::spawn(async move { ledger.apply(change).await })
        })
        .collect();
    let (mut applied, mut conflicts) = (0, 0);
    for answer in waiting {
        match answer.await.unwrap() {
            Ok(_) => applied += 1,
            Err(ApplyError::Conflict { .. }) => conflicts += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((applied, conflicts), (20, 180));
    assert_eq!(ledger.scan(LARGE, b"", None, 100).await.unwrap().len(), 20);
}

#[tokio::test]
async fn a_row_is_written_once_in_a_change_and_only_tables_of_rows_are() {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    let mut twice = put(LARGE, b"k", b"1");
    twice.deletes.push((LARGE, b"k".to_vec()));
    assert!(matches!(
        ledger.apply(twice).await,
        Err(ApplyError::Ambiguous { .. })
    ));
    for table in [Table::Anchor, Table::KekIndex, Table::Payload] {
        let refused = ledger.apply(put(table, b"", b"1")).await;
        assert!(matches!(refused, Err(ApplyError::Ambiguous { .. })));
    }
    assert_eq!(ledger.seq(), 1);
}

#[tokio::test]
async fn commits_are_told_and_a_closed_ledger_refuses() {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    let mut commits = ledger.commits();
    commits.mark_unchanged();
    ledger.apply(put(LARGE, b"k", b"1")).await.unwrap();
    assert!(commits.has_changed().unwrap());
    assert_eq!(*commits.borrow(), AnchorSeq(2));
    ledger.close().await;
    assert!(matches!(
        ledger.apply(Change::default()).await,
        Err(ApplyError::Closed)
    ));
    ledger.close().await;
}

#[tokio::test]
async fn the_audit_head_of_the_batch_is_in_the_anchor() {
    let fixture = Fixture::new().await;
    let chain = ChainId::random(&SystemRandom).unwrap();
    let options = LedgerOptions {
        audit_head: Box::new(move || Some((chain, 7, [5; 32]))),
        ..fixture.options()
    };
    let (ledger, keys) = fixture.try_open(options).await.unwrap();
    ledger.apply(put(LARGE, b"k", b"1")).await.unwrap();
    let snapshot = ledger.store().snapshot().await.unwrap();
    let tip = keys.row_codec().read_tip(&snapshot).await.unwrap();
    assert_eq!(tip.anchor.heads.len(), 1);
    let head = tip.anchor.heads.get(&chain).unwrap();
    assert_eq!((head.size, head.root), (7, [5; 32]));
}
