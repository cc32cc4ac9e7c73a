//! The broker, as the agent calls it: one connection, deadlines, and its answers sorted into what a caller can do.
//!
//! A connection is bound to the certificate that opened it, so a renewal replaces the connection: calls that are under
//! way end on the old one, later ones never use it.
//!
//! The message of a refusal is the broker's and passes on as it is. What a transport says is never passed on, since it
//! differs from try to try; it goes to the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::telemetry::chain;
use arc_swap::ArcSwap;
use attache_mtls::bundle::TrustBundle;
use attache_mtls::connect::Connector;
use attache_mtls::spiffe::{BrokerId, NodeId, PeerId};
use attache_mtls::tls::{Credentials, Material, MaterialError};
use attache_proto::attache::v1 as pb;
use attache_proto::details::Details;
use hyper_util::rt::TokioIo;
use pb::delivery_client::DeliveryClient;
use pb::renewal_client::RenewalClient;
use rustls::ClientConfig;
use thiserror::Error;
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How often an idle connection is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(20);
/// How long that may take.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// The reasons of a broker whose store does not know a node's key, or not the node.
const KEY_UNKNOWN: [&str; 2] = ["BEFORE_RESTORE", "UNKNOWN_IDENTITY"];
/// The largest answer: a volume's values, their names and the files.
const MAX_ANSWER_BYTES: usize = 3 * 1024 * 1024;

/// Deadlines of everything that goes to the broker.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Address, TCP and TLS of a connection.
    pub connect: Duration,
    /// One call.
    pub call: Duration,
}

/// Why a call did not succeed.
#[derive(Debug, Error)]
pub enum CallError {
    /// The broker answered and refused.
    #[error("{message}")]
    Refused {
        /// How.
        kind: RefusalKind,
        /// Its words, for the pod's author.
        message: String,
    },
    /// There is no connection, or it failed.
    #[error("the broker cannot be reached; trying again")]
    Away,
    /// It did not answer in time.
    #[error("the broker does not answer; trying again")]
    Silent,
}

/// How the broker refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request is malformed.
    InvalidArgument,
    /// The node's certificate or the pod's token is not good.
    Unauthenticated,
    /// The broker does not know the node's key: its store went back to a state from before that was certified. No later
    /// call with the same key does better.
    KeyUnknown,
    /// Denied, or absent.
    PermissionDenied,
    /// A limit.
    ResourceExhausted,
    /// Something that the broker needs is away.
    Unavailable,
    /// A record is damaged, or a defect.
    Internal,
}

/// A broker and who this node is to it.
pub struct Broker {
    id: BrokerId,
    node: NodeId,
    credentials: Credentials,
    tls: Arc<ClientConfig>,
    address: Arc<str>,
    deadlines: Deadlines,
    channel: ArcSwap<Channel>,
    /// The last call was answered, or there was none.
    answering: AtomicBool,
    key_unknown: Notify,
}

/// Why no client was made.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// The certificate is another kind of peer's.
    #[error("the own certificate is not a node's")]
    NotANode,
    /// TLS cannot be set up.
    #[error("the TLS configuration was refused")]
    Tls(#[from] MaterialError),
}

impl Broker {
    /// A client that presents `material` and speaks to the broker `id` only. Connects at the first call.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn new(
        id: BrokerId,
        material: Material,
        address: Arc<str>,
        deadlines: Deadlines,
    ) -> Result<Self, BrokerError> {
        let PeerId::Node(node) = material.identity().id().clone() else {
            return Err(BrokerError::NotANode);
        };
        let credentials = Credentials::new(material);
        let tls = credentials.client_config(id.clone())?;
        let channel = lazy_channel(&tls, &address, deadlines);
        Ok(Self {
            id,
            node,
            credentials,
            tls,
            address,
            deadlines,
            channel: ArcSwap::from_pointee(channel),
            answering: AtomicBool::new(true),
            key_unknown: Notify::new(),
        })
    }

    /// The broker's SPIFFE ID, which every connection has proven.
    #[must_use]
    pub fn id(&self) -> &BrokerId {
        &self.id
    }

    /// This node's SPIFFE ID.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Whether the last call was answered, be it by a refusal; also before the first one.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed)
    }

    /// Waits until a call was refused because the broker does not know this node's key.
    ///
    /// # Cancel safety
    /// May be dropped at any time; a refusal is kept until it was waited for.
    pub async fn key_unknown(&self) {
        self.key_unknown.notified().await;
    }

    /// The certificate in use.
    #[must_use]
    pub fn material(&self) -> Arc<Material> {
        self.credentials.current()
    }

    /// Takes a renewed certificate into use, on a new connection.
    ///
    /// # Errors
    /// [`MaterialError::OtherIdentity`].
    pub fn renewed(&self, material: Material) -> Result<(), MaterialError> {
        self.credentials.reload(material)?;
        self.reconnect();
        Ok(())
    }

    /// Takes other roots into use, on a new connection: what was connected under those before is not used any more.
    pub fn trust(&self, bundle: TrustBundle) {
        self.credentials.reload_bundle(Arc::new(bundle));
        self.reconnect();
    }

    fn reconnect(&self) {
        let channel = lazy_channel(&self.tls, &self.address, self.deadlines);
        self.channel.store(Arc::new(channel));
    }

    /// Asks for a delivery.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Cancel safety
    /// May be dropped at any time; the broker may have recorded a release that nobody opens.
    pub async fn deliver(
        &self,
        request: pb::DeliverRequest,
    ) -> Result<pb::DeliverResponse, CallError> {
        let mut client =
            DeliveryClient::new(self.connection()).max_decoding_message_size(MAX_ANSWER_BYTES);
        let call = client.deliver(request);
        self.noted(answered(
            "Deliver",
            tokio::time::timeout(self.deadlines.call, call).await,
        ))
    }

    /// Has the next key signed.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn renew(&self, csr: Vec<u8>) -> Result<pb::RenewResponse, CallError> {
        let mut client = RenewalClient::new(self.connection());
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let call = client.renew(pb::RenewRequest { csr, version });
        self.noted(answered(
            "Renew",
            tokio::time::timeout(self.deadlines.call, call).await,
        ))
    }

    fn noted<T>(&self, outcome: Result<T, CallError>) -> Result<T, CallError> {
        let lost = matches!(outcome, Err(CallError::Away | CallError::Silent));
        self.answering.store(!lost, Ordering::Relaxed);
        if let Err(CallError::Refused { kind, .. }) = &outcome
            && *kind == RefusalKind::KeyUnknown
        {
            self.key_unknown.notify_one();
        }
        outcome
    }

    fn connection(&self) -> Channel {
        Channel::clone(&self.channel.load())
    }
}

/// A connection that is opened at the first call, and again after it was lost.
fn lazy_channel(tls: &Arc<ClientConfig>, address: &Arc<str>, deadlines: Deadlines) -> Channel {
    let connector = Connector::new(Arc::clone(tls), deadlines.connect);
    let address = Arc::clone(address);
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_| {
        let (connector, address) = (connector.clone(), Arc::clone(&address));
        async move {
            let connected = connector.connect(&*address).await.map(TokioIo::new);
            if let Err(error) = &connected {
                let error = chain(error);
                tracing::warn!(%address, %error, "no connection to the broker");
            }
            connected
        }
    }))
}

/// The settings of a connection. The name in it is looked up by nobody.
pub(super) fn endpoint() -> Endpoint {
    Endpoint::from_static("http://broker.invalid")
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// Sorts an answer, a refusal and silence.
pub(super) fn answered<T>(
    call: &'static str,
    outcome: Result<Result<tonic::Response<T>, Status>, tokio::time::error::Elapsed>,
) -> Result<T, CallError> {
    match outcome {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refusal(call, &status)),
        Err(_) => {
            tracing::warn!(call, "the broker did not answer in time");
            Err(CallError::Silent)
        }
    }
}

/// A status that came over the wire is the broker's; one with a source was made here, by the transport.
fn refusal(call: &'static str, status: &Status) -> CallError {
    if let Some(source) = std::error::Error::source(status) {
        tracing::warn!(call, error = %chain(source), "the connection to the broker failed");
        return CallError::Away;
    }
    let kind = match status.code() {
        Code::InvalidArgument => RefusalKind::InvalidArgument,
        Code::Unauthenticated if is_unknown(status) => RefusalKind::KeyUnknown,
        Code::Unauthenticated => RefusalKind::Unauthenticated,
        Code::PermissionDenied => RefusalKind::PermissionDenied,
        Code::ResourceExhausted => RefusalKind::ResourceExhausted,
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => {
            RefusalKind::Unavailable
        }
        Code::Ok
        | Code::Unknown
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => RefusalKind::Internal,
    };
    // By this id the broker's log names the call.
    let id = status.metadata().get("attache-request-id");
    let request = id.and_then(|id| id.to_str().ok());
    tracing::info!(call, request, code = ?status.code(), "the broker refused");
    CallError::Refused {
        kind,
        message: status.message().to_owned(),
    }
}

/// Whether it is the node's key that the broker does not know, by the reason in its answer.
fn is_unknown(status: &Status) -> bool {
    Details::of(status).is_some_and(|it| KEY_UNKNOWN.contains(&it.reason.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_off_the_wire_is_the_brokers_and_one_with_a_source_is_not() {
        let status = Status::permission_denied("attache: denied (decision 7f3a9c12): no");
        let CallError::Refused { kind, message } = refusal("Deliver", &status) else {
            panic!("refused");
        };
        assert_eq!(
            (kind, message.as_str()),
            (RefusalKind::PermissionDenied, status.message())
        );
        for code in [Code::Cancelled, Code::Unknown, Code::Unavailable] {
            let mut status = Status::new(code, "transport error: port 40123");
            status.set_source(Arc::new(std::io::Error::other("reset")));
            assert!(
                matches!(refusal("Deliver", &status), CallError::Away),
                "{code:?}"
            );
        }
        assert!(!CallError::Away.to_string().contains(char::is_numeric));
    }

    #[test]
    fn a_key_is_unknown_by_the_reason_and_not_by_the_words() {
        let kind = |reason: &str| {
            let details = Details {
                reason: reason.into(),
                ..Details::default()
            };
            let status = details.status(Code::Unauthenticated, "BEFORE_RESTORE");
            match refusal("Renew", &status) {
                CallError::Refused { kind, .. } => kind,
                CallError::Away | CallError::Silent => panic!("refused"),
            }
        };
        for reason in KEY_UNKNOWN {
            assert_eq!(kind(reason), RefusalKind::KeyUnknown);
        }
        for reason in ["BANNED", "COPIED_IDENTITY", "SUPERSEDED", "NODE_GONE", ""] {
            assert_eq!(kind(reason), RefusalKind::Unauthenticated, "{reason}");
        }
    }
}
