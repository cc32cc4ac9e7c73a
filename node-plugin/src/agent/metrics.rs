//! What the agent measures, in the text form that Prometheus reads (OpenMetrics 1.0).
//!
//! ```text
//! volumes (each publish, refresh, unpublish)   -> Metrics    counted where it ends
//! Standing (volumes, mounter, broker, identity) -> Metrics    looked at when somebody reads
//! ```
//! `docs/metrics.md` lists them, and a test holds the page against the registry. Labels are of fixed sets: nothing here may
//! name a secret, a pod or a node.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

use super::broker::{Broker, CallError, RefusalKind};
use super::deliver::DeliverError;
use super::volumes::{PublishError, Volumes};

/// From a volume that is there already to the longest that kubelet waits, in seconds.
const BUCKETS_S: [f64; 13] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0, 60.0,
];

/// What is counted. A clone counts on the same.
#[derive(Clone)]
pub struct Metrics {
    publishes: Family<Publish, Histogram>,
    refreshes: Family<Outcome, Histogram>,
    unpublishes: Family<Outcome, Histogram>,
}

/// Whether a volume was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Volume {
    /// It was to be made.
    New,
    /// It was published, and kubelet publishes it again.
    Present,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Publish {
    volume: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram = || Histogram::new(BUCKETS_S);
        Self {
            publishes: Family::new_with_constructor(histogram),
            refreshes: Family::new_with_constructor(histogram),
            unpublishes: Family::new_with_constructor(histogram),
        }
    }
}

impl Metrics {
    /// A registry with these metrics, and with what `standing` looks at.
    #[must_use]
    pub(super) fn registry(&self, standing: Standing) -> Registry {
        let mut registry = Registry::with_prefix("attache_node_plugin");
        registry.register(
            "build",
            "The version of the node plugin",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_with_unit(
            "publish_duration",
            "Of a publish, by whether the volume is new, and by how it ended",
            Unit::Seconds,
            self.publishes.clone(),
        );
        registry.register_with_unit(
            "refresh_duration",
            "Of a look at the broker whether a volume is still what it should be, by how it ended",
            Unit::Seconds,
            self.refreshes.clone(),
        );
        registry.register_with_unit(
            "unpublish_duration",
            "Of an unpublish, by how it ended",
            Unit::Seconds,
            self.unpublishes.clone(),
        );
        registry.register_collector(Box::new(standing));
        registry
    }

    pub(super) fn published(
        &self,
        volume: Volume,
        done: &Result<(), PublishError>,
        took: Duration,
    ) {
        let volume = match volume {
            Volume::New => "new",
            Volume::Present => "present",
        };
        let result = result(done, "published");
        let publish = self.publishes.get_or_create(&Publish { volume, result });
        publish.observe(took.as_secs_f64());
    }

    pub(super) fn refreshed(&self, result: &'static str, took: Duration) {
        let refresh = self.refreshes.get_or_create(&Outcome { result });
        refresh.observe(took.as_secs_f64());
    }

    pub(super) fn unpublished(&self, done: &Result<(), PublishError>, took: Duration) {
        let result = result(done, "unpublished");
        let unpublish = self.unpublishes.get_or_create(&Outcome { result });
        unpublish.observe(took.as_secs_f64());
    }
}

fn result(done: &Result<(), PublishError>, good: &'static str) -> &'static str {
    done.as_ref().map_or_else(failure, |()| good)
}

/// The one word for how something failed: by where the mend is.
pub(super) fn failure(error: &PublishError) -> &'static str {
    match error {
        PublishError::Busy | PublishError::TooMany => "busy",
        PublishError::NotJoined => "not_joined",
        PublishError::Deliver(DeliverError::Call(CallError::Refused { kind, .. })) => match kind {
            RefusalKind::InvalidArgument
            | RefusalKind::Unauthenticated
            | RefusalKind::KeyUnknown
            | RefusalKind::PermissionDenied => "refused",
            RefusalKind::ResourceExhausted => "busy",
            RefusalKind::Unavailable | RefusalKind::Internal => "broker_failed",
        },
        PublishError::Deliver(DeliverError::Call(CallError::Away | CallError::Silent)) => {
            "broker_away"
        }
        PublishError::Deliver(_) => "not_believed",
        PublishError::MounterAway => "mounter_away",
        PublishError::Mount(_)
        | PublishError::NotSeen(_)
        | PublishError::NotAsWritten
        | PublishError::LeftMounted(_) => "not_mounted",
        PublishError::Stopping => "stopping",
    }
}

/// Where to look how things stand.
pub(super) struct Standing {
    pub(super) volumes: Volumes,
    /// As Probe says.
    pub(super) ready: watch::Receiver<bool>,
    /// Whether there is a connection to the mounter.
    pub(super) mounter: watch::Receiver<bool>,
    /// The broker, once this node has joined.
    pub(super) broker: watch::Receiver<Option<Arc<Broker>>>,
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standing")
    }
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (published, troubled) = self.volumes.counted();
        let broker = self.broker.borrow().clone();
        let answered = broker.as_ref().is_none_or(|broker| broker.is_answering());
        let flag = |of: &watch::Receiver<bool>| i64::from(*of.borrow());
        let gauges = [
            (
                "ready",
                "1 while the plugin is connected to the mounter and has joined, as Probe says",
                flag(&self.ready),
            ),
            (
                "mounter_connected",
                "1 while there is a connection to the mounter",
                flag(&self.mounter),
            ),
            (
                "broker_reachable",
                "0 when the last call to the broker got no answer",
                i64::from(answered),
            ),
            ("volumes", "Volumes that are published", number(published)),
            (
                "volumes_in_trouble",
                "Of those, how many could not be refreshed; they are mounted as they were",
                number(troubled),
            ),
        ];
        for (name, help, value) in gauges {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        // Without a certificate there is no life to tell of.
        if let Some(broker) = broker {
            let end = broker.material().identity().not_after();
            let left = end.duration_since(Timestamp::now()).as_secs();
            let metric = encoder.encode_descriptor(
                "certificate_life_left",
                "Until the node's certificate ends, which the plugin renews by itself",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?;
            ConstGauge::new(left).encode(metric)?;
        }
        Ok(())
    }
}

fn number(of: usize) -> i64 {
    of.try_into().unwrap_or(i64::MAX)
}
