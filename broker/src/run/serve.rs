//! `attache-broker serve`: opens store and log, holds them against each other, listens, and stops in order.
//!
//! ```text
//! store, keys -> audit log (its newest anchor) -> ledger (not older than that) -> open intents closed
//!   -> who may call, what is registered -> listeners -> ready ... stop accepting, drain, counts on record, close
//! ```

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context, Result, bail};
use attache_envelope::{SystemRandom, id::BootId};
use attache_mtls::{
    accept::{AcceptLimits, Acceptor},
    tls::Credentials,
};
use attache_translog::{Anchor, Start, Stop};
use jiff::Timestamp;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{AuditSeed, block_on, chain_id, meta, open, server_certificate, telemetry};
use crate::{
    api::{self, Listeners, Services},
    attest::Attestor,
    audit::{AuditLog, Clock, LogOptions, Recovered, Refusals},
    config::Config,
    identity::{Authority, Directory, Gate},
    keys::Keys,
    mutation::Mutations,
    registry::Registry,
    release::{Counters, Parts, Releases, sessions::Sessions},
    store::{BrokerLedger, Health, Ledger, LedgerOptions, RedbStore, Store},
    vault::BrokerVault,
};

/// The refusals that were counted are put on record this often.
const SWEEP: std::time::Duration = std::time::Duration::from_secs(5);

/// The first incarnation of a store.
const INCARNATION: u32 = 1;

/// Serves until told to stop.
///
/// # Errors
/// When anything that serving stands on cannot be opened, or fails for good.
pub fn serve(config: Config) -> Result<ExitCode> {
    let filter = telemetry::start(&config.telemetry)?;
    block_on(async {
        let broker = Broker::open(config).await?;
        let listeners = broker.listen().await?;
        broker.run(listeners, filter).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Everything that a serving broker holds.
struct Broker {
    config: Arc<Config>,
    ledger: BrokerLedger,
    log: AuditLog,
    refusals: Refusals,
    credentials: Credentials,
    authority: Authority,
    services: Services,
    tasks: TaskTracker,
}

impl Broker {
    async fn open(config: Config) -> Result<Self> {
        let arena = open::arena(&config)?;
        let (store, keys) = open::store(&config, &arena).await?;
        let boot = BootId::random(&SystemRandom)?;
        let (log, mut recovered) = open_log(&config, &keys, boot)?;
        let ledger = open_ledger(&config, store, &keys, &log, &recovered).await?;
        let tasks = TaskTracker::new();
        let intents = std::mem::take(&mut recovered.open_intents);
        let mutations =
            Mutations::open(log.clone(), ledger.clone(), intents, tasks.clone()).await?;
        let refusals = Refusals::new(log.clone(), &mut recovered);
        start_on_record(&config, &keys, &log, &ledger).await?;

        let authority = Authority::load(meta::ca(&ledger).await?, Arc::clone(&keys))?;
        server_certificate::write_bundle(&config, &authority)?;
        let credentials = Credentials::new(server_certificate::load(
            &config,
            &authority,
            Timestamp::now(),
        )?);
        let directory = Directory::load(&ledger).await?;
        let registry = Arc::new(Registry::load(&ledger).await?);
        let gate = Arc::new(Gate::new(
            ledger.clone(),
            log.clone(),
            authority.clone(),
            directory,
            config.id.to_string(),
        ));
        let vault = Arc::new(BrokerVault::new(
            ledger.clone(),
            keys,
            config.id.clone(),
            boot,
        )?);
        let counters = Arc::new(Counters::default());
        let sessions = Sessions::new(vault.store_id(), &config.id, boot);
        let releases = Releases::new(Parts {
            vault: Arc::clone(&vault),
            incarnation: INCARNATION,
            attestor: Attestor::new(Arc::clone(registry.clusters())),
            policies: Arc::clone(registry.policies()),
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
            log: log.clone(),
            refusals: refusals.clone(),
            releases,
            sessions,
            counters,
            credentials: credentials.clone(),
            clock: log.clock().clone(),
            started_ms: log.clock().now_ms(),
            acceptor: Acceptor::new(credentials.server_config()?, accept_limits(&config)),
            enroll_acceptor: Acceptor::new(
                credentials.enrollment_server_config()?,
                accept_limits(&config),
            ),
        };
        let config = Arc::new(config);
        Ok(Self {
            config,
            ledger,
            log,
            refusals,
            credentials,
            authority,
            services,
            tasks,
        })
    }

    async fn listen(&self) -> Result<Listeners> {
        let bind = async |key: &str, address| {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address} ({key})"))
        };
        let admin = api::admin::bind(&self.config.listen.admin).with_context(|| {
            format!(
                "cannot listen on {} (listen.admin)",
                self.config.listen.admin.display()
            )
        })?;
        Ok(Listeners {
            grpc: bind("listen.grpc", self.config.listen.grpc).await?,
            enroll: bind("listen.enroll", self.config.listen.enroll).await?,
            admin,
        })
    }

    /// Serves until a signal or a failure of the store, then stops in order.
    async fn run(self, listeners: Listeners, filter: telemetry::Filter) -> Result<()> {
        let stop = CancellationToken::new();
        let (grpc, enroll) = (listeners.grpc.local_addr()?, listeners.enroll.local_addr()?);
        let serving = tokio::spawn(api::serve(
            self.services.clone(),
            listeners,
            self.config.limits,
            stop.clone(),
        ));
        let listening = format!("{{\"grpc\": \"{grpc}\", \"enroll\": \"{enroll}\"}}\n");
        server_certificate::replace(&self.config.store.listening(), listening.as_bytes())?;
        tracing::info!(%grpc, %enroll, broker = %self.config.id, "serving");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

        let failed = self.until_told(&filter).await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        tracing::info!("stopping");
        stop.cancel();
        if tokio::time::timeout(self.config.limits.drain, serving)
            .await
            .is_err()
        {
            tracing::warn!("requests were still under way when the drain ended");
        }
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
        failed
    }

    /// Keeps house until a signal says stop, or the store fails for good.
    async fn until_told(&self, filter: &telemetry::Filter) -> Result<()> {
        let (mut term, mut int, mut hup) = (
            on(SignalKind::terminate())?,
            on(SignalKind::interrupt())?,
            on(SignalKind::hangup())?,
        );
        let mut health = self.ledger.store().health();
        let mut sweep = tokio::time::interval(SWEEP);
        let mut certificate = tokio::time::interval(server_certificate::LOOK);
        loop {
            tokio::select! {
                _ = term.recv() => return Ok(()),
                _ = int.recv() => return Ok(()),
                _ = hup.recv() => self.reload(filter),
                _ = certificate.tick() => self.renew(),
                _ = sweep.tick() => {
                    self.services.sessions.sweep();
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
            }
        }
    }

    /// SIGHUP: certificate and log filter, from disk.
    fn reload(&self, filter: &telemetry::Filter) {
        self.renew();
        let reloaded =
            telemetry::parse(&self.config.telemetry.log).and_then(|f| Ok(filter.reload(f)?));
        match reloaded {
            Ok(()) => tracing::info!("reloaded"),
            Err(error) => {
                tracing::warn!(error = %format!("{error:#}"), "the log filter was not reloaded")
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

fn open_log(config: &Config, keys: &Arc<Keys>, boot: BootId) -> Result<(AuditLog, Recovered)> {
    let options = LogOptions {
        dir: config.audit_dir.clone(),
        store: keys.store_id(),
        chain: chain_id(keys.store_id(), &config.id),
        boot,
        segment_bytes: LogOptions::SEGMENT_BYTES,
        clock: Clock::system(),
    };
    let (log, recovered) = AuditLog::open(options, AuditSeed(Arc::clone(keys)))?;
    if recovered.size == 0 {
        bail!(
            "the audit folder {} is empty, and the log of this store began with init: put it back, or name the right \
             folder in audit.dir",
            config.audit_dir.display()
        );
    }
    if let Some(cut) = &recovered.cut {
        tracing::warn!(
            bytes = cut.bytes,
            leaves = cut.leaves,
            "the audit log ended torn; what was never acknowledged is cut"
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
        incarnation: INCARNATION,
        seq: position.seq,
        software: env!("CARGO_PKG_VERSION").to_owned(),
        key_memory: keys.arena().protection().to_string(),
    };
    let anchor = Anchor {
        incarnation: INCARNATION,
        seq: position.seq,
        t: position.anchor_t,
    };
    let queued = [
        log.queue(&log.leaf(start)).await?,
        log.queue(&log.leaf(anchor)).await?,
    ];
    for leaf in queued {
        let _receipt = leaf.durable().await?;
    }
    Ok(())
}

fn accept_limits(config: &Config) -> AcceptLimits {
    AcceptLimits {
        handshake_timeout: config.limits.handshake_timeout,
        max_handshakes: config.limits.handshakes,
        max_connections: config.limits.connections,
        // The server says goodbye first; this is for those who do not listen.
        max_connection_age: config.limits.connection_age + config.limits.drain,
    }
}

fn on(kind: SignalKind) -> Result<Signal> {
    signal(kind).context("cannot wait for signals")
}
