//! Keyspaces' keys as they are listed.

use attache_envelope::Table;
use attache_envelope::body::{KekBody, KekPhase, KekState};

use super::*;

fn listed(views: Vec<KeyView>) -> Vec<(String, KekPhase, u64)> {
    let view = |it: KeyView| (it.key.to_string(), it.phase, it.values);
    views.into_iter().map(view).collect()
}

#[tokio::test]
async fn keys_are_listed_with_what_they_wrap_by_keyspace_and_epoch() {
    let bench = Bench::new().await;
    // Sorts before `payments` as a keyspace, and after it as bytes of `payments@`.
    bench.keyspace("payments-eu").await;
    bench.keyspace("a").await;
    bench
        .put("payments/db", &[("user", "u"), ("password", "p")])
        .await;
    bench.put("payments/db", &[("password", "q")]).await;
    bench.put("a/b", &[("c", "d")]).await;
    let all = bench.vault.key_views(None, None, 10, 0).await.unwrap();
    let active = |name: &str, values| (name.to_owned(), KekPhase::Active, values);
    assert_eq!(
        listed(all),
        [
            active("a@1", 1),
            active("payments@1", 3),
            active("payments-eu@1", 0)
        ]
    );
    let first = bench.vault.key_views(None, None, 1, 0).await.unwrap();
    let rest = bench
        .vault
        .key_views(None, Some(&first[0].key), 10, 0)
        .await;
    assert_eq!(
        listed(rest.unwrap()),
        [active("payments@1", 3), active("payments-eu@1", 0)]
    );
    let one = "payments".parse().unwrap();
    let one = bench
        .vault
        .key_views(Some(&one), None, 10, 0)
        .await
        .unwrap();
    assert_eq!(listed(one), [active("payments@1", 3)]);
    let absent = "web".parse().unwrap();
    let none = bench.vault.key_views(Some(&absent), None, 10, 0);
    assert!(matches!(none.await, Err(VaultError::NoKeyspace(_))));
}

#[tokio::test]
async fn a_destroyed_key_stays_in_the_list() {
    let bench = Bench::new().await;
    let keyspace = "payments".parse().unwrap();
    let row = KekBody::key(&keyspace, 1);
    let stored = bench.ledger().read(Table::Kek, &row).await.unwrap();
    let mut kek = KekBody::decode(&stored.unwrap().body).unwrap();
    kek.state = KekState::Destroyed;
    let mut change = crate::store::Change::default();
    change.put(Table::Kek, row, kek.encode());
    bench.ledger().apply(change).await.unwrap();
    let views = bench.vault.key_views(None, None, 10, 0).await.unwrap();
    assert_eq!(
        listed(views),
        [("payments@1".to_owned(), KekPhase::Destroyed, 0)]
    );
}
