//! The one-time join token, as its file holds it.
//!
//! It carries the hash of the CA's public key, so that a broker is known by the token alone.

use std::path::{Path, PathBuf};

use attache_mtls::identity::SpkiSha256;
use attache_mtls::private_file::{PrivateFileError, read_private};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use thiserror::Error;
use zeroize::Zeroizing;

const PREFIX: &str = "attache-join-1:";
/// id 16, secret 32, pin 32.
const TOKEN_BYTES: usize = 80;

/// Why there is none.
#[derive(Debug, Error)]
pub(in crate::agent) enum JoinTokenError {
    /// The file.
    #[error(
        "no usable certificate, and the join token cannot be read (agent.join_token_file); make one with: attache node join-token"
    )]
    File(#[from] PrivateFileError),
    /// The file holds no token.
    #[error("{}: holds no join token: it begins with {PREFIX}", .0.display())]
    NoToken(PathBuf),
}

/// A join token: `attache-join-1:` || base64url without padding of (id 16 || secret 32 || SHA-256 of the CA's SPKI 32).
pub(super) struct JoinToken {
    /// All of it, as it is shown.
    pub(super) text: SecretString,
    /// The CA's.
    pub(super) pin: SpkiSha256,
}

impl JoinToken {
    /// Reads the file: a small local one, on a thread that has nothing else to do before this node has joined.
    pub(super) fn read(file: &Path) -> Result<Self, JoinTokenError> {
        let bytes = read_private(file)?;
        std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| Self::parse(text.trim_end_matches(['\n', '\r'])))
            .ok_or_else(|| JoinTokenError::NoToken(file.to_owned()))
    }

    fn parse(text: &str) -> Option<Self> {
        let decoded = URL_SAFE_NO_PAD
            .decode(text.strip_prefix(PREFIX)?)
            .ok()
            .map(Zeroizing::new)?;
        if decoded.len() != TOKEN_BYTES {
            return None;
        }
        let pin = SpkiSha256::from_bytes(*decoded.last_chunk::<32>()?);
        Some(Self {
            text: SecretString::from(text),
            pin,
        })
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::vectors::{Expected, run};

    #[test]
    fn a_token_gives_its_pin_and_nothing_else_is_one() {
        let mut bytes = [7_u8; TOKEN_BYTES];
        bytes[48..].fill(9);
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        let token = JoinToken::parse(&text).unwrap();
        assert_eq!(token.pin, SpkiSha256::from_bytes([9; 32]));
        assert_eq!(token.text.expose_secret(), text);
        for bad in [
            String::new(),
            PREFIX.to_owned(),
            text.replace("join-1", "join-2"),
            text[..text.len() - 1].to_owned(),
            format!("{text}A"),
            format!("{text}="),
            format!(" {text}"),
            format!("{text}\0"),
        ] {
            assert!(JoinToken::parse(&bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn tokens_are_those_of_the_vectors() {
        run("join-token", true, |given, expected| match expected {
            Expected::Out(out) => {
                let token = JoinToken::parse(out.text("text")).unwrap();
                assert_eq!(token.pin.as_bytes().as_slice(), given.bytes("pin"));
            }
            Expected::Refused => assert!(JoinToken::parse(given.text("text")).is_none()),
        });
    }

    #[test]
    fn a_file_that_holds_no_token_is_named_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("join-token");
        attache_mtls::private_file::write_private(&path, b"canary-3c1f").unwrap();
        let message = JoinToken::read(&path).err().unwrap().to_string();
        assert!(
            message.contains("join-token") && !message.contains("canary"),
            "{message}"
        );
        let absent = JoinToken::read(&folder.path().join("none")).err().unwrap();
        assert!(
            absent.to_string().contains("attache node join-token"),
            "{absent}"
        );
    }
}
