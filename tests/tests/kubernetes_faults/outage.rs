//! The broker goes away and comes back: what runs goes on, what starts waits.

use anyhow::Result;
use attache_tests::kubernetes::{
    installation::NAMESPACE,
    namespace::asking_for,
    stage::{PASSWORD, cluster, granted_namespace},
};

use crate::alone;

#[test]
fn a_pod_that_starts_while_the_broker_restarts_has_its_secret_in_the_end() -> Result<()> {
    let _alone = alone();
    let namespace = granted_namespace("outage-restart")?;
    cluster().kubectl().run(&[
        "delete",
        "pod",
        "-n",
        NAMESPACE,
        "attache-broker-0",
        "--wait=false",
    ])?;
    namespace.start_pod("web", &asking_for("payments/db"))?;
    assert_eq!(
        namespace.shell("web", "cat /secrets/db/password")?,
        PASSWORD
    );
    Ok(())
}
