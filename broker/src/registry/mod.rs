//! Clusters, grants and guard rails: their rows, and what is made of them for attestation and policy.
//!
//! ```text
//! rows -> view (for listings) -> ClusterRegistry (attestation), PolicySet (policy)
//! ```
//! The rows are the truth; the view follows each commit, one change at a time. It must never be changed before the commit
//! is durable, and never decides anything itself.

mod adopt;
mod rows;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use attache_envelope::{EnvelopeError, name::ClusterName};

pub use adopt::{AdoptError, adopt};
pub use rows::{ClusterRecord, ClusterSource, ENROLL_AUDIENCE, KubernetesRecord};

use crate::{
    attest::{ClusterError, ClusterRegistry, ClusterSpec},
    metrics::ApiMetrics,
    policy::{GrantRecord, GuardrailRecord, PolicyError, PolicySet},
    store::{Ledger, LedgerError, Store, Table},
};

/// Rows of one table by name, with their sequences.
pub type Records<T> = BTreeMap<String, (u64, T)>;

/// Everything that is registered, by name.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Clusters.
    pub clusters: Records<ClusterRecord>,
    /// Grants.
    pub grants: Records<GrantRecord>,
    /// Guard rails.
    pub guardrails: Records<GuardrailRecord>,
}

/// Why the registry could not be loaded or changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A row could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A row is authentic and not decodable: written by another version.
    #[error("the row {key} of table {table} cannot be decoded")]
    Row {
        /// The table.
        table: &'static str,
        /// The key.
        key: String,
        /// Why.
        #[source]
        source: EnvelopeError,
    },
    /// A cluster cannot be served.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Grants or guard rails do not compile.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// The registry of a broker.
pub struct Registry {
    view: ArcSwap<View>,
    policies: Arc<ArcSwap<PolicySet>>,
    clusters: Arc<ClusterRegistry>,
    /// One change at a time.
    changing: Mutex<()>,
}

impl Registry {
    /// Reads every row; a broker that does not understand one of them serves nothing.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn load<S: Store>(
        ledger: &Ledger<S>,
        metrics: &ApiMetrics,
    ) -> Result<Self, RegistryError> {
        let view = View {
            clusters: whole(ledger, Table::Cluster, |name, body| {
                name.parse::<ClusterName>()
                    .map_err(|_| EnvelopeError::Rule("a cluster's key is no cluster's name"))?;
                ClusterRecord::decode(body)
            })
            .await?,
            grants: whole(ledger, Table::Grant, GrantRecord::decode).await?,
            guardrails: whole(ledger, Table::Policy, GuardrailRecord::decode).await?,
        };
        let policies = PolicySet::new(
            view.guardrails
                .values()
                .map(|(_, r)| r.spec.clone())
                .collect(),
            view.grants.values().map(|(_, g)| g.spec.clone()),
        )?;
        let clusters = Arc::new(ClusterRegistry::new(metrics.clone()));
        clusters.replace(specs(&view)?);
        Ok(Self {
            view: ArcSwap::from_pointee(view),
            policies: Arc::new(ArcSwap::from_pointee(policies)),
            clusters,
            changing: Mutex::new(()),
        })
    }

    /// What is registered at this moment.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// What decides.
    #[must_use]
    pub fn policies(&self) -> &Arc<ArcSwap<PolicySet>> {
        &self.policies
    }

    /// What attests.
    #[must_use]
    pub fn clusters(&self) -> &Arc<ClusterRegistry> {
        &self.clusters
    }

    /// Takes up a grant that was committed.
    ///
    /// # Errors
    /// [`RegistryError::Policy`] when it does not compile, which is checked before the commit.
    pub fn grant_added(&self, seq: u64, grant: GrantRecord) -> Result<(), RegistryError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let policies = self.policies.load().with_grant(grant.spec.clone())?;
        let mut view = View::clone(&self.view.load());
        view.grants
            .insert(grant.spec.name().to_string(), (seq, grant));
        self.policies.store(policies.into());
        self.view.store(view.into());
        Ok(())
    }

    /// Forgets a grant whose removal was committed.
    pub fn grant_removed(&self, name: &str) {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut view = View::clone(&self.view.load());
        if let Some((_, grant)) = view.grants.remove(name) {
            let policies = self.policies.load().without_grant(&grant.spec);
            self.policies.store(policies.into());
            self.view.store(view.into());
        }
    }

    /// Takes up a cluster that was committed, or forgets one.
    ///
    /// # Errors
    /// [`RegistryError::Cluster`] when it cannot be served, which is checked before the commit.
    pub fn cluster_changed(
        &self,
        name: &str,
        record: Option<(u64, ClusterRecord)>,
    ) -> Result<(), RegistryError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut view = View::clone(&self.view.load());
        match record {
            Some(record) => drop(view.clusters.insert(name.to_owned(), record)),
            None => drop(view.clusters.remove(name)),
        }
        self.clusters.replace(specs(&view)?);
        self.view.store(view.into());
        Ok(())
    }
}

/// A cluster as attestation wants it.
///
/// # Errors
/// [`ClusterError`], naming the setting.
pub fn cluster_spec(
    name: ClusterName,
    record: &ClusterRecord,
) -> Result<ClusterSpec, ClusterError> {
    let (issuer, audience) = (&record.issuer, &record.audience);
    match &record.source {
        ClusterSource::Folder(folder) => ClusterSpec::in_folder(name, issuer, audience, folder),
        ClusterSource::Kubernetes(source) => {
            ClusterSpec::in_kubernetes(name, issuer, audience, source.settings())
        }
    }
}

fn specs(view: &View) -> Result<Vec<ClusterSpec>, ClusterError> {
    let parsed = view
        .clusters
        .iter()
        .filter_map(|(name, (_, record))| Some((name.parse().ok()?, record)));
    parsed
        .map(|(name, record)| cluster_spec(name, record))
        .collect()
}

async fn whole<S: Store, T>(
    ledger: &Ledger<S>,
    table: Table,
    decode: impl Fn(&str, &[u8]) -> Result<T, EnvelopeError>,
) -> Result<Records<T>, RegistryError> {
    let rows = ledger.whole(table).await?.into_iter();
    rows.map(|(key, row)| {
        let key = String::from_utf8_lossy(&key).into_owned();
        match decode(&key, &row.body) {
            Ok(record) => Ok((key, (row.seq, record))),
            Err(source) => Err(RegistryError::Row {
                table: table.name(),
                key,
                source,
            }),
        }
    })
    .collect()
}
