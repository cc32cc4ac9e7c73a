//! The rows of clusters: typed, strictly decoded. Grants and guard rails have theirs in `policy`.
//!
//! ```text
//! cluster = record || issuer, audience, source ("folder"), folder, created u64, by        under the cluster's name
//! ```
//! `record` is format and suite; `created` is milliseconds since 1970; `by` is a SPIFFE ID.

use std::path::PathBuf;

use attache_envelope::{
    EnvelopeError,
    lp::{Fault, Lp, Malformed},
};
use jiff::Timestamp;

use crate::attest::MAX_PATH_BYTES;
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
                "folder" => ClusterSource::Folder(r.str("folder", MAX_PATH_BYTES)?.into()),
                _ => return Err(Malformed::new("source", Fault::Unknown)),
            };
            Ok(Self {
                issuer,
                audience,
                source,
                created: time(r, "created")?,
                by: text(r, "by")?,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{GrantRecord, GrantSpec, GuardrailRecord, GuardrailSpec};
    use crate::vectors::{Expected, run};

    fn cluster() -> ClusterRecord {
        ClusterRecord {
            issuer: "https://i".into(),
            audience: "attache".into(),
            source: ClusterSource::Folder("/srv/c".into()),
            created: Timestamp::from_millisecond(2).unwrap(),
            by: "x".into(),
        }
    }

    #[test]
    fn rows_survive_their_encoding() {
        assert_eq!(
            ClusterRecord::decode(&cluster().encode()).unwrap(),
            cluster()
        );
    }

    /// The edge takes nothing that a start would not read: whatever fits one fits the other.
    #[test]
    fn the_longest_cluster_that_is_taken_is_read_again() {
        use std::path::Path;

        use crate::attest::ClusterSpec;

        let taken = |folder: &str, text: &str| {
            let name = "local".parse().unwrap();
            ClusterSpec::in_folder(name, text, text, Path::new(folder)).is_ok()
        };
        let (text, folder) = (
            "t".repeat(512),
            format!("/{}", "f".repeat(MAX_PATH_BYTES - 1)),
        );
        assert!(taken(&folder, &text));
        assert!(!taken(&format!("{folder}f"), &text));
        assert!(!taken(&folder, &format!("{text}t")));
        let record = ClusterRecord {
            issuer: text.clone(),
            audience: text,
            source: ClusterSource::Folder(folder.into()),
            by: "s".repeat(2048),
            ..cluster()
        };
        assert_eq!(ClusterRecord::decode(&record.encode()).unwrap(), record);
    }

    #[test]
    fn what_the_encoder_would_not_write_is_refused() {
        let source = Lp::record()
            .str("i")
            .str("a")
            .str("ftp")
            .str("/x")
            .u64(1)
            .str("x");
        assert!(ClusterRecord::decode(&source.into_bytes()).is_err());
        let body = cluster().encode();
        for end in 0..body.len() {
            assert!(ClusterRecord::decode(&body[..end]).is_err(), "cut at {end}");
        }
    }

    /// Those of grants and guard rails are here too: one file of vectors has all that the registry keeps.
    #[test]
    fn rows_are_those_of_the_vectors() {
        run("registry-body", false, |given, expected| {
            let Expected::Out(out) = expected else {
                panic!("a row refuses nothing here")
            };
            let (name, body) = (given.text("name"), out.bytes("body"));
            assert_eq!(name.as_bytes(), out.bytes("key"));
            let by = given.text("by").to_owned();
            let encoded = match given.text("row") {
                "cluster" => {
                    let created = i64::try_from(given.u64("created")).unwrap();
                    let told = ClusterRecord {
                        issuer: given.text("issuer").into(),
                        audience: given.text("audience").into(),
                        source: ClusterSource::Folder(given.text("folder").into()),
                        created: Timestamp::from_millisecond(created).unwrap(),
                        by,
                    };
                    assert_eq!(ClusterRecord::decode(&body).unwrap(), told);
                    told.encode()
                }
                "grant" => {
                    let secret = format!("{}/{}", given.text("keyspace"), given.text("secret"));
                    let fields = given.texts("fields");
                    let spec = GrantSpec::new(
                        given.parse("name"),
                        secret.parse().unwrap(),
                        fields.iter().map(|field| field.parse().unwrap()).collect(),
                        given.parse("to"),
                    );
                    let told = GrantRecord {
                        spec: spec.unwrap(),
                        created_ms: given.u64("created"),
                        created_by: by,
                    };
                    assert_eq!(GrantRecord::decode(name, &body).unwrap(), told);
                    told.encode()
                }
                _ => {
                    let told = GuardrailRecord {
                        spec: GuardrailSpec {
                            name: given.parse("name"),
                            condition: given.parse("condition"),
                        },
                        created_ms: given.u64("created"),
                        created_by: by,
                    };
                    assert_eq!(GuardrailRecord::decode(name, &body).unwrap(), told);
                    told.encode()
                }
            };
            assert_eq!(encoded, body);
        });
    }
}
