//! A broker that does as it is told: enrollment, renewal and delivery over real mutual TLS, with the product's own
//! constructions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use attache_envelope::SystemRandom;
use attache_envelope::generation::{GenerationDigest, GenerationFile, Owner};
use attache_envelope::id::{BootId, Nonce, ReleaseId, SecretId, SessionId, StoreId, ValueId};
use attache_envelope::name::{FieldName, SecretPath, SecretVersion};
use attache_envelope::release::{GrantedValue, ReleaseBinding, Session, SessionBinding};
use attache_envelope::value::{CtHash, DataKey, UsedDataKey, ValueBinding};
use attache_envelope::x25519::PublicKey;
use attache_mtls::accept::{AcceptLimits, Acceptor};
use attache_mtls::bundle::TrustBundle;
use attache_mtls::ca::{CA_VALIDITY, CertificateAuthority, CertificateRequest};
use attache_mtls::key::LeafKey;
use attache_mtls::spiffe::{BrokerId, NodeId, PeerId};
use attache_mtls::stream::{ConnectionInfo, MtlsStream};
use attache_mtls::tls::{Credentials, Material};
use attache_proto::attache::v1 as pb;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use pb::delivery_server::{Delivery, DeliveryServer};
use pb::deliver_response::Answer;
use pb::enrollment_server::{Enrollment, EnrollmentServer};
use pb::renewal_server::{Renewal, RenewalServer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

pub const NODE_UID: &str = "5a0c1de0-0000-4000-8000-00000000000a";
pub const CLUSTER: &str = "local";

/// What a delivery is to be answered.
#[derive(Clone)]
pub enum Say {
    /// What is held, or a release of these fields.
    Truth,
    /// This status.
    Refuse(Status),
    /// A release with something bent.
    Bend(fn(&mut pb::Released)),
    /// A release that was sealed for something else.
    Missealed(fn(&mut Sealing)),
    /// `unchanged`, whatever is held.
    Unchanged,
    /// Nothing, until the gate opens.
    Wait,
}

/// What a release is sealed to.
#[derive(Clone)]
pub struct Sealing {
    pub nonce: Nonce,
    pub release: ReleaseId,
    pub leaf_hash: [u8; 32],
    pub pod: String,
    pub container: String,
    pub volume: String,
    pub node_id: String,
}

/// What the broker of a test holds and has seen.
pub struct World {
    pub say: Say,
    pub seq: u64,
    /// `db/FIELD` -> value id and value.
    pub fields: BTreeMap<String, ([u8; 16], Vec<u8>)>,
    pub missing: Vec<String>,
    pub owner: (u32, Option<u32>),
    pub validity: Duration,
    /// Serial numbers that called, in order, of each RPC.
    pub delivered_to: Vec<String>,
    pub tokens: Vec<String>,
    pub joins: usize,
    pub renewals: Vec<[u8; 32]>,
    /// How many renewals are recorded and answered with a failure.
    pub lose_renewals: usize,
    pub releases: usize,
    pub unchanged: usize,
    sessions: Vec<(Vec<u8>, SessionId, Vec<u8>, Arc<Session>)>,
}

pub struct Broker {
    pub world: Arc<Mutex<World>>,
    pub gate: Arc<Semaphore>,
    pub grpc: SocketAddr,
    pub enroll: SocketAddr,
    pub join_token: String,
    runtime: Option<tokio::runtime::Runtime>,
    pki: Pki,
}

#[derive(Clone)]
struct Pki {
    ca: CertificateAuthority,
    bundle: Arc<TrustBundle>,
}

const SEED: [u8; 32] = [42; 32];
const STORE: [u8; 16] = [1; 16];
const BOOT: [u8; 16] = [2; 16];

pub fn broker_id() -> BrokerId {
    "spiffe://attache.test/broker/broker-0".parse().unwrap()
}

pub fn node_id() -> NodeId {
    NodeId::new("attache.test".parse().unwrap(), CLUSTER, NODE_UID).unwrap()
}

impl Broker {
    pub fn start() -> Self {
        let domain = "attache.test".parse().unwrap();
        let ca = CertificateAuthority::create(&SEED, &domain, "test CA", CA_VALIDITY, Timestamp::now()).unwrap();
        let bundle = Arc::new(TrustBundle::from_der(vec![ca.certificate().clone()]).unwrap());
        let mut token = vec![7; 48];
        token.extend_from_slice(ca.spki_sha256().as_bytes());
        let join_token = format!("attache-join-1:{}", URL_SAFE_NO_PAD.encode(token));
        let any = "127.0.0.1:0".parse().unwrap();
        let mut broker = Self {
            world: Arc::new(Mutex::new(World {
                say: Say::Truth,
                seq: 1,
                fields: BTreeMap::new(),
                missing: Vec::new(),
                owner: (1000, Some(1000)),
                validity: Duration::from_secs(3600),
                delivered_to: Vec::new(),
                tokens: Vec::new(),
                joins: 0,
                renewals: Vec::new(),
                lose_renewals: 0,
                releases: 0,
                unchanged: 0,
                sessions: Vec::new(),
            })),
            gate: Arc::new(Semaphore::new(0)),
            grpc: any,
            enroll: any,
            join_token,
            runtime: None,
            pki: Pki { ca, bundle },
        };
        broker.put("username", b"canary-1a2b-username");
        broker.put("password", b"canary-3c4d-password");
        broker.up();
        broker
    }

    /// Listens, on the addresses of before if there were any.
    pub fn up(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (grpc, enroll) = runtime.block_on(async {
            (bind(self.grpc).await, bind(self.enroll).await)
        });
        (self.grpc, self.enroll) = (grpc.local_addr().unwrap(), enroll.local_addr().unwrap());
        let key = LeafKey::generate().unwrap();
        let chain = self.pki.sign(&key.certificate_request().unwrap(), &broker_id().into(), Duration::from_secs(3600));
        let material = Material::new(chain, &key, Arc::clone(&self.pki.bundle)).unwrap();
        let credentials = Credentials::new(material);
        let service = Service { world: Arc::clone(&self.world), gate: Arc::clone(&self.gate), pki: self.pki.clone() };
        let router = Server::builder()
            .add_service(DeliveryServer::new(service.clone()))
            .add_service(RenewalServer::new(service.clone()));
        runtime.spawn(serve(credentials.server_config().unwrap(), grpc, router));
        let router = Server::builder().add_service(EnrollmentServer::new(service));
        runtime.spawn(serve(credentials.enrollment_server_config().unwrap(), enroll, router));
        self.runtime = Some(runtime);
    }

    /// Goes away, connections and all.
    pub fn down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }

    /// Writes a field: a new generation.
    pub fn put(&self, field: &str, value: &[u8]) {
        let mut world = self.world.lock().unwrap();
        world.seq += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&world.seq.to_be_bytes());
        world.fields.insert(field.to_owned(), (id, value.to_vec()));
    }

    pub fn say(&self, say: Say) {
        self.world.lock().unwrap().say = say;
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    for _ in 0..200 {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("{address} is taken");
}

async fn serve(tls: Arc<rustls::ServerConfig>, listener: TcpListener, router: tonic::transport::server::Router) {
    let acceptor = Acceptor::new(tls, AcceptLimits::default());
    let (out, accepted) = mpsc::channel(16);
    let incoming = ReceiverStream::new(accepted).map(|stream| Ok::<_, std::io::Error>(Stream(stream)));
    let serving = router.serve_with_incoming(incoming);
    tokio::select! {
        () = acceptor.run(listener, out) => {}
        _ = serving => {}
    }
}

impl Pki {
    fn sign(&self, csr: &[u8], id: &PeerId, validity: Duration) -> Vec<attache_mtls::CertificateDer<'static>> {
        let request = CertificateRequest::verify(csr).unwrap();
        self.ca.issue(&SEED, &request, id, validity, Timestamp::now()).unwrap().chain()
    }

    fn issue(&self, csr: &[u8], validity: Duration) -> pb::IssuedCertificate {
        let chain = self.sign(csr, &node_id().into(), validity);
        pb::IssuedCertificate {
            chain: chain.iter().map(|der| der.to_vec()).collect(),
            trust_bundle: self.bundle.certificates().map(|der| der.to_vec()).collect(),
            spiffe_id: node_id().to_string(),
            not_before: None,
            not_after: None,
        }
    }
}

#[derive(Clone)]
struct Service {
    world: Arc<Mutex<World>>,
    gate: Arc<Semaphore>,
    pki: Pki,
}

fn peer<T>(request: &Request<T>) -> Arc<attache_mtls::identity::PeerIdentity> {
    request.extensions().get::<ConnectionInfo>().unwrap().peer.clone().unwrap()
}

#[tonic::async_trait]
impl Enrollment for Service {
    async fn join_node(
        &self,
        request: Request<pb::JoinNodeRequest>,
    ) -> Result<Response<pb::JoinNodeResponse>, Status> {
        let mut world = self.world.lock().unwrap();
        world.joins += 1;
        let certificate = Some(self.pki.issue(&request.get_ref().csr, world.validity));
        Ok(Response::new(pb::JoinNodeResponse { certificate, broker_id: broker_id().to_string() }))
    }
}

#[tonic::async_trait]
impl Renewal for Service {
    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        let mut world = self.world.lock().unwrap();
        let csr = CertificateRequest::verify(&request.get_ref().csr).unwrap();
        world.renewals.push(*csr.spki_sha256().as_bytes());
        if world.lose_renewals > 0 {
            world.lose_renewals -= 1;
            return Err(Status::unavailable("the answer is lost"));
        }
        let certificate = Some(self.pki.issue(&request.get_ref().csr, world.validity));
        Ok(Response::new(pb::RenewResponse { certificate }))
    }
}

#[tonic::async_trait]
impl Delivery for Service {
    async fn deliver(&self, request: Request<pb::DeliverRequest>) -> Result<Response<pb::DeliverResponse>, Status> {
        let serial = peer(&request).serial().to_string();
        let say = {
            let mut world = self.world.lock().unwrap();
            world.delivered_to.push(serial);
            world.tokens.push(request.get_ref().pod_token.clone());
            world.say.clone()
        };
        let request = request.into_inner();
        let answer = match say {
            Say::Refuse(status) => return Err(status),
            Say::Wait => {
                self.gate.acquire().await.unwrap().forget();
                self.truth(&request, |_| {}, |_| {})
            }
            Say::Truth => self.truth(&request, |_| {}, |_| {}),
            Say::Bend(bend) => self.truth(&request, bend, |_| {}),
            Say::Missealed(misseal) => self.truth(&request, |_| {}, misseal),
            Say::Unchanged => Answer::Unchanged(pb::Unchanged { generation: request.held.clone() }),
        };
        Ok(Response::new(pb::DeliverResponse { answer: Some(answer) }))
    }
}

impl Service {
    fn truth(
        &self,
        request: &pb::DeliverRequest,
        bend: impl Fn(&mut pb::Released),
        misseal: impl Fn(&mut Sealing),
    ) -> Answer {
        let mut world = self.world.lock().unwrap();
        let (uid, gid) = world.owner;
        let fields: Vec<_> = world.fields.clone().into_iter().collect();
        let paths: Vec<String> = fields.iter().map(|(field, _)| format!("db/{field}")).collect();
        let set: Vec<GenerationFile<'_>> = fields
            .iter()
            .zip(&paths)
            .map(|((_, (id, _)), path)| GenerationFile {
                path,
                mode: 0o400,
                owner: Owner { uid, gid },
                value: ValueId::from_bytes(*id),
            })
            .collect();
        let digest = GenerationDigest::of(&set).unwrap();
        let generation =
            pb::Generation { incarnation: 1, seq: world.seq, digest: digest.as_bytes().to_vec() };
        if request.held.as_ref().is_some_and(|held| held.digest == generation.digest) {
            world.unchanged += 1;
            return Answer::Unchanged(pb::Unchanged { generation: request.held.clone() });
        }
        world.releases += 1;
        let path: SecretPath = "payments/db".parse().unwrap();
        let secret = SecretId::from_bytes([3; 16]);
        let mut granted = Vec::new();
        let mut keys: Vec<UsedDataKey> = Vec::new();
        let mut values = Vec::new();
        for (field, (id, value)) in &fields {
            let field: FieldName = field.parse().unwrap();
            let binding = ValueBinding {
                store: StoreId::from_bytes(STORE),
                keyspace: &path.keyspace,
                secret,
                value: ValueId::from_bytes(*id),
                field: &field,
            };
            let (ct, key) = DataKey::random(&SystemRandom).unwrap().seal(value, &binding).unwrap();
            let hash = CtHash::of(&ct);
            values.push(pb::ReleasedValue {
                keyspace: path.keyspace.to_string(),
                name: path.name.to_string(),
                secret: secret.as_bytes().to_vec(),
                version: 2,
                field: field.to_string(),
                value: id.to_vec(),
                ct_sha256: hash.as_bytes().to_vec(),
                ct: ct.into(),
            });
            granted.push(GrantedValue {
                path: path.clone(),
                secret,
                version: SecretVersion::new(2).unwrap(),
                field,
                value: ValueId::from_bytes(*id),
                ct_hash: hash,
            });
            keys.push(key);
        }
        let container = request.attributes["container"].clone();
        let mut sealing = Sealing {
            nonce: request.nonce.as_slice().try_into().unwrap(),
            release: ReleaseId::random(&SystemRandom).unwrap(),
            leaf_hash: [5; 32],
            pod: request.pod_uid.clone(),
            container: container.clone(),
            volume: request.volume_id.clone(),
            node_id: node_id().to_string(),
        };
        let told = sealing.clone();
        misseal(&mut sealing);
        let (session, enc, sender) = world.session(&request.plugin_key, &sealing.node_id);
        let binding = ReleaseBinding {
            store: StoreId::from_bytes(STORE),
            session,
            nonce: sealing.nonce,
            release: sealing.release,
            leaf_hash: sealing.leaf_hash,
            volume: &sealing.volume.parse().unwrap(),
            cluster: &CLUSTER.parse().unwrap(),
            namespace: &request.pod_namespace.parse().unwrap(),
            pod: &sealing.pod.parse().unwrap(),
            container: &sealing.container.parse().unwrap(),
            granted: &granted,
        };
        let deks: Vec<_> = keys.iter().map(UsedDataKey::dek).collect();
        let sealed_keys = sender.release_key(sealing.nonce, sealing.release).unwrap().seal(&binding, &deks).unwrap();
        let mut released = pb::Released {
            generation: Some(generation),
            session: session.as_bytes().to_vec(),
            enc,
            store: STORE.to_vec(),
            boot: BOOT.to_vec(),
            broker_id: broker_id().to_string(),
            release: told.release.as_bytes().to_vec(),
            leaf_hash: told.leaf_hash.to_vec(),
            sealed_keys,
            values,
            files: paths
                .into_iter()
                .zip(0..)
                .map(|(path, value)| pb::File { path, mode: 0o400, value })
                .collect(),
            owner_uid: uid,
            owner_gid: gid,
            missing: world.missing.clone(),
            cluster: CLUSTER.to_owned(),
            namespace: request.pod_namespace.clone(),
            pod_uid: request.pod_uid.clone(),
            container,
        };
        bend(&mut released);
        Answer::Released(Box::new(released))
    }
}

impl World {
    fn session(&mut self, plugin_key: &[u8], node_id: &str) -> (SessionId, Vec<u8>, Arc<Session>) {
        let name = [plugin_key, node_id.as_bytes()].concat();
        if let Some((_, id, enc, session)) = self.sessions.iter().find(|known| known.0 == name) {
            return (*id, enc.clone(), Arc::clone(session));
        }
        let id = SessionId::random(&SystemRandom).unwrap();
        let broker = broker_id().to_string();
        let binding = SessionBinding {
            store: StoreId::from_bytes(STORE),
            broker_id: &broker,
            boot: BootId::from_bytes(BOOT),
            node_id,
            plugin_key: PublicKey::try_from(plugin_key).unwrap(),
            session: id,
        };
        let (enc, session) = Session::sender(&SystemRandom, &binding).unwrap();
        let (enc, session) = (enc.as_bytes().to_vec(), Arc::new(session));
        self.sessions.push((name, id, enc.clone(), Arc::clone(&session)));
        (id, enc, session)
    }
}

/// An accepted connection, as tonic wants it.
struct Stream(MtlsStream);

impl tonic::transport::server::Connected for Stream {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.0.connect_info()
    }
}

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
