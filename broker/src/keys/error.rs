//! Why keys could not be made, opened or used. Never holds a byte of one.

use attache_arena::ArenaError;
use attache_envelope::EnvelopeError;
use attache_envelope::name::Keyspace;
use attache_envelope::slot::KeyFileError;
use attache_mtls::private_file::PrivateFileError;
use thiserror::Error;

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
