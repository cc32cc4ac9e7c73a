//! Real containers: a busybox root, runc, one process.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::process::run;

/// A container that sleeps until it is removed; removed when dropped.
#[derive(Debug)]
pub struct Container {
    released: bool,
    id: String,
    state: PathBuf,
}

impl Container {
    /// Starts a container under runc as `uid`, with `mounts` (source on the host, path inside), the way a CRI runtime
    /// binds a pod's volume: recursive, private, and read-only when asked.
    ///
    /// # Errors
    /// When runc says no.
    pub fn start(dir: &Path, id: &str, uid: u32, mounts: &[(&Path, &str, bool)]) -> Result<Self> {
        let bundle = dir.join(id);
        let root = bundle.join("rootfs");
        for inner in ["bin", "proc", "dev", "tmp", "secrets"] {
            fs::create_dir_all(root.join(inner))?;
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|p| Path::new(p).exists())
            .context("busybox-static is not installed")?;
        fs::copy(busybox, root.join("bin/busybox"))?;
        fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
        for applet in [
            "sh", "cat", "ls", "sleep", "id", "chmod", "rm", "touch", "mv", "stat",
        ] {
            let link = root.join("bin").join(applet);
            if !link.exists() {
                symlink("busybox", link)?;
            }
        }
        fs::write(
            bundle.join("config.json"),
            serde_json::to_vec(&config(id, uid, mounts))?,
        )?;
        let container = Self {
            released: false,
            id: id.to_owned(),
            state: dir.join("runc"),
        };
        // A detached container inherits these: a pipe of ours would stay open as long as it runs.
        let log = bundle.join("runc.log");
        let status = container
            .runc()
            .args(["run", "--detach", "--bundle"])
            .arg(&bundle)
            .arg(&container.id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .status()
            .context("run runc")?;
        if !status.success() {
            bail!(
                "runc run {id}: {}",
                fs::read_to_string(&log).unwrap_or_default()
            );
        }
        Ok(container)
    }

    /// Runs a shell line inside, as the container's own user.
    ///
    /// # Errors
    /// When runc cannot be run; the line's own failure is in the output.
    pub fn exec(&self, line: &str) -> Result<Output> {
        run(self.runc().args(["exec", &self.id, "/bin/sh", "-c", line]))
    }

    /// Lets go of it: it runs on, and is the caller's by its id.
    #[must_use]
    pub fn release(mut self) -> String {
        self.released = true;
        self.id.clone()
    }

    fn runc(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&self.state);
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.released {
            let _ = run(self.runc().args(["delete", "--force", &self.id]));
        }
    }
}

/// The runtime configuration (OCI runtime-spec 1.0, config.json).
fn config(id: &str, uid: u32, mounts: &[(&Path, &str, bool)]) -> Value {
    let mut all = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"] }),
    ];
    for (source, destination, read_only) in mounts {
        let flag = if *read_only { "ro" } else { "rw" };
        all.push(json!({
            "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", flag],
        }));
    }
    let no_capabilities: [&str; 0] = [];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": uid, "gid": uid },
            "args": ["/bin/sleep", "3600"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": no_capabilities, "effective": no_capabilities, "permitted": no_capabilities,
                "inheritable": no_capabilities, "ambient": no_capabilities,
            },
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": id,
        "mounts": all,
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }],
            "cgroupsPath": format!("/attache-tests/{id}"),
        },
    })
}
