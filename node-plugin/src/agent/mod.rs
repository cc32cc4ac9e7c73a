//! The unprivileged half: it speaks CSI with kubelet, gRPC over mTLS with the broker, and four verbs with the mounter.
//!
//! ```text
//! link      one thread: the connection to the mounter, and kubelet's listeners from it
//! identity  join, renew; the state folder          -> the broker, as this node may call it
//! volumes   publish, refresh, unpublish            -> broker, deliver, session, answer, metadata; table: who may what
//! ```
//! It runs as a numeric user without a capability, holds tokens, certificates and keys, and can mount nothing by
//! itself. Mounts outlive it: a restart finds them, a stop leaves them.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use attache_arena::{Arena, ArenaError, harden_process, raise_memlock_limit};
use attache_proto::codec::own_words;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::net::{TcpListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tower::util::MapResponseLayer;

use crate::config::Config;
use crate::csi::listen::Acceptor;
use crate::csi::registration::Registration;
use crate::csi::services::{Driver, Services};
use crate::ipc::{Hello, MounterClient};
use crate::telemetry::LogFilter;
use crate::telemetry::chain;
use broker::{Broker, Deadlines};
use identity::IdentitySettings;
use link::Link;
use metrics::{Metrics, Standing};
use session::{PluginKeyError, PluginKeys};
use volumes::{Parts, Volumes};

mod answer;
pub mod broker;
pub mod deliver;
mod health;
pub mod identity;
mod link;
mod metadata;
pub mod metrics;
pub mod session;
mod table;
pub mod volumes;

pub use health::ask as ask_health;

/// The mounter runs as root.
const MOUNTER_UID: u32 = 0;
/// Kubelet holds one connection a socket; a few more may stand while it restarts.
const WAITING_CONNECTIONS: usize = 16;
/// Threads for requests, and for what blocks: files, and calls to the mounter, which takes one at a time.
const WORKERS: usize = 2;
const BLOCKING_THREADS: usize = 4;

/// Why the agent could not start, or had to end.
#[derive(Debug, Error)]
pub enum AgentError {
    /// It was started as somebody else.
    #[error(
        "the agent must run as uid {expected} (agent.uid) and never as root; it runs as uid {found}"
    )]
    WrongUser {
        /// `agent.uid`.
        expected: u32,
        /// Who it is.
        found: u32,
    },
    /// It has privileges that it must not have.
    #[error("the agent must have no capability: start it without ambient ones")]
    Privileged,
    /// Memory cannot be protected.
    #[error("the process cannot protect its memory")]
    Memory(#[from] ArenaError),
    /// No plugin key.
    #[error("the plugin's key could not be made")]
    PluginKey(#[from] PluginKeyError),
    /// Its own socket cannot be bound.
    #[error("listen.health {}: cannot be bound by the agent's user", path.display())]
    Health {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The metrics have no address.
    #[error("listen.metrics {address}: cannot be listened on")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A part of it is gone.
    #[error("{0} has ended by itself")]
    Ended(&'static str),
    /// A system call of the runtime's failed.
    #[error("{what} failed")]
    Os {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A server ended by itself.
    #[error("a server on kubelet's sockets has ended")]
    Server(#[from] tonic::transport::Error),
}

/// Runs the agent until SIGTERM or SIGINT. On SIGHUP it reads the log filter, its certificate and its trust bundle again.
///
/// # Errors
/// [`AgentError`].
pub fn run(config: &Config, filter: &LogFilter) -> Result<(), AgentError> {
    let found = rustix::process::geteuid().as_raw();
    if found != config.agent.uid || found == 0 {
        return Err(AgentError::WrongUser {
            expected: config.agent.uid,
            found,
        });
    }
    let sets = rustix::thread::capabilities(None).map_err(os("capget"))?;
    if !(sets.permitted | sets.effective).is_empty() {
        return Err(AgentError::Privileged);
    }
    raise_memlock_limit()?;
    harden_process()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|source| AgentError::Os {
            what: "starting the runtime",
            source,
        })?;
    let done = runtime.block_on(async { Agent::start(config)?.serve(filter).await });
    // The thread that waits for the mounter waits on.
    runtime.shutdown_background();
    done
}

struct Agent<'a> {
    config: &'a Config,
    volumes: Volumes,
    mounter: mpsc::Receiver<Link>,
    broker_in: watch::Sender<Option<Arc<Broker>>>,
    broker: watch::Receiver<Option<Arc<Broker>>>,
    ready: watch::Sender<bool>,
    connected: watch::Sender<bool>,
    csi: mpsc::Sender<io::Result<UnixStream>>,
    registration: mpsc::Sender<io::Result<UnixStream>>,
    servers: JoinSet<Result<(), tonic::transport::Error>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl<'a> Agent<'a> {
    fn start(config: &'a Config) -> Result<Self, AgentError> {
        let mounter = Arc::new(MounterClient::new(&config.agent.ipc_dir, MOUNTER_UID));
        let (links_in, links) = mpsc::channel(1);
        let (broker_in, broker) = watch::channel(None);
        let (ready, probed) = watch::channel(false);
        let (connected, mounter_seen) = watch::channel(false);
        let metrics = Metrics::default();
        let tasks = TaskTracker::new();
        let volumes = Volumes::new(Parts {
            mounter: Arc::clone(&mounter),
            broker: broker.clone(),
            keys: PluginKeys::new(Arena::new()?)?,
            publishes: config.limits.publishes,
            limits: config.limits.volume,
            metrics: metrics.clone(),
            tasks: tasks.clone(),
        });
        let driver = Driver {
            name: config.node.driver.clone(),
            node_name: config.node.name.clone(),
            kubelet_dir: config.node.kubelet_dir.clone(),
            audience: config.node.audience.clone(),
        };
        let services = Services::new(driver, volumes.clone(), probed);
        let registering = Registration::new(&config.node.driver, &config.node.csi_socket);
        if let Some(path) = &config.listen.health {
            let listener = health::bind(path).map_err(|source| AgentError::Health {
                path: path.clone(),
                source,
            })?;
            tokio::spawn(health::tell(listener, ready.subscribe()));
        }
        let stop = CancellationToken::new();
        if let Some(address) = config.listen.metrics {
            let registry = metrics.registry(Standing {
                volumes: volumes.clone(),
                ready: ready.subscribe(),
                mounter: mounter_seen,
                broker: broker.clone(),
            });
            tell_metrics(address, registry, stop.clone())?;
        }
        let mut servers = JoinSet::new();
        let (csi, connections) = mpsc::channel(WAITING_CONNECTIONS);
        // Outermost: what the transport answers by itself is said in our codes.
        let router = Server::builder()
            .layer(MapResponseLayer::new(own_words))
            .add_service(services.identity())
            .add_service(services.node());
        let ended = stop.clone().cancelled_owned();
        servers.spawn(router.serve_with_incoming_shutdown(ReceiverStream::new(connections), ended));
        let (registration, connections) = mpsc::channel(WAITING_CONNECTIONS);
        let router = Server::builder()
            .layer(MapResponseLayer::new(own_words))
            .add_service(registering.server());
        let ended = stop.clone().cancelled_owned();
        servers.spawn(router.serve_with_incoming_shutdown(ReceiverStream::new(connections), ended));
        link::keep(mounter, links_in).map_err(|source| AgentError::Os {
            what: "starting a thread",
            source,
        })?;
        Ok(Self {
            config,
            volumes,
            mounter: links,
            broker_in,
            broker,
            ready,
            connected,
            csi,
            registration,
            servers,
            stop,
            tasks,
        })
    }

    async fn serve(mut self, filter: &LogFilter) -> Result<(), AgentError> {
        let waiting = |kind| {
            signal(kind).map_err(|source| AgentError::Os {
                what: "waiting for signals",
                source,
            })
        };
        let (mut terminate, mut interrupt, mut hangup) = (
            waiting(SignalKind::terminate())?,
            waiting(SignalKind::interrupt())?,
            waiting(SignalKind::hangup())?,
        );
        let reload = Arc::new(Notify::new());
        // The mounter makes the state folder, so there is no identity before the mounter has been seen.
        let mut identity = JoinSet::new();
        let mut accepting: Option<[Acceptor; 2]> = None;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    filter.reload();
                    reload.notify_one();
                }
                link = self.mounter.recv() => {
                    // Dropped first: the sockets of the mounter before may be gone from the file system.
                    accepting = None;
                    if let Some(Link::Up(hello)) = link {
                        accepting = self.mounter_is_up(hello).await?;
                        if identity.is_empty() {
                            let settings = self.identity_settings();
                            identity.spawn(identity::keep(settings, self.broker_in.clone(), Arc::clone(&reload)));
                        }
                    }
                }
                Some(_) = identity.join_next() => return Err(AgentError::Ended("the task that keeps the identity")),
                Some(ended) = self.servers.join_next() => {
                    if let Ok(served) = ended { served? }
                    break;
                }
                Ok(()) = self.broker.changed() => {}
            }
            self.tell_readiness(accepting.is_some());
        }
        drop(accepting);
        self.drain().await;
        Ok(())
    }

    /// Takes over what is mounted, then listens to kubelet: in this order, so that a publish of what is mounted finds
    /// the record of it.
    async fn mounter_is_up(&self, hello: Hello) -> Result<Option<[Acceptor; 2]>, AgentError> {
        let volumes = self.volumes.clone();
        let recovered = tokio::task::spawn_blocking(move || volumes.recover()).await;
        match recovered {
            Ok(Ok(published)) => {
                let facts = hello.facts;
                tracing::info!(
                    published,
                    noswap = facts.noswap,
                    inode_flags = facts.inode_flags,
                    "connected to the mounter"
                );
            }
            Ok(Err(error)) => {
                let error = chain(&error);
                tracing::warn!(%error, "the mounted volumes could not be listed");
                // The connection is gone, and the next one brings the next try; until then nobody is listened to.
                return Ok(None);
            }
            Err(_) => return Err(AgentError::Ended("the thread for the mounter")),
        }
        let failed = |source| AgentError::Os {
            what: "listening on kubelet's sockets",
            source,
        };
        Ok(Some([
            Acceptor::start("csi", hello.csi, self.csi.clone()).map_err(failed)?,
            Acceptor::start(
                "registration",
                hello.registration,
                self.registration.clone(),
            )
            .map_err(failed)?,
        ]))
    }

    fn identity_settings(&self) -> IdentitySettings {
        let (agent, limits) = (&self.config.agent, &self.config.limits);
        IdentitySettings {
            state_dir: agent.state_dir.clone(),
            address: self.config.broker.grpc.as_str().into(),
            enroll_address: self.config.broker.enroll.as_str().into(),
            trust: self.config.trust.clone(),
            evidence: agent.evidence.clone(),
            deadlines: Deadlines {
                connect: limits.connect_timeout,
                call: limits.call_timeout,
            },
        }
    }

    /// Ready is: connected to the mounter, and joined.
    fn tell_readiness(&mut self, accepting: bool) {
        self.connected.send_replace(accepting);
        let ready = accepting && self.broker.borrow_and_update().is_some();
        let before = self.ready.send_replace(ready);
        if ready && !before {
            tracing::info!("ready");
            // Without a service manager there is nobody to tell.
            if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
                tracing::warn!(%error, "the service manager could not be told");
            }
        }
    }

    /// Lets what is in flight end, for `limits.drain_s` at most. Mounts stay.
    async fn drain(mut self) {
        tracing::info!("the agent ends; mounts stay");
        self.ready.send_replace(false);
        self.stop.cancel();
        self.tasks.close();
        let ended = async {
            while self.servers.join_next().await.is_some() {}
            self.tasks.wait().await;
        };
        let limit: Duration = self.config.limits.drain;
        if tokio::time::timeout(limit, ended).await.is_err() {
            tracing::warn!(?limit, "something was still in flight");
        }
    }
}

/// Answers `GET /metrics` until `stop`.
fn tell_metrics(
    address: SocketAddr,
    registry: Registry,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let failed = |source| AgentError::Metrics { address, source };
    let listener = StdListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, "metrics are answered");
    tokio::spawn(async move {
        if let Err(error) = attache_metrics::serve(listener, registry, stop).await {
            tracing::error!(%error, "the metrics are not answered any more");
        }
    });
    Ok(())
}

fn os(what: &'static str) -> impl Fn(rustix::io::Errno) -> AgentError {
    move |errno| AgentError::Os {
        what,
        source: errno.into(),
    }
}
