//! Leaving everything running: `env` says where it is, `stop.sh` ends it.

use std::{fmt::Write, fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use attache_tests::{
    Bed,
    process::{bin_dir, child},
};

use crate::{narrator::Narrator, story::Left};

/// Writes `env` and `stop.sh` and lets go of the processes.
pub(crate) fn leave(mut bed: Bed, left: Left, dir: &Path, narrator: &Narrator) -> Result<()> {
    let dir = dir.canonicalize()?;
    let (grpc, enroll) = bed.broker_addresses()?;
    let key = dir.join("etc/issuer.pk8");
    fs::write(&key, bed.issuer.pkcs8())?;
    let broker = bed.broker.take().context("the broker runs")?.release();
    let plugin = bed.plugin.take().context("the plugin runs")?.release();
    let (mounter, agent) = (child(plugin, "mounter")?, child(plugin, "agent")?);
    let target = bed
        .kubelet_dir()
        .join("pods")
        .join(&left.pod.uid)
        .join("volumes/kubernetes.io~csi")
        .join(&left.pod.volume)
        .join("mount");
    let containers: Vec<String> = left
        .containers
        .into_iter()
        .map(attache_tests::container::Container::release)
        .collect();

    let mut env = String::new();
    for (name, value) in [
        ("BROKER_ADDR", grpc.to_string()),
        ("BROKER_ENROLL_ADDR", enroll.to_string()),
        ("CSI_SOCKET", bed.csi_socket().display().to_string()),
        (
            "REGISTRATION_SOCKET",
            bed.registration_socket().display().to_string(),
        ),
        ("ATTACHE_CONFIG", bed.cli_config().display().to_string()),
        ("BROKER_PID", broker.to_string()),
        ("PLUGIN_PID", plugin.to_string()),
        ("AGENT_PID", agent.to_string()),
        ("MOUNTER_PID", mounter.to_string()),
        ("BROKER_DATA", bed.store_dir().display().to_string()),
        ("AUDIT_DIR", bed.audit_dir().display().to_string()),
        ("KUBELET_DIR", bed.kubelet_dir().display().to_string()),
        ("CLUSTER_DIR", bed.cluster.dir.display().to_string()),
        ("MOUNT_TARGETS", target.display().to_string()),
        ("ISSUER_URL", bed.issuer.url.clone()),
        ("ISSUER_KID", bed.issuer.kid.clone()),
        ("ISSUER_KEY", key.display().to_string()),
        ("CONTAINERS", containers.join(" ")),
    ] {
        writeln!(env, "{name}='{}'", value.replace('\'', r"'\''"))?;
    }
    let programs = bin_dir()?;
    writeln!(env, "PATH='{}':\"$PATH\"", programs.display())?;
    writeln!(env, "export ATTACHE_CONFIG PATH")?;
    fs::write(dir.join("env"), env)?;
    fs::write(dir.join("stop.sh"), STOP)?;
    fs::set_permissions(dir.join("stop.sh"), fs::Permissions::from_mode(0o755))?;
    bed.leave();
    narrator.end_kept(&dir);
    Ok(())
}

/// Takes everything down after a failure with `--keep`; the files stay, for looking at.
pub(crate) fn empty(bed: &mut Bed) {
    drop(bed.plugin.take());
    drop(bed.broker.take());
}

const STOP: &str = r#"#!/bin/sh
# Ends what deploy/try.sh --keep left running here: containers, node plugin, broker, mounts. The files stay.
dir=$(cd "$(dirname "$0")" && pwd) || exit 1
. "$dir/env"
for container in $CONTAINERS; do runc --root "$dir/containers/runc" delete --force "$container"; done
# A process id may have been taken over by another program since: only ours is told to end. One whose program was built
# anew since runs on from a file that is deleted.
ours() {
  case "$(readlink "/proc/$1/exe")" in
    */attache-broker | */attache-node-plugin | *"/attache-broker (deleted)" | *"/attache-node-plugin (deleted)") true ;;
    *) false ;;
  esac
}
stop() { if ours "$1"; then kill "$1"; fi; }
stop "$PLUGIN_PID"
stop "$BROKER_PID"
tries=0
while { ours "$PLUGIN_PID" || ours "$BROKER_PID"; } && [ "$tries" -lt 300 ]; do
  tries=$((tries + 1))
  sleep 0.1
done
# Only the node plugin's volumes: a tmpfs whose source is a volume's id. mountinfo writes a blank as \040.
PODS="$KUBELET_DIR/pods/" awk '{
  point = $5
  gsub(/\\040/, " ", point)
  for (i = 7; i < NF && $i != "-"; i++);
  if ($(i + 1) == "tmpfs" && $(i + 2) ~ /^csi-/ && index(point, ENVIRON["PODS"]) == 1) print point
}' /proc/self/mountinfo | sort -r | while IFS= read -r mount; do umount -l "$mount"; done
for pid in "$PLUGIN_PID" "$MOUNTER_PID" "$AGENT_PID" "$BROKER_PID"; do
  if ours "$pid"; then
    echo "stop.sh: process $pid did not end; look at it, or: kill -9 $pid" >&2
    left=1
  fi
done
if [ -n "${left:-}" ]; then exit 1; fi
echo "stopped; the files are in $dir"
"#;
