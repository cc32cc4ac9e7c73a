//! The task that carries out the jobs: the only one that removes rows of destroyed keyspaces.

use std::sync::Arc;

use attache_envelope::name::Keyspace;
use attache_translog::{Event, Removal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::job::{Happened, Job, Step};
use super::{Progress, Removals};
use crate::audit::AuditLog;
use crate::background::{self, BUSY, RETRY, StepError, TakenUp, Task};
use crate::causes::with_causes;
use crate::store::{ApplyError, RedbStore, Store};
use crate::vault::{RemovalPage, Vault, VaultError};

/// Rows in one commit: more save little, and hold up other callers' commits longer.
const PAGE: usize = 1024;

/// Carries out the jobs of one broker.
pub struct Worker<S: Store = RedbStore> {
    vault: Arc<Vault<S>>,
    log: AuditLog,
    removals: Removals,
}

/// One keyspace's job, and what belongs to it.
pub(crate) struct Work {
    keyspace: Keyspace,
    job: Job,
    due: Instant,
    problem: Option<String>,
}

impl<S: Store> Worker<S> {
    /// A worker that knows every keyspace of which rows may be left now.
    ///
    /// # Errors
    /// [`VaultError::Ledger`] when the rows of the keyspaces cannot be read.
    pub async fn new(
        vault: Arc<Vault<S>>,
        log: AuditLog,
        removals: Removals,
    ) -> Result<Self, VaultError> {
        for keyspace in vault.keyspaces_to_remove().await? {
            removals.begin(keyspace);
        }
        Ok(Self {
            vault,
            log,
            removals,
        })
    }

    /// Works until `stop`. A step that was begun is ended first.
    pub async fn run(self, stop: CancellationToken) {
        let under_way = self.removals.under_way.clone();
        background::run(self, under_way, stop).await;
    }

    async fn step(&self, work: &Work) -> Result<Happened, StepError> {
        match work.job.step() {
            Step::Remove(after) => {
                let (vault, keyspace) = (Arc::clone(&self.vault), work.keyspace.clone());
                let page = background::apart("removal", async move {
                    vault.prepare_removal(&keyspace, after.as_ref(), PAGE).await
                });
                self.remove(page.await??).await
            }
            Step::End => self.end(work).await,
            Step::Wait => Ok(Happened::Waited),
            Step::Over => Ok(Happened::Ended),
        }
    }

    async fn remove(&self, page: RemovalPage) -> Result<Happened, StepError> {
        let (values, rows) = (page.values, page.rows);
        let strays = page.change.unindexed.len();
        if values > 0 || rows > 0 {
            self.vault.ledger().apply(page.change).await?;
        }
        if strays > 0 {
            tracing::warn!(
                rows = strays,
                "rows of the KEK index were removed that name no value, one that is not there or another key's: where none were \
                 destroyed meanwhile, somebody, or the disk, has put them there"
            );
        }
        Ok(Happened::Removed {
            values,
            rows,
            unreadable: page.unreadable,
            passed: page.passed,
        })
    }

    /// On record, then committed, then the store's new anchor on record: as every change that the broker makes itself.
    async fn end(&self, work: &Work) -> Result<Happened, StepError> {
        let keyspace = &work.keyspace;
        let Some(change) = self.vault.prepare_removal_end(keyspace).await? else {
            let left = self.vault.is_to_be_removed(keyspace).await?;
            return Ok(if left {
                Happened::Conflict
            } else {
                Happened::Ended
            });
        };
        let values = work.job.values();
        let removal = Removal {
            keyspace: keyspace.to_string(),
            values,
        };
        let record = ("removal", [Event::from(removal)]);
        background::apply_on_record(self.vault.ledger(), &self.log, record, change).await?;
        // A release that was under way at the end may have opened a key once more.
        self.vault.forget_keyspace(keyspace);
        tracing::info!(%keyspace, values, "a destroyed keyspace is removed: nothing is left of it but its name");
        Ok(Happened::Ended)
    }
}

impl<S: Store> Task for Worker<S> {
    type Key = Keyspace;
    type Progress = Progress;
    type Work = Work;

    async fn take_up(&self, keyspace: &Keyspace) -> TakenUp<Work> {
        match self.vault.is_to_be_removed(keyspace).await {
            Ok(true) => {
                tracing::info!(%keyspace, "removing what is left of a destroyed keyspace");
                TakenUp::Begun(Work {
                    keyspace: keyspace.clone(),
                    job: Job::new(),
                    due: Instant::now(),
                    problem: None,
                })
            }
            Ok(false) => TakenUp::Over,
            Err(error) => {
                tracing::error!(%keyspace, error = %with_causes(&error), "a keyspace's row cannot be read; trying again");
                TakenUp::Later
            }
        }
    }

    async fn advance(&self, work: &mut Work) {
        let stepped = self.step(work).await;
        work.due = Instant::now();
        match stepped {
            Ok(happened) => {
                work.problem = None;
                // Something is left that no page took: the next pass need not hurry to it.
                if happened == Happened::Conflict {
                    work.due += BUSY;
                }
                work.job.happened(happened);
                work.wait_if_stuck();
            }
            Err(StepError::Apply(ApplyError::Conflict { .. })) => {
                work.job.happened(Happened::Conflict);
            }
            Err(StepError::Apply(ApplyError::Busy)) => {
                work.job.happened(Happened::Conflict);
                work.due += BUSY;
            }
            Err(error) => {
                let why = with_causes(&error);
                tracing::error!(keyspace = %work.keyspace, error = %why, "a destroyed keyspace is not removed");
                work.job.happened(Happened::Conflict);
                work.problem = Some(why);
                work.due += RETRY;
            }
        }
    }

    fn due(work: &Work) -> Instant {
        work.due
    }

    fn progress(work: &Work) -> Option<Progress> {
        (work.job.step() != Step::Over).then(|| Progress {
            values: work.job.values(),
            unreadable: work.job.unreadable(),
            problem: work.problem.clone(),
        })
    }
}

impl Work {
    fn wait_if_stuck(&mut self) {
        if self.job.step() == Step::Wait {
            let unreadable = self.job.unreadable();
            let why = format!(
                "{unreadable} of its rows cannot be removed: they are damaged, or lead to one that is; \
                 attache-broker check-store names them"
            );
            tracing::warn!(keyspace = %self.keyspace, "{why}");
            self.problem = Some(why);
            self.due = Instant::now() + RETRY;
        }
    }
}

#[cfg(test)]
mod tests;
