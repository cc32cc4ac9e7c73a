//! A server whose answers are scripted, and an operator's files.
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use attache_cli::args::Format;
use attache_cli::context::{Context, Settings};
use attache_cli::failure::Failure;
use attache_cli::fields::FieldValue;
use attache_cli::output::Console;
use attache_cli::put::{Plan, Stored, put};
use attache_cli::session::Session;
use attache_envelope::key::SecretKey;
use attache_mtls::accept::{AcceptLimits, Acceptor};
use attache_mtls::bundle::TrustBundle;
use attache_mtls::ca::{CertificateAuthority, CertificateRequest};
use attache_mtls::key::LeafKey;
use attache_mtls::stream::{ConnectionInfo, MtlsStream};
use attache_mtls::tls::{Credentials, Material};
use attache_proto::attache::v1::{
    self as pb,
    renewal_server::{Renewal, RenewalServer},
    secrets_server::{Secrets, SecretsServer},
};
use jiff::{SignedDuration, Timestamp};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

pub(crate) const BROKER: &str = "spiffe://attache.test/broker/broker-0";
pub(crate) const OTHER_BROKER: &str = "spiffe://attache.test/broker/broker-1";
pub(crate) const ADA: &str = "spiffe://attache.test/operator/ada";
pub(crate) const SEED: [u8; 32] = [5; 32];
pub(crate) const QUIET: Console = Console {
    format: Format::Table,
    quiet: true,
    color: false,
    wide: None,
};

/// How the server answers the next commit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// As it should.
    Ok,
    /// Not at all: the connection is closed after the request was read.
    Lost,
    /// UNAVAILABLE.
    Unavailable,
    /// ABORTED: somebody else was faster.
    Race,
    /// PERMISSION_DENIED.
    Denied,
}

#[derive(Default)]
pub(crate) struct Script {
    pub(crate) answers: Vec<Answer>,
    pub(crate) head: u64,
    pub(crate) begun: u32,
    pub(crate) commits: Vec<Vec<u8>>,
    pub(crate) peers: Vec<String>,
    pub(crate) renewed: u32,
    pub(crate) endless_pages: bool,
}

#[derive(Clone)]
pub(crate) struct Broker {
    pub(crate) script: Arc<Mutex<Script>>,
    pub(crate) ca: CertificateAuthority,
}

impl Broker {
    pub(crate) fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }
}

pub(crate) fn peer<T>(request: &Request<T>) -> ConnectionInfo {
    request
        .extensions()
        .get::<ConnectionInfo>()
        .unwrap()
        .clone()
}

#[tonic::async_trait]
impl Secrets for Broker {
    async fn begin_put(
        &self,
        _: Request<pb::BeginPutRequest>,
    ) -> Result<Response<pb::BeginPutResponse>, Status> {
        let mut script = self.script();
        script.begun += 1;
        Ok(Response::new(pb::BeginPutResponse {
            store: vec![1; 16],
            secret: if script.head == 0 {
                vec![]
            } else {
                vec![2; 16]
            },
            head_version: script.head,
            receive_key: SecretKey::new(&[7; 32])
                .public_key()
                .unwrap()
                .as_bytes()
                .to_vec(),
            key_id: vec![3; 16],
            boot: vec![4; 16],
            broker_id: BROKER.into(),
            fields: vec![],
        }))
    }

    async fn commit_put(
        &self,
        request: Request<pb::CommitPutRequest>,
    ) -> Result<Response<pb::CommitPutResponse>, Status> {
        let connection = peer(&request);
        let answer = {
            let mut script = self.script();
            script.commits.push(request.into_inner().encode_to_vec());
            if script.answers.is_empty() {
                Answer::Ok
            } else {
                script.answers.remove(0)
            }
        };
        match answer {
            Answer::Ok => {
                let script = self.script();
                let committed = Some(pb::Committed {
                    seq: 9,
                    repeated: script.commits.len() > 1,
                });
                Ok(Response::new(pb::CommitPutResponse {
                    committed,
                    version: script.head + 1,
                }))
            }
            Answer::Lost => {
                connection.kill.close();
                std::future::pending().await
            }
            Answer::Unavailable => Err(Status::unavailable("the store is away; try again")),
            Answer::Race => {
                self.script().head += 1;
                Err(Status::aborted("the head moved"))
            }
            Answer::Denied => Err(Status::permission_denied("not yours")),
        }
    }

    async fn list_secrets(
        &self,
        request: Request<pb::ListSecretsRequest>,
    ) -> Result<Response<pb::ListSecretsResponse>, Status> {
        let token = request.into_inner().page.unwrap().token;
        let next_token = match token.as_str() {
            _ if self.script().endless_pages => "again",
            "" => "two",
            _ => "",
        };
        let path = pb::SecretPath {
            keyspace: "payments".into(),
            name: format!("page-{token}"),
        };
        let view = pb::SecretView {
            path: Some(path),
            ..pb::SecretView::default()
        };
        Ok(Response::new(pb::ListSecretsResponse {
            secrets: vec![view],
            next_token: next_token.into(),
        }))
    }

    async fn show_secret(
        &self,
        _: Request<pb::ShowSecretRequest>,
    ) -> Result<Response<pb::SecretView>, Status> {
        Err(Status::not_found("there is no such secret"))
    }

    async fn list_versions(
        &self,
        _: Request<pb::ListVersionsRequest>,
    ) -> Result<Response<pb::ListVersionsResponse>, Status> {
        Err(Status::internal("a record fails authentication"))
    }

    async fn rollback(
        &self,
        _: Request<pb::RollbackRequest>,
    ) -> Result<Response<pb::RollbackResponse>, Status> {
        Err(Status::unimplemented("no"))
    }

    async fn pin_version(
        &self,
        _: Request<pb::PinVersionRequest>,
    ) -> Result<Response<pb::PinVersionResponse>, Status> {
        Err(Status::unimplemented("no"))
    }

    async fn unpin_version(
        &self,
        _: Request<pb::UnpinVersionRequest>,
    ) -> Result<Response<pb::UnpinVersionResponse>, Status> {
        Err(Status::unimplemented("no"))
    }

    async fn destroy_secret(
        &self,
        _: Request<pb::DestroySecretRequest>,
    ) -> Result<Response<pb::DestroySecretResponse>, Status> {
        Err(Status::unimplemented("no"))
    }
}

#[tonic::async_trait]
impl Renewal for Broker {
    async fn renew(
        &self,
        request: Request<pb::RenewRequest>,
    ) -> Result<Response<pb::RenewResponse>, Status> {
        let id = peer(&request).peer.unwrap().id().clone();
        let csr = CertificateRequest::verify(&request.into_inner().csr).unwrap();
        let issued = self
            .ca
            .issue(
                &SEED,
                &csr,
                &id,
                Duration::from_secs(3600),
                Timestamp::now(),
            )
            .unwrap();
        let mut script = self.script();
        script.renewed += 1;
        script.peers.push(id.to_string());
        let certificate = pb::IssuedCertificate {
            chain: issued.chain().iter().map(|der| der.to_vec()).collect(),
            trust_bundle: vec![self.ca.certificate().to_vec()],
            ..pb::IssuedCertificate::default()
        };
        Ok(Response::new(pb::RenewResponse {
            certificate: Some(certificate),
        }))
    }
}

/// A stream that tells tonic who is at its other end.
pub(crate) struct Connection(MtlsStream);

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.0.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Poller<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Poller<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A server and an operator's files.
pub(crate) struct Bed {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) broker: Broker,
    pub(crate) settings: Settings,
}

impl Bed {
    /// The operator's certificate began `age` ago; it lives an hour.
    pub(crate) async fn start(age: Duration, answers: &[Answer]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let began = Timestamp::now()
            .checked_sub(SignedDuration::try_from(age).unwrap())
            .unwrap();
        let ca = CertificateAuthority::create(
            &SEED,
            &"attache.test".parse().unwrap(),
            "test",
            Duration::from_secs(86_400),
            began,
        )
        .unwrap();
        let bundle = Arc::new(TrustBundle::from_der(vec![ca.certificate().clone()]).unwrap());
        let certify = |id: &str, at| {
            let key = LeafKey::generate().unwrap();
            let csr = CertificateRequest::verify(&key.certificate_request().unwrap()).unwrap();
            let issued = ca
                .issue(
                    &SEED,
                    &csr,
                    &id.parse().unwrap(),
                    Duration::from_secs(3600),
                    at,
                )
                .unwrap();
            (key, issued)
        };
        let (server_key, server) = certify(BROKER, Timestamp::now());
        let material = Material::new(server.chain(), &server_key, Arc::clone(&bundle)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = Acceptor::new(
            Credentials::new(material).server_config().unwrap(),
            AcceptLimits::default(),
        );
        let (accepted, incoming) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move { acceptor.run(listener, accepted).await });
        let script = Script {
            answers: answers.to_vec(),
            ..Script::default()
        };
        let broker = Broker {
            script: Arc::new(Mutex::new(script)),
            ca: ca.clone(),
        };
        let server = tonic::transport::Server::builder()
            .add_service(SecretsServer::new(broker.clone()))
            .add_service(RenewalServer::new(broker.clone()));
        let incoming = futures_of(incoming);
        tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });

        let (key, issued) = certify(ADA, began);
        key.write(&folder.path().join("ada.key")).unwrap();
        std::fs::write(folder.path().join("ada.crt"), issued.chain_pem()).unwrap();
        std::fs::write(folder.path().join("bundle.pem"), bundle.to_pem()).unwrap();
        let context = Context {
            address,
            broker: BROKER.parse().unwrap(),
            enroll: None,
            operator: Some("ada".into()),
            trust_bundle: "bundle.pem".into(),
            certificate: "ada.crt".into(),
            key: "ada.key".into(),
            renew_until: None,
        };
        let settings = Settings {
            file: folder.path().join("config.toml"),
            current: None,
            contexts: BTreeMap::from([("ada".into(), context)]),
        };
        Self {
            folder,
            broker,
            settings,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) async fn session(&self) -> Result<Session, Failure> {
        Session::open(&self.settings, None, &QUIET).await
    }

    pub(crate) async fn put(&self, expect_version: Option<u64>) -> Result<Stored, Failure> {
        let value = FieldValue {
            field: "password".parse().unwrap(),
            value: Zeroizing::new(b"hunter2".to_vec()),
        };
        let plan = Plan {
            path: "payments/db".parse().unwrap(),
            values: vec![value],
            replace: false,
            expect_version,
            dry_run: false,
        };
        put(&self.session().await?, &plan).await
    }

    pub(crate) fn commits(&self) -> Vec<pb::CommitPutRequest> {
        self.broker
            .script()
            .commits
            .iter()
            .map(|bytes| pb::CommitPutRequest::decode(bytes.as_slice()).unwrap())
            .collect()
    }
}

pub(crate) fn futures_of(
    incoming: tokio::sync::mpsc::Receiver<MtlsStream>,
) -> impl tokio_stream::Stream<Item = io::Result<Connection>> {
    use tokio_stream::StreamExt;
    tokio_stream::wrappers::ReceiverStream::new(incoming).map(|stream| Ok(Connection(stream)))
}
