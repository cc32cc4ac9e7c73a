//! Pods of other shapes than one container that runs on: groups, users of their own, init containers, jobs, restarts.

#![expect(
    clippy::indexing_slicing,
    reason = "a scenario reads and bends objects of the API server"
)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use attache_tests::{
    kubernetes::{
        cluster::NODES,
        namespace::{asking_for, sleeper},
        stage::{PASSWORD, cluster, granted_namespace},
    },
    mounts::Mount,
    pod::merge,
    process::until,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How long a container may take to start again, and a volume to go.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a container ends.
const RESTARTS: u64 = 10;
/// Owner, group and mode of the file, followed through its links.
const SHAPE: &str = "stat -L -c '%u:%g %a' /secrets/db/password";

/// Tells what it has found, and ends: a digest in its last words.
const TELL: &str = "sha256sum </secrets/db/password | cut -c1-64 >/dev/termination-log";

fn digest_of_password() -> String {
    hex::encode(Sha256::digest(PASSWORD))
}

/// A pod whose container `main` is an init container of this kind, beside a container `app` without the volume.
fn with_init(own: &Value) -> Value {
    let mut spec = asking_for("payments/db");
    let mut init = spec["containers"][0].clone();
    merge(&mut init, own);
    let mut app = sleeper();
    merge(&mut app, &json!({ "name": "app" }));
    spec["initContainers"] = json!([init]);
    spec["containers"] = json!([app]);
    spec
}

/// The volume of a pod on a node, which has at most one.
fn volume_of(node: usize, pod: &Value) -> Result<Option<Mount>> {
    let uid = pod["metadata"]["uid"].as_str().context("a pod has a uid")?;
    let volumes = cluster().nodes[node].volumes()?;
    let mut its = volumes
        .into_iter()
        .filter(|mount| mount.point.components().any(|part| part.as_os_str() == uid));
    let first = its.next();
    assert_eq!(its.next(), None, "two mounts of one volume");
    Ok(first)
}

#[test]
fn the_files_are_the_fs_groups_where_the_container_says_no_group() -> Result<()> {
    let namespace = granted_namespace("shapes-group")?;
    let group = json!({ "securityContext": { "fsGroup": 3000 } });
    let mut spec = asking_for("payments/db");
    merge(&mut spec, &group);
    namespace.start_pod("both", &spec)?;
    assert_eq!(namespace.shell("both", SHAPE)?, "1000:1000 440\n");

    let mut container = spec["containers"][0].clone();
    merge(
        &mut container,
        &json!({ "securityContext": { "runAsGroup": null } }),
    );
    spec["containers"] = json!([container]);
    namespace.start_pod("fs-group", &spec)?;
    assert_eq!(namespace.shell("fs-group", SHAPE)?, "1000:3000 440\n");
    assert_eq!(
        namespace.shell("fs-group", "cat /secrets/db/password")?,
        PASSWORD
    );
    Ok(())
}

#[test]
fn a_pod_with_users_of_its_own_reads_its_secret_as_its_own_user() -> Result<()> {
    let namespace = granted_namespace("shapes-users")?;
    let mut spec = asking_for("payments/db");
    merge(&mut spec, &json!({ "hostUsers": false }));
    namespace.start_pod("web", &spec)?;
    let mapped = namespace.shell("web", "cat /proc/self/uid_map")?;
    assert_ne!(mapped.split_whitespace().nth(1), Some("0"), "{mapped}");
    assert_eq!(namespace.shell("web", SHAPE)?, "1000:1000 400\n");
    assert_eq!(
        namespace.shell("web", "cat /secrets/db/password")?,
        PASSWORD
    );
    let refused = namespace.exec("web", "chmod 600 /secrets/db/password")?;
    assert!(!refused.status.success());
    Ok(())
}

#[test]
fn an_init_container_is_the_one_that_reads_and_the_container_after_it_has_no_path() -> Result<()> {
    let namespace = granted_namespace("shapes-init")?;
    let spec = with_init(&json!({ "command": ["/bin/sh", "-c", TELL] }));
    let pod = namespace.start_pod("web", &spec)?;
    let ended = &pod["status"]["initContainerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["message"], format!("{}\n", digest_of_password()));
    let look = "ls -d /secrets; grep csi- /proc/self/mountinfo";
    assert_eq!(namespace.exec("web", look)?.stdout, b"");
    Ok(())
}

#[test]
fn a_restartable_init_container_has_the_secret_as_long_as_the_pod_runs() -> Result<()> {
    let namespace = granted_namespace("shapes-sidecar")?;
    namespace.start_pod("web", &with_init(&json!({ "restartPolicy": "Always" })))?;
    let exec = ["exec", "-n", &namespace.name, "web", "-c", "main", "--"];
    let read = ["cat", "/secrets/db/password"];
    let password = cluster().kubectl().run(&[&exec[..], &read[..]].concat())?;
    assert_eq!(password, PASSWORD);
    Ok(())
}

#[test]
fn a_job_reads_its_secret_and_its_volume_goes_when_it_is_done() -> Result<()> {
    let namespace = granted_namespace("shapes-job")?;
    let mut spec = asking_for("payments/db");
    spec["containers"][0]["command"] = json!(["/bin/sh", "-c", TELL]);
    merge(
        &mut spec,
        &json!({ "restartPolicy": "Never", "nodeName": NODES[0] }),
    );
    let job = json!({ "apiVersion": "batch/v1", "spec": { "backoffLimit": 0, "template": { "spec": spec } } });
    namespace.create_object("Job", "once", &job)?;
    namespace.wait_for("job/once", "condition=Complete")?;
    let args = ["get", "pods", "-n", &namespace.name, "-l", "job-name=once"];
    let pods = cluster().kubectl().json(&args)?;
    let pod = &pods["items"][0];
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["message"], format!("{}\n", digest_of_password()));
    until(PATIENCE, "its volume is gone", || {
        volume_of(0, pod).ok()?.is_none().then_some(())
    })
}

/// A container ends and is started again; kubelet's setting has that be a second later, ten times too.
#[test]
fn a_container_that_ends_ten_times_finds_the_same_mount_each_time() -> Result<()> {
    let namespace = granted_namespace("shapes-restarts")?;
    let mut spec = asking_for("payments/db");
    merge(&mut spec, &json!({ "nodeName": NODES[1] }));
    let pod = namespace.start_pod("web", &spec)?;
    let mounted = volume_of(1, &pod)?;
    assert!(mounted.is_some(), "it is mounted");
    let from = Instant::now();
    for restart in 1..=RESTARTS {
        // Its shell ends on TERM.
        namespace.exec("web", "kill 1")?;
        until(PATIENCE, "the container is started again", || {
            let restarts = cluster().kubectl().restarts(&namespace.name, "web");
            restarts.filter(|restarts| *restarts == restart)
        })?;
        assert_eq!(
            namespace.shell("web", "cat /secrets/db/password")?,
            PASSWORD
        );
        assert_eq!(volume_of(1, &pod)?, mounted, "restart {restart}");
    }
    println!("{RESTARTS} restarts of a container: {:?}", from.elapsed());
    Ok(())
}
