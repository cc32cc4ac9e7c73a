//! NodePublishVolume through the CSI socket, the broker beside it: three files, from a fresh token to the mounted tmpfs.
//!
//! The floors of the same run: a bare tmpfs with three files, mounted by the same system calls and nothing around it; an
//! empty RPC over the same socket. Then the republish of what has not changed, which must not mount anything.
#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "prints its figures; indexes by the number of the call"
)]

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use attache_tests::{
    Scene,
    bed::{AUDIENCE, NODE},
    measure::{self, Run, load},
    mounts,
    pod::Pod,
};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
    },
};

/// Publishes of one round: so many volumes are mounted at its end.
const VOLUMES: usize = 200;
/// Rounds at each level.
const ROUNDS: usize = 5;
const REPUBLISHES: u64 = 5_000;

fn main() -> Result<()> {
    let scene = Scene::start()?;
    scene.put(
        "payments/three",
        &[
            ("certificate", &"c".repeat(1024)),
            ("key", &"k".repeat(512)),
            ("password", "p"),
        ],
    )?;
    let grant = "grant add three payments/three --to local/shop/web/app";
    scene
        .bed
        .attache_ok(&grant.split(' ').collect::<Vec<_>>())?;
    println!("publish of three files: {}", measure::machine()?);
    let floor = bare_mounts(&scene.bed.dir.join("bare"), VOLUMES)?;
    println!(
        "               bare mount and three files   {}",
        floor.row()
    );
    for in_flight in [1, 8] {
        let run = published(&scene, in_flight)?;
        println!(
            "  {in_flight} in flight  publish                      {}   p50 = {:.0} bare mounts",
            run.row(),
            run.percentile_us(50) / floor.percentile_us(50)
        );
    }
    let empty = empty_rpc(&scene)?;
    println!(
        "  1 in flight  empty RPC                    {}",
        empty.row()
    );
    republished(&scene, &empty)
}

/// Asks for the plugin's name, which no other process has a part in.
fn empty_rpc(scene: &Scene) -> Result<Run> {
    let kubelet = scene.kubelet.clone();
    scene.runtime.block_on(load(1, REPUBLISHES, move |_| {
        let mut identity = kubelet.identity();
        async move {
            let request = attache_proto::csi::v1::GetPluginInfoRequest {};
            identity.get_plugin_info(request).await?;
            Ok(())
        }
    }))
}

/// Publishes by rounds, and unpublishes after each: what is mounted already costs kernel and plugin a little.
fn published(scene: &Scene, in_flight: u64) -> Result<Run> {
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let pods = (0..VOLUMES)
            .map(|n| {
                let pod = Pod::new(
                    "shop",
                    &format!("p-{in_flight}-{round}-{n}"),
                    "web",
                    NODE,
                    "payments/three",
                );
                scene.bed.cluster.add_pod(&pod)?;
                scene.kubelet.prepare(&pod)?;
                Ok((scene.bed.token(&pod)?, pod))
            })
            .collect::<Result<Vec<_>>>()?;
        let (pods, kubelet) = (Arc::new(pods), scene.kubelet.clone());
        let publishing = Arc::clone(&pods);
        rounds.push(
            scene
                .runtime
                .block_on(load(in_flight, VOLUMES as u64, move |number| {
                    let (pods, kubelet) = (Arc::clone(&publishing), kubelet.clone());
                    async move {
                        let (token, pod) = &pods[number as usize];
                        let request = kubelet.publish_request(pod, AUDIENCE, token);
                        kubelet.node().node_publish_volume(request).await?;
                        Ok(())
                    }
                }))?,
        );
        for (_, pod) in pods.iter() {
            ensure!(scene.read(pod, "three/password")? == "p", "published wrong");
            scene.unpublish(pod)?;
        }
    }
    Ok(Run::merge(rounds))
}

/// The same volume again and again, each time with a fresh token.
fn republished(scene: &Scene, empty: &Run) -> Result<()> {
    let pod = Pod::new("shop", "again", "web", NODE, "payments/three");
    scene.publish(&pod)?;
    let target = scene.kubelet.target(&pod);
    let before = mounts::below(&target)?;
    let tokens = (0..REPUBLISHES)
        .map(|_| scene.bed.token(&pod))
        .collect::<Result<Vec<_>>>()?;
    let (tokens, kubelet, of) = (Arc::new(tokens), scene.kubelet.clone(), pod.clone());
    let run = scene.runtime.block_on(load(1, REPUBLISHES, move |number| {
        let request = kubelet.publish_request(&of, AUDIENCE, &tokens[number as usize]);
        let mut node = kubelet.node();
        async move {
            node.node_publish_volume(request).await?;
            Ok(())
        }
    }))?;
    println!(
        "  1 in flight  republish, nothing changed   {}   p50 = {:.1} empty RPCs",
        run.row(),
        run.percentile_us(50) / empty.percentile_us(50)
    );
    ensure!(mounts::below(&target)? == before, "a republish has mounted");
    scene.unpublish(&pod)?;
    Ok(())
}

/// A tmpfs made detached, three files in it, moved to its place; unmounted outside of the time that is taken.
fn bare_mounts(dir: &Path, count: usize) -> Result<Run> {
    let mut latencies = Vec::with_capacity(count);
    for number in 0..count {
        let target = dir.join(number.to_string());
        fs::create_dir_all(&target)?;
        latencies.push(bare_mount(&target)?);
    }
    for number in 0..count {
        unmount(dir.join(number.to_string()), UnmountFlags::DETACH)?;
    }
    fs::remove_dir_all(dir)?;
    Ok(Run::of(latencies))
}

fn bare_mount(target: &Path) -> Result<Duration> {
    let from = Instant::now();
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "size", "16m")?;
    fsconfig_set_string(&context, "mode", "0555")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    for (name, bytes) in [("certificate", 1024), ("key", 512), ("password", 1)] {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&mount, name, flags, Mode::from_raw_mode(0o400))?;
        rustix::io::write(&file, &vec![b'x'; bytes])?;
    }
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&mount, "", CWD, target, empty)?;
    Ok(from.elapsed())
}
