//! The product in a cluster, installed and first used as its README and the chart's notes say.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Cluster, Release, cluster::NODES, kubectl::printed};
use crate::process::{Process, bin, run, until};

/// The namespace that it is installed in.
pub const NAMESPACE: &str = "attache-system";
/// The operator of every installation.
pub const OPERATOR: &str = "ada";
/// How long a node may be without a pod of the plugin.
const PLUGIN: Duration = Duration::from_secs(60);
/// Where the broker's data lie on the first node.
const DATA: &str = "/var/lib/attache-data";

/// The way to the broker.
struct Forward {
    process: Process,
    /// The broker's container that it leads to.
    to: String,
}

/// An installation with an operator who is signed in.
pub struct Installation<'a> {
    /// Where it is installed.
    pub cluster: &'a Cluster,
    dir: PathBuf,
    /// The local end of the way to the broker.
    port: u16,
    forward: Mutex<Option<Forward>>,
}

impl<'a> Installation<'a> {
    /// Gives the images to the nodes, installs the chart, waits until it is ready, and signs the operator in.
    ///
    /// # Errors
    /// With what the step that failed has printed.
    pub fn install(cluster: &'a Cluster) -> Result<Self> {
        for image in images()? {
            cluster.import(&image)?;
        }
        let dir = cluster.dir().join("operator");
        fs::create_dir_all(&dir)?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let installation = Self {
            cluster,
            dir,
            port,
            forward: Mutex::new(None),
        };
        installation.make_volume()?;
        installation.helm_ok(
            &[
                &["install", "attache"],
                CHART_AND_VALUES,
                &["--create-namespace", "--wait", "--timeout=3m"],
            ]
            .concat(),
        )?;
        installation.sign_in()?;
        Ok(installation)
    }

    /// Runs helm in the namespace of the product.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn helm(&self, args: &[&str]) -> Result<Output> {
        let release = Release::default();
        run(Command::new(release.tool("helm"))
            .args(["--namespace", NAMESPACE])
            .args(args)
            .current_dir(sources())
            .env("KUBECONFIG", self.cluster.control_plane.kubeconfig())
            .env("HELM_CACHE_HOME", self.dir.join("helm/cache"))
            .env("HELM_CONFIG_HOME", self.dir.join("helm/config"))
            .env("HELM_DATA_HOME", self.dir.join("helm/data")))
    }

    /// Runs helm and demands success; answers what it printed.
    ///
    /// # Errors
    /// With what it printed, and how the pods are.
    pub fn helm_ok(&self, args: &[&str]) -> Result<String> {
        printed(&self.helm(args)?).with_context(|| {
            let pods = self
                .cluster
                .kubectl()
                .output(&["describe", "pods", "-n", NAMESPACE]);
            let pods = pods.map(|output| output.stdout).unwrap_or_default();
            format!(
                "helm {}\n{}",
                args.join(" "),
                String::from_utf8_lossy(&pods)
            )
        })
    }

    /// Runs `attache` as the operator.
    ///
    /// # Errors
    /// When the broker is not reached; when it cannot be run.
    pub fn attache(&self, args: &[&str]) -> Result<Output> {
        self.reach_broker()?;
        run(self.attache_command()?.args(args))
    }

    /// Runs `attache` and demands success; answers what it printed.
    ///
    /// # Errors
    /// With what it printed.
    pub fn attache_ok(&self, args: &[&str]) -> Result<String> {
        printed(&self.attache(args)?).with_context(|| format!("attache {}", args.join(" ")))
    }

    /// The name of the plugin's pod on a node.
    ///
    /// # Errors
    /// When there is none, or one that ends beside its successor.
    pub fn plugin_on(&self, node: &str) -> Result<String> {
        let selector = format!("--field-selector=spec.nodeName={node}");
        let args = [
            "get",
            "pods",
            "-n",
            NAMESPACE,
            &selector,
            "-o",
            "name",
            "-l",
            "app.kubernetes.io/name=attache-node-plugin",
        ];
        let names = self.cluster.kubectl().run(&args)?;
        let names: Vec<&str> = names.lines().collect();
        ensure!(names.len() == 1, "the plugins on {node}: {names:?}");
        Ok(names.concat().trim_start_matches("pod/").to_owned())
    }

    /// Deletes the plugin's pod on a node, and waits until another one is ready there.
    ///
    /// # Errors
    /// When none gets ready.
    pub fn replace_plugin_on(&self, node: &str) -> Result<()> {
        let (kubectl, gone) = (self.cluster.kubectl(), self.plugin_on(node)?);
        kubectl.run(&["delete", "pod", "-n", NAMESPACE, &gone])?;
        self.wait_for_plugin_on(node)
    }

    /// Waits until a node has one pod of the plugin, and it is ready.
    ///
    /// # Errors
    /// When that is not to be.
    pub fn wait_for_plugin_on(&self, node: &str) -> Result<()> {
        let there = || self.plugin_on(node).ok();
        let name = until(PLUGIN, "the node has a plugin", there)?;
        let pod = format!("pod/{name}");
        self.cluster
            .kubectl()
            .wait_for(NAMESPACE, &pod, "condition=Ready")
    }

    fn attache_command(&self) -> Result<Command> {
        let mut command = Command::new(bin("attache")?);
        command
            .env("ATTACHE_CONFIG", self.dir.join("config.toml"))
            .env("NO_COLOR", "1");
        Ok(command)
    }

    /// A volume by hand, as there is no provisioner here. Of kind `local`: kubelet gives that to the pod's group.
    fn make_volume(&self) -> Result<()> {
        fs::create_dir_all(self.cluster.nodes[0].machine.on_disk(DATA))?;
        self.cluster.kubectl().create(&json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "attache-data" },
            "spec": {
                "capacity": { "storage": "10Gi" }, "accessModes": ["ReadWriteOnce"], "local": { "path": DATA },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "kubernetes.io/hostname", "operator": "In", "values": [NODES[0]] },
                ] }] } },
            },
        }))?;
        Ok(())
    }

    /// The steps of the chart's notes.
    fn sign_in(&self) -> Result<()> {
        let kubectl = self.cluster.kubectl();
        let file = |name: &str| self.dir.join(name);
        let text = |name: &str| file(name).display().to_string();
        let bundle = if self.cluster.serves_trust_bundles() {
            let path = "-o=jsonpath={.spec.trustBundle}";
            kubectl.run(&[
                "get",
                "clustertrustbundle",
                "attache.dev:broker:bundle",
                path,
            ])?
        } else {
            let path = r"-o=jsonpath={.data.trust-bundle\.pem}";
            kubectl.run(&["get", "configmap", "-n", NAMESPACE, "attache-bundle", path])?
        };
        fs::write(file("bundle.pem"), bundle)?;
        self.attache_ok(&[
            "login",
            "--new",
            OPERATOR,
            "--broker",
            &format!("127.0.0.1:{}", self.port),
            "--broker-id",
            "spiffe://attache.internal/broker/broker-0",
            "--trust-bundle",
            &text("bundle.pem"),
            "--csr",
            &text("me.csr"),
        ])?;
        let signed = kubectl
            .command()
            .args([
                "exec",
                "-i",
                "-n",
                NAMESPACE,
                "attache-broker-0",
                "-c",
                "broker",
                "--",
            ])
            .args([
                "attache-broker",
                "bootstrap",
                "operator",
                OPERATOR,
                "--csr",
                "-",
            ])
            .stdin(Stdio::from(fs::File::open(file("me.csr"))?))
            .output()?;
        fs::write(file("me.pem"), printed(&signed).context("bootstrap")?)?;
        self.attache_ok(&["login", "--finish", &text("me.pem")])?;
        Ok(())
    }

    /// Forwards the local port to the broker, again when the broker was another container the last time.
    fn reach_broker(&self) -> Result<()> {
        let mut forward = self.forward.lock().unwrap_or_else(PoisonError::into_inner);
        let container = "-o=jsonpath={.metadata.uid} {.status.containerStatuses[*].containerID}";
        let broker = ["get", "pod", "-n", NAMESPACE, "attache-broker-0", container];
        let to = self.cluster.kubectl().run(&broker)?;
        let leads_there = |way: &mut Forward| way.to == to && way.process.runs();
        if forward.as_mut().is_some_and(leads_there) {
            return Ok(());
        }
        // The port is its own until it has ended.
        drop(forward.take());
        let reached = || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok();
        let ports = format!("{}:7443", self.port);
        let mut command = self.cluster.kubectl().command();
        command.args([
            "port-forward",
            "-n",
            NAMESPACE,
            "service/attache-broker",
            &ports,
        ]);
        let mut process = Process::spawn(
            &mut command,
            "kubectl port-forward",
            &self.dir.join("forward.log"),
        )?;
        process.wait_until("forwarding", reached)?;
        *forward = Some(Forward { process, to });
        Ok(())
    }
}

/// The chart, and what of its values a cluster without a registry and without a provisioner needs.
pub const CHART_AND_VALUES: &[&str] = &[
    "deploy/chart",
    "--set=imagePullPolicy=Never",
    "--set-string=broker.storage.className=",
];

/// The images that `deploy/images/build.sh target/kubernetes/images` has built.
///
/// # Errors
/// When one is not there.
fn images() -> Result<[PathBuf; 2]> {
    let images = ["attache-broker", "attache-node-plugin"].map(|name| {
        sources()
            .join("target/kubernetes/images")
            .join(format!("{name}.oci.tar"))
    });
    for image in &images {
        ensure!(
            image.exists(),
            "{} is not built: run deploy/images/build.sh target/kubernetes/images --profile dev --quick",
            image.display()
        );
    }
    Ok(images)
}

fn sources() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
