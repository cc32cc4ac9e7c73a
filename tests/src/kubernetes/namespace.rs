//! A namespace of a scenario's own: its pods, what runs in them, and what is said about them.

use std::{process::Output, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Kubectl, images::BUSYBOX, kubectl::printed};
use crate::{
    pod::{hardened, merge},
    process::until,
};

/// How long kubelet may take until it has tried a mount again: it doubles from half a second.
const REFUSED: Duration = Duration::from_secs(60);

/// A namespace; deleted when dropped, which the API server goes on with by itself.
pub struct Namespace {
    /// Its name.
    pub name: String,
    kubectl: Kubectl,
}

/// What the cluster has said about an object, once or more often.
#[derive(Debug, Clone)]
pub struct Event {
    /// `FailedMount`.
    pub reason: String,
    /// The text.
    pub message: String,
    /// How often.
    pub count: u64,
}

impl Namespace {
    /// Makes a namespace, and waits until pods can be made in it.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn create(kubectl: Kubectl, name: &str) -> Result<Self> {
        kubectl.create(
            &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }),
        )?;
        let namespace = Self {
            name: name.to_owned(),
            kubectl,
        };
        namespace.wait_for("serviceaccount/default", "create")?;
        namespace.wait_for("configmap/kube-root-ca.crt", "create")?;
        Ok(namespace)
    }

    /// Makes an object in it; answers it as the API server has it.
    ///
    /// # Errors
    /// When the API server refuses it, with its words.
    pub fn create_object(&self, kind: &str, name: &str, body: &Value) -> Result<Value> {
        let mut object = json!({ "apiVersion": "v1", "kind": kind });
        if let (Some(object), Some(body)) = (object.as_object_mut(), body.as_object()) {
            object.extend(body.clone());
            object.insert(
                "metadata".to_owned(),
                json!({ "namespace": self.name, "name": name, "labels": { "app": name } }),
            );
        }
        self.kubectl.create(&object)
    }

    /// Makes a pod and waits until it is ready; answers it as the API server has it then.
    ///
    /// # Errors
    /// When the API server refuses it; when it does not become ready, with its events.
    pub fn start_pod(&self, name: &str, spec: &Value) -> Result<Value> {
        self.create_object("Pod", name, &json!({ "spec": spec }))?;
        self.wait_for(&format!("pod/{name}"), "condition=Ready")?;
        self.get("pod", name)
    }

    /// Gives kubelet a reason to look at a pod, as each minute does: it publishes the pod's volumes again.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn touch(&self, pod: &str) -> Result<()> {
        let mark = format!("looked-at={}", uuid::Uuid::new_v4());
        let args = ["annotate", "-n", &self.name, "pod", pod, "--overwrite"];
        self.kubectl.run(&[&args[..], &[&mark]].concat())?;
        Ok(())
    }

    /// An object of it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        let object = self.kubectl.get(&self.name, kind, name)?;
        object.with_context(|| format!("no {kind} {name} in {}", self.name))
    }

    /// Waits for a condition, as `kubectl wait --for` says it.
    ///
    /// # Errors
    /// As [`Kubectl::wait_for`].
    pub fn wait_for(&self, object: &str, condition: &str) -> Result<()> {
        self.kubectl.wait_for(&self.name, object, condition)
    }

    /// Deletes a pod; `more` says how, as `kubectl delete` has it.
    ///
    /// # Errors
    /// When the API server refuses it; when the pod does not go, unless `--wait=false` is said.
    pub fn delete_pod(&self, name: &str, more: &[&str]) -> Result<()> {
        let args = ["delete", "pod", "-n", &self.name, name, "--timeout=90s"];
        self.kubectl.run(&[&args, more].concat()).map(drop)
    }

    /// Adds an ephemeral container to a pod that runs, and waits until that runs too.
    ///
    /// # Errors
    /// When the API server refuses it; when it does not start.
    pub fn debug_pod(&self, name: &str, container: &Value) -> Result<()> {
        let mut pod = self.get("pod", name)?;
        merge(
            &mut pod,
            &json!({ "spec": { "ephemeralContainers": [container] } }),
        );
        let path = format!(
            "/api/v1/namespaces/{}/pods/{name}/ephemeralcontainers",
            self.name
        );
        self.kubectl.put(&path, &pod)?;
        let started = "jsonpath={.status.ephemeralContainerStatuses[0].state.running}";
        self.wait_for(&format!("pod/{name}"), started)
    }

    /// Has the API server make a token of the account `default`, bound to a pod when one is named.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn token(&self, audience: &str, pod: Option<&str>) -> Result<String> {
        let args = ["create", "token", "default", "-n", &self.name, "--audience"];
        let mut args = [&args[..], &[audience]].concat();
        if let Some(pod) = pod {
            args.extend(["--bound-object-kind=Pod", "--bound-object-name", pod]);
        }
        Ok(self.kubectl.run(&args)?.trim().to_owned())
    }

    /// Runs a line of shell in the first container of a pod; the line's own failure is in the output.
    ///
    /// # Errors
    /// When kubectl cannot be run.
    pub fn exec(&self, pod: &str, line: &str) -> Result<Output> {
        let args = ["exec", "-n", &self.name, pod, "--", "/bin/sh", "-c", line];
        self.kubectl.output(&args)
    }

    /// As [`Namespace::exec`], and returns what was printed.
    ///
    /// # Errors
    /// When the line fails.
    pub fn shell(&self, pod: &str, line: &str) -> Result<String> {
        printed(&self.exec(pod, line)?).with_context(|| format!("{pod}: {line}"))
    }

    /// Makes a pod that cannot start for its volume; answers what kubelet says of it once it has said it more than once.
    ///
    /// # Errors
    /// When the API server refuses it; when it is not said.
    pub fn refused_pod(&self, name: &str, spec: &Value) -> Result<Event> {
        self.create_object("Pod", name, &json!({ "spec": spec }))?;
        until(REFUSED, &format!("{name} is refused again"), || {
            let events = self.events(name).ok()?;
            let mut failed = events.into_iter().filter(|e| e.reason == "FailedMount");
            failed.find(|event| event.count > 1)
        })
    }

    /// What was said about an object.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub fn events(&self, object: &str) -> Result<Vec<Event>> {
        let selector = format!("--field-selector=involvedObject.name={object}");
        let list = self
            .kubectl
            .json(&["get", "events", "-n", &self.name, &selector])?;
        let field = |event: &Value, name: &str| event.get(name).cloned().unwrap_or_default();
        let text = |event, name| field(event, name).as_str().unwrap_or_default().to_owned();
        let items = field(&list, "items");
        Ok(items
            .as_array()
            .into_iter()
            .flatten()
            .map(|event| Event {
                reason: text(event, "reason"),
                message: text(event, "message"),
                count: field(event, "count").as_u64().unwrap_or(1),
            })
            .collect())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let args = ["delete", "namespace", &self.name, "--wait=false"];
        let _ = self.kubectl.output(&args);
    }
}

/// A container `main` that runs busybox as the user 1000 until it is told to end; it passes the guard rails.
#[must_use]
pub fn sleeper() -> Value {
    json!({
        "name": "main", "image": BUSYBOX, "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 2147483647 & wait"],
        "securityContext": hardened(1000),
    })
}

/// The spec of a pod whose container `main` has these secrets in `/secrets`.
#[must_use]
pub fn asking_for(secrets: &str) -> Value {
    let mut container = sleeper();
    merge(
        &mut container,
        &json!({ "volumeMounts": [{ "name": "secrets", "mountPath": "/secrets", "readOnly": true }] }),
    );
    json!({
        "containers": [container],
        "volumes": [{ "name": "secrets", "csi": {
            "driver": "csi.attache.dev", "readOnly": true,
            "volumeAttributes": { "container": "main", "secrets": secrets },
        } }],
    })
}

/// As [`asking_for`], in a pod that does not end when it is asked to, and a second after it has got SIGUSR1.
#[must_use]
pub fn stubborn(secrets: &str) -> Value {
    let mut spec = asking_for(secrets);
    let script = "trap '' TERM; trap 'exit 0' USR1; while :; do sleep 1; done";
    if let Some(container) = spec.pointer_mut("/containers/0") {
        merge(container, &json!({ "command": ["/bin/sh", "-c", script] }));
    }
    spec
}
