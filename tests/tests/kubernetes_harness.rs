//! What the harness promises of a cluster: a real one, and gone with its owner, whatever ends that.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead, BufReader, stdin},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use attache_tests::{
    kubernetes::{
        Cluster, ControlPlane, NEWEST, Namespace, Release, cgroup::Cgroup, cluster::NODES,
        namespace::sleeper, slot::Slot,
    },
    process::{bin, run, send, until},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64URL};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long what was ended may take to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn an_api_server_mints_tokens_that_name_a_pod_and_its_node_by_uid() -> Result<()> {
    let control_plane = ControlPlane::start()?;
    let kubectl = control_plane.kubectl();
    let version = kubectl.json(&["version"])?;
    assert_eq!(
        version.pointer("/serverVersion/gitVersion"),
        Some(&json!(format!("v{NEWEST}")))
    );

    kubectl.create(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": "default", "name": "web" },
    }))?;
    let node = kubectl
        .create(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-a" } }))?;
    let pod = kubectl.create(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "default", "name": "web-0" },
        "spec": { "serviceAccountName": "web", "nodeName": "node-a", "containers": [{ "name": "web", "image": "web" }] },
    }))?;
    let token = kubectl.run(&[
        "create",
        "token",
        "web",
        "--audience=attache",
        "--bound-object-kind=Pod",
        "--bound-object-name=web-0",
    ])?;

    let body = token.split('.').nth(1).context("a JWT has three parts")?;
    let claims: Value = serde_json::from_slice(&B64URL.decode(body)?)?;
    let at = |pointer: &str| claims.pointer(pointer).cloned();
    assert_eq!(at("/aud"), Some(json!(["attache"])));
    assert_eq!(at("/kubernetes.io/node/name"), Some(json!("node-a")));
    assert_eq!(
        at("/kubernetes.io/node/uid").as_ref(),
        node.pointer("/metadata/uid")
    );
    assert_eq!(
        at("/kubernetes.io/pod/uid").as_ref(),
        pod.pointer("/metadata/uid")
    );
    control_plane.stop()
}

#[test]
fn nothing_of_an_api_server_is_left_when_it_is_dropped() -> Result<()> {
    let control_plane = ControlPlane::start()?;
    let (dir, group) = (
        control_plane.dir().to_owned(),
        Cgroup::named(control_plane.cgroup())?,
    );
    assert!(dir.exists() && !group.is_empty());
    drop(control_plane);
    assert!(!dir.exists());
    assert!(!group.entrance().exists());
    Ok(())
}

#[test]
fn nothing_of_a_cluster_is_left_when_it_is_dropped() -> Result<()> {
    let cluster = Cluster::start(&Release::default())?;
    let pods = pod_on_each(&cluster)?;
    let (dir, slot) = (cluster.dir().to_owned(), cluster.slot());
    Traces::of(&dir, slot)?.show_a_cluster()?;
    drop(cluster);
    drop(pods);
    Traces::of(&dir, slot)?.show_nothing()
}

#[test]
fn nothing_of_a_cluster_is_left_when_its_owner_is_ended_by_a_signal() -> Result<()> {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut owner = Owner::start()?;
        Traces::of(&owner.dir, owner.slot)?.show_a_cluster()?;
        owner.end(signal)?;
        until(PATIENCE, "the reaper has done its work", || {
            owner.reaper().ok()?.is_none().then_some(())
        })?;
        Traces::of(&owner.dir, owner.slot)?.show_nothing()?;
    }
    Ok(())
}

#[test]
fn a_cluster_whose_owner_and_reaper_were_both_killed_is_taken_down_by_the_next_one() -> Result<()> {
    let mut owner = Owner::start()?;
    let (left, slot) = (owner.dir.clone(), owner.slot);
    owner
        .reaper()?
        .map_or(Ok(()), |pid| send(pid, Signal::KILL))?;
    until(PATIENCE, "the reaper is gone", || {
        owner.reaper().ok()?.is_none().then_some(())
    })?;
    owner.end(Signal::KILL)?;
    Traces::of(&left, slot)?.show_a_cluster()?;

    let next = Cluster::start(&Release::default())?;
    assert!(!left.exists());
    let (dir, next_slot) = (next.dir().to_owned(), next.slot());
    next.stop()?;
    Traces::of(&left, slot)?.show_nothing()?;
    Traces::of(&dir, next_slot)?.show_nothing()
}

#[test]
fn a_cluster_that_was_left_running_is_not_in_the_way_of_another_and_is_taken_down_by_its_folder()
-> Result<()> {
    let parent = TempDir::new()?;
    let dir = parent.path().join("cluster");
    let kept = Kept::up(&dir)?;
    assert!(
        kept.printed
            .contains(&format!("export KUBECONFIG={}/kubeconfig", dir.display()))
    );
    let slot = Slot::of(&dir)?;
    Traces::of(&dir, slot)?.show_a_cluster()?;

    let other = Cluster::start(&Release::default())?;
    assert_ne!(other.slot(), slot);
    other.stop()?;
    Traces::of(&dir, slot)?.show_a_cluster()?;

    drop(kept);
    Traces::of(&dir, slot)?.show_nothing()
}

/// A cluster that `attache-cluster up` has left running; `attache-cluster down` takes it down when it is dropped.
struct Kept<'a> {
    dir: &'a Path,
    printed: String,
}

impl<'a> Kept<'a> {
    fn up(dir: &'a Path) -> Result<Self> {
        let output = run(Command::new(bin("attache-cluster")?).arg("up").arg(dir))?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "attache-cluster up: {words}");
        Ok(Self {
            dir,
            printed: String::from_utf8(output.stdout)?,
        })
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        let down =
            bin("attache-cluster").and_then(|bin| run(Command::new(bin).arg("down").arg(self.dir)));
        assert!(down.is_ok_and(|output| output.status.success()));
    }
}

/// Owns a cluster until it is ended: [`Owner`] runs this as a program.
#[test]
#[ignore = "a program that other tests start and end"]
fn owner() -> Result<()> {
    let cluster = Cluster::start(&Release::default())?;
    let pods = pod_on_each(&cluster)?;
    println!(
        "\n{UP}{}",
        serde_json::to_string(&(cluster.slot(), cluster.dir()))?
    );
    stdin().read_line(&mut String::new())?;
    drop(cluster);
    drop(pods);
    Ok(())
}

/// What the owner says when its pods run, before slot and folder.
const UP: &str = "the cluster is up: ";

/// A program that owns a cluster.
struct Owner {
    child: Child,
    slot: Slot,
    dir: PathBuf,
}

impl Owner {
    fn start() -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["--exact", "owner", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("a pipe")?;
        let said = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix(UP).map(str::to_owned));
        let said = said.context("the owner ended before its cluster was up")?;
        let (slot, dir) = serde_json::from_str(&said)?;
        Ok(Self { child, slot, dir })
    }

    /// Its reaper's process id, while that lives.
    fn reaper(&self) -> Result<Option<u32>> {
        let dir = self.dir.to_string_lossy().into_owned();
        let is_reaper = |(_, command): &(u32, String)| {
            command.contains(&dir) && command.contains("attache-cluster\0reap\0")
        };
        Ok(processes()?.into_iter().find(is_reaper).map(|(pid, _)| pid))
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        send(self.child.id(), signal)?;
        self.child.wait()?;
        Ok(())
    }
}

/// What there is of a cluster on this machine, by other means than those by which it is taken down.
#[derive(Debug)]
struct Traces {
    folder: bool,
    /// In whatever mount namespace.
    mounts: BTreeSet<String>,
    processes: BTreeSet<String>,
    links: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
}

impl Traces {
    fn of(dir: &Path, slot: Slot) -> Result<Self> {
        let name = dir.to_string_lossy().into_owned();
        let mut traces = Self {
            folder: dir.exists(),
            mounts: BTreeSet::new(),
            processes: BTreeSet::new(),
            links: BTreeSet::new(),
            cgroups: BTreeSet::new(),
        };
        for (pid, command) in processes()? {
            // What runs on a node's machine or in a pod has the folder in its mounts, what runs beside them in its arguments.
            let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            let of_dir: BTreeSet<String> = table
                .lines()
                .filter(|line| line.contains(&name))
                .map(str::to_owned)
                .collect();
            if !of_dir.is_empty() || command.contains(&name) {
                traces.processes.insert(format!("{pid} {command:?}"));
            }
            traces.mounts.extend(of_dir);
        }
        let bridge = format!("attache{}", slot.number());
        for link in fs::read_dir("/sys/class/net")?.flatten() {
            let link = link.file_name().to_string_lossy().into_owned();
            if link == bridge || link.starts_with(&format!("{bridge}-")) {
                traces.links.insert(link);
            }
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup")?.flatten() {
            let group = hierarchy.path().join(slot.cgroup());
            if group.exists() {
                traces.cgroups.insert(group);
            }
        }
        Ok(traces)
    }

    /// There is something of every kind, so that nothing is seen of it later only because it is gone.
    fn show_a_cluster(&self) -> Result<()> {
        let programs = [
            "etcd",
            "kube-apiserver",
            "kubelet",
            "containerd",
            "kube-proxy",
            "coredns",
            "sleep",
        ];
        for program in programs {
            let runs = self
                .processes
                .iter()
                .any(|process| process.contains(program));
            ensure!(runs, "no {program} among {:#?}", self.processes);
        }
        let all = self.folder
            && !self.mounts.is_empty()
            && self.links.len() == 3
            && self.cgroups.len() > 1;
        ensure!(all, "{self:#?}");
        Ok(())
    }

    fn show_nothing(&self) -> Result<()> {
        let none = !self.folder
            && self.mounts.is_empty()
            && self.processes.is_empty()
            && self.links.is_empty()
            && self.cgroups.is_empty();
        ensure!(none, "left: {self:#?}");
        Ok(())
    }
}

/// Every process that has not ended, with its arguments, each followed by NUL.
fn processes() -> Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_string_lossy().parse();
        let command = fs::read_to_string(entry.path().join("cmdline"));
        if let (Ok(pid), Ok(command)) = (pid, command)
            && !command.is_empty()
        {
            found.push((pid, command));
        }
    }
    Ok(found)
}

fn pod_on_each(cluster: &Cluster) -> Result<Namespace> {
    let namespace = Namespace::create(cluster.kubectl(), "harness")?;
    for node in NODES {
        namespace.start_pod(
            node,
            &json!({ "nodeName": node, "containers": [sleeper()] }),
        )?;
    }
    Ok(namespace)
}
