//! Which requests of one operator are kept, and which are running.
//!
//! The rows are the truth, since each change requires that its own is absent; this is what spares every mutation a scan
//! of them. At most 4,096 are kept, for 24 hours: what is dropped goes in the commit that needs the place. A request
//! older than what is kept must never be run, because it may have been done.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use attache_envelope::body::request_prefix;
use attache_envelope::id::RequestId;
use attache_mtls::spiffe::OperatorId;
use tokio::sync::{OnceCell, watch};

use super::MutationError;
use crate::store::{Ledger, Store, Table};

/// For how long an answer is kept.
const KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// How far a caller's clock may be ahead.
const AHEAD_MS: u64 = 5 * 60 * 1000;

/// How many answers are kept for one operator.
const KEPT: usize = 4096;

/// How many rows are dropped by one change at most, so that an operator who was away for a day does not pay at once.
const PRUNED_AT_ONCE: usize = 64;

const PAGE: usize = 512;

/// One operator's requests, read when the first mutation comes.
#[derive(Default)]
pub(super) struct Operator(OnceCell<Requests>);

/// The ids, shared with the tickets of those that run.
#[derive(Clone)]
pub(super) struct Requests(Arc<Mutex<Ids>>);

struct Ids {
    /// With a row, oldest first.
    kept: BTreeSet<RequestId>,
    /// The newest that was dropped: this and older ones may have been done.
    dropped: Option<RequestId>,
    /// Without one yet; the sender goes when the request has ended.
    running: HashMap<RequestId, watch::Sender<()>>,
}

/// How a request stands when it comes.
pub(super) enum Admission {
    /// There is a row.
    Known,
    /// It is being done: wait for this to close, and ask again.
    Running(watch::Receiver<()>),
    /// It is the caller's to do.
    New(Ticket),
}

/// The right to run one request. Dropped, it gives back what it would have pruned.
pub(super) struct Ticket {
    requests: Requests,
    id: RequestId,
    pruned: Vec<RequestId>,
    done: bool,
}

/// Refuses what is too old to be known, or not of the present time.
pub(super) fn check_age(id: RequestId, now_ms: u64) -> Result<(), MutationError> {
    let made_ms = id.unix_ms().ok_or(MutationError::RequestId)?;
    if made_ms > now_ms.saturating_add(AHEAD_MS) {
        return Err(MutationError::RequestId);
    }
    if is_old(id, now_ms) {
        return Err(MutationError::TooOld);
    }
    Ok(())
}

fn is_old(id: RequestId, now_ms: u64) -> bool {
    let made_ms = id.unix_ms().unwrap_or(0);
    now_ms.saturating_sub(made_ms) > KEPT_MS
}

impl Operator {
    /// This operator's requests.
    ///
    /// # Errors
    /// [`MutationError::Ledger`].
    pub(super) async fn requests<S: Store>(
        &self,
        ledger: &Ledger<S>,
        operator: &OperatorId,
    ) -> Result<&Requests, MutationError> {
        self.0
            .get_or_try_init(|| Requests::load(ledger, operator))
            .await
    }
}

impl Requests {
    async fn load<S: Store>(
        ledger: &Ledger<S>,
        operator: &OperatorId,
    ) -> Result<Self, MutationError> {
        let prefix = request_prefix(&operator.to_string());
        let (mut kept, mut after) = (BTreeSet::new(), None::<Vec<u8>>);
        loop {
            let page = ledger
                .scan(Table::Request, &prefix, after.as_deref(), PAGE)
                .await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, _) in &page {
                let id = key.strip_prefix(prefix.as_slice());
                kept.extend(id.and_then(|id| RequestId::try_from(id).ok()));
            }
        }
        // A full table may have dropped whatever is older than its oldest.
        let dropped = kept.first().copied().filter(|_| kept.len() >= KEPT);
        Ok(Self(Arc::new(Mutex::new(Ids {
            kept,
            dropped,
            running: HashMap::new(),
        }))))
    }

    /// Tells a repeat from a new request, and takes the new one up.
    ///
    /// # Errors
    /// [`MutationError::TooOld`].
    pub(super) fn admit(&self, id: RequestId, now_ms: u64) -> Result<Admission, MutationError> {
        let mut ids = self.lock();
        if let Some(running) = ids.running.get(&id) {
            return Ok(Admission::Running(running.subscribe()));
        }
        if ids.kept.contains(&id) {
            return Ok(Admission::Known);
        }
        if ids.dropped.is_some_and(|dropped| id <= dropped) {
            return Err(MutationError::TooOld);
        }
        let pruned = ids.prune(now_ms);
        ids.running.insert(id, watch::Sender::new(()));
        Ok(Admission::New(Ticket {
            requests: self.clone(),
            id,
            pruned,
            done: false,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Ids> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ids {
    /// Takes out what is too old, and what one more would be too many.
    fn prune(&mut self, now_ms: u64) -> Vec<RequestId> {
        let mut pruned = Vec::new();
        while pruned.len() < PRUNED_AT_ONCE
            && let Some(oldest) = self.kept.first().copied()
            && (is_old(oldest, now_ms) || self.kept.len() + self.running.len() >= KEPT)
        {
            self.kept.remove(&oldest);
            self.dropped = self.dropped.max(Some(oldest));
            pruned.push(oldest);
        }
        pruned
    }
}

impl Ticket {
    /// The rows to delete in the same commit.
    pub(super) fn pruned(&self) -> &[RequestId] {
        &self.pruned
    }

    /// The request has ended; it has its row if it was committed.
    pub(super) fn ended(mut self, committed: bool) {
        self.done = committed;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut ids = self.requests.lock();
        ids.running.remove(&self.id);
        if self.done {
            ids.kept.insert(self.id);
        } else {
            ids.kept.extend(self.pruned.iter().copied());
        }
    }
}
