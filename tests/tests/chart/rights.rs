//! What the chart lets whom do at the API server, and what the uninstall check does with its right.

use std::{collections::BTreeSet, fs, process::Command, time::Instant};

use attache_tests::{
    kubernetes::ControlPlane,
    process::{PATIENCE, bin, run},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{ALL, NAMESPACE, NEW, OLD, at, list, name, objects, pods, rendered, text};

/// Every rule of every role, one line each: role, verbs, resources, names.
fn rights(objects: &[Value]) -> BTreeSet<String> {
    let words = |rule: &Value, key: &str| {
        let words = list(rule, key).iter().filter_map(Value::as_str);
        words.collect::<Vec<_>>().join(",")
    };
    let roles = objects
        .iter()
        .filter(|object| ["Role", "ClusterRole"].contains(&text(object, "/kind")));
    let lines = roles.flat_map(|role| {
        list(role, "/rules").iter().map(move |rule| {
            let known = ["apiGroups", "resources", "resourceNames", "verbs"];
            for key in rule.as_object().unwrap().keys() {
                assert!(known.contains(&key.as_str()), "{key} of {rule}");
            }
            let names = words(rule, "/resourceNames");
            let of = if names.is_empty() { "any" } else { &names };
            let (verbs, resources) = (words(rule, "/verbs"), words(rule, "/resources"));
            let group = words(rule, "/apiGroups");
            format!("{}: {verbs} {resources} of {group:?}: {of}", name(role))
        })
    });
    lines.collect()
}

#[test]
fn each_right_at_the_api_server_is_one_of_these_and_the_node_plugin_has_none() {
    let everywhere = [
        r#"ClusterRole/attache-broker: create tokenreviews of "authentication.k8s.io": any"#,
        r#"ClusterRole/attache-broker: get pods of "": any"#,
        r#"ClusterRole/attache-broker: get nodes of "": any"#,
        r#"ClusterRole/attache-broker: get csinodes of "storage.k8s.io": any"#,
        r#"ClusterRole/attache-broker: patch nodes of "": any"#,
        r#"ClusterRole/attache-uninstall-check: list pods of "": any"#,
    ];
    let by_trust_bundle = [
        r#"ClusterRole/attache-broker: create clustertrustbundles of "certificates.k8s.io": any"#,
        r#"ClusterRole/attache-broker: get,update clustertrustbundles of "certificates.k8s.io": attache.dev:broker:bundle"#,
        r#"ClusterRole/attache-broker: attest signers of "certificates.k8s.io": attache.dev/broker"#,
    ];
    let by_config_map = [r#"Role/attache-broker: get,update configmaps of "": attache-bundle"#];
    for (cluster, more) in [(&NEW[..], &by_trust_bundle[..]), (&OLD, &by_config_map)] {
        let objects = objects(cluster, &ALL);
        let listed = everywhere.iter().chain(more).map(|line| (*line).to_owned());
        assert_eq!(rights(&objects), listed.collect());
        let bindings = objects
            .iter()
            .filter(|object| text(object, "/kind").ends_with("RoleBinding"));
        for binding in bindings {
            let role = format!(
                "{}/{}",
                text(binding, "/roleRef/kind"),
                text(binding, "/roleRef/name")
            );
            let holders = list(binding, "/subjects");
            let [holder] = holders else {
                panic!("{holders:?}")
            };
            // Each role is held by the one account of its own name.
            assert_eq!(text(holder, "/kind"), "ServiceAccount");
            assert_eq!(text(holder, "/namespace"), NAMESPACE);
            assert!(
                role.ends_with(&format!("Role/{}", text(holder, "/name"))),
                "{role}: {holder}"
            );
            assert_ne!(text(holder, "/name"), "attache-node-plugin");
        }
    }
}

#[test]
fn nodes_can_be_patched_only_where_the_startup_taint_is_to_be_lifted() {
    let rights = rights(&objects(&NEW, &[]));
    let of_nodes: Vec<_> = rights.iter().filter(|it| it.contains("nodes of")).collect();
    assert_eq!(
        of_nodes,
        [r#"ClusterRole/attache-broker: get nodes of "": any"#]
    );
}

/// The rights for the uninstall check are there while it runs, and at no other time.
#[test]
fn what_the_uninstall_check_may_is_gone_with_it() {
    let objects = objects(&NEW, &[]);
    let check: Vec<&Value> = objects
        .iter()
        .filter(|object| text(object, "/metadata/name") == "attache-uninstall-check")
        .collect();
    assert_eq!(check.len(), 4);
    for object in check {
        let annotations = at(object, "/metadata/annotations");
        assert_eq!(
            annotations["helm.sh/hook"],
            "pre-delete",
            "{}",
            name(object)
        );
        let gone = annotations["helm.sh/hook-delete-policy"].as_str().unwrap();
        assert!(gone.contains("hook-succeeded"), "{}", name(object));
    }
    let off = rendered(&NEW, &["uninstallCheck.enabled=false"]);
    assert!(!off.contains("uninstall-check") && !off.contains("helm.sh/hook"));
}

/// A pod of another image, on this node if one is named, with a volume of this driver.
fn pod(name: &str, node: Option<&str>, driver: Option<&str>) -> Value {
    let volumes = driver.map(|driver| json!([{"name": "v", "csi": {"driver": driver}}]));
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "containers": [{"name": "app", "image": "app"}],
            "nodeName": node,
            "volumes": volumes,
        },
    })
}

/// The check, with the rights that the chart gives it, at a real API server.
struct Check {
    control_plane: ControlPlane,
    credentials: TempDir,
}

impl Check {
    fn start() -> Self {
        let control_plane = ControlPlane::start().unwrap();
        let kubectl = control_plane.kubectl();
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        kubectl.create(&namespace).unwrap();
        for object in objects(&NEW, &[]) {
            let its = text(&object, "/metadata/name") == "attache-uninstall-check";
            if its && text(&object, "/kind") != "Job" {
                kubectl.create(&object).unwrap();
            }
        }
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": "default"},
        });
        kubectl.create(&account).unwrap();
        let credentials = tempfile::tempdir().unwrap();
        control_plane
            .credentials(credentials.path(), NAMESPACE, "attache-uninstall-check")
            .unwrap();
        Self {
            control_plane,
            credentials,
        }
    }

    /// How it ended, and what it said.
    fn ask(&self) -> (Option<i32>, String) {
        let mut command = Command::new(bin("attache-broker").unwrap());
        command.args(["volumes-in-use", "--api-server", &self.control_plane.url()]);
        let answer = run(command.arg("--credentials").arg(self.credentials.path())).unwrap();
        let said = [answer.stdout, answer.stderr].concat();
        (answer.status.code(), String::from_utf8(said).unwrap())
    }
}

#[test]
fn the_uninstall_check_names_the_pods_that_have_our_volumes_on_a_node_and_have_not_ended() {
    const OURS: Option<&str> = Some("csi.attache.dev");
    let check = Check::start();
    let kubectl = check.control_plane.kubectl();
    // More than a page of others' pods.
    let others: Vec<Value> = (0..260)
        .map(|n| pod(&format!("a-{n}"), Some("node-a"), None))
        .collect();
    let others = json!({"apiVersion": "v1", "kind": "List", "items": others});
    let file = check.credentials.path().join("others.json");
    fs::write(&file, others.to_string()).unwrap();
    kubectl
        .run(&["create", "-f", file.to_str().unwrap()])
        .unwrap();
    for unused in [
        pod("another", Some("node-a"), Some("csi.example.com")),
        pod("unscheduled", None, OURS),
        pod("zz-ended", Some("node-a"), OURS),
    ] {
        kubectl.create(&unused).unwrap();
    }
    let ended = r#"{"status":{"phase":"Succeeded"}}"#;
    let patch = [
        "patch",
        "pod",
        "zz-ended",
        "--subresource=status",
        "-p",
        ended,
    ];
    kubectl.run(&patch).unwrap();
    let none = "no pod has a volume of csi.attache.dev\n";
    assert_eq!(check.ask(), (Some(0), none.to_owned()));

    kubectl
        .create(&pod("zz-runs", Some("node-b"), OURS))
        .unwrap();
    let (code, said) = check.ask();
    assert_eq!(code, Some(8), "{said}");
    let named: Vec<&str> = said.lines().filter(|it| it.starts_with("  ")).collect();
    assert_eq!(named, ["  default/zz-runs on node-b"]);

    let binding = ["delete", "clusterrolebinding", "attache-uninstall-check"];
    kubectl.run(&binding).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while check.ask().0 != Some(1) {
        assert!(
            Instant::now() < deadline,
            "without the right it cannot be told"
        );
    }
    let (_, said) = check.ask();
    assert!(
        said.contains("cannot be told") && said.contains("list pods"),
        "{said}"
    );
    check.control_plane.stop().unwrap();
}

/// Publisher and reader of the trust bundle agree on where it is, in every cluster.
#[test]
fn the_broker_publishes_its_bundle_where_the_plugin_reads_it() {
    for (cluster, value, kind) in [
        (&NEW[..], "trust.bundle=auto", "cluster-trust-bundle"),
        (&OLD, "trust.bundle=auto", "config-map"),
        (&NEW, "trust.bundle=config-map", "config-map"),
        (
            &OLD,
            "trust.bundle=cluster-trust-bundle",
            "cluster-trust-bundle",
        ),
    ] {
        let objects = objects(cluster, &[value]);
        // Where it may publish is where it does.
        let may_bundle = rights(&objects)
            .iter()
            .any(|it| it.contains("clustertrustbundles"));
        let may_map = rights(&objects).iter().any(|it| it.contains("configmaps"));
        assert_eq!(
            (may_bundle, may_map),
            (kind != "config-map", kind == "config-map")
        );
        let pods = pods(&objects);
        let (_, plugin) = pods
            .iter()
            .find(|(it, _)| it.starts_with("DaemonSet"))
            .unwrap();
        let trust = list(plugin, "/volumes")
            .iter()
            .find(|it| it["name"] == "trust");
        let source = &trust.unwrap()["projected"]["sources"][0];
        let (projected, shown) = match kind {
            "config-map" => (&source["configMap"], "/items/0/path"),
            _ => (&source["clusterTrustBundle"], "/path"),
        };
        assert_eq!(text(projected, shown), "trust-bundle.pem", "{source}");
        assert_eq!(projected["optional"], true);
        let made = objects
            .iter()
            .find(|it| name(it) == "ConfigMap/attache-bundle");
        assert_eq!(made.is_some(), kind == "config-map");
        // What the broker wrote into it is not the chart's to take away at an upgrade.
        assert!(made.is_none_or(|it| it.get("data").is_none()));
    }
}
