//! Enrollment: from the token of the node plugin's own pod to the node that it runs on.
//!
//! ```text
//! token (enrollment audience) -> PodIdentity -> its pod: of the account that may enroll, there, not going, on that node
//!                                            -> its node: there, with that uid                         -> EnrollingNode
//! ```
//! The token says what the API server says of the plugin's pod, as a workload's token does of its own; but it is for an
//! audience of its own, so that neither is good for the other's purpose. Whoever may create tokens for that account can
//! enroll the nodes that have no identity yet.

use attache_envelope::name::{ClusterName, NodeName, NodeUid};
use jiff::Timestamp;
use thiserror::Error;

use super::cluster::{ClusterRegistry, OtherAccount};
use super::facts::{Bound, FactsError, NotTaken, PodFacts};
use super::token::{PodIdentity, PodToken, TokenError};
use super::under_its_keys;

/// Why a token enrolls no node. It is told as it is: who shows a token of a pod that may enroll runs the plugin, and
/// whoever does not learns the cluster's settings from none of these.
#[derive(Debug, Error)]
pub enum NotEnrolling {
    /// No such cluster, or none whose pods may enroll nodes.
    #[error(
        "no pod of that cluster enrolls nodes here; an operator lets one by: attache cluster add NAME --enroll-service-account \
         NAMESPACE/NAME, or lets this node join with: attache node join-token"
    )]
    Cluster,
    /// The token proves nothing.
    #[error("the plugin's token: {0}")]
    Token(#[from] TokenError),
    /// The cluster does not take it.
    #[error("the plugin's token is not taken: {0}")]
    NotTaken(#[from] NotTaken),
    /// Another account's.
    #[error(transparent)]
    Account(#[from] OtherAccount),
    /// The pod of the token is not there any more, or on another node than the token says.
    #[error("the plugin's pod is not there, or not on the node that its token names")]
    Pod,
    /// The node of the token is not there any more.
    #[error("the Node object that the token names is not there, or has another uid")]
    Node,
    /// The cluster cannot be asked.
    #[error("the cluster's record cannot be read; trying again")]
    Away(#[source] FactsError),
}

/// A node whose cluster says that the plugin's own pod runs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollingNode {
    cluster: ClusterName,
    name: NodeName,
    uid: NodeUid,
    pod: String,
}

/// Finds out on which node the pod runs that shows `token`.
///
/// # Errors
/// [`NotEnrolling`] by the first check that fails, in the order: cluster, token, account, pod, node, review.
///
/// # Cancel safety
/// Reads only; a future that is dropped has changed nothing.
pub async fn enrolling(
    clusters: &ClusterRegistry,
    cluster: &ClusterName,
    token: &PodToken,
    now: Timestamp,
) -> Result<EnrollingNode, NotEnrolling> {
    let cluster = clusters
        .cluster(cluster.as_str())
        .ok_or(NotEnrolling::Cluster)?;
    let enrollment = cluster.enrollment().ok_or(NotEnrolling::Cluster)?;
    let issuer = cluster.spec().issuer();
    let verify = |keys: &_| enrollment.verify(issuer, token, keys, now);
    let verified = under_its_keys(&cluster, verify).await;
    let identity = verified.map_err(NotEnrolling::Away)??;
    enrollment.check_account(&identity)?;
    let bound = enrollment.facts().bound(token, &identity).await;
    let bound = bound.map_err(NotEnrolling::Away)?;
    check(&identity, &bound)?;
    bound.token?;
    Ok(EnrollingNode::of(cluster.spec().name(), &identity))
}

/// The pod is the token's, stays, and is on the token's node; the node is there.
fn check(token: &PodIdentity, bound: &Bound) -> Result<(), NotEnrolling> {
    let is_its_pod = bound.pod.as_ref().is_some_and(|pod| {
        pod.uid == token.pod_uid
            && !pod.deleted
            && pod.service_account == token.service_account
            && pod.node_name.as_ref() == Some(&token.node_name)
    });
    if !is_its_pod {
        return Err(NotEnrolling::Pod);
    }
    match &bound.node {
        Some(node) if node.uid == token.node_uid => Ok(()),
        Some(_) | None => Err(NotEnrolling::Node),
    }
}

impl EnrollingNode {
    fn of(cluster: &ClusterName, token: &PodIdentity) -> Self {
        Self {
            cluster: cluster.clone(),
            name: token.node_name.clone(),
            uid: token.node_uid.clone(),
            pod: format!(
                "{}/{} uid {}",
                token.namespace, token.pod_name, token.pod_uid
            ),
        }
    }

    /// Its cluster.
    #[must_use]
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The Node object's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// The Node object's uid.
    #[must_use]
    pub fn uid(&self) -> &NodeUid {
        &self.uid
    }

    /// The plugin's pod: `NAMESPACE/NAME uid UID`.
    #[must_use]
    pub fn pod(&self) -> &str {
        &self.pod
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testdata::{self, NODE_UID, OTHER_NODE_UID, POD_UID, pod};
    use super::*;

    /// What a cluster says of the fixture's token, with these changes to its pod.
    fn checked(changes: &[(&str, Value)], node: Option<&str>) -> Result<(), NotEnrolling> {
        let mut object = pod();
        for (path, value) in changes {
            let (parent, last) = path.rsplit_once('/').unwrap();
            object.pointer_mut(parent).unwrap()[last] = value.clone();
        }
        let node = node.map(|uid| testdata::node("node-a", uid));
        let bound = Bound {
            token: Ok(()),
            pod: Some(serde_json::from_value(object).unwrap()),
            node: node.map(|node| serde_json::from_value(node).unwrap()),
        };
        check(&testdata::identity(), &bound)
    }

    #[test]
    fn the_pod_is_the_tokens_own_stays_and_runs_on_the_tokens_node() {
        checked(&[], Some(NODE_UID)).unwrap();
        let other = json!("22222222-2222-4222-8222-222222222222");
        for (path, value) in [
            ("/metadata/uid", other),
            ("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")),
            ("/spec/serviceAccountName", json!("other")),
            ("/spec/nodeName", json!("node-b")),
            ("/spec/nodeName", Value::Null),
        ] {
            let refused = checked(&[(path, value)], Some(NODE_UID));
            assert!(matches!(refused, Err(NotEnrolling::Pod)), "{path}");
        }
        let gone = Bound {
            token: Ok(()),
            pod: None,
            node: None,
        };
        let refused = check(&testdata::identity(), &gone);
        assert!(matches!(refused, Err(NotEnrolling::Pod)));
    }

    #[test]
    fn the_node_is_there_with_the_uid_of_the_token() {
        for node in [None, Some(OTHER_NODE_UID)] {
            let refused = checked(&[], node);
            assert!(matches!(refused, Err(NotEnrolling::Node)), "{node:?}");
        }
    }

    #[test]
    fn an_enrolling_node_is_that_of_the_token() {
        let node = EnrollingNode::of(&"local".parse().unwrap(), &testdata::identity());
        assert_eq!(
            (
                node.cluster().as_str(),
                node.name().as_str(),
                node.uid().as_str()
            ),
            ("local", "node-a", NODE_UID)
        );
        assert_eq!(node.pod(), format!("shop/web-0 uid {POD_UID}"));
    }
}
