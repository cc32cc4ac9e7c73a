//! The CA's rotation: who needs the one before and until when, what its end waits for, and what a start finds.

use super::*;
use crate::{
    identity::Cas,
    keys::{Keys, SlotSet},
};

fn nobody() -> PeerId {
    operator("nobody").into()
}

const MINUTE_MS: u64 = 60 * 1000;

impl World {
    async fn slots(&self) -> SlotSet {
        SlotSet::read(&self.gate.ledger).await.unwrap()
    }

    /// What the operator's verb commits and takes up.
    async fn rotate_ca(&self) -> Result<(), CaChangeError> {
        let new = self.gate.new_ca(&self.slots().await, false)?;
        let (change, taken_up) = new.into_parts();
        self.gate.ledger.apply(change).await.unwrap();
        self.gate.ca_rotated(taken_up, &nobody());
        Ok(())
    }

    async fn end_ca(&self) -> bool {
        self.gate.end_unneeded_ca().await.unwrap()
    }

    fn cas(&self) -> Arc<Cas> {
        self.gate.authority.cas()
    }

    fn epochs(&self) -> (u32, Option<u32>) {
        let cas = self.cas();
        (
            cas.active.epoch(),
            cas.before.as_ref().map(|it| it.0.epoch()),
        )
    }

    fn in_need(&self) -> Vec<String> {
        self.gate.in_need().into_iter().map(|it| it.name).collect()
    }

    /// As if every cluster had the bundle.
    fn published(&self) {
        let bundle = self.gate.authority.bundle().unwrap();
        self.gate.is_published(bundle.to_pem());
    }
}

#[tokio::test]
async fn who_renews_needs_the_ca_before_no_more_and_the_last_ends_it() {
    let world = World::new().await;
    let node = world.node().await;
    let ada = world.first("ada").await.unwrap();
    world.rotate_ca().await.unwrap();
    world.published();
    assert_eq!(world.epochs(), (2, Some(1)));
    assert_eq!(world.in_need(), ["node-a", "ada"]);
    assert!(!world.end_ca().await);
    let node = world.renew(&node).await.unwrap();
    // The key before is answered for ten minutes.
    assert_eq!(world.in_need(), ["node-a", "ada"]);
    world.pass(10 * MINUTE_MS + 1);
    assert_eq!(world.in_need(), ["ada"]);
    world.renew(&ada).await.unwrap();
    assert!(!world.end_ca().await);
    world.pass(10 * MINUTE_MS + 1);
    assert!(world.end_ca().await);
    assert_eq!(world.epochs(), (2, None));
    assert_eq!(world.gate.authority.bundle().unwrap().pins().count(), 1);
    assert!(world.cut_off.lock().unwrap().is_empty());
    // And again, once that is done.
    world.rotate_ca().await.unwrap();
    assert_eq!(world.epochs(), (3, Some(2)));
    assert!(world.gate.is_live(&node));
}

#[tokio::test]
async fn a_certified_key_that_was_never_used_is_no_reason_to_end_it() {
    let world = World::new().await;
    let node = world.node().await;
    world.rotate_ca().await.unwrap();
    world.published();
    let version = PluginVersion::default();
    // The answer was lost: the node has the CA before alone.
    world.gate.renew(&node, true, csr(), version).await.unwrap();
    assert_eq!(world.in_need(), ["node-a"]);
}

/// It renews late, by a certificate of the CA before, and knows the broker by that.
#[tokio::test]
async fn a_node_that_is_away_holds_it_for_seven_days_and_an_operator_until_the_certificates_end() {
    let world = World::new().await;
    world.node().await;
    world.first("ada").await.unwrap();
    world.rotate_ca().await.unwrap();
    world.published();
    world.pass(DAY_MS);
    assert_eq!(world.in_need(), ["node-a", "ada"]);
    world.pass(2000);
    assert_eq!(world.in_need(), ["node-a"]);
    world.pass(6 * DAY_MS + HOUR_MS);
    assert!(world.in_need().is_empty());
    assert!(world.end_ca().await);
}

#[tokio::test]
async fn a_banned_identity_holds_it_for_no_moment() {
    let world = World::new().await;
    let node = world.node().await;
    world.rotate_ca().await.unwrap();
    world.gate.ban_copy(node.id()).await.unwrap();
    assert!(world.in_need().is_empty());
}

#[tokio::test]
async fn it_waits_for_tokens_that_name_it_and_for_the_bundle_in_every_cluster() {
    let world = World::new().await;
    let token = world.token().await;
    let pin = world.gate.authority.pin();
    world.rotate_ca().await.unwrap();
    assert_eq!(
        world.gate.authority.pin(),
        pin,
        "newcomers know the broker by the one before"
    );
    let waits = world.gate.ca_waits_for().await.unwrap();
    assert!(waits.tokens && waits.publication);
    world.published();
    assert!(!world.end_ca().await);
    let node = world.join(&token, csr()).await.unwrap();
    assert!(world.gate.is_live(&node));
    let waits = world.gate.ca_waits_for().await.unwrap();
    assert!(!waits.tokens && !waits.publication);
    assert!(
        world.in_need().is_empty(),
        "it has a certificate of the new one"
    );
    assert!(world.end_ca().await);
    assert_ne!(world.gate.authority.pin(), pin);
}

#[tokio::test]
async fn one_ca_at_a_time_is_replaced_and_only_the_one_before_can_be_dropped() {
    let world = World::new().await;
    let node = world.node().await;
    let nothing = world.gate.ca_end(&world.slots().await, 1);
    assert!(matches!(nothing, Err(CaChangeError::NotThere { epoch: 1 })));
    world.rotate_ca().await.unwrap();
    let again = world.rotate_ca().await;
    assert!(matches!(again, Err(CaChangeError::UnderWay { before: 1 })));
    let active = world.gate.ca_end(&world.slots().await, 2);
    assert!(matches!(active, Err(CaChangeError::NotThere { epoch: 2 })));
    let end = world.gate.ca_end(&world.slots().await, 1).unwrap();
    let (change, epochs, in_need) = end.into_parts();
    world.gate.ledger.apply(change).await.unwrap();
    world.gate.ca_dropped(epochs, &in_need);
    assert_eq!(*world.cut_off.lock().unwrap(), [node.id().clone()]);
    let bundle = world.gate.authority.bundle().unwrap();
    let chain = [node.certificate().clone()];
    let purpose = attache_mtls::verify::Purpose::Client;
    assert!(bundle.verify(&chain, purpose, world.gate.now()).is_err());
}

#[tokio::test]
async fn a_new_ca_alone_leaves_nothing_of_those_before_and_cuts_off_everybody() {
    for under_way in [false, true] {
        let world = World::new().await;
        let node = world.node().await;
        let ada = world.first("ada").await.unwrap();
        if under_way {
            world.rotate_ca().await.unwrap();
        }
        let new = world.gate.new_ca(&world.slots().await, true).unwrap();
        let names: Vec<_> = new.cut_off.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["node-a", "ada"]);
        let (change, taken_up) = new.into_parts();
        world.gate.ledger.apply(change).await.unwrap();
        world.gate.ca_rotated(taken_up, ada.id());
        assert_eq!(*world.cut_off.lock().unwrap(), [node.id().clone()]);
        world.gate.cut_off_caller(ada.id());
        let both = [node.id().clone(), ada.id().clone()];
        assert_eq!(*world.cut_off.lock().unwrap(), both);

        assert_eq!(world.epochs(), (if under_way { 3 } else { 2 }, None));
        assert!(world.gate.authority.keys().ca_key_before().is_none());
        let row = world.gate.ledger.read(Table::Meta, b"ca-before").await;
        assert!(row.unwrap().is_none());
        let bundle = world.gate.authority.bundle().unwrap();
        assert_eq!(bundle.certificates().count(), 1);
        let chain = [node.certificate().clone()];
        let purpose = attache_mtls::verify::Purpose::Client;
        assert!(bundle.verify(&chain, purpose, world.gate.now()).is_err());
        // Nobody is kept waiting for an approval by what they were, and the next rotation is as any.
        let token = world.token().await;
        let again = world.come(&token, &LeafKey::generate().unwrap()).await;
        assert!(world.gate.is_live(&again.unwrap()));
        world.rotate_ca().await.unwrap();
    }
}

/// Without a key that a CA still vouches for it can neither call nor renew late: there is nobody whom an approval would keep out.
#[tokio::test]
async fn a_node_that_the_end_of_a_ca_cut_off_enrolls_again_without_an_approval() {
    let world = World::new().await;
    let old = world.token().await;
    world.pass(1);
    world.node().await;
    world.rotate_ca().await.unwrap();
    let waits = world.come(&old, &LeafKey::generate().unwrap()).await;
    assert!(matches!(waits, Err(SecondEnrollment::Waiting { .. })));
    let end = world.gate.ca_end(&world.slots().await, 1).unwrap();
    let (change, epochs, in_need) = end.into_parts();
    world.gate.ledger.apply(change).await.unwrap();
    world.gate.ca_dropped(epochs, &in_need);
    let old = world.come(&old, &LeafKey::generate().unwrap()).await;
    assert!(world.gate.is_live(&old.unwrap()));
}

/// The keyring that is stored has the CA's keys as they are, and so has every later one.
#[tokio::test]
async fn a_start_finds_the_cas_that_were_committed_also_after_a_rekey() {
    let world = World::new().await;
    world.rotate_ca().await.unwrap();
    let keys = world.gate.authority.keys();
    let rekeyed = keys.rekey(&world.slots().await).unwrap();
    world.gate.ledger.apply(rekeyed.change).await.unwrap();
    let seeds = |keys: &Keys| {
        let before = keys.ca_key_before().map(|key| (key.epoch(), *key.seed()));
        let active = keys.ca_key();
        ((active.epoch(), *active.seed()), before)
    };
    let held = seeds(keys);
    assert_eq!((held.0.0, held.1.unwrap().0), (2, 1));
    world.gate.ledger.close().await;
    let (store, file) = (world.gate.ledger.store(), world.fixture.slot_path());
    let opened = Keys::open(&world.fixture.arena, store.as_ref(), &file);
    assert_eq!(seeds(&opened.await.unwrap()), held);
}
