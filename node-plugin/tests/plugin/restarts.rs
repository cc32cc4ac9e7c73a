//! Processes that end and are killed: mounts stay, and are found again.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{IFlags, ioctl_setflags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Signal, kill_process};

use crate::bed::{Bed, Volume};

const PASSWORD: &str = "canary-3c4d-password";

#[test]
fn a_restarted_plugin_finds_its_volumes_and_needs_no_broker_for_them() {
    let mut bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.publish(&volume).unwrap();
    let before = (bed.mounts(), bed.read(&volume, ".attache.json"));
    for signal in [Signal::TERM, Signal::KILL] {
        bed.plugin.take().unwrap().end(signal);
        assert_eq!(
            bed.read(&volume, "db/password"),
            PASSWORD,
            "a mount outlives its plugin"
        );
        bed.start_plugin();
        bed.broker.down();
        bed.publish(&volume).unwrap();
        assert_eq!((bed.mounts(), bed.read(&volume, ".attache.json")), before);
        bed.broker.up();
    }
    bed.publish(&volume).unwrap();
    bed.until("unchanged", |bed| {
        bed.broker.world.lock().unwrap().unchanged > 0
    });
    assert_eq!(bed.broker.world.lock().unwrap().releases, 1);
    bed.unpublish(&volume).unwrap();
    assert!(bed.mounts().is_empty());
}

#[test]
fn either_half_may_be_killed_and_comes_back() {
    let bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.publish(&volume).unwrap();
    for half in ["agent", "mounter", "agent", "mounter"] {
        let pid = bed.pid_of(half).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        bed.until("another", |bed| {
            bed.pid_of(half).is_some_and(|now| now != pid)
        });
        bed.until("answering", |bed| bed.publish(&volume).is_ok());
        assert_eq!(bed.mounts().len(), 1);
        let other = Volume::new(&format!("after-{half}"));
        bed.until("publishing", |bed| bed.publish(&other).is_ok());
        bed.until("unpublishing", |bed| bed.unpublish(&other).is_ok());
    }
    assert_eq!(bed.read(&volume, "db/password"), PASSWORD);
    assert_eq!(bed.mounts().len(), 1);
}

/// A container's root holds a lease on the metadata of its volume: nobody else feels that, and the volume is mended.
#[test]
fn a_lease_on_its_metadata_costs_a_container_alone() {
    let bed = Bed::start();
    let [leased, well] = ["web-0", "web-1"].map(Volume::new);
    for volume in [&leased, &well] {
        bed.publish(volume).unwrap();
    }
    let metadata = bed.kubelet.path(&leased).join(".attache.json");
    let mut container = Command::new("python3")
        .args(["-c", include_str!("../lease.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let ask = format!("F_WRLCK {}\n", metadata.display());
    let mut stdin = container.stdin.take().unwrap();
    stdin.write_all(ask.as_bytes()).unwrap();
    let mut answer = [0; 5];
    let held = container.stdout.as_mut().unwrap().read_exact(&mut answer);
    assert!(held.is_ok() && answer == *b"held\n", "no lease was taken");
    for half in ["agent", "mounter"] {
        let pid = bed.pid_of(half).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        bed.until("another", |bed| {
            bed.pid_of(half).is_some_and(|now| now != pid)
        });
        bed.until("ready", |bed| bed.ready());
        bed.until("answering", |bed| bed.publish(&well).is_ok());
    }
    assert_eq!(bed.read(&leased, "db/password"), PASSWORD);
    bed.until("mended", |bed| bed.publish(&leased).is_ok());
    assert_eq!(bed.read(&leased, "db/password"), PASSWORD);
    drop(stdin);
    container.wait().unwrap();
    for volume in [&leased, &well] {
        bed.until("unpublished", |bed| bed.unpublish(volume).is_ok());
    }
}

/// The mounter dies at each of its failpoints: the volume is whole or absent to its reader, and the next publish
/// mends it.
#[test]
fn a_mounter_that_dies_in_the_middle_leaves_nothing_half() {
    for point in ["after-mount", "after-write", "before-swap", "after-swap"] {
        let mut bed = Bed::idle();
        bed.configure(&format!("danger_failpoints = \"{point}\""));
        bed.start_plugin();
        let volume = Volume::new("web-0");
        let refused = bed.publish(&volume).unwrap_err();
        assert_eq!(
            refused.code(),
            tonic::Code::Unavailable,
            "{point}: {refused:?}"
        );
        let read = bed.read(&volume, "db/password");
        assert!(read.is_empty() || read == PASSWORD, "{point}");
        bed.plugin.take().unwrap().end(Signal::TERM);
        bed.configure("");
        bed.start_plugin();
        bed.publish(&volume).unwrap();
        assert_eq!(bed.read(&volume, "db/password"), PASSWORD, "{point}");
        assert_eq!(bed.mounts().len(), 1, "{point}");
        bed.unpublish(&volume).unwrap();
        assert!(bed.mounts().is_empty(), "{point}");
    }
}

#[test]
fn a_volume_that_was_unmounted_behind_the_plugin_is_mounted_again() {
    let mut bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.publish(&volume).unwrap();
    let point = bed.kubelet.path(&volume);
    unmount(&point, UnmountFlags::DETACH).unwrap();
    bed.publish(&volume).unwrap();
    assert_eq!(
        bed.read(&volume, "db/password"),
        PASSWORD,
        "OK is for what is there"
    );
    assert_eq!(bed.mounts().len(), 1);
    unmount(&point, UnmountFlags::DETACH).unwrap();
    bed.broker.down();
    let refused = bed.publish(&volume).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    assert!(bed.mounts().is_empty());
    let mut request = bed.kubelet.publish_request(&volume);
    request.secrets.clear();
    let refused = bed.send(request).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    bed.broker.up();
    bed.until("back", |bed| bed.publish(&volume).is_ok());
    assert_eq!(bed.read(&volume, "db/password"), PASSWORD);
    // Something else on top of it: nobody can say what a container would see, and nothing final is said.
    let flags = MountFlags::empty();
    mount("theirs", &point, c"tmpfs", flags, None).unwrap();
    let refused = bed.publish(&volume).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    unmount(&point, UnmountFlags::DETACH).unwrap();
    bed.publish(&volume).unwrap();
}

/// A refresh that was cut short left its generation beside the present one: a reader does not notice, and the broker is
/// not needed. A link is gone: a reader does, and such a volume is none.
#[test]
fn what_is_whole_to_a_reader_is_answered_for_without_the_broker_and_nothing_else_is() {
    let mut bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.publish(&volume).unwrap();
    bed.plugin.take().unwrap().end(Signal::TERM);
    bed.configure("danger_failpoints = \"before-swap\"");
    bed.start_plugin();
    bed.broker.put("password", b"second");
    let mounter = bed.pid_of("mounter");
    bed.publish(&volume).unwrap();
    bed.until("dead", |bed| bed.pid_of("mounter") != mounter);
    bed.plugin.take().unwrap().end(Signal::TERM);
    bed.broker.down();
    bed.configure("");
    bed.start_plugin();
    assert!(
        bed.stats(&volume)
            .unwrap()
            .volume_condition
            .unwrap()
            .abnormal
    );
    bed.publish(&volume).unwrap();
    assert_eq!(bed.read(&volume, "db/password"), PASSWORD);

    bed.plugin.take().unwrap().end(Signal::TERM);
    let point = bed.kubelet.path(&volume);
    ioctl_setflags(File::open(&point).unwrap(), IFlags::empty()).unwrap();
    fs::remove_file(point.join("db")).unwrap();
    bed.start_plugin();
    let refused = bed.publish(&volume).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    assert!(bed.mounts().is_empty());
    bed.broker.up();
    bed.until("back", |bed| bed.publish(&volume).is_ok());
    assert_eq!(bed.read(&volume, "db/password"), "second");
}

/// Somebody mounted something over a volume: that one is refused, and all others are served, by a restarted agent too.
#[test]
fn a_volume_that_cannot_be_looked_at_keeps_no_other_from_being_served() {
    let mut bed = Bed::start();
    let (covered, other) = (Volume::new("web-0"), Volume::new("web-1"));
    bed.publish(&covered).unwrap();
    bed.publish(&other).unwrap();
    let (point, flags) = (bed.kubelet.path(&covered), MountFlags::empty());
    mount("theirs", &point, c"tmpfs", flags, None).unwrap();
    for signal in [Signal::TERM, Signal::KILL] {
        bed.plugin.take().unwrap().end(signal);
        bed.start_plugin();
        bed.publish(&other).unwrap();
        let refused = bed.publish(&covered).unwrap_err();
        // No final code: beneath, it is still mounted.
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
        assert!(refused.message().contains("something else is mounted"));
        assert_eq!(bed.read(&other, "db/password"), PASSWORD);
        assert_eq!(bed.mounts().len(), 3);
    }
    unmount(&point, UnmountFlags::DETACH).unwrap();
    bed.publish(&covered).unwrap();
    assert_eq!(bed.read(&covered, "db/password"), PASSWORD);
    assert_eq!(bed.mounts().len(), 2);
}

/// Stopped by SIGTERM with a publish in flight, the plugin ends it first.
#[test]
fn a_stop_lets_what_is_in_flight_end() {
    let mut bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.broker.say(crate::world::Say::Wait);
    bed.kubelet.prepare(&volume);
    let request = bed.kubelet.publish_request(&volume);
    let mut node = bed.kubelet.node.clone();
    let call = bed
        .runtime
        .spawn(async move { node.node_publish_volume(request).await });
    bed.until("asked", |bed| {
        !bed.broker.world.lock().unwrap().tokens.is_empty()
    });
    kill_process(bed.pid_of("agent").unwrap(), Signal::TERM).unwrap();
    bed.until("ending", |bed| bed.log().contains("the agent ends"));
    bed.broker.gate.add_permits(1);
    bed.runtime.block_on(call).unwrap().unwrap();
    assert_eq!(bed.read(&volume, "db/password"), PASSWORD);
    let begun = Instant::now();
    bed.plugin.take().unwrap().end(Signal::TERM);
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[test]
fn the_agent_is_nobody_and_the_mounter_has_no_network() {
    let bed = Bed::start();
    let status = |half: &str| {
        let pid = bed.pid_of(half).unwrap().as_raw_nonzero();
        fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
    };
    let field = |status: &str, name: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        line.split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let agent = status("agent");
    assert_eq!(field(&agent, "Uid:"), "4840 4840 4840 4840");
    assert_eq!(field(&agent, "Gid:"), "4840 4840 4840 4840");
    assert_eq!(field(&agent, "Groups:"), "");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(&agent, set), "0000000000000000", "{set}");
    }
    assert_eq!(field(&agent, "NoNewPrivs:"), "1");
    assert_eq!(field(&status("mounter"), "Seccomp:"), "2");
}

#[test]
fn the_agent_runs_as_nobody_else_and_without_privileges() {
    let bed = Bed::idle();
    let agent = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(words)
            .arg(env!("CARGO_BIN_EXE_attache-node-plugin"));
        command.args(["agent", "--config"]);
        let ended = command
            .arg(bed.dir.join("node-plugin.toml"))
            .output()
            .unwrap();
        assert!(!ended.status.success(), "{words:?}: {ended:?}");
        String::from_utf8(ended.stderr).unwrap()
    };
    for uid in ["0", "1000"] {
        let user = format!("--reuid={uid}");
        let told = agent(&[&user, "--regid=4840", "--clear-groups"]);
        assert!(told.contains("must run as uid 4840"), "{uid}: {told}");
    }
    let told = agent(&[
        "--reuid=4840",
        "--regid=4840",
        "--clear-groups",
        "--inh-caps=+chown",
        "--ambient-caps=+chown",
    ]);
    assert!(told.contains("must have no capability"), "{told}");
}
