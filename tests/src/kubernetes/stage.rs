//! What the scenarios of one test program share: one cluster, the product installed in it, one secret.
//!
//! Everything is brought up by whoever asks first, and nothing drops it: the cluster's reaper takes it down when the program
//! ends. `ATTACHE_KUBERNETES=1.36.3` takes another release that `tests/kubernetes/build.sh` has built.

#![expect(
    clippy::expect_used,
    reason = "a test program without a cluster has nothing to show"
)]

use std::{env, sync::LazyLock};

use anyhow::Result;

use super::{Cluster, Installation, NEWEST, Namespace, Release};

/// What `payments/db` has in its one field, `password`.
pub const PASSWORD: &str = "canary-0b9d2f61-password";

/// The cluster.
///
/// # Panics
/// When it does not come up.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
        let version = env::var("ATTACHE_KUBERNETES").unwrap_or_else(|_| NEWEST.to_owned());
        Cluster::start(&Release::new(&version)).expect("the cluster comes up")
    });
    &CLUSTER
}

/// The product in it, with `payments/db`.
///
/// # Panics
/// When it cannot be installed.
pub fn installation() -> &'static Installation<'static> {
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

/// A namespace whose pods' containers `main` may have `payments/NAME`, a secret of the scenario's own, which it can change.
///
/// # Errors
/// When secret, grant or namespace is refused.
pub fn namespace_with_secret(name: &str) -> Result<Namespace> {
    put_password(name, PASSWORD)?;
    granted(name, &format!("payments/{name}"))
}

/// Gives `payments/NAME` a version with this password.
///
/// # Errors
/// When the broker refuses it.
pub fn put_password(name: &str, password: &str) -> Result<()> {
    let (secret, field) = (format!("payments/{name}"), format!("password={password}"));
    installation().attache_ok(&["secret", "put", &secret, "--literal", &field])?;
    Ok(())
}

/// A namespace of a scenario's own.
///
/// # Errors
/// When the API server refuses it.
pub fn namespace(name: &str) -> Result<Namespace> {
    Namespace::create(cluster().kubectl(), name)
}

/// A namespace whose pods' containers `main` may have `payments/db`.
///
/// # Errors
/// When the grant or the namespace is refused.
pub fn granted_namespace(name: &str) -> Result<Namespace> {
    granted(name, "payments/db")
}

fn granted(name: &str, secret: &str) -> Result<Namespace> {
    let workload = format!("local/{name}/default/main");
    installation().attache_ok(&["grant", "add", name, secret, "--to", &workload])?;
    namespace(name)
}
