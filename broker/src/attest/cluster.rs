//! The clusters that this broker knows: each its issuer, its audience, and where its records are.
//!
//! The rows are the store's; this is what the release path looks at. A change of one cluster leaves the others, with
//! what they keep in memory, as they are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use attache_envelope::name::ClusterName;
use jiff::Timestamp;
use ring::digest;
use thiserror::Error;

use super::facts::{FolderFacts, PodFacts};
use super::jwks::KeySet;
use super::recent::Recent;
use super::token::{self, Expected, PodIdentity, PodToken, TokenError};

/// The most bytes of an issuer and of an audience.
const MAX_TEXT_BYTES: usize = 512;
/// The most bytes of a path (Linux: PATH_MAX, with its closing NUL).
pub const MAX_PATH_BYTES: usize = 4095;
/// For how long a verified token is believed without another verification.
const VERIFIED_FOR_S: i64 = 10;
/// How many verified tokens of a cluster are kept at least.
const VERIFIED_KEPT: usize = 4096;

/// A setting of a cluster that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ClusterError {
    /// Missing, too long, or with characters that no such text has.
    #[error(
        "{field} must be 1 to {MAX_TEXT_BYTES} printable ASCII characters without blanks: copy it from the cluster"
    )]
    Text {
        /// `issuer` or `audience`.
        field: &'static str,
    },
    /// A path that depends on where the broker was started, or that no file system has.
    #[error(
        "folder must be an absolute path on the broker's machine, of at most {MAX_PATH_BYTES} bytes"
    )]
    Folder,
}

/// What is configured of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSpec {
    name: ClusterName,
    issuer: Box<str>,
    audience: Box<str>,
    folder: PathBuf,
}

impl ClusterSpec {
    /// A cluster whose records are in a folder.
    ///
    /// # Errors
    /// [`ClusterError`], naming the setting.
    pub fn in_folder(
        name: ClusterName,
        issuer: &str,
        audience: &str,
        folder: &Path,
    ) -> Result<Self, ClusterError> {
        for (field, text) in [("issuer", issuer), ("audience", audience)] {
            let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
            if text.is_empty() || text.len() > MAX_TEXT_BYTES || !printable {
                return Err(ClusterError::Text { field });
            }
        }
        let path = folder.as_os_str().as_encoded_bytes();
        if !folder.is_absolute() || path.len() > MAX_PATH_BYTES || path.contains(&0) {
            return Err(ClusterError::Folder);
        }
        let (issuer, audience) = (issuer.into(), audience.into());
        Ok(Self {
            name,
            issuer,
            audience,
            folder: folder.into(),
        })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The `iss` of its tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The `aud` of its tokens.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// Where its records are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// A cluster at work.
pub struct Cluster {
    spec: ClusterSpec,
    facts: Box<dyn PodFacts>,
    verified: Mutex<Recent<[u8; 32], Verified>>,
}

/// A token that was verified lately, and under which keys.
#[derive(Clone)]
struct Verified {
    identity: Arc<PodIdentity>,
    at: Timestamp,
    keys: Arc<KeySet>,
}

impl Cluster {
    fn new(spec: ClusterSpec) -> Self {
        let facts: Box<dyn PodFacts> = Box::new(FolderFacts::new(&spec.folder));
        let verified = Mutex::new(Recent::new(VERIFIED_KEPT));
        Self {
            spec,
            facts,
            verified,
        }
    }

    /// What is configured.
    #[must_use]
    pub fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    /// Its record of pods and nodes.
    #[must_use]
    pub fn facts(&self) -> &dyn PodFacts {
        &*self.facts
    }

    /// Verifies a token under `keys`, or finds it verified under these very keys within the last ten seconds.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(super) fn verify(
        &self,
        token: &PodToken,
        keys: &Arc<KeySet>,
        now: Timestamp,
    ) -> Result<Arc<PodIdentity>, TokenError> {
        let hash = digest::digest(&digest::SHA256, token.expose().as_bytes());
        let key: Option<[u8; 32]> = hash.as_ref().try_into().ok();
        let kept = || self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let known = key.and_then(|key| kept().find(&key));
        if let Some(known) = known.filter(|known| known.holds(keys, now)) {
            if !known.identity.is_live(now) {
                return Err(TokenError::Expired);
            }
            return Ok(known.identity);
        }
        let (issuer, audience) = (self.spec.issuer(), self.spec.audience());
        let identity = token::verify(token, keys, Expected { issuer, audience }, now)?;
        if let Some(key) = key {
            let (identity, keys) = (Arc::clone(&identity), Arc::clone(keys));
            kept().keep(
                key,
                Verified {
                    identity,
                    at: now,
                    keys,
                },
            );
        }
        Ok(identity)
    }
}

impl Verified {
    /// A clock that was set back ends it too.
    fn holds(&self, keys: &Arc<KeySet>, now: Timestamp) -> bool {
        let age = now.duration_since(self.at).as_secs();
        Arc::ptr_eq(&self.keys, keys) && (0..VERIFIED_FOR_S).contains(&age) && now >= self.at
    }
}

/// All clusters, by name.
#[derive(Default)]
pub struct ClusterRegistry {
    clusters: ArcSwap<HashMap<String, Arc<Cluster>>>,
}

impl ClusterRegistry {
    /// A registry of none.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes these clusters in place of those before; one that has not changed keeps what it has in memory.
    pub fn replace(&self, specs: impl IntoIterator<Item = ClusterSpec>) {
        let before = self.clusters.load();
        let clusters = specs.into_iter().map(|spec| {
            let name = spec.name.to_string();
            let same = before.get(&name).filter(|cluster| cluster.spec == spec);
            let cluster = same.map_or_else(|| Arc::new(Cluster::new(spec)), Arc::clone);
            (name, cluster)
        });
        self.clusters.store(Arc::new(clusters.collect()));
    }

    /// The cluster of that name.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        self.clusters.load().get(name).cloned()
    }
}

#[cfg(test)]
mod tests;
