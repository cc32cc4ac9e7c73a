//! How long each call took, and with what code it was answered.
//!
//! A method that there is not is counted as `unknown`: what a caller may choose is no label. A call that a caller gave up
//! is not counted.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::metrics::Metrics;

/// Measures the calls of a server.
#[derive(Clone)]
pub struct MeasureCalls(pub Metrics);

/// A server whose calls are measured.
#[derive(Clone)]
pub struct Measured<S> {
    metrics: Metrics,
    inner: S,
}

impl<S> Layer<S> for MeasureCalls {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured {
            metrics: self.0.clone(),
            inner,
        }
    }
}

impl<S, A, B> Service<Request<A>> for Measured<S>
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
        let (metrics, begun) = (self.metrics.clone(), Instant::now());
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // A call that failed before its first message says so in its head; a stream that fails later began well.
            let code = Status::from_header_map(answer.headers()).map_or(Code::Ok, |it| it.code());
            let method = if code == Code::Unimplemented {
                "unknown"
            } else {
                &method
            };
            metrics.called(method, name(code), begun.elapsed().as_secs_f64());
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
