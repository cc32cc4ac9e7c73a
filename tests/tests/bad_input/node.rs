//! Requests to the node plugin: every field of the Container Storage Interface and of kubelet's registration.
//!
//! Codes by the CSI specification. Refused requests mount nothing and unmount nothing.

use attache_proto::{csi::v1 as csi, pluginregistration as registration};
use attache_tests::{
    Scene,
    bed::{AUDIENCE, NODE},
    mounts,
    pod::Pod,
    raw::{Method, Types, call},
    scene::PASSWORD,
};
use prost::Message;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    kinds::{CANARY, Kind},
    walk::{Exception, Expect, Rows, Take, Walk, judge},
};
use Code::{InvalidArgument, NotFound, ResourceExhausted};
use Expect::{None as NotSent, Passes, Refused, Says};

const PACKAGES: [&str; 2] = ["csi.v1", "pluginregistration"];
/// Verbs of the specification that this driver does not have.
const UNSERVED: [&str; 3] = ["NodeStageVolume", "NodeUnstageVolume", "NodeExpandVolume"];

/// What must be there, in some form.
fn required(kind: Kind) -> Expect {
    match kind {
        Kind::Largest | Kind::WrongType | Kind::NotUtf8 => NotSent("settled by its type"),
        Kind::Missing | Kind::Empty | Kind::TooLong | Kind::Nul | Kind::Unknown => {
            Refused(InvalidArgument)
        }
    }
}

/// What the specification has for other drivers, and must not be there.
fn nothing(kind: Kind) -> Expect {
    match kind {
        Kind::Missing => Passes("this driver does not use it"),
        _ => required(kind),
    }
}

/// As [`nothing`], for a text.
fn no_text(kind: Kind) -> Expect {
    match kind {
        Kind::Empty => Passes("this driver does not use it"),
        _ => nothing(kind),
    }
}

/// A flag.
fn flag(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty => Passes("means no; the files are immutable in any case"),
        _ => required(kind),
    }
}

/// A word of kubelet's for the log, which escapes it.
fn word(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty | Kind::Nul => Passes("it goes to the log, escaped"),
        Kind::TooLong => Says(ResourceExhausted, "larger than is read"),
        _ => required(kind),
    }
}

/// The attributes: each has rows beside the code that parses them; here are the map's own.
fn attributes(kind: Kind) -> Expect {
    match kind {
        Kind::Missing => Says(InvalidArgument, "volume_context"),
        Kind::Empty | Kind::TooLong | Kind::Nul | Kind::Unknown => {
            Says(InvalidArgument, "volumeAttributes")
        }
        Kind::Largest | Kind::WrongType | Kind::NotUtf8 => required(kind),
    }
}

/// An id or path of which statistics are asked: whatever its form, no volume is there.
fn whereabouts(kind: Kind) -> Expect {
    match kind {
        Kind::TooLong | Kind::Nul => Says(NotFound, "no volume of this id"),
        _ => required(kind),
    }
}

/// Where a volume was staged: none is, and the specification lets it be told.
fn staging(kind: Kind) -> Expect {
    match kind {
        Kind::Largest | Kind::WrongType | Kind::NotUtf8 | Kind::Unknown => required(kind),
        Kind::Missing | Kind::Empty | Kind::TooLong | Kind::Nul => {
            Passes("it is not looked at: no volume is staged")
        }
    }
}

/// A field of a verb that is not served, whose message is not looked at once it is decoded.
fn unserved(kind: Kind) -> Expect {
    required(kind)
}

const ROWS: &[(&str, Take)] = &[
    ("NodeStageVolumeRequest.volume_id", unserved),
    ("NodeStageVolumeRequest.publish_context", unserved),
    ("NodeStageVolumeRequest.staging_target_path", unserved),
    ("NodeStageVolumeRequest.volume_capability", unserved),
    ("NodeStageVolumeRequest.secrets", unserved),
    ("NodeStageVolumeRequest.volume_context", unserved),
    ("NodeUnstageVolumeRequest.volume_id", unserved),
    ("NodeUnstageVolumeRequest.staging_target_path", unserved),
    ("NodeExpandVolumeRequest.volume_id", unserved),
    ("NodeExpandVolumeRequest.volume_path", unserved),
    ("NodeExpandVolumeRequest.capacity_range", unserved),
    ("NodeExpandVolumeRequest.staging_target_path", unserved),
    ("NodeExpandVolumeRequest.volume_capability", unserved),
    ("NodeExpandVolumeRequest.secrets", unserved),
    ("CapacityRange.required_bytes", unserved),
    ("CapacityRange.limit_bytes", unserved),
    ("NodePublishVolumeRequest.volume_id", required),
    ("NodePublishVolumeRequest.publish_context", nothing),
    ("NodePublishVolumeRequest.staging_target_path", no_text),
    ("NodePublishVolumeRequest.target_path", required),
    ("NodePublishVolumeRequest.volume_capability", required),
    ("NodePublishVolumeRequest.readonly", flag),
    ("NodePublishVolumeRequest.secrets", required),
    ("NodePublishVolumeRequest.volume_context", attributes),
    ("VolumeCapability.block", nothing),
    ("VolumeCapability.mount", required),
    ("VolumeCapability.access_mode", required),
    ("MountVolume.fs_type", no_text),
    ("MountVolume.mount_flags", nothing),
    ("MountVolume.volume_mount_group", no_text),
    ("AccessMode.mode", required),
    ("NodeUnpublishVolumeRequest.volume_id", required),
    ("NodeUnpublishVolumeRequest.target_path", required),
    ("NodeGetVolumeStatsRequest.volume_id", whereabouts),
    ("NodeGetVolumeStatsRequest.volume_path", whereabouts),
    ("NodeGetVolumeStatsRequest.staging_target_path", staging),
    ("RegistrationStatus.plugin_registered", flag),
    ("RegistrationStatus.error", word),
];

const EXCEPTIONS: &[Exception] = &[
    (
        "NodePublishVolume",
        "VolumeCapability.mount",
        Kind::Empty,
        Passes("each of its fields may be empty"),
    ),
    // The other half of the oneof: with it there is no mount.
    (
        "NodePublishVolume",
        "VolumeCapability.block",
        Kind::Unknown,
        Refused(InvalidArgument),
    ),
];

fn walk(types: &Types) -> Walk<'_> {
    Walk {
        types,
        rows: ROWS,
        exceptions: EXCEPTIONS,
        strict: false,
        unserved: &UNSERVED,
    }
}

fn request(scene: &Scene, pod: &Pod, method: &Method) -> Vec<u8> {
    let target = scene.kubelet.target(pod).display().to_string();
    let (volume_id, kubelet) = (pod.volume_id(), &scene.kubelet);
    match method.name.as_str() {
        "NodePublishVolume" => {
            let token = scene.bed.token(pod).unwrap();
            kubelet
                .publish_request(pod, AUDIENCE, &token)
                .encode_to_vec()
        }
        "NodeUnpublishVolume" => {
            let target_path = target;
            csi::NodeUnpublishVolumeRequest {
                volume_id,
                target_path,
            }
            .encode_to_vec()
        }
        "NodeGetVolumeStats" => {
            let (volume_path, staging_target_path) = (target, String::new());
            csi::NodeGetVolumeStatsRequest {
                volume_id,
                volume_path,
                staging_target_path,
            }
            .encode_to_vec()
        }
        "NotifyRegistrationStatus" => {
            let error = String::new();
            registration::RegistrationStatus {
                plugin_registered: true,
                error,
            }
            .encode_to_vec()
        }
        _ => Vec::new(),
    }
}

/// The sockets of one plugin, and what was found wrong.
struct Calls<'c> {
    scene: &'c Scene,
    types: &'c Types,
    csi: Channel,
    registration: Channel,
    wrong: Vec<String>,
    sent: usize,
}

impl Calls<'_> {
    fn bend(&mut self, pod: &Pod, methods: impl Fn(&str) -> bool, rows: Rows) {
        for method in self
            .types
            .methods
            .iter()
            .filter(|method| methods(&method.name))
        {
            let good = request(self.scene, pod, method);
            let tree = self.types.parse(&method.input, &good).unwrap();
            let channel = if method.service.starts_with("csi") {
                &self.csi
            } else {
                &self.registration
            };
            let walk = walk(self.types);
            let bent = walk.bend(channel, method, &tree, rows, &mut self.wrong);
            self.sent += self.scene.runtime.block_on(bent);
        }
    }

    fn none_wrong(&self) {
        let wrong = &self.wrong;
        assert!(
            wrong.is_empty(),
            "{} of {} are wrong:\n{}",
            wrong.len(),
            self.sent,
            wrong.join("\n")
        );
    }

    fn control(&self, pod: &Pod, name: &str) {
        let method = self
            .types
            .methods
            .iter()
            .find(|method| method.name == name)
            .unwrap();
        let answer = call(&self.csi, method, vec![request(self.scene, pod, method)]);
        let answer = self.scene.runtime.block_on(answer);
        assert_eq!(judge(Passes("the control"), "", &answer), None, "{name}");
    }
}

fn socket(path: &std::path::Path) -> Channel {
    Endpoint::try_from(format!("unix:{}", path.display()))
        .unwrap()
        .connect_lazy()
}

#[test]
fn every_field_has_a_row_and_every_row_a_field() {
    walk(&Types::of(&PACKAGES).unwrap()).is_whole();
}

#[test]
fn bad_requests_are_refused_by_name_and_mount_nothing() {
    let scene = Scene::start().unwrap();
    let types = Types::of(&PACKAGES).unwrap();
    let _guard = scene.runtime.enter();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.bed.cluster.add_pod(&pod).unwrap();
    scene.kubelet.prepare(&pod).unwrap();
    let mut calls = Calls {
        scene: &scene,
        types: &types,
        csi: socket(&scene.bed.csi_socket()),
        registration: socket(&scene.bed.registration_socket()),
        wrong: Vec::new(),
        sent: 0,
    };
    let mounted = || mounts::below(&scene.bed.kubelet_dir()).unwrap().len();
    let stats = |name: &str| name == "NodeGetVolumeStats";
    let told = |name: &str| name == "NotifyRegistrationStatus";

    calls.bend(&pod, |name| !stats(name) && !told(name), Rows::Refused);
    calls.none_wrong();
    assert_eq!(mounted(), 0, "a bad request has mounted something");

    calls.control(&pod, "NodePublishVolume");
    let publish = |name: &str| name == "NodePublishVolume";
    calls.bend(&pod, |name| !told(name) && !publish(name), Rows::Refused);
    calls.none_wrong();
    // A mounted volume is answered OK whatever the request: a final error has kubelet delete it. It stays as it is.
    calls.bend(&pod, publish, Rows::Refused);
    calls.wrong.clear();
    calls.bend(&pod, stats, Rows::Passing);
    assert_eq!(mounted(), 1, "a bad request has changed what is mounted");
    assert_eq!(scene.read(&pod, "db/password").unwrap(), PASSWORD);
    calls.bend(
        &pod,
        |name| !told(name) && name != "NodeUnpublishVolume",
        Rows::Passing,
    );
    for planted in [CANARY, PASSWORD, &scene.bed.token(&pod).unwrap()[..20]] {
        assert!(!scene.logs().contains(planted), "a log has {planted}");
    }
    calls.bend(&pod, told, Rows::Refused);
    calls.bend(
        &pod,
        |name| told(name) || name == "NodeUnpublishVolume",
        Rows::Passing,
    );
    calls.control(&pod, "NodeUnpublishVolume");
    assert_eq!(mounted(), 0);
    calls.none_wrong();
    assert!(!scene.logs().contains("panicked"));
    println!("{} bad requests", calls.sent);
}
