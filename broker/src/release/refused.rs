//! A refusal as its two readers get it: one line for the pod's author, one leaf for the operator.
//!
//! ```text
//! attache: denied (decision 7f3a9c12): REASON; an operator sees more with: attache why 7f3a9c12
//! attache: denied: REASON                                                            before a pod is proved
//! ```
//! The decision's id is an HMAC over cluster, pod, volume and the public reason: the same at every retry, and the same
//! for what is absent and for what is not granted.

use attache_envelope::denial::DenialId;
use attache_envelope::key::DenialKey;
use attache_envelope::name::{ClusterRef, VolumeId};
use attache_translog::{Alarm, Denial};
use thiserror::Error;

use super::Caller;
use crate::attest::{AttestedWorkload, PublicReason, Refusal, RefusalKind, Subject};
use crate::identity::Directory;

/// What is refused here.
const VERB: &str = "delivery.deliver";

/// A refusal that is on record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{line}")]
pub struct Refused {
    /// What it is to the caller.
    pub kind: RefusalKind,
    /// The one line that the pod's author sees.
    pub line: String,
    /// The decision's id, once a pod is proved.
    pub decision: Option<DenialId>,
}

/// The leaf and the answer of a refusal.
pub(super) fn denial(key: DenialKey<'_>, caller: &Caller, refusal: &Refusal) -> (Denial, Refused) {
    let reason = refusal.public().line();
    let subject = refusal.subject();
    let decision =
        subject.map(|it| DenialId::new(key, &it.cluster, &it.pod_uid, &it.volume, &reason));
    let line = match decision {
        Some(id) => format!(
            "attache: denied (decision {id}): {reason}; an operator sees more with: attache why {id}"
        ),
        None => format!("attache: denied: {reason}"),
    };
    let refused = Refused {
        kind: refusal.kind(),
        line,
        decision,
    };
    let references = if let PublicReason::NotGranted { reference, .. } = refusal.public() {
        Some(vec![reference.to_string()])
    } else {
        None
    };
    let denial = Denial {
        actor: caller.node.to_string(),
        serial: caller.serial.clone(),
        request: None,
        verb: VERB.to_owned(),
        object: None,
        cluster: subject.map(|it| it.cluster.to_string()),
        namespace: subject.map(|it| it.namespace.to_string()),
        service_account: subject.map(|it| it.service_account.to_string()),
        pod_name: subject.map(|it| it.pod_name.to_string()),
        pod_uid: subject.map(|it| it.pod_uid.to_string()),
        container: subject
            .and_then(|it| it.container.as_ref())
            .map(ToString::to_string),
        image: subject.and_then(|it| it.image.clone()),
        volume_id: subject.map(|it| VolumeId::of(&it.pod_uid, &it.volume).to_string()),
        volume_name: subject.map(|it| it.volume.to_string()),
        references,
        denial: decision.map(|id| *id.as_bytes()),
        public_reason: reason,
        true_reason: refusal.true_reason().to_owned(),
        policies: Some(refusal.policies().to_vec()).filter(|names| !names.is_empty()),
    };
    (denial, refused)
}

/// The alarm for a token of another node than the one that shows it: it was taken from there. A node that was made anew
/// under its name shows what kubelet still has, and is none.
pub(super) fn alarm(directory: &Directory, caller: &Caller, refusal: &Refusal) -> Option<Alarm> {
    let of = refusal.misplaced_from()?;
    let identity = caller.node.to_string();
    let view = directory.view();
    let known = view.nodes.get(&identity);
    if known.is_some_and(|(_, node)| node.name == of.as_str()) {
        return None;
    }
    let reason = format!(
        "it showed what belongs to another node: {}",
        refusal.true_reason()
    );
    Some(Alarm { identity, reason })
}

/// Whom a refusal of policy is about.
pub(super) fn subject(workload: &AttestedWorkload) -> Option<Subject> {
    let who = workload.workload();
    let ClusterRef::Name(cluster) = &who.cluster else {
        return None;
    };
    Some(Subject {
        cluster: cluster.clone(),
        namespace: who.namespace.clone(),
        service_account: who.service_account.clone(),
        pod_name: workload.pod_name().clone(),
        pod_uid: workload.pod_uid().clone(),
        volume: workload.volume().clone(),
        container: Some(who.container.clone()),
        image: workload.image().map(str::to_owned),
    })
}
