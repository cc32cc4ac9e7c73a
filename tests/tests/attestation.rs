//! Who gets a secret, through the CSI socket of a real plugin and a real broker: the double binding of node and pod, the
//! token's claims, the container lists, the guard rails, the grants. Each refusal leaves nothing mounted.

use attache_tests::{
    Scene,
    bed::{AUDIENCE, NODE, OTHER_NODE},
    issuer::{Issuer, now_s},
    pod::{Container, Pod, hardened},
    scene::{PASSWORD, USERNAME},
};
use serde_json::{Value, json};
use tonic::Code;

fn pod(name: &str) -> Pod {
    Pod::new("shop", name, "web", NODE, "payments/db")
}

#[test]
fn a_granted_container_gets_exactly_its_files() {
    let scene = Scene::start().unwrap();
    let pod = pod("web-0").with_sidecar("sidecar");
    scene.publish(&pod).unwrap();
    assert_eq!(scene.read(&pod, "db/password").unwrap(), PASSWORD);
    assert_eq!(scene.read(&pod, "db/username").unwrap(), USERNAME);
    scene.unpublish(&pod).unwrap();
}

/// S2: certificate node = token node = spec.nodeName, for every pairing of two nodes.
#[test]
fn no_release_crosses_nodes() {
    let scene = Scene::start().unwrap();
    let mut released = 0;
    for (i, (object, token)) in [
        (NODE, NODE),
        (NODE, OTHER_NODE),
        (OTHER_NODE, NODE),
        (OTHER_NODE, OTHER_NODE),
    ]
    .into_iter()
    .enumerate()
    {
        let recorded = Pod::new("shop", &format!("web-{i}"), "web", object, "payments/db");
        let mut claimed = recorded.clone();
        (claimed.node, claimed.node_uid) = (token.0.into(), token.1.into());
        let token_text = scene.bed.token(&claimed).unwrap();
        if scene.publish_with(&recorded, AUDIENCE, &token_text).is_ok() {
            released += 1;
            assert_eq!((object, token), (NODE, NODE));
        }
    }
    assert_eq!(released, 1);
}

/// S4, S6, S11 and the claims that a token must have: each bent claim is refused.
#[test]
#[expect(clippy::too_many_lines, reason = "one table of claims")]
fn a_token_that_is_not_kubelets_own_is_refused() {
    let scene = Scene::start().unwrap();
    let pod = pod("web-0");
    scene.bed.cluster.add_pod(&pod).unwrap();
    let issuer = &scene.bed.issuer;
    let honest = issuer.claims(&pod, AUDIENCE);
    let with = |pointer: &str, value: Value| {
        let mut claims = honest.clone();
        *claims.pointer_mut(pointer).expect("the claim is there") = value;
        issuer.sign(&claims).unwrap()
    };
    let without = |parent: &str, key: &str| {
        let mut claims = honest.clone();
        claims
            .pointer_mut(parent)
            .and_then(Value::as_object_mut)
            .expect("an object")
            .remove(key);
        issuer.sign(&claims).unwrap()
    };
    let stranger = Issuer::new(&issuer.url, &issuer.kid).unwrap();
    let cases = [
        (
            "another audience",
            with("/aud", json!(["https://kubernetes.default.svc"])),
        ),
        ("an audience of the wrong type", with("/aud", json!(7))),
        ("no audience", without("", "aud")),
        ("another issuer", with("/iss", json!("https://elsewhere"))),
        ("expired", with("/exp", json!(now_s() - 120))),
        (
            "exp as text",
            with("/exp", json!((now_s() + 600).to_string())),
        ),
        ("exp as null", with("/exp", Value::Null)),
        ("exp as an array", with("/exp", json!([now_s() + 600]))),
        ("no exp", without("", "exp")),
        ("not valid yet", with("/nbf", json!(now_s() + 600))),
        (
            "another pod's uid",
            with(
                "/kubernetes.io/pod/uid",
                json!("11111111-1111-4111-8111-111111111111"),
            ),
        ),
        ("no pod", without("/kubernetes.io", "pod")),
        ("no node", without("/kubernetes.io", "node")),
        (
            "a node name without uid",
            without("/kubernetes.io/node", "uid"),
        ),
        (
            "another service account",
            with("/kubernetes.io/serviceaccount/name", json!("batch")),
        ),
        (
            "another namespace",
            with("/kubernetes.io/namespace", json!("bank")),
        ),
        (
            "signed by another key of the same name",
            stranger.sign(&honest).unwrap(),
        ),
        ("no token at all", "x".to_owned()),
        ("alg none", unsigned(&honest)),
    ];
    for (what, token) in cases {
        let status = scene
            .refused(&pod, AUDIENCE, &token)
            .unwrap_or_else(|e| panic!("{what}: {e:#}"));
        assert!(
            matches!(
                status.code(),
                Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument
            ),
            "{what}: {status:?}"
        );
        assert!(
            !status.message().contains(&token) || token.len() < 2,
            "{what}: the token is echoed"
        );
    }
    scene.publish(&pod).expect("the honest token still works");
}

fn unsigned(claims: &Value) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64URL};
    format!(
        "{}.{}.",
        B64URL.encode(json!({ "alg": "none" }).to_string()),
        B64URL.encode(claims.to_string())
    )
}

/// S5: the same name with another uid is another pod.
#[test]
fn a_recreated_pod_does_not_serve_the_old_token() {
    let scene = Scene::start().unwrap();
    let old = pod("web-0");
    let old_token = scene.bed.token(&old).unwrap();
    let new = pod("web-0");
    assert_ne!(old.uid, new.uid);
    scene.refused(&new, AUDIENCE, &old_token).unwrap();
    scene.publish(&new).unwrap();
}

/// S6: a pod that is being deleted gets no new release.
#[test]
fn a_pod_being_deleted_is_refused() {
    let scene = Scene::start().unwrap();
    let mut pod = pod("web-0");
    pod.overlay = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
    let token = scene.bed.token(&pod).unwrap();
    scene.refused(&pod, AUDIENCE, &token).unwrap();
}

/// I4: exactly the named container mounts the volume, over all three lists, and nothing in the pod reaches round that.
#[test]
fn another_container_with_a_path_to_the_files_is_refused() {
    let scene = Scene::start().unwrap();
    let mount = json!([{ "name": "secrets", "mountPath": "/s" }]);
    let overlays = [
        (
            "an init container",
            json!({ "spec": { "initContainers": [{ "name": "i", "volumeMounts": mount }] } }),
        ),
        (
            "an ephemeral container",
            json!({ "spec": { "ephemeralContainers": [{ "name": "e", "volumeMounts": mount }] } }),
        ),
        (
            "a shared process namespace",
            json!({ "spec": { "shareProcessNamespace": true } }),
        ),
        (
            "the host's process namespace",
            json!({ "spec": { "hostPID": true } }),
        ),
    ];
    for (i, (what, overlay)) in overlays.into_iter().enumerate() {
        let mut pod = pod(&format!("web-{i}"));
        pod.overlay = overlay;
        let token = scene.bed.token(&pod).unwrap();
        let status = scene
            .refused(&pod, AUDIENCE, &token)
            .unwrap_or_else(|e| panic!("{what}: {e:#}"));
        assert!(
            matches!(
                status.code(),
                Code::PermissionDenied | Code::InvalidArgument
            ),
            "{what}: {status:?}"
        );
    }
    let mut two = pod("web-two");
    two.containers.push(Container {
        name: "second".into(),
        mounts: true,
        security_context: hardened(1000),
    });
    let token = scene.bed.token(&two).unwrap();
    scene.refused(&two, AUDIENCE, &token).unwrap();
    let mut none = pod("web-none");
    none.containers[0].mounts = false;
    let token = scene.bed.token(&none).unwrap();
    scene.refused(&none, AUDIENCE, &token).unwrap();
}

/// The guard rails hold for every grant.
#[test]
fn a_privileged_or_root_container_is_refused_with_the_mend() {
    let scene = Scene::start().unwrap();
    let contexts = [
        (json!({ "runAsUser": 0, "runAsGroup": 0 }), "runAsUser"),
        (json!({}), "runAsUser"),
        (
            json!({ "runAsUser": 1000, "privileged": true }),
            "privileged",
        ),
        (
            json!({ "runAsUser": 1000, "capabilities": { "add": ["SYS_ADMIN"] } }),
            "SYS_ADMIN",
        ),
        (
            json!({ "runAsUser": 1000, "capabilities": { "add": ["SYS_PTRACE"] } }),
            "SYS_PTRACE",
        ),
    ];
    for (i, (context, mend)) in contexts.into_iter().enumerate() {
        let mut pod = pod(&format!("web-{i}"));
        pod.containers[0].security_context = context.clone();
        let token = scene.bed.token(&pod).unwrap();
        let status = scene
            .refused(&pod, AUDIENCE, &token)
            .unwrap_or_else(|e| panic!("{context}: {e:#}"));
        assert!(
            status.message().contains(mend),
            "{context}: {}",
            status.message()
        );
    }
}

/// Without `csi.readOnly: true` the container could write its own secrets.
#[test]
fn a_volume_that_is_not_read_only_is_refused_with_the_mend() {
    let scene = Scene::start().unwrap();
    let mut pod = pod("web-0");
    pod.read_only = false;
    let token = scene.bed.token(&pod).unwrap();
    let status = scene.refused(&pod, AUDIENCE, &token).unwrap();
    assert!(
        status.message().contains("readOnly: true"),
        "{}",
        status.message()
    );
}

/// E1: grants are keyed on the token's identity, and what is absent reads like what is not granted.
#[test]
fn absent_and_not_granted_read_the_same() {
    let scene = Scene::start().unwrap();
    scene.put("payments/other", &[("a", "1")]).unwrap();
    let line = |secret: &str| {
        let pod = Pod::new(
            "shop",
            &format!("web-{}", secret.replace('/', "-")),
            "web",
            NODE,
            secret,
        );
        let token = scene.bed.token(&pod).unwrap();
        let status = scene.refused(&pod, AUDIENCE, &token).unwrap();
        assert_eq!(status.code(), Code::PermissionDenied);
        status.message().replace(secret, "SECRET")
    };
    let (there, absent) = (line("payments/other"), line("payments/nothing"));
    let words = |line: &str| {
        line.split_once("): ")
            .map(|(_, rest)| rest.split(';').next().unwrap_or("").to_owned())
            .unwrap()
    };
    assert_eq!(words(&there), words(&absent), "{there}\n{absent}");
    assert!(
        there.contains("no grant lets local/shop/web/app read SECRET"),
        "{there}"
    );

    let other = Pod::new("bank", "web-0", "web", NODE, "payments/db");
    let token = scene.bed.token(&other).unwrap();
    let status = scene.refused(&other, AUDIENCE, &token).unwrap();
    assert!(
        status.message().contains("local/bank/web/app"),
        "{}",
        status.message()
    );
}

/// The line in the pod's events is one event only if it is the same line.
#[test]
fn a_refusal_is_one_line_and_the_same_on_each_retry() {
    let scene = Scene::start().unwrap();
    let pod = Pod::new("shop", "batch-0", "batch", NODE, "payments/db");
    let lines: Vec<String> = (0..3)
        .map(|_| {
            let token = scene.bed.token(&pod).unwrap();
            scene
                .refused(&pod, AUDIENCE, &token)
                .unwrap()
                .message()
                .to_owned()
        })
        .collect();
    assert!(lines.iter().all(|l| l == &lines[0]), "{lines:#?}");
    assert!(!lines[0].contains('\n') && lines[0].len() <= 1024);
    let decision = lines[0]
        .split("decision ")
        .nth(1)
        .and_then(|r| r.get(..8))
        .expect("a decision id")
        .to_owned();
    let why = scene
        .bed
        .attache_ok(&["why", &decision, "--output", "json"])
        .unwrap();
    assert!(why.contains("batch"), "{why}");
    let audit = scene.audit().unwrap();
    assert_eq!(
        audit.matches(&decision).count(),
        1,
        "three refusals, one leaf: {audit}"
    );
}
