//! Rotation and re-wrap over real ledgers, each step by hand.

use std::sync::atomic::AtomicU64;

use attache_envelope::Table;
use attache_envelope::body::{KekBody, KekIndexKey, KekPhase, KekState, ValueKeyBody};
use attache_envelope::id::KeyId;
use attache_envelope::name::{KeyRef, Keyspace};
use attache_envelope::wrap::DekBinding;

use super::*;
use crate::store::fake::RestlessStore;
use crate::store::{ApplyError, Change, Ledger, LedgerError, LedgerOptions};
use crate::vault::{BackupAge, PreparedDestruction, SetSettings};

fn payments() -> Keyspace {
    "payments".parse().unwrap()
}

fn key(text: &str) -> KeyRef {
    text.parse().unwrap()
}

/// Rotates `payments`; answers the key before.
async fn rotate<S: Store>(vault: &Vault<S>) -> OldKey {
    let rotation = vault.prepare_rotation(&payments(), None, 0, NOW + 1).await;
    let rotation = rotation.unwrap();
    vault.ledger.apply(rotation.change).await.unwrap();
    vault.old_key(&rotation.previous).await.unwrap().unwrap()
}

/// Wraps again all that is under `old`, `limit` values a commit, and retires it.
async fn rewrap<S: Store>(vault: &Vault<S>, old: &OldKey, limit: usize) {
    loop {
        let page = vault.prepare_rewrap(old, None, limit).await.unwrap();
        assert_eq!(page.unreadable, []);
        if page.last.is_none() {
            break;
        }
        vault.ledger.apply(page.change).await.unwrap();
    }
    let retirement = vault.prepare_retirement(&old.key, NOW + 2).await.unwrap();
    vault.ledger.apply(retirement.unwrap()).await.unwrap();
}

async fn phases<S: Store>(vault: &Vault<S>) -> Vec<(String, KekPhase, u64)> {
    let views = vault.key_views(None, None, 10, 0).await.unwrap();
    let view = |it: KeyView| (it.key.to_string(), it.phase, it.values);
    views.into_iter().map(view).collect()
}

fn at(key: &str, phase: KekPhase, values: u64) -> (String, KekPhase, u64) {
    (key.to_owned(), phase, values)
}

/// Every row of the KEK index.
async fn index<S: Store>(vault: &Vault<S>) -> Vec<KekIndexKey> {
    let store = vault.ledger.store();
    let rows = store.scan(Table::KekIndex, b"", None, 1000).await.unwrap();
    let rows = rows.iter().map(|(key, _)| KekIndexKey::decode(key));
    rows.map(Result::unwrap).collect()
}

/// Looks at every value, and prepares the end of a key that none needs.
async fn destruction(bench: &Bench, key: &KeyRef) -> Result<PreparedDestruction, VaultError> {
    let vault = &bench.vault;
    let unreferenced = vault.look_for_references(key, &AtomicU64::new(0)).await?;
    vault
        .prepare_destruction(&unreferenced, BackupAge::Wait, NOW)
        .await
}

#[tokio::test]
async fn a_rotated_keyspace_opens_all_it_had_and_wraps_under_the_new_key_alone() {
    let bench = Bench::new().await;
    bench
        .put("payments/db", &[("user", "u"), ("password", "p")])
        .await;
    let index = index(&bench.vault).await;
    let old = rotate(&bench.vault).await;
    assert_eq!(self::index(&bench.vault).await, index);
    bench.put("payments/db", &[("password", "q")]).await;
    assert_eq!(
        phases(&bench.vault).await,
        [
            at("payments@1", KekPhase::DecryptOnly, 2),
            at("payments@2", KekPhase::Active, 1)
        ]
    );
    let now = pairs(&[("password", "q"), ("user", "u")]);
    assert_eq!(opened(&bench.vault, "payments/db", None).await, now);
    rewrap(&bench.vault, &old, 1).await;
    assert_eq!(
        phases(&bench.vault).await,
        [
            at("payments@1", KekPhase::Retired, 0),
            at("payments@2", KekPhase::Active, 3)
        ]
    );
    // Not from the KEK that is open already.
    bench.vault.forget_key(&old.key, old.id);
    assert_eq!(opened(&bench.vault, "payments/db", None).await, now);
    let before = pairs(&[("password", "p"), ("user", "u")]);
    let first = opened(&bench.vault, "payments/db", Some(version(1))).await;
    assert_eq!(first, before);
    let report = check_store(bench.ledger().store().as_ref(), bench.vault.keys());
    assert_eq!(report.await.unwrap().findings, []);
}

#[tokio::test]
async fn a_put_that_was_wrapped_before_the_rotation_is_not_committed_after_it() {
    let bench = Bench::new().await;
    let raced = bench
        .client("payments/db", &[("password", "p")])
        .await
        .seal();
    let raced = bench.prepare(raced).await.unwrap();
    rotate(&bench.vault).await;
    let refused = bench.ledger().apply(raced.change).await.unwrap_err();
    assert!(
        matches!(
            refused,
            ApplyError::Conflict {
                table: Table::Kek,
                ..
            }
        ),
        "{refused:?}"
    );
    // Begun before, and wrapped after.
    let late = bench.client("payments/db", &[("password", "p")]).await;
    rotate(&bench.vault).await;
    bench.commit(late.seal()).await.unwrap();
    assert_eq!(
        phases(&bench.vault).await[2],
        at("payments@3", KekPhase::Active, 1)
    );
}

#[tokio::test]
async fn of_two_rotations_of_one_state_one_is_committed() {
    let bench = Bench::new().await;
    let mut prepared = Vec::new();
    for expected in [key("payments@1").epoch; 2] {
        let vault = &bench.vault;
        let rotation = vault
            .prepare_rotation(&payments(), Some(expected), 7, NOW)
            .await;
        prepared.push(rotation.unwrap().change);
    }
    let second = prepared.pop().unwrap();
    bench.ledger().apply(prepared.pop().unwrap()).await.unwrap();
    let refused = bench.ledger().apply(second).await.unwrap_err();
    assert!(
        matches!(refused, ApplyError::Conflict { .. }),
        "{refused:?}"
    );
    let (of, first) = (payments(), key("payments@1").epoch);
    let late = bench.vault.prepare_rotation(&of, Some(first), 0, NOW);
    let late = late.await.unwrap_err();
    assert!(
        matches!(
            late,
            VaultError::KeyMoved {
                expected: 1,
                found: 2,
                ..
            }
        ),
        "{late:?}"
    );
    let old = bench.vault.old_keys().await.unwrap();
    assert_eq!((old.len(), old[0].rewrap.rate), (1, 7));
}

#[tokio::test]
async fn a_value_that_was_destroyed_meanwhile_is_not_put_back() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1"), ("b", "2")]).await;
    let old = rotate(&bench.vault).await;
    let page = bench.vault.prepare_rewrap(&old, None, 10).await.unwrap();
    let last = KekIndexKey::decode(&page.last.unwrap()).unwrap();
    let gone = ValueKeyBody::key(last.value);
    let mut change = Change::default();
    change.deletes.push((Table::ValueKey, gone.clone()));
    bench.ledger().apply(change).await.unwrap();
    let refused = bench.ledger().apply(page.change).await.unwrap_err();
    assert!(
        matches!(refused, ApplyError::Conflict { .. }),
        "{refused:?}"
    );
    rewrap(&bench.vault, &old, 10).await;
    let row = bench.ledger().read(Table::ValueKey, &gone);
    assert_eq!(row.await.unwrap(), None);
}

#[tokio::test]
async fn nothing_is_wrapped_again_under_a_key_that_is_not_active_any_more() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1")]).await;
    let first = rotate(&bench.vault).await;
    let page = bench.vault.prepare_rewrap(&first, None, 10).await.unwrap();
    let second = rotate(&bench.vault).await;
    let refused = bench.ledger().apply(page.change).await.unwrap_err();
    assert!(
        matches!(refused, ApplyError::Conflict { .. }),
        "{refused:?}"
    );
    let names = [first.key.to_string(), second.key.to_string()];
    let old = bench.vault.old_keys().await.unwrap();
    let old: Vec<_> = old.iter().map(|it| it.key.to_string()).collect();
    assert_eq!(old, names);
    rewrap(&bench.vault, &first, 10).await;
    rewrap(&bench.vault, &second, 10).await;
    assert_eq!(
        phases(&bench.vault).await[2],
        at("payments@3", KekPhase::Active, 1)
    );
}

#[tokio::test]
async fn a_key_that_still_wraps_something_is_not_retired() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1")]).await;
    assert!(
        bench
            .vault
            .prepare_retirement(&key("payments@1"), NOW)
            .await
            .unwrap()
            .is_none()
    );
    let old = rotate(&bench.vault).await;
    let early = bench.vault.prepare_retirement(&old.key, NOW).await;
    assert!(early.unwrap().is_none());
    let (left, first) = bench.vault.prepare_count(&old).await.unwrap();
    assert_eq!(left, 1);
    bench.ledger().apply(first.unwrap()).await.unwrap();
    let counted = bench.vault.old_key(&old.key).await.unwrap().unwrap();
    assert_eq!(counted.rewrap.values, 1);
    let (left, again) = bench.vault.prepare_count(&counted).await.unwrap();
    assert!(left == 1 && again.is_none());
}

#[tokio::test]
async fn a_key_that_backups_may_have_goes_when_their_age_is_over_or_an_operator_says_so() {
    let bench = Bench::new().await;
    let set = SetSettings {
        backup_age_s: Some(60),
        ..SetSettings::default()
    };
    let set = bench.vault.prepare_settings(&payments(), set).await;
    bench.ledger().apply(set.unwrap().0).await.unwrap();
    let old = rotate(&bench.vault).await;
    rewrap(&bench.vault, &old, 10).await;
    // It was retired at NOW + 2.
    let over = NOW + 2 + 60_000;
    let refused = bench
        .vault
        .refuse_within_backup_age(&old.key, over - 1)
        .await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("from 2027-01-15T08:01:00.002Z on"),
        "{refused}"
    );
    assert!(refused.contains("attache key destroy payments@1 --now"));
    let refused = destruction(&bench, &old.key).await.unwrap_err();
    assert!(
        matches!(refused, VaultError::WithinBackupAge { .. }),
        "{refused:?}"
    );
    let looked = bench
        .vault
        .look_for_references(&old.key, &AtomicU64::new(0))
        .await;
    let looked = looked.unwrap();
    for (backup_age, now_ms) in [(BackupAge::Now, NOW), (BackupAge::Wait, over)] {
        let prepared = bench.vault.prepare_destruction(&looked, backup_age, now_ms);
        prepared.await.unwrap();
    }
    let over = bench.vault.refuse_within_backup_age(&old.key, over).await;
    over.unwrap();
}

#[tokio::test]
async fn a_damaged_value_is_named_and_holds_up_no_other() {
    let bench = Bench::new().await;
    bench
        .put("payments/db", &[("a", "1"), ("b", "2"), ("c", "3")])
        .await;
    rotate(&bench.vault).await;
    let fixture = bench.close().await;
    let mut broken = Vec::new();
    fixture.tamper(Table::ValueKey, |rows| {
        let (key, row) = rows.iter_mut().nth(1).unwrap();
        *row.last_mut().unwrap() ^= 1;
        broken.clone_from(key);
    });
    let bench = Bench::reopen(fixture).await;
    let old = bench.vault.old_keys().await.unwrap().remove(0);
    let page = bench.vault.prepare_rewrap(&old, None, 10).await.unwrap();
    let named: Vec<_> = page
        .unreadable
        .iter()
        .map(|it| it.as_bytes().to_vec())
        .collect();
    assert_eq!((named, page.values), (vec![broken], 2));
    bench.ledger().apply(page.change).await.unwrap();
    assert_eq!(
        phases(&bench.vault).await[0],
        at("payments@1", KekPhase::DecryptOnly, 1)
    );
}

/// Whatever lies where a value is to be indexed: it goes, and holds up nothing.
#[tokio::test]
async fn a_row_that_was_planted_where_a_value_is_to_be_indexed_is_written_over() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1"), ("b", "2")]).await;
    let old = rotate(&bench.vault).await;
    let (active, _) = bench.vault.active_kek(&payments()).await.unwrap();
    let fixture = bench.close().await;
    fixture.tamper(Table::KekIndex, |rows| {
        let name = rows.keys().nth(1).unwrap();
        let value = KekIndexKey::decode(name).unwrap().value;
        let kek = active.id;
        rows.insert(KekIndexKey { kek, value }.encode(), vec![7; 50]);
    });
    let bench = Bench::reopen(fixture).await;
    rewrap(&bench.vault, &old, 10).await;
    let report = check_store(bench.ledger().store().as_ref(), bench.vault.keys());
    assert_eq!(report.await.unwrap().findings, []);
}

/// They name no value, one that is not there, or one that another key wraps.
#[tokio::test]
async fn rows_of_the_index_that_are_of_no_value_go_and_keep_no_key() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1"), ("b", "2")]).await;
    let old = rotate(&bench.vault).await;
    bench.put("payments/new", &[("c", "3")]).await;
    let fixture = bench.close().await;
    let mut count = 0;
    fixture.tamper(Table::KekIndex, |rows| {
        let row = |value: &[u8]| [old.id.as_bytes(), value].concat();
        let of_it = |key: &&Vec<u8>| key.starts_with(old.id.as_bytes());
        let new = rows.keys().find(|key| !of_it(key)).unwrap()[16..].to_vec();
        let mut planted = vec![row(&new), row(&[0; 16]), row(&[255; 16]), row(b"")];
        for length in [3, 15, 17] {
            // More of the shortest than a page has.
            for first in 0..5 {
                let mut value = vec![0; length];
                value[0] = first;
                planted.push(row(&value));
            }
        }
        count = planted.len() as u64;
        rows.extend(planted.into_iter().map(|key| (key, Vec::new())));
    });
    let bench = Bench::reopen(fixture).await;
    let (mut after, mut values, mut strays): (Option<Vec<u8>>, _, _) = (None, 0, 0);
    loop {
        let page = bench.vault.prepare_rewrap(&old, after.as_deref(), 2);
        let page = page.await.unwrap();
        assert_eq!(page.unreadable, []);
        values += page.values;
        strays += page.strays();
        bench.ledger().apply(page.change).await.unwrap();
        let Some(last) = page.last else { break };
        assert!(after.is_none_or(|after| after < last), "{last:?}");
        after = Some(last);
    }
    assert_eq!((values, strays), (2, count));
    let retired = bench.vault.prepare_retirement(&old.key, NOW).await;
    bench
        .ledger()
        .apply(retired.unwrap().unwrap())
        .await
        .unwrap();
    let report = check_store(bench.ledger().store().as_ref(), bench.vault.keys());
    assert_eq!(report.await.unwrap().findings, []);
    let new = opened(&bench.vault, "payments/new", None).await;
    assert_eq!(new, pairs(&[("c", "3")]));
}

#[tokio::test]
async fn a_key_is_destroyed_when_it_is_retired_and_nothing_opens_by_it_any_more() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1")]).await;
    let first = key("payments@1");
    let refusal = |phase| move |error: &VaultError| matches!(error, VaultError::KeyNotRetired { phase: found, .. } if *found == phase);
    let refused = destruction(&bench, &first).await.unwrap_err();
    assert!(refusal(KekPhase::Active)(&refused), "{refused:?}");
    let old = rotate(&bench.vault).await;
    let refused = destruction(&bench, &first).await.unwrap_err();
    assert!(refusal(KekPhase::DecryptOnly)(&refused), "{refused:?}");
    rewrap(&bench.vault, &old, 10).await;
    let prepared = destruction(&bench, &first).await.unwrap();
    assert_eq!(prepared.id, old.id);
    bench.ledger().apply(prepared.change).await.unwrap();
    bench.vault.forget_key(&first, old.id);
    assert_eq!(
        phases(&bench.vault).await[0],
        at("payments@1", KekPhase::Destroyed, 0)
    );
    let gone = bench
        .vault
        .keks
        .of_id(bench.ledger(), &payments(), old.id)
        .await;
    assert!(gone.is_err());
    assert_eq!(
        opened(&bench.vault, "payments/db", None).await,
        pairs(&[("a", "1")])
    );
    let refused = destruction(&bench, &first).await.unwrap_err();
    assert!(refusal(KekPhase::Destroyed)(&refused), "{refused:?}");
    let absent = destruction(&bench, &key("payments@9")).await;
    assert!(matches!(absent, Err(VaultError::NoKey(_))));
}

/// Retires the first key although a value still names it, as no code of ours does.
async fn retired_in_use(bench: &Bench) -> OldKey {
    bench
        .put("payments/db", &[("user", "u"), ("password", "p")])
        .await;
    bench.put("payments/db", &[("password", "q")]).await;
    let old = rotate(&bench.vault).await;
    let row_key = KekBody::key(&payments(), 1);
    let row = bench
        .ledger()
        .read(Table::Kek, &row_key)
        .await
        .unwrap()
        .unwrap();
    let mut body = KekBody::decode(&row.body).unwrap();
    body.state = KekState::Retired(body.state.wrapped().unwrap().clone());
    let mut change = Change::default();
    change.put(Table::Kek, row_key, body.encode());
    // The index says that nothing is left: it is no proof.
    let index = index(&bench.vault).await;
    change.unindexed = index.iter().map(KekIndexKey::encode).collect();
    bench.ledger().apply(change).await.unwrap();
    old
}

#[tokio::test]
async fn a_key_that_a_value_names_is_not_destroyed_whatever_the_index_says() {
    let bench = Bench::new().await;
    let old = retired_in_use(&bench).await;
    let refused = destruction(&bench, &old.key).await.unwrap_err();
    let VaultError::KeyReferenced {
        count, mut named, ..
    } = refused
    else {
        panic!("{refused:?}")
    };
    named.sort();
    let first = [
        "payments/db@1#password",
        "payments/db@1#user",
        "payments/db@2#password",
    ];
    assert_eq!((count, named), (3, first.map(str::to_owned).to_vec()));
    let report = check_store(bench.ledger().store().as_ref(), bench.vault.keys());
    let findings = report.await.unwrap().findings;
    let retired = findings
        .iter()
        .filter(|it| it.problem.contains("a key that is retired"));
    let unindexed = findings
        .iter()
        .filter(|it| it.problem.contains("not in the KEK index"));
    assert_eq!((retired.count(), unindexed.count()), (3, 3), "{findings:?}");
}

#[tokio::test]
async fn a_value_that_cannot_be_read_keeps_every_key() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1")]).await;
    let old = rotate(&bench.vault).await;
    rewrap(&bench.vault, &old, 10).await;
    let fixture = bench.close().await;
    fixture.tamper(Table::ValueKey, |rows| {
        *rows.values_mut().next().unwrap().last_mut().unwrap() ^= 1;
    });
    let bench = Bench::reopen(fixture).await;
    let refused = destruction(&bench, &old.key).await;
    assert!(matches!(refused, Err(VaultError::Ledger(_))), "{refused:?}");
}

/// The keyspace `payments` with values without payloads: what a re-wrap sees of them.
async fn fill<S: Store>(vault: &Vault<S>, count: u8) {
    let keyspace = vault
        .prepare_keyspace(&payments(), KEEPS_ALL, &operator(), NOW)
        .await;
    vault.ledger.apply(keyspace.unwrap()).await.unwrap();
    let (kek, _) = vault.active_kek(&payments()).await.unwrap();
    let mut change = Change::default();
    for number in 0..count {
        let value = ValueId::from_bytes([number; 16]);
        let body = ValueKeyBody {
            secret: SecretId::from_bytes([1; 16]),
            kek: kek.id,
            ct_hash: CtHash::from_bytes([number; 32]),
            ct_bytes: 16,
            wrapped: kek
                .prepared()
                .unwrap()
                .wrap_dek(&binding(vault, value, kek.id), Dek::new(&[number; 32]))
                .unwrap(),
        };
        change.put(Table::ValueKey, ValueKeyBody::key(value), body.encode());
    }
    vault.ledger.apply(change).await.unwrap();
}

fn binding<S: Store>(vault: &Vault<S>, value: ValueId, kek: KeyId) -> DekBinding<'static> {
    static PAYMENTS: std::sync::OnceLock<Keyspace> = std::sync::OnceLock::new();
    DekBinding {
        store: vault.store_id(),
        keyspace: PAYMENTS.get_or_init(payments),
        secret: SecretId::from_bytes([1; 16]),
        value,
        kek,
        ct_hash: CtHash::from_bytes([value.as_bytes()[0]; 32]),
    }
}

async fn rotations_end<S: Store>(vault: Vault<S>) {
    const COUNT: u8 = 100;
    fill(&vault, COUNT).await;
    for epoch in 2..5 {
        let old = rotate(&vault).await;
        rewrap(&vault, &old, 7).await;
        let active = KekBody::key(&payments(), epoch);
        let active = vault
            .ledger
            .read(Table::Kek, &active)
            .await
            .unwrap()
            .unwrap();
        let active = KekBody::decode(&active.body).unwrap();
        for number in 0..COUNT {
            let value = ValueId::from_bytes([number; 16]);
            let body = vault
                .value_key(SecretId::from_bytes([1; 16]), value)
                .await
                .unwrap();
            assert_eq!(body.kek, active.kek);
            let kek = vault
                .keks
                .of_id(&vault.ledger, &payments(), body.kek)
                .await
                .unwrap();
            let dek = kek.prepared().unwrap().unwrap_dek(
                vault.keys(),
                &binding(&vault, value, body.kek),
                &body.wrapped,
            );
            assert_eq!(dek.unwrap().expose(), &[number; 32]);
        }
        assert_eq!(
            vault.count_wrapped(active.kek).await.unwrap(),
            u64::from(COUNT)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_end_over_redb() {
    let fixture = Fixture::new().await;
    rotations_end(open_vault(&fixture).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_end_over_a_store_that_moves_at_random() {
    let fixture = Fixture::new().await;
    rotations_end(restless(&fixture, 4).await).await;
}

/// A page of a re-wrap was read, and its tags were right; then somebody who has the disk changes a row of it.
#[tokio::test]
async fn a_row_that_is_changed_by_force_between_its_reading_and_its_commit_is_not_replaced() {
    let fixture = Fixture::new().await;
    let vault = restless(&fixture, u64::MAX).await;
    fill(&vault, 3).await;
    let old = rotate(&vault).await;
    let value = ValueId::from_bytes([1; 16]);
    let key = ValueKeyBody::key(value);
    let page = vault.prepare_rewrap(&old, None, 10).await.unwrap();
    assert_eq!(page.values, 3);
    let store = vault.ledger.store();
    // The tag, which nobody would miss where it is taken for read.
    let flipped = |row: &mut Vec<u8>| *row.last_mut().unwrap() ^= 1;
    let before = store.force(Table::ValueKey, &key, flipped);
    let refused = vault.ledger.apply(page.change).await;
    let of_value = |error: &ApplyError| {
        let damaged = LedgerError::damaged(Table::ValueKey, &key).to_string();
        error.to_string() == damaged
    };
    assert!(refused.as_ref().is_err_and(of_value), "{refused:?}");
    store.force(Table::ValueKey, &key, |row| *row = before.to_vec());
    rewrap(&vault, &old, 2).await;
    let report = check_store(vault.ledger.store().as_ref(), vault.keys());
    let findings = report.await.unwrap().findings;
    let without_payloads = findings.iter().filter(|it| it.problem == "has no payload");
    assert_eq!(
        (without_payloads.count(), findings.len()),
        (3, 3),
        "{findings:?}"
    );
}

/// A vault over a store that answers once in so many commits that it has moved.
async fn restless(fixture: &Fixture, one_in: u64) -> Vault<RestlessStore> {
    let store = RestlessStore::new(fixture.id, 7, one_in);
    let slot = fixture.note_path().with_file_name("restless.key");
    let (keys, rows) = Keys::create(&fixture.arena, fixture.id, &slot).unwrap();
    while Ledger::initialise(&store, &keys, &rows).await.is_err() {}
    let options = LedgerOptions {
        anchor_note: fixture.note_path(),
        audit_head: Box::new(|| None),
        audited: None,
    };
    let ledger = Ledger::open(Arc::new(store), &keys, options).await.unwrap();
    let boot = BootId::random(&SystemRandom).unwrap();
    Vault::new(ledger, Arc::new(keys), broker(), boot).unwrap()
}
