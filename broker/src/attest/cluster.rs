//! The clusters that this broker knows: each its issuer, its audience, and where its records are.
//!
//! The rows are the store's; this is what the release path looks at. A change of one cluster leaves the others, with
//! what they keep in memory, as they are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use attache_envelope::name::{ClusterName, Namespace, ServiceAccount};
use jiff::Timestamp;
use thiserror::Error;

use super::facts::{FolderFacts, KubernetesFacts, PodFacts};
use super::jwks::KeySet;
use super::recent::Recent;
use super::token::{self, Expected, PodIdentity, PodToken, TokenError};
use crate::kubernetes::{AddressError, ApiAddress, Client};
use crate::metrics::ApiMetrics;

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
        /// `issuer`, `audience` or `enroll_audience`.
        field: &'static str,
    },
    /// A path that depends on where the broker was started, or that no file system has.
    #[error(
        "{field} must be an absolute path on the broker's machine, of at most {MAX_PATH_BYTES} bytes"
    )]
    Path {
        /// `folder` or `credentials`.
        field: &'static str,
    },
    /// No address of an API server.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Not a service account's name.
    #[error(
        "enroll_service_account must be NAMESPACE/NAME: the service account that the node plugin's pods run as"
    )]
    EnrollAccount,
    /// A pod's token for secrets would enroll a node.
    #[error(
        "enroll_audience must be another one than audience: the two tokens are not for the same"
    )]
    EnrollAudience,
}

/// A token that was to enroll a node is of another service account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the token is of another service account than the one that enrolls nodes of that cluster")]
pub struct OtherAccount;

/// What is configured of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSpec {
    name: ClusterName,
    issuer: Box<str>,
    audience: Box<str>,
    source: Source,
}

/// Where a cluster's records are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a folder.
    Folder(PathBuf),
    /// At its API server.
    Kubernetes(KubernetesSource),
}

/// A cluster's API server, and who of the cluster may enroll nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesSource {
    /// Where it is.
    pub address: ApiAddress,
    /// The folder with `ca.crt` and `token`.
    pub credentials: PathBuf,
    /// The service account whose pods enroll the nodes that they run on; without one only join tokens do.
    pub enroll_account: Option<(Namespace, ServiceAccount)>,
    /// The `aud` of the tokens that they show for it.
    pub enroll_audience: Box<str>,
}

/// The settings of a cluster with an API server, as they were written.
#[derive(Debug, Clone, Copy)]
pub struct KubernetesSettings<'a> {
    /// `https://HOST:PORT`; empty for the cluster around the broker.
    pub api_server: &'a str,
    /// The folder with `ca.crt` and `token`.
    pub credentials: &'a Path,
    /// `NAMESPACE/NAME`; empty for none.
    pub enroll_account: &'a str,
    /// The `aud` of its tokens.
    pub enroll_audience: &'a str,
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
        check_path("folder", folder)?;
        Self::new(name, issuer, audience, Source::Folder(folder.into()))
    }

    /// A cluster whose records are at its API server.
    ///
    /// # Errors
    /// [`ClusterError`], naming the setting.
    pub fn in_kubernetes(
        name: ClusterName,
        issuer: &str,
        audience: &str,
        settings: KubernetesSettings<'_>,
    ) -> Result<Self, ClusterError> {
        check_path("credentials", settings.credentials)?;
        check_text("enroll_audience", settings.enroll_audience)?;
        if settings.enroll_audience == audience {
            return Err(ClusterError::EnrollAudience);
        }
        let enroll_account = match settings.enroll_account {
            "" => None,
            account => Some(enroll_account(account).ok_or(ClusterError::EnrollAccount)?),
        };
        let source = KubernetesSource {
            address: match settings.api_server {
                "" => ApiAddress::InCluster,
                address => address.parse()?,
            },
            credentials: settings.credentials.into(),
            enroll_account,
            enroll_audience: settings.enroll_audience.into(),
        };
        Self::new(name, issuer, audience, Source::Kubernetes(source))
    }

    fn new(
        name: ClusterName,
        issuer: &str,
        audience: &str,
        source: Source,
    ) -> Result<Self, ClusterError> {
        check_text("issuer", issuer)?;
        check_text("audience", audience)?;
        Ok(Self {
            name,
            issuer: issuer.into(),
            audience: audience.into(),
            source,
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
    pub fn source(&self) -> &Source {
        &self.source
    }
}

fn check_text(field: &'static str, text: &str) -> Result<(), ClusterError> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > MAX_TEXT_BYTES || !printable {
        return Err(ClusterError::Text { field });
    }
    Ok(())
}

fn check_path(field: &'static str, path: &Path) -> Result<(), ClusterError> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if !path.is_absolute() || bytes.len() > MAX_PATH_BYTES || bytes.contains(&0) {
        return Err(ClusterError::Path { field });
    }
    Ok(())
}

fn enroll_account(text: &str) -> Option<(Namespace, ServiceAccount)> {
    let (namespace, name) = text.split_once('/')?;
    Some((namespace.parse().ok()?, name.parse().ok()?))
}

/// A cluster at work.
pub struct Cluster {
    spec: ClusterSpec,
    facts: Box<dyn PodFacts>,
    api: Option<Client>,
    enrollment: Option<Enrollment>,
    verified: Mutex<Recent<[u8; 32], Verified>>,
}

/// How a cluster's nodes enroll by themselves.
pub struct Enrollment {
    account: (Namespace, ServiceAccount),
    audience: Box<str>,
    facts: KubernetesFacts,
}

/// A token that was verified lately, and under which keys.
#[derive(Clone)]
struct Verified {
    identity: Arc<PodIdentity>,
    at: Timestamp,
    keys: Arc<KeySet>,
}

impl Cluster {
    fn new(spec: ClusterSpec, metrics: &ApiMetrics) -> Self {
        let (mut api, mut enrollment) = (None, None);
        let facts: Box<dyn PodFacts> = match &spec.source {
            Source::Folder(folder) => Box::new(FolderFacts::new(folder)),
            Source::Kubernetes(source) => {
                let client = source.client(metrics);
                api = Some(client.clone());
                enrollment = source.enrollment(&client, metrics);
                Box::new(KubernetesFacts::new(
                    client,
                    &spec.audience,
                    metrics.clone(),
                ))
            }
        };
        Self {
            spec,
            facts,
            api,
            enrollment,
            verified: Mutex::new(Recent::new(VERIFIED_KEPT)),
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

    /// Its API server, if it has one.
    #[must_use]
    pub fn api(&self) -> Option<&Client> {
        self.api.as_ref()
    }

    /// How its nodes enroll by themselves, if they may.
    #[must_use]
    pub fn enrollment(&self) -> Option<&Enrollment> {
        self.enrollment.as_ref()
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
        let kept = || self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept().find(token.hash());
        if let Some(known) = known.filter(|known| known.holds(keys, now)) {
            if !known.identity.is_live(now) {
                return Err(TokenError::Expired);
            }
            return Ok(known.identity);
        }
        let (issuer, audience) = (self.spec.issuer(), self.spec.audience());
        let identity = token::verify(token, keys, Expected { issuer, audience }, now)?;
        let verified = Verified {
            identity: Arc::clone(&identity),
            at: now,
            keys: Arc::clone(keys),
        };
        kept().keep(*token.hash(), verified);
        Ok(identity)
    }
}

impl KubernetesSource {
    /// A client of this API server.
    #[must_use]
    pub fn client(&self, metrics: &ApiMetrics) -> Client {
        Client::new(&self.address, self.credentials.clone(), metrics.clone())
    }

    fn enrollment(&self, client: &Client, metrics: &ApiMetrics) -> Option<Enrollment> {
        let account = self.enroll_account.clone()?;
        let audience = self.enroll_audience.clone();
        Some(Enrollment {
            account,
            facts: KubernetesFacts::new(client.clone(), &audience, metrics.clone()),
            audience,
        })
    }
}

impl Enrollment {
    /// The service account whose pods enroll the nodes that they run on.
    #[must_use]
    pub fn account(&self) -> &(Namespace, ServiceAccount) {
        &self.account
    }

    /// Whether a token is of that account.
    ///
    /// # Errors
    /// [`OtherAccount`].
    pub(super) fn check_account(&self, token: &PodIdentity) -> Result<(), OtherAccount> {
        let (namespace, name) = &self.account;
        if token.namespace == *namespace && token.service_account == *name {
            return Ok(());
        }
        Err(OtherAccount)
    }

    /// What the cluster says of tokens of the enrollment audience.
    pub(super) fn facts(&self) -> &KubernetesFacts {
        &self.facts
    }

    /// What a token of `issuer` says.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(super) fn verify(
        &self,
        issuer: &str,
        token: &PodToken,
        keys: &Arc<KeySet>,
        now: Timestamp,
    ) -> Result<Arc<PodIdentity>, TokenError> {
        let audience = &self.audience;
        token::verify(token, keys, Expected { issuer, audience }, now)
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
    metrics: ApiMetrics,
}

impl ClusterRegistry {
    /// A registry of none, whose clusters are measured together.
    #[must_use]
    pub fn new(metrics: ApiMetrics) -> Self {
        Self {
            clusters: ArcSwap::default(),
            metrics,
        }
    }

    /// Takes these clusters in place of those before; one that has not changed keeps what it has in memory.
    pub fn replace(&self, specs: impl IntoIterator<Item = ClusterSpec>) {
        let before = self.clusters.load();
        let clusters = specs.into_iter().map(|spec| {
            let name = spec.name.to_string();
            let same = before.get(&name).filter(|cluster| cluster.spec == spec);
            let cluster =
                same.map_or_else(|| Arc::new(Cluster::new(spec, &self.metrics)), Arc::clone);
            (name, cluster)
        });
        self.clusters.store(Arc::new(clusters.collect()));
    }

    /// The cluster of that name.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        self.clusters.load().get(name).cloned()
    }

    /// All of them, as they are now.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Cluster>> {
        self.clusters.load().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
