//! The Helm chart, as helm renders it: the same bytes twice, no key that is not a value, no right and no privilege that is not
//! listed here.
//!
//! Needs helm: `tests/kubernetes/build.sh 1.37.2 helm` builds it.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Instant,
};

use attache_tests::{
    kubernetes::ControlPlane,
    process::{PATIENCE, bin, bin_dir, run},
};
use serde_json::{Value, json};

/// Where the chart is installed.
const NAMESPACE: &str = "attache-system";
/// Values that switch everything on that can be.
const ALL: [&str; 8] = [
    "namespace.create=true",
    "broker.slot.secret=attache-slot",
    "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus",
    "networkPolicy.brokerFrom[0].ipBlock.cidr=10.0.0.0/8",
    "monitoring.annotations=true",
    "monitoring.monitors=true",
    "monitoring.rules=true",
    "admissionPolicy.enabled=true",
];
/// A cluster that has everything the chart can use, and one that has only what it needs.
const NEW: [&str; 2] = [
    "--kube-version=1.37.2",
    "--api-versions=certificates.k8s.io/v1/ClusterTrustBundle",
];
const OLD: [&str; 1] = ["--kube-version=1.30.0"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn chart() -> PathBuf {
    root().join("deploy/chart")
}

fn helm(words: &[&str]) -> Output {
    let built = bin_dir().unwrap().join("../kubernetes/bin/helm");
    assert!(
        built.exists(),
        "{} is not built: run tests/kubernetes/build.sh 1.37.2 helm",
        built.display()
    );
    run(Command::new(built).args(words)).unwrap()
}

fn template(cluster: &[&str], values: &[&str]) -> Output {
    let chart = chart();
    let mut words = vec!["template", "attache", chart.to_str().unwrap()];
    words.extend(["--namespace", NAMESPACE]);
    words.extend(cluster);
    for value in values {
        words.extend(["--set", *value]);
    }
    helm(&words)
}

fn rendered(cluster: &[&str], values: &[&str]) -> String {
    let output = template(cluster, values);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{values:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn objects(cluster: &[&str], values: &[&str]) -> Vec<Value> {
    let text = rendered(cluster, values);
    let documents = serde_saphyr::from_multiple::<Value>(&text).unwrap();
    documents.into_iter().filter(|it| !it.is_null()).collect()
}

/// What is at a path of a value; nothing where there is no such path.
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer).as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    at(value, pointer).as_array().map_or(&[], Vec::as_slice)
}

/// `Kind/name`.
fn name(object: &Value) -> String {
    format!(
        "{}/{}",
        text(object, "/kind"),
        text(object, "/metadata/name")
    )
}

/// The pod specs of the chart, by what makes them.
fn pods(objects: &[Value]) -> Vec<(String, &Value)> {
    let with_pods = objects.iter().filter_map(|object| {
        let pod = object.pointer("/spec/template/spec")?;
        Some((name(object), pod))
    });
    with_pods.collect()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(move |which| list(pod, &format!("/{which}")))
}

#[test]
fn helm_finds_no_fault() {
    for values in [&[][..], &ALL] {
        let chart = chart();
        let mut words = vec!["lint", "--strict", chart.to_str().unwrap()];
        for value in values {
            words.extend(["--set", *value]);
        }
        let lint = helm(&words);
        assert!(lint.status.success(), "{lint:?}");
    }
}

#[test]
fn the_same_values_render_the_same_bytes() {
    for cluster in [&NEW[..], &OLD] {
        for values in [&[][..], &ALL] {
            assert_eq!(rendered(cluster, values), rendered(cluster, values));
        }
    }
}

/// Every map of values.yaml that is not free for Kubernetes' own words.
fn maps(value: &Value, path: &str, found: &mut Vec<String>) {
    let free = ["requests", "limits", "nodeSelector", "affinity", "labels"];
    let free = free.iter().any(|it| path.ends_with(it));
    if free || path.ends_with("Annotations") || path.ends_with("seLinuxOptions") {
        return;
    }
    if let Value::Object(map) = value {
        found.push(path.to_owned());
        for (key, inner) in map {
            maps(inner, &format!("{path}.{key}"), found);
        }
    }
}

#[test]
fn a_key_that_is_no_value_is_refused_by_its_name() {
    let values = fs::read_to_string(chart().join("values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&values).unwrap();
    let mut found = Vec::new();
    maps(&values, "", &mut found);
    assert!(found.len() > 15, "{found:?}");
    for map in found {
        let key = format!("{map}.nonsense").trim_start_matches('.').to_owned();
        let refused = template(&NEW, &[&format!("{key}=1")]);
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{key} is taken");
        assert!(error.contains("nonsense"), "{key}: {error}");
    }
}

#[test]
fn a_value_that_cannot_be_is_refused_by_its_path() {
    for (value, path) in [
        ("cluster.name=Prod/1", "/cluster/name"),
        ("trustDomain=A", "/trustDomain"),
        ("kubeletDir=var/lib/kubelet", "/kubeletDir"),
        ("kubeletDir=/var/lib/kubelet/", "/kubeletDir"),
        ("listenAddress=::", "/listenAddress"),
        ("imagePullPolicy=Sometimes", "/imagePullPolicy"),
        (
            "broker.podDisruptionBudget.maxUnavailable=2",
            "/broker/podDisruptionBudget/maxUnavailable",
        ),
        (
            "broker.storage.accessMode=ReadWriteMany",
            "/broker/storage/accessMode",
        ),
        ("plugin.maxUnavailable=0", "/plugin/maxUnavailable"),
        ("trust.bundle=none", "/trust/bundle"),
        (
            "podToken.expirationSeconds=599",
            "/podToken/expirationSeconds",
        ),
        (
            "enrollToken.expirationSeconds=3601",
            "/enrollToken/expirationSeconds",
        ),
        (
            "admissionPolicy.actions={Block}",
            "/admissionPolicy/actions/0",
        ),
        ("log.format=xml", "/log/format"),
    ] {
        let refused = template(&NEW, &[value]);
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{value} is taken");
        assert!(error.contains(path), "{value}: {error}");
    }
}

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
        r#"ClusterRole/attache-broker: get,watch pods of "": any"#,
        r#"ClusterRole/attache-broker: get nodes of "": any"#,
        r#"ClusterRole/attache-uninstall-check: list pods of "": any"#,
    ];
    let by_trust_bundle = [
        r#"ClusterRole/attache-broker: create clustertrustbundles of "certificates.k8s.io": any"#,
        r#"ClusterRole/attache-broker: get,update,patch clustertrustbundles of "certificates.k8s.io": attache.dev:broker:bundle"#,
        r#"ClusterRole/attache-broker: attest signers of "certificates.k8s.io": attache.dev/broker"#,
    ];
    let by_config_map =
        [r#"Role/attache-broker: get,update,patch configmaps of "": attache-bundle"#];
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

/// A pod, scheduled or not, with a volume of a driver or without.
fn pod(name: &str, node: &str, driver: Option<&str>) -> Value {
    let volumes = driver.map(|driver| json!([{"name": "v", "csi": {"driver": driver}}]));
    let node = (!node.is_empty()).then_some(node);
    let spec = json!({
        "containers": [{"name": "app", "image": "app"}], "volumes": volumes.unwrap_or(json!([])), "nodeName": node,
    });
    let metadata = json!({"name": name, "namespace": "default"});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

/// The check with the rights that the chart gives it, at a real API server.
#[test]
fn the_uninstall_check_names_the_pods_that_have_our_volumes_on_a_node_and_have_not_ended() {
    let control_plane = ControlPlane::start().unwrap();
    let kubectl = control_plane.kubectl();
    let make = |object: &Value| kubectl.create(object).unwrap();
    make(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
    let check = objects(&NEW, &[]).into_iter().filter(|object| {
        let ours = text(object, "/metadata/name") == "attache-uninstall-check";
        ours && text(object, "/kind") != "Job"
    });
    check.for_each(|object| drop(make(&object)));
    let words = [
        "create",
        "token",
        "attache-uninstall-check",
        "--namespace",
        NAMESPACE,
    ];
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), kubectl.run(&words).unwrap()).unwrap();
    fs::copy(control_plane.ca_file(), folder.path().join("ca.crt")).unwrap();
    let ask = || {
        let mut command = Command::new(bin("attache-broker").unwrap());
        command.args(["volumes-in-use", "--api-server", &control_plane.url()]);
        let answer = run(command.arg("--credentials").arg(folder.path())).unwrap();
        let said = String::from_utf8(answer.stdout).unwrap();
        let error = String::from_utf8(answer.stderr).unwrap();
        (answer.status.code(), said + &error)
    };

    make(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": "default"},
    }));
    // More than a page of others' pods.
    let others: Vec<Value> = (0..260)
        .map(|n| pod(&format!("a-{n}"), "node-a", None))
        .collect();
    let file = folder.path().join("others.json");
    let others = json!({"apiVersion": "v1", "kind": "List", "items": others});
    fs::write(&file, others.to_string()).unwrap();
    kubectl
        .run(&["create", "-f", file.to_str().unwrap()])
        .unwrap();
    make(&pod("another", "node-a", Some("csi.example.com")));
    make(&pod("unscheduled", "", Some("csi.attache.dev")));
    make(&pod("zz-ended", "node-a", Some("csi.attache.dev")));
    let ended = r#"{"status":{"phase":"Succeeded"}}"#;
    let patch = [
        "patch",
        "pod",
        "zz-ended",
        "--subresource=status",
        "--patch",
        ended,
    ];
    kubectl.run(&patch).unwrap();
    assert_eq!(
        ask(),
        (
            Some(0),
            "no pod has a volume of csi.attache.dev\n".to_owned()
        )
    );

    make(&pod("zz-runs", "node-b", Some("csi.attache.dev")));
    let (code, said) = ask();
    assert_eq!(code, Some(8), "{said}");
    let named: Vec<&str> = said.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(named, ["  default/zz-runs on node-b"]);

    let role = ["delete", "clusterrolebinding", "attache-uninstall-check"];
    kubectl.run(&role).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while ask().0 != Some(1) {
        assert!(
            Instant::now() < deadline,
            "without the right it cannot be told"
        );
    }
    let (_, said) = ask();
    assert!(
        said.contains("cannot be told") && said.contains("list pods"),
        "{said}"
    );
    control_plane.stop().unwrap();
}

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
        "/etc/attache/slot/slot.key read-only",
        "/run/attache-broker",
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
        ])
    );
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
        "seLinuxMount": true,
    });
    assert_eq!(driver(&OLD)["spec"], spec);
    spec["serviceAccountTokenInSecrets"] = json!(true);
    let new = driver(&NEW);
    assert_eq!(new["spec"], spec);
    assert_eq!(new["metadata"]["name"], "csi.attache.dev");
    let profile = &new["metadata"]["labels"]["security.openshift.io/csi-ephemeral-volume-profile"];
    assert_eq!(profile, "restricted");
}

/// The value of a key of a ConfigMap.
fn config_map<'a>(objects: &'a [Value], wanted: &str, key: &str) -> &'a str {
    let object = objects
        .iter()
        .find(|it| name(it) == format!("ConfigMap/{wanted}"));
    at(object.unwrap(), "/data")[key].as_str().unwrap()
}

#[test]
fn the_settings_are_such_as_the_programs_take() {
    let dir = tempfile::tempdir().unwrap();
    for cluster in [&NEW[..], &OLD] {
        for values in [&[][..], &ALL, &["listenAddress=[::]", "kubeletDir=/k"]] {
            let objects = objects(cluster, values);
            for program in ["attache-broker", "attache-node-plugin"] {
                let key = format!("{}.toml", program.trim_start_matches("attache-"));
                let file = dir.path().join(&key);
                fs::write(&file, config_map(&objects, program, &key)).unwrap();
                let mut check = Command::new(bin(program).unwrap());
                check.args(["check-config", "--config"]).arg(&file);
                let checked = run(check.env("ATTACHE_NODE_NAME", "node-a")).unwrap();
                assert!(checked.status.success(), "{checked:?}");
            }
        }
    }
}

#[test]
fn every_command_in_the_chart_is_one_that_its_program_has() {
    let objects = objects(&NEW, &ALL);
    let mut asked = 0;
    for (_, pod) in pods(&objects) {
        for container in containers(pod) {
            let image = text(container, "/image");
            let program = image.rsplit('/').next().unwrap().split(':').next().unwrap();
            assert!(
                at(container, "/command").is_null(),
                "the image says what is run"
            );
            let mut commands = vec![list(container, "/args").to_vec()];
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                let command = list(container, &format!("/{probe}/exec/command"));
                if let [first, words @ ..] = command {
                    assert_eq!(*first, json!(format!("/usr/bin/{program}")));
                    commands.push(words.to_vec());
                }
            }
            for words in commands {
                let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
                let mut help = Command::new(bin(program).unwrap());
                let known = run(help.args(&words).arg("--help")).unwrap();
                assert!(known.status.success(), "{program} {words:?}: {known:?}");
                asked += 1;
            }
        }
    }
    assert!(asked >= 11, "{asked}");
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

/// The names of ours in a query of Prometheus.
fn names_in(query: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let names = query.split(word).filter(|it| it.starts_with("attache_"));
    names.map(str::to_owned).collect()
}

#[test]
fn each_alert_asks_for_metrics_that_are_on_their_page() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let mut told = BTreeSet::new();
    for line in page.lines().filter(|it| it.starts_with("| `attache_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let metric = cells[1].trim_matches('`');
        let series: &[&str] = match cells[2] {
            "gauge" => &[""],
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_count", "_sum"],
            "info" => &["_info"],
            other => panic!("{metric} is a {other}"),
        };
        told.extend(series.iter().map(|it| format!("{metric}{it}")));
    }
    let rules = fs::read_to_string(chart().join("alerts.yaml")).unwrap();
    let rules: Value = serde_saphyr::from_str(&rules).unwrap();
    let mut alerts = BTreeSet::new();
    for rule in list(&rules, "/groups")
        .iter()
        .flat_map(|it| list(it, "/rules"))
    {
        let alert = text(rule, "/alert");
        assert!(alerts.insert(alert), "{alert} is there twice");
        let asked = names_in(text(rule, "/expr"));
        assert!(!asked.is_empty(), "{alert}");
        let unknown: Vec<_> = asked.difference(&told).collect();
        assert!(unknown.is_empty(), "{alert} asks for {unknown:?}");
        assert!(!text(rule, "/annotations/summary").is_empty(), "{alert}");
        let severity = text(rule, "/labels/severity");
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{alert}"
        );
    }
    let objects = objects(&NEW, &ALL);
    let rule = objects
        .iter()
        .find(|it| name(it) == "PrometheusRule/attache");
    assert_eq!(rule.unwrap()["spec"], rules);
}
