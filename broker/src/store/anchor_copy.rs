//! The anchor's copy beside the store: a signed note that a replaced store file does not match.
//!
//! A thread of its own writes the newest anchor, tmp + fsync + rename, at most every [`GAP`] and once more when the
//! ledger closes. So the copy may lag behind the store by that much, and a store that was rolled back by no more
//! than that is found through the audit log only. It must never lead: the commit is durable before the copy hears
//! of it, and a crash therefore never looks like a rollback.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use attache_mtls::public_file::{read_public, write_public};
use attache_translog::{AnchorNote, CheckpointError, NoteError, Signer, Verifier};

use crate::keys::Keys;

/// The least time between two copies.
pub(crate) const GAP: Duration = Duration::from_millis(100);

/// Longer than any note of ours.
const MAX_NOTE_BYTES: u64 = 4096;

/// Makes a signer for one note.
pub(crate) type MakeSigner = Box<dyn Fn() -> Result<Signer, CheckpointError> + Send + Sync>;

/// The thread that keeps the copy.
pub(crate) struct AnchorCopy {
    newest: Arc<Mutex<Option<AnchorNote>>>,
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AnchorCopy {
    /// Starts the thread.
    pub(crate) fn start(path: PathBuf, signer: MakeSigner) -> io::Result<Self> {
        let newest = Arc::new(Mutex::new(None));
        let (wake, woken) = sync_channel(1);
        let writer = Writer {
            path,
            signer,
            newest: Arc::clone(&newest),
        };
        let thread = thread::Builder::new()
            .name("anchor-copy".into())
            .spawn(move || writer.run(&woken))?;
        Ok(Self {
            newest,
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    /// Hands over the anchor of a durable commit; it will be written soon, unless a newer one is.
    pub(crate) fn publish(&self, note: AnchorNote) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(note);
        match self.wake.as_ref().map(|wake| wake.try_send(())) {
            // A full channel: the thread is about to look.
            None | Some(Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(()))) => {}
        }
    }
}

impl Drop for AnchorCopy {
    /// Writes what is left and ends the thread.
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

struct Writer {
    path: PathBuf,
    signer: MakeSigner,
    newest: Arc<Mutex<Option<AnchorNote>>>,
}

impl Writer {
    fn run(&self, woken: &Receiver<()>) {
        loop {
            let open = if self.write_newest() {
                pause(woken)
            } else {
                woken.recv().is_ok()
            };
            if !open {
                break;
            }
        }
        self.write_newest();
    }

    /// Writes the newest anchor; false when the copy has it already.
    fn write_newest(&self) -> bool {
        let newest = self
            .newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(note) = newest else { return false };
        if let Err(error) = self.write(note) {
            tracing::error!(path = %self.path.display(), error = format!("{error:#}"),
                "the anchor's copy cannot be written; a rollback of the store would go unnoticed here");
        }
        true
    }

    fn write(&self, note: AnchorNote) -> anyhow::Result<()> {
        let signed = note.sign(&(self.signer)()?)?;
        Ok(write_public(&self.path, signed.as_bytes(), 0o644)?)
    }
}

/// Waits [`GAP`]; false when the ledger closes. What is published meanwhile waits in `newest`.
fn pause(woken: &Receiver<()>) -> bool {
    let until = Instant::now() + GAP;
    loop {
        match woken.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// Reads the copy beside a store, if there is one, under the keys of that store.
///
/// # Errors
/// As [`read`].
pub(crate) fn beside(
    path: &Path,
    keys: &Keys,
) -> io::Result<Option<Result<AnchorNote, CheckpointError>>> {
    let verifiers = keys.anchor_verifiers().map_err(io::Error::other)?;
    read(path, &verifiers)
}

/// By whichever of the keys it is signed.
fn open(note: &str, verifiers: &[Verifier]) -> Result<AnchorNote, CheckpointError> {
    let unsigned = CheckpointError::Note(NoteError::Unsigned);
    let opened = verifiers.iter().map(|it| AnchorNote::open(note, it));
    opened
        .rev()
        .find(|it| *it != Err(unsigned))
        .unwrap_or(Err(unsigned))
}

/// Reads the copy, if there is one.
///
/// # Errors
/// `Ok(Err(..))` for a file that is no copy of this store's anchor; `Err` for a file that cannot be read.
pub(crate) fn read(
    path: &Path,
    verifiers: &[Verifier],
) -> io::Result<Option<Result<AnchorNote, CheckpointError>>> {
    let bytes = match read_public(path, MAX_NOTE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Ok(Some(Err(CheckpointError::Malformed)));
        }
        Err(error) => return Err(error),
    };
    let note = std::str::from_utf8(&bytes).map_err(|_| CheckpointError::Malformed);
    Ok(Some(note.and_then(|note| open(note, verifiers))))
}
