//! What must not outlive its owner: a folder with every mount below it, and a control group with every process in it.
//!
//! A second process, the reaper (`attache-cluster reap`), reads a pipe whose other end the owner holds, and takes everything
//! down when that is closed. So there is one way down for success, failure, Ctrl-C and kill -9. What was to be taken down is
//! written in the folder first, for the case that the reaper is killed too.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use super::{
    cgroup::{self, Cgroup},
    network::Network,
    slot::Slot,
};
use crate::{mounts, process::bin};

/// In the folder: what belongs to it.
const HOLDINGS: &str = "holdings.json";

/// What is taken down with a folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Holdings {
    /// The control group whose processes are ended.
    pub cgroup: String,
    /// It is a whole cluster: the network between its nodes goes too.
    pub cluster: Option<Slot>,
    /// It was left running on purpose: nothing takes it down unasked.
    pub kept: bool,
}

impl Holdings {
    /// What belongs to the folder `dir`.
    ///
    /// # Errors
    /// When it is no estate's folder.
    pub fn of(dir: &Path) -> Result<Self> {
        let file = dir.join(HOLDINGS);
        let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| file.display().to_string())
    }

    fn write(&self, dir: &Path) -> Result<()> {
        Ok(fs::write(dir.join(HOLDINGS), serde_json::to_vec(self)?)?)
    }
}

/// A folder and a control group that end with their owner.
pub struct Estate {
    /// The folder.
    pub dir: PathBuf,
    /// The control group's name.
    pub cgroup: String,
    cluster: Option<Slot>,
    reaper: Option<Child>,
    /// Held as long as this lives; the reaper holds it too.
    _lock: Option<File>,
}

impl Estate {
    /// Takes the folder `dir`, new or empty, and the group `cgroup`.
    ///
    /// # Errors
    /// When something is in the folder; when the reaper cannot be started.
    pub fn take(dir: &Path, cgroup: &str) -> Result<Self> {
        Self::start(dir, cgroup, None)
    }

    /// As [`Estate::take`], for a cluster. `lock` is held until everything is down again.
    ///
    /// # Errors
    /// As [`Estate::take`].
    pub fn of_cluster(dir: &Path, slot: Slot, lock: File) -> Result<Self> {
        let estate = Self::start(dir, &slot.cgroup(), Some((slot, lock)))?;
        slot.remember(&estate.dir)?;
        Ok(estate)
    }

    fn start(dir: &Path, cgroup: &str, cluster: Option<(Slot, File)>) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        ensure!(
            fs::read_dir(dir)?.next().is_none(),
            "{} is not empty: name a folder that is not there yet, or an empty one",
            dir.display()
        );
        let dir = dir.canonicalize()?;
        // Users of the product's own must be able to pass through.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        let (cluster, lock) = cluster.unzip();
        let holdings = Holdings {
            cgroup: cgroup.to_owned(),
            cluster,
            kept: false,
        };
        holdings.write(&dir)?;
        let shared = lock.as_ref().map(File::try_clone).transpose()?;
        let reaper = Command::new(bin("attache-cluster")?)
            .arg("reap")
            .arg(&dir)
            .stdin(Stdio::piped())
            // The lock is on what the file was opened as: it is free when owner and reaper have both let go of it.
            .stdout(shared.map_or_else(Stdio::null, Stdio::from))
            // Ctrl-C reaches the owner alone.
            .process_group(0)
            .spawn()
            .context("start the reaper")?;
        Ok(Self {
            dir,
            cgroup: cgroup.to_owned(),
            cluster,
            reaper: Some(reaper),
            _lock: lock,
        })
    }

    /// Takes everything down.
    ///
    /// # Errors
    /// When something could not be taken down; the reaper has said what.
    pub fn clear(mut self) -> Result<()> {
        ensure!(self.reap(&[])?, "not everything was taken down");
        Ok(())
    }

    /// Leaves everything running.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn keep(mut self) -> Result<()> {
        let holdings = Holdings {
            cgroup: self.cgroup.clone(),
            cluster: self.cluster,
            kept: true,
        };
        holdings.write(&self.dir)?;
        self.reap(KEEP)?;
        Ok(())
    }

    /// Closes the pipe and waits for the reaper; answers whether it ended well.
    fn reap(&mut self, last_words: &[u8]) -> Result<bool> {
        let Some(mut reaper) = self.reaper.take() else {
            return Ok(true);
        };
        if let Some(mut pipe) = reaper.stdin.take() {
            pipe.write_all(last_words)?;
        }
        Ok(reaper.wait()?.success())
    }
}

impl Drop for Estate {
    fn drop(&mut self) {
        let _ = self.reap(&[]);
    }
}

/// What the owner says to the reaper before it closes the pipe when everything is to be left.
pub const KEEP: &[u8] = b"keep";

/// Takes down what belongs to the folder `dir`, and removes the folder. May be said again when it was interrupted.
///
/// # Errors
/// When something is left.
pub fn clear(dir: &Path) -> Result<()> {
    let holdings = Holdings::of(dir)?;
    Cgroup::named(&holdings.cgroup)?.kill()?;
    unmount_below(dir)?;
    if let Some(slot) = holdings.cluster {
        Network::of(slot).remove()?;
    }
    cgroup::remove(&holdings.cgroup)?;
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    if let Some(slot) = holdings.cluster {
        // Last: until then it is how what is left can be found.
        slot.forget()?;
    }
    Ok(())
}

/// Unmounts everything at and below `dir`, the deepest first.
fn unmount_below(dir: &Path) -> Result<()> {
    let mut left = mounts::below(dir)?;
    // Later lines of mountinfo lie on top of earlier ones.
    while let Some(mount) = left.pop() {
        // It may be gone already, by propagation.
        let _ = unmount(&mount.point, UnmountFlags::DETACH);
    }
    let left = mounts::below(dir)?;
    ensure!(
        left.is_empty(),
        "still mounted below {}: {left:?}",
        dir.display()
    );
    Ok(())
}
