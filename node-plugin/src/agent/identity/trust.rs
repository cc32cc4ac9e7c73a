//! The trust bundle that somebody else keeps: the file of a projected volume, followed when it changes.
//!
//! It says which CA the broker's certificate must chain to, before the first word is said to a broker and in place of
//! what brokers answer. While it is not there, nobody is spoken to for the first time.

use std::io;
use std::path::{Path, PathBuf};

use crate::telemetry::chain;
use attache_mtls::bundle::{BundleError, TrustBundle};
use attache_mtls::public_file::read_public;
use thiserror::Error;

/// The most bytes of a bundle: 32 certificates.
const MAX_BUNDLE_BYTES: u64 = 256 * 1024;

/// Why there is no bundle.
#[derive(Debug, Error)]
pub(super) enum TrustError {
    /// Nobody has published it yet.
    #[error(
        "{}: the trust bundle is not there yet (broker.trust_bundle_file); the broker publishes it as the ClusterTrustBundle attache.dev:broker:bundle, or as the ConfigMap attache-bundle in its own namespace", .0.display()
    )]
    Absent(PathBuf),
    /// It cannot be read.
    #[error("{}: the trust bundle cannot be read (broker.trust_bundle_file)", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is none.
    #[error("{}: is no trust bundle (broker.trust_bundle_file)", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: BundleError,
    },
}

/// A bundle that is followed. What is wrong with its file is said once, and what was in force before stays.
pub(super) struct Followed {
    file: PathBuf,
    complaint: Option<String>,
}

impl Followed {
    /// Follows this file.
    pub(super) fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            complaint: None,
        }
    }

    /// The bundle in the file, when it is another than the one in use. Blocking.
    pub(super) fn newer(&mut self, used: &TrustBundle) -> Option<TrustBundle> {
        match read(&self.file) {
            Ok(bundle) => {
                self.complaint = None;
                (bundle != *used).then_some(bundle)
            }
            Err(error) => {
                let said = Some(error.to_string());
                if said != self.complaint {
                    let error = chain(&error);
                    tracing::warn!(%error, "the trust bundle stays as it was");
                    self.complaint = said;
                }
                None
            }
        }
    }
}

/// Reads the file: a small local one.
///
/// # Errors
/// [`TrustError`]; an empty file is an absent one, which is how a projected volume shows an object that is not there.
pub(super) fn read(path: &Path) -> Result<TrustBundle, TrustError> {
    let bytes = match read_public(path, MAX_BUNDLE_BYTES) {
        Ok(bytes) => bytes,
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            return Err(TrustError::Absent(path.to_owned()));
        }
        Err(source) => {
            return Err(TrustError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    if bytes.trim_ascii().is_empty() {
        return Err(TrustError::Absent(path.to_owned()));
    }
    TrustBundle::from_pem(&bytes).map_err(|source| TrustError::Bundle {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use attache_mtls::ca::{CA_VALIDITY, CertificateAuthority};

    use super::*;

    #[test]
    fn a_bundle_that_is_not_there_yet_is_told_from_one_that_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trust-bundle.pem");
        let says = |object: &str| {
            let error = read(&path).unwrap_err();
            assert!(matches!(error, TrustError::Absent(_)), "{error}");
            assert!(error.to_string().contains(object), "{error}");
        };
        says("ClusterTrustBundle attache.dev:broker:bundle");
        std::fs::write(&path, b"\n").unwrap();
        says("ConfigMap attache-bundle");
        std::fs::write(&path, b"no certificate").unwrap();
        assert!(matches!(read(&path), Err(TrustError::Bundle { .. })));
        let ca = |seed| {
            let domain = "example.org".parse().unwrap();
            let now = jiff::Timestamp::now();
            CertificateAuthority::create(&[seed; 32], &domain, "CA", CA_VALIDITY, now).unwrap()
        };
        let bundle = |seed| TrustBundle::from_der(vec![ca(seed).certificate().clone()]).unwrap();
        let (old, new) = (bundle(1), bundle(2));
        let mut followed = Followed::new(&path);
        assert_eq!(followed.newer(&old), None, "what is wrong changes nothing");
        std::fs::write(&path, new.to_pem()).unwrap();
        assert_eq!(followed.newer(&old), Some(new.clone()));
        assert_eq!(followed.newer(&new), None);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(read(&path), Err(TrustError::Read { .. })));
    }
}
