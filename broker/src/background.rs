//! One room for work that goes on in the background: which things are in it, whose turn it is, how far each is.
//!
//! ```text
//! start, or a verb: begin(key) -> taken up -> a step, then the next one's turn ... -> over -> out of the room
//! ```
//! All that counts is in the store, so that a kill at any instant loses the step that was not committed and nothing more:
//! the next start finds what is left. What is kept in memory is for people. Steps of one room are never done at the same
//! time, and what takes CPU in them is done apart from the runtime's threads: releases and puts go first there.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use attache_translog::{Anchor, Event};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::{AuditError, AuditLog};
use crate::store::{ApplyError, Change, Ledger, Store};
use crate::vault::VaultError;

/// After something failed, or when what is left cannot be read, it is tried again after this long.
pub(crate) const RETRY: Duration = Duration::from_secs(30);
/// After the store's queue was full.
pub(crate) const BUSY: Duration = Duration::from_millis(100);

/// How far the threads apart stand back (nice(2)).
const NICE: i32 = 10;

/// What is under way, by its name, and how far each is. A clone is the same room.
#[derive(Debug)]
pub(crate) struct UnderWay<K, P> {
    shared: Arc<Shared<K, P>>,
}

#[derive(Debug)]
struct Shared<K, P> {
    all: Mutex<BTreeMap<K, One<P>>>,
    /// Another one has come.
    come: Notify,
}

#[derive(Debug)]
struct One<P> {
    progress: P,
    /// It came once more while it was under way: what was gone through already may have something to do again.
    again: bool,
}

impl<K, P> Clone for UnderWay<K, P> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K: Ord, P> Default for UnderWay<K, P> {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                all: Mutex::new(BTreeMap::new()),
                come: Notify::new(),
            }),
        }
    }
}

impl<K: Ord + Clone, P: Clone> UnderWay<K, P> {
    /// Lets one in; one that is in stays as it is, and is taken up again when it is over.
    pub(crate) fn begin(&self, key: K, progress: P) {
        let new = One {
            progress,
            again: false,
        };
        self.lock()
            .entry(key)
            .and_modify(|one| one.again = true)
            .or_insert(new);
        self.shared.come.notify_one();
    }

    /// How far one is; none when it is not under way.
    pub(crate) fn of(&self, key: &K) -> Option<P> {
        self.lock().get(key).map(|one| one.progress.clone())
    }

    /// The first `limit` after `after` that `wanted` takes.
    pub(crate) fn page(
        &self,
        after: Option<&K>,
        limit: usize,
        wanted: impl Fn(&K) -> bool,
    ) -> Vec<(K, P)> {
        self.lock()
            .iter()
            .filter(|(key, _)| after.is_none_or(|after| *key > after) && wanted(key))
            .take(limit)
            .map(|(key, one)| (key.clone(), one.progress.clone()))
            .collect()
    }

    fn keys(&self) -> Vec<K> {
        self.lock().keys().cloned().collect()
    }

    fn show(&self, key: &K, progress: P) {
        if let Some(one) = self.lock().get_mut(key) {
            one.progress = progress;
        }
    }

    /// Takes one out, unless it has come again.
    fn end(&self, key: &K) {
        let mut all = self.lock();
        match all.get_mut(key) {
            Some(one) if one.again => one.again = false,
            Some(_) | None => drop(all.remove(key)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, One<P>>> {
        self.shared
            .all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one kind of work is made of.
pub(crate) trait Task: Send + Sync {
    /// What one of it is known by.
    type Key: Ord + Clone + Send + Sync;
    /// How far one of it is, for people.
    type Progress: Clone + Send;
    /// What belongs to one that is under way.
    type Work: Send;

    /// Takes up one that has come; none when there is nothing to do for it, or its row cannot be read, which is tried
    /// again then.
    fn take_up(&self, key: &Self::Key) -> impl Future<Output = TakenUp<Self::Work>> + Send;

    /// Does one step.
    fn advance(&self, work: &mut Self::Work) -> impl Future<Output = ()> + Send;

    /// When its next step may be done.
    fn due(work: &Self::Work) -> Instant;

    /// How far it is; none when it is over.
    fn progress(work: &Self::Work) -> Option<Self::Progress>;
}

/// What became of one that has come.
pub(crate) enum TakenUp<W> {
    /// It is begun.
    Begun(W),
    /// Nothing is left to be done for it.
    Over,
    /// It cannot be read; it is tried again.
    Later,
}

/// Does the steps of all that is under way until `stop`. A step that was begun is ended first.
pub(crate) async fn run<T: Task>(
    task: T,
    under_way: UnderWay<T::Key, T::Progress>,
    stop: CancellationToken,
) {
    let mut works: BTreeMap<T::Key, T::Work> = BTreeMap::new();
    while !stop.is_cancelled() {
        for key in under_way.keys() {
            if works.contains_key(&key) {
                continue;
            }
            match task.take_up(&key).await {
                TakenUp::Begun(work) => drop(works.insert(key, work)),
                TakenUp::Over => under_way.end(&key),
                TakenUp::Later => {}
            }
        }
        let next = works.iter_mut().min_by_key(|(_, work)| T::due(work));
        let Some((key, work)) = next else {
            tokio::select! {
                () = stop.cancelled() => return,
                () = under_way.shared.come.notified() => continue,
                // One whose row could not be read.
                () = tokio::time::sleep(RETRY), if !under_way.keys().is_empty() => continue,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = under_way.shared.come.notified() => continue,
            () = tokio::time::sleep_until(T::due(work)) => {}
        }
        task.advance(work).await;
        let key = key.clone();
        match T::progress(work) {
            Some(progress) => under_way.show(&key, progress),
            None => {
                works.remove(&key);
                under_way.end(&key);
            }
        }
    }
}

/// Why a step failed. The store has all or nothing of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("the {what} could not be put on record")]
    Audit {
        what: &'static str,
        source: AuditError,
    },
    #[error("no thread can be had")]
    Thread(#[from] io::Error),
}

/// Makes a change of the broker's own: what it is goes on record, then the change is committed, then the store's new anchor
/// goes on record. One that the store refuses is done, and recorded, once more.
///
/// # Errors
/// [`StepError::Audit`]: then nothing is changed; [`StepError::Apply`].
pub(crate) async fn apply_on_record<S: Store>(
    ledger: &Ledger<S>,
    log: &AuditLog,
    (what, records): (&'static str, impl IntoIterator<Item = Event>),
    change: Change,
) -> Result<(), StepError> {
    for record in records {
        let recorded = log.append(record).await;
        let _receipt = recorded.map_err(|source| StepError::Audit { what, source })?;
    }
    let applied = ledger.apply(change).await?;
    let anchor = Anchor {
        incarnation: ledger.incarnation(),
        seq: applied.seq,
        t: applied.anchor_t,
    };
    // It is done, whether or not the log has room for the copy of the anchor: the next one says the same.
    if let Err(error) = log.append(anchor).await {
        tracing::warn!(%error, "the anchor of a change of the broker's own is not on record");
    }
    Ok(())
}

/// Does work where it holds up nobody's IO: on a thread of its own, to which the system prefers every other of ours.
///
/// # Errors
/// When no thread can be started; [`io::ErrorKind::Interrupted`] when it ended without an answer.
pub(crate) async fn apart<T: Send + 'static>(
    name: &str,
    work: impl Future<Output = T> + Send + 'static,
) -> io::Result<T> {
    let runtime = Handle::current();
    let (answer, made) = oneshot::channel();
    let thread = thread::Builder::new().name(name.into()).spawn(move || {
        // Of this thread alone. Where it is refused, the work is done all the same.
        let _nice = rustix::process::nice(NICE);
        // Whoever asked may be gone, and it is then for nobody.
        drop(answer.send(runtime.block_on(work)));
    });
    drop(thread?);
    made.await
        .map_err(|_| io::Error::from(io::ErrorKind::Interrupted))
}
