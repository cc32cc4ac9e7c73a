//! Tests of what is believed of an API server, and for how long.

use std::sync::Mutex as Shared;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::super::super::testdata::{Issuer, NODE_UID, OTHER_NODE_UID, claims, identity, pod};
use super::*;
use crate::kubernetes::fixture::{Server, answer};

/// What an API server says of the token of [`claims`].
fn said() -> Value {
    let claims = claims();
    let of = |object: &str, part: &str| claims["kubernetes.io"][object][part].clone();
    let mut extra = json!({"authentication.kubernetes.io/credential-id": ["JTI=6d1c"]});
    for object in ["pod", "node"] {
        for part in ["name", "uid"] {
            extra[format!("authentication.kubernetes.io/{object}-{part}")] =
                json!([of(object, part)]);
        }
    }
    json!({"username": claims["sub"], "uid": "x", "extra": extra})
}

fn compared(said: Value) -> Result<(), NotTaken> {
    compare(&serde_json::from_value(said).unwrap(), &identity())
}

#[test]
fn what_the_server_read_must_be_what_was_read_here() {
    assert_eq!(compared(said()), Ok(()));
    let mut other = said();
    other["username"] = "system:serviceaccount:shop:db".into();
    assert_eq!(compared(other), Err(NotTaken::Differs("username")));
    for name in [
        "pod-name",
        "pod-uid",
        "node-name",
        "node-uid",
        "credential-id",
    ] {
        let key = format!("authentication.kubernetes.io/{name}");
        let mut other = said();
        other["extra"][&key] = json!(["another"]);
        assert_eq!(compared(other), Err(NotTaken::Differs(name)));
        for none in [json!([]), json!(["a", "b"])] {
            let mut lacking = said();
            lacking["extra"][&key] = none;
            assert_eq!(compared(lacking), Err(NotTaken::Lacks(name)));
        }
        let mut lacking = said();
        lacking["extra"].as_object_mut().unwrap().remove(&key);
        assert_eq!(compared(lacking), Err(NotTaken::Lacks(name)));
    }
    let mut bare = said();
    bare["extra"] = Value::Null;
    assert_eq!(compared(bare), Err(NotTaken::Lacks("pod-name")));
}

/// A server whose objects a test changes, and facts that come from it.
struct World {
    server: Server,
    objects: Arc<Shared<Value>>,
    facts: KubernetesFacts,
    metrics: ApiMetrics,
}

impl World {
    /// With the pod and the node of the fixture's token, and with that account's name in each review.
    async fn new() -> Self {
        let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "node-a", "uid": NODE_UID}});
        let user = said();
        let status = json!({"authenticated": true, "audiences": ["attache"], "user": user});
        let objects = json!({
            "pods": pod(), "nodes": node, "tokenreviews": {"status": status}, "jwks": Issuer::p256().jwks(),
        });
        let objects = Arc::new(Shared::new(objects));
        let told = Arc::clone(&objects);
        let server = Server::start(move |_, request| {
            let path = request.split(' ').nth(1).unwrap_or_default();
            let kinds = ["pods", "nodes", "tokenreviews", "jwks"];
            let kind = kinds.into_iter().find(|kind| path.contains(kind));
            let objects = told.lock().unwrap();
            answer(
                "200 OK",
                &kind
                    .map_or(Value::Null, |kind| objects[kind].clone())
                    .to_string(),
            )
        })
        .await;
        let metrics = ApiMetrics::default();
        let facts = KubernetesFacts::new(server.client(), "attache", metrics.clone());
        Self {
            server,
            objects,
            facts,
            metrics,
        }
    }

    fn change(&self, pointer: &str, value: Value) {
        let mut objects = self.objects.lock().unwrap();
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        objects.pointer_mut(parent).unwrap()[last] = value;
    }

    async fn bound(&self) -> Bound {
        let token = PodToken::new("a.b.c".to_owned());
        self.facts.bound_to(&token, &identity()).await.unwrap()
    }

    /// How often the server is asked for this.
    async fn asked(&self, question: impl AsyncFnOnce()) -> usize {
        let before = self.server.asked();
        question().await;
        self.server.asked() - before
    }
}

/// Lets time pass, which stands still for no connection.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn what_is_found_is_believed_for_seconds_by_its_kind() {
    let world = World::new().await;
    let look = async || {
        let bound = world.bound().await;
        assert_eq!(bound.token, Ok(()));
        assert_eq!(bound.pod.unwrap().uid, identity().pod_uid);
        assert_eq!(bound.node.unwrap().uid, identity().node_uid);
    };
    assert_eq!(world.asked(look).await, 3);
    assert_eq!(world.asked(look).await, 0);
    pass(ABSENT_FOR + Duration::from_secs(1)).await;
    assert_eq!(world.asked(look).await, 0);
    pass(POD_KNOWN_FOR - ABSENT_FOR).await;
    assert_eq!(world.asked(look).await, 2, "token and pod");
    pass(POD_KNOWN_FOR).await;
    assert_eq!(world.asked(look).await, 3, "the node too");
    let mut told = String::new();
    let mut registry = Registry::default();
    world.metrics.register(&mut registry);
    encode(&mut told, &registry).unwrap();
    for (operation, server, cache) in [("token_review", 3, 2), ("pod", 3, 2), ("node", 2, 3)] {
        for (from, count) in [("server", server), ("cache", cache)] {
            let line = format!(
                "kubernetes_answers_total{{operation=\"{operation}\",from=\"{from}\"}} {count}\n"
            );
            assert!(told.contains(&line), "{line}{told}");
        }
    }
}

#[tokio::test]
async fn what_speaks_against_a_pod_is_looked_at_again_after_a_second() {
    let other = json!("22222222-2222-4222-8222-222222222222");
    for (pointer, value) in [
        ("/pods/metadata/uid", other),
        (
            "/pods/metadata/deletionTimestamp",
            json!("2026-01-01T00:00:00Z"),
        ),
        ("/pods/metadata/name", json!("web-1")),
        ("/pods/metadata/namespace", json!("other")),
        ("/nodes/metadata/uid", json!(OTHER_NODE_UID)),
        ("/nodes/metadata/name", json!("node-b")),
        ("/tokenreviews/status/authenticated", json!(false)),
    ] {
        let world = World::new().await;
        world.change(pointer, value);
        let bound = world.bound().await;
        let is_another = pointer.ends_with("name") || pointer.ends_with("namespace");
        assert_eq!(
            bound.pod.is_none(),
            is_another && pointer.starts_with("/pods")
        );
        assert_eq!(
            bound.node.is_none(),
            is_another && pointer.starts_with("/nodes")
        );
        assert_eq!(bound.token.is_err(), pointer.starts_with("/tokenreviews"));
        let look = async || drop(world.bound().await);
        assert_eq!(world.asked(look).await, 0, "{pointer}");
        pass(ABSENT_FOR).await;
        assert_eq!(world.asked(look).await, 1, "{pointer}");
    }
}

#[tokio::test]
async fn a_node_is_taken_for_the_one_that_was_asked_for_only_by_its_name() {
    let world = World::new().await;
    let name = identity().node_name.clone();
    let found = async || world.facts.node(&name).await.unwrap();
    assert_eq!(found().await.unwrap().uid, identity().node_uid);
    world.change("/nodes/metadata/name", json!("node-b"));
    assert!(found().await.is_none());
}

#[tokio::test]
async fn keys_are_asked_for_every_five_minutes_and_sooner_when_one_is_missing() {
    let world = World::new().await;
    let first = world.facts.key_set(None).await.unwrap();
    let look = async || drop(world.facts.key_set(None).await.unwrap());
    let lacks = async || drop(world.facts.key_set(Some(&first)).await.unwrap());
    assert_eq!(world.asked(look).await, 0);
    assert_eq!(world.asked(lacks).await, 0, "they were asked for just now");
    pass(KEYS_AGAIN).await;
    assert_eq!(world.asked(look).await, 0);
    assert_eq!(world.asked(lacks).await, 1);
    // Those that lacked it are not those of now.
    pass(KEYS_AGAIN).await;
    assert_eq!(world.asked(lacks).await, 0);
    pass(KEYS_KNOWN_FOR - KEYS_AGAIN).await;
    assert_eq!(world.asked(look).await, 1);
}
