//! Reads of several rows while others commit: what a commit took away in between is no damage, and damage is damage.

use std::cell::Cell;

use super::prune::{keep, nothing_mounted, page_beside, pass, payments};
use super::*;
use crate::store::{LedgerError, Table};
use crate::vault::DestroyRequest;

fn damaged() -> VaultError {
    VaultError::Ledger(LedgerError::Damaged {
        table: Table::ValueKey,
        key: "one".to_owned(),
    })
}

/// Has what `read` answers to its first call, its second and so on settled; answers how many there were, too.
async fn settled(
    bench: &Bench,
    read: impl AsyncFn(u32) -> Result<(), VaultError>,
) -> (Result<(), VaultError>, u32) {
    let readings = Cell::new(0);
    let again = async || {
        readings.set(readings.get() + 1);
        read(readings.get()).await
    };
    let found = bench.vault.settled(again).await;
    (found, readings.get())
}

#[tokio::test]
async fn what_looks_damaged_is_read_again_until_nothing_was_committed_meanwhile() {
    let bench = Bench::new().await;
    // Damage that stays is found by the second reading, the first during which nothing is known to have been committed.
    let (stays, readings) = settled(&bench, async |_| Err(damaged())).await;
    assert!(matches!(
        stays,
        Err(VaultError::Ledger(LedgerError::Damaged { .. }))
    ));
    assert_eq!(readings, 2);
    // While each reading has a commit in it, none of them tells.
    let moves = async |reading| {
        if reading == 4 {
            return Ok(());
        }
        bench.put("payments/db", &[("a", "1")]).await;
        Err(damaged())
    };
    let (found, readings) = settled(&bench, moves).await;
    assert!(found.is_ok());
    assert_eq!(readings, 4);
    // And where there is none without, nobody is told of damage.
    let always = async |_| {
        bench.put("payments/db", &[("a", "1")]).await;
        Err(damaged())
    };
    let (found, readings) = settled(&bench, always).await;
    assert!(matches!(found, Err(VaultError::Unsettled)));
    assert_eq!(readings, 8);
    // Any other error is not asked about again.
    let (refused, readings) = settled(&bench, async |_| Err(VaultError::ReceiveKey)).await;
    assert!(matches!(refused, Err(VaultError::ReceiveKey)));
    assert_eq!(readings, 1);
}

#[tokio::test]
async fn a_version_that_is_pruned_between_its_row_and_its_value_is_absent() {
    let bench = Bench::new().await;
    keep(&bench, 1).await;
    let first = bench.put("payments/db", &[("a", "1")]).await;
    let old = bench.vault.resolve(&path("payments/db"), Some(first)).await;
    let Lookup::Found(old) = old.unwrap() else {
        panic!("it was just put")
    };
    bench.put("payments/db", &[("a", "2")]).await;
    pass(&bench, &payments(), 100).await;
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
    keep(&bench, 1).await;
    bench.put("payments/db", &[("a", "0"), ("b", "0")]).await;
    let writer = Arc::clone(&bench);
    let writes = tokio::spawn(async move {
        for round in 0..PUTS {
            let value = round.to_string();
            // The field that is left alone is carried over.
            writer.put("payments/db", &[("a", &value)]).await;
            pass(&writer, &payments(), 100).await;
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

/// An operator destroys what a pass of pruning is looking at.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_looks_unreadable_to_pruning_while_versions_are_destroyed() {
    const PUTS: u32 = 300;
    let bench = Arc::new(Bench::new().await);
    keep(&bench, 1).await;
    bench.put("payments/db", &[("a", "0"), ("b", "0")]).await;
    let writer = Arc::clone(&bench);
    let writes = tokio::spawn(async move {
        let mut before = version(1);
        for round in 0..PUTS {
            let value = round.to_string();
            let next = [("a", value.as_str()), ("b", value.as_str())];
            let put = writer.put("payments/db", &next).await;
            let request = DestroyRequest {
                path: path("payments/db"),
                version: Some(std::mem::replace(&mut before, put)),
                by: operator(),
                now_ms: NOW,
            };
            let destroyed = writer.vault.prepare_destroy(&request).await.unwrap();
            writer.ledger().apply(destroyed.change).await.unwrap();
        }
    });
    let (mut pages, mut found) = (0, 0);
    while !writes.is_finished() {
        let page = page_beside(&bench, &payments(), None, (100, &nothing_mounted())).await;
        assert_eq!(page.unreadable, 0, "after {pages} pages");
        pages += 1;
        found += page.versions.len();
    }
    writes.await.unwrap();
    assert!(pages > 0 && found > 0, "{pages} pages found {found}");
}
