//! The server's end: the accept loop, with a bound on everything that an unknown peer can take.
//!
//! For each connection, in order: a handshake slot (none free: the kernel's backlog waits), accept, a connection slot
//! (none free: closed at once, so that the client tries another broker), `TCP_NODELAY`, the handshake under a deadline,
//! and then the stream on the channel. The handshake slot comes back when the handshake ends, however it ends; the
//! connection slot when the stream is dropped.
//!
//! The loop parses nothing itself and must never wait for a peer outside the deadline.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::stream::{ConnectionInfo, HandshakeError, MtlsStream};

/// How long the loop rests after the system could not accept, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The bounds of one listener.
#[derive(Debug, Clone, Copy)]
pub struct AcceptLimits {
    /// From accept to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Handshakes at one time.
    pub max_handshakes: usize,
    /// Connections at one time, those in a handshake among them.
    pub max_connections: usize,
    /// The age at which a connection is closed without regard to what runs on it. A server that wants to say goodbye
    /// first does so earlier.
    pub max_connection_age: Duration,
}

impl Default for AcceptLimits {
    /// 10 s, 64 handshakes, 4,096 connections, one hour.
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 64,
            max_connections: 4096,
            max_connection_age: Duration::from_secs(3600),
        }
    }
}

/// What a listener has counted since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AcceptStats {
    /// Handshakes that gave a connection.
    pub accepted: u64,
    /// Handshakes that failed: certificate, version, alert, connection lost.
    pub failed: u64,
    /// Handshakes that ran into the deadline.
    pub timed_out: u64,
    /// Connections closed at once because the cap was reached.
    pub over_cap: u64,
    /// Connections that stand now.
    pub open: u64,
}

/// One listener's TLS, limits, counters and list of connections. Clones share them.
#[derive(Clone)]
pub struct Acceptor {
    shared: Arc<Shared>,
}

struct Shared {
    tls: TlsAcceptor,
    limits: AcceptLimits,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    open: Arc<OpenConnections>,
    accepted: AtomicU64,
    failed: AtomicU64,
    timed_out: AtomicU64,
    over_cap: AtomicU64,
}

impl Acceptor {
    /// Takes a configuration of [`crate::tls`].
    #[must_use]
    pub fn new(config: Arc<ServerConfig>, limits: AcceptLimits) -> Self {
        let slots = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self {
            shared: Arc::new(Shared {
                tls: TlsAcceptor::from(config),
                handshakes: slots(limits.max_handshakes),
                connections: slots(limits.max_connections),
                limits,
                open: Arc::default(),
                accepted: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                timed_out: AtomicU64::new(0),
                over_cap: AtomicU64::new(0),
            }),
        }
    }

    /// Accepts until the receiver of `out` is closed or dropped; handshakes under way then are dropped too.
    ///
    /// # Cancel safety
    /// May be dropped at any time: the listener and all handshakes are closed, streams handed out live on.
    pub async fn run(&self, listener: TcpListener, out: mpsc::Sender<MtlsStream>) {
        let mut under_way = JoinSet::new();
        let accept_all = async {
            loop {
                while under_way.try_join_next().is_some() {}
                let Ok(slot) = self.shared.handshakes.clone().acquire_owned().await else {
                    return;
                };
                let (tcp, remote) = accept(&listener).await;
                let Ok(connection) = self.shared.connections.clone().try_acquire_owned() else {
                    self.shared.over_cap.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%remote, "connection refused: the cap is reached");
                    continue;
                };
                let (shared, out) = (self.shared.clone(), out.clone());
                under_way.spawn(async move {
                    let stream = shared.handshake(tcp, remote, connection).await;
                    drop(slot);
                    if let Some(stream) = stream {
                        // A closed receiver means that the server goes down: the stream is dropped, that is closed.
                        drop(out.send(stream).await);
                    }
                });
            }
        };
        tokio::select! {
            () = accept_all => {}
            () = out.closed() => {}
        }
    }

    /// Closes every open connection of which `condition` holds, and says how many. For bans and withdrawn roots.
    ///
    /// Keep the condition short: it runs under the list's lock.
    pub fn close_where(&self, condition: impl Fn(&ConnectionInfo) -> bool) -> usize {
        let open = self.shared.open.lock();
        open.list
            .values()
            .filter(|info| !info.kill.is_closed() && condition(info))
            .map(|info| info.kill.close())
            .count()
    }

    /// The counters at this moment.
    #[must_use]
    pub fn stats(&self) -> AcceptStats {
        let shared = &self.shared;
        AcceptStats {
            accepted: shared.accepted.load(Ordering::Relaxed),
            failed: shared.failed.load(Ordering::Relaxed),
            timed_out: shared.timed_out.load(Ordering::Relaxed),
            over_cap: shared.over_cap.load(Ordering::Relaxed),
            open: shared.open.lock().list.len() as u64,
        }
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor")
            .field("limits", &self.shared.limits)
            .field("stats", &self.stats())
            .finish()
    }
}

/// The next connection. Errors of a single connection pass; those of the system are waited out.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

impl Shared {
    async fn handshake(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        slot: OwnedSemaphorePermit,
    ) -> Option<MtlsStream> {
        let limit = self.limits.handshake_timeout;
        let result = match tokio::time::timeout(limit, self.tls_handshake(tcp, remote)).await {
            Ok(result) => result,
            Err(_) => Err(HandshakeError::Timeout { limit }),
        };
        match result {
            Ok(stream) => {
                self.accepted.fetch_add(1, Ordering::Relaxed);
                let entry = self.open.clone().enter(stream.connect_info());
                Some(stream.hold((slot, entry)))
            }
            Err(error) => {
                let counter = match error {
                    HandshakeError::Timeout { .. } => &self.timed_out,
                    HandshakeError::Peer(_)
                    | HandshakeError::Tls(_)
                    | HandshakeError::Alpn
                    | HandshakeError::Io(_) => &self.failed,
                };
                counter.fetch_add(1, Ordering::Relaxed);
                let source = std::error::Error::source(&error).map(tracing::field::display);
                tracing::debug!(%remote, %error, source, "handshake failed");
                None
            }
        }
    }

    async fn tls_handshake(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
    ) -> Result<MtlsStream, HandshakeError> {
        tcp.set_nodelay(true)?;
        let tls = self.tls.accept(tcp).await?;
        MtlsStream::new(tls.into(), remote, Some(self.limits.max_connection_age))
    }
}

/// The connections that stand, so that they can be found and closed.
#[derive(Default)]
struct OpenConnections {
    inner: Mutex<OpenList>,
}

#[derive(Default)]
struct OpenList {
    next: u64,
    list: HashMap<u64, ConnectionInfo>,
}

impl OpenConnections {
    fn enter(self: Arc<Self>, info: ConnectionInfo) -> OpenEntry {
        let mut open = self.lock();
        let key = open.next;
        open.next = open.next.wrapping_add(1);
        open.list.insert(key, info);
        drop(open);
        OpenEntry { open: self, key }
    }

    /// No operation on the list can leave it half done, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, OpenList> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the list; dropping it takes the connection off.
struct OpenEntry {
    open: Arc<OpenConnections>,
    key: u64,
}

impl Drop for OpenEntry {
    fn drop(&mut self) {
        self.open.lock().list.remove(&self.key);
    }
}
