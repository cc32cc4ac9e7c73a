//! Who is not to have a secret is told so in the pod's events: in one line, that is one event however often it is said.

use anyhow::Result;
use attache_tests::{
    kubernetes::{
        Namespace,
        namespace::{asking_for, sleeper},
        stage::{granted_namespace, installation, namespace},
    },
    pod::merge,
};
use serde_json::{Value, json};

/// The line that a pod gets; the one that tells of a refusal, with a count.
fn line(namespace: &Namespace, pod: &str, spec: &Value) -> Result<String> {
    let event = namespace.refused_pod(pod, spec)?;
    let failed: Vec<_> = namespace
        .events(pod)?
        .into_iter()
        .filter(|event| event.reason == "FailedMount")
        .collect();
    assert_eq!(failed.len(), 1, "one event: {failed:#?}");
    assert!(!event.message.contains('\n'), "one line: {event:?}");
    let (_, line) = event.message.split_once(" desc = ").unwrap_or_default();
    Ok(line.to_owned())
}

/// A line of a denial, without its decision.
fn denied(line: &str, why: &str) {
    let rest = line.strip_prefix("attache: denied (decision ");
    let told = rest
        .and_then(|rest| rest.split_once("): "))
        .map(|(_, rest)| rest);
    assert!(told.is_some_and(|told| told.contains(why)), "{line}");
}

#[test]
fn without_a_grant_in_another_namespace_and_as_another_service_account_a_pod_is_told_the_same()
-> Result<()> {
    installation();
    let other = namespace("refusals-none")?;
    let line_of_none = line(&other, "web", &asking_for("payments/db"))?;
    denied(
        &line_of_none,
        "no grant lets local/refusals-none/default/main read payments/db",
    );

    let namespace = granted_namespace("refusals-account")?;
    namespace.create_object("ServiceAccount", "other", &json!({}))?;
    let mut spec = asking_for("payments/db");
    merge(&mut spec, &json!({ "serviceAccountName": "other" }));
    denied(
        &line(&namespace, "web", &spec)?,
        "no grant lets local/refusals-account/other/main read payments/db",
    );
    Ok(())
}

#[test]
fn a_secret_that_does_not_exist_reads_like_one_that_is_not_granted() -> Result<()> {
    let namespace = granted_namespace("refusals-unknown")?;
    denied(
        &line(&namespace, "web", &asking_for("payments/nothing"))?,
        "no grant lets local/refusals-unknown/default/main read payments/nothing",
    );
    Ok(())
}

#[test]
fn a_volume_that_is_not_read_only_is_refused_with_the_mend() -> Result<()> {
    let namespace = granted_namespace("refusals-writable")?;
    let mut spec = asking_for("payments/db");
    let mut volume = spec["volumes"][0].clone();
    merge(&mut volume, &json!({ "csi": { "readOnly": false } }));
    merge(&mut spec, &json!({ "volumes": [volume] }));
    let line = line(&namespace, "web", &spec)?;
    assert!(line.contains("readOnly: true"), "{line}");
    Ok(())
}

#[test]
fn a_volume_that_two_containers_mount_is_refused() -> Result<()> {
    let namespace = granted_namespace("refusals-two")?;
    let mut spec = asking_for("payments/db");
    let mut sibling = sleeper();
    let mounts = spec["containers"][0]["volumeMounts"].clone();
    merge(
        &mut sibling,
        &json!({ "name": "sibling", "volumeMounts": mounts }),
    );
    let containers = json!([spec["containers"][0], sibling]);
    merge(&mut spec, &json!({ "containers": containers }));
    let line = line(&namespace, "web", &spec)?;
    assert!(line.contains("sibling"), "{line}");
    Ok(())
}
