//! Enrolling: evidence for a certificate, on the listener without client certificates.
//!
//! ```text
//! join token               its pin says by which CA the broker is known; which broker it is comes from its certificate
//! projected token          trust bundle and broker are settings: nothing is believed at first sight
//! ```
//! Which broker it was must be what its answer says, and is pinned from then on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use attache_mtls::connect::Connector;
use attache_mtls::identity::PeerIdentity;
use attache_mtls::key::{KeyError, LeafKey};
use attache_mtls::public_file::read_public;
use attache_mtls::spiffe::{BrokerId, PeerId};
use attache_mtls::tls::{MaterialError, anonymous_client_config, spki_pinned_client_config};
use attache_proto::attache::v1 as pb;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use pb::enrollment_client::EnrollmentClient;
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use thiserror::Error;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use super::IdentitySettings;
use super::issued::{Issued, IssuedError};
use super::join_token::{JoinToken, JoinTokenError};
use super::trust::{self, TrustError};
use crate::agent::broker::{CallError, RefusalKind, answered, endpoint};
use crate::config::Evidence;

/// The most bytes of a projected token.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;

/// Why this node has not enrolled.
#[derive(Debug, Error)]
pub(super) enum EnrollError {
    /// The join token.
    #[error(transparent)]
    JoinToken(#[from] JoinTokenError),
    /// The projected token.
    #[error("{}: the pod's projected token cannot be read (agent.enroll_token_file)", path.display())]
    PodToken {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The trust bundle.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A projected token without a broker to show it to.
    #[error("broker.id and broker.trust_bundle_file are not set")]
    NoBroker,
    /// TLS cannot be set up.
    #[error("the TLS configuration was refused")]
    Tls(#[from] MaterialError),
    /// The own request.
    #[error("no certificate request could be made")]
    Request(#[from] KeyError),
    /// The broker cannot be reached, or is not the one that is meant.
    #[error(
        "the broker at broker.enroll_address cannot be reached, or is not the one that the join token or the trust bundle names"
    )]
    Connect(#[source] tonic::transport::Error),
    /// The broker refused, or did not answer.
    #[error("the broker gave no certificate")]
    Call(#[from] CallError),
    /// The answer names another broker than the connection's peer.
    #[error("the broker's answer names another broker than its certificate")]
    OtherBroker,
    /// The certificate in the answer.
    #[error("the broker's answer is refused")]
    Issued(#[from] IssuedError),
}

impl EnrollError {
    /// Whether the broker was asked and said no, for a reason that does not pass by itself.
    pub(super) fn is_the_brokers_no(&self) -> bool {
        matches!(
            self,
            Self::Call(CallError::Refused {
                kind: RefusalKind::InvalidArgument
                    | RefusalKind::Unauthenticated
                    | RefusalKind::KeyUnknown
                    | RefusalKind::PermissionDenied,
                ..
            })
        )
    }
}

/// What enrolling brings.
pub(super) struct Answer {
    pub(super) issued: Issued,
    pub(super) broker: BrokerId,
}

/// Shows this node's evidence for a certificate of `key`.
pub(super) async fn enroll(
    settings: &IdentitySettings,
    key: &LeafKey,
) -> Result<Answer, EnrollError> {
    let csr = key.certificate_request()?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let limit = settings.deadlines.call;
    match &settings.evidence {
        Evidence::JoinToken(file) => {
            let token = JoinToken::read(file)?;
            let connection = connect(settings, spki_pinned_client_config(token.pin)?).await?;
            let request = pb::JoinNodeRequest {
                token: token.text.expose_secret().to_owned(),
                csr,
                version,
            };
            let mut client = EnrollmentClient::new(connection.channel.clone());
            let call = tokio::time::timeout(limit, client.join_node(request));
            let response = answered("JoinNode", call.await)?;
            let answer = connection.answer(response.broker_id, response.certificate, key)?;
            answer.issued.require_pin(token.pin)?;
            Ok(answer)
        }
        Evidence::ServiceAccount {
            token_file,
            cluster,
        } => {
            let trusted = settings.trust.as_ref().ok_or(EnrollError::NoBroker)?;
            let bundle = Arc::new(trust::read(&trusted.bundle_file)?);
            let tls = anonymous_client_config(bundle, trusted.broker.clone())?;
            let connection = connect(settings, tls).await?;
            let request = pb::EnrollNodeRequest {
                cluster: cluster.to_string(),
                token: pod_token(token_file)?,
                csr,
                version,
            };
            let mut client = EnrollmentClient::new(connection.channel.clone());
            let call = tokio::time::timeout(limit, client.enroll_node(request));
            let response = answered("EnrollNode", call.await)?;
            connection.answer(response.broker_id, response.certificate, key)
        }
    }
}

/// The token as kubelet wrote it; kubelet replaces the file long before the token ends.
fn pod_token(file: &Path) -> Result<String, EnrollError> {
    let failed = |source| EnrollError::PodToken {
        path: file.to_owned(),
        source,
    };
    let bytes = Zeroizing::new(read_public(file, MAX_TOKEN_BYTES).map_err(failed)?);
    let text =
        std::str::from_utf8(&bytes).map_err(|_| failed(io::ErrorKind::InvalidData.into()))?;
    Ok(text.trim_ascii().to_owned())
}

/// A connection to the enrollment listener, and who it is with.
pub(super) struct Connection {
    pub(super) channel: Channel,
    peer: Arc<Mutex<Option<Arc<PeerIdentity>>>>,
}

pub(super) async fn connect(
    settings: &IdentitySettings,
    tls: Arc<ClientConfig>,
) -> Result<Connection, EnrollError> {
    let peer: Arc<Mutex<Option<Arc<PeerIdentity>>>> = Arc::default();
    let connector = Connector::new(tls, settings.deadlines.connect);
    let (seen, address) = (Arc::clone(&peer), Arc::clone(&settings.enroll_address));
    let connect = tower::service_fn(move |_| {
        let (connector, seen) = (connector.clone(), Arc::clone(&seen));
        let address = Arc::clone(&address);
        async move {
            let stream = connector.connect(&*address).await?;
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = stream.connect_info().peer;
            Ok::<_, attache_mtls::stream::HandshakeError>(TokioIo::new(stream))
        }
    });
    let channel = endpoint()
        .connect_with_connector(connect)
        .await
        .map_err(EnrollError::Connect)?;
    Ok(Connection { channel, peer })
}

impl Connection {
    /// Checks an answer against the connection that it came by, and the key that was sent.
    fn answer(
        &self,
        broker_id: String,
        certificate: Option<pb::IssuedCertificate>,
        key: &LeafKey,
    ) -> Result<Answer, EnrollError> {
        let broker = self.broker().ok_or(EnrollError::OtherBroker)?;
        if broker_id != broker.to_string() {
            return Err(EnrollError::OtherBroker);
        }
        let issued = Issued::check(certificate, key, Timestamp::now())?;
        Ok(Answer { issued, broker })
    }

    /// The broker that the connection has proven.
    fn broker(&self) -> Option<BrokerId> {
        let peer = self.peer.lock().unwrap_or_else(PoisonError::into_inner);
        match peer.as_ref()?.id() {
            PeerId::Broker(broker) => Some(broker.clone()),
            PeerId::Node(_) | PeerId::Operator(_) => None,
        }
    }
}
