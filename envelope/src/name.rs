//! The grammar of names and references, parsed once at the edge.
//!
//! ```text
//! REF      = KEYSPACE/NAME[@VERSION][#FIELD]   segments [a-z0-9][a-z0-9._-]{0,62}, at most 4 of them
//! KEY      = KEYSPACE@EPOCH
//! FIELD    = [A-Za-z0-9_][A-Za-z0-9._-]{0,127}
//! WORKLOAD = CLUSTER/NAMESPACE/SERVICEACCOUNT/CONTAINER   CLUSTER may be @GROUP
//! ```
//!
//! `Display` of each type gives back the text that was parsed. An error names the part and the mend, and never
//! repeats the text: what stands where a name should be may be a secret typed in the wrong place.

mod grammar;
mod kubernetes;
mod reference;

pub use grammar::{
    ClusterGroup, ClusterName, FieldName, GrantName, Keyspace, NameError, NameFault, SecretName,
    SlotName,
};
pub use kubernetes::{
    ContainerName, Namespace, NodeName, NodeUid, PodName, PodUid, ServiceAccount, VolumeId,
    VolumeName,
};
pub use reference::{ClusterRef, KeyRef, SecretPath, SecretRef, SecretVersion, WorkloadRef};

#[cfg(test)]
mod tests;
