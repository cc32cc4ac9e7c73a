//! The next segment, prepared by a thread of its own while the log goes on in the one before.
//!
//! The writer asks once a segment and takes what is ready when it rolls. A spare that could not be made when it was
//! asked for (a full disk) is tried once more when it is needed: an old error says nothing of the disk as it is now.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::segment_file::{SegmentFile, spare_path};

/// The writer's end: at most one spare is being made or waiting.
pub(super) struct Spares {
    requests: SyncSender<()>,
    made: Receiver<io::Result<SegmentFile>>,
    asked: bool,
    /// One that is whole and was asked to be.
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
            requests,
            made,
            asked: false,
            held: None,
        })
    }

    /// Has the next segment prepared, unless that is under way.
    pub(super) fn ask(&mut self) {
        if !self.asked && self.held.is_none() {
            self.asked = self.requests.send(()).is_ok();
        }
    }

    /// Waits until the next segment is whole, and keeps it: the next [`Spares::take`] cannot fail.
    ///
    /// # Errors
    /// What the system says now; the next call tries again.
    pub(super) fn hold(&mut self) -> io::Result<()> {
        self.held = Some(self.take()?);
        Ok(())
    }

    /// The prepared segment; waits for it when it is not whole yet.
    ///
    /// # Errors
    /// What the system says now; the next call tries again.
    pub(super) fn take(&mut self) -> io::Result<SegmentFile> {
        if let Some(held) = self.held.take() {
            return Ok(held);
        }
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
