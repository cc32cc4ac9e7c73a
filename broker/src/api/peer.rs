//! Who calls: from the connection's certificate, through the directory, into a type that a handler asks for.
//!
//! A handler that wants a node takes a [`NodePeer`], one that wants an operator an [`OperatorPeer`]; there is no other way
//! to either, so a handler without a check of its caller has nothing to work with.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use attache_mtls::{
    identity::PeerIdentity,
    spiffe::{NodeId, OperatorId},
    stream::{ConnectionInfo, MtlsStream},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::{Code, Extensions, transport::server::Connected};

use super::rpc_error::RpcError;
use crate::identity::{Caller, Gate};

/// The age of a connection whose peer may not call.
const REFUSED_AGE: Duration = Duration::from_secs(5);

/// A node plugin that may call.
#[derive(Debug, Clone)]
pub struct NodePeer {
    /// Its ID.
    pub id: NodeId,
    /// Its certificate's serial, hexadecimal.
    pub serial: String,
    /// How many bans there were when it was admitted.
    pub bans_seen: u64,
}

/// An operator who may call.
#[derive(Debug, Clone)]
pub struct OperatorPeer {
    /// Their ID.
    pub id: OperatorId,
    /// Their certificate's serial, hexadecimal.
    pub serial: String,
}

/// Admits callers.
#[derive(Clone)]
pub struct Peers {
    gate: Arc<Gate>,
}

impl Peers {
    /// Admits through this gate.
    #[must_use]
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }

    /// The gate itself.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The calling node.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a live certificate; PERMISSION_DENIED for an operator.
    pub async fn node(&self, extensions: &Extensions) -> Result<NodePeer, RpcError> {
        let bans_seen = self.gate.directory().bans_made();
        match self.caller(extensions).await? {
            Caller::Node { id, serial } => Ok(NodePeer {
                id,
                serial,
                bans_seen,
            }),
            Caller::Operator { .. } => Err(RpcError::new(
                Code::PermissionDenied,
                "NODE_ONLY",
                "only a node plugin's certificate may call this; operators have no way to a value",
            )),
        }
    }

    /// The calling operator.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a live certificate; PERMISSION_DENIED for a node.
    pub async fn operator(&self, extensions: &Extensions) -> Result<OperatorPeer, RpcError> {
        match self.caller(extensions).await? {
            Caller::Operator { id, serial, .. } => Ok(OperatorPeer { id, serial }),
            Caller::Node { .. } => Err(RpcError::new(
                Code::PermissionDenied,
                "OPERATOR_ONLY",
                "only an operator's certificate may call this; sign in with: attache login",
            )),
        }
    }

    /// The caller, whoever it is.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a live certificate.
    pub async fn caller(&self, extensions: &Extensions) -> Result<Caller, RpcError> {
        let connection = connection(extensions)?;
        Ok(self
            .gate
            .admit(connection.peer()?, connection.was_live)
            .await?)
    }
}

/// A connection, as a request's handler may know it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// What the handshake showed.
    pub info: ConnectionInfo,
    /// Whether the peer's key was a live one when the handshake ended.
    pub was_live: bool,
}

impl Connection {
    /// The peer.
    ///
    /// # Errors
    /// UNAUTHENTICATED when it showed no certificate.
    pub fn peer(&self) -> Result<&Arc<PeerIdentity>, RpcError> {
        self.info.peer.as_ref().ok_or_else(no_certificate)
    }
}

/// The connection that a request came by.
///
/// # Errors
/// UNAUTHENTICATED when it came by none of ours.
pub fn connection(extensions: &Extensions) -> Result<&Connection, RpcError> {
    extensions.get().ok_or_else(no_certificate)
}

fn no_certificate() -> RpcError {
    RpcError::new(
        Code::Unauthenticated,
        "NO_CERTIFICATE",
        "this call needs a client certificate",
    )
}

/// A connection as the gRPC server sees it.
pub struct BrokerStream {
    stream: MtlsStream,
    was_live: bool,
}

impl BrokerStream {
    /// Takes a connection. A peer that showed a certificate and may not call has a moment to hear why, and is then closed:
    /// it holds no place.
    #[must_use]
    pub fn of(gate: &Gate, stream: MtlsStream) -> Self {
        let info = stream.connect_info();
        let was_live = info.peer.as_deref().is_some_and(|it| gate.is_live(it));
        if info.peer.is_some() && !was_live {
            tokio::spawn(async move {
                tokio::time::sleep(REFUSED_AGE).await;
                info.kill.close();
            });
        }
        Self::new(stream, was_live)
    }

    /// Takes a connection of which it is known whether its peer's key was a live one.
    #[must_use]
    pub fn new(stream: MtlsStream, was_live: bool) -> Self {
        Self { stream, was_live }
    }
}

impl Connected for BrokerStream {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        Connection {
            info: self.stream.connect_info(),
            was_live: self.was_live,
        }
    }
}

impl AsyncRead for BrokerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for BrokerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
