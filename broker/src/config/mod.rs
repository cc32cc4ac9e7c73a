//! The broker's settings: one TOML file, typed before any socket opens.
//!
//! It stands first in the flow: `main` reads it, everything else takes typed parts of it. It opens nothing but the file.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use attache_mtls::spiffe::{BrokerId, SpiffeError, TrustDomain};
use attache_settings::{Fallback, Key, Kind, Schema, Settings, SettingsError};

use crate::{keys::Opener, kms::KmsPlugin};

/// Every key of `broker.toml`.
pub const SCHEMA: Schema = Schema { keys: KEYS };

const KEYS: &[Key] = &[
    Key {
        path: "name",
        kind: Kind::Text,
        fallback: Fallback::Required,
        help: "this broker's name: the last part of spiffe://TRUST_DOMAIN/broker/NAME",
    },
    Key {
        path: "trust_domain",
        kind: Kind::Text,
        fallback: Fallback::Required,
        help: "the trust domain of every SPIFFE ID that this broker issues and accepts",
    },
    Key {
        path: "listen.grpc",
        kind: Kind::Address,
        fallback: Fallback::Default("127.0.0.1:7443"),
        help: "where nodes and operators connect (mutual TLS); port 0 takes a free one",
    },
    Key {
        path: "listen.enroll",
        kind: Kind::Address,
        fallback: Fallback::Default("127.0.0.1:7444"),
        help: "where nodes join, the only listener without client certificates; port 0 takes a free one",
    },
    Key {
        path: "listen.admin",
        kind: Kind::Path,
        fallback: Fallback::Default("/run/attache-broker/admin.sock"),
        help: "unix socket for bootstrap and a live check-store (0600)",
    },
    Key {
        path: "listen.metrics",
        kind: Kind::Address,
        fallback: Fallback::Absent,
        help: "where GET /metrics is answered (plain HTTP, for Prometheus); port 0 takes a free one",
    },
    Key {
        path: "store.dir",
        kind: Kind::Path,
        fallback: Fallback::Default("/var/lib/attache"),
        help: "folder of the store, the local anchor, the server certificate and the trust bundle",
    },
    Key {
        path: "store.scrub_interval_s",
        kind: Kind::Integer {
            min: 1,
            max: 31 * 24 * 3600,
        },
        fallback: Fallback::Default("86400"),
        help: "after the scrub at the start, every row of the store is looked at again so long after the last time",
    },
    Key {
        path: "store.mounted_window_s",
        kind: Kind::Integer {
            min: 1,
            max: 31 * 24 * 3600,
        },
        fallback: Fallback::Default("900"),
        help: "a version that a pod names by number is not pruned so long after it was last handed out; nodes ask every 60 to 90 s",
    },
    Key {
        path: "keys.slot_file",
        kind: Kind::Path,
        fallback: Fallback::Absent,
        help: "file of a key-file slot: made by init, mode 0400; or given, as a Secret is mounted (root:own group, 0440)",
    },
    Key {
        path: "keys.passphrase_file",
        kind: Kind::Path,
        fallback: Fallback::Absent,
        help: "file with the passphrase of a passphrase slot, closed to others, such as a systemd credential; tried after slot_file",
    },
    Key {
        path: "keys.kms_socket",
        kind: Kind::Path,
        fallback: Fallback::Absent,
        help: "unix socket of a Kubernetes KMS v2 plugin, for kms slots; tried last",
    },
    Key {
        path: "keys.danger_plain_key_arena",
        kind: Kind::Flag,
        fallback: Fallback::Default("false"),
        help: "keep keys in ordinary memory: for the memory scan's positive control, never for service",
    },
    Key {
        path: "audit.dir",
        kind: Kind::Path,
        fallback: Fallback::Default("/var/lib/attache/audit"),
        help: "folder of the audit log's segments",
    },
    Key {
        path: "limits.connections",
        kind: Kind::Integer {
            min: 1,
            max: 100_000,
        },
        fallback: Fallback::Default("4096"),
        help: "open connections of nodes and operators; each takes a file descriptor",
    },
    Key {
        path: "limits.connections_per_peer",
        kind: Kind::Integer {
            min: 1,
            max: 10_000,
        },
        fallback: Fallback::Default("16"),
        help: "open connections of one node or operator",
    },
    Key {
        path: "limits.enroll_connections",
        kind: Kind::Integer {
            min: 1,
            max: 100_000,
        },
        fallback: Fallback::Default("256"),
        help: "open connections of joining nodes; each takes a file descriptor",
    },
    Key {
        path: "limits.enroll_connections_per_address",
        kind: Kind::Integer {
            min: 1,
            max: 100_000,
        },
        fallback: Fallback::Default("64"),
        help: "of those, from one address",
    },
    Key {
        path: "limits.handshakes",
        kind: Kind::Integer {
            min: 1,
            max: 10_000,
        },
        fallback: Fallback::Default("64"),
        help: "TLS handshakes at one time, a listener; past it the oldest of the busiest address gives way",
    },
    Key {
        path: "limits.handshake_timeout_s",
        kind: Kind::Integer { min: 1, max: 60 },
        fallback: Fallback::Default("5"),
        help: "seconds until an unfinished handshake is dropped",
    },
    Key {
        path: "limits.requests_per_connection",
        kind: Kind::Integer {
            min: 1,
            max: 10_000,
        },
        fallback: Fallback::Default("256"),
        help: "requests in flight on one connection",
    },
    Key {
        path: "limits.connection_age_s",
        kind: Kind::Integer {
            min: 60,
            max: 86_400,
        },
        fallback: Fallback::Default("3600"),
        help: "seconds until a connection must be made again (and its certificate shown again)",
    },
    Key {
        path: "limits.deliveries_per_node",
        kind: Kind::Integer {
            min: 1,
            max: 10_000,
        },
        fallback: Fallback::Default("64"),
        help: "deliveries in flight for one node; more are answered RESOURCE_EXHAUSTED",
    },
    Key {
        path: "limits.deliveries_per_node_per_s",
        kind: Kind::Integer {
            min: 1,
            max: 1_000_000,
        },
        fallback: Fallback::Default("500"),
        help: "deliveries that one node may begin a second, over ten seconds; more are answered RESOURCE_EXHAUSTED",
    },
    Key {
        path: "limits.drain_s",
        kind: Kind::Integer { min: 0, max: 600 },
        fallback: Fallback::Default("10"),
        help: "seconds that requests in flight get when the broker stops",
    },
    Key {
        path: "nodes.lift_startup_taint",
        kind: Kind::Flag,
        fallback: Fallback::Default("false"),
        help: "take the taint attache.dev/agent-not-ready off a node once kubelet knows its plugin (get csinodes, patch nodes)",
    },
    Key {
        path: "telemetry.log",
        kind: Kind::Text,
        fallback: Fallback::Default("info"),
        help: "log filter: a level, or module=level pairs",
    },
    Key {
        path: "telemetry.format",
        kind: Kind::OneOf(&["text", "json"]),
        fallback: Fallback::Default("text"),
        help: "how a log line is written",
    },
];

/// The typed settings of a broker.
pub struct Config {
    /// Who this broker is.
    pub id: BrokerId,
    /// Where it listens.
    pub listen: Listen,
    /// Where it keeps things.
    pub store: StorePaths,
    /// From the end of one scrub of the store to the next.
    pub scrub_interval: Duration,
    /// For how long a version counts as mounted after a volume that names it was answered.
    pub mounted_window: Duration,
    /// How it comes by its keys.
    pub keys: KeySettings,
    /// Folder of the audit log.
    pub audit_dir: PathBuf,
    /// Bounds on what callers may take.
    pub limits: Limits,
    /// Whether nodes are freed of the taint that keeps pods away until their plugin is there.
    pub lift_startup_taint: bool,
    /// Logging.
    pub telemetry: Telemetry,
}

/// Listening addresses.
pub struct Listen {
    /// Mutual TLS.
    pub grpc: SocketAddr,
    /// TLS without client certificates.
    pub enroll: SocketAddr,
    /// Unix socket.
    pub admin: PathBuf,
    /// Plain HTTP, if at all.
    pub metrics: Option<SocketAddr>,
}

/// Paths under `store.dir`.
pub struct StorePaths {
    /// The folder, 0700.
    pub dir: PathBuf,
}

impl StorePaths {
    /// The store file.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.dir.join("store.redb")
    }

    /// The store file while it is restored beside a log that is its own.
    #[must_use]
    pub fn restoring(&self) -> PathBuf {
        self.dir.join("store.redb.restoring")
    }

    /// The store file until all that belongs to it is made, the log among it.
    #[must_use]
    pub fn beginning(&self) -> PathBuf {
        self.dir.join("store.redb.new")
    }

    /// Which chain is begun with the store that is being made.
    #[must_use]
    pub fn begun_log(&self) -> PathBuf {
        self.dir.join("store.redb.new.log")
    }

    /// The local copy of the signed anchor.
    #[must_use]
    pub fn anchor(&self) -> PathBuf {
        self.dir.join("anchor.note")
    }

    /// The server certificate, PEM, leaf first.
    #[must_use]
    pub fn server_certificate(&self) -> PathBuf {
        self.dir.join("tls").join("broker.crt")
    }

    /// The server key, PKCS#8 PEM, 0600.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.dir.join("tls").join("broker.key")
    }

    /// The CA certificates that callers must trust, PEM.
    #[must_use]
    pub fn trust_bundle(&self) -> PathBuf {
        self.dir.join("trust-bundle.pem")
    }

    /// What was given to open the broker while it was sealed.
    #[must_use]
    pub fn unseal_attempts(&self) -> PathBuf {
        self.dir.join("unseal-attempts")
    }

    /// That an operator sealed the broker; while it is there, the broker does not open by itself.
    #[must_use]
    pub fn operator_seal(&self) -> PathBuf {
        self.dir.join("sealed-by-operator")
    }

    /// The addresses that a running broker has really bound, JSON.
    #[must_use]
    pub fn listening(&self) -> PathBuf {
        self.dir.join("listen.json")
    }
}

/// Key settings.
pub struct KeySettings {
    /// What may open the store, in the order in which it is tried; a broker with none starts sealed.
    pub openers: Vec<Opener>,
    /// Keys in ordinary memory.
    pub danger_plain_key_arena: bool,
}

/// Bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections of nodes and operators.
    pub connections: usize,
    /// Of one of them.
    pub connections_per_peer: usize,
    /// Open connections of joining nodes.
    pub enroll_connections: usize,
    /// Of those, from one address.
    pub enroll_connections_per_address: usize,
    /// Handshakes at one time, a listener.
    pub handshakes: usize,
    /// Until an unfinished handshake is dropped.
    pub handshake_timeout: Duration,
    /// Requests in flight on one connection.
    pub requests_per_connection: usize,
    /// Until a connection must be made again.
    pub connection_age: Duration,
    /// Deliveries in flight for one node.
    pub deliveries_per_node: usize,
    /// Deliveries that one node may begin a second.
    pub deliveries_per_node_per_s: u32,
    /// What requests in flight get when the broker stops.
    pub drain: Duration,
}

/// Logging.
pub struct Telemetry {
    /// Filter directives.
    pub log: String,
    /// One JSON object a line, in place of text.
    pub json: bool,
}

/// Why a broker's settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, or one of its values.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// `name` and `trust_domain` do not make a SPIFFE ID.
    #[error("{key}: {source}")]
    Identity {
        /// Which of the two.
        key: &'static str,
        /// Why.
        source: SpiffeError,
    },
}

impl Config {
    /// Reads `broker.toml`.
    ///
    /// # Errors
    /// [`ConfigError`]: the first thing that is wrong, with its key.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        Self::from_settings(&SCHEMA.read(file)?)
    }

    /// Types the settings of a file.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        let trust_domain: TrustDomain =
            settings
                .text("trust_domain")?
                .parse()
                .map_err(|source| ConfigError::Identity {
                    key: "trust_domain",
                    source,
                })?;
        let id = BrokerId::new(trust_domain, settings.text("name")?).map_err(|source| {
            ConfigError::Identity {
                key: "name",
                source,
            }
        })?;
        Ok(Self {
            id,
            listen: Listen {
                grpc: settings.address("listen.grpc")?,
                enroll: settings.address("listen.enroll")?,
                admin: settings.path("listen.admin")?,
                metrics: settings.optional_address("listen.metrics")?,
            },
            store: StorePaths {
                dir: settings.path("store.dir")?,
            },
            scrub_interval: settings.seconds("store.scrub_interval_s")?,
            mounted_window: settings.seconds("store.mounted_window_s")?,
            keys: KeySettings {
                openers: openers(settings)?,
                danger_plain_key_arena: settings.flag("keys.danger_plain_key_arena")?,
            },
            audit_dir: settings.path("audit.dir")?,
            limits: Limits {
                connections: settings.integer("limits.connections")?,
                connections_per_peer: settings.integer("limits.connections_per_peer")?,
                enroll_connections: settings.integer("limits.enroll_connections")?,
                enroll_connections_per_address: settings
                    .integer("limits.enroll_connections_per_address")?,
                handshakes: settings.integer("limits.handshakes")?,
                handshake_timeout: settings.seconds("limits.handshake_timeout_s")?,
                requests_per_connection: settings.integer("limits.requests_per_connection")?,
                connection_age: settings.seconds("limits.connection_age_s")?,
                deliveries_per_node: settings.integer("limits.deliveries_per_node")?,
                deliveries_per_node_per_s: settings.integer("limits.deliveries_per_node_per_s")?,
                drain: settings.seconds("limits.drain_s")?,
            },
            lift_startup_taint: settings.flag("nodes.lift_startup_taint")?,
            telemetry: Telemetry {
                log: settings.text("telemetry.log")?.to_owned(),
                json: settings.text("telemetry.format")? == "json",
            },
        })
    }
}

/// The ways to open the store that the settings name.
fn openers(settings: &Settings) -> Result<Vec<Opener>, ConfigError> {
    let key_file = settings.optional_path("keys.slot_file")?;
    let passphrase = settings.optional_path("keys.passphrase_file")?;
    let kms = settings.optional_path("keys.kms_socket")?;
    Ok(key_file
        .map(Opener::KeyFile)
        .into_iter()
        .chain(passphrase.map(Opener::Passphrase))
        .chain(kms.map(KmsPlugin::new).map(Opener::Kms))
        .collect())
}

impl KeySettings {
    /// The key file that a new store is made under.
    #[must_use]
    pub fn key_file(&self) -> Option<&Path> {
        self.openers.iter().find_map(|opener| match opener {
            Opener::KeyFile(path) => Some(path.as_path()),
            Opener::Passphrase(_) | Opener::Kms(_) => None,
        })
    }

    /// The KMS plugin that there is.
    #[must_use]
    pub fn kms(&self) -> Option<&KmsPlugin> {
        self.openers.iter().find_map(|opener| match opener {
            Opener::Kms(plugin) => Some(plugin),
            Opener::KeyFile(_) | Opener::Passphrase(_) => None,
        })
    }
}
