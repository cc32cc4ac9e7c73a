//! The client of one API server: one place through which every question goes.
//!
//! A question has [`DEADLINE`] from its beginning to the last byte of its answer, waiting included. HTTP/2 carries all of
//! them on one connection, which is given up when the server does not answer its pings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::address::{ApiAddress, Endpoint};
use super::breaker::Breaker;
use super::connector::Connector;
use super::credentials::{Credentials, REREAD};
use super::error::ApiError;
use crate::causes::with_causes;
use crate::metrics::ApiMetrics;

/// A question's time.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// So many questions to one server at a time; the others wait within their own time.
const AT_ONCE: usize = 32;
/// Between pings of a connection with questions under way, and until one must be answered.
const PING: Duration = Duration::from_secs(2);
/// Until an unused connection is closed.
const IDLE: Duration = Duration::from_secs(120);
/// How long a server that has too much to do is left alone when it does not say.
const RETRY: Duration = Duration::from_secs(1);
/// What it may answer with: the issuer's keys have a type of their own, and are refused without it.
const ACCEPTED: &str = "application/json, application/jwk-set+json";
/// Answers up to this size are parsed where they arrive.
const PARSED_HERE: usize = 64 * 1024;

/// What a question is about, for limits, metrics and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Whose token it is.
    ReviewToken,
    /// A pod.
    Pod,
    /// The pods of all namespaces, page by page.
    Pods,
    /// A node.
    Node,
    /// The issuer's keys.
    Keys,
    /// The issuer's name.
    Issuer,
    /// What the broker may do.
    Access,
    /// The published trust bundle.
    Bundle,
    /// What kubelet has registered on a node.
    CsiNode,
    /// A node's startup taint.
    LiftTaint,
}

impl Operation {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::ReviewToken,
        Self::Pod,
        Self::Pods,
        Self::Node,
        Self::Keys,
        Self::Issuer,
        Self::Access,
        Self::Bundle,
        Self::CsiNode,
        Self::LiftTaint,
    ];

    /// What metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReviewToken => "token_review",
            Self::Pod => "pod",
            Self::Pods => "pods",
            Self::Node => "node",
            Self::Keys => "keys",
            Self::Issuer => "issuer",
            Self::Access => "access",
            Self::Bundle => "bundle",
            Self::CsiNode => "csi_node",
            Self::LiftTaint => "lift_taint",
        }
    }

    /// The rule of a role that it needs.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::ReviewToken => "create tokenreviews.authentication.k8s.io",
            Self::Pod => "get pods",
            Self::Pods => "list pods",
            Self::Node => "get nodes",
            Self::Keys => {
                "get /openid/v1/jwks (ClusterRole system:service-account-issuer-discovery)"
            }
            Self::Issuer => {
                "get /.well-known/openid-configuration (ClusterRole system:service-account-issuer-discovery)"
            }
            Self::Access => {
                "create selfsubjectaccessreviews.authorization.k8s.io (ClusterRole system:basic-user)"
            }
            Self::Bundle => "get, create and update the published trust bundle",
            Self::CsiNode => "get csinodes.storage.k8s.io",
            Self::LiftTaint => "patch nodes",
        }
    }

    /// Whether a question may be asked twice: it changes nothing, though some are posted.
    const fn only_reads(self) -> bool {
        !matches!(self, Self::Bundle | Self::LiftTaint)
    }

    /// The most bytes of an answer. A pod is as large as etcd takes it, and its managed fields with it.
    const fn limit_bytes(self) -> usize {
        match self {
            Self::Pod | Self::Node | Self::LiftTaint => 3 * 1024 * 1024,
            Self::Pods => 64 * 1024 * 1024,
            Self::Keys | Self::Bundle | Self::CsiNode => 512 * 1024,
            Self::ReviewToken | Self::Issuer | Self::Access => 128 * 1024,
        }
    }
}

/// One question.
pub struct Call {
    /// About what.
    pub operation: Operation,
    /// How.
    pub method: Method,
    /// The path and query, from `/api` or `/apis` on. Names in it are parsed ones, which need no escaping.
    pub path: String,
    /// JSON; it may hold a token, and is wiped.
    pub body: Option<Zeroizing<Vec<u8>>>,
}

/// A client. A clone is another handle.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    /// None outside of a pod, where one is meant.
    endpoint: Option<Arc<Endpoint>>,
    folder: Arc<Path>,
    loaded: Mutex<Option<Loaded>>,
    slots: Semaphore,
    breaker: Breaker,
    metrics: ApiMetrics,
}

/// Credentials at work.
#[derive(Clone)]
struct Loaded {
    credentials: Arc<Credentials>,
    http: legacy::Client<Connector, Full<Bytes>>,
    read: Instant,
}

impl Client {
    /// A client of the server at `address`, with the credentials in `folder`; nothing is opened yet.
    #[must_use]
    pub fn new(address: &ApiAddress, folder: PathBuf, metrics: ApiMetrics) -> Self {
        Self {
            inner: Arc::new(Inner {
                endpoint: address.resolve().map(Arc::new),
                folder: folder.into(),
                loaded: Mutex::new(None),
                slots: Semaphore::new(AT_ONCE),
                breaker: Breaker::new(metrics.open_breakers()),
                metrics,
            }),
        }
    }

    /// Asks, and reads the answer as `T`; none for 404.
    ///
    /// # Errors
    /// [`ApiError`], except [`ApiError::NotFound`].
    ///
    /// # Cancel safety
    /// A question that only reads has changed nothing; one that writes may or may not have.
    pub async fn find<T: DeserializeOwned + Send + 'static>(
        &self,
        call: Call,
    ) -> Result<Option<T>, ApiError> {
        match self.ask(call).await {
            Ok(answer) => Ok(Some(answer)),
            Err(ApiError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks, and reads the answer as `T`.
    ///
    /// # Errors
    /// [`ApiError`].
    ///
    /// # Cancel safety
    /// As [`Client::find`].
    pub async fn ask<T: DeserializeOwned + Send + 'static>(
        &self,
        call: Call,
    ) -> Result<T, ApiError> {
        let operation = call.operation;
        parse(operation, self.bytes(call).await?).await
    }

    /// Asks, and hands out the answer as it came.
    ///
    /// # Errors
    /// [`ApiError`].
    ///
    /// # Cancel safety
    /// As [`Client::find`].
    pub async fn bytes(&self, call: Call) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let (inner, began, operation) = (&self.inner, Instant::now(), call.operation);
        let result = inner.measured(call, began).await;
        let name = result.as_ref().map_or_else(ApiError::result, |_| "ok");
        let seconds = began.elapsed().as_secs_f64();
        inner.metrics.called(operation.name(), name, seconds);
        result
    }
}

impl Inner {
    async fn measured(&self, call: Call, began: Instant) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let endpoint = self.endpoint.as_ref().ok_or(ApiError::NotInCluster)?;
        let leave = self.breaker.leave(began).ok_or(ApiError::Resting)?;
        let deadline = began + DEADLINE;
        let waited = timeout_at(deadline, self.slots.acquire()).await;
        let _slot = waited.map_err(|_| ApiError::Busy)?;
        let answered = timeout_at(deadline, self.answer(endpoint, call, deadline)).await;
        let result = answered.unwrap_or_else(|_| {
            Err(ApiError::Timeout {
                server: endpoint.to_string(),
            })
        });
        let life = result
            .as_ref()
            .map_or_else(ApiError::shows_life, |_| Some(true));
        if let Some(answered) = life {
            leave.judge(answered, Instant::now());
        }
        result
    }

    /// The answer's body. A token that the server does not take is read anew once; what was under way when a connection
    /// ended is asked again once, since a server ends it for all who share it when it does not know one of them; while it
    /// has too much to do, it is asked again when it says so, within the question's time.
    async fn answer(
        &self,
        endpoint: &Arc<Endpoint>,
        call: Call,
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let Call {
            operation,
            method,
            path,
            body,
        } = call;
        let uri = format!("{endpoint}{path}");
        // One copy for all tries, wiped with the last of them.
        let body = body.map_or_else(Bytes::new, Bytes::from_owner);
        // The only patches here are lists of operations (RFC 6902).
        let content_type = match method {
            Method::PATCH => "application/json-patch+json",
            _ => "application/json",
        };
        let mut loaded = self.loaded(endpoint, None).await?;
        let mut may_ask_again = operation.only_reads();
        loop {
            let request = Request::builder()
                .method(&method)
                .uri(&uri)
                .header(AUTHORIZATION, &loaded.credentials.bearer)
                .header(ACCEPT, ACCEPTED)
                .header(CONTENT_TYPE, content_type)
                .header(
                    USER_AGENT,
                    concat!("attache-broker/", env!("CARGO_PKG_VERSION")),
                )
                .body(Full::new(body.clone()))
                .map_err(|error| ApiError::Connect {
                    server: endpoint.to_string(),
                    problem: error.to_string(),
                })?;
            let response = loaded.http.request(request).await;
            let response = match response {
                Ok(response) => response,
                Err(error) if may_ask_again && !error.is_connect() => {
                    may_ask_again = false;
                    continue;
                }
                Err(error) => return Err(no_connection(endpoint, &error)),
            };
            match response.status() {
                StatusCode::UNAUTHORIZED => {
                    let anew = self.loaded(endpoint, Some(loaded.read)).await?;
                    if anew.credentials.bearer == loaded.credentials.bearer {
                        let folder = self.folder.to_path_buf();
                        return Err(ApiError::Unauthenticated { folder });
                    }
                    loaded = anew;
                }
                StatusCode::TOO_MANY_REQUESTS => {
                    let after = retry_after(response.headers());
                    let again = Instant::now() + after;
                    if again >= deadline {
                        return Err(ApiError::Throttled { after });
                    }
                    tokio::time::sleep_until(again).await;
                }
                _ => return answer_body(endpoint, operation, response).await,
            }
        }
    }

    /// The credentials: those that were read lately, or, when the server did not take those that were read `before`,
    /// newer ones.
    async fn loaded(
        &self,
        endpoint: &Arc<Endpoint>,
        before: Option<Instant>,
    ) -> Result<Loaded, ApiError> {
        let mut kept = self.loaded.lock().await;
        let current = kept.as_ref().filter(|it| it.read.elapsed() < REREAD);
        if let Some(current) = current.filter(|it| before.is_none_or(|before| it.read > before)) {
            return Ok(current.clone());
        }
        let (folder, read) = (Arc::clone(&self.folder), Instant::now());
        let credentials = tokio::task::spawn_blocking(move || Credentials::read(&folder))
            .await
            .map_err(|_| ApiError::Stopping)??;
        let credentials = Arc::new(credentials);
        let http = match kept.take().filter(|it| it.credentials.ca == credentials.ca) {
            Some(same) => same.http,
            // What was connected under another CA is not used any more.
            None => http(endpoint, &credentials, &self.folder)?,
        };
        let loaded = Loaded {
            credentials,
            http,
            read,
        };
        *kept = Some(loaded.clone());
        Ok(loaded)
    }
}

fn http(
    endpoint: &Arc<Endpoint>,
    credentials: &Credentials,
    folder: &Path,
) -> Result<legacy::Client<Connector, Full<Bytes>>, ApiError> {
    let connector =
        Connector::new(Arc::clone(endpoint), credentials.ca.clone()).map_err(|problem| {
            ApiError::Credentials(super::CredentialsError {
                path: folder.join("ca.crt"),
                problem,
            })
        })?;
    Ok(legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(4)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .build(connector))
}

async fn answer_body(
    endpoint: &Endpoint,
    operation: Operation,
    response: Response<Incoming>,
) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    match response.status() {
        StatusCode::OK | StatusCode::CREATED => {}
        StatusCode::FORBIDDEN => return Err(ApiError::Forbidden { operation }),
        StatusCode::NOT_FOUND => return Err(ApiError::NotFound { operation }),
        StatusCode::CONFLICT => return Err(ApiError::Conflict),
        status if status.is_server_error() => {
            let status = status.as_u16();
            return Err(ApiError::Failed { status });
        }
        status => {
            let status = status.as_u16();
            return Err(ApiError::Refused { status, operation });
        }
    }
    let (mut body, limit_bytes) = (response.into_body(), operation.limit_bytes());
    // An answer to a review repeats the token.
    let mut bytes = Zeroizing::new(Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::Connect {
            server: endpoint.to_string(),
            problem: with_causes(&error),
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > limit_bytes {
            return Err(ApiError::TooLarge { limit_bytes });
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Reads an answer. Of a review nothing is repeated in the error but the place: it has a token in it.
async fn parse<T: DeserializeOwned + Send + 'static>(
    operation: Operation,
    bytes: Zeroizing<Vec<u8>>,
) -> Result<T, ApiError> {
    let is_small = bytes.len() <= PARSED_HERE;
    let read = move || {
        serde_json::from_slice(&bytes).map_err(|error: serde_json::Error| ApiError::Malformed {
            operation,
            problem: match operation {
                Operation::ReviewToken => {
                    format!("line {}, column {}", error.line(), error.column())
                }
                Operation::Pod
                | Operation::Pods
                | Operation::Node
                | Operation::Keys
                | Operation::Issuer
                | Operation::Access
                | Operation::Bundle
                | Operation::CsiNode
                | Operation::LiftTaint => error.to_string(),
            },
        })
    };
    if is_small {
        return read();
    }
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|_| ApiError::Stopping)?
}

fn no_connection(endpoint: &Endpoint, error: &legacy::Error) -> ApiError {
    ApiError::Connect {
        server: endpoint.to_string(),
        problem: with_causes(error),
    }
}

/// What the server says, in whole seconds of at most an hour; a date, or nothing, is taken for [`RETRY`].
fn retry_after(headers: &HeaderMap) -> Duration {
    let said = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    let seconds = said.and_then(|text| text.parse().ok());
    seconds.map_or(RETRY, |seconds: u64| Duration::from_secs(seconds.min(3600)))
}
