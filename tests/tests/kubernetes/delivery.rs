//! A secret reaches the one container that it is for, and stays as it was delivered.

use std::time::Instant;

use anyhow::Result;
use attache_tests::{
    kubernetes::{
        cluster::NODES,
        namespace::{asking_for, sleeper},
        stage::{PASSWORD, granted_namespace},
    },
    pod::merge,
};
use serde_json::json;

#[test]
fn a_pod_on_each_node_reads_its_secret_as_its_own_user() -> Result<()> {
    let namespace = granted_namespace("delivery-read")?;
    for node in NODES {
        let mut spec = asking_for("payments/db");
        merge(&mut spec, &json!({ "nodeName": node }));
        let applied = Instant::now();
        namespace.start_pod(node, &spec)?;
        assert_eq!(namespace.shell(node, "cat /secrets/db/password")?, PASSWORD);
        println!(
            "{node}: {} ms from apply to read",
            applied.elapsed().as_millis()
        );
        let shape = namespace.shell(node, "stat -L -c '%u:%g %a' /secrets/db/password")?;
        assert_eq!(shape, "1000:1000 400\n");
        let kind = namespace.shell(node, "stat -f -c %T /secrets")?;
        assert_eq!(kind, "tmpfs\n");
    }
    Ok(())
}

#[test]
fn the_sibling_container_has_no_path_to_the_secret() -> Result<()> {
    let namespace = granted_namespace("delivery-sibling")?;
    let mut spec = asking_for("payments/db");
    let mut sibling = sleeper();
    merge(&mut sibling, &json!({ "name": "sibling" }));
    let containers = json!([sibling, spec["containers"][0]]);
    merge(&mut spec, &json!({ "containers": containers }));
    namespace.start_pod("web", &spec)?;
    // The sibling is the first container, which a line of shell runs in; it has the same user.
    let look =
        "ls -d /secrets; grep csi- /proc/self/mountinfo; find / -xdev -name password 2>/dev/null";
    let seen = namespace.exec("web", look)?;
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "");
    Ok(())
}

#[test]
fn the_containers_own_user_can_neither_write_nor_chmod_nor_create() -> Result<()> {
    let namespace = granted_namespace("delivery-write")?;
    namespace.start_pod("web", &asking_for("payments/db"))?;
    for attempt in [
        "echo x >/secrets/db/password",
        "chmod 600 /secrets/db/password",
        "rm /secrets/db/password",
        "mv /secrets/db /secrets/other",
        "touch /secrets/new",
        "mkdir /secrets/folder",
        "ln -s /etc /secrets/link",
    ] {
        let output = namespace.exec("web", attempt)?;
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{attempt}");
        assert!(
            words.contains("Read-only file system"),
            "{attempt}: {words}"
        );
    }
    assert_eq!(
        namespace.shell("web", "cat /secrets/db/password")?,
        PASSWORD
    );
    Ok(())
}
