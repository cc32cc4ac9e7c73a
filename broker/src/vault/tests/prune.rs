//! Pruning: the newest versions, the active one and those that are pinned or mounted stay, with every value that one of them has.

use attache_envelope::Table;
use attache_envelope::body::VersionBody;
use attache_envelope::name::Keyspace;

use std::time::Duration;

use super::*;
use crate::mounted::{Mounted, Named, tests::pass_time};
use crate::store::{ApplyError, Change, RedbStore};
use crate::vault::{DestroyRequest, PinRequest, PruneScope, Pruned, PruningPage, RollbackRequest};

pub(super) fn payments() -> PruneScope {
    PruneScope::Keyspace("payments".parse().unwrap())
}

pub(super) async fn keep(bench: &Bench, max_versions: u32) {
    let name: Keyspace = "payments".parse().unwrap();
    let set = SetSettings {
        max_versions: Some(max_versions),
        ..SetSettings::default()
    };
    let (change, _) = bench.vault.prepare_settings(&name, set).await.unwrap();
    bench.ledger().apply(change).await.unwrap();
}

async fn page(
    bench: &Bench,
    scope: &PruneScope,
    passed: Option<&Pruned>,
    limit: usize,
) -> PruningPage {
    page_beside(bench, scope, passed, (limit, &nothing_mounted())).await
}

pub(super) async fn page_beside(
    bench: &Bench,
    scope: &PruneScope,
    passed: Option<&Pruned>,
    (limit, mounted): (usize, &Mounted),
) -> PruningPage {
    let page = bench
        .vault
        .prepare_pruning(scope, passed, limit, mounted)
        .await;
    page.unwrap()
}

pub(super) fn nothing_mounted() -> Mounted {
    Mounted::new(Duration::ZERO)
}

/// One pass in pages of `limit` versions; answers versions, values and secrets that cannot be read.
pub(super) async fn pass(
    bench: &Bench,
    scope: &PruneScope,
    limit: usize,
) -> (Vec<String>, u64, u64) {
    let (pruned, values, unreadable, _) =
        pass_beside(bench, scope, limit, &nothing_mounted()).await;
    (pruned, values, unreadable)
}

/// As [`pass`], and how many versions stay because they are mounted.
async fn pass_beside(
    bench: &Bench,
    scope: &PruneScope,
    limit: usize,
    mounted: &Mounted,
) -> (Vec<String>, u64, u64, u64) {
    let (mut passed, mut pruned, mut values, mut unreadable) = (None, Vec::new(), 0, 0);
    let mut held = 0;
    for _ in 0..100 {
        let page = page_beside(bench, scope, passed.as_ref(), (limit, mounted)).await;
        held += page.mounted;
        assert_eq!(page.mounted > 0, page.mounted_until.is_some());
        assert!(page.versions.len() <= limit);
        pruned.extend(page.versions.iter().map(ToString::to_string));
        values += page.values;
        unreadable += page.unreadable;
        bench.ledger().apply(page.change).await.unwrap();
        match page.passed {
            Some(next) => passed = Some(next),
            None => return (pruned, values, unreadable, held),
        }
    }
    panic!("the pass does not end: {passed:?}");
}

async fn numbers(bench: &Bench, of: &str) -> Vec<u64> {
    let versions = bench.vault.versions(&path(of), None, 100).await.unwrap();
    versions.iter().map(|it| it.number.number()).collect()
}

async fn rollback(bench: &Bench, of: &str, to: u64) -> Change {
    let request = RollbackRequest {
        path: path(of),
        to: Some(version(to)),
        expected_active: None,
        by: operator(),
        now_ms: NOW,
    };
    let prepared = bench.vault.prepare_rollback(&request).await;
    prepared.unwrap().change
}

async fn pin(bench: &Bench, of: &str, number: u64, pinned: bool) -> Result<Change, VaultError> {
    let request = PinRequest {
        path: path(of),
        version: version(number),
        pinned,
    };
    bench.vault.prepare_pin(&request).await
}

/// Pins these, or unpins them.
async fn pins(bench: &Bench, of: &str, numbers: &[u64], pinned: bool) {
    for number in numbers {
        let change = pin(bench, of, *number, pinned).await.unwrap();
        bench.ledger().apply(change).await.unwrap();
    }
}

async fn named(bench: &Bench, of: &str, number: u64) -> Named {
    let secret = bench.vault.secret(&path(of)).await.unwrap().secret;
    Named {
        keyspace: "payments".parse().unwrap(),
        secret,
        version: version(number),
    }
}

async fn sound(bench: Bench) {
    let fixture = bench.close().await;
    let store = RedbStore::open(&fixture.store_path()).unwrap();
    let keys = fixture.keys(&store).await;
    let report = check_store(&store, &keys).await.unwrap();
    assert_eq!(report.findings, []);
}

/// Six versions: the username is of version 1 all along, each password of its own. And a secret with one.
async fn bench() -> Bench {
    let bench = Bench::new().await;
    bench
        .put("payments/db", &[("username", "u"), ("password", "1")])
        .await;
    for number in 2..=6 {
        let password = number.to_string();
        bench.put("payments/db", &[("password", &password)]).await;
    }
    bench.put("payments/other", &[("a", "1")]).await;
    bench
}

#[tokio::test]
async fn the_newest_and_the_active_stay_with_every_value_that_they_need() {
    for limit in [1, 2, 100] {
        let bench = bench().await;
        assert_eq!(pass(&bench, &payments(), limit).await, (vec![], 0, 0));
        // The active one is older than all that are kept.
        let back = rollback(&bench, "payments/db", 2).await;
        bench.ledger().apply(back).await.unwrap();
        keep(&bench, 2).await;
        let (pruned, values, unreadable) = pass(&bench, &payments(), limit).await;
        assert_eq!(pruned, ["payments/db@1", "payments/db@3", "payments/db@4"]);
        // Three passwords; the username is carried.
        assert_eq!((values, unreadable), (3, 0));
        assert_eq!(numbers(&bench, "payments/db").await, [6, 5, 2]);
        for (number, password) in [(None, "2"), (Some(6), "6"), (Some(5), "5")] {
            let now = opened(&bench.vault, "payments/db", number.map(version)).await;
            assert_eq!(now, pairs(&[("password", password), ("username", "u")]));
        }
        let gone = bench
            .vault
            .resolve(&path("payments/db"), Some(version(3)))
            .await;
        assert_eq!(gone.unwrap(), Lookup::Absent(Absence::Version(version(3))));
        // Again finds nothing, and no number comes back.
        assert_eq!(
            pass(&bench, &payments(), limit).await.0,
            Vec::<String>::new()
        );
        assert_eq!(
            bench.put("payments/db", &[("password", "7")]).await,
            version(7)
        );
        let of_one = PruneScope::Secret(path("payments/db"));
        let (pruned, values, _) = pass(&bench, &of_one, limit).await;
        assert_eq!(
            (pruned, values),
            (
                vec!["payments/db@2".to_owned(), "payments/db@5".to_owned()],
                2
            )
        );
        assert_eq!(numbers(&bench, "payments/db").await, [7, 6]);
        sound(bench).await;
    }
}

#[tokio::test]
async fn a_put_says_when_a_secret_has_more_than_is_kept() {
    let bench = Bench::new().await;
    keep(&bench, 2).await;
    for over in [false, false, true] {
        let request = bench.client("payments/db", &[("a", "1")]).await.seal();
        let prepared = bench.prepare(request).await.unwrap();
        assert_eq!(prepared.over, over);
        bench.ledger().apply(prepared.change).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_rollback_or_other_settings_need_meanwhile_is_not_pruned() {
    let bench = bench().await;
    keep(&bench, 2).await;
    let pruning = page(&bench, &payments(), None, 100).await;
    let back = rollback(&bench, "payments/db", 1).await;
    bench.ledger().apply(back).await.unwrap();
    let late = bench.ledger().apply(pruning.change).await;
    assert!(matches!(late, Err(ApplyError::Conflict { .. })), "{late:?}");
    // And the other way round: the version that a rollback has found is gone when it comes to its commit.
    let back = rollback(&bench, "payments/db", 3).await;
    let pruning = page(&bench, &payments(), None, 100).await;
    bench.ledger().apply(pruning.change).await.unwrap();
    let late = bench.ledger().apply(back).await;
    assert!(matches!(late, Err(ApplyError::Conflict { .. })), "{late:?}");
    let pruning = page(&bench, &payments(), None, 100).await;
    keep(&bench, 0).await;
    bench.put("payments/db", &[("password", "7")]).await;
    let late = bench.ledger().apply(pruning.change).await;
    assert!(matches!(late, Err(ApplyError::Conflict { .. })), "{late:?}");
    sound(bench).await;
}

#[tokio::test]
async fn a_secret_with_something_damaged_stays_as_it_is_and_stops_no_other() {
    for table in [Table::Version, Table::Head, Table::ValueKey] {
        let mut bench = bench().await;
        for number in 2..=4 {
            let value = number.to_string();
            bench.put("payments/other", &[("a", &value)]).await;
        }
        keep(&bench, 2).await;
        let lost = bench
            .vault
            .versions(&path("payments/db"), None, 10)
            .await
            .unwrap();
        let oldest = lost.last().unwrap();
        let value = oldest
            .fields
            .iter()
            .find(|it| it.field == field("password"));
        let (value, secret) = (
            value.unwrap().value,
            bench
                .vault
                .secret(&path("payments/db"))
                .await
                .unwrap()
                .secret,
        );
        let third = VersionBody::key(secret, version(3));
        let wanted = |key: &[u8]| key == third || key == b"payments/db" || key == value.as_bytes();
        let fixture = bench.close().await;
        fixture.tamper(table, |rows| {
            let row = rows.iter_mut().find(|(key, _)| wanted(key)).unwrap().1;
            *row.last_mut().unwrap() ^= 1;
        });
        bench = Bench::reopen(fixture).await;
        let (pruned, values, unreadable) = pass(&bench, &payments(), 100).await;
        assert_eq!(pruned, ["payments/other@1", "payments/other@2"], "{table}");
        assert_eq!((values, unreadable), (2, 1), "{table}");
    }
}

#[tokio::test]
async fn a_pinned_version_stays_beside_the_newest_until_it_is_unpinned() {
    for limit in [1, 2, 100] {
        let bench = bench().await;
        pins(&bench, "payments/db", &[2, 6], true).await;
        keep(&bench, 2).await;
        let (pruned, values, _) = pass(&bench, &payments(), limit).await;
        assert_eq!(pruned, ["payments/db@1", "payments/db@3", "payments/db@4"]);
        assert_eq!(values, 3);
        let views = bench.vault.versions(&path("payments/db"), None, 10).await;
        let views = views.unwrap();
        let told: Vec<_> = views
            .iter()
            .map(|it| (it.number.number(), it.pinned))
            .collect();
        assert_eq!(told, [(6, true), (5, false), (2, true)]);
        let secret = bench
            .vault
            .secret(&path("payments/db"))
            .await
            .unwrap()
            .secret;
        let pinned = bench.vault.pinned(secret, 1).await.unwrap();
        assert_eq!((pinned.newest, pinned.count), (vec![version(6)], 2));
        let kept = opened(&bench.vault, "payments/db", Some(version(2))).await;
        assert_eq!(kept, pairs(&[("password", "2"), ("username", "u")]));
        pins(&bench, "payments/db", &[2, 6], false).await;
        let pruned = pass(&bench, &payments(), limit).await.0;
        assert_eq!(pruned, ["payments/db@2"]);
        assert_eq!(numbers(&bench, "payments/db").await, [6, 5]);
        sound(bench).await;
    }
}

#[tokio::test]
async fn a_pass_comes_to_its_end_where_everything_is_pinned_or_mounted() {
    for limit in [1, 2, 100] {
        let bench = bench().await;
        for number in 2..=4 {
            let value = number.to_string();
            bench.put("payments/other", &[("a", &value)]).await;
        }
        keep(&bench, 1).await;
        pins(&bench, "payments/db", &[1, 2, 3, 4, 5], true).await;
        let (pruned, ..) = pass(&bench, &payments(), limit).await;
        assert_eq!(
            pruned,
            ["payments/other@1", "payments/other@2", "payments/other@3"]
        );
        pins(&bench, "payments/db", &[1, 2, 3, 4, 5], false).await;
        // Nothing is known yet of what is mounted.
        let mounted = Mounted::new(Duration::from_secs(900));
        let (pruned, _, _, held) = pass_beside(&bench, &payments(), limit, &mounted).await;
        assert_eq!((pruned.len(), held), (0, 5));
        assert_eq!(numbers(&bench, "payments/db").await, [6, 5, 4, 3, 2, 1]);
        sound(bench).await;
    }
}

#[tokio::test]
async fn a_mounted_version_stays_until_nobody_has_named_it_for_the_window() {
    const WINDOW: Duration = Duration::from_secs(900);
    for limit in [1, 2, 100] {
        let bench = bench().await;
        keep(&bench, 2).await;
        let mounted = Mounted::new(WINDOW);
        pass_time(WINDOW).await;
        mounted.named(&named(&bench, "payments/db", 3).await);
        // Of another secret it says nothing, and what is kept in any case is not counted.
        mounted.named(&named(&bench, "payments/other", 1).await);
        mounted.named(&named(&bench, "payments/db", 6).await);
        let (pruned, values, _, held) = pass_beside(&bench, &payments(), limit, &mounted).await;
        assert_eq!(pruned, ["payments/db@1", "payments/db@2", "payments/db@4"]);
        assert_eq!((values, held), (3, 1));
        let kept = opened(&bench.vault, "payments/db", Some(version(3))).await;
        assert_eq!(kept, pairs(&[("password", "3"), ("username", "u")]));
        pass_time(WINDOW / 2).await;
        mounted.named(&named(&bench, "payments/db", 3).await);
        pass_time(WINDOW / 2).await;
        let (pruned, _, _, held) = pass_beside(&bench, &payments(), limit, &mounted).await;
        assert_eq!((pruned.len(), held), (0, 1));
        pass_time(WINDOW / 2).await;
        let (pruned, _, _, held) = pass_beside(&bench, &payments(), limit, &mounted).await;
        assert_eq!((pruned, held), (vec!["payments/db@3".to_owned()], 0));
        assert_eq!(numbers(&bench, "payments/db").await, [6, 5]);
        sound(bench).await;
    }
}

#[tokio::test]
async fn of_a_pin_and_a_pruning_or_destruction_at_once_one_conflicts() {
    let bench = bench().await;
    keep(&bench, 2).await;
    let pruning = page(&bench, &payments(), None, 100).await;
    pins(&bench, "payments/db", &[2], true).await;
    let late = bench.ledger().apply(pruning.change).await;
    assert!(matches!(late, Err(ApplyError::Conflict { .. })), "{late:?}");
    let pinning = pin(&bench, "payments/db", 3, true).await.unwrap();
    let pruning = page(&bench, &payments(), None, 100).await;
    bench.ledger().apply(pruning.change).await.unwrap();
    let late = bench.ledger().apply(pinning).await;
    assert!(matches!(late, Err(ApplyError::Conflict { .. })), "{late:?}");
    assert_eq!(numbers(&bench, "payments/db").await, [6, 5, 2]);
    sound(bench).await;
}

#[tokio::test]
async fn what_is_not_there_or_so_already_is_not_pinned_and_a_pinned_version_is_destroyed_with_its_secret_alone()
 {
    let bench = bench().await;
    let refused = async |of: &str, number, pinned| {
        let refused = pin(&bench, of, number, pinned).await.unwrap_err();
        refused.to_string()
    };
    let destroy = async |number: Option<u64>| {
        let request = DestroyRequest {
            path: path("payments/db"),
            version: number.map(version),
            by: operator(),
            now_ms: NOW,
        };
        bench.vault.prepare_destroy(&request).await
    };
    pins(&bench, "payments/db", &[1, 2], true).await;
    for (of, number, pinned, told) in [
        (
            "payments/none",
            1,
            true,
            "payments/none: there is no such secret",
        ),
        ("payments/db", 7, true, "payments/db: there is no version 7"),
        (
            "payments/db",
            7,
            false,
            "payments/db: there is no version 7",
        ),
        (
            "payments/db",
            2,
            true,
            "version 2 of payments/db is pinned already",
        ),
        (
            "payments/db",
            3,
            false,
            "version 3 of payments/db is not pinned",
        ),
    ] {
        assert_eq!(refused(of, number, pinned).await, told);
    }
    let told = destroy(Some(2)).await.unwrap_err().to_string();
    assert!(
        told.contains("attache secret unpin payments/db@2"),
        "{told}"
    );
    let one = destroy(Some(3)).await.unwrap();
    bench.ledger().apply(one.change).await.unwrap();
    let told = refused("payments/db", 3, true).await;
    assert_eq!(told, "payments/db: there is no version 3");
    let whole = destroy(None).await.unwrap();
    bench.ledger().apply(whole.change).await.unwrap();
    for number in [1, 2] {
        let told = refused("payments/db", number, true).await;
        assert_eq!(told, "payments/db: it is destroyed");
    }
    sound(bench).await;
}
