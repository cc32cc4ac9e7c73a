//! File descriptors: enough for every connection that the settings allow, and some that no peer can take.
//!
//! Without one the next audit segment cannot be made, and nothing is released.

use anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Limits;

/// For the store, the log, the clusters' records, the admin socket and what the runtime needs.
const RESERVE: u64 = 256;

/// Raises the soft limit to the hard one, and demands that it is enough.
///
/// # Errors
/// When it is not: with the settings that go together with it.
pub(super) fn provide(limits: &Limits) -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?;
    check(limits, maximum)
}

fn check(limits: &Limits, allowed: Option<u64>) -> Result<()> {
    let connections = limits.connections.saturating_add(limits.enroll_connections);
    let needed = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_add(RESERVE);
    match allowed {
        Some(allowed) if allowed < needed => bail!(
            "the process may open {allowed} files, and limits.connections and limits.enroll_connections together with \
             the broker's own take {needed}: raise the limit (LimitNOFILE, ulimit -Hn), or lower these settings"
        ),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_connection_and_the_broker_itself_have_a_descriptor() {
        let limits = Limits {
            connections: 1000,
            connections_per_peer: 1,
            enroll_connections: 24,
            enroll_connections_per_address: 1,
            handshakes: 1,
            handshake_timeout: Duration::ZERO,
            requests_per_connection: 1,
            connection_age: Duration::ZERO,
            deliveries_per_node: 1,
            deliveries_per_node_per_s: 1,
            drain: Duration::ZERO,
        };
        check(&limits, None).unwrap();
        check(&limits, Some(1280)).unwrap();
        let error = check(&limits, Some(1279)).unwrap_err().to_string();
        assert!(
            error.contains("1279") && error.contains("limits.connections"),
            "{error}"
        );
    }
}
