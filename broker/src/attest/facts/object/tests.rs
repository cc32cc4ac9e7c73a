//! Tests of objects: each field of a pod, missing, of another type, and out of range.

use serde_json::{Value, json};

use super::super::super::testdata::pod;
use super::*;

fn parse(pod: &Value) -> Result<PodObject, String> {
    serde_json::from_str(&pod.to_string()).map_err(|error| error.to_string())
}

/// A pod in order but for one field; none takes the field away.
fn with(path: &str, value: Option<Value>) -> Result<PodObject, String> {
    let mut pod = pod();
    let (parent, last) = path.rsplit_once('/').unwrap();
    let object = pod.pointer_mut(parent).unwrap();
    match value {
        Some(value) => object[last] = value,
        None => drop(object.as_object_mut().unwrap().remove(last)),
    }
    parse(&pod)
}

#[test]
fn a_pod_is_read_whole() {
    let pod = parse(&pod()).unwrap();
    assert_eq!(pod.node_name.unwrap().as_str(), "node-a");
    assert_eq!(pod.service_account.as_str(), "web");
    assert!(!pod.deleted && !pod.host_pid && !pod.share_process_namespace && pod.host_users);
    let names: Vec<_> = pod
        .containers
        .iter()
        .map(|c| (c.name.as_str(), c.kind))
        .collect();
    let expected = [
        ("app", ContainerKind::App),
        ("sidecar", ContainerKind::App),
        ("setup", ContainerKind::Init),
    ];
    assert_eq!(names, expected);
    let app = &pod.containers[0];
    assert_eq!(
        (app.security.run_as_user, app.security.run_as_group),
        (Some(1000), Some(1001))
    );
    let VolumeSource::Csi {
        driver,
        read_only,
        attributes,
    } = &pod.volumes[1].source
    else {
        panic!("{:?}", pod.volumes);
    };
    assert_eq!(
        (driver.as_str(), *read_only, attributes.len()),
        ("csi.attache.dev", true, 2)
    );
}

#[test]
fn absent_and_null_are_the_default() {
    for value in [None, Some(Value::Null)] {
        let pod = with("/spec/serviceAccountName", value.clone()).unwrap();
        assert_eq!(pod.service_account.as_str(), "default");
        assert_eq!(
            with("/spec/nodeName", value.clone()).unwrap().node_name,
            None
        );
        assert!(with("/spec/hostUsers", value.clone()).unwrap().host_users);
        assert!(!with("/spec/hostPID", value.clone()).unwrap().host_pid);
        assert!(
            !with("/metadata/deletionTimestamp", value.clone())
                .unwrap()
                .deleted
        );
        assert!(with("/spec/ephemeralContainers", value.clone()).is_ok());
        assert!(with("/spec/securityContext", value.clone()).is_ok());
        let pod = with("/spec/containers/0/securityContext", value.clone()).unwrap();
        assert_eq!(pod.containers[0].security, ContainerSecurity::default());
        let pod = with("/spec/volumes/1/csi/readOnly", value.clone()).unwrap();
        assert!(matches!(
            pod.volumes[1].source,
            VolumeSource::Csi {
                read_only: false,
                ..
            }
        ));
        assert!(with("/spec/volumes/1/csi/volumeAttributes", value).is_ok());
    }
    assert_eq!(
        with("/spec/nodeName", Some(json!(""))).unwrap().node_name,
        None
    );
}

#[test]
fn attributes_that_are_no_map_are_told_what_they_should_be() {
    let list = Some(json!([]));
    let error = with("/spec/volumes/1/csi/volumeAttributes", list).unwrap_err();
    assert!(error.contains("expected a map of texts"), "{error}");
}

#[test]
fn whatever_stands_for_a_deletion_is_one() {
    for value in [
        json!("2026-11-23T10:00:00Z"),
        json!("soon"),
        json!(1),
        json!(""),
    ] {
        assert!(
            with("/metadata/deletionTimestamp", Some(value))
                .unwrap()
                .deleted
        );
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn another_type_refuses_the_object() {
    let long = json!("a".repeat(4096));
    for (path, values) in [
        (
            "/metadata/uid",
            vec![Value::Null, json!(1), json!(""), json!("a/b"), long.clone()],
        ),
        (
            "/metadata/name",
            vec![Value::Null, json!("Web"), json!(".."), long.clone()],
        ),
        (
            "/metadata/namespace",
            vec![Value::Null, json!("a.b"), json!("a\0"), long.clone()],
        ),
        (
            "/spec/nodeName",
            vec![json!(1), json!("../x"), long.clone()],
        ),
        ("/spec/serviceAccountName", vec![json!(1), json!("a/b")]),
        ("/spec/hostPID", vec![json!("true"), json!(1)]),
        ("/spec/hostUsers", vec![json!("false"), json!(0)]),
        (
            "/spec/shareProcessNamespace",
            vec![json!("true"), json!([])],
        ),
        (
            "/spec/securityContext",
            vec![json!({"runAsUser": "0"}), json!({"fsGroup": -1})],
        ),
        (
            "/spec/containers",
            vec![json!({}), json!([null]), json!([{}]), json!("app")],
        ),
        (
            "/spec/containers/0/name",
            vec![Value::Null, json!("App"), json!("a.b")],
        ),
        (
            "/spec/containers/0/securityContext/runAsUser",
            vec![
                json!("1000"),
                json!(-1),
                json!(1000.5),
                json!(2_147_483_648_u64),
                json!(4_294_967_295_u64),
                json!([1]),
            ],
        ),
        (
            "/spec/containers/0/securityContext/runAsGroup",
            vec![json!("1000"), json!(-1)],
        ),
        (
            "/spec/containers/0/securityContext/privileged",
            vec![json!("false"), json!(0)],
        ),
        (
            "/spec/containers/0/securityContext/capabilities",
            vec![json!({"add": "SYS_ADMIN"}), json!(["SYS_ADMIN"])],
        ),
        (
            "/spec/containers/0/volumeMounts",
            vec![json!({}), json!([{}]), json!([{"name": 1}])],
        ),
        (
            "/spec/containers/0/volumeMounts/0/subPath",
            vec![json!(1), json!(["a"])],
        ),
        ("/spec/volumes", vec![json!({}), json!([{}])]),
        ("/spec/volumes/1/csi", vec![json!({}), json!("x")]),
        (
            "/spec/volumes/1/csi/readOnly",
            vec![json!("true"), json!(1)],
        ),
        (
            "/spec/volumes/1/csi/volumeAttributes",
            vec![json!([]), json!({"a": 1}), json!({"a": null})],
        ),
        ("/kind", vec![json!("Node"), json!("pod"), json!(1)]),
        ("/apiVersion", vec![json!("v2")]),
    ] {
        for value in values {
            assert!(with(path, Some(value.clone())).is_err(), "{path} {value}");
        }
    }
    for path in [
        "/metadata",
        "/metadata/uid",
        "/metadata/name",
        "/metadata/namespace",
        "/spec",
        "/spec/containers/0/name",
        "/spec/volumes/1/csi/driver",
    ] {
        assert!(with(path, None).is_err(), "{path}");
    }
    assert!(
        with(
            "/spec/containers/0/securityContext/runAsUser",
            Some(json!(2_147_483_647))
        )
        .is_ok()
    );
    for bad in [json!(null), json!([]), json!("pod"), json!({})] {
        assert!(parse(&bad).is_err());
    }
}

#[test]
fn what_stands_there_twice_is_refused() {
    assert!(
        with("/spec/initContainers/0/name", Some(json!("app"))).is_err(),
        "across lists"
    );
    assert!(with("/spec/volumes/0/name", Some(json!("secrets"))).is_err());
    let text = pod().to_string();
    for (once, twice) in [
        (
            "\"container\":\"app\"",
            "\"container\":\"app\",\"container\":\"sidecar\"",
        ),
        ("\"readOnly\":true", "\"readOnly\":true,\"readOnly\":false"),
        (
            "\"nodeName\":\"node-a\"",
            "\"nodeName\":\"node-a\",\"nodeName\":\"node-b\"",
        ),
    ] {
        assert!(text.contains(once), "{once}");
        let doubled: Result<PodObject, _> = serde_json::from_str(&text.replace(once, twice));
        assert!(doubled.is_err(), "{twice}");
    }
}

#[test]
fn a_node_has_a_name_and_a_uid() {
    let parse = |node: Value| serde_json::from_value::<NodeObject>(node);
    assert!(parse(json!({"metadata": {"name": "node-a", "uid": "u-1"}})).is_ok());
    for bad in [
        json!({}),
        json!({"metadata": {"name": "node-a"}}),
        json!({"metadata": {"uid": "u-1"}}),
        json!({"metadata": {"name": "node-a", "uid": ""}}),
        json!({"metadata": {"name": "", "uid": "u-1"}}),
        json!({"kind": "Pod", "metadata": {"name": "node-a", "uid": "u-1"}}),
    ] {
        assert!(parse(bad.clone()).is_err(), "{bad}");
    }
}
