//! The volumes of this node: publish, republish, unpublish, stat, and what a restart finds.
//!
//! ```text
//! first publish   deliver -> [open -> attach -> write -> stat] -> OK          [..] one visit to a blocking thread
//!                 any failure -> nothing of it stays mounted, or the code says "perhaps"
//! republish       the record says it is there -> [stat] it is -> OK at once; then, in the background:
//!                 deliver(held) -> unchanged | [open -> write -> stat] | refused: the mount stays, and is reported
//! unpublish       stop the refresh and wait for it -> [detach] -> OK          no broker, no pod
//! ```
//! Every change runs in a task of its own, so a caller that goes away leaves nothing half done. A broker that is away,
//! or that refuses, never takes away what is mounted.

use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::broker::Broker;
use super::deliver::{DeliverError, Delivery, Package, deliver};
use super::metadata;
use super::metrics::{Metrics, Volume};
use super::session::PluginKeys;
use super::table::{Claim, Publish, Record, Table, Unpublish};
use crate::csi::request::{PublishRequest, RequestError};
use crate::ipc::{Fault, FaultCode, MounterClient, MounterError, VolumeState};
use crate::mounter::VolumeLimits;
use crate::telemetry::chain;
use crate::volume::Target;

mod refresh;

/// How many volumes are opened and written at one time: the mounter takes one request after the other, and what is
/// opened counts against the limit on locked memory.
const WRITERS: usize = 2;

/// Why a volume was not published or not unpublished.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The same volume is in flight.
    #[error("the same volume is being published or unpublished; trying again")]
    Busy,
    /// More new volumes than `limits.publishes`.
    #[error("too many volumes are being published on this node; trying again")]
    TooMany,
    /// This node has no certificate yet, or none any more.
    #[error("this node has not joined the broker; its node plugin's log says why")]
    NotJoined,
    /// The broker released nothing.
    #[error(transparent)]
    Deliver(#[from] DeliverError),
    /// The mounter refused.
    #[error("the volume cannot be mounted: {0}")]
    Mount(Fault),
    /// The volume is published, and cannot be looked at.
    #[error("the volume cannot be looked at: {0}; trying again")]
    NotSeen(Fault),
    /// There is no connection to the mounter.
    #[error("the node plugin's mounter is restarting; trying again")]
    MounterAway,
    /// What was read back differs.
    #[error("the volume is not what was written; the node plugin's log has more")]
    NotAsWritten,
    /// It failed, and something of it may be mounted still.
    #[error("{0} (what is still mounted could not be cleaned up; trying again)")]
    LeftMounted(Box<PublishError>),
    /// The plugin is stopping.
    #[error("the node plugin is stopping; trying again")]
    Stopping,
}

impl From<MounterError> for PublishError {
    fn from(error: MounterError) -> Self {
        match error {
            MounterError::Refused(fault) => Self::Mount(fault),
            MounterError::NotConnected
            | MounterError::Lost { .. }
            | MounterError::WrongPeer { .. }
            | MounterError::Protocol(_) => Self::MounterAway,
        }
    }
}

/// What a volume holds and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeReport {
    /// How much it may hold.
    pub limits: VolumeLimits,
    /// How many bytes its files have.
    pub bytes: u64,
    /// How many files it has.
    pub files: u32,
    /// What is wrong with it, if something is.
    pub trouble: Option<String>,
}

/// The volumes of this node. A clone is the same.
#[derive(Clone)]
pub struct Volumes {
    shared: Arc<Shared>,
}

struct Shared {
    table: Table,
    mounter: Arc<MounterClient>,
    broker: watch::Receiver<Option<Arc<Broker>>>,
    keys: PluginKeys,
    publishing: Semaphore,
    writing: Semaphore,
    limits: VolumeLimits,
    metrics: Metrics,
    tasks: TaskTracker,
}

/// What [`Volumes`] works with.
pub struct Parts {
    /// The mounter.
    pub mounter: Arc<MounterClient>,
    /// The broker, once this node has joined.
    pub broker: watch::Receiver<Option<Arc<Broker>>>,
    /// The plugin's key.
    pub keys: PluginKeys,
    /// How many first publishes run at one time.
    pub publishes: usize,
    /// How much a volume may hold.
    pub limits: VolumeLimits,
    /// Where it is counted how things end.
    pub metrics: Metrics,
    /// Everything that must end before the process does.
    pub tasks: TaskTracker,
}

impl Volumes {
    /// No volumes yet; [`Volumes::recover`] finds those that are mounted.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            mounter,
            broker,
            keys,
            publishes,
            limits,
            metrics,
            tasks,
        } = parts;
        Self {
            shared: Arc::new(Shared {
                table: Table::default(),
                mounter,
                broker,
                keys,
                publishing: Semaphore::new(publishes),
                writing: Semaphore::new(WRITERS),
                limits,
                metrics,
                tasks,
            }),
        }
    }

    /// Publishes a volume; one that is there is answered at once and refreshed in the background. That it is there is
    /// the mounter's word of this moment: the record alone is none.
    ///
    /// # Errors
    /// [`PublishError`].
    ///
    /// # Cancel safety
    /// What was begun goes on to its end.
    pub async fn publish(&self, request: PublishRequest) -> Result<(), PublishError> {
        let (begun, target) = (Instant::now(), request.target.clone());
        let publish = self.shared.table.publish(request);
        let volume = match publish {
            Publish::First(..) => Volume::New,
            Publish::Busy | Publish::Queued | Publish::Refresh(..) => Volume::Present,
        };
        let done = self.carry_out(publish, target).await;
        self.shared
            .metrics
            .published(volume, &done, begun.elapsed());
        done
    }

    async fn carry_out(&self, publish: Publish, target: Target) -> Result<(), PublishError> {
        let shared = Arc::clone(&self.shared);
        let (claim, request) = match publish {
            Publish::First(claim, request) => (claim, request),
            Publish::Busy => return Err(PublishError::Busy),
            Publish::Queued if shared.is_mounted(&target).await? => return Ok(()),
            // The refresh under way ends first.
            Publish::Queued => return Err(PublishError::Busy),
            Publish::Refresh(refresh, request) => {
                if shared.is_mounted(&target).await? {
                    let tasks = &self.shared.tasks;
                    tasks.spawn(async move { shared.refresh_all(refresh, request).await });
                    return Ok(());
                }
                tracing::error!(request = %request.summary(), "published, and not mounted any more; it is mounted again");
                (refresh.remount().ok_or(PublishError::Busy)?, request)
            }
        };
        let first = async move { shared.first_publish(claim, request).await };
        let task = self.shared.tasks.spawn(first);
        task.await.unwrap_or(Err(PublishError::Stopping))
    }

    /// Keeps a volume that is mounted though a republish of it could not be read, and notes why as its trouble; answers
    /// whether it is.
    ///
    /// # Errors
    /// [`PublishError::NotSeen`], [`PublishError::MounterAway`], [`PublishError::Stopping`].
    pub async fn keep(&self, target: &Target, error: &RequestError) -> Result<bool, PublishError> {
        Ok(self.shared.table.trouble(target, error.to_string())
            && self.shared.is_mounted(target).await?)
    }

    /// Unpublishes a volume; one that is not there is done already. Needs neither broker nor pod.
    ///
    /// # Errors
    /// [`PublishError::Busy`], [`PublishError::Mount`], [`PublishError::MounterAway`], [`PublishError::Stopping`].
    ///
    /// # Cancel safety
    /// What was begun goes on to its end.
    pub async fn unpublish(&self, target: Target) -> Result<(), PublishError> {
        let begun = Instant::now();
        let done = self.take_down(target).await;
        self.shared.metrics.unpublished(&done, begun.elapsed());
        done
    }

    async fn take_down(&self, target: Target) -> Result<(), PublishError> {
        let (claim, refresh) = match self.shared.table.unpublish(&target) {
            Unpublish::Begin { claim, refresh } => (claim, refresh),
            Unpublish::Busy => return Err(PublishError::Busy),
        };
        let shared = Arc::clone(&self.shared);
        let task = self.shared.tasks.spawn(async move {
            if let Some(ended) = refresh {
                ended.cancelled().await;
            }
            let mounter = Arc::clone(&shared.mounter);
            let detached = blocking(move || mounter.detach(&target)).await?;
            drop(claim);
            detached.map(drop).map_err(PublishError::from)
        });
        task.await.unwrap_or(Err(PublishError::Stopping))
    }

    /// How many volumes are published, and how many of those are in trouble.
    pub(super) fn counted(&self) -> (usize, usize) {
        self.shared.table.counted()
    }

    /// Tells what a volume holds; none when it is not mounted.
    ///
    /// # Errors
    /// [`PublishError::Mount`], [`PublishError::MounterAway`], [`PublishError::Stopping`].
    pub async fn stat(&self, target: Target) -> Result<Option<VolumeReport>, PublishError> {
        let mounter = Arc::clone(&self.shared.mounter);
        let record = self.shared.table.record(&target);
        let VolumeState { stat, .. } = blocking(move || mounter.stat(&target)).await??;
        if !stat.mounted {
            return Ok(None);
        }
        let trouble = match record {
            _ if !stat.whole => {
                Some("the volume is not whole; the next publish mends it".to_owned())
            }
            Some(record) => record.trouble,
            None => None,
        };
        let (bytes, files) = (stat.bytes, stat.files);
        Ok(Some(VolumeReport {
            limits: self.shared.limits,
            bytes,
            files,
            trouble,
        }))
    }

    /// Takes over the volumes that are mounted, from the mount table and each volume's own metadata, and answers how
    /// many are published. Blocking.
    ///
    /// # Errors
    /// [`MounterError`]; there is no connection then.
    pub fn recover(&self) -> Result<usize, MounterError> {
        let mut found = Vec::new();
        let look = self.shared.table.look();
        let mounter = &self.shared.mounter;
        // A listing that is refused is tried again by the next connection.
        let targets = mounter.list().inspect_err(|_| mounter.disconnect())?;
        for target in targets {
            let state = match mounter.stat(&target) {
                Ok(state) => state,
                // One volume that cannot be looked at must not keep all the others from being served.
                Err(MounterError::Refused(fault)) => {
                    tracing::warn!(%target, %fault, "found mounted and not to be looked at");
                    continue;
                }
                Err(error) => return Err(error),
            };
            match adopt(&state) {
                Some(record) => found.push((target, record)),
                None => {
                    tracing::warn!(%target, "found mounted and not whole; the next publish mends it")
                }
            }
        }
        look.reconcile(found);
        Ok(self.shared.table.published())
    }
}

impl Shared {
    /// Looks whether a volume that is recorded as published is mounted.
    async fn is_mounted(&self, target: &Target) -> Result<bool, PublishError> {
        let (mounter, target) = (Arc::clone(&self.mounter), target.clone());
        match blocking(move || mounter.stat(&target)).await? {
            Ok(state) => Ok(state.stat.mounted),
            Err(MounterError::Refused(fault)) => Err(PublishError::NotSeen(fault)),
            Err(lost) => Err(lost.into()),
        }
    }

    async fn first_publish(
        self: Arc<Self>,
        claim: Claim,
        request: PublishRequest,
    ) -> Result<(), PublishError> {
        let done = self.mount(&request).await;
        let failure = match done {
            Ok(record) => {
                tracing::info!(request = %request.summary(), "published");
                claim.published(record);
                return Ok(());
            }
            Err(failure) => failure,
        };
        tracing::warn!(request = %request.summary(), error = %failure.error, "not published");
        match self.clean_up(&request.target, failure.attached).await {
            // It was whole all along, and the record of it was lost: a failed remount of a good volume is no failure.
            Ok(Some(mut record)) => {
                record.trouble = Some(failure.error.to_string());
                claim.published(record);
                Ok(())
            }
            Ok(None) => Err(failure.error),
            Err(error) => {
                let error = chain(&error);
                tracing::error!(target = %request.target, %error, "a failed publish could not be cleaned up");
                Err(PublishError::LeftMounted(Box::new(failure.error)))
            }
        }
    }

    /// Delivers and mounts a volume.
    async fn mount(self: &Arc<Self>, request: &PublishRequest) -> Result<Record, Failure> {
        let _permit = self
            .publishing
            .try_acquire()
            .map_err(|_| PublishError::TooMany)?;
        let broker = self.broker().ok_or(PublishError::NotJoined)?;
        let delivery = deliver(&broker, &self.keys, request, None, self.mounter.facts()).await;
        let sealed = match delivery.map_err(PublishError::from)? {
            Delivery::Released(sealed) => sealed,
            Delivery::Unchanged => return Err(PublishError::NotAsWritten.into()),
        };
        let shared = Arc::clone(self);
        let target = request.target.clone();
        let _writer = self
            .writing
            .acquire()
            .await
            .map_err(|_| PublishError::Stopping)?;
        blocking(move || {
            let package = sealed.open().map_err(PublishError::from)?;
            let made = shared.mounter.attach(&target).map_err(PublishError::from)?;
            shared.write(&target, &package).map_err(|error| Failure {
                error,
                attached: made,
            })
        })
        .await?
    }

    /// After a failed first publish: keeps what proves to have been whole before (`attached` says that it was not
    /// there), and unmounts everything else.
    async fn clean_up(
        self: &Arc<Self>,
        target: &Target,
        attached: bool,
    ) -> Result<Option<Record>, PublishError> {
        let (mounter, target) = (Arc::clone(&self.mounter), target.clone());
        let cleaned = blocking(move || {
            let seen = || -> Result<_, MounterError> {
                if !attached && let Some(record) = adopt(&mounter.stat(&target)?) {
                    return Ok(Some(record));
                }
                mounter.detach(&target).map(|_| None)
            };
            match seen() {
                // What stands there is not ours; beneath it may still be what is.
                Err(refused @ MounterError::Refused(fault)) if is_anothers(fault) => {
                    if mounter.list()?.contains(&target) {
                        return Err(refused);
                    }
                    Ok(None)
                }
                seen => seen,
            }
        });
        cleaned.await?.map_err(PublishError::from)
    }

    /// Writes a generation into a mounted volume and reads it back. Blocking.
    fn write(&self, target: &Target, package: &Package) -> Result<Record, PublishError> {
        self.mounter.write(target, &package.sealed)?;
        let stat = self.mounter.stat(target)?.stat;
        let as_written = stat.whole
            && stat.generation == Some(package.generation.folder())
            && stat.file_set == package.files.digest();
        if as_written {
            Ok(Record {
                held: Some(package.generation),
                trouble: None,
            })
        } else {
            Err(PublishError::NotAsWritten)
        }
    }

    fn broker(&self) -> Option<Arc<Broker>> {
        self.broker.borrow().clone()
    }
}

/// What is at the target's path was not put there by this plugin.
fn is_anothers(fault: Fault) -> bool {
    matches!(
        fault.code,
        FaultCode::NoVolumeFolder | FaultCode::PathRefused | FaultCode::ForeignMount
    )
}

/// A failed first publish.
struct Failure {
    error: PublishError,
    /// The mount was made by this very publish.
    attached: bool,
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        Self {
            error,
            attached: false,
        }
    }
}

/// The record of a mounted volume that is to its reader what was once written; whatever lies there besides is for the next
/// refresh to clear away, which then asks for all of it anew.
fn adopt(state: &VolumeState) -> Option<Record> {
    let held = metadata::held(&state.stat, state.metadata.as_deref())?;
    state.stat.complete.then_some(Record {
        held: state.stat.whole.then_some(held),
        trouble: None,
    })
}

/// Runs what blocks on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PublishError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| PublishError::Stopping)
}
