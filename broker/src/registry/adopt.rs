//! What is looked at before a cluster is added: a record that is not there, or cannot be read as the broker needs it, would
//! refuse every pod of its cluster; most likely it is not the one meant.

use std::path::Path;

use attache_envelope::name::ClusterName;
use thiserror::Error;

use super::{ClusterRecord, ClusterSource, cluster_spec};
use crate::attest::{ClusterError, Quoted, Source};
use crate::kubernetes::{ApiError, Operation};
use crate::metrics::ApiMetrics;

/// Why a cluster is not added.
#[derive(Debug, Error)]
pub enum AdoptError {
    /// A setting cannot be.
    #[error(transparent)]
    Setting(#[from] ClusterError),
    /// The folder cannot be read, or is none.
    #[error("{problem}; give the folder with nodes/, pods/ and jwks.json on the broker's machine")]
    Folder {
        /// What is wrong.
        problem: String,
    },
    /// The API server has no answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The broker's account may do too little.
    #[error(
        "the broker's account there may not {}; bind it to a ClusterRole with these rules",
        .missing.iter().map(|operation| operation.rule()).collect::<Vec<_>>().join(", nor ")
    )]
    Rights {
        /// What it needs and may not do.
        missing: Vec<Operation>,
    },
    /// The cluster's tokens say something else.
    #[error("is not what the cluster says of itself; its issuer is {found}")]
    Issuer {
        /// What it says.
        found: Quoted,
    },
}

/// The record, if its source is there; of an API server the issuer is learned when it was not given.
///
/// # Errors
/// [`AdoptError`], the first that is found.
pub async fn adopt(
    name: &ClusterName,
    mut record: ClusterRecord,
    metrics: &ApiMetrics,
) -> Result<ClusterRecord, AdoptError> {
    let given = !record.issuer.is_empty();
    if !given && matches!(record.source, ClusterSource::Kubernetes(_)) {
        // Until the server says.
        record.issuer = "unknown".to_owned();
    }
    let spec = cluster_spec(name.clone(), &record)?;
    let source = match spec.source() {
        Source::Folder(folder) => return folder_is_there(folder).await.map(|()| record),
        Source::Kubernetes(source) => source,
    };
    let found = source.client(metrics).probe().await?;
    if !found.missing.is_empty() {
        let missing = found.missing;
        return Err(AdoptError::Rights { missing });
    }
    if given && record.issuer != found.issuer {
        let found = Quoted::new(&found.issuer);
        return Err(AdoptError::Issuer { found });
    }
    record.issuer = found.issuer;
    cluster_spec(name.clone(), &record)?;
    Ok(record)
}

async fn folder_is_there(folder: &Path) -> Result<(), AdoptError> {
    let problem = match tokio::fs::metadata(folder).await {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => "is not a folder".to_owned(),
        Err(error) => format!("cannot be read by the broker ({error})"),
    };
    Err(AdoptError::Folder { problem })
}
