//! Control groups: what the processes of a cluster are known by and ended by, whoever started them.
//!
//! A process that the harness starts is put into a group of the version 2 hierarchy, which needs no controller there, and
//! everything that it starts is born into the same group. So one write ends all of them, and none can be missed or
//! mistaken, whatever their parents and process ids are by then. Kubelet wants its own root in each version 1 hierarchy too.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{mounts, process::until};

/// How long killed processes may take to be gone, and the kernel to let go of their group.
const PATIENCE: Duration = Duration::from_secs(30);

/// A control group of the version 2 hierarchy.
#[derive(Debug, Clone)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// The group of this name (`a/b` is `b` in `a`), made when it is missing.
    ///
    /// # Errors
    /// When this machine has no version 2 hierarchy, or nothing may be made in it.
    pub fn create(name: &str) -> Result<Self> {
        let group = Self::named(name)?;
        fs::create_dir_all(&group.dir).with_context(|| format!("make the cgroup {name}"))?;
        Ok(group)
    }

    /// The group of this name, whether it is there or not.
    ///
    /// # Errors
    /// When this machine has no version 2 hierarchy.
    pub fn named(name: &str) -> Result<Self> {
        let hierarchies = hierarchies()?;
        let Some((root, _)) = hierarchies.iter().find(|(_, kind)| kind == "cgroup2") else {
            bail!(
                "no cgroup2 file system is mounted here: mount -t cgroup2 none /sys/fs/cgroup/unified"
            );
        };
        Ok(Self {
            dir: root.join(name),
        })
    }

    /// The file through which a process enters it.
    #[must_use]
    pub fn entrance(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// The processes in the group itself; none when it is not there.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.entrance()).unwrap_or_default();
        text.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// The processes in the group and in all groups below it.
    #[must_use]
    pub fn processes_below(&self) -> Vec<u32> {
        let mut found = self.processes();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let dir = entry.path();
            if dir.is_dir() {
                found.extend(Self { dir }.processes_below());
            }
        }
        found
    }

    /// Neither it nor a group below it has a process that has not ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("cgroup.events"));
        !events.is_ok_and(|text| text.lines().any(|line| line == "populated 1"))
    }

    /// Kills every process in it and below it, and waits until all are gone.
    ///
    /// # Errors
    /// When one is still there after the patience.
    pub fn kill(&self) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        fs::write(self.dir.join("cgroup.kill"), "1")
            .with_context(|| format!("kill the cgroup {}", self.dir.display()))?;
        until(PATIENCE, "its processes are gone", || {
            self.is_empty().then_some(())
        })
        .with_context(|| self.dir.display().to_string())
    }
}

/// Makes the group `name` in every hierarchy, fit to hold the groups of pods: kubelet's `cgroupRoot`.
///
/// # Errors
/// When one cannot be made.
pub fn delegate(name: &str) -> Result<()> {
    for (root, kind) in hierarchies()? {
        let mut dir = root;
        for part in Path::new(name) {
            let parent = dir.clone();
            dir.push(part);
            fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                // A new group of version 1 has neither, and no process can enter it then.
                if kind == "cgroup" && dir.join(file).exists() {
                    fs::write(dir.join(file), fs::read(parent.join(file))?)?;
                }
            }
            if kind == "cgroup2" {
                let there = fs::read_to_string(parent.join("cgroup.controllers"))?;
                for controller in there.split_whitespace() {
                    fs::write(
                        parent.join("cgroup.subtree_control"),
                        format!("+{controller}"),
                    )?;
                }
            }
        }
    }
    Ok(())
}

/// Removes the group `name` and those below it from every hierarchy; no process is in them any more.
///
/// # Errors
/// When one cannot be removed.
pub fn remove(name: &str) -> Result<()> {
    for (root, _) in hierarchies()? {
        let dir = root.join(name);
        // A group whose last process was just killed is busy for a moment.
        until(PATIENCE, "it can be removed", || remove_tree(&dir).ok())
            .with_context(|| dir.display().to_string())?;
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// The roots of the hierarchies on this machine, each with its kind: `cgroup` (version 1) or `cgroup2`.
fn hierarchies() -> Result<Vec<(PathBuf, String)>> {
    let mut found: Vec<(PathBuf, String)> = mounts::below(Path::new("/sys/fs/cgroup"))?
        .into_iter()
        .filter(|mount| mount.kind.starts_with("cgroup"))
        .map(|mount| (mount.point, mount.kind))
        .collect();
    found.dedup();
    Ok(found)
}
