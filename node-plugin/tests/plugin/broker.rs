//! A broker that does as it is told: enrollment, renewal and delivery over real mutual TLS, with the product's own
//! constructions.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use attache_envelope::late_renewal::LateRenewal;
use attache_mtls::bundle::TrustBundle;
use attache_mtls::ca::{CA_VALIDITY, CertificateAuthority, CertificateRequest};
use attache_mtls::key::LeafKey;
use attache_mtls::spiffe::{BrokerId, NodeId, PeerId};
use attache_mtls::stream::ConnectionInfo;
use attache_mtls::tls::{Credentials, Material};
use attache_mtls::verify::Purpose;
use attache_proto::attache::v1 as pb;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use pb::deliver_response::Answer;
use pb::delivery_server::{Delivery, DeliveryServer};
use pb::enrollment_server::{Enrollment, EnrollmentServer};
use pb::renewal_server::{Renewal, RenewalServer};
use tokio::sync::Semaphore;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::listener::{bind, serve};
use crate::world::{Say, Sealing, World};

pub(crate) const NODE_UID: &str = "5a0c1de0-0000-4000-8000-00000000000a";
pub(crate) const CLUSTER: &str = "local";

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
            world: Arc::new(Mutex::new(World::new())),
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

    async fn sign_in_operator(
        &self,
        _: Request<pb::SignInOperatorRequest>,
    ) -> Result<Response<pb::SignInOperatorResponse>, Status> {
        Err(Status::unimplemented("this broker has no operators"))
    }

    async fn renew_late(
        &self,
        request: Request<pb::RenewLateRequest>,
    ) -> Result<Response<pb::RenewLateResponse>, Status> {
        let mut world = self.world.lock().unwrap();
        world.late += 1;
        if let Some(status) = &world.refuse_late {
            return Err(status.clone());
        }
        let asked = request.into_inner();
        let chain = [asked.certificate.as_slice().into()];
        let now = Timestamp::now();
        let peer = self.pki.bundle.verify_ended(&chain, Purpose::Client, now);
        let peer = peer.unwrap();
        assert!(peer.not_after() < now, "its certificate works");
        let at_ms = asked.at.unwrap().unix_ms;
        let signed = LateRenewal {
            broker: &broker_id().to_string(),
            certificate: &asked.certificate,
            request: &asked.csr,
            version: &asked.version,
            at_ms: at_ms.try_into().unwrap(),
        };
        assert!(peer.has_signed(&signed.transcript(), &asked.signature));
        assert!((now.as_millisecond() - at_ms).abs() < 60_000);
        let certificate = Some(self.pki.issue(&asked.csr, world.validity));
        Ok(Response::new(pb::RenewLateResponse { certificate }))
    }

    async fn enroll_node(
        &self,
        _: Request<pb::EnrollNodeRequest>,
    ) -> Result<Response<pb::EnrollNodeResponse>, Status> {
        Err(Status::unimplemented("this broker takes join tokens"))
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
