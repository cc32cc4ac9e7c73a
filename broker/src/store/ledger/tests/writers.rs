//! Two ledgers over one store, and random changes against a map.

use super::*;

/// Each of two ledgers over one store adds to one counter, by reading it and requiring it unchanged.
async fn two_ledgers_count<S: Store>(store: Arc<S>, keys: &Keys, notes: [PathBuf; 2]) {
    const EACH: u64 = 25;
    let mut writers = Vec::new();
    let mut ledgers = Vec::new();
    for anchor_note in notes {
        let options = LedgerOptions {
            anchor_note,
            audit_head: Box::new(|| None),
            audited: None,
        };
        let ledger = Ledger::open(Arc::clone(&store), keys, options)
            .await
            .unwrap();
        ledgers.push(ledger.clone());
        writers.push(tokio::spawn(async move {
            let mut done = 0;
            while done < EACH {
                let row = ledger.read(LARGE, b"n").await.unwrap();
                let count = row.as_ref().map_or(0, |row| {
                    u64::from_be_bytes(row.body.as_ref().try_into().unwrap())
                });
                let mut change = put(LARGE, b"n", &(count + 1).to_be_bytes());
                change.conditions.push(match row {
                    Some(row) => Condition::AtSeq(LARGE, b"n".to_vec(), row.seq),
                    None => Condition::Absent(LARGE, b"n".to_vec()),
                });
                match ledger.apply(change).await {
                    Ok(_) => done += 1,
                    Err(ApplyError::Conflict { .. } | ApplyError::Busy) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let row = ledgers[0].read(LARGE, b"n").await.unwrap().unwrap();
    assert_eq!(row.body.as_ref(), (2 * EACH).to_be_bytes());
    for ledger in ledgers {
        ledger.close().await;
    }
    let report = check_store(&*store, keys).await.unwrap();
    // The rows of this test are no bodies of heads; the sets and tags must hold.
    let broken: Vec<_> = report.findings.iter().filter(|it| it.key != "n").collect();
    assert!(broken.is_empty(), "{broken:?}");
    assert_eq!(report.seq, 1 + 2 * EACH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ledgers_over_one_redb_lose_nothing() {
    let fixture = Fixture::new().await;
    let store = RedbStore::open(&fixture.store_path()).unwrap();
    let keys = fixture.keys(&store).await;
    let notes = ["a", "b"].map(|name| fixture.note_path().with_file_name(name));
    two_ledgers_count(Arc::new(store), &keys, notes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ledgers_over_a_restless_store_lose_nothing() {
    for seed in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let arena = attache_arena::Arena::new().unwrap();
        let id = StoreId::random(&SystemRandom).unwrap();
        let slot = dir.path().join("slot");
        let store = RestlessStore::new(id, seed, 3);
        let (keys, rows) = Keys::create(&arena, id, &slot).unwrap();
        while Ledger::initialise(&store, &keys, &rows).await.is_err() {}
        let notes = ["a", "b"].map(|name| dir.path().join(name));
        two_ledgers_count(Arc::new(store), &keys, notes).await;
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Rows to put (table, key, body), rows to delete, and whether the first is required absent.
    Change(Vec<(usize, u8, Vec<u8>)>, Vec<(usize, u8)>, bool),
    Reopen,
}

const TABLES: [Table; 3] = [Table::Grant, Table::Head, Table::Delivery];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (
        0..TABLES.len(),
        0..6u8,
        proptest::collection::vec(any::<u8>(), 0..40),
    );
    let change = (
        proptest::collection::vec(row, 0..4),
        proptest::collection::vec((0..TABLES.len(), 0..6u8), 0..3),
        any::<bool>(),
    );
    let change = change.prop_map(|(puts, deletes, absent)| Step::Change(puts, deletes, absent));
    let step = prop_oneof![8 => change, 1 => Just(Step::Reopen)];
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_changes_agree_with_a_map(steps in steps()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(against_a_map(steps));
    }
}

async fn against_a_map(steps: Vec<Step>) {
    let fixture = Fixture::new().await;
    let (mut ledger, mut keys) = fixture.open().await;
    let mut model: BTreeMap<(Table, u8), Vec<u8>> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Reopen => {
                ledger.close().await;
                drop((ledger, keys));
                (ledger, keys) = fixture.open().await;
            }
            Step::Change(puts, deletes, absent) => {
                let puts: BTreeMap<_, _> = puts
                    .into_iter()
                    .map(|(table, key, body)| ((TABLES[table], key), body))
                    .collect();
                let deletes: std::collections::BTreeSet<_> = deletes
                    .into_iter()
                    .map(|(table, key)| (TABLES[table], key))
                    .filter(|name| !puts.contains_key(name))
                    .collect();
                let mut change = Change::default();
                let required = puts.keys().next().filter(|_| absent);
                if let Some((table, key)) = required {
                    change.require_absent(*table, [*key]);
                }
                for ((table, key), body) in &puts {
                    change.put(*table, [*key], body.clone());
                }
                let removed = deletes.iter().map(|(table, key)| (*table, vec![*key]));
                change.deletes.extend(removed);
                let fits = required.is_none_or(|name| !model.contains_key(name));
                assert_eq!(ledger.apply(change).await.is_ok(), fits);
                if fits {
                    model.extend(puts);
                    model.retain(|name, _| !deletes.contains(name));
                }
            }
        }
        for table in TABLES {
            let rows = ledger.scan(table, b"", None, 100).await.unwrap();
            let found: Vec<_> = rows
                .into_iter()
                .map(|(key, row)| (key[0], row.body))
                .collect();
            let want: Vec<_> = model
                .iter()
                .filter(|((of, _), _)| *of == table)
                .map(|((_, key), body)| (*key, Bytes::from(body.clone())))
                .collect();
            assert_eq!(found, want);
        }
    }
    ledger.close().await;
    let report = check_store(&**ledger.store(), &keys).await.unwrap();
    let broken: Vec<_> = report
        .findings
        .iter()
        .filter(|it| it.table != Table::Head || it.key.is_empty())
        .collect();
    assert!(broken.is_empty(), "{broken:?}");
}
