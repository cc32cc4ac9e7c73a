//! What can go wrong with a secret: one variant for each thing that a caller can do about it.

use std::fmt;

use attache_arena::ArenaError;
use attache_envelope::EnvelopeError;
use attache_envelope::body::KekPhase;
use attache_envelope::name::{FieldName, KeyRef, Keyspace, SecretPath, SecretVersion};
use jiff::Timestamp;
use thiserror::Error;

use super::destroy_secret::MAX_DESTROYED_VALUES;
use crate::keys::KeysError;
use crate::store::LedgerError;

/// Why a secret could not be read or changed. Never holds a byte of a value or key.
#[derive(Debug, Error)]
pub enum VaultError {
    /// The keyspace does not exist.
    #[error("there is no keyspace {0}: create it with attache keyspace create")]
    NoKeyspace(Keyspace),
    /// The keyspace is destroyed.
    #[error(
        "the keyspace {0} is destroyed, and its name is not given again: create one of another name"
    )]
    KeyspaceDestroyed(Keyspace),
    /// The keyspace exists, or existed.
    #[error("the keyspace {0} exists already, or its name is taken by a destroyed one")]
    KeyspaceTaken(Keyspace),
    /// Not there to be shown or changed.
    #[error("{path}: {absence}")]
    Absent {
        /// Which secret.
        path: SecretPath,
        /// What is not there.
        absence: Absence,
    },
    /// Another put or rollback was first.
    #[error("{path} stands at version {found}, not {expected}: begin again")]
    HeadMoved {
        /// Which secret.
        path: SecretPath,
        /// What the caller saw; 0 for none.
        expected: u64,
        /// What is active now; 0 for none.
        found: u64,
    },
    /// The uuid sent is not that of this name.
    #[error("the secret id is not that of {path}: begin again")]
    OtherSecret {
        /// Which secret.
        path: SecretPath,
    },
    /// A value uuid is in use.
    #[error("the value id of field {field} is in use: draw a new one")]
    ValueTaken {
        /// Which field.
        field: FieldName,
    },
    /// A field to carry is not in the active version.
    #[error("field {field} cannot be carried over: the active version has no such field")]
    NotThere {
        /// Which field.
        field: FieldName,
    },
    /// A field of the active version is neither sent nor carried, and the put does not replace.
    #[error(
        "field {field} of the active version is neither put nor carried: carry it, or replace the whole secret"
    )]
    NotCarried {
        /// Which field.
        field: FieldName,
    },
    /// The put is over its limit.
    #[error(
        "the version would hold {found_bytes} bytes, the most is {limit_bytes}, carried fields included"
    )]
    TooLarge {
        /// What it would hold.
        found_bytes: usize,
        /// The most.
        limit_bytes: usize,
    },
    /// A rule that every put keeps to.
    #[error("the put is refused")]
    Put(#[source] EnvelopeError),
    /// The keys are sealed to a receive key that is not offered any more, or of another run of the broker.
    #[error("the receive key is not this broker's, or has been replaced: begin again")]
    ReceiveKey,
    /// The sealed keys do not open for this put.
    #[error("the sealed keys do not open: they are for another put, broker or operator")]
    SealedKeys,
    /// A ciphertext is not by its key, for these names.
    #[error(
        "the ciphertext of field {field} is not by its key, or for another secret, value or field"
    )]
    Ciphertext {
        /// Which field.
        field: FieldName,
    },
    /// The version to go to is the active one.
    #[error("{path} is at version {version} already")]
    AlreadyActive {
        /// Which secret.
        path: SecretPath,
        /// The version.
        version: SecretVersion,
    },
    /// The version to pin is pinned.
    #[error("version {version} of {path} is pinned already")]
    PinnedAlready {
        /// Which secret.
        path: SecretPath,
        /// The version.
        version: SecretVersion,
    },
    /// The version to unpin is not pinned.
    #[error("version {version} of {path} is not pinned")]
    NotPinned {
        /// Which secret.
        path: SecretPath,
        /// The version.
        version: SecretVersion,
    },
    /// There is no version before the active one.
    #[error("{path} has no version before the active one")]
    NoEarlierVersion {
        /// Which secret.
        path: SecretPath,
    },
    /// What is released would be gone.
    #[error(
        "version {version} of {path} is the active one: put or roll back to another one first, or destroy {path} as a whole"
    )]
    DestroysActive {
        /// Which secret.
        path: SecretPath,
        /// The version.
        version: SecretVersion,
    },
    /// Somebody wants it kept.
    #[error(
        "version {version} of {path} is pinned: unpin it first, with attache secret unpin {path}@{version}, or destroy \
         {path} as a whole"
    )]
    DestroysPinned {
        /// Which secret.
        path: SecretPath,
        /// The version.
        version: SecretVersion,
    },
    /// More than one commit takes.
    #[error(
        "{path} has {values} values, and {MAX_DESTROYED_VALUES} are destroyed at once at most: destroy versions of it first"
    )]
    DestroysTooMuch {
        /// Which secret.
        path: SecretPath,
        /// How many values would go.
        values: usize,
    },
    /// Version numbers are used up.
    #[error("{path} has no version number left")]
    NoVersionLeft {
        /// Which secret.
        path: SecretPath,
    },
    /// Another rotation was first.
    #[error(
        "{keyspace} stands at key {keyspace}@{found}, not {keyspace}@{expected}: somebody else rotated it; see attache \
         key status {keyspace}"
    )]
    KeyMoved {
        /// Whose key.
        keyspace: Keyspace,
        /// The epoch that the caller saw.
        expected: u32,
        /// The epoch now.
        found: u32,
    },
    /// The keyspace has, or had, no such key.
    #[error("there is no key {0}: see attache key list {keyspace}", keyspace = .0.keyspace)]
    NoKey(KeyRef),
    /// Only what nothing refers to may be destroyed.
    #[error("{key} is {phase}, and only a retired key is destroyed: {}", mend(key, *phase))]
    KeyNotRetired {
        /// Which key.
        key: KeyRef,
        /// How far it is.
        phase: KekPhase,
    },
    /// A retired key that something refers to all the same.
    #[error(
        "{key} still wraps {count} values, by the values themselves, and nothing was destroyed: {}; attache-broker \
         check-store tells more",
        named.join(", ")
    )]
    KeyReferenced {
        /// Which key.
        key: KeyRef,
        /// How many values name it.
        count: u64,
        /// Some of them.
        named: Vec<String>,
    },
    /// A retired key that backups which are still kept may have.
    #[error(
        "{key} was retired less than the backup age of its keyspace ago, and backups that have it may still be kept: it may \
         be destroyed from {from} on, or at once with attache key destroy {key} --now"
    )]
    WithinBackupAge {
        /// Which key.
        key: KeyRef,
        /// From when on it may go.
        from: Timestamp,
    },
    /// Epochs are used up.
    #[error("{keyspace} has no key epoch left")]
    NoEpochLeft {
        /// Whose.
        keyspace: Keyspace,
    },
    /// A key could not be had.
    #[error(transparent)]
    Keys(KeysError),
    /// A record is damaged, or the store could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What looks damaged was changed whenever it was read.
    #[error("what is asked for was changed by others each time it was read: try again")]
    Unsettled,
    /// The work was cut short because the process is stopping.
    #[error("the broker is stopping")]
    Stopping,
}

/// What of a secret is not there to be released. To a pod's author all of these read the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// No secret of that name.
    Secret,
    /// No such version.
    Version(SecretVersion),
    /// No such field in the version.
    Field(FieldName),
    /// Every version is staged or destroyed.
    NoActiveVersion,
    /// An operator has disabled it.
    Disabled,
    /// Its values are gone.
    Destroyed,
    /// The keys of all of its keyspace are gone.
    Keyspace,
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret => f.write_str("there is no such secret"),
            Self::Version(version) => write!(f, "there is no version {version}"),
            Self::Field(field) => write!(f, "there is no field {field}"),
            Self::NoActiveVersion => f.write_str("no version is active"),
            Self::Disabled => f.write_str("it is disabled"),
            Self::Destroyed => f.write_str("it is destroyed"),
            Self::Keyspace => f.write_str("its keyspace is destroyed"),
        }
    }
}

/// What brings a key to its retirement.
fn mend(key: &KeyRef, phase: KekPhase) -> String {
    let keyspace = &key.keyspace;
    match phase {
        KekPhase::Active => format!("rotate it first, with attache key rotate {keyspace}"),
        KekPhase::DecryptOnly => format!(
            "its values are being wrapped again, wait with attache key status {keyspace} --wait"
        ),
        KekPhase::Retired | KekPhase::Destroyed => "nothing is left to be done".to_owned(),
    }
}

impl From<ArenaError> for VaultError {
    fn from(error: ArenaError) -> Self {
        KeysError::from(error).into()
    }
}

impl From<KeysError> for VaultError {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::Ledger(error) => Self::Ledger(error),
            KeysError::Arena(_) | KeysError::Envelope(_) | KeysError::NoKek { .. } => {
                Self::Keys(error)
            }
        }
    }
}
