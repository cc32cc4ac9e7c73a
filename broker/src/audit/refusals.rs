//! Refusals on record: the first of its kind durable before the answer, its repeats counted.
//!
//! Kubelet asks again for ever. So the first refusal of a key is a denial leaf; what follows within five minutes is
//! counted in memory and answered at once; then one `refusals` leaf says how many there were. A crash loses the counts
//! of one window at most, and never the first. A node whose refusals are of ever new kinds gets to its bound and is
//! answered that, so that it cannot fill the disk; the bound is its own and leaves the others theirs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use attache_translog::{Alarm, Denial, Refusals as RefusalsLeaf};
use thiserror::Error;
use tokio::sync::OnceCell;

use super::error::AuditError;
use super::explain::{DecisionId, Evaluation, Index};
use super::receipt::AuditReceipt;
use super::recover::Recovered;
use super::{AuditLog, Clock};

/// For how long repeats are counted before the count goes on record.
pub const WINDOW: Duration = Duration::from_secs(5 * 60);

/// How many keys are folded at once, of all actors together.
const MAX_KEYS: usize = 10_000;

/// How many of them may be of one actor, and of one pod: neither keeps others from being refused.
const MAX_KEYS_OF_ACTOR: usize = 1_000;
const MAX_KEYS_OF_POD: usize = 100;

/// Of an actor that has no more than these a new one is folded also when there are [`MAX_KEYS`], so that a few noisy
/// nodes do not use up the room of all.
const KEYS_OF_ANY_ACTOR: usize = 16;

/// Why a refusal could not be recorded; the caller is then told this and not the refusal.
#[derive(Debug, Error)]
pub enum RefuseError {
    /// The actor's refusals are of too many kinds within one window.
    #[error("too many different requests of this caller are being refused; try again in {} minutes", WINDOW.as_secs() / 60)]
    TooMany,
    /// The refusal is not on record, so it may not be told.
    #[error("the refusal could not be recorded")]
    Audit(#[from] AuditError),
}

/// Folds refusals and explains them. A clone folds into the same counts.
#[derive(Clone)]
pub struct Refusals {
    log: AuditLog,
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    windows: HashMap<Key, Window>,
    of_share: HashMap<Share, usize>,
    index: Index,
}

/// What makes two refusals one: after attestation the decision id and its words, before it the peer and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    actor: String,
    pod: Option<String>,
    denial: Option<DecisionId>,
    public_reason: String,
}

/// What keys are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Share {
    Actor(String),
    Pod(String),
}

/// One key's five minutes.
struct Window {
    began_ms: u64,
    /// Set once the denial leaf is durable. Repeats that come before wait for it.
    durable: Arc<OnceCell<AuditReceipt>>,
    repeats: Option<Repeats>,
}

/// The repeats of one window.
#[derive(Debug, Clone, Copy)]
struct Repeats {
    count: u64,
    first_ms: u64,
    last_ms: u64,
}

impl Refusals {
    /// Folds into `log`, and explains what `recovered` found at its end.
    #[must_use]
    pub fn new(log: AuditLog, recovered: &mut Recovered) -> Self {
        let state = State {
            index: std::mem::take(&mut recovered.decisions),
            ..State::default()
        };
        Self {
            clock: log.clock().clone(),
            log,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Records a refusal; when this answers, the caller may be told.
    ///
    /// # Errors
    /// [`RefuseError::TooMany`]; [`RefuseError::Audit`] when the first of its kind did not become durable.
    ///
    /// # Cancel safety
    /// Dropped before it answers, the refusal may or may not be on record, and the next of its kind goes on from
    /// there.
    pub async fn record(&self, denial: Denial) -> Result<(), RefuseError> {
        self.record_after(None, denial).await
    }

    /// As [`Refusals::record`]; before the first of its kind, `alarm` goes on record.
    ///
    /// # Errors
    /// As [`Refusals::record`].
    ///
    /// # Cancel safety
    /// As [`Refusals::record`].
    pub async fn record_after(
        &self,
        alarm: Option<Alarm>,
        denial: Denial,
    ) -> Result<(), RefuseError> {
        let key = Key::of(&denial);
        let now_ms = self.clock.now_ms();
        let durable = self.lock().count(&key, now_ms)?;
        let first = durable
            .get_or_try_init(async || {
                if let Some(alarm) = alarm {
                    let _receipt = self.log.append(alarm).await?;
                }
                self.log.append(denial.clone()).await
            })
            .await
            .map(drop);
        match &first {
            Ok(()) => self.lock().index.evaluated(denial, now_ms),
            Err(_) => self.lock().forget(&key, &durable),
        }
        Ok(first?)
    }

    /// The latest evaluation of a decision, if it is among those kept.
    #[must_use]
    pub fn explain(&self, id: DecisionId) -> Option<Evaluation> {
        self.lock().index.find(id).cloned()
    }

    /// Puts the counts of the windows that have ended on record. Call it every few seconds.
    ///
    /// # Errors
    /// [`AuditError`]: the counts are kept and go with the next.
    pub async fn sweep(&self) -> Result<(), AuditError> {
        let now_ms = self.clock.now_ms();
        self.put_on_record(|window| window.has_ended(now_ms)).await
    }

    /// Puts all counts on record, for the shutdown.
    ///
    /// # Errors
    /// [`AuditError`]: the counts are lost.
    pub async fn flush(&self) -> Result<(), AuditError> {
        self.put_on_record(|_| true).await
    }

    async fn put_on_record(&self, ended: impl Fn(&Window) -> bool) -> Result<(), AuditError> {
        let counts = self.lock().close(&ended, self.clock.now_ms());
        let mut queued = Vec::with_capacity(counts.len());
        let mut failed = None;
        for (key, repeats) in counts {
            match self.log.queue(&self.log.leaf(key.leaf(repeats))).await {
                Ok(leaf) => queued.push((key, repeats, leaf)),
                Err(error) => failed = self.keep(key, repeats, error),
            }
        }
        for (key, repeats, leaf) in queued {
            if let Err(error) = leaf.durable().await {
                failed = self.keep(key, repeats, error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Counts go back when their leaf did not become durable.
    fn keep(&self, key: Key, repeats: Repeats, error: AuditError) -> Option<AuditError> {
        if let Some(window) = self.lock().windows.get_mut(&key) {
            window.repeats = Some(window.repeats.map_or(repeats, |later| repeats.and(later)));
        }
        Some(error)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts one refusal and answers the cell of its first leaf.
    fn count(
        &mut self,
        key: &Key,
        now_ms: u64,
    ) -> Result<Arc<OnceCell<AuditReceipt>>, RefuseError> {
        if let Some(window) = self.windows.get_mut(key) {
            let repeat = Repeats {
                count: 1,
                first_ms: now_ms,
                last_ms: now_ms,
            };
            window.repeats = Some(window.repeats.map_or(repeat, |before| before.and(repeat)));
            return Ok(Arc::clone(&window.durable));
        }
        let full = self.windows.len() >= MAX_KEYS;
        for share in key.shares() {
            let limit = match share {
                Share::Actor(_) if full => KEYS_OF_ANY_ACTOR,
                Share::Actor(_) => MAX_KEYS_OF_ACTOR,
                Share::Pod(_) => MAX_KEYS_OF_POD,
            };
            if self.of_share.get(&share).copied().unwrap_or(0) >= limit {
                return Err(RefuseError::TooMany);
            }
        }
        for share in key.shares() {
            *self.of_share.entry(share).or_default() += 1;
        }
        let durable = Arc::new(OnceCell::new());
        let window = Window {
            began_ms: now_ms,
            durable: Arc::clone(&durable),
            repeats: None,
        };
        self.windows.insert(key.clone(), window);
        Ok(durable)
    }

    /// Takes a key out again whose first leaf did not become durable, unless another caller made it so meanwhile.
    fn forget(&mut self, key: &Key, durable: &Arc<OnceCell<AuditReceipt>>) {
        let same = self
            .windows
            .get(key)
            .is_some_and(|window| Arc::ptr_eq(&window.durable, durable));
        if same && !durable.initialized() {
            self.remove(key);
        }
    }

    /// Takes the counts of the windows that are to be closed. One with repeats begins anew; one without is over.
    fn close(&mut self, ended: impl Fn(&Window) -> bool, now_ms: u64) -> Vec<(Key, Repeats)> {
        let mut counts = Vec::new();
        let mut over = Vec::new();
        for (key, window) in &mut self.windows {
            if !ended(window) || !window.durable.initialized() {
                continue;
            }
            match window.repeats.take() {
                Some(repeats) => {
                    window.began_ms = now_ms;
                    counts.push((key.clone(), repeats));
                }
                None => over.push(key.clone()),
            }
        }
        for key in over {
            self.remove(&key);
        }
        counts
    }

    fn remove(&mut self, key: &Key) {
        self.windows.remove(key);
        for share in key.shares() {
            if let Some(count) = self.of_share.get_mut(&share) {
                *count -= 1;
                if *count == 0 {
                    self.of_share.remove(&share);
                }
            }
        }
    }
}

impl Key {
    fn of(denial: &Denial) -> Self {
        Self {
            actor: denial.actor.clone(),
            pod: denial.pod_uid.clone(),
            denial: denial.denial,
            public_reason: denial.public_reason.clone(),
        }
    }

    fn shares(&self) -> impl Iterator<Item = Share> {
        let pod = self.pod.clone().map(Share::Pod);
        std::iter::once(Share::Actor(self.actor.clone())).chain(pod)
    }

    fn leaf(&self, repeats: Repeats) -> RefusalsLeaf {
        RefusalsLeaf {
            actor: self.actor.clone(),
            denial: self.denial,
            public_reason: self.public_reason.clone(),
            count: repeats.count,
            first_ms: repeats.first_ms,
            last_ms: repeats.last_ms,
        }
    }
}

impl Window {
    fn has_ended(&self, now_ms: u64) -> bool {
        u128::from(now_ms.saturating_sub(self.began_ms)) >= WINDOW.as_millis()
    }
}

impl Repeats {
    /// Both together; `self` came before.
    fn and(self, later: Self) -> Self {
        Self {
            count: self.count.saturating_add(later.count),
            first_ms: self.first_ms,
            last_ms: later.last_ms,
        }
    }
}
