//! Who calls: from the connection's certificate, through the directory, into a type that a handler asks for.
//!
//! A handler that wants a node takes a [`NodePeer`], one that wants an operator an [`OperatorPeer`]; there is no other way
//! to either, so a handler without a check of its caller has nothing to work with.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use attache_mtls::{
    spiffe::{NodeId, OperatorId},
    stream::{ConnectionInfo, MtlsStream},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::{Code, Extensions, transport::server::Connected};

use super::rpc_error::RpcError;
use crate::identity::{Caller, Gate};

/// A node plugin that may call.
#[derive(Debug, Clone)]
pub struct NodePeer {
    /// Its ID.
    pub id: NodeId,
    /// Its certificate's serial, hexadecimal.
    pub serial: String,
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

    /// The gate itself, for renewals.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The calling node.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a live certificate; PERMISSION_DENIED for an operator.
    pub async fn node(&self, extensions: &Extensions) -> Result<NodePeer, RpcError> {
        match self.caller(extensions).await? {
            Caller::Node { id, serial } => Ok(NodePeer { id, serial }),
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
        let info = extensions.get::<ConnectionInfo>();
        let peer = info.and_then(|i| i.peer.as_ref()).ok_or_else(|| {
            RpcError::new(
                Code::Unauthenticated,
                "NO_CERTIFICATE",
                "this call needs a client certificate",
            )
        })?;
        Ok(self.gate.admit(peer).await?)
    }
}

/// A connection as the gRPC server sees it.
pub struct BrokerStream(pub MtlsStream);

impl Connected for BrokerStream {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.0.connect_info()
    }
}

impl AsyncRead for BrokerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for BrokerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
