//! The task that carries out the passes: the only one that prunes.

use std::sync::Arc;

use attache_envelope::name::Keyspace;
use attache_translog::{Event, Pruning};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Prunings;
use crate::audit::AuditLog;
use crate::background::{self, BUSY, RETRY, StepError, TakenUp, Task};
use crate::causes::with_causes;
use crate::mounted::{Held, Mounted};
use crate::store::{ApplyError, RedbStore, Store};
use crate::vault::{PruneScope, Pruned, PruningPage, Vault, VaultError};

/// Versions in one commit and one record.
const PAGE: usize = 256;

/// Carries out the passes of one broker.
pub struct Worker<S: Store = RedbStore> {
    vault: Arc<Vault<S>>,
    log: AuditLog,
    prunings: Prunings,
    mounted: Mounted,
}

/// One pass, and what belongs to it.
pub(crate) struct Work {
    scope: PruneScope,
    passed: Option<Pruned>,
    over: bool,
    due: Instant,
    unreadable: u64,
    mounted: u64,
    mounted_until: Option<Instant>,
}

impl<S: Store> Worker<S> {
    /// A worker that goes through every keyspace that does not keep all versions.
    ///
    /// # Errors
    /// [`VaultError::Ledger`] when the rows of the keyspaces cannot be read.
    pub async fn new(
        vault: Arc<Vault<S>>,
        log: AuditLog,
        prunings: Prunings,
        mounted: Mounted,
    ) -> Result<Self, VaultError> {
        for keyspace in vault.keyspaces_to_prune().await? {
            prunings.begin(PruneScope::Keyspace(keyspace));
        }
        Ok(Self {
            vault,
            log,
            prunings,
            mounted,
        })
    }

    /// Works until `stop`. A page that was begun is ended first.
    pub async fn run(self, stop: CancellationToken) {
        let (under_way, later) = (self.prunings.under_way.clone(), self.prunings.later.clone());
        let waiting = later.run(&stop, |scope| under_way.begin(scope, ()));
        let working = background::run(self, under_way.clone(), stop.clone());
        tokio::join!(waiting, working);
    }

    /// Says how long nothing of a keyspace is pruned, once that is longer than what follows a start.
    fn tell_held(&self, keyspace: &Keyspace, held: &Held) {
        let held_for = held.since.elapsed();
        if held_for >= self.mounted.window() {
            tracing::warn!(%keyspace, held_s = held_for.as_secs(),
                "nothing is pruned: asks for volumes keep failing, and what they name may be mounted");
        }
    }

    async fn step(&self, work: &mut Work) -> Result<(), StepError> {
        let (vault, mounted) = (Arc::clone(&self.vault), self.mounted.clone());
        let (scope, passed) = (work.scope.clone(), work.passed.clone());
        let made = background::apart("pruning", async move {
            vault
                .prepare_pruning(&scope, passed.as_ref(), PAGE, &mounted)
                .await
        });
        let page = made.await??;
        let (unreadable, passed) = (page.unreadable, page.passed.clone());
        let (mounted, mounted_until) = (page.mounted, page.mounted_until);
        if !page.versions.is_empty() {
            self.prune(page).await?;
        }
        work.unreadable += unreadable;
        work.mounted += mounted;
        work.mounted_until = work.mounted_until.into_iter().chain(mounted_until).min();
        work.over = passed.is_none();
        work.passed = passed;
        Ok(())
    }

    /// On record, then committed, then the store's new anchor on record. One that the store refuses is done, and recorded,
    /// once more.
    async fn prune(&self, page: PruningPage) -> Result<(), StepError> {
        let keyspace = page.versions.first().map(|it| it.path.keyspace.to_string());
        let pruning = Pruning {
            keyspace: keyspace.unwrap_or_default(),
            versions: page.versions.iter().map(ToString::to_string).collect(),
            values: page.values,
        };
        let record = ("pruning", [Event::from(pruning)]);
        background::apply_on_record(self.vault.ledger(), &self.log, record, page.change).await
    }
}

impl<S: Store> Task for Worker<S> {
    type Key = PruneScope;
    type Progress = ();
    type Work = Work;

    async fn take_up(&self, scope: &PruneScope) -> TakenUp<Work> {
        // Whatever is over may be mounted: its keyspace is gone through once that is known.
        if let Some(held) = self.mounted.held(scope.keyspace()) {
            let keyspace = PruneScope::Keyspace(scope.keyspace().clone());
            self.tell_held(scope.keyspace(), &held);
            self.prunings.later.add(keyspace, held.until);
            return TakenUp::Over;
        }
        TakenUp::Begun(Work {
            scope: scope.clone(),
            passed: None,
            over: false,
            due: Instant::now(),
            unreadable: 0,
            mounted: 0,
            mounted_until: None,
        })
    }

    async fn advance(&self, work: &mut Work) {
        let stepped = self.step(work).await;
        work.due = Instant::now();
        match stepped {
            Ok(()) => {
                if work.over && work.unreadable > 0 {
                    tracing::warn!(scope = %work.scope, secrets = work.unreadable,
                        "secrets keep all of their versions: something of them is damaged; attache-broker check-store names it");
                }
                if work.over
                    && let Some(end) = work.mounted_until
                {
                    tracing::info!(scope = %work.scope, versions = work.mounted,
                        "versions over are kept as long as volumes of pods name them");
                    let soonest = Instant::now() + self.mounted.spacing();
                    self.prunings
                        .later
                        .add(work.scope.clone(), end.max(soonest));
                }
            }
            Err(StepError::Apply(ApplyError::Conflict { .. })) => {}
            Err(StepError::Apply(ApplyError::Busy)) => work.due += BUSY,
            Err(error) => {
                let why = with_causes(&error);
                tracing::error!(scope = %work.scope, error = %why, "old versions are not pruned; trying again");
                work.due += RETRY;
            }
        }
    }

    fn due(work: &Work) -> Instant {
        work.due
    }

    fn progress(work: &Work) -> Option<()> {
        (!work.over).then_some(())
    }
}

#[cfg(test)]
mod tests;
