//! The server's end: the accept loop, with a bound on everything that an unknown peer can take.
//!
//! For each connection, in order: accept, a connection slot (none free: closed at once, so that the client tries another
//! broker; or, where identities are not shown, the oldest connection of the address that has most of them gives way), a
//! place among the handshakes (none free: the oldest of the address that has most of them gives way), `TCP_NODELAY`, the
//! handshake under a deadline, a place among the peer's connections (none free: closed), and then the stream on the
//! channel. The handshake's place comes back when it ends, however it ends; the others when the stream is dropped.
//!
//! So nobody is kept out by peers that say nothing, nor by one identity, nor by one address where identities are not
//! shown. The loop parses nothing itself and must never wait for a peer outside the deadline.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::spiffe::PeerId;
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
    /// Connections of one SPIFFE ID at one time, or of one address where no certificate is asked for.
    pub max_connections_per_peer: usize,
    /// The age at which a connection is closed without regard to what runs on it. A server that wants to say goodbye
    /// first does so earlier.
    pub max_connection_age: Duration,
    /// Past `max_connections` the oldest connection of the peer that has most of them is closed, and not the new one. For
    /// a listener where anybody may connect: who only holds connections must not keep the others out.
    pub oldest_gives_way: bool,
}

impl Default for AcceptLimits {
    /// 10 s, 64 handshakes, 4,096 connections, 16 of one peer, one hour; past the cap the new one is closed.
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 64,
            max_connections: 4096,
            max_connections_per_peer: 16,
            max_connection_age: Duration::from_secs(3600),
            oldest_gives_way: false,
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
    /// Handshakes and connections that gave way to newer ones.
    pub evicted: u64,
    /// Connections closed at once because a cap was reached.
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
    handshakes: Handshakes,
    connections: Arc<Semaphore>,
    open: Arc<OpenConnections>,
    accepted: AtomicU64,
    failed: AtomicU64,
    timed_out: AtomicU64,
    evicted: AtomicU64,
    over_cap: AtomicU64,
}

impl Acceptor {
    /// Takes a configuration of [`crate::tls`].
    #[must_use]
    pub fn new(config: Arc<ServerConfig>, limits: AcceptLimits) -> Self {
        let connections = Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS));
        Self {
            shared: Arc::new(Shared {
                tls: TlsAcceptor::from(config),
                handshakes: Handshakes::default(),
                connections: Arc::new(connections),
                limits,
                open: Arc::default(),
                accepted: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                timed_out: AtomicU64::new(0),
                evicted: AtomicU64::new(0),
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
                let (tcp, remote) = accept(&listener).await;
                let slot = self.shared.connections.clone().try_acquire_owned().ok();
                if slot.is_none() && !self.shared.make_room() {
                    self.shared.over_cap.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%remote, "connection refused: the cap is reached");
                    continue;
                }
                let (shared, out) = (self.shared.clone(), out.clone());
                let (place, gives_way) = shared.enter_handshakes(remote.ip());
                under_way.spawn(async move {
                    let stream = tokio::select! {
                        stream = shared.handshake(tcp, remote, slot) => stream,
                        () = gives_way.cancelled() => None,
                    };
                    shared.handshakes.leave(place);
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
            evicted: shared.evicted.load(Ordering::Relaxed),
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
    /// Closes a connection to make room for another; false when this listener closes none for that.
    fn make_room(&self) -> bool {
        if !self.limits.oldest_gives_way {
            return false;
        }
        // None to close: all slots are with handshakes, whose own bound makes room.
        if self.open.evict() {
            self.evicted.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("a connection gave way to a newer one");
        }
        true
    }

    /// A place among the handshakes, and what says that it has to be given up.
    fn enter_handshakes(&self, from: IpAddr) -> (u64, CancellationToken) {
        let (place, gives_way, evicted) = self.handshakes.enter(from, self.limits.max_handshakes);
        if let Some(address) = evicted {
            self.evicted.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%address, "an unfinished handshake gave way to a newer connection");
        }
        (place, gives_way)
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Option<MtlsStream> {
        let limit = self.limits.handshake_timeout;
        let handshake = self.tls_handshake(tcp, remote, slot);
        let result = match tokio::time::timeout(limit, handshake).await {
            Ok(result) => result,
            Err(_) => Err(HandshakeError::Timeout { limit }),
        };
        match result {
            Ok((stream, slot)) => {
                let limit = self.limits.max_connections_per_peer;
                let Some(entry) = self.open.clone().enter(stream.connect_info(), limit) else {
                    self.over_cap.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(peer = ?PeerKey::of(&stream.connect_info()), "connection refused: the peer has {limit}");
                    return None;
                };
                self.accepted.fetch_add(1, Ordering::Relaxed);
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

    /// The handshake, in a connection slot: the one given, or the one that room is being made for.
    async fn tls_handshake(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Result<(MtlsStream, OwnedSemaphorePermit), HandshakeError> {
        let slot = match slot {
            Some(slot) => slot,
            None => {
                let freed = self.connections.clone().acquire_owned().await;
                freed.map_err(io::Error::other)?
            }
        };
        tcp.set_nodelay(true)?;
        let tls = self.tls.accept(tcp).await?;
        let stream = MtlsStream::new(
            tls.into(),
            remote,
            Some(self.limits.max_connection_age),
            false,
        )?;
        Ok((stream, slot))
    }
}

/// The handshakes under way, oldest first.
#[derive(Default)]
struct Handshakes {
    inner: Mutex<HandshakeList>,
}

#[derive(Default)]
struct HandshakeList {
    next: u64,
    list: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

impl Handshakes {
    /// Takes a place; past `limit` the oldest of the address that has most gives way, which is answered last.
    fn enter(&self, from: IpAddr, limit: usize) -> (u64, CancellationToken, Option<IpAddr>) {
        let mut handshakes = self.lock();
        let evicted = (handshakes.list.len() >= limit)
            .then(|| handshakes.evict())
            .flatten();
        let (place, gives_way) = (handshakes.next, CancellationToken::new());
        handshakes.next = handshakes.next.wrapping_add(1);
        handshakes.list.insert(place, (from, gives_way.clone()));
        (place, gives_way, evicted)
    }

    fn leave(&self, place: u64) {
        self.lock().list.remove(&place);
    }

    /// As with the open connections: no operation can leave the list half done.
    fn lock(&self) -> MutexGuard<'_, HandshakeList> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HandshakeList {
    fn evict(&mut self) -> Option<IpAddr> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (address, _) in self.list.values() {
            *counts.entry(*address).or_default() += 1;
        }
        let most = counts.values().max().copied()?;
        let crowded = |address: &IpAddr| counts.get(address) == Some(&most);
        let oldest = self.list.iter().find(|(_, (from, _))| crowded(from));
        let place = *oldest?.0;
        let (address, gives_way) = self.list.remove(&place)?;
        gives_way.cancel();
        Some(address)
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
    of_peer: HashMap<PeerKey, usize>,
}

/// What counts as one peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum PeerKey {
    Identity(PeerId),
    Address(IpAddr),
}

impl PeerKey {
    fn of(info: &ConnectionInfo) -> Self {
        match &info.peer {
            Some(peer) => Self::Identity(peer.id().clone()),
            None => Self::Address(info.remote.ip()),
        }
    }
}

impl OpenConnections {
    /// A place in the list; none when the peer has `limit` connections.
    fn enter(self: Arc<Self>, info: ConnectionInfo, limit: usize) -> Option<OpenEntry> {
        let mut open = self.lock();
        let count = open.of_peer.entry(PeerKey::of(&info)).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        let key = open.next;
        open.next = open.next.wrapping_add(1);
        open.list.insert(key, info);
        drop(open);
        Some(OpenEntry { open: self, key })
    }

    /// Closes the oldest connection of the peer that has most of them; false when there is none.
    fn evict(&self) -> bool {
        let open = self.lock();
        // A closed one leaves the list when its stream is dropped.
        let mut standing: HashMap<PeerKey, (usize, u64)> = HashMap::new();
        for (key, info) in open.list.iter().filter(|(_, info)| !info.kill.is_closed()) {
            let (count, oldest) = standing.entry(PeerKey::of(info)).or_insert((0, *key));
            *count += 1;
            *oldest = (*oldest).min(*key);
        }
        let most = standing
            .into_values()
            .max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest)));
        let gives_way = most.and_then(|(_, oldest)| open.list.get(&oldest));
        gives_way.map(|info| info.kill.close()).is_some()
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
        let mut open = self.open.lock();
        let Some(peer) = open.list.remove(&self.key).as_ref().map(PeerKey::of) else {
            return;
        };
        if let Some(count) = open.of_peer.get_mut(&peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.of_peer.remove(&peer);
            }
        }
    }
}
