//! The claims of a service-account token, by type.
//!
//! ```text
//! iss, sub: string    aud: string or list of strings    exp, nbf, iat: integer, seconds since 1970, never negative
//! kubernetes.io: { namespace, pod { name, uid }, node { name, uid }, serviceaccount { name, uid } }
//! ```
//! A number as a string, a fraction, null, or a claim that stands there twice is refused: a time that is
//! read wrongly is a token that never ends. Sources: RFC 7519 section 4.1, Kubernetes KEP-1205 and KEP-4193.

use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;

use super::{PodIdentity, TokenError, parse_shallow};

const PREFIX: &str = "system:serviceaccount:";

/// The claims, typed and not yet checked.
#[derive(Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    sub: String,
    pub(super) aud: Audience,
    pub(super) exp: u64,
    pub(super) nbf: u64,
    pub(super) iat: u64,
    jti: Option<String>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Binding,
}

/// Whom a token is for.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Binding {
    namespace: String,
    pod: Option<Object>,
    node: Option<Object>,
    serviceaccount: Object,
}

#[derive(Deserialize)]
struct Object {
    name: String,
    uid: Option<String>,
}

/// Parses the claims of a token whose signature holds.
///
/// # Errors
/// [`TokenError::Claim`] with the first claim that is not of its type.
pub(super) fn parse(json: &[u8]) -> Result<Claims, TokenError> {
    parse_shallow(json).ok_or_else(|| TokenError::Claim {
        claim: first_wrong(json),
    })
}

impl Audience {
    /// Answers for exactly the expected audience.
    ///
    /// # Errors
    /// [`TokenError::Audience`], or [`TokenError::SharedAudience`] for more than the expected one.
    pub(super) fn check(&self, expected: &str) -> Result<(), TokenError> {
        let audiences = match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        };
        if !audiences.iter().any(|audience| audience == expected) {
            return Err(TokenError::Audience);
        }
        if audiences.iter().any(|audience| audience != expected) {
            return Err(TokenError::SharedAudience);
        }
        Ok(())
    }
}

impl Claims {
    /// What the token proves.
    ///
    /// # Errors
    /// [`TokenError`] for a binding that is not whole, or names that are none.
    pub(super) fn into_identity(self) -> Result<PodIdentity, TokenError> {
        let Binding {
            namespace,
            pod,
            node,
            serviceaccount,
        } = self.kubernetes;
        if self.sub != format!("{PREFIX}{namespace}:{}", serviceaccount.name) {
            return Err(TokenError::Subject);
        }
        let whole = |object: Option<Object>, kind| {
            let object = object.and_then(|object| Some((object.name, object.uid?)));
            object.ok_or(TokenError::Unbound { object: kind })
        };
        let ((pod_name, pod_uid), (node_name, node_uid)) =
            (whole(pod, "pod")?, whole(node, "node")?);
        Ok(PodIdentity {
            namespace: name(&namespace, "kubernetes.io.namespace")?,
            service_account: name(&serviceaccount.name, "kubernetes.io.serviceaccount.name")?,
            pod_name: name(&pod_name, "kubernetes.io.pod.name")?,
            pod_uid: name(&pod_uid, "kubernetes.io.pod.uid")?,
            node_name: name(&node_name, "kubernetes.io.node.name")?,
            node_uid: name(&node_uid, "kubernetes.io.node.uid")?,
            token_id: self.jti,
            expires_s: self.exp,
        })
    }
}

fn name<T: FromStr>(text: &str, claim: &'static str) -> Result<T, TokenError> {
    text.parse().map_err(|_| TokenError::Claim { claim })
}

/// A claim, and whether a value is of its type.
type Check = (&'static str, fn(&Value) -> bool);

/// Which claim is wrong, for the operator: found by a second look, since a parser's own words quote what it read.
fn first_wrong(json: &[u8]) -> &'static str {
    let Some(claims) = parse_shallow::<Value>(json) else {
        return "set (it is no JSON object of few levels)";
    };
    let audience = |value: &Value| {
        let texts = |all: &Vec<Value>| all.iter().all(Value::is_string);
        value.is_string() || value.as_array().is_some_and(texts)
    };
    let checks: [Check; 7] = [
        ("iss", Value::is_string),
        ("sub", Value::is_string),
        ("exp", Value::is_u64),
        ("nbf", Value::is_u64),
        ("iat", Value::is_u64),
        ("aud", audience),
        ("kubernetes.io", Value::is_object),
    ];
    let wrong = checks
        .iter()
        .find(|(name, right)| !claims.get(name).is_some_and(right));
    wrong.map_or(
        "kubernetes.io, jti, or one that stands there twice",
        |(name, _)| name,
    )
}
