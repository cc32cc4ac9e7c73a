//! The scrub: every row of the store is looked at, again and again, while the broker serves.
//!
//! A row's tag is checked whenever the row is read, and the small tables are held against the anchor at each start. What
//! only a look at a whole table shows, a row of before that was put back or one that was taken out of a big table, is found
//! here: at the start, and then each [`Scrub`] interval. It works on one snapshot, and rests three times as long as it
//! worked, so that it takes a quarter of one core at most. What it finds is told and not mended.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::background;
use crate::causes::with_causes;
use crate::store::{RedbStore, Store, StoreError};
use crate::vault::{CheckReport, Vault, scrub_store};

/// Findings that are logged one by one, and named in the status; the others are counted.
const NAMED: usize = 8;
/// A scrub that could not be carried out is tried again after this long.
const RETRY: Duration = Duration::from_secs(300);

/// What the last scrub found; none was ended yet where there is nothing.
pub type LastScrub = watch::Receiver<Option<Scrubbed>>;

/// A scrub that came to its end.
#[derive(Debug, Clone)]
pub struct Scrubbed {
    /// What it found.
    pub report: Arc<CheckReport>,
    /// When.
    pub at: Timestamp,
}

impl Scrubbed {
    /// What an operator must know of it.
    #[must_use]
    pub fn finding(&self) -> Option<String> {
        let findings = &self.report.findings;
        let named: Vec<_> = findings
            .iter()
            .take(NAMED)
            .map(ToString::to_string)
            .collect();
        let more = match findings.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        (!named.is_empty()).then(|| {
            format!(
                "the store is not what was written to it, as of sequence {}: {}{more}. Somebody, or the disk, changed it: keep a \
                 copy as evidence, see attache-broker check-store, and restore from a backup",
                self.report.seq,
                named.join("; ")
            )
        })
    }
}

/// Why a scrub did not come to its end.
#[derive(Debug, thiserror::Error)]
enum ScrubError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no thread can be had")]
    Thread(#[from] std::io::Error),
}

/// Scrubs one store.
pub struct Scrub<S: Store = RedbStore> {
    vault: Arc<Vault<S>>,
    interval: Duration,
    last: watch::Sender<Option<Scrubbed>>,
}

impl<S: Store> Scrub<S> {
    /// A scrub that begins anew `interval` after its end.
    #[must_use]
    pub fn new(vault: Arc<Vault<S>>, interval: Duration) -> (Self, LastScrub) {
        let (last, seen) = watch::channel(None);
        let scrub = Self {
            vault,
            interval,
            last,
        };
        (scrub, seen)
    }

    /// Works until `stop`, which ends a scrub that is under way.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let wait = match self.once(&stop).await {
                Some(Ok(report)) => {
                    self.tell(report);
                    self.interval
                }
                Some(Err(error)) => {
                    let error = with_causes(&error);
                    tracing::error!(error, "the store cannot be scrubbed; trying again");
                    RETRY
                }
                None => return,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// None: it was stopped.
    async fn once(&self, stop: &CancellationToken) -> Option<Result<CheckReport, ScrubError>> {
        let (vault, stop) = (Arc::clone(&self.vault), stop.clone());
        let scrubbed = background::apart("scrub", async move {
            let scrub = scrub_store(vault.ledger().store().as_ref(), vault.keys());
            stop.run_until_cancelled(scrub).await
        });
        match scrubbed.await {
            Ok(scrubbed) => scrubbed.map(|report| report.map_err(ScrubError::from)),
            Err(error) => Some(Err(error.into())),
        }
    }

    fn tell(&self, report: CheckReport) {
        let (rows, seq, count) = (report.rows, report.seq, report.findings.len());
        tracing::info!(rows, seq, findings = count, "the store is scrubbed");
        for finding in report.findings.iter().take(NAMED) {
            tracing::error!(seq, %finding, "the store is not what was written to it");
        }
        let report = Arc::new(report);
        self.last.send_replace(Some(Scrubbed {
            report,
            at: Timestamp::now(),
        }));
    }
}
