//! The task that carries out the jobs: the only one that wraps values again and retires keys.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use attache_envelope::name::KeyRef;
use attache_translog::{Event, Retirement};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::job::{Happened, Job, Step};
use super::pace::Pace;
use super::{Progress, Rotations};
use crate::audit::AuditLog;
use crate::background::{self, BUSY, RETRY, StepError, TakenUp, Task};
use crate::causes::with_causes;
use crate::metrics::Metrics;
use crate::store::{ApplyError, RedbStore, Store};
use crate::vault::{OldKey, RewrapPage, Vault, VaultError};

/// Carries out the jobs of one broker.
pub struct Worker<S: Store = RedbStore> {
    vault: Arc<Vault<S>>,
    log: AuditLog,
    rotations: Rotations,
    metrics: Metrics,
    others: Mutex<Others>,
}

/// Those who are served meanwhile, as the pages of all keys without a limit know them.
struct Others {
    /// How long the audit log was, and how many deliveries were counted, after the last of those pages.
    seen: (u64, u64),
    /// Until when they have the machine to themselves.
    rest: Instant,
}

/// One key's job, and what belongs to it.
pub(crate) struct Work {
    old: OldKey,
    job: Job,
    pace: Pace,
    /// The page after the one that was committed last, wrapped again while that was committed.
    ahead: Option<Ahead>,
    problem: Option<String>,
}

struct Ahead {
    /// The key of the row of the index that it begins behind.
    after: Vec<u8>,
    page: RewrapPage,
}

impl<S: Store> Worker<S> {
    /// A worker that knows every key that is decrypt-only now.
    ///
    /// # Errors
    /// [`VaultError::Ledger`] when the rows of the keys cannot be read.
    pub async fn new(
        vault: Arc<Vault<S>>,
        log: AuditLog,
        rotations: Rotations,
        metrics: Metrics,
    ) -> Result<Self, VaultError> {
        for old in vault.old_keys().await? {
            rotations.begin(old.key, old.rewrap.rate);
        }
        let others = Mutex::new(Others {
            seen: (log.head().size, metrics.deliveries()),
            rest: Instant::now(),
        });
        Ok(Self {
            vault,
            log,
            rotations,
            metrics,
            others,
        })
    }

    /// Works until `stop`. A step that was begun is ended first.
    pub async fn run(self, stop: CancellationToken) {
        let under_way = self.rotations.under_way.clone();
        background::run(self, under_way, stop).await;
    }
}

impl<S: Store> Task for Worker<S> {
    type Key = KeyRef;
    type Progress = Progress;
    type Work = Work;

    async fn take_up(&self, key: &KeyRef) -> TakenUp<Work> {
        match self.vault.old_key(key).await {
            Ok(Some(old)) => {
                tracing::info!(%key, limit = old.rewrap.rate, "wrapping a key's values again");
                TakenUp::Begun(Work::new(old))
            }
            Ok(None) => TakenUp::Over,
            Err(error) => {
                tracing::error!(%key, error = %with_causes(&error), "a key's row cannot be read; trying again");
                TakenUp::Later
            }
        }
    }

    async fn advance(&self, work: &mut Work) {
        match self.step(work).await {
            Ok(happened) => {
                work.problem = None;
                work.job.happened(happened);
                work.wait_if_stuck();
            }
            Err(StepError::Apply(ApplyError::Conflict { .. })) => {
                work.ahead = None;
                work.job.happened(Happened::Conflict);
            }
            Err(StepError::Apply(ApplyError::Busy)) => {
                work.ahead = None;
                work.job.happened(Happened::Conflict);
                work.pace.wait_until(Instant::now() + BUSY);
            }
            Err(StepError::Vault(VaultError::KeyspaceDestroyed(_))) => {
                work.ahead = None;
                work.job.happened(Happened::Retired);
            }
            Err(error) => {
                let why = with_causes(&error);
                tracing::error!(key = %work.old.key, error = %why, "a key's values are not wrapped again");
                work.ahead = None;
                work.job.happened(Happened::Conflict);
                work.problem = Some(why);
                work.pace.wait_until(Instant::now() + RETRY);
            }
        }
    }

    fn due(work: &Work) -> Instant {
        work.pace.due()
    }

    /// A limit says all there is to say.
    fn rest(&self, work: &Work) -> Option<Instant> {
        let rests = work.pace.has_no_limit() && matches!(work.job.step(), Step::Rewrap { .. });
        rests.then(|| self.lock().rest)
    }

    fn progress(work: &Work) -> Option<Progress> {
        (work.job.step() != Step::Over).then(|| work.progress())
    }
}

impl<S: Store> Worker<S> {
    async fn step(&self, work: &mut Work) -> Result<Happened, StepError> {
        match work.job.step() {
            Step::Count => self.count(work).await,
            Step::Rewrap { after } => self.rewrap(work, after).await,
            Step::Retire => self.retire(work).await,
            Step::Wait => Ok(Happened::Waited),
            Step::Over => Ok(Happened::Retired),
        }
    }

    async fn count(&self, work: &mut Work) -> Result<Happened, StepError> {
        let (left, change) = self.vault.prepare_count(&work.old).await?;
        if let Some(change) = change {
            self.vault.ledger().apply(change).await?;
            work.old.rewrap.values = left;
        }
        let of = work.old.rewrap.values;
        Ok(Happened::Counted { left, of })
    }

    /// Commits one page. Without a limit the next one is made meanwhile.
    async fn rewrap(&self, work: &mut Work, after: Option<Vec<u8>>) -> Result<Happened, StepError> {
        let begun = Instant::now();
        let page = match work.ahead.take() {
            Some(ahead) if Some(&ahead.after) == after.as_ref() => ahead.page,
            Some(_) | None => self.page(work, after).await?,
        };
        let Some(last) = page.last.clone() else {
            return Ok(Happened::PageEmpty);
        };
        for value in &page.unreadable {
            tracing::warn!(key = %work.old.key, %value,
                "a value cannot be wrapped again: its record is damaged; attache-broker check-store names all of them");
        }
        let (values, strays) = (page.values, page.strays());
        let happened = Happened::Rewrapped {
            values,
            unreadable: u64::try_from(page.unreadable.len()).unwrap_or(u64::MAX),
            strays,
            last: last.clone(),
        };
        let ahead = async {
            match work.pace.is_free() {
                true => self.page(work, Some(last.clone())).await.ok(),
                false => None,
            }
        };
        let (applied, ahead) = tokio::join!(self.commit(page), ahead);
        work.ahead = ahead.map(|page| Ahead { after: last, page });
        applied?;
        if strays > 0 {
            tracing::warn!(key = %work.old.key, rows = strays,
                "rows of the KEK index were removed that belong to none of the key's values: somebody, or the disk, had put them there, or \
                 taken the records of the values away; attache-broker check-store tells");
        }
        // A key with a limit rests for nobody, and so hides nobody from those that do.
        let others = work.pace.has_no_limit() && self.others_were_served();
        work.pace
            .took(values + strays, begun, Instant::now(), others);
        if others {
            self.lock().rest = work.pace.due();
        }
        Ok(happened)
    }

    /// Whether anything went on record, or a volume was asked for, since the page before this one, of whichever key without
    /// a limit.
    fn others_were_served(&self) -> bool {
        let now = (self.log.head().size, self.metrics.deliveries());
        mem::replace(&mut self.lock().seen, now) != now
    }

    fn lock(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn commit(&self, page: RewrapPage) -> Result<(), StepError> {
        if page.values > 0 || page.strays() > 0 {
            self.vault.ledger().apply(page.change).await?;
        }
        Ok(())
    }

    async fn page(&self, work: &Work, after: Option<Vec<u8>>) -> Result<RewrapPage, StepError> {
        let (vault, old, limit) = (Arc::clone(&self.vault), work.old.clone(), work.pace.page());
        let made = background::apart("rewrap", async move {
            vault.prepare_rewrap(&old, after.as_deref(), limit).await
        });
        Ok(made.await??)
    }

    /// On record, then committed, then the store's new anchor on record: as every change that the broker makes itself.
    async fn retire(&self, work: &Work) -> Result<Happened, StepError> {
        let key = &work.old.key;
        let now_ms = self.log.clock().now_ms();
        let Some(change) = self.vault.prepare_retirement(key, now_ms).await? else {
            let gone = self.vault.old_key(key).await?.is_none();
            return Ok(if gone {
                Happened::Retired
            } else {
                Happened::Conflict
            });
        };
        let (done, _) = work.job.done();
        let retirement = Retirement {
            key: key.to_string(),
            values: done,
        };
        let record = ("retirement", [Event::from(retirement)]);
        background::apply_on_record(self.vault.ledger(), &self.log, record, change).await?;
        self.vault.forget_key(key, work.old.id);
        tracing::info!(%key, values = done, "a key is retired: nothing refers to it by the index");
        Ok(Happened::Retired)
    }
}

impl Work {
    fn new(old: OldKey) -> Self {
        Self {
            pace: Pace::new(old.rewrap.rate, Instant::now()),
            job: Job::new(),
            ahead: None,
            problem: None,
            old,
        }
    }

    fn wait_if_stuck(&mut self) {
        if self.job.step() == Step::Wait {
            self.problem = Some(match self.job.unreadable() {
                0 => "rows of its index that belong to none of its values were taken out; it is looked through again within a minute".to_owned(),
                count => format!(
                    "{count} of its values cannot be read: their records are damaged; attache-broker check-store names them"
                ),
            });
            self.pace.wait_until(Instant::now() + RETRY);
        }
    }

    fn progress(&self) -> Progress {
        let (done, total) = self.job.done();
        Progress {
            total,
            done,
            limit: self.old.rewrap.rate,
            per_second: self.pace.per_second(Instant::now()),
            unreadable: self.job.unreadable(),
            problem: self.problem.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
