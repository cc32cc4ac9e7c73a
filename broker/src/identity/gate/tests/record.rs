//! What is on record and what is in effect, whatever fails in between; who is cut off, and who is no copy.

use super::*;

impl World {
    /// Renews, and makes no call with what was issued.
    async fn issue(&self, peer: &Arc<PeerIdentity>) -> Arc<PeerIdentity> {
        let issued = self
            .gate
            .renew(peer, true, csr(), PluginVersion::default())
            .await;
        Arc::new(issued.unwrap().identity().clone())
    }
}

#[tokio::test]
async fn a_change_is_on_record_before_it_is_committed() {
    let world = World::new().await;
    let node = world.node().await;
    let next = world.issue(&node).await;
    world.gate.admit(&next, true).await.unwrap();
    let kinds: Vec<_> = world.events().await;
    assert!(
        matches!(
            kinds.as_slice(),
            [
                Event::Enrollment(_),
                Event::Anchor(_),
                Event::Renewal(_),
                Event::Anchor(_),
                Event::Anchor(_)
            ]
        ),
        "{kinds:?}"
    );
}

#[tokio::test]
async fn nothing_changes_while_the_log_takes_nothing_and_all_goes_on_when_it_does() {
    let world = World::on_a_small_disk().await;
    let node = world.node().await;
    fill(&world.gate.audit).await;
    let seq = world.gate.ledger.seq();
    for _ in 0..2 {
        let error = world
            .gate
            .renew(&node, true, csr(), PluginVersion::default())
            .await
            .map(drop);
        assert!(matches!(error, Err(EnrollError::Audit(_))), "{error:?}");
    }
    assert_eq!(world.gate.ledger.seq(), seq);
    world.disk.as_ref().unwrap().grow(4 * SEGMENT_BYTES);
    let next = world.issue(&node).await;
    world.gate.admit(&next, true).await.unwrap();
}

/// The leaf fits and the anchor behind it does not: the change is committed, so it is in effect, and the next one
/// finds the row that it expects.
#[tokio::test(flavor = "multi_thread")]
async fn a_committed_change_is_in_effect_though_its_anchor_is_not_on_record() {
    let world = World::on_a_small_disk().await;
    let node = world.node().await;
    world.full_at_the_next_commit.store(true, Ordering::SeqCst);
    let seq = world.gate.ledger.seq();
    let error = world
        .gate
        .renew(&node, true, csr(), PluginVersion::default())
        .await
        .map(drop);
    assert!(matches!(error, Err(EnrollError::Audit(_))), "{error:?}");
    assert_eq!(world.gate.ledger.seq(), seq + 1);
    world.disk.as_ref().unwrap().grow(4 * SEGMENT_BYTES);
    let next = world.issue(&node).await;
    world.gate.admit(&next, true).await.unwrap();
}

#[tokio::test]
async fn an_event_whose_commit_failed_is_followed_by_an_alarm() {
    let world = World::new().await;
    world.gate.ledger.close().await;
    let error = world
        .gate
        .bootstrap_operator(operator("ada"), csr())
        .await
        .map(drop);
    assert!(matches!(error, Err(EnrollError::Store(_))), "{error:?}");
    let events = world.events().await;
    let [Event::Bootstrap(_), Event::Alarm(alarm)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert!(alarm.reason.contains("did not happen"), "{}", alarm.reason);
}

#[tokio::test]
async fn a_key_that_was_replaced_while_its_connection_stood_is_no_copy() {
    let world = World::new().await;
    let first = world.first("ada").await.unwrap();
    assert!(world.gate.is_live(&first));
    let next = world.issue(&first).await;
    world.gate.admit(&next, true).await.unwrap();
    world.pass(11 * 60 * 1000);
    for _ in 0..2 {
        let refused = world.gate.admit(&first, true).await.unwrap_err();
        assert_eq!(refused, NotAdmitted::Superseded);
    }
    let refused = world
        .gate
        .renew(&first, true, csr(), PluginVersion::default())
        .await
        .map(drop);
    assert!(matches!(
        refused,
        Err(EnrollError::NotAdmitted(NotAdmitted::Superseded))
    ));
    world.gate.admit(&next, true).await.unwrap();
    // A connection made with it now is another matter.
    assert!(!world.gate.is_live(&first));
    let refused = world.gate.admit(&first, false).await.unwrap_err();
    assert!(matches!(refused, NotAdmitted::Copy { .. }), "{refused}");
    assert!(matches!(
        world.gate.admit(&next, true).await,
        Err(NotAdmitted::Banned { .. })
    ));
}

#[tokio::test]
async fn a_ban_by_the_broker_and_a_second_join_cut_off_what_is_open() {
    let world = World::new().await;
    let node = world.node().await;
    assert!(world.cut_off.lock().unwrap().is_empty());
    let again = world.node().await;
    assert_eq!(*world.cut_off.lock().unwrap(), [node.id().clone()]);
    world.gate.admit(&node, false).await.unwrap_err();
    assert_eq!(world.cut_off.lock().unwrap().len(), 2);
    assert!(!world.gate.is_live(&again));
}

#[tokio::test]
async fn a_next_key_that_was_replaced_while_it_waited_is_not_admitted() {
    let world = World::new().await;
    let node = world.node().await;
    let lost = world.issue(&node).await;
    let held = world.gate.changing.lock().await;
    let waiting = {
        let (gate, lost) = (Arc::clone(&world.gate), Arc::clone(&lost));
        tokio::spawn(async move { gate.admit(&lost, true).await })
    };
    // It saw itself as the next key and waits; meanwhile the answer that was lost is made up for.
    tokio::task::yield_now().await;
    let (seq, mut record) = world.gate.directory.view().nodes[&node.id().to_string()].clone();
    let issued = world
        .gate
        .authority
        .issue(&csr(), node.id(), world.gate.now())
        .unwrap();
    record.keys = record.keys.renewed(world.gate.authority.recorded(&issued));
    let key = node.id().to_string();
    world
        .gate
        .directory
        .change(|v| drop(v.nodes.insert(key.clone(), (seq, record.clone()))));
    drop(held);
    assert_eq!(waiting.await.unwrap(), Err(NotAdmitted::Superseded));
}

#[tokio::test]
async fn whoever_has_no_token_waits_for_nobody() {
    let world = World::new().await;
    let token = JoinToken::draw(world.gate.authority.pin()).unwrap().text();
    let _held = world.gate.changing.lock().await;
    let refused = world
        .gate
        .join(&token, csr(), PluginVersion::default())
        .await;
    assert!(matches!(refused, Err(EnrollError::Token)));
}
