//! A whole installation in one folder: broker, operator, cluster, node plugin.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{UnmountFlags, unmount};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    cluster::ClusterFolder,
    issuer::Issuer,
    kubelet::Kubelet,
    mounts,
    pod::Pod,
    process::{PATIENCE, Process, bin, run, until},
};

/// The trust domain of every bed.
pub const TRUST_DOMAIN: &str = "attache.test";
/// The cluster of every bed.
pub const CLUSTER: &str = "local";
/// The audience of its tokens.
pub const AUDIENCE: &str = "attache";
/// Its node.
pub const NODE: (&str, &str) = ("node-a", "5a0c1de0-0000-4000-8000-00000000000a");
/// A second node of the cluster, without a plugin.
pub const OTHER_NODE: (&str, &str) = ("node-b", "5a0c1de0-0000-4000-8000-00000000000b");
/// The agent's user.
pub const AGENT_UID: u32 = 4840;

/// An installation. What runs is ended, and what is mounted unmounted, when it is dropped.
pub struct Bed {
    /// The node plugin's first process, when it runs. Dropped before the broker.
    pub plugin: Option<Process>,
    /// The broker, when it runs.
    pub broker: Option<Process>,
    /// What broker and CLI have in their environment beside this process's own.
    pub environment: Vec<(&'static str, String)>,
    /// Everything lies in here.
    pub dir: PathBuf,
    /// Nothing is taken down when it is dropped.
    left: bool,
    /// Deletes the folder; absent when the caller keeps it.
    owned: Option<TempDir>,
    /// Signs the cluster's tokens.
    pub issuer: std::sync::Arc<Issuer>,
    /// The cluster's record.
    pub cluster: ClusterFolder,
}

impl Bed {
    /// Writes the files of an installation into a new folder; starts nothing.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn new() -> Result<Self> {
        let owned = tempfile::Builder::new().prefix("attache-").tempdir()?;
        let dir = owned.path().to_owned();
        Self::lay_out(&dir, Some(owned))
    }

    /// As [`Bed::new`], in a folder that the caller keeps, and that is new or empty: modes in it are changed, and mounts
    /// below it taken down.
    ///
    /// # Errors
    /// As [`Bed::new`]; when something is in the folder.
    pub fn at(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        ensure!(
            fs::read_dir(dir)?.next().is_none(),
            "{} is not empty: name a folder that is not there yet, or an empty one",
            dir.display()
        );
        Self::lay_out(&dir.canonicalize()?, None)
    }

    fn lay_out(dir: &Path, owned: Option<TempDir>) -> Result<Self> {
        // The agent's user must be able to pass through to its own folders.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        let issuer = Issuer::new("https://issuer.attache.test", "key-1")?;
        let cluster = ClusterFolder::create(&dir.join("cluster"), &issuer)?;
        cluster.add_node(NODE.0, NODE.1)?;
        cluster.add_node(OTHER_NODE.0, OTHER_NODE.1)?;
        for folder in [
            "etc",
            "log",
            "cli",
            "containers",
            "kubelet/plugins/csi.attache.dev",
            "kubelet/plugins_registry",
            "kubelet/pods",
        ] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let bed = Self {
            plugin: None,
            broker: None,
            environment: Vec::new(),
            dir: dir.to_owned(),
            left: false,
            owned,
            issuer: std::sync::Arc::new(issuer),
            cluster,
        };
        fs::write(bed.broker_config(), bed.broker_toml())?;
        Ok(bed)
    }

    /// A bed with a broker that serves and its operator `ada`, and nothing else.
    ///
    /// # Errors
    /// When a step fails, with what it printed.
    pub fn signed_in() -> Result<Self> {
        let mut bed = Self::new()?;
        bed.begin()?;
        Ok(bed)
    }

    fn begin(&mut self) -> Result<()> {
        self.init_broker()?;
        self.start_broker()?;
        self.login("ada")
    }

    /// A bed with everything running: broker, operator `ada`, cluster, node plugin.
    ///
    /// # Errors
    /// When a step fails, with what it printed.
    pub fn start() -> Result<Self> {
        let mut bed = Self::new()?;
        bed.start_all()?;
        Ok(bed)
    }

    /// Starts everything, step by step.
    ///
    /// # Errors
    /// As [`Bed::start`].
    pub fn start_all(&mut self) -> Result<()> {
        self.begin()?;
        self.add_cluster()?;
        self.join_node(NODE.0)?;
        self.start_plugin()
    }

    /// `attache-broker init`.
    ///
    /// # Errors
    /// With what it printed.
    pub fn init_broker(&self) -> Result<String> {
        let output = run(Command::new(bin("attache-broker")?)
            .envs(self.environment.clone())
            .args(["init", "--config"])
            .arg(self.broker_config()))?;
        printed(&output, "attache-broker init")
    }

    /// `attache-broker serve`, until it says where it listens.
    ///
    /// # Errors
    /// With the log's end.
    pub fn start_broker(&mut self) -> Result<()> {
        // Somebody else on this machine may have a port of a bed's that pinned its own for a moment.
        until(PATIENCE, "the broker's addresses are free", || {
            match self.start_broker_once() {
                Err(error) if is_taken(&error) => None,
                started => Some(started),
            }
        })?
    }

    fn start_broker_once(&mut self) -> Result<()> {
        let listening = self.store_dir().join("listen.json");
        let _ = fs::remove_file(&listening);
        let config = self.broker_config();
        let environment = self.environment.iter();
        let environment: Vec<_> = environment.map(|(name, it)| (*name, it.as_str())).collect();
        let mut broker = Process::start_with(
            "attache-broker",
            &["serve", "--config", path_str(&config)?],
            &environment,
            &self.dir.join("log/broker.log"),
        )?;
        broker.wait_until("listening", || {
            fs::read(&listening).ok().filter(|t| !t.is_empty())
        })?;
        self.broker = Some(broker);
        Ok(())
    }

    /// Stops the broker in order, and starts it again.
    ///
    /// # Errors
    /// When none runs, it ends badly, or it does not start.
    pub fn restart_broker(&mut self) -> Result<()> {
        self.broker.take().context("no broker runs")?.stop()?;
        self.start_broker()
    }

    /// What the broker opens by from its next start on: what stands under `[keys]` in its settings.
    ///
    /// # Errors
    /// When the settings have no such section, or cannot be written.
    pub fn name_openers(&self, openers: &str) -> Result<()> {
        let settings = fs::read_to_string(self.broker_config())?;
        let (before, after) = settings.split_once("[keys]\n").context("no [keys]")?;
        let (_, after) = after.split_once("\n\n").context("[keys] ends the file")?;
        let settings = format!("{before}[keys]\n{openers}\n\n{after}");
        Ok(fs::write(self.broker_config(), settings)?)
    }

    /// `attache-broker ARGS` with this bed's settings, to be run.
    ///
    /// # Errors
    /// When it is not built.
    pub fn broker_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(bin("attache-broker")?);
        command.args(args).arg("--config").arg(self.broker_config());
        Ok(command)
    }

    /// From now on a restarted broker listens where it listens now.
    ///
    /// # Errors
    /// When it does not run, or its settings cannot be written.
    pub fn pin_addresses(&self) -> Result<()> {
        let (grpc, enroll) = self.broker_addresses()?;
        let settings = self
            .broker_toml()
            .replace("grpc = \"127.0.0.1:0\"", &format!("grpc = \"{grpc}\""))
            .replace(
                "enroll = \"127.0.0.1:0\"",
                &format!("enroll = \"{enroll}\""),
            );
        fs::write(self.broker_config(), settings)?;
        Ok(())
    }

    /// Where the broker listens: mutual TLS, enrollment.
    ///
    /// # Errors
    /// When it does not run.
    pub fn broker_addresses(&self) -> Result<(SocketAddr, SocketAddr)> {
        Ok((self.listening("grpc")?, self.listening("enroll")?))
    }

    /// What the broker answers to `GET /metrics`, the head of the answer too.
    ///
    /// # Errors
    /// When it does not run.
    pub fn metrics(&self) -> Result<String> {
        get_metrics(self.listening("metrics")?)
    }

    /// How often the broker has asked API servers about these (`token_review`, `pod`, ...), as it counts itself.
    ///
    /// # Errors
    /// When it cannot be asked; when it counts what is no number.
    pub fn questions(&self, operations: &[&str]) -> Result<u64> {
        questions(&self.metrics()?, operations)
    }

    /// What the node plugin answers to `GET /metrics`, the head of the answer too.
    ///
    /// # Errors
    /// When it does not run.
    pub fn plugin_metrics(&self) -> Result<String> {
        let log = fs::read_to_string(self.dir.join("log/node-plugin.log"))?;
        let told = log.rsplit_once("metrics are answered address=");
        let rest = told.context("the agent answers no metrics")?.1;
        let address = rest.split_whitespace().next().context("an address")?;
        get_metrics(address.parse()?)
    }

    fn listening(&self, key: &str) -> Result<SocketAddr> {
        let text = fs::read_to_string(self.store_dir().join("listen.json"))
            .context("the broker does not listen")?;
        let json: Value = serde_json::from_str(&text)?;
        Ok(json
            .get(key)
            .and_then(Value::as_str)
            .with_context(|| format!("no {key} in listen.json"))?
            .parse()?)
    }

    /// Makes an operator with a certificate, the first one by the admin socket.
    ///
    /// # Errors
    /// With what the commands printed.
    pub fn login(&self, name: &str) -> Result<()> {
        let (grpc, enroll) = self.broker_addresses()?;
        let csr = self.dir.join(format!("etc/{name}.csr"));
        let chain = self.dir.join(format!("etc/{name}.pem"));
        let broker = format!("spiffe://{TRUST_DOMAIN}/broker/broker-0");
        let bundle = self.store_dir().join("trust-bundle.pem");
        self.attache_ok(&[
            "login",
            "--new",
            name,
            "--broker",
            &grpc.to_string(),
            "--enroll",
            &enroll.to_string(),
            "--broker-id",
            &broker,
            "--trust-bundle",
            path_str(&bundle)?,
            "--csr",
            path_str(&csr)?,
        ])?;
        let output = run(Command::new(bin("attache-broker")?)
            .args(["bootstrap", "operator", name, "--csr"])
            .arg(&csr)
            .arg("--config")
            .arg(self.broker_config()))?;
        let pem = printed(&output, "attache-broker bootstrap operator")?;
        fs::write(&chain, pem)?;
        self.attache_ok(&["login", "--finish", path_str(&chain)?])?;
        Ok(())
    }

    /// Tells the broker of the cluster.
    ///
    /// # Errors
    /// With what the command printed.
    pub fn add_cluster(&self) -> Result<String> {
        self.attache_ok(&[
            "cluster",
            "add",
            CLUSTER,
            "--issuer",
            &self.issuer.url,
            "--audience",
            AUDIENCE,
            "--folder",
            path_str(&self.cluster.dir)?,
        ])
    }

    /// Makes a join token for a node and the plugin's settings with it.
    ///
    /// # Errors
    /// With what the command printed.
    pub fn join_node(&self, node: &str) -> Result<()> {
        let token =
            self.attache_ok(&["node", "join-token", "--cluster", CLUSTER, "--node", node])?;
        let file = self.dir.join("etc/join-token");
        let _ = fs::remove_file(&file);
        fs::write(&file, token)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400))?;
        rustix::fs::chown(
            &file,
            Some(rustix::fs::Uid::from_raw(AGENT_UID)),
            Some(rustix::fs::Gid::from_raw(AGENT_UID)),
        )?;
        let (grpc, enroll) = self.broker_addresses()?;
        fs::write(
            self.plugin_config(),
            self.plugin_toml(node, &grpc.to_string(), &enroll.to_string()),
        )?;
        Ok(())
    }

    /// Writes the plugin's settings for a node that enrolls by the plugin's own pod: by the token in `enroll/token` of this
    /// bed, once the trust bundle is in `trust/trust-bundle.pem`.
    ///
    /// # Errors
    /// When the broker does not run, or files cannot be written.
    pub fn enroll_node(&self, cluster: &str, node: &str) -> Result<()> {
        for folder in ["enroll", "trust"] {
            fs::create_dir_all(self.dir.join(folder))?;
        }
        let (dir, (grpc, enroll)) = (self.dir.display(), self.broker_addresses()?);
        // By name, as in a cluster.
        let by_name = |address: SocketAddr| format!("localhost:{}", address.port());
        let settings = self
            .plugin_toml(node, &by_name(grpc), &by_name(enroll))
            .replace(
                "[node]\n",
                &format!(
                    "id = \"spiffe://{TRUST_DOMAIN}/broker/broker-0\"\n\
                     trust_bundle_file = \"{dir}/trust/trust-bundle.pem\"\n\n[node]\ncluster = \"{cluster}\"\n"
                ),
            )
            .replace(
                "[agent]\n",
                &format!("[agent]\nenroll_token_file = \"{dir}/enroll/token\"\n"),
            );
        Ok(fs::write(self.plugin_config(), settings)?)
    }

    /// `attache-node-plugin serve`, until its CSI socket answers that it is ready.
    ///
    /// # Errors
    /// With the log's end.
    pub fn start_plugin(&mut self) -> Result<()> {
        self.launch_plugin()?;
        self.await_plugin()
    }

    /// `attache-node-plugin serve`, ready or not.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch_plugin(&mut self) -> Result<()> {
        let config = self.plugin_config();
        self.plugin = Some(Process::start(
            "attache-node-plugin",
            &["serve", "--config", path_str(&config)?],
            &self.dir.join("log/node-plugin.log"),
        )?);
        Ok(())
    }

    /// Waits until the plugin's CSI socket answers that it is ready.
    ///
    /// # Errors
    /// With the log's end.
    pub fn await_plugin(&mut self) -> Result<()> {
        let socket = self.csi_socket();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (dir, plugin) = (&self.dir, self.plugin.as_mut());
        plugin.context("it runs")?.wait_until("ready", || {
            if !socket.exists() {
                return None;
            }
            std::thread::scope(|scope| {
                scope
                    .spawn(|| runtime.block_on(probe(dir, &socket)))
                    .join()
                    .ok()
                    .flatten()
            })
        })
    }

    /// Leaves everything as it is: processes that were released run on, and mounts stay.
    pub fn leave(mut self) {
        self.left = true;
    }

    /// The CSI client of this bed's kubelet. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the socket's path is no URI.
    pub fn kubelet(&self) -> Result<Kubelet> {
        Kubelet::new(&self.kubelet_dir(), &self.csi_socket())
    }

    /// A pod on this bed's node that wants `secrets`, recorded in the cluster.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub fn pod(&self, name: &str, secrets: &str) -> Result<Pod> {
        let pod = Pod::new("shop", name, "web", NODE, secrets);
        self.cluster.add_pod(&pod)?;
        Ok(pod)
    }

    /// An honest token for a pod.
    ///
    /// # Errors
    /// When signing fails.
    pub fn token(&self, pod: &Pod) -> Result<String> {
        self.issuer.mint(pod, AUDIENCE)
    }

    /// Runs `attache` with this bed's context.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn attache(&self, args: &[&str]) -> Result<Output> {
        run(self.attache_command()?.args(args))
    }

    /// Runs `attache` and demands success; answers what it printed.
    ///
    /// # Errors
    /// With what it printed.
    pub fn attache_ok(&self, args: &[&str]) -> Result<String> {
        printed(&self.attache(args)?, &format!("attache {}", args.join(" ")))
    }

    /// As [`Bed::attache_ok`], with the answer as JSON.
    ///
    /// # Errors
    /// With what it printed.
    pub fn attache_json(&self, args: &[&str]) -> Result<Value> {
        let args = [args, &["--output", "json"]].concat();
        Ok(serde_json::from_str(&self.attache_ok(&args)?)?)
    }

    /// The audit log's key, as the broker tells it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn audit_vkey(&self) -> Result<String> {
        let status = self.attache_json(&["status"])?;
        let vkey = status.get("audit_vkey").and_then(Value::as_str);
        Ok(vkey.context("audit_vkey")?.to_owned())
    }

    /// Puts so many versions of `payments/db`: field `password`, values `p0`, `p1` and so on.
    ///
    /// # Errors
    /// When a put fails.
    pub fn put_versions(&self, count: u64) -> Result<()> {
        for number in 0..count {
            let value = format!("password=p{number}");
            let put = ["secret", "put", "payments/db", "--quiet", "--literal"];
            self.attache_ok(&[&put[..], &[&value]].concat())?;
        }
        Ok(())
    }

    /// `attache-broker check-store`, which must find nothing; answers what it printed.
    ///
    /// # Errors
    /// With what it found.
    pub fn check_store(&self) -> Result<String> {
        let output = run(Command::new(bin("attache-broker")?)
            .args(["check-store", "--config"])
            .arg(self.broker_config()))?;
        printed(&output, "attache-broker check-store")
    }

    /// `attache` with this bed's context, to be completed.
    ///
    /// # Errors
    /// When it is not built.
    pub fn attache_command(&self) -> Result<Command> {
        let mut command = Command::new(bin("attache")?);
        command
            .envs(self.environment.clone())
            .env("ATTACHE_CONFIG", self.cli_config())
            .env("NO_COLOR", "1");
        Ok(command)
    }

    /// Settings file of the CLI.
    #[must_use]
    pub fn cli_config(&self) -> PathBuf {
        self.dir.join("cli/config.toml")
    }

    /// Settings file of the broker.
    #[must_use]
    pub fn broker_config(&self) -> PathBuf {
        self.dir.join("etc/broker.toml")
    }

    /// Settings file of the node plugin.
    #[must_use]
    pub fn plugin_config(&self) -> PathBuf {
        self.dir.join("etc/node-plugin.toml")
    }

    /// The key file of the broker's first slot.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.dir.join("etc/slot.key")
    }

    /// The broker's store folder.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        self.dir.join("broker")
    }

    /// The broker's audit folder.
    #[must_use]
    pub fn audit_dir(&self) -> PathBuf {
        self.dir.join("audit")
    }

    /// Kubelet's root folder.
    #[must_use]
    pub fn kubelet_dir(&self) -> PathBuf {
        self.dir.join("kubelet")
    }

    /// The driver's socket.
    #[must_use]
    pub fn csi_socket(&self) -> PathBuf {
        self.kubelet_dir()
            .join("plugins/csi.attache.dev/kubelet@csi.sock")
    }

    /// The registration socket.
    #[must_use]
    pub fn registration_socket(&self) -> PathBuf {
        self.kubelet_dir()
            .join("plugins_registry/kubelet@csi.attache.dev-reg.sock")
    }

    fn broker_toml(&self) -> String {
        let dir = self.dir.display();
        format!(
            r#"name = "broker-0"
trust_domain = "{TRUST_DOMAIN}"

[listen]
grpc = "127.0.0.1:0"
enroll = "127.0.0.1:0"
admin = "{dir}/broker-admin.sock"
metrics = "127.0.0.1:0"

[store]
dir = "{dir}/broker"
# So soon after a start, and after a pod has gone, versions over are pruned.
mounted_window_s = 1

[keys]
slot_file = "{dir}/etc/slot.key"

[audit]
dir = "{dir}/audit"

[limits]
# Measurements take more of one node than a node takes.
deliveries_per_node_per_s = 1000000
"#
        )
    }

    fn plugin_toml(&self, node: &str, grpc: &str, enroll: &str) -> String {
        let dir = self.dir.display();
        format!(
            r#"[broker]
address = "{grpc}"
enroll_address = "{enroll}"

[node]
node_name = "{node}"
kubelet_dir = "{dir}/kubelet"
csi_socket = "{dir}/kubelet/plugins/csi.attache.dev/kubelet@csi.sock"
registration_dir = "{dir}/kubelet/plugins_registry"

[agent]
uid = {AGENT_UID}
gid = {AGENT_UID}
state_dir = "{dir}/node-state"
ipc_dir = "{dir}/node-ipc"
join_token_file = "{dir}/etc/join-token"

[listen]
metrics = "127.0.0.1:0"
"#
        )
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        drop(self.plugin.take());
        drop(self.broker.take());
        if self.left {
            return;
        }
        // A test may leave volumes published: deepest first, so that nothing is left under the folder. In a folder of
        // the caller's only the volumes are ours.
        if let Ok(mut left) = mounts::below(&self.dir) {
            let pods = self.kubelet_dir().join("pods");
            left.retain(|mount| self.owned.is_some() || mount.is_volume_below(&pods));
            left.sort_by_key(|m| std::cmp::Reverse(m.point.as_os_str().len()));
            for mount in left {
                let _ = unmount(&mount.point, UnmountFlags::DETACH);
            }
        }
    }
}

/// How often a broker has asked API servers about these, by the page of its metrics.
///
/// # Errors
/// When it counts what is no number.
pub fn questions(page: &str, operations: &[&str]) -> Result<u64> {
    let series = operations.iter().map(|operation| {
        format!("attache_broker_kubernetes_call_duration_seconds_count{{operation=\"{operation}\"")
    });
    let series: Vec<_> = series.collect();
    let counted = page
        .lines()
        .filter(|line| series.iter().any(|series| line.starts_with(series)));
    let counts = counted.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<u64>());
    let counts: Vec<_> = counts.collect::<Result<_, _>>()?;
    Ok(counts.iter().sum())
}

fn get_metrics(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: attache\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

async fn probe(dir: &Path, socket: &Path) -> Option<()> {
    let kubelet = Kubelet::new(dir, socket).ok()?;
    let answer = kubelet
        .identity()
        .probe(attache_proto::csi::v1::ProbeRequest {})
        .await
        .ok()?;
    answer.into_inner().ready.filter(|ready| *ready).map(drop)
}

/// The standard output of a command that succeeded.
fn printed(output: &Output, what: &str) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{what}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let text = String::from_utf8(output.stdout.clone()).context("output is UTF-8")?;
    ensure!(!text.contains('\0'), "{what} printed a NUL");
    Ok(text)
}

/// Whether it is for an address that another process has that it does not start: the last that it says.
fn is_taken(error: &anyhow::Error) -> bool {
    let told = format!("{error:#}");
    let last = told.trim_end().lines().next_back();
    last.is_some_and(|line| line.contains("Address already in use"))
}

fn path_str(path: &Path) -> Result<&str> {
    path.to_str().context("the path is UTF-8")
}
