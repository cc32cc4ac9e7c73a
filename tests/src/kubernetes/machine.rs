//! The machine that a node is: a root, a network and mounts of its own, so that two nodes and this machine share no path.
//!
//! ```text
//! /usr                      this machine's, read-only
//! /proc /sys /dev           this machine's
//! /opt/bin /opt/kubernetes  what tests/kubernetes/build.sh has built, read-only
//! /run                      in memory: empty after each boot
//! all else                  DIR/NODE/disk: it outlives a boot, as a disk does
//! ```
//!
//! So kubelet, containerd and the pods' hostPath volumes lie at their usual paths on every node. Mounts made here are seen
//! nowhere else, and end with the last process.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{Release, cgroup::Cgroup, network, service::Service};
use crate::{
    mounts::{self, Mount},
    process::{run, until},
};

/// Folders that are mounted over, or filled later.
const FOLDERS: [&str; 14] = [
    "dev",
    "etc",
    "home",
    "old",
    "opt/bin",
    "opt/kubernetes",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "tmp",
    "usr",
    "var",
];
/// This machine's, for programs that look themselves or their host up.
const FILES: [&str; 5] = ["group", "hosts", "ld.so.cache", "os-release", "passwd"];

/// Makes its first argument the root, with the programs of the second and third, and stays.
const BOOT: &str = r#"
set -e
mount --bind "$1" "$1"
cd "$1"
for folder in proc sys dev; do mount --rbind "/$folder" "$folder"; done
read_only() { mount --bind "$1" "$2"; mount -o remount,bind,ro "$2"; }
read_only /usr usr
read_only "$2" opt/bin
read_only "$3" opt/kubernetes
mount -t tmpfs -o mode=755 run run
pivot_root . old
cd /
umount -l /old
# As systemd has it: what a pod mounts with Bidirectional propagation is seen by kubelet.
mount --make-rshared /
touch /run/booted
exec sleep infinity
"#;

/// A machine of one network, that is booted or is not.
pub struct Machine {
    name: String,
    place: network::Place,
    disk: PathBuf,
    cgroup: String,
    holder: Service,
}

impl Machine {
    /// Lays out the disk of a machine called `name` in `dir`; boots nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn lay_out(
        dir: &Path,
        name: &str,
        cgroup: &str,
        place: network::Place,
        release: &Release,
    ) -> Result<Self> {
        let (disk, logs) = (dir.join("disk"), dir.join("log"));
        fs::create_dir_all(&logs)?;
        for folder in FOLDERS {
            fs::create_dir_all(disk.join(folder))?;
        }
        for folder in ["bin", "sbin", "lib", "lib64"] {
            let target = fs::read_link(Path::new("/").join(folder))
                .with_context(|| format!("/{folder} is no link into /usr here"))?;
            symlink(target, disk.join(folder))?;
        }
        symlink("../run", disk.join("var/run"))?;
        for file in FILES {
            let source = Path::new("/etc").join(file);
            if source.exists() {
                fs::copy(&source, disk.join("etc").join(file))?;
            }
        }
        fs::write(disk.join("etc/hostname"), format!("{name}\n"))?;
        fs::write(
            disk.join("etc/machine-id"),
            format!("{}\n", uuid::Uuid::new_v4().simple()),
        )?;
        // Names outside the cluster are not known here.
        fs::write(disk.join("etc/resolv.conf"), "")?;
        let holder = Service::new("holder", Path::new("/usr/bin/unshare"), cgroup, &logs)?
            .args([
                "--mount",
                "--net",
                "--propagation=private",
                "sh",
                "-c",
                BOOT,
                "sh",
            ])
            .args([&disk, &release.tool(""), &release.component("")]);
        Ok(Self {
            name: name.to_owned(),
            place,
            disk,
            cgroup: cgroup.to_owned(),
            holder,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is in the network.
    #[must_use]
    pub fn place(&self) -> &network::Place {
        &self.place
    }

    /// A file on its disk, as this machine sees it: without what is mounted there.
    #[must_use]
    pub fn on_disk(&self, path: &str) -> PathBuf {
        self.disk.join(path.trim_start_matches('/'))
    }

    /// A file as the machine itself sees it, with what is mounted there.
    ///
    /// # Errors
    /// When it is not booted.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!(
            "/proc/{}/root{path}",
            self.holder()?
        )))
    }

    /// Boots it and connects it to the network.
    ///
    /// # Errors
    /// When it does not come up, with what was said.
    pub fn boot(&self) -> Result<()> {
        self.holder.start()?;
        self.holder.wait_until("booted", || {
            self.path("/run/booted").ok().filter(|file| file.exists())
        })?;
        network::connect(&self.place, self.holder()?)
    }

    /// As when the power fails: every process on it is killed at once.
    ///
    /// # Errors
    /// When one of them stays.
    pub fn cut_power(&self) -> Result<()> {
        Cgroup::named(&self.cgroup)?.kill()?;
        // Its end of the link goes when the kernel has cleaned its network up, which is a while after the last process.
        until(Duration::from_secs(30), "its link is gone", || {
            (!self.place.link_exists()).then_some(())
        })
    }

    /// What is mounted on it, outside of containers.
    ///
    /// # Errors
    /// When it is not booted.
    pub fn mounts(&self) -> Result<Vec<Mount>> {
        mounts::seen_by(self.holder()?)
    }

    /// Every process on it, those in containers too.
    ///
    /// # Errors
    /// When this machine has no control groups of version 2.
    pub fn processes(&self) -> Result<Vec<u32>> {
        Ok(Cgroup::named(&self.cgroup)?.processes_below())
    }

    /// A program that is to run on it.
    ///
    /// # Errors
    /// When it is not booted.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.holder()?))
            .args(["--mount", "--net", program]);
        Ok(command)
    }

    /// Runs a line of shell on it and returns what that printed.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub fn shell(&self, line: &str) -> Result<String> {
        let output = run(self.command("sh")?.args(["-c", line]))?;
        ensure!(
            output.status.success(),
            "{}: {line}: {}{}",
            self.name,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Lets go of it.
    pub(super) fn release(&self) {
        self.holder.release();
    }

    /// The control group of the process that keeps its namespaces.
    pub(super) fn holder_cgroup(&self) -> &Cgroup {
        self.holder.cgroup()
    }

    fn holder(&self) -> Result<u32> {
        let processes = self.holder_cgroup().processes();
        processes
            .first()
            .copied()
            .with_context(|| format!("{} is not booted", self.name))
    }
}
