//! The task that carries out the passes: the only one that tags rows anew, and that drops keys of the rows' MACs.

use std::sync::Arc;
use std::time::Duration;

use attache_translog::{Event, Retirement};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pass::{Happened, Pass, Step};
use super::{Progress, Retagging};
use crate::audit::AuditLog;
use crate::background::{self, BUSY, RETRY, StepError, TakenUp, Task};
use crate::causes::with_causes;
use crate::keys::{MacChange, SlotSet};
use crate::store::{ApplyError, RedbStore, Store};
use crate::vault::{RetagPage, Vault, VaultError};

/// Rows in one commit: more save little, and hold up other callers' commits longer.
const PAGE: usize = 2048;
/// Between the pass that found nothing and the drop: a read that was begun before verifies what it got.
const GRACE: Duration = Duration::from_secs(1);

/// Carries out the retagging of one broker.
pub struct Worker<S: Store = RedbStore> {
    vault: Arc<Vault<S>>,
    log: AuditLog,
    retagging: Retagging,
}

/// What belongs to the one that is under way.
pub(crate) struct Work {
    pass: Pass,
    rows: u64,
    tagged: u64,
    due: Instant,
    problem: Option<String>,
}

impl<S: Store> Worker<S> {
    /// A worker, which goes on with what is under way now.
    #[must_use]
    pub fn new(vault: Arc<Vault<S>>, log: AuditLog, retagging: Retagging) -> Self {
        if !vault.keys().mac_epochs_before().is_empty() {
            retagging.begin();
        }
        Self {
            vault,
            log,
            retagging,
        }
    }

    /// Works until `stop`. A step that was begun is ended first.
    pub async fn run(self, stop: CancellationToken) {
        let under_way = self.retagging.under_way.clone();
        background::run(self, under_way, stop).await;
    }

    async fn step(&self, work: &mut Work) -> Result<Happened, StepError> {
        match work.pass.step() {
            Step::Look(table, after) => {
                let vault = Arc::clone(&self.vault);
                let page = background::apart("retag", async move {
                    vault.prepare_retag(table, after.as_deref(), PAGE).await
                });
                let page = page.await??;
                let tagged = page.rows;
                let happened = self.tag(page).await?;
                work.tagged = work.tagged.saturating_add(tagged);
                Ok(happened)
            }
            Step::Drop => self.drop_keys().await,
            Step::Over => Ok(Happened::Dropped),
        }
    }

    async fn tag(&self, page: RetagPage) -> Result<Happened, StepError> {
        let Some(last) = page.last else {
            return Ok(Happened::TableEnded);
        };
        for key in &page.unreadable {
            tracing::warn!(table = %page.table, key = hex::encode(key),
                "a row is damaged, and not tagged anew; attache-broker check-store names all of them");
        }
        if page.rows > 0 {
            self.vault.ledger().apply(page.change).await?;
        }
        Ok(Happened::Looked {
            looked: page.looked,
            tagged: page.rows,
            last,
        })
    }

    /// On record, then committed, then the store's new anchor on record: as every change that the broker makes itself.
    async fn drop_keys(&self) -> Result<Happened, StepError> {
        let keys = self.vault.keys();
        let active = keys.mac_epoch();
        tokio::time::sleep(GRACE).await;
        let _keyring = keys.changing().await;
        let before = keys.mac_epochs_before();
        if before.is_empty() {
            return Ok(Happened::Dropped);
        }
        if keys.mac_epoch() != active {
            return Ok(Happened::Conflict);
        }
        let set = SlotSet::read(self.vault.ledger()).await;
        let set = set.map_err(VaultError::from)?;
        let MacChange { rekeyed, epochs } = keys.drop_macs(&set).map_err(VaultError::from)?;
        let retirements = before.clone().into_iter().map(|epoch| {
            Event::from(Retirement {
                key: format!("row-mac@{epoch}"),
                values: 0,
            })
        });
        let record = ("end of the keys before", retirements);
        background::apply_on_record(self.vault.ledger(), &self.log, record, rekeyed.change).await?;
        keys.take_up_macs(epochs);
        tracing::info!(
            ?before,
            active,
            "keys of the rows' MACs are dropped: every row has a tag of the active one"
        );
        Ok(Happened::Dropped)
    }
}

impl<S: Store> Task for Worker<S> {
    type Key = ();
    type Progress = Progress;
    type Work = Work;

    async fn take_up(&self, (): &()) -> TakenUp<Work> {
        if self.vault.keys().mac_epochs_before().is_empty() {
            return TakenUp::Over;
        }
        match self.vault.rows_with_tags().await {
            Ok(rows) => {
                tracing::info!(rows, "tagging every row anew");
                TakenUp::Begun(Work {
                    pass: Pass::new(),
                    rows,
                    tagged: 0,
                    due: Instant::now(),
                    problem: None,
                })
            }
            Err(error) => {
                tracing::error!(error = %with_causes(&error), "the rows cannot be counted; trying again");
                TakenUp::Later
            }
        }
    }

    async fn advance(&self, work: &mut Work) {
        match self.step(work).await {
            Ok(happened) => {
                work.problem = None;
                // Behind those that have waited longer.
                work.due = Instant::now();
                work.pass.happened(happened);
            }
            Err(StepError::Apply(ApplyError::Conflict { .. })) => {
                work.pass.happened(Happened::Conflict);
            }
            Err(StepError::Apply(ApplyError::Busy)) => work.due = Instant::now() + BUSY,
            Err(error) => {
                let why = with_causes(&error);
                tracing::error!(error = %why, "rows are not tagged anew");
                work.problem = Some(why);
                work.due = Instant::now() + RETRY;
            }
        }
    }

    fn due(work: &Work) -> Instant {
        work.due
    }

    fn progress(work: &Work) -> Option<Progress> {
        (work.pass.step() != Step::Over).then(|| Progress {
            rows: work.rows,
            looked: work.pass.looked(),
            tagged: work.tagged,
            problem: work.problem.clone(),
        })
    }
}
