//! A store that is being made: under another name until all that belongs to it is there.
//!
//! ```text
//! DIR/store.redb.new         an init is at work, or was killed at it: what lies in the audit folder is its
//! DIR/store.redb.restoring   a restore is: what lies in the audit folder is the store's own log, and is left alone
//! DIR/store.redb             a whole store, with its log, its anchor and its certificates
//! ```
//! So a store is there or is not, whenever they end. One at a time works in a folder: the folder is locked. A restore that
//! begins a new log does as init does.

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
    kind: Kind,
    /// Locked until the end.
    folder: File,
    /// The slot file, once it was made here.
    slot_file: Option<PathBuf>,
    finished: bool,
}

/// What makes the store, which says whose the log in the audit folder is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A new store, with a new log.
    Init,
    /// A store of before, with a new log.
    NewLog,
    /// A store of before, with its log.
    OwnLog,
}

impl<'a> Beginning<'a> {
    /// Takes the folder, which is made where it is missing, and clears it of what an init left that was killed. Its slot
    /// file stays, as any that is there: it may open another store.
    ///
    /// # Errors
    /// When another init is at work there; when a store, or the log of one, is there already.
    pub(super) fn take(config: &'a Config) -> Result<Self> {
        Self::begin(config, Kind::Init)
    }

    /// As [`Beginning::take`], for a store that is restored: with the log that is in the audit folder, or with a new one.
    ///
    /// # Errors
    /// As there; when the folder has no log although it should, or has one although a new one is to begin.
    pub(super) fn restore(config: &'a Config, new_log: bool) -> Result<Self> {
        let kind = if new_log { Kind::NewLog } else { Kind::OwnLog };
        Self::begin(config, kind)
    }

    fn begin(config: &'a Config, kind: Kind) -> Result<Self> {
        let path = &config.store.dir;
        private_folder(path)?;
        let folder = File::open(path).with_context(|| path.display().to_string())?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => bail!(
                "another attache-broker init or restore is at work in {}",
                path.display()
            ),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let store = config.store.store();
        if store.exists() {
            let mend = match kind {
                Kind::Init => "init makes new stores only",
                Kind::NewLog | Kind::OwnLog => {
                    "a restore replaces none: stop the broker and move the folder's store away first"
                }
            };
            bail!("{} is there already; {mend}", store.display());
        }
        let beginning = Self {
            config,
            kind,
            folder,
            slot_file: None,
            finished: false,
        };
        beginning.clear()?;
        let log_is_there =
            fs::read_dir(&config.audit_dir).is_ok_and(|mut entries| entries.next().is_some());
        if kind == Kind::OwnLog && !log_is_there {
            bail!(
                "the audit folder {} (audit.dir) has no log: put that of the store back, or, where it is lost, begin another \
                 one with --new-log",
                config.audit_dir.display()
            );
        }
        if log_is_there && kind == Kind::NewLog {
            bail!(
                "the audit folder {} (audit.dir) is not empty, and a new log begins only where there is none: if it is the \
                 store's own, leave --new-log out; else move it away",
                config.audit_dir.display()
            );
        }
        if log_is_there && kind == Kind::Init {
            bail!(
                "the audit folder {} is not empty; a new store begins a new log",
                config.audit_dir.display()
            );
        }
        Ok(beginning)
    }

    /// Where the store is made.
    pub(super) fn store(&self) -> PathBuf {
        match self.kind {
            Kind::Init | Kind::NewLog => self.config.store.beginning(),
            Kind::OwnLog => self.config.store.restoring(),
        }
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
        take_away(&self.config.store.restoring())?;
        if !self.config.store.beginning().exists() {
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
            // What an anchor of before knows is worth keeping: a restore's incarnation goes above it.
            .chain((self.kind == Kind::Init).then(|| self.config.store.anchor()))
            .chain([self.config.store.beginning()]);
        for file in files {
            take_away(&file)?;
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

/// Removes a file that may be there.
fn take_away(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| {
            format!(
                "cannot take away {}, which an init or a restore left that was cut short",
                file.display()
            )
        }),
        Ok(()) | Err(_) => Ok(()),
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
