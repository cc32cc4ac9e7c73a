//! Denial ids: what a pod's author sees of a refusal, the same on every retry.
//!
//! ```text
//! id = first 8 hex of HMAC-SHA256(K_denial, LP("attache/denial/1", cluster, pod uid, volume name, public reason))
//! ```
//!
//! Absent and not granted are one public reason; the true one is in the audit only.

use std::fmt;
use std::str::FromStr;

use crate::id::{IdError, parse_hex};
use crate::kdf;
use crate::key::DenialKey;
use crate::lp::Lp;
use crate::name::{ClusterName, PodUid, VolumeName};

/// The id of a refusal: 4 bytes, shown as 8 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DenialId([u8; 4]);

impl DenialId {
    /// The id of this refusal of this volume.
    #[must_use]
    pub fn new(
        key: DenialKey<'_>,
        cluster: &ClusterName,
        pod: &PodUid,
        volume: &VolumeName,
        public_reason: &str,
    ) -> Self {
        let input = Lp::labelled("attache/denial/1")
            .str(cluster.as_str())
            .str(pod.as_str())
            .str(volume.as_str())
            .str(public_reason);
        let [a, b, c, d, ..] = kdf::hmac(key.bytes(), input.as_bytes());
        Self([a, b, c, d])
    }

    /// The 4 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 4] {
        &self.0
    }
}

impl fmt::Display for DenialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for DenialId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex(text.as_bytes()).map(Self).ok_or(IdError {
            kind: "the decision",
            shape: "8 lower-case hex digits",
        })
    }
}

#[cfg(test)]
mod tests;
