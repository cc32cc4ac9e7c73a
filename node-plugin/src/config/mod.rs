//! The node plugin's settings: one TOML file for all of its processes, typed before any socket opens.
//!
//! `main` reads it, everything else takes typed parts of it. The agent reads it under its own user, so the file holds
//! no secret and is readable by that user; what is secret is named by path. It opens nothing but the file.

use std::{
    net::SocketAddr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use attache_envelope::name::{ClusterName, NameError, NodeName};
use attache_mtls::spiffe::{BrokerId, SpiffeError};
use attache_settings::{Settings, SettingsError};

use crate::ipc::SOCKET_NAME;
use crate::mounter::{Failpoint, Failpoints, MounterSettings, UnknownFailpoint, VolumeLimits};

mod keys;
#[cfg(test)]
mod tests;

pub use keys::SCHEMA;

/// The longest path of a unix socket, in bytes (unix(7): 108 with the closing NUL).
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// The longest driver name, in bytes (CSI specification, `GetPluginInfoResponse.name`).
const MAX_DRIVER_BYTES: usize = 63;

/// The typed settings of a node plugin.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the broker is.
    pub broker: BrokerAddresses,
    /// Which broker, and by what it is known; none: the join token and the broker's own answers say it.
    pub trust: Option<Trust>,
    /// What kubelet knows of this plugin.
    pub node: Node,
    /// The unprivileged half.
    pub agent: AgentSettings,
    /// Where the agent tells of itself.
    pub listen: Listen,
    /// Bounds.
    pub limits: Limits,
    /// Logging.
    pub telemetry: Telemetry,
    /// Places where the mounter dies, for crash tests.
    pub danger_failpoints: Failpoints,
}

/// The broker's listeners: name or IP address, and port. A name is looked up for each connection.
#[derive(Debug, Clone)]
pub struct BrokerAddresses {
    /// Mutual TLS.
    pub grpc: String,
    /// TLS without a client certificate: joining.
    pub enroll: String,
}

/// The one broker that is spoken to, and what its certificate must chain to.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Its SPIFFE ID.
    pub broker: BrokerId,
    /// The CA certificates, PEM. It may not be there yet, and may change.
    pub bundle_file: PathBuf,
}

/// What this node shows for a certificate.
#[derive(Debug, Clone)]
pub enum Evidence {
    /// The file of a one-time join token.
    JoinToken(PathBuf),
    /// The pod that the agent runs in.
    ServiceAccount {
        /// The file of its projected token.
        token_file: PathBuf,
        /// The cluster, as the broker names it.
        cluster: ClusterName,
    },
}

/// What kubelet knows of this plugin.
#[derive(Debug, Clone)]
pub struct Node {
    /// The driver's name.
    pub driver: String,
    /// Kubelet's folder, the one that holds `pods`.
    pub kubelet_dir: PathBuf,
    /// The CSI socket.
    pub csi_socket: PathBuf,
    /// Where kubelet looks for plugins.
    pub registration_dir: PathBuf,
    /// The node's name, kubelet's `node_id`.
    pub name: String,
    /// The audience of the tokens that kubelet hands over.
    pub audience: String,
}

/// The agent.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// Its user; never root.
    pub uid: u32,
    /// Its group; never root's.
    pub gid: u32,
    /// Its own folder, 0700: key, certificate, trust bundle.
    pub state_dir: PathBuf,
    /// The folder that agent and mounter share.
    pub ipc_dir: PathBuf,
    /// What is shown when there is no usable certificate.
    pub evidence: Evidence,
}

/// Where the agent tells of itself; nowhere, unless it is set.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Plain HTTP.
    pub metrics: Option<SocketAddr>,
    /// Unix socket, for the agent's own user.
    pub health: Option<PathBuf>,
}

/// Bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Address, TCP and TLS of a connection to the broker.
    pub connect_timeout: Duration,
    /// One call to the broker.
    pub call_timeout: Duration,
    /// First publishes at one time; more are answered RESOURCE_EXHAUSTED.
    pub publishes: usize,
    /// What calls in flight get when the agent stops.
    pub drain: Duration,
    /// How much a volume may hold.
    pub volume: VolumeLimits,
}

/// Logging.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Filter directives.
    pub log: String,
    /// One JSON object a line, in place of text.
    pub json: bool,
}

/// Why the settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, or one of its values.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A driver name that kubelet would not take.
    #[error(
        "node.driver must have 1 to {MAX_DRIVER_BYTES} of a-z, 0-9, - and ., with a letter or digit at each end"
    )]
    Driver,
    /// A name that no node has.
    #[error("node.node_name: {0}")]
    NodeName(NameError),
    /// A name that no cluster has.
    #[error("node.cluster: {0}")]
    Cluster(NameError),
    /// Not a broker's SPIFFE ID.
    #[error("broker.id: {0}")]
    BrokerId(SpiffeError),
    /// Keys that mean something together only.
    #[error("{key} is set and {needs} is not: set both, or neither")]
    Together {
        /// The one that is there.
        key: &'static str,
        /// The one that is not.
        needs: &'static str,
    },
    /// A unix socket's path that the kernel does not take.
    #[error("{key} makes the socket path {}, which has more than {MAX_SOCKET_PATH_BYTES} bytes: choose a shorter folder", path.display())]
    SocketPath {
        /// The key.
        key: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A path that kubelet could not call.
    #[error(
        "node.csi_socket: its last part must be NAME@HOST, as in kubelet@csi.sock: kubelet sends the path, percent-encoded, as \
         the host of its HTTP/2 requests, which is a valid one only behind an @"
    )]
    CsiSocketName,
    /// A name that is no failpoint.
    #[error("danger_failpoints: {0}")]
    Failpoint(#[from] UnknownFailpoint),
}

impl Config {
    /// Reads `node-plugin.toml`; a `node_name` that is given stands in place of the file's.
    ///
    /// # Errors
    /// [`ConfigError`]: the first thing that is wrong, with its key.
    pub fn read(file: &Path, node_name: Option<&str>) -> Result<Self, ConfigError> {
        let given = node_name.map(|name| ("node.node_name", name));
        Self::from_settings(&SCHEMA.read_with(file, given.as_slice())?)
    }

    /// Types the settings of a file.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        let config = Self {
            broker: BrokerAddresses {
                grpc: settings.text("broker.address")?.to_owned(),
                enroll: settings.text("broker.enroll_address")?.to_owned(),
            },
            trust: trust(settings)?,
            node: Node {
                driver: settings.text("node.driver")?.to_owned(),
                kubelet_dir: settings.path("node.kubelet_dir")?,
                csi_socket: settings.path("node.csi_socket")?,
                registration_dir: settings.path("node.registration_dir")?,
                name: settings.text("node.node_name")?.to_owned(),
                audience: settings.text("node.audience")?.to_owned(),
            },
            agent: AgentSettings {
                uid: settings.integer("agent.uid")?,
                gid: settings.integer("agent.gid")?,
                state_dir: settings.path("agent.state_dir")?,
                ipc_dir: settings.path("agent.ipc_dir")?,
                evidence: evidence(settings)?,
            },
            listen: Listen {
                metrics: settings.optional_address("listen.metrics")?,
                health: settings.optional_path("listen.health")?,
            },
            limits: Limits {
                connect_timeout: settings.seconds("limits.connect_timeout_s")?,
                call_timeout: settings.seconds("limits.call_timeout_s")?,
                publishes: settings.integer("limits.publishes")?,
                drain: settings.seconds("limits.drain_s")?,
                volume: VolumeLimits {
                    size_bytes: settings.integer::<u64>("limits.volume_size_mib")? * 1024 * 1024,
                    inodes: settings.integer("limits.volume_inodes")?,
                },
            },
            telemetry: Telemetry {
                log: settings.text("telemetry.log")?.to_owned(),
                json: settings.text("telemetry.format")? == "json",
            },
            danger_failpoints: failpoints(settings.optional_text("danger_failpoints")?)?,
        };
        config.check()?;
        Ok(config)
    }

    /// What the mounter is to do.
    #[must_use]
    pub fn mounter(&self) -> MounterSettings {
        MounterSettings {
            driver: self.node.driver.clone(),
            kubelet_dir: self.node.kubelet_dir.clone(),
            csi_socket: self.node.csi_socket.clone(),
            registration_dir: self.node.registration_dir.clone(),
            ipc_dir: self.agent.ipc_dir.clone(),
            agent_uid: self.agent.uid,
            agent_gid: self.agent.gid,
            limits: self.limits.volume,
            danger_failpoints: self.danger_failpoints.clone(),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        check_driver(&self.node.driver)?;
        self.node
            .name
            .parse::<NodeName>()
            .map_err(ConfigError::NodeName)?;
        let registration = registration_socket(&self.node.driver);
        if !is_authority(&self.node.csi_socket) {
            return Err(ConfigError::CsiSocketName);
        }
        let sockets = [
            ("node.csi_socket", self.node.csi_socket.clone()),
            (
                "node.registration_dir",
                self.node.registration_dir.join(registration),
            ),
            ("agent.ipc_dir", self.agent.ipc_dir.join(SOCKET_NAME)),
        ];
        let health = self.listen.health.clone();
        let health = health.map(|path| ("listen.health", path));
        for (key, path) in sockets.into_iter().chain(health) {
            if path.as_os_str().as_bytes().len() > MAX_SOCKET_PATH_BYTES {
                return Err(ConfigError::SocketPath { key, path });
            }
        }
        Ok(())
    }
}

/// The file in `node.registration_dir` by which kubelet finds a driver.
///
/// Kubelet's gRPC client sends a socket's path, percent-encoded, as `:authority` (seen with 1.37.2). RFC 3986 has percent
/// signs in the userinfo and in no host name, and HTTP/2 servers that hold to it refuse the request; so the part of the
/// path that is to be the host stands behind an `@`.
#[must_use]
pub fn registration_socket(driver: &str) -> String {
    format!("kubelet@{driver}-reg.sock")
}

/// Whether a socket's path, percent-encoded, is a valid `:authority`.
fn is_authority(socket: &Path) -> bool {
    let name = socket.file_name().map(OsStrExt::as_bytes);
    let parts = name.and_then(|name| std::str::from_utf8(name).ok()?.split_once('@'));
    let is_host = |host: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        !host.is_empty() && host.bytes().all(allowed)
    };
    parts.is_some_and(|(_, host)| is_host(host))
}

/// Checks a CSI driver's name: a DNS subdomain in lower case, as Kubernetes wants its CSIDriver object named.
fn check_driver(name: &str) -> Result<(), ConfigError> {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let whole = name
        .bytes()
        .all(|byte| alphanumeric(byte) || matches!(byte, b'-' | b'.'));
    let first = name.bytes().next().is_some_and(alphanumeric);
    let last = name.bytes().next_back().is_some_and(alphanumeric);
    if whole && first && last && name.len() <= MAX_DRIVER_BYTES {
        Ok(())
    } else {
        Err(ConfigError::Driver)
    }
}

fn trust(settings: &Settings) -> Result<Option<Trust>, ConfigError> {
    const ID: &str = "broker.id";
    const FILE: &str = "broker.trust_bundle_file";
    match (settings.optional_text(ID)?, settings.optional_text(FILE)?) {
        (Some(id), Some(file)) => Ok(Some(Trust {
            broker: id.parse().map_err(ConfigError::BrokerId)?,
            bundle_file: file.into(),
        })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(together(ID, FILE)),
        (None, Some(_)) => Err(together(FILE, ID)),
    }
}

fn evidence(settings: &Settings) -> Result<Evidence, ConfigError> {
    const TOKEN: &str = "agent.enroll_token_file";
    const CLUSTER: &str = "node.cluster";
    let cluster = settings.optional_text(CLUSTER)?;
    let Some(token_file) = settings.optional_text(TOKEN)? else {
        return match cluster {
            Some(_) => Err(together(CLUSTER, TOKEN)),
            None => Ok(Evidence::JoinToken(settings.path("agent.join_token_file")?)),
        };
    };
    let cluster = cluster.ok_or(together(TOKEN, CLUSTER))?;
    if settings.optional_text("broker.id")?.is_none() {
        return Err(together(TOKEN, "broker.id"));
    }
    Ok(Evidence::ServiceAccount {
        token_file: token_file.into(),
        cluster: cluster.parse().map_err(ConfigError::Cluster)?,
    })
}

fn together(key: &'static str, needs: &'static str) -> ConfigError {
    ConfigError::Together { key, needs }
}

fn failpoints(text: Option<&str>) -> Result<Failpoints, UnknownFailpoint> {
    let names = text.map(|text| text.split(',').map(str::trim));
    let parsed: Result<Vec<Failpoint>, _> = names.into_iter().flatten().map(str::parse).collect();
    parsed.map(Failpoints)
}
