//! Operators by code: who signs in under which name, how often, and until when.

use super::*;
use crate::identity::operator_code::OperatorCodeRecord;

const MINUTE_MS: u64 = 60 * 1000;

impl World {
    async fn code(&self, name: &str) -> Zeroizing<String> {
        let ada = "spiffe://example.internal/operator/ada".to_owned();
        let drawn = self.gate.draw_operator_code(&operator(name), ada);
        let (text, id, record) = drawn.unwrap();
        let mut change = Change::default();
        change.put(Table::OperatorCode, id, record.encode());
        self.gate.forget_expired_codes(&mut change).await.unwrap();
        self.gate.ledger.apply(change).await.unwrap();
        text
    }

    async fn sign_in(&self, code: &str, key: &LeafKey) -> Result<Arc<PeerIdentity>, EnrollError> {
        self.sign_in_as("bob", code, key).await
    }

    async fn sign_in_as(
        &self,
        name: &str,
        code: &str,
        key: &LeafKey,
    ) -> Result<Arc<PeerIdentity>, EnrollError> {
        let signed = self
            .gate
            .sign_in_by_code(code, operator(name), request_of(key));
        let issued = signed.await?;
        Ok(Arc::new(issued.identity().clone()))
    }

    async fn codes(&self) -> Vec<OperatorCodeRecord> {
        let rows = self.gate.ledger.whole(Table::OperatorCode).await.unwrap();
        let rows = rows.iter();
        rows.map(|(_, row)| OperatorCodeRecord::decode(&row.body).unwrap())
            .collect()
    }
}

fn key() -> LeafKey {
    LeafKey::generate().unwrap()
}

fn is_code(result: Result<Arc<PeerIdentity>, EnrollError>) -> bool {
    matches!(result, Err(EnrollError::Code))
}

#[tokio::test]
async fn a_code_makes_one_operator_and_is_on_record_with_who_made_it() {
    let world = World::new().await;
    world.first("ada").await.unwrap();
    let code = world.code("bob").await;
    let bob = world.sign_in(&code, &key()).await.unwrap();
    assert_eq!(
        bob.id().to_string(),
        "spiffe://example.internal/operator/bob"
    );
    assert!(world.gate.admit(&bob, false).await.is_ok());
    world.renew(&bob).await.unwrap();
    let events = world.events().await.into_iter();
    let evidence: Vec<_> = events
        .filter_map(|event| {
            let Event::Bootstrap(made) = event else {
                return None;
            };
            Some(made.evidence)
        })
        .collect();
    let [None, Some(evidence)] = evidence.as_slice() else {
        panic!("{evidence:?}");
    };
    assert!(
        evidence.ends_with("of spiffe://example.internal/operator/ada"),
        "{evidence}"
    );
    assert!(is_code(world.sign_in(&code, &key()).await));
}

#[tokio::test]
async fn of_many_at_once_one_signs_in() {
    let world = World::new().await;
    let code = world.code("bob").await;
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (gate, code) = (Arc::clone(&world.gate), code.clone());
        tries.spawn(async move { gate.sign_in_by_code(&code, operator("bob"), csr()).await });
    }
    let mut won = 0;
    while let Some(tried) = tries.join_next().await {
        match tried.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert!(matches!(error, EnrollError::Code), "{error}"),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn the_key_that_used_a_code_gets_a_lost_answer_again_until_it_has_renewed() {
    let world = World::new().await;
    let (code, own) = (world.code("bob").await, key());
    world.sign_in(&code, &own).await.unwrap();
    let bob = world.sign_in(&code, &own).await.unwrap();
    assert!(world.gate.is_live(&bob));
    let next = world.renew(&bob).await.unwrap();
    assert!(is_code(world.sign_in(&code, &own).await));
    assert!(world.gate.is_live(&next));
}

#[tokio::test]
async fn a_code_is_good_for_an_hour_and_goes_with_the_next_one() {
    let world = World::new().await;
    let [late, used] = [world.code("bob").await, world.code("eve").await];
    let own = key();
    world.sign_in_as("eve", &used, &own).await.unwrap();
    world.pass(60 * MINUTE_MS);
    assert!(world.sign_in_as("eve", &used, &own).await.is_ok());
    world.pass(1);
    assert!(is_code(world.sign_in(&late, &key()).await));
    assert!(is_code(world.sign_in_as("eve", &used, &own).await));
    world.code("kim").await;
    assert_eq!(world.codes().await.len(), 1);
}

#[tokio::test]
async fn an_operator_who_can_call_keeps_the_name_and_one_whose_certificate_ended_comes_back() {
    let world = World::new().await;
    let ada = world.first("ada").await.unwrap();
    let early = world.code("ada").await;
    let taken = world.sign_in_as("ada", &early, &key()).await.unwrap_err();
    let signed_in = matches!(
        taken,
        EnrollError::NameTaken(NameTaken::SignedIn { ref name, .. }) if name == "ada"
    );
    assert!(signed_in, "{taken}");
    assert!(world.gate.is_free(&operator("ada")).is_err());
    assert!(world.gate.is_live(&ada));
    world.pass(DAY_MS + 1000);
    assert!(world.gate.is_free(&operator("ada")).is_ok());
    let code = world.code("ada").await;
    let again = world.sign_in_as("ada", &code, &key()).await.unwrap();
    assert!(world.gate.is_live(&again) && !world.gate.is_live(&ada));
    let alarm = world.events().await.into_iter().find_map(|event| {
        let Event::Alarm(alarm) = event else {
            return None;
        };
        Some(alarm.reason)
    });
    assert!(alarm.unwrap().contains("by a code of spiffe://"));
    let (_, row) = world.gate.directory.view().operators["ada"].clone();
    assert_eq!(row.created.as_millisecond(), 1_800_000_000_000);
    assert_eq!(*world.cut_off.lock().unwrap(), [ada.id().clone()]);
}

#[tokio::test]
async fn a_banned_operator_is_not_signed_in_by_a_code() {
    let world = World::new().await;
    let (code, own) = (world.code("bob").await, key());
    let bob = world.sign_in(&code, &own).await.unwrap();
    world.gate.ban_copy(bob.id()).await.unwrap();
    let again = world.sign_in(&code, &own).await.unwrap_err();
    let banned = matches!(again, EnrollError::NotAdmitted(NotAdmitted::Banned { .. }));
    assert!(banned, "{again}");
    world.pass(2 * DAY_MS);
    let code = world.code("bob").await;
    let refused = world.sign_in(&code, &key()).await.unwrap_err();
    let banned = matches!(refused, EnrollError::NameTaken(NameTaken::Banned { .. }));
    assert!(banned, "{refused}");
}

#[tokio::test]
async fn a_code_is_no_join_token() {
    let world = World::new().await;
    let code = world.code("bob").await;
    let joined = world.join(&code, csr()).await;
    assert!(matches!(joined, Err(EnrollError::Malformed(_))));
    let token = world.token().await;
    let signed = world.sign_in(&token, &key()).await;
    assert!(matches!(signed, Err(EnrollError::MalformedCode(_))));
    world.sign_in(&code, &key()).await.unwrap();
}

#[tokio::test]
async fn a_code_for_another_operator_is_refused_and_stays_good() {
    let world = World::new().await;
    let code = world.code("bob").await;
    let refused = world.sign_in_as("kim", &code, &key()).await.unwrap_err();
    assert!(
        matches!(&refused, EnrollError::CodeOfAnother { name } if name == "bob"),
        "{refused}"
    );
    world.sign_in(&code, &key()).await.unwrap();
}
