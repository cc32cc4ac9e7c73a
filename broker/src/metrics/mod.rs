//! What the broker measures, in the text form that Prometheus reads (OpenMetrics 1.0).
//!
//! ```text
//! api::calls (each call), api::delivery (each delivery) -> Metrics   counted where it ends
//! Standing (log, store, certificates, sessions)            -> Metrics   looked at when somebody reads
//! ```
//! `docs/metrics.md` lists them, and a test holds the page against the registry. Labels are of fixed sets: nothing here
//! may name a secret, a pod, a node or an operator.

mod api;
mod standing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use api::ApiMetrics;
pub use standing::Standing;

/// From a lone release's time to the longest that a caller waits, in seconds.
const BUCKETS_S: [f64; 13] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

/// What is counted. A clone counts on the same.
#[derive(Clone)]
pub struct Metrics {
    /// Seconds by method and code; a call's count is in it.
    calls: Family<Call, Histogram>,
    deliveries: Family<Delivery, Counter>,
    /// All of them together.
    delivered: Arc<AtomicU64>,
    api: ApiMetrics,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: String,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Delivery {
    result: &'static str,
    reason: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            calls: Family::new_with_constructor(|| Histogram::new(BUCKETS_S)),
            deliveries: Family::default(),
            delivered: Arc::default(),
            api: ApiMetrics::default(),
        }
    }
}

impl Metrics {
    /// A registry with these metrics, and with what `standing` looks at.
    #[must_use]
    pub fn registry(&self, standing: Standing) -> Registry {
        let mut registry = self.counted(false);
        registry.register_collector(Box::new(standing));
        registry
    }

    /// A registry of a sealed broker: there is nothing to look at.
    #[must_use]
    pub fn sealed_registry(&self) -> Registry {
        self.counted(true)
    }

    fn counted(&self, sealed: bool) -> Registry {
        let mut registry = Registry::with_prefix("attache_broker");
        registry.register(
            "build",
            "The version of the broker",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_with_unit(
            "call_duration",
            "From a call's head to its answer's, by gRPC method and code; a method that there is not is unknown",
            Unit::Seconds,
            self.calls.clone(),
        );
        registry.register(
            "deliveries",
            "Requests of node plugins for a volume, by how they ended and why",
            self.deliveries.clone(),
        );
        registry.register(
            "sealed",
            "1 while the broker is sealed: it holds no key, and does nothing before it is opened",
            ConstGauge::new(i64::from(sealed)),
        );
        self.api.register(&mut registry);
        registry
    }

    /// What is counted of questions to API servers.
    #[must_use]
    pub fn api(&self) -> &ApiMetrics {
        &self.api
    }

    /// Counts a call that was answered.
    pub fn called(&self, method: &str, code: &'static str, seconds: f64) {
        let call = Call {
            method: method.to_owned(),
            code,
        };
        self.calls.get_or_create(&call).observe(seconds);
    }

    /// Counts a delivery. `reason` is that of the error, and empty without one.
    pub fn delivered(&self, result: &'static str, reason: &'static str) {
        self.deliveries
            .get_or_create(&Delivery { result, reason })
            .inc();
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    /// How many deliveries were counted.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }
}
