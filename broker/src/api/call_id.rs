//! An id for each call, which the caller and the log see alike.
//!
//! ```text
//! attache-request-id: BOOT-N        BOOT: 8 hex digits of this process, N: its calls, counted in hex
//! ```
//! It stands in the answer's headers, of a refusal too, and in every log line that is written while the call is handled.
//! The broker draws it: nothing that a caller sends gets into the log by this way. It names a call and proves nothing.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use attache_envelope::id::BootId;
use tonic::codegen::http::{HeaderName, HeaderValue, Request, Response};
use tower::{Layer, Service};
use tracing::{Instrument, field::Empty};

/// The header of the answer.
pub const HEADER: &str = "attache-request-id";

/// Gives each call of a server its id.
#[derive(Clone)]
pub struct CallIds {
    boot: Arc<str>,
    calls: Arc<AtomicU64>,
}

/// A server whose calls have ids.
#[derive(Clone)]
pub struct Identified<S> {
    ids: CallIds,
    inner: S,
}

impl CallIds {
    /// The ids of one run of the process. Clones count on together.
    #[must_use]
    pub fn new(boot: BootId) -> Self {
        let [a, b, c, d, ..] = *boot.as_bytes();
        Self {
            boot: hex::encode([a, b, c, d]).into(),
            calls: Arc::default(),
        }
    }

    fn next(&self) -> String {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        format!("{}-{call:x}", self.boot)
    }
}

impl<S> Layer<S> for CallIds {
    type Service = Identified<S>;

    fn layer(&self, inner: S) -> Identified<S> {
        Identified {
            ids: self.clone(),
            inner,
        }
    }
}

impl<S, A, B> Service<Request<A>> for Identified<S>
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
        let id = self.ids.next();
        let span = tracing::error_span!("call", request = %id, mutation = Empty);
        tracing::debug!(parent: &span, method = request.uri().path(), "called");
        let answer = span.in_scope(|| self.inner.call(request)).instrument(span);
        Box::pin(async move {
            let mut answer = answer.await?;
            if let Ok(id) = HeaderValue::try_from(id) {
                answer
                    .headers_mut()
                    .insert(HeaderName::from_static(HEADER), id);
            }
            Ok(answer)
        })
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
            let ids = CallIds::new(BootId::from_bytes(given.array("boot")));
            ids.calls.store(given.u64("call"), Ordering::Relaxed);
            assert_eq!(ids.next(), out.text("header"));
            assert_ne!(
                ids.clone().next(),
                out.text("header"),
                "each call has its own"
            );
        });
    }
}
