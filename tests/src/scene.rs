//! A bed with the usual furniture: `payments/db` with two fields, granted to `local/shop/web/app`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::Status;

use crate::{Bed, bed::AUDIENCE, kubelet::Kubelet, mounts, pod::Pod};

/// `payments/db#password`, and a canary: it must be found nowhere but in the mount.
pub const PASSWORD: &str = "canary-7f1e5d0c-password";
/// `payments/db#username`, likewise.
pub const USERNAME: &str = "canary-52b8a9ee-username";

/// A running bed with a secret, a grant and a kubelet.
pub struct Scene {
    /// Calls of the CSI client run on it.
    pub runtime: Runtime,
    /// The CSI client.
    pub kubelet: Kubelet,
    /// The installation. Dropped last.
    pub bed: Bed,
}

impl Scene {
    /// Starts everything and puts the secret.
    ///
    /// # Errors
    /// When a step fails, with what it printed.
    pub fn start() -> Result<Self> {
        Self::on(Bed::new()?)
    }

    /// As [`Scene::start`], on a bed whose folders were made otherwise.
    ///
    /// # Errors
    /// As [`Scene::start`].
    pub fn on(mut bed: Bed) -> Result<Self> {
        bed.start_all()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let kubelet = {
            let _guard = runtime.enter();
            bed.kubelet()?
        };
        let scene = Self {
            runtime,
            kubelet,
            bed,
        };
        scene.bed.attache_ok(&["keyspace", "create", "payments"])?;
        scene.put(
            "payments/db",
            &[("username", USERNAME), ("password", PASSWORD)],
        )?;
        scene.bed.attache_ok(&[
            "grant",
            "add",
            "shop-web-db",
            "payments/db",
            "--to",
            "local/shop/web/app",
        ])?;
        Ok(scene)
    }

    /// `attache secret put REF FIELD=@FILE...`.
    ///
    /// # Errors
    /// With what the command printed.
    pub fn put(&self, path: &str, fields: &[(&str, &str)]) -> Result<String> {
        let mut args = vec!["secret".to_owned(), "put".to_owned(), path.to_owned()];
        let mut files = Vec::new();
        for (field, value) in fields {
            let file = self.bed.dir.join(format!("etc/value-{field}"));
            fs::write(&file, value)?;
            args.push(format!("{field}=@{}", file.display()));
            files.push(file);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let printed = self.bed.attache_ok(&args);
        for file in files {
            fs::remove_file(file)?;
        }
        printed
    }

    /// Records the pod and publishes its volume with an honest token.
    ///
    /// # Errors
    /// The driver's answer.
    pub fn publish(&self, pod: &Pod) -> Result<(), Status> {
        let token = self
            .bed
            .token(pod)
            .map_err(|e| Status::internal(format!("harness: {e:#}")))?;
        self.publish_with(pod, AUDIENCE, &token)
    }

    /// Records the pod and publishes its volume with this token.
    ///
    /// # Errors
    /// The driver's answer.
    pub fn publish_with(&self, pod: &Pod, audience: &str, token: &str) -> Result<(), Status> {
        self.bed
            .cluster
            .add_pod(pod)
            .map_err(|e| Status::internal(format!("harness: {e:#}")))?;
        self.runtime
            .block_on(self.kubelet.publish(pod, audience, token))
    }

    /// Publishes and demands that it is refused with nothing left mounted; answers the refusal.
    ///
    /// # Errors
    /// When it was published, or something is mounted.
    pub fn refused(&self, pod: &Pod, audience: &str, token: &str) -> Result<Status> {
        match self.publish_with(pod, audience, token) {
            Ok(()) => anyhow::bail!("published, and must be refused"),
            Err(status) => {
                let left = mounts::below(&self.kubelet.target(pod))?;
                anyhow::ensure!(
                    left.is_empty(),
                    "refused ({}), and left mounted: {left:?}",
                    status.message()
                );
                Ok(status)
            }
        }
    }

    /// Unpublishes a pod's volume.
    ///
    /// # Errors
    /// The driver's answer.
    pub fn unpublish(&self, pod: &Pod) -> Result<(), Status> {
        self.runtime.block_on(self.kubelet.unpublish(pod))
    }

    /// What a published file holds.
    ///
    /// # Errors
    /// When it is not there.
    pub fn read(&self, pod: &Pod, path: &str) -> Result<String> {
        let file = self.kubelet.target(pod).join(path);
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    }

    /// The metadata file of a mount.
    ///
    /// # Errors
    /// When it is not there or no JSON.
    pub fn metadata(&self, pod: &Pod) -> Result<Value> {
        Ok(serde_json::from_str(&self.read(pod, ".attache.json")?)?)
    }

    /// Every leaf of the audit log, as the CLI prints it.
    ///
    /// # Errors
    /// With what the command printed.
    pub fn audit(&self) -> Result<String> {
        self.bed
            .attache_ok(&["audit", "tail", "-n", "10000", "--output", "json"])
    }

    /// What `attache status` says of the broker.
    ///
    /// # Errors
    /// With what the command printed.
    pub fn status(&self) -> Result<Value> {
        let told = self.bed.attache_ok(&["status", "--output", "json"])?;
        Ok(serde_json::from_str(&told)?)
    }

    /// The logs of broker and plugin.
    #[must_use]
    pub fn logs(&self) -> String {
        ["broker.log", "node-plugin.log"]
            .iter()
            .map(|f| fs::read_to_string(self.bed.dir.join("log").join(f)).unwrap_or_default())
            .collect()
    }

    /// Every file below a folder of the bed.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn files(&self, below: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut folders = vec![self.bed.dir.join(below)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        Ok(found)
    }
}
