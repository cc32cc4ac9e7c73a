//! Second enrollments: what waits, for which key, how long, and what an operator's word is good for.

use super::*;
use crate::identity::approval::{ApprovalRecord, Decision, Verdict};

const MINUTE_MS: u64 = 60 * 1000;

/// A world whose node has joined, and another token for it that was made before.
async fn joined() -> (World, Arc<PeerIdentity>, Zeroizing<String>) {
    let world = World::new().await;
    let old = world.token().await;
    world.pass(1);
    let node = world.node().await;
    (world, node, old)
}

fn key() -> LeafKey {
    LeafKey::generate().unwrap()
}

impl World {
    pub(super) async fn come(
        &self,
        token: &str,
        key: &LeafKey,
    ) -> Result<Arc<PeerIdentity>, SecondEnrollment> {
        match self.join(token, request_of(key)).await {
            Ok(peer) => Ok(peer),
            Err(EnrollError::Second(why)) => Err(why),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// The id under which it waits.
    pub(super) async fn waits(&self, token: &str, key: &LeafKey) -> String {
        match self.come(token, key).await {
            Err(SecondEnrollment::Waiting { id, .. }) => id,
            other => panic!("{other:?}"),
        }
    }

    /// What an operator's verb commits.
    pub(super) async fn decide(&self, id: &str, verdict: Verdict) {
        let standing = self.gate.approvals().await.unwrap();
        let (seq, record) = standing.into_iter().find(|(_, it)| it.id() == id).unwrap();
        let decision = Decision {
            verdict,
            by: "spiffe://example.internal/operator/ada".into(),
            at: self.gate.now(),
        };
        let mut change = Change::default();
        change.require_at(Table::Approval, id, seq);
        change.put(Table::Approval, id, record.decided(decision).encode());
        self.gate.ledger.apply(change).await.unwrap();
    }

    pub(super) async fn alarms(&self) -> Vec<String> {
        let events = self.events().await.into_iter();
        events
            .filter_map(|event| {
                let Event::Alarm(alarm) = event else {
                    return None;
                };
                Some(alarm.reason)
            })
            .collect()
    }

    pub(super) async fn standing(&self) -> Vec<ApprovalRecord> {
        let standing = self.gate.approvals().await.unwrap().into_iter();
        standing.map(|(_, record)| record).collect()
    }
}

#[tokio::test]
async fn a_second_key_of_a_live_node_waits_for_an_operator_and_is_good_once() {
    let (world, node, old) = joined().await;
    let (one, other) = (key(), key());
    let id = world.waits(&old, &one).await;
    // It may ask as often as it likes: one alarm, one row; another key is another request.
    assert_eq!(world.waits(&old, &one).await, id);
    assert_ne!(world.waits(&old, &other).await, id);
    let alarms = world.alarms().await;
    assert_eq!(alarms.len(), 2, "{alarms:?}");
    assert!(
        alarms[0].contains(&id) && alarms[0].contains("join-token"),
        "{alarms:?}"
    );
    assert_eq!(world.standing().await.len(), 2);
    assert!(world.gate.is_live(&node), "what is there goes on");

    world.decide(&id, Verdict::Approved).await;
    world.waits(&old, &other).await;
    let again = world.come(&old, &one).await.unwrap();
    assert!(world.gate.is_live(&again) && !world.gate.is_live(&node));
    assert_eq!(*world.cut_off.lock().unwrap(), [node.id().clone()]);
    let alarms = world.alarms().await;
    assert!(
        alarms[2].contains("approved by spiffe://example.internal/operator/ada"),
        "{alarms:?}"
    );
    // The approval is used up, and so is the token.
    assert!(world.standing().await.iter().all(|it| it.id() != id));
    let used = world.join(&old, request_of(&one)).await;
    assert!(matches!(used, Err(EnrollError::Token)));
}

#[tokio::test]
async fn an_approval_that_was_not_used_within_an_hour_is_none() {
    let (world, _, old) = joined().await;
    let id = world.waits(&old, &key()).await;
    world.decide(&id, Verdict::Approved).await;
    world.pass(60 * MINUTE_MS);
    assert_eq!(world.standing().await.len(), 1);
    world.pass(1);
    assert!(world.standing().await.is_empty());
}

#[tokio::test]
async fn a_rejected_key_stays_out_and_an_approval_can_be_taken_back() {
    let (world, _, old) = joined().await;
    let one = key();
    let id = world.waits(&old, &one).await;
    world.decide(&id, Verdict::Approved).await;
    world.decide(&id, Verdict::Rejected).await;
    for _ in 0..2 {
        let refused = world.come(&old, &one).await.unwrap_err();
        assert!(
            matches!(refused, SecondEnrollment::Rejected { .. }),
            "{refused}"
        );
    }
    assert_eq!(world.alarms().await.len(), 1);
    world.pass(DAY_MS + 1);
    assert!(world.standing().await.is_empty());
}

#[tokio::test]
async fn the_recorded_key_itself_comes_again_without_an_operator() {
    let world = World::new().await;
    let old = world.token().await;
    world.pass(1);
    let own = key();
    world.node_with(request_of(&own)).await;
    let again = world.come(&old, &own).await.unwrap();
    assert!(world.gate.is_live(&again));
    assert!(world.alarms().await.is_empty());
    assert!(world.cut_off.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_join_token_that_was_made_since_is_an_operators_word_and_raises_an_alarm() {
    let (world, node, _) = joined().await;
    world.pass(MINUTE_MS);
    let again = world.node().await;
    assert!(world.gate.is_live(&again) && !world.gate.is_live(&node));
    let alarms = world.alarms().await;
    assert!(alarms[0].contains("by a join token"), "{alarms:?}");
}

#[tokio::test]
async fn a_node_is_live_until_no_late_renewal_is_possible_any_more() {
    let (world, _, _) = joined().await;
    let peers = world.cut_off.lock().unwrap().len();
    world.pass(HOUR_MS + 7 * DAY_MS - 1);
    let record = world
        .gate
        .directory()
        .view()
        .nodes
        .values()
        .next()
        .unwrap()
        .1
        .clone();
    assert!(record.is_live(world.gate.now()));
    world.pass(1000);
    assert!(!record.is_live(world.gate.now()));
    // Nobody can use what was recorded: a newcomer like any other, but that connections of before are closed.
    world.node().await;
    assert!(world.alarms().await.is_empty());
    assert_eq!(world.cut_off.lock().unwrap().len(), peers + 1);
}

#[tokio::test]
async fn a_few_keys_of_one_node_wait_and_no_more() {
    let (world, _, old) = joined().await;
    for _ in 0..4 {
        world.waits(&old, &key()).await;
    }
    let refused = world.come(&old, &key()).await.unwrap_err();
    assert!(matches!(refused, SecondEnrollment::TooMany), "{refused}");
    // One that was decided makes room.
    let id = world.standing().await[0].id();
    world.decide(&id, Verdict::Rejected).await;
    world.waits(&old, &key()).await;
}

#[tokio::test]
async fn what_is_over_goes_with_the_next_request() {
    let (world, _, old) = joined().await;
    world.waits(&old, &key()).await;
    world.pass(DAY_MS + 1);
    let old = world.token().await;
    world.pass(1);
    world.node().await;
    world.waits(&old, &key()).await;
    let rows = world.gate.ledger.whole(Table::Approval).await.unwrap();
    assert_eq!(rows.len(), 1);
}

#[tokio::test]
async fn no_approval_lifts_a_ban() {
    let (world, node, old) = joined().await;
    let one = key();
    let id = world.waits(&old, &one).await;
    world.decide(&id, Verdict::Approved).await;
    world.gate.ban_copy(node.id()).await.unwrap();
    let refused = world.join(&old, request_of(&one)).await;
    let banned = matches!(
        refused,
        Err(EnrollError::NotAdmitted(NotAdmitted::Banned { .. }))
    );
    assert!(banned);
}
