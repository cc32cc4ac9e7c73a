//! Tests of the volume and container rules: threat I4, each variant.

use serde_json::{Value, json};

use super::super::testdata::{NODE_UID, POD_UID, node_id, pod, volume_id};
use super::*;
use crate::attest::RefusalKind;

/// Attests the volume of a pod with these changes, as an honest request would.
fn attest(changes: &[(&str, Value)]) -> Result<AttestedWorkload, PublicReason> {
    attest_asking(changes, |_| {})
}

fn attest_asking(
    changes: &[(&str, Value)],
    bend: impl FnOnce(&mut AskedVolume<'_>),
) -> Result<AttestedWorkload, PublicReason> {
    let mut pod = pod();
    for (path, value) in changes {
        let (parent, last) = path.rsplit_once('/').unwrap();
        let parent = pod.pointer_mut(parent).unwrap_or_else(|| panic!("{path}"));
        if let Value::Array(list) = parent {
            list.insert(last.parse().unwrap(), value.clone());
        } else {
            parent[last] = value.clone();
        }
    }
    let pod: PodObject = serde_json::from_value(pod).unwrap();
    let of_pod = pod.volumes.iter().find_map(|volume| match &volume.source {
        VolumeSource::Csi { attributes, .. } => Some(attributes.clone()),
        VolumeSource::HostPath(_) | VolumeSource::Other => None,
    });
    let attributes: HashMap<String, String> = of_pod.unwrap_or_default().into_iter().collect();
    let identity = identity();
    let (cluster, node) = ("local".parse().unwrap(), node_id(NODE_UID));
    let proof = Proof {
        cluster: &cluster,
        node: &node,
        identity: &identity,
    };
    let mut asked = AskedVolume {
        name: "secrets".parse().unwrap(),
        id: volume_id(POD_UID, "secrets").parse().unwrap(),
        attributes: &attributes,
        mount_group: None,
    };
    bend(&mut asked);
    let mut subject = crate::attest::subject(&cluster, &identity, &asked);
    attest_volume(&proof, &pod, asked, &mut subject)
}

fn identity() -> PodIdentity {
    use super::super::testdata::{AUDIENCE, ISSUER, Issuer, claims, now};
    let issuer = Issuer::ed25519();
    let keys = super::super::KeySet::parse(issuer.jwks().to_string().as_bytes()).unwrap();
    let token = super::super::PodToken::new(issuer.mint(&claims()));
    let expected = super::super::Expected {
        issuer: ISSUER,
        audience: AUDIENCE,
    };
    PodIdentity::clone(&super::super::token::verify(&token, &keys, expected, now()).unwrap())
}

fn denied(changes: &[(&str, Value)]) -> String {
    let reason = attest(changes).expect_err("must be denied");
    assert_eq!(reason.kind(), RefusalKind::PermissionDenied, "{reason}");
    reason.line()
}

fn mounts() -> Value {
    json!([{"name": "secrets", "mountPath": "/secrets"}])
}

#[test]
fn a_pod_in_order_is_attested_from_its_own_object() {
    let attested = attest(&[]).unwrap();
    assert_eq!(attested.workload().to_string(), "local/shop/web/app");
    assert_eq!(attested.pod_uid().as_str(), POD_UID);
    assert_eq!(
        (attested.owner().uid, attested.owner().gid),
        (1000, Some(1001))
    );
    assert_eq!(attested.image(), Some("registry.example/web@sha256:00"));
    assert_eq!(
        attested.wanted().wanted()[0].reference.to_string(),
        "payments/db"
    );
    assert_eq!(attested.volume_id().as_str(), volume_id(POD_UID, "secrets"));
}

#[test]
fn an_init_container_may_be_the_one() {
    let attested = attest(&[
        ("/spec/containers/0/volumeMounts", json!([])),
        ("/spec/initContainers/0/volumeMounts", mounts()),
        (
            "/spec/initContainers/0/securityContext",
            json!({"runAsUser": 5}),
        ),
        (
            "/spec/volumes/1/csi/volumeAttributes/container",
            json!("setup"),
        ),
    ]);
    assert_eq!(
        attested.unwrap().workload().to_string(),
        "local/shop/web/setup"
    );
}

#[test]
fn i4_a_second_container_in_any_list_is_denied() {
    let both = |other: &str| {
        format!(
            "containers app and {other} both mount volume secrets; exactly one may (name it in volumeAttributes.container)"
        )
    };
    assert_eq!(
        denied(&[("/spec/containers/1/volumeMounts", mounts())]),
        both("sidecar")
    );
    assert_eq!(
        denied(&[("/spec/initContainers/0/volumeMounts", mounts())]),
        both("setup")
    );
    assert_eq!(
        denied(&[
            ("/spec/initContainers/0/restartPolicy", json!("Always")),
            ("/spec/initContainers/0/volumeMounts", mounts()),
        ]),
        both("setup")
    );
    let debug = json!([{"name": "debug", "volumeMounts": mounts()}]);
    assert_eq!(
        denied(&[("/spec/ephemeralContainers", debug)]),
        both("debug")
    );
    let read_only = json!([{"name": "secrets", "mountPath": "/x", "readOnly": true}]);
    assert_eq!(
        denied(&[("/spec/containers/1/volumeMounts", read_only)]),
        both("sidecar")
    );
}

#[test]
fn i4_only_the_named_container_may_mount_it() {
    let name = "/spec/volumes/1/csi/volumeAttributes/container";
    assert_eq!(
        denied(&[(name, json!("sidecar"))]),
        "container app mounts volume secrets, which is for container sidecar alone (volumeAttributes.container)"
    );
    assert_eq!(
        denied(&[("/spec/containers/0/volumeMounts", json!([]))]),
        "container app does not mount volume secrets; add it to the container's volumeMounts"
    );
    let absent = denied(&[(name, json!("nobody"))]);
    assert!(
        absent.starts_with("the pod has no container nobody that may be given secrets"),
        "{absent}"
    );
}

#[test]
fn i4_an_ephemeral_container_is_never_the_one() {
    let line = denied(&[
        (
            "/spec/volumes/1/csi/volumeAttributes/container",
            json!("debug"),
        ),
        ("/spec/containers/0/volumeMounts", json!([])),
        (
            "/spec/ephemeralContainers",
            json!([{"name": "debug", "securityContext": {"runAsUser": 1}, "volumeMounts": mounts()}]),
        ),
    ]);
    assert!(
        line.starts_with("the pod has no container debug that may be given secrets"),
        "{line}"
    );
}

#[test]
fn i4_shared_processes_are_denied() {
    for (path, setting) in [
        ("/spec/hostPID", "hostPID"),
        ("/spec/shareProcessNamespace", "shareProcessNamespace"),
    ] {
        let line = denied(&[(path, json!(true))]);
        assert_eq!(
            line,
            format!(
                "the pod sets {setting}: other processes could read the container's files; remove it"
            )
        );
        assert!(attest(&[(path, json!(false))]).is_ok());
    }
    let debug = |target: &str| json!([{"name": "debug", "targetContainerName": target}]);
    assert_eq!(
        denied(&[("/spec/ephemeralContainers", debug("app"))]),
        "ephemeral container debug targets container app and could read its files; start the pod anew"
    );
    assert!(attest(&[("/spec/ephemeralContainers", debug("sidecar"))]).is_ok());
}

#[test]
fn a_mount_of_a_part_is_denied() {
    for key in ["subPath", "subPathExpr"] {
        let mounts = json!([{"name": "secrets", "mountPath": "/s"}, {"name": "secrets", "mountPath": "/t", key: "db"}]);
        let line = denied(&[("/spec/containers/0/volumeMounts", mounts)]);
        assert_eq!(
            line,
            "container app mounts volume secrets with subPath, which never updates; mount the whole volume"
        );
        let empty = json!([{"name": "secrets", "mountPath": "/t", key: ""}]);
        assert!(
            attest(&[("/spec/containers/0/volumeMounts", empty)]).is_ok(),
            "an empty {key} is none"
        );
    }
}

#[test]
fn the_volume_is_ours_and_read_only() {
    let none = "the pod has no volume secrets of the driver csi.attache.dev";
    for changes in [
        [("/spec/volumes/1/name", json!("other"))],
        [("/spec/volumes/1/csi/driver", json!("csi.other.dev"))],
        [("/spec/volumes/1/csi/driver", json!("csi.attache.dev "))],
        [("/spec/volumes/1/csi", Value::Null)],
        [("/spec/volumes", Value::Null)],
    ] {
        assert_eq!(denied(&changes), none);
    }
    for read_only in [json!(false), Value::Null] {
        let line = denied(&[("/spec/volumes/1/csi/readOnly", read_only)]);
        assert_eq!(line, "volume secrets is writable; set csi.readOnly: true");
    }
}

#[test]
fn the_volume_id_is_of_this_pod_and_volume() {
    for id in [
        volume_id(POD_UID, "other"),
        volume_id("another-uid", "secrets"),
        format!("csi-{}", "0".repeat(64)),
    ] {
        let refused = attest_asking(&[], |asked| asked.id = id.parse().unwrap());
        assert_eq!(
            refused.unwrap_err().line(),
            "volume_id is not kubelet's handle of volume secrets of this pod"
        );
    }
}

#[test]
fn the_requests_attributes_are_compared_and_never_used() {
    let asking = |pairs: &[(&str, &str)]| {
        let attributes = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let attributes: &'static HashMap<String, String> = Box::leak(Box::new(attributes));
        attest_asking(&[], |asked| asked.attributes = attributes)
    };
    let kubelets = ("csi.storage.k8s.io/pod.name", "web-0");
    assert!(asking(&[("container", "app"), ("secrets", "payments/db"), kubelets]).is_ok());
    for (pairs, named) in [
        (&[("container", "app")][..], "secrets"),
        (&[("secrets", "payments/db")], "container"),
        (&[], "container"),
        (
            &[("container", "sidecar"), ("secrets", "payments/db")],
            "container",
        ),
        (
            &[("container", "app"), ("secrets", "payments/root")],
            "secrets",
        ),
        (
            &[
                ("container", "app"),
                ("secrets", "payments/db"),
                ("mode", "0440"),
            ],
            "mode",
        ),
        (
            &[
                ("container", "app"),
                ("secrets", "payments/root"),
                ("layout", "flat"),
            ],
            "layout",
        ),
    ] {
        let reason = asking(pairs).unwrap_err();
        assert_eq!(reason.kind(), RefusalKind::InvalidArgument);
        assert_eq!(
            reason.line(),
            format!("attributes: \"{named}\" is not what the pod has")
        );
    }
}

#[test]
fn the_mount_group_is_the_pods() {
    let fs_group = [("/spec/securityContext", json!({"fsGroup": 2000}))];
    let with_group = |group| attest_asking(&fs_group, |asked| asked.mount_group = group);
    assert!(with_group(Some(2000)).is_ok());
    assert!(with_group(None).is_ok());
    assert_eq!(with_group(Some(0)).unwrap_err(), PublicReason::MountGroup);
    let refused = attest_asking(&[], |asked| asked.mount_group = Some(2000));
    assert_eq!(refused.unwrap_err(), PublicReason::MountGroup);
}

#[test]
fn a_group_mode_without_a_group_is_refused_with_the_mend() {
    let line = denied(&[
        ("/spec/volumes/1/csi/volumeAttributes/mode", json!("0440")),
        (
            "/spec/containers/0/securityContext",
            json!({"runAsUser": 1000}),
        ),
    ]);
    assert!(
        line.contains("container app has none; set securityContext.runAsGroup"),
        "{line}"
    );
    let line = denied(&[("/spec/containers/0/securityContext", json!({}))]);
    assert_eq!(
        line,
        "container app sets no numeric user; set securityContext.runAsUser"
    );
}
