//! The client's end: a connection to a broker, with one deadline over all of it.
//!
//! The configuration decides who the other end has to be ([`crate::tls`]). A server refuses a client's certificate
//! after the client has finished its handshake (TLS 1.3), so that such a refusal shows at the first read.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_rustls::TlsConnector;

use crate::stream::{HandshakeError, MtlsStream};

/// Opens connections with one TLS configuration.
#[derive(Clone)]
pub struct Connector {
    tls: TlsConnector,
    timeout: Duration,
    for_its_key: bool,
}

impl Connector {
    /// Takes a configuration of [`crate::tls`] and the deadline for address look-up, TCP and TLS together.
    #[must_use]
    pub fn new(config: Arc<ClientConfig>, timeout: Duration) -> Self {
        Self {
            tls: TlsConnector::from(config),
            timeout,
            for_its_key: false,
        }
    }

    /// As [`Connector::new`], with a configuration that knows the broker by its recorded key: its certificate may have ended,
    /// and does not end the connection.
    #[must_use]
    pub fn for_recorded_key(config: Arc<ClientConfig>, timeout: Duration) -> Self {
        Self {
            for_its_key: true,
            ..Self::new(config, timeout)
        }
    }

    /// Connects to an address, such as `"broker.example:8443"` or a socket address.
    ///
    /// # Errors
    /// [`HandshakeError`]: the peer was refused, TLS or TCP failed, or the deadline passed.
    ///
    /// # Cancel safety
    /// May be dropped at any time; the connection is closed then.
    pub async fn connect(&self, address: impl ToSocketAddrs) -> Result<MtlsStream, HandshakeError> {
        tokio::time::timeout(self.timeout, self.handshake(address))
            .await
            .map_err(|_| HandshakeError::Timeout {
                limit: self.timeout,
            })?
    }

    async fn handshake(&self, address: impl ToSocketAddrs) -> Result<MtlsStream, HandshakeError> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let remote = tcp.peer_addr()?;
        // rustls wants a name; no verifier of ours reads it, and none is sent.
        let nobody = ServerName::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let tls = self.tls.connect(nobody, tcp).await?;
        MtlsStream::new(tls.into(), remote, None, self.for_its_key)
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
