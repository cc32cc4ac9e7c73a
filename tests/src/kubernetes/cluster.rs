//! A whole cluster: control plane, names, and two nodes. One at a time on a machine.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{
    ControlPlane, Kubectl, Node, Release, Wishes,
    authority::User,
    cgroup::{self, Cgroup},
    estate::{self, Estate, Holdings},
    images, names, network,
    service::Service,
};
use crate::process::until;

/// The control group of a cluster, in every hierarchy.
const CGROUP: &str = "attache-cluster";
/// The names of the nodes.
pub const NODES: [&str; 2] = ["node-a", "node-b"];
/// Points at the folder of the cluster that is up, or of one that was not taken down.
const CURRENT: &str = "/run/attache-cluster";
/// Held by whoever brings a cluster up, until it is down again or left running.
const LOCK: &str = "/run/attache-cluster.lock";
/// How long another cluster is waited for that is just being taken down.
const TURN: Duration = Duration::from_secs(120);
/// How long the nodes may take to be ready.
const READY: Duration = Duration::from_secs(120);

/// A running cluster. Taken down when dropped, and when this program ends in whatever way.
pub struct Cluster {
    /// Dropped first: it ends everything else.
    estate: Estate,
    /// etcd and the API server.
    pub control_plane: ControlPlane,
    /// What makes pods of deployments, tokens' volumes, and so on.
    pub controller_manager: Service,
    /// What gives pods their nodes.
    pub scheduler: Service,
    /// The name server.
    pub names: Service,
    /// Both nodes.
    pub nodes: [Node; 2],
}

impl Cluster {
    /// Brings a cluster up in a folder of its own.
    ///
    /// # Errors
    /// When a part does not become ready, with its log's end; when a cluster was left running.
    pub fn start(release: &Release) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("attache-cluster-")
            .tempdir()?
            .keep();
        Self::start_in(&dir, release)
    }

    /// As [`Cluster::start`], in `dir`, which is new or empty.
    ///
    /// # Errors
    /// As [`Cluster::start`]; when something is in the folder.
    pub fn start_in(dir: &Path, release: &Release) -> Result<Self> {
        let lock = take_turn()?;
        clear_leftover()?;
        let estate = Estate::take(dir, CGROUP, Some(lock))?;
        symlink(&estate.dir, CURRENT).with_context(|| format!("link {CURRENT}"))?;
        let cluster = Self::lay_out(estate, release)?;
        cluster.boot()?;
        Ok(cluster)
    }

    /// Leaves it running; `attache-cluster down` takes it down.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn keep(self) -> Result<()> {
        self.estate.keep()?;
        for service in [&self.controller_manager, &self.scheduler, &self.names] {
            service.release();
        }
        self.control_plane.release();
        self.nodes.iter().for_each(Node::release);
        Ok(())
    }

    /// Takes it down.
    ///
    /// # Errors
    /// When something of it is left.
    pub fn stop(self) -> Result<()> {
        self.estate.clear()
    }

    /// The folder that everything of it is in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.estate.dir
    }

    /// `kubectl` for a user who may do everything.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        self.control_plane.kubectl()
    }

    /// Makes the images of an OCI layout in a tar known to both nodes.
    ///
    /// # Errors
    /// When a node refuses them.
    pub fn import(&self, layout: &Path) -> Result<()> {
        on_both(&self.nodes, |node| node.import(layout))
    }

    fn lay_out(estate: Estate, release: &Release) -> Result<Self> {
        let dir = estate.dir.clone();
        let wishes = Wishes {
            advertised: Some(network::HOST),
            arguments: Vec::new(),
        };
        let control = format!("{CGROUP}/control-plane");
        let control_plane = ControlPlane::lay_out(&dir, &control, release, &wishes)?;
        let authority = &control_plane.authority;
        let logs = dir.join("log");
        let component = |name: &str| -> Result<Service> {
            let kubeconfig = dir.join(format!("{name}.conf"));
            let user = User {
                name,
                group: "system:masters",
            };
            authority.kubeconfig(&kubeconfig, user, &control_plane.url())?;
            let service = Service::new(name, &release.component(name), &control, &logs)?;
            Ok(service.args([
                format!("--kubeconfig={}", kubeconfig.display()),
                "--leader-elect=false".to_owned(),
                "--secure-port=0".to_owned(),
            ]))
        };
        let controller_manager = component("kube-controller-manager")?.args([
            format!("--root-ca-file={}", authority.certificate().display()),
            format!(
                "--service-account-private-key-file={}",
                control_plane.token_key().display()
            ),
        ]);
        let scheduler = component("kube-scheduler")?;
        let names = names::lay_out(&dir, &control, release, authority, &control_plane.url())?;
        let [first, second] = network::Place::both();
        let node = |name: &str, place| {
            let port = control_plane.port();
            Node::lay_out(
                &dir.join(name),
                name,
                CGROUP,
                place,
                release,
                authority,
                port,
            )
        };
        let nodes = [node(NODES[0], first)?, node(NODES[1], second)?];
        Ok(Self {
            estate,
            controller_manager,
            scheduler,
            names,
            nodes,
            control_plane,
        })
    }

    fn boot(&self) -> Result<()> {
        for name in NODES {
            cgroup::delegate(&format!("{CGROUP}/{name}"))?;
        }
        network::create()?;
        // The nodes need no API server until their kubelets start.
        thread::scope(|scope| {
            let control_plane = scope.spawn(|| self.start_control_plane());
            let images = images::busybox(self.dir())?;
            on_both(&self.nodes, |node| {
                node.boot()?;
                node.import(&images)
            })?;
            control_plane
                .join()
                .map_err(|_| anyhow!("starting the control plane panicked"))?
        })?;
        on_both(&self.nodes, Node::join)?;
        self.wait_until_ready()
    }

    fn start_control_plane(&self) -> Result<()> {
        self.control_plane.start_services()?;
        self.controller_manager.start()?;
        self.scheduler.start()?;
        self.names.start()?;
        names::publish(&self.kubectl())
    }

    fn wait_until_ready(&self) -> Result<()> {
        let kubectl = self.kubectl();
        until(READY, "both nodes are registered", || {
            let nodes = kubectl.run(&["get", "nodes", "-o", "name"]).ok()?;
            (nodes.lines().count() == NODES.len()).then_some(())
        })
        .with_context(|| self.nodes[0].kubelet.log_tail())?;
        for name in NODES {
            kubectl.wait_for("default", &format!("node/{name}"), "condition=Ready")?;
        }
        // Without it the API server refuses pods.
        kubectl.wait_for("default", "serviceaccount/default", "create")
    }
}

/// Does something on both nodes side by side.
fn on_both(nodes: &[Node; 2], step: impl Fn(&Node) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let steps = nodes.each_ref().map(|node| scope.spawn(|| step(node)));
        for step in steps {
            step.join()
                .map_err(|_| anyhow!("a step on a node panicked"))??;
        }
        Ok(())
    })
}

/// Waits until no other cluster is up, or the patience ends.
fn take_turn() -> Result<File> {
    let lock = File::create(LOCK).with_context(|| LOCK.to_owned())?;
    let free = until(TURN, "no other program has a cluster up", || {
        lock.try_lock().ok()
    });
    free.with_context(|| format!("{LOCK} is held: another run of the tests is under way"))?;
    Ok(lock)
}

/// Takes down a cluster whose owner and reaper were both killed.
fn clear_leftover() -> Result<()> {
    let Some(dir) = current()? else {
        return Ok(());
    };
    if Holdings::of(&dir).is_ok_and(|holdings| holdings.kept) {
        bail!(
            "a cluster was left running in {}: tests/kubernetes/down.sh takes it down",
            dir.display()
        );
    }
    clear(&dir).context("take down a cluster that was left behind")
}

/// Takes down the cluster in the folder `dir`; that which was left running when no folder is given.
///
/// # Errors
/// When there is none, a program owns it, or something of it is left.
pub fn take_down(dir: Option<&Path>) -> Result<()> {
    let _lock = take_turn()?;
    let current = current()?.context("no cluster is up")?;
    if let Some(dir) = dir {
        let dir = dir
            .canonicalize()
            .with_context(|| dir.display().to_string())?;
        ensure!(
            dir == current,
            "the cluster that is up is in {}",
            current.display()
        );
    }
    clear(&current)
}

fn clear(dir: &Path) -> Result<()> {
    if dir.exists() {
        return estate::clear(dir);
    }
    // Whoever has removed its folder has left what is known by name.
    Cgroup::named(CGROUP)?.kill()?;
    network::remove()?;
    cgroup::remove(CGROUP)?;
    forget()
}

/// The folder of the cluster that is up, if one is.
fn current() -> Result<Option<PathBuf>> {
    match fs::read_link(CURRENT) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(CURRENT),
    }
}

/// Forgets where the cluster was.
pub(super) fn forget() -> Result<()> {
    fs::remove_file(CURRENT).with_context(|| format!("remove {CURRENT}"))
}
