//! The Helm chart, as helm renders it: the same bytes twice, no key that is not a value, no right and no privilege that is not
//! listed here.
//!
//! Needs Helm 4 and 3: `tests/kubernetes/build.sh 1.37.2 helm helm3` builds them.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use attache_tests::process::{bin_dir, run};
use serde_json::Value;

mod admission;
mod pods;
mod programs;
mod rights;

/// Where the chart is installed.
const NAMESPACE: &str = "attache-system";
/// Values that switch everything on that can be.
const ALL: [&str; 11] = [
    "namespace.create=true",
    "broker.slot.secret=attache-slot",
    "broker.slot.passphraseSecret=attache-words",
    "broker.slot.kmsSocket=/run/kms/plugin/kms.sock",
    "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus",
    "networkPolicy.brokerFrom[0].ipBlock.cidr=10.0.0.0/8",
    "monitoring.annotations=true",
    "monitoring.monitors=true",
    "monitoring.rules=true",
    "admissionPolicy.enabled=true",
    "startupTaint.lift=true",
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

/// A Helm, by where it is built.
#[derive(Clone, Copy)]
struct Helm(&'static str);

const HELM: Helm = Helm("bin/helm");
const HELM_3: Helm = Helm("helm3/helm");

impl Helm {
    fn run(self, words: &[&str]) -> Output {
        let built = bin_dir().unwrap().join("../kubernetes").join(self.0);
        assert!(
            built.exists(),
            "{} is not built: run tests/kubernetes/build.sh 1.37.2 helm helm3",
            built.display()
        );
        run(Command::new(built).args(words)).unwrap()
    }
}

fn template(cluster: &[&str], values: &[&str]) -> Output {
    template_by(HELM, cluster, values)
}

fn template_by(helm: Helm, cluster: &[&str], values: &[&str]) -> Output {
    let chart = chart();
    let mut words = vec!["template", "attache", chart.to_str().unwrap()];
    words.extend(["--namespace", NAMESPACE]);
    words.extend(cluster);
    for value in values {
        words.extend(["--set", *value]);
    }
    helm.run(&words)
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
        for helm in [HELM, HELM_3] {
            let lint = helm.run(&words);
            assert!(lint.status.success(), "{lint:?}");
        }
    }
}

#[test]
fn helm_3_renders_what_helm_4_renders() {
    let documents = |helm, cluster, values| {
        let output = template_by(helm, cluster, values);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        serde_saphyr::from_multiple::<Value>(&text).unwrap()
    };
    for cluster in [&NEW[..], &OLD] {
        for values in [&[][..], &ALL] {
            let (new, old) = (
                documents(HELM, cluster, values),
                documents(HELM_3, cluster, values),
            );
            assert_eq!(new, old);
        }
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
