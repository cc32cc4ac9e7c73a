//! A node: on its machine containerd, kubelet, kube-proxy, and the network of its pods.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{
    ControlPlane,
    authority::User,
    images::PAUSE,
    machine::Machine,
    network::{PODS, Place},
    service::Service,
};
use crate::{mounts::Mount, process::until};

/// How long kubelet may take to take a mount away.
const GONE: Duration = Duration::from_secs(60);
/// The name server of the cluster, as a service.
pub const NAMES: &str = "10.96.0.10";
/// Where kubelet has its pods' volumes.
pub const PODS_FOLDER: &str = "/var/lib/kubelet/pods";
/// The cluster's domain.
pub const DOMAIN: &str = "cluster.local";

/// A node of a cluster.
pub struct Node {
    /// What it runs on.
    pub machine: Machine,
    /// Its container runtime.
    pub containerd: Service,
    /// Its kubelet.
    pub kubelet: Service,
    /// What makes services reachable from it.
    pub proxy: Service,
}

impl Node {
    /// Writes what a node called `name` needs into `dir`; boots nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn lay_out(
        dir: &Path,
        name: &str,
        cluster_cgroup: &str,
        place: Place,
        control_plane: &ControlPlane,
    ) -> Result<Self> {
        let (release, authority) = (control_plane.release(), &control_plane.authority);
        let server = format!("https://{}:{}", place.host, control_plane.port());
        let cgroup = format!("{cluster_cgroup}/{name}");
        let machine = Machine::lay_out(dir, name, &cgroup, place, release)?;
        let etc = |file: &str| machine.on_disk(&format!("/etc/{file}"));
        for folder in ["cni/net.d", "containerd", "kubernetes"] {
            fs::create_dir_all(etc(folder))?;
        }
        fs::copy(authority.certificate(), etc("kubernetes/ca.crt"))?;
        let user = format!("system:node:{name}");
        let user = User {
            name: &user,
            group: "system:nodes",
        };
        authority.kubeconfig(&etc("kubernetes/kubelet.conf"), user, &server)?;
        let user = User {
            name: "system:kube-proxy",
            group: "system:node-proxier",
        };
        authority.kubeconfig(&etc("kubernetes/kube-proxy.conf"), user, &server)?;
        fs::write(etc("containerd/config.toml"), containerd_config())?;
        let files = [
            (
                "cni/net.d/10-attache.conflist",
                pod_network(machine.place()),
            ),
            ("kubernetes/kubelet.json", kubelet_config(&cgroup)),
            ("kubernetes/kube-proxy.json", proxy_config(name)),
        ];
        for (file, config) in files {
            fs::write(etc(file), serde_json::to_vec_pretty(&config)?)?;
        }

        let logs = dir.join("log");
        let service = |name: &str, host: &Path, folder: &str| {
            let inside = format!("/opt/{folder}/{name}");
            Ok::<_, anyhow::Error>(
                Service::new(name, host, &cgroup, &logs)?.inside(&machine, &inside),
            )
        };
        let containerd = service("containerd", &release.tool("containerd"), "bin")?
            // The shim and runc are looked up.
            .env("PATH", "/opt/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["--config=/etc/containerd/config.toml"]);
        let kubelet = service("kubelet", &release.component("kubelet"), "kubernetes")?.args([
            "--config=/etc/kubernetes/kubelet.json".to_owned(),
            "--kubeconfig=/etc/kubernetes/kubelet.conf".to_owned(),
            format!("--hostname-override={name}"),
            format!("--node-ip={}", machine.place().address),
            "--v=2".to_owned(),
        ]);
        let proxy = service("kube-proxy", &release.component("kube-proxy"), "kubernetes")?
            .args(["--config=/etc/kubernetes/kube-proxy.json"]);
        Ok(Self {
            machine,
            containerd,
            kubelet,
            proxy,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.machine.name()
    }

    /// Boots the machine and starts its container runtime.
    ///
    /// # Errors
    /// When one does not come up, with its log's end.
    pub fn boot(&self) -> Result<()> {
        self.machine.boot()?;
        self.containerd.start()?;
        self.containerd
            .wait_until("ready", || self.ctr(&["version"]).ok())?;
        Ok(())
    }

    /// Starts kubelet and kube-proxy; that the node is ready is the API server's to say.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn join(&self) -> Result<()> {
        self.kubelet.start()?;
        self.proxy.start()
    }

    /// The node plugin's volumes that are mounted on it.
    ///
    /// # Errors
    /// When its machine is not booted.
    pub fn volumes(&self) -> Result<Vec<Mount>> {
        let mut mounts = self.machine.mounts()?;
        mounts.retain(|mount| mount.is_volume_below(Path::new(PODS_FOLDER)));
        Ok(mounts)
    }

    /// The process of a container on it that runs the program `name`, whose first argument is `command`.
    ///
    /// # Errors
    /// When there is none, or another one.
    pub fn contained(&self, name: &str, command: &str) -> Result<u32> {
        let runs = |pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split('\0');
            words.next().is_some_and(|program| program.ends_with(name))
                && words.next() == Some(command)
        };
        let mut found = self.machine.processes()?;
        found.retain(runs);
        match found.as_slice() {
            [pid] => Ok(*pid),
            other => bail!("{} runs {name} {command} as {other:?}", self.name()),
        }
    }

    /// Lets go of all of it.
    pub(super) fn release(&self) {
        self.machine.release();
        for service in [&self.containerd, &self.kubelet, &self.proxy] {
            service.release();
        }
    }

    /// The CSI volumes that are mounted for a pod, by their paths.
    ///
    /// # Errors
    /// When it is not booted.
    pub fn volumes_of(&self, pod_uid: &str) -> Result<Vec<String>> {
        let below = format!("/pods/{pod_uid}/volumes/kubernetes.io~csi/");
        let mounts = self.machine.mounts()?.into_iter();
        let points = mounts.map(|mount| mount.point.display().to_string());
        Ok(points.filter(|point| point.contains(&below)).collect())
    }

    /// Waits until nothing is mounted on it for a pod.
    ///
    /// # Errors
    /// When something stays.
    pub fn wait_until_gone(&self, pod_uid: &str) -> Result<()> {
        until(GONE, "the mount is gone", || {
            self.volumes_of(pod_uid).ok()?.is_empty().then_some(())
        })
    }

    /// Runs containerd's client on the namespace of Kubernetes.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub fn ctr(&self, args: &[&str]) -> Result<String> {
        let mut command = self.machine.command("/opt/bin/ctr")?;
        let output = command.args(["-n", "k8s.io"]).args(args).output()?;
        ensure!(
            output.status.success(),
            "{}: ctr {}: {}",
            self.name(),
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Makes the images of an OCI layout in a tar known to the container runtime.
    ///
    /// # Errors
    /// When it refuses them.
    pub fn import(&self, layout: &Path) -> Result<()> {
        let file = fs::File::open(layout).with_context(|| layout.display().to_string())?;
        let output = self
            .machine
            .command("/opt/bin/ctr")?
            .args([
                "-n",
                "k8s.io",
                "images",
                "import",
                "--local",
                "--snapshotter=native",
                "-",
            ])
            .stdin(file)
            .output()?;
        ensure!(
            output.status.success(),
            "{}: import {}: {}",
            self.name(),
            layout.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

fn containerd_config() -> String {
    format!(
        r#"version = 3

# Works on every file system, at the price of a copy a container.
[plugins.'io.containerd.cri.v1.images']
snapshotter = "native"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"

[plugins.'io.containerd.cri.v1.runtime']
# Some machines have no capability to lower it.
restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/opt/bin"]

[plugins.'io.containerd.nri.v1.nri']
disable = true
"#
    )
}

fn pod_network(place: &Place) -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0", "name": "attache",
        // A link a pod and no bridge: a reply to a pod of the same node comes by the node's own routes too, where
        // kube-proxy's translation is undone.
        "plugins": [{ "type": "ptp", "ipam": { "type": "host-local", "ranges": [[{ "subnet": place.pods }]],
            "routes": [{ "dst": "0.0.0.0/0" }] } }],
    })
}

fn kubelet_config(cgroup: &str) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false }, "webhook": { "enabled": true },
            "x509": { "clientCAFile": "/etc/kubernetes/ca.crt" },
        },
        "authorization": { "mode": "Webhook" },
        "clusterDomain": DOMAIN, "clusterDNS": [NAMES], "resolvConf": "/etc/resolv.conf",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{cgroup}"), "failCgroupV1": false,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        // A container that ended is started again after a second, not after ten and in the end five minutes.
        "crashLoopBackOff": { "maxContainerRestartPeriod": "1s" },
        "failSwapOn": false, "localStorageCapacityIsolation": false,
        "evictionHard": {}, "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        "makeIPTablesUtilChains": false,
    })
}

fn proxy_config(node: &str) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": "/etc/kubernetes/kube-proxy.conf" },
        "hostnameOverride": node, "mode": "nftables", "clusterCIDR": PODS,
        // These settings are the whole machine's: a network of its own may not write them.
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s" },
    })
}
