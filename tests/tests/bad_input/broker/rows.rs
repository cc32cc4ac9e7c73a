//! The table: what each field of `attache.v1` takes, and where an RPC answers otherwise.

use tonic::Code;

use crate::{
    kinds::Kind,
    walk::{Exception, Expect, Take},
};
use Code::{
    Aborted, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unauthenticated,
};
use Expect::{None as NotSent, Passes, Refused, Says};

/// A text of some form that must be there.
fn name(kind: Kind) -> Expect {
    match kind {
        Kind::Largest | Kind::WrongType | Kind::NotUtf8 | Kind::Unknown => {
            NotSent("has no such form")
        }
        Kind::Missing | Kind::Empty | Kind::TooLong | Kind::Nul => Refused(InvalidArgument),
    }
}

/// A text of some form that narrows a list.
fn filter(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty => Passes("without it the list is whole"),
        _ => name(kind),
    }
}

/// A text for people.
fn text(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty => Passes("nothing need be said"),
        _ => name(kind),
    }
}

/// An epoch of the CA that is not there; 0 is none.
fn epoch_of_ca(kind: Kind) -> Expect {
    match kind {
        Kind::Largest => Says(NotFound, "no CA of epoch"),
        _ => name(kind),
    }
}

/// As a text; without one the request is good, and the CA was not rotated.
fn of_one_ca(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty => Says(NotFound, "no CA of epoch"),
        _ => name(kind),
    }
}

/// As a text; without one the request is good, and the store was not restored.
fn of_restored(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty => Says(FailedPrecondition, "was never restored"),
        _ => name(kind),
    }
}

/// Bytes of one length or one encoding.
fn blob(kind: Kind) -> Expect {
    name(kind)
}

/// What a slot of the kind that is asked for does not have.
fn of_another_kind(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty => Passes("no share is of a key file's slot"),
        _ => name(kind),
    }
}

/// What a broker that is open does not look at.
fn sealed_away(kind: Kind) -> Expect {
    match name(kind) {
        Refused(_) => Says(FailedPrecondition, "is not sealed any more"),
        other => other,
    }
}

/// A message or list that must be there, with parts that must be there.
fn part(kind: Kind) -> Expect {
    name(kind)
}

/// A message or list that may be left out.
fn optional(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty => Passes("0, or nothing, is what it means by default"),
        _ => name(kind),
    }
}

/// A flag.
fn flag(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty => Passes("means no"),
        _ => name(kind),
    }
}

/// A number of which 0 says "by default" and every other one may be meant.
fn number(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty => Passes("0 is what it means by default"),
        Kind::Largest => Passes("as many as there are"),
        _ => name(kind),
    }
}

/// A version of a secret that has one; 0 is none.
fn one_version(kind: Kind) -> Expect {
    match kind {
        Kind::Largest => Says(NotFound, "version"),
        _ => name(kind),
    }
}

/// A time in seconds of which 0 says "none", and no more than ten years is meant.
fn seconds(kind: Kind) -> Expect {
    match kind {
        Kind::Largest => Refused(InvalidArgument),
        _ => number(kind),
    }
}

/// The epoch of a key that is the active one.
fn epoch(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty => Passes("whichever it is"),
        Kind::Largest => Says(Aborted, "stands at key"),
        _ => name(kind),
    }
}

/// The epoch of a key that must be there.
fn old_epoch(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty => Refused(InvalidArgument),
        Kind::Largest => Says(NotFound, "no key"),
        _ => name(kind),
    }
}

/// A flag of a request that is refused whether it is there or not.
fn flag_of_the_active_key(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty => Says(FailedPrecondition, "only a retired key is destroyed"),
        _ => name(kind),
    }
}

/// What a broker writes into a message that callers send too.
fn brokers_own(kind: Kind) -> Expect {
    match kind {
        Kind::Missing => Passes("only the broker fills it in"),
        Kind::Largest => Says(InvalidArgument, "cluster.created"),
        _ => name(kind),
    }
}

/// A number that is compared with what the cluster has on record.
fn compared(kind: Kind) -> Expect {
    match kind {
        Kind::Missing => Passes("the pod has none"),
        Kind::Empty | Kind::Largest => Refused(InvalidArgument),
        _ => name(kind),
    }
}

/// A part of a cluster with an API server: without all of them it is that around the broker, of which there is none here.
fn of_kubernetes(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty => Says(FailedPrecondition, "does not run in a pod"),
        _ => name(kind),
    }
}

/// The other source of a cluster's record.
fn kubernetes(kind: Kind) -> Expect {
    match kind {
        Kind::Missing => Passes("the folder is the source"),
        _ => of_kubernetes(kind),
    }
}

/// A pod's token: what is no token proves no pod.
fn pod_token(kind: Kind) -> Expect {
    match kind {
        Kind::Missing | Kind::Empty | Kind::TooLong | Kind::Nul => Says(Unauthenticated, "token"),
        _ => name(kind),
    }
}

pub(crate) const ROWS: &[(&str, Take)] = &[
    ("BootstrapOperatorRequest.name", name),
    ("BootstrapOperatorRequest.csr", blob),
    ("ReadLeavesRequest.first_index", number),
    ("ReadLeavesRequest.limit", number),
    ("ReadLeavesRequest.follow", flag),
    ("ReadLeavesRequest.last", number),
    ("ExplainRequest.decision", name),
    ("DeliverRequest.volume_id", name),
    ("DeliverRequest.volume_name", name),
    ("DeliverRequest.pod_token", pod_token),
    ("DeliverRequest.plugin_key", blob),
    ("DeliverRequest.nonce", blob),
    ("DeliverRequest.held", optional),
    ("Generation.incarnation", number),
    ("Generation.seq", number),
    ("Generation.digest", blob),
    ("DeliverRequest.attributes", part),
    ("DeliverRequest.pod_namespace", name),
    ("DeliverRequest.pod_name", name),
    ("DeliverRequest.pod_uid", name),
    ("DeliverRequest.service_account", name),
    ("DeliverRequest.volume_mount_group", compared),
    ("DeliverRequest.lacks_inode_flags", flag),
    ("DeliverRequest.lacks_noswap", flag),
    ("JoinNodeRequest.token", name),
    ("JoinNodeRequest.csr", blob),
    ("JoinNodeRequest.version", text),
    ("EnrollNodeRequest.cluster", name),
    ("EnrollNodeRequest.token", name),
    ("EnrollNodeRequest.csr", blob),
    ("EnrollNodeRequest.version", text),
    ("SignInOperatorRequest.code", name),
    ("SignInOperatorRequest.csr", blob),
    ("SignInOperatorRequest.name", name),
    ("RenewLateRequest.certificate", blob),
    ("RenewLateRequest.csr", blob),
    ("RenewLateRequest.version", text),
    ("RenewLateRequest.at", part),
    ("RenewLateRequest.signature", blob),
    ("RenewRequest.csr", blob),
    ("RenewRequest.version", text),
    ("Mutation.request_id", blob),
    ("Mutation.dry_run", flag),
    ("Page.size", number),
    ("Page.token", filter),
    ("Time.unix_ms", brokers_own),
    ("SecretPath.keyspace", name),
    ("SecretPath.name", name),
    ("Workload.cluster", name),
    ("Workload.namespace", name),
    ("Workload.service_account", name),
    ("Workload.container", name),
    ("AddClusterRequest.mutation", part),
    ("AddClusterRequest.cluster", part),
    ("Cluster.name", name),
    ("Cluster.issuer", name),
    ("Cluster.audience", name),
    ("Cluster.folder", name),
    ("Cluster.kubernetes", kubernetes),
    ("KubernetesSource.api_server", of_kubernetes),
    ("KubernetesSource.credentials", of_kubernetes),
    ("KubernetesSource.enroll_service_account", of_kubernetes),
    ("KubernetesSource.enroll_audience", of_kubernetes),
    ("Cluster.created", brokers_own),
    ("Cluster.created_by", brokers_own),
    ("ListClustersRequest.page", optional),
    ("ShowClusterRequest.name", name),
    ("RemoveClusterRequest.mutation", part),
    ("RemoveClusterRequest.name", name),
    ("ListNodesRequest.cluster", filter),
    ("ListNodesRequest.page", optional),
    ("CreateJoinTokenRequest.mutation", part),
    ("CreateJoinTokenRequest.cluster", name),
    ("CreateJoinTokenRequest.node", name),
    ("BanNodeRequest.mutation", part),
    ("BanNodeRequest.spiffe_id", name),
    ("BanNodeRequest.reason", text),
    ("RotateAuditKeyRequest.mutation", part),
    ("RotateAuditKeyRequest.reason", text),
    ("RotateMacRequest.mutation", part),
    ("RotateMacRequest.reason", text),
    ("RotateCaRequest.mutation", part),
    ("RotateCaRequest.reason", text),
    ("RotateCaRequest.now", flag),
    ("DropCaRequest.mutation", part),
    ("DropCaRequest.epoch", epoch_of_ca),
    ("DropCaRequest.reason", of_one_ca),
    ("ReadmitNodesRequest.mutation", part),
    ("ReadmitNodesRequest.reason", of_restored),
    ("AddOperatorRequest.mutation", part),
    ("AddOperatorRequest.name", name),
    ("BanOperatorRequest.mutation", part),
    ("BanOperatorRequest.name", name),
    ("BanOperatorRequest.reason", text),
    ("ListOperatorsRequest.page", optional),
    ("ListApprovalsRequest.page", optional),
    ("ShowApprovalRequest.id", name),
    ("DecideEnrollmentRequest.mutation", part),
    ("DecideEnrollmentRequest.id", name),
    ("DecideEnrollmentRequest.reason", text),
    ("CreateBackupRequest.mutation", part),
    ("CreateBackupRequest.reason", text),
    ("ListBackupsRequest.page", optional),
    ("RecordVerifiedBackupRequest.mutation", part),
    ("RecordVerifiedBackupRequest.id", blob),
    ("RecordVerifiedBackupRequest.hash", blob),
    ("AddGrantRequest.mutation", part),
    ("AddGrantRequest.name", name),
    ("AddGrantRequest.secret", part),
    ("AddGrantRequest.fields", name),
    ("AddGrantRequest.to", part),
    ("ListGrantsRequest.keyspace", filter),
    ("ListGrantsRequest.page", optional),
    ("ShowGrantRequest.name", name),
    ("RemoveGrantRequest.mutation", part),
    ("RemoveGrantRequest.name", name),
    ("ListGuardrailsRequest.page", optional),
    ("BeginPutRequest.path", part),
    ("CommitPutRequest.mutation", part),
    ("CommitPutRequest.path", part),
    ("CommitPutRequest.secret", blob),
    ("CommitPutRequest.expected_head_version", number),
    ("CommitPutRequest.values", part),
    ("CommitPutRequest.carried", name),
    ("CommitPutRequest.flags", number),
    ("CommitPutRequest.note", text),
    ("CommitPutRequest.key_id", blob),
    ("CommitPutRequest.boot", blob),
    ("CommitPutRequest.enc", blob),
    ("CommitPutRequest.sealed_keys", blob),
    ("PutValue.field", name),
    ("PutValue.value", blob),
    ("PutValue.ct", blob),
    ("ListSecretsRequest.keyspace", filter),
    ("ListSecretsRequest.page", optional),
    ("ShowSecretRequest.path", part),
    ("ListVersionsRequest.path", part),
    ("ListVersionsRequest.page", optional),
    ("PinVersionRequest.mutation", part),
    ("PinVersionRequest.path", part),
    ("PinVersionRequest.version", one_version),
    ("PinVersionRequest.reason", text),
    ("UnpinVersionRequest.mutation", part),
    ("UnpinVersionRequest.path", part),
    ("UnpinVersionRequest.version", one_version),
    ("UnpinVersionRequest.reason", text),
    ("DestroySecretRequest.mutation", part),
    ("DestroySecretRequest.path", part),
    ("DestroySecretRequest.version", number),
    ("RollbackRequest.mutation", part),
    ("RollbackRequest.path", part),
    ("RollbackRequest.to_version", number),
    ("RollbackRequest.expected_active_version", number),
    ("CreateKeyspaceRequest.mutation", part),
    ("CreateKeyspaceRequest.name", name),
    ("ListKeyspacesRequest.page", optional),
    ("CreateKeyspaceRequest.max_versions", number),
    ("CreateKeyspaceRequest.max_key_age_s", seconds),
    ("CreateKeyspaceRequest.max_key_wraps", number),
    ("CreateKeyspaceRequest.rotate_automatically", flag),
    ("CreateKeyspaceRequest.backup_age_s", seconds),
    ("ShowKeyspaceRequest.name", name),
    ("SetKeyspaceRequest.mutation", part),
    ("SetKeyspaceRequest.name", name),
    ("SetKeyspaceRequest.max_versions", number),
    ("SetKeyspaceRequest.max_key_age_s", seconds),
    ("SetKeyspaceRequest.max_key_wraps", number),
    ("SetKeyspaceRequest.rotate_automatically", flag),
    ("SetKeyspaceRequest.backup_age_s", seconds),
    ("DestroyKeyspaceRequest.mutation", part),
    ("DestroyKeyspaceRequest.name", name),
    ("ListKeysRequest.keyspace", filter),
    ("ListKeysRequest.page", optional),
    ("ListSlotsRequest.page", optional),
    ("RotateRootRequest.mutation", part),
    ("AddSlotRequest.mutation", part),
    ("AddSlotRequest.slot", blob),
    ("AddSlotRequest.name", name),
    ("AddSlotRequest.kind", name),
    ("AddSlotRequest.secret", part),
    ("AddSlotRequest.share_set", of_another_kind),
    ("VerifySlotRequest.mutation", part),
    ("VerifySlotRequest.slot", blob),
    ("VerifySlotRequest.secret", part),
    ("RemoveSlotRequest.mutation", part),
    ("RemoveSlotRequest.slot", blob),
    ("UnsealRequest.boot", blob),
    ("UnsealRequest.slot", blob),
    ("UnsealRequest.enc", blob),
    ("UnsealRequest.sealed", sealed_away),
    ("SealBrokerRequest.mutation", part),
    ("SealBrokerRequest.reason", text),
    ("SealedSecret.key_id", blob),
    ("SealedSecret.boot", blob),
    ("SealedSecret.enc", blob),
    ("SealedSecret.sealed", blob),
    ("RotateKeyRequest.mutation", part),
    ("RotateKeyRequest.keyspace", name),
    ("RotateKeyRequest.expected_epoch", epoch),
    ("RotateKeyRequest.rate", number),
    ("DestroyKeyRequest.mutation", part),
    ("DestroyKeyRequest.keyspace", name),
    ("DestroyKeyRequest.epoch", old_epoch),
    ("DestroyKeyRequest.now", flag_of_the_active_key),
    ("ListRewrapsRequest.keyspace", filter),
    ("ListRewrapsRequest.page", optional),
];

pub(crate) const EXCEPTIONS: &[Exception] = &[
    (
        "*",
        "Mutation.dry_run",
        Kind::Missing,
        NotSent("without it the change is made"),
    ),
    (
        "*",
        "Mutation.dry_run",
        Kind::Empty,
        NotSent("without it the change is made"),
    ),
    ("*", "Page.size", Kind::Largest, Refused(InvalidArgument)),
    (
        "ReadLeaves",
        "ReadLeavesRequest.first_index",
        Kind::Largest,
        Refused(InvalidArgument),
    ),
    (
        "AddGrant",
        "AddGrantRequest.fields",
        Kind::Missing,
        Passes("a grant without fields is for all of them"),
    ),
    (
        "Deliver",
        "DeliverRequest.held",
        Kind::Empty,
        Says(InvalidArgument, "held.digest"),
    ),
    // 1970 is long ago.
    (
        "RenewLate",
        "RenewLateRequest.at",
        Kind::Empty,
        Says(FailedPrecondition, "compare the clocks"),
    ),
    (
        "RenewLate",
        "Time.unix_ms",
        Kind::Missing,
        Says(FailedPrecondition, "compare the clocks"),
    ),
    (
        "RenewLate",
        "Time.unix_ms",
        Kind::Empty,
        Says(FailedPrecondition, "compare the clocks"),
    ),
    (
        "RenewLate",
        "Time.unix_ms",
        Kind::Largest,
        Refused(InvalidArgument),
    ),
    // It is signed.
    (
        "RenewLate",
        "RenewLateRequest.version",
        Kind::Missing,
        Says(Unauthenticated, "signature"),
    ),
    (
        "RenewLate",
        "RenewLateRequest.version",
        Kind::Empty,
        Says(Unauthenticated, "signature"),
    ),
    // To leave them out, the message around them must be there, which is the broker's own.
    (
        "AddCluster",
        "Time.unix_ms",
        Kind::Missing,
        Says(InvalidArgument, "cluster.created"),
    ),
    (
        "AddCluster",
        "Time.unix_ms",
        Kind::Empty,
        Says(InvalidArgument, "cluster.created"),
    ),
    (
        "AddCluster",
        "Cluster.created_by",
        Kind::Empty,
        Passes("on the wire it is as if it were missing"),
    ),
    // There is one operator only, who calls.
    (
        "BanOperator",
        "BanOperatorRequest.reason",
        Kind::Missing,
        Says(FailedPrecondition, "yourself"),
    ),
    (
        "BanOperator",
        "BanOperatorRequest.reason",
        Kind::Empty,
        Says(FailedPrecondition, "yourself"),
    ),
    (
        "UnbanOperator",
        "BanOperatorRequest.reason",
        Kind::Missing,
        Says(NotFound, "is not banned"),
    ),
    (
        "UnbanOperator",
        "BanOperatorRequest.reason",
        Kind::Empty,
        Says(NotFound, "is not banned"),
    ),
    // The keys are sealed over the hash of each ciphertext.
    (
        "CommitPut",
        "PutValue.ct",
        Kind::TooLong,
        Says(InvalidArgument, "sealed_keys"),
    ),
    (
        "DestroySecret",
        "DestroySecretRequest.version",
        Kind::Largest,
        Says(NotFound, "version"),
    ),
    (
        "Rollback",
        "RollbackRequest.to_version",
        Kind::Largest,
        Says(NotFound, "version"),
    ),
    (
        "Rollback",
        "RollbackRequest.expected_active_version",
        Kind::Largest,
        Says(Aborted, "version"),
    ),
    (
        "CommitPut",
        "CommitPutRequest.expected_head_version",
        Kind::Missing,
        Says(Aborted, "version"),
    ),
    (
        "CommitPut",
        "CommitPutRequest.expected_head_version",
        Kind::Empty,
        Says(Aborted, "version"),
    ),
    (
        "CommitPut",
        "CommitPutRequest.expected_head_version",
        Kind::Largest,
        Says(Aborted, "version"),
    ),
    (
        "CommitPut",
        "CommitPutRequest.flags",
        Kind::Largest,
        Refused(InvalidArgument),
    ),
    (
        "JoinNode",
        "JoinNodeRequest.version",
        Kind::Missing,
        NotSent("the control is a request without it"),
    ),
    (
        "JoinNode",
        "JoinNodeRequest.version",
        Kind::Empty,
        NotSent("the control is the same message on the wire"),
    ),
    (
        "EnrollNode",
        "EnrollNodeRequest.token",
        Kind::TooLong,
        Says(PermissionDenied, "enrolls nodes"),
    ),
    (
        "EnrollNode",
        "EnrollNodeRequest.version",
        Kind::Missing,
        NotSent("the control is a request without it"),
    ),
    (
        "EnrollNode",
        "EnrollNodeRequest.version",
        Kind::Empty,
        NotSent("the control is the same message on the wire"),
    ),
    (
        "Renew",
        "RenewRequest.version",
        Kind::Missing,
        NotSent("the control is a request without it"),
    ),
    (
        "Renew",
        "RenewRequest.version",
        Kind::Empty,
        NotSent("the control is the same message on the wire"),
    ),
];

/// What the control of an RPC is answered, where that is not success.
pub(crate) const CONTROLS: &[(&str, Expect)] = &[
    ("BanOperator", Says(FailedPrecondition, "yourself")),
    ("UnbanOperator", Says(NotFound, "is not banned")),
    (
        "DestroyKey",
        Says(FailedPrecondition, "only a retired key is destroyed"),
    ),
    ("DestroyKeyspace", Says(NotFound, "there is no keyspace")),
    ("EnrollNode", Says(PermissionDenied, "enrolls nodes")),
    (
        "ReadmitNodes",
        Says(FailedPrecondition, "was never restored"),
    ),
    ("DropCa", Says(NotFound, "no CA of epoch")),
    ("RemoveSlot", Says(FailedPrecondition, "is the last slot")),
    ("Unseal", Says(FailedPrecondition, "is not sealed any more")),
    (
        "UnsealBroker",
        Says(FailedPrecondition, "is not sealed any more"),
    ),
    ("RecordVerifiedBackup", Says(NotFound, "no record")),
];
