//! SPIFFE IDs as types: nodes, operators and brokers.
//!
//! Names are parsed once, here, at the edge; everything behind works with the types and prints them with `Display`,
//! which always gives the whole ID. Only the canonical spelling is accepted, so that two IDs are equal exactly when
//! their strings are. This module knows no certificates and must never guess a missing part.
//!
//! ```text
//! spiffe://<trust domain>/node/<cluster>/<node uid>
//! spiffe://<trust domain>/operator/<name>
//! spiffe://<trust domain>/broker/<name>
//! ```
//! Source: SPIFFE-ID specification, sections 2 (trust domain, path) and 2.3 (maximum length).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest SPIFFE ID that is accepted, in bytes.
pub const MAX_ID_BYTES: usize = 2048;
/// The longest trust domain name, in bytes.
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// The longest single path segment (cluster, node uid, name), in bytes: that of a Kubernetes object's name.
pub const MAX_SEGMENT_BYTES: usize = 253;

const SCHEME: &str = "spiffe://";

/// Why a string is not one of the IDs of this system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeError {
    /// Nothing, or too much, to parse.
    #[error("the ID has {bytes} bytes; 1 to {MAX_ID_BYTES} are allowed")]
    Length {
        /// What was given.
        bytes: usize,
    },
    /// The scheme is not `spiffe://` in lower case.
    #[error("the ID does not begin with spiffe://")]
    Scheme,
    /// The trust domain is empty, too long, or has a character outside `[a-z0-9._-]`.
    #[error(
        "the trust domain must be 1 to {MAX_TRUST_DOMAIN_BYTES} of the characters a-z, 0-9, '.', '_' and '-'"
    )]
    TrustDomain,
    /// A query or a fragment.
    #[error("the ID has a query or a fragment")]
    QueryOrFragment,
    /// A path segment that is empty, `.`, `..`, too long, or has a character outside `[A-Za-z0-9._-]`.
    #[error(
        "a path segment must be 1 to {MAX_SEGMENT_BYTES} of the characters A-Z, a-z, 0-9, '.', '_' and '-', and not '.' or '..'"
    )]
    Segment,
    /// A well-formed path of a kind that this system does not have.
    #[error("the path is none of /node/CLUSTER/UID, /operator/NAME and /broker/NAME")]
    Kind,
}

/// A trust domain: the authority of a SPIFFE ID.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name, such as `example.org`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own ID, without a path: what its CA certificates carry.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{SCHEME}{self}")
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(name: &str) -> Result<Self, SpiffeError> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        if (1..=MAX_TRUST_DOMAIN_BYTES).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name.into()))
        } else {
            Err(SpiffeError::TrustDomain)
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One checked path segment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Segment(Arc<str>);

impl FromStr for Segment {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let whole = (1..=MAX_SEGMENT_BYTES).contains(&text.len()) && text.bytes().all(allowed);
        if whole && text != "." && text != ".." {
            Ok(Self(text.into()))
        } else {
            Err(SpiffeError::Segment)
        }
    }
}

/// A node's ID: `spiffe://<trust domain>/node/<cluster>/<node uid>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    trust_domain: TrustDomain,
    cluster: Segment,
    node_uid: Segment,
}

impl NodeId {
    /// Makes a node's ID from its parts.
    ///
    /// # Errors
    /// [`SpiffeError::Segment`] when cluster or uid is not one path segment.
    pub fn new(
        trust_domain: TrustDomain,
        cluster: &str,
        node_uid: &str,
    ) -> Result<Self, SpiffeError> {
        Ok(Self {
            trust_domain,
            cluster: cluster.parse()?,
            node_uid: node_uid.parse()?,
        })
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster.0
    }

    /// The uid of the cluster's Node object.
    #[must_use]
    pub fn node_uid(&self) -> &str {
        &self.node_uid.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{SCHEME}{}/node/{}/{}",
            self.trust_domain,
            self.cluster(),
            self.node_uid()
        )
    }
}

/// An ID with a single name below its kind; `$kind` is the first path segment.
macro_rules! named_id {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type {
            trust_domain: TrustDomain,
            name: Segment,
        }

        impl $type {
            /// Makes the ID from its parts.
            ///
            /// # Errors
            /// [`SpiffeError::Segment`] when the name is not one path segment.
            pub fn new(trust_domain: TrustDomain, name: &str) -> Result<Self, SpiffeError> {
                Ok(Self { trust_domain, name: name.parse()? })
            }

            /// The trust domain.
            #[must_use]
            pub fn trust_domain(&self) -> &TrustDomain {
                &self.trust_domain
            }

            /// The name: the last path segment.
            #[must_use]
            pub fn name(&self) -> &str {
                &self.name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}{}/", $kind, "/{}"), SCHEME, self.trust_domain, self.name())
            }
        }
    };
}

named_id!(
    /// An operator's ID: `spiffe://<trust domain>/operator/<name>`.
    OperatorId,
    "operator"
);
named_id!(
    /// A broker's ID: `spiffe://<trust domain>/broker/<name>`.
    BrokerId,
    "broker"
);

/// Any peer of this system, by its SPIFFE ID.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerId {
    /// A machine with a node plugin.
    Node(NodeId),
    /// A person or a pipeline at the CLI.
    Operator(OperatorId),
    /// A broker.
    Broker(BrokerId),
}

impl PeerId {
    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::Node(id) => id.trust_domain(),
            Self::Operator(id) => id.trust_domain(),
            Self::Broker(id) => id.trust_domain(),
        }
    }
}

impl FromStr for PeerId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.is_empty() || text.len() > MAX_ID_BYTES {
            return Err(SpiffeError::Length { bytes: text.len() });
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        if rest.contains(['?', '#']) {
            return Err(SpiffeError::QueryOrFragment);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let trust_domain: TrustDomain = authority.parse()?;
        if path.is_empty() && !rest.ends_with('/') {
            return Err(SpiffeError::Kind);
        }
        let segments = path
            .split('/')
            .map(Segment::from_str)
            .collect::<Result<Vec<_>, _>>()?;
        match segments.as_slice() {
            [kind, cluster, node_uid] if &*kind.0 == "node" => Ok(Self::Node(NodeId {
                trust_domain,
                cluster: cluster.clone(),
                node_uid: node_uid.clone(),
            })),
            [kind, name] if &*kind.0 == "operator" => Ok(Self::Operator(OperatorId {
                trust_domain,
                name: name.clone(),
            })),
            [kind, name] if &*kind.0 == "broker" => Ok(Self::Broker(BrokerId {
                trust_domain,
                name: name.clone(),
            })),
            _ => Err(SpiffeError::Kind),
        }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => id.fmt(f),
            Self::Operator(id) => id.fmt(f),
            Self::Broker(id) => id.fmt(f),
        }
    }
}

/// The parts that every typed ID shares: its own strict parse, `Debug` as the ID, and the way into [`PeerId`].
macro_rules! typed_id {
    ($type:ident, $variant:ident) => {
        impl FromStr for $type {
            type Err = SpiffeError;

            fn from_str(text: &str) -> Result<Self, SpiffeError> {
                let PeerId::$variant(id) = text.parse()? else {
                    return Err(SpiffeError::Kind);
                };
                Ok(id)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl From<$type> for PeerId {
            fn from(id: $type) -> Self {
                Self::$variant(id)
            }
        }
    };
}

typed_id!(NodeId, Node);
typed_id!(OperatorId, Operator);
typed_id!(BrokerId, Broker);

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
