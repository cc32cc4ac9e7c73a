//! A grant: which fields of a secret one class of workloads may read.

use attache_envelope::name::{ClusterRef, FieldName, GrantName, SecretPath, WorkloadRef};
use thiserror::Error;

/// The most fields that a grant names: a version has no more.
pub(super) const MAX_GRANT_FIELDS: usize = 64;

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantSpec {
    name: GrantName,
    secret: SecretPath,
    fields: Vec<FieldName>,
    to: WorkloadRef,
}

/// Why a grant cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GrantError {
    /// There are no groups of clusters yet.
    #[error(
        "to: the cluster group {group} does not exist (groups are not available yet); name one cluster"
    )]
    NoGroup {
        /// As it was written, with its @.
        group: String,
    },
    /// A field stands there twice.
    #[error("fields: {field} stands there twice; remove one")]
    FieldTwice {
        /// Which.
        field: FieldName,
    },
    /// More fields than a secret has.
    #[error("fields: at most {MAX_GRANT_FIELDS}; leave them out to grant all")]
    TooManyFields,
}

impl GrantSpec {
    /// A grant of `fields` of `secret`, or of all of them when none is named.
    ///
    /// # Errors
    /// [`GrantError`], naming the field and the mend.
    pub fn new(
        name: GrantName,
        secret: SecretPath,
        mut fields: Vec<FieldName>,
        to: WorkloadRef,
    ) -> Result<Self, GrantError> {
        if let ClusterRef::Group(_) = &to.cluster {
            return Err(GrantError::NoGroup {
                group: to.cluster.to_string(),
            });
        }
        if fields.len() > MAX_GRANT_FIELDS {
            return Err(GrantError::TooManyFields);
        }
        fields.sort();
        if let Some([field, _]) = fields.array_windows().find(|[a, b]| a == b) {
            return Err(GrantError::FieldTwice {
                field: field.clone(),
            });
        }
        Ok(Self {
            name,
            secret,
            fields,
            to,
        })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &GrantName {
        &self.name
    }

    /// Which secret.
    #[must_use]
    pub fn secret(&self) -> &SecretPath {
        &self.secret
    }

    /// Which fields, sorted; empty for all.
    #[must_use]
    pub fn fields(&self) -> &[FieldName] {
        &self.fields
    }

    /// To whom.
    #[must_use]
    pub fn to(&self) -> &WorkloadRef {
        &self.to
    }
}
