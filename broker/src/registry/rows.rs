//! The rows of clusters: typed, strictly decoded. Grants and guard rails have theirs in `policy`.
//!
//! ```text
//! cluster = record || issuer, audience, source, created u64, by        under the cluster's name
//! source  = "folder", folder
//!         | "kubernetes", api server (empty: around the broker), credentials, enroll account (may be empty), enroll audience
//! ```
//! `record` is format and suite; `created` is milliseconds since 1970; `by` is a SPIFFE ID. A broker that does not know a
//! source does not start.

use std::path::PathBuf;

use attache_envelope::{
    EnvelopeError,
    lp::{Fault, Lp, Malformed},
};
use jiff::Timestamp;

use crate::attest::{KubernetesSettings, MAX_PATH_BYTES};
use crate::identity::{ms, read, text, time};
use crate::kubernetes::CREDENTIALS_IN_POD;

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
    /// The cluster's API server.
    Kubernetes(KubernetesRecord),
}

/// A cluster's API server, and who may enroll nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesRecord {
    /// `https://HOST:PORT`; empty: that of the cluster around the broker.
    pub api_server: String,
    /// The folder with `ca.crt` and `token`.
    pub credentials: PathBuf,
    /// `NAMESPACE/NAME`; empty: none.
    pub enroll_account: String,
    /// The `aud` of its tokens.
    pub enroll_audience: String,
}

/// The audience of tokens that enroll nodes, unless another is given.
pub const ENROLL_AUDIENCE: &str = "attache-enroll";

impl KubernetesRecord {
    /// With what is left empty and has a meaning: a pod's own credentials, and [`ENROLL_AUDIENCE`].
    #[must_use]
    pub fn or_default(mut self) -> Self {
        if self.credentials.as_os_str().is_empty() {
            self.credentials = CREDENTIALS_IN_POD.into();
        }
        if self.enroll_audience.is_empty() {
            ENROLL_AUDIENCE.clone_into(&mut self.enroll_audience);
        }
        self
    }

    /// As attestation wants it.
    #[must_use]
    pub fn settings(&self) -> KubernetesSettings<'_> {
        KubernetesSettings {
            api_server: &self.api_server,
            credentials: &self.credentials,
            enroll_account: &self.enroll_account,
            enroll_audience: &self.enroll_audience,
        }
    }
}

impl ClusterRecord {
    /// The row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let head = Lp::record().str(&self.issuer).str(&self.audience);
        let source = match &self.source {
            ClusterSource::Folder(folder) => head.str("folder").str(&folder.to_string_lossy()),
            ClusterSource::Kubernetes(source) => head
                .str("kubernetes")
                .str(&source.api_server)
                .str(&source.credentials.to_string_lossy())
                .str(&source.enroll_account)
                .str(&source.enroll_audience),
        };
        source.u64(ms(self.created)).str(&self.by).into_bytes()
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
                "kubernetes" => ClusterSource::Kubernetes(KubernetesRecord {
                    api_server: text(r, "api server")?,
                    credentials: r.str("credentials", MAX_PATH_BYTES)?.into(),
                    enroll_account: text(r, "enroll account")?,
                    enroll_audience: text(r, "enroll audience")?,
                }),
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
    fn the_longest_cluster_with_an_api_server_is_read_again() {
        use crate::attest::ClusterSpec;

        let longest = KubernetesRecord {
            api_server: format!("https://{}", "a".repeat(512 - 8)),
            credentials: format!("/{}", "f".repeat(MAX_PATH_BYTES - 1)).into(),
            enroll_account: format!("{}/{}", "n".repeat(63), "s".repeat(253)),
            enroll_audience: "t".repeat(512),
        };
        let name = "local".parse().unwrap();
        let taken = ClusterSpec::in_kubernetes(name, "i", "a", longest.settings());
        assert!(taken.is_ok(), "{taken:?}");
        let record = ClusterRecord {
            source: ClusterSource::Kubernetes(longest),
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
                    let place = given.texts("place");
                    let text = |at: usize| place[at].clone();
                    let source = match given.text("source") {
                        "folder" => ClusterSource::Folder(text(0).into()),
                        _ => ClusterSource::Kubernetes(KubernetesRecord {
                            api_server: text(0),
                            credentials: text(1).into(),
                            enroll_account: text(2),
                            enroll_audience: text(3),
                        }),
                    };
                    let told = ClusterRecord {
                        issuer: given.text("issuer").into(),
                        audience: given.text("audience").into(),
                        source,
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
