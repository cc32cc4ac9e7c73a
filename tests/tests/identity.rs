//! Nodes and operators: join tokens, bans, and what a certificate alone is good for.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::time::Duration;

use attache_mtls::{
    connect::Connector, identity::SpkiSha256, key::LeafKey, tls::spki_pinned_client_config,
};
use attache_proto::attache::v1 as pb;
use attache_tests::{
    Bed, Scene,
    bed::{CLUSTER, NODE, OTHER_NODE, TRUST_DOMAIN},
    pod::Pod,
    wire::{self, channel, deliver_request},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use pb::{delivery_client::DeliveryClient, enrollment_client::EnrollmentClient};
use tonic::Code;

fn join_token(bed: &Bed, node: &str) -> String {
    let token = bed
        .attache_ok(&[
            "node",
            "join-token",
            "--cluster",
            CLUSTER,
            "--node",
            node,
            "--quiet",
        ])
        .unwrap();
    token.trim().to_owned()
}

fn pin(token: &str) -> SpkiSha256 {
    let bytes = URL_SAFE_NO_PAD
        .decode(token.strip_prefix("attache-join-1:").unwrap())
        .unwrap();
    SpkiSha256::from_bytes(bytes[48..].try_into().unwrap())
}

fn join_request(token: &str, key: &LeafKey) -> pb::JoinNodeRequest {
    pb::JoinNodeRequest {
        token: token.to_owned(),
        csr: key.certificate_request().unwrap(),
        version: "test".into(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn bed_without_plugin() -> Bed {
    let mut bed = Bed::new().unwrap();
    bed.init_broker().unwrap();
    bed.start_broker().unwrap();
    bed.login("ada").unwrap();
    bed.add_cluster().unwrap();
    bed
}

/// S10: of 64 parallel redemptions of one token exactly one gets a certificate.
#[test]
fn a_join_token_works_exactly_once() {
    let bed = bed_without_plugin();
    let token = join_token(&bed, NODE.0);
    let (_, enroll) = bed.broker_addresses().unwrap();
    let connector = Connector::new(
        spki_pinned_client_config(pin(&token)).unwrap(),
        Duration::from_secs(5),
    );
    let won = runtime().block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let (channel, token) = (channel(connector.clone(), enroll), token.clone());
            calls.spawn(async move {
                let key = LeafKey::generate().unwrap();
                EnrollmentClient::new(channel)
                    .join_node(join_request(&token, &key))
                    .await
            });
        }
        let mut won = 0;
        while let Some(answer) = calls.join_next().await {
            match answer.unwrap() {
                Ok(_) => won += 1,
                Err(status) => assert_eq!(status.code(), Code::Unauthenticated, "{status:?}"),
            }
        }
        won
    });
    assert_eq!(won, 1);
}

#[test]
fn a_join_token_that_is_wrong_in_any_way_gets_nothing() {
    let bed = bed_without_plugin();
    let good = join_token(&bed, NODE.0);
    let (_, enroll) = bed.broker_addresses().unwrap();
    let connector = Connector::new(
        spki_pinned_client_config(pin(&good)).unwrap(),
        Duration::from_secs(5),
    );
    let mut other_secret = good.clone().into_bytes();
    other_secret[50] = if other_secret[50] == b'A' { b'B' } else { b'A' };
    let tokens = [
        String::new(),
        "x".into(),
        good[..good.len() - 1].to_owned(),
        String::from_utf8(other_secret).unwrap(),
    ];
    runtime().block_on(async {
        let mut client = EnrollmentClient::new(channel(connector, enroll));
        for token in tokens {
            let key = LeafKey::generate().unwrap();
            let status = client
                .join_node(join_request(&token, &key))
                .await
                .err()
                .unwrap();
            assert!(
                matches!(status.code(), Code::InvalidArgument | Code::Unauthenticated),
                "{status:?}"
            );
            assert!(
                token.len() < 2 || !status.message().contains(&token),
                "the token is echoed"
            );
        }
        let mut request = join_request(&good, &LeafKey::generate().unwrap());
        request.csr = b"garbage".to_vec();
        assert_eq!(
            client.join_node(request).await.err().unwrap().code(),
            Code::InvalidArgument
        );
        // A bad request uses nothing up.
        client
            .join_node(join_request(&good, &LeafKey::generate().unwrap()))
            .await
            .unwrap();
    });
}

/// S1: a stolen node certificate is good for the pods of that node only, and for none without their tokens.
#[test]
fn a_node_certificate_without_a_pod_token_of_that_node_gets_nothing() {
    let scene = Scene::start().unwrap();
    let here = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    let there = Pod::new("shop", "web-1", "web", OTHER_NODE, "payments/db");
    for pod in [&here, &there] {
        scene.bed.cluster.add_pod(pod).unwrap();
    }
    let (ours, theirs) = (
        scene.bed.token(&here).unwrap(),
        scene.bed.token(&there).unwrap(),
    );
    let mut client = {
        let _guard = scene.runtime.enter();
        DeliveryClient::new(wire::node(&scene.bed).unwrap())
    };
    scene.runtime.block_on(async {
        for (what, request) in [
            ("another node's pod", deliver_request(&there, &theirs)),
            (
                "another node's token for this node's pod",
                deliver_request(&here, &theirs),
            ),
            ("no token", deliver_request(&here, "")),
        ] {
            let status = client
                .deliver(request)
                .await
                .err()
                .unwrap_or_else(|| panic!("{what}: released"));
            assert!(
                matches!(
                    status.code(),
                    Code::Unauthenticated | Code::PermissionDenied
                ),
                "{what}: {status:?}"
            );
        }
        client
            .deliver(deliver_request(&here, &ours))
            .await
            .expect("the control: the honest pair is served");
    });
}

/// A ban takes effect on the next call, also on a connection that stands; lifting it lets the node in again.
#[test]
fn a_banned_node_is_out_at_once_and_in_again_when_it_is_lifted() {
    let scene = Scene::start().unwrap();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    let id = format!("spiffe://{TRUST_DOMAIN}/node/{CLUSTER}/{}", NODE.1);
    scene
        .bed
        .attache_ok(&["node", "ban", &id, "--yes"])
        .unwrap();
    let next = Pod::new("shop", "web-1", "web", NODE, "payments/db");
    let token = scene.bed.token(&next).unwrap();
    scene
        .refused(&next, attache_tests::bed::AUDIENCE, &token)
        .unwrap();
    assert!(
        scene
            .bed
            .attache_ok(&["node", "list", "--output", "json"])
            .unwrap()
            .contains("\"banned\": true")
    );
    scene.bed.attache_ok(&["node", "unban", &id]).unwrap();
    scene.publish(&next).unwrap();
}

/// An operator's certificate has no way to a value, a node's none to an operator's verbs.
#[test]
fn nodes_and_operators_cannot_take_each_others_part() {
    let scene = Scene::start().unwrap();
    let channel = {
        let _guard = scene.runtime.enter();
        wire::node(&scene.bed).unwrap()
    };
    scene.runtime.block_on(async {
        let status = pb::secrets_client::SecretsClient::new(channel.clone())
            .list_secrets(pb::ListSecretsRequest::default())
            .await
            .err()
            .unwrap();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        let status = pb::nodes_client::NodesClient::new(channel)
            .create_join_token(pb::CreateJoinTokenRequest::default())
            .await
            .err()
            .unwrap();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    });
}

/// Only the first operator is made on the admin socket.
#[test]
fn a_second_operator_cannot_be_bootstrapped() {
    let bed = bed_without_plugin();
    let error = format!("{:#}", bed.login("eve").expect_err("must be refused"));
    assert!(error.contains("operator"), "{error}");
    assert!(
        !bed.attache_ok(&[
            "operator",
            "list",
            "--output",
            "json",
            "--context",
            "default"
        ])
        .unwrap()
        .contains("eve")
    );
}
