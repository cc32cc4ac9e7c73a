//! The command line against a server that misbehaves on purpose: answers that are lost, races that are lost, pages that
//! do not end, a certificate that is due, and somebody else at the broker's address.
//!
//! The connection is real (mutual TLS over TCP, gRPC); what is scripted is the answers, since no real broker loses them
//! when asked to. The real broker is tried in the tests crate.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use attache_cli::args::Format;
use attache_cli::context::{Context, Settings};
use attache_cli::failure::{Exit, Failure};
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

const BROKER: &str = "spiffe://attache.test/broker/broker-0";
const OTHER_BROKER: &str = "spiffe://attache.test/broker/broker-1";
const ADA: &str = "spiffe://attache.test/operator/ada";
const SEED: [u8; 32] = [5; 32];
const QUIET: Console = Console {
    format: Format::Table,
    quiet: true,
    color: false,
    wide: None,
};

/// How the server answers the next commit.
#[derive(Debug, Clone, Copy)]
enum Answer {
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
struct Script {
    answers: Vec<Answer>,
    head: u64,
    begun: u32,
    commits: Vec<Vec<u8>>,
    peers: Vec<String>,
    renewed: u32,
    endless_pages: bool,
}

#[derive(Clone)]
struct Broker {
    script: Arc<Mutex<Script>>,
    ca: CertificateAuthority,
}

impl Broker {
    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }
}

fn peer<T>(request: &Request<T>) -> ConnectionInfo {
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
struct Connection(MtlsStream);

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
struct Bed {
    folder: tempfile::TempDir,
    broker: Broker,
    settings: Settings,
}

impl Bed {
    /// The operator's certificate began `age` ago; it lives an hour.
    async fn start(age: Duration, answers: &[Answer]) -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn session(&self) -> Result<Session, Failure> {
        Session::open(&self.settings, None, &QUIET).await
    }

    async fn put(&self, expect_version: Option<u64>) -> Result<Stored, Failure> {
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

    fn commits(&self) -> Vec<pb::CommitPutRequest> {
        self.broker
            .script()
            .commits
            .iter()
            .map(|bytes| pb::CommitPutRequest::decode(bytes.as_slice()).unwrap())
            .collect()
    }
}

fn futures_of(
    incoming: tokio::sync::mpsc::Receiver<MtlsStream>,
) -> impl tokio_stream::Stream<Item = io::Result<Connection>> {
    use tokio_stream::StreamExt;
    tokio_stream::wrappers::ReceiverStream::new(incoming).map(|stream| Ok(Connection(stream)))
}

const FRESH: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_answer_that_is_lost_is_asked_for_again_with_the_same_bytes() {
    let bed = Bed::start(FRESH, &[Answer::Lost, Answer::Unavailable, Answer::Ok]).await;
    let stored = bed.put(None).await.unwrap();
    assert!(stored.repeated);
    let script = bed.broker.script();
    assert_eq!((script.begun, script.commits.len()), (1, 3));
    assert!(
        script
            .commits
            .iter()
            .all(|commit| *commit == script.commits[0]),
        "the bytes differ"
    );
}

#[tokio::test]
async fn a_lost_race_begins_again_with_new_keys_and_a_new_request() {
    let bed = Bed::start(FRESH, &[Answer::Race, Answer::Race, Answer::Ok]).await;
    assert_eq!(bed.put(None).await.unwrap().version, 3);
    let commits = bed.commits();
    assert_eq!((bed.broker.script().begun, commits.len()), (3, 3));
    for pair in commits.windows(2) {
        let [a, b] = pair else {
            unreachable!("windows of two")
        };
        assert_ne!(
            a.mutation.as_ref().unwrap().request_id,
            b.mutation.as_ref().unwrap().request_id
        );
        assert_ne!(a.values[0].ct, b.values[0].ct);
        assert_ne!(a.values[0].value, b.values[0].value);
        assert!(a.expected_head_version < b.expected_head_version);
    }
}

#[tokio::test]
async fn a_race_against_an_expected_version_is_lost_for_good() {
    let bed = Bed::start(FRESH, &[Answer::Race, Answer::Ok]).await;
    let lost = bed.put(Some(0)).await.unwrap_err();
    assert_eq!(lost.exit, Exit::Precondition);
    assert!(
        lost.request.is_some() && lost.to_string().contains("the head moved"),
        "{lost}"
    );
    let other = bed.put(Some(0)).await.unwrap_err();
    assert_eq!(other.exit, Exit::Precondition);
    assert!(
        other
            .to_string()
            .contains("version 1 is active, and 0 was expected"),
        "{other}"
    );
    assert_eq!(bed.commits().len(), 1);
}

#[tokio::test]
async fn races_do_not_go_on_for_ever_and_a_denial_is_final() {
    let bed = Bed::start(FRESH, &[Answer::Race; 50]).await;
    assert_eq!(bed.put(None).await.unwrap_err().exit, Exit::Precondition);
    assert_eq!(bed.commits().len(), 9);
    let bed = Bed::start(FRESH, &[Answer::Denied]).await;
    assert_eq!(bed.put(None).await.unwrap_err().exit, Exit::Denied);
    assert_eq!(bed.commits().len(), 1);
}

#[tokio::test]
async fn a_change_without_an_answer_says_that_it_may_have_been_made() {
    let bed = Bed::start(FRESH, &[Answer::Lost; 10]).await;
    let lost = bed.put(None).await.unwrap_err();
    assert_eq!(lost.exit, Exit::Unavailable);
    assert!(lost.to_string().contains("may have been made"), "{lost}");
    assert!(!lost.to_string().contains("hunter2"));
    assert_eq!(bed.commits().len(), 4);
}

#[tokio::test]
async fn a_certificate_past_half_its_life_is_renewed_before_the_call() {
    let bed = Bed::start(Duration::from_secs(2000), &[]).await;
    let old = std::fs::read(bed.path("ada.crt")).unwrap();
    bed.put(None).await.unwrap();
    assert_eq!(bed.broker.script().renewed, 1);
    assert_eq!(bed.broker.script().peers, [ADA]);
    assert_ne!(std::fs::read(bed.path("ada.crt")).unwrap(), old);
    assert!(!bed.path("ada.key.next").exists() && !bed.path("ada.crt.next").exists());
    // The new one is fresh.
    bed.put(None).await.unwrap();
    assert_eq!(bed.broker.script().renewed, 1);
}

#[tokio::test]
async fn after_seven_days_nothing_renews_itself_and_an_ended_certificate_calls_nobody() {
    let mut bed = Bed::start(Duration::from_secs(2000), &[]).await;
    bed.settings.contexts.get_mut("ada").unwrap().renew_until = Some(Timestamp::UNIX_EPOCH);
    bed.put(None).await.unwrap();
    assert_eq!(bed.broker.script().renewed, 0);
    let bed = Bed::start(Duration::from_secs(4000), &[]).await;
    let ended = bed.put(None).await.unwrap_err();
    assert_eq!(
        (ended.exit, bed.broker.script().begun),
        (Exit::NotSignedIn, 0)
    );
}

#[tokio::test]
async fn only_the_pinned_broker_is_spoken_to() {
    let mut bed = Bed::start(FRESH, &[]).await;
    bed.settings.contexts.get_mut("ada").unwrap().broker = OTHER_BROKER.parse().unwrap();
    let refused = bed.put(None).await.unwrap_err();
    assert_eq!(refused.exit, Exit::Failed);
    assert!(
        refused.to_string().contains("not the pinned broker"),
        "{refused}"
    );
    assert_eq!(bed.broker.script().begun, 0);
}

#[tokio::test]
async fn a_broker_that_is_away_is_4() {
    let mut bed = Bed::start(FRESH, &[]).await;
    bed.settings.contexts.get_mut("ada").unwrap().address = "127.0.0.1:1".into();
    let away = bed.put(None).await.unwrap_err();
    assert_eq!(away.exit, Exit::Unavailable);
    assert!(away.to_string().contains("refused"), "{away}");
}

#[tokio::test]
async fn pages_are_read_to_their_end_and_no_further() {
    let bed = Bed::start(FRESH, &[]).await;
    let read = async |bed: &Bed| {
        let session = bed.session().await.unwrap();
        let session = &session;
        session
            .pages(|page| {
                let request = pb::ListSecretsRequest {
                    keyspace: String::new(),
                    page: Some(page),
                };
                async move {
                    let answer: pb::ListSecretsResponse = session
                        .read("x", &request, |channel, request| async move {
                            pb::secrets_client::SecretsClient::new(channel)
                                .list_secrets(request)
                                .await
                        })
                        .await?;
                    Ok((answer.secrets, answer.next_token))
                }
            })
            .await
    };
    assert_eq!(read(&bed).await.unwrap().len(), 2);
    bed.broker.script().endless_pages = true;
    assert_eq!(read(&bed).await.unwrap_err().exit, Exit::Failed);
}
