//! What an ask that fails keeps from being pruned: what its pod names and may have, and nothing else.

use attache_envelope::Table;
use attache_envelope::body::VersionBody;

use super::*;

/// A pod that names the first versions of these, in a world in which nothing counts as mounted.
async fn names(world: &World, secrets: &str) {
    pass_time(WINDOW).await;
    world.wants(&[("secrets", secrets)]);
}

fn is_held(world: &World) -> bool {
    let keyspace = "payments".parse().unwrap();
    world.parts.mounted.held(&keyspace).is_some()
}

#[tokio::test]
async fn a_node_that_shows_too_many_keys_keeps_what_its_pod_names_and_no_more() {
    let world = World::new(WHOLE).await;
    world.bench.put("payments/api", &[("token", "t")]).await;
    names(&world, "payments/db@1").await;
    let asks = |number| {
        let plugin_key = SecretKey::new(&[number; 32]).public_key().unwrap();
        let ask = world.ask(&[("secrets", "payments/db@1")]);
        Ask { plugin_key, ..ask }
    };
    for number in 1..=8 {
        world.released(asks(number)).await;
    }
    let mounted = world.mounted("payments/db", 1).await.unwrap();
    pass_time(Duration::from_secs(1)).await;
    let refused = world.deliver(asks(9)).await.map(drop);
    let too_many = ReleaseError::Session(SessionError::TooManyKeys).to_string();
    assert_eq!(refused.unwrap_err().to_string(), too_many);
    assert!(world.mounted("payments/db", 1).await.unwrap() > mounted);
    assert_eq!(world.mounted("payments/api", 1).await, None);
    assert!(!is_held(&world));
}

#[tokio::test]
async fn a_release_that_cannot_be_put_on_record_keeps_what_its_pod_names_and_no_more() {
    let world = World::new(WHOLE).await;
    let wanted = [("secrets", "payments/db@1")];
    names(&world, wanted[0].1).await;
    world.released(world.ask(&wanted)).await;
    world.bench.put("payments/db", &[("password", "2")]).await;
    pass_time(WINDOW).await;
    assert_eq!(world.mounted("payments/db", 1).await, None);
    world.parts.log.break_disk().await;
    let failed = world.deliver(world.ask(&wanted)).await.map(drop);
    assert!(matches!(failed, Err(ReleaseError::Audit(_))), "{failed:?}");
    assert!(world.mounted("payments/db", 1).await.is_some());
    assert_eq!(world.mounted("payments/db", 2).await, None);
    assert!(!is_held(&world));
    // A refusal that cannot be put on record is one all the same.
    pass_time(WINDOW).await;
    world.grant(&[]);
    let failed = world.deliver(world.ask(&wanted)).await.map(drop);
    let unrecorded = matches!(failed, Err(ReleaseError::Unrecorded(_)));
    assert!(unrecorded, "{failed:?}");
    assert_eq!(world.mounted("payments/db", 1).await, None);
    assert!(!is_held(&world));
}

/// Pruning leaves a secret alone of which something is damaged: nothing else has to stay for it.
#[tokio::test]
async fn a_damaged_record_keeps_what_its_pod_names_beside_it_and_no_more() {
    let bench = Bench::new().await;
    for secret in ["payments/db", "payments/api", "payments/other"] {
        bench.put(secret, &[("a", "1")]).await;
    }
    let path: SecretPath = "payments/api".parse().unwrap();
    let api = bench.vault.secret(&path).await.unwrap().secret;
    let fixture = bench.close().await;
    fixture.tamper(Table::Version, |rows| {
        let row = rows.get_mut(&VersionBody::key(api, SecretVersion::FIRST));
        *row.unwrap().last_mut().unwrap() ^= 1;
    });
    let granted = [("db", "payments/db", &[][..]), ("api", "payments/api", &[])];
    let world = World::over(Bench::reopen(fixture).await, &granted);
    let wanted = [("secrets", "payments/api@1, payments/db@1, payments/other@1")];
    names(&world, wanted[0].1).await;
    let failed = world.deliver(world.ask(&wanted)).await.map(drop);
    assert!(matches!(failed, Err(ReleaseError::Vault(_))), "{failed:?}");
    assert!(world.mounted("payments/db", 1).await.is_some());
    // It may not have this one.
    assert_eq!(world.mounted("payments/other", 1).await, None);
    assert!(!is_held(&world));
}
