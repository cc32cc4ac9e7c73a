//! Reads of several rows while others commit: what a commit took away in between is no damage, and damage is damage.

use std::cell::Cell;
use std::time::Duration;

use super::*;
use crate::mounted::Mounted;
use crate::store::{LedgerError, Table};
use crate::vault::PruneScope;

fn damaged() -> VaultError {
    VaultError::Ledger(LedgerError::Damaged {
        table: Table::ValueKey,
        key: "one".to_owned(),
    })
}

/// Keeps the newest version alone of what the keyspace `payments` has.
async fn prune(bench: &Bench) {
    let scope = PruneScope::Keyspace("payments".parse().unwrap());
    let nothing = Mounted::new(Duration::ZERO);
    let page = bench
        .vault
        .prepare_pruning(&scope, None, 100, &nothing)
        .await
        .unwrap();
    bench.ledger().apply(page.change).await.unwrap();
}

async fn keep_one(bench: &Bench) {
    let set = SetSettings {
        max_versions: Some(1),
        ..SetSettings::default()
    };
    let name = "payments".parse().unwrap();
    let (change, _) = bench.vault.prepare_settings(&name, set).await.unwrap();
    bench.ledger().apply(change).await.unwrap();
}

#[tokio::test]
async fn what_looks_damaged_is_read_again_until_nothing_was_committed_meanwhile() {
    let bench = Bench::new().await;
    // Damage that stays is found by the second reading, the first during which nothing is known to have been committed.
    let readings = Cell::new(0);
    let stays = bench
        .vault
        .settled(async || {
            readings.set(readings.get() + 1);
            Err::<(), _>(damaged())
        })
        .await;
    assert!(matches!(
        stays,
        Err(VaultError::Ledger(LedgerError::Damaged { .. }))
    ));
    assert_eq!(readings.get(), 2);
    // While each reading has a commit in it, none of them tells.
    let readings = Cell::new(0);
    let found = bench
        .vault
        .settled(async || {
            readings.set(readings.get() + 1);
            if readings.get() == 4 {
                return Ok(());
            }
            bench.put("payments/db", &[("a", "1")]).await;
            Err(damaged())
        })
        .await;
    assert!(found.is_ok());
    assert_eq!(readings.get(), 4);
    // Any other error is not asked about again.
    let readings = Cell::new(0);
    let refused = bench
        .vault
        .settled(async || {
            readings.set(readings.get() + 1);
            Err::<(), _>(VaultError::ReceiveKey)
        })
        .await;
    assert!(matches!(refused, Err(VaultError::ReceiveKey)));
    assert_eq!(readings.get(), 1);
}

#[tokio::test]
async fn a_version_that_is_pruned_between_its_row_and_its_value_is_absent() {
    let bench = Bench::new().await;
    keep_one(&bench).await;
    let first = bench.put("payments/db", &[("a", "1")]).await;
    let old = bench.vault.resolve(&path("payments/db"), Some(first)).await;
    let Lookup::Found(old) = old.unwrap() else {
        panic!("it was just put")
    };
    bench.put("payments/db", &[("a", "2")]).await;
    prune(&bench).await;
    let field = "a".parse().unwrap();
    let loaded = bench.vault.load_resolved(&old, &[field]).await.unwrap();
    assert!(
        matches!(loaded, Lookup::Absent(Absence::Version(gone)) if gone == first),
        "{loaded:?}"
    );
}

/// Whatever lies between two commits: nobody who reads is told of damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_looks_damaged_while_versions_come_and_go() {
    const PUTS: u32 = 150;
    let bench = Arc::new(Bench::new().await);
    keep_one(&bench).await;
    bench.put("payments/db", &[("a", "0"), ("b", "0")]).await;
    let writer = Arc::clone(&bench);
    let writes = tokio::spawn(async move {
        for round in 0..PUTS {
            let value = round.to_string();
            // The field that is left alone is carried over.
            writer.put("payments/db", &[("a", &value)]).await;
            prune(&writer).await;
        }
    });
    let db = path("payments/db");
    let mut read = 0_u32;
    while !writes.is_finished() {
        bench.vault.versions(&db, None, 100).await.unwrap();
        bench.vault.secrets(None, None, 100).await.unwrap();
        bench.vault.secret(&db).await.unwrap();
        bench.vault.begin_put(&db).await.unwrap();
        bench.vault.load(&db, None, None).await.unwrap();
        read += 1;
    }
    writes.await.unwrap();
    assert!(read > 0);
}
