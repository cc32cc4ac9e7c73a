//! The parts of Kubernetes objects that attestation reads, typed.
//!
//! Unknown fields are ignored, known ones of a wrong type refuse the object. What has a default in Kubernetes has it
//! here too, so that an absent field and its default read the same. Source: Kubernetes API reference, Pod v1 core.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use attache_envelope::name::{
    ContainerName, Namespace, NodeName, NodeUid, PodName, PodUid, ServiceAccount,
};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeObject {
    /// Its name.
    pub name: NodeName,
    /// Its uid.
    pub uid: NodeUid,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodObject {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: PodName,
    /// Its uid.
    pub uid: PodUid,
    /// Whether it has a deletion timestamp.
    pub deleted: bool,
    /// Where it runs; none while it is not scheduled.
    pub node_name: Option<NodeName>,
    /// As whom.
    pub service_account: ServiceAccount,
    /// `hostPID`.
    pub host_pid: bool,
    /// `hostUsers`; true unless it is set to false.
    pub host_users: bool,
    /// `shareProcessNamespace`.
    pub share_process_namespace: bool,
    /// The pod's `securityContext`.
    pub security: PodSecurity,
    /// All containers, of all three lists.
    pub containers: Vec<Container>,
    /// Its volumes.
    pub volumes: Vec<Volume>,
}

/// A pod's `securityContext`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSecurity {
    /// `runAsUser`.
    #[serde(default, deserialize_with = "id")]
    pub run_as_user: Option<u32>,
    /// `runAsGroup`.
    #[serde(default, deserialize_with = "id")]
    pub run_as_group: Option<u32>,
    /// `fsGroup`.
    #[serde(default, deserialize_with = "id")]
    pub fs_group: Option<u32>,
}

/// The list that a container stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerKind {
    /// `containers`.
    App,
    /// `initContainers`, restartable ones too.
    Init,
    /// `ephemeralContainers`.
    Ephemeral,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The list that it stands in.
    pub kind: ContainerKind,
    /// Its name, unique in the pod.
    pub name: ContainerName,
    /// Its image, as the pod has it.
    pub image: Option<String>,
    /// Its `securityContext`.
    pub security: ContainerSecurity,
    /// Its mounts.
    pub mounts: Vec<VolumeMount>,
    /// `targetContainerName` of an ephemeral container.
    pub target: Option<ContainerName>,
}

/// A container's `securityContext`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSecurity {
    /// `runAsUser`.
    #[serde(default, deserialize_with = "id")]
    pub run_as_user: Option<u32>,
    /// `runAsGroup`.
    #[serde(default, deserialize_with = "id")]
    pub run_as_group: Option<u32>,
    /// `privileged`.
    #[serde(default, deserialize_with = "or_default")]
    pub privileged: bool,
    /// `allowPrivilegeEscalation`; true unless it is set to false.
    pub allow_privilege_escalation: Option<bool>,
    /// `capabilities`.
    #[serde(default, deserialize_with = "or_default")]
    pub capabilities: Capabilities,
    /// `procMount`: `Default` or `Unmasked`.
    pub proc_mount: Option<String>,
}

/// Added capabilities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Capabilities {
    /// `add`.
    #[serde(default, deserialize_with = "or_default")]
    pub add: Vec<String>,
}

/// A mount of a volume into a container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// The volume's name.
    pub name: String,
    /// `subPath`.
    pub sub_path: Option<String>,
    /// `subPathExpr`.
    pub sub_path_expr: Option<String>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Where its content comes from.
    pub source: VolumeSource,
}

/// Where a volume's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// An inline CSI volume.
    Csi {
        /// `driver`.
        driver: String,
        /// `readOnly`.
        read_only: bool,
        /// `volumeAttributes`.
        attributes: BTreeMap<String, String>,
    },
    /// A path of the host.
    HostPath(String),
    /// Anything else.
    Other,
}

impl PodObject {
    /// Types a pod that has been read as `ParsedPod`.
    fn from_parts(parts: PodParts) -> Result<Self, &'static str> {
        check_kind(parts.kind.as_deref(), parts.api_version.as_deref(), "Pod")?;
        let spec = parts.spec;
        let lists = [
            (ContainerKind::App, spec.containers),
            (ContainerKind::Init, spec.init_containers),
            (ContainerKind::Ephemeral, spec.ephemeral_containers),
        ];
        let containers: Vec<Container> = lists
            .into_iter()
            .flat_map(|(kind, list)| list.into_iter().map(move |container| container.of(kind)))
            .collect();
        for (index, container) in containers.iter().enumerate() {
            if containers
                .iter()
                .skip(index + 1)
                .any(|other| other.name == container.name)
            {
                return Err("two containers have the same name");
            }
        }
        let names: Vec<&String> = spec.volumes.iter().map(|volume| &volume.name).collect();
        if names
            .iter()
            .enumerate()
            .any(|(index, name)| names.iter().skip(index + 1).any(|other| other == name))
        {
            return Err("two volumes have the same name");
        }
        let default_account = || "default".parse().map_err(|_| "no service account");
        Ok(Self {
            namespace: parts.metadata.namespace,
            name: parts.metadata.name,
            uid: parts.metadata.uid,
            deleted: parts.metadata.deletion_timestamp,
            node_name: spec.node_name,
            service_account: spec.service_account_name.map_or_else(default_account, Ok)?,
            host_pid: spec.host_pid,
            host_users: spec.host_users.unwrap_or(true),
            share_process_namespace: spec.share_process_namespace,
            security: spec.security_context,
            containers,
            volumes: spec.volumes.into_iter().map(VolumeParts::typed).collect(),
        })
    }
}

impl<'de> Deserialize<'de> for PodObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parts = PodParts::deserialize(deserializer)?;
        Self::from_parts(parts).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for NodeObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parts = NodeParts::deserialize(deserializer)?;
        check_kind(parts.kind.as_deref(), parts.api_version.as_deref(), "Node")
            .map_err(D::Error::custom)?;
        Ok(Self {
            name: parts.metadata.name,
            uid: parts.metadata.uid,
        })
    }
}

fn check_kind(
    kind: Option<&str>,
    version: Option<&str>,
    expected: &str,
) -> Result<(), &'static str> {
    // Objects out of a list carry neither; one that says what it is must be what is expected.
    if kind.is_some_and(|kind| kind != expected) || version.is_some_and(|version| version != "v1") {
        return Err("its kind or apiVersion is another");
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeParts {
    kind: Option<String>,
    api_version: Option<String>,
    metadata: NodeMetadata,
}

#[derive(Deserialize)]
struct NodeMetadata {
    #[serde(deserialize_with = "parsed")]
    name: NodeName,
    #[serde(deserialize_with = "parsed")]
    uid: NodeUid,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodParts {
    kind: Option<String>,
    api_version: Option<String>,
    metadata: PodMetadata,
    spec: PodSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodMetadata {
    #[serde(deserialize_with = "parsed")]
    namespace: Namespace,
    #[serde(deserialize_with = "parsed")]
    name: PodName,
    #[serde(deserialize_with = "parsed")]
    uid: PodUid,
    #[serde(default, deserialize_with = "is_set")]
    deletion_timestamp: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default, deserialize_with = "parsed_if_set")]
    node_name: Option<NodeName>,
    #[serde(default, deserialize_with = "parsed_if_set")]
    service_account_name: Option<ServiceAccount>,
    #[serde(default, rename = "hostPID", deserialize_with = "or_default")]
    host_pid: bool,
    host_users: Option<bool>,
    #[serde(default, deserialize_with = "or_default")]
    share_process_namespace: bool,
    #[serde(default, deserialize_with = "or_default")]
    security_context: PodSecurity,
    #[serde(default, deserialize_with = "or_default")]
    containers: Vec<ContainerParts>,
    #[serde(default, deserialize_with = "or_default")]
    init_containers: Vec<ContainerParts>,
    #[serde(default, deserialize_with = "or_default")]
    ephemeral_containers: Vec<ContainerParts>,
    #[serde(default, deserialize_with = "or_default")]
    volumes: Vec<VolumeParts>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerParts {
    #[serde(deserialize_with = "parsed")]
    name: ContainerName,
    image: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    security_context: ContainerSecurity,
    #[serde(default, deserialize_with = "or_default")]
    volume_mounts: Vec<VolumeMount>,
    #[serde(default, deserialize_with = "parsed_if_set")]
    target_container_name: Option<ContainerName>,
}

impl ContainerParts {
    fn of(self, kind: ContainerKind) -> Container {
        Container {
            kind,
            name: self.name,
            image: self.image,
            security: self.security_context,
            mounts: self.volume_mounts,
            target: self.target_container_name,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeParts {
    name: String,
    csi: Option<CsiParts>,
    host_path: Option<HostPathParts>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CsiParts {
    driver: String,
    #[serde(default, deserialize_with = "or_default")]
    read_only: bool,
    #[serde(default, deserialize_with = "unique_texts")]
    volume_attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct HostPathParts {
    path: String,
}

impl VolumeParts {
    fn typed(self) -> Volume {
        let source = match (self.csi, self.host_path) {
            (Some(csi), _) => VolumeSource::Csi {
                driver: csi.driver,
                read_only: csi.read_only,
                attributes: csi.volume_attributes,
            },
            (None, Some(host)) => VolumeSource::HostPath(host.path),
            (None, None) => VolumeSource::Other,
        };
        Volume {
            name: self.name,
            source,
        }
    }
}

/// A field that may be `null`, which Kubernetes takes for absent.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A name. Its error says what is wrong and never repeats it.
fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    String::deserialize(deserializer)?
        .parse()
        .map_err(D::Error::custom)
}

/// A name that may be absent, `null` or empty.
fn parsed_if_set<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(D::Error::custom))
        .transpose()
}

/// Whether a time is there: anything but `null`, so that a malformed one counts.
fn is_set<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Option::<serde::de::IgnoredAny>::deserialize(deserializer).map(|value| value.is_some())
}

/// A uid or gid of a container: 0 to 2^31 - 1, as the API server has it.
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let id = Option::<u32>::deserialize(deserializer)?;
    match id {
        Some(id) if i32::try_from(id).is_err() => {
            Err(D::Error::custom("a user or group id is over 2147483647"))
        }
        id => Ok(id),
    }
}

/// A map of texts in which no key stands twice: of two the reader of a record would see one, and we the other.
fn unique_texts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    struct Unique;
    impl<'de> Visitor<'de> for Unique {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of texts")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_some<D: Deserializer<'de>>(
            self,
            deserializer: D,
        ) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_map(self)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut texts = BTreeMap::new();
            while let Some((key, value)) = map.next_entry()? {
                if texts.insert(key, value).is_some() {
                    return Err(A::Error::custom("an attribute stands there twice"));
                }
            }
            Ok(texts)
        }
    }
    deserializer.deserialize_option(Unique)
}

#[cfg(test)]
mod tests;
