//! The life of a volume on a node, through the CSI socket: publish, republish, stats, unpublish, and what goes wrong.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use attache_proto::csi::v1 as csi;
use attache_tests::{
    Scene,
    bed::{AUDIENCE, NODE},
    mounts,
    pod::Pod,
    process::PATIENCE,
    scene::{PASSWORD, USERNAME},
};
use serde_json::{Value, json};
use tonic::Code;

fn pod(name: &str) -> Pod {
    Pod::new("shop", name, "web", NODE, "payments/db")
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not {what} within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_mount_is_hardened_and_holds_the_layout() {
    let scene = Scene::start().unwrap();
    let pod = pod("web-0");
    scene.publish(&pod).unwrap();
    let target = scene.kubelet.target(&pod);
    let mounted = mounts::below(&target).unwrap();
    assert_eq!(mounted.len(), 1, "{mounted:?}");
    let mount = &mounted[0];
    assert_eq!(
        (mount.kind.as_str(), mount.source.as_str()),
        ("tmpfs", pod.volume_id().as_str())
    );
    for option in ["nosuid", "nodev", "noexec"] {
        assert!(
            mount.options.contains(option),
            "{option}: {}",
            mount.options
        );
    }
    for option in ["size=", "nr_inodes=", "noswap"] {
        assert!(
            mount.super_options.contains(option),
            "{option}: {}",
            mount.super_options
        );
    }
    let file = fs::metadata(target.join("db/password")).unwrap();
    assert_eq!(
        (file.uid(), file.permissions().mode() & 0o7777),
        (1000, 0o400)
    );
    let root = fs::metadata(&target).unwrap();
    assert_eq!((root.uid(), root.permissions().mode() & 0o7777), (0, 0o555));
    assert!(
        fs::read_link(target.join("..data"))
            .unwrap()
            .to_string_lossy()
            .starts_with("..")
    );
    assert!(
        fs::symlink_metadata(target.join("db"))
            .unwrap()
            .is_symlink()
    );
    let metadata = scene.metadata(&pod).unwrap().to_string();
    assert!(
        metadata.contains("payments/db") && !metadata.contains(PASSWORD),
        "{metadata}"
    );
}

#[test]
fn publishing_again_keeps_the_mount_and_makes_no_second_one() {
    let scene = Scene::start().unwrap();
    let pod = pod("web-0");
    scene.publish(&pod).unwrap();
    let before = mounts::below(&scene.kubelet.target(&pod)).unwrap();
    let generation = scene.metadata(&pod).unwrap();
    for _ in 0..5 {
        scene.publish(&pod).unwrap();
    }
    assert_eq!(mounts::below(&scene.kubelet.target(&pod)).unwrap(), before);
    assert_eq!(scene.metadata(&pod).unwrap(), generation);
    let counted = |what: &str| scene.status().unwrap()[what].as_u64().unwrap();
    let leaves = || scene.audit().unwrap().matches("payments/db").count();
    until("refreshed", || counted("unchanged") > 0);
    let (unchanged, before) = (counted("unchanged"), leaves());
    scene.publish(&pod).unwrap();
    until("refreshed again", || counted("unchanged") > unchanged);
    assert_eq!(leaves(), before, "unchanged makes no leaf");
    assert_eq!(counted("releases"), 1);
}

/// The grant goes while the volume is mounted: nothing new comes, what is there stays, and both sides say so.
#[test]
fn a_refused_refresh_keeps_the_mount_is_reported_and_makes_one_leaf() {
    let scene = Scene::start().unwrap();
    let pod = pod("web-0");
    scene.publish(&pod).unwrap();
    let before = mounts::below(&scene.kubelet.target(&pod)).unwrap();
    scene
        .bed
        .attache_ok(&["grant", "remove", "shop-web-db", "--yes"])
        .unwrap();
    scene.put("payments/db", &[("password", "second")]).unwrap();
    for refusals in 1..=3_u64 {
        scene.publish(&pod).unwrap();
        until("refused", || {
            scene.status().unwrap()["refusals"] == refusals
        });
    }
    let request = csi::NodeGetVolumeStatsRequest {
        volume_id: pod.volume_id(),
        volume_path: scene.kubelet.target(&pod).display().to_string(),
        staging_target_path: String::new(),
    };
    let mut node = scene.kubelet.node();
    let stats = scene.runtime.block_on(node.node_get_volume_stats(request));
    let condition = stats.unwrap().into_inner().volume_condition.unwrap();
    let decision = condition.message.split("decision ").nth(1).unwrap();
    assert!(condition.abnormal);
    let audit = scene.audit().unwrap();
    assert_eq!(audit.matches(&decision[..8]).count(), 1, "{audit}");
    assert_eq!(scene.read(&pod, "db/password").unwrap(), PASSWORD);
    assert_eq!(mounts::below(&scene.kubelet.target(&pod)).unwrap(), before);
}

#[test]
fn a_new_version_comes_with_a_republish_and_is_swapped_as_one() {
    let scene = Scene::start().unwrap();
    let pod = pod("web-0");
    scene.publish(&pod).unwrap();
    let target = scene.kubelet.target(&pod);
    let old = fs::read_link(target.join("..data")).unwrap();
    let mut held = fs::File::open(target.join("db/password")).unwrap();
    scene.put("payments/db", &[("password", "second")]).unwrap();
    scene.publish(&pod).unwrap();
    until("swapped", || {
        scene.read(&pod, "db/password").is_ok_and(|v| v == "second")
    });
    assert_eq!(
        scene.read(&pod, "db/username").unwrap(),
        USERNAME,
        "the other field is carried over"
    );
    assert_ne!(fs::read_link(target.join("..data")).unwrap(), old);
    until("the old generation is gone", || !target.join(&old).exists());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut held, &mut text).unwrap();
    assert_eq!(
        text, PASSWORD,
        "an open descriptor still reads its own bytes"
    );
}

#[test]
fn a_rollback_brings_the_version_before() {
    let scene = Scene::start().unwrap();
    let pod = pod("web-0");
    scene.put("payments/db", &[("password", "second")]).unwrap();
    scene.publish(&pod).unwrap();
    assert_eq!(scene.read(&pod, "db/password").unwrap(), "second");
    scene
        .bed
        .attache_ok(&["secret", "rollback", "payments/db"])
        .unwrap();
    scene.publish(&pod).unwrap();
    until("rolled back", || {
        scene.read(&pod, "db/password").is_ok_and(|v| v == PASSWORD)
    });
}

#[test]
fn unpublish_is_idempotent_and_needs_no_broker() {
    let mut scene = Scene::start().unwrap();
    let pod = pod("web-0");
    scene.publish(&pod).unwrap();
    scene.bed.broker.take().unwrap().stop().unwrap();
    scene.unpublish(&pod).unwrap();
    assert!(mounts::below(&scene.bed.kubelet_dir()).unwrap().is_empty());
    scene.unpublish(&pod).unwrap();
    scene.unpublish(&self::pod("never-published")).unwrap();
}

#[test]
fn a_lost_broker_leaves_the_mounts_and_stops_releases() {
    let mut scene = Scene::start().unwrap();
    let first = pod("web-0");
    scene.publish(&first).unwrap();
    scene.bed.broker.take().unwrap().kill().unwrap();
    scene
        .publish(&first)
        .expect("a whole mount answers from the node's own record");
    assert_eq!(scene.read(&first, "db/password").unwrap(), PASSWORD);
    let second = pod("web-1");
    let token = scene.bed.token(&second).unwrap();
    let status = scene.refused(&second, AUDIENCE, &token).unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[test]
fn a_restarted_plugin_finds_its_volumes_and_mounts_none_twice() {
    let mut scene = Scene::start().unwrap();
    let pod = pod("web-0");
    scene.publish(&pod).unwrap();
    let before = mounts::below(&scene.bed.kubelet_dir()).unwrap();
    for kill in [true, false] {
        let plugin = scene.bed.plugin.take().unwrap();
        if kill {
            plugin.kill().unwrap()
        } else {
            plugin.stop().unwrap()
        }
        assert_eq!(
            scene.read(&pod, "db/password").unwrap(),
            PASSWORD,
            "a mount outlives its plugin"
        );
        scene.bed.start_plugin().unwrap();
        scene.kubelet = {
            let _guard = scene.runtime.enter();
            scene.bed.kubelet().unwrap()
        };
        scene.publish(&pod).unwrap();
        assert_eq!(mounts::below(&scene.bed.kubelet_dir()).unwrap(), before);
    }
    scene.unpublish(&pod).unwrap();
    assert!(mounts::below(&scene.bed.kubelet_dir()).unwrap().is_empty());
}

#[test]
fn publish_and_unpublish_may_race() {
    let scene = Scene::start().unwrap();
    let pod = pod("web-0");
    scene.bed.cluster.add_pod(&pod).unwrap();
    let token = scene.bed.token(&pod).unwrap();
    scene.runtime.block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for i in 0..40 {
            let (kubelet, pod, token) = (scene.kubelet.clone(), pod.clone(), token.clone());
            calls.spawn(async move {
                if i % 2 == 0 {
                    kubelet.publish(&pod, AUDIENCE, &token).await
                } else {
                    kubelet.unpublish(&pod).await
                }
            });
        }
        while let Some(done) = calls.join_next().await {
            if let Err(status) = done.unwrap() {
                assert!(
                    matches!(status.code(), Code::Aborted | Code::Unavailable),
                    "{status:?}"
                );
            }
        }
    });
    let left = mounts::below(&scene.kubelet.target(&pod)).unwrap();
    assert!(left.len() <= 1, "{left:?}");
    if left.len() == 1 {
        assert_eq!(
            scene.read(&pod, "db/password").unwrap(),
            PASSWORD,
            "whole, or absent"
        );
    }
    scene.unpublish(&pod).unwrap();
    assert!(mounts::below(&scene.bed.kubelet_dir()).unwrap().is_empty());
}

#[test]
fn stats_and_capabilities_are_told() {
    let scene = Scene::start().unwrap();
    let pod = pod("web-0");
    scene.publish(&pod).unwrap();
    let (mut node, mut identity) = (scene.kubelet.node(), scene.kubelet.identity());
    let request = |id: &str, path: String| csi::NodeGetVolumeStatsRequest {
        volume_id: id.into(),
        volume_path: path,
        staging_target_path: String::new(),
    };
    let target = scene.kubelet.target(&pod).display().to_string();
    scene.runtime.block_on(async {
        let stats = node
            .node_get_volume_stats(request(&pod.volume_id(), target.clone()))
            .await
            .unwrap()
            .into_inner();
        assert!(
            stats
                .usage
                .iter()
                .any(|u| u.unit == csi::volume_usage::Unit::Bytes as i32 && u.total > 0)
        );
        assert!(
            stats
                .usage
                .iter()
                .any(|u| u.unit == csi::volume_usage::Unit::Inodes as i32 && u.total > 0)
        );
        let unknown = pod.volume_id().replace(|c: char| c.is_ascii_digit(), "f");
        let status = node
            .node_get_volume_stats(request(&unknown, target))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        let info = node
            .node_get_info(csi::NodeGetInfoRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(info.node_id, NODE.0);
        let info = identity
            .get_plugin_info(csi::GetPluginInfoRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(info.name, "csi.attache.dev");
        let status = node
            .node_stage_volume(csi::NodeStageVolumeRequest::default())
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    });
}

/// S7: only root may talk to the CSI socket.
#[test]
fn a_caller_that_is_not_root_is_refused_on_the_csi_socket() {
    let scene = Scene::start().unwrap();
    let socket = scene.bed.csi_socket();
    let connect = |command: &mut Command| {
        let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])";
        let output = command.args(["-c", script]).arg(&socket).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    // Debian's own: what root's PATH finds first, others may not be able to start.
    let python = "/usr/bin/python3";
    let user = ["--reuid=1000", "--regid=1000", "--clear-groups", python];
    let (reached, said) = connect(Command::new("setpriv").args(user));
    assert!(!reached, "uid 1000 reached the socket");
    assert!(said.contains("PermissionError"), "{said}");
    // The positive control: the same lines as root do connect.
    let (reached, said) = connect(&mut Command::new(python));
    assert!(reached, "{said}");
}

/// T5: the target is swapped for a symlink while volumes are published: nothing is ever mounted or written elsewhere.
#[test]
fn a_symlink_at_the_target_leads_nowhere() {
    let scene = Scene::start().unwrap();
    let elsewhere = scene.bed.dir.join("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    for i in 0..30 {
        let pod = pod(&format!("web-{i}"));
        scene.kubelet.prepare(&pod).unwrap();
        let target = scene.kubelet.target(&pod);
        let link = if i % 2 == 0 {
            target.clone()
        } else {
            target.parent().unwrap().to_owned()
        };
        if i % 2 == 1 {
            fs::remove_dir_all(&link).unwrap();
        }
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        let request =
            scene
                .kubelet
                .publish_request(&pod, AUDIENCE, &scene.bed.token(&pod).unwrap());
        scene.bed.cluster.add_pod(&pod).unwrap();
        let answer = scene
            .runtime
            .block_on(scene.kubelet.node().node_publish_volume(request));
        assert!(answer.is_err(), "published through a symlink");
        assert!(mounts::below(&elsewhere).unwrap().is_empty());
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
}

#[test]
fn a_node_whose_tmpfs_has_no_inode_flags_is_named_to_operators_until_it_has_them() {
    let mut scene = Scene::start().unwrap();
    let listed = |scene: &Scene| {
        let listed = scene.bed.attache_ok(&["node", "list", "--output", "json"]);
        let listed: Value = serde_json::from_str(&listed.unwrap()).unwrap();
        listed.pointer("/nodes/0/lacks").cloned().unwrap()
    };
    let told = |scene: &Scene| {
        scene
            .status()
            .unwrap()
            .to_string()
            .contains(&format!("node {}: tmpfs has no inode flags", NODE.0))
    };
    assert_eq!((listed(&scene), told(&scene)), (json!([]), false));
    // As on a kernel before 6.6.
    let config = scene.bed.plugin_config();
    let settings = fs::read_to_string(&config).unwrap();
    let older = format!("danger_failpoints = \"no-inode-flags\"\n{settings}");
    for (settings, expected) in [(&older, json!(["inode-flags"])), (&settings, json!([]))] {
        fs::write(&config, settings).unwrap();
        drop(scene.bed.plugin.take());
        scene.bed.start_plugin().unwrap();
        let pod = Pod::new("shop", "web-1", "web", NODE, "payments/db");
        scene.publish(&pod).unwrap();
        assert_eq!(scene.read(&pod, "db/password").unwrap(), PASSWORD);
        assert_eq!(listed(&scene), expected);
        assert_eq!(told(&scene), expected != json!([]));
        scene.unpublish(&pod).unwrap();
    }
}

/// What other versions need stays, and so does what is mounted; the rest is out of the store, and no verb brings it back.
#[test]
fn a_destroyed_version_is_gone_and_a_destroyed_secret_is_released_no_more() {
    let scene = Scene::start().unwrap();
    let attache = |args: &[&str]| scene.bed.attache(args).unwrap();
    let refused = |args: &[&str], code| {
        let output = attache(args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        told
    };
    scene.put("payments/db", &[("password", "second")]).unwrap();
    scene.publish(&pod("web-0")).unwrap();
    let to = scene.bed.dir.join("backup");
    let create = ["backup", "create", to.to_str().unwrap()];
    let backup = scene.bed.attache_json(&create).unwrap();
    let active = refused(&["secret", "destroy", "payments/db@2", "--yes"], 5);
    assert!(active.contains("is the active one"), "{active}");
    let unasked = refused(&["secret", "destroy", "payments/db@1"], 2);
    assert!(unasked.contains("--yes"), "{unasked}");
    let words = [
        "secret",
        "destroy",
        "payments/db@1",
        "--yes",
        "--output",
        "json",
    ];
    let gone = scene.bed.attache_ok(&words).unwrap();
    let gone: Value = serde_json::from_str(&gone).unwrap();
    // The username is version 2's as well.
    for (what, count) in [("versions", 1), ("values", 1), ("kept", 1)] {
        assert_eq!(gone.get(what).unwrap(), count, "{gone}");
    }
    let named = &gone["backups"][0]["backup"];
    assert_eq!(*named, backup["backup"]["backup"], "{gone}");
    assert_eq!(gone["backup_count"], 1, "{gone}");
    // What came after it is not in it.
    scene.put("payments/late", &[("a", "b")]).unwrap();
    let late = ["secret", "destroy", "payments/late", "--yes"];
    let late = scene.bed.attache_ok(&late).unwrap();
    assert!(late.contains("; no backup on record has it; "), "{late}");
    refused(&["secret", "rollback", "payments/db@1"], 5);
    let web = pod("web-1");
    scene.publish(&web).unwrap();
    assert_eq!(scene.read(&web, "db/username").unwrap(), USERNAME);

    scene
        .bed
        .attache_ok(&["secret", "destroy", "payments/db", "--yes"])
        .unwrap();
    scene.publish(&pod("web-2")).unwrap_err();
    assert_eq!(scene.read(&web, "db/password").unwrap(), "second");
    let put = refused(&["secret", "put", "payments/db", "--literal", "a=b"], 5);
    assert!(put.contains("it is destroyed"), "{put}");
    let audit = ["audit", "tail", "-n", "50", "--output", "json"];
    let audit = scene.bed.attache_ok(&audit).unwrap();
    for told in ["\"secret.destroy\"", "\"payments/db@1\"", "\"payments/db\""] {
        assert!(audit.contains(told), "{told}: {audit}");
    }
}
