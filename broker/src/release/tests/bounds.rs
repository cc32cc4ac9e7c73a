//! What ends a release that was granted: a volume's size, a ban and a policy that came before the leaf.

use std::pin::pin;
use std::task::Poll;

use super::*;
use crate::identity::BanRecord;

async fn attested(world: &World) -> Arc<AttestedWorkload> {
    let (node, attest) = (node_id(NODE_UID), world.ask(&[]).attest);
    let workload = world.parts.attestor.attest(&node, &attest, now()).await;
    Arc::new(workload.unwrap())
}

/// Kubelet tries again for ever: the refusal is folded, and no release is on record that nobody could mount.
#[tokio::test]
async fn a_volume_larger_than_a_node_takes_is_refused_before_it_is_on_record_as_released() {
    let world = World::new(&[("a", "payments/a", &[]), ("b", "payments/b", &[])]).await;
    let half = "x".repeat(600 * 1024);
    for secret in ["payments/a", "payments/b"] {
        world.bench.put(secret, &[("value", &half)]).await;
    }
    let wanted = [("secrets", "payments/a,payments/b")];
    world.wants(&wanted);
    for _ in 0..2 {
        let refused = world.refused(world.ask(&wanted)).await;
        assert_eq!(refused.kind, RefusalKind::InvalidArgument);
        assert!(refused.line.contains("1048576 bytes"), "{}", refused.line);
        assert!(refused.decision.is_some());
    }
    let events = world.events().await;
    assert!(
        matches!(events.as_slice(), [Event::Denial(_)]),
        "{events:?}"
    );
    // One of them goes, and the same value in two files is there twice.
    let one = [("secrets", "payments/a")];
    world.wants(&one);
    world.released(world.ask(&one)).await;
    let files = "- {path: p, ref: payments/a#value}\n- {path: q, ref: payments/a#value}\n";
    let twice = [("files", files)];
    world.wants(&twice);
    let refused = world.refused(world.ask(&twice)).await;
    assert!(refused.line.contains("1048576 bytes"), "{}", refused.line);
}

#[tokio::test]
async fn a_ban_after_admission_ends_the_release_before_its_leaf() {
    let world = World::new(WHOLE).await;
    let ban = BanRecord {
        reason: "lost".into(),
        by: "spiffe://example.internal/operator/ann".into(),
        at: now(),
    };
    // Another node's ban is none of its own.
    let other = node_id("another-uid").to_string();
    world.parts.directory.ban(&other, 2, &ban);
    world.released(world.ask(&[])).await;
    let banned = node_id(NODE_UID).to_string();
    world.parts.directory.ban(&banned, 3, &ban);
    let refused = world.deliver(world.ask(&[])).await.map(drop);
    assert!(
        matches!(
            refused,
            Err(ReleaseError::Withdrawn(NotAdmitted::Banned { .. }))
        ),
        "{refused:?}"
    );
    assert_eq!(world.events().await.len(), 1);
}

#[tokio::test]
async fn a_policy_that_changed_since_it_granted_releases_nothing() {
    let world = World::new(WHOLE).await;
    let asked = Asked {
        caller: Caller {
            node: node_id(NODE_UID),
            serial: vec![5],
            bans_seen: 0,
        },
        plugin_key: SecretKey::new(&AGENT_SECRET).public_key().unwrap(),
        nonce: Nonce::random(&SystemRandom).unwrap(),
        held: None,
    };
    let workload = attested(&world).await;
    let Decided::Granted(opened, policies) = world.parts.decide(None, &workload).await.unwrap()
    else {
        panic!("nothing was held");
    };
    world.grant(&[]);
    let sealed = world.parts.seal(&asked, *opened, &policies).await.unwrap();
    assert!(sealed.is_none());
    assert!(world.events().await.is_empty());
}

#[tokio::test]
async fn room_is_taken_until_the_work_has_ended_and_not_until_the_caller_has_gone() {
    let world = World::new(WHOLE).await;
    let slot = Arc::new(());
    let (caller, held) = (
        Caller {
            node: node_id(NODE_UID),
            serial: vec![5],
            bans_seen: 0,
        },
        Arc::clone(&slot),
    );
    {
        let deliver = world.releases.deliver(caller, world.ask(&[]), now(), held);
        let mut deliver = pin!(deliver);
        std::future::poll_fn(|context| {
            let polled = deliver.as_mut().poll(context);
            assert!(polled.is_pending());
            if world.parts.tasks.is_empty() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }
    assert_eq!(Arc::strong_count(&slot), 2, "the work goes on");
    world.parts.tasks.close();
    world.parts.tasks.wait().await;
    assert_eq!(Arc::strong_count(&slot), 1);
}
