//! What is changed, removed or put back behind the ledger's back, and what it says.

use attache_translog::AnchorNote;

use super::*;

/// A store with a row in each table that tests may write.
async fn populated() -> Fixture {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    for table in Table::ALL
        .iter()
        .copied()
        .filter(|it| it.is_authenticated())
    {
        for key in [b"one", b"two"] {
            ledger.apply(put(table, key, b"body")).await.unwrap();
        }
    }
    ledger.close().await;
    fixture
}

fn flip(row: &mut [u8], at: usize) {
    row[at] ^= 1;
}

#[tokio::test]
async fn a_flipped_bit_is_an_error_of_its_row_alone_and_named_by_the_check() {
    for table in Table::ALL
        .iter()
        .copied()
        .filter(|it| it.is_authenticated())
    {
        let fixture = populated().await;
        let length = fixture.raw(table)[b"one".as_slice()].len();
        for at in [2, 6, 14, length - 1] {
            fixture.tamper(table, |rows| {
                flip(rows.get_mut(b"one".as_slice()).unwrap(), at)
            });
            {
                let store = RedbStore::open(&fixture.store_path()).unwrap();
                let keys = fixture.keys(&store).await;
                let report = check_store(&store, &keys).await.unwrap();
                let found = report.findings.iter().any(|it| {
                    it.table == table && it.key == "one" && it.problem == "fails authentication"
                });
                assert!(found, "{table} at {at}: {:?}", report.findings);
            }
            // One whose tag is still that of the set keeps nobody from starting, where only its keyspace stands on it.
            let served = SERVED_BY_ROW.contains(&table) && at < length - 32;
            if VERIFIED_AT_OPEN.contains(&table) && !served {
                let error = fixture.refused().await;
                assert!(
                    matches!(&error, OpenError::Row(LedgerError::Damaged { key, .. }) if key == "one"),
                    "{table}: {error}"
                );
            } else {
                let (ledger, _) = fixture.open().await;
                let damaged = ledger.read(table, b"one").await;
                assert!(matches!(damaged, Err(LedgerError::Damaged { .. })));
                assert_eq!(body(&ledger, table, b"two").await.unwrap(), "body");
                // Nor is it written over, which would put an unknown row into the set hash.
                let over = ledger.apply(put(table, b"one", b"new")).await;
                assert!(matches!(
                    over,
                    Err(ApplyError::Ledger(LedgerError::Damaged { .. }))
                ));
                ledger.apply(put(table, b"three", b"new")).await.unwrap();
                ledger
                    .apply({
                        let mut undo = Change::default();
                        undo.deletes.push((table, b"three".to_vec()));
                        undo
                    })
                    .await
                    .unwrap();
                ledger.close().await;
            }
            fixture.tamper(table, |rows| {
                flip(rows.get_mut(b"one".as_slice()).unwrap(), at)
            });
        }
        let (ledger, _) = fixture.open().await;
        ledger.close().await;
    }
}

/// Behind a damaged row nothing else may be put back or taken out, though that row alone would be let pass.
#[tokio::test]
async fn a_damaged_keyspace_hides_no_other_that_was_changed() {
    let fixture = populated().await;
    let before = fixture.raw(Table::Keyspace)[b"two".as_slice()].clone();
    let (ledger, _) = fixture.open().await;
    let destroyed = put(Table::Keyspace, b"two", b"destroyed");
    ledger.apply(destroyed).await.unwrap();
    ledger.close().await;
    drop(ledger);
    fixture.tamper(Table::Keyspace, |rows| {
        flip(rows.get_mut(b"one".as_slice()).unwrap(), 14);
    });
    let (ledger, _) = fixture.open().await;
    assert_eq!(
        body(&ledger, Table::Keyspace, b"two").await.unwrap(),
        "destroyed"
    );
    ledger.close().await;
    drop(ledger);
    let now = fixture.raw(Table::Keyspace)[b"two".as_slice()].clone();
    for changed in [Some(before), None] {
        fixture.tamper(Table::Keyspace, |rows| match changed {
            Some(row) => drop(rows.insert(b"two".to_vec(), row)),
            None => drop(rows.remove(b"two".as_slice())),
        });
        let error = fixture.refused().await;
        assert!(
            matches!(&error, OpenError::Row(LedgerError::Damaged { key, .. }) if key == "one"),
            "{error}"
        );
    }
    fixture.tamper(Table::Keyspace, |rows| {
        drop(rows.insert(b"two".to_vec(), now))
    });
    fixture.open().await.0.close().await;
}

#[tokio::test]
async fn rows_that_change_places_fail() {
    let fixture = populated().await;
    let other = fixture.raw(Table::Version)[b"one".as_slice()].clone();
    fixture.tamper(LARGE, |rows| {
        let (one, two) = (
            rows[b"one".as_slice()].clone(),
            rows[b"two".as_slice()].clone(),
        );
        rows.insert(b"one".to_vec(), two);
        rows.insert(b"two".to_vec(), one);
        rows.insert(b"three".to_vec(), other);
    });
    let (ledger, _) = fixture.open().await;
    for key in [b"one".as_slice(), b"two", b"three"] {
        let read = ledger.read(LARGE, key).await;
        assert!(matches!(read, Err(LedgerError::Damaged { .. })));
    }
    assert!(ledger.scan(LARGE, b"", None, 10).await.is_err());
}

#[tokio::test]
async fn a_removed_grant_does_not_start() {
    let fixture = populated().await;
    fixture.tamper(SMALL, |rows| drop(rows.remove(b"one".as_slice())));
    let error = fixture.refused().await;
    assert!(
        matches!(
            error,
            OpenError::Set {
                table: SMALL,
                found: 1,
                anchored: 2
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn an_old_grant_put_back_does_not_start() {
    let fixture = populated().await;
    let old = fixture.raw(SMALL)[b"one".as_slice()].clone();
    let (ledger, _) = fixture.open().await;
    ledger.apply(put(SMALL, b"one", b"narrower")).await.unwrap();
    ledger.close().await;
    drop(ledger);
    fixture.tamper(SMALL, |rows| drop(rows.insert(b"one".to_vec(), old)));
    let error = fixture.refused().await;
    assert!(
        matches!(error, OpenError::Set { table: SMALL, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_removed_or_replayed_head_is_found_by_the_check_and_by_the_scrub() {
    let fixture = populated().await;
    let old = fixture.raw(LARGE)[b"one".as_slice()].clone();
    let (ledger, _) = fixture.open().await;
    ledger.apply(put(LARGE, b"one", b"newer")).await.unwrap();
    ledger.close().await;
    drop(ledger);
    let problems = async || {
        let store = RedbStore::open(&fixture.store_path()).unwrap();
        let keys = fixture.keys(&store).await;
        let of_tables = |report: CheckReport| -> Vec<_> {
            let findings = report.findings.into_iter();
            let of_table = findings.filter(|it| it.key.is_empty());
            of_table.map(|it| (it.table, it.problem)).collect()
        };
        let checked = of_tables(check_store(&store, &keys).await.unwrap());
        assert_eq!(
            of_tables(scrub_store(&store, &keys).await.unwrap()),
            checked
        );
        checked
    };
    assert_eq!(problems().await, []);
    fixture.tamper(LARGE, |rows| drop(rows.insert(b"one".to_vec(), old)));
    let [(LARGE, replayed)] = problems().await[..] else {
        panic!()
    };
    assert!(replayed.contains("set hash"));
    fixture.tamper(LARGE, |rows| drop(rows.remove(b"one".as_slice())));
    let [(LARGE, removed)] = problems().await[..] else {
        panic!()
    };
    assert!(removed.contains("count"));
}

#[tokio::test]
async fn an_older_store_file_does_not_start_and_both_sequences_are_named() {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    ledger.apply(put(LARGE, b"k", b"1")).await.unwrap();
    ledger.close().await;
    drop(ledger);
    let old = fs::read(fixture.store_path()).unwrap();
    let (ledger, _) = fixture.open().await;
    for _ in 0..3 {
        ledger.apply(put(LARGE, b"k", b"2")).await.unwrap();
    }
    let known = ledger.position();
    ledger.close().await;
    drop(ledger);
    let new = fs::read(fixture.store_path()).unwrap();
    fs::write(fixture.store_path(), &old).unwrap();
    let error = fixture.refused().await;
    assert!(
        matches!(
            error,
            OpenError::RolledBack {
                store: 2,
                known: 5,
                ..
            }
        ),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("sequence 2") && text.contains("sequence 5"),
        "{text}"
    );
    // With the copy gone the audit log still tells.
    fs::remove_file(fixture.note_path()).unwrap();
    let audited = |seq, t| LedgerOptions {
        audited: Some(AnchorNote {
            incarnation: 1,
            seq,
            t,
        }),
        ..fixture.options()
    };
    let error = fixture
        .try_open(audited(known.seq, known.anchor_t))
        .await
        .err();
    assert!(matches!(
        error,
        Some(OpenError::RolledBack {
            store: 2,
            known: 5,
            ..
        })
    ));
    fs::write(fixture.store_path(), &new).unwrap();
    let error = fixture.try_open(audited(known.seq, [0; 32])).await.err();
    assert!(matches!(error, Some(OpenError::Forked { seq: 5, .. })));
    assert!(
        fixture
            .try_open(audited(known.seq, known.anchor_t))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_fork_of_the_same_length_does_not_start() {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    ledger.close().await;
    drop(ledger);
    let base = fs::read(fixture.store_path()).unwrap();
    let write = async |body: &[u8]| {
        let (ledger, _) = fixture.open().await;
        ledger.apply(put(LARGE, b"k", body)).await.unwrap();
        ledger.close().await;
    };
    write(b"one").await;
    let note = fs::read(fixture.note_path()).unwrap();
    fs::write(fixture.store_path(), &base).unwrap();
    fs::remove_file(fixture.note_path()).unwrap();
    write(b"two").await;
    fs::write(fixture.note_path(), note).unwrap();
    let error = fixture.refused().await;
    assert!(matches!(error, OpenError::Forked { seq: 2, .. }), "{error}");
}

#[tokio::test]
async fn a_copy_of_another_stores_anchor_does_not_start() {
    let (fixture, other) = (Fixture::new().await, Fixture::new().await);
    for it in [&fixture, &other] {
        it.open().await.0.close().await;
    }
    let good = fs::read(fixture.note_path()).unwrap();
    let mut flipped = good.clone();
    let last = flipped.len() - 4;
    flip(&mut flipped, last);
    let foreign = fs::read(other.note_path()).unwrap();
    for bad in [foreign, flipped, Vec::new(), vec![b'x'; 5000]] {
        fs::write(fixture.note_path(), bad).unwrap();
        let error = fixture.refused().await;
        assert!(matches!(error, OpenError::AnotherStore { .. }), "{error}");
    }
    fs::write(fixture.note_path(), good).unwrap();
    fixture.open().await.0.close().await;
}

#[tokio::test]
async fn a_damaged_or_missing_anchor_does_not_start() {
    let fixture = populated().await;
    fixture.tamper(Table::Anchor, |rows| {
        rows.values_mut().for_each(|row| flip(row, 60));
    });
    assert!(matches!(fixture.refused().await, OpenError::Anchor));
    fixture.tamper(Table::Anchor, |rows| rows.clear());
    assert!(matches!(fixture.refused().await, OpenError::Anchor));
}

#[tokio::test]
async fn an_init_that_was_cut_short_is_told_from_damage() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new().await;
    let (_, keys) = fixture.open().await;
    let store = RedbStore::create(&dir.path().join("s"), fixture.id).unwrap();
    let opened = Ledger::open(Arc::new(store), &keys, fixture.options()).await;
    assert!(matches!(opened.err(), Some(OpenError::Unfinished)));
}

/// The bytes as kill -9 leaves them: copied while the broker has the store open.
#[tokio::test]
async fn a_store_that_was_never_closed_opens_with_everything_acknowledged() {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    for n in 0..20u8 {
        let applied = ledger.apply(put(LARGE, &[n], &[n])).await.unwrap();
        let crashed = Fixture::new().await;
        fs::copy(fixture.store_path(), crashed.store_path()).unwrap();
        fs::remove_file(crashed.slot_path()).unwrap();
        fs::copy(fixture.slot_path(), crashed.slot_path()).unwrap();
        let (after, _) = crashed.open().await;
        assert_eq!(after.position(), applied);
        assert_eq!(body(&after, LARGE, &[n]).await.unwrap(), [n].as_slice());
    }
}

#[tokio::test]
async fn a_failed_store_is_told_to_every_caller() {
    let fixture = Fixture::new().await;
    let (ledger, _) = fixture.open().await;
    assert_eq!(*ledger.store().health().borrow(), Health::Serving);
    // The sequence of the engine goes elsewhere than the anchor's: nothing can be built on it.
    ledger
        .store()
        .commit(AnchorSeq(1), crate::store::Batch::default())
        .await
        .unwrap();
    let refused = ledger.apply(put(LARGE, b"k", b"1")).await;
    assert!(matches!(
        refused,
        Err(ApplyError::Ledger(LedgerError::Damaged {
            table: Table::Anchor,
            ..
        }))
    ));
}
