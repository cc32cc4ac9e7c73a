//! The one map from what went wrong to what the caller is told: every error of every domain, exhaustively.
//!
//! | what | code |
//! |---|---|
//! | malformed | INVALID_ARGUMENT |
//! | no or bad certificate or token | UNAUTHENTICATED |
//! | denied, or absent, for a pod: the same words | PERMISSION_DENIED |
//! | not there, there already, changed meanwhile, for an operator | NOT_FOUND, ALREADY_EXISTS, ABORTED, FAILED_PRECONDITION |
//! | a limit | RESOURCE_EXHAUSTED |
//! | store, audit log, cluster away | UNAVAILABLE |
//! | a record that fails authentication, or a defect | INTERNAL |
//!
//! What the caller is not told is logged here, with its chain; nothing secret is in any of these errors.

use std::error::Error;

use tonic::Code;

use super::rpc_error::RpcError;
use crate::{
    attest::{ClusterError, NotEnrolling},
    audit::{AuditError, RefuseError},
    backup::RecordsError,
    causes::with_causes,
    identity::{
        AuthorityError, EnrollError, LateError, NameTaken, NobodyWaits, NotAdmitted,
        SecondEnrollment,
    },
    keys::{KeysError, SlotError},
    kms::KmsError,
    mutation::MutationError,
    policy::{GrantError, PolicyError},
    registry::AdoptError,
    release::sessions::SessionError,
    store::{ApplyError, LedgerError, StoreError},
    vault::VaultError,
};

fn logged(error: &dyn Error, told: RpcError) -> RpcError {
    tracing::error!(reason = told.reason(), error = %with_causes(error), "a call failed");
    told
}

impl From<NotAdmitted> for RpcError {
    fn from(error: NotAdmitted) -> Self {
        let reason = match error {
            NotAdmitted::Banned { .. } => "BANNED",
            NotAdmitted::Unknown { .. } => "UNKNOWN_IDENTITY",
            NotAdmitted::Copy { .. } => "COPIED_IDENTITY",
            NotAdmitted::BeforeRestore { .. } => "BEFORE_RESTORE",
            NotAdmitted::NodeGone { .. } => "NODE_GONE",
            NotAdmitted::Broker => "BROKER_CERTIFICATE",
            NotAdmitted::Superseded => "SUPERSEDED",
            NotAdmitted::SignInEnded { .. } => "SIGN_IN_ENDED",
            NotAdmitted::Unavailable => {
                return Self::unavailable("IDENTITY_UNAVAILABLE", error.to_string());
            }
        };
        Self::new(Code::Unauthenticated, reason, error.to_string())
    }
}

impl From<EnrollError> for RpcError {
    fn from(error: EnrollError) -> Self {
        match error {
            EnrollError::Malformed(e) => Self::invalid("token", e.to_string()),
            EnrollError::Token => Self::new(Code::Unauthenticated, "JOIN_TOKEN", error.to_string()),
            EnrollError::MalformedCode(e) => Self::invalid("code", e.to_string()),
            EnrollError::Code => {
                Self::new(Code::Unauthenticated, "OPERATOR_CODE", error.to_string())
            }
            EnrollError::CodeOfAnother { .. } => Self::invalid("name", error.to_string()),
            EnrollError::NameTaken(e) => e.into(),
            EnrollError::NotAdmitted(e) => e.into(),
            EnrollError::Identity(e) => Self::invalid("token", e.to_string()),
            EnrollError::Second(e) => e.into(),
            EnrollError::RecoversBanned { .. } => Self::new(
                Code::FailedPrecondition,
                "OPERATOR_BANNED",
                error.to_string(),
            ),
            EnrollError::OperatorExists => Self::new(
                Code::FailedPrecondition,
                "OPERATOR_EXISTS",
                error.to_string(),
            ),
            EnrollError::Late(e) => e.into(),
            EnrollError::Authority(e) => e.into(),
            EnrollError::Conflict => {
                Self::new(Code::Aborted, "CHANGED_MEANWHILE", error.to_string())
            }
            EnrollError::Store(e) => e.into(),
            EnrollError::Read(e) => e.into(),
            EnrollError::Audit(e) => e.into(),
            EnrollError::Random => {
                logged(&error, Self::internal("NO_RANDOMNESS", error.to_string()))
            }
        }
    }
}

impl From<NameTaken> for RpcError {
    fn from(error: NameTaken) -> Self {
        let (code, reason) = match error {
            NameTaken::SignedIn { .. } => (Code::AlreadyExists, "OPERATOR_SIGNED_IN"),
            NameTaken::Banned { .. } => (Code::FailedPrecondition, "OPERATOR_BANNED"),
        };
        Self::new(code, reason, error.to_string())
    }
}

impl From<NobodyWaits> for RpcError {
    fn from(error: NobodyWaits) -> Self {
        let reason = match error {
            NobodyWaits::NotRestored => "NOT_RESTORED",
            NobodyWaits::AllCame => "NOBODY_WAITS",
        };
        Self::new(Code::FailedPrecondition, reason, error.to_string())
    }
}

impl From<SecondEnrollment> for RpcError {
    fn from(error: SecondEnrollment) -> Self {
        let reason = match error {
            SecondEnrollment::Waiting { .. } => "ENROLLMENT_PENDING",
            SecondEnrollment::Rejected { .. } => "ENROLLMENT_REJECTED",
            SecondEnrollment::TooMany => {
                return Self::exhausted("TOO_MANY_APPROVALS", error.to_string());
            }
        };
        Self::new(Code::PermissionDenied, reason, error.to_string())
    }
}

impl From<LateError> for RpcError {
    fn from(error: LateError) -> Self {
        let reason = match error {
            LateError::Certificate(_) | LateError::NotANode(_) => {
                return Self::invalid("certificate", error.to_string());
            }
            // A clock is set right, and then the same proof is good: no reason to enroll anew.
            LateError::Clock { .. } => {
                return Self::new(Code::FailedPrecondition, "PROOF_CLOCK", error.to_string());
            }
            LateError::Over { .. } => "RENEWAL_OVER",
            LateError::Signature => "PROOF_SIGNATURE",
        };
        Self::new(Code::Unauthenticated, reason, error.to_string())
    }
}

impl From<AuthorityError> for RpcError {
    fn from(error: AuthorityError) -> Self {
        match &error {
            AuthorityError::Ca(_) | AuthorityError::Bundle(_) | AuthorityError::Unpaired => logged(
                &error,
                Self::internal("CA", "the broker's CA could not sign; see the broker's log"),
            ),
        }
    }
}

impl From<AuditError> for RpcError {
    fn from(error: AuditError) -> Self {
        match &error {
            AuditError::DiskFull { .. } => logged(
                &error,
                Self::unavailable(
                    "AUDIT_DISK_FULL",
                    "the audit log has no room, and nothing happens without it",
                ),
            ),
            AuditError::NotPrepared(_)
            | AuditError::Poisoned
            | AuditError::Closed
            | AuditError::Read { .. } => logged(
                &error,
                Self::unavailable(
                    "AUDIT_UNAVAILABLE",
                    "the audit log is not available, and nothing happens without it",
                ),
            ),
            AuditError::LeafTooLarge { .. } => {
                Self::invalid("request", "is too large to be put on record; ask for less")
            }
            AuditError::Leaf(_) | AuditError::Damaged { .. } => logged(
                &error,
                Self::internal(
                    "AUDIT",
                    "the audit log cannot be read or written; see the broker's log",
                ),
            ),
        }
    }
}

impl From<RefuseError> for RpcError {
    fn from(error: RefuseError) -> Self {
        match error {
            RefuseError::TooMany => Self::exhausted("TOO_MANY_REFUSALS", error.to_string()),
            RefuseError::Audit(e) => e.into(),
        }
    }
}

impl From<SessionError> for RpcError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::TooManyKeys => Self::exhausted("TOO_MANY_KEYS", error.to_string()),
            SessionError::PluginKey => {
                Self::invalid("plugin_key", "is no X25519 public key that can be used")
            }
            SessionError::Setup(_) => logged(
                &error,
                Self::internal("SESSION", "the session could not be set up"),
            ),
            SessionError::Stopping => Self::unavailable("STOPPING", error.to_string()),
        }
    }
}

impl From<StoreError> for RpcError {
    fn from(error: StoreError) -> Self {
        logged(
            &error,
            Self::unavailable(
                "STORE_UNAVAILABLE",
                "the store is not available; see the broker's log",
            ),
        )
    }
}

impl From<LedgerError> for RpcError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Damaged { .. } => {
                logged(&error, Self::internal("DAMAGED_RECORD", error.to_string()))
            }
            LedgerError::Store(e) => e.into(),
            LedgerError::Anchor(_) | LedgerError::Full => logged(
                &error,
                Self::internal(
                    "ANCHOR",
                    "the store cannot take the change; see the broker's log",
                ),
            ),
        }
    }
}

impl From<ApplyError> for RpcError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Conflict { .. } => {
                Self::new(Code::Aborted, "CHANGED_MEANWHILE", error.to_string())
            }
            ApplyError::Busy => Self::exhausted("STORE_BUSY", error.to_string()),
            ApplyError::Ambiguous { .. } => logged(
                &error,
                Self::internal("DEFECT", "the change is not well-formed"),
            ),
            ApplyError::Ledger(e) => e.into(),
            ApplyError::Closed => Self::unavailable("STORE_UNAVAILABLE", error.to_string()),
        }
    }
}

impl From<MutationError> for RpcError {
    fn from(error: MutationError) -> Self {
        match error {
            MutationError::RequestId => Self::invalid("mutation.request_id", error.to_string()),
            MutationError::TooOld => Self::new(
                Code::FailedPrecondition,
                "REQUEST_TOO_OLD",
                error.to_string(),
            ),
            MutationError::OtherDigest => Self::new(
                Code::FailedPrecondition,
                "REQUEST_REUSED",
                error.to_string(),
            ),
            MutationError::Conflict(e) | MutationError::NotCommitted(e) => e.into(),
            MutationError::Unknown(_) | MutationError::Outcome(_) => logged(
                &error,
                Self::unavailable("OUTCOME_UNKNOWN", error.to_string()),
            ),
            MutationError::BrokenOff(_) => {
                logged(&error, Self::unavailable("BROKEN_OFF", error.to_string()))
            }
            MutationError::Audit(e) => e.into(),
            MutationError::Ledger(e) => e.into(),
            MutationError::Record(_) => {
                logged(&error, Self::internal("REQUEST_RECORD", error.to_string()))
            }
            MutationError::Interrupted => {
                logged(&error, Self::unavailable("INTERRUPTED", error.to_string()))
            }
        }
    }
}

impl From<KeysError> for RpcError {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::Arena(e) => Self::exhausted("KEY_MEMORY", e.to_string()),
            KeysError::Envelope(_) | KeysError::NoKek { .. } => logged(
                &error,
                Self::internal("KEYS", "a key cannot be opened; see the broker's log"),
            ),
            KeysError::Ledger(e) => e.into(),
        }
    }
}

impl From<SlotError> for RpcError {
    fn from(error: SlotError) -> Self {
        let told = error.to_string();
        match error {
            SlotError::Absent { .. } => Self::new(Code::NotFound, "NO_SLOT", told),
            SlotError::NameTaken { .. } => Self::new(Code::AlreadyExists, "SLOT_NAME_TAKEN", told),
            SlotError::IdTaken => Self::new(Code::AlreadyExists, "SLOT_TAKEN", told),
            SlotError::Full { .. } => Self::new(Code::FailedPrecondition, "TOO_MANY_SLOTS", told),
            SlotError::Last { .. } => Self::new(Code::FailedPrecondition, "LAST_SLOT", told),
            SlotError::ReceiveKey => Self::new(Code::Aborted, "RECEIVE_KEY", told),
            SlotError::Sealed => Self::invalid("secret.sealed", told),
            SlotError::Weak(_) => Self::new(Code::FailedPrecondition, "WEAK_PASSPHRASE", told),
            SlotError::NoKms => Self::new(Code::FailedPrecondition, "NO_KMS", told),
            SlotError::Kms(KmsError::Away { .. }) => {
                logged(&error, Self::unavailable("KMS_AWAY", told))
            }
            SlotError::Kms(KmsError::Arena(e)) => Self::exhausted("KEY_MEMORY", e.to_string()),
            SlotError::Kms(_) => logged(
                &error,
                Self::new(Code::FailedPrecondition, "KMS_REFUSED", told),
            ),
            SlotError::Busy => Self::exhausted("SLOT_BUSY", told),
            SlotError::Stopping => Self::unavailable("STOPPING", told),
            SlotError::WrongSecret { .. } => {
                Self::new(Code::FailedPrecondition, "WRONG_SECRET", told)
            }
            SlotError::Keys(e) => e.into(),
            SlotError::Ledger(e) => e.into(),
        }
    }
}

impl From<RecordsError> for RpcError {
    fn from(error: RecordsError) -> Self {
        match error {
            RecordsError::Ledger(e) => e.into(),
            RecordsError::Record(_) => {
                logged(&error, Self::internal("BACKUP_RECORD", error.to_string()))
            }
        }
    }
}

impl From<VaultError> for RpcError {
    fn from(error: VaultError) -> Self {
        let told = error.to_string();
        match error {
            VaultError::NoKeyspace(_) => Self::new(Code::NotFound, "NO_KEYSPACE", told),
            VaultError::KeyspaceDestroyed(_) => {
                Self::new(Code::NotFound, "KEYSPACE_DESTROYED", told)
            }
            VaultError::KeyspaceTaken(_) => Self::new(Code::AlreadyExists, "KEYSPACE_TAKEN", told),
            VaultError::Absent { .. } => Self::new(Code::NotFound, "NO_SECRET", told),
            VaultError::HeadMoved { .. } => Self::new(Code::Aborted, "HEAD_MOVED", told),
            VaultError::OtherSecret { .. } => Self::new(Code::Aborted, "OTHER_SECRET", told),
            VaultError::ValueTaken { .. } => Self::new(Code::Aborted, "VALUE_TAKEN", told),
            VaultError::ReceiveKey => Self::new(Code::Aborted, "RECEIVE_KEY", told),
            VaultError::NotThere { .. } | VaultError::NotCarried { .. } => {
                Self::invalid("carried", told)
            }
            VaultError::TooLarge { .. } => Self::invalid("values", told),
            VaultError::Put(source) => Self::invalid("values", source.to_string()),
            VaultError::SealedKeys => Self::invalid("sealed_keys", told),
            VaultError::Ciphertext { .. } => Self::invalid("values.ct", told),
            VaultError::AlreadyActive { .. } => {
                Self::new(Code::FailedPrecondition, "ALREADY_ACTIVE", told)
            }
            VaultError::PinnedAlready { .. } => {
                Self::new(Code::FailedPrecondition, "PINNED_ALREADY", told)
            }
            VaultError::NotPinned { .. } => Self::new(Code::FailedPrecondition, "NOT_PINNED", told),
            VaultError::NoEarlierVersion { .. } => {
                Self::new(Code::FailedPrecondition, "NO_EARLIER_VERSION", told)
            }
            VaultError::DestroysActive { .. } => {
                Self::new(Code::FailedPrecondition, "VERSION_ACTIVE", told)
            }
            VaultError::DestroysPinned { .. } => {
                Self::new(Code::FailedPrecondition, "VERSION_PINNED", told)
            }
            VaultError::DestroysTooMuch { .. } => {
                Self::new(Code::FailedPrecondition, "TOO_MANY_VALUES", told)
            }
            VaultError::NoVersionLeft { .. } => {
                Self::new(Code::FailedPrecondition, "NO_VERSION_LEFT", told)
            }
            VaultError::KeyMoved { .. } => Self::new(Code::Aborted, "KEY_MOVED", told),
            VaultError::NoKey(_) => Self::new(Code::NotFound, "NO_KEY", told),
            VaultError::KeyNotRetired { .. } => {
                Self::new(Code::FailedPrecondition, "KEY_NOT_RETIRED", told)
            }
            VaultError::KeyReferenced { .. } => {
                Self::new(Code::FailedPrecondition, "KEY_REFERENCED", told)
            }
            VaultError::WithinBackupAge { .. } => {
                Self::new(Code::FailedPrecondition, "WITHIN_BACKUP_AGE", told)
            }
            VaultError::NoEpochLeft { .. } => {
                Self::new(Code::FailedPrecondition, "NO_EPOCH_LEFT", told)
            }
            VaultError::Keys(e) => e.into(),
            VaultError::Ledger(e) => e.into(),
            VaultError::Unsettled => Self::unavailable("UNSETTLED", told),
            VaultError::Stopping => Self::unavailable("STOPPING", told),
        }
    }
}

impl From<GrantError> for RpcError {
    fn from(error: GrantError) -> Self {
        let field = match error {
            GrantError::NoGroup { .. } => "to.cluster",
            GrantError::FieldTwice { .. } | GrantError::TooManyFields => "fields",
        };
        Self::invalid(field, error.to_string())
    }
}

impl From<PolicyError> for RpcError {
    fn from(error: PolicyError) -> Self {
        logged(
            &error,
            Self::internal(
                "POLICY",
                "the grant cannot be compiled; see the broker's log",
            ),
        )
    }
}

impl From<NotEnrolling> for RpcError {
    fn from(error: NotEnrolling) -> Self {
        let text = error.to_string();
        match error {
            NotEnrolling::Cluster => Self::new(Code::PermissionDenied, "NO_ENROLLMENT", text),
            NotEnrolling::Account(_) => Self::new(Code::PermissionDenied, "OTHER_ACCOUNT", text),
            NotEnrolling::Token(_) | NotEnrolling::NotTaken(_) => {
                Self::new(Code::Unauthenticated, "PLUGIN_NOT_PROVED", text)
            }
            NotEnrolling::Pod | NotEnrolling::Node => {
                Self::new(Code::PermissionDenied, "PLUGIN_NOT_THERE", text)
            }
            NotEnrolling::Away(source) => {
                tracing::warn!(error = %source, "an enrolling node's cluster cannot be read");
                Self::unavailable("CLUSTER_AWAY", text)
            }
        }
    }
}

impl From<AdoptError> for RpcError {
    fn from(error: AdoptError) -> Self {
        match error {
            AdoptError::Setting(e) => e.into(),
            AdoptError::Folder { problem: _ } => Self::invalid("cluster.folder", error.to_string()),
            AdoptError::Issuer { found: _ } => Self::invalid("cluster.issuer", error.to_string()),
            AdoptError::Api(_) | AdoptError::Rights { .. } => Self::new(
                Code::FailedPrecondition,
                "CLUSTER_NOT_USABLE",
                error.to_string(),
            ),
        }
    }
}

impl From<ClusterError> for RpcError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Text {
                field: field @ ("issuer" | "audience"),
            }
            | ClusterError::Path {
                field: field @ "folder",
            } => Self::invalid(format!("cluster.{field}"), error.to_string()),
            ClusterError::Text { field } | ClusterError::Path { field } => {
                Self::invalid(format!("cluster.kubernetes.{field}"), error.to_string())
            }
            ClusterError::Address(_) => {
                Self::invalid("cluster.kubernetes.api_server", error.to_string())
            }
            ClusterError::EnrollAccount => Self::invalid(
                "cluster.kubernetes.enroll_service_account",
                error.to_string(),
            ),
            ClusterError::EnrollAudience => {
                Self::invalid("cluster.kubernetes.enroll_audience", error.to_string())
            }
        }
    }
}
