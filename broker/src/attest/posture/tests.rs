//! Tests of users, groups and excesses.

use serde_json::{Value, json};

use super::super::testdata::pod;
use super::*;

fn with(changes: &[(&str, Value)]) -> PodObject {
    let mut pod = pod();
    for (path, value) in changes {
        let (parent, last) = path.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[last] = value.clone();
    }
    serde_json::from_value(pod).unwrap()
}

fn posture(changes: &[(&str, Value)]) -> Result<Posture, PublicReason> {
    let pod = with(changes);
    resolve(&pod, &pod.containers[0])
}

const CONTAINER: &str = "/spec/containers/0/securityContext";
const POD: &str = "/spec/securityContext";

#[test]
fn the_container_goes_before_the_pod() {
    for (container, pod, expected) in [
        (
            json!({"runAsUser": 7, "runAsGroup": 8}),
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3}),
            (7, Some(8)),
        ),
        (
            json!({"runAsUser": 7}),
            json!({"runAsGroup": 2, "fsGroup": 3}),
            (7, Some(2)),
        ),
        (json!({"runAsUser": 7}), json!({"fsGroup": 3}), (7, Some(3))),
        (json!({}), json!({"runAsUser": 1}), (1, None)),
        (
            Value::Null,
            json!({"runAsUser": 1, "fsGroup": 0}),
            (1, Some(0)),
        ),
        (json!({"runAsUser": 0}), json!({"runAsUser": 1}), (0, None)),
    ] {
        let owner = posture(&[(CONTAINER, container), (POD, pod)])
            .unwrap()
            .owner;
        assert_eq!((owner.uid, owner.gid), expected);
    }
}

#[test]
fn without_a_numeric_user_the_mend_is_named() {
    for context in [
        Value::Null,
        json!({}),
        json!({"runAsGroup": 1}),
        json!({"runAsNonRoot": true}),
    ] {
        let refused = posture(&[(CONTAINER, context)]).unwrap_err();
        assert_eq!(
            refused.line(),
            "container app sets no numeric user; set securityContext.runAsUser"
        );
    }
}

#[test]
fn root_is_user_0_of_the_machine() {
    let non_root = |user: u32, host_users: Value| {
        let changes = [
            (CONTAINER, json!({"runAsUser": user})),
            ("/spec/hostUsers", host_users),
        ];
        posture(&changes).unwrap().is_non_root()
    };
    assert!(non_root(1000, Value::Null));
    assert!(!non_root(0, Value::Null));
    assert!(!non_root(0, json!(true)));
    assert!(non_root(0, json!(false)), "a user namespace of its own");
}

#[test]
fn a_mode_for_a_group_needs_one() {
    let owner = |gid| Owner { uid: 1000, gid };
    let container = "app".parse().unwrap();
    let wanted = |mode| WantedFiles {
        wanted: vec![super::super::files::Wanted {
            reference: "payments/db".parse().unwrap(),
            place: super::super::files::Place::Folder,
            optional: false,
        }],
        mode,
    };
    assert!(check_group(&wanted(Mode::Owner), owner(None), &container).is_ok());
    assert!(check_group(&wanted(Mode::OwnerAndGroup), owner(Some(0)), &container).is_ok());
    let refused = check_group(&wanted(Mode::OwnerAndGroup), owner(None), &container).unwrap_err();
    assert_eq!(
        refused.line(),
        "mode 0440 is for a group, and container app has none; set securityContext.runAsGroup or the pod's fsGroup, or mode \"0400\""
    );
}

#[test]
fn i4_an_excess_of_any_container_counts() {
    let add = |name: &str| json!({"runAsUser": 1, "capabilities": {"add": [name]}});
    for (path, context, says) in [
        (
            CONTAINER,
            json!({"runAsUser": 1, "privileged": true}),
            "container app is privileged; remove securityContext.privileged",
        ),
        (
            CONTAINER,
            add("SYS_ADMIN"),
            "container app adds the capability SYS_ADMIN; remove it from securityContext.capabilities.add",
        ),
        (
            CONTAINER,
            add("CAP_SYS_PTRACE"),
            "container app adds the capability SYS_PTRACE; remove it from securityContext.capabilities.add",
        ),
        (
            CONTAINER,
            add("sys_ptrace"),
            "container app adds the capability SYS_PTRACE; remove it from securityContext.capabilities.add",
        ),
        (
            CONTAINER,
            add("all"),
            "container app adds the capability ALL; remove it from securityContext.capabilities.add",
        ),
        (
            CONTAINER,
            json!({"runAsUser": 1, "procMount": "Unmasked"}),
            "container app has an unmasked /proc; remove securityContext.procMount",
        ),
        (
            "/spec/containers/1/securityContext",
            json!({"privileged": true}),
            "container sidecar is privileged; remove securityContext.privileged",
        ),
        (
            "/spec/initContainers/0/securityContext",
            add("BPF"),
            "container setup adds the capability BPF; remove it from securityContext.capabilities.add",
        ),
        (
            "/spec/ephemeralContainers",
            json!([{"name": "debug", "securityContext": {"privileged": true}}]),
            "container debug is privileged; remove securityContext.privileged",
        ),
    ] {
        let posture = posture(&[(path, context)]).unwrap();
        assert!(!posture.is_unprivileged());
        assert_eq!(posture.excess.unwrap().to_string(), says);
    }
    for harmless in [
        add("NET_BIND_SERVICE"),
        add("CHOWN"),
        json!({"runAsUser": 1, "procMount": "Default"}),
        json!({"runAsUser": 1, "allowPrivilegeEscalation": true}),
    ] {
        assert!(posture(&[(CONTAINER, harmless)]).unwrap().is_unprivileged());
    }
}

#[test]
fn a_host_path_that_reaches_kubelets_volumes_is_an_excess() {
    for (path, reaches) in [
        ("/", true),
        ("/var", true),
        ("/var/lib/", true),
        ("//var//lib/./kubelet", true),
        ("/var/lib/kubelet/pods", true),
        ("/srv/../var/lib/kubelet", true),
        ("", true),
        ("/var/lib/kubelets", false),
        ("/var/log", false),
        ("/etc/ssl", false),
    ] {
        let volumes = json!([{"name": "host", "hostPath": {"path": path}}]);
        let posture = posture(&[("/spec/volumes", volumes)]).unwrap();
        assert_eq!(!posture.is_unprivileged(), reaches, "{path:?}");
        if let Some(excess) = posture.excess {
            let shown = Quoted::new(path);
            assert_eq!(
                excess.to_string(),
                format!(
                    "the pod has the hostPath volume {shown}, which holds the volumes of all pods; remove it"
                )
            );
        }
    }
}

#[test]
fn privilege_escalation_is_a_fact_with_kubernetes_default() {
    let escalates = |context| {
        posture(&[(CONTAINER, context)])
            .unwrap()
            .privilege_escalation
    };
    assert!(escalates(json!({"runAsUser": 1})));
    assert!(escalates(
        json!({"runAsUser": 1, "allowPrivilegeEscalation": true})
    ));
    assert!(!escalates(
        json!({"runAsUser": 1, "allowPrivilegeEscalation": false})
    ));
}
