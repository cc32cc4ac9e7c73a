//! Refreshing a published volume in the background, with the newest token that kubelet has handed over.
//!
//! ```text
//! deliver(held) -> unchanged              the mount is looked at, and the record is right
//!               -> released               open -> write -> stat: swapped in as one
//!               -> refused, away          the mount stays; the volume's condition says why
//! ```
//! One at a time, with a rest after it; an unpublish stops it at the next await. It never unmounts anything: what it
//! finds damaged it forgets, so that the next publish mends it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{PublishError, Shared, adopt, blocking};
use crate::agent::deliver::{Delivery, SealedRelease, deliver};
use crate::agent::metrics::failure;
use crate::agent::table::{Record, Refresh};
use crate::csi::request::PublishRequest;
use crate::ipc::{Fault, FaultCode};
use crate::volume::Target;

/// Between two refreshes of one volume: however often kubelet publishes it again, the broker is asked a few times a
/// second at most.
const REST: Duration = Duration::from_millis(250);

/// How a refresh went.
enum Refreshed {
    Unchanged,
    Replaced,
    /// It failed, for the reason that this word is of; the volume is what it was.
    Kept(&'static str),
    Damaged,
    Stopped,
}

impl Refreshed {
    /// In a word, for the metrics; one that was stopped tells nothing.
    fn result(&self) -> Option<&'static str> {
        match self {
            Self::Unchanged => Some("unchanged"),
            Self::Replaced => Some("replaced"),
            Self::Kept(why) => Some(why),
            Self::Damaged => Some("damaged"),
            Self::Stopped => None,
        }
    }
}

impl Shared {
    /// Refreshes a volume until no newer request waits.
    pub(super) async fn refresh_all(self: Arc<Self>, refresh: Refresh, request: PublishRequest) {
        let mut step = Some((refresh, request));
        while let Some((refresh, request)) = step {
            let stop = refresh.stop().clone();
            let begun = Instant::now();
            let done = self.refresh(&refresh, &request, &stop).await;
            if let Some(result) = done.result() {
                self.metrics.refreshed(result, begun.elapsed());
            }
            step = match done {
                Refreshed::Unchanged | Refreshed::Replaced | Refreshed::Kept(_) => {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(REST) => {}
                    }
                    refresh.next()
                }
                Refreshed::Damaged => {
                    tracing::error!(request = %request.summary(), "the volume is not what was written; the next publish mends it");
                    refresh.forget();
                    None
                }
                Refreshed::Stopped => None,
            };
        }
    }

    async fn refresh(
        self: &Arc<Self>,
        refresh: &Refresh,
        request: &PublishRequest,
        stop: &CancellationToken,
    ) -> Refreshed {
        let held = refresh.held();
        let Some(broker) = self.broker() else {
            return self.kept(refresh, request, &PublishError::NotJoined);
        };
        let delivery = tokio::select! {
            biased;
            () = stop.cancelled() => return Refreshed::Stopped,
            delivery = deliver(&broker, &self.keys, request, held, self.mounter.facts()) => delivery,
        };
        let target = request.target.clone();
        match delivery {
            Err(error) => self.kept(refresh, request, &error.into()),
            Ok(Delivery::Unchanged) => self.confirm(refresh, target).await,
            Ok(Delivery::Released(sealed)) => self.replace(refresh, request, sealed).await,
        }
    }

    /// Nothing changed: sees to it that the volume is still there.
    async fn confirm(self: &Arc<Self>, refresh: &Refresh, target: Target) -> Refreshed {
        let mounter = Arc::clone(&self.mounter);
        let held = refresh.held();
        match blocking(move || mounter.stat(&target)).await {
            Ok(Ok(state)) => match adopt(&state) {
                Some(record) if record.held == held => {
                    refresh.note(record);
                    Refreshed::Unchanged
                }
                _ => Refreshed::Damaged,
            },
            // Not seen is not gone.
            Ok(Err(_)) | Err(_) => Refreshed::Unchanged,
        }
    }

    /// Swaps a new generation in.
    async fn replace(
        self: &Arc<Self>,
        refresh: &Refresh,
        request: &PublishRequest,
        sealed: Box<SealedRelease>,
    ) -> Refreshed {
        let Ok(_writer) = self.writing.acquire().await else {
            return Refreshed::Stopped;
        };
        if refresh.stop().is_cancelled() {
            return Refreshed::Stopped;
        }
        let (shared, target) = (Arc::clone(self), request.target.clone());
        let written = blocking(move || {
            let package = sealed.open()?;
            shared.write(&target, &package)
        });
        match written.await.and_then(|written| written) {
            Ok(record) => {
                tracing::info!(request = %request.summary(), "refreshed");
                refresh.note(record);
                Refreshed::Replaced
            }
            Err(
                PublishError::NotAsWritten
                | PublishError::Mount(Fault {
                    code: FaultCode::NotMounted,
                    ..
                }),
            ) => Refreshed::Damaged,
            Err(error) => self.kept(refresh, request, &error),
        }
    }

    /// The mount stays as it is, and the failure is reported.
    fn kept(&self, refresh: &Refresh, request: &PublishRequest, error: &PublishError) -> Refreshed {
        tracing::warn!(request = %request.summary(), %error, "not refreshed; the mount stays");
        refresh.note(Record {
            held: refresh.held(),
            trouble: Some(error.to_string()),
        });
        Refreshed::Kept(failure(error))
    }
}
