//! What stands after a store went back to an earlier state, by a restore or by an accepted rollback: nothing that is good
//! for one use is unused again, and nodes that the store does not know any more find their way in.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use attache_mtls::key::LeafKey;
use attache_proto::{attache::v1 as pb, details::Details};
use attache_tests::{
    Bed, Scene,
    bed::{CLUSTER, NODE},
    pod::Pod,
    process::{PATIENCE, run, until},
    scene::PASSWORD,
    wire,
};
use pb::enrollment_client::EnrollmentClient;
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::{Code, Status};

/// A node that joins after the backup.
const NEW_NODE: (&str, &str) = ("node-new", "5a0c1de0-0000-4000-8000-0000000000ff");

fn broker(bed: &Bed, args: &[&str]) -> Command {
    bed.broker_command(args).unwrap()
}

/// Where the store goes back to, and how.
struct Before {
    /// A backup of that state, and the store's file of then.
    backup: String,
    store: Vec<u8>,
}

impl Before {
    /// Keeps the state that the broker has now.
    fn keep(bed: &mut Bed) -> Self {
        let file = bed.dir.join("before.backup");
        let backup = file.to_str().unwrap().to_owned();
        bed.attache_ok(&["backup", "create", &backup]).unwrap();
        bed.broker.take().unwrap().stop().unwrap();
        let store = fs::read(bed.store_dir().join("store.redb")).unwrap();
        bed.start_broker().unwrap();
        Self { backup, store }
    }

    fn restore(&self, bed: &mut Bed) {
        bed.broker.take().unwrap().stop().unwrap();
        fs::remove_file(bed.store_dir().join("store.redb")).unwrap();
        let restored = run(&mut broker(bed, &["restore", &self.backup])).unwrap();
        assert!(restored.status.success(), "{restored:?}");
        bed.start_broker().unwrap();
    }

    fn roll_back(&self, bed: &mut Bed) {
        bed.broker.take().unwrap().stop().unwrap();
        fs::write(bed.store_dir().join("store.redb"), &self.store).unwrap();
        let refused = run(&mut broker(bed, &["serve"])).unwrap();
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        let stands = told.split("stands at sequence ").nth(1).unwrap();
        let stands = stands.split(',').next().unwrap();
        let listening = bed.store_dir().join("listen.json");
        fs::remove_file(&listening).unwrap();
        let mut accepting = broker(bed, &["serve", "--accept-rollback-to", stands]);
        accepting.stdin(Stdio::null()).stdout(Stdio::null());
        let mut accepting = accepting.stderr(Stdio::null()).spawn().unwrap();
        until(PATIENCE, "the rollback is accepted", || {
            listening.exists().then_some(())
        })
        .unwrap();
        accepting.kill().unwrap();
        accepting.wait().unwrap();
        bed.start_broker().unwrap();
    }
}

fn bed() -> Bed {
    let bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    bed.add_cluster().unwrap();
    bed
}

fn join_token(bed: &Bed) -> String {
    join_token_of(bed, NODE.0)
}

fn join_token_of(bed: &Bed, node: &str) -> String {
    let words = [
        "node",
        "join-token",
        "--cluster",
        CLUSTER,
        "--node",
        node,
        "--quiet",
    ];
    bed.attache_ok(&words).unwrap().trim().to_owned()
}

/// Joins with a token, as a plugin does.
fn join(bed: &Bed, token: &str, key: &LeafKey) -> Result<pb::JoinNodeResponse, Status> {
    Runtime::new().unwrap().block_on(async {
        let mut client = EnrollmentClient::new(wire::joining(bed, token).unwrap());
        let request = pb::JoinNodeRequest {
            token: token.to_owned(),
            csr: key.certificate_request().unwrap(),
            version: "test".into(),
        };
        Ok(client.join_node(request).await?.into_inner())
    })
}

fn reason(status: &Status) -> String {
    Details::of(status).unwrap().reason
}

fn approvals(bed: &Bed) -> Vec<Value> {
    let listed = bed.attache_json(&["approval", "list"]).unwrap();
    let approvals = listed.pointer("/approvals").unwrap();
    approvals.as_array().unwrap().clone()
}

/// Signs bob in by a code, at a desk of its own.
fn sign_in(bed: &Bed, desk: &str, code: &Path) -> Output {
    let (grpc, enroll) = bed.broker_addresses().unwrap();
    let mut command = bed.attache_command().unwrap();
    command.env("ATTACHE_CONFIG", bed.dir.join(desk).join("config.toml"));
    command.args(["login", "--new", "bob", "--broker", &grpc.to_string()]);
    command.args(["--enroll", &enroll.to_string()]);
    command.args(["--code", &format!("@{}", code.display())]);
    run(&mut command).unwrap()
}

/// A token, an approval and a code, each used after the state that the store goes back to, in which they were unused.
fn nothing_is_unused_again(go_back: impl Fn(&Before, &mut Bed)) {
    let mut bed = bed();
    let (token, first) = (join_token(&bed), join_token(&bed));
    join(&bed, &first, &LeafKey::generate().unwrap()).unwrap();
    let second = LeafKey::generate().unwrap();
    let waits = join(&bed, &token, &second).err().unwrap();
    assert_eq!(reason(&waits), "ENROLLMENT_PENDING");
    let waiting = approvals(&bed);
    let id = waiting.first().and_then(|it| it.pointer("/id")).unwrap();
    bed.attache_ok(&["approval", "approve", id.as_str().unwrap(), "--yes"])
        .unwrap();
    let code = bed.attache_ok(&["operator", "add", "bob"]).unwrap();
    let before = Before::keep(&mut bed);

    join(&bed, &token, &second).unwrap();
    assert!(approvals(&bed).is_empty());
    let file = bed.dir.join("etc/code");
    fs::write(&file, &code).unwrap();
    assert!(sign_in(&bed, "bob", &file).status.success());

    go_back(&before, &mut bed);
    assert!(approvals(&bed).is_empty());
    for key in [&second, &LeafKey::generate().unwrap()] {
        let refused = join(&bed, &token, key).err().unwrap();
        assert_eq!(reason(&refused), "JOIN_TOKEN", "{refused:?}");
    }
    let refused = sign_in(&bed, "thief", &file);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("attache operator add"), "{told}");
    let checked = bed.check_store().unwrap();
    assert!(checked.contains(" 0 findings"), "{checked}");

    // What is made from here on is good as ever.
    join(&bed, &join_token(&bed), &LeafKey::generate().unwrap()).unwrap();
}

#[test]
fn what_is_good_for_one_use_is_gone_after_a_restore() {
    nothing_is_unused_again(Before::restore);
}

#[test]
fn what_is_good_for_one_use_is_gone_after_an_accepted_rollback() {
    nothing_is_unused_again(Before::roll_back);
}

/// The store does not know the plugin's key, or not even the node: the plugin learns it by the first call, does not use that
/// key again, not after a restart either, and shows its evidence at once and not when its certificate ends.
fn comes_in_anew(known_to_the_store: bool) {
    let mut scene = Scene::start().unwrap();
    scene.bed.pin_addresses().unwrap();
    let before = Before::keep(&mut scene.bed);
    take_identity(&mut scene.bed);
    let node = if known_to_the_store { NODE } else { NEW_NODE };
    scene.bed.cluster.add_node(node.0, node.1).unwrap();
    scene.bed.join_node(node.0).unwrap();
    scene.bed.start_plugin().unwrap();
    let pod = Pod::new("shop", "web-0", "web", node, "payments/db");
    scene.publish(&pod).unwrap();

    before.restore(&mut scene.bed);
    let other = Pod::new("shop", "web-1", "web", node, "payments/db");
    let told = until(PATIENCE, "the broker refuses the key", || {
        let refused = scene.publish(&other).err()?;
        (refused.code() == Code::Unauthenticated).then(|| refused.message().to_owned())
    })
    .unwrap();
    let words = if known_to_the_store {
        "before the store was restored"
    } else {
        "is not known here"
    };
    assert!(told.contains(words), "{told}");
    let noted = scene.bed.dir.join("node-state/unknown-key");
    until(PATIENCE, "the key is noted", || {
        noted.exists().then_some(())
    })
    .unwrap();
    assert_eq!(
        scene.read(&pod, "db/password").unwrap(),
        PASSWORD,
        "mounts stay"
    );
    scene.bed.plugin.take().unwrap().stop().unwrap();
    scene.bed.launch_plugin().unwrap();
    let log = scene.bed.dir.join("log/node-plugin.log");
    let says = || {
        let log = fs::read_to_string(&log).ok()?;
        (log.matches("enrolling anew").count() > 1 && log.contains("join token is not valid"))
            .then_some(())
    };
    let plugin = scene.bed.plugin.as_mut().unwrap();
    plugin.wait_until("showing its evidence", says).unwrap();
    assert!(
        !scene.audit().unwrap().contains("\"ban\""),
        "nobody is banned for it"
    );

    // In place, as an administrator does: the file is the agent's.
    let token = join_token_of(&scene.bed, node.0);
    fs::write(scene.bed.dir.join("etc/join-token"), token).unwrap();
    scene.bed.await_plugin().unwrap();
    scene.publish(&other).unwrap();
    assert_eq!(scene.read(&other, "db/password").unwrap(), PASSWORD);
    scene.bed.plugin.take().unwrap().stop().unwrap();
    scene.bed.start_plugin().unwrap();
}

/// Stops the plugin and takes its key and certificate away.
fn take_identity(bed: &mut Bed) {
    bed.plugin.take().unwrap().stop().unwrap();
    for entry in fs::read_dir(bed.dir.join("node-state")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

#[test]
fn a_node_whose_key_a_restored_store_does_not_know_enrolls_at_once() {
    comes_in_anew(true);
}

#[test]
fn a_node_that_a_restored_store_does_not_know_enrolls_at_once() {
    comes_in_anew(false);
}
