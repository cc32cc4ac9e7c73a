//! The pod's token, from where kubelet puts it to a type that cannot be printed.
//!
//! Kubelet hands tokens over as JSON, `{"AUDIENCE": {"token": "...", "expirationTimestamp": "..."}}`, in `secrets`
//! (KEP-5538) or, before that, in the volume context. Where `secrets` has it, a copy in the volume context was planted
//! by the pod's author: such a request is refused, never resolved.
//!
//! No error here repeats any of the JSON.

use std::collections::HashMap;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

use super::request::RequestError;

/// The key of the tokens, in either place.
pub const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// The longest token, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// A pod's service-account token. It has no `Debug`, `Display`, `Clone` or `Serialize`.
pub struct PodToken(SecretString);

impl PodToken {
    /// The text, for the one message that carries it to the broker.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Takes the token of `audience` from `secrets`, or from the volume context where `secrets` has none. Whatever
    /// else the two hold is wiped.
    ///
    /// # Errors
    /// [`RequestError`] naming the place and the mend.
    pub(super) fn take(
        secrets: HashMap<String, String>,
        in_context: Option<String>,
        audience: &str,
    ) -> Result<Self, RequestError> {
        let mut secrets = Secrets(secrets);
        let in_context = in_context.map(Zeroizing::new);
        let in_secrets = secrets.0.remove(TOKENS).map(Zeroizing::new);
        if !secrets.0.is_empty() {
            let mend =
                "has more than the pod's tokens; remove nodePublishSecretRef from the volume";
            return Err(RequestError::new("secrets", mend));
        }
        let (place, json) = match (in_secrets, in_context) {
            (Some(json), None) => (format!("secrets[{TOKENS}]"), json),
            (None, Some(json)) => (format!("volume_context[{TOKENS}]"), json),
            (Some(_), Some(_)) => {
                let mend = "stands beside the tokens in secrets and is not kubelet's; remove it from volumeAttributes";
                return Err(RequestError::new(format!("volume_context[{TOKENS}]"), mend));
            }
            (None, None) => {
                let mend = format!(
                    "has no {TOKENS}; the CSIDriver object must have tokenRequests with audience {audience}"
                );
                return Err(RequestError::new("secrets", mend));
            }
        };
        parse(&json, audience).map_err(|problem| RequestError::new(place, problem))
    }
}

/// The secrets of a request, wiped when dropped.
struct Secrets(HashMap<String, String>);

impl Drop for Secrets {
    fn drop(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
    }
}

#[derive(Deserialize)]
struct Entry {
    token: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

fn parse(json: &str, audience: &str) -> Result<PodToken, String> {
    // The parser's own words would quote the text.
    let mut entries: HashMap<String, Entry> = serde_json::from_str(json)
        .map_err(|_| "is not a JSON object of {audience: {token}}".to_owned())?;
    let Some(mut entry) = entries.remove(audience) else {
        return Err(format!(
            "has no token for audience {audience}; the CSIDriver object's tokenRequests must name it"
        ));
    };
    if entry.token.is_empty() || entry.token.len() > MAX_TOKEN_BYTES {
        return Err(format!(
            "has a token that is empty or has more than {MAX_TOKEN_BYTES} bytes"
        ));
    }
    if entry
        .token
        .chars()
        .any(|c| c.is_control() || c.is_whitespace())
    {
        return Err("has a token with blanks or control characters".to_owned());
    }
    Ok(PodToken(SecretString::from(std::mem::take(
        &mut entry.token,
    ))))
}
