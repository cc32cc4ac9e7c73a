//! A connection to the context's broker: only to that one, and only with a certificate that is fresh.
//!
//! Every call has a deadline. A call whose answer was lost is sent again, the very same bytes: reads change nothing, and
//! a mutation carries a request id, which makes repeating it harmless. What remains a failure goes through
//! [`crate::status`].

use std::future::Future;
use std::time::Duration;

use attache_mtls::connect::Connector;
use attache_mtls::spiffe::BrokerId;
use attache_mtls::stream::{HandshakeError, MtlsStream};
use attache_proto::attache::v1 as pb;
use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tower::service_fn;
use uuid::Uuid;

use crate::context::Settings;
use crate::failure::{Exit, Failure};
use crate::output::Console;
use crate::recorded::Recorded;
use crate::renewal;
use crate::status;

/// How long connecting may take: address, TCP and TLS together.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long one attempt at a call may take.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// How long to wait before each further attempt.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(900),
];
/// The most pages of a list: a broker that never ends one is not followed.
const PAGES_LIMIT: usize = 100_000;

/// A connection, opened when it is first used.
#[derive(Clone, Debug)]
pub struct Session {
    channel: Channel,
    broker: BrokerId,
    operator: String,
}

impl Session {
    /// Loads the context's certificate, renews it when it is due, and points at its broker.
    ///
    /// # Errors
    /// [`Exit::NotSignedIn`] when there is no certificate that still works; [`Exit::Failed`] for unusable files.
    pub async fn open(
        settings: &Settings,
        named: Option<&str>,
        console: &Console,
    ) -> Result<Self, Failure> {
        let (name, context) = settings.pick(named)?;
        let mut identity = renewal::load(settings, name, context)?;
        if let renewal::Due::Renew = identity.due(context, console)? {
            let with_old = Self::connect(&context.address, &context.broker, &identity)?;
            // The certificate still works: what is wrong with the broker shows in the call that was asked for.
            match renewal::renew(&with_old, &identity).await {
                Ok(renewal::Renewed::Now(renewed)) => identity = *renewed,
                Ok(renewal::Renewed::BySomebodyElse) => {
                    identity = renewal::load(settings, name, context)?
                }
                Err(failure) => console.hint(&format!(
                    "the certificate is due and was not renewed: {failure}"
                )),
            }
        }
        Self::connect(&context.address, &context.broker, &identity)
    }

    /// Points at a broker as this identity. The key that the broker proves itself with is noted.
    ///
    /// # Errors
    /// [`Exit::Failed`] for an address that is no authority of a URI.
    pub fn connect(
        address: &str,
        broker: &BrokerId,
        identity: &renewal::Identity,
    ) -> Result<Self, Failure> {
        let credentials = &identity.credentials;
        let recorded = Recorded::of(&identity.files);
        let unusable = |error: &(dyn std::error::Error + 'static)| {
            Failure::new(Exit::Failed, "the broker cannot be called").caused_by(error)
        };
        let tls = credentials
            .client_config(broker.clone())
            .map_err(|error| unusable(&error))?;
        let connector = Connector::new(tls, CONNECT_LIMIT);
        let to = address.to_owned();
        let open = service_fn(move |_: Uri| {
            let (connector, to, recorded) = (connector.clone(), to.clone(), recorded.clone());
            async move {
                let stream = connector.connect(to).await?;
                if let Some(broker) = stream.connect_info().peer {
                    recorded.note(broker.spki_sha256());
                }
                Ok(TokioIo::new(stream))
            }
        });
        let channel = channel(address, open)?;
        Ok(Self {
            channel,
            broker: broker.clone(),
            operator: credentials.id().to_string(),
        })
    }

    /// The broker that is pinned.
    #[must_use]
    pub fn broker(&self) -> &BrokerId {
        &self.broker
    }

    /// The whole SPIFFE ID of this operator.
    #[must_use]
    pub fn operator(&self) -> &str {
        &self.operator
    }

    /// The channel, for calls that stream their answer.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Calls until there is an answer or no use in another attempt.
    ///
    /// # Errors
    /// The last attempt's status.
    ///
    /// # Cancel safety
    /// May be dropped at any time; whether the request was carried out is not known then.
    pub async fn attempt<Q, R, F>(
        &self,
        request: &Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R, Status>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        attempt(&self.channel, request, send).await
    }

    /// A call that reads.
    ///
    /// # Errors
    /// As [`crate::status`] says; `what` is what was not done.
    pub async fn read<Q, R, F>(
        &self,
        what: &str,
        request: &Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R, Failure>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.attempt(request, send)
            .await
            .map_err(|status| status::failure(what, &status))
    }

    /// A call that changes something. The failure names the request, and says when the change may have been made.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub async fn change<Q, R, F>(
        &self,
        what: &str,
        id: Uuid,
        request: &Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R, Failure>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.attempt(request, send)
            .await
            .map_err(|status| change_failure(what, id, &status))
    }

    /// All pages of a list.
    ///
    /// # Errors
    /// Those of `page`; [`Exit::Failed`] when the list does not end.
    pub async fn pages<T, F>(&self, page: impl Fn(pb::Page) -> F) -> Result<Vec<T>, Failure>
    where
        F: Future<Output = Result<(Vec<T>, String), Failure>>,
    {
        let mut all = Vec::new();
        let mut token = String::new();
        for _ in 0..PAGES_LIMIT {
            let (items, next) = page(pb::Page {
                size: 500,
                token: token.clone(),
            })
            .await?;
            all.extend(items);
            if next.is_empty() {
                return Ok(all);
            }
            if next == token {
                break;
            }
            token = next;
        }
        Err(Failure::new(Exit::Failed, "the list was not read")
            .because("the broker's pages do not end"))
    }
}

/// A channel over connections that `connector` opens to `address`, when it is first used.
///
/// # Errors
/// [`Exit::Failed`] for an address that is no authority of a URI.
pub fn channel<S>(address: &str, connector: S) -> Result<Channel, Failure>
where
    S: tower::Service<Uri, Response = TokioIo<MtlsStream>, Future: Send, Error = HandshakeError>
        + Send
        + 'static,
{
    let uri = format!("http://{address}").parse::<Uri>();
    let uri = uri.map_err(|error| {
        Failure::new(Exit::Failed, "the broker cannot be called").caused_by(&error)
    })?;
    Ok(Endpoint::from(uri).connect_with_connector_lazy(connector))
}

/// Calls until there is an answer or no use in another attempt.
///
/// # Errors
/// The last attempt's status.
///
/// # Cancel safety
/// May be dropped at any time; whether the request was carried out is not known then.
pub async fn attempt<Q, R, F>(
    channel: &Channel,
    request: &Q,
    send: impl Fn(Channel, Request<Q>) -> F,
) -> Result<R, Status>
where
    Q: Clone,
    F: Future<Output = Result<Response<R>, Status>>,
{
    let mut pauses = PAUSES.iter();
    loop {
        let mut wrapped = Request::new(request.clone());
        wrapped.set_timeout(CALL_LIMIT);
        let answer = tokio::time::timeout(CALL_LIMIT, send(channel.clone(), wrapped)).await;
        let status = match answer {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded(format!("no answer within {CALL_LIMIT:?}")),
        };
        match pauses.next() {
            Some(pause) if status::pays_to_retry(&status) => tokio::time::sleep(*pause).await,
            _ => return Err(status),
        }
    }
}

/// The failure of a change.
#[must_use]
pub fn change_failure(what: &str, id: Uuid, status: &Status) -> Failure {
    let failure = status::failure(what, status).of_request(id);
    if failure.exit == Exit::Unavailable && status::answer_was_lost(status) {
        return failure
            .mend("the change may have been made although no answer came: look, then try again");
    }
    failure
}

/// The part of every change: a new request id, which is its time too (UUIDv7, RFC 9562).
#[must_use]
pub fn mutation(dry_run: bool) -> (Uuid, Option<pb::Mutation>) {
    let id = Uuid::now_v7();
    (
        id,
        Some(pb::Mutation {
            request_id: id.as_bytes().to_vec(),
            dry_run,
        }),
    )
}
