//! What is to be gone through at some later time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::vault::PruneScope;

/// Scopes and when their time comes. A clone is the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Later {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    all: Mutex<BTreeMap<PruneScope, Instant>>,
    /// Another one has come.
    come: Notify,
}

impl Later {
    /// Lets one in. One that is in already comes at the earlier time.
    pub(super) fn add(&self, scope: PruneScope, at: Instant) {
        self.lock()
            .entry(scope)
            .and_modify(|known| *known = at.min(*known))
            .or_insert(at);
        self.shared.come.notify_one();
    }

    /// Hands out each whose time has come, until `stop`.
    pub(super) async fn run(&self, stop: &CancellationToken, due: impl Fn(PruneScope)) {
        loop {
            let next = self.lock().values().min().copied();
            let waiting = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.shared.come.notified() => continue,
                () = waiting => {}
            }
            for scope in self.take(Instant::now()) {
                due(scope);
            }
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn take(&self, now: Instant) -> Vec<PruneScope> {
        let due = self
            .lock()
            .extract_if(.., |_, at| *at <= now)
            .collect::<Vec<_>>();
        due.into_iter().map(|(scope, _)| scope).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PruneScope, Instant>> {
        self.shared
            .all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
