//! What the broker shows an API server, and by what it knows it: `token` and `ca.crt` in one folder.
//!
//! A pod's projected folder has both, and kubelet replaces the token long before it ends. They are read again when the
//! last reading is older than [`REREAD`], and at once when the server does not take the token. The token is never printed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use attache_mtls::public_file::read_public;
use attache_mtls::{CertificateDer, pem};
use hyper::header::HeaderValue;
use thiserror::Error;
use zeroize::Zeroizing;

/// The folder that every pod with a service account has.
pub const CREDENTIALS_IN_POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// For how long what was read is used.
pub(super) const REREAD: Duration = Duration::from_secs(10);
/// The most bytes of a token, and of a bundle of CA certificates.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;
const MAX_CA_BYTES: u64 = 256 * 1024;

/// Why there are none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {problem}", path.display())]
pub struct CredentialsError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
}

/// What was read.
pub(super) struct Credentials {
    /// `Authorization`; marked sensitive, so that it prints as such.
    pub(super) bearer: HeaderValue,
    pub(super) ca: Vec<CertificateDer<'static>>,
}

impl Credentials {
    /// Reads the folder's files. It blocks.
    ///
    /// # Errors
    /// [`CredentialsError`], naming the file.
    pub(super) fn read(folder: &Path) -> Result<Self, CredentialsError> {
        let token_file = folder.join("token");
        let token = read_bounded(&token_file, MAX_TOKEN_BYTES)?;
        let token = token.trim_ascii();
        let fault = |problem: &str| CredentialsError {
            path: token_file.clone(),
            problem: problem.to_owned(),
        };
        if token.is_empty() {
            return Err(fault("is empty; it must hold a service account's token"));
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(fault(
                "is no token: it must be one line of printable ASCII without blanks",
            ));
        }
        let header = Zeroizing::new([b"Bearer ", token].concat());
        let mut bearer =
            HeaderValue::from_bytes(&header).map_err(|_| fault("makes no Authorization header"))?;
        bearer.set_sensitive(true);
        let ca_file = folder.join("ca.crt");
        let ca = pem::certificates(&read_bounded(&ca_file, MAX_CA_BYTES)?).map_err(|error| {
            CredentialsError {
                path: ca_file,
                problem: error.to_string(),
            }
        })?;
        Ok(Self { bearer, ca })
    }
}

fn read_bounded(path: &Path, limit_bytes: u64) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    // Links are followed: kubelet swaps a projected folder's contents by one.
    let read = read_public(path, limit_bytes).map(Zeroizing::new);
    read.map_err(|error| CredentialsError {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}
