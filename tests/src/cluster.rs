//! A cluster as a folder: `nodes/NAME.json`, `pods/NAMESPACE/NAME.json`, `jwks.json`, each renamed into place.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{issuer::Issuer, pod::Pod};

/// The writer of a cluster folder.
#[derive(Debug, Clone)]
pub struct ClusterFolder {
    /// The folder.
    pub dir: PathBuf,
}

impl ClusterFolder {
    /// Makes the folder and publishes the issuer's keys.
    ///
    /// # Errors
    /// When a file cannot be written, here and below.
    pub fn create(dir: &Path, issuer: &Issuer) -> Result<Self> {
        fs::create_dir_all(dir.join("nodes"))?;
        fs::create_dir_all(dir.join("pods"))?;
        let folder = Self {
            dir: dir.to_owned(),
        };
        folder.write(Path::new("jwks.json"), &issuer.jwks())?;
        Ok(folder)
    }

    /// Records a node.
    ///
    /// # Errors
    /// As [`ClusterFolder::create`].
    pub fn add_node(&self, name: &str, uid: &str) -> Result<()> {
        let object =
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "uid": uid } });
        self.write(&Path::new("nodes").join(format!("{name}.json")), &object)
    }

    /// Records a pod, or replaces its record.
    ///
    /// # Errors
    /// As [`ClusterFolder::create`].
    pub fn add_pod(&self, pod: &Pod) -> Result<()> {
        self.add_object(&pod.namespace, &pod.name, &pod.object())
    }

    /// Records a pod object as it is.
    ///
    /// # Errors
    /// As [`ClusterFolder::create`].
    pub fn add_object(&self, namespace: &str, name: &str, object: &Value) -> Result<()> {
        fs::create_dir_all(self.dir.join("pods").join(namespace))?;
        self.write(
            &Path::new("pods")
                .join(namespace)
                .join(format!("{name}.json")),
            object,
        )
    }

    /// Forgets a pod.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        let file = self
            .dir
            .join("pods")
            .join(&pod.namespace)
            .join(format!("{}.json", pod.name));
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
    }

    fn write(&self, relative: &Path, object: &Value) -> Result<()> {
        let file = self.dir.join(relative);
        let tmp = file.with_extension("tmp");
        fs::write(&tmp, serde_json::to_vec_pretty(object)?)
            .with_context(|| format!("write {}", tmp.display()))?;
        fs::rename(&tmp, &file).with_context(|| format!("rename to {}", file.display()))
    }
}
