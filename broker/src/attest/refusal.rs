//! Why a pod does not get what it asked for: one reason for its author, one for the operator.
//!
//! Every refusal of attestation and policy is made of a [`PublicReason`], which fixes the words and the kind, and of a
//! true reason, which goes to the audit log alone. The public reason must never tell a secret that is absent from one
//! that is not granted, and must render the same on every retry: kubelet repeats it for ever, and folds what is equal.

use std::fmt;

use attache_envelope::name::{
    ClusterName, ContainerName, NameError, Namespace, NodeName, PodName, PodUid, SecretRef,
    ServiceAccount, VolumeName, WorkloadRef,
};
use thiserror::Error;

use super::files::Mode;
use super::posture::Excess;
use super::quoted::Quoted;
use super::token::PodIdentity;

/// The most bytes of a public reason: with the words around it, a line stays within kubelet's 1,024.
pub const MAX_REASON_BYTES: usize = 880;

/// What a refusal is to the caller: the code of its answer follows from this alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// No token that proves a pod.
    Unauthenticated,
    /// A proved pod that may not have this.
    PermissionDenied,
    /// A request or volume that is not well-formed.
    InvalidArgument,
    /// The cluster's own record cannot be read now.
    Unavailable,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{public}")]
pub struct Refusal {
    public: PublicReason,
    record: Box<Record>,
}

/// What a refusal holds for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    true_reason: String,
    policies: Vec<String>,
    subject: Option<Subject>,
    misplaced: Option<NodeName>,
}

/// Whom a refusal is about, as far as it was proved when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The cluster of the node's certificate.
    pub cluster: ClusterName,
    /// The pod's namespace.
    pub namespace: Namespace,
    /// The pod's service account.
    pub service_account: ServiceAccount,
    /// The pod's name.
    pub pod_name: PodName,
    /// The pod's uid.
    pub pod_uid: PodUid,
    /// The volume's name in the pod.
    pub volume: VolumeName,
    /// The container that the volume names, once that is known.
    pub container: Option<ContainerName>,
    /// That container's image, as the pod has it.
    pub image: Option<String>,
}

impl Refusal {
    /// Refuses for a reason that hides nothing: both readers are told the same.
    #[must_use]
    pub fn open(public: PublicReason) -> Self {
        let true_reason = public.line();
        Self::new(public, true_reason)
    }

    /// Refuses; `true_reason` is for the audit log.
    #[must_use]
    pub fn new(public: PublicReason, true_reason: impl Into<String>) -> Self {
        let record = Record {
            true_reason: true_reason.into(),
            policies: Vec::new(),
            subject: None,
            misplaced: None,
        };
        Self {
            public,
            record: Box::new(record),
        }
    }

    /// Refuses a token that the cluster signed for a pod of another node than the one that shows it.
    pub(super) fn misplaced(token: &PodIdentity) -> Self {
        let id = token.token_id.as_deref().unwrap_or("without a jti");
        let true_reason = format!(
            "the token ({}) is that of pod {}/{} ({}) on node {} ({})",
            Quoted::new(id),
            token.namespace,
            token.pod_name,
            token.pod_uid,
            token.node_name,
            token.node_uid
        );
        let mut refusal = Self::new(PublicReason::AnotherNode, true_reason);
        refusal.record.misplaced = Some(token.node_name.clone());
        refusal
    }

    /// Adds whom it is about, unless that is known already.
    #[must_use]
    pub fn about(mut self, subject: &Subject) -> Self {
        self.record.subject.get_or_insert_with(|| subject.clone());
        self
    }

    /// Adds the names of the policies that determined it.
    #[must_use]
    pub fn by(mut self, policies: Vec<String>) -> Self {
        self.record.policies = policies;
        self
    }

    /// What the pod's author may know.
    #[must_use]
    pub fn public(&self) -> &PublicReason {
        &self.public
    }

    /// What the audit log keeps.
    #[must_use]
    pub fn true_reason(&self) -> &str {
        &self.record.true_reason
    }

    /// The policies that determined it; empty when none did.
    #[must_use]
    pub fn policies(&self) -> &[String] {
        &self.record.policies
    }

    /// Whom it is about; none when the token did not prove a pod of the calling node.
    #[must_use]
    pub fn subject(&self) -> Option<&Subject> {
        self.record.subject.as_ref()
    }

    /// The node that the token names, when that is not the one which showed it.
    #[must_use]
    pub fn misplaced_from(&self) -> Option<&NodeName> {
        self.record.misplaced.as_ref()
    }

    /// What it is to the caller.
    #[must_use]
    pub fn kind(&self) -> RefusalKind {
        self.public.kind()
    }
}

impl From<PublicReason> for Refusal {
    fn from(public: PublicReason) -> Self {
        Self::open(public)
    }
}

/// What the pod's author is told. Names in it are parsed names; free text of a pod is [`Quoted`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PublicReason {
    /// A field of the request is not of its form.
    #[error("{field}: {fault}")]
    Field {
        /// The field, as the wire has it.
        field: &'static str,
        /// What is wrong with it.
        fault: NameError,
    },
    /// What the request says of the pod is not what the token says.
    #[error(
        "{field} is not that of the pod's token; the CSIDriver object needs podInfoOnMount: true"
    )]
    Hint {
        /// The field, as the wire has it.
        field: &'static str,
    },
    /// The group that kubelet hands over is not the pod's.
    #[error(
        "volume_mount_group is not the pod's securityContext.fsGroup; kubelet hands that over, and nobody else may"
    )]
    MountGroup,
    /// A volume attribute of the request is not the pod's.
    #[error("attributes: {attribute} is not what the pod has")]
    AttributeDiffers {
        /// Its name.
        attribute: Quoted,
    },
    /// The volume id is not of this pod and volume.
    #[error("volume_id is not kubelet's handle of volume {volume} of this pod")]
    VolumeId {
        /// The volume.
        volume: VolumeName,
    },

    /// Not a token, or not one that this cluster signed.
    #[error("the token is not one that the cluster signed for a pod")]
    TokenRejected,
    /// The token's life is over.
    #[error("the token has expired; kubelet hands over a fresh one when it tries again")]
    TokenExpired,
    /// The token's life has not begun.
    #[error("the token is not valid yet; compare the clocks of the cluster and of the broker")]
    TokenNotYetValid,
    /// The token is of another issuer.
    #[error("the token is of another issuer")]
    TokenIssuer,
    /// The token is for somebody else.
    #[error("the token is for another audience")]
    TokenAudience,
    /// The token is for us and for somebody else, who could show it as well.
    #[error("the token is for other audiences too; it must be for this broker's alone")]
    TokenSharedAudience,
    /// The token is not bound to a pod on a node.
    #[error(
        "the token is not bound to a pod and to a node with its uid (Kubernetes 1.32 or newer binds both)"
    )]
    TokenUnbound,

    /// The calling node's cluster has no row.
    #[error("the broker does not know cluster {cluster}; add it with: attache cluster add")]
    UnknownCluster {
        /// The cluster of the node's certificate.
        cluster: ClusterName,
    },
    /// The cluster's record is away or damaged.
    #[error("the broker cannot read the cluster's records now")]
    FactsAway,
    /// The token belongs to a pod of another node.
    #[error("the token names another node")]
    AnotherNode,
    /// The record of the node is not of the machine that calls.
    #[error("the cluster's node of that name is not the node that asks")]
    NodeReplaced,
    /// No such pod, or a new one under an old name.
    #[error("the cluster has no pod {namespace}/{pod} with the uid that the token names")]
    PodGone {
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        pod: PodName,
    },
    /// The pod is on its way out.
    #[error("the pod is being deleted")]
    PodDeleted,
    /// The pod runs elsewhere, or nowhere.
    #[error("the pod does not run on the node that asks")]
    PodElsewhere,
    /// The pod runs as another service account than the token's.
    #[error("the pod runs as another service account than the token's")]
    AnotherServiceAccount,

    /// The pod has no such volume, or one of another kind.
    #[error("the pod has no volume {volume} of the driver csi.attache.dev")]
    NotOurVolume {
        /// The volume.
        volume: VolumeName,
    },
    /// The container could write into its own secrets.
    #[error("volume {volume} is writable; set csi.readOnly: true")]
    Writable {
        /// The volume.
        volume: VolumeName,
    },
    /// No container of that name, or one that may not be given secrets.
    #[error(
        "the pod has no container {container} that may be given secrets; name one of containers or initContainers in volumeAttributes.container"
    )]
    NoSuchContainer {
        /// What the volume names.
        container: ContainerName,
    },
    /// The named container does not mount the volume.
    #[error(
        "container {container} does not mount volume {volume}; add it to the container's volumeMounts"
    )]
    NotMounted {
        /// What the volume names.
        container: ContainerName,
        /// The volume.
        volume: VolumeName,
    },
    /// A container that the volume does not name mounts it.
    #[error(
        "container {other} mounts volume {volume}, which is for container {container} alone (volumeAttributes.container)"
    )]
    MountedByOther {
        /// What the volume names.
        container: ContainerName,
        /// Who mounts it.
        other: ContainerName,
        /// The volume.
        volume: VolumeName,
    },
    /// More than one container mounts the volume.
    #[error(
        "containers {first} and {second} both mount volume {volume}; exactly one may (name it in volumeAttributes.container)"
    )]
    MountedTwice {
        /// One of them.
        first: ContainerName,
        /// Another.
        second: ContainerName,
        /// The volume.
        volume: VolumeName,
    },
    /// A mount of one path within the volume.
    #[error(
        "container {container} mounts volume {volume} with subPath, which never updates; mount the whole volume"
    )]
    SubPath {
        /// The container.
        container: ContainerName,
        /// The volume.
        volume: VolumeName,
    },
    /// Containers see each other's processes, and with them each other's files.
    #[error("the pod sets {setting}: other processes could read the container's files; remove it")]
    SharedProcesses {
        /// The setting.
        setting: &'static str,
    },
    /// A debug container in the container's process namespace.
    #[error(
        "ephemeral container {debugger} targets container {container} and could read its files; start the pod anew"
    )]
    Debugged {
        /// The ephemeral container.
        debugger: ContainerName,
        /// Its target.
        container: ContainerName,
    },

    /// A volume attribute that does not exist.
    #[error("volumeAttributes.{attribute} is not known; the nearest is {nearest}")]
    UnknownAttribute {
        /// What the pod has.
        attribute: Quoted,
        /// What it may have meant.
        nearest: &'static str,
    },
    /// A volume attribute that is wrong.
    #[error("volumeAttributes.{attribute} {problem}")]
    Attribute {
        /// Its name, with the place in a list.
        attribute: String,
        /// What is wrong, and the mend.
        problem: String,
    },
    /// Two files would have one path.
    #[error(
        "{first} and {second} would share the path {path}; give each file a path of its own in volumeAttributes.files"
    )]
    SharedPath {
        /// One reference.
        first: Box<SecretRef>,
        /// Another.
        second: Box<SecretRef>,
        /// The path.
        path: Quoted,
    },
    /// More files than a volume carries.
    #[error(
        "the volume would have {found} files and may have {limit}; name fewer in volumeAttributes.files"
    )]
    TooManyFiles {
        /// How many.
        found: usize,
        /// How many there may be.
        limit: usize,
    },

    /// More bytes than a volume carries.
    #[error(
        "the volume's files would have more than {limit_bytes} bytes together; name fewer secrets, or single fields, in volumeAttributes.secrets"
    )]
    TooLarge {
        /// How many there may be.
        limit_bytes: usize,
    },

    /// Nobody to own the files.
    #[error("container {container} sets no numeric user; set securityContext.runAsUser")]
    NoUser {
        /// The container.
        container: ContainerName,
    },
    /// A mode for a group that is not there.
    #[error(
        "mode {mode} is for a group, and container {container} has none; set securityContext.runAsGroup or the pod's fsGroup, or mode \"0400\""
    )]
    NoGroup {
        /// The container.
        container: ContainerName,
        /// The mode.
        mode: Mode,
    },

    /// The guard rail `non-root`.
    #[error(
        "container {container} runs as root; set securityContext.runAsUser to a number that is not 0"
    )]
    RunsAsRoot {
        /// The container.
        container: ContainerName,
    },
    /// The guard rail `unprivileged`.
    #[error("{0}")]
    Privileged(Excess),
    /// No grant, or no such secret: one reason.
    #[error("no grant lets {workload} read {reference}")]
    NotGranted {
        /// Who asks.
        workload: Box<WorkloadRef>,
        /// For what, as the volume names it.
        reference: Box<SecretRef>,
    },
    /// A policy could not be evaluated, so nothing is granted.
    #[error("the broker could not evaluate its policy; an operator must mend it")]
    PolicyFailed,
}

impl PublicReason {
    /// The reason as one line of at most [`MAX_REASON_BYTES`], cut at a character when it is longer.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        line.truncate(line.floor_char_boundary(MAX_REASON_BYTES));
        line
    }

    /// What it is to the caller.
    #[must_use]
    pub fn kind(&self) -> RefusalKind {
        match self {
            Self::TokenRejected
            | Self::TokenExpired
            | Self::TokenNotYetValid
            | Self::TokenIssuer
            | Self::TokenAudience
            | Self::TokenSharedAudience
            | Self::TokenUnbound => RefusalKind::Unauthenticated,
            Self::Field { .. }
            | Self::Hint { .. }
            | Self::MountGroup
            | Self::AttributeDiffers { .. }
            | Self::VolumeId { .. }
            | Self::UnknownAttribute { .. }
            | Self::Attribute { .. }
            | Self::SharedPath { .. }
            | Self::TooManyFiles { .. }
            | Self::TooLarge { .. } => RefusalKind::InvalidArgument,
            Self::FactsAway => RefusalKind::Unavailable,
            Self::UnknownCluster { .. }
            | Self::AnotherNode
            | Self::NodeReplaced
            | Self::PodGone { .. }
            | Self::PodDeleted
            | Self::PodElsewhere
            | Self::AnotherServiceAccount
            | Self::NotOurVolume { .. }
            | Self::Writable { .. }
            | Self::NoSuchContainer { .. }
            | Self::NotMounted { .. }
            | Self::MountedByOther { .. }
            | Self::MountedTwice { .. }
            | Self::SubPath { .. }
            | Self::SharedProcesses { .. }
            | Self::Debugged { .. }
            | Self::NoUser { .. }
            | Self::NoGroup { .. }
            | Self::RunsAsRoot { .. }
            | Self::Privileged(_)
            | Self::NotGranted { .. }
            | Self::PolicyFailed => RefusalKind::PermissionDenied,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pod {}/{} ({}), volume {}",
            self.namespace, self.pod_name, self.pod_uid, self.volume
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_which_policies_determined_it() {
        let refusal = Refusal::from(PublicReason::AnotherNode);
        assert!(refusal.policies().is_empty());
        let by = vec!["guardrail/non-root".to_owned()];
        assert_eq!(refusal.by(by.clone()).policies(), by);
    }
}
