//! The node plugin ends and comes back, asked or killed: what is mounted stays, once, and goes on to be refreshed.

#![expect(
    clippy::indexing_slicing,
    reason = "a scenario reads objects of the API server"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use attache_tests::{
    kubernetes::{
        Node,
        cluster::NODES,
        installation::NAMESPACE,
        stage::{PASSWORD, cluster, installation},
    },
    process::{run, send, until},
};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    alone,
    upgrade::Upgrade,
    volumes::{
        COPIES, PATIENCE, census, copies, found_in, fresh, one_mount_each, password_in, pod_on,
        put_once_reached, refreshed,
    },
};

/// How often the plugin's pod is deleted.
const RESTARTS: usize = 20;
/// So many pods are being started when a part of the plugin is killed.
const CROWD: usize = 8;

/// The node of these scenarios; the broker is on the other one.
fn node() -> &'static Node {
    &cluster().nodes[1]
}

#[test]
fn a_pod_keeps_its_one_mount_through_20_restarts_of_the_plugin_and_is_refreshed_after_them()
-> Result<()> {
    let _alone = alone();
    let namespace = fresh("plugin-restarts")?;
    namespace.start_pod("web", &pod_on(node(), &namespace))?;
    namespace.start_pod("passing-0", &pod_on(node(), &namespace))?;
    let (volumes, before) = (node().volumes()?, found_in(&namespace, "web")?);
    let census_before = census(node())?;
    let from = Instant::now();
    for restart in 1..=RESTARTS {
        if restart % 5 == 0 {
            // One pod ends and another one starts while the plugin is away.
            namespace.delete_pod(&format!("passing-{}", restart - 5), &["--wait=false"])?;
            let (name, spec) = (format!("passing-{restart}"), pod_on(node(), &namespace));
            namespace.create_object("Pod", &name, &json!({ "spec": spec }))?;
        }
        installation().replace_plugin_on(NODES[1])?;
        assert_eq!(found_in(&namespace, "web")?, before, "restart {restart}");
    }
    println!("{RESTARTS} restarts of the plugin: {:?}", from.elapsed());

    let last = format!("passing-{RESTARTS}");
    namespace.wait_for(&format!("pod/{last}"), "condition=Ready")?;
    let after = one_mount_each(node(), &namespace, &["web", &last])?;
    let kept = after.iter().find(|mount| volumes.contains(mount));
    let kept = kept.context("the mount is the same")?;
    assert_eq!(copies(kept)?, COPIES, "{kept:?}");
    until(PATIENCE, "the node has as many mounts as before", || {
        (census(node()).ok()? == census_before).then_some(())
    })
    .with_context(|| format!("{census_before:?}, and now {:?}", census(node())))?;

    put_once_reached(&namespace.name, "changed-after-restarts")?;
    refreshed(&namespace, "web", "changed-after-restarts")?;
    Ok(())
}

#[test]
fn pods_on_both_nodes_keep_their_mounts_through_an_upgrade_of_the_plugin_and_are_refreshed_after_it()
-> Result<()> {
    let _alone = alone();
    let namespace = fresh("plugin-upgrade")?;
    for node in &cluster().nodes {
        namespace.start_pod(node.name(), &pod_on(node, &namespace))?;
    }
    let look =
        || -> Result<Vec<String>> { NODES.iter().map(|pod| found_in(&namespace, pod)).collect() };
    let plugins = || -> Result<Vec<String>> {
        NODES
            .iter()
            .map(|node| installation().plugin_on(node))
            .collect()
    };
    let (before, old) = (look()?, plugins()?);
    let changed = ["--set-string=plugin.podAnnotations.changed=yes"];
    let upgrade = Upgrade::to(Path::new("deploy/chart"), &changed)?;
    for (old, new) in old.iter().zip(&plugins()?) {
        assert_ne!(old, new, "the plugin is another pod");
    }
    assert_eq!(look()?, before);
    put_once_reached(&namespace.name, "changed-after-upgrade")?;
    for node in &cluster().nodes {
        refreshed(&namespace, node.name(), "changed-after-upgrade")?;
        one_mount_each(node, &namespace, &[node.name()])?;
    }
    upgrade.roll_back()
}

#[test]
fn a_mounter_that_dies_after_the_mount_and_before_the_reply_leaves_one_mount_that_becomes_whole()
-> Result<()> {
    let _alone = alone();
    let namespace = fresh("plugin-failpoint")?;
    let folder = tempfile::tempdir()?;
    let upgrade = Upgrade::to(&chart_with_failpoint(folder.path(), "after-mount")?, &[])?;
    let spec = json!({ "spec": pod_on(node(), &namespace) });
    namespace.create_object("Pod", "web", &spec)?;
    let first = until(PATIENCE, "it is mounted", || node().volumes().ok()?.pop())?;
    let killed = || restarts_of("mounter").ok().filter(|restarts| *restarts > 0);
    let restarts = until(PATIENCE, "the mounter has died", killed)?;
    namespace.wait_for("pod/web", "condition=Ready")?;
    let [mounted] = &one_mount_each(node(), &namespace, &["web"])?[..] else {
        anyhow::bail!("more than one mount");
    };
    println!(
        "the mounter died {restarts} times; the mount was {} and is {}",
        first.id, mounted.id
    );
    assert_eq!(password_in(&namespace, "web")?, PASSWORD);
    assert_eq!(copies(mounted)?, COPIES);
    upgrade.roll_back()
}

/// The chart as it is, but its mounter dies at a failpoint.
fn chart_with_failpoint(folder: &Path, failpoint: &str) -> Result<PathBuf> {
    let (source, chart) = (
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart"),
        folder.join("chart"),
    );
    let copied = run(Command::new("cp").arg("-r").args([&source, &chart]))?;
    ensure!(copied.status.success(), "cp -r");
    let file = chart.join("templates/plugin/config.yaml");
    let text = fs::read_to_string(&file)?;
    let bent = text.replace(
        "node-plugin.toml: |\n",
        &format!("node-plugin.toml: |\n    danger_failpoints = \"{failpoint}\"\n"),
    );
    ensure!(
        bent != text,
        "the template has no node-plugin.toml any more"
    );
    fs::write(file, bent)?;
    Ok(chart)
}

/// How often kubelet has started a container of the node's plugin again.
fn restarts_of(container: &str) -> Result<u64> {
    let (kubectl, name) = (cluster().kubectl(), installation().plugin_on(NODES[1])?);
    let pod = kubectl
        .get(NAMESPACE, "pod", &name)?
        .context("the plugin is there")?;
    let statuses = pod["status"]["containerStatuses"].as_array();
    let mut statuses = statuses.into_iter().flatten();
    let status = statuses.find(|status| status["name"] == container);
    status
        .and_then(|status| status["restartCount"].as_u64())
        .context("the container has a status")
}

#[test]
fn agent_or_mounter_killed_while_pods_start_leaves_each_pod_one_whole_mount() -> Result<()> {
    let _alone = alone();
    let namespace = fresh("plugin-kills")?;
    for part in ["mounter", "agent"] {
        // Kubelet waits longer before each further start of a container: a new pod has all of its starts before it.
        installation().replace_plugin_on(NODES[1])?;
        let names: Vec<String> = (0..CROWD).map(|pod| format!("{part}-{pod}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for name in &names {
            let spec = json!({ "spec": pod_on(node(), &namespace) });
            namespace.create_object("Pod", name, &spec)?;
        }
        let mounted = until(PATIENCE, "some are mounted", || {
            let mounted = node().volumes().ok()?.len();
            (mounted > 0).then_some(mounted)
        })?;
        let from = Instant::now();
        send(node().contained("attache-node-plugin", part)?, Signal::KILL)?;
        for name in &names {
            namespace.wait_for(&format!("pod/{name}"), "condition=Ready")?;
        }
        println!(
            "{part} killed when {mounted} of {CROWD} were mounted: all ready {:?} later",
            from.elapsed()
        );
        for mount in one_mount_each(node(), &namespace, &names)? {
            assert_eq!(copies(&mount)?, COPIES, "{mount:?}");
        }
        for name in &names {
            assert_eq!(password_in(&namespace, name)?, PASSWORD);
            namespace.delete_pod(name, &["--wait=false"])?;
        }
        one_mount_each(node(), &namespace, &[])?;
    }
    Ok(())
}
