//! A set of files in one digest, contents aside.

use sha2::{Digest, Sha256};

use super::seal::NewFile;

/// The digest of a set of files as they lie in a volume, contents aside: what the agent notes in `.attache.json`
/// and compares with [`VolumeStat::file_set`](super::VolumeStat) after a restart.
///
/// SHA-256 over, for each file by ascending path, `u16 length of the path || path || u16 mode || u32 owner ||
/// u32 group || u64 size`, big-endian.
#[derive(Default)]
pub struct FileSet {
    hash: Sha256,
    files: u32,
    bytes: u64,
}

impl FileSet {
    /// The set of `files`, in any order.
    #[must_use]
    pub fn of(files: &[NewFile<'_>]) -> Self {
        let mut files = files.to_vec();
        files.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        let mut set = Self::default();
        for file in files {
            set.add(
                file.path.as_bytes(),
                file.mode,
                (file.uid, file.gid.unwrap_or(0)),
                file.value.len() as u64,
            );
        }
        set
    }

    /// Adds the next file in the order of paths.
    pub(crate) fn add(&mut self, path: &[u8], mode: u16, (uid, gid): (u32, u32), size: u64) {
        self.hash
            .update(u16::try_from(path.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.hash.update(path);
        self.hash.update(mode.to_be_bytes());
        self.hash.update(uid.to_be_bytes());
        self.hash.update(gid.to_be_bytes());
        self.hash.update(size.to_be_bytes());
        self.files += 1;
        self.bytes += size;
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    /// How many files.
    #[must_use]
    pub fn files(&self) -> u32 {
        self.files
    }

    /// How many bytes in all of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
