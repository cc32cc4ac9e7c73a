//! What each container of the chart has, and how kubelet is to treat the driver.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{ALL, NEW, OLD, at, containers, list, name, objects, pods, rendered, template, text};

/// The security context of each container, its pod's taken in.
fn contexts(objects: &[Value]) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for (owner, pod) in pods(objects) {
        for container in containers(pod) {
            let mut context = json!({});
            for part in [
                at(pod, "/securityContext"),
                at(container, "/securityContext"),
            ] {
                let part = part.as_object().cloned().unwrap_or_default();
                context.as_object_mut().unwrap().extend(part);
            }
            found.insert(format!("{owner}/{}", text(container, "/name")), context);
        }
    }
    found
}

#[test]
fn the_mounter_alone_is_privileged_and_everyone_else_has_nothing() {
    let unprivileged = |user: u32| {
        json!({
            "runAsUser": user,
            "runAsGroup": user,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    };
    let mut broker = unprivileged(4841);
    broker["fsGroup"] = json!(4841);
    broker["fsGroupChangePolicy"] = json!("OnRootMismatch");
    let mounter = json!({
        "privileged": true,
        "runAsUser": 0,
        "runAsGroup": 0,
        "readOnlyRootFilesystem": true,
    });
    let expected = [
        ("StatefulSet/attache-broker/init", broker.clone()),
        ("StatefulSet/attache-broker/broker", broker),
        ("DaemonSet/attache-node-plugin/agent", unprivileged(4840)),
        ("DaemonSet/attache-node-plugin/mounter", mounter),
        ("Job/attache-uninstall-check/check", unprivileged(4841)),
    ];
    let expected: BTreeMap<String, Value> = expected
        .into_iter()
        .map(|(name, it)| (name.to_owned(), it))
        .collect();
    for values in [&[][..], &ALL] {
        assert_eq!(contexts(&objects(&NEW, values)), expected);
    }
}

#[test]
fn no_pod_is_in_a_namespace_of_its_host_and_only_who_asks_the_api_server_has_a_token_for_it() {
    for (owner, pod) in pods(&objects(&NEW, &ALL)) {
        for shared in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
            assert!(
                at(pod, &format!("/{shared}")).is_null(),
                "{owner}: {shared}"
            );
        }
        let token = at(pod, "/automountServiceAccountToken");
        assert_eq!(
            *token,
            json!(owner != "DaemonSet/attache-node-plugin"),
            "{owner}"
        );
    }
}

#[test]
fn each_container_reaches_only_the_folders_that_it_works_on() {
    let objects = objects(&NEW, &ALL);
    let mut mounts = BTreeMap::new();
    let mut hosts = BTreeSet::new();
    for (owner, pod) in pods(&objects) {
        let volumes = list(pod, "/volumes").iter();
        hosts.extend(volumes.filter_map(|volume| {
            Some(format!(
                "{owner}: {}",
                volume.pointer("/hostPath/path")?.as_str()?
            ))
        }));
        for container in containers(pod) {
            let paths = list(container, "/volumeMounts").iter().map(|mount| {
                let propagation = text(mount, "/mountPropagation");
                let read_only = at(mount, "/readOnly").as_bool() == Some(true);
                let how = if read_only { " read-only" } else { "" };
                format!("{}{how}{propagation}", text(mount, "/mountPath"))
            });
            let paths: BTreeSet<String> = paths.collect();
            mounts.insert(text(container, "/name").to_owned(), paths);
        }
    }
    let is = |paths: &[&str]| {
        paths
            .iter()
            .map(|it| (*it).to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(
        mounts["mounter"],
        is(&[
            "/etc/attache/node-plugin.toml read-only",
            "/run/attache",
            "/var/lib/attache-node",
            "/var/lib/kubelet/podsBidirectional",
            "/var/lib/kubelet/plugins/csi.attache.dev",
            "/var/lib/kubelet/plugins_registry",
        ])
    );
    assert_eq!(
        mounts["agent"],
        is(&[
            "/etc/attache/node-plugin.toml read-only",
            "/run/attache",
            "/run/attache-agent",
            "/var/lib/attache-node",
            "/var/run/attache/enroll read-only",
            "/var/run/attache/trust read-only",
        ])
    );
    let broker = is(&[
        "/etc/attache/broker.toml read-only",
        "/etc/attache/passphrase/passphrase read-only",
        "/etc/attache/slot/slot.key read-only",
        "/run/attache-broker",
        "/run/attache-kms read-only",
        "/var/lib/attache",
    ]);
    assert_eq!((&mounts["broker"], &mounts["init"]), (&broker, &broker));
    assert_eq!(mounts["check"], is(&[]));
    assert_eq!(
        hosts,
        is(&[
            "DaemonSet/attache-node-plugin: /var/lib/attache-node",
            "DaemonSet/attache-node-plugin: /var/lib/kubelet/pods",
            "DaemonSet/attache-node-plugin: /var/lib/kubelet/plugins/csi.attache.dev",
            "DaemonSet/attache-node-plugin: /var/lib/kubelet/plugins_registry",
            "StatefulSet/attache-broker: /run/kms/plugin",
        ])
    );
}

#[test]
fn the_broker_is_told_of_what_opens_its_store_and_of_nothing_that_is_not_there() {
    let all = rendered(&NEW, &ALL);
    for setting in [
        r#"passphrase_file = "/etc/attache/passphrase/passphrase""#,
        r#"kms_socket = "/run/attache-kms/kms.sock""#,
    ] {
        assert!(all.contains(setting), "{setting}");
    }
    let none = rendered(&NEW, &[]);
    for absent in ["passphrase", "kms"] {
        assert!(!none.contains(absent), "{absent}: {none}");
    }
    // A folder of all kinds of sockets is no plugin's own.
    for wrong in [
        "kms.sock",
        "/kms.sock",
        "/run/kms/",
        "/run/kms.sock",
        "/var/run/kms.sock",
        "/run/kms/../docker.sock",
    ] {
        let value = format!("broker.slot.kmsSocket={wrong}");
        assert!(!template(&NEW, &[&value]).status.success(), "{wrong}");
    }
}

/// A sealed broker is not ready, and is opened through its Service; one that cannot release is mended through it.
#[test]
fn the_broker_is_reached_through_its_service_also_when_it_is_not_ready() {
    for values in [&[][..], &ALL] {
        let objects = objects(&NEW, values);
        let services = objects.iter().filter(|it| text(it, "/kind") == "Service");
        let services: Vec<_> = services.collect();
        let [service] = services[..] else {
            panic!("one Service: {services:?}")
        };
        assert_eq!(text(service, "/metadata/name"), "attache-broker");
        assert_eq!(*at(service, "/spec/publishNotReadyAddresses"), json!(true));
        let find = |it: &&Value| name(it) == "StatefulSet/attache-broker";
        let broker = at(objects.iter().find(find).unwrap(), "/spec/template");
        let labels = at(broker, "/metadata/labels");
        let selector = at(service, "/spec/selector").as_object().unwrap();
        assert!(!selector.is_empty());
        for (label, value) in selector {
            assert_eq!(labels[label], *value, "{label}");
        }
        // The one for those without a certificate, `enroll`, is where a sealed broker is opened.
        let named = |value, pointer, by| {
            let ports = list(value, pointer).iter();
            ports.map(|it| text(it, by)).collect::<Vec<_>>()
        };
        let targets = named(service, "/spec/ports", "/targetPort");
        assert_eq!(targets, ["grpc", "enroll", "metrics"]);
        assert_eq!(named(broker, "/spec/containers/0/ports", "/name"), targets);
    }
}

#[test]
fn kubelets_folder_is_the_same_wherever_it_is_named() {
    let elsewhere = rendered(&NEW, &["kubeletDir=/var/lib/k0s/kubelet"]);
    assert!(!elsewhere.contains("/var/lib/kubelet"), "{elsewhere}");
    assert!(elsewhere.contains("/var/lib/k0s/kubelet/plugins/csi.attache.dev/kubelet@csi.sock"));
}

#[test]
fn the_driver_is_registered_as_kubelet_must_treat_it() {
    let driver = |cluster: &[&str]| {
        let objects = objects(cluster, &[]);
        let found = objects.iter().find(|it| text(it, "/kind") == "CSIDriver");
        found.unwrap().clone()
    };
    let mut spec = json!({
        "attachRequired": false,
        "volumeLifecycleModes": ["Ephemeral"],
        "storageCapacity": false,
        "podInfoOnMount": true,
        "tokenRequests": [{"audience": "attache", "expirationSeconds": 3600}],
        "requiresRepublish": true,
        "fsGroupPolicy": "None",
        "seLinuxMount": false,
    });
    assert_eq!(driver(&OLD)["spec"], spec);
    spec["serviceAccountTokenInSecrets"] = json!(true);
    let new = driver(&NEW);
    assert_eq!(new["spec"], spec);
    assert_eq!(new["metadata"]["name"], "csi.attache.dev");
    let profile = &new["metadata"]["labels"]["security.openshift.io/csi-ephemeral-volume-profile"];
    assert_eq!(profile, "restricted");
}

#[test]
fn two_plugins_never_stand_on_one_node_and_the_data_volume_outlives_the_chart() {
    let objects = objects(&NEW, &ALL);
    let find = |wanted: &str| objects.iter().find(|it| name(it) == wanted).unwrap();
    let plugin = find("DaemonSet/attache-node-plugin");
    let update = at(plugin, "/spec/updateStrategy/rollingUpdate");
    assert_eq!(*update, json!({"maxSurge": 0, "maxUnavailable": 1}));
    let kept = at(
        find("StatefulSet/attache-broker"),
        "/spec/persistentVolumeClaimRetentionPolicy",
    );
    assert_eq!(
        *kept,
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    let namespace = find("Namespace/attache-system");
    assert_eq!(
        namespace["metadata"]["annotations"]["helm.sh/resource-policy"],
        "keep"
    );
    let level = "pod-security.kubernetes.io/enforce";
    assert_eq!(namespace["metadata"]["labels"][level], "privileged");
}
