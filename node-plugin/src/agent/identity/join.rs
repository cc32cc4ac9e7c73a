//! Joining: the one-time token for a certificate, on the listener without client certificates.
//!
//! The token carries the hash of the CA's public key, so the broker is known by that alone; which broker it is comes
//! from its certificate, must be what its answer says, and is pinned from then on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use attache_mtls::connect::Connector;
use attache_mtls::identity::{PeerIdentity, SpkiSha256};
use attache_mtls::key::{KeyError, LeafKey};
use attache_mtls::private_file::{PrivateFileError, read_private};
use attache_mtls::spiffe::{BrokerId, PeerId};
use attache_mtls::tls::{MaterialError, spki_pinned_client_config};
use attache_proto::attache::v1 as pb;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use pb::enrollment_client::EnrollmentClient;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use zeroize::Zeroizing;

use super::IdentitySettings;
use super::issued::{Issued, IssuedError};
use crate::agent::broker::{CallError, answered, endpoint};

const PREFIX: &str = "attache-join-1:";
/// id 16, secret 32, pin 32.
const TOKEN_BYTES: usize = 80;

/// Why this node has not joined.
#[derive(Debug, Error)]
pub(super) enum JoinError {
    /// The token's file.
    #[error(
        "no usable certificate, and the join token cannot be read (agent.join_token_file); make one with: attache node join-token"
    )]
    File(#[from] PrivateFileError),
    /// The file holds no token.
    #[error("{}: holds no join token: it begins with {PREFIX}", .0.display())]
    NoToken(PathBuf),
    /// TLS cannot be set up.
    #[error("the TLS configuration was refused")]
    Tls(#[from] MaterialError),
    /// The own request.
    #[error("no certificate request could be made")]
    Request(#[from] KeyError),
    /// The broker cannot be reached, or is not one whose CA the token names.
    #[error(
        "the broker at broker.enroll_address cannot be reached, or is not the one that made the join token"
    )]
    Connect(#[source] tonic::transport::Error),
    /// The broker refused, or did not answer.
    #[error("the broker did not let this node join")]
    Call(#[from] CallError),
    /// The answer names another broker than the connection's peer.
    #[error("the broker's answer names another broker than its certificate")]
    OtherBroker,
    /// The certificate in the answer.
    #[error("the broker's answer is refused")]
    Issued(#[from] IssuedError),
}

/// What a join brings.
pub(super) struct Answer {
    pub(super) issued: Issued,
    pub(super) broker: BrokerId,
}

/// Redeems the join token for a certificate of `key`.
pub(super) async fn join(settings: &IdentitySettings, key: &LeafKey) -> Result<Answer, JoinError> {
    let file = settings.join_token_file.clone();
    // A small local file; the runtime has nothing else to do before this node has joined.
    let token = Token::read(&file)?;
    let peer: Arc<Mutex<Option<Arc<PeerIdentity>>>> = Arc::default();
    let connector = Connector::new(
        spki_pinned_client_config(token.pin)?,
        settings.deadlines.connect,
    );
    let (seen, address) = (Arc::clone(&peer), settings.enroll_address);
    let connect = tower::service_fn(move |_| {
        let (connector, seen) = (connector.clone(), Arc::clone(&seen));
        async move {
            let stream = connector.connect(address).await?;
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = stream.connect_info().peer;
            Ok::<_, attache_mtls::stream::HandshakeError>(TokioIo::new(stream))
        }
    });
    let channel = endpoint()
        .connect_with_connector(connect)
        .await
        .map_err(JoinError::Connect)?;
    let request = pb::JoinNodeRequest {
        token: token.text.expose_secret().to_owned(),
        csr: key.certificate_request()?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut client = EnrollmentClient::new(channel);
    let call = client.join_node(request);
    let response = answered(
        "JoinNode",
        tokio::time::timeout(settings.deadlines.call, call).await,
    )?;
    let broker = proven(&peer).ok_or(JoinError::OtherBroker)?;
    if response.broker_id != broker.to_string() {
        return Err(JoinError::OtherBroker);
    }
    let issued = Issued::check(response.certificate, key, Timestamp::now())?;
    issued.require_pin(token.pin)?;
    Ok(Answer { issued, broker })
}

/// The broker that the connection has proven.
fn proven(peer: &Mutex<Option<Arc<PeerIdentity>>>) -> Option<BrokerId> {
    let peer = peer
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()?;
    match peer.id() {
        PeerId::Broker(broker) => Some(broker.clone()),
        PeerId::Node(_) | PeerId::Operator(_) => None,
    }
}

/// A join token: `attache-join-1:` || base64url without padding of (id 16 || secret 32 || SHA-256 of the CA's SPKI 32).
struct Token {
    text: SecretString,
    pin: SpkiSha256,
}

impl Token {
    fn read(file: &Path) -> Result<Self, JoinError> {
        let bytes = read_private(file)?;
        std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| Self::parse(text.trim_end_matches(['\n', '\r'])))
            .ok_or_else(|| JoinError::NoToken(file.to_owned()))
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
    use super::*;
    use crate::vectors::{Expected, run};

    #[test]
    fn a_token_gives_its_pin_and_nothing_else_is_one() {
        let mut bytes = [7_u8; TOKEN_BYTES];
        bytes[48..].fill(9);
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        let token = Token::parse(&text).unwrap();
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
            assert!(Token::parse(&bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn tokens_are_those_of_the_vectors() {
        run("join-token", true, |given, expected| match expected {
            Expected::Out(out) => {
                let token = Token::parse(out.text("text")).unwrap();
                assert_eq!(token.pin.as_bytes().as_slice(), given.bytes("pin"));
            }
            Expected::Refused => assert!(Token::parse(given.text("text")).is_none()),
        });
    }

    #[test]
    fn a_file_that_holds_no_token_is_named_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("join-token");
        attache_mtls::private_file::write_private(&path, b"canary-3c1f").unwrap();
        let message = Token::read(&path).err().unwrap().to_string();
        assert!(
            message.contains("join-token") && !message.contains("canary"),
            "{message}"
        );
        let absent = Token::read(&folder.path().join("none")).err().unwrap();
        assert!(
            absent.to_string().contains("attache node join-token"),
            "{absent}"
        );
    }
}
