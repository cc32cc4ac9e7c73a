//! csi-sanity, the conformance suite of the Container Storage Interface, against the plugin as shipped, with a broker behind.
//!
//! csi-sanity v5.5.0 is a client of a whole driver: controller, volumes, any path. Ours is a node plugin whose volumes are of
//! pods. Two things stand between them: [`relay::Relay`] adds what kubelet adds, and [`shim::Shim`] is the controller that
//! makes the volumes. The product knows of neither, and has no mode for either.
//!
//! The 15 specs that apply to a driver without a controller are decided by the plugin's answers. Neither the relay nor
//! the shim decides one alone: the shim's Identity service is the relay's, which is the plugin's. What a spec rests on
//! besides the plugin:
//! - "should remove target path" sees the plugin's folder through a link at csi-sanity's own path.
//! - Both stats of what is not there ask for `some/path`, which no kubelet does: it is refused by its form.
//!   `volumes::stats_and_capabilities_are_told` asks for a path of kubelet's.
//!
//! Two more, "should work" and "should be idempotent", run only before a driver that says it has a controller: the relay says
//! it in the plugin's place, in a run of its own. What they ask of the controller itself shows the shim and nothing else.
//!
//! They say nothing about tokens, pods and policy, since every pod of the relay is an honest one; nothing about several
//! calls at once, refreshes, crashes, or a volume at two paths; nothing about what is left out because the driver does not
//! have it: staging, expansion, the controller. That `csi.readOnly` false is accepted from kubelet they do show: csi-sanity
//! sets it so in every publish.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]
#![expect(clippy::print_stdout, reason = "which specs passed is told")]

mod relay;
mod shim;

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Instant};

use attache_proto::csi::v1::{identity_server::IdentityServer, node_server::NodeServer};
use attache_tests::{
    Scene,
    kubernetes::Release,
    mounts,
    process::{Process, log_tail},
    scene::PASSWORD,
};
use relay::{Relay, Seen};
use serde::Deserialize;
use shim::Shim;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, transport::Server};

/// What applies to a driver that has no controller and advertises GET_VOLUME_STATS and VOLUME_MOUNT_GROUP.
const APPLICABLE: [&str; 15] = [
    "Identity Service GetPluginCapabilities should return appropriate capabilities",
    "Identity Service GetPluginInfo should return appropriate information",
    "Identity Service Probe should return appropriate information",
    "Node Service NodeGetCapabilities should return appropriate capabilities",
    "Node Service NodeGetInfo should return appropriate values",
    "Node Service NodeGetVolumeStats should fail when no volume id is provided",
    "Node Service NodeGetVolumeStats should fail when no volume path is provided",
    "Node Service NodeGetVolumeStats should fail when volume does not exist on the specified path",
    "Node Service NodeGetVolumeStats should fail when volume is not found",
    "Node Service NodePublishVolume should fail when no target path is provided",
    "Node Service NodePublishVolume should fail when no volume capability is provided",
    "Node Service NodePublishVolume should fail when no volume id is provided",
    "Node Service NodeUnpublishVolume should fail when no target path is provided",
    "Node Service NodeUnpublishVolume should fail when no volume id is provided",
    "Node Service NodeUnpublishVolume should remove target path",
];

/// Why csi-sanity leaves out a spec that is not of the controller, in its own words.
const LEFT_OUT: [&str; 5] = [
    "Controller Service not provided: CreateVolume not supported",
    "NodeExpandVolume not supported",
    "NodeStageVolume not supported",
    "NodeUnstageVolume not supported",
    "Service does not have single node multi writer capability",
];

/// One run of csi-sanity.
struct Run {
    /// Full names of the specs that passed.
    passed: BTreeSet<String>,
    /// What csi-sanity itself left out while it ran them, and why.
    left_out: Vec<(String, String)>,
    /// What went through the relay.
    seen: Seen,
}

/// ginkgo's JSON report, as much of it as is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Vec<Spec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_text: String,
    state: String,
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: Option<String>,
}

impl Spec {
    fn name(&self) -> String {
        let mut words = self.container_hierarchy_texts.clone().unwrap_or_default();
        words.push(self.leaf_node_text.clone());
        words.join(" ")
    }
}

/// Runs csi-sanity with these options, through a relay of its own; demands that no spec fails and no mount is left.
fn run(claims_controller: bool, options: &[&str]) -> Run {
    let scene = Scene::start().unwrap();
    let dir = scene.bed.dir.join("sanity");
    let relay = Relay::new(&scene, &dir, claims_controller);
    let (node, controller) = (
        scene.bed.dir.join("relay.sock"),
        scene.bed.dir.join("shim.sock"),
    );
    let _guard = scene.runtime.enter();
    let listen = |socket: &Path| UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    let identity = || Server::builder().add_service(IdentityServer::new(relay.clone()));
    let serve = identity().add_service(NodeServer::new(relay.clone()));
    tokio::spawn(serve.serve_with_incoming(listen(&node)));
    let serve = identity().add_service(Shim::new(Relay::attributes()));
    tokio::spawn(serve.serve_with_incoming(listen(&controller)));

    let (report, log) = (
        scene.bed.dir.join("report.json"),
        scene.bed.dir.join("log/csi-sanity.log"),
    );
    let start = Instant::now();
    let mut command = Command::new(Release::default().tool("csi-sanity"));
    command
        .arg(format!("--csi.endpoint={}", node.display()))
        .arg(format!("--csi.controllerendpoint={}", controller.display()))
        .arg(format!("--csi.mountdir={}", dir.display()))
        .arg(format!("--csi.stagingdir={}-staging", dir.display()))
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .arg("--ginkgo.no-color")
        .args(options);
    let mut sanity = Process::spawn(&mut command, "csi-sanity", &log).unwrap();
    let ended = sanity.wait_for_end().unwrap();
    println!("csi-sanity took {:?}", start.elapsed());

    // Pending is a spec that csi-sanity itself has put aside.
    let failed = |spec: &&Spec| !matches!(spec.state.as_str(), "passed" | "skipped" | "pending");
    let suites: Vec<Suite> = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let specs = || suites.iter().flat_map(|suite| &suite.spec_reports);
    let failures: Vec<String> = specs().filter(failed).map(Spec::name).collect();
    assert!(
        ended.success() && failures.is_empty(),
        "{ended}: {failures:#?}\n{}",
        log_tail(&log)
    );
    assert_eq!(mounts::below(&scene.bed.kubelet_dir()).unwrap(), []);
    let in_state = |state: &'static str| specs().filter(move |spec| spec.state == state);
    let reason = |spec: &Spec| spec.failure.as_ref().and_then(|f| f.message.clone());
    Run {
        passed: in_state("passed").map(Spec::name).collect(),
        left_out: in_state("skipped")
            .filter_map(|spec| Some((spec.name(), reason(spec).filter(|r| !r.is_empty())?)))
            .collect(),
        seen: relay.seen(),
    }
}

fn print(run: &Run) {
    for name in &run.passed {
        println!("passed: {name}");
    }
    for (name, reason) in &run.left_out {
        println!("left out: {name} ({reason})");
    }
}

#[test]
fn all_specs_of_csi_sanity_that_apply_to_a_node_only_driver_pass() {
    let run = run(false, &["--ginkgo.skip=Controller Server"]);
    print(&run);
    assert_eq!(run.passed, APPLICABLE.map(str::to_owned).into());
    for (name, reason) in &run.left_out {
        let known = LEFT_OUT.contains(&reason.as_str()) || name.starts_with("GroupController");
        assert!(known, "{name} was left out: {reason}");
    }

    // A spec asks for a code alone: each refusal must be for the field that the spec is about.
    let refused: BTreeSet<_> = (run.seen.refusals.iter())
        .map(|(call, code, message)| (*call, *code == Code::NotFound, message.as_str()))
        .collect();
    let expected = [
        ("NodePublishVolume", false, "volume_id is missing"),
        ("NodePublishVolume", false, "target_path is missing"),
        ("NodePublishVolume", false, "volume_capability is missing"),
        ("NodeUnpublishVolume", false, "volume_id is missing"),
        ("NodeUnpublishVolume", false, "target_path is missing"),
        ("NodeGetVolumeStats", false, "volume_id is missing"),
        ("NodeGetVolumeStats", false, "volume_path is missing"),
        (
            "NodeGetVolumeStats",
            true,
            "attache: no volume of this id is published at volume_path",
        ),
    ];
    assert_eq!(refused, expected.into());
    let whole = (1, PASSWORD.to_owned());
    assert_eq!(run.seen.published, [whole.clone(), whole]);
}

#[test]
fn a_publish_works_and_ten_of_them_leave_one_mount() {
    let run = run(
        true,
        &["--ginkgo.focus=Node Service should (work|be idempotent)"],
    );
    print(&run);
    let expected = [
        "Node Service should be idempotent",
        "Node Service should work",
    ];
    assert_eq!(run.passed, expected.map(str::to_owned).into());
    assert_eq!(run.seen.refusals, []);
    assert_eq!(run.seen.published, vec![(1, PASSWORD.to_owned()); 11]);
}
