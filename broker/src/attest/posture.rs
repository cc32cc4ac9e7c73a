//! How a container runs, as far as policy asks: who owns its files, and what it could do to get at others'.
//!
//! ```text
//! user   = container.runAsUser, else pod.runAsUser, else refused
//! group  = container.runAsGroup, else pod.runAsGroup, else pod.fsGroup, else none (files are then owner:0)
//! non-root     = user is not 0, or the pod has a user namespace of its own (hostUsers: false)
//! unprivileged = no container of the pod has one of the excesses below
//! ```
//! The image's own USER is not visible here and counts for nothing. `unprivileged` is about the whole pod: a privileged
//! sibling reaches every process of the machine. `allowPrivilegeEscalation` is a fact and no excess: what a process
//! gains by it, it gains within its own container.

use std::fmt;

use attache_envelope::generation::Owner;
use attache_envelope::name::ContainerName;

use super::facts::{Container, PodObject, VolumeSource};
use super::files::{Mode, WantedFiles};
use super::quoted::Quoted;
use super::refusal::PublicReason;

/// Capabilities that reach other processes' memory, the kernel or the machine's files; capabilities(7).
const EXCESSIVE: [&str; 10] = [
    "ALL",
    "SYS_ADMIN",
    "SYS_PTRACE",
    "SYS_MODULE",
    "SYS_RAWIO",
    "DAC_READ_SEARCH",
    "BPF",
    "PERFMON",
    "CHECKPOINT_RESTORE",
    "SYS_BOOT",
];
/// Where kubelet keeps the volumes of all pods, unless it is told otherwise.
const KUBELET_DIR: &str = "/var/lib/kubelet";

/// How the named container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posture {
    /// Who owns its files.
    pub owner: Owner,
    /// Whether the pod shares the machine's user namespace.
    pub host_users: bool,
    /// Whether its processes may gain privileges that their parent had not; true unless the pod says false.
    pub privilege_escalation: bool,
    /// The first thing that makes the pod more than unprivileged.
    pub excess: Option<Excess>,
}

impl Posture {
    /// The fact behind the guard rail `non-root`.
    #[must_use]
    pub fn is_non_root(&self) -> bool {
        self.owner.uid != 0 || !self.host_users
    }

    /// The fact behind the guard rail `unprivileged`.
    #[must_use]
    pub fn is_unprivileged(&self) -> bool {
        self.excess.is_none()
    }
}

/// What lets a container at the files of others. It reads as a sentence with the mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excess {
    container: Option<ContainerName>,
    kind: ExcessKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ExcessKind {
    Privileged,
    Capability(&'static str),
    Unmasked,
    HostPath(Quoted),
}

#[cfg(test)]
impl Excess {
    /// A privileged container, for the tests of policy.
    pub(crate) fn privileged(container: ContainerName) -> Self {
        Self {
            container: Some(container),
            kind: ExcessKind::Privileged,
        }
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(container) = &self.container {
            write!(f, "container {container} ")?;
        } else {
            f.write_str("the pod ")?;
        }
        match &self.kind {
            ExcessKind::Privileged => {
                f.write_str("is privileged; remove securityContext.privileged")
            }
            ExcessKind::Capability(name) => write!(
                f,
                "adds the capability {name}; remove it from securityContext.capabilities.add"
            ),
            ExcessKind::Unmasked => {
                f.write_str("has an unmasked /proc; remove securityContext.procMount")
            }
            ExcessKind::HostPath(path) => write!(
                f,
                "has the hostPath volume {path}, which holds the volumes of all pods; remove it"
            ),
        }
    }
}

/// Resolves how `container` of `pod` runs.
///
/// # Errors
/// [`PublicReason::NoUser`] without a numeric user.
pub(super) fn resolve(pod: &PodObject, container: &Container) -> Result<Posture, PublicReason> {
    let user = container.security.run_as_user.or(pod.security.run_as_user);
    let uid = user.ok_or_else(|| PublicReason::NoUser {
        container: container.name.clone(),
    })?;
    let gid = container
        .security
        .run_as_group
        .or(pod.security.run_as_group)
        .or(pod.security.fs_group);
    Ok(Posture {
        owner: Owner { uid, gid },
        host_users: pod.host_users,
        privilege_escalation: container
            .security
            .allow_privilege_escalation
            .unwrap_or(true),
        excess: first_excess(pod),
    })
}

/// Refuses a mode for a group where the owner has none.
///
/// # Errors
/// [`PublicReason::NoGroup`].
pub(super) fn check_group(
    wanted: &WantedFiles,
    owner: Owner,
    container: &ContainerName,
) -> Result<(), PublicReason> {
    let group = wanted.modes().find(|mode| *mode == Mode::OwnerAndGroup);
    match (group, owner.gid) {
        (Some(mode), None) => Err(PublicReason::NoGroup {
            container: container.clone(),
            mode,
        }),
        (Some(_), Some(_)) | (None, _) => Ok(()),
    }
}

/// The first excess in the order of the pod, so that the reason is the same each time.
fn first_excess(pod: &PodObject) -> Option<Excess> {
    let of_container = pod.containers.iter().find_map(|container| {
        let kind = container_excess(container)?;
        Some(Excess {
            container: Some(container.name.clone()),
            kind,
        })
    });
    of_container.or_else(|| {
        pod.volumes.iter().find_map(|volume| match &volume.source {
            VolumeSource::HostPath(path) if reaches_kubelet(path) => Some(Excess {
                container: None,
                kind: ExcessKind::HostPath(Quoted::new(path)),
            }),
            VolumeSource::HostPath(_) | VolumeSource::Csi { .. } | VolumeSource::Other => None,
        })
    })
}

fn container_excess(container: &Container) -> Option<ExcessKind> {
    let security = &container.security;
    if security.privileged {
        return Some(ExcessKind::Privileged);
    }
    let added = security.capabilities.add.iter().find_map(|added| {
        let name = added.to_ascii_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        EXCESSIVE.into_iter().find(|excessive| *excessive == name)
    });
    if let Some(name) = added {
        return Some(ExcessKind::Capability(name));
    }
    let masked = security
        .proc_mount
        .as_deref()
        .is_none_or(|mount| mount == "Default");
    (!masked).then_some(ExcessKind::Unmasked)
}

/// Whether a host path is kubelet's folder, above it or within it. A path with `..` is taken for one that is.
fn reaches_kubelet(path: &str) -> bool {
    let parts = |path: &'_ str| -> Vec<String> {
        let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
        parts.map(str::to_owned).collect()
    };
    let (path, kubelet) = (parts(path), parts(KUBELET_DIR));
    path.iter().any(|part| part == "..")
        || path
            .iter()
            .zip(&kubelet)
            .all(|(part, of_kubelet)| part == of_kubelet)
}

#[cfg(test)]
mod tests;
