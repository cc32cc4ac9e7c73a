//! The double binding: from a token and the cluster's record to one container of one pod.
//!
//! ```text
//! cluster and node uid of the certificate = node uid of the token = uid of the Node named by spec.nodeName
//! pod uid of the token = metadata.uid;  no deletionTimestamp;  the same service account
//! volume: found by name, our driver, csi.readOnly, volume_id = "csi-" + hex(SHA-256(pod uid || volume name))
//! container: exactly the one that the volume names mounts it, over all three lists of containers
//! ```
//! Pure: whoever calls has read the record. Everything is taken from the pod's object; what the request says of it is
//! compared, for an early and clear error, and never used.

use std::collections::{BTreeMap, HashMap};

use attache_envelope::generation::Owner;
use attache_envelope::name::{
    ClusterName, ClusterRef, ContainerName, NodeName, PodName, PodUid, VolumeId, VolumeName,
    WorkloadRef,
};
use attache_mtls::spiffe::NodeId;

use super::attributes::{self, Attributes, KUBELET_PREFIX};
use super::facts::{
    Container, ContainerKind, NodeObject, PodObject, Volume, VolumeMount, VolumeSource,
};
use super::files::WantedFiles;
use super::posture::{self, Posture};
use super::quoted::Quoted;
use super::refusal::{PublicReason, Subject};
use super::token::PodIdentity;

/// The CSI driver whose volumes are ours.
pub const DRIVER: &str = "csi.attache.dev";

/// A container of a pod that was proved to be what it says, and what its volume asks for.
///
/// Only attestation makes one: who holds it has checked node, pod, volume and container.
#[derive(Debug, Clone)]
pub struct AttestedWorkload {
    facts: WorkloadFacts,
    node: NodeId,
    node_name: NodeName,
    pod_name: PodName,
    pod_uid: PodUid,
    volume: VolumeName,
    volume_id: VolumeId,
    wanted: WantedFiles,
    token_id: Option<String>,
}

/// What policy decides on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadFacts {
    pub(crate) workload: WorkloadRef,
    pub(crate) image: Option<String>,
    pub(crate) posture: Posture,
}

impl WorkloadFacts {
    /// Cluster, namespace, service account and container.
    #[must_use]
    pub fn workload(&self) -> &WorkloadRef {
        &self.workload
    }

    /// The container's image, as the pod names it.
    #[must_use]
    pub fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// How it runs.
    #[must_use]
    pub fn posture(&self) -> &Posture {
        &self.posture
    }
}

impl AttestedWorkload {
    /// What policy decides on.
    #[must_use]
    pub fn facts(&self) -> &WorkloadFacts {
        &self.facts
    }

    /// Cluster, namespace, service account and container.
    #[must_use]
    pub fn workload(&self) -> &WorkloadRef {
        &self.facts.workload
    }

    /// The container's image, as the pod names it.
    #[must_use]
    pub fn image(&self) -> Option<&str> {
        self.facts.image()
    }

    /// The user and group that own the files.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.facts.posture.owner
    }

    /// The node that asks.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// The Node object's name.
    #[must_use]
    pub fn node_name(&self) -> &NodeName {
        &self.node_name
    }

    /// The pod's name.
    #[must_use]
    pub fn pod_name(&self) -> &PodName {
        &self.pod_name
    }

    /// The pod's uid.
    #[must_use]
    pub fn pod_uid(&self) -> &PodUid {
        &self.pod_uid
    }

    /// The volume's name in the pod.
    #[must_use]
    pub fn volume(&self) -> &VolumeName {
        &self.volume
    }

    /// Kubelet's handle of the volume.
    #[must_use]
    pub fn volume_id(&self) -> &VolumeId {
        &self.volume_id
    }

    /// What the volume asks for.
    #[must_use]
    pub fn wanted(&self) -> &WantedFiles {
        &self.wanted
    }

    /// The token's `jti`; kubelet shows one token several times.
    #[must_use]
    pub fn token_id(&self) -> Option<&str> {
        self.token_id.as_deref()
    }
}

/// The volume that a request is about, and what it says of it.
pub(super) struct AskedVolume<'a> {
    pub(super) name: VolumeName,
    pub(super) id: VolumeId,
    pub(super) attributes: &'a HashMap<String, String>,
    pub(super) mount_group: Option<u32>,
}

/// What is proved of who asks.
pub(super) struct Proof<'a> {
    pub(super) cluster: &'a ClusterName,
    pub(super) node: &'a NodeId,
    pub(super) identity: &'a PodIdentity,
}

/// The pod, if it and its node are those of the proof.
///
/// # Errors
/// [`PublicReason`] for the first that is not; absent and another are one reason.
pub(super) fn check_binding<'a>(
    proof: &Proof<'_>,
    pod: Option<&'a PodObject>,
    node: Option<&NodeObject>,
) -> Result<&'a PodObject, PublicReason> {
    let token = proof.identity;
    let gone = || PublicReason::PodGone {
        namespace: token.namespace.clone(),
        pod: token.pod_name.clone(),
    };
    let pod = pod
        .filter(|pod| pod.uid == token.pod_uid)
        .ok_or_else(gone)?;
    if pod.deleted {
        return Err(PublicReason::PodDeleted);
    }
    if pod.service_account != token.service_account {
        return Err(PublicReason::AnotherServiceAccount);
    }
    if pod.node_name.as_ref() != Some(&token.node_name) {
        return Err(PublicReason::PodElsewhere);
    }
    if node.is_none_or(|node| node.uid.as_str() != proof.node.node_uid()) {
        return Err(PublicReason::NodeReplaced);
    }
    Ok(pod)
}

/// Takes out of a bound pod what one of its volumes asks for, and for whom. `subject` learns the container on the way.
///
/// # Errors
/// [`PublicReason`] for the first rule that the pod breaks.
pub(super) fn attest_volume(
    proof: &Proof<'_>,
    pod: &PodObject,
    asked: AskedVolume<'_>,
    subject: &mut Subject,
) -> Result<AttestedWorkload, PublicReason> {
    let attributes = find_volume(pod, &asked)?;
    let has_fs_group = pod.security.fs_group.is_some();
    let Attributes { container, wanted } = attributes::parse(attributes, has_fs_group)?;
    subject.container = Some(container.clone());
    let container = find_container(pod, &container, &asked.name)?;
    subject.image.clone_from(&container.image);
    check_processes(pod, container)?;
    let posture = posture::resolve(pod, container)?;
    posture::check_group(&wanted, posture.owner, &container.name)?;
    if asked.mount_group.is_some() && asked.mount_group != pod.security.fs_group {
        return Err(PublicReason::MountGroup);
    }
    let token = proof.identity;
    let workload = WorkloadRef {
        cluster: ClusterRef::Name(proof.cluster.clone()),
        namespace: token.namespace.clone(),
        service_account: token.service_account.clone(),
        container: container.name.clone(),
    };
    Ok(AttestedWorkload {
        facts: WorkloadFacts {
            workload,
            image: container.image.clone(),
            posture,
        },
        node: proof.node.clone(),
        node_name: token.node_name.clone(),
        pod_name: token.pod_name.clone(),
        pod_uid: token.pod_uid.clone(),
        volume: asked.name,
        volume_id: asked.id,
        wanted,
        token_id: token.token_id.clone(),
    })
}

/// The attributes of the volume in the pod's own object.
fn find_volume<'a>(
    pod: &'a PodObject,
    asked: &AskedVolume<'_>,
) -> Result<&'a BTreeMap<String, String>, PublicReason> {
    let volume = asked.name.clone();
    let named = |volume: &&Volume| volume.name == asked.name.as_str();
    let source = pod.volumes.iter().find(named).map(|volume| &volume.source);
    let Some(VolumeSource::Csi {
        driver,
        read_only,
        attributes,
    }) = source
    else {
        return Err(PublicReason::NotOurVolume { volume });
    };
    if driver != DRIVER {
        return Err(PublicReason::NotOurVolume { volume });
    }
    if asked.id != VolumeId::of(&pod.uid, &asked.name) {
        return Err(PublicReason::VolumeId { volume });
    }
    if !read_only {
        return Err(PublicReason::Writable { volume });
    }
    check_attributes(attributes, asked.attributes)?;
    Ok(attributes)
}

/// Compares the request's attributes with the pod's, kubelet's own keys aside.
fn check_attributes(
    of_pod: &BTreeMap<String, String>,
    of_request: &HashMap<String, String>,
) -> Result<(), PublicReason> {
    let ours = |name: &&String| !name.starts_with(KUBELET_PREFIX);
    let mut differing: Vec<&String> = of_pod
        .iter()
        .filter(|(name, value)| ours(name) && of_request.get(*name) != Some(value))
        .map(|(name, _)| name)
        .chain(
            of_request
                .keys()
                .filter(|name| ours(name) && !of_pod.contains_key(*name)),
        )
        .collect();
    // A map has no order, and the reason must be the same each time.
    differing.sort();
    match differing.first() {
        Some(name) => Err(PublicReason::AttributeDiffers {
            attribute: Quoted::new(name),
        }),
        None => Ok(()),
    }
}

/// The container that the volume names, if it alone mounts the volume, and whole.
fn find_container<'a>(
    pod: &'a PodObject,
    name: &ContainerName,
    volume: &VolumeName,
) -> Result<&'a Container, PublicReason> {
    let is_ours = |mount: &&VolumeMount| mount.name == volume.as_str();
    let mounting: Vec<&Container> = pod
        .containers
        .iter()
        .filter(|container| container.mounts.iter().any(|mount| is_ours(&mount)))
        .collect();
    if let [first, second, ..] = mounting.as_slice() {
        return Err(PublicReason::MountedTwice {
            first: first.name.clone(),
            second: second.name.clone(),
            volume: volume.clone(),
        });
    }
    // Whoever may add ephemeral containers must not be able to make the one that a volume names.
    let named = pod
        .containers
        .iter()
        .find(|container| container.name == *name);
    let container = named
        .filter(|container| container.kind != ContainerKind::Ephemeral)
        .ok_or_else(|| PublicReason::NoSuchContainer {
            container: name.clone(),
        })?;
    match mounting.first() {
        None => {
            let (container, volume) = (name.clone(), volume.clone());
            return Err(PublicReason::NotMounted { container, volume });
        }
        Some(other) if other.name != *name => {
            return Err(PublicReason::MountedByOther {
                container: name.clone(),
                other: other.name.clone(),
                volume: volume.clone(),
            });
        }
        Some(_) => {}
    }
    let is_part = |path: &Option<String>| path.as_ref().is_some_and(|path| !path.is_empty());
    let partly = container
        .mounts
        .iter()
        .filter(is_ours)
        .any(|mount| is_part(&mount.sub_path) || is_part(&mount.sub_path_expr));
    if partly {
        let (container, volume) = (name.clone(), volume.clone());
        return Err(PublicReason::SubPath { container, volume });
    }
    Ok(container)
}

/// Refuses a pod in which other processes share a process namespace with the container: the same user reads its files
/// through /proc/PID/root.
fn check_processes(pod: &PodObject, container: &Container) -> Result<(), PublicReason> {
    let shared = [
        (pod.host_pid, "hostPID"),
        (pod.share_process_namespace, "shareProcessNamespace"),
    ];
    if let Some((_, setting)) = shared.iter().find(|(set, _)| *set) {
        return Err(PublicReason::SharedProcesses { setting });
    }
    let targets = |debugger: &&Container| debugger.target.as_ref() == Some(&container.name);
    match pod.containers.iter().find(targets) {
        Some(debugger) => Err(PublicReason::Debugged {
            debugger: debugger.name.clone(),
            container: container.name.clone(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
