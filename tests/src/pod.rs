//! Pod manifests as the cluster records them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A pod with one of our volumes. Public fields: a test bends what it is about.
#[derive(Debug, Clone)]
pub struct Pod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.serviceAccountName`.
    pub service_account: String,
    /// The service account's uid, for the token.
    pub service_account_uid: String,
    /// `spec.nodeName`.
    pub node: String,
    /// That node's uid, for the token.
    pub node_uid: String,
    /// The volume's name.
    pub volume: String,
    /// `csi.volumeAttributes`.
    pub attributes: BTreeMap<String, String>,
    /// `csi.readOnly`.
    pub read_only: bool,
    /// Containers: name, whether it mounts the volume, its securityContext.
    pub containers: Vec<Container>,
    /// `spec.securityContext`.
    pub security_context: Value,
    /// Merged over the whole object last: for what has no field here.
    pub overlay: Value,
}

/// One container of a pod.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Whether it mounts the pod's volume.
    pub mounts: bool,
    /// Its securityContext.
    pub security_context: Value,
}

/// The securityContext of a container that passes the guard rails.
#[must_use]
pub fn hardened(uid: u32) -> Value {
    json!({
        "runAsUser": uid, "runAsGroup": uid, "runAsNonRoot": true,
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    })
}

impl Pod {
    /// A pod `NAMESPACE/NAME` with a container `app` (uid 1000) that mounts volume `secrets`, on a node.
    #[must_use]
    pub fn new(
        namespace: &str,
        name: &str,
        service_account: &str,
        node: (&str, &str),
        secrets: &str,
    ) -> Self {
        let attributes = [("container", "app"), ("secrets", secrets)];
        Self {
            namespace: namespace.into(),
            name: name.into(),
            uid: uuid::Uuid::new_v4().to_string(),
            service_account: service_account.into(),
            service_account_uid: uuid::Uuid::new_v4().to_string(),
            node: node.0.into(),
            node_uid: node.1.into(),
            volume: "secrets".into(),
            attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            read_only: true,
            containers: vec![Container {
                name: "app".into(),
                mounts: true,
                security_context: hardened(1000),
            }],
            security_context: json!({}),
            overlay: json!({}),
        }
    }

    /// Adds a container that does not mount the volume.
    #[must_use]
    pub fn with_sidecar(mut self, name: &str) -> Self {
        self.containers.push(Container {
            name: name.into(),
            mounts: false,
            security_context: hardened(1001),
        });
        self
    }

    /// Sets one volume attribute.
    #[must_use]
    pub fn attribute(mut self, key: &str, value: &str) -> Self {
        self.attributes.insert(key.into(), value.into());
        self
    }

    /// Kubelet's handle for the inline volume: "csi-" + hex(SHA-256(pod uid || volume name)).
    #[must_use]
    pub fn volume_id(&self) -> String {
        use sha2::{Digest, Sha256};
        format!(
            "csi-{}",
            hex::encode(Sha256::digest(format!("{}{}", self.uid, self.volume)))
        )
    }

    /// The object as the API server would return it.
    #[must_use]
    pub fn object(&self) -> Value {
        let containers: Vec<Value> = self
            .containers
            .iter()
            .map(|c| {
                let mounts = if c.mounts {
                    json!([{ "name": self.volume, "mountPath": "/secrets", "readOnly": true }])
                } else {
                    json!([])
                };
                json!({
                    "name": c.name,
                    "image": "registry.example/shop/web@sha256:0000000000000000000000000000000000000000000000000000000000000000",
                    "securityContext": c.security_context, "volumeMounts": mounts,
                })
            })
            .collect();
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": self.namespace, "name": self.name, "uid": self.uid },
            "spec": {
                "nodeName": self.node, "serviceAccountName": self.service_account,
                "securityContext": self.security_context, "containers": containers,
                "volumes": [{ "name": self.volume, "csi": {
                    "driver": "csi.attache.dev", "readOnly": self.read_only, "volumeAttributes": self.attributes,
                }}],
            },
        });
        merge(&mut object, &self.overlay);
        object
    }
}

/// Objects are merged key by key; everything else is replaced.
pub fn merge(into: &mut Value, from: &Value) {
    if let (Value::Object(into), Value::Object(from)) = (&mut *into, from) {
        for (key, value) in from {
            merge(into.entry(key.clone()).or_insert(Value::Null), value);
        }
    } else {
        into.clone_from(from);
    }
}
