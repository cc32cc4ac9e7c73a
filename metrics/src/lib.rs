//! `GET /metrics` on `listen.metrics` of broker and node plugin: plain HTTP, for whoever may reach the address. What is
//! registered is theirs, and tells no name and no value.
//!
//! Nobody shows a certificate here, so a connection has one of a few places, and a minute: readers that never end take
//! the metrics from each other and nothing from nodes and operators.

use std::future::{Future, IntoFuture};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

/// The media type of OpenMetrics 1.0.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Connections at one time; each takes a file descriptor.
const CONNECTIONS: usize = 16;
/// How long a connection lasts; Prometheus makes a new one then.
const CONNECTION_AGE: Duration = Duration::from_secs(60);

/// Serves the metrics until `stop`.
///
/// # Errors
/// When the server fails.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    stop: CancellationToken,
) -> io::Result<()> {
    let registry = Arc::new(registry);
    let router = Router::new().route("/metrics", get(move || written(Arc::clone(&registry))));
    let places = Places {
        listener,
        free: Arc::new(Semaphore::new(CONNECTIONS)),
    };
    let serving = axum::serve(places, router).into_future();
    // A reader that is under way at the end has no claim on it.
    tokio::select! {
        served = serving => served,
        () = stop.cancelled() => Ok(()),
    }
}

async fn written(registry: Arc<Registry>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Accepts while there is a place.
struct Places {
    listener: TcpListener,
    free: Arc<Semaphore>,
}

/// A connection with its place and its end.
struct Placed {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Listener for Places {
    type Io = Placed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Placed, SocketAddr) {
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&self.free).acquire_owned().await else {
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let placed = Placed {
                        stream,
                        end: Box::pin(sleep(CONNECTION_AGE)),
                        _place: place,
                    };
                    return (placed, address);
                }
                // Out of descriptors, most likely: others end.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Placed {
    /// The stream, unless its time is over.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_stream(cx)?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_stream(cx)?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_stream(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_stream(cx)?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn started() -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(serve(listener, Registry::default(), stop.clone()));
        (address, stop)
    }

    async fn ask(stream: &mut TcpStream, method: &str, path: &str) -> String {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_get_metrics_is_answered() {
        let (address, _stop) = started().await;
        for (method, path, status) in [
            ("GET", "/metrics", "200"),
            ("GET", "/", "404"),
            ("GET", "/metrics/x", "404"),
            ("POST", "/metrics", "405"),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let answer = ask(&mut stream, method, path).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{answer}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_holds_a_place_for_a_minute_and_no_more_than_there_are() {
        let (address, _stop) = started().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        // The clock moves on only when nothing else can happen: the answer comes once a place is free.
        let begun = tokio::time::Instant::now();
        let answer = ask(&mut late, "GET", "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(begun.elapsed() >= CONNECTION_AGE - Duration::from_secs(1));
    }
}
