//! The harness's way to the API server: `kubectl`, with objects as JSON.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// A user at an API server.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// The user of a kubeconfig, by this `kubectl`.
    #[must_use]
    pub fn new(program: &Path, kubeconfig: &Path) -> Self {
        Self {
            program: program.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
        }
    }

    /// The command, to be given arguments.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            // Discovery is cached beside the kubeconfig and goes with it.
            .env("KUBECACHEDIR", self.kubeconfig.with_extension("cache"))
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn output(&self, args: &[&str]) -> Result<Output> {
        let output = self.command().args(args).output();
        output.with_context(|| format!("kubectl {}", args.join(" ")))
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        printed(&self.output(args)?).with_context(|| format!("kubectl {}", args.join(" ")))
    }

    /// Runs it with JSON as its output.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.run(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| text)
    }

    /// Makes or changes objects; answers them as the API server has them now.
    ///
    /// # Errors
    /// When the API server refuses one, with its words.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        self.feed(&["apply", "-f", "-", "-o", "json"], object)
    }

    /// Makes an object; answers it as the API server has it now.
    ///
    /// # Errors
    /// As [`Kubectl::apply`].
    pub fn create(&self, object: &Value) -> Result<Value> {
        self.feed(&["create", "-f", "-", "-o", "json"], object)
    }

    /// How often the first container of a pod was started again, once it is ready.
    #[must_use]
    pub fn restarts(&self, namespace: &str, pod: &str) -> Option<u64> {
        let pod = self.get(namespace, "pod", pod).ok()??;
        let status = pod.pointer("/status/containerStatuses/0")?;
        status.get("ready")?.as_bool()?.then_some(())?;
        status.get("restartCount")?.as_u64()
    }

    /// Puts an object where the API server has it at `path`: for a part that no other verb reaches.
    ///
    /// # Errors
    /// As [`Kubectl::apply`].
    pub fn put(&self, path: &str, object: &Value) -> Result<Value> {
        self.feed(&["replace", "--raw", path, "-f", "-"], object)
    }

    /// An object, or nothing when it is not there.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Option<Value>> {
        let text = self.run(&[
            "get",
            "-n",
            namespace,
            kind,
            name,
            "--ignore-not-found",
            "-o",
            "json",
        ])?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// Waits until a condition holds, as `kubectl wait --for` says it.
    ///
    /// # Errors
    /// When it does not within a minute and a half; with the object as it is then.
    pub fn wait_for(&self, namespace: &str, object: &str, condition: &str) -> Result<()> {
        let condition = format!("--for={condition}");
        let args = ["wait", "-n", namespace, object, &condition, "--timeout=90s"];
        let output = self.output(&args)?;
        if !output.status.success() {
            let now = self.output(&["describe", "-n", namespace, object])?;
            bail!(
                "{object} in {namespace}: {condition}: {}\n{}",
                String::from_utf8_lossy(&output.stderr),
                String::from_utf8_lossy(&now.stdout)
            );
        }
        Ok(())
    }

    fn feed(&self, args: &[&str], object: &Value) -> Result<Value> {
        let mut child = self
            .command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl")?;
        let mut stdin = child.stdin.take().context("a pipe")?;
        stdin.write_all(&serde_json::to_vec(object)?)?;
        drop(stdin);
        let text = printed(&child.wait_with_output()?)
            .with_context(|| format!("kubectl {}: {object}", args.join(" ")))?;
        serde_json::from_str(&text).with_context(|| text)
    }
}

/// What a command printed, if it ended well.
pub(super) fn printed(output: &Output) -> Result<String> {
    ensure!(
        output.status.success(),
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout.clone())?)
}
