//! Generations: which file set a volume holds, and which of two is newer.
//!
//! ```text
//! digest = SHA-256(LP([(path, mode, owner, value)] by path))
//! folder = "..<seq hex>-<first 16 hex of digest>"
//! ```
//!
//! `seq` orders within an incarnation of the store; `digest` tells equal.

use std::fmt;

use crate::error::EnvelopeError;
use crate::id::ValueId;
use crate::kdf;
use crate::lp::Lp;

/// Who owns the files of a volume: `uid:gid`, and `-` for no group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The container's user.
    pub uid: u32,
    /// Its group, if it has one of its own.
    pub gid: Option<u32>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gid {
            Some(gid) => write!(f, "{}:{gid}", self.uid),
            None => write!(f, "{}:-", self.uid),
        }
    }
}

/// One file of a set.
#[derive(Debug, Clone, Copy)]
pub struct GenerationFile<'a> {
    /// Relative to the mount, canonical.
    pub path: &'a str,
    /// Permission bits alone, such as 0o400.
    pub mode: u32,
    /// Its owner.
    pub owner: Owner,
    /// The value that it holds.
    pub value: ValueId,
}

/// SHA-256 over a file set: two volumes with the same digest hold the same values in the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GenerationDigest([u8; 32]);

impl GenerationDigest {
    /// Digests a file set, in whatever order it is given.
    ///
    /// # Errors
    /// [`EnvelopeError::Rule`] when two files have one path.
    pub fn of(files: &[GenerationFile<'_>]) -> Result<Self, EnvelopeError> {
        let mut files: Vec<_> = files.iter().collect();
        files.sort_unstable_by_key(|file| file.path);
        if files
            .windows(2)
            .any(|pair| matches!(pair, [a, b] if a.path == b.path))
        {
            return Err(EnvelopeError::Rule("two files of a volume have one path"));
        }
        let input = Lp::new().list(files.iter().map(|file| {
            Lp::new()
                .str(file.path)
                .u32(file.mode)
                .str(&file.owner.to_string())
                .id(file.value)
        }));
        Ok(Self(kdf::sha256(input.as_bytes())))
    }

    /// Takes a stored digest.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What a volume holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation {
    /// The store's incarnation; a new one starts the order over.
    pub incarnation: u32,
    /// The commit that the set was read at.
    pub seq: u64,
    /// The set.
    pub digest: GenerationDigest,
}

impl Generation {
    /// The folder of this generation in its mount.
    #[must_use]
    pub fn folder(&self) -> String {
        use fmt::Write as _;
        let mut name = format!("..{:x}-", self.seq);
        for byte in self.digest.0.iter().take(8) {
            // Writing to a String does not fail.
            let _ = write!(name, "{byte:02x}");
        }
        name
    }
}

#[cfg(test)]
mod tests;
