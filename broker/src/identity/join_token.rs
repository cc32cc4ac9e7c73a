//! Join tokens: one use, one node, ten minutes.
//!
//! ```text
//! text   = "attache-join-1:" || base64url without padding of (id 16 || secret 32 || pin 32)
//! pin    = SHA-256(SubjectPublicKeyInfo of the CA): how the joining node knows the broker, before it has a bundle
//! stored = SHA-256(LP("attache/join-token/1", id, secret)); the secret itself is nowhere
//! ```
//! The secret has 256 bits, so a fast hash is enough: there is nothing to guess from.

use attache_envelope::lp::Lp;
use attache_mtls::identity::SpkiSha256;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::SignedDuration;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What the text begins with.
const PREFIX: &str = "attache-join-1:";
/// How long a token can be redeemed.
pub const LIFETIME: SignedDuration = SignedDuration::from_mins(10);
/// id 16, secret 32, pin 32.
const BYTES: usize = 80;
/// [`BYTES`] in base64 without padding.
const TEXT_BYTES: usize = 107;

/// Why a text is no join token. It never says which character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a join token: it begins with {PREFIX} and has {} characters", PREFIX.len() + TEXT_BYTES)]
pub struct MalformedToken;

/// A parsed or new token. It cannot be printed.
pub struct JoinToken {
    id: [u8; 16],
    secret: Zeroizing<[u8; 32]>,
    pin: SpkiSha256,
}

/// What the store keeps of a token's secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl JoinToken {
    /// Draws a token for the CA with this pin.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn draw(pin: SpkiSha256) -> Result<Self, ring::error::Unspecified> {
        let rng = SystemRandom::new();
        let mut token = Self {
            id: [0; 16],
            secret: Zeroizing::new([0; 32]),
            pin,
        };
        rng.fill(&mut token.id)?;
        rng.fill(token.secret.as_mut())?;
        Ok(token)
    }

    /// Parses a token's text.
    ///
    /// # Errors
    /// [`MalformedToken`], whatever is wrong.
    pub fn parse(text: &str) -> Result<Self, MalformedToken> {
        let encoded = text
            .strip_prefix(PREFIX)
            .filter(|e| e.len() == TEXT_BYTES)
            .ok_or(MalformedToken)?;
        let bytes = Zeroizing::new(
            URL_SAFE_NO_PAD
                .decode(encoded)
                .map_err(|_| MalformedToken)?,
        );
        let (id, rest) = bytes.split_first_chunk::<16>().ok_or(MalformedToken)?;
        let (secret, rest) = rest.split_first_chunk::<32>().ok_or(MalformedToken)?;
        let pin: [u8; 32] = rest.try_into().map_err(|_| MalformedToken)?;
        Ok(Self {
            id: *id,
            secret: Zeroizing::new(*secret),
            pin: SpkiSha256::from_bytes(pin),
        })
    }

    /// The text that the node's administrator hands over.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES));
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(self.secret.as_ref());
        bytes.extend_from_slice(self.pin.as_bytes());
        Zeroizing::new(format!(
            "{PREFIX}{}",
            URL_SAFE_NO_PAD.encode(bytes.as_slice())
        ))
    }

    /// The row's key.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// The pin of the CA that the token was made under.
    #[must_use]
    pub fn pin(&self) -> SpkiSha256 {
        self.pin
    }

    /// What the store keeps.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        let lp = Lp::labelled("attache/join-token/1")
            .bytes(&self.id)
            .bytes(self.secret.as_ref());
        let encoded = Zeroizing::new(lp.into_bytes());
        TokenHash(Sha256::digest(encoded.as_slice()).into())
    }

    /// Whether the stored hash is this token's, in constant time.
    #[must_use]
    pub fn matches(&self, stored: TokenHash) -> bool {
        self.hash().0.ct_eq(&stored.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Expected, run};

    fn pin() -> SpkiSha256 {
        SpkiSha256::from_bytes([7; 32])
    }

    #[test]
    fn a_token_survives_its_text() {
        let token = JoinToken::draw(pin()).unwrap();
        let text = token.text();
        assert_eq!(text.len(), PREFIX.len() + TEXT_BYTES);
        let parsed = JoinToken::parse(&text).unwrap();
        assert_eq!((parsed.id(), parsed.pin()), (token.id(), token.pin()));
        assert!(parsed.matches(token.hash()));
    }

    #[test]
    fn another_secret_or_id_does_not_match() {
        let (a, b) = (
            JoinToken::draw(pin()).unwrap(),
            JoinToken::draw(pin()).unwrap(),
        );
        assert!(!a.matches(b.hash()));
        let swapped = JoinToken {
            id: b.id,
            secret: Zeroizing::new(*a.secret),
            pin: a.pin,
        };
        assert!(!swapped.matches(a.hash()));
    }

    #[test]
    fn anything_else_is_refused_without_an_echo() {
        let good = JoinToken::draw(pin()).unwrap().text().to_string();
        let shorter = &good[..good.len() - 1];
        for bad in [
            "",
            "x",
            PREFIX,
            shorter,
            &format!("{good}A"),
            &good.replace(PREFIX, "attache-join-2:"),
            &format!("{shorter}="),
            &format!("{shorter}\0"),
        ] {
            let error = JoinToken::parse(bad)
                .err()
                .expect("must be refused")
                .to_string();
            assert!(!error.contains(&good[20..40]), "{error}");
        }
    }

    #[test]
    fn tokens_are_those_of_the_vectors() {
        run("join-token", true, |given, expected| match expected {
            Expected::Out(out) => {
                let token = JoinToken {
                    id: given.array("id"),
                    secret: Zeroizing::new(given.array("secret")),
                    pin: SpkiSha256::from_bytes(given.array("pin")),
                };
                assert_eq!(*token.text(), out.text("text"));
                assert_eq!(token.hash().0.as_slice(), out.bytes("hash"));
                let parsed = JoinToken::parse(out.text("text")).unwrap();
                assert_eq!((parsed.id(), parsed.pin()), (token.id(), token.pin()));
                assert!(parsed.matches(token.hash()));
            }
            Expected::Refused => assert!(JoinToken::parse(given.text("text")).is_err()),
        });
    }
}
