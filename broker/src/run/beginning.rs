//! A store that is being made: under another name until all that belongs to it is there.
//!
//! ```text
//! DIR/store.redb.new         an init, or a restore with a new log, is at work, or was killed at it
//! DIR/store.redb.new.log     whose that is, and which chain it begins: what lies in the audit folder of that chain is its
//! DIR/store.redb.restoring   a restore is: what lies in the audit folder is the store's own log, and is left alone
//! DIR/store.redb             a whole store, with its log, its anchor and its certificates
//! ```
//! So a store is there or is not, whenever they end. One at a time works in a folder: the folder is locked. A log of any other
//! chain than the one that was begun is never touched, whoever put it there meanwhile.

use std::{
    fs::{self, DirBuilder, File},
    io::{ErrorKind, Read},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use attache_envelope::id::ChainId;
use attache_mtls::private_file::write_private;
use attache_translog::{HEADER_BYTES, Header};
use rustix::{
    fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with},
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

/// What `store.redb.new.log` says: `init CHAIN` or `restore CHAIN`, and a newline.
struct Begun {
    by_init: bool,
    chain: ChainId,
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
        // A link that leads nowhere is something, too.
        if store.symlink_metadata().is_ok() {
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
        // A store that came to be there meanwhile stays.
        renameat_with(CWD, self.store(), CWD, &store, RenameFlags::NOREPLACE)
            .with_context(|| format!("{} cannot have its name", store.display()))?;
        self.finished = true;
        take_away(&self.config.store.begun_log())?;
        self.folder
            .sync_all()
            .with_context(|| store.display().to_string())
    }

    /// Says, durably, which chain is being begun, before anything of it is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn begins_log(&self, chain: ChainId) -> Result<()> {
        let by = match self.kind {
            Kind::Init => "init",
            Kind::NewLog | Kind::OwnLog => "restore",
        };
        let file = self.config.store.begun_log();
        let text = format!("{by} {}\n", hex::encode(chain.as_bytes()));
        write_private(&file, text.as_bytes()).with_context(|| file.display().to_string())
    }

    /// Takes away what belongs to the store that was begun; the store itself last, which says that all else is its.
    fn clear(&self) -> Result<()> {
        take_away(&self.config.store.restoring())?;
        let (store, note) = (self.config.store.beginning(), self.config.store.begun_log());
        if store.exists()
            && let Some(begun) = Begun::read(&note)?
        {
            self.clear_log(&begun)?;
            if begun.by_init {
                take_away(&self.config.store.anchor())?;
            }
        }
        take_away(&store)?;
        take_away(&note)
    }

    /// Takes away what there is of a log that was begun, and nothing of another one.
    fn clear_log(&self, begun: &Begun) -> Result<()> {
        let files = match fs::read_dir(&self.config.audit_dir) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let files: Vec<PathBuf> = files.context("the audit folder")?;
        let extension = |path: &PathBuf| path.extension().map(|it| it.as_encoded_bytes().to_vec());
        let is_segment = |path: &&PathBuf| extension(path).as_deref() == Some(b"seg");
        for segment in files.iter().filter(is_segment) {
            if !begun.has_made(segment)? {
                // The rest is of that other log, too.
                return Ok(());
            }
        }
        let of_a_log = |path: &&PathBuf| {
            matches!(extension(path).as_deref(), Some(b"seg" | b"sum" | b"tmp"))
                || path.ends_with("lock")
        };
        files
            .iter()
            .filter(of_a_log)
            .try_for_each(|it| take_away(it))
    }
}

impl Begun {
    /// What the note says; nothing where there is none. One that was cut short was written before anything else.
    fn read(note: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(note) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| note.display().to_string()),
        };
        let begun = || {
            let (by, chain) = text.strip_suffix('\n')?.split_once(' ')?;
            let mut bytes = [0; 16];
            hex::decode_to_slice(chain, &mut bytes).ok()?;
            let by_init = match by {
                "init" => true,
                "restore" => false,
                _ => return None,
            };
            let chain = ChainId::from_bytes(bytes);
            Some(Self { by_init, chain })
        };
        Ok(begun())
    }

    /// Whether a segment is of this chain, or so new that it has no header yet.
    fn has_made(&self, segment: &Path) -> Result<bool> {
        let mut head = Vec::new();
        let file = File::open(segment).with_context(|| segment.display().to_string())?;
        file.take(HEADER_BYTES as u64).read_to_end(&mut head)?;
        let header = Header::parse(&head);
        let unwritten = head.iter().all(|byte| *byte == 0);
        Ok(unwritten || header.is_ok_and(|it| it.chain == *self.chain.as_bytes()))
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
