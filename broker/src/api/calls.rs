//! Each call: an id, which the caller and the log see alike, and how long it took.
//!
//! ```text
//! attache-request-id: BOOT-N        BOOT: 8 hex digits of this process, N: its calls, counted in hex
//! ```
//! The id stands in the answer's headers, of a refusal too, and in every log line that is written while the call is
//! handled. The broker draws it: nothing that a caller sends gets into the log by this way. It names a call and proves
//! nothing.
//!
//! A method that there is not is measured as `unknown`: what a caller may choose is no label. A call that a caller gave
//! up is not measured.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use attache_envelope::id::BootId;
use tonic::codegen::http::{HeaderName, HeaderValue, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, field::Empty};

use crate::metrics::Metrics;

/// The header of the answer.
pub const HEADER: &str = "attache-request-id";

/// Gives each call of a server its id, and measures it.
#[derive(Clone)]
pub struct Calls {
    boot: Arc<str>,
    count: Arc<AtomicU64>,
    metrics: Metrics,
}

/// A server whose calls have ids and are measured.
#[derive(Clone)]
pub struct Called<S> {
    calls: Calls,
    inner: S,
}

impl Calls {
    /// The calls of one run of the process. Clones count on together.
    #[must_use]
    pub fn new(boot: BootId, metrics: Metrics) -> Self {
        let [a, b, c, d, ..] = *boot.as_bytes();
        Self {
            boot: hex::encode([a, b, c, d]).into(),
            count: Arc::default(),
            metrics,
        }
    }

    fn next_id(&self) -> String {
        let call = self.count.fetch_add(1, Ordering::Relaxed);
        format!("{}-{call:x}", self.boot)
    }
}

impl<S> Layer<S> for Calls {
    type Service = Called<S>;

    fn layer(&self, inner: S) -> Called<S> {
        Called {
            calls: self.clone(),
            inner,
        }
    }
}

impl<S, A, B> Service<Request<A>> for Called<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (id, begun) = (self.calls.next_id(), Instant::now());
        let metrics = self.calls.metrics.clone();
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let span = tracing::error_span!("call", request = %id, mutation = Empty);
        tracing::debug!(parent: &span, method = request.uri().path(), "called");
        let answer = span.in_scope(|| self.inner.call(request)).instrument(span);
        Box::pin(async move {
            let mut answer = answer.await?;
            // A call that failed before its first message says so in its head; a stream that fails later began well.
            let code = Status::from_header_map(answer.headers()).map_or(Code::Ok, |it| it.code());
            let method = if code == Code::Unimplemented {
                "unknown"
            } else {
                &method
            };
            metrics.called(method, name(code), begun.elapsed().as_secs_f64());
            if let Ok(id) = HeaderValue::try_from(id) {
                answer
                    .headers_mut()
                    .insert(HeaderName::from_static(HEADER), id);
            }
            Ok(answer)
        })
    }
}

/// A code's name in the gRPC documents.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Expected, run};

    #[test]
    fn ids_are_those_of_the_vectors() {
        run("call-id", false, |given, expected| {
            let Expected::Out(out) = expected else {
                panic!("an id refuses nothing")
            };
            let boot = BootId::from_bytes(given.array("boot"));
            let calls = Calls::new(boot, Metrics::default());
            calls.count.store(given.u64("call"), Ordering::Relaxed);
            assert_eq!(calls.next_id(), out.text("header"));
            assert_ne!(
                calls.clone().next_id(),
                out.text("header"),
                "each call has its own"
            );
        });
    }
}
