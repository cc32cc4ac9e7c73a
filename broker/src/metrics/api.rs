//! What is counted of questions to API servers, and of answers that were still at hand.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::BUCKETS_S;

/// The counters of all clusters together. A clone counts on the same.
#[derive(Clone)]
pub struct ApiMetrics {
    /// Seconds by operation and result; a question's count is in it.
    calls: Family<ApiCall, Histogram>,
    answers: Family<Answer, Counter>,
    open_breakers: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiCall {
    operation: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    operation: &'static str,
    from: &'static str,
}

impl Default for ApiMetrics {
    fn default() -> Self {
        Self {
            calls: Family::new_with_constructor(|| Histogram::new(BUCKETS_S)),
            answers: Family::default(),
            open_breakers: Gauge::default(),
        }
    }
}

impl ApiMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "kubernetes_call_duration",
            "Questions to API servers, from the wish to ask to the last byte of the answer, by operation and result",
            Unit::Seconds,
            self.calls.clone(),
        );
        registry.register(
            "kubernetes_answers",
            "Answers about tokens, pods and nodes, by where they came from: the server or the cache",
            self.answers.clone(),
        );
        registry.register(
            "kubernetes_breakers_open",
            "Clusters whose API server did not answer lately and is left alone",
            self.open_breakers.clone(),
        );
    }

    /// Counts a question that has ended.
    pub fn called(&self, operation: &'static str, result: &'static str, seconds: f64) {
        let call = ApiCall { operation, result };
        self.calls.get_or_create(&call).observe(seconds);
    }

    /// Counts an answer that the asker got.
    pub fn answered(&self, operation: &'static str, cached: bool) {
        let from = if cached { "cache" } else { "server" };
        self.answers
            .get_or_create(&Answer { operation, from })
            .inc();
    }

    /// How many breakers are open.
    #[must_use]
    pub fn open_breakers(&self) -> Gauge {
        self.open_breakers.clone()
    }
}
