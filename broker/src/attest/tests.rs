//! Tests of the whole flow, over a real folder and really signed tokens: threats S2, S4, S5, S6 and the kinds of refusals.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::testdata::*;
use super::*;

struct World {
    dir: TempDir,
    issuer: Issuer,
    clusters: Arc<ClusterRegistry>,
    attestor: Attestor,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::p256();
        let clusters = Arc::new(ClusterRegistry::default());
        let name = "local".parse().unwrap();
        clusters.replace([ClusterSpec::in_folder(name, ISSUER, AUDIENCE, dir.path()).unwrap()]);
        let attestor = Attestor::new(Arc::clone(&clusters));
        let world = Self {
            dir,
            issuer,
            clusters,
            attestor,
        };
        fs::create_dir_all(world.path("pods/shop")).unwrap();
        fs::create_dir_all(world.path("nodes")).unwrap();
        world.write("jwks.json", &world.issuer.jwks());
        world.write("nodes/node-a.json", &node("node-a", NODE_UID));
        world.write("nodes/node-b.json", &node("node-b", OTHER_NODE_UID));
        world.write("pods/shop/web-0.json", &pod());
        world
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    fn write(&self, relative: &str, object: &Value) {
        fs::write(self.path("draft"), object.to_string()).unwrap();
        fs::rename(self.path("draft"), self.path(relative)).unwrap();
    }

    async fn ask(&self, node_uid: &str, claims: &Value) -> Result<AttestedWorkload, Refusal> {
        let request = request(self.issuer.mint(claims));
        self.attestor
            .attest(&node_id(node_uid), &request, now())
            .await
    }

    async fn refused(&self, node_uid: &str, claims: &Value) -> Refusal {
        self.ask(node_uid, claims)
            .await
            .expect_err("must be refused")
    }
}

#[tokio::test]
async fn an_honest_request_is_attested() {
    let attested = World::new().ask(NODE_UID, &claims()).await.unwrap();
    assert_eq!(attested.workload().to_string(), "local/shop/web/app");
    assert_eq!(attested.node(), &node_id(NODE_UID));
    assert_eq!(attested.node_name().as_str(), "node-a");
    assert_eq!(attested.pod_name().as_str(), "web-0");
    assert_eq!(attested.token_id(), Some("6d1c"));
}

/// Of certificate, token and spec.nodeName each names node A or B, and each name has the uid of A or B: only the
/// line in which all are one node is let through.
#[tokio::test]
async fn s2_two_nodes_are_told_apart_everywhere() {
    let world = World::new();
    let nodes = [("node-a", NODE_UID), ("node-b", OTHER_NODE_UID)];
    let mut released = Vec::new();
    for (cert_name, cert_uid) in nodes {
        for (token_name, _) in nodes {
            for (_, token_uid) in nodes {
                for (spec_name, _) in nodes {
                    let mut claims = claims();
                    claims["kubernetes.io"]["node"] = json!({"name": token_name, "uid": token_uid});
                    let mut pod = pod();
                    pod["spec"]["nodeName"] = spec_name.into();
                    world.write("pods/shop/web-0.json", &pod);
                    if world.ask(cert_uid, &claims).await.is_ok() {
                        released.push((cert_name, token_name, token_uid, spec_name));
                    }
                }
            }
        }
    }
    let expected = [
        ("node-a", "node-a", NODE_UID, "node-a"),
        ("node-b", "node-b", OTHER_NODE_UID, "node-b"),
    ];
    assert_eq!(released, expected);
}

#[tokio::test]
async fn s2_each_line_of_the_binding_has_its_reason() {
    let world = World::new();
    let refusal = world.refused(OTHER_NODE_UID, &claims()).await;
    assert_eq!(refusal.public().line(), "the token names another node");
    assert!(
        refusal.subject().is_none(),
        "nothing is proved of the pod yet"
    );
    let of = refusal
        .misplaced_from()
        .map(|node| node.as_str().to_owned());
    assert_eq!(of.as_deref(), Some("node-a"), "for the alarm");

    let mut elsewhere = pod();
    elsewhere["spec"]["nodeName"] = "node-b".into();
    world.write("pods/shop/web-0.json", &elsewhere);
    let refusal = world.refused(NODE_UID, &claims()).await;
    assert_eq!(refusal.public(), &PublicReason::PodElsewhere);
    assert_eq!(refusal.misplaced_from(), None);
    assert_eq!(refusal.subject().unwrap().pod_uid.as_str(), POD_UID);

    elsewhere["spec"]["nodeName"] = Value::Null;
    world.write("pods/shop/web-0.json", &elsewhere);
    assert_eq!(
        world.refused(NODE_UID, &claims()).await.public(),
        &PublicReason::PodElsewhere
    );

    world.write("pods/shop/web-0.json", &pod());
    world.write(
        "nodes/node-a.json",
        &node("node-a", "cccccccc-cccc-4ccc-8ccc-cccccccccccc"),
    );
    let refusal = world.refused(NODE_UID, &claims()).await;
    assert_eq!(
        refusal.public(),
        &PublicReason::NodeReplaced,
        "the node was made anew under its name"
    );
    fs::remove_file(world.path("nodes/node-a.json")).unwrap();
    let refusal = world.refused(NODE_UID, &claims()).await;
    assert_eq!(
        refusal.public(),
        &PublicReason::NodeReplaced,
        "the node is gone"
    );

    let mut other = claims();
    other["kubernetes.io"]["node"] = json!({"name": "node-a"});
    assert_eq!(
        world.refused(NODE_UID, &other).await.public(),
        &PublicReason::TokenUnbound
    );
}

#[tokio::test]
async fn s4_audience_and_issuer_are_the_clusters_of_the_certificate() {
    let world = World::new();
    for (aud, line) in [
        (
            json!("https://kubernetes.default.svc"),
            "the token is for another audience",
        ),
        (
            json!(["attache", "vault"]),
            "the token is for other audiences too; it must be for this broker's alone",
        ),
    ] {
        let mut claims = claims();
        claims["aud"] = aud;
        let refusal = world.refused(NODE_UID, &claims).await;
        assert_eq!(refusal.public().line(), line);
        assert_eq!(refusal.kind(), RefusalKind::Unauthenticated);
        assert!(refusal.subject().is_none());
    }
    let mut foreign = claims();
    foreign["iss"] = "https://other.example".into();
    assert_eq!(
        world.refused(NODE_UID, &foreign).await.public(),
        &PublicReason::TokenIssuer
    );

    let stranger = format!("spiffe://example.internal/node/other/{NODE_UID}")
        .parse()
        .unwrap();
    let asked = request(world.issuer.mint(&claims()));
    let refusal = world
        .attestor
        .attest(&stranger, &asked, now())
        .await
        .unwrap_err();
    assert!(
        refusal
            .public()
            .line()
            .starts_with("the broker does not know cluster other")
    );

    // Another cluster with the same folder and another audience: its nodes need tokens of that audience.
    let spec = ClusterSpec::in_folder("other".parse().unwrap(), ISSUER, "other", world.dir.path())
        .unwrap();
    let local = world.clusters.cluster("local").unwrap().spec().clone();
    world.clusters.replace([local, spec]);
    assert!(world.ask(NODE_UID, &claims()).await.is_ok());
    let refusal = world
        .attestor
        .attest(&stranger, &asked, now())
        .await
        .unwrap_err();
    assert_eq!(
        refusal.public(),
        &PublicReason::TokenAudience,
        "what one cluster has verified is not another's"
    );
}

#[tokio::test]
async fn s5_the_old_token_of_a_pod_made_anew_is_denied() {
    let world = World::new();
    assert!(world.ask(NODE_UID, &claims()).await.is_ok());
    let mut anew = pod();
    anew["metadata"]["uid"] = "22222222-2222-4222-8222-222222222222".into();
    world.write("pods/shop/web-0.json", &anew);
    let recreated = world.refused(NODE_UID, &claims()).await;
    assert_eq!(recreated.kind(), RefusalKind::PermissionDenied);
    fs::remove_file(world.path("pods/shop/web-0.json")).unwrap();
    let gone = world.refused(NODE_UID, &claims()).await;
    assert_eq!(
        gone.public().line(),
        "the cluster has no pod shop/web-0 with the uid that the token names"
    );
    assert_eq!(gone.public(), recreated.public());
}

#[tokio::test]
async fn s6_a_deleted_pod_is_denied_at_once() {
    let world = World::new();
    assert!(world.ask(NODE_UID, &claims()).await.is_ok());
    let mut deleted = pod();
    deleted["metadata"]["deletionTimestamp"] = "2026-11-23T10:00:00Z".into();
    world.write("pods/shop/web-0.json", &deleted);
    assert_eq!(
        world.refused(NODE_UID, &claims()).await.public().line(),
        "the pod is being deleted"
    );
    let request = request(world.issuer.mint(&claims()));
    world.write("pods/shop/web-0.json", &pod());
    let late = world
        .attestor
        .attest(&node_id(NODE_UID), &request, at(600))
        .await
        .unwrap_err();
    assert_eq!(late.public(), &PublicReason::TokenExpired);
}

#[tokio::test]
async fn another_service_account_is_denied() {
    let world = World::new();
    let mut other = pod();
    other["spec"]["serviceAccountName"] = "db".into();
    world.write("pods/shop/web-0.json", &other);
    let refusal = world.refused(NODE_UID, &claims()).await;
    assert_eq!(refusal.public(), &PublicReason::AnotherServiceAccount);
}

#[tokio::test]
async fn each_field_of_a_request_is_checked() {
    let world = World::new();
    type Bend = fn(&mut AttestRequest, &str);
    let fields: [(&str, Bend); 6] = [
        ("volume_name", |request, text| {
            request.volume_name = text.into()
        }),
        ("volume_id", |request, text| request.volume_id = text.into()),
        ("pod_namespace", |request, text| {
            request.pod.namespace = text.into()
        }),
        ("pod_name", |request, text| request.pod.name = text.into()),
        ("pod_uid", |request, text| request.pod.uid = text.into()),
        ("service_account", |request, text| {
            request.pod.service_account = text.into()
        }),
    ];
    for (field, bend) in fields {
        for bad in [
            "",
            "\0",
            "../../x",
            "é",
            "another one",
            &"a".repeat(1 << 16),
        ] {
            let mut request = request(world.issuer.mint(&claims()));
            bend(&mut request, bad);
            let refusal = world
                .attestor
                .attest(&node_id(NODE_UID), &request, now())
                .await
                .unwrap_err();
            assert_eq!(
                refusal.kind(),
                RefusalKind::InvalidArgument,
                "{field} {bad:?}"
            );
            assert!(refusal.public().line().starts_with(field), "{refusal}");
            assert!(refusal.public().line().len() <= MAX_REASON_BYTES);
        }
    }
    for bad in ["", "x", "a.b.c", "\0", &"a".repeat(1 << 20)] {
        let request = request(bad.to_owned());
        let refusal = world
            .attestor
            .attest(&node_id(NODE_UID), &request, now())
            .await
            .unwrap_err();
        assert_eq!(
            refusal.kind(),
            RefusalKind::Unauthenticated,
            "token {bad:.20}"
        );
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_no_denial() {
    let world = World::new();
    for (file, left) in [
        ("pods/shop/web-0.json", pod()),
        ("nodes/node-a.json", node("node-a", NODE_UID)),
        ("jwks.json", world.issuer.jwks()),
    ] {
        world.write(file, &json!({"broken": true}));
        let refusal = world.refused(NODE_UID, &claims()).await;
        assert_eq!(refusal.kind(), RefusalKind::Unavailable, "{file}");
        assert_eq!(
            refusal.public().line(),
            "the broker cannot read the cluster's records now"
        );
        assert!(
            refusal.true_reason().contains(file),
            "{}",
            refusal.true_reason()
        );
        world.write(file, &left);
        assert!(world.ask(NODE_UID, &claims()).await.is_ok());
    }
}

#[tokio::test]
async fn a_refusal_reads_the_same_each_time_and_knows_whom_it_is_about() {
    let world = World::new();
    let mut twice = pod();
    twice["spec"]["containers"][1]["volumeMounts"] =
        json!([{"name": "secrets", "mountPath": "/s"}]);
    world.write("pods/shop/web-0.json", &twice);
    let first = world.refused(NODE_UID, &claims()).await;
    for _ in 0..20 {
        assert_eq!(world.refused(NODE_UID, &claims()).await, first);
    }
    let subject = first.subject().unwrap();
    assert_eq!(
        subject.to_string(),
        format!("pod shop/web-0 ({POD_UID}), volume secrets")
    );
    assert_eq!(subject.container.as_ref().unwrap().as_str(), "app");
    assert_eq!(subject.service_account.as_str(), "web");
}

/// The longest names that there can be still make one line that kubelet shows whole.
#[test]
fn every_reason_fits_an_event() {
    let label = "a".repeat(63);
    let segments = [label.as_str(); 3].join("/");
    let reference = format!("{label}/{segments}@{}#{}", u64::MAX, "f".repeat(128));
    let workload = format!("{label}/{label}/{}/{label}", "s".repeat(253));
    let reasons = [
        not_granted(&workload.parse().unwrap(), &reference.parse().unwrap(), "x")
            .public()
            .clone(),
        PublicReason::SharedPath {
            first: Box::new(reference.parse().unwrap()),
            second: Box::new(reference.parse().unwrap()),
            path: Quoted::new(&"p".repeat(4096)),
        },
    ];
    let around =
        "attache: denied (decision 7f3a9c12): ; an operator sees more with: attache why 7f3a9c12";
    for reason in reasons {
        let line = reason.line();
        assert!(around.len() + line.len() <= 1024, "{} {line}", line.len());
        assert!(!line.contains('\n'));
    }
}
