//! The KEK index: written with value-key rows, and by nothing else.

use attache_envelope::body::{KekIndexKey, ValueKeyBody};
use attache_envelope::id::{KeyId, SecretId};
use attache_envelope::value::CtHash;
use attache_envelope::wrap::WrappedKey;

use super::*;
use crate::store::Rows;

const VALUE: ValueId = ValueId::from_bytes([9; 16]);

fn row(kek: u8, value: ValueId) -> KekIndexKey {
    let kek = KeyId::from_bytes([kek; 16]);
    KekIndexKey { kek, value }
}

/// The value's key, wrapped under this KEK.
fn under(kek: u8) -> Change {
    let body = ValueKeyBody {
        secret: SecretId::from_bytes([1; 16]),
        kek: KeyId::from_bytes([kek; 16]),
        ct_hash: CtHash::from_bytes([8; 32]),
        ct_bytes: 16,
        wrapped: WrappedKey::from_bytes([kek; 112]),
    };
    put(Table::ValueKey, VALUE.as_bytes(), &body.encode())
}

fn removed() -> Change {
    let mut change = Change::default();
    let row = (Table::ValueKey, VALUE.as_bytes().to_vec());
    change.deletes.push(row);
    change
}

async fn index(ledger: &BrokerLedger) -> Vec<KekIndexKey> {
    let store = ledger.store().as_ref();
    let rows = store.scan(Table::KekIndex, b"", None, 10).await.unwrap();
    let rows = rows.into_iter().map(|(key, stored)| {
        assert_eq!(stored, "");
        KekIndexKey::decode(&key).unwrap()
    });
    rows.collect()
}

#[tokio::test]
async fn it_follows_the_key_rows_of_values() {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    for (change, wanted) in [
        (under(1), vec![row(1, VALUE)]),
        (under(1), vec![row(1, VALUE)]),
        (under(2), vec![row(2, VALUE)]),
        (removed(), vec![]),
        (removed(), vec![]),
        (under(3), vec![row(3, VALUE)]),
    ] {
        ledger.apply(change).await.unwrap();
        assert_eq!(index(&ledger).await, wanted);
    }
    // Another tag is no other key.
    let mut retagged = Change::default();
    retagged
        .reseals
        .push((Table::ValueKey, VALUE.as_bytes().to_vec()));
    ledger.apply(retagged).await.unwrap();
    assert_eq!(index(&ledger).await, [row(3, VALUE)]);
}

#[tokio::test]
async fn of_several_changes_of_one_batch_the_last_counts() {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    ledger.apply(under(1)).await.unwrap();
    // In the order in which they were queued, whatever the batches come out as.
    for _ in 0..20 {
        let changes = [under(2), removed(), under(1), under(2), under(1)];
        let [a, b, c, d, e] = changes.map(|change| ledger.apply(change));
        let done = tokio::join!(a, b, c, d, e);
        for applied in [done.0, done.1, done.2, done.3, done.4] {
            applied.unwrap();
        }
        assert_eq!(index(&ledger).await, [row(1, VALUE)]);
    }
}

#[tokio::test]
async fn a_row_of_a_value_that_is_there_again_in_the_same_batch_is_not_removed() {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    ledger.apply(under(1)).await.unwrap();
    let mut stale = Change::default();
    stale.require_absent(Table::ValueKey, *VALUE.as_bytes());
    stale.unindexed.push(row(1, VALUE).encode());
    for _ in 0..20 {
        let changes = [removed(), stale.clone(), under(1)];
        let [a, b, c] = changes.map(|change| ledger.apply(change));
        let done = tokio::join!(a, b, c);
        for applied in [done.0, done.1, done.2] {
            applied.unwrap();
        }
        assert_eq!(index(&ledger).await, [row(1, VALUE)]);
    }
}

#[tokio::test]
async fn a_row_without_a_value_is_removed_by_its_name() {
    let fixture = Fixture::new().await;
    let planted = row(1, ValueId::from_bytes([7; 16]));
    let nameless = [1; 20].to_vec();
    fixture.tamper(Table::KekIndex, |rows| {
        rows.insert(planted.encode(), Vec::new());
        rows.insert(nameless.clone(), Vec::new());
    });
    let (ledger, _) = fixture.open().await;
    let mut first = under(1);
    first.unindexed.push(nameless);
    ledger.apply(first).await.unwrap();
    assert_eq!(index(&ledger).await, [planted, row(1, VALUE)]);
    let mut change = Change::default();
    change.unindexed.push(planted.encode());
    ledger.apply(change).await.unwrap();
    assert_eq!(index(&ledger).await, [row(1, VALUE)]);
}
