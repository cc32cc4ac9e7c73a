//! The chart is upgraded, rolled back and uninstalled while pods run.

#![expect(clippy::print_stdout, reason = "a scenario tells how long things took")]

use std::{path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use attache_tests::{
    kubernetes::{
        Namespace,
        cluster::NODES,
        installation::{CHART_AND_VALUES, NAMESPACE},
        stage::{PASSWORD, cluster, installation},
    },
    process::until,
};

use crate::{
    alone,
    volumes::{
        PATIENCE, found_in, fresh, one_mount_each, password_in, pod_on, put_once_reached, refreshed,
    },
};

/// An upgrade of the chart that is rolled back when dropped.
pub(crate) struct Upgrade {
    stands: bool,
}

impl Upgrade {
    /// Upgrades to a chart, with these values more, and waits until everything is ready.
    pub(crate) fn to(chart: &Path, values: &[&str]) -> Result<Self> {
        let chart = chart.to_str().context("a path of text")?;
        let own = CHART_AND_VALUES.get(1..).unwrap_or_default();
        let args = ["upgrade", "attache", chart, "--wait", "--timeout=3m"];
        let upgrade = Self { stands: true };
        let from = Instant::now();
        installation().helm_ok(&[&args, own, values].concat())?;
        println!("helm upgrade: {:?}", from.elapsed());
        Ok(upgrade)
    }

    /// Rolls it back, and waits until everything is ready.
    pub(crate) fn roll_back(mut self) -> Result<()> {
        self.stands = false;
        roll_back()
    }
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        if self.stands {
            let _ = roll_back();
        }
    }
}

fn roll_back() -> Result<()> {
    let from = Instant::now();
    installation().helm_ok(&["rollback", "attache", "--wait", "--timeout=3m"])?;
    println!("helm rollback: {:?}", from.elapsed());
    Ok(())
}

/// What both pods find, and the pods of the product.
fn look(namespace: &Namespace) -> Result<(Vec<String>, String)> {
    let found = NODES.iter().map(|pod| found_in(namespace, pod));
    Ok((found.collect::<Result<_>>()?, product()?))
}

/// The pods of broker and node plugins that serve, by uid.
fn product() -> Result<String> {
    let which = [
        "-l",
        "app.kubernetes.io/name in (attache-broker,attache-node-plugin)",
    ];
    let uids = "-o=jsonpath={.items[*].metadata.uid}";
    let args = ["get", "pods", "-n", NAMESPACE, uids];
    cluster().kubectl().run(&[&args[..], &which].concat())
}

#[test]
fn pods_keep_their_files_through_helm_upgrade_and_rollback_and_are_refreshed_after_each()
-> Result<()> {
    let _alone = alone();
    let namespace = fresh("upgrade-rollback")?;
    for node in &cluster().nodes {
        namespace.start_pod(node.name(), &pod_on(node, &namespace))?;
    }
    let (files, installed) = look(&namespace)?;

    // It is in the settings of all of them: each pod of the product is replaced.
    let upgrade = Upgrade::to(Path::new("deploy/chart"), &["--set=log.filter=debug"])?;
    let (files_after, upgraded) = look(&namespace)?;
    assert_eq!(files_after, files);
    let stayed = |uids: &str, before: &str| uids.split(' ').any(|uid| before.contains(uid));
    ensure!(
        !stayed(&upgraded, &installed),
        "every pod of the product is another one"
    );
    changes(&namespace, "changed-after-upgrade")?;

    let (files, _) = look(&namespace)?;
    upgrade.roll_back()?;
    let (files_after, rolled_back) = look(&namespace)?;
    assert_eq!(files_after, files);
    ensure!(
        !stayed(&rolled_back, &upgraded),
        "every pod of the product is another one"
    );
    changes(&namespace, "changed-after-rollback")
}

/// Another password reaches the pods on both nodes.
fn changes(namespace: &Namespace, password: &str) -> Result<()> {
    put_once_reached(&namespace.name, password)?;
    for node in &cluster().nodes {
        refreshed(namespace, node.name(), password)?;
        one_mount_each(node, namespace, &[node.name()])?;
    }
    Ok(())
}

/// The product is not installed; it is again when this is dropped.
struct Uninstalled {
    gone: bool,
}

impl Uninstalled {
    fn by(args: &[&str]) -> Result<Self> {
        let uninstalled = Self { gone: true };
        installation().helm_ok(&[&["uninstall", "attache", "--wait"], args].concat())?;
        Ok(uninstalled)
    }

    fn install_again(mut self) -> Result<()> {
        self.gone = false;
        install()
    }
}

impl Drop for Uninstalled {
    fn drop(&mut self) {
        if self.gone {
            let _ = install();
        }
    }
}

fn install() -> Result<()> {
    let args = ["install", "attache"];
    let wait = ["--wait", "--timeout=3m"];
    installation().helm_ok(&[&args, CHART_AND_VALUES, &wait].concat())?;
    Ok(())
}

#[test]
fn an_uninstall_is_refused_while_pods_have_our_volumes_and_lists_them() -> Result<()> {
    let _alone = alone();
    let namespace = fresh("uninstall-refused")?;
    let node = &cluster().nodes[1];
    namespace.start_pod("web", &pod_on(node, &namespace))?;
    let before = product()?;
    let refused = installation().helm(&["uninstall", "attache"])?;
    let said = [refused.stdout, refused.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(!refused.status.success(), "it is refused: {said}");
    ensure!(
        said.contains("uninstall-refused/web"),
        "it lists the pod: {said}"
    );
    println!("{said}");
    assert_eq!(product()?, before, "nothing was taken away");
    for kind in ["clusterrole", "clusterrolebinding"] {
        let left = cluster()
            .kubectl()
            .get("default", kind, "attache-uninstall-check")?;
        assert_eq!(
            left, None,
            "the right to list pods is gone with the question"
        );
    }
    namespace.start_pod("after", &pod_on(node, &namespace))?;
    for pod in ["web", "after"] {
        namespace.delete_pod(pod, &["--wait=false"])?;
    }
    one_mount_each(node, &namespace, &[])?;
    // The control: without a pod it is not refused.
    let control = until(PATIENCE, "an uninstall is not refused", || {
        Uninstalled::by(&[]).ok()
    });
    control?.install_again()?;
    namespace.start_pod("again", &pod_on(node, &namespace))?;
    assert_eq!(password_in(&namespace, "again")?, PASSWORD);
    Ok(())
}

#[test]
fn after_a_forced_uninstall_pods_keep_their_files_and_end_once_the_chart_is_installed_again()
-> Result<()> {
    let _alone = alone();
    let namespace = fresh("uninstall-forced")?;
    let node = &cluster().nodes[1];
    for pod in ["stays", "ends", "forced"] {
        namespace.start_pod(pod, &pod_on(node, &namespace))?;
    }
    let before = found_in(&namespace, "stays")?;
    let gone = Uninstalled::by(&["--no-hooks"])?;
    assert_eq!(found_in(&namespace, "stays")?, before);
    assert_eq!(password_in(&namespace, "ends")?, PASSWORD);

    namespace.delete_pod("ends", &["--wait=false"])?;
    namespace.delete_pod("forced", &["--force"])?;
    until(PATIENCE, "its container has ended", || {
        let pod = namespace.get("pod", "ends").ok()?;
        let state = &pod["status"]["containerStatuses"][0]["state"];
        state.get("terminated").map(|_| ())
    })?;
    assert_eq!(
        node.volumes()?.len(),
        3,
        "no volume is taken down without the plugin"
    );

    let from = Instant::now();
    gone.install_again()?;
    let installed = from.elapsed();
    one_mount_each(node, &namespace, &["stays"])?;
    namespace.wait_for("pod/ends", "delete")?;
    println!(
        "installed after {installed:?}, both pods' volumes are gone after {:?}",
        from.elapsed()
    );
    put_once_reached(&namespace.name, "changed-after-uninstall")?;
    refreshed(&namespace, "stays", "changed-after-uninstall")?;
    namespace.start_pod("new", &pod_on(node, &namespace))?;
    assert_eq!(password_in(&namespace, "new")?, "changed-after-uninstall");
    Ok(())
}
