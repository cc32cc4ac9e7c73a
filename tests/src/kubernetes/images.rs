//! Container images as OCI layouts in a tar (OCI image-spec 1.1): one layer, made of files of this machine.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::process::run;

/// What keeps the namespaces of a pod.
pub const PAUSE: &str = "attache.dev/pause:1";
/// A shell and what belongs to it.
pub const BUSYBOX: &str = "attache.dev/busybox:1";

/// Makes the layout of busybox, under both of its names, in `dir`; answers its file.
///
/// # Errors
/// When busybox-static is not installed.
pub fn busybox(dir: &Path) -> Result<PathBuf> {
    let program = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("busybox-static is not installed: deploy/packages.sh")?;
    let root = dir.join("busybox");
    for folder in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::copy(program, root.join("bin/busybox"))?;
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    let applets = run(Command::new(program).arg("--list"))?;
    for applet in String::from_utf8(applets.stdout)?.lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet))?;
        }
    }
    let stay = ["/bin/sleep", "2147483647"];
    layout(dir, &root, &[PAUSE, BUSYBOX], &stay)
}

/// Makes a layout of what is in `root`, beside it, under `names`; answers its file.
///
/// # Errors
/// When it cannot be written.
pub fn layout(dir: &Path, root: &Path, names: &[&str], command: &[&str]) -> Result<PathBuf> {
    let name = root.file_name().context("a folder has a name")?;
    let layout = dir.join(name).with_extension("layout");
    fs::create_dir_all(layout.join("blobs/sha256"))?;

    let layer = tar(root, &layout.join("layer"))?;
    let layer = blob(&layout, &layer, "application/vnd.oci.image.layer.v1.tar")?;
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": command },
        "rootfs": { "type": "layers", "diff_ids": [layer.get("digest")] },
    });
    let config = serde_json::to_vec(&config)?;
    let config = blob(&layout, &config, "application/vnd.oci.image.config.v1+json")?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] });
    let manifest = blob(&layout, &serde_json::to_vec(&manifest)?, kind)?;
    let manifests: Vec<Value> = names
        .iter()
        .map(|name| {
            let mut named = manifest.clone();
            let annotations = json!({ "io.containerd.image.name": name });
            if let Some(descriptor) = named.as_object_mut() {
                descriptor.insert("annotations".to_owned(), annotations);
            }
            named
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    fs::remove_file(layout.join("layer"))?;

    let file = dir.join(name).with_extension("oci.tar");
    tar(&layout, &file)?;
    Ok(file)
}

/// Writes what is in `root` as `file`, the same whenever it is done; answers its bytes.
fn tar(root: &Path, file: &Path) -> Result<Vec<u8>> {
    let output = run(Command::new("tar")
        .args([
            "--sort=name",
            "--mtime=@0",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "-cf",
        ])
        .arg(file)
        .arg("-C")
        .arg(root)
        .arg("."))?;
    ensure!(
        output.status.success(),
        "tar: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(fs::read(file)?)
}

/// Stores a blob; answers its descriptor.
fn blob(layout: &Path, bytes: &[u8], kind: &str) -> Result<Value> {
    let digest = hex::encode(Sha256::digest(bytes));
    fs::write(layout.join("blobs/sha256").join(&digest), bytes)?;
    Ok(json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() }))
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}
