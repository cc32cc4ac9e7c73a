//! How things stand, looked at when somebody reads the metrics.

use std::fmt;
use std::path::PathBuf;

use attache_mtls::tls::Credentials;
use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::fs::statvfs;
use tokio::sync::watch;

use crate::audit::{AuditLog, LogState};
use crate::identity::{Authority, Directory};
use crate::overdue::OverdueKeys;
use crate::scrub::LastScrub;
use crate::store::BrokerLedger;

/// Where to look.
pub struct Standing {
    /// Whether the broker serves.
    pub serving: watch::Receiver<bool>,
    /// The log.
    pub log: AuditLog,
    /// Its folder.
    pub audit_dir: PathBuf,
    /// The store.
    pub ledger: BrokerLedger,
    /// Its file.
    pub store: PathBuf,
    /// What the last scrub of it found.
    pub scrubbed: LastScrub,
    /// The server's certificate.
    pub credentials: Credentials,
    /// The nodes and operators.
    pub directory: Directory,
    /// Keys that are past what their keyspace demands.
    pub overdue: OverdueKeys,
    /// The CA.
    pub authority: Authority,
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standing")
    }
}

/// Name, help, unit and value.
type Gauge = (&'static str, &'static str, Option<Unit>, i64);

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gauges = self.gauges().into_iter();
        for (name, help, unit, value) in gauges.chain(self.disks()).chain(self.scrub()) {
            let kind = MetricType::Gauge;
            let metric = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}

impl Standing {
    fn gauges(&self) -> Vec<Gauge> {
        let (now, view) = (Timestamp::now(), self.directory.view());
        let left = |end: Timestamp| end.duration_since(now).as_secs();
        let full = *self.log.state().borrow() != LogState::Writing;
        let certificate_end = self.credentials.current().identity().not_after();
        vec![
            (
                "serving",
                "1 while the broker serves, as its health says",
                None,
                i64::from(*self.serving.borrow()),
            ),
            (
                "audit_full",
                "1 while the audit log takes no leaf, so that nothing is released or changed",
                None,
                i64::from(full),
            ),
            (
                "audit_leaves",
                "Durable leaves of this broker's audit log",
                None,
                number(self.log.head().size),
            ),
            (
                "store_sequence",
                "The newest commit of the store",
                None,
                number(self.ledger.seq()),
            ),
            (
                "certificate_life_left",
                "Until the server's certificate ends, which the broker renews by itself",
                Some(Unit::Seconds),
                left(certificate_end),
            ),
            (
                "ca_life_left",
                "Until the CA's certificate ends",
                Some(Unit::Seconds),
                left(self.authority.not_after()),
            ),
            (
                "keys_overdue",
                "Keyspaces' active keys that are past what is demanded of them, at the last look a minute ago at most",
                None,
                number(self.overdue.count()),
            ),
            (
                "nodes",
                "Nodes that have joined",
                None,
                number(view.nodes.len()),
            ),
            (
                "bans",
                "Nodes and operators that are banned",
                None,
                number(view.bans.len()),
            ),
        ]
    }

    /// Of the last scrub; nothing until one has ended.
    fn scrub(&self) -> Vec<Gauge> {
        let Some(last) = self.scrubbed.borrow().clone() else {
            return Vec::new();
        };
        let age = Timestamp::now().duration_since(last.at).as_secs();
        vec![
            (
                "scrub_findings",
                "What the last look at every row found that was not written so; 0 while the store is whole",
                None,
                number(last.report.findings.len()),
            ),
            (
                "scrub_age",
                "Since the last look at every row ended",
                Some(Unit::Seconds),
                age,
            ),
        ]
    }

    /// Of disks; one that cannot be asked is left out.
    fn disks(&self) -> Vec<Gauge> {
        let free = |path| {
            let disk = statvfs(path).ok()?;
            Some(number(disk.f_bavail.saturating_mul(disk.f_frsize)))
        };
        let size = |path| Some(number(std::fs::metadata(path).ok()?.len()));
        [
            (
                "audit_disk_free",
                "Room on the audit log's disk",
                free(&self.audit_dir),
            ),
            ("store_size", "The store's file", size(&self.store)),
            (
                "store_disk_free",
                "Room on the store's disk",
                free(&self.store),
            ),
        ]
        .into_iter()
        .filter_map(|(name, help, value)| Some((name, help, Some(Unit::Bytes), value?)))
        .collect()
    }
}

fn number(of: impl TryInto<i64>) -> i64 {
    of.try_into().unwrap_or(i64::MAX)
}
