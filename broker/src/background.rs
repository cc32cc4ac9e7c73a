//! One room for work that goes on in the background: which things are in it, whose turn it is, how far each is.
//!
//! ```text
//! start, or a verb: begin(key) -> taken up -> a step, then the next one's turn ... -> over -> out of the room
//! ```
//! All that counts is in the store, so that a kill at any instant loses the step that was not committed and nothing more:
//! the next start finds what is left. What is kept in memory is for people. Steps of one room are never done at the same
//! time, and what takes CPU in them is done apart from the runtime's threads: releases and puts go first there. Of those
//! that may do their step at the same instant, it is the turn of the one whose last turn is longest ago.

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
/// After the store's queue was full, or where something is left that no page took.
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

    /// Until when its next step rests for a reason of the whole room; none: it does not.
    fn rest(&self, _work: &Self::Work) -> Option<Instant> {
        None
    }

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

/// One that is under way, and when it had its turn.
pub(crate) struct Turn<W> {
    pub(crate) work: W,
    /// The number of its last step, of those of the whole room; 0 before the first.
    pub(crate) last: u64,
}

impl<W> Turn<W> {
    pub(crate) const fn new(work: W) -> Self {
        Self { work, last: 0 }
    }
}

/// Whose turn is next of those whose next step may be done at these times, and when.
pub(crate) fn next<K: Ord, W>(
    turns: &mut BTreeMap<K, Turn<W>>,
    at: impl Fn(&W) -> Instant,
) -> Option<(Instant, &K, &mut Turn<W>)> {
    let now = Instant::now();
    let turns = turns
        .iter_mut()
        .map(|(key, turn)| (at(&turn.work).max(now), key, turn));
    turns.min_by_key(|(at, _, turn)| (*at, turn.last))
}

/// When a next step may be done, for all reasons.
pub(crate) fn at<T: Task>(task: &T, work: &T::Work) -> Instant {
    let due = T::due(work);
    task.rest(work).map_or(due, |rest| due.max(rest))
}

/// Does the steps of all that is under way until `stop`. A step that was begun is ended first.
pub(crate) async fn run<T: Task>(
    task: T,
    under_way: UnderWay<T::Key, T::Progress>,
    stop: CancellationToken,
) {
    let mut turns: BTreeMap<T::Key, Turn<T::Work>> = BTreeMap::new();
    let mut steps = 0;
    while !stop.is_cancelled() {
        for key in under_way.keys() {
            if turns.contains_key(&key) {
                continue;
            }
            match task.take_up(&key).await {
                TakenUp::Begun(work) => drop(turns.insert(key, Turn::new(work))),
                TakenUp::Over => under_way.end(&key),
                TakenUp::Later => {}
            }
        }
        let Some((at, key, turn)) = next(&mut turns, |work| at(&task, work)) else {
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
            () = tokio::time::sleep_until(at) => {}
        }
        task.advance(&mut turn.work).await;
        steps += 1;
        turn.last = steps;
        let key = key.clone();
        match T::progress(&turn.work) {
            Some(progress) => under_way.show(&key, progress),
            None => {
                turns.remove(&key);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a step takes, and how long all rest after it.
    const STEP: Duration = Duration::from_millis(10);

    /// Whose every step has the whole room rest.
    struct Resting {
        rest: Mutex<Instant>,
        turns: Arc<Mutex<Vec<u8>>>,
        stop: CancellationToken,
    }

    impl Task for Resting {
        type Key = u8;
        type Progress = ();
        type Work = (u8, Instant);

        async fn take_up(&self, key: &u8) -> TakenUp<(u8, Instant)> {
            TakenUp::Begun((*key, Instant::now()))
        }

        async fn advance(&self, (key, due): &mut (u8, Instant)) {
            tokio::time::sleep(STEP).await;
            *due = Instant::now() + STEP;
            *self.rest.lock().unwrap() = *due;
            let mut turns = self.turns.lock().unwrap();
            turns.push(*key);
            if turns.len() == 9 {
                self.stop.cancel();
            }
        }

        fn due((_, due): &(u8, Instant)) -> Instant {
            *due
        }

        fn rest(&self, _work: &(u8, Instant)) -> Option<Instant> {
            Some(*self.rest.lock().unwrap())
        }

        fn progress(_work: &(u8, Instant)) -> Option<()> {
            Some(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_rest_for_others_take_turns() {
        let (turns, stop) = (Arc::default(), CancellationToken::new());
        let (task, under_way) = (
            Resting {
                rest: Mutex::new(Instant::now()),
                turns: Arc::clone(&turns),
                stop: stop.clone(),
            },
            UnderWay::default(),
        );
        for key in 1..=3 {
            under_way.begin(key, ());
        }
        let began = Instant::now();
        run(task, under_way, stop).await;
        assert_eq!(*turns.lock().unwrap(), [1, 2, 3, 1, 2, 3, 1, 2, 3]);
        assert_eq!(began.elapsed(), STEP * (9 + 8), "each rests after each");
    }
}
