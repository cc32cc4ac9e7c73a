//! Nodes that enroll by themselves, on a real API server: the token of the plugin's own pod is good for one certificate of
//! the node that the pod runs on, and for nothing else.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{fs, process::Command, time::Duration};

use attache_mtls::{
    bundle::TrustBundle, connect::Connector, key::LeafKey, tls::anonymous_client_config,
};
use attache_proto::{attache::v1 as pb, details::Details};
use attache_tests::{
    Bed,
    bed::TRUST_DOMAIN,
    kubernetes::{ControlPlane, Kubectl, control_plane::ISSUER},
    pod::Pod,
    process::{PATIENCE, bin, run, until},
    wire,
};
use pb::enrollment_client::EnrollmentClient;
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic::{Code, Status};

/// The namespace of broker and plugins.
const SYSTEM: &str = "attache-system";
/// Who the plugins are.
const PLUGIN: &str = "attache-node-plugin";
/// The broker's name of the cluster.
const PROD: &str = "prod";
const NODE: &str = "node-a";
/// The plugin's pod on [`NODE`].
const POD: &str = "attache-node-plugin-a";

/// A broker that knows a real cluster, with one node and the plugin's pod on it.
struct Prod {
    bed: Bed,
    kubectl: Kubectl,
    _control_plane: ControlPlane,
}

fn rule(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "resourceNames": names, "verbs": verbs})
}

/// What the broker may do beside publishing its bundle.
fn reading() -> Vec<Value> {
    vec![
        rule(
            &["authentication.k8s.io"],
            &["tokenreviews"],
            &[],
            &["create"],
        ),
        rule(&[""], &["pods"], &[], &["get", "watch"]),
        rule(&[""], &["nodes"], &[], &["get"]),
    ]
}

impl Prod {
    /// Starts everything; `publishing` are the rules by which the broker publishes its bundle.
    fn start(publishing: Vec<Value>) -> Self {
        let control_plane = ControlPlane::start().unwrap();
        let rules = Value::from([reading(), publishing].concat());
        let accounts = ["attache-broker", PLUGIN, "other"];
        control_plane.furnish(SYSTEM, &accounts, &rules).unwrap();
        let bed = Bed::signed_in().unwrap();
        let credentials = bed.dir.join("credentials");
        control_plane
            .credentials(&credentials, SYSTEM, "attache-broker")
            .unwrap();
        let (account, url) = (format!("{SYSTEM}/{PLUGIN}"), control_plane.url());
        bed.attache_ok(&[
            "cluster",
            "add",
            PROD,
            "--issuer",
            ISSUER,
            "--audience",
            "attache",
            "--api-server",
            &url,
            "--credentials",
            credentials.to_str().unwrap(),
            "--enroll-service-account",
            &account,
        ])
        .unwrap();
        let prod = Self {
            bed,
            kubectl: control_plane.kubectl(),
            _control_plane: control_plane,
        };
        prod.node(NODE);
        prod.pod(POD, PLUGIN, NODE);
        prod
    }

    fn node(&self, name: &str) -> Value {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        self.kubectl.create(&node).unwrap()
    }

    fn pod(&self, name: &str, account: &str, node: &str) {
        let spec = json!({
            "serviceAccountName": account, "nodeName": node, "containers": [{"name": "agent", "image": "agent"}],
        });
        let metadata = json!({"namespace": SYSTEM, "name": name});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        self.kubectl.create(&pod).unwrap();
    }

    /// What kubelet would project into that pod.
    fn token(&self, pod: &str, account: &str, audience: &str) -> String {
        let (audience, bound) = (
            format!("--audience={audience}"),
            format!("--bound-object-name={pod}"),
        );
        let token = self.kubectl.run(&[
            "create",
            "token",
            "-n",
            SYSTEM,
            account,
            &audience,
            "--bound-object-kind=Pod",
            &bound,
        ]);
        token.unwrap().trim().to_owned()
    }

    /// The bundle that the broker has published, once it is there.
    fn published(&self, kind: &str, name: &str, part: &str) -> String {
        let is_bundle = |pem: &String| TrustBundle::from_pem(pem.as_bytes()).is_ok();
        until(Duration::from_secs(60), "the bundle is published", || {
            let object = self.kubectl.get(SYSTEM, kind, name).unwrap()?;
            let pem = object.pointer(part)?.as_str()?.to_owned();
            Some(pem).filter(is_bundle)
        })
        .unwrap()
    }

    /// Shows a token for a certificate, as a plugin would that has the trust bundle.
    fn enroll(&self, cluster: &str, token: &str) -> Result<pb::EnrollNodeResponse, Status> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let pem = fs::read(self.bed.store_dir().join("trust-bundle.pem")).unwrap();
            let broker = format!("spiffe://{TRUST_DOMAIN}/broker/broker-0")
                .parse()
                .unwrap();
            let bundle = TrustBundle::from_pem(&pem).unwrap().into();
            let tls = anonymous_client_config(bundle, broker).unwrap();
            let connector = Connector::new(tls, Duration::from_secs(5));
            let (_, address) = self.bed.broker_addresses().unwrap();
            let request = pb::EnrollNodeRequest {
                cluster: cluster.to_owned(),
                token: token.to_owned(),
                csr: LeafKey::generate().unwrap().certificate_request().unwrap(),
                version: String::new(),
            };
            let mut client = EnrollmentClient::new(wire::channel(connector, address));
            client
                .enroll_node(request)
                .await
                .map(tonic::Response::into_inner)
        })
    }

    /// Demands that a token enrolls nothing; answers the code and the reason.
    fn refused(&self, cluster: &str, token: &str) -> (Code, String) {
        let status = self.enroll(cluster, token).err().unwrap();
        assert!(!status.message().contains(token), "{status:?}");
        let reason = Details::of(&status).map(|details| details.reason);
        (status.code(), reason.unwrap_or_default())
    }

    /// The id in `approve ID`, once the plugin's log has so many different ones.
    fn waits(&mut self, different: usize) -> String {
        let log = self.bed.dir.join("log/node-plugin.log");
        let newest = || {
            let log = fs::read_to_string(&log).ok()?;
            let ids = log.split("attache approval approve ").skip(1);
            let ids: Vec<_> = ids.filter_map(|rest| rest.get(..16)).collect();
            let seen: std::collections::BTreeSet<_> = ids.iter().collect();
            (seen.len() >= different).then(|| ids.last().map(|id| (*id).to_owned()))?
        };
        let plugin = self.bed.plugin.as_mut().unwrap();
        plugin
            .wait_until("waiting for an operator", newest)
            .unwrap()
    }

    /// Loses the store and restores a backup of it.
    fn restore(&mut self, backup: &str) {
        self.bed.broker.take().unwrap().stop().unwrap();
        fs::remove_file(self.bed.store_dir().join("store.redb")).unwrap();
        let mut restore = Command::new(bin("attache-broker").unwrap());
        restore.args(["restore", backup, "--config"]);
        let restored = run(restore.arg(self.bed.broker_config())).unwrap();
        assert!(restored.status.success(), "{restored:?}");
        self.bed.start_broker().unwrap();
    }

    fn nodes(&self) -> Value {
        let listed = self
            .bed
            .attache_ok(&["node", "list", "--output", "json"])
            .unwrap();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        listed.get("nodes").unwrap().clone()
    }
}

#[test]
fn a_node_enrolls_by_its_plugins_pod_once_the_trust_bundle_is_there_and_keeps_its_identity() {
    let create = rule(&[""], &["configmaps"], &[], &["create"]);
    let keep = rule(
        &[""],
        &["configmaps"],
        &["attache-bundle"],
        &["get", "update"],
    );
    let mut prod = Prod::start(vec![create, keep]);
    prod.bed.enroll_node(PROD, NODE).unwrap();
    let token = prod.token(POD, PLUGIN, "attache-enroll");
    fs::write(prod.bed.dir.join("enroll/token"), token).unwrap();
    prod.bed.launch_plugin().unwrap();
    let log = prod.bed.dir.join("log/node-plugin.log");
    let plugin = prod.bed.plugin.as_mut().unwrap();
    let says = || {
        fs::read_to_string(&log)
            .ok()
            .filter(|it| it.contains("ConfigMap attache-bundle"))
    };
    plugin.wait_until("missing its trust bundle", says).unwrap();
    assert_eq!(prod.nodes(), json!([]), "it trusted nobody at first sight");
    let pem = prod.published("configmap", "attache-bundle", "/data/trust-bundle.pem");
    fs::write(prod.bed.dir.join("trust/trust-bundle.pem"), pem).unwrap();
    prod.bed.await_plugin().unwrap();
    let uid = prod.kubectl.get("", "node", NODE).unwrap().unwrap();
    let uid = uid
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .unwrap()
        .to_owned();
    let expected = format!("spiffe://{TRUST_DOMAIN}/node/{PROD}/{uid}");
    assert!(
        prod.nodes().to_string().contains(&expected),
        "{}",
        prod.nodes()
    );
    let audit = prod
        .bed
        .attache_ok(&["audit", "tail", "-n", "1000", "--output", "json"])
        .unwrap();
    assert!(
        audit.contains("service-account-token of pod attache-system/attache-node-plugin-a"),
        "{audit}"
    );
    // A plugin that starts anew has its identity; who comes without one, by the same pod, needs an operator.
    drop(prod.bed.plugin.take());
    prod.bed.start_plugin().unwrap();
    let token = prod.token(POD, PLUGIN, "attache-enroll");
    assert_eq!(
        prod.refused(PROD, &token),
        (Code::PermissionDenied, "ENROLLMENT_PENDING".into())
    );
}

/// A node that renewed since the backup, which is here: came with another key.
#[test]
fn one_word_lets_the_nodes_in_again_whose_keys_a_restored_store_does_not_know() {
    let mut prod = Prod::start(Vec::new());
    prod.bed.pin_addresses().unwrap();
    prod.bed.enroll_node(PROD, NODE).unwrap();
    let token = prod.token(POD, PLUGIN, "attache-enroll");
    fs::write(prod.bed.dir.join("enroll/token"), &token).unwrap();
    let bundle = prod.bed.store_dir().join("trust-bundle.pem");
    fs::copy(bundle, prod.bed.dir.join("trust/trust-bundle.pem")).unwrap();
    prod.bed.start_plugin().unwrap();
    let backup = prod.bed.dir.join("before.backup");
    let backup = backup.to_str().unwrap();
    prod.bed.attache_ok(&["backup", "create", backup]).unwrap();
    let early = prod.bed.attache(&["node", "readmit", "--all", "--yes"]);
    assert_eq!(
        early.unwrap().status.code(),
        Some(5),
        "nothing was restored"
    );
    prod.bed.plugin.take().unwrap().stop().unwrap();
    for entry in fs::read_dir(prod.bed.dir.join("node-state")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    prod.bed.launch_plugin().unwrap();
    let id = prod.waits(1);
    prod.bed
        .attache_ok(&["approval", "approve", &id, "--yes"])
        .unwrap();
    prod.bed.await_plugin().unwrap();

    prod.restore(backup);
    // Any call of the node's: the broker knows the key before it looks at the pod.
    let uid = prod.kubectl.get("", "node", NODE).unwrap().unwrap();
    let uid = uid.pointer("/metadata/uid").and_then(Value::as_str);
    let pod = Pod::new("shop", "web-0", "web", (NODE, uid.unwrap()), "payments/db");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let kubelet = prod.bed.kubelet().unwrap();
    until(PATIENCE, "the broker refuses the key", || {
        let refused = runtime.block_on(kubelet.publish(&pod, "attache", "a.b.c"));
        let refused = refused.err()?;
        refused
            .message()
            .contains("before the store was restored")
            .then_some(())
    })
    .unwrap();
    let waits = prod.waits(2);
    assert_ne!(waits, id, "the approval of before is used up");
    let told = prod
        .bed
        .attache_ok(&[
            "node",
            "readmit",
            "--all",
            "--yes",
            "--reason",
            "ticket 4711",
        ])
        .unwrap();
    assert!(told.contains("each once: 1"), "{told}");
    // It asks again within a minute, and at once when told so.
    let plugin = prod.bed.plugin.as_ref().unwrap();
    plugin.signal(Signal::HUP).unwrap();
    prod.bed.await_plugin().unwrap();
    let left = prod.bed.attache_json(&["approval", "list"]).unwrap();
    assert_eq!(
        left,
        json!({"approvals": []}),
        "it waits for nothing any more"
    );

    // Once: who comes after it in the same node's name waits.
    let pending = (Code::PermissionDenied, "ENROLLMENT_PENDING".into());
    assert_eq!(prod.refused(PROD, &token), pending);
    let audit = prod
        .bed
        .attache_ok(&["audit", "tail", "-n", "1000", "--output", "json"])
        .unwrap();
    for told in [
        "node.readmit",
        "ticket 4711",
        "readmitted after the restore by",
    ] {
        assert!(audit.contains(told), "{told}: {audit}");
    }
}

#[test]
fn only_the_plugins_own_pod_on_that_very_node_enrolls() {
    let prod = Prod::start(Vec::new());
    let denied = |reason: &str| (Code::PermissionDenied, reason.to_owned());
    let unproved = (Code::Unauthenticated, "PLUGIN_NOT_PROVED".to_owned());
    let good = prod.token(POD, PLUGIN, "attache-enroll");
    assert_eq!(prod.refused("other", &good), denied("NO_ENROLLMENT"));
    for audience in ["attache", ISSUER] {
        assert_eq!(
            prod.refused(PROD, &prod.token(POD, PLUGIN, audience)),
            unproved,
            "{audience}"
        );
    }
    prod.pod("other-a", "other", NODE);
    assert_eq!(
        prod.refused(PROD, &prod.token("other-a", "other", "attache-enroll")),
        denied("OTHER_ACCOUNT")
    );
    let unbound = [
        "create",
        "token",
        "-n",
        SYSTEM,
        PLUGIN,
        "--audience=attache-enroll",
    ];
    let unbound = prod.kubectl.run(&unbound).unwrap();
    assert_eq!(prod.refused(PROD, unbound.trim()), unproved);
    // Of a pod on a node that is not there: the token names it without its uid.
    prod.pod("plugin-nowhere", PLUGIN, "nowhere");
    assert_eq!(
        prod.refused(
            PROD,
            &prod.token("plugin-nowhere", PLUGIN, "attache-enroll")
        ),
        unproved
    );
    // Of a node that was made anew since.
    prod.node("node-b");
    prod.pod("plugin-b", PLUGIN, "node-b");
    let before = prod.token("plugin-b", PLUGIN, "attache-enroll");
    prod.kubectl.run(&["delete", "node", "node-b"]).unwrap();
    prod.node("node-b");
    assert_eq!(prod.refused(PROD, &before), denied("PLUGIN_NOT_THERE"));
    // Of a pod that was made anew since.
    prod.node("node-c");
    prod.pod("plugin-c", PLUGIN, "node-c");
    let before = prod.token("plugin-c", PLUGIN, "attache-enroll");
    prod.kubectl
        .run(&[
            "delete",
            "pod",
            "-n",
            SYSTEM,
            "plugin-c",
            "--force",
            "--grace-period=0",
        ])
        .unwrap();
    prod.pod("plugin-c", PLUGIN, "node-c");
    assert_eq!(prod.refused(PROD, &before).0, Code::PermissionDenied);
    assert_eq!(
        prod.nodes(),
        json!([]),
        "nothing was enrolled by any of them"
    );
    // What was refused before was refused for its reason: the good one enrolls.
    prod.enroll(PROD, &good).unwrap();
}

#[test]
fn the_trust_bundle_is_published_as_a_cluster_trust_bundle_where_one_is_served_and_mended_when_changed()
 {
    let group = ["certificates.k8s.io"];
    let name = ["attache.dev:broker:bundle"];
    let prod = Prod::start(vec![
        rule(&group, &["clustertrustbundles"], &[], &["create"]),
        rule(&group, &["clustertrustbundles"], &name, &["get", "update"]),
        rule(&group, &["signers"], &["attache.dev/broker"], &["attest"]),
    ]);
    let published = || prod.published("clustertrustbundle", name[0], "/spec/trustBundle");
    let ours =
        TrustBundle::from_pem(&fs::read(prod.bed.store_dir().join("trust-bundle.pem")).unwrap())
            .unwrap();
    let found = published();
    assert_eq!(TrustBundle::from_pem(found.as_bytes()).unwrap(), ours);
    assert!(
        prod.kubectl
            .get(SYSTEM, "configmap", "attache-bundle")
            .unwrap()
            .is_none()
    );
    prod.kubectl
        .run(&["delete", "clustertrustbundle", name[0]])
        .unwrap();
    assert_eq!(TrustBundle::from_pem(published().as_bytes()).unwrap(), ours);
}

/// As the chart makes it, and with the rights of the chart's role alone.
#[test]
fn the_bundle_is_written_into_the_config_map_that_is_there_and_all_else_of_it_stays() {
    let keep = ["get", "update"];
    let rights = rule(&[""], &["configmaps"], &["attache-bundle"], &keep);
    let prod = Prod::start(vec![rights]);
    let known_by = json!({"app.kubernetes.io/managed-by": "Helm"});
    let made = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "attache-bundle", "namespace": SYSTEM,
            "labels": known_by, "annotations": known_by,
        },
    });
    prod.kubectl.create(&made).unwrap();
    prod.published("configmap", "attache-bundle", "/data/trust-bundle.pem");
    let found = prod.kubectl.get(SYSTEM, "configmap", "attache-bundle");
    let found = found.unwrap().unwrap();
    assert_eq!(found.pointer("/metadata/labels"), Some(&known_by));
    assert_eq!(found.pointer("/metadata/annotations"), Some(&known_by));
}

/// A node that follows the published bundle would be cut off by a CA that is not in it.
#[test]
fn a_rotation_of_the_ca_waits_until_its_bundle_is_published_in_every_cluster() {
    let create = rule(&[""], &["configmaps"], &[], &["create"]);
    let names = &["attache-bundle"];
    let keep = rule(&[""], &["configmaps"], names, &["get", "update"]);
    for (rules, waits) in [(Vec::new(), true), (vec![create, keep], false)] {
        let prod = Prod::start(rules);
        prod.bed.attache_ok(&["key", "rotate", "--ca"]).unwrap();
        let unpublished = || {
            let shown = prod.bed.attache_json(&["key", "status", "--ca"]).unwrap();
            shown.pointer("/unpublished").and_then(Value::as_bool)
        };
        assert_eq!(unpublished(), Some(true), "it was just made");
        if waits {
            // Two rounds of publishing, which takes place every 15 s.
            let published = until(Duration::from_secs(31), "published", || {
                unpublished().filter(|it| !it)
            });
            assert!(published.is_err(), "nobody may publish it here");
            continue;
        }
        until(Duration::from_secs(60), "published", || {
            unpublished().filter(|it| !it)
        })
        .unwrap();
        let pem = prod.published("configmap", "attache-bundle", "/data/trust-bundle.pem");
        let bundle = TrustBundle::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(bundle.certificates().count(), 2);
    }
}

#[test]
fn the_startup_taint_goes_once_kubelet_knows_the_plugin_and_no_other_goes_with_it() {
    let ours = json!({"key": "attache.dev/agent-not-ready", "effect": "NoSchedule"});
    let other = json!({"key": "example.org/dedicated", "value": "batch", "effect": "NoSchedule"});
    let mut prod = Prod::start(vec![
        rule(&["storage.k8s.io"], &["csinodes"], &[], &["get"]),
        rule(&[""], &["nodes"], &[], &["patch"]),
    ]);
    let taint = |node: &str| {
        let patch = json!({"spec": {"taints": [other, ours]}}).to_string();
        let args = ["patch", "node", node, "--type=merge", "-p", &patch];
        prod.kubectl.run(&args).unwrap();
    };
    prod.node("node-b");
    for node in [NODE, "node-b"] {
        taint(node);
    }
    // On: it is off where nobody asks for it.
    prod.bed.pin_addresses().unwrap();
    let config = prod.bed.broker_config();
    let settings = fs::read_to_string(&config).unwrap();
    fs::write(&config, settings + "\n[nodes]\nlift_startup_taint = true\n").unwrap();
    drop(prod.bed.broker.take());
    prod.bed.start_broker().unwrap();

    let token = prod.token(POD, PLUGIN, "attache-enroll");
    prod.enroll(PROD, &token).unwrap();
    let taints = |node: &str| {
        let node = prod.kubectl.get("", "node", node).unwrap().unwrap();
        node.pointer("/spec/taints").cloned().unwrap_or_default()
    };
    let registered = |drivers: Value| {
        let node = prod.kubectl.get("", "node", NODE).unwrap().unwrap();
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": node["metadata"]["uid"]});
        let metadata = json!({"name": NODE, "ownerReferences": [owner]});
        let object = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": metadata, "spec": {"drivers": drivers},
        });
        prod.kubectl.create(&object).unwrap();
    };
    let looked = || prod.bed.questions(&["csi_node"]).unwrap();
    registered(json!([{"name": "other.csi.example", "nodeID": NODE, "topologyKeys": []}]));
    let before = looked();
    until(Duration::from_secs(30), "it was looked for twice", || {
        (looked() >= before + 2).then_some(())
    })
    .unwrap();
    assert_eq!(taints(NODE), json!([other, ours]));
    prod.kubectl.run(&["delete", "csinode", NODE]).unwrap();
    registered(json!([{"name": "csi.attache.dev", "nodeID": NODE, "topologyKeys": []}]));
    until(Duration::from_secs(30), "the taint is gone", || {
        (taints(NODE) == json!([other])).then_some(())
    })
    .unwrap();
    assert_eq!(
        taints("node-b"),
        json!([other, ours]),
        "it has no certificate"
    );
}
