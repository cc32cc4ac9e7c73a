//! The agent's folder: its key and certificate, and what it trusts. 0700, the agent's own, one process at a time.
//!
//! ```text
//! key.pem       the key of node.crt                     all of them 0600, written beside, synced and renamed
//! next-key.pem  the key of the next certificate, on disk before a broker hears of it
//! node.crt      the certificate, leaf first
//! bundle.pem    the CA certificates that a broker's must chain to
//! broker-id     the SPIFFE ID of the broker
//! unknown-key   SHA-256 of the SubjectPublicKeyInfo of a key that the broker does not know any more, where that was so
//! ```
//! Taking a new certificate into use: bundle.pem and broker-id, node.crt, then next-key.pem becomes key.pem. Killed
//! between the last two, node.crt belongs to next-key.pem, and the next start ends the step.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use attache_mtls::CertificateDer;
use attache_mtls::bundle::TrustBundle;
use attache_mtls::identity::SpkiSha256;
use attache_mtls::key::{KeyError, LeafKey};
use attache_mtls::pem;
use attache_mtls::private_file::{PrivateFileError, read_private, write_private};
use attache_mtls::spiffe::{BrokerId, NodeId, PeerId};
use attache_mtls::tls::{Material, MaterialError};
use attache_mtls::verify::Purpose;
use jiff::Timestamp;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::io::Errno;
use rustix::process::geteuid;
use thiserror::Error;
use zeroize::Zeroizing;

use super::issued::Issued;

const KEY: &str = "key.pem";
const NEXT_KEY: &str = "next-key.pem";
const CERTIFICATE: &str = "node.crt";
const BUNDLE: &str = "bundle.pem";
const BROKER_ID: &str = "broker-id";
const UNKNOWN_KEY: &str = "unknown-key";

/// How long an agent that is ending may keep the folder.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
const LOCK_LOOK: Duration = Duration::from_millis(50);

/// Why the folder cannot be used.
#[derive(Debug, Error)]
pub(super) enum StateError {
    /// It is not the agent's alone.
    #[error("{}: must be a folder of uid {expected} with mode 0700 (found uid {found}, mode {mode:04o})", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The agent's uid.
        expected: u32,
        /// Its owner.
        found: u32,
        /// Its mode.
        mode: u32,
    },
    /// Another agent has it.
    #[error("{}: another agent uses this folder", .0.display())]
    Taken(PathBuf),
    /// A file in it is not as it must be.
    #[error("a file of the state folder")]
    File(#[from] PrivateFileError),
    /// A key.
    #[error("a key of the state folder")]
    Key(#[from] KeyError),
    /// A certificate that was checked does not go with its key.
    #[error("the certificate and its key")]
    Material(#[from] MaterialError),
    /// A system call failed.
    #[error("{}: {call} failed", path.display())]
    Os {
        /// The path.
        path: PathBuf,
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// The folder, held by this process alone.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    /// Carries the lock.
    folder: File,
}

/// What is in the folder.
pub(super) enum Found {
    Usable(Joined),
    /// As usable, but the broker does not know its key: only a new identity helps.
    Unknown(BrokerId),
    Ended(Ended),
}

/// An identity that can be used.
pub(super) struct Joined {
    pub(super) material: Material,
    pub(super) broker: BrokerId,
}

/// An identity whose certificate has ended: good for a late renewal.
pub(super) struct Ended {
    pub(super) key: LeafKey,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) node: NodeId,
    pub(super) bundle: TrustBundle,
    pub(super) broker: BrokerId,
}

impl Found {
    pub(super) fn broker(&self) -> &BrokerId {
        match self {
            Self::Usable(joined) => &joined.broker,
            Self::Unknown(broker) => broker,
            Self::Ended(ended) => &ended.broker,
        }
    }

    pub(super) fn usable(self) -> Option<Joined> {
        match self {
            Self::Usable(joined) => Some(joined),
            Self::Unknown(_) | Self::Ended(_) => None,
        }
    }
}

impl StateDir {
    /// Takes the folder. Waits for an agent that is ending. Blocking.
    ///
    /// # Errors
    /// [`StateError::Folder`], [`StateError::Taken`], [`StateError::Os`].
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |call| {
            move |errno: Errno| StateError::Os {
                path: path.to_owned(),
                call,
                source: errno.into(),
            }
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = open(path, flags, Mode::empty()).map_err(failed("open"))?;
        let stat = fstat(&folder).map_err(failed("fstat"))?;
        let (expected, mode) = (geteuid().as_raw(), stat.st_mode & 0o7777);
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !is_folder || stat.st_uid != expected || mode & 0o077 != 0 {
            return Err(StateError::Folder {
                path: path.to_owned(),
                expected,
                found: stat.st_uid,
                mode,
            });
        }
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(LOCK_LOOK),
                Err(Errno::AGAIN) => return Err(StateError::Taken(path.to_owned())),
                Err(errno) => return Err(failed("flock")(errno)),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            folder: File::from(folder),
        })
    }

    /// The identity in the folder; none when there is none that works or worked. The log says why.
    ///
    /// # Errors
    /// [`StateError::File`] for a file that is there and must not be read as it is; [`StateError::Os`].
    pub(super) fn load(&self, now: Timestamp) -> Result<Option<Found>, StateError> {
        let (Some(chain), Some(bundle), Some(broker)) = (
            self.read(CERTIFICATE)?,
            self.read(BUNDLE)?,
            self.read(BROKER_ID)?,
        ) else {
            return Ok(None);
        };
        let unusable = |file: &str, why: &dyn std::fmt::Display| {
            tracing::warn!(file, %why, "the state folder holds no usable identity");
            Ok(None)
        };
        let bundle = match TrustBundle::from_pem(&bundle) {
            Ok(bundle) => bundle,
            Err(error) => return unusable(BUNDLE, &error),
        };
        let broker: BrokerId = match std::str::from_utf8(&broker)
            .unwrap_or_default()
            .trim_end()
            .parse()
        {
            Ok(broker) => broker,
            Err(error) => return unusable(BROKER_ID, &error),
        };
        let chain = match pem::certificates(&chain) {
            Ok(chain) => chain,
            Err(error) => return unusable(CERTIFICATE, &error),
        };
        let own = match bundle.verify_ended(&chain, Purpose::Client, now) {
            Ok(own) => own,
            Err(error) => return unusable(CERTIFICATE, &error),
        };
        for file in [KEY, NEXT_KEY] {
            let Some(pem) = self.read(file)? else {
                continue;
            };
            let key = match LeafKey::from_pem(&pem) {
                Ok(key) => key,
                Err(error) => return unusable(file, &error),
            };
            if key.spki_sha256() != own.spki_sha256() {
                continue;
            }
            if file == NEXT_KEY {
                self.promote()?;
            }
            if now.as_second() > own.not_after().as_second() {
                let PeerId::Node(node) = own.id().clone() else {
                    return unusable(CERTIFICATE, &"it is not a node's");
                };
                return Ok(Some(Found::Ended(Ended {
                    key,
                    certificate: own.certificate().clone(),
                    node,
                    bundle,
                    broker,
                })));
            }
            if self.is_unknown(own.spki_sha256())? {
                return Ok(Some(Found::Unknown(broker)));
            }
            return Ok(Some(Found::Usable(Joined {
                material: Material::new(chain, &key, Arc::new(bundle))?,
                broker,
            })));
        }
        unusable(KEY, &"the certificate's key is not there")
    }

    /// The next key, durably on disk: the one that is there, since a broker may have heard of it, or a new one.
    ///
    /// # Errors
    /// [`StateError::File`], [`StateError::Key`].
    pub(super) fn next_key(&self) -> Result<LeafKey, StateError> {
        if let Some(pem) = self.read(NEXT_KEY)?
            && let Ok(key) = LeafKey::from_pem(&pem)
        {
            return Ok(key);
        }
        let key = LeafKey::generate()?;
        key.write(&self.path.join(NEXT_KEY))?;
        Ok(key)
    }

    /// Makes an issued certificate, whose key is the next key, the identity.
    ///
    /// # Errors
    /// [`StateError`]; what was the identity before still is, or the new one is.
    pub(super) fn adopt(
        &self,
        issued: &Issued,
        broker: &BrokerId,
        key: &LeafKey,
    ) -> Result<Joined, StateError> {
        let material = Material::new(issued.chain.clone(), key, Arc::new(issued.bundle.clone()))?;
        self.write(BUNDLE, issued.bundle.to_pem().as_bytes())?;
        self.write(BROKER_ID, format!("{broker}\n").as_bytes())?;
        self.write(
            CERTIFICATE,
            pem::encode_certificates(&issued.chain).as_bytes(),
        )?;
        self.promote()?;
        Ok(Joined {
            material,
            broker: broker.clone(),
        })
    }

    /// Takes note, durably, that the broker does not know this key. Another key is not touched by it.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub(super) fn note_unknown(&self, key: SpkiSha256) -> Result<(), StateError> {
        self.write(UNKNOWN_KEY, format!("{key}\n").as_bytes())
    }

    fn is_unknown(&self, key: SpkiSha256) -> Result<bool, StateError> {
        let noted = self.read(UNKNOWN_KEY)?;
        let text = format!("{key}\n");
        Ok(noted.is_some_and(|noted| *noted == text.as_bytes()))
    }

    /// The next key becomes the key.
    fn promote(&self) -> Result<(), StateError> {
        let to = self.path.join(KEY);
        let failed = |call| {
            move |source| StateError::Os {
                path: to,
                call,
                source,
            }
        };
        std::fs::rename(self.path.join(NEXT_KEY), self.path.join(KEY))
            .map_err(failed.clone()("rename"))?;
        self.folder.sync_all().map_err(failed("fsync"))
    }

    fn read(&self, file: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        match read_private(&self.path.join(file)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(PrivateFileError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write(&self, file: &str, bytes: &[u8]) -> Result<(), StateError> {
        Ok(write_private(&self.path.join(file), bytes)?)
    }
}

#[cfg(test)]
mod tests;
