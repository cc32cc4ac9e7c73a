//! The verbs: each one looks at what is really mounted, changes it if need be, and looks again.
//!
//! All of them may be repeated. None trusts what an earlier call saw.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use attache_arena::PinnedMap;

use super::error::MountError;
use super::failpoint::{Failpoint, Failpoints};
use super::folder::{Root, set_immutable};
use super::inspect::inspect;
use super::mount_id::MountId;
use super::target::{Found, KubeletDir, Mounted, VolumeFolder};
use super::tmpfs::{self, VolumeLimits};
use super::{generation, mountinfo};
use crate::ipc::generation::{Contents, MAX_MEMFD_BYTES};
use crate::ipc::message::LIST_PAGE;
use crate::ipc::{Facts, VolumeStat};
use crate::telemetry::chain;
use crate::volume::Target;

/// Deepest pile of our own mounts on one folder that a detach takes away; more than one is never made here.
const MAX_STACKED: usize = 8;

/// The volumes under one kubelet's folder.
pub struct Volumes {
    kubelet: KubeletDir,
    facts: Facts,
    /// SELinux is on here.
    label: bool,
    limits: VolumeLimits,
    failpoints: Failpoints,
}

impl Volumes {
    /// Holds kubelet's folder open and finds out what this kernel's tmpfs can do.
    ///
    /// # Errors
    /// [`MountError::Os`] when the folder is not there, or this process cannot mount.
    pub fn open(
        kubelet_dir: &Path,
        limits: VolumeLimits,
        failpoints: Failpoints,
    ) -> Result<Self, MountError> {
        let (facts, label) = tmpfs::probe(failpoints.is_set(Failpoint::NoInodeFlags))?;
        Ok(Self {
            kubelet: KubeletDir::open(kubelet_dir)?,
            facts,
            label,
            limits,
            failpoints,
        })
    }

    /// As if the kernel could do only this.
    #[cfg(test)]
    pub(super) fn with_facts(self, facts: Facts) -> Self {
        Self { facts, ..self }
    }

    /// What this kernel's tmpfs can do.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// Whether SELinux is on here, and files get a label that containers may read.
    #[must_use]
    pub fn labels_files(&self) -> bool {
        self.label
    }

    /// Mounts the volume, and answers whether it was not mounted before. A failure leaves nothing behind.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn attach(&self, target: &Target) -> Result<bool, MountError> {
        let folder = self.kubelet.volume(target)?;
        let mount_point = match folder.look()? {
            Found::Ours(_) => return Ok(false),
            Found::Folder(mount_point) => mount_point,
            Found::Nothing => folder.make_mount_point()?,
        };
        let mounted = self.mount(&folder, &mount_point);
        if mounted.is_err() {
            // What went wrong is the answer; a folder that cannot be removed is empty all the same.
            let _left = folder.remove_mount_point();
        }
        mounted.map(|()| true)
    }

    fn mount(&self, folder: &VolumeFolder<'_>, mount_point: &OwnedFd) -> Result<(), MountError> {
        let swaps = || std::fs::read_to_string("/proc/swaps").unwrap_or_default();
        if !self.facts.noswap && tmpfs::swap_is_on(&swaps()) {
            return Err(MountError::SwapOn);
        }
        let options = tmpfs::Options {
            noswap: self.facts.noswap,
            label: self.label,
        };
        let mount = tmpfs::make(&folder.id.to_string(), self.limits, options)?;
        if self.facts.inode_flags {
            set_immutable(tmpfs::open_root(mount.as_fd())?.as_fd(), true)?;
        }
        tmpfs::move_onto(mount.as_fd(), mount_point.as_fd())?;
        self.failpoints.pass(Failpoint::AfterMount);
        let own = MountId::of(mount.as_fd())?;
        if let Ok(true) = folder.has(own) {
            folder.learn(own);
            return Ok(());
        }
        // The folder was moved away under us, and the mount went with it.
        tmpfs::unmount_itself(mount.as_fd())?;
        Err(MountError::NotAsWritten("the mount is not at the target"))
    }

    /// Pins and checks a memory file, swaps its generation in, and answers whether the volume did not hold it before.
    ///
    /// # Errors
    /// [`MountError`]; the volume then holds what it held before, or the new generation.
    pub fn write(
        &self,
        target: &Target,
        memfd: OwnedFd,
        memfd_bytes: u64,
    ) -> Result<bool, MountError> {
        let len = usize::try_from(memfd_bytes).unwrap_or(usize::MAX);
        if len > MAX_MEMFD_BYTES {
            return Err(crate::ipc::FormatError::TooLarge("bytes in the memory file").into());
        }
        let pinned = PinnedMap::sealed(&memfd, len)?;
        let contents = Contents::parse(pinned.as_slice())?;
        self.change(target, |root| {
            generation::write(root, &contents, &self.failpoints)
        })
    }

    /// Swaps an empty generation in, and answers whether the volume did not hold that before.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn wipe(&self, target: &Target) -> Result<bool, MountError> {
        self.change(target, generation::wipe)
    }

    /// Changes a mounted volume, and makes sure that what was changed is still what is mounted.
    fn change(
        &self,
        target: &Target,
        change: impl FnOnce(&Root) -> Result<bool, MountError>,
    ) -> Result<bool, MountError> {
        let folder = self.kubelet.volume(target)?;
        let mounted = folder.mounted()?;
        let changed = change(&self.root(&mounted)?)?;
        if folder.has(mounted.id)? {
            Ok(changed)
        } else {
            Err(MountError::NotAsWritten("another mount"))
        }
    }

    fn root(&self, mounted: &Mounted) -> Result<Root, MountError> {
        Ok(Root::new(mounted.root()?, self.facts.inode_flags))
    }

    /// Empties and unmounts the volume and removes its mount point, and answers whether it was mounted. What is not
    /// there is done already.
    ///
    /// # Errors
    /// [`MountError::ForeignMount`]: that is for its own driver to unmount; others.
    pub fn detach(&self, target: &Target) -> Result<bool, MountError> {
        let folder = match self.kubelet.volume(target) {
            Err(MountError::NoVolumeFolder) => return Ok(false),
            folder => folder?,
        };
        let mut was_mounted = false;
        for _ in 0..=MAX_STACKED {
            match folder.look()? {
                Found::Ours(mounted) => {
                    // Unmounting is what was asked for, and does not wait for tidiness.
                    if let Err(error) = self
                        .root(&mounted)
                        .and_then(|root| generation::empty(&root))
                    {
                        let error = chain(&error);
                        tracing::warn!(%target, %error, "the volume could not be emptied before it is unmounted");
                    }
                    folder.unmount(&mounted)?;
                    was_mounted = true;
                    self.failpoints.pass(Failpoint::AfterUnmount);
                }
                Found::Folder(_) => {
                    folder.remove_mount_point()?;
                    return Ok(was_mounted);
                }
                Found::Nothing => return Ok(was_mounted),
            }
        }
        Err(MountError::NotAsWritten("still mounted"))
    }

    /// The mounted volumes after `after`, in order, at most a page, and whether there are more.
    ///
    /// # Errors
    /// [`MountError::Os`] when the mount table cannot be read.
    pub fn list(&self, after: Option<&Target>) -> Result<(Vec<Target>, bool), MountError> {
        let volumes = mountinfo::read()?.volumes(&self.kubelet.path);
        let mut rest = volumes
            .into_iter()
            .filter(|volume| after.is_none_or(|after| volume > after));
        let page: Vec<Target> = rest.by_ref().take(LIST_PAGE).collect();
        Ok((page, rest.next().is_some()))
    }

    /// What the volume holds, and its `.attache.json`.
    ///
    /// # Errors
    /// [`MountError`]; that nothing is mounted is an answer.
    pub fn stat(&self, target: &Target) -> Result<(VolumeStat, Option<OwnedFd>), MountError> {
        let folder = match self.kubelet.volume(target) {
            Err(MountError::NoVolumeFolder) => return Ok((VolumeStat::default(), None)),
            folder => folder?,
        };
        match folder.look()? {
            Found::Ours(mounted) => {
                let found = inspect(&self.root(&mounted)?)?;
                Ok((found.stat, found.metadata))
            }
            Found::Nothing | Found::Folder(_) => Ok((VolumeStat::default(), None)),
        }
    }
}
