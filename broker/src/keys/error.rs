//! Why keys could not be made, opened or used. Never holds a byte of one.

use attache_arena::ArenaError;
use attache_envelope::EnvelopeError;
use attache_envelope::id::SlotId;
use attache_envelope::name::{Keyspace, SlotName};
use attache_envelope::slot::KeyFileError;
use attache_envelope::slot::passphrase::WeakPassphrase;
use attache_mtls::private_file::PrivateFileError;
use thiserror::Error;

use crate::kms::KmsError;
use crate::store::{LedgerError, StoreError};

/// A key that could not be had, wrapped or unwrapped.
#[derive(Debug, Error)]
pub enum KeysError {
    /// No locked memory left.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// A construction failed: a record that does not authenticate, or no randomness.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The keyspace has no such key-encryption key.
    #[error("keyspace {keyspace} has no such key-encryption key, or it may not be used any more")]
    NoKek {
        /// The keyspace.
        keyspace: Keyspace,
    },
    /// The row of the key could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Why init could not make keys.
#[derive(Debug, Error)]
pub enum CreateError {
    /// The slot file could not be made.
    #[error(
        "the slot file {path} cannot be made: its folder must be there, and no file of that name in it"
    )]
    SlotFile {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The slot file that is there cannot be read, or is none.
    #[error(transparent)]
    Given(#[from] UnlockError),
    /// Memory, randomness or a construction.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// Why a store's keys did not open.
#[derive(Debug, Error)]
pub enum UnlockError {
    /// The slot file cannot be read, or is open to others.
    #[error("the slot file cannot be used")]
    SlotFile(#[from] PrivateFileError),
    /// The slot file holds something else.
    #[error("{path} is no slot file")]
    SlotFileShape {
        /// Its path.
        path: String,
        /// What is wrong with it.
        source: KeyFileError,
    },
    /// No slot of the store opens with this file.
    #[error(
        "the slot file {path} does not open this store: it is of another store, or the store's slots were tampered with"
    )]
    WrongSlotFile {
        /// Its path.
        path: String,
    },
    /// The passphrase's file cannot be read, or is open to others.
    #[error("the passphrase's file cannot be used")]
    PassphraseFile {
        /// Why.
        source: PrivateFileError,
    },
    /// No slot of the store opens with this passphrase.
    #[error(
        "the passphrase in {path} does not open this store: it is another one, or the store's slots were tampered with"
    )]
    WrongPassphrase {
        /// The path of its file.
        path: String,
    },
    /// The store has no slot for it.
    #[error("the store has no passphrase slot, so that the passphrase in {path} opens nothing")]
    NoPassphraseSlot {
        /// The path of its file.
        path: String,
    },
    /// The KMS plugin does not decrypt the secret of any slot.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// The store has no slot for it.
    #[error("the store has no slot that the KMS plugin at {socket} opens")]
    NoKmsSlot {
        /// The plugin's socket.
        socket: String,
    },
    /// A secret that was given does not open the slot that it was given for.
    #[error("this is not what opens that slot")]
    WrongSecret,
    /// Several ways were tried.
    #[error(
        "nothing that the settings name opens this store, which has these slots: {there} ({tried})"
    )]
    NoneOpens {
        /// Each way, and why it did not open.
        tried: String,
        /// The slots that there are.
        there: String,
    },
    /// No way was named.
    #[error("the settings name nothing that could open the store")]
    NoOpener,
    /// The keyring under the opened slot is not by the store's own keys.
    #[error(
        "the keyring of the store is not the one that this slot belongs to: the store file was tampered with, or mixed from two"
    )]
    Keyring,
    /// A record is there in a shape that cannot be read.
    #[error("the {record} record of the store cannot be read")]
    Record {
        /// Which.
        record: &'static str,
        /// Why.
        source: EnvelopeError,
    },
    /// A record is missing.
    #[error("the store has no {record}: its init was cut short, or the file was tampered with")]
    Missing {
        /// Which.
        record: &'static str,
    },
    /// The engine.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No locked memory left.
    #[error(transparent)]
    Arena(#[from] ArenaError),
}

impl UnlockError {
    /// Whether nothing is wrong with the store, as far as is known, and it only lacks what opens it: a broker can wait for
    /// that, sealed.
    #[must_use]
    pub const fn lacks_an_opener(&self) -> bool {
        match self {
            Self::SlotFile(_)
            | Self::SlotFileShape { .. }
            | Self::WrongSlotFile { .. }
            | Self::PassphraseFile { .. }
            | Self::WrongPassphrase { .. }
            | Self::NoPassphraseSlot { .. }
            | Self::Kms(_)
            | Self::NoKmsSlot { .. }
            | Self::WrongSecret
            | Self::NoneOpens { .. }
            | Self::NoOpener => true,
            Self::Keyring
            | Self::Record { .. }
            | Self::Missing { .. }
            | Self::Store(_)
            | Self::Arena(_) => false,
        }
    }
}

/// Why a slot was not made, shown to open, or taken away.
#[derive(Debug, Error)]
pub enum SlotError {
    /// It is not there.
    #[error("there is no slot {slot}; see those there are with: attache slot list")]
    Absent {
        /// Its uuid.
        slot: SlotId,
    },
    /// The name is another's.
    #[error("there is a slot {name} already: choose another name")]
    NameTaken {
        /// The name.
        name: SlotName,
    },
    /// The uuid is another's.
    #[error("there is a slot of this uuid already: draw a new one")]
    IdTaken,
    /// There are as many as there can be.
    #[error("the store has {most} slots, and no more can be: remove one first")]
    Full {
        /// How many.
        most: usize,
    },
    /// Nothing would open the store any more.
    #[error("{name} is the last slot, and without one the store is lost: add another one first")]
    Last {
        /// Its name.
        name: SlotName,
    },
    /// What is sent is sealed to a key that is not offered any more, or of another run of the broker.
    #[error("the receive key is not this broker's, or has been replaced: begin again")]
    ReceiveKey,
    /// The sealed secret does not open for this request.
    #[error("does not open: it is for another request, slot, broker or operator")]
    Sealed,
    /// A passphrase is too weak for a new slot.
    #[error(transparent)]
    Weak(#[from] WeakPassphrase),
    /// Another passphrase is being worked on, which takes memory.
    #[error("another passphrase is being tried; try again in a moment")]
    Busy,
    /// The process is stopping.
    #[error("the broker is stopping")]
    Stopping,
    /// The KMS plugin did not encrypt or decrypt.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// There is no KMS plugin.
    #[error("the broker's settings name no KMS plugin: set keys.kms_socket and restart it")]
    NoKms,
    /// The secret is another's.
    #[error("this is not what opens the slot {name}")]
    WrongSecret {
        /// The slot's name.
        name: SlotName,
    },
    /// Memory, randomness or a construction.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A row of the slots or of the keyring.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<ArenaError> for SlotError {
    fn from(error: ArenaError) -> Self {
        Self::Keys(error.into())
    }
}

impl From<EnvelopeError> for SlotError {
    fn from(error: EnvelopeError) -> Self {
        Self::Keys(error.into())
    }
}
