//! The admission policy at a real API server: what the broker would refuse when a pod starts is refused when it is made.

use attache_tests::{
    kubernetes::{
        ControlPlane, Kubectl,
        namespace::{asking_for, sleeper},
    },
    pod::merge,
    process::{PATIENCE, until},
};
use serde_json::{Value, json};

use crate::{NEW, list, objects, text};

/// An API server with the policy, at work.
fn governed() -> ControlPlane {
    let control_plane = ControlPlane::start().unwrap();
    let kubectl = control_plane.kubectl();
    let account = json!({"namespace": "default", "name": "default"});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account});
    kubectl.create(&account).unwrap();
    let policies = objects(&NEW, &["admissionPolicy.enabled=true"])
        .into_iter()
        .filter(|object| text(object, "/kind").starts_with("ValidatingAdmissionPolicy"));
    for policy in policies {
        kubectl.create(&policy).unwrap();
    }
    // It takes effect a moment after it is made.
    let mut bent = asking_for("payments/db");
    merge(&mut bent, &json!({"hostPID": true}));
    until(PATIENCE, "the policy is at work", || {
        let made = make(&kubectl, "probe", &bent);
        if made.is_ok() {
            kubectl.run(&["delete", "pod", "probe", "--now"]).unwrap();
        }
        made.err()
    })
    .unwrap();
    control_plane
}

fn make(kubectl: &Kubectl, name: &str, spec: &Value) -> Result<Value, String> {
    let metadata = json!({"namespace": "default", "name": name});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    kubectl.create(&pod).map_err(|error| format!("{error:#}"))
}

/// The spec of a pod in order, with the attributes of its volume.
fn with_volume(change: &Value) -> Value {
    let mut spec = asking_for("payments/db");
    let mut volume = list(&spec, "/volumes").first().cloned().unwrap();
    merge(&mut volume, &json!({"csi": change}));
    merge(&mut spec, &json!({"volumes": [volume]}));
    spec
}

/// As [`with_volume`], with changes to the pod.
fn with(change: &Value) -> Value {
    let mut spec = asking_for("payments/db");
    merge(&mut spec, change);
    spec
}

/// Another container, with these parts.
fn other(change: &Value) -> Value {
    let mut container = sleeper();
    merge(&mut container, &json!({"name": "other"}));
    merge(&mut container, change);
    container
}

/// Pods that break a rule each, and the rule's words.
fn bent() -> Vec<(&'static str, Value, &'static str)> {
    let main = list(&asking_for("x"), "/containers")
        .first()
        .cloned()
        .unwrap();
    let mount = json!({"volumeMounts": [{"name": "secrets", "mountPath": "/s"}]});
    let mut by_sub_path = main.clone();
    let sub_path = json!([{"name": "secrets", "mountPath": "/s", "subPath": "db"}]);
    merge(&mut by_sub_path, &json!({"volumeMounts": sub_path}));
    let always = json!({"restartPolicy": "Always"});
    let mut restartable = other(&mount);
    merge(&mut restartable, &always);
    let privileged =
        json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": true}});
    let one = "by the container that volumeAttributes.container names, and by no other";
    let namespace = "shares no process namespace";
    vec![
        (
            "writable",
            with_volume(&json!({"readOnly": false})),
            "needs readOnly: true",
        ),
        (
            "publish-secret",
            with_volume(&json!({"nodePublishSecretRef": {"name": "x"}})),
            "takes no nodePublishSecretRef",
        ),
        (
            "of-another",
            with_volume(&json!({"volumeAttributes": {"container": "other"}})),
            one,
        ),
        (
            "sibling",
            with(&json!({"containers": [main, other(&mount)]})),
            one,
        ),
        (
            "init",
            with(&json!({"initContainers": [other(&mount)]})),
            one,
        ),
        (
            "restartable",
            with(&json!({"initContainers": [restartable]})),
            one,
        ),
        (
            "sub-path",
            with(&json!({"containers": [by_sub_path]})),
            "cannot be mounted by subPath",
        ),
        (
            "shares",
            with(&json!({"shareProcessNamespace": true})),
            namespace,
        ),
        ("host-pid", with(&json!({"hostPID": true})), namespace),
        (
            "privileged",
            with(&json!({"containers": [main, other(&privileged)]})),
            "has no privileged container",
        ),
        (
            "privileged-init",
            with(&json!({"initContainers": [other(&privileged)]})),
            "has no privileged container",
        ),
    ]
}

#[test]
fn a_pod_that_the_broker_would_refuse_is_refused_when_it_is_made_with_the_rule() {
    let control_plane = governed();
    let kubectl = control_plane.kubectl();
    for (name, spec, rule) in bent() {
        let refused = make(&kubectl, name, &spec).expect_err(name);
        assert!(refused.contains(rule), "{name}: {refused}");
    }
    let mut nameless = asking_for("payments/db");
    let volume = json!({"name": "secrets", "csi": {"driver": "csi.attache.dev", "readOnly": true}});
    merge(&mut nameless, &json!({"volumes": [volume]}));
    let refused = make(&kubectl, "nameless", &nameless).unwrap_err();
    assert!(
        refused.contains("needs volumeAttributes.container"),
        "{refused}"
    );
    make(&kubectl, "good", &asking_for("payments/db")).unwrap();
    let without_ours = json!({"containers": [other(&json!({}))], "hostPID": true});
    make(&kubectl, "not-ours", &without_ours).unwrap();
}

#[test]
fn a_debugging_container_may_neither_mount_the_volume_nor_enter_its_container() {
    let control_plane = governed();
    let kubectl = control_plane.kubectl();
    let pod = make(&kubectl, "web", &asking_for("payments/db")).unwrap();
    let path = "/api/v1/namespaces/default/pods/web/ephemeralcontainers";
    let add = |change: &Value| {
        let container = json!({"name": "debug", "image": "busybox"});
        let mut pod = pod.clone();
        let mut container = container;
        merge(&mut container, change);
        merge(
            &mut pod,
            &json!({"spec": {"ephemeralContainers": [container]}}),
        );
        let put = kubectl.put(path, &pod);
        put.map_err(|error| format!("{error:#}"))
    };
    let mounts = json!({"volumeMounts": [{"name": "secrets", "mountPath": "/s"}]});
    for bent in [mounts, json!({"targetContainerName": "main"})] {
        let refused = add(&bent).unwrap_err();
        assert!(
            refused.contains("a debugging container may neither"),
            "{refused}"
        );
    }
    add(&json!({})).unwrap();
}
