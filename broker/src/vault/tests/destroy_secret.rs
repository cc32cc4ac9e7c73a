//! Destroying versions and secrets: what goes is gone, what another version needs stays, and the store is whole after it.

use attache_envelope::Table;
use attache_envelope::body::{ValueKeyBody, VersionBody};

use super::*;
use crate::store::fixture::put;
use crate::store::{ApplyError, Change, RedbStore, Rows};
use crate::vault::{DestroyRequest, PreparedDestroy};

async fn prepared(
    bench: &Bench,
    to: &str,
    number: Option<u64>,
) -> Result<PreparedDestroy, VaultError> {
    let request = DestroyRequest {
        path: path(to),
        version: number.map(version),
        by: operator(),
        now_ms: NOW + 1,
    };
    bench.vault.prepare_destroy(&request).await
}

async fn destroy(bench: &Bench, to: &str, number: Option<u64>) -> (u64, u64, u64) {
    let prepared = prepared(bench, to, number).await.unwrap();
    bench.ledger().apply(prepared.change).await.unwrap();
    (prepared.versions, prepared.values, prepared.kept)
}

async fn refusal(bench: &Bench, to: &str, number: Option<u64>) -> String {
    prepared(bench, to, number).await.unwrap_err().to_string()
}

/// How many rows there are of each table that a value is in, and how many versions.
async fn rows(bench: &Bench) -> [usize; 4] {
    let tables = [
        Table::ValueKey,
        Table::KekIndex,
        Table::Payload,
        Table::Version,
    ];
    let mut counts = [0; 4];
    for (table, count) in tables.into_iter().zip(&mut counts) {
        let rows = bench.ledger().store().scan(table, b"", None, 1000).await;
        *count = rows.unwrap().len();
    }
    counts
}

/// Version 1 has a and b, version 2 another a, version 3 another b.
async fn three_versions() -> Bench {
    let bench = Bench::new().await;
    bench.put("payments/one", &[("a", "1"), ("b", "2")]).await;
    bench.put("payments/one", &[("a", "3")]).await;
    bench.put("payments/one", &[("b", "4")]).await;
    bench.put("payments/two", &[("a", "5")]).await;
    bench
}

async fn sound(bench: Bench) {
    let fixture = bench.close().await;
    let store = RedbStore::open(&fixture.store_path()).unwrap();
    let keys = fixture.keys(&store).await;
    let report = check_store(&store, &keys).await.unwrap();
    assert_eq!(report.findings, []);
}

#[tokio::test]
async fn a_destroyed_version_takes_only_what_no_other_version_has() {
    let bench = three_versions().await;
    assert_eq!(rows(&bench).await, [5, 5, 5, 4]);
    // b of version 1 is carried by version 2. The row of version 1 stays, and nothing in it.
    assert_eq!(destroy(&bench, "payments/one", Some(1)).await, (1, 1, 1));
    assert_eq!(rows(&bench).await, [4, 4, 4, 4]);
    let again = refusal(&bench, "payments/one", Some(1)).await;
    assert!(again.contains("there is no version 1"), "{again}");
    // a of version 2 is carried by version 3, and its b is nobody's any more.
    assert_eq!(destroy(&bench, "payments/one", Some(2)).await, (1, 1, 1));
    assert_eq!(rows(&bench).await, [3, 3, 3, 3]);
    let one = path("payments/one");
    let loaded = bench.vault.load(&one, None, None).await.unwrap();
    assert!(matches!(loaded, Lookup::Found(found) if found.fields.len() == 2));
    let gone = bench.vault.resolve(&one, Some(version(1))).await.unwrap();
    assert_eq!(gone, Lookup::Absent(Absence::Version(version(1))));
    let listed = bench.vault.versions(&one, None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    sound(bench).await;
}

/// A backup of before a version has none of it, unless a version that is gone by now had the same.
#[tokio::test]
async fn what_goes_is_as_old_as_its_version_or_as_the_secret_where_one_is_gone() {
    let bench = three_versions().await;
    let one = bench.vault.secret(&path("payments/one")).await.unwrap();
    for number in 1..=3 {
        let key = VersionBody::key(one.secret, version(number));
        let row = bench.ledger().read(Table::Version, &key).await.unwrap();
        let body = VersionBody {
            created_ms: NOW + number,
            ..VersionBody::decode(&row.unwrap().body).unwrap()
        };
        let change = put(Table::Version, &key, &body.encode());
        bench.ledger().apply(change).await.unwrap();
    }
    let since = async |number| {
        let prepared = prepared(&bench, "payments/one", number).await.unwrap();
        prepared.since_ms - NOW
    };
    assert_eq!(since(Some(2)).await, 2);
    assert_eq!(since(None).await, 1);
    destroy(&bench, "payments/one", Some(1)).await;
    assert_eq!(since(Some(2)).await, 1);
    assert_eq!(since(None).await, 1);
}

#[tokio::test]
async fn the_latest_version_may_be_destroyed_and_its_number_is_not_given_again() {
    let bench = three_versions().await;
    let back = RollbackRequest {
        path: path("payments/one"),
        to: Some(version(2)),
        expected_active: None,
        by: operator(),
        now_ms: NOW,
    };
    let back = bench.vault.prepare_rollback(&back).await.unwrap();
    bench.ledger().apply(back.change).await.unwrap();
    assert_eq!(destroy(&bench, "payments/one", Some(3)).await, (1, 1, 1));
    assert_eq!(bench.put("payments/one", &[("c", "7")]).await, version(4));
    sound(bench).await;
}

#[tokio::test]
async fn a_destroyed_secret_is_gone_whole_and_its_name_stays_taken() {
    let bench = three_versions().await;
    assert_eq!(destroy(&bench, "payments/one", None).await, (3, 4, 0));
    assert_eq!(rows(&bench).await, [1, 1, 1, 2]);
    let one = path("payments/one");
    let gone = bench.vault.resolve(&one, None).await.unwrap();
    assert_eq!(gone, Lookup::Absent(Absence::Destroyed));
    let view = bench.vault.secret(&one).await.unwrap();
    assert_eq!((view.state.name(), view.active), ("destroyed", None));
    let refused = bench.vault.begin_put(&one).await.err().unwrap().to_string();
    assert!(refused.contains("it is destroyed"), "{refused}");
    let again = refusal(&bench, "payments/one", None).await;
    assert!(again.contains("it is destroyed"), "{again}");
    sound(bench).await;
}

#[tokio::test]
async fn what_is_not_there_and_what_is_released_are_refused_by_name() {
    let bench = three_versions().await;
    let active = refusal(&bench, "payments/one", Some(3)).await;
    assert!(active.contains("version 3 of payments/one is the active one"));
    let absent = refusal(&bench, "payments/one", Some(4)).await;
    assert!(absent.contains("there is no version 4"), "{absent}");
    let no_secret = refusal(&bench, "payments/three", None).await;
    assert!(no_secret.contains("there is no such secret"), "{no_secret}");
    assert_eq!(rows(&bench).await, [5, 5, 5, 4]);
}

/// A put that was prepared before carries a value that a destruction takes away: one of the two is told.
#[tokio::test]
async fn a_put_that_comes_between_ends_the_destruction() {
    let bench = three_versions().await;
    let prepared = prepared(&bench, "payments/one", Some(1)).await.unwrap();
    bench.put("payments/one", &[("c", "6")]).await;
    let refused = bench.ledger().apply(prepared.change).await;
    assert!(matches!(refused, Err(ApplyError::Conflict { .. })));
    sound(bench).await;
}

/// The key of a value is wrapped anew meanwhile: removing what was read would leave the new row of the index behind.
#[tokio::test]
async fn a_rewrap_that_comes_between_ends_the_destruction() {
    let bench = three_versions().await;
    let one = path("payments/one");
    let Lookup::Found(first) = bench.vault.resolve(&one, Some(version(1))).await.unwrap() else {
        panic!()
    };
    let key = ValueKeyBody::key(first.fields[&field("a")]);
    let prepared = prepared(&bench, "payments/one", Some(1)).await.unwrap();
    let row = bench.ledger().read(Table::ValueKey, &key).await.unwrap();
    let mut rewrapped = Change::default();
    rewrapped.put(Table::ValueKey, key, row.unwrap().body);
    bench.ledger().apply(rewrapped).await.unwrap();
    let refused = bench.ledger().apply(prepared.change).await;
    assert!(matches!(refused, Err(ApplyError::Conflict { .. })));
}

/// A release that has resolved a version finds it destroyed, and a damaged record still is one.
#[tokio::test]
async fn what_is_destroyed_under_a_release_is_absent_and_not_damaged() {
    let bench = three_versions().await;
    let one = path("payments/one");
    let resolved = async |number: Option<u64>| {
        let found = bench.vault.resolve(&one, number.map(version)).await;
        let Lookup::Found(found) = found.unwrap() else {
            panic!()
        };
        found
    };
    let (first, active) = (resolved(Some(1)).await, resolved(None).await);
    let fields = [field("a"), field("b")];
    destroy(&bench, "payments/one", Some(1)).await;
    let gone = bench.vault.load_resolved(&first, &fields).await.unwrap();
    assert!(matches!(gone, Lookup::Absent(Absence::Version(_))));
    destroy(&bench, "payments/one", None).await;
    let gone = bench.vault.load_resolved(&active, &fields).await.unwrap();
    assert!(matches!(gone, Lookup::Absent(Absence::Destroyed)));
}

/// Two names with one id would share their versions, and so their values.
#[tokio::test]
async fn the_id_of_a_secret_is_no_other_names_after_its_first_version_or_all_of_it_is_destroyed() {
    let bench = three_versions().await;
    let secret = bench
        .vault
        .secret(&path("payments/one"))
        .await
        .unwrap()
        .secret;
    for destroyed in [Some(1), None] {
        destroy(&bench, "payments/one", destroyed).await;
        let mut client = bench.client("payments/taker", &[("a", "9")]).await;
        client.secret = secret;
        let taken = bench.prepare(client.seal()).await.err().unwrap();
        assert!(matches!(taken, VaultError::OtherSecret { .. }), "{taken}");
    }
}

#[tokio::test]
async fn a_version_row_under_another_key_is_damage() {
    let bench = three_versions().await;
    let one = path("payments/one");
    let secret = bench.vault.secret(&one).await.unwrap().secret;
    let row = VersionBody::key(secret, version(1));
    let row = bench.ledger().read(Table::Version, &row).await.unwrap();
    let mut change = Change::default();
    change.put(
        Table::Version,
        VersionBody::key(secret, version(9)),
        row.unwrap().body,
    );
    bench.ledger().apply(change).await.unwrap();
    let refused = refusal(&bench, "payments/one", None).await;
    assert!(refused.contains("fails authentication"), "{refused}");
}
