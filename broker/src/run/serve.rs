//! `attache-broker serve`: opens store and log, holds them against each other, listens, and stops in order.
//!
//! ```text
//! store, keys -> audit log (not shorter than the store knows) -> ledger (not older than the log knows)
//!   -> open intents closed
//!   -> who may call, what is registered -> listeners -> ready ... stop accepting, drain, counts on record, close
//! ```
//! SIGTERM and SIGINT stop it, SIGHUP has it read its settings' log filter, its certificate and its key again. A store
//! or an audit log that failed ends the process: only a start can tell what the disk holds.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use attache_envelope::{SystemRandom, id::BootId};
use attache_mtls::{
    accept::{AcceptLimits, Acceptor},
    spiffe::PeerId,
    tls::Credentials,
};
use attache_translog::{Anchor, Start, Stop};
use jiff::Timestamp;
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    AuditSeed, block_on, chain_id, descriptors, incarnation, meta, open, server_certificate,
    telemetry,
};
use crate::{
    api::{self, Listeners, Services, room::Room},
    attest::Attestor,
    audit::{AuditLog, Clock, LogOptions, LogState, Recovered, Refusals},
    config::Config,
    identity::{Authority, CutOff, Directory, Gate, keep_published, keep_untainted},
    keys::Keys,
    metrics::{Metrics, Standing},
    mutation::Mutations,
    registry::Registry,
    release::{Counters, Parts, Releases, sessions::Sessions},
    removal::{self, Removals},
    rotation::{self, Rotations},
    scrub::Scrub,
    store::{BrokerLedger, Health, Ledger, LedgerOptions, RedbStore, Store, anchored_head},
    vault::BrokerVault,
};

/// Connections that wait to be accepted: as many as the system takes (net.core.somaxconn), since past it a flood makes honest
/// ones wait a second each.
const BACKLOG: u32 = 4096;

/// The refusals that were counted are put on record this often.
const SWEEP: std::time::Duration = std::time::Duration::from_secs(5);

/// Serves until told to stop. `accept_rollback_to`: the sequence at which a store stands that is older than what is known
/// of it, and is accepted all the same.
///
/// # Errors
/// When anything that serving stands on cannot be opened, or fails for good.
pub fn serve(config: Config, file: &Path, accept_rollback_to: Option<u64>) -> Result<ExitCode> {
    let filter = telemetry::start(&config.telemetry)?;
    descriptors::provide(&config.limits)?;
    let settings = Reloadable {
        file: file.to_owned(),
        filter,
    };
    block_on(async {
        // From here on: whoever finds it live may stop it.
        let signals = Signals::take()?;
        if let Some(seq) = accept_rollback_to {
            incarnation::accept_rollback(&config, seq).await?;
        }
        let broker = Broker::open(config).await?;
        let listeners = broker.listen().await?;
        broker.run(listeners, settings, signals).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What SIGHUP reads again.
struct Reloadable {
    file: PathBuf,
    filter: telemetry::Filter,
}

/// Everything that a serving broker holds.
pub(super) struct Broker {
    config: Config,
    ledger: BrokerLedger,
    log: AuditLog,
    refusals: Refusals,
    credentials: Credentials,
    authority: Authority,
    pub(super) services: Services,
    scrub: Arc<Scrub>,
    tasks: TaskTracker,
}

impl Broker {
    /// Opens everything, and listens nowhere yet.
    pub(super) async fn open(config: Config) -> Result<Self> {
        let arena = open::arena(&config)?;
        let (store, keys) = open::store(&config, &arena).await?;
        let boot = BootId::random(&SystemRandom)?;
        let (log, mut recovered) = open_log(&config, store.as_ref(), &keys, boot).await?;
        let ledger = open_ledger(&config, store, &keys, &log, &recovered).await?;
        let tasks = TaskTracker::new();
        let intents = std::mem::take(&mut recovered.open_intents);
        let mutations =
            Mutations::open(log.clone(), ledger.clone(), intents, tasks.clone()).await?;
        let refusals = Refusals::new(log.clone(), &mut recovered);
        start_on_record(&config, &keys, &log, &ledger).await?;

        let authority = Authority::load(meta::ca(&ledger).await?, Arc::clone(&keys))?;
        let credentials = credentials(&config, &authority)?;
        let directory = Directory::load(&ledger).await?;
        let metrics = Metrics::default();
        let registry = Arc::new(Registry::load(&ledger, metrics.api()).await?);
        let vault = BrokerVault::new(ledger.clone(), keys, config.id.clone(), boot)?;
        let vault = Arc::new(vault);
        let (scrub, scrubbed) = Scrub::new(Arc::clone(&vault), config.scrub_interval);
        let counters = Arc::new(Counters::default());
        let sessions = Sessions::new(vault.store_id(), &config.id, boot);
        let acceptor = Acceptor::new(credentials.server_config()?, accept_limits(&config));
        let gate = Gate::new(
            ledger.clone(),
            log.clone(),
            authority.clone(),
            directory.clone(),
            config.id.to_string(),
            cut_off(&acceptor, &sessions),
            Arc::clone(registry.clusters()),
        );
        let gate = Arc::new(gate.restored(meta::incarnation_begun(&ledger).await?));
        let releases = Releases::new(Parts {
            vault: Arc::clone(&vault),
            incarnation: ledger.incarnation(),
            attestor: Attestor::new(Arc::clone(registry.clusters())),
            policies: Arc::clone(registry.policies()),
            directory: directory.clone(),
            log: log.clone(),
            refusals: refusals.clone(),
            counters: Arc::clone(&counters),
            sessions: sessions.clone(),
            tasks: tasks.clone(),
        });
        let services = Services {
            gate,
            registry,
            vault,
            mutations,
            rotations: Rotations::default(),
            scrubbed,
            removals: Removals::default(),
            log: log.clone(),
            refusals: refusals.clone(),
            releases,
            sessions,
            counters,
            metrics,
            credentials: credentials.clone(),
            clock: log.clock().clone(),
            kms: config.keys.kms().cloned(),
            started_ms: log.clock().now_ms(),
            room: room(&config),
            store_file: config.store.store(),
            acceptor,
            enroll_acceptor: enroll_acceptor(&config, &credentials)?,
        };
        Ok(Self {
            config,
            ledger,
            log,
            refusals,
            credentials,
            authority,
            services,
            scrub: Arc::new(scrub),
            tasks,
        })
    }

    async fn listen(&self) -> Result<Listeners> {
        let admin = api::admin::bind(&self.config.listen.admin).with_context(|| {
            format!(
                "cannot listen on {} (listen.admin)",
                self.config.listen.admin.display()
            )
        })?;
        Ok(Listeners {
            grpc: bind("listen.grpc", self.config.listen.grpc)?,
            enroll: bind("listen.enroll", self.config.listen.enroll)?,
            admin,
        })
    }

    /// Serves until a signal or a failure, then stops in order.
    async fn run(
        self,
        listeners: Listeners,
        settings: Reloadable,
        mut signals: Signals,
    ) -> Result<()> {
        let stop = CancellationToken::new();
        let (rewrapping, removing) = (self.rewrapping().await?, self.removing().await?);
        let (serves, serving) = watch::channel(true);
        let (grpc, enroll) = (listeners.grpc.local_addr()?, listeners.enroll.local_addr()?);
        let metrics = self.tell_metrics(serving.clone(), &stop).await?;
        let mut servers = tokio::spawn(api::serve(
            self.services.clone(),
            listeners,
            self.config.limits,
            serving,
            stop.clone(),
        ));
        let clusters = Arc::clone(self.services.registry.clusters());
        let gate = Arc::clone(&self.services.gate);
        if self.config.lift_startup_taint {
            let directory = gate.directory().clone();
            tokio::spawn(keep_untainted(
                directory,
                Arc::clone(&clusters),
                stop.clone(),
            ));
        }
        tokio::spawn(keep_published(gate, clusters, stop.clone()));
        self.tasks.spawn(rewrapping.run(stop.clone()));
        let scrub = Arc::clone(&self.scrub);
        self.tasks.spawn(scrub.run(stop.clone()));
        self.tasks.spawn(removing.run(stop.clone()));
        let listening = listening(grpc, enroll, metrics);
        server_certificate::publish(&self.config.store.listening(), listening.as_bytes())?;
        let ca = self.authority.pin();
        tracing::info!(%grpc, %enroll, broker = %self.config.id, %ca, "serving");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

        let told = self
            .until_told(&settings, &mut signals, &serves, &mut servers)
            .await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        tracing::info!("stopping");
        serves.send_replace(false);
        stop.cancel();
        if !servers.is_finished()
            && tokio::time::timeout(self.config.limits.drain, &mut servers)
                .await
                .is_err()
        {
            tracing::warn!("requests were still under way when the drain ended");
            servers.abort();
        }
        self.close().await;
        told
    }

    /// What goes on with the rotations that a start finds, before anybody may ask for more.
    async fn rewrapping(&self) -> Result<rotation::Worker> {
        let services = &self.services;
        let (vault, rotations) = (Arc::clone(&services.vault), services.rotations.clone());
        Ok(rotation::Worker::new(vault, self.log.clone(), rotations).await?)
    }

    /// What goes on with the keyspaces that a start finds destroyed and not removed.
    async fn removing(&self) -> Result<removal::Worker> {
        let services = &self.services;
        let (vault, removals) = (Arc::clone(&services.vault), services.removals.clone());
        Ok(removal::Worker::new(vault, self.log.clone(), removals).await?)
    }

    /// Answers `GET /metrics` until `stop`, where the settings say so; answers where.
    async fn tell_metrics(
        &self,
        serving: watch::Receiver<bool>,
        stop: &CancellationToken,
    ) -> Result<Option<SocketAddr>> {
        let Some(address) = self.config.listen.metrics else {
            return Ok(None);
        };
        let listener = bind("listen.metrics", address)?;
        let bound = listener.local_addr()?;
        let registry = self.services.metrics.registry(Standing {
            serving,
            log: self.log.clone(),
            audit_dir: self.config.audit_dir.clone(),
            ledger: self.ledger.clone(),
            store: self.config.store.store(),
            scrubbed: self.services.scrubbed.clone(),
            credentials: self.credentials.clone(),
            directory: self.services.gate.directory().clone(),
            ca_not_after: self.authority.not_after(),
        });
        let stop = stop.clone();
        tokio::spawn(async move {
            if let Err(error) = attache_metrics::serve(listener, registry, stop).await {
                tracing::error!(%error, "the metrics are not answered any more");
            }
        });
        Ok(Some(bound))
    }

    /// Lets what was begun end, puts the end on record, and closes store and log.
    pub(super) async fn close(self) {
        self.tasks.close();
        self.tasks.wait().await;
        let flushed = self.refusals.flush().await;
        let stopped = self
            .log
            .append(Stop {
                broker: self.config.id.to_string(),
            })
            .await;
        self.ledger.close().await;
        self.log.close().await;
        if let Err(error) = flushed.and(stopped.map(drop)) {
            tracing::warn!(%error, "the end could not be put on record");
        }
    }

    /// Keeps house until a signal says stop, or something fails for good that serving stands on.
    async fn until_told(
        &self,
        settings: &Reloadable,
        signals: &mut Signals,
        serves: &watch::Sender<bool>,
        servers: &mut JoinHandle<Result<()>>,
    ) -> Result<()> {
        let mut health = self.ledger.store().health();
        let mut log = self.log.state();
        let mut sweep = tokio::time::interval(SWEEP);
        let mut certificate = tokio::time::interval(server_certificate::LOOK);
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
                _ = signals.hangup.recv() => self.reload(settings),
                _ = certificate.tick() => self.renew(),
                _ = sweep.tick() => {
                    self.services.sessions.sweep();
                    if *log.borrow() == LogState::Full {
                        // Nobody may ask a broker that is not serving: whether there is room again shows here.
                        let _tried = anchor_on_record(&self.log, &self.ledger).await;
                    }
                    if let Err(error) = self.refusals.sweep().await {
                        tracing::warn!(%error, "the counts of refusals wait for the audit log");
                    }
                }
                changed = health.changed() => {
                    if changed.is_err() {
                        bail!("the store has gone");
                    }
                    if let Health::Failed(why) = &*health.borrow() {
                        bail!("the store failed and nothing more can be trusted to it: {why}");
                    }
                }
                changed = log.changed() => {
                    let state = *log.borrow_and_update();
                    if changed.is_err() || state == LogState::Failed {
                        bail!("the audit log failed, and nothing happens without it");
                    }
                    serves.send_replace(state == LogState::Writing);
                }
                ended = &mut *servers => {
                    return ended.unwrap_or_else(|error| Err(error.into())).and_then(|()| bail!("the servers ended by themselves"));
                }
            }
        }
    }

    /// SIGHUP: certificate, key and log filter, from disk. What is wrong is left as it was.
    fn reload(&self, settings: &Reloadable) {
        self.renew();
        let reloaded = Config::read(&settings.file)
            .map_err(anyhow::Error::from)
            .and_then(|config| telemetry::parse(&config.telemetry.log))
            .and_then(|filter| Ok(settings.filter.reload(filter)?));
        match reloaded {
            Ok(()) => tracing::info!("reloaded the certificate and the log filter"),
            Err(error) => {
                let file = settings.file.display();
                tracing::warn!(%file, error = %format!("{error:#}"), "the log filter was not reloaded");
            }
        }
    }

    fn renew(&self) {
        if let Err(error) =
            server_certificate::reload(&self.config, &self.authority, &self.credentials)
        {
            tracing::warn!(error = %format!("{error:#}"), "the server certificate was not reloaded");
        }
    }
}

fn bind(key: &str, address: SocketAddr) -> Result<TcpListener> {
    let bound = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().with_context(|| format!("cannot listen on {address} ({key})"))
}

/// The text of `listen.json`: where a broker really listens, which its settings may leave to the system.
fn listening(grpc: SocketAddr, enroll: SocketAddr, metrics: Option<SocketAddr>) -> String {
    let metrics = metrics.map_or_else(String::new, |at| format!(", \"metrics\": \"{at}\""));
    format!("{{\"grpc\": \"{grpc}\", \"enroll\": \"{enroll}\"{metrics}}}\n")
}

pub(super) async fn open_log(
    config: &Config,
    store: &RedbStore,
    keys: &Arc<Keys>,
    boot: BootId,
) -> Result<(AuditLog, Recovered)> {
    let chain = meta::chain(store, keys, &config.id).await?;
    let chain = chain.unwrap_or_else(|| chain_id(keys.store_id(), &config.id));
    let options = LogOptions {
        dir: config.audit_dir.clone(),
        store: keys.store_id(),
        chain,
        boot,
        anchored: anchored_head(store, keys, chain).await?,
        segment_bytes: LogOptions::SEGMENT_BYTES,
        clock: Clock::system(),
    };
    let (log, recovered) = AuditLog::open(options, AuditSeed(Arc::clone(keys)))?;
    if recovered.size == 0 {
        bail!(
            "the audit folder {} has no segment, and the log of this store began with init: put it back, or name the right \
             folder in audit.dir",
            config.audit_dir.display()
        );
    }
    Ok((log, recovered))
}

async fn open_ledger(
    config: &Config,
    store: Arc<RedbStore>,
    keys: &Keys,
    log: &AuditLog,
    recovered: &Recovered,
) -> Result<BrokerLedger> {
    let head_of = log.clone();
    let options = LedgerOptions {
        anchor_note: config.store.anchor(),
        audit_head: Box::new(move || {
            let head = head_of.head();
            Some((*head_of.chain(), head.size, head.root))
        }),
        audited: recovered.audited,
    };
    Ok(Ledger::open(store, keys, options).await?)
}

/// The start of this process, with where the store stands.
async fn start_on_record(
    config: &Config,
    keys: &Keys,
    log: &AuditLog,
    ledger: &BrokerLedger,
) -> Result<()> {
    let position = ledger.position();
    let start = Start {
        broker: config.id.to_string(),
        incarnation: ledger.incarnation(),
        seq: position.seq,
        software: env!("CARGO_PKG_VERSION").to_owned(),
        key_memory: keys.arena().protection().to_string(),
    };
    let _receipt = log.append(start).await?;
    anchor_on_record(log, ledger).await
}

async fn anchor_on_record(log: &AuditLog, ledger: &BrokerLedger) -> Result<()> {
    let position = ledger.position();
    let anchor = Anchor {
        incarnation: ledger.incarnation(),
        seq: position.seq,
        t: position.anchor_t,
    };
    let _receipt = log.append(anchor).await?;
    Ok(())
}

/// The server's certificate; the trust bundle is written beside it.
fn credentials(config: &Config, authority: &Authority) -> Result<Credentials> {
    server_certificate::write_bundle(config, authority)?;
    let material = server_certificate::load(config, authority, Timestamp::now())?;
    Ok(Credentials::new(material))
}

/// Closes an identity's connections and ends its sealing sessions.
fn cut_off(acceptor: &Acceptor, sessions: &Sessions) -> CutOff {
    let (acceptor, sessions) = (acceptor.clone(), sessions.clone());
    Box::new(move |id| {
        if let PeerId::Node(node) = id {
            sessions.end(node);
        }
        acceptor.close_where(|info| info.peer.as_ref().is_some_and(|peer| peer.id() == id));
    })
}

fn room(config: &Config) -> Room {
    Room::new(
        config.limits.deliveries_per_node,
        config.limits.deliveries_per_node_per_s,
    )
}

fn accept_limits(config: &Config) -> AcceptLimits {
    AcceptLimits {
        handshake_timeout: config.limits.handshake_timeout,
        max_handshakes: config.limits.handshakes,
        max_connections: config.limits.connections,
        max_connections_per_peer: config.limits.connections_per_peer,
        // The server says goodbye first; this is for those who do not listen.
        max_connection_age: config.limits.connection_age + config.limits.drain,
        oldest_gives_way: false,
    }
}

fn enroll_acceptor(config: &Config, credentials: &Credentials) -> Result<Acceptor> {
    let tls = credentials.enrollment_server_config()?;
    Ok(Acceptor::new(tls, enroll_limits(config)))
}

/// Whoever joins asks once and goes.
fn enroll_limits(config: &Config) -> AcceptLimits {
    AcceptLimits {
        max_connections: config.limits.enroll_connections,
        max_connections_per_peer: config.limits.enroll_connections_per_address,
        max_connection_age: api::ENROLL_CONNECTION_AGE,
        // Anybody may connect here, and hold what they have.
        oldest_gives_way: true,
        ..accept_limits(config)
    }
}

/// What a serving broker is told by. Once taken, a signal waits until it is looked at.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn take() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::listening;
    use crate::vectors::{Expected, run};

    #[test]
    fn listen_json_is_that_of_the_vectors() {
        run("listen", false, |given, expected| {
            let Expected::Out(out) = expected else {
                panic!("addresses refuse nothing")
            };
            let metrics = given.has("metrics").then(|| given.parse("metrics"));
            let text = listening(given.parse("grpc"), given.parse("enroll"), metrics);
            assert_eq!(text, out.text("text"));
        });
    }
}
