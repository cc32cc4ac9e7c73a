//! A store that is being made: under another name until all that belongs to it is there.
//!
//! ```text
//! DIR/store.redb.new   an init is at work, or was killed at it: what lies in the audit folder is its
//! DIR/store.redb       a whole store, with its log, its anchor and its certificates
//! ```
//! So a store is there or is not, whenever an init ends. One init at a time works in a folder: the folder is locked.

use std::{
    fs::{self, DirBuilder, File},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::config::Config;

/// A store's folder while a store is made in it. Dropped unfinished, it takes away what was made.
pub(super) struct Beginning<'a> {
    config: &'a Config,
    /// Locked until the end.
    folder: File,
    /// The slot file, once it was made here.
    slot_file: Option<PathBuf>,
    finished: bool,
}

impl<'a> Beginning<'a> {
    /// Takes the folder, which is made where it is missing, and clears it of what an init left that was killed. Its slot
    /// file stays, as any that is there: it may open another store.
    ///
    /// # Errors
    /// When another init is at work there; when a store, or the log of one, is there already.
    pub(super) fn take(config: &'a Config) -> Result<Self> {
        let path = &config.store.dir;
        private_folder(path)?;
        let folder = File::open(path).with_context(|| path.display().to_string())?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => bail!(
                "another attache-broker init is at work in {}",
                path.display()
            ),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let store = config.store.store();
        if store.exists() {
            bail!(
                "{} is there already; init makes new stores only",
                store.display()
            );
        }
        let beginning = Self {
            config,
            folder,
            slot_file: None,
            finished: false,
        };
        beginning.clear()?;
        let log_is_there =
            fs::read_dir(&config.audit_dir).is_ok_and(|mut entries| entries.next().is_some());
        if log_is_there {
            bail!(
                "the audit folder {} is not empty; a new store begins a new log",
                config.audit_dir.display()
            );
        }
        Ok(beginning)
    }

    /// Where the store is made.
    pub(super) fn store(&self) -> PathBuf {
        self.config.store.beginning()
    }

    /// Takes note of a slot file that was made for it.
    pub(super) fn made_slot_file(&mut self, path: &Path) {
        self.slot_file = Some(path.to_owned());
    }

    /// All of it is there: gives the store its name, durably.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub(super) fn finish(mut self) -> Result<()> {
        let store = self.config.store.store();
        fs::rename(self.store(), &store).with_context(|| store.display().to_string())?;
        self.finished = true;
        self.folder
            .sync_all()
            .with_context(|| store.display().to_string())
    }

    /// Takes away what belongs to the store that was begun; the store itself last, which says that all else is its.
    fn clear(&self) -> Result<()> {
        if !self.store().exists() {
            return Ok(());
        }
        let segments = match fs::read_dir(&self.config.audit_dir) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let segments: Vec<PathBuf> = segments.context("the audit folder")?;
        let of_a_log = |path: &PathBuf| {
            let extension = path.extension().and_then(|it| it.to_str());
            matches!(extension, Some("seg" | "sum" | "tmp")) || path.ends_with("lock")
        };
        let files = segments
            .into_iter()
            .filter(of_a_log)
            .chain([self.config.store.anchor(), self.store()]);
        for file in files {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| {
                        format!(
                            "cannot take away {}, which an init left that was cut short",
                            file.display()
                        )
                    });
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Err(error) = self.clear() {
            tracing::warn!(
                error = format!("{error:#}"),
                "an init left something behind"
            );
        }
        if let Some(slot_file) = self.slot_file.take() {
            let _ = fs::remove_file(slot_file);
        }
    }
}

/// Makes a folder for this process's user alone, and those above it that are missing.
///
/// # Errors
/// When it cannot be made.
pub(super) fn private_folder(folder: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))
}
