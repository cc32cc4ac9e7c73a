//! `check_store`, and what damage does to a release: the object fails, its neighbours do not.

use attache_envelope::body::{ValueKeyBody, VersionBody};
use attache_envelope::row::UnverifiedRow;

use super::*;
use crate::store::fixture::{RawTable, put};
use crate::store::{LedgerError, RedbStore, Table};

async fn report(fixture: &Fixture) -> CheckReport {
    let store = RedbStore::open(&fixture.store_path()).unwrap();
    let keys = fixture.keys(&store).await;
    check_store(&store, &keys).await.unwrap()
}

async fn problems(fixture: &Fixture) -> Vec<(Table, &'static str)> {
    let findings = report(fixture).await.findings;
    findings
        .into_iter()
        .map(|it| (it.table, it.problem))
        .collect()
}

async fn two_secrets() -> Fixture {
    let bench = Bench::new().await;
    bench.put("payments/one", &[("a", "1"), ("b", "2")]).await;
    bench.put("payments/one", &[("b", "3")]).await;
    bench.put("payments/two", &[("a", "4")]).await;
    bench.close().await
}

fn first(rows: &mut RawTable) -> &mut Vec<u8> {
    rows.values_mut().next().unwrap()
}

#[tokio::test]
async fn a_sound_store_has_no_findings() {
    let fixture = two_secrets().await;
    let report = report(&fixture).await;
    assert_eq!(report.findings, []);
    // keyring, slot, keyspace, KEK; two heads, three versions, four values with their rows of the index.
    assert_eq!(report.rows, 4 + 2 + 3 + 4 * 2);
    assert_eq!(report.payloads, 4);
}

#[tokio::test]
async fn a_damaged_record_fails_its_secret_and_no_other() {
    for table in [Table::Head, Table::Version, Table::ValueKey, Table::Payload] {
        let fixture = two_secrets().await;
        let bench = Bench::reopen(fixture).await;
        let one = path("payments/one");
        let Lookup::Found(found) = bench.vault.resolve(&one, None).await.unwrap() else {
            panic!()
        };
        let fixture = bench.close().await;
        let value = found.fields[&field("b")];
        let row_key = if table == Table::Head {
            b"payments/one".to_vec()
        } else if table == Table::Version {
            VersionBody::key(found.secret, found.version)
        } else {
            value.as_bytes().to_vec()
        };
        fixture.tamper(table, |rows| {
            if table == Table::Payload {
                rows.get_mut(&row_key).unwrap().pop();
            } else {
                rows.get_mut(&row_key).unwrap()[20] ^= 1;
            }
        });
        let named = report(&fixture).await.findings;
        let shown = crate::store::shown(&row_key);
        assert!(
            named.iter().any(|it| it.table == table && it.key == shown),
            "{named:?}"
        );
        let bench = Bench::reopen(fixture).await;
        let failed = bench.vault.load(&path("payments/one"), None, None).await;
        assert!(
            matches!(&failed, Err(VaultError::Ledger(LedgerError::Damaged { table: of, .. })) if *of == table),
            "{table}: {failed:?}"
        );
        assert_eq!(
            opened(&bench.vault, "payments/two", None).await,
            pairs(&[("a", "4")])
        );
    }
}

#[tokio::test]
async fn a_changed_ciphertext_is_found_by_its_hash() {
    let fixture = two_secrets().await;
    fixture.tamper(Table::Payload, |rows| first(rows)[0] ^= 1);
    assert_eq!(
        problems(&fixture).await,
        [(Table::Payload, "is not the ciphertext that was put")]
    );
}

#[tokio::test]
async fn removed_and_added_payloads_are_found() {
    let fixture = two_secrets().await;
    let moved = fixture.raw(Table::Payload).pop_first().unwrap();
    fixture.tamper(Table::Payload, |rows| {
        rows.remove(&moved.0);
        rows.insert(vec![0xee; 16], moved.1);
    });
    assert_eq!(
        problems(&fixture).await,
        [
            (Table::Payload, "belongs to no value"),
            (Table::ValueKey, "has no payload")
        ]
    );
}

/// What the scrub of a serving broker finds too, which looks at no body otherwise.
#[tokio::test]
async fn an_index_that_is_not_that_of_the_values_is_found() {
    const LOST: (Table, &str) = (Table::ValueKey, "is not in the KEK index");
    const MORE: (Table, &str) = (Table::KekIndex, "names a value that its key does not wrap");
    const NONE: (Table, &str) = (Table::KekIndex, "is no key of the index");
    const BODY: (Table, &str) = (Table::KekIndex, "has a body, which no row of it has");
    let fixture = two_secrets().await;
    let sound = fixture.raw(Table::KekIndex);
    let row = sound.first_key_value().unwrap().0;
    let of_no_value = [&row[..16], &[7; 16]].concat();
    /// Of the table, a row of it, and one that is of no value.
    type Force = fn(&mut RawTable, &[u8], &[u8]);
    let changes: [(Force, &[_]); 6] = [
        (|_, _, _| {}, &[]),
        (|rows, row, _| drop(rows.remove(row)), &[LOST]),
        (
            |rows, _, more| drop(rows.insert(more.to_vec(), vec![])),
            &[MORE],
        ),
        (
            |rows, row, more| {
                rows.remove(row);
                rows.insert(more.to_vec(), vec![]);
            },
            &[LOST, MORE],
        ),
        (
            |rows, row, _| drop(rows.insert(row[1..].to_vec(), vec![])),
            &[NONE],
        ),
        (|rows, row, _| rows.get_mut(row).unwrap().push(0), &[BODY]),
    ];
    for (change, wanted) in changes {
        fixture.tamper(Table::KekIndex, |rows| change(rows, row, &of_no_value));
        let mut wanted = wanted.to_vec();
        wanted.sort();
        let store = RedbStore::open(&fixture.store_path()).unwrap();
        let keys = fixture.keys(&store).await;
        for report in [
            check_store(&store, &keys).await.unwrap(),
            scrub_store(&store, &keys).await.unwrap(),
        ] {
            let found = report.findings.iter().map(|it| (it.table, it.problem));
            let mut found: Vec<_> = found.collect();
            found.sort();
            assert_eq!(found, wanted);
        }
        drop((store, keys));
        fixture.tamper(Table::KekIndex, |rows| *rows = sound.clone());
    }
}

/// Rows that the ledger itself wrote, so that only the references are wrong: what a bug would leave.
#[tokio::test]
async fn dangling_references_are_found_both_ways() {
    let fixture = two_secrets().await;
    let value = fixture.raw(Table::ValueKey).pop_first().unwrap().0;
    let bench = Bench::reopen(fixture).await;
    let mut change = crate::store::Change::default();
    change.deletes.push((Table::ValueKey, value));
    bench.ledger().apply(change).await.unwrap();
    let fixture = bench.close().await;
    let found = problems(&fixture).await;
    assert!(found.contains(&(Table::Payload, "belongs to no value")));
    assert!(found.contains(&(Table::Version, "points to a value that is not there")));

    let bench = Bench::reopen(fixture).await;
    let mut change = put(
        Table::Head,
        b"elsewhere/two",
        &row_body(&bench, b"payments/two").await,
    );
    change.deletes.push((Table::Head, b"payments/one".to_vec()));
    change
        .deletes
        .push((Table::Kek, b"payments\0\0\0\0\x01".to_vec()));
    bench.ledger().apply(change).await.unwrap();
    let fixture = bench.close().await;
    let found = problems(&fixture).await;
    for want in [
        (Table::Head, "is of a keyspace that is not there"),
        (Table::Head, "shares its secret id with another name"),
        (Table::Keyspace, "its key epoch has no active key"),
        (Table::Version, "is of a secret that has no head"),
    ] {
        assert!(found.contains(&want), "{want:?} in {found:?}");
    }
}

/// Rows that the ledger itself wrote, with keys in them that do not open: what a bug in a re-wrap would leave.
#[tokio::test]
async fn keys_that_do_not_open_are_found() {
    let fixture = two_secrets().await;
    let rows = fixture.raw(Table::ValueKey);
    let [(one, _), (two, _)] = rows.iter().take(2).collect::<Vec<_>>()[..] else {
        panic!("{} values", rows.len())
    };
    let bench = Bench::reopen(fixture).await;
    let body = async |key: &[u8]| {
        let row = bench.ledger().read(Table::ValueKey, key).await.unwrap();
        ValueKeyBody::decode(&row.unwrap().body).unwrap()
    };
    let exchanged = ValueKeyBody {
        wrapped: body(two).await.wrapped,
        ..body(one).await
    };
    let change = put(Table::ValueKey, one, &exchanged.encode());
    bench.ledger().apply(change).await.unwrap();
    let fixture = bench.close().await;
    assert_eq!(
        problems(&fixture).await,
        [(Table::ValueKey, "has a key that its KEK does not open")]
    );

    // A KEK is of one keyspace.
    let bench = Bench::reopen(fixture).await;
    let kek = b"payments\0\0\0\0\x01";
    let row = bench.ledger().read(Table::Kek, kek).await.unwrap().unwrap();
    let mut change = put(Table::Kek, b"elsewhere\0\0\0\0\x01", &row.body);
    change.deletes.push((Table::Kek, kek.to_vec()));
    bench.ledger().apply(change).await.unwrap();
    let fixture = bench.close().await;
    let found = problems(&fixture).await;
    let want = (Table::Kek, "does not open by the keyring");
    assert!(found.contains(&want), "{found:?}");
}

async fn row_body(bench: &Bench, head: &[u8]) -> Vec<u8> {
    let row = bench.ledger().read(Table::Head, head).await.unwrap();
    row.unwrap().body.to_vec()
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_damage() {
    let bench = Bench::new().await;
    bench
        .ledger()
        .apply(put(Table::Head, b"payments/odd", b"nonsense"))
        .await
        .unwrap();
    let found = bench.vault.resolve(&path("payments/odd"), None).await;
    assert!(matches!(
        found,
        Err(VaultError::Ledger(LedgerError::Damaged {
            table: Table::Head,
            ..
        }))
    ));
    let fixture = bench.close().await;
    assert_eq!(
        problems(&fixture).await,
        [(Table::Head, "its body cannot be read")]
    );
}

#[tokio::test]
async fn a_value_key_of_another_secret_is_not_released() {
    let fixture = two_secrets().await;
    let rows = fixture.raw(Table::ValueKey);
    let bench = Bench::reopen(fixture).await;
    let Lookup::Found(one) = bench
        .vault
        .resolve(&path("payments/one"), None)
        .await
        .unwrap()
    else {
        panic!()
    };
    // The body of a value of the other secret, under the key of this one's: a MAC of ours, and still not believed.
    let foreign = rows
        .values()
        .map(|row| UnverifiedRow::parse(row).unwrap().unverified_body())
        .find(|body| ValueKeyBody::decode(body).unwrap().secret != one.secret)
        .unwrap();
    let value = one.fields[&field("a")];
    bench
        .ledger()
        .apply(put(Table::ValueKey, value.as_bytes(), foreign))
        .await
        .unwrap();
    let failed = bench.vault.load(&path("payments/one"), None, None).await;
    assert!(matches!(
        failed,
        Err(VaultError::Ledger(LedgerError::Damaged {
            table: Table::ValueKey,
            ..
        }))
    ));
    let fixture = bench.close().await;
    let found = problems(&fixture).await;
    assert!(found.contains(&(Table::Version, "points to a value of another secret")));
}

#[tokio::test]
async fn a_store_without_anchor_is_looked_at_all_the_same() {
    let fixture = two_secrets().await;
    fixture.tamper(Table::Anchor, |rows| rows.clear());
    let report = report(&fixture).await;
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].table, Table::Anchor);
    assert_eq!(report.payloads, 4);
}
