//! Who this node is: it joins once, renews at half life, and keeps its key and certificate in its own folder.
//!
//! ```text
//!             state folder usable
//! start ---------------------------> joined ---- half life, with jitter ----> renew: next key to disk, then sent;
//!   | nothing usable                  ^  ^                                     certificate to disk, then used on a
//!   v                                 |  |                                     new connection
//!  enroll with this node's evidence ---|  |------------------------------------- | done
//!                                     ended (broker or node was away): renew late, by the ended certificate's key;
//!                                     refused that: enroll again
//!                                     not known to the broker any more (its store was restored): noted, enroll again
//! ```
//! The next key is on disk before the broker hears of it, so a lost answer costs another renewal and never the
//! identity. Two processes never use one identity: the folder is locked, since a broker takes a replaced key for a
//! copy and bans it.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use attache_mtls::renew::{Freshness, Jitter, Renewal};
use attache_mtls::tls::MaterialError;
use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::{Notify, watch};

use super::broker::{Broker, BrokerError, CallError, Deadlines};
use crate::config::{Evidence, Trust};
use crate::telemetry::chain;
use enroll::EnrollError;
use issued::{Issued, IssuedError};
use state::{Found, Joined, StateDir, StateError};
use trust::Followed;

mod enroll;
mod issued;
mod join_token;
mod late;
mod state;
mod trust;

/// The first pause after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest one while nobody but this machine is asked.
const LONGEST_PAUSE_HERE: Duration = Duration::from_secs(5);
/// The wall clock is looked at this often: it may be set, and a suspended machine's timers lag behind it. So is the trust
/// bundle.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What joining and renewing take.
pub struct IdentitySettings {
    /// The agent's folder.
    pub state_dir: PathBuf,
    /// The broker's listener for nodes.
    pub address: Arc<str>,
    /// The broker's listener for joining.
    pub enroll_address: Arc<str>,
    /// Which broker, and by what it is known, where settings say so.
    pub trust: Option<Trust>,
    /// What is shown without a usable certificate.
    pub evidence: Evidence,
    /// Deadlines of the calls.
    pub deadlines: Deadlines,
}

/// Why this node has no identity for the moment.
#[derive(Debug, Error)]
enum IdentityError {
    #[error("the agent's state folder cannot be used")]
    State(#[from] StateError),
    #[error("this node has not joined")]
    Enroll(#[from] EnrollError),
    #[error("the own certificate cannot be used")]
    Broker(#[from] BrokerError),
    #[error("the certificate has ended, and was not renewed after its end")]
    Late(#[source] EnrollError),
    #[error("the certificate has ended")]
    Ended,
    #[error("the broker does not know this node's key any more")]
    Unknown,
    #[error("the agent is stopping")]
    Stopping,
}

/// Why a renewal did not succeed.
#[derive(Debug, Error)]
enum RenewError {
    #[error("the broker did not renew the certificate")]
    Call(#[from] CallError),
    #[error("the broker's answer is refused")]
    Issued(#[from] IssuedError),
    #[error("the renewed certificate cannot be used")]
    Material(#[from] MaterialError),
    #[error("the renewed certificate cannot be kept")]
    State(#[from] StateError),
    #[error("the agent is stopping")]
    Stopping,
}

impl From<Stopping> for IdentityError {
    fn from(Stopping: Stopping) -> Self {
        Self::Stopping
    }
}

impl From<Stopping> for RenewError {
    fn from(Stopping: Stopping) -> Self {
        Self::Stopping
    }
}

/// The threads for files are gone: the process is ending.
struct Stopping;

/// Joins, renews and joins again, for ever; `out` always holds the broker as this node may call it, or none.
///
/// Nothing that goes wrong here ends it: without an identity this node still unpublishes and answers for what is
/// mounted, and an administrator may mend what is wrong meanwhile; `reload` has it looked at without a pause.
///
/// # Cancel safety
/// May be dropped at any time: what is on disk is always usable, or finished at the next start.
pub async fn keep(
    settings: IdentitySettings,
    out: watch::Sender<Option<Arc<Broker>>>,
    reload: Arc<Notify>,
) -> Infallible {
    let mut state = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let Err(error) = keep_one(&settings, &mut state, &out, &reload).await;
        if out.send_replace(None).is_some() {
            pause = FIRST_PAUSE;
        }
        without_identity(&error);
        let longest = longest_pause(&error);
        drop(error);
        tokio::select! {
            () = tokio::time::sleep(pause.min(longest)) => pause = longest.min(pause * 2),
            () = reload.notified() => pause = FIRST_PAUSE,
        }
    }
}

/// What is missing on this machine is looked for more often than a broker is asked.
fn longest_pause(error: &IdentityError) -> Duration {
    match error {
        IdentityError::Enroll(EnrollError::Trust(_))
        | IdentityError::Late(EnrollError::Trust(_)) => LONGEST_PAUSE_HERE,
        IdentityError::State(_)
        | IdentityError::Enroll(_)
        | IdentityError::Late(_)
        | IdentityError::Broker(_)
        | IdentityError::Ended
        | IdentityError::Unknown
        | IdentityError::Stopping => LONGEST_PAUSE,
    }
}

fn without_identity(error: &IdentityError) {
    let error = chain(error);
    tracing::warn!(%error, "this node has no identity; trying again");
}

/// Comes by an identity, and keeps it until its certificate ends.
async fn keep_one(
    settings: &IdentitySettings,
    state: &mut Option<Arc<StateDir>>,
    out: &watch::Sender<Option<Arc<Broker>>>,
    reload: &Notify,
) -> Result<Infallible, IdentityError> {
    let state = match state {
        Some(state) => state,
        None => {
            let path = settings.state_dir.clone();
            state.insert(Arc::new(on_disk(move || StateDir::open(&path)).await??))
        }
    };
    let joined = come_by(settings, state).await?;
    let broker = Broker::new(
        joined.broker,
        joined.material,
        Arc::clone(&settings.address),
        settings.deadlines,
    )?;
    let broker = Arc::new(broker);
    let mut trust = settings
        .trust
        .as_ref()
        .map(|trust| Followed::new(&trust.bundle_file));
    follow(&broker, &mut trust).await?;
    let not_after = broker.material().identity().not_after();
    tracing::info!(node = %broker.node(), broker = %broker.id(), %not_after, "this node has an identity");
    out.send_replace(Some(Arc::clone(&broker)));
    match renew_while_valid(&broker, state, &mut trust, reload).await? {
        End::Ended => Err(IdentityError::Ended),
        End::Unknown => {
            let key = broker.material().identity().spki_sha256();
            with(state, move |state| state.note_unknown(key)).await??;
            Err(IdentityError::Unknown)
        }
    }
}

/// How a certificate that is renewed comes to its end.
enum End {
    /// Its time is over.
    Ended,
    /// The broker does not know its key.
    Unknown,
}

/// What is in the state folder, else what the broker gives for the key of an ended certificate, else for this node's
/// evidence. A broker that cannot be asked about the ended one is asked again: only its no leads to the evidence.
async fn come_by(
    settings: &IdentitySettings,
    state: &Arc<StateDir>,
) -> Result<Joined, IdentityError> {
    let found = with(state, |state| state.load(Timestamp::now())).await??;
    let trust = settings.trust.as_ref();
    let meant = |found: &Found| trust.is_none_or(|trust| trust.broker == *found.broker());
    let found = found.filter(meant);
    if let Some(Found::Usable(joined)) = found {
        return Ok(joined);
    }
    if let Some(Found::Unknown(broker)) = &found {
        tracing::warn!(%broker, "the broker does not know the certificate's key any more; enrolling anew");
    }
    let key = with(state, StateDir::next_key).await??;
    if let Some(Found::Ended(ended)) = found {
        match late::renew(settings, &ended, &key).await {
            Ok(issued) => {
                tracing::info!(node = %ended.node, "renewed after the certificate's end");
                let adopt = move |state: &StateDir| state.adopt(&issued, &ended.broker, &key);
                return Ok(with(state, adopt).await??);
            }
            Err(error) if error.is_the_brokers_no() => not_renewed_late(&error),
            Err(error) => return Err(IdentityError::Late(error)),
        }
    }
    let enroll::Answer { issued, broker } = enroll::enroll(settings, &key).await?;
    Ok(with(state, move |state| state.adopt(&issued, &broker, &key)).await??)
}

fn not_renewed_late(error: &EnrollError) {
    tracing::warn!(
        error = %chain(error),
        "the certificate has ended and is not renewed any more; enrolling anew"
    );
}

/// Takes the followed trust bundle into use where it is another than the one in use, whoever brought that.
async fn follow(broker: &Arc<Broker>, trust: &mut Option<Followed>) -> Result<(), Stopping> {
    let Some(mut followed) = trust.take() else {
        return Ok(());
    };
    let used = Arc::clone(broker.material().bundle());
    let (followed, newer) = on_disk(move || {
        let newer = followed.newer(&used);
        (followed, newer)
    })
    .await?;
    *trust = Some(followed);
    if let Some(bundle) = newer {
        broker.trust(bundle);
        tracing::info!("took up the trust bundle");
    }
    Ok(())
}

/// Renews the certificate at its time, until one ends or the broker does not know it any more; takes up what is on disk
/// when it is told so.
async fn renew_while_valid(
    broker: &Arc<Broker>,
    state: &Arc<StateDir>,
    trust: &mut Option<Followed>,
    reload: &Notify,
) -> Result<End, Stopping> {
    let mut pause = FIRST_PAUSE;
    let mut plan = plan(broker);
    loop {
        follow(broker, trust).await?;
        match plan.freshness(Timestamp::now()) {
            Freshness::Expired { .. } => return Ok(End::Ended),
            Freshness::Fresh { renew_at } => tokio::select! {
                () = tokio::time::sleep(until(renew_at)) => {}
                () = broker.key_unknown() => return Ok(End::Unknown),
                () = reload.notified() => {
                    if take_up(broker, state).await {
                        plan = self::plan(broker);
                    }
                }
            },
            Freshness::Due { not_after } => match renew(broker, state).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    plan = self::plan(broker);
                    let not_after = broker.material().identity().not_after();
                    tracing::info!(node = %broker.node(), %not_after, "renewed");
                    // A certificate that is due again already must not become a loop without a rest.
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
                Err(error) => {
                    not_renewed(&error, not_after);
                    drop(error);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => pause = LONGEST_PAUSE.min(pause * 2),
                        () = broker.key_unknown() => return Ok(End::Unknown),
                    }
                }
            },
        }
    }
}

/// Takes up the certificate and the trust bundle that are on disk; what does not do there is left alone.
async fn take_up(broker: &Broker, state: &Arc<StateDir>) -> bool {
    let found = match with(state, |state| state.load(Timestamp::now())).await {
        Ok(Ok(found)) => found
            .and_then(Found::usable)
            .filter(|found| found.broker == *broker.id()),
        Ok(Err(error)) => {
            let error = chain(&error);
            tracing::warn!(%error, "the certificate was not reloaded");
            return false;
        }
        Err(Stopping) => return false,
    };
    let taken = found.map(|found| broker.renewed(found.material));
    if let Some(Ok(())) = taken {
        let not_after = broker.material().identity().not_after();
        tracing::info!(%not_after, "reloaded the certificate and the trust bundle");
        return true;
    }
    tracing::warn!(
        "the certificate was not reloaded: the state folder has none of this node for this broker"
    );
    false
}

fn not_renewed(error: &RenewError, not_after: Timestamp) {
    let error = chain(error);
    tracing::warn!(%not_after, %error, "not renewed; trying again");
}

/// One renewal: the next key is on disk before it is sent, the certificate before it is used.
async fn renew(broker: &Arc<Broker>, state: &Arc<StateDir>) -> Result<(), RenewError> {
    let key = with(state, StateDir::next_key).await??;
    let csr = key.certificate_request().map_err(StateError::from)?;
    let response = broker.renew(csr).await?;
    let issued = Issued::check(response.certificate, &key, Timestamp::now())?;
    issued.require_id(broker.node())?;
    let broker_id = broker.id().clone();
    let joined = with(state, move |state| state.adopt(&issued, &broker_id, &key)).await??;
    broker.renewed(joined.material)?;
    Ok(())
}

fn plan(broker: &Broker) -> Renewal {
    let material = broker.material();
    let (begin, end) = (
        material.identity().not_before(),
        material.identity().not_after(),
    );
    Renewal::new(begin, end, Jitter::random())
}

fn until(instant: Timestamp) -> Duration {
    let left = Duration::try_from(instant.duration_since(Timestamp::now())).unwrap_or_default();
    left.clamp(Duration::from_millis(10), LOOK_EVERY)
}

/// Does the files' work on a thread for that.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stopping> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Stopping)
}

async fn with<T: Send + 'static>(
    state: &Arc<StateDir>,
    work: impl FnOnce(&StateDir) -> T + Send + 'static,
) -> Result<T, Stopping> {
    let state = Arc::clone(state);
    on_disk(move || work(&state)).await
}
