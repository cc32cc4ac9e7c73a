//! Destroying keyspaces: nothing opens from the commit on, what is left goes page by page, and the store is whole all along.

use std::sync::LazyLock;

use attache_envelope::Table;
use attache_envelope::body::{KekPhase, KeyspaceState, VersionBody};
use attache_envelope::name::Keyspace;

use super::*;
use crate::store::{ApplyError, RedbStore, Rows};
use crate::vault::Passed;

static PAYMENTS: LazyLock<Keyspace> = LazyLock::new(|| "payments".parse().unwrap());

async fn destroy(bench: &Bench) {
    let vault = &bench.vault;
    let prepared = vault.prepare_keyspace_destruction(&PAYMENTS, NOW + 5);
    let prepared = prepared.await.unwrap();
    bench.ledger().apply(prepared.change).await.unwrap();
    vault.forget_keyspace(&PAYMENTS);
}

/// One pass in pages of `limit`; answers values, rows and what stays.
async fn pass(bench: &Bench, limit: usize) -> (u64, u64, u64) {
    let (mut after, mut sum): (Option<Passed>, _) = (None, (0, 0, 0));
    for _ in 0..200 {
        let page = bench
            .vault
            .prepare_removal(&PAYMENTS, after.as_ref(), limit)
            .await
            .unwrap();
        sum = (
            sum.0 + page.values,
            sum.1 + page.rows,
            sum.2 + page.unreadable,
        );
        bench.ledger().apply(page.change).await.unwrap();
        if page.passed.is_none() {
            return sum;
        }
        after = page.passed;
    }
    panic!("the pass does not end: {after:?}");
}

/// The active version of `payments/one`.
async fn active(bench: &Bench) -> Resolved {
    let one = path("payments/one");
    match bench.vault.resolve(&one, None).await.unwrap() {
        Lookup::Found(active) => active,
        Lookup::Absent(absence) => panic!("{absence:?}"),
    }
}

async fn end(bench: &Bench) -> bool {
    match bench.vault.prepare_removal_end(&PAYMENTS).await.unwrap() {
        Some(change) => {
            bench.ledger().apply(change).await.unwrap();
            true
        }
        None => false,
    }
}

/// How many rows there are of each table that something of a keyspace is in.
async fn rows(bench: &Bench) -> [usize; 5] {
    let tables = [
        Table::ValueKey,
        Table::KekIndex,
        Table::Payload,
        Table::Version,
        Table::Head,
    ];
    let mut counts = [0; 5];
    for (table, count) in tables.into_iter().zip(&mut counts) {
        let rows = bench.ledger().store().scan(table, b"", None, 1000).await;
        *count = rows.unwrap().len();
    }
    counts
}

async fn findings(fixture: &Fixture) -> Vec<(Table, &'static str)> {
    let store = RedbStore::open(&fixture.store_path()).unwrap();
    let keys = fixture.keys(&store).await;
    let report = check_store(&store, &keys).await.unwrap();
    report
        .findings
        .into_iter()
        .map(|it| (it.table, it.problem))
        .collect()
}

/// Two secrets with carried values, one of them under an old key, and a keyspace beside it.
async fn bench() -> Bench {
    let bench = Bench::new().await;
    bench.keyspace("web").await;
    bench.put("payments/one", &[("a", "1"), ("b", "2")]).await;
    let vault = &bench.vault;
    let rotation = vault.prepare_rotation(&PAYMENTS, None, 0, NOW + 1);
    let rotation = rotation.await.unwrap();
    bench.ledger().apply(rotation.change).await.unwrap();
    bench.put("payments/one", &[("a", "3")]).await;
    bench.put("payments/one", &[("b", "4")]).await;
    bench.put("payments/two", &[("a", "5")]).await;
    bench.put("web/one", &[("a", "6")]).await;
    bench
}

#[tokio::test]
async fn from_the_commit_on_nothing_of_it_opens_and_the_rest_goes_in_pages() {
    for limit in [2, 3, 100] {
        let bench = bench().await;
        let vault = &bench.vault;
        let one = path("payments/one");
        let Lookup::Found(stored) = vault.load(&one, None, None).await.unwrap() else {
            panic!("it is there")
        };
        let putting = bench.client("payments/two", &[("a", "7")]).await.seal();
        let putting = bench.prepare(putting).await.unwrap();
        let rotating = vault
            .prepare_rotation(&PAYMENTS, None, 0, NOW + 4)
            .await
            .unwrap();
        destroy(&bench).await;
        // What was begun before is not committed, and what was loaded does not open.
        for change in [putting.change, rotating.change] {
            let late = bench.ledger().apply(change).await;
            assert!(matches!(late, Err(ApplyError::Conflict { .. })), "{late:?}");
        }
        let opening = vault.open_deks(&stored).await.err().unwrap().to_string();
        assert!(opening.contains("its keyspace is destroyed"), "{opening}");
        let now = vault.resolve(&one, None).await.unwrap();
        assert_eq!(now, Lookup::Absent(Absence::Keyspace));
        let put = vault.begin_put(&one).await.err().unwrap().to_string();
        assert!(put.contains("its name is not given again"), "{put}");
        assert!(vault.secret(&one).await.is_err());
        let left = vault.secrets(None, None, 10).await.unwrap();
        assert_eq!(left.len(), 1, "{left:?}");
        let phases = vault.key_views(Some(&PAYMENTS), None, 10, 0).await.unwrap();
        assert!(phases.iter().all(|it| it.phase == KekPhase::Destroyed));

        assert!(!end(&bench).await);
        assert_eq!(rows(&bench).await, [6, 6, 6, 5, 3]);
        let (values, rows_gone, stay) = pass(&bench, limit).await;
        // Index rows, versions and heads.
        assert_eq!((values, rows_gone, stay), (5, 5 + 4 + 2, 0), "{limit}");
        assert_eq!(rows(&bench).await, [1, 1, 1, 1, 1]);
        assert!(end(&bench).await);
        assert!(vault.keyspaces_to_remove().await.unwrap().is_empty());
        assert_eq!(opened(vault, "web/one", None).await, pairs(&[("a", "6")]));
        let taken = vault
            .prepare_keyspace(&PAYMENTS, KEEPS_ALL, &operator(), NOW)
            .await;
        assert!(matches!(taken, Err(VaultError::KeyspaceTaken(_))));
        assert_eq!(findings(&bench.close().await).await, []);
    }
}

#[tokio::test]
async fn an_open_key_of_it_is_wiped_and_one_of_another_keyspace_is_not() {
    let bench = bench().await;
    let vault = &bench.vault;
    let web: Keyspace = "web".parse().unwrap();
    let (kek, _) = vault.active_kek(&PAYMENTS).await.unwrap();
    let (other, _) = vault.active_kek(&web).await.unwrap();
    let prepared = vault.prepare_keyspace_destruction(&PAYMENTS, NOW).await;
    let change = prepared.unwrap().change;
    bench.ledger().apply(change).await.unwrap();
    let open = || vault.keks.of_id(&vault.ledger, &PAYMENTS, kek.id);
    assert!(open().await.is_ok());
    vault.forget_keyspace(&PAYMENTS);
    assert!(open().await.is_err());
    assert_eq!(Arc::strong_count(&kek), 1);
    assert_eq!(Arc::strong_count(&other), 2);
}

#[tokio::test]
async fn a_store_is_sound_after_every_page_and_the_next_process_goes_on() {
    let mut bench = bench().await;
    destroy(&bench).await;
    let mut pages = 0;
    loop {
        let fixture = bench.close().await;
        assert_eq!(findings(&fixture).await, [], "after {pages} pages");
        bench = Bench::reopen(fixture).await;
        assert_eq!(
            bench.vault.keyspaces_to_remove().await.unwrap(),
            *std::slice::from_ref(&*PAYMENTS)
        );
        // As a process that was killed behind each commit: from the first row on again.
        let mut after = None;
        let page = loop {
            let page = bench.vault.prepare_removal(&PAYMENTS, after.as_ref(), 2);
            let page = page.await.unwrap();
            if page.rows > 0 || page.passed.is_none() {
                break page;
            }
            after = page.passed;
        };
        if page.rows == 0 {
            break;
        }
        bench.ledger().apply(page.change).await.unwrap();
        pages += 1;
    }
    assert!(pages >= 5, "{pages}");
    assert!(end(&bench).await);
    assert_eq!(rows(&bench).await, [1, 1, 1, 1, 1]);
}

/// The end is refused while something is left, whatever a pass says.
#[tokio::test]
async fn damaged_rows_stay_with_what_leads_to_them_and_everything_else_goes() {
    // Versions 2 and 3 have the value. What stays: value-key, index, payload, versions, heads; web has one of each.
    for (table, unreadable, stay) in [
        (Table::ValueKey, 3, [2, 2, 2, 4, 2]),
        (Table::Version, 1, [1, 1, 1, 3, 2]),
        (Table::Head, 1, [1, 1, 1, 4, 2]),
    ] {
        let mut bench = bench().await;
        let active = active(&bench).await;
        let value = active.fields[&field("a")];
        destroy(&bench).await;
        let fixture = bench.close().await;
        fixture.tamper(table, |rows| {
            let version = VersionBody::key(active.secret, active.version);
            let wanted = |key: &[u8]| {
                key == version || key == b"payments/one" || key.ends_with(value.as_bytes())
            };
            let row = rows.iter_mut().find(|(key, _)| wanted(key)).unwrap().1;
            *row.last_mut().unwrap() ^= 1;
        });
        bench = Bench::reopen(fixture).await;
        pass(&bench, 3).await;
        assert_eq!(pass(&bench, 3).await, (0, 0, unreadable), "{table}");
        assert_eq!(rows(&bench).await, stay, "{table}");
        assert!(!end(&bench).await, "{table}");
        let state = bench.vault.keyspaces(None, 10).await.unwrap()[0].state;
        assert_eq!(state, KeyspaceState::Removing, "{table}");
    }
}

/// Nothing vouches for the index: a value that it has lost goes all the same, and what it names that is not there or another key's.
#[tokio::test]
async fn an_index_that_was_changed_by_force_keeps_no_value() {
    let bench = bench().await;
    let value = active(&bench).await.fields[&field("a")];
    destroy(&bench).await;
    let fixture = bench.close().await;
    fixture.tamper(Table::KekIndex, |rows| {
        let of_it = |key: &Vec<u8>| key.ends_with(value.as_bytes());
        let row = rows.keys().find(|key| of_it(key)).unwrap().clone();
        let kek = &row[..16];
        let web = rows.keys().map(|key| key.split_at(16));
        let others = web.filter(|(of, _)| *of != kek).map(|(_, value)| value);
        let planted: Vec<_> = others.map(|value| [kek, value].concat()).collect();
        assert!(!planted.is_empty());
        rows.remove(&row);
        rows.insert([kek, &[9; 16]].concat(), Vec::new());
        rows.extend(planted.into_iter().map(|key| (key, Vec::new())));
    });
    let bench = Bench::reopen(fixture).await;
    pass(&bench, 3).await;
    assert!(end(&bench).await);
    assert_eq!(rows(&bench).await, [1, 1, 1, 1, 1]);
    let fixture = bench.close().await;
    assert_eq!(findings(&fixture).await, []);
}

#[tokio::test]
async fn rows_of_the_index_that_name_no_value_go_too() {
    let bench = bench().await;
    destroy(&bench).await;
    let fixture = bench.close().await;
    fixture.tamper(Table::KekIndex, |rows| {
        let keks: Vec<_> = rows.keys().map(|key| key[..16].to_vec()).collect();
        // More of the shortest than a page has.
        for (kek, number) in keks.iter().flat_map(|kek| (0..5).map(move |it| (kek, it))) {
            rows.insert([&kek[..], &[0, number]].concat(), Vec::new());
        }
    });
    let bench = Bench::reopen(fixture).await;
    assert_eq!(pass(&bench, 3).await.2, 0);
    // One other keyspace's key had five planted beside its own row.
    assert_eq!(rows(&bench).await, [1, 6, 1, 1, 1]);
    assert!(end(&bench).await);
}

#[tokio::test]
async fn a_keyspace_in_use_loses_nothing_and_one_that_is_not_there_is_said() {
    let bench = bench().await;
    let before = rows(&bench).await;
    assert_eq!(pass(&bench, 3).await, (0, 0, 0));
    assert!(!end(&bench).await);
    assert_eq!(rows(&bench).await, before);
    let none: Keyspace = "paymnets".parse().unwrap();
    let none = bench.vault.prepare_keyspace_destruction(&none, NOW).await;
    assert!(matches!(none, Err(VaultError::NoKeyspace(_))));
    destroy(&bench).await;
    let again = bench.vault.prepare_keyspace_destruction(&PAYMENTS, NOW);
    assert!(matches!(again.await, Err(VaultError::KeyspaceDestroyed(_))));
}
