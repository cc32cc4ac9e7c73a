//! Which of the clusters of this machine: a number, and with it a lock, a folder, a control group and a network.
//!
//! ```text
//! /run/attache-cluster-N.lock   held by whoever brings a cluster up, until it is down again or left running
//! /run/attache-cluster-N        -> the folder of the cluster that is up, or of one that was not taken down
//! ```

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    cgroup::{self, Cgroup},
    estate::{self, Holdings},
    network::Network,
};
use crate::process::until;

/// So many clusters can be up at a time: more than the memory of this machine is likely to hold.
const SLOTS: u8 = 8;
/// How long another cluster is waited for, should all slots be taken.
const TURN: Duration = Duration::from_secs(120);

/// The number of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot(u8);

impl Slot {
    /// Takes the first free one, with its lock. What a killed program has left of a cluster there is taken down first.
    ///
    /// # Errors
    /// When none gets free; when what was left cannot be taken down.
    pub fn take() -> Result<(Self, File)> {
        until(TURN, "a slot for a cluster is free", || {
            Self::first_free().transpose()
        })?
    }

    /// Looks at all of them, so that nothing is left behind in one that is not taken.
    fn first_free() -> Result<Option<(Self, File)>> {
        let free: Vec<_> = all().map(Self::try_take).collect::<Result<_>>()?;
        Ok(free.into_iter().flatten().next())
    }

    fn try_take(self) -> Result<Option<(Self, File)>> {
        let Some(lock) = self.lock()? else {
            return Ok(None);
        };
        if let Some(dir) = self.folder()? {
            if Holdings::of(&dir).is_ok_and(|holdings| holdings.kept) {
                return Ok(None);
            }
            self.clear(&dir)
                .with_context(|| format!("take down what was left in {}", dir.display()))?;
        }
        Ok(Some((self, lock)))
    }

    /// That of the cluster in the folder `dir`.
    ///
    /// # Errors
    /// When no cluster is there.
    pub fn of(dir: &Path) -> Result<Self> {
        let dir = dir
            .canonicalize()
            .with_context(|| dir.display().to_string())?;
        all()
            .find(|slot| {
                slot.folder()
                    .is_ok_and(|folder| folder.as_ref() == Some(&dir))
            })
            .with_context(|| format!("no cluster is up in {}", dir.display()))
    }

    /// That of the one cluster that was left running.
    ///
    /// # Errors
    /// When there is none, or another one.
    pub fn of_the_kept_one() -> Result<Self> {
        let kept = |slot: &Self| {
            // Whoever has removed its folder wants it no more.
            let is_kept = |dir: &PathBuf| Holdings::of(dir).map_or(true, |holdings| holdings.kept);
            slot.folder().ok().flatten().as_ref().is_some_and(is_kept)
        };
        let found: Vec<Self> = all().filter(kept).collect();
        match found.as_slice() {
            [one] => Ok(*one),
            [] => bail!("no cluster was left running"),
            more => {
                let folders: Vec<_> = more.iter().filter_map(|s| s.folder().ok()?).collect();
                bail!("say which one: clusters were left running in {folders:?}")
            }
        }
    }

    /// Takes down the cluster that was left running here.
    ///
    /// # Errors
    /// When a program owns it, or something of it is left.
    pub fn take_down(self) -> Result<()> {
        let _lock = self
            .lock()?
            .context("a program has this cluster up, and takes it down when it ends")?;
        let dir = self.folder()?.context("it was taken down just now")?;
        self.clear(&dir)
    }

    fn clear(self, dir: &Path) -> Result<()> {
        if dir.exists() {
            return estate::clear(dir);
        }
        // Whoever has removed its folder has left what is known by name.
        Cgroup::named(&self.cgroup())?.kill()?;
        Network::of(self).remove()?;
        cgroup::remove(&self.cgroup())?;
        self.forget()
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// The name of its control group, in every hierarchy.
    #[must_use]
    pub fn cgroup(self) -> String {
        format!("attache-cluster-{}", self.0)
    }

    /// Remembers where the cluster is.
    pub(super) fn remember(self, dir: &Path) -> Result<()> {
        symlink(dir, self.link()).with_context(|| format!("link {}", self.link()))
    }

    /// Forgets where the cluster was.
    pub(super) fn forget(self) -> Result<()> {
        fs::remove_file(self.link()).with_context(|| format!("remove {}", self.link()))
    }

    fn folder(self) -> Result<Option<PathBuf>> {
        match fs::read_link(self.link()) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(self.link()),
        }
    }

    fn link(self) -> String {
        format!("/run/attache-cluster-{}", self.0)
    }

    /// The lock, unless a program or a reaper holds it.
    fn lock(self) -> Result<Option<File>> {
        let path = format!("{}.lock", self.link());
        let lock = File::create(&path).context(path)?;
        Ok(lock.try_lock().is_ok().then_some(lock))
    }
}

fn all() -> impl Iterator<Item = Slot> {
    (1..=SLOTS).map(Slot)
}
