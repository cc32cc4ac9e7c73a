//! The sealed state: health and unseal only, and its own openers tried again and again.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use attache_envelope::{Random, SystemRandom, unseal::fingerprint};
use attache_mtls::{
    bundle::TrustBundle, key::LeafKey, public_file::read_public, tls::Credentials, tls::Material,
};
use tokio_util::sync::CancellationToken;

use super::{
    lifetime::{Lifetime, Signalled, Signals},
    serve::enroll_acceptor,
    server_certificate,
    sockets::listening,
};
use crate::{
    api::{self, SealedListeners},
    causes::with_causes,
    keys::{Keys, there},
    seal::{Attempts, OperatorSeal, Sealed},
};

/// How soon the own openers are tried again, and how long that may become.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// What answers have to get away once the state ends.
const DRAIN: Duration = Duration::from_millis(500);
/// CA certificates are never more, in bytes.
const BUNDLE_MAX: u64 = 256 * 1024;

/// How a sealed time ended.
pub(super) enum Left {
    /// Something opened a slot.
    Opened(Keys),
    /// A signal said stop.
    Stopped,
}

/// Stays sealed until something opens a slot, or a signal says stop. After an operator's seal the broker's own openers are
/// not tried: whoever sealed it wants a person there. What goes wrong is told and tried again: a process that ends is
/// started again, and nothing is better then.
pub(super) async fn stay_sealed(
    lifetime: &Lifetime,
    by_operator: &OperatorSeal,
    signals: &mut Signals,
) -> Left {
    let mut pause = AGAIN.0;
    loop {
        let error = match sealed_time(lifetime, by_operator, signals).await {
            Ok(left) => return left,
            Err(error) => format!("{error:#}"),
        };
        tracing::error!(
            error,
            "the broker stays sealed and cannot be opened now; trying again"
        );
        tokio::select! {
            () = stopped(signals) => return Left::Stopped,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(AGAIN.1);
    }
}

/// One sealed time, with a boot key of its own.
async fn sealed_time(
    lifetime: &Lifetime,
    by_operator: &OperatorSeal,
    signals: &mut Signals,
) -> Result<Left> {
    let config = &lifetime.config;
    let attempts = Attempts::read(&config.store.unseal_attempts());
    let (sealed, mut opened) = Sealed::begin(
        &lifetime.arena,
        Arc::clone(&lifetime.store),
        config.id.clone(),
        by_operator.clone(),
        &config.keys.openers,
        attempts,
    )
    .await?;
    let listeners = SealedListeners {
        enroll: lifetime.sockets.enroll()?,
        acceptor: enroll_acceptor(config, &credentials(lifetime)?)?,
        admin: lifetime.sockets.admin()?,
    };
    let enroll = listeners.enroll.local_addr()?;
    let stop = CancellationToken::new();
    // However it ends: what serves it goes with it.
    let _stopped = stop.clone().drop_guard();
    let told = tell_metrics(lifetime, &stop)?;
    let status = announce(lifetime, &sealed, enroll);
    let sealed = Arc::new(sealed);
    let acceptor = listeners.acceptor.clone();
    let mut server = tokio::spawn(api::serve_sealed(
        Arc::clone(&sealed),
        listeners,
        config.limits,
        lifetime.metrics.clone(),
        stop.clone(),
    ));
    let text = listening(None, enroll, told);
    // Nobody who sealed it wants it open again because its disk is full.
    if let Err(error) = server_certificate::publish(&config.store.listening(), text.as_bytes()) {
        let error = format!("{error:#}");
        tracing::warn!(error, "where the broker listens is not written down");
    }
    let _ = sd_notify::notify(&[
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::Status(&status),
    ]);
    let left = tokio::select! {
        () = stopped(signals) => Ok(Left::Stopped),
        keys = opened.recv() => keys.map(Left::Opened).context("the sealed broker's server has gone"),
        never = sealed.sweep() => match never {},
        keys = own_openers(lifetime), if !by_operator.is_there() => Ok(Left::Opened(keys)),
        ended = &mut server => ended
            .unwrap_or_else(|error| Err(error.into()))
            .and_then(|()| bail!("the sealed broker's server ended by itself")),
    };
    stop.cancel();
    if !server.is_finished() && tokio::time::timeout(DRAIN, &mut server).await.is_err() {
        server.abort();
    }
    acceptor.close_where(|_| true);
    sealed.end().await;
    left
}

/// Tells the log what opens it; answers what to tell the supervisor. Before anybody is answered: the boot key is compared with this.
fn announce(lifetime: &Lifetime, sealed: &Sealed, enroll: SocketAddr) -> String {
    let (slots, boot_key) = (
        there(sealed.slots()),
        hex::encode(fingerprint(sealed.boot_key())),
    );
    let by_operator = sealed.by_operator().is_there();
    tracing::warn!(%enroll, broker = %lifetime.config.id, by_operator, slots, boot_key, "sealed: open it with attache broker unseal");
    let by = if by_operator { " by an operator" } else { "" };
    format!("sealed{by}; any of these slots opens it: {slots}")
}

/// Waits for a signal that says stop. There is nothing to read again: that is done when the broker opens.
async fn stopped(signals: &mut Signals) {
    while signals.told().await != Signalled::Stop {}
}

/// Tries what the settings name until it opens a slot.
async fn own_openers(lifetime: &Lifetime) -> Keys {
    let openers = &lifetime.config.keys.openers;
    if openers.is_empty() {
        return std::future::pending().await;
    }
    let mut pause = AGAIN.0;
    loop {
        tokio::time::sleep(spread(pause)).await;
        pause = (pause * 2).min(AGAIN.1);
        match Keys::open_by(&lifetime.arena, lifetime.store.as_ref(), openers).await {
            Ok(keys) => return keys,
            Err(error) if error.lacks_an_opener() => {
                tracing::debug!(error = %with_causes(&error), "still sealed");
            }
            Err(error) => {
                let error = with_causes(&error);
                tracing::error!(
                    error,
                    "still sealed: what the settings name cannot open the store"
                );
            }
        }
    }
}

/// A pause of three quarters to five quarters: brokers that lost one plugin do not ask it all at once.
fn spread(pause: Duration) -> Duration {
    let mut drawn = [128];
    // Without randomness it is the pause itself.
    let _ = SystemRandom.fill(&mut drawn);
    let [drawn] = drawn;
    pause * 3 / 4 + pause / 2 * u32::from(drawn) / 255
}

/// The server's certificate as it is on the disk, ended or not: there is nothing here that could make another.
fn credentials(lifetime: &Lifetime) -> Result<Credentials> {
    let store = &lifetime.config.store;
    let path = store.trust_bundle();
    let bundle = read_public(&path, BUNDLE_MAX).with_context(|| path.display().to_string())?;
    let bundle = TrustBundle::from_pem(&bundle).with_context(|| path.display().to_string())?;
    let path = store.server_certificate();
    let chain = read_public(&path, server_certificate::CHAIN_MAX);
    let chain = chain.with_context(|| format!("cannot read {}", path.display()))?;
    let key = LeafKey::read(&store.server_key())?;
    let material = Material::from_pem(&chain, &key, Arc::new(bundle));
    Ok(Credentials::new(
        material.with_context(|| path.display().to_string())?,
    ))
}

fn tell_metrics(lifetime: &Lifetime, stop: &CancellationToken) -> Result<Option<SocketAddr>> {
    let Some(listener) = lifetime.sockets.metrics()? else {
        return Ok(None);
    };
    let bound = listener.local_addr()?;
    let (registry, stop) = (lifetime.metrics.sealed_registry(), stop.clone());
    tokio::spawn(async move {
        if let Err(error) = attache_metrics::serve(listener, registry, stop).await {
            tracing::error!(%error, "the metrics are not answered any more");
        }
    });
    Ok(Some(bound))
}
