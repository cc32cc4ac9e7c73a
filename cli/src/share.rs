//! The shares of a slot as files: made, read back, held against their set, put together.
//!
//! ```text
//! slot add shares   secret -> split -> a file each, durably -> read back, every share in a group that gives the secret
//! slot verify       files -> held against the slot's set -> put together when there are enough
//! broker unseal     one file -> held against the slot's set -> sealed to the boot key
//! ```
//! A share is in memory that is wiped, and goes nowhere but to its file and, sealed, to a broker of its own store.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use attache_envelope::id::{SlotId, StoreId};
use attache_envelope::key::{KEY_BYTES, SlotSecret};
use attache_envelope::shares::{Share, ShareError, ShareSet, split};
use attache_envelope::slot::ShareFile;
use attache_envelope::{EnvelopeError, SystemRandom};
use attache_mtls::private_file::{create_private_once, read_private};
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure};
use crate::unseal::Secret;

/// The shares of a new slot, in no file yet.
pub struct NewShares {
    set: ShareSet,
    files: Vec<ShareFile>,
}

/// A slot that shares open.
#[derive(Debug, Clone, Copy)]
pub struct SharesOf<'a> {
    /// Its store.
    pub store: StoreId,
    /// Its uuid.
    pub slot: SlotId,
    /// What its shares are known by.
    pub set: &'a ShareSet,
}

impl NewShares {
    /// Splits a secret.
    ///
    /// # Errors
    /// [`EnvelopeError`] for numbers that no set has, or without randomness.
    pub fn split(
        (store, slot): (StoreId, SlotId),
        secret: SlotSecret<'_>,
        (threshold, count): (u8, u8),
    ) -> Result<Self, EnvelopeError> {
        let (set, shares) = split(&SystemRandom, secret, threshold, count)?;
        let file = |share: Share| ShareFile {
            store,
            slot,
            threshold,
            count,
            share,
        };
        let files = shares.into_iter().map(file).collect();
        Ok(Self { set, files })
    }

    /// What the shares are known by.
    #[must_use]
    pub fn set(&self) -> &ShareSet {
        &self.set
    }

    /// Writes a file each, 0400, durably, never over another one; of those that were made, none stays when one cannot be.
    ///
    /// # Errors
    /// [`Exit::Failed`].
    pub fn create(&self, folder: &Path, slot: &str, what: &str) -> Result<Vec<PathBuf>, Failure> {
        make_folder(folder).map_err(|error| {
            let folder = folder.display();
            Failure::new(Exit::Failed, what).because(format!("cannot make {folder}: {error}"))
        })?;
        let mut made: Vec<PathBuf> = Vec::new();
        for file in &self.files {
            let (number, count) = (file.share.index(), file.count);
            let path = folder.join(format!("{slot}-{number}-of-{count}.share"));
            if let Err(error) = create_private_once(&path, &file.text()) {
                let failure = Failure::new(Exit::Failed, what).caused_by(&error);
                return Err(match remove(&made) {
                    Ok(()) => failure,
                    Err(left) => failure.mend(format!("remove {left}: they open nothing")),
                });
            }
            made.push(path);
        }
        Ok(made)
    }
}

/// Closed to others, in a folder that there is.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {
            let parent = folder.parent().filter(|it| !it.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes files away whose slot is not there; else names those that are left.
///
/// # Errors
/// The names.
pub fn remove(files: &[PathBuf]) -> Result<(), String> {
    let is_left = |file: &&PathBuf| fs::remove_file(file).is_err();
    let left: Vec<_> = files.iter().filter(is_left).collect();
    if left.is_empty() {
        return Ok(());
    }
    let names = left.iter().map(|file| file.display().to_string());
    Err(names.collect::<Vec<_>>().join(", "))
}

/// Reads a share, which nobody but its owner may read.
///
/// # Errors
/// [`Exit::Failed`].
pub fn read(path: &Path, what: &str) -> Result<ShareFile, Failure> {
    let text = read_private(path);
    let text = text.map_err(|error| Failure::new(Exit::Failed, what).caused_by(&error))?;
    ShareFile::parse(&text).map_err(|error| {
        let path = path.display();
        Failure::new(Exit::Failed, what).because(format!("{path}: {error}"))
    })
}

impl SharesOf<'_> {
    /// Whether a share is one of this slot.
    ///
    /// # Errors
    /// [`Exit::Precondition`], and what it is instead.
    pub fn check(&self, file: &ShareFile, what: &str) -> Result<(), Failure> {
        let refused = |why: String| Failure::new(Exit::Precondition, what).because(why);
        let number = file.share.index();
        if file.store != self.store {
            let (of, store) = (file.store, self.store);
            return Err(refused(format!(
                "share {number} is of another store: {of}, and this one is {store}"
            )));
        }
        if file.slot != self.slot {
            let (of, slot) = (file.slot, self.slot);
            return Err(refused(format!(
                "share {number} is of another slot: {of}, and this one is {slot}"
            )));
        }
        let said = (file.threshold, file.count);
        if said != (self.set.threshold(), self.set.count()) {
            return Err(refused(format!(
                "share {number} says that it is one of {}, and the slot has {}: its file was edited",
                file.count,
                self.set.count()
            )));
        }
        self.set
            .check(&file.share)
            .map_err(|error| refused(error.to_string()))
    }

    /// Reads shares of this slot, each once.
    ///
    /// # Errors
    /// As [`read`] and [`SharesOf::check`].
    pub fn read(&self, files: &[PathBuf], what: &str) -> Result<Vec<Share>, Failure> {
        let mut shares: Vec<Share> = Vec::new();
        for path in files {
            let file = read(path, what)?;
            self.check(&file, what)?;
            let index = file.share.index();
            if shares.iter().any(|known| known.index() == index) {
                let twice = ShareError::Twice { index };
                return Err(Failure::new(Exit::Precondition, what).caused_by(&twice));
            }
            shares.push(file.share);
        }
        Ok(shares)
    }

    /// The secret, once there are enough shares. Every share has a part in it: they are taken in groups of as many as are
    /// needed, and each group has to give the same.
    ///
    /// # Errors
    /// [`Exit::Failed`] when two groups differ, which the set excludes for shares that [`split`] made.
    pub fn secret(&self, shares: &[Share], what: &str) -> Result<Option<Secret>, Failure> {
        let needed = usize::from(self.set.threshold());
        if shares.len() < needed {
            return Ok(None);
        }
        let mut first: Option<Secret> = None;
        for from in 0..=shares.len() - needed {
            let group: Vec<_> = shares.iter().skip(from).take(needed).collect();
            let group: Vec<_> = group.iter().map(|it| (it.index(), it.value())).collect();
            let mut secret = Box::new(Zeroizing::new([0; KEY_BYTES]));
            let combined = self.set.combine(&group, &mut secret);
            combined.map_err(|error| Failure::new(Exit::Failed, what).caused_by(&error))?;
            match &first {
                None => first = Some(secret),
                Some(first) if **first == *secret => {}
                Some(_) => {
                    return Err(Failure::new(Exit::Failed, what)
                        .because("the shares do not belong together, although the slot knows them")
                        .mend("remove the slot, and make another one"));
                }
            }
        }
        Ok(first)
    }
}

#[cfg(test)]
mod tests;
