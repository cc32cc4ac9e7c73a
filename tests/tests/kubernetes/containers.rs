//! A volume is one container's: whatever else of a pod would reach its files is refused, in each list of containers, also when
//! it comes later.

use std::{thread, time::Duration};

use anyhow::{Result, anyhow};
use attache_tests::{
    kubernetes::{
        Caller, Namespace,
        caller::{AUDIENCE, pod_of},
        cluster::NODES,
        namespace::{asking_for, sleeper},
        stage::{cluster, granted_namespace, installation},
    },
    pod::{Pod, merge},
    process::until,
};
use serde_json::{Value, json};

/// A container `other`, which differs by `bend` from one that the guard rails let pass.
fn other(bend: &Value) -> Value {
    let mut container = sleeper();
    merge(&mut container, &json!({ "name": "other" }));
    merge(&mut container, bend);
    container
}

/// A mount of the pod's volume.
fn mounting() -> Value {
    json!({ "volumeMounts": [{ "name": "secrets", "mountPath": "/secrets", "readOnly": true }] })
}

/// A pod that asks for a secret and differs by `bend` from one that gets it.
fn bent(bend: &Value) -> Value {
    let mut spec = asking_for("payments/db");
    merge(&mut spec, bend);
    spec
}

/// A pod with the container `other` beside the one that the volume is for.
fn beside(container: &Value) -> Value {
    let mut spec = asking_for("payments/db");
    let both = json!([spec.pointer("/containers/0"), other(container)]);
    merge(&mut spec, &json!({ "containers": both }));
    spec
}

/// Makes all these pods at once; each is refused, in the line that goes with it.
fn each_refused(namespace: &Namespace, cases: &[(&str, Value, &str)]) -> Result<()> {
    thread::scope(|scope| {
        let events = cases
            .iter()
            .map(|(name, spec, _)| scope.spawn(|| namespace.refused_pod(name, spec)));
        let events: Vec<_> = events.collect();
        for ((name, _, line), event) in cases.iter().zip(events) {
            let event = event.join().map_err(|_| anyhow!("{name} panicked"))??;
            assert!(
                event.message.contains(&format!("): {line}; an operator")),
                "{name}: {event:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_volume_that_a_container_of_another_list_mounts_besides_is_refused() -> Result<()> {
    let namespace = granted_namespace("containers-lists")?;
    let both = "containers main and other both mount volume secrets; exactly one may (name it in volumeAttributes.container)";
    let restartable = merged(mounting(), &json!({ "restartPolicy": "Always" }));
    let mut for_another = beside(&json!({}));
    for_another["volumes"][0]["csi"]["volumeAttributes"]["container"] = json!("other");
    let mut part = asking_for("payments/db");
    part["containers"][0]["volumeMounts"][0]["subPath"] = json!("db");
    each_refused(
        &namespace,
        &[
            ("sibling", beside(&mounting()), both),
            (
                "init",
                bent(&json!({ "initContainers": [other(&mounting())] })),
                both,
            ),
            (
                "restartable",
                bent(&json!({ "initContainers": [other(&restartable)] })),
                both,
            ),
            (
                "for-another",
                for_another,
                "container main mounts volume secrets, which is for container other alone (volumeAttributes.container)",
            ),
            (
                "part",
                part,
                "container main mounts volume secrets with subPath, which never updates; mount the whole volume",
            ),
        ],
    )
}

#[test]
fn a_pod_in_which_others_reach_the_containers_files_is_refused() -> Result<()> {
    let namespace = granted_namespace("containers-reach")?;
    let adding = |capability: &str| json!({ "securityContext": { "capabilities": { "add": [capability] } } });
    let privileged =
        json!({ "securityContext": { "privileged": true, "allowPrivilegeEscalation": true } });
    let folders = json!([
        asking_for("payments/db")["volumes"][0],
        { "name": "host", "hostPath": { "path": "/var/lib" } },
    ]);
    let shared = |setting: &str| {
        format!(
            "the pod sets {setting}: other processes could read the container's files; remove it"
        )
    };
    let (processes, machine) = (shared("shareProcessNamespace"), shared("hostPID"));
    let is_privileged = "container other is privileged; remove securityContext.privileged";
    each_refused(
        &namespace,
        &[
            (
                "share",
                bent(&json!({ "shareProcessNamespace": true })),
                &processes,
            ),
            ("host", bent(&json!({ "hostPID": true })), &machine),
            ("privileged", beside(&privileged), is_privileged),
            (
                "privileged-init",
                bent(&json!({ "initContainers": [other(&privileged)] })),
                is_privileged,
            ),
            (
                "ptrace",
                beside(&adding("SYS_PTRACE")),
                "container other adds the capability SYS_PTRACE; remove it from securityContext.capabilities.add",
            ),
            (
                "folders",
                bent(&json!({ "volumes": folders })),
                "the pod has the hostPath volume \"/var/lib\", which holds the volumes of all pods; remove it",
            ),
        ],
    )
}

/// What of a pod's volume its containers read, and what the plugin says is wrong with it, once it was asked for anew.
fn refreshed(
    caller: &Caller<'_>,
    namespace: &Namespace,
    pod: &Pod,
) -> Result<(String, Option<String>)> {
    let token = namespace.token(AUDIENCE, Some(&pod.name))?;
    caller.publish(pod, &token)?;
    let read = namespace.shell(&pod.name, "cat /secrets/*/password")?;
    Ok((read, caller.trouble(pod)?))
}

/// Kubelet shares the live volume with it, and asks nobody: what the volume holds then, it reads. No more.
#[test]
fn an_ephemeral_container_that_mounts_the_volume_or_enters_its_container_ends_what_is_released()
-> Result<()> {
    let namespace = granted_namespace("containers-later")?;
    let installation = installation();
    let put = |value: &str| {
        let value = format!("password={value}");
        installation.attache_ok(&["secret", "put", "payments/later", "--literal", &value])
    };
    put("old")?;
    let to = "local/containers-later/default/main";
    installation.attache_ok(&[
        "grant",
        "add",
        "containers-later-own",
        "payments/later",
        "--to",
        to,
    ])?;
    let mut spec = asking_for("payments/later");
    merge(&mut spec, &json!({ "nodeName": NODES[0] }));
    let start = |name: &str| pod_of(&namespace.start_pod(name, &spec)?);
    let (untouched, mounted, entered) = (start("untouched")?, start("mounted")?, start("entered")?);
    namespace.debug_pod("mounted", &other(&mounting()))?;
    namespace.debug_pod("entered", &other(&json!({ "targetContainerName": "main" })))?;

    let caller = Caller::on(&cluster().nodes[0])?;
    let both = "containers main and other both mount volume secrets";
    let targets = "ephemeral container other targets container main and could read its files; start the pod anew";
    let until_refused = |pod: &Pod, why: &str| {
        until(Duration::from_secs(60), why, || {
            let (read, trouble) = refreshed(&caller, &namespace, pod).ok()?;
            trouble.filter(|told| told.contains(why)).map(|_| read)
        })
    };
    // The broker has known the pod without it for some seconds.
    until_refused(&mounted, both)?;
    until_refused(&entered, targets)?;
    put("new")?;
    until(
        Duration::from_secs(60),
        "the other pod has the new value",
        || {
            let (read, trouble) = refreshed(&caller, &namespace, &untouched).ok()?;
            (read == "new" && trouble.is_none()).then_some(())
        },
    )?;
    for (pod, why) in [(&mounted, both), (&entered, targets)] {
        let read = until_refused(pod, why)?;
        assert_eq!(read, "old", "{}: the live mount stays as it was", pod.name);
    }
    let look = [
        "exec",
        "-n",
        &namespace.name,
        "mounted",
        "-c",
        "other",
        "--",
        "cat",
        "/secrets/later/password",
    ];
    assert_eq!(cluster().kubectl().run(&look)?, "old");

    // Nor is it mounted anew: kubelet, which would at its next look, is told the same.
    let token = namespace.token(AUDIENCE, Some("mounted"))?;
    caller.unpublish(&mounted)?;
    let status = caller.refused(&mounted, &token)?;
    assert!(status.message().contains(both), "{status:?}");
    assert_eq!(cluster().nodes[0].volumes_of(&mounted.uid)?, [""; 0]);
    Ok(())
}

fn merged(mut value: Value, more: &Value) -> Value {
    merge(&mut value, more);
    value
}
