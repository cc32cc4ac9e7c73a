//! A broker that is open: opens log and ledger, holds them against each other, listens, and stops in order.
//!
//! ```text
//! store, keys -> audit log (not shorter than the store knows) -> ledger (not older than the log knows)
//!   -> open intents closed
//!   -> who may call, what is registered -> listeners -> ready ... stop accepting, drain, counts on record, close
//! ```
//! An operator's seal stops it in the same order, with less patience. SIGTERM and SIGINT stop it, SIGHUP has it read its settings' log filter, its certificate and its key again. A store
//! or an audit log that failed ends the process: only a start can tell what the disk holds.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use attache_envelope::{SystemRandom, id::BootId};
use attache_mtls::{
    accept::{AcceptLimits, Acceptor},
    spiffe::PeerId,
    tls::Credentials,
};
use attache_translog::{Anchor, Attempts, Opening, Sealing, Start, Stop};
use jiff::Timestamp;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    chain_id,
    lifetime::{Reloadable, Signalled, Signals},
    meta, open, server_certificate,
    sockets::{Sockets, bind, listening},
    telemetry,
};
use crate::{
    api::{self, Background, Listeners, Services, room::Room},
    attest::Attestor,
    audit::{AuditLog, Clock, LogOptions, LogState, Recovered, Refusals},
    config::Config,
    identity::{
        Authority, CaChanged, CutOff, Directory, Gate, keep_ca, keep_published, keep_untainted,
    },
    keys::Keys,
    metrics::{Metrics, Standing},
    mounted::Mounted,
    mutation::Mutations,
    overdue,
    registry::Registry,
    release::{Counters, Parts, Releases, sessions::Sessions},
    removal, retagging, retention, rotation,
    scrub::Scrub,
    seal::{self, OperatorSeal},
    store::{BrokerLedger, Health, Ledger, LedgerOptions, RedbStore, Store, anchored_head},
    vault::BrokerVault,
};

/// The refusals that were counted are put on record this often.
const SWEEP: Duration = Duration::from_secs(5);
/// What an operator's seal leaves to requests that are under way: its own answer is one of them.
const SEAL_DRAIN: Duration = Duration::from_millis(500);
/// And to the work that goes on behind them.
const SEAL_PATIENCE: Duration = Duration::from_secs(5);

/// Why an open broker ended in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A signal said so.
    Stopped,
    /// An operator sealed it.
    Sealed,
}

/// Everything that a serving broker holds.
pub(super) struct Broker {
    config: Arc<Config>,
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
        let config = Arc::new(config);
        let arena = open::arena(&config)?;
        let (store, keys) = open::store(&config, &arena).await?;
        Self::assemble(config, store, keys, Metrics::default()).await
    }

    /// Opens everything that stands on an open store.
    pub(super) async fn assemble(
        config: Arc<Config>,
        store: Arc<RedbStore>,
        keys: Arc<Keys>,
        metrics: Metrics,
    ) -> Result<Self> {
        let boot = BootId::random(&SystemRandom)?;
        let (log, mut recovered) = open_log(&config, store.as_ref(), &keys, boot).await?;
        let ledger = open_ledger(&config, store, &keys, &log, &recovered).await?;
        let tasks = TaskTracker::new();
        let mutations = take_mutations(&log, &ledger, &mut recovered, &tasks).await?;
        let refusals = Refusals::new(log.clone(), &mut recovered);
        start_on_record(&config, &keys, &log, &ledger).await?;

        let authority = Authority::load(meta::ca(&ledger).await?, Arc::clone(&keys))?;
        let credentials = credentials(&config, &authority)?;
        let directory = Directory::load(&ledger).await?;
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
        let gate = gate.restored(meta::incarnation_begun(&ledger).await?);
        let gate = Arc::new(gate.on_ca_change(own_certificate(&config, &credentials)));
        let releases = Releases::new(Parts {
            vault: Arc::clone(&vault),
            incarnation: ledger.incarnation(),
            attestor: Attestor::new(Arc::clone(registry.clusters())),
            policies: Arc::clone(registry.policies()),
            directory: directory.clone(),
            log: log.clone(),
            refusals: refusals.clone(),
            counters: Arc::clone(&counters),
            mounted: Mounted::new(config.mounted_window),
            sessions: sessions.clone(),
            tasks: tasks.clone(),
        });
        let services = Services {
            gate,
            registry,
            vault,
            mutations,
            background: Background::default(),
            scrubbed,
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
            seal: CancellationToken::new(),
            operator_seal: config.store.operator_seal(),
            audit_dir: config.audit_dir.clone(),
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

    /// An operator's seal is over, now that the broker is open: on record, and then taken away.
    pub(super) async fn end_operator_seal(&self, seal: &OperatorSeal) -> Result<()> {
        let file = self.config.store.operator_seal();
        if seal.is_there() {
            let leaf = of_operator_seal(&self.config, seal);
            let _receipt = self.log.append(leaf).await?;
        }
        // The next start would be sealed, which is the safe side; the broker is open all the same.
        if let Err(error) = seal::note::lift(&file) {
            let file = file.display();
            tracing::error!(%file, %error, "the note of an operator's seal is not taken away: the next start is sealed again");
        }
        if let Err(error) = seal::note::keep_spare(&file) {
            tracing::warn!(%error, "there is no spare for the note of a seal: one needs room on the store's disk");
        }
        Ok(())
    }

    /// Serves until a signal, a seal or a failure, then stops in order.
    pub(super) async fn run(
        self,
        sockets: &Sockets,
        settings: &Reloadable,
        signals: &mut Signals,
    ) -> Result<End> {
        let listeners = Listeners {
            grpc: bind("listen.grpc", self.config.listen.grpc)?,
            enroll: sockets.enroll()?,
            admin: sockets.admin()?,
        };
        let stop = CancellationToken::new();
        let (rewrapping, removing) = (self.rewrapping().await?, self.removing().await?);
        let (pruning, retagging) = (self.pruning().await?, self.retagging());
        let (serves, serving) = watch::channel(true);
        let (grpc, enroll) = (listeners.grpc.local_addr()?, listeners.enroll.local_addr()?);
        let metrics = self.tell_metrics(sockets, serving.clone(), &stop)?;
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
        tokio::spawn(keep_published(Arc::clone(&gate), clusters, stop.clone()));
        self.tasks.spawn(keep_ca(gate, stop.clone()));
        self.tasks.spawn(rewrapping.run(stop.clone()));
        let scrub = Arc::clone(&self.scrub);
        self.tasks.spawn(scrub.run(stop.clone()));
        self.tasks.spawn(removing.run(stop.clone()));
        self.tasks.spawn(pruning.run(stop.clone()));
        self.tasks.spawn(retagging.run(stop.clone()));
        self.tasks.spawn(self.rotating().run(stop.clone()));
        let listening = listening(Some(grpc), enroll, metrics);
        server_certificate::publish(&self.config.store.listening(), listening.as_bytes())?;
        let ca = self.authority.pin();
        tracing::info!(%grpc, %enroll, broker = %self.config.id, %ca, "serving");
        let _ = sd_notify::notify(&[
            sd_notify::NotifyState::Ready,
            sd_notify::NotifyState::Status("serving"),
        ]);

        let told = self
            .until_told(settings, signals, &serves, &mut servers)
            .await;
        let sealed = matches!(told, Ok(End::Sealed));
        if sealed {
            tracing::warn!("sealing: an operator asked for it");
        } else {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            tracing::info!("stopping");
        }
        serves.send_replace(false);
        stop.cancel();
        let drain = if sealed {
            SEAL_DRAIN
        } else {
            self.config.limits.drain
        };
        if !servers.is_finished() && tokio::time::timeout(drain, &mut servers).await.is_err() {
            tracing::warn!("requests were still under way when the drain ended");
            servers.abort();
        }
        if sealed {
            // What is still under way on a connection ends with it.
            self.services.acceptor.close_where(|_| true);
            self.services.enroll_acceptor.close_where(|_| true);
            let closed = tokio::time::timeout(SEAL_PATIENCE, self.close()).await;
            if closed.is_err() {
                tracing::warn!("work was still under way, and is broken off as by a crash");
            }
        } else {
            self.close().await;
        }
        told
    }

    /// What goes on with the rotations that a start finds, before anybody may ask for more.
    async fn rewrapping(&self) -> Result<rotation::Worker> {
        let services = &self.services;
        let (vault, rotations) = (
            Arc::clone(&services.vault),
            services.background.rotations.clone(),
        );
        let metrics = services.metrics.clone();
        Ok(rotation::Worker::new(vault, self.log.clone(), rotations, metrics).await?)
    }

    /// What goes on with the keyspaces that a start finds destroyed and not removed.
    async fn removing(&self) -> Result<removal::Worker> {
        let services = &self.services;
        let (vault, removals) = (
            Arc::clone(&services.vault),
            services.background.removals.clone(),
        );
        Ok(removal::Worker::new(vault, self.log.clone(), removals).await?)
    }

    /// What goes through the keyspaces that do not keep all versions.
    async fn pruning(&self) -> Result<retention::Worker> {
        let services = &self.services;
        let (vault, prunings) = (
            Arc::clone(&services.vault),
            services.background.prunings.clone(),
        );
        let mounted = services.releases.mounted().clone();
        Ok(retention::Worker::new(vault, self.log.clone(), prunings, mounted).await?)
    }

    /// What goes on with the rows that a start finds with tags of a key before.
    fn retagging(&self) -> retagging::Worker {
        let services = &self.services;
        let (vault, retagging) = (
            Arc::clone(&services.vault),
            services.background.retagging.clone(),
        );
        retagging::Worker::new(vault, self.log.clone(), retagging)
    }

    /// What rotates keys that are past what their keyspace demands.
    fn rotating(&self) -> overdue::Worker {
        let services = &self.services;
        let (vault, background) = (Arc::clone(&services.vault), &services.background);
        let (rotations, overdue) = (background.rotations.clone(), background.overdue.clone());
        overdue::Worker::new(vault, self.log.clone(), rotations, overdue)
    }

    /// Answers `GET /metrics` until `stop`, where the settings say so; answers where.
    fn tell_metrics(
        &self,
        sockets: &Sockets,
        serving: watch::Receiver<bool>,
        stop: &CancellationToken,
    ) -> Result<Option<SocketAddr>> {
        let Some(listener) = sockets.metrics()? else {
            return Ok(None);
        };
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
            overdue: self.services.background.overdue.clone(),
            authority: self.authority.clone(),
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
    ) -> Result<End> {
        let mut health = self.ledger.store().health();
        let mut log = self.log.state();
        let mut sweep = tokio::time::interval(SWEEP);
        let mut certificate = tokio::time::interval(server_certificate::LOOK);
        loop {
            tokio::select! {
                told = signals.told() => match told {
                    Signalled::Stop => return Ok(End::Stopped),
                    Signalled::Reload => self.reload(settings),
                },
                () = self.services.seal.cancelled() => return Ok(End::Sealed),
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
                    ended.unwrap_or_else(|error| Err(error.into()))?;
                    bail!("the servers ended by themselves");
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
    let (log, recovered) = AuditLog::open(options, Arc::clone(keys))?;
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

/// Takes operators' changes, once what a crash left open of them is closed.
async fn take_mutations(
    log: &AuditLog,
    ledger: &BrokerLedger,
    recovered: &mut Recovered,
    tasks: &TaskTracker,
) -> Result<Mutations> {
    let intents = std::mem::take(&mut recovered.open_intents);
    Ok(Mutations::open(log.clone(), ledger.clone(), intents, tasks.clone()).await?)
}

/// The start of this process, with where the store stands, and what came before it opened.
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
    let opening = Opening {
        broker: config.id.to_string(),
        slot: format!("{} ({})", keys.opening().name, keys.opening().slot),
        how: keys.opening().how.clone(),
    };
    let _receipt = log.append(opening).await?;
    anchor_on_record(log, ledger).await?;
    sealed_time_on_record(config, log).await
}

/// What was given to open the broker while it was sealed. It is taken out of its file once it is durable in the log: cut
/// short between, it comes twice.
async fn sealed_time_on_record(config: &Config, log: &AuditLog) -> Result<()> {
    let file = config.store.unseal_attempts();
    let attempts = seal::Attempts::read(&file);
    let broker = config.id.to_string();
    for attempt in attempts.list() {
        let _receipt = log
            .append(Attempts {
                broker: broker.clone(),
                slot: Some(attempt.slot.to_string()),
                ending: attempt.told(),
                count: 1,
                first_ms: attempt.time_ms,
                last_ms: attempt.time_ms,
                address: Some(attempt.from.clone()),
            })
            .await?;
    }
    let counted = [
        (attempts.left_out(), "too many to be kept one by one"),
        (attempts.refused(), "not tried: too many at once"),
    ];
    for (counted, ending) in counted.into_iter().filter(|(it, _)| it.count > 0) {
        let _receipt = log
            .append(Attempts {
                broker: broker.clone(),
                slot: None,
                ending: ending.to_owned(),
                count: counted.count,
                first_ms: counted.first_ms,
                last_ms: counted.last_ms,
                address: None,
            })
            .await?;
    }
    attempts
        .forget()
        .with_context(|| format!("cannot take away {}", file.display()))
}

fn of_operator_seal(config: &Config, seal: &OperatorSeal) -> Sealing {
    let note = seal.note();
    let unread = "the note of it could not be read";
    Sealing {
        operator: note.map(|note| note.operator.clone()),
        serial: note.map(|note| note.serial.clone()),
        request: note.map(|note| *note.request.as_bytes()),
        broker: config.id.to_string(),
        reason: note.map_or_else(
            || Some(unread.to_owned()),
            |note| Some(note.reason.clone()).filter(|reason| !reason.is_empty()),
        ),
        since_ms: note.map(|note| note.time_ms),
    }
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

/// Brings the broker's own bundle and certificate to what the CAs are. The bundle comes first: whoever has a certificate of
/// a new CA may call at once.
fn own_certificate(config: &Arc<Config>, credentials: &Credentials) -> CaChanged {
    let (config, credentials) = (Arc::clone(config), credentials.clone());
    Box::new(move |authority| {
        let bring = || -> Result<()> {
            credentials.reload_bundle(Arc::new(authority.bundle()?));
            server_certificate::reload(&config, authority, &credentials)
        };
        if let Err(error) = bring() {
            let error = format!("{error:#}");
            tracing::error!(error, "the own certificate is not brought to the CA yet");
        }
    })
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

pub(super) fn enroll_acceptor(config: &Config, credentials: &Credentials) -> Result<Acceptor> {
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
