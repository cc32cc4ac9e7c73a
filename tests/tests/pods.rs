//! What a pod's author may write, through the CSI socket: layout, files, modes, owner and group, and the lines of refusals;
//! and that the container itself may write nothing.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use attache_tests::{
    Scene,
    bed::{AUDIENCE, NODE},
    container::Container,
    pod::Pod,
    scene::{PASSWORD, USERNAME},
};
use serde_json::{Value, json};
use tonic::Code;

fn pod(name: &str) -> Pod {
    Pod::new("shop", name, "web", NODE, "payments/db")
}

/// A pod that asks for exact files.
fn with_files(name: &str, files: &str) -> Pod {
    let mut pod = pod(name).attribute("files", files);
    pod.attributes.remove("secrets");
    pod
}

/// uid, gid and mode of a file of the mount.
fn owned(scene: &Scene, pod: &Pod, path: &str) -> (u32, u32, u32) {
    let file = fs::metadata(scene.kubelet.target(pod).join(path)).unwrap();
    (file.uid(), file.gid(), file.permissions().mode() & 0o7777)
}

fn refused(scene: &Scene, pod: &Pod) -> (Code, String) {
    let token = scene.bed.token(pod).unwrap();
    let status = scene.refused(pod, AUDIENCE, &token).unwrap();
    (status.code(), status.message().to_owned())
}

#[test]
fn fields_are_files_by_name_or_flat() {
    let scene = Scene::start().unwrap();
    let by_name = pod("by-name").attribute("layout", "by-name");
    let flat = pod("flat").attribute("layout", "flat");
    for (pod, password) in [(&by_name, "db/password"), (&flat, "password")] {
        scene.publish(pod).unwrap();
        assert_eq!(scene.read(pod, password).unwrap(), PASSWORD);
        assert_eq!(owned(&scene, pod, password), (1000, 1000, 0o400));
    }
    assert_eq!(scene.read(&flat, "username").unwrap(), USERNAME);
    assert!(!scene.kubelet.target(&flat).join("db").exists());
}

#[test]
fn files_are_exactly_those_listed_and_optional_ones_that_are_not_had_are_told() {
    let scene = Scene::start().unwrap();
    scene.put("payments/db", &[("password", "second")]).unwrap();
    scene.put("payments/other", &[("a", "1")]).unwrap();
    let pod = with_files(
        "web-0",
        r##"
        - {path: now, ref: "payments/db#password", mode: "0440"}
        - path: etc/before
          ref: payments/db@1#password
        - {path: absent, ref: payments/nothing#key, optional: true}
        - {path: foreign, ref: payments/other#a, optional: true}
        "##,
    );
    scene.publish(&pod).unwrap();
    assert_eq!(scene.read(&pod, "now").unwrap(), "second");
    assert_eq!(owned(&scene, &pod, "now"), (1000, 1000, 0o440));
    assert_eq!(scene.read(&pod, "etc/before").unwrap(), PASSWORD);
    assert_eq!(owned(&scene, &pod, "etc/before"), (1000, 1000, 0o400));
    for path in ["absent", "foreign", "db"] {
        assert!(!scene.kubelet.target(&pod).join(path).exists(), "{path}");
    }

    let told = scene.metadata(&pod).unwrap();
    let missing = json!(["payments/nothing#key", "payments/other#a"]);
    assert_eq!(
        told["missing"], missing,
        "absent and not granted read the same"
    );
    let files: Vec<(&str, &str)> = told["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            let text = |key: &str| file[key].as_str().unwrap();
            (text("path"), text("ref"))
        })
        .collect();
    assert_eq!(
        files,
        [
            ("etc/before", "payments/db@1#password"),
            ("now", "payments/db@2#password")
        ]
    );
    assert!(!told.to_string().contains("second"), "{told}");
    let folder = fs::read_link(scene.kubelet.target(&pod).join("..data")).unwrap();
    let seq = told["generation"]["seq"].as_u64().unwrap();
    assert!(
        folder.to_string_lossy().starts_with(&format!("..{seq:x}-")),
        "{folder:?} is not of generation {seq}"
    );
    // Left out is on record too.
    assert!(scene.audit().unwrap().contains("payments/nothing#key"));

    // One that is not optional takes all of them along.
    let pod = with_files(
        "web-1",
        "[{path: now, ref: payments/db#password}, {path: absent, ref: payments/nothing#key}]",
    );
    let (code, line) = refused(&scene, &pod);
    assert_eq!(code, Code::PermissionDenied);
    assert!(line.contains("payments/nothing#key"), "{line}");
}

#[test]
fn the_owner_is_the_containers_user_and_a_group_gets_what_the_pod_says() {
    let scene = Scene::start().unwrap();
    let contexts = |pod_level: Value, container: Value| {
        let mut pod = pod(&format!("web-{}", uuid::Uuid::new_v4()));
        pod.security_context = pod_level;
        pod.containers[0].security_context = container;
        pod
    };
    let rows = [
        (
            contexts(json!({ "runAsUser": 1001 }), json!({})),
            (1001, 0, 0o400),
        ),
        (
            contexts(
                json!({ "runAsUser": 1001, "runAsGroup": 1001 }),
                json!({ "runAsUser": 1002 }),
            ),
            (1002, 1001, 0o400),
        ),
        (
            contexts(json!({ "runAsUser": 1001, "fsGroup": 2000 }), json!({})),
            (1001, 2000, 0o440),
        ),
        (
            contexts(
                json!({ "fsGroup": 2000 }),
                json!({ "runAsUser": 1001, "runAsGroup": 3000 }),
            ),
            (1001, 3000, 0o440),
        ),
    ];
    for (pod, expected) in rows {
        scene.publish(&pod).unwrap();
        assert_eq!(owned(&scene, &pod, "db/password"), expected);
    }
    let pod = contexts(json!({ "runAsUser": 1001 }), json!({})).attribute("mode", "0440");
    let (code, line) = refused(&scene, &pod);
    assert_eq!(code, Code::PermissionDenied, "{line}");
    assert!(
        line.contains("0440") && line.contains("runAsGroup") && line.contains("fsGroup"),
        "{line}"
    );
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_would_be_right() {
    let scene = Scene::start().unwrap();
    scene.put("payments/db2", &[("password", "x")]).unwrap();
    scene
        .bed
        .attache_ok(&[
            "grant",
            "add",
            "db2",
            "payments/db2",
            "--to",
            "local/shop/web/app",
        ])
        .unwrap();
    let both = |pod: Pod| pod.attribute("files", "[{path: a, ref: payments/db#password}]");
    let rows: [(&str, Pod, &[&str]); 10] = [
        (
            "unknown",
            pod("a").attribute("secretss", "payments/db"),
            &["secretss", "secrets"],
        ),
        ("uid", pod("b").attribute("uid", "1000"), &["uid"]),
        (
            "layout",
            pod("c").attribute("layout", "by-nam"),
            &["layout", "by-name"],
        ),
        ("mode", pod("d").attribute("mode", "0777"), &["mode"]),
        ("both", both(pod("e")), &["secrets", "files"]),
        (
            "up",
            with_files("f", "[{path: ../x, ref: payments/db#password}]"),
            &["files[0].path", ".."],
        ),
        (
            "dots",
            with_files("g", "[{path: ..data, ref: payments/db#password}]"),
            &["files[0].path", ".."],
        ),
        (
            "file and folder",
            with_files(
                "h",
                "[{path: a, ref: payments/db#password}, {path: a/b, ref: payments/db#username}]",
            ),
            &["payments/db#password", "payments/db#username", "\"a\""],
        ),
        (
            "one path",
            Pod::new("shop", "i", "web", NODE, "payments/db, payments/db2")
                .attribute("layout", "flat"),
            &["payments/db", "payments/db2", "files"],
        ),
        ("no YAML", with_files("j", "[{path: "), &["files"]),
    ];
    for (what, pod, words) in rows {
        let (code, line) = refused(&scene, &pod);
        assert_eq!(code, Code::InvalidArgument, "{what}: {line}");
        for word in words {
            assert!(line.contains(word), "{what}: no {word} in {line}");
        }
        assert!(!line.contains('\n'), "{what}: {line}");
    }
}

/// The pod's author sees one line for ever; `why` follows what is true.
#[test]
fn why_shows_the_latest_evaluation_behind_an_unchanged_line() {
    let scene = Scene::start().unwrap();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/late");
    let (_, line) = refused(&scene, &pod);
    let decision = line.split("decision ").nth(1).unwrap()[..8].to_owned();
    let why = || -> Value {
        let told = scene
            .bed
            .attache_ok(&["why", &decision, "--output", "json"])
            .unwrap();
        serde_json::from_str(&told).unwrap()
    };
    assert_eq!(why()["reason"], "there is no such secret");
    scene.put("payments/late", &[("a", "1")]).unwrap();
    assert_eq!(refused(&scene, &pod).1, line);
    let now = why();
    assert_eq!(now["reason"], "no grant permits it");
    assert_eq!(
        (now["count"].as_u64(), now["workload"].as_str()),
        (Some(2), Some("local/shop/web/app"))
    );
    scene
        .bed
        .attache_ok(&[
            "grant",
            "add",
            "late",
            "payments/late#a",
            "--to",
            "local/shop/web/app",
        ])
        .unwrap();
    scene.publish(&pod).unwrap();
    assert_eq!(scene.read(&pod, "late/a").unwrap(), "1");
}

/// What a container tries on a folder with `db/password` in it, in an order in which all of it can succeed.
const ATTEMPTS: [&str; 8] = [
    "chmod 600 db/password",
    "echo x >db/password",
    "touch db/password",
    "touch db/new",
    "touch new",
    "busybox mkdir folder",
    "rm db/password",
    "mv db other",
];

/// The CSI socket may ask for a volume that is not read-only, and a runtime may mount it so: the files hold by themselves.
#[test]
fn a_container_whose_mount_is_writable_can_neither_write_nor_chmod_nor_create() {
    let scene = Scene::start().unwrap();
    let pod = pod("web-0");
    scene.bed.cluster.add_pod(&pod).unwrap();
    scene.kubelet.prepare(&pod).unwrap();
    let token = scene.bed.token(&pod).unwrap();
    let mut request = scene.kubelet.publish_request(&pod, AUDIENCE, &token);
    request.readonly = false;
    let mut node = scene.kubelet.node();
    let published = scene.runtime.block_on(node.node_publish_volume(request));
    published.unwrap();

    // The control: a folder of the container's own, where every attempt succeeds.
    let own = scene.bed.dir.join("own");
    fs::create_dir_all(own.join("db")).unwrap();
    fs::write(own.join("db/password"), "own").unwrap();
    for path in [own.join("db/password"), own.join("db"), own.clone()] {
        std::os::unix::fs::chown(path, Some(1000), Some(1000)).unwrap();
    }
    let target = scene.kubelet.target(&pod);
    let mounts = [(target.as_path(), "/secrets", false), (&own, "/tmp", false)];
    let id = format!("attache-test-{}", std::process::id());
    let container = Container::start(&scene.bed.dir.join("containers"), &id, 1000, &mounts);
    let container = container.unwrap();
    let tried = |folder: &str, attempt: &str| {
        let output = container.exec(&format!("cd {folder} && {attempt}"));
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    for attempt in ATTEMPTS {
        let (done, said) = tried("/secrets", attempt);
        assert!(!done, "{attempt}");
        // Not by a mount that is read-only after all, and not for want of a file.
        let by_the_files = ["Operation not permitted", "Permission denied"];
        assert!(
            by_the_files.iter().any(|words| said.contains(words)),
            "{attempt}: {said}"
        );
    }
    for attempt in ATTEMPTS {
        let (done, said) = tried("/tmp", attempt);
        assert!(done, "{attempt} in the control: {said}");
    }
    assert_eq!(scene.read(&pod, "db/password").unwrap(), PASSWORD);
    assert_eq!(owned(&scene, &pod, "db/password"), (1000, 1000, 0o400));
}
