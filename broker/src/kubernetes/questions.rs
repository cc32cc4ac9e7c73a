//! What is asked: tokens, pods, nodes, the issuer and its keys, and what the broker itself may do.
//!
//! TokenReview looks at signature, times and audience, and whether pod and service account are there; it does **not** look
//! at the node, and accepts until a minute after a pod's deletion timestamp. Its asker does the rest.

use std::collections::BTreeMap;

use attache_envelope::name::{Namespace, NodeName, PodName};
use hyper::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use zeroize::Zeroizing;

use super::client::{Call, Client, Operation};
use super::error::ApiError;

/// The most bytes of what a server says of a token that it does not accept.
const MAX_SAID_BYTES: usize = 256;
/// The longest word of it that is kept: a token is one longer word.
const MAX_WORD_BYTES: usize = 64;

/// How many pods a page has; a few KiB each.
const PODS_A_PAGE: u32 = 250;

/// What the API server says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Review {
    /// It is this account's, for the audience that was asked about.
    Accepted(ReviewedUser),
    /// It is not; why, in the server's words.
    Rejected(String),
}

/// Whose token it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ReviewedUser {
    /// `system:serviceaccount:NAMESPACE:NAME` of a service account.
    #[serde(default)]
    pub username: String,
    /// The account's uid.
    #[serde(default)]
    pub uid: String,
    #[serde(default)]
    extra: Option<BTreeMap<String, Vec<String>>>,
}

impl ReviewedUser {
    /// The one value of an extra of `authentication.kubernetes.io/`: `pod-name`, `pod-uid`, `node-name`, `node-uid`,
    /// `credential-id`. None when there is none, or more than one.
    #[must_use]
    pub fn extra(&self, name: &str) -> Option<&str> {
        let key = format!("authentication.kubernetes.io/{name}");
        match self.extra.as_ref()?.get(&key)?.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }
}

/// What the cluster publishes of its issuer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Discovery {
    /// The `iss` of its tokens.
    pub issuer: String,
}

/// What was found behind an address and credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// The `iss` of the cluster's tokens.
    pub issuer: String,
    /// What the broker needs and may not do.
    pub missing: Vec<Operation>,
}

impl Client {
    /// Whose token it is, for this audience.
    ///
    /// # Errors
    /// [`ApiError`], here and below.
    pub async fn review(&self, token: &str, audience: &str) -> Result<Review, ApiError> {
        let asked = Asked {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenReview",
            spec: AskedSpec {
                token,
                audiences: [audience],
            },
        };
        let call = Call {
            operation: Operation::ReviewToken,
            method: Method::POST,
            path: "/apis/authentication.k8s.io/v1/tokenreviews".into(),
            body: Some(body(Operation::ReviewToken, &asked)?),
        };
        let answer: Answer<ReviewStatus> = self.ask(call).await?;
        Ok(answer.status.judged(audience))
    }

    /// The pod of that name.
    ///
    /// # Errors
    /// As [`Client::review`].
    pub async fn pod<T: DeserializeOwned + Send + 'static>(
        &self,
        namespace: &Namespace,
        name: &PodName,
    ) -> Result<Option<T>, ApiError> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        self.find(read(Operation::Pod, path)).await
    }

    /// A page of the pods of all namespaces: the first, or the one after the mark that the page before it ended with.
    ///
    /// # Errors
    /// As [`Client::review`].
    pub async fn pods<T: DeserializeOwned + Send + 'static>(
        &self,
        after: &str,
    ) -> Result<T, ApiError> {
        let after = escaped(after);
        let path = format!("/api/v1/pods?limit={PODS_A_PAGE}&continue={after}");
        self.ask(read(Operation::Pods, path)).await
    }

    /// The node of that name.
    ///
    /// # Errors
    /// As [`Client::review`].
    pub async fn node<T: DeserializeOwned + Send + 'static>(
        &self,
        name: &NodeName,
    ) -> Result<Option<T>, ApiError> {
        let path = format!("/api/v1/nodes/{name}");
        self.find(read(Operation::Node, path)).await
    }

    /// The issuer's keys: a JSON Web Key Set, as it was sent.
    ///
    /// # Errors
    /// As [`Client::review`].
    pub async fn keys(&self) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let path = "/openid/v1/jwks".into();
        self.bytes(read(Operation::Keys, path)).await
    }

    /// The issuer's name.
    ///
    /// # Errors
    /// As [`Client::review`].
    pub async fn discovery(&self) -> Result<Discovery, ApiError> {
        let path = "/.well-known/openid-configuration".into();
        self.ask(read(Operation::Issuer, path)).await
    }

    /// What there is behind these credentials, and which of what the broker needs it may not do.
    ///
    /// # Errors
    /// As [`Client::review`], for what it has to be able to read in any case.
    pub async fn probe(&self) -> Result<Probed, ApiError> {
        let operations = [Operation::ReviewToken, Operation::Pod, Operation::Node];
        let [token, pod, node] = operations.map(|operation| self.may(operation));
        let (discovery, keys, token, pod, node) =
            tokio::try_join!(self.discovery(), self.keys(), token, pod, node)?;
        drop(keys);
        let may = operations.into_iter().zip([token, pod, node]);
        Ok(Probed {
            issuer: discovery.issuer,
            missing: may.filter(|(_, may)| !may).map(|(it, _)| it).collect(),
        })
    }

    /// Whether the broker's account may do what this operation takes, in every namespace.
    ///
    /// # Errors
    /// As [`Client::review`].
    pub async fn may(&self, operation: Operation) -> Result<bool, ApiError> {
        let attributes = match operation {
            Operation::ReviewToken => {
                json!({"verb": "create", "group": "authentication.k8s.io", "resource": "tokenreviews"})
            }
            Operation::Pod => json!({"verb": "get", "resource": "pods"}),
            Operation::Pods => json!({"verb": "list", "resource": "pods"}),
            Operation::Node => json!({"verb": "get", "resource": "nodes"}),
            // Those are tried.
            Operation::Keys
            | Operation::Issuer
            | Operation::Access
            | Operation::Bundle
            | Operation::CsiNode
            | Operation::LiftTaint => return Ok(true),
        };
        let asked = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let call = Call {
            operation: Operation::Access,
            method: Method::POST,
            path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".into(),
            body: Some(body(Operation::Access, &asked)?),
        };
        let answer: Answer<AccessStatus> = self.ask(call).await?;
        Ok(answer.status.allowed)
    }
}

/// Everything but letters, digits, `-`, `_`, `.` and `~` as `%XX`: the server's own mark goes back to it in a query.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// A question that reads.
pub(super) fn read(operation: Operation, path: String) -> Call {
    Call {
        operation,
        method: Method::GET,
        path,
        body: None,
    }
}

/// Written into one allocation that is large enough, so that growing leaves no copy of a token behind.
pub(super) fn body(
    operation: Operation,
    asked: &impl serde::Serialize,
) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(32 * 1024));
    serde_json::to_writer(&mut *bytes, asked).map_err(|error| ApiError::Malformed {
        operation,
        problem: error.to_string(),
    })?;
    Ok(bytes)
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked<'a> {
    api_version: &'static str,
    kind: &'static str,
    spec: AskedSpec<'a>,
}

#[derive(serde::Serialize)]
struct AskedSpec<'a> {
    token: &'a str,
    audiences: [&'a str; 1],
}

#[derive(Deserialize)]
struct Answer<T> {
    status: T,
}

#[derive(Deserialize)]
struct AccessStatus {
    allowed: bool,
}

#[derive(Deserialize)]
struct ReviewStatus {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    user: ReviewedUser,
    #[serde(default)]
    audiences: Option<Vec<String>>,
    #[serde(default)]
    error: Option<String>,
}

impl ReviewStatus {
    fn judged(self, audience: &str) -> Review {
        let error = self.error.filter(|error| !error.is_empty());
        if !self.authenticated || error.is_some() {
            return Review::Rejected(said(error.as_deref().unwrap_or("it gives no reason")));
        }
        // A server that does not know of audiences leaves the list out, and has not compared any.
        let audiences = self.audiences.unwrap_or_default();
        if audiences.iter().any(|it| it == audience) {
            return Review::Accepted(self.user);
        }
        Review::Rejected("it is for another audience".into())
    }
}

/// The server's words without what could be a token, in one line.
fn said(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words = words.map(|word| {
        if word.len() > MAX_WORD_BYTES {
            "..."
        } else {
            word
        }
    });
    let mut line = words.collect::<Vec<_>>().join(" ");
    line.truncate(line.floor_char_boundary(MAX_SAID_BYTES));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: &str) -> Review {
        serde_json::from_str::<ReviewStatus>(status)
            .unwrap()
            .judged("attache")
    }

    #[test]
    fn a_token_is_accepted_only_for_the_audience_and_without_an_error() {
        let user = r#""user":{"username":"system:serviceaccount:a:b","uid":"u","extra":{
            "authentication.kubernetes.io/pod-name":["p"],
            "authentication.kubernetes.io/pod-uid":["one","two"],
            "authentication.kubernetes.io/node-uid":[]}}"#;
        let accepted = judged(&format!(
            r#"{{"authenticated":true,"audiences":["attache"],{user}}}"#
        ));
        let Review::Accepted(user_of) = accepted else {
            panic!("{accepted:?}")
        };
        assert_eq!(user_of.username, "system:serviceaccount:a:b");
        assert_eq!(user_of.extra("pod-name"), Some("p"));
        for none in ["pod-uid", "node-uid", "node-name"] {
            assert_eq!(user_of.extra(none), None, "{none}");
        }
        for rejected in [
            "{}".to_owned(),
            format!(r#"{{"authenticated":false,"audiences":["attache"],{user}}}"#),
            format!(r#"{{"authenticated":true,{user}}}"#),
            format!(r#"{{"authenticated":true,"audiences":[],{user}}}"#),
            format!(r#"{{"authenticated":true,"audiences":["other"],{user}}}"#),
            format!(r#"{{"authenticated":true,"audiences":["attache"],"error":"x",{user}}}"#),
        ] {
            assert!(
                matches!(judged(&rejected), Review::Rejected(_)),
                "{rejected}"
            );
        }
    }

    #[test]
    fn a_mark_goes_back_as_it_came() {
        assert_eq!(escaped("eyJ2Ij-_.~09="), "eyJ2Ij-_.~09%3D");
        assert_eq!(escaped("a b&c=d/é"), "a%20b%26c%3Dd%2F%C3%A9");
    }

    #[test]
    fn the_servers_words_hold_no_token_and_are_one_line() {
        let token = format!("eyJ{}", "a".repeat(MAX_WORD_BYTES));
        let line = said(&format!(
            "[invalid bearer token,\n{token} has been invalidated]"
        ));
        assert_eq!(line, "[invalid bearer token, ... has been invalidated]");
        assert!(said(&"é ".repeat(1000)).len() <= MAX_SAID_BYTES);
    }
}
