//! What callers ask the ledger to write, and what they read from it.
//!
//! A [`Change`] is one all-or-nothing step of one caller; the ledger puts many of them into one commit. It must
//! never hold a key or a plaintext: bodies are stored as given.

use attache_envelope::id::ValueId;
use attache_envelope::{EnvelopeError, Table};
use bytes::Bytes;

use super::engine::StoreError;
use super::rows::ReadRow;

/// Rows and payloads to write together, if the conditions hold.
///
/// Within one change a key is written once. An empty change is a durable no-op that still gets a sequence.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// All must hold, or nothing is written and the answer is [`ApplyError::Conflict`].
    pub conditions: Vec<Condition>,
    /// Rows to write.
    pub puts: Vec<Put>,
    /// Ciphertexts to write. Their value-key rows hold their hashes.
    pub payloads: Vec<(ValueId, Bytes)>,
    /// Values whose ciphertexts are removed; their value-key rows go in the same change.
    pub dropped_payloads: Vec<ValueId>,
    /// Keys of rows of the KEK index to remove. Where they name a value, the conditions must say that its key row does not have
    /// them: those that it has come and go with it.
    pub unindexed: Vec<Vec<u8>>,
    /// Rows to remove; absent ones are no error.
    pub deletes: Vec<(Table, Vec<u8>)>,
    /// Rows that get another tag, under the active key, and stay what they are, with the sequence of the commit that
    /// wrote them: whoever has read one has read the same. Absent ones are no error.
    pub reseals: Vec<(Table, Vec<u8>)>,
}

/// A row to write; the ledger adds sequence and tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The table.
    pub table: Table,
    /// The key.
    pub key: Bytes,
    /// The body.
    pub body: Bytes,
}

/// What must be so at the instant of the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There is no such row.
    Absent(Table, Vec<u8>),
    /// The row is there and was last written by the commit of this number.
    AtSeq(Table, Vec<u8>, u64),
    /// The row is there and was last written by the commit that wrote this one. What was found out about it when it was
    /// read is not found out again while it is the same to the byte.
    AsRead(ReadRow),
}

/// A row that was read and whose tag was right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The commit that wrote it.
    pub seq: u64,
    /// The body.
    pub body: Bytes,
}

/// Where an applied change stands. It is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The commit's number.
    pub seq: u64,
    /// The anchor of that commit.
    pub anchor_t: [u8; 32],
}

impl Change {
    /// Adds a row to write.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, body: impl Into<Vec<u8>>) {
        self.puts.push(Put {
            table,
            key: key.into().into(),
            body: body.into().into(),
        });
    }

    /// Requires that there is no such row.
    pub fn require_absent(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.conditions.push(Condition::Absent(table, key.into()));
    }

    /// Requires that the row is still the one that was read.
    pub fn require_at(&mut self, table: Table, key: impl Into<Vec<u8>>, seq: u64) {
        self.conditions
            .push(Condition::AtSeq(table, key.into(), seq));
    }

    /// Requires that the row is still the one that was read, and spares the commit to verify it again.
    pub(crate) fn require_as_read(&mut self, row: ReadRow) {
        self.conditions.push(Condition::AsRead(row));
    }

    /// Adds everything of `other`: conditions, rows, payloads and removals of both.
    pub fn merge(&mut self, other: Self) {
        self.conditions.extend(other.conditions);
        self.puts.extend(other.puts);
        self.payloads.extend(other.payloads);
        self.dropped_payloads.extend(other.dropped_payloads);
        self.unindexed.extend(other.unindexed);
        self.deletes.extend(other.deletes);
        self.reseals.extend(other.reseals);
    }
}

impl Condition {
    /// Which row it is about.
    #[must_use]
    pub fn row(&self) -> (Table, &[u8]) {
        match self {
            Self::Absent(table, key) | Self::AtSeq(table, key, _) => (*table, key),
            Self::AsRead(row) => row.name(),
        }
    }

    /// The row as it was read, where that is known.
    pub(crate) fn read(&self) -> Option<&ReadRow> {
        match self {
            Self::AsRead(row) => Some(row),
            Self::Absent(..) | Self::AtSeq(..) => None,
        }
    }
}

/// Why a row or payload could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// The record fails authentication; it is served to nobody. `check-store` names it too.
    #[error(
        "a record of table {table} fails authentication (key {key}); attache-broker check-store names all of them"
    )]
    Damaged {
        /// The table.
        table: Table,
        /// The key, in hex when it is no text.
        key: String,
    },
    /// The engine could not read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The anchor could not be made: no randomness, or a table is full.
    #[error("the anchor cannot be made")]
    Anchor(#[from] EnvelopeError),
    /// The sequence is at its end.
    #[error("the store's sequence is at its end")]
    Full,
}

/// Why a change was not applied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApplyError {
    /// A condition does not hold: the caller read something older. Nothing was written.
    #[error("the {table} row {key} has changed or is there already; read it again")]
    Conflict {
        /// The table.
        table: Table,
        /// The key, in hex when it is no text.
        key: String,
    },
    /// More changes are waiting than the queue holds; nothing was written.
    #[error("too many changes are waiting for the store; try again")]
    Busy,
    /// A row is written twice in one change, or is none of a table of rows: a bug of the caller.
    #[error("the change writes the {table} row {key} twice, or as no row")]
    Ambiguous {
        /// The table.
        table: Table,
        /// The key, in hex when it is no text.
        key: String,
    },
    /// A row that the change stands on fails authentication.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger is closed; whether the change was written is not known, and its request row tells after a restart.
    #[error("the store is closing")]
    Closed,
}

/// A key as it is shown: text when it is printable ASCII, else hex.
#[must_use]
pub(crate) fn shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) => {
            text.to_owned()
        }
        Ok(_) | Err(_) => hex::encode(key),
    }
}
