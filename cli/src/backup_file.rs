//! A backup's file on this machine: written under another name until it is whole, and read as an enemy may have left it.
//!
//! `FILE.part` is locked by the one process that writes it; what a killed one left is written over by the next. FILE itself
//! is there whole or not at all, and is never replaced.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use attache_backup::{BackupError, End, EndError, Item, Reader, Sealed};
use attache_translog::{NoteError, Verifier};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, fchmod, flock, renameat_with};
use rustix::io::Errno;

use crate::failure::{Exit, Failure};

/// What is read at once.
const WINDOW_BYTES: usize = 1024 * 1024;
/// How often a file that another process took away meanwhile is looked for again.
const TRIES: usize = 8;

/// A file that is being written. Dropped before [`Part::finish`], it is taken away.
pub struct Part {
    target: PathBuf,
    path: PathBuf,
    file: File,
    finished: bool,
}

impl Part {
    /// Begins `FILE.part`, 0600.
    ///
    /// # Errors
    /// [`Exit::Precondition`] when FILE is there, or is being written; [`Exit::Failed`] when it cannot be made.
    pub fn begin(target: &Path) -> Result<Self, Failure> {
        Self::refuse(target)?;
        let mut name = target.as_os_str().to_owned();
        name.push(OsString::from(".part"));
        let path = PathBuf::from(name);
        let failed = |error: &io::Error| {
            Failure::new(Exit::Failed, format!("{} was not made", path.display())).caused_by(error)
        };
        for _ in 0..TRIES {
            let file = open_part(&path).map_err(|error| failed(&error))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    return Err(Failure::new(Exit::Precondition, "no backup was made")
                        .because(format!("another process writes {}", path.display()))
                        .mend("wait for it, or name another file"));
                }
                Err(error) => return Err(failed(&error.into())),
            }
            // The one before may have ended and taken its file away between the two.
            if !is_same(&file, &path) {
                continue;
            }
            let begun = fchmod(&file, Mode::from_raw_mode(0o600)).map_err(io::Error::from);
            begun
                .and_then(|()| file.set_len(0))
                .map_err(|error| failed(&error))?;
            return Ok(Self {
                target: target.to_owned(),
                path,
                file,
                finished: false,
            });
        }
        Err(
            Failure::new(Exit::Precondition, "no backup was made").because(format!(
                "{} is made and taken away by others all the time",
                path.display()
            )),
        )
    }

    /// Refuses a name that is taken, before anything is asked for.
    ///
    /// # Errors
    /// [`Exit::Precondition`].
    pub fn refuse(target: &Path) -> Result<(), Failure> {
        match fs::symlink_metadata(target) {
            Ok(_) => Err(is_there(target)),
            Err(_) => Ok(()),
        }
    }

    /// Where it is until it is whole.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// [`Exit::Failed`].
    pub fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(piece);
        written.map_err(|error| self.not_written(&error))
    }

    /// Makes sure that it is on the disk.
    ///
    /// # Errors
    /// [`Exit::Failed`].
    pub fn sync(&self) -> Result<(), Failure> {
        let synced = self.file.sync_all();
        synced.map_err(|error| self.not_written(&error))
    }

    /// Reads it behind what is written to it. What somebody writes over it behind that is not seen.
    ///
    /// # Errors
    /// [`Exit::Failed`] when it cannot be read.
    pub fn checking(&self) -> Result<Checking, Failure> {
        let file = self.file.try_clone();
        let file = file.map_err(|error| unread(&self.path, &error))?;
        Ok(Checking::of(file, &self.path))
    }

    /// It is whole: gives it its name, durably.
    ///
    /// # Errors
    /// [`Exit::Precondition`] when FILE has come to be there meanwhile; [`Exit::Failed`], also when another file has come into
    /// its place.
    pub fn finish(mut self) -> Result<(), Failure> {
        if !is_same(&self.file, &self.path) {
            return Err(self.taken());
        }
        match rename_new(&self.path, &self.target) {
            Ok(()) if is_same(&self.file, &self.target) => self.finished = true,
            // It was exchanged between the two.
            Ok(()) => return Err(self.taken()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(is_there(&self.target));
            }
            Err(error) => return Err(self.not_written(&error)),
        }
        let folder = self.target.parent().filter(|it| !it.as_os_str().is_empty());
        let synced = File::open(folder.unwrap_or(Path::new("."))).and_then(|it| it.sync_all());
        synced.map_err(|error| self.not_written(&error))
    }

    fn taken(&self) -> Failure {
        Failure::new(
            Exit::Failed,
            format!("{} was not written", self.target.display()),
        )
        .because(format!(
            "{} was taken away meanwhile, or is another file now",
            self.path.display()
        ))
        .mend("run the same command again")
    }

    fn not_written(&self, error: &io::Error) -> Failure {
        let what = format!("{} was not written", self.target.display());
        Failure::new(Exit::Failed, what).caused_by(error)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // What is there now may be another's.
        if !self.finished && is_same(&self.file, &self.path) {
            drop(fs::remove_file(&self.path));
        }
    }
}

fn open_part(path: &Path) -> io::Result<File> {
    let no_follow = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits());
    // Appended to: where somebody cuts it meanwhile, it ends up shorter than what was written, and is seen to.
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(no_follow.map_err(io::Error::other)?)
        .open(path)
}

/// Whether the path still names this open file, a regular one.
fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => {
            named.is_file() && (open.dev(), open.ino()) == (named.dev(), named.ino())
        }
        _ => false,
    }
}

/// Renames to a name that nothing has.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot: a link is refused as well where the name is taken.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        renamed => renamed.map_err(io::Error::from),
    }
}

fn is_there(target: &Path) -> Failure {
    Failure::new(Exit::Precondition, "no backup was made")
        .because(format!("{} is there already", target.display()))
        .mend("name a file that is not there")
}

/// What a file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// A whole backup of the keys' store, and which of them signed it, counted from zero.
    Whole(Sealed, usize),
    /// It is not: from which byte on, and why.
    Broken(BackupError),
    /// Its end is not to be believed, so nothing of it is.
    Unsigned(EndError),
}

/// A file that is read from its beginning on, as far as it goes: one that is still being written, behind what writes it.
pub struct Checking {
    path: PathBuf,
    file: File,
    window: Vec<u8>,
    reader: Reader,
    done: u64,
    broken: Option<BackupError>,
}

impl Checking {
    /// Stands before the first byte.
    ///
    /// # Errors
    /// [`Exit::Failed`] when it cannot be opened, or is no file.
    fn open(path: &Path) -> Result<Self, Failure> {
        let unread = |error: &io::Error| unread(path, error);
        let file = File::open(path).map_err(|error| unread(&error))?;
        let metadata = file.metadata().map_err(|error| unread(&error))?;
        if !metadata.is_file() {
            return Err(unread(&io::Error::other("it is no regular file")));
        }
        Ok(Self::of(file, path))
    }

    fn of(file: File, path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file,
            window: vec![0; WINDOW_BYTES],
            reader: Reader::new(),
            done: 0,
            broken: None,
        }
    }

    /// Reads on, at most 1 MiB. Answers how far it is; none at what is the end of the file for now, or where the file turned
    /// out to be broken.
    ///
    /// # Errors
    /// [`Exit::Failed`] when it cannot be read, which is no finding.
    pub fn read_on(&mut self) -> Result<Option<u64>, Failure> {
        if self.broken.is_some() {
            return Ok(None);
        }
        let count = self.file.read_at(&mut self.window, self.done);
        let count = count.map_err(|error| unread(&self.path, &error))?;
        let Some(piece) = self.window.get(..count).filter(|piece| !piece.is_empty()) else {
            return Ok(None);
        };
        self.reader.push(piece);
        self.done += piece.len() as u64;
        loop {
            match self.reader.item() {
                Ok(Some(
                    Item::Head(_) | Item::Table(_) | Item::Row { .. } | Item::TableEnd | Item::End,
                )) => {}
                Ok(None) => return Ok(Some(self.done)),
                Err(error) => {
                    self.broken = Some(error);
                    return Ok(None);
                }
            }
        }
    }

    /// Whether the file is as long as what was read of it.
    ///
    /// # Errors
    /// [`Exit::Failed`] when that cannot be told.
    pub fn is_at_end(&self) -> Result<bool, Failure> {
        let metadata = self.file.metadata();
        let length = metadata.map_err(|error| unread(&self.path, &error))?.len();
        Ok(self.broken.is_some() || length == self.done)
    }

    /// It goes no further: holds it against the keys of which one must have signed it.
    #[must_use]
    pub fn finish(self, verifiers: &[Verifier]) -> Checked {
        match self.broken.map_or_else(|| self.reader.finish(), Err) {
            Err(error) => Checked::Broken(error),
            Ok(end) => match signed_by(&end, verifiers) {
                Ok((sealed, by)) => Checked::Whole(sealed, by),
                Err(error) => Checked::Unsigned(error),
            },
        }
    }
}

/// Reads a file to its end and holds it against the keys of which one must have signed it; `read` is told how far it is.
///
/// # Errors
/// [`Exit::Failed`] when it cannot be read, which is no finding.
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn check(
    path: &Path,
    verifiers: &[Verifier],
    mut read: impl FnMut(u64),
) -> Result<Checked, Failure> {
    let mut checking = Checking::open(path)?;
    while let Some(done) = checking.read_on()? {
        read(done);
        // Ctrl-C is looked at here.
        tokio::task::yield_now().await;
    }
    Ok(checking.finish(verifiers))
}

fn unread(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{} was not read", path.display())).caused_by(error)
}

fn signed_by(end: &End, verifiers: &[Verifier]) -> Result<(Sealed, usize), EndError> {
    let unsigned = Err(EndError::Note(NoteError::Unsigned));
    let tried = verifiers.iter().map(|verifier| end.verify(verifier));
    let (by, found) = tried
        .enumerate()
        .find(|(_, found)| *found != unsigned)
        .unwrap_or((0, unsigned));
    found.map(|sealed| (sealed, by))
}

impl Checked {
    /// What was found, with the byte where it begins; none for a whole backup.
    #[must_use]
    pub fn finding(&self) -> Option<(Option<u64>, String)> {
        match self {
            Self::Whole(..) => None,
            Self::Broken(error) => Some((Some(error.offset), error.found.to_string())),
            Self::Unsigned(error) => Some((None, error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
