//! Every key of `node-plugin.toml`, in the order in which `--help` shows them.

use attache_settings::{Fallback, Key, Kind, Schema};

/// Every key of `node-plugin.toml`.
pub const SCHEMA: Schema = Schema { keys: KEYS };

/// Numeric ids that are neither root's nor the "no id" of chown(2).
const UNPRIVILEGED_ID: Kind = Kind::Integer {
    min: 1,
    max: 0xffff_fffe,
};

const KEYS: &[Key] = &[
    Key {
        path: "broker.address",
        kind: Kind::Endpoint,
        fallback: Fallback::Required,
        help: "the broker's listener for nodes and operators (mutual TLS)",
    },
    Key {
        path: "broker.enroll_address",
        kind: Kind::Endpoint,
        fallback: Fallback::Required,
        help: "the broker's listener where nodes join",
    },
    Key {
        path: "broker.id",
        kind: Kind::Text,
        fallback: Fallback::Absent,
        help: "the broker's SPIFFE ID, spiffe://TRUST_DOMAIN/broker/NAME; goes with trust_bundle_file",
    },
    Key {
        path: "broker.trust_bundle_file",
        kind: Kind::Path,
        fallback: Fallback::Absent,
        help: "file of the CA certificates that the broker's must chain to (PEM), followed when it changes; without it the join token and the broker's answers say which",
    },
    Key {
        path: "node.node_name",
        kind: Kind::Text,
        fallback: Fallback::Required,
        help: "this node's name, as the cluster has it; --node-name stands in its place",
    },
    Key {
        path: "node.cluster",
        kind: Kind::Text,
        fallback: Fallback::Absent,
        help: "the cluster's name at the broker; goes with agent.enroll_token_file",
    },
    Key {
        path: "node.driver",
        kind: Kind::Text,
        fallback: Fallback::Default("csi.attache.dev"),
        help: "the driver's name in pods and in the CSIDriver object",
    },
    Key {
        path: "node.audience",
        kind: Kind::Text,
        fallback: Fallback::Default("attache"),
        help: "the audience of the pod tokens that kubelet hands over (CSIDriver.spec.tokenRequests)",
    },
    Key {
        path: "node.kubelet_dir",
        kind: Kind::Path,
        fallback: Fallback::Default("/var/lib/kubelet"),
        help: "kubelet's folder, the one that holds pods",
    },
    Key {
        path: "node.csi_socket",
        kind: Kind::Path,
        fallback: Fallback::Default("/var/lib/kubelet/plugins/csi.attache.dev/kubelet@csi.sock"),
        help: "the socket that kubelet calls, as kubelet sees its path; its last part is NAME@HOST, as HTTP/2 takes no other path for a host",
    },
    Key {
        path: "node.registration_dir",
        kind: Kind::Path,
        fallback: Fallback::Default("/var/lib/kubelet/plugins_registry"),
        help: "the folder where kubelet looks for plugins",
    },
    Key {
        path: "agent.uid",
        kind: UNPRIVILEGED_ID,
        fallback: Fallback::Default("4840"),
        help: "the agent's user: numeric, not root, nobody else's",
    },
    Key {
        path: "agent.gid",
        kind: UNPRIVILEGED_ID,
        fallback: Fallback::Default("4840"),
        help: "the agent's group",
    },
    Key {
        path: "agent.state_dir",
        kind: Kind::Path,
        fallback: Fallback::Default("/var/lib/attache-node"),
        help: "the agent's folder for its key, certificate and trust bundle (0700, made if missing)",
    },
    Key {
        path: "agent.ipc_dir",
        kind: Kind::Path,
        fallback: Fallback::Default("/run/attache"),
        help: "the folder that agent and mounter share (made if missing)",
    },
    Key {
        path: "agent.join_token_file",
        kind: Kind::Path,
        fallback: Fallback::Default("/etc/attache/join-token"),
        help: "file of the one-time join token (0400, the agent's); read only without a usable certificate",
    },
    Key {
        path: "agent.enroll_token_file",
        kind: Kind::Path,
        fallback: Fallback::Absent,
        help: "file of this pod's projected token for the broker's enrollment audience: this node enrolls with it, and with no join token",
    },
    Key {
        path: "listen.metrics",
        kind: Kind::Address,
        fallback: Fallback::Absent,
        help: "where the agent answers GET /metrics (plain HTTP, for Prometheus); port 0 takes a free one",
    },
    Key {
        path: "listen.health",
        kind: Kind::Path,
        fallback: Fallback::Absent,
        help: "unix socket where the agent tells its own user whether it is ready (0600): what the command health asks",
    },
    Key {
        path: "limits.connect_timeout_s",
        kind: Kind::Integer { min: 1, max: 60 },
        fallback: Fallback::Default("2"),
        help: "seconds until a connection to the broker must stand",
    },
    Key {
        path: "limits.call_timeout_s",
        kind: Kind::Integer { min: 1, max: 100 },
        fallback: Fallback::Default("10"),
        help: "seconds until the broker must have answered; kubelet waits 120 for a volume",
    },
    Key {
        path: "limits.publishes",
        kind: Kind::Integer {
            min: 1,
            max: 10_000,
        },
        fallback: Fallback::Default("64"),
        help: "new volumes at one time; more are answered RESOURCE_EXHAUSTED",
    },
    Key {
        path: "limits.volume_size_mib",
        kind: Kind::Integer { min: 2, max: 1024 },
        fallback: Fallback::Default("16"),
        help: "MiB that a volume may take, old generations that are held open included",
    },
    Key {
        path: "limits.volume_inodes",
        kind: Kind::Integer {
            min: 1024,
            max: 1_000_000,
        },
        fallback: Fallback::Default("8192"),
        help: "files, folders and links that a volume may have, held open ones included",
    },
    Key {
        path: "limits.drain_s",
        kind: Kind::Integer { min: 0, max: 15 },
        fallback: Fallback::Default("10"),
        help: "seconds that calls in flight get when the agent stops",
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
    Key {
        path: "danger_failpoints",
        kind: Kind::Text,
        fallback: Fallback::Absent,
        help: "places where the mounter dies, with commas between: for crash tests, never for service",
    },
];
