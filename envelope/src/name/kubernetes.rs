//! Names that Kubernetes gives: labels, subdomains, uids, and kubelet's handle for an inline volume.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use super::grammar::{NameError, NameFault, Rule, is_lower, name};
use crate::id::parse_hex;
use crate::kdf;

/// RFC 1123 label, as Kubernetes has it.
const LABEL: Rule = Rule {
    first: is_lower,
    rest: |c| is_lower(c) || c == '-',
    last: is_lower,
    limit: 63,
    allowed: "use a-z and 0-9, and - between them",
};

/// RFC 1123 subdomain: labels with dots between.
const SUBDOMAIN: Rule = Rule {
    first: is_lower,
    rest: |c| is_lower(c) || matches!(c, '-' | '.'),
    last: is_lower,
    limit: 253,
    allowed: "use a-z and 0-9, and - and . between them",
};

/// A uid. Kubernetes promises no form, but uses uuids, and hex hashes for static pods; it also names folders.
const UID: Rule = Rule {
    first: |c| c.is_ascii_alphanumeric(),
    rest: |c| c.is_ascii_alphanumeric() || c == '-',
    last: |c| c.is_ascii_alphanumeric(),
    limit: 64,
    allowed: "use letters and digits, and - between them",
};

/// What kubelet puts before the hash of an inline volume's handle.
const VOLUME_ID_PREFIX: &str = "csi-";

name!(
    /// A namespace of a cluster.
    Namespace,
    |text| LABEL.check("the namespace", text)
);

name!(
    /// A service account.
    ServiceAccount,
    |text| SUBDOMAIN.check("the service account", text)
);

name!(
    /// A container of a pod.
    ContainerName,
    |text| LABEL.check("the container", text)
);

name!(
    /// A volume of a pod, as the pod names it.
    VolumeName,
    |text| LABEL.check("the volume's name", text)
);

name!(
    /// A pod's name.
    PodName,
    |text| SUBDOMAIN.check("the pod's name", text)
);

name!(
    /// A pod's uid.
    PodUid,
    |text| UID.check("the pod's uid", text)
);

name!(
    /// A node's name.
    NodeName,
    |text| SUBDOMAIN.check("the node's name", text)
);

name!(
    /// A node's uid.
    NodeUid,
    |text| UID.check("the node's uid", text)
);

/// Kubelet's handle of an inline volume: `csi-` and 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(Box<str>);

impl VolumeId {
    /// The handle of this volume of this pod: `"csi-" || hex(SHA-256(pod uid || volume name))`; Kubernetes,
    /// `pkg/volume/csi/csi_mounter.go`, `makeVolumeHandle`.
    #[must_use]
    pub fn of(pod: &PodUid, volume: &VolumeName) -> Self {
        let hash = kdf::sha256([pod.as_str(), volume.as_str()].concat().as_bytes());
        let mut text = String::from(VOLUME_ID_PREFIX);
        for byte in hash {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text.into())
    }

    /// The text as it was parsed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VolumeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.strip_prefix(VOLUME_ID_PREFIX)
            .and_then(|digits| parse_hex::<32>(digits.as_bytes()))
            .map(|_| Self(text.into()))
            .ok_or(NameError::new(
                "the volume id",
                NameFault::Form {
                    shape: "csi- and 64 lower-case hex digits, as kubelet makes for an inline volume",
                },
            ))
    }
}
