//! Every claim about Kubernetes, on a real one: two nodes, one cluster for all scenarios.
//!
//! `ATTACHE_KUBERNETES=1.36.3` runs them on another release that tests/kubernetes/build.sh has built.

#![expect(clippy::expect_used, reason = "a test that meets the unexpected fails")]

mod delivery;
mod ground;
mod refusals;

use std::{env, sync::LazyLock};

use anyhow::Result;
use attache_tests::kubernetes::{Cluster, Installation, NEWEST, Namespace, Release};

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

/// What `payments/db` has in its one field, in every scenario.
const PASSWORD: &str = "canary-0b9d2f61-password";

/// The product in it.
fn installation() -> &'static Installation<'static> {
    static INSTALLATION: LazyLock<Installation<'static>> = LazyLock::new(|| {
        let installation = Installation::install(cluster()).expect("the chart is installed");
        let attache = |args: &[&str]| installation.attache_ok(args).expect("attache");
        attache(&["keyspace", "create", "payments"]);
        let password = format!("password={PASSWORD}");
        attache(&["secret", "put", "payments/db", "--literal", &password]);
        installation
    });
    &INSTALLATION
}

/// A namespace whose pods' containers `main` may have `payments/db`.
fn granted_namespace(name: &str) -> Result<Namespace> {
    let workload = format!("local/{name}/default/main");
    installation().attache_ok(&["grant", "add", name, "payments/db", "--to", &workload])?;
    namespace(name)
}
