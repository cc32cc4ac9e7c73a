//! A connection after its handshake: bytes, who is at the other end, and an end that can be brought about.
//!
//! [`MtlsStream`] carries [`ConnectionInfo`], which a gRPC server copies into each request's extensions. Any clone of
//! its [`KillSwitch`] closes the connection: reads and writes that wait fail at once, later ones too. The same happens
//! when the connection is too old or the peer's certificate ends, since a live connection would otherwise outlast a
//! ban, a withdrawn root and the certificate that opened it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::identity::PeerIdentity;
use crate::tls::ALPN;
use crate::verify::{PeerError, read_leaf};

/// Why a handshake did not give a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer's certificate was refused by this end.
    #[error("the peer's certificate was refused")]
    Peer(#[from] PeerError),
    /// TLS failed otherwise: another version, an alert of the peer, no certificate.
    #[error("the TLS handshake failed")]
    Tls(#[source] rustls::Error),
    /// The peer did not agree on HTTP/2.
    #[error("the peer does not speak h2")]
    Alpn,
    /// It took too long.
    #[error("the handshake took longer than {limit:?}")]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// The connection itself failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .cloned();
        match tls {
            Some(tls) => PeerError::from_rustls(&tls).map_or(Self::Tls(tls), Self::Peer),
            None => Self::Io(error),
        }
    }
}

/// Closes one connection, from anywhere.
#[derive(Clone)]
pub struct KillSwitch(CancellationToken);

impl KillSwitch {
    /// Closes the connection: its waiting and its later reads and writes fail.
    pub fn close(&self) {
        self.0.cancel();
    }

    /// Whether the connection was closed by this side.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the connection is closed by this side.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn closed(&self) {
        self.0.cancelled().await;
    }
}

impl fmt::Debug for KillSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KillSwitch")
            .field("closed", &self.is_closed())
            .finish()
    }
}

/// What a request's handler may know of its connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The peer, when it has shown a certificate; none on the enrollment listener.
    pub peer: Option<Arc<PeerIdentity>>,
    /// The peer's address: for logs, never for decisions.
    pub remote: SocketAddr,
    /// Closes this connection.
    pub kill: KillSwitch,
}

/// A TLS connection of either side.
pub struct MtlsStream {
    tls: TlsStream<TcpStream>,
    info: ConnectionInfo,
    // One waiter a direction: reader and writer may be two tasks, and each must be woken.
    read_killed: Pin<Box<WaitForCancellationFutureOwned>>,
    write_killed: Pin<Box<WaitForCancellationFutureOwned>>,
    end: Option<Pin<Box<Sleep>>>,
    /// What lives as long as the connection: the acceptor's slot and its entry in the list.
    _held: Option<Box<dyn Send + Sync>>,
}

impl MtlsStream {
    /// Takes a finished handshake, whose verifier has accepted the peer's certificate if there is one. The connection ends with
    /// that certificate, unless it was accepted for its key alone (`for_its_key`).
    pub(crate) fn new(
        tls: TlsStream<TcpStream>,
        remote: SocketAddr,
        max_age: Option<Duration>,
        for_its_key: bool,
    ) -> Result<Self, HandshakeError> {
        let (_, session) = tls.get_ref();
        if session.alpn_protocol() != Some(ALPN) {
            return Err(HandshakeError::Alpn);
        }
        let leaf: Option<&CertificateDer<'_>> = session.peer_certificates().and_then(<[_]>::first);
        let peer = leaf.map(read_leaf).transpose()?.map(Arc::new);
        let left = peer.as_deref().filter(|_| !for_its_key).map(time_left);
        let end = [max_age, left]
            .into_iter()
            .flatten()
            .min()
            .map(tokio::time::sleep)
            .map(Box::pin);
        let killed = CancellationToken::new();
        Ok(Self {
            tls,
            read_killed: Box::pin(killed.clone().cancelled_owned()),
            write_killed: Box::pin(killed.clone().cancelled_owned()),
            end,
            info: ConnectionInfo {
                peer,
                remote,
                kill: KillSwitch(killed),
            },
            _held: None,
        })
    }

    /// Ties something to the connection's life.
    pub(crate) fn hold(mut self, held: impl Send + Sync + 'static) -> Self {
        self._held = Some(Box::new(held));
        self
    }

    /// Who is at the other end, and the switch.
    #[must_use]
    pub fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }

    /// The TLS connection below, for what it can tell of its handshake.
    #[must_use]
    pub fn tls(&self) -> &TlsStream<TcpStream> {
        &self.tls
    }

    /// The error that every operation gives once the connection was closed by this side.
    fn closed() -> io::Error {
        io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the connection was closed by this side",
        )
    }

    fn poll_not_closed_for_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.write_killed.as_mut().poll(cx) {
            Poll::Ready(()) => Err(Self::closed()),
            Poll::Pending => Ok(()),
        }
    }
}

/// How long the certificate is still valid, its last second included; zero when it has ended.
fn time_left(peer: &PeerIdentity) -> Duration {
    let end = peer.not_after().as_second().saturating_add(1);
    let left = end.saturating_sub(Timestamp::now().as_second());
    Duration::from_secs(u64::try_from(left).unwrap_or(0))
}

impl AsyncRead for MtlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The reader watches the age for both directions: an HTTP/2 connection always has a read waiting.
        let too_old = self
            .end
            .as_mut()
            .is_some_and(|end| end.as_mut().poll(cx).is_ready());
        if too_old {
            self.info.kill.close();
        }
        if self.read_killed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Self::closed()));
        }
        Pin::new(&mut self.tls).poll_read(cx, buffer)
    }
}

impl AsyncWrite for MtlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_not_closed_for_write(cx)?;
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_not_closed_for_write(cx)?;
        Pin::new(&mut self.tls).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_not_closed_for_write(cx)?;
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_not_closed_for_write(cx)?;
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

impl fmt::Debug for MtlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MtlsStream").field(&self.info).finish()
    }
}
