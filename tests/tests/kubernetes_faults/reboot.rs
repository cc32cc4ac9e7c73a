//! A node loses its power and boots again: mounts are gone, kubelet's folders are left, and nothing of a secret was on the disk.

#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a scenario tells how long things took, and reads objects of the API server"
)]

use std::{fs, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, ensure};
use attache_tests::{
    kubernetes::{
        Node,
        installation::NAMESPACE,
        node::PODS_FOLDER,
        stage::{PASSWORD, cluster, installation},
    },
    process::{run, until},
};

use crate::{
    alone,
    volumes::{
        COPIES, PATIENCE, copies, fresh, one_mount_each, password_in, pod_on, put_once_reached,
        refreshed,
    },
};

/// A node without power; it is booted when dropped.
struct PowerCut<'a> {
    node: &'a Node,
    off: bool,
}

impl<'a> PowerCut<'a> {
    fn of(node: &'a Node) -> Result<Self> {
        let cut = Self { node, off: true };
        node.machine.cut_power()?;
        Ok(cut)
    }

    fn boot(mut self) -> Result<()> {
        self.off = false;
        boot(self.node)
    }
}

impl Drop for PowerCut<'_> {
    fn drop(&mut self) {
        if self.off {
            let _ = boot(self.node);
        }
    }
}

fn boot(node: &Node) -> Result<()> {
    node.boot()?;
    node.join()
}

/// The files below `folder` that have the password in them.
fn holders(folder: &Path) -> Result<String> {
    // Files go while it looks, which it says and which is no finding.
    let found = run(Command::new("grep").args(["-rlsF", PASSWORD]).arg(folder))?;
    Ok(String::from_utf8(found.stdout)?)
}

/// Waits until a pod was started again; its status is that from before the reboot for a while.
fn wait_for_restart(namespace: &str, pod: &str, before: u64) -> Result<()> {
    until(PATIENCE, &format!("{pod} was started again"), || {
        cluster()
            .kubectl()
            .restarts(namespace, pod)
            .filter(|restarts| *restarts > before)
    })
    .with_context(|| {
        format!(
            "{:?}",
            cluster()
                .kubectl()
                .output(&["describe", "pod", "-n", namespace, pod])
        )
    })?;
    Ok(())
}

fn reboots(node: &Node, name: &str) -> Result<()> {
    let namespace = fresh(name)?;
    let pod = namespace.start_pod("web", &pod_on(node, &namespace))?;
    let uid = pod["metadata"]["uid"].as_str().context("a pod has a uid")?;
    let volume = format!("{PODS_FOLDER}/{uid}/volumes/kubernetes.io~csi/secrets");
    let target = format!("{volume}/mount");
    let (disk, below) = (node.machine.on_disk("/"), node.machine.on_disk(&target));
    let seen = holders(&node.machine.path(&target)?)?;
    ensure!(!seen.is_empty(), "the search finds what is there");
    let broker_restarts = cluster().kubectl().restarts(NAMESPACE, "attache-broker-0");
    let broker_restarts = broker_restarts.unwrap_or_default();

    let off = PowerCut::of(node)?;
    let left = node.machine.on_disk(&format!("{volume}/vol_data.json"));
    ensure!(left.exists(), "kubelet's {} is left", left.display());
    assert_eq!(holders(&disk)?, "", "on the disk of a node without power");
    let from = Instant::now();
    off.boot()?;
    wait_for_restart(&namespace.name, "web", 0)?;
    println!(
        "{name}: {:?} from power on to the pod's running again",
        from.elapsed()
    );
    assert_eq!(password_in(&namespace, "web")?, PASSWORD);
    for mount in one_mount_each(node, &namespace, &["web"])? {
        assert_eq!(copies(&mount)?, COPIES, "{mount:?}");
    }
    assert_eq!(
        fs::read_dir(&below)?.count(),
        0,
        "{} is empty",
        below.display()
    );
    assert_eq!(holders(&disk)?, "", "on the disk after the boot");

    if node.name() == cluster().nodes[0].name() {
        wait_for_restart(NAMESPACE, "attache-broker-0", broker_restarts)?;
    }
    installation().wait_for_plugin_on(node.name())?;
    put_once_reached(&namespace.name, "changed-after-reboot")?;
    refreshed(&namespace, "web", "changed-after-reboot")
}

#[test]
fn after_a_reboot_of_its_node_a_pod_has_its_secret_in_one_tmpfs_again_and_the_disk_never_had_it()
-> Result<()> {
    let _alone = alone();
    reboots(&cluster().nodes[1], "reboot-node")
}

#[test]
fn after_a_reboot_of_the_brokers_node_broker_and_pod_are_back() -> Result<()> {
    let _alone = alone();
    reboots(&cluster().nodes[0], "reboot-broker")
}
