//! A listener with the product's own accept loop, and its connections as tonic wants them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use attache_mtls::accept::{AcceptLimits, Acceptor};
use attache_mtls::stream::{ConnectionInfo, MtlsStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

pub(crate) async fn bind(address: SocketAddr) -> TcpListener {
    for _ in 0..200 {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("{address} is taken");
}

pub(crate) async fn serve(
    tls: Arc<rustls::ServerConfig>,
    listener: TcpListener,
    router: tonic::transport::server::Router,
) {
    let acceptor = Acceptor::new(tls, AcceptLimits::default());
    let (out, accepted) = mpsc::channel(16);
    let incoming = ReceiverStream::new(accepted).map(|stream| Ok::<_, io::Error>(Stream(stream)));
    let serving = router.serve_with_incoming(incoming);
    tokio::select! {
        () = acceptor.run(listener, out) => {}
        _ = serving => {}
    }
}

/// An accepted connection, as tonic wants it.
struct Stream(MtlsStream);

impl tonic::transport::server::Connected for Stream {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.0.connect_info()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
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
}
