//! A broker whose cluster is a real API server: what it takes for proof there, what it asks and how often, and what ends
//! with a pod, a node, an account or the server itself. No kubelet: pods and nodes are objects, tokens are the server's.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs,
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use attache_broker::attest::facts::{NODE_KNOWN_FOR, POD_KNOWN_FOR};
use attache_mtls::key::LeafKey;
use attache_proto::attache::v1::{
    self as pb, delivery_client::DeliveryClient, renewal_client::RenewalClient,
};
use attache_tests::{
    Bed,
    bed::{AUDIENCE, TRUST_DOMAIN},
    kubernetes::{ControlPlane, Kubectl, control_plane::ISSUER},
    pod::Pod,
    process::{bin, run},
    wire,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::{Code, Status};

const SYSTEM: &str = "attache-system";
/// What the broker's account may do, and no more.
const RULES: &str = r#"[
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}
]"#;

/// One API server for all tests that leave it running.
fn shared() -> &'static ControlPlane {
    static SHARED: OnceLock<ControlPlane> = OnceLock::new();
    SHARED.get_or_init(|| {
        let control_plane = ControlPlane::start().unwrap();
        furnish(&control_plane);
        control_plane
    })
}

/// The broker's account with its rights, and another without.
fn furnish(control_plane: &ControlPlane) {
    let rules: Value = serde_json::from_str(RULES).unwrap();
    let accounts = ["attache-broker", "nobody"];
    control_plane.furnish(SYSTEM, &accounts, &rules).unwrap();
}

/// A broker of its own over an API server, a namespace with the account `web`, and a joined node.
struct World {
    bed: Bed,
    runtime: Runtime,
    kubectl: Kubectl,
    namespace: String,
    node: String,
    node_uid: String,
}

impl World {
    fn new() -> Self {
        Self::on(shared())
    }

    fn on(control_plane: &ControlPlane) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let kubectl = control_plane.kubectl();
        let (namespace, node) = (format!("shop-{number}"), format!("node-{number}"));
        let metadata = json!({"name": namespace});
        for object in [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}),
            json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"namespace": namespace, "name": "web"},
            }),
        ] {
            kubectl.create(&object).unwrap();
        }
        let bed = Bed::signed_in().unwrap();
        write_credentials(&bed, control_plane, "attache-broker");
        let credentials = credentials(&bed);
        bed.attache_ok(&[
            "cluster",
            "add",
            "local",
            "--audience",
            AUDIENCE,
            "--api-server",
            &control_plane.url(),
            "--credentials",
            credentials.to_str().unwrap(),
        ])
        .unwrap();
        let world = Self {
            bed,
            runtime: Runtime::new().unwrap(),
            node_uid: make_node(&kubectl, &node),
            kubectl,
            namespace,
            node,
        };
        world.bed.join_node(&world.node).unwrap();
        world
    }

    /// Has the node's plugin join, which leaves its identity in the bed, and furnishes the secret and its grant.
    fn serving() -> Self {
        Self::new().furnished()
    }

    fn furnished(mut self) -> Self {
        self.bed.start_plugin().unwrap();
        self.bed
            .attache_ok(&["keyspace", "create", "payments"])
            .unwrap();
        let value = self.bed.dir.join("etc/value");
        fs::write(&value, "hunter2").unwrap();
        let field = format!("password=@{}", value.display());
        self.bed
            .attache_ok(&["secret", "put", "payments/db", &field])
            .unwrap();
        let to = format!("local/{}/web/app", self.namespace);
        self.bed
            .attache_ok(&["grant", "add", "web-db", "payments/db", "--to", &to])
            .unwrap();
        self
    }

    /// Has the API server make a pod on a node; its uid is the server's.
    fn pod_on(&self, name: &str, node: &str) -> Pod {
        let mut pod = Pod::new(&self.namespace, name, "web", (node, ""), "payments/db");
        let mut object = pod.object();
        let metadata = object.pointer_mut("/metadata").unwrap();
        metadata.as_object_mut().unwrap().remove("uid");
        let made = self.kubectl.create(&object).unwrap();
        pod.uid = text(&made, "/metadata/uid");
        pod
    }

    fn pod(&self, name: &str) -> Pod {
        self.pod_on(name, &self.node)
    }

    /// A token as kubelet asks for it.
    fn token(&self, pod: &Pod) -> String {
        let bound = ["--bound-object-kind=Pod", "--bound-object-name", &pod.name];
        self.token_with(AUDIENCE, &bound)
    }

    fn token_with(&self, audience: &str, more: &[&str]) -> String {
        let args = [
            "create",
            "token",
            "web",
            "-n",
            &self.namespace,
            "--audience",
            audience,
        ];
        let token = self.kubectl.run(&[&args, more].concat()).unwrap();
        token.trim().to_owned()
    }

    fn deliver(&self, pod: &Pod, token: &str) -> Result<(), Status> {
        self.runtime.block_on(async {
            let channel = wire::node(&self.bed).unwrap();
            let request = wire::deliver_request(pod, token);
            let answer = DeliveryClient::new(channel).deliver(request).await;
            answer.map(drop)
        })
    }

    fn refused(&self, pod: &Pod, token: &str) -> Status {
        self.deliver(pod, token).expect_err("must be refused")
    }

    /// Delivers again and again until it is refused; answers after how long that was.
    fn until_refused(&self, pod: &Pod, token: &str) -> (Duration, Status) {
        let began = Instant::now();
        loop {
            if let Err(status) = self.deliver(pod, token) {
                return (began.elapsed(), status);
            }
            assert!(began.elapsed() < Duration::from_secs(60), "still delivered");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn renew(&self) -> Result<(), Status> {
        self.runtime.block_on(async {
            let request = pb::RenewRequest {
                csr: LeafKey::generate().unwrap().certificate_request().unwrap(),
                version: String::new(),
            };
            let channel = wire::node(&self.bed).unwrap();
            RenewalClient::new(channel).renew(request).await.map(drop)
        })
    }

    /// Questions about tokens, pods and nodes until now.
    fn questions(&self) -> u64 {
        let operations = ["token_review", "pod", "node"];
        self.bed.questions(&operations).unwrap()
    }

    fn audit(&self) -> String {
        let args = ["audit", "tail", "-n", "10000", "--output", "json"];
        self.bed.attache_ok(&args).unwrap()
    }
}

fn text(object: &Value, pointer: &str) -> String {
    object
        .pointer(pointer)
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned()
}

fn make_node(kubectl: &Kubectl, name: &str) -> String {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    text(&kubectl.create(&node).unwrap(), "/metadata/uid")
}

fn credentials(bed: &Bed) -> PathBuf {
    bed.dir.join("credentials")
}

fn broker_token(control_plane: &ControlPlane, account: &str, more: &[&str]) -> String {
    let args = ["create", "token", account, "-n", SYSTEM];
    control_plane
        .kubectl()
        .run(&[&args, more].concat())
        .unwrap()
}

fn write_credentials(bed: &Bed, control_plane: &ControlPlane, account: &str) {
    control_plane
        .credentials(&credentials(bed), SYSTEM, account)
        .unwrap();
}

#[test]
fn a_publish_asks_twice_once_its_node_is_known_and_a_republish_nothing() {
    let world = World::serving();
    let shown = world
        .bed
        .attache_ok(&["cluster", "show", "local", "--output", "json"]);
    let shown: Value = serde_json::from_str(&shown.unwrap()).unwrap();
    assert_eq!(text(&shown, "/issuer"), ISSUER, "learned from the server");

    let first = world.pod("web-0");
    let token = world.token(&first);
    let kubelet = {
        let _guard = world.runtime.enter();
        world.bed.kubelet().unwrap()
    };
    // Through the plugin, with all that kubelet says.
    let published = kubelet.publish(&first, AUDIENCE, &token);
    world.runtime.block_on(published).unwrap();
    let file = kubelet.target(&first).join("db/password");
    assert_eq!(fs::read_to_string(file).unwrap(), "hunter2");

    let pods: Vec<(Pod, String)> = (1..=5)
        .map(|number| world.pod(&format!("web-{number}")))
        .map(|pod| (pod.clone(), world.token(&pod)))
        .collect();
    let before = world.questions();
    let began = Instant::now();
    let mut republished_in_time = 0;
    for (pod, token) in &pods {
        let asked_at = Instant::now();
        world.deliver(pod, token).unwrap();
        let after_publish = world.questions();
        world.deliver(pod, token).unwrap();
        if asked_at.elapsed() < POD_KNOWN_FOR {
            assert_eq!(world.questions(), after_publish, "a republish");
            republished_in_time += 1;
        }
    }
    assert!(republished_in_time > 0, "too slow to say");
    let of_nodes = 1 + began.elapsed().as_secs() / NODE_KNOWN_FOR.as_secs();
    let asked = world.questions() - before;
    println!(
        "{asked} questions for {} publishes and as many republishes",
        pods.len()
    );
    assert!((10..=10 + of_nodes).contains(&asked), "{asked}");
    world.runtime.block_on(kubelet.unpublish(&first)).unwrap();
}

#[test]
fn only_the_token_of_that_pod_on_that_node_for_this_audience_is_taken() {
    let world = World::serving();
    let pod = world.pod("web-0");
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=web-0"];
    let other = format!("{}-other", world.node);
    make_node(&world.kubectl, &other);
    let elsewhere = world.pod_on("elsewhere", &other);
    let ghostly = world.pod_on("ghostly", &format!("{}-ghost", world.node));
    let api = "https://kubernetes.default.svc.cluster.local";
    let cases = [
        (&pod, world.token_with(api, &bound), "another audience"),
        (&pod, world.token_with(AUDIENCE, &[]), "not bound to a pod"),
        // Its node was missing when it was minted: it has a name and no uid.
        (&ghostly, world.token(&ghostly), "node with its uid"),
        (&elsewhere, world.token(&elsewhere), "names another node"),
        (&pod, world.token(&elsewhere), "names another node"),
    ];
    for (pod, token, why) in cases {
        let status = world.refused(pod, &token);
        assert!(
            status.message().contains(why),
            "{why}: {}",
            status.message()
        );
    }
    let audit = world.audit();
    let alarm = audit
        .lines()
        .find(|line| line.contains("what belongs to another node"));
    assert!(alarm.is_some_and(|line| line.contains(&other)), "{audit}");
    world
        .deliver(&pod, &world.token(&pod))
        .expect("the control");
}

/// S6 on a real API server: deletionTimestamp is set for the whole grace period, while TokenReview goes on accepting.
#[test]
fn a_deleted_pod_gets_nothing_within_what_is_kept_of_it() {
    let world = World::serving();
    let pod = world.pod("web-0");
    let token = world.token(&pod);
    world.deliver(&pod, &token).unwrap();
    let delete = ["delete", "pod", "web-0", "-n", &world.namespace];
    let graceful = ["--grace-period=600", "--wait=false"];
    world
        .kubectl
        .run(&[&delete[..], &graceful].concat())
        .unwrap();
    let (after, status) = world.until_refused(&pod, &token);
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(
        status.message().contains("the pod is being deleted"),
        "{status:?}"
    );
    assert!(after <= POD_KNOWN_FOR + Duration::from_secs(1), "{after:?}");
}

/// S5 on a real API server.
#[test]
fn a_pod_made_anew_is_served_at_once_and_the_old_token_no_more() {
    let world = World::serving();
    let old = world.pod("web-0");
    let old_token = world.token(&old);
    world.deliver(&old, &old_token).unwrap();
    let delete = ["delete", "pod", "web-0", "-n", &world.namespace];
    world
        .kubectl
        .run(&[&delete[..], &["--force", "--grace-period=0"]].concat())
        .unwrap();
    let new = world.pod("web-0");
    let new_token = world.token(&new);
    world
        .deliver(&new, &new_token)
        .expect("what is kept of the old one is not its");
    let (after, status) = world.until_refused(&old, &old_token);
    assert!(status.message().contains("has no pod"), "{status:?}");
    assert!(after <= POD_KNOWN_FOR + Duration::from_secs(1), "{after:?}");
    world.deliver(&new, &new_token).expect("the control");
}

/// Its signature, claims, pod and node are as before: only the server knows that the account is another one now.
#[test]
fn a_token_that_the_server_withdrew_is_refused_though_its_keys_verify() {
    let world = World::serving();
    let pod = world.pod("web-0");
    let token = world.token(&pod);
    let namespace = &world.namespace;
    world
        .kubectl
        .run(&["delete", "serviceaccount", "web", "-n", namespace])
        .unwrap();
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"namespace": namespace, "name": "web"},
    });
    world.kubectl.create(&account).unwrap();
    let status = world.refused(&pod, &token);
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(world.audit().contains("TokenReview"), "the true reason");
    assert!(!world.audit().contains(&token));
    world
        .deliver(&pod, &world.token(&pod))
        .expect("the control");
}

#[test]
fn a_node_that_was_made_anew_gets_neither_a_secret_nor_a_certificate() {
    let world = World::serving();
    let pod = world.pod("web-0");
    let token = world.token(&pod);
    world.deliver(&pod, &token).unwrap();
    world.renew().expect("the control");
    world.kubectl.run(&["delete", "node", &world.node]).unwrap();
    let new_uid = make_node(&world.kubectl, &world.node);
    assert_ne!(new_uid, world.node_uid);
    let (after, status) = world.until_refused(&pod, &token);
    let why = "the cluster's node of that name is not the node that asks";
    assert!(status.message().contains(why), "{status:?}");
    assert!(
        after <= NODE_KNOWN_FOR + Duration::from_secs(1),
        "{after:?}"
    );
    let status = world.renew().expect_err("must be refused");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(
        status
            .message()
            .contains("not a node of its cluster any more"),
        "{status:?}"
    );
}

#[test]
fn a_cluster_that_cannot_be_used_is_not_added_and_what_is_missing_is_named() {
    let world = World::new();
    let control_plane = shared();
    let (bed, url) = (&world.bed, control_plane.url());
    let folder = credentials(bed);
    let folder = folder.to_str().unwrap();
    let add = |more: &[&str]| {
        let args = ["cluster", "add", "other", "--audience", "other"];
        let output = bed.attache(&[&args, more].concat()).unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let by_url = ["--api-server", &url, "--credentials", folder];
    let says = add(&[&by_url[..], &["--issuer", "https://other.example"]].concat());
    assert!(
        says.contains(&format!("its issuer is {ISSUER:?}")),
        "{says}"
    );
    let says = add(&["--in-cluster"]);
    assert!(says.contains("does not run in a pod"), "{says}");
    let says = add(&[
        "--api-server",
        "https://127.0.0.1:1",
        "--credentials",
        folder,
    ]);
    assert!(
        says.contains("no connection to the API server https://127.0.0.1:1"),
        "{says}"
    );
    let says = add(&["--api-server", &url, "--credentials", "/nonexistent"]);
    assert!(says.contains("/nonexistent/token"), "{says}");

    write_credentials(bed, control_plane, "nobody");
    let says = add(&by_url);
    let rules = "may not create tokenreviews.authentication.k8s.io, nor get pods, nor get nodes";
    assert!(says.contains(rules), "{says}");
    fs::write(bed.dir.join("credentials/token"), "no.such.token").unwrap();
    let says = add(&by_url);
    assert!(
        says.contains("does not accept the broker's own token"),
        "{says}"
    );
    assert!(!says.contains("no.such.token"), "{says}");
    let listed = bed
        .attache_ok(&["cluster", "list", "--output", "name"])
        .unwrap();
    assert_eq!(listed.trim(), "local");
}

/// Its token is bound to a Secret, with which it ends.
#[test]
fn the_brokers_own_token_may_be_replaced_under_way() {
    let control_plane = shared();
    let world = World::serving();
    let kubectl = &world.kubectl;
    let name = format!("bound-{}", world.namespace);
    kubectl
        .create(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": SYSTEM, "name": name},
        }))
        .unwrap();
    let bound = ["--bound-object-kind=Secret", "--bound-object-name", &name];
    let token = broker_token(control_plane, "attache-broker", &bound);
    let file = credentials(&world.bed).join("token");
    fs::write(&file, token).unwrap();
    kubectl
        .run(&["delete", "secret", &name, "-n", SYSTEM])
        .unwrap();
    let (first, second) = (world.pod("web-0"), world.pod("web-1"));
    let (first_token, second_token) = (world.token(&first), world.token(&second));
    let (_, status) = world.until_refused(&first, &first_token);
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(
        world
            .audit()
            .contains("does not accept the broker's own token")
    );
    fs::write(&file, broker_token(control_plane, "attache-broker", &[])).unwrap();
    world
        .deliver(&second, &second_token)
        .expect("read again at once");
}

#[test]
fn without_its_api_server_nothing_is_released_and_all_is_again_with_it() {
    let control_plane = ControlPlane::start().unwrap();
    furnish(&control_plane);
    let world = World::on(&control_plane).furnished();
    let (first, second) = (world.pod("web-0"), world.pod("web-1"));
    let tokens = [&first, &second].map(|pod| world.token(pod));
    world.deliver(&first, &tokens[0]).unwrap();
    control_plane.api_server.stop().unwrap();
    let status = world.refused(&second, &tokens[1]);
    assert_eq!(status.code(), Code::Unavailable);
    let why = "the broker cannot read the cluster's records now";
    assert!(status.message().contains(why), "{status:?}");
    // A certificate is no secret: an outage must not strand a fleet.
    world.renew().expect("renewed");
    for _ in 0..5 {
        world.refused(&second, &tokens[1]);
    }
    let open = "attache_broker_kubernetes_breakers_open 1";
    assert!(world.bed.metrics().unwrap().contains(open));
    control_plane.start_api_server().unwrap();
    let began = Instant::now();
    while let Err(status) = world.deliver(&second, &tokens[1]) {
        assert_eq!(status.code(), Code::Unavailable);
        assert!(began.elapsed() < Duration::from_secs(30), "{status:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(
        world
            .bed
            .metrics()
            .unwrap()
            .contains("attache_broker_kubernetes_breakers_open 0")
    );
    control_plane.stop().unwrap();
}

#[test]
fn a_new_store_knows_its_cluster_from_the_beginning_or_is_not_made() {
    let control_plane = shared();
    let mut bed = Bed::new().unwrap();
    write_credentials(&bed, control_plane, "nobody");
    let folder = credentials(&bed);
    let init = || {
        let mut command = std::process::Command::new(bin("attache-broker").unwrap());
        command.args([
            "init",
            "--if-empty",
            "--cluster",
            "local",
            "--audience",
            AUDIENCE,
        ]);
        command.args(["--api-server", &control_plane.url(), "--credentials"]);
        command.arg(&folder);
        command.args([
            "--enroll-service-account",
            "attache-system/attache-node-plugin",
        ]);
        run(command.arg("--config").arg(bed.broker_config())).unwrap()
    };
    let refused = init();
    let says = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && says.contains("may not create tokenreviews"),
        "{says}"
    );
    assert!(
        !bed.store_dir().join("attache.redb").exists() && !bed.dir.join("etc/slot.key").exists()
    );
    write_credentials(&bed, control_plane, "attache-broker");
    assert!(init().status.success());
    bed.start_broker().unwrap();
    bed.login("ada").unwrap();
    let shown = bed
        .attache_ok(&["cluster", "show", "local", "--output", "json"])
        .unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(text(&shown, "/api_server"), control_plane.url());
    assert_eq!(text(&shown, "/issuer"), ISSUER);
    assert_eq!(
        text(&shown, "/enroll_service_account"),
        "attache-system/attache-node-plugin"
    );
    assert_eq!(text(&shown, "/enroll_audience"), "attache-enroll");
    assert_eq!(
        text(&shown, "/created_by"),
        format!("spiffe://{TRUST_DOMAIN}/broker/broker-0")
    );
}
