//! The next segment, prepared by a thread of its own while the log goes on in the one before.
//!
//! The writer asks once a segment and takes what is ready when it rolls. A spare that could not be made when it was
//! asked for (a full disk) is tried once more when it is needed: an old error says nothing of the disk as it is now.
//!
//! One may be held for the segment that another key begins, beside the spare: the roll of a segment that is full takes it
//! only where it gets no other.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::segment_file::{SegmentFile, held_path, spare_path};

/// The writer's end: at most one spare is being made or waiting.
pub(super) struct Spares {
    held_path: PathBuf,
    requests: SyncSender<()>,
    made: Receiver<io::Result<SegmentFile>>,
    asked: bool,
    /// One that is whole and kept for another key.
    held: Option<SegmentFile>,
}

impl Spares {
    /// Starts the thread. It ends when this end is dropped.
    ///
    /// # Errors
    /// What the system says about a new thread.
    pub(super) fn start(dir: PathBuf, segment_bytes: u64) -> io::Result<Self> {
        let (requests, asked) = sync_channel(1);
        let (answers, made) = sync_channel(1);
        let held_path = held_path(&dir);
        thread::Builder::new()
            .name("audit-spare".into())
            .spawn(move || {
                let path = spare_path(&dir);
                while let Ok(()) = asked.recv() {
                    if answers
                        .send(SegmentFile::create_zeroed(&path, segment_bytes))
                        .is_err()
                    {
                        break;
                    }
                }
            })?;
        Ok(Self {
            held_path,
            requests,
            made,
            asked: false,
            held: None,
        })
    }

    /// Has the next segment prepared, unless that is under way.
    pub(super) fn ask(&mut self) {
        if !self.asked {
            self.asked = self.requests.send(()).is_ok();
        }
    }

    /// Waits until one is whole, and keeps it for another key: the next [`Spares::take_held`] has it, unless a
    /// [`Spares::take`] before it could get no other.
    ///
    /// # Errors
    /// What the system says now; the next call tries again.
    pub(super) fn hold(&mut self) -> io::Result<()> {
        if self.held.is_none() {
            let mut file = self.whole()?;
            file.move_to(&self.held_path)?;
            self.held = Some(file);
        }
        Ok(())
    }

    /// The prepared segment; waits for it when it is not whole yet. The one that is held where there is no other.
    ///
    /// # Errors
    /// What the system says now; the next call tries again.
    pub(super) fn take(&mut self) -> io::Result<SegmentFile> {
        let whole = self.whole();
        whole.or_else(|error| self.held.take().ok_or(error))
    }

    /// The one that is held; as [`Spares::take`] where none is.
    ///
    /// # Errors
    /// As [`Spares::take`].
    pub(super) fn take_held(&mut self) -> io::Result<SegmentFile> {
        match self.held.take() {
            Some(held) => Ok(held),
            None => self.take(),
        }
    }

    /// Takes back one that had no room for what was written at its beginning, and holds it once it is zero again.
    pub(super) fn take_back(&mut self, mut file: SegmentFile, written: &[u8]) {
        let mut zeroed = || {
            file.zero(0, written)?;
            file.move_to(&self.held_path)
        };
        if self.held.is_none() && zeroed().is_ok() {
            self.held = Some(file);
        } else {
            file.remove();
        }
    }

    fn whole(&mut self) -> io::Result<SegmentFile> {
        let asked_before = self.asked;
        match self.made() {
            Err(_) if asked_before => self.made(),
            made => made,
        }
    }

    fn made(&mut self) -> io::Result<SegmentFile> {
        self.ask();
        self.asked = false;
        self.made.recv().unwrap_or_else(|_| {
            Err(io::Error::other(
                "the thread that prepares segments is gone",
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 8192;

    #[test]
    fn one_that_is_taken_back_is_zero_and_is_there_for_another_key() {
        let dir = tempfile::tempdir().unwrap();
        let mut spares = Spares::start(dir.path().to_owned(), BYTES).unwrap();
        let file = spares.take().unwrap();
        file.write_durable(0, b"what found no room").unwrap();
        spares.take_back(file, b"what found no room");
        // The next one is made beside it.
        let other = spares.take().unwrap();
        spares.take_back(other, b"");
        let held = std::fs::read(held_path(dir.path())).unwrap();
        assert_eq!(held, vec![0; usize::try_from(BYTES).unwrap()]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        spares.take_held().unwrap().remove();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
