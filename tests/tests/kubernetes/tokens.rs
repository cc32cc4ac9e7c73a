//! A token opens the volume of its own pod, on its own node, while that pod is wanted: shown at the CSI sockets of the nodes by
//! a caller who is root there, and by kubelet itself for what a pod's author can plant.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use attache_broker::attest::facts::POD_KNOWN_FOR;
use attache_tests::{
    kubelet::TOKENS,
    kubernetes::{
        Caller,
        caller::{AUDIENCE, pod_of, pod_that_kubelet_leaves},
        cluster::NODES,
        namespace::{asking_for, stubborn},
        stage::{PASSWORD, cluster, granted_namespace},
    },
    pod::merge,
    process::until,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64URL};
use serde_json::{Value, json};

/// The audience of tokens for the API server.
const API: &str = "https://kubernetes.default.svc.cluster.local";

/// The token with other claims, signed by the API server's own key.
fn signed_anew(token: &str, change: &Value) -> Result<String> {
    let mut parts = token.split('.');
    let header = parts.next().context("a header")?;
    let mut claims: Value =
        serde_json::from_slice(&B64URL.decode(parts.next().context("claims")?)?)?;
    merge(&mut claims, change);
    let signed = format!("{header}.{}", B64URL.encode(claims.to_string()));
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(cluster().control_plane.token_key())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = openssl.stdin.take().context("a pipe")?;
    stdin.write_all(signed.as_bytes())?;
    drop(stdin);
    let output = openssl.wait_with_output()?;
    ensure!(output.status.success(), "openssl signed nothing");
    Ok(format!("{signed}.{}", B64URL.encode(output.stdout)))
}

#[test]
fn only_its_own_token_opens_the_volume_of_a_pod_and_only_on_its_node() -> Result<()> {
    let namespace = granted_namespace("tokens-own")?;
    let pod = pod_that_kubelet_leaves(&namespace, "web", NODES[0])?;
    pod_that_kubelet_leaves(&namespace, "sibling", NODES[0])?;
    pod_that_kubelet_leaves(&namespace, "elsewhere", NODES[1])?;
    let mut ghostly = asking_for("payments/db");
    merge(&mut ghostly, &json!({ "nodeName": "ghost" }));
    let ghostly = namespace.create_object("Pod", "ghostly", &json!({ "spec": ghostly }))?;
    let ghostly = pod_of(&ghostly)?;
    let token = |audience, pod| namespace.token(audience, Some(pod));
    let own = token(AUDIENCE, "web")?;
    // No API server makes one that has expired, and none makes one of less than ten minutes.
    let expired = signed_anew(
        &own,
        &json!({ "iat": 1_700_000_000, "nbf": 1_700_000_000, "exp": 1_700_000_600 }),
    )?;
    let cases = [
        (&pod, token(API, "web")?, "another audience"),
        (&pod, namespace.token(AUDIENCE, None)?, "not bound to a pod"),
        (&pod, expired, "the token has expired"),
        (
            &pod,
            token(AUDIENCE, "sibling")?,
            "is not that of the pod's token",
        ),
        (&pod, token(AUDIENCE, "elsewhere")?, "names another node"),
        // Its node was missing when it was minted: it has a name and no uid.
        (
            &ghostly,
            token(AUDIENCE, "ghostly")?,
            "to a node with its uid",
        ),
    ];
    let [first, second] = &cluster().nodes;
    let caller = Caller::on(first)?;
    for (pod, token, why) in &cases {
        let status = caller.refused(pod, token)?;
        assert!(status.message().contains(why), "{why}: {status:?}");
        assert!(!status.message().contains(token.as_str()), "{why}");
        assert_eq!(first.volumes_of(&pod.uid)?, [""; 0], "{why}");
    }
    // Node B asks for node A's pod, with A's token.
    let status = Caller::on(second)?.refused(&pod, &own)?;
    assert!(
        status.message().contains("names another node"),
        "{status:?}"
    );
    assert_eq!(second.volumes_of(&pod.uid)?, [""; 0]);

    // The control: nothing but the token was wrong, and the harness signs as the API server does.
    caller.prepare(&pod)?;
    for token in [signed_anew(&own, &json!({}))?, own] {
        caller.publish(&pod, &token)?;
        assert_eq!(first.volumes_of(&pod.uid)?.len(), 1);
        caller.unpublish(&pod)?;
    }
    Ok(())
}

/// S6: TokenReview goes on accepting for the whole grace period, and a minute more.
#[test]
fn a_pod_being_deleted_keeps_its_files_and_gets_no_release_within_its_grace_period() -> Result<()> {
    let namespace = granted_namespace("tokens-deleted")?;
    let mut spec = stubborn("payments/db");
    merge(
        &mut spec,
        &json!({ "nodeName": NODES[0], "terminationGracePeriodSeconds": 3600 }),
    );
    let pod = pod_of(&namespace.start_pod("web", &spec)?)?;
    let token = namespace.token(AUDIENCE, Some("web"))?;
    let node = &cluster().nodes[0];
    let caller = Caller::on(node)?;
    caller.publish(&pod, &token)?;
    let deleted = Instant::now();
    namespace.delete_pod("web", &["--wait=false"])?;
    // The mount is there, so the answer is OK; what the broker said to it is the volume's condition.
    let trouble = until(Duration::from_secs(60), "a refresh is refused", || {
        caller.publish(&pod, &token).ok()?;
        caller.trouble(&pod).ok()?
    })?;
    let after = deleted.elapsed();
    println!(
        "{} ms from the deletion to the first refusal",
        after.as_millis()
    );
    assert!(trouble.contains("the pod is being deleted"), "{trouble}");
    assert!(after <= POD_KNOWN_FOR + Duration::from_secs(5), "{after:?}");
    assert_eq!(
        namespace.shell("web", "cat /secrets/db/password")?,
        PASSWORD
    );

    // Without the mount: no new one, by no token.
    caller.unpublish(&pod)?;
    for token in [token, namespace.token(AUDIENCE, Some("web"))?] {
        let status = caller.refused(&pod, &token)?;
        assert!(
            status.message().contains("the pod is being deleted"),
            "{status:?}"
        );
        assert_eq!(node.volumes_of(&pod.uid)?, [""; 0]);
    }
    namespace.shell("web", "kill -USR1 1")?;
    namespace.wait_for("pod/web", "delete")
}

/// A pod's author may write kubelet's own key; kubelet leaves it, as the real tokens come in `secrets`.
#[test]
fn a_token_forged_into_volume_attributes_is_refused_be_it_good_or_not() -> Result<()> {
    let namespace = granted_namespace("tokens-forged")?;
    // A good one, of a pod that may have the secret.
    namespace.start_pod("granted", &asking_for("payments/db"))?;
    let good = namespace.token(AUDIENCE, Some("granted"))?;
    let good =
        json!({ AUDIENCE: { "token": good, "expirationTimestamp": "2100-01-01T00:00:00Z" } });
    for (name, planted) in [("good", good.to_string()), ("bad", "{}".to_owned())] {
        let mut spec = asking_for("payments/db");
        spec["volumes"][0]["csi"]["volumeAttributes"][TOKENS] = json!(planted);
        let event = namespace.refused_pod(name, &spec)?;
        let line = format!(
            "volume_context[{TOKENS}] stands beside the tokens in secrets and is not kubelet's; remove it from volumeAttributes"
        );
        assert!(event.message.ends_with(&line), "{event:?}");
        assert!(!event.message.contains(&planted), "{event:?}");
        let pod = namespace.get("pod", name)?;
        let node = cluster().node(pod["spec"]["nodeName"].as_str().context("a node")?)?;
        let uid = pod["metadata"]["uid"].as_str().context("a uid")?;
        assert_eq!(node.volumes_of(uid)?, [""; 0], "{name}");
    }
    Ok(())
}
