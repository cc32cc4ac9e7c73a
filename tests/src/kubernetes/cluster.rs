//! A whole cluster: control plane, names, and two nodes.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context, Result, anyhow};

use super::{
    ControlPlane, Kubectl, Node, Release, Wishes, authority::User, cgroup, estate::Estate, images,
    names, network::Network, service::Service, slot::Slot,
};
use crate::process::until;

/// The names of the nodes.
pub const NODES: [&str; 2] = ["node-a", "node-b"];
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
    network: Network,
    slot: Slot,
    release: Release,
}

impl Cluster {
    /// Brings a cluster up in a folder of its own.
    ///
    /// # Errors
    /// When a part does not become ready, with its log's end; when too many clusters are up.
    pub fn start(release: &Release) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("attache-cluster-")
            .tempdir()?;
        let cluster = Self::start_in(dir.path(), release)?;
        // Its reaper removes it.
        let _ = dir.keep();
        Ok(cluster)
    }

    /// As [`Cluster::start`], in `dir`, which is new or empty.
    ///
    /// # Errors
    /// As [`Cluster::start`]; when something is in the folder.
    pub fn start_in(dir: &Path, release: &Release) -> Result<Self> {
        let (slot, lock) = Slot::take()?;
        let estate = Estate::of_cluster(dir, slot, lock)?;
        let cluster = Self::lay_out(estate, slot, release)?;
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
        self.control_plane.let_go();
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

    /// Which of the clusters on this machine it is.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// `kubectl` for a user who may do everything.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        self.control_plane.kubectl()
    }

    /// A node by its name.
    ///
    /// # Errors
    /// When none is called so.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let named = self.nodes.iter().find(|node| node.name() == name);
        named.with_context(|| format!("no node {name}"))
    }

    /// The API server has ClusterTrustBundles.
    #[must_use]
    pub fn serves_trust_bundles(&self) -> bool {
        self.release.minor() >= 37
    }

    /// Makes the images of an OCI layout in a tar known to both nodes.
    ///
    /// # Errors
    /// When a node refuses them.
    pub fn import(&self, layout: &Path) -> Result<()> {
        on_both(&self.nodes, |node| node.import(layout))
    }

    fn lay_out(estate: Estate, slot: Slot, release: &Release) -> Result<Self> {
        let dir = estate.dir.clone();
        let network = Network::of(slot);
        let wishes = Wishes {
            advertised: Some(network.host()),
            arguments: Vec::new(),
        };
        let control = format!("{}/control-plane", slot.cgroup());
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
        let names = names::lay_out(&dir, network.host(), release, &control_plane)?;
        let [first, second] = network.places();
        let node = |name: &str, place| {
            Node::lay_out(&dir.join(name), name, &slot.cgroup(), place, &control_plane)
        };
        let nodes = [node(NODES[0], first)?, node(NODES[1], second)?];
        Ok(Self {
            estate,
            controller_manager,
            scheduler,
            names,
            nodes,
            control_plane,
            network,
            slot,
            release: release.clone(),
        })
    }

    fn boot(&self) -> Result<()> {
        for name in NODES {
            cgroup::delegate(&format!("{}/{name}", self.estate.cgroup))?;
        }
        self.network.create()?;
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
        names::publish(&self.kubectl(), self.network.host())
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
