//! Nodes and operators: join tokens, bans, and what a certificate alone is good for.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{fs, process::Stdio};

use attache_mtls::key::LeafKey;
use attache_proto::attache::v1 as pb;
use attache_tests::{
    Bed, Scene,
    bed::{CLUSTER, NODE, OTHER_NODE, TRUST_DOMAIN},
    pod::Pod,
    raw::{Types, call},
    wire::{self, deliver_request},
};
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
    let bed = Bed::signed_in().unwrap();
    bed.add_cluster().unwrap();
    bed
}

/// S10: of 64 parallel redemptions of one token exactly one gets a certificate.
#[test]
fn a_join_token_works_exactly_once() {
    let bed = bed_without_plugin();
    let token = join_token(&bed, NODE.0);
    let won = runtime().block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let (channel, token) = (wire::joining(&bed, &token).unwrap(), token.clone());
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
    let mut other_secret = good.clone().into_bytes();
    other_secret[50] = if other_secret[50] == b'A' { b'B' } else { b'A' };
    let tokens = [
        String::new(),
        "x".into(),
        good[..good.len() - 1].to_owned(),
        String::from_utf8(other_secret).unwrap(),
    ];
    runtime().block_on(async {
        let mut client = EnrollmentClient::new(wire::joining(&bed, &good).unwrap());
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
    scene
        .bed
        .attache_ok(&["node", "unban", &id, "--reason", "the disk was wiped"])
        .unwrap();
    scene.publish(&next).unwrap();
    let tail = ["audit", "tail", "-n", "20", "--output", "json"];
    assert!(
        scene
            .bed
            .attache_ok(&tail)
            .unwrap()
            .contains("the disk was wiped"),
        "why it was lifted is on record"
    );
}

/// A token belongs to one cluster: of several with one issuer and audience, added at one time, one is taken.
#[test]
fn clusters_of_one_issuer_and_audience_cannot_be_added_side_by_side() {
    let bed = bed_without_plugin();
    let folder = bed.dir.join("cluster").display().to_string();
    let started: Vec<_> = (0..8)
        .map(|n| {
            let mut command = bed.attache_command().unwrap();
            command
                .args(["cluster", "add", &format!("twin-{n}")])
                .args(["--issuer", "https://twin.test", "--audience", "attache"])
                .args(["--folder", &folder])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    let taken = started
        .into_iter()
        .filter_map(|mut child| child.wait().unwrap().success().then_some(()))
        .count();
    assert_eq!(taken, 1);
}

/// A cluster whose folder is not there would refuse every pod: the operator hears of it at once.
#[test]
fn a_cluster_of_no_folder_is_refused_and_named() {
    let bed = bed_without_plugin();
    let file = bed.dir.join("a-file");
    fs::write(&file, "x").unwrap();
    let absent = bed.dir.join("absent");
    for (folder, problem) in [(&absent, "No such file"), (&file, "is not a folder")] {
        let folder = folder.display().to_string();
        let words = [
            "cluster",
            "add",
            "other",
            "--issuer",
            "https://other.test",
            "--audience",
            "attache",
            "--folder",
            &folder,
        ];
        let refused = bed.attache(&words).unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{said}");
        assert!(
            said.contains(problem) && said.contains("jwks.json"),
            "{said}"
        );
    }
    assert!(
        !bed.attache_ok(&["cluster", "list"])
            .unwrap()
            .contains("other")
    );
}

/// E3: an operator's certificate has no way to a value, a node's none to an operator's verbs. Every RPC of the contract
/// is tried; only renewals are everybody's, and enrollment, unsealing and the admin socket have listeners of their own.
#[test]
fn nodes_and_operators_cannot_take_each_others_part() {
    let scene = Scene::start().unwrap();
    let _guard = scene.runtime.enter();
    let (node, operator) = (
        wire::node(&scene.bed).unwrap(),
        wire::operator(&scene.bed).unwrap(),
    );
    let types = Types::of(&["attache.v1"]).unwrap();
    let mut tried = Vec::new();
    for method in &types.methods {
        let wrong = match method.service.as_str() {
            "attache.v1.Delivery" => &operator,
            "attache.v1.Renewal" => continue,
            "attache.v1.Enrollment" | "attache.v1.Unsealing" | "attache.v1.Admin" => {
                let status = scene
                    .runtime
                    .block_on(call(&operator, method, vec![vec![]]));
                let code = status.map_err(|status| status.code());
                assert_eq!(code, Err(Code::Unimplemented), "{}", method.name);
                continue;
            }
            _ => &node,
        };
        let answer = scene.runtime.block_on(call(wrong, method, vec![vec![]]));
        let code = answer.map_err(|status| status.code());
        assert_eq!(code, Err(Code::PermissionDenied), "{}", method.name);
        tried.push(method.name.as_str());
    }
    assert!(
        tried.contains(&"Deliver") && tried.contains(&"CommitPut"),
        "{tried:?}"
    );
    // The whole request of a pod, with its own token: what is wrong with it is who sends it.
    let pod = scene.bed.pod("web-0", "payments/db").unwrap();
    let request = deliver_request(&pod, &scene.bed.token(&pod).unwrap());
    let mut delivery = DeliveryClient::new(operator);
    let status = scene.runtime.block_on(delivery.deliver(request.clone()));
    let status = status.err().expect("an operator was given a secret");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let mut delivery = DeliveryClient::new(node);
    let control = scene.runtime.block_on(delivery.deliver(request));
    assert!(control.is_ok(), "the control: the node is given it");
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

/// What was acknowledged and is not in the log any more keeps the broker from starting.
#[test]
fn a_broker_does_not_start_on_a_log_that_lost_its_end() {
    let mut bed = bed_without_plugin();
    bed.broker.take().unwrap().stop().unwrap();
    let segment = bed.audit_dir().join("00000000000000000000.seg");
    let whole = fs::read(&segment).unwrap();
    // Half of what is written: the zeros at the end are a segment's usual filling.
    let written = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let mut short = whole.clone();
    short[written / 2..].fill(0);
    fs::write(&segment, short).unwrap();
    let error = format!("{:#}", bed.start_broker().expect_err("must not start"));
    assert!(error.contains("the store knows of"), "{error}");
    fs::write(&segment, whole).unwrap();
    bed.start_broker().unwrap();
}
