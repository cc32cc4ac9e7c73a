//! What the agent tells of itself to those who start and watch it.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use crate::bed::{AGENT_UID, Bed};

/// `health` as kubelet runs it: in the agent's container, as its user.
fn health(bed: &Bed, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attache-node-plugin"));
    command.arg("health").args(more).arg("--config");
    command.arg(bed.dir.join("node-plugin.toml"));
    command.uid(AGENT_UID).gid(AGENT_UID).output().unwrap()
}

#[test]
fn health_says_what_probe_says_to_the_agents_own_user() {
    let mut bed = Bed::idle();
    let unset = health(&bed, &[]);
    let said = String::from_utf8_lossy(&unset.stderr).into_owned();
    assert!(unset.status.code() == Some(1) && said.contains("listen.health is not set"));

    let folder = bed.dir.join("health");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(AGENT_UID), Some(AGENT_UID)).unwrap();
    let socket = folder.join("health.sock");
    bed.configure(&format!("[listen]\nhealth = \"{}\"\n", socket.display()));
    let absent = health(&bed, &["--live"]);
    let said = String::from_utf8_lossy(&absent.stderr).into_owned();
    assert!(absent.status.code() == Some(1) && said.contains("no agent answers"));

    let token = bed.dir.join("join-token");
    let kept = bed.dir.join("kept");
    fs::rename(&token, &kept).unwrap();
    bed.spawn_plugin();
    bed.until("alive", |bed| health(bed, &["--live"]).status.success());
    assert_eq!(
        health(&bed, &[]).status.code(),
        Some(8),
        "it has not joined"
    );
    fs::rename(&kept, &token).unwrap();
    bed.until("ready", Bed::ready);
    assert!(health(&bed, &[]).status.success());
}
