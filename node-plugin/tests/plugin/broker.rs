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
use pb::deliver_response::Answer;
use pb::delivery_server::{Delivery, DeliveryServer};
use pb::enrollment_server::{Enrollment, EnrollmentServer};
use pb::renewal_server::{Renewal, RenewalServer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

pub(crate) const NODE_UID: &str = "5a0c1de0-0000-4000-8000-00000000000a";
pub(crate) const CLUSTER: &str = "local";

/// What a delivery is to be answered.
#[derive(Clone)]
pub(crate) enum Say {
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
pub(crate) struct Sealing {
    pub(crate) nonce: Nonce,
    pub(crate) release: ReleaseId,
    pub(crate) leaf_hash: [u8; 32],
    pub(crate) pod: String,
    pub(crate) container: String,
    pub(crate) volume: String,
    pub(crate) node_id: String,
}

/// What the broker of a test holds and has seen.
pub(crate) struct World {
    pub(crate) say: Say,
    pub(crate) seq: u64,
    /// `db/FIELD` -> value id and value.
    pub(crate) fields: BTreeMap<String, ([u8; 16], Vec<u8>)>,
    pub(crate) missing: Vec<String>,
    pub(crate) owner: (u32, Option<u32>),
    /// The folder of a field's file.
    pub(crate) folder: fn(&str) -> String,
    pub(crate) validity: Duration,
    /// Serial numbers that called, in order, of each RPC.
    pub(crate) delivered_to: Vec<String>,
    pub(crate) tokens: Vec<String>,
    pub(crate) joins: usize,
    pub(crate) renewals: Vec<[u8; 32]>,
    /// How many renewals are recorded and answered with a failure.
    pub(crate) lose_renewals: usize,
    pub(crate) releases: usize,
    pub(crate) unchanged: usize,
    sessions: Vec<PluginSession>,
}

/// A session, by the plugin key and the node that it was set up for.
struct PluginSession {
    name: Vec<u8>,
    id: SessionId,
    enc: Vec<u8>,
    keys: Arc<Session>,
}

/// A field's value, sealed.
struct SealedValue {
    path: String,
    granted: GrantedValue,
    ct: Vec<u8>,
    key: UsedDataKey,
}

pub(crate) struct Broker {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) gate: Arc<Semaphore>,
    pub(crate) grpc: SocketAddr,
    pub(crate) enroll: SocketAddr,
    pub(crate) join_token: String,
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

pub(crate) fn broker_id() -> BrokerId {
    "spiffe://attache.test/broker/broker-0".parse().unwrap()
}

pub(crate) fn node_id() -> NodeId {
    NodeId::new("attache.test".parse().unwrap(), CLUSTER, NODE_UID).unwrap()
}

impl Broker {
    pub(crate) fn start() -> Self {
        let domain = "attache.test".parse().unwrap();
        let ca =
            CertificateAuthority::create(&SEED, &domain, "test CA", CA_VALIDITY, Timestamp::now())
                .unwrap();
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
                folder: |_| "db".to_owned(),
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
    pub(crate) fn up(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (grpc, enroll) =
            runtime.block_on(async { (bind(self.grpc).await, bind(self.enroll).await) });
        (self.grpc, self.enroll) = (grpc.local_addr().unwrap(), enroll.local_addr().unwrap());
        let key = LeafKey::generate().unwrap();
        let chain = self.pki.sign(
            &key.certificate_request().unwrap(),
            &broker_id().into(),
            Duration::from_secs(3600),
        );
        let material = Material::new(chain, &key, Arc::clone(&self.pki.bundle)).unwrap();
        let credentials = Credentials::new(material);
        let service = Service {
            world: Arc::clone(&self.world),
            gate: Arc::clone(&self.gate),
            pki: self.pki.clone(),
        };
        let router = Server::builder()
            .add_service(DeliveryServer::new(service.clone()))
            .add_service(RenewalServer::new(service.clone()));
        runtime.spawn(serve(credentials.server_config().unwrap(), grpc, router));
        let router = Server::builder().add_service(EnrollmentServer::new(service));
        runtime.spawn(serve(
            credentials.enrollment_server_config().unwrap(),
            enroll,
            router,
        ));
        self.runtime = Some(runtime);
    }

    /// Goes away, connections and all.
    pub(crate) fn down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }

    /// Writes a field: a new generation.
    pub(crate) fn put(&self, field: &str, value: &[u8]) {
        let mut world = self.world.lock().unwrap();
        world.seq += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&world.seq.to_be_bytes());
        world.fields.insert(field.to_owned(), (id, value.to_vec()));
    }

    pub(crate) fn say(&self, say: Say) {
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

async fn serve(
    tls: Arc<rustls::ServerConfig>,
    listener: TcpListener,
    router: tonic::transport::server::Router,
) {
    let acceptor = Acceptor::new(tls, AcceptLimits::default());
    let (out, accepted) = mpsc::channel(16);
    let incoming = ReceiverStream::new(accepted).map(|stream| Ok::<_, io::Error>(Stream(stream)));
    let serving = router.serve_with_incoming(incoming);
    tokio::select! {
        () = acceptor.run(listener, out) => {}
        _ = serving => {}
    }
}

impl Pki {
    fn sign(
        &self,
        csr: &[u8],
        id: &PeerId,
        validity: Duration,
    ) -> Vec<attache_mtls::CertificateDer<'static>> {
        let request = CertificateRequest::verify(csr).unwrap();
        self.ca
            .issue(&SEED, &request, id, validity, Timestamp::now())
            .unwrap()
            .chain()
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
    request
        .extensions()
        .get::<ConnectionInfo>()
        .unwrap()
        .peer
        .clone()
        .unwrap()
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
        Ok(Response::new(pb::JoinNodeResponse {
            certificate,
            broker_id: broker_id().to_string(),
        }))
    }
}

#[tonic::async_trait]
impl Renewal for Service {
    async fn renew(
        &self,
        request: Request<pb::RenewRequest>,
    ) -> Result<Response<pb::RenewResponse>, Status> {
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
    async fn deliver(
        &self,
        request: Request<pb::DeliverRequest>,
    ) -> Result<Response<pb::DeliverResponse>, Status> {
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
            Say::Unchanged => Answer::Unchanged(pb::Unchanged {
                generation: request.held.clone(),
            }),
        };
        Ok(Response::new(pb::DeliverResponse {
            answer: Some(answer),
        }))
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
        let values = world.sealed_values();
        let generation = world.generation(&values);
        if let Some(held) = &request.held
            && held.digest == generation.digest
        {
            world.unchanged += 1;
            let generation = Some(held.clone());
            return Answer::Unchanged(pb::Unchanged { generation });
        }
        world.releases += 1;
        let mut released = world.release(request, generation, values, misseal);
        bend(&mut released);
        Answer::Released(Box::new(released))
    }
}

impl World {
    fn owner(&self) -> Owner {
        let (uid, gid) = self.owner;
        Owner { uid, gid }
    }

    fn sealed_values(&self) -> Vec<SealedValue> {
        let path: SecretPath = "payments/db".parse().unwrap();
        let secret = SecretId::from_bytes([3; 16]);
        let seal = |(name, (id, value)): (&String, &([u8; 16], Vec<u8>))| {
            let field: FieldName = name.parse().unwrap();
            let binding = ValueBinding {
                store: StoreId::from_bytes(STORE),
                keyspace: &path.keyspace,
                secret,
                value: ValueId::from_bytes(*id),
                field: &field,
            };
            let drawn = DataKey::random(&SystemRandom).unwrap();
            let (ct, key) = drawn.seal(value, &binding).unwrap();
            let granted = GrantedValue {
                path: path.clone(),
                secret,
                version: SecretVersion::new(2).unwrap(),
                value: ValueId::from_bytes(*id),
                ct_hash: CtHash::of(&ct),
                field,
            };
            let path = format!("{}/{name}", (self.folder)(name));
            SealedValue {
                path,
                granted,
                ct,
                key,
            }
        };
        self.fields.iter().map(seal).collect()
    }

    fn generation(&self, values: &[SealedValue]) -> pb::Generation {
        let file = |value: &SealedValue| (value.path.clone(), value.granted.value);
        let files: Vec<_> = values.iter().map(file).collect();
        let set: Vec<GenerationFile<'_>> = files
            .iter()
            .map(|(path, value)| GenerationFile {
                path,
                mode: 0o400,
                owner: self.owner(),
                value: *value,
            })
            .collect();
        let digest = GenerationDigest::of(&set).unwrap();
        let digest = digest.as_bytes().to_vec();
        pb::Generation {
            incarnation: 1,
            seq: self.seq,
            digest,
        }
    }

    fn release(
        &mut self,
        request: &pb::DeliverRequest,
        generation: pb::Generation,
        values: Vec<SealedValue>,
        misseal: impl Fn(&mut Sealing),
    ) -> pb::Released {
        let container = request.attributes["container"].clone();
        let told = Sealing {
            nonce: request.nonce.as_slice().try_into().unwrap(),
            release: ReleaseId::random(&SystemRandom).unwrap(),
            leaf_hash: [5; 32],
            pod: request.pod_uid.clone(),
            container: container.clone(),
            volume: request.volume_id.clone(),
            node_id: node_id().to_string(),
        };
        let mut sealing = told.clone();
        misseal(&mut sealing);
        let (session, enc, keys) = self.session(&request.plugin_key, &sealing.node_id);
        let granted: Vec<_> = values.iter().map(|value| value.granted.clone()).collect();
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
        let deks: Vec<_> = values.iter().map(|value| value.key.dek()).collect();
        let key = keys.release_key(sealing.nonce, sealing.release).unwrap();
        let sealed_keys = key.seal(&binding, &deks).unwrap();
        let file = |(value, at): (&SealedValue, u32)| {
            let path = value.path.clone();
            pb::File {
                path,
                mode: 0o400,
                value: at,
            }
        };
        pb::Released {
            generation: Some(generation),
            session: session.as_bytes().to_vec(),
            enc,
            store: STORE.to_vec(),
            boot: BOOT.to_vec(),
            broker_id: broker_id().to_string(),
            release: told.release.as_bytes().to_vec(),
            leaf_hash: told.leaf_hash.to_vec(),
            sealed_keys,
            files: values.iter().zip(0..).map(file).collect(),
            values: values.into_iter().map(SealedValue::message).collect(),
            owner_uid: self.owner.0,
            owner_gid: self.owner.1,
            missing: self.missing.clone(),
            cluster: CLUSTER.to_owned(),
            namespace: request.pod_namespace.clone(),
            pod_uid: request.pod_uid.clone(),
            container,
        }
    }

    fn session(&mut self, plugin_key: &[u8], node_id: &str) -> (SessionId, Vec<u8>, Arc<Session>) {
        let name = [plugin_key, node_id.as_bytes()].concat();
        if let Some(known) = self.sessions.iter().find(|known| known.name == name) {
            return (known.id, known.enc.clone(), Arc::clone(&known.keys));
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
        let (enc, keys) = Session::sender(&SystemRandom, &binding).unwrap();
        let (enc, keys) = (enc.as_bytes().to_vec(), Arc::new(keys));
        let (known_enc, known_keys) = (enc.clone(), Arc::clone(&keys));
        self.sessions.push(PluginSession {
            name,
            id,
            enc: known_enc,
            keys: known_keys,
        });
        (id, enc, keys)
    }
}

impl SealedValue {
    fn message(self) -> pb::ReleasedValue {
        let granted = self.granted;
        pb::ReleasedValue {
            keyspace: granted.path.keyspace.to_string(),
            name: granted.path.name.to_string(),
            secret: granted.secret.as_bytes().to_vec(),
            version: granted.version.number(),
            field: granted.field.to_string(),
            value: granted.value.as_bytes().to_vec(),
            ct_sha256: granted.ct_hash.as_bytes().to_vec(),
            ct: self.ct.into(),
        }
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
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
