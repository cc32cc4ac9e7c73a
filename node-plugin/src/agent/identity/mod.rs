//! Who this node is: it joins once, renews at half life, and keeps its key and certificate in its own folder.
//!
//! ```text
//!             state folder usable
//! start ---------------------------> joined ---- half life, with jitter ----> renew: next key to disk, then sent;
//!   | nothing usable                  ^  ^                                     certificate to disk, then used on a
//!   v                                 |  |                                     new connection
//!  join with the one-time token ------|  |------------------------------------- | done
//!                                     ended (the broker was away too long): join again
//! ```
//! The next key is on disk before the broker hears of it, so a lost answer costs another renewal and never the
//! identity. Two processes never use one identity: the folder is locked, since a broker takes a replaced key for a
//! copy and bans it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use attache_mtls::renew::{Freshness, Jitter, Renewal};
use attache_mtls::tls::MaterialError;
use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::watch;

use super::broker::{Broker, BrokerError, CallError, Deadlines};
use issued::{Issued, IssuedError};
use join::JoinError;
use state::{Joined, StateDir, StateError};

mod issued;
mod join;
mod state;

pub use state::StateDir as State;

/// The first pause after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The wall clock is looked at this often: it may be set, and a suspended machine's timers lag behind it.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What joining and renewing take.
pub struct IdentitySettings {
    /// The broker's listener for nodes.
    pub address: SocketAddr,
    /// The broker's listener for joining.
    pub enroll_address: SocketAddr,
    /// The file of the join token.
    pub join_token_file: PathBuf,
    /// Deadlines of the calls.
    pub deadlines: Deadlines,
}

/// Why the agent cannot keep an identity: for its log, and its end.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The state folder.
    #[error("the agent's state folder cannot be used")]
    State(#[from] StateError),
    /// The own certificate.
    #[error("the own certificate cannot be used")]
    Broker(#[from] BrokerError),
    /// The thread that does the files' work is gone.
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
    #[error(transparent)]
    Own(#[from] IdentityError),
}

impl From<StateError> for RenewError {
    fn from(error: StateError) -> Self {
        Self::Own(error.into())
    }
}

/// Joins, renews and joins again, for ever; `out` always holds the broker as this node may call it.
///
/// # Errors
/// [`IdentityError`]: what no other try can mend.
///
/// # Cancel safety
/// May be dropped at any time: what is on disk is always usable, or finished at the next start.
pub async fn keep(
    settings: IdentitySettings,
    state: StateDir,
    out: watch::Sender<Option<Arc<Broker>>>,
) -> Result<std::convert::Infallible, IdentityError> {
    let state = Arc::new(state);
    loop {
        let joined = match on_disk(&state, |state| state.load(Timestamp::now())).await?? {
            Some(joined) => joined,
            None => join_at_last(&settings, &state).await?,
        };
        let broker = Broker::new(joined.broker, joined.material, settings.address, settings.deadlines)?;
        let broker = Arc::new(broker);
        let not_after = broker.material().identity().not_after();
        tracing::info!(node = %broker.node(), broker = %broker.id(), %not_after, "this node has an identity");
        out.send_replace(Some(Arc::clone(&broker)));
        renew_while_valid(&broker, &state).await?;
        tracing::error!(node = %broker.node(), "the certificate has ended; this node must join again");
        out.send_replace(None);
    }
}

/// Tries to join until it succeeds. The token's file is read anew each time: an administrator may have replaced it.
async fn join_at_last(settings: &IdentitySettings, state: &Arc<StateDir>) -> Result<Joined, IdentityError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let key = on_disk(state, StateDir::next_key).await??;
        let attempt = join::join(settings, &key).await;
        let adopted = match attempt {
            Ok(join::Answer { issued, broker }) => {
                on_disk(state, move |state| state.adopt(&issued, &broker, &key)).await?
            }
            Err(error) => {
                not_joined(&error);
                tokio::time::sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
                continue;
            }
        };
        return Ok(adopted?);
    }
}

fn not_joined(error: &JoinError) {
    let error = error as &(dyn std::error::Error + 'static);
    tracing::warn!(error, "this node has not joined; trying again");
}

/// Renews the certificate at its time, until one ends.
async fn renew_while_valid(broker: &Arc<Broker>, state: &Arc<StateDir>) -> Result<(), IdentityError> {
    let mut pause = FIRST_PAUSE;
    let mut plan = plan(broker);
    loop {
        match plan.freshness(Timestamp::now()) {
            Freshness::Expired { .. } => return Ok(()),
            Freshness::Fresh { renew_at } => tokio::time::sleep(until(renew_at)).await,
            Freshness::Due { not_after } => match renew(broker, state).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    plan = self::plan(broker);
                    let not_after = broker.material().identity().not_after();
                    tracing::info!(node = %broker.node(), %not_after, "renewed");
                    // A certificate that is due again already must not become a loop without a rest.
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
                Err(RenewError::Own(error)) => return Err(error),
                Err(error) => {
                    not_renewed(&error, not_after);
                    tokio::time::sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            },
        }
    }
}

fn not_renewed(error: &RenewError, not_after: Timestamp) {
    let error = error as &(dyn std::error::Error + 'static);
    tracing::warn!(%not_after, error, "not renewed; trying again");
}

/// One renewal: the next key is on disk before it is sent, the certificate before it is used.
async fn renew(broker: &Arc<Broker>, state: &Arc<StateDir>) -> Result<(), RenewError> {
    let key = on_disk(state, StateDir::next_key).await??;
    let csr = key.certificate_request().map_err(StateError::from)?;
    let response = broker.renew(csr).await?;
    let issued = Issued::check(response.certificate, &key, Timestamp::now())?;
    issued.require_id(broker.node())?;
    let broker_id = broker.id().clone();
    let joined = on_disk(state, move |state| state.adopt(&issued, &broker_id, &key)).await??;
    broker.renewed(joined.material)?;
    Ok(())
}

fn plan(broker: &Broker) -> Renewal {
    let material = broker.material();
    let (begin, end) = (material.identity().not_before(), material.identity().not_after());
    Renewal::new(begin, end, Jitter::random())
}

fn until(instant: Timestamp) -> Duration {
    let left = Duration::try_from(instant.duration_since(Timestamp::now())).unwrap_or_default();
    left.clamp(Duration::from_millis(10), LOOK_EVERY)
}

async fn on_disk<T: Send + 'static>(
    state: &Arc<StateDir>,
    work: impl FnOnce(&StateDir) -> T + Send + 'static,
) -> Result<T, IdentityError> {
    let state = Arc::clone(state);
    tokio::task::spawn_blocking(move || work(&state)).await.map_err(|_| IdentityError::Stopping)
}
