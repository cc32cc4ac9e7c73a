//! A cluster's record by its API server: what it says of a token, of the token's pod and of that pod's node.
//!
//! ```text
//! keys (JWKS) -> the token is verified here first -> TokenReview | pod | node, side by side
//! TokenReview: signature, times, audience, pod and account are there; what it names must be what the claims say
//! pod, node:   their objects, read for this; TokenReview looks at neither the node nor, for a minute, at a deletion
//! ```
//! | what | is believed for |
//! |---|---|
//! | a token that was accepted, a pod | [`POD_KNOWN_FOR`] |
//! | a node | [`NODE_KNOWN_FOR`] |
//! | what was refused or is not there | [`ABSENT_FOR`] |
//! | the issuer's keys | [`KEYS_KNOWN_FOR`]; a key that is missing is looked for again, once in [`KEYS_AGAIN`] |
//!
//! So a deletion is not seen for these times at most, and a republish within them asks nothing.

use std::sync::Arc;
use std::time::Duration;

use attache_envelope::name::{NodeName, PodUid};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::jwks::KeySet;
use super::super::token::{PodIdentity, PodToken};
use super::answers::Answers;
use super::object::{NodeObject, PodObject};
use super::{Bound, FactFuture, FactsError, NotTaken, PodFacts};
use crate::kubernetes::{Client, Operation, Review, ReviewedUser};
use crate::metrics::ApiMetrics;

/// For how long a pod, and that its token was accepted, is believed.
pub const POD_KNOWN_FOR: Duration = Duration::from_secs(5);
/// For how long a node is believed.
pub const NODE_KNOWN_FOR: Duration = Duration::from_secs(10);
/// For how long it is believed that something is not there, or was refused.
pub const ABSENT_FOR: Duration = Duration::from_secs(1);
/// For how long the issuer's keys are used.
pub const KEYS_KNOWN_FOR: Duration = Duration::from_secs(300);
/// How often a key that is not among them is looked for.
pub const KEYS_AGAIN: Duration = Duration::from_secs(5);

/// The Kubernetes source.
pub struct KubernetesFacts {
    api: Client,
    audience: Box<str>,
    metrics: ApiMetrics,
    keys: Mutex<Option<Keys>>,
    reviews: Answers<[u8; 32], Result<(), NotTaken>>,
    /// By the uid that is looked for, so that a pod or node made anew is not taken for the one before, nor waits for it.
    pods: Answers<PodUid, Option<Arc<PodObject>>>,
    nodes: Answers<(NodeName, Box<str>), Option<Arc<NodeObject>>>,
}

struct Keys {
    set: Arc<KeySet>,
    asked: Instant,
}

impl KubernetesFacts {
    /// A source over this API server, for tokens of this audience; nothing is asked yet.
    #[must_use]
    pub fn new(api: Client, audience: &str, metrics: ApiMetrics) -> Self {
        Self {
            api,
            audience: audience.into(),
            metrics,
            keys: Mutex::new(None),
            reviews: Answers::new(),
            pods: Answers::new(),
            nodes: Answers::new(),
        }
    }

    /// The lock is held while the server is asked: one asks, and the others wait for that.
    async fn key_set(&self, without: Option<&Arc<KeySet>>) -> Result<Arc<KeySet>, FactsError> {
        let mut kept = self.keys.lock().await;
        if let Some(keys) = &*kept {
            let lacks = without.is_some_and(|without| Arc::ptr_eq(without, &keys.set));
            let good_for = if lacks { KEYS_AGAIN } else { KEYS_KNOWN_FOR };
            if keys.asked.elapsed() < good_for {
                return Ok(Arc::clone(&keys.set));
            }
        }
        let asked = Instant::now();
        let set = KeySet::parse(&self.api.keys().await?).map_err(FactsError::ApiKeys)?;
        let set = Arc::new(set);
        *kept = Some(Keys {
            set: Arc::clone(&set),
            asked,
        });
        Ok(set)
    }

    async fn reviewed(
        &self,
        token: &PodToken,
        identity: &PodIdentity,
    ) -> Result<Result<(), NotTaken>, FactsError> {
        let ask = async {
            let review = self.api.review(token.expose(), &self.audience).await?;
            Ok(match review {
                Review::Accepted(user) => compare(&user, identity),
                Review::Rejected(said) => Err(NotTaken::Rejected(said)),
            })
        };
        let good_for = |taken: &Result<_, _>| match taken {
            Ok(()) => POD_KNOWN_FOR,
            Err(_) => ABSENT_FOR,
        };
        let answer = self.reviews.find(*token.hash(), ask, good_for).await?;
        self.answered(Operation::ReviewToken, answer.cached);
        Ok(answer.value)
    }

    async fn pod(&self, identity: &PodIdentity) -> Result<Option<Arc<PodObject>>, FactsError> {
        let (namespace, name, uid) = (&identity.namespace, &identity.pod_name, &identity.pod_uid);
        let ask = async {
            let pod: Option<PodObject> = self.api.pod(namespace, name).await?;
            Ok(pod
                .filter(|pod| pod.namespace == *namespace && pod.name == *name)
                .map(Arc::new))
        };
        let good_for = |pod: &Option<Arc<PodObject>>| match pod {
            Some(pod) if pod.uid == *uid && !pod.deleted => POD_KNOWN_FOR,
            Some(_) | None => ABSENT_FOR,
        };
        let answer = self.pods.find(uid.clone(), ask, good_for).await?;
        self.answered(Operation::Pod, answer.cached);
        Ok(answer.value)
    }

    async fn node_by_uid(
        &self,
        name: &NodeName,
        uid: &str,
    ) -> Result<Option<Arc<NodeObject>>, FactsError> {
        let ask = async {
            let node: Option<NodeObject> = self.api.node(name).await?;
            Ok(node.filter(|node| node.name == *name).map(Arc::new))
        };
        let good_for = |node: &Option<Arc<NodeObject>>| match node {
            Some(node) if node.uid.as_str() == uid => NODE_KNOWN_FOR,
            Some(_) | None => ABSENT_FOR,
        };
        let key = (name.clone(), uid.into());
        let answer = self.nodes.find(key, ask, good_for).await?;
        self.answered(Operation::Node, answer.cached);
        Ok(answer.value)
    }

    async fn bound_to(
        &self,
        token: &PodToken,
        identity: &PodIdentity,
    ) -> Result<Bound, FactsError> {
        let (token, pod, node) = tokio::join!(
            self.reviewed(token, identity),
            self.pod(identity),
            self.node_by_uid(&identity.node_name, identity.node_uid.as_str()),
        );
        Ok(Bound {
            token: token?,
            pod: pod?,
            node: node?,
        })
    }

    fn answered(&self, operation: Operation, cached: bool) {
        self.metrics.answered(operation.name(), cached);
    }
}

/// Holds what the server read in a token against what was read here.
fn compare(user: &ReviewedUser, token: &PodIdentity) -> Result<(), NotTaken> {
    let account = format!(
        "system:serviceaccount:{}:{}",
        token.namespace, token.service_account
    );
    if user.username != account {
        return Err(NotTaken::Differs("username"));
    }
    let id = token.token_id.as_ref().map(|id| format!("JTI={id}"));
    let extras = [
        ("pod-name", Some(token.pod_name.as_str())),
        ("pod-uid", Some(token.pod_uid.as_str())),
        ("node-name", Some(token.node_name.as_str())),
        ("node-uid", Some(token.node_uid.as_str())),
        ("credential-id", id.as_deref()),
    ];
    for (name, claimed) in extras {
        match (user.extra(name), claimed) {
            (Some(said), Some(claimed)) if said == claimed => {}
            (None, None) => {}
            (None, Some(_)) => return Err(NotTaken::Lacks(name)),
            (Some(_), _) => return Err(NotTaken::Differs(name)),
        }
    }
    Ok(())
}

impl PodFacts for KubernetesFacts {
    fn keys<'a>(&'a self, without: Option<&'a Arc<KeySet>>) -> FactFuture<'a, Arc<KeySet>> {
        Box::pin(self.key_set(without))
    }

    fn node<'a>(&'a self, name: &'a NodeName) -> FactFuture<'a, Option<Arc<NodeObject>>> {
        Box::pin(async move {
            let node: Option<NodeObject> = self.api.node(name).await?;
            Ok(node.filter(|node| node.name == *name).map(Arc::new))
        })
    }

    fn known_node<'a>(
        &'a self,
        name: &'a NodeName,
        uid: &'a str,
    ) -> FactFuture<'a, Option<Arc<NodeObject>>> {
        Box::pin(self.node_by_uid(name, uid))
    }

    fn bound<'a>(
        &'a self,
        token: &'a PodToken,
        identity: &'a PodIdentity,
    ) -> FactFuture<'a, Bound> {
        Box::pin(self.bound_to(token, identity))
    }
}

#[cfg(test)]
mod tests;
