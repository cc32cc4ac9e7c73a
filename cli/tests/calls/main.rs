//! The command line against a server that misbehaves on purpose: answers that are lost, races that are lost, pages that
//! do not end, a certificate that is due, and somebody else at the broker's address.
//!
//! The connection is real (mutual TLS over TCP, gRPC); what is scripted is the answers, since no real broker loses them
//! when asked to. The real broker is tried in the tests crate.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod bed;

use std::time::Duration;

use attache_cli::failure::Exit;
use attache_proto::attache::v1 as pb;
use bed::{ADA, Answer, Bed, OTHER_BROKER};
use jiff::Timestamp;

const FRESH: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_answer_that_is_lost_is_asked_for_again_with_the_same_bytes() {
    let bed = Bed::start(FRESH, &[Answer::Lost, Answer::Unavailable, Answer::Ok]).await;
    let stored = bed.put(None).await.unwrap();
    assert!(stored.repeated);
    let script = bed.broker.script();
    assert_eq!((script.begun, script.commits.len()), (1, 3));
    assert!(
        script
            .commits
            .iter()
            .all(|commit| *commit == script.commits[0]),
        "the bytes differ"
    );
}

#[tokio::test]
async fn a_lost_race_begins_again_with_new_keys_and_a_new_request() {
    let bed = Bed::start(FRESH, &[Answer::Race, Answer::Race, Answer::Ok]).await;
    assert_eq!(bed.put(None).await.unwrap().version, 3);
    let commits = bed.commits();
    assert_eq!((bed.broker.script().begun, commits.len()), (3, 3));
    for pair in commits.windows(2) {
        let [a, b] = pair else {
            unreachable!("windows of two")
        };
        assert_ne!(
            a.mutation.as_ref().unwrap().request_id,
            b.mutation.as_ref().unwrap().request_id
        );
        assert_ne!(a.values[0].ct, b.values[0].ct);
        assert_ne!(a.values[0].value, b.values[0].value);
        assert!(a.expected_head_version < b.expected_head_version);
    }
}

#[tokio::test]
async fn a_race_against_an_expected_version_is_lost_for_good() {
    let bed = Bed::start(FRESH, &[Answer::Race, Answer::Ok]).await;
    let lost = bed.put(Some(0)).await.unwrap_err();
    assert_eq!(lost.exit, Exit::Precondition);
    assert!(
        lost.request.is_some() && lost.to_string().contains("the head moved"),
        "{lost}"
    );
    let other = bed.put(Some(0)).await.unwrap_err();
    assert_eq!(other.exit, Exit::Precondition);
    assert!(
        other
            .to_string()
            .contains("version 1 is active, and 0 was expected"),
        "{other}"
    );
    assert_eq!(bed.commits().len(), 1);
}

#[tokio::test]
async fn races_do_not_go_on_for_ever_and_a_denial_is_final() {
    let bed = Bed::start(FRESH, &[Answer::Race; 50]).await;
    assert_eq!(bed.put(None).await.unwrap_err().exit, Exit::Precondition);
    assert_eq!(bed.commits().len(), 9);
    let bed = Bed::start(FRESH, &[Answer::Denied]).await;
    assert_eq!(bed.put(None).await.unwrap_err().exit, Exit::Denied);
    assert_eq!(bed.commits().len(), 1);
}

#[tokio::test]
async fn a_change_without_an_answer_says_that_it_may_have_been_made() {
    let bed = Bed::start(FRESH, &[Answer::Lost; 10]).await;
    let lost = bed.put(None).await.unwrap_err();
    assert_eq!(lost.exit, Exit::Unavailable);
    assert!(lost.to_string().contains("may have been made"), "{lost}");
    assert!(!lost.to_string().contains("hunter2"));
    assert_eq!(bed.commits().len(), 4);
}

#[tokio::test]
async fn a_certificate_past_half_its_life_is_renewed_before_the_call() {
    let bed = Bed::start(Duration::from_secs(2000), &[]).await;
    let old = std::fs::read(bed.path("ada.crt")).unwrap();
    bed.put(None).await.unwrap();
    assert_eq!(bed.broker.script().renewed, 1);
    assert_eq!(bed.broker.script().peers, [ADA]);
    assert_ne!(std::fs::read(bed.path("ada.crt")).unwrap(), old);
    assert!(!bed.path("ada.key.next").exists() && !bed.path("ada.crt.next").exists());
    // The new one is fresh.
    bed.put(None).await.unwrap();
    assert_eq!(bed.broker.script().renewed, 1);
}

#[tokio::test]
async fn after_seven_days_nothing_renews_itself_and_an_ended_certificate_calls_nobody() {
    let mut bed = Bed::start(Duration::from_secs(2000), &[]).await;
    bed.settings.contexts.get_mut("ada").unwrap().renew_until = Some(Timestamp::UNIX_EPOCH);
    bed.put(None).await.unwrap();
    assert_eq!(bed.broker.script().renewed, 0);
    let bed = Bed::start(Duration::from_secs(4000), &[]).await;
    let ended = bed.put(None).await.unwrap_err();
    assert_eq!(
        (ended.exit, bed.broker.script().begun),
        (Exit::NotSignedIn, 0)
    );
}

#[tokio::test]
async fn only_the_pinned_broker_is_spoken_to() {
    let mut bed = Bed::start(FRESH, &[]).await;
    bed.settings.contexts.get_mut("ada").unwrap().broker = OTHER_BROKER.parse().unwrap();
    let refused = bed.put(None).await.unwrap_err();
    assert_eq!(refused.exit, Exit::Failed);
    assert!(
        refused.to_string().contains("not the pinned broker"),
        "{refused}"
    );
    assert_eq!(bed.broker.script().begun, 0);
}

#[tokio::test]
async fn a_broker_that_is_away_is_4() {
    let mut bed = Bed::start(FRESH, &[]).await;
    bed.settings.contexts.get_mut("ada").unwrap().address = "127.0.0.1:1".into();
    let away = bed.put(None).await.unwrap_err();
    assert_eq!(away.exit, Exit::Unavailable);
    assert!(away.to_string().contains("refused"), "{away}");
}

#[tokio::test]
async fn pages_are_read_to_their_end_and_no_further() {
    let bed = Bed::start(FRESH, &[]).await;
    let read = async |bed: &Bed| {
        let session = bed.session().await.unwrap();
        let session = &session;
        session
            .pages(|page| {
                let request = pb::ListSecretsRequest {
                    keyspace: String::new(),
                    page: Some(page),
                };
                async move {
                    let answer: pb::ListSecretsResponse = session
                        .read("x", &request, |channel, request| async move {
                            pb::secrets_client::SecretsClient::new(channel)
                                .list_secrets(request)
                                .await
                        })
                        .await?;
                    Ok((answer.secrets, answer.next_token))
                }
            })
            .await
    };
    assert_eq!(read(&bed).await.unwrap().len(), 2);
    bed.broker.script().endless_pages = true;
    assert_eq!(read(&bed).await.unwrap_err().exit, Exit::Failed);
}
