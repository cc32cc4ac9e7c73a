//! Every claim about Kubernetes, on a real one: two nodes, one cluster for all scenarios.
//!
//! `ATTACHE_KUBERNETES=1.36.3` runs them on another release that tests/kubernetes/build.sh has built.

#![expect(clippy::expect_used, reason = "a test that meets the unexpected fails")]

mod ground;

use std::{env, sync::LazyLock};

use anyhow::Result;
use attache_tests::kubernetes::{Cluster, NEWEST, Namespace, Release};

/// The cluster of all scenarios. Nothing drops it: its reaper takes it down when this program ends.
fn cluster() -> &'static Cluster {
    static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
        let version = env::var("ATTACHE_KUBERNETES").unwrap_or_else(|_| NEWEST.to_owned());
        Cluster::start(&Release::new(&version)).expect("the cluster comes up")
    });
    &CLUSTER
}

/// A namespace of a scenario's own.
fn namespace(name: &str) -> Result<Namespace> {
    Namespace::create(cluster().kubectl(), name)
}
