//! Tests of what a server at work does not do: slow, oversized and malformed answers, statuses of all kinds, other
//! certificates. They come from a small real HTTPS server; what a real API server does is tested with one.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::fixture::{Server, answer, ca};
use super::*;
use crate::metrics::ApiMetrics;

fn node() -> String {
    json!({"kind": "Node", "metadata": {"name": "a", "uid": "u"}}).to_string()
}

async fn ask_node(client: &Client) -> Result<Option<Value>, ApiError> {
    client.node(&"a".parse().unwrap()).await
}

#[tokio::test]
async fn each_status_is_its_own_error_and_404_is_none() {
    let server = Server::start(|number, _| {
        let statuses = [
            "200 OK",
            "404 Not Found",
            "403 Forbidden",
            "401 Unauthorized",
            "409 Conflict",
            "500 Internal Server Error",
            "503 Service Unavailable",
            "302 Found",
            "204 No Content",
            "422 Unprocessable Entity",
        ];
        answer(statuses[number], if number == 8 { "" } else { "{}" })
    })
    .await;
    let client = server.client();
    assert_eq!(ask_node(&client).await, Ok(Some(json!({}))));
    assert_eq!(ask_node(&client).await, Ok(None));
    let operation = Operation::Node;
    let forbidden = ask_node(&client).await.unwrap_err();
    assert_eq!(forbidden, ApiError::Forbidden { operation });
    assert_eq!(
        forbidden.to_string(),
        "the broker's account may not get nodes: bind it to a role with that rule"
    );
    let unknown = ask_node(&client).await.unwrap_err();
    assert!(
        unknown
            .to_string()
            .contains("does not accept the broker's own token")
    );
    assert_eq!(ask_node(&client).await, Err(ApiError::Conflict));
    for status in [500, 503] {
        assert_eq!(ask_node(&client).await, Err(ApiError::Failed { status }));
    }
    for status in [302, 204, 422] {
        let refused = ApiError::Refused { status, operation };
        assert_eq!(ask_node(&client).await, Err(refused));
    }
    assert_eq!(server.asked(), 10, "nothing was asked twice");
}

#[tokio::test]
async fn an_answer_larger_than_it_can_be_is_not_taken_whole() {
    let server = Server::start(|_, _| {
        // It says nothing of its length, and would go on for ever.
        let mut answer = b"HTTP/1.1 200 OK\r\n\r\n\"".to_vec();
        answer.resize(4 * 1024 * 1024, b'x');
        Some(answer)
    })
    .await;
    let limit_bytes = 3 * 1024 * 1024;
    assert_eq!(
        ask_node(&server.client()).await,
        Err(ApiError::TooLarge { limit_bytes })
    );
}

#[tokio::test]
async fn what_is_not_the_object_is_said_and_a_token_in_it_is_not_repeated() {
    let server = Server::start(|_, _| answer("200 OK", r#"{"status": "eyJ.secret.token"}"#)).await;
    let client = server.client();
    let error = client
        .review("eyJ.secret.token", "attache")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the API server's answer to token_review is not the object it should be: line 1, column 29"
    );
    let error = client.discovery().await.unwrap_err();
    assert!(
        error.to_string().contains("missing field `issuer`"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_left_alone_after_a_while() {
    let server = Server::start(|_, _| None).await;
    let client = server.client();
    for _ in 0..5 {
        let error = ask_node(&client).await.unwrap_err();
        assert!(
            matches!(error, ApiError::Timeout { .. } | ApiError::Connect { .. }),
            "{error:?}"
        );
    }
    let asked = server.asked();
    assert_eq!(ask_node(&client).await, Err(ApiError::Resting));
    assert_eq!(server.asked(), asked);
    tokio::time::advance(RESTS_FOR).await;
    assert_ne!(ask_node(&client).await, Err(ApiError::Resting));
}

#[tokio::test]
async fn what_was_under_way_when_a_connection_ended_is_asked_again_once() {
    let server = Server::start(|number, _| match number {
        0 => Some(Vec::new()),
        1 => answer("200 OK", &node()),
        _ => Some(Vec::new()),
    })
    .await;
    let client = server.client();
    assert!(ask_node(&client).await.unwrap().is_some());
    let error = ask_node(&client).await.unwrap_err();
    assert!(matches!(error, ApiError::Connect { .. }), "{error}");
    assert_eq!(server.asked(), 4);
}

#[tokio::test]
async fn a_server_with_too_much_to_do_is_asked_again_when_it_says_so() {
    let server = Server::start(|number, _| match number {
        0 => Some(b"HTTP/1.1 429 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n".to_vec()),
        1 => answer("200 OK", &node()),
        2 => Some(b"HTTP/1.1 429 Busy\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n".to_vec()),
        _ => {
            let for_ever = "HTTP/1.1 429 Busy\r\nRetry-After: 18446744073709551615";
            Some(format!("{for_ever}\r\nContent-Length: 0\r\n\r\n").into_bytes())
        }
    })
    .await;
    let client = server.client();
    assert!(ask_node(&client).await.unwrap().is_some());
    let after = Duration::from_secs(30);
    assert_eq!(ask_node(&client).await, Err(ApiError::Throttled { after }));
    assert_eq!(server.asked(), 3);
    let after = Duration::from_secs(3600);
    assert_eq!(ask_node(&client).await, Err(ApiError::Throttled { after }));
}

#[tokio::test]
async fn a_replaced_token_is_read_again_when_the_old_one_is_not_taken() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let server = Server::start(move |_, head| {
        let bearer = head
            .lines()
            .find(|line| line.to_lowercase().starts_with("authorization"));
        let bearer = bearer.unwrap().to_owned();
        let ok = bearer.ends_with("second-token");
        kept.lock().unwrap().push(bearer);
        answer(if ok { "200 OK" } else { "401 Unauthorized" }, "{}")
    })
    .await;
    let client = server.client();
    let error = ask_node(&client).await.unwrap_err();
    assert!(matches!(error, ApiError::Unauthenticated { .. }), "{error}");
    fs::write(server.folder.path().join("token"), "second-token").unwrap();
    assert!(ask_node(&client).await.unwrap().is_some());
    assert_eq!(
        seen.lock().unwrap().last().unwrap(),
        "authorization: Bearer second-token"
    );
}

#[tokio::test]
async fn another_ca_than_the_clusters_is_believed_by_nobody() {
    let server = Server::start(|_, _| answer("200 OK", "{}")).await;
    let file = server.folder.path().join("ca.crt");
    let right = fs::read(&file).unwrap();
    fs::write(&file, ca("another CA").pem()).unwrap();
    let error = ask_node(&server.client()).await.unwrap_err();
    assert!(
        error.to_string().contains("invalid peer certificate"),
        "{error}"
    );
    fs::write(&file, &right).unwrap();
    let address = format!("https://localhost:{}", server.address.port());
    let folder = server.folder.path().to_owned();
    let elsewhere = Client::new(&address.parse().unwrap(), folder, ApiMetrics::default());
    let error = ask_node(&elsewhere).await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
    assert_eq!(server.asked(), 0, "nothing was told to either");
}

#[tokio::test]
async fn credentials_that_are_none_are_named_with_their_file() {
    let server = Server::start(|_, _| answer("200 OK", "{}")).await;
    let folder = server.folder.path();
    let spoil = |file: &str, content: Option<&str>, says: &str| {
        let path: &Path = &folder.join(file);
        let right = fs::read(path).unwrap();
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let (client, says) = (server.client(), says.to_owned());
        let (path, right) = (path.to_owned(), right);
        async move {
            let error = ask_node(&client).await.unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
            assert!(error.contains(&says), "{error}");
            fs::write(&path, right).unwrap();
        }
    };
    spoil("token", None, "No such file").await;
    spoil("token", Some(" \n"), "is empty").await;
    spoil("token", Some("two words"), "is no token").await;
    spoil("token", Some("two\nlines"), "is no token").await;
    spoil("token", Some("é"), "is no token").await;
    spoil("token", Some(&"a".repeat(17 * 1024)), "larger than").await;
    spoil("ca.crt", None, "No such file").await;
    spoil("ca.crt", Some("nothing"), "").await;
    assert_eq!(server.asked(), 0);
    assert!(ask_node(&server.client()).await.unwrap().is_some());
}

#[tokio::test]
async fn outside_of_a_pod_there_is_no_cluster_around_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::new(
        &ApiAddress::InCluster,
        folder.path().into(),
        ApiMetrics::default(),
    );
    assert_eq!(ask_node(&client).await, Err(ApiError::NotInCluster));
}
