//! What is good for one certificate: a join token for one node, a code for one operator.
//!
//! ```text
//! text   = "attache-join-1:" | "attache-operator-1:", then base64url without padding of (id 16 || secret 32 || pin 32)
//! pin    = SHA-256(SubjectPublicKeyInfo of the CA): how whoever has it knows the broker, before there is a bundle
//! stored = SHA-256(LP("attache/join-token/1" | "attache/operator-code/1", id, secret)); the secret itself is nowhere
//! ```
//! The secret has 256 bits, so a fast hash is enough: there is nothing to guess from. One is never taken for the other.

use std::marker::PhantomData;

use attache_envelope::lp::Lp;
use attache_mtls::identity::SpkiSha256;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::SignedDuration;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// How long a join token can be redeemed.
pub const JOIN_TOKEN_LIFETIME: SignedDuration = SignedDuration::from_mins(10);
/// How long an operator's code can be: it goes from person to person.
pub const OPERATOR_CODE_LIFETIME: SignedDuration = SignedDuration::from_hours(1);
/// id 16, secret 32, pin 32.
const BYTES: usize = 80;
/// [`BYTES`] in base64 without padding.
const TEXT_BYTES: usize = 107;

/// What one is good for.
pub trait Purpose {
    /// What its text begins with.
    const PREFIX: &'static str;
    /// The label of its hash.
    const LABEL: &'static str;
    /// What it is called.
    const NAME: &'static str;
}

/// One node's first certificate.
pub struct ForNode;

impl Purpose for ForNode {
    const PREFIX: &'static str = "attache-join-1:";
    const LABEL: &'static str = "attache/join-token/1";
    const NAME: &'static str = "join token";
}

/// One operator's sign-in.
pub struct ForOperator;

impl Purpose for ForOperator {
    const PREFIX: &'static str = "attache-operator-1:";
    const LABEL: &'static str = "attache/operator-code/1";
    const NAME: &'static str = "operator's code";
}

/// For a node.
pub type JoinToken = OneTime<ForNode>;
/// For an operator.
pub type OperatorCode = OneTime<ForOperator>;

/// Why a text is none. It never says which character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no {name}: it begins with {prefix} and has {} characters", prefix.len() + TEXT_BYTES)]
pub struct Malformed {
    name: &'static str,
    prefix: &'static str,
}

/// A parsed or new one. It cannot be printed.
pub struct OneTime<P> {
    id: [u8; 16],
    secret: Zeroizing<[u8; 32]>,
    pin: SpkiSha256,
    purpose: PhantomData<P>,
}

/// What the store keeps of its secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl<P: Purpose> OneTime<P> {
    /// Draws one for the CA with this pin.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn draw(pin: SpkiSha256) -> Result<Self, ring::error::Unspecified> {
        let rng = SystemRandom::new();
        let mut token = Self {
            id: [0; 16],
            secret: Zeroizing::new([0; 32]),
            pin,
            purpose: PhantomData,
        };
        rng.fill(&mut token.id)?;
        rng.fill(token.secret.as_mut())?;
        Ok(token)
    }

    /// Parses a text.
    ///
    /// # Errors
    /// [`Malformed`], whatever is wrong.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        Self::parsed(text).ok_or(Malformed {
            name: P::NAME,
            prefix: P::PREFIX,
        })
    }

    fn parsed(text: &str) -> Option<Self> {
        let encoded = text
            .strip_prefix(P::PREFIX)
            .filter(|e| e.len() == TEXT_BYTES)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).ok()?);
        let (id, rest) = bytes.split_first_chunk::<16>()?;
        let (secret, rest) = rest.split_first_chunk::<32>()?;
        let pin: [u8; 32] = rest.try_into().ok()?;
        Some(Self {
            id: *id,
            secret: Zeroizing::new(*secret),
            pin: SpkiSha256::from_bytes(pin),
            purpose: PhantomData,
        })
    }

    /// The text that is handed over.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES));
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(self.secret.as_ref());
        bytes.extend_from_slice(self.pin.as_bytes());
        Zeroizing::new(format!(
            "{}{}",
            P::PREFIX,
            URL_SAFE_NO_PAD.encode(bytes.as_slice())
        ))
    }

    /// The row's key.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// The pin of the CA that it was made under.
    #[must_use]
    pub fn pin(&self) -> SpkiSha256 {
        self.pin
    }

    /// What the store keeps.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        let lp = Lp::labelled(P::LABEL)
            .bytes(&self.id)
            .bytes(self.secret.as_ref());
        let encoded = Zeroizing::new(lp.into_bytes());
        TokenHash(Sha256::digest(encoded.as_slice()).into())
    }

    /// Whether the stored hash is this one's, in constant time.
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
        assert_eq!(text.len(), ForNode::PREFIX.len() + TEXT_BYTES);
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
            purpose: PhantomData,
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
            ForNode::PREFIX,
            shorter,
            &format!("{good}A"),
            &good.replace(ForNode::PREFIX, "attache-join-2:"),
            &good.replace(ForNode::PREFIX, ForOperator::PREFIX),
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
        are_those_of_the_vectors::<ForNode>("join-token");
        are_those_of_the_vectors::<ForOperator>("operator-code");
    }

    fn are_those_of_the_vectors<P: Purpose>(file: &str) {
        run(file, true, |given, expected| match expected {
            Expected::Out(out) => {
                let token = OneTime::<P> {
                    id: given.array("id"),
                    secret: Zeroizing::new(given.array("secret")),
                    pin: SpkiSha256::from_bytes(given.array("pin")),
                    purpose: PhantomData,
                };
                assert_eq!(*token.text(), out.text("text"));
                assert_eq!(token.hash().0.as_slice(), out.bytes("hash"));
                let parsed = OneTime::<P>::parse(out.text("text")).unwrap();
                assert_eq!((parsed.id(), parsed.pin()), (token.id(), token.pin()));
                assert!(parsed.matches(token.hash()));
            }
            Expected::Refused => assert!(OneTime::<P>::parse(given.text("text")).is_err()),
        });
    }
}
