//! Listing, versions, rollback and what a release loads.

use super::*;
use crate::store::{ApplyError, LedgerError, Table};

#[tokio::test]
async fn keyspaces_are_listed_with_what_is_in_them() {
    let bench = Bench::new().await;
    bench.keyspace("web").await;
    for name in ["payments/a", "payments/b/c", "web/x"] {
        bench.put(name, &[("f", "v")]).await;
    }
    let views = bench.vault.keyspaces(None, 10).await.unwrap();
    let found: Vec<_> = views
        .iter()
        .map(|it| (it.name.as_str(), it.secrets, it.key_epoch))
        .collect();
    assert_eq!(found, [("payments", 2, 1), ("web", 1, 1)]);
    let after = views[0].name.clone();
    assert_eq!(
        bench.vault.keyspaces(Some(&after), 10).await.unwrap().len(),
        1
    );
    assert_eq!(bench.vault.keyspaces(None, 1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_keyspace_is_made_once() {
    let bench = Bench::new().await;
    let name = "web".parse().unwrap();
    let first = bench
        .vault
        .prepare_keyspace(&name, KEEPS_ALL, &operator(), NOW)
        .await
        .unwrap();
    let second = bench
        .vault
        .prepare_keyspace(&name, KEEPS_ALL, &operator(), NOW)
        .await
        .unwrap();
    bench.ledger().apply(first).await.unwrap();
    assert!(matches!(
        bench.ledger().apply(second).await,
        Err(ApplyError::Conflict { .. })
    ));
    let again = bench
        .vault
        .prepare_keyspace(&name, KEEPS_ALL, &operator(), NOW)
        .await;
    assert!(matches!(again, Err(VaultError::KeyspaceTaken(_))));
}

#[tokio::test]
async fn secrets_are_listed_by_page_and_keyspace() {
    let bench = Bench::new().await;
    // Names that sort around each other's prefixes.
    bench.keyspace("pay").await;
    bench.keyspace("payments-eu").await;
    for name in [
        "payments/a",
        "payments/b",
        "payments/b/c",
        "payments-eu/a",
        "pay/a",
    ] {
        bench.put(name, &[("f", "v")]).await;
    }
    let names = |views: Vec<SecretView>| {
        views
            .iter()
            .map(|it| it.path.to_string())
            .collect::<Vec<_>>()
    };
    let vault = &bench.vault;
    let keyspace = "payments".parse().unwrap();
    let of = vault.secrets(Some(&keyspace), None, 10).await.unwrap();
    assert_eq!(names(of), ["payments/a", "payments/b", "payments/b/c"]);
    let mut all = Vec::new();
    let mut after: Option<SecretPath> = None;
    loop {
        let page = vault.secrets(None, after.as_ref(), 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.path.clone());
        all.extend(names(page));
    }
    assert_eq!(all.len(), 5);
    assert!(all.is_sorted());
    let absent = "nowhere".parse().unwrap();
    assert!(matches!(
        vault.secrets(Some(&absent), None, 10).await,
        Err(VaultError::NoKeyspace(_))
    ));
}

#[tokio::test]
async fn a_secret_is_shown_without_its_values() {
    let bench = Bench::new().await;
    bench
        .put("payments/db", &[("b", "canary-value"), ("a", "1")])
        .await;
    let view = bench.vault.secret(&path("payments/db")).await.unwrap();
    assert_eq!((view.active, view.latest), (Some(version(1)), version(1)));
    assert_eq!(view.fields, [field("a"), field("b")]);
    assert_eq!(view.changed_by, operator().to_string());
    assert!(!format!("{view:?}").contains("canary"));
    let absent = bench.vault.secret(&path("payments/none")).await;
    assert!(matches!(
        absent,
        Err(VaultError::Absent {
            absence: Absence::Secret,
            ..
        })
    ));
}

#[tokio::test]
async fn versions_come_newest_first_in_pages() {
    let bench = Bench::new().await;
    for n in 0..5 {
        bench.put("payments/db", &[("a", &"x".repeat(n))]).await;
    }
    let of = path("payments/db");
    let page = bench.vault.versions(&of, None, 2).await.unwrap();
    let numbers: Vec<_> = page.iter().map(|it| it.number.number()).collect();
    assert_eq!(numbers, [5, 4]);
    assert!(page[0].active && !page[1].active);
    assert_eq!(page[0].fields[0].size_bytes, 4);
    assert_eq!(page[0].note, "why not");
    let rest = bench
        .vault
        .versions(&of, Some(version(4)), 10)
        .await
        .unwrap();
    assert_eq!(rest.len(), 3);
    assert!(
        bench
            .vault
            .versions(&of, Some(version(1)), 10)
            .await
            .unwrap()
            .is_empty()
    );
}

fn rollback(to: Option<u64>, expected: Option<u64>) -> RollbackRequest {
    RollbackRequest {
        path: path("payments/db"),
        to: to.map(version),
        expected_active: expected.map(version),
        by: operator(),
        now_ms: NOW,
    }
}

#[tokio::test]
async fn a_rollback_points_back_and_numbers_go_on() {
    let bench = Bench::new().await;
    for value in ["1", "2", "3"] {
        bench.put("payments/db", &[("a", value)]).await;
    }
    let vault = &bench.vault;
    let back = vault
        .prepare_rollback(&rollback(None, Some(3)))
        .await
        .unwrap();
    assert_eq!((back.active, back.previous), (version(2), Some(version(3))));
    bench.ledger().apply(back.change).await.unwrap();
    assert_eq!(
        opened(vault, "payments/db", None).await,
        pairs(&[("a", "2")])
    );
    assert_eq!(bench.put("payments/db", &[("a", "4")]).await, version(4));
    let forward = vault
        .prepare_rollback(&rollback(Some(3), None))
        .await
        .unwrap();
    bench.ledger().apply(forward.change).await.unwrap();
    assert_eq!(
        opened(vault, "payments/db", None).await,
        pairs(&[("a", "3")])
    );
    assert_eq!(
        vault.secret(&path("payments/db")).await.unwrap().latest,
        version(4)
    );
}

#[tokio::test]
async fn rollbacks_that_mean_nothing_are_refused() {
    let bench = Bench::new().await;
    let vault = &bench.vault;
    let absent = vault.prepare_rollback(&rollback(None, None)).await;
    assert!(matches!(
        absent,
        Err(VaultError::Absent {
            absence: Absence::Secret,
            ..
        })
    ));
    bench.put("payments/db", &[("a", "1")]).await;
    let none = vault.prepare_rollback(&rollback(None, None)).await;
    assert!(matches!(none, Err(VaultError::NoEarlierVersion { .. })));
    let same = vault.prepare_rollback(&rollback(Some(1), None)).await;
    assert!(matches!(same, Err(VaultError::AlreadyActive { .. })));
    let unknown = vault.prepare_rollback(&rollback(Some(9), None)).await;
    assert!(matches!(
        unknown,
        Err(VaultError::Absent {
            absence: Absence::Version(_),
            ..
        })
    ));
    bench.put("payments/db", &[("a", "2")]).await;
    let moved = vault.prepare_rollback(&rollback(None, Some(1))).await;
    assert!(matches!(
        moved,
        Err(VaultError::HeadMoved {
            expected: 1,
            found: 2,
            ..
        })
    ));
    // Prepared on a head that a put then replaces.
    let late = vault.prepare_rollback(&rollback(None, None)).await.unwrap();
    bench.put("payments/db", &[("a", "3")]).await;
    assert!(matches!(
        bench.ledger().apply(late.change).await,
        Err(ApplyError::Conflict {
            table: Table::Head,
            ..
        })
    ));
}

#[tokio::test]
async fn what_is_not_there_is_no_error_to_a_release() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1")]).await;
    let load = async |of: &str, at: Option<u64>, fields: &[&str]| {
        let fields: Vec<_> = fields.iter().map(|name| field(name)).collect();
        let found = bench
            .vault
            .load(&path(of), at.map(version), Some(&fields))
            .await;
        match found.unwrap() {
            Lookup::Found(found) => Ok(found.fields.len()),
            Lookup::Absent(absence) => Err(absence),
        }
    };
    assert_eq!(load("payments/db", None, &["a"]).await, Ok(1));
    assert_eq!(load("payments/db", None, &[]).await, Ok(0));
    assert_eq!(
        load("payments/db", None, &["z"]).await,
        Err(Absence::Field(field("z")))
    );
    assert_eq!(
        load("payments/db", Some(2), &["a"]).await,
        Err(Absence::Version(version(2)))
    );
    assert_eq!(
        load("payments/no", None, &["a"]).await,
        Err(Absence::Secret)
    );
    assert_eq!(load("nowhere/no", None, &["a"]).await, Err(Absence::Secret));
}

#[tokio::test]
async fn a_disabled_or_destroyed_secret_is_not_released() {
    use attache_envelope::body::{HeadBody, HeadState};

    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1")]).await;
    let of = path("payments/db");
    let put = bench.client("payments/db", &[("a", "2")]).await.seal();
    for (state, want) in [
        (HeadState::Disabled, Absence::Disabled),
        (HeadState::Destroyed, Absence::Destroyed),
    ] {
        let row = bench
            .ledger()
            .read(Table::Head, &HeadBody::key(&of))
            .await
            .unwrap()
            .unwrap();
        let head = HeadBody {
            state,
            ..HeadBody::decode(&row.body).unwrap()
        };
        let change = crate::store::fixture::put(Table::Head, &HeadBody::key(&of), &head.encode());
        bench.ledger().apply(change).await.unwrap();
        let found = bench.vault.resolve(&of, None).await.unwrap();
        assert_eq!(found, Lookup::Absent(want));
    }
    assert!(matches!(
        bench.prepare(put).await,
        Err(VaultError::Absent {
            absence: Absence::Destroyed,
            ..
        })
    ));
}

/// Every KEK is of its keyspace: a value moved to another keyspace's KEK does not open.
#[tokio::test]
async fn a_wrapped_key_of_another_value_does_not_open() {
    let bench = Bench::new().await;
    bench.put("payments/one", &[("a", "1")]).await;
    bench.put("payments/two", &[("a", "2")]).await;
    let load = async |of| match bench.vault.load(&path(of), None, None).await.unwrap() {
        Lookup::Found(found) => found,
        Lookup::Absent(absence) => panic!("{absence}"),
    };
    let (one, two) = (load("payments/one").await, load("payments/two").await);
    let mut mixed = one.clone();
    mixed.fields = two.fields;
    let refused = bench.vault.open_deks(&mixed).await;
    assert!(matches!(
        refused.err(),
        Some(VaultError::Ledger(LedgerError::Damaged {
            table: Table::ValueKey,
            ..
        }))
    ));
    assert!(bench.vault.open_deks(&one).await.is_ok());
}
