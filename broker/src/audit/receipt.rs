//! The proof that a leaf is durable.

use attache_translog::Hash;

/// Says that a leaf, and the signed checkpoint over it, are on the disk.
///
/// Only the log's writer makes one, after the sync: a function that takes a receipt cannot run before the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "what the receipt is for has not been let go yet"]
pub struct AuditReceipt {
    index: u64,
    size: u64,
    leaf_hash: Hash,
}

impl AuditReceipt {
    /// For the writer, once the batch is synced.
    pub(super) fn durable(index: u64, size: u64, leaf_hash: Hash) -> Self {
        Self {
            index,
            size,
            leaf_hash,
        }
    }

    /// The leaf's place in the chain.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The size of the checkpoint that covers it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// `SHA-256(0x00 || body)`.
    #[must_use]
    pub fn leaf_hash(&self) -> &Hash {
        &self.leaf_hash
    }
}
