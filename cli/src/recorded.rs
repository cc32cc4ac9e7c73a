//! The key that a context's broker was seen with: a sealed broker whose certificate has ended is known by it.
//!
//! Kept beside the context's certificate (`default.broker-key`), SHA-256 of the SubjectPublicKeyInfo in hexadecimal. It is
//! noted whenever the broker proved itself under the trust bundle with another key than before, and used for nothing but
//! health and unseal. It is no secret.

use std::path::PathBuf;

use attache_mtls::identity::SpkiSha256;
use attache_mtls::private_file::write_private;
use attache_mtls::public_file::read_public;

use crate::renewal::Files;

/// 64 digits and a newline.
const FILE_LIMIT_BYTES: u64 = 65;

/// Where a context keeps its broker's key.
#[derive(Debug, Clone)]
pub struct Recorded(PathBuf);

impl Recorded {
    /// That of a context.
    #[must_use]
    pub fn of(files: &Files) -> Self {
        Self(files.certificate.with_extension("broker-key"))
    }

    /// The key, where one was noted.
    #[must_use]
    pub fn read(&self) -> Option<SpkiSha256> {
        let text = read_public(&self.0, FILE_LIMIT_BYTES).ok()?;
        str::from_utf8(&text).ok()?.trim_end().parse().ok()
    }

    /// Notes the key of a broker that has proved itself. What cannot be written is noted the next time.
    pub fn note(&self, seen: SpkiSha256) {
        if self.read() != Some(seen) {
            let _ = write_private(&self.0, format!("{seen}\n").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_noted_once_and_again_when_it_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("default.broker-key");
        let recorded = Recorded(file.clone());
        assert_eq!(recorded.read(), None);
        let first = SpkiSha256::from_bytes([1; 32]);
        let second = SpkiSha256::from_bytes([2; 32]);
        recorded.note(first);
        assert_eq!(recorded.read(), Some(first));
        recorded.note(second);
        assert_eq!(recorded.read(), Some(second));
        for bad in ["", "not a key\n", &format!("{first}{first}")] {
            std::fs::write(&file, bad).unwrap();
            assert_eq!(recorded.read(), None, "{bad:?}");
        }
    }
}
