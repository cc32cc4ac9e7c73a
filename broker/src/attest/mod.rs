//! Attestation: from a node's certificate and a pod's token to one container that may ask.
//!
//! ```text
//! certificate -> NodeId ─┐
//! token       -> PodIdentity (token, jwks) ─┤
//! pod, node objects (facts) ────────────────┴-> AttestedWorkload (workload, attributes, posture)   | Refusal
//! ```
//! It stands before policy, and policy before release. It must never believe the node about the pod, and never tell a
//! caller more than [`PublicReason`] has words for.

pub mod attributes;
mod cluster;
mod enrolling;
pub mod facts;
pub mod files;
mod jwks;
mod posture;
mod quoted;
mod recent;
mod refusal;
mod token;
mod workload;

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use attache_envelope::name::{ClusterName, NameError};
use attache_mtls::spiffe::NodeId;
use jiff::Timestamp;

pub use cluster::{
    Cluster, ClusterError, ClusterRegistry, ClusterSpec, Enrollment, KubernetesSettings,
    KubernetesSource, MAX_PATH_BYTES, Source,
};
pub use enrolling::{EnrollingNode, NotEnrolling, enrolling};
pub use files::{Available, FilePlan, PlannedFile, WantedFiles, not_granted, plan_files};
pub use jwks::{Algorithm, JwksError, KeySet, Unusable};
pub use posture::{Excess, Posture};
pub use quoted::Quoted;
pub use refusal::{MAX_REASON_BYTES, PublicReason, Refusal, RefusalKind, Subject};
pub use token::{Expected, LEEWAY_S, MAX_TOKEN_BYTES, PodIdentity, PodToken, TokenError};
pub use workload::{AttestedWorkload, DRIVER, WorkloadFacts};

use facts::{FactsError, NotTaken, PodFacts};
use workload::{AskedVolume, Proof};

/// A request for a volume, as it came in. It has no `Debug`: it holds the token.
pub struct AttestRequest {
    /// The pod's token.
    pub token: PodToken,
    /// Kubelet's handle of the volume.
    pub volume_id: String,
    /// The volume's name in the pod.
    pub volume_name: String,
    /// The attributes as kubelet handed them over: compared, never used.
    pub attributes: HashMap<String, String>,
    /// What kubelet said of the pod: compared, never used.
    pub pod: PodHints,
    /// What kubelet gave for VOLUME_MOUNT_GROUP: compared, never used.
    pub mount_group: Option<u32>,
}

/// What kubelet says of a pod (podInfoOnMount).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodHints {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's service account.
    pub service_account: String,
}

/// Attests workloads of the clusters in a registry.
#[derive(Clone)]
pub struct Attestor {
    clusters: Arc<ClusterRegistry>,
}

impl Attestor {
    /// Attests for these clusters.
    #[must_use]
    pub fn new(clusters: Arc<ClusterRegistry>) -> Self {
        Self { clusters }
    }

    /// Attests the container that a volume of a pod is for, on behalf of the node whose certificate was verified.
    ///
    /// # Errors
    /// [`Refusal`] by the first check that fails, in the order: form, cluster, token, node, hints, pod, volume, container,
    /// attributes, user.
    ///
    /// # Cancel safety
    /// Reads only; a future that is dropped has changed nothing.
    pub async fn attest(
        &self,
        node: &NodeId,
        request: &AttestRequest,
        now: Timestamp,
    ) -> Result<AttestedWorkload, Refusal> {
        let asked = AskedVolume {
            name: field("volume_name", &request.volume_name)?,
            id: field("volume_id", &request.volume_id)?,
            attributes: &request.attributes,
            mount_group: request.mount_group,
        };
        let name: ClusterName = field("certificate", node.cluster())?;
        let unknown = || PublicReason::UnknownCluster {
            cluster: name.clone(),
        };
        let cluster = self.clusters.cluster(node.cluster()).ok_or_else(unknown)?;
        let facts = cluster.facts();
        let identity = verified(&cluster, &request.token, now).await?;
        if identity.node_uid.as_str() != node.node_uid() {
            return Err(Refusal::misplaced(&identity));
        }
        let mut subject = subject(&name, &identity, &asked);
        let proof = Proof {
            cluster: &name,
            node,
            identity: &identity,
        };
        let attested = bind(&proof, facts, request, asked, &mut subject).await;
        attested.map_err(|refusal| refusal.about(&subject))
    }
}

async fn verified(
    cluster: &Cluster,
    token: &PodToken,
    now: Timestamp,
) -> Result<Arc<PodIdentity>, Refusal> {
    let verified = under_its_keys(cluster, |keys| cluster.verify(token, keys, now)).await;
    let verified = verified.map_err(facts_away)?;
    verified.map_err(|error| Refusal::new(error.public(), error.to_string()))
}

/// What a token proves under the cluster's keys, looked for anew when the token's key is not among them.
async fn under_its_keys(
    cluster: &Cluster,
    verify: impl Fn(&Arc<KeySet>) -> Result<Arc<PodIdentity>, TokenError>,
) -> Result<Result<Arc<PodIdentity>, TokenError>, FactsError> {
    let keys = cluster.facts().keys(None).await?;
    match verify(&keys) {
        Err(TokenError::UnknownKey) => Ok(verify(&cluster.facts().keys(Some(&keys)).await?)),
        verified => Ok(verified),
    }
}

/// The steps that are about a pod which has shown its own token.
async fn bind(
    proof: &Proof<'_>,
    facts: &dyn PodFacts,
    request: &AttestRequest,
    asked: AskedVolume<'_>,
    subject: &mut Subject,
) -> Result<AttestedWorkload, Refusal> {
    check_hints(&request.pod, proof.identity)?;
    let bound = facts.bound(&request.token, proof.identity).await;
    let bound = bound.map_err(facts_away)?;
    // First what the pod's author can make something of: a token of a pod that is gone is not taken either.
    let pod = workload::check_binding(proof, bound.pod.as_deref(), bound.node.as_deref())?;
    bound.token.map_err(not_taken)?;
    Ok(workload::attest_volume(proof, pod, asked, subject)?)
}

fn check_hints(hints: &PodHints, token: &PodIdentity) -> Result<(), PublicReason> {
    let compared = [
        (
            "pod_namespace",
            hints.namespace.as_str(),
            token.namespace.as_str(),
        ),
        ("pod_name", &hints.name, token.pod_name.as_str()),
        ("pod_uid", &hints.uid, token.pod_uid.as_str()),
        (
            "service_account",
            &hints.service_account,
            token.service_account.as_str(),
        ),
    ];
    let differs = compared.iter().find(|(_, hint, proved)| hint != proved);
    differs.map_or(Ok(()), |(field, _, _)| Err(PublicReason::Hint { field }))
}

fn subject(cluster: &ClusterName, token: &PodIdentity, asked: &AskedVolume<'_>) -> Subject {
    Subject {
        cluster: cluster.clone(),
        namespace: token.namespace.clone(),
        service_account: token.service_account.clone(),
        pod_name: token.pod_name.clone(),
        pod_uid: token.pod_uid.clone(),
        volume: asked.name.clone(),
        container: None,
        image: None,
    }
}

fn not_taken(reason: NotTaken) -> Refusal {
    let public = match reason {
        NotTaken::Rejected(_) | NotTaken::Differs(_) => PublicReason::TokenRejected,
        NotTaken::Lacks(_) => PublicReason::TokenUnbound,
    };
    Refusal::new(public, reason.to_string())
}

fn facts_away(error: FactsError) -> Refusal {
    let mut true_reason = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        true_reason = format!("{true_reason}: {source}");
    }
    Refusal::new(PublicReason::FactsAway, true_reason)
}

fn field<T: FromStr<Err = NameError>>(name: &'static str, text: &str) -> Result<T, PublicReason> {
    text.parse()
        .map_err(|fault| PublicReason::Field { field: name, fault })
}

#[cfg(test)]
pub(crate) mod testdata;
#[cfg(test)]
mod tests;
