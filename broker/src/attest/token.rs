//! The pod's service-account token: verified once, into a type that only verification makes.
//!
//! ```text
//! token  = base64url(header) "." base64url(claims) "." base64url(signature)       RFC 7515 section 3.1, RFC 7519
//! header -> kid -> key -> alg must be the key's -> signature -> claims -> iss, aud, exp, nbf, iat, sub, binding
//! ```
//! Nothing of the claims is parsed before the signature holds. No time is lent to `exp`; `nbf` and `iat` may be up to
//! [`LEEWAY_S`] ahead, for clocks that differ. The audience must be the cluster's and **no other**: kubelet asks for one
//! audience a token, and whoever else a token is meant for could show it here. No message of this module ever has
//! a part of a token in it.

mod claims;

use std::sync::Arc;

use attache_envelope::name::{Namespace, NodeName, NodeUid, PodName, PodUid, ServiceAccount};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use super::jwks::{KeySet, MAX_KID_BYTES, Unusable};
use super::refusal::PublicReason;

/// The most bytes of a token; kubelet's have about 1,200.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// By how many seconds `nbf` and `iat` may be ahead of this machine's clock.
pub const LEEWAY_S: u64 = 5;
/// How deep the JSON of header and claims may nest; kubelet's nests three levels.
const MAX_DEPTH: usize = 8;

/// A token as it came in. It cannot be printed, copied or compared, and is wiped when dropped.
pub struct PodToken {
    text: Zeroizing<String>,
    hash: [u8; 32],
}

impl PodToken {
    /// Takes a token out of a request.
    #[must_use]
    pub fn new(text: String) -> Self {
        let text = Zeroizing::new(text);
        let hash = Sha256::digest(text.as_bytes()).into();
        Self { text, hash }
    }

    /// For hashing and verification alone.
    pub(super) fn expose(&self) -> &str {
        &self.text
    }

    /// SHA-256 of the token: by what it is known again.
    pub(super) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }
}

/// What a cluster's tokens must say.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// `iss`.
    pub issuer: &'a str,
    /// `aud`.
    pub audience: &'a str,
}

/// What a verified token proves: this pod of this service account, on this node, until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIdentity {
    pub(super) namespace: Namespace,
    pub(super) service_account: ServiceAccount,
    pub(super) pod_name: PodName,
    pub(super) pod_uid: PodUid,
    pub(super) node_name: NodeName,
    pub(super) node_uid: NodeUid,
    pub(super) token_id: Option<String>,
    expires_s: u64,
}

impl PodIdentity {
    /// Whether the token is still valid.
    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        seconds(now) < self.expires_s
    }
}

/// Why a token proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not three parts of base64url, or too long.
    #[error("the token is not a signed JWT of at most {MAX_TOKEN_BYTES} bytes")]
    Malformed,
    /// A header that is no JOSE header, or that asks for an extension.
    #[error("the token's header is not that of a signed JWT without extensions (alg, kid)")]
    Header,
    /// No key of that id.
    #[error("no key of the cluster's key set has the token's kid")]
    UnknownKey,
    /// A key that verifies nothing.
    #[error("the token's key cannot be used: {0}")]
    UnusableKey(Unusable),
    /// `none`, a MAC, or another algorithm than the key's.
    #[error("the token's alg is not {expected}, that of its key")]
    Algorithm {
        /// The key's.
        expected: &'static str,
    },
    /// The signature is not the key's.
    #[error("the token's signature does not verify")]
    Signature,
    /// A claim that is missing or of another type.
    #[error("the token's claim {claim} is missing or malformed")]
    Claim {
        /// Which.
        claim: &'static str,
    },
    /// Not bound to a pod, or to a node with its uid.
    #[error("the token's claim kubernetes.io.{object} is missing or without name or uid")]
    Unbound {
        /// `pod` or `node`.
        object: &'static str,
    },
    /// Another issuer.
    #[error("the token's iss is not the cluster's issuer")]
    Issuer,
    /// Not for us.
    #[error("the token's aud is not the cluster's audience")]
    Audience,
    /// For us and others.
    #[error("the token's aud has other audiences beside the cluster's")]
    SharedAudience,
    /// `sub` is not the service account of the private claim.
    #[error("the token's sub is not the service account of kubernetes.io")]
    Subject,
    /// Too late.
    #[error("the token's exp has passed")]
    Expired,
    /// Too early, by `nbf` or `iat`.
    #[error("the token's nbf or iat is ahead by more than {LEEWAY_S} s")]
    NotYetValid,
}

impl TokenError {
    /// What the pod's author is told. How a signature was found wanting is not among it.
    #[must_use]
    pub fn public(self) -> PublicReason {
        match self {
            Self::Malformed
            | Self::Header
            | Self::UnknownKey
            | Self::UnusableKey(_)
            | Self::Algorithm { .. }
            | Self::Signature
            | Self::Claim { .. }
            | Self::Subject => PublicReason::TokenRejected,
            Self::Unbound { .. } => PublicReason::TokenUnbound,
            Self::Issuer => PublicReason::TokenIssuer,
            Self::Audience => PublicReason::TokenAudience,
            Self::SharedAudience => PublicReason::TokenSharedAudience,
            Self::Expired => PublicReason::TokenExpired,
            Self::NotYetValid => PublicReason::TokenNotYetValid,
        }
    }
}

/// Verifies a token under a cluster's keys, and takes out what it proves.
///
/// # Errors
/// [`TokenError`], the first that is found.
pub(super) fn verify(
    token: &PodToken,
    keys: &KeySet,
    expected: Expected<'_>,
    now: Timestamp,
) -> Result<Arc<PodIdentity>, TokenError> {
    let claims = signed_claims(token.expose(), keys)?;
    let claims = claims::parse(&claims)?;
    if claims.iss != expected.issuer {
        return Err(TokenError::Issuer);
    }
    claims.aud.check(expected.audience)?;
    let now = seconds(now);
    if claims.exp <= now {
        return Err(TokenError::Expired);
    }
    if claims.nbf.max(claims.iat) > now.saturating_add(LEEWAY_S) {
        return Err(TokenError::NotYetValid);
    }
    claims.into_identity().map(Arc::new)
}

/// The bytes of the claims, once the signature over them holds.
fn signed_claims(token: &str, keys: &KeySet) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Malformed);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, claims) = message.split_once('.').ok_or(TokenError::Malformed)?;
    // A dot left over in the claims is not of the alphabet, so a token of four or five parts ends here.
    let [header, claims, signature] = [header, claims, signature].map(|part| {
        let decoded = URL_SAFE_NO_PAD.decode(part).map(Zeroizing::new);
        decoded.map_err(|_| TokenError::Malformed)
    });
    let (header, claims, signature) = (header?, claims?, signature?);
    let header = Header::parse(&header)?;
    let key = keys
        .find(header.kid.as_deref())
        .ok_or(TokenError::UnknownKey)?
        .map_err(TokenError::UnusableKey)?;
    let expected = key.algorithm().name();
    if header.alg != expected {
        return Err(TokenError::Algorithm { expected });
    }
    if !key.verifies(message.as_bytes(), &signature) {
        return Err(TokenError::Signature);
    }
    Ok(claims)
}

/// What is read of a JOSE header. Keys that a header brings along (`jwk`, `jku`, `x5c`, `x5u`) are not.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood, of which there are none here; RFC 7515 section 4.1.11.
    #[serde(default, deserialize_with = "is_present")]
    crit: bool,
    /// Compression of the content; RFC 7516 section 4.1.3.
    #[serde(default, deserialize_with = "is_present")]
    zip: bool,
}

impl Header {
    fn parse(json: &[u8]) -> Result<Self, TokenError> {
        let header: Self = parse_shallow(json).ok_or(TokenError::Header)?;
        let long = header
            .kid
            .as_ref()
            .is_some_and(|kid| kid.len() > MAX_KID_BYTES);
        if long || header.crit || header.zip {
            return Err(TokenError::Header);
        }
        Ok(header)
    }
}

fn is_present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// Parses JSON that nests no deeper than [`MAX_DEPTH`].
fn parse_shallow<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return None;
        }
    }
    serde_json::from_slice(json).ok()
}

/// Seconds since 1970; a clock before that makes every token one of the future.
fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
