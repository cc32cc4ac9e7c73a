//! The rows of clusters, grants and guard rails: typed, strictly decoded.
//!
//! ```text
//! cluster = record || issuer, audience, source ("folder"), folder, created u64, by        under the cluster's name
//! grant   = record || secret, [field] ascending, to, created u64, by                      under the grant's name
//! policy  = record || demands ("non-root" | "unprivileged"), created u64, by              under the guard rail's name
//! ```
//! `record` is format and suite; times are milliseconds since 1970; `secret` is KEYSPACE/NAME and `to` is
//! CLUSTER/NAMESPACE/SERVICEACCOUNT/CONTAINER, as people write them.

use std::{collections::BTreeSet, path::PathBuf};

use attache_envelope::{
    EnvelopeError, MAX_FIELDS,
    lp::{Fault, Lp, Malformed},
    name::{FieldName, SecretPath, WorkloadRef},
};
use jiff::Timestamp;

use crate::identity::{ms, read, text, time};

/// A cluster whose pods may be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterRecord {
    /// The `iss` of its pods' tokens.
    pub issuer: String,
    /// The `aud` that they must carry.
    pub audience: String,
    /// Where its record of nodes and pods is.
    pub source: ClusterSource,
    /// When it was added.
    pub created: Timestamp,
    /// By whom.
    pub by: String,
}

/// Where a cluster's own record is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterSource {
    /// A folder on the broker's machine.
    Folder(PathBuf),
}

/// A grant, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRecord {
    /// Of which secret.
    pub secret: SecretPath,
    /// Of which fields; empty: of all.
    pub fields: BTreeSet<FieldName>,
    /// To whom.
    pub to: WorkloadRef,
    /// When it was made.
    pub created: Timestamp,
    /// By whom.
    pub by: String,
}

/// What a guard rail demands of every workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Demand {
    /// The container does not run as root.
    NonRoot,
    /// The container has no privileges over its node.
    Unprivileged,
}

/// A guard rail, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardrailRecord {
    /// What it demands.
    pub demand: Demand,
    /// When it was made.
    pub created: Timestamp,
    /// By whom: the broker itself for those that init installs.
    pub by: String,
}

impl Demand {
    /// Those that init installs.
    pub const ALL: [Self; 2] = [Self::NonRoot, Self::Unprivileged];

    /// The word in rows and listings; also the name of the guard rail that init installs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NonRoot => "non-root",
            Self::Unprivileged => "unprivileged",
        }
    }

    /// What it demands, in a sentence.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NonRoot => "the container runs as a numeric user that is not 0, or in a user namespace",
            Self::Unprivileged => {
                "the container is not privileged, adds no capability that reaches other processes or mounts, and the pod \
                 shares no namespace of its node"
            }
        }
    }
}

impl ClusterRecord {
    /// The row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let ClusterSource::Folder(folder) = &self.source;
        Lp::record()
            .str(&self.issuer)
            .str(&self.audience)
            .str("folder")
            .str(&folder.to_string_lossy())
            .u64(ms(self.created))
            .str(&self.by)
            .into_bytes()
    }

    /// Reads a row's body.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it is not exactly one record of this kind, here and below.
    pub fn decode(body: &[u8]) -> Result<Self, EnvelopeError> {
        read("cluster", body, |r| {
            let (issuer, audience) = (text(r, "issuer")?, text(r, "audience")?);
            let source = match r.str("source", 32)? {
                "folder" => ClusterSource::Folder(text(r, "folder")?.into()),
                _ => return Err(Malformed::new("source", Fault::Unknown)),
            };
            Ok(Self { issuer, audience, source, created: time(r, "created")?, by: text(r, "by")? })
        })
    }
}

impl GrantRecord {
    /// The row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Lp::record()
            .str(&self.secret.to_string())
            .list(self.fields.iter().map(|f| Lp::new().str(f.as_str())).collect::<Vec<_>>())
            .str(&self.to.to_string())
            .u64(ms(self.created))
            .str(&self.by)
            .into_bytes()
    }

    /// Reads a row's body.
    ///
    /// # Errors
    /// As [`ClusterRecord::decode`].
    pub fn decode(body: &[u8]) -> Result<Self, EnvelopeError> {
        read("grant", body, |r| {
            let secret = r.parse("secret")?;
            let fields: Vec<FieldName> = r.list("fields", MAX_FIELDS, |r| r.parse("field"))?;
            if !fields.is_sorted_by(|a, b| a < b) {
                return Err(Malformed::new("fields", Fault::Order));
            }
            Ok(Self {
                secret,
                fields: fields.into_iter().collect(),
                to: r.parse("to")?,
                created: time(r, "created")?,
                by: text(r, "by")?,
            })
        })
    }
}

impl GuardrailRecord {
    /// The row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Lp::record().str(self.demand.name()).u64(ms(self.created)).str(&self.by).into_bytes()
    }

    /// Reads a row's body.
    ///
    /// # Errors
    /// As [`ClusterRecord::decode`].
    pub fn decode(body: &[u8]) -> Result<Self, EnvelopeError> {
        read("policy", body, |r| {
            let word = r.str("demands", 64)?;
            let demand = Demand::ALL
                .into_iter()
                .find(|d| d.name() == word)
                .ok_or(Malformed::new("demands", Fault::Unknown))?;
            Ok(Self { demand, created: time(r, "created")?, by: text(r, "by")? })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn grant() -> GrantRecord {
        GrantRecord {
            secret: "payments/db".parse().unwrap(),
            fields: ["username", "password"].iter().map(|f| f.parse().unwrap()).collect(),
            to: "local/shop/web/app".parse().unwrap(),
            created: at(1),
            by: "spiffe://d/operator/ada".into(),
        }
    }

    #[test]
    fn rows_survive_their_encoding() {
        assert_eq!(GrantRecord::decode(&grant().encode()).unwrap(), grant());
        let cluster = ClusterRecord {
            issuer: "https://i".into(),
            audience: "attache".into(),
            source: ClusterSource::Folder("/srv/c".into()),
            created: at(2),
            by: "x".into(),
        };
        assert_eq!(ClusterRecord::decode(&cluster.encode()).unwrap(), cluster);
        for demand in Demand::ALL {
            let rail = GuardrailRecord { demand, created: at(3), by: "x".into() };
            assert_eq!(GuardrailRecord::decode(&rail.encode()).unwrap(), rail);
        }
    }

    #[test]
    fn what_the_encoder_would_not_write_is_refused() {
        let twice = Lp::record()
            .str("payments/db")
            .list([Lp::new().str("a"), Lp::new().str("a")])
            .str("local/shop/web/app")
            .u64(1)
            .str("x");
        assert!(GrantRecord::decode(&twice.into_bytes()).is_err());
        assert!(GuardrailRecord::decode(&Lp::record().str("be-nice").u64(1).str("x").into_bytes()).is_err());
        let source = Lp::record().str("i").str("a").str("ftp").str("/x").u64(1).str("x");
        assert!(ClusterRecord::decode(&source.into_bytes()).is_err());
        let body = grant().encode();
        for end in 0..body.len() {
            assert!(GrantRecord::decode(&body[..end]).is_err(), "cut at {end}");
        }
    }
}
