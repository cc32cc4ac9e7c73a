//! Readmission after a restore: who comes in by it, how often and how long, and who does not.

use super::*;
use crate::identity::approval::Verdict;

const ADA: &str = "spiffe://example.internal/operator/ada";

impl World {
    /// As the broker of a store that was restored now.
    fn restored(mut self) -> Self {
        let gate = Arc::into_inner(self.gate).unwrap();
        self.gate = Arc::new(gate.restored(Some(self.now.load(Ordering::Relaxed))));
        self
    }

    /// What the operator's verb commits; answers how many nodes are left.
    async fn readmit(&self) -> Result<u32, NobodyWaits> {
        let (word, left) = self.gate.readmission(ADA.into())?;
        let mut change = Change::default();
        change.put(Table::Meta, READMISSION, word.encode());
        self.gate.ledger.apply(change).await.unwrap();
        Ok(left)
    }
}

/// A restored world whose node had joined, and tokens of before; the evidence of an enrollment here.
async fn before<const N: usize>() -> (World, Arc<PeerIdentity>, [Zeroizing<String>; N]) {
    let world = World::new().await;
    let mut tokens = Vec::new();
    for _ in 0..N {
        tokens.push(world.token().await);
    }
    world.pass(1);
    let node = world.node().await;
    world.pass(1);
    (world.restored(), node, tokens.try_into().unwrap())
}

fn key() -> LeafKey {
    LeafKey::generate().unwrap()
}

#[tokio::test]
async fn one_word_lets_a_node_of_before_in_once_and_with_an_alarm() {
    let (world, node, [first, second]) = before().await;
    let one = key();
    world.waits(&first, &one).await;
    assert_eq!(world.readmit().await, Ok(1));
    let back = world.come(&first, &one).await.unwrap();
    assert!(world.gate.is_live(&back) && !world.gate.is_live(&node));
    assert_eq!(*world.cut_off.lock().unwrap(), [node.id().clone()]);
    let alarms = world.alarms().await;
    let told = format!("readmitted after the restore by {ADA}");
    assert!(alarms.last().unwrap().contains(&told), "{alarms:?}");
    assert!(
        world.standing().await.is_empty(),
        "it waits for nothing any more"
    );

    // The word stands, and this node is not of before any more.
    world.waits(&second, &key()).await;
    assert_eq!(world.readmit().await, Err(NobodyWaits::AllCame));
}

#[tokio::test]
async fn a_node_that_asks_first_after_the_word_waits_for_nobody() {
    let (world, _, [token]) = before().await;
    world.readmit().await.unwrap();
    world.come(&token, &key()).await.unwrap();
    assert_eq!(
        world.alarms().await.len(),
        1,
        "that it came, and not that it waits"
    );
}

#[tokio::test]
async fn a_node_that_renewed_since_the_restore_is_none_of_before() {
    let (world, node, [token]) = before().await;
    let renewed = world.renew(&node).await.unwrap();
    assert_eq!(world.readmit().await, Err(NobodyWaits::AllCame));
    world.waits(&token, &key()).await;
    assert!(world.gate.is_live(&renewed));
}

#[tokio::test]
async fn the_word_ends_after_an_hour() {
    let (world, _, []) = before().await;
    world.readmit().await.unwrap();
    world.pass(HOUR_MS + 1);
    let known = world.gate.directory.view();
    let (_, node) = known.nodes.values().next().unwrap();
    assert_eq!(world.gate.readmitted(node).await.unwrap(), None);
    assert_eq!(world.readmit().await, Ok(1));
    assert_eq!(
        world.gate.readmitted(node).await.unwrap().as_deref(),
        Some(ADA)
    );
}

#[tokio::test]
async fn what_is_rejected_or_banned_stays_out() {
    let (world, node, [first, second]) = before().await;
    let one = key();
    let id = world.waits(&first, &one).await;
    world.decide(&id, Verdict::Rejected).await;
    world.readmit().await.unwrap();
    let refused = world.come(&first, &one).await;
    assert!(matches!(refused, Err(SecondEnrollment::Rejected { .. })));
    world.gate.ban_copy(node.id()).await.unwrap();
    let refused = world.join(&second, csr()).await;
    assert!(matches!(
        refused,
        Err(EnrollError::NotAdmitted(NotAdmitted::Banned { .. }))
    ));
    assert_eq!(world.readmit().await, Err(NobodyWaits::AllCame));
}

#[tokio::test]
async fn nobody_is_readmitted_to_a_store_that_was_never_restored() {
    let world = World::new().await;
    world.node().await;
    assert_eq!(world.readmit().await, Err(NobodyWaits::NotRestored));
}
