//! One installation of the plugin in a folder of its own, and kubelet's part.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use attache_node_plugin::volume::{PodUid, Target, VolumeName};
use attache_proto::csi::v1 as csi;
use csi::identity_client::IdentityClient;
use csi::node_client::NodeClient;
use rustix::process::{Pid, Signal, kill_process};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::broker::Broker;

pub(crate) const AGENT_UID: u32 = 4840;
pub(crate) const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
pub(crate) const TOKEN: &str = "canary-5e6f-token";
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Bed {
    pub(crate) kubelet: Kubelet,
    pub(crate) plugin: Option<Plugin>,
    pub(crate) broker: Broker,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) dir: PathBuf,
    _owned: tempfile::TempDir,
}

/// The plugin's first process; ended when dropped.
pub(crate) struct Plugin {
    child: Child,
}

/// A volume of a pod.
#[derive(Clone)]
pub(crate) struct Volume {
    pub(crate) target: Target,
    pub(crate) name: String,
}

impl Bed {
    pub(crate) fn start() -> Self {
        let bed = Self::idle();
        bed.with_plugin()
    }

    /// Everything but the plugin.
    pub(crate) fn idle() -> Self {
        let owned = tempfile::Builder::new()
            .prefix("attache-plugin-")
            .tempdir()
            .unwrap();
        let dir = owned.path().to_owned();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        for folder in [
            "kubelet/plugins/csi.attache.dev",
            "kubelet/plugins_registry",
            "kubelet/pods",
        ] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        let broker = Broker::start();
        let token = dir.join("join-token");
        fs::write(&token, format!("{}\n", broker.join_token)).unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o400)).unwrap();
        chown(&token, Some(AGENT_UID), Some(AGENT_UID)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let kubelet = runtime.block_on(async { Kubelet::new(&dir) });
        let bed = Self {
            kubelet,
            plugin: None,
            broker,
            runtime,
            dir,
            _owned: owned,
        };
        bed.configure("");
        bed
    }

    pub(crate) fn with_plugin(mut self) -> Self {
        self.start_plugin();
        self
    }

    pub(crate) fn configure(&self, more: &str) {
        let dir = self.dir.display();
        let (grpc, enroll) = (self.broker.grpc, self.broker.enroll);
        let text = format!(
            r#"{more}
[broker]
address = "{grpc}"
enroll_address = "{enroll}"
[node]
node_name = "node-a"
kubelet_dir = "{dir}/kubelet"
csi_socket = "{dir}/kubelet/plugins/csi.attache.dev/kubelet@csi.sock"
registration_dir = "{dir}/kubelet/plugins_registry"
[agent]
uid = {AGENT_UID}
gid = {AGENT_UID}
state_dir = "{dir}/state"
ipc_dir = "{dir}/ipc"
join_token_file = "{dir}/join-token"
[telemetry]
log = "trace"
"#
        );
        fs::write(self.dir.join("node-plugin.toml"), text).unwrap();
    }

    pub(crate) fn start_plugin(&mut self) {
        self.spawn_plugin();
        self.until("ready", |bed| bed.ready());
    }

    pub(crate) fn spawn_plugin(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_attache-node-plugin"))
            .args(["serve", "--config"])
            .arg(self.dir.join("node-plugin.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.plugin = Some(Plugin { child });
    }

    pub(crate) fn ready(&self) -> bool {
        let mut identity = self.kubelet.identity.clone();
        let answer = self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(1), identity.probe(csi::ProbeRequest {})).await
        });
        matches!(answer, Ok(Ok(answer)) if answer.get_ref().ready == Some(true))
    }

    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "not {what} within {PATIENCE:?}:\n{}",
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn publish(&self, volume: &Volume) -> Result<(), Status> {
        self.kubelet.prepare(volume);
        self.send(self.kubelet.publish_request(volume))
    }

    pub(crate) fn send(&self, request: csi::NodePublishVolumeRequest) -> Result<(), Status> {
        let mut node = self.kubelet.node.clone();
        self.runtime
            .block_on(node.node_publish_volume(request))
            .map(drop)
    }

    pub(crate) fn unpublish(&self, volume: &Volume) -> Result<(), Status> {
        let request = self.kubelet.unpublish_request(volume);
        let mut node = self.kubelet.node.clone();
        self.runtime
            .block_on(node.node_unpublish_volume(request))
            .map(drop)
    }

    pub(crate) fn stats(&self, volume: &Volume) -> Result<csi::NodeGetVolumeStatsResponse, Status> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: volume.target.volume_id().to_string(),
            volume_path: self.kubelet.path(volume).display().to_string(),
            staging_target_path: String::new(),
        };
        let mut node = self.kubelet.node.clone();
        self.runtime
            .block_on(node.node_get_volume_stats(request))
            .map(tonic::Response::into_inner)
    }

    pub(crate) fn read(&self, volume: &Volume, path: &str) -> String {
        fs::read_to_string(self.kubelet.path(volume).join(path)).unwrap_or_default()
    }

    /// The lines of mountinfo at or below kubelet's folder.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let root = self.dir.display().to_string();
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        text.lines()
            .filter(|line| line.contains(&root))
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let plain: Vec<&str> = log
            .lines()
            .filter(|line| !line.contains("TRACE") && !line.contains("DEBUG"))
            .collect();
        plain[plain.len().saturating_sub(30)..].join("\n")
    }

    /// The process that runs `command` under the plugin's first one.
    pub(crate) fn pid_of(&self, command: &str) -> Option<Pid> {
        let parent = self.plugin.as_ref()?.child.id();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let of_parent = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.split(' ').nth(1))
                == Some(&parent.to_string());
            let args = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if of_parent && args.split(|byte| *byte == 0).nth(1) == Some(command.as_bytes()) {
                return Pid::from_raw(pid);
            }
        }
        None
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        drop(self.plugin.take());
        for line in self.mounts() {
            let point = line.split(' ').nth(4).unwrap_or_default().to_owned();
            let _gone = rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

impl Plugin {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it, and waits until all of it is gone.
    pub(crate) fn end(mut self, signal: Signal) {
        self.signal(signal);
        let _status = self.child.wait();
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            let _status = self.child.wait();
        }
    }
}

pub(crate) struct Kubelet {
    pub(crate) node: NodeClient<Channel>,
    pub(crate) identity: IdentityClient<Channel>,
    dir: PathBuf,
}

impl Kubelet {
    fn new(dir: &Path) -> Self {
        let dir = dir.join("kubelet");
        let socket = dir.join("plugins/csi.attache.dev/kubelet@csi.sock");
        let channel = Endpoint::try_from(format!("unix:{}", socket.display()))
            .unwrap()
            .connect_lazy();
        Self {
            node: NodeClient::new(channel.clone()),
            identity: IdentityClient::new(channel),
            dir,
        }
    }

    pub(crate) fn path(&self, volume: &Volume) -> PathBuf {
        volume.target.path(&self.dir)
    }

    pub(crate) fn prepare(&self, volume: &Volume) {
        let path = self.path(volume);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(path.parent().unwrap())
            .unwrap();
    }

    pub(crate) fn publish_request(&self, volume: &Volume) -> csi::NodePublishVolumeRequest {
        let context = [
            ("container", "app"),
            ("secrets", "payments/db"),
            ("csi.storage.k8s.io/pod.name", volume.name.as_str()),
            ("csi.storage.k8s.io/pod.namespace", "shop"),
            ("csi.storage.k8s.io/pod.uid", volume.target.pod.as_str()),
            ("csi.storage.k8s.io/serviceAccount.name", "web"),
            ("csi.storage.k8s.io/ephemeral", "true"),
        ];
        let tokens = format!(
            r#"{{"attache":{{"token":"{TOKEN}","expirationTimestamp":"2100-01-01T00:00:00Z"}}}}"#
        );
        csi::NodePublishVolumeRequest {
            volume_id: volume.target.volume_id().to_string(),
            publish_context: HashMap::new(),
            staging_target_path: String::new(),
            target_path: self.path(volume).display().to_string(),
            volume_capability: Some(csi::VolumeCapability {
                access_mode: Some(csi::volume_capability::AccessMode {
                    mode: csi::volume_capability::access_mode::Mode::SingleNodeWriter.into(),
                }),
                access_type: Some(csi::volume_capability::AccessType::Mount(
                    csi::volume_capability::MountVolume::default(),
                )),
            }),
            readonly: false,
            secrets: HashMap::from([(TOKENS.to_owned(), tokens)]),
            volume_context: context
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }

    pub(crate) fn unpublish_request(&self, volume: &Volume) -> csi::NodeUnpublishVolumeRequest {
        csi::NodeUnpublishVolumeRequest {
            volume_id: volume.target.volume_id().to_string(),
            target_path: self.path(volume).display().to_string(),
        }
    }
}

impl Volume {
    pub(crate) fn new(name: &str) -> Self {
        let pod = PodUid::parse(&format!("uid-{name}")).unwrap();
        let target = Target {
            pod,
            volume: VolumeName::parse("secrets").unwrap(),
        };
        Self {
            target,
            name: name.to_owned(),
        }
    }
}
