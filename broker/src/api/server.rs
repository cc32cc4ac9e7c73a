//! The three listeners: nodes and operators over mutual TLS, joining nodes without client certificates, root on this
//! machine. Each serves its own services and its health, and no others.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Result;
use attache_mtls::{accept::Acceptor, stream::MtlsStream, tls::Credentials};
use attache_proto::{attache::v1 as pb, codec::own_words};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Semaphore, mpsc, watch},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::http::Response,
    service::interceptor::InterceptedService,
    transport::{Server, server::Router},
};
use tonic_health::pb::health_server::HealthServer;
use tower::{
    layer::util::{Identity, Stack},
    util::MapResponseLayer,
};

use super::{
    admin::{AdminService, accepted},
    approvals::ApprovalService,
    audit::AuditService,
    backups::BackupService,
    calls::Calls,
    clusters::ClusterService,
    delivery::DeliveryService,
    enrollment::EnrollmentService,
    fleet::FleetService,
    health::HealthService,
    keys::KeyService,
    keyspaces::KeyspaceService,
    looks::Looks,
    overview::OverviewService,
    peer::{BrokerStream, Peers},
    policy::PolicyService,
    room::Room,
    sealing::SealingService,
    secrets::SecretService,
    slots::SlotService,
    unsealing::{SealedService, UnsealingService},
};
use crate::{
    audit::{AuditLog, Clock, Refusals},
    config::Limits,
    identity::Gate,
    kms::KmsPlugin,
    metrics::Metrics,
    mutation::Mutations,
    overdue::OverdueKeys,
    registry::Registry,
    release::{Counters, Releases, sessions::Sessions},
    removal::Removals,
    retagging::Retagging,
    retention::Prunings,
    rotation::Rotations,
    scrub::LastScrub,
    seal::Sealed,
    vault::BrokerVault,
};

/// Connections that are through their handshake and wait for the server.
const ACCEPTED: usize = 64;
/// A put of a whole version fits, with its framing.
const PUT_MAX: usize = 2 * 1024 * 1024;
/// A volume's attributes and a token: kubelet's own request has at most half of that.
const DELIVERY_MAX: usize = 512 * 1024;
/// Any other message.
const MESSAGE_MAX: usize = 64 * 1024;
/// A message before authentication: a token and a certificate request, or a slot's secret.
const ENROLL_MESSAGE_MAX: usize = 16 * 1024;
/// The age of a connection of the enrollment listener.
pub const ENROLL_CONNECTION_AGE: Duration = Duration::from_secs(20);
/// From a request's head to its answer's, its body among it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// A dead connection is found this soon.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Headers of one request.
const HEADERS_MAX: u32 = 16 * 1024;

type OwnWords = fn(Response<Body>) -> Response<Body>;
type Layers = Stack<MapResponseLayer<OwnWords>, Stack<Calls, Identity>>;

/// What goes on in the background, whoever began it.
#[derive(Clone, Default)]
pub struct Background {
    /// Keys whose values are wrapped again.
    pub rotations: Rotations,
    /// Destroyed keyspaces that are removed.
    pub removals: Removals,
    /// Versions that are not kept.
    pub prunings: Prunings,
    /// Rows that are tagged anew.
    pub retagging: Retagging,
    /// Keys that are past what their keyspace demands.
    pub overdue: OverdueKeys,
}

/// What the services are made of.
#[derive(Clone)]
pub struct Services {
    /// Admits callers.
    pub gate: Arc<Gate>,
    /// Clusters, grants, guard rails.
    pub registry: Arc<Registry>,
    /// Secrets.
    pub vault: Arc<BrokerVault>,
    /// Operators' changes.
    pub mutations: Mutations,
    /// What goes on in the background.
    pub background: Background,
    /// What the last scrub of the store found.
    pub scrubbed: LastScrub,
    /// The audit log.
    pub log: AuditLog,
    /// Its folder.
    pub audit_dir: PathBuf,
    /// What was refused.
    pub refusals: Refusals,
    /// The release path.
    pub releases: Releases,
    /// Sessions with node plugins.
    pub sessions: Sessions,
    /// What was released and refused since the start.
    pub counters: Arc<Counters>,
    /// What is measured.
    pub metrics: Metrics,
    /// The server's certificate.
    pub credentials: Credentials,
    /// The time on record.
    pub clock: Clock,
    /// The KMS plugin that the settings name.
    pub kms: Option<KmsPlugin>,
    /// When the process started, in milliseconds since 1970.
    pub started_ms: u64,
    /// How many deliveries one node may have under way, and begin.
    pub room: Room,
    /// The store's file.
    pub store_file: PathBuf,
    /// Ends this open time of the broker.
    pub seal: CancellationToken,
    /// Where an operator's seal is noted.
    pub operator_seal: PathBuf,
    /// Mutual TLS.
    pub acceptor: Acceptor,
    /// TLS without client certificates.
    pub enroll_acceptor: Acceptor,
}

/// Bound sockets.
pub struct Listeners {
    /// Nodes and operators.
    pub grpc: TcpListener,
    /// Joining nodes.
    pub enroll: TcpListener,
    /// Root on this machine.
    pub admin: UnixListener,
}

/// Bound sockets of a sealed broker.
pub struct SealedListeners {
    /// Joining nodes, and whoever unseals.
    pub enroll: TcpListener,
    /// TLS without client certificates.
    pub acceptor: Acceptor,
    /// Root on this machine.
    pub admin: UnixListener,
}

/// Serves until `stop`, then until what is under way has ended.
///
/// # Errors
/// When a server fails; the others are then ended at once.
pub async fn serve(
    services: Services,
    listeners: Listeners,
    limits: Limits,
    serving: watch::Receiver<bool>,
    stop: CancellationToken,
) -> Result<()> {
    let peers = Peers::new(Arc::clone(&services.gate));
    let calls = Calls::new(services.vault.boot(), services.metrics.clone());
    let health = |peers| {
        HealthServer::new(HealthService {
            peers,
            serving: serving.clone(),
            stop: stop.clone(),
        })
    };
    let main = main_router(&services, &peers, server(limits, &calls), &stop)
        .add_service(health(Some(peers.clone())));
    let enroll = server(limits, &calls)
        .max_connection_age(ENROLL_CONNECTION_AGE / 2)
        .add_service(
            pb::enrollment_server::EnrollmentServer::new(enrollment(&services))
                .max_decoding_message_size(ENROLL_MESSAGE_MAX),
        )
        .add_service(unsealing(UnsealingService::Open {
            store: services.vault.store_id(),
            broker_id: services.vault.broker().to_string(),
        }))
        .add_service(health(None));
    let admin = Server::builder()
        .layer(calls)
        .layer(answers())
        .add_service(pb::admin_server::AdminServer::new(AdminService {
            gate: Arc::clone(&services.gate),
            vault: Arc::clone(&services.vault),
            seal: services.seal.clone(),
            trust_domain: services.gate.authority().trust_domain(),
        }))
        .add_service(health(None));
    let incoming = accepted(listeners.admin);
    let gate = services.gate;
    let of_gate = move |stream| BrokerStream::of(&gate, stream);
    tokio::try_join!(
        serve_tls(
            main,
            (services.acceptor, listeners.grpc),
            of_gate.clone(),
            stop.clone()
        ),
        serve_tls(
            enroll,
            (services.enroll_acceptor, listeners.enroll),
            of_gate,
            stop.clone()
        ),
        async {
            Ok(admin
                .serve_with_incoming_shutdown(incoming, stop.cancelled())
                .await?)
        },
    )?;
    Ok(())
}

/// Serves a sealed broker until `stop`: health, what opens it, and the word that it is sealed.
///
/// # Errors
/// When a server fails.
pub async fn serve_sealed(
    sealed: Arc<Sealed>,
    listeners: SealedListeners,
    limits: Limits,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<()> {
    let calls = Calls::new(sealed.boot(), metrics);
    let (_serves, serving) = watch::channel(false);
    let health = || {
        HealthServer::new(HealthService {
            peers: None,
            serving: serving.clone(),
            stop: stop.clone(),
        })
    };
    let enroll = server(limits, &calls)
        .max_connection_age(ENROLL_CONNECTION_AGE / 2)
        .add_service(unsealing(UnsealingService::Sealed(Arc::clone(&sealed))))
        .add_service(
            pb::enrollment_server::EnrollmentServer::new(SealedService(Arc::clone(&sealed)))
                .max_decoding_message_size(ENROLL_MESSAGE_MAX),
        )
        .add_service(health());
    let admin = Server::builder()
        .layer(calls)
        .layer(answers())
        .add_service(pb::admin_server::AdminServer::new(SealedService(sealed)))
        .add_service(health());
    let incoming = accepted(listeners.admin);
    let unknown = |stream| BrokerStream::new(stream, false);
    tokio::try_join!(
        serve_tls(
            enroll,
            (listeners.acceptor, listeners.enroll),
            unknown,
            stop.clone()
        ),
        async {
            Ok(admin
                .serve_with_incoming_shutdown(incoming, stop.cancelled())
                .await?)
        },
    )?;
    Ok(())
}

fn unsealing(service: UnsealingService) -> pb::unsealing_server::UnsealingServer<UnsealingService> {
    pb::unsealing_server::UnsealingServer::new(service)
        .max_decoding_message_size(ENROLL_MESSAGE_MAX)
}

async fn serve_tls(
    router: Router<Layers>,
    (acceptor, listener): (Acceptor, TcpListener),
    taken: impl Fn(MtlsStream) -> BrokerStream + Send + 'static,
    stop: CancellationToken,
) -> Result<()> {
    let (send, receive) = mpsc::channel::<MtlsStream>(ACCEPTED);
    let accepting = stop.clone();
    let loop_ = tokio::spawn(async move {
        tokio::select! {
            () = acceptor.run(listener, send) => {}
            () = accepting.cancelled() => {}
        }
    });
    let incoming =
        ReceiverStream::new(receive).map(move |stream| Ok::<_, std::io::Error>(taken(stream)));
    let served = router
        .serve_with_incoming_shutdown(incoming, stop.cancelled())
        .await;
    loop_.abort();
    Ok(served?)
}

fn server(limits: Limits, calls: &Calls) -> Server<Layers> {
    Server::builder()
        .layer(calls.clone())
        .layer(answers())
        .concurrency_limit_per_connection(limits.requests_per_connection)
        .load_shed(true)
        .timeout(REQUEST_TIMEOUT)
        .max_concurrent_streams(u32::try_from(limits.requests_per_connection).unwrap_or(u32::MAX))
        .max_connection_age(limits.connection_age)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .http2_max_header_list_size(HEADERS_MAX)
        .http2_max_pending_accept_reset_streams(Some(limits.requests_per_connection))
}

/// What the transport answers by itself is said in our codes.
fn answers() -> MapResponseLayer<OwnWords> {
    MapResponseLayer::new(own_words)
}

fn enrollment(services: &Services) -> EnrollmentService {
    EnrollmentService {
        gate: Arc::clone(&services.gate),
        clusters: Arc::clone(services.registry.clusters()),
        broker_id: services.vault.broker().to_string(),
    }
}

fn secrets(services: &Services, peers: &Peers) -> SecretService {
    SecretService {
        peers: peers.clone(),
        vault: Arc::clone(&services.vault),
        prunings: services.background.prunings.clone(),
        mutations: services.mutations.clone(),
        clock: services.clock.clone(),
    }
}

fn keyspaces(services: &Services, peers: &Peers) -> KeyspaceService {
    KeyspaceService {
        peers: peers.clone(),
        vault: Arc::clone(&services.vault),
        registry: Arc::clone(&services.registry),
        removals: services.background.removals.clone(),
        prunings: services.background.prunings.clone(),
        overdue: services.background.overdue.clone(),
        mutations: services.mutations.clone(),
        clock: services.clock.clone(),
        seal: services.seal.clone(),
    }
}

fn policy(services: &Services, peers: &Peers) -> PolicyService {
    PolicyService {
        peers: peers.clone(),
        registry: Arc::clone(&services.registry),
        mutations: services.mutations.clone(),
        clock: services.clock.clone(),
    }
}

fn approvals(services: &Services, peers: &Peers) -> ApprovalService {
    ApprovalService {
        peers: peers.clone(),
        mutations: services.mutations.clone(),
        clock: services.clock.clone(),
    }
}

fn keys(services: &Services, peers: &Peers) -> KeyService {
    KeyService {
        peers: peers.clone(),
        vault: Arc::clone(&services.vault),
        rotations: services.background.rotations.clone(),
        retagging: services.background.retagging.clone(),
        looks: Looks::new(services.seal.clone()),
        mutations: services.mutations.clone(),
        log: services.log.clone(),
    }
}

fn slots(services: &Services, peers: &Peers) -> SlotService {
    SlotService {
        peers: peers.clone(),
        vault: Arc::clone(&services.vault),
        mutations: services.mutations.clone(),
        clock: services.clock.clone(),
        kms: services.kms.clone(),
    }
}

fn delivery(services: &Services, peers: &Peers) -> DeliveryService {
    DeliveryService::new(
        peers.clone(),
        services.releases.clone(),
        services.metrics.clone(),
    )
}

fn sealing(services: &Services, peers: &Peers) -> SealingService {
    SealingService {
        peers: peers.clone(),
        mutations: services.mutations.clone(),
        broker: services.vault.broker().to_string(),
        seal: services.seal.clone(),
        note: services.operator_seal.clone(),
        clock: services.clock.clone(),
    }
}

fn backups(services: &Services, peers: &Peers, stop: &CancellationToken) -> BackupService {
    BackupService {
        peers: peers.clone(),
        vault: Arc::clone(&services.vault),
        mutations: services.mutations.clone(),
        log: services.log.clone(),
        store_file: services.store_file.clone(),
        one: Arc::new(Semaphore::new(1)),
        stop: stop.clone(),
    }
}

fn overview(services: &Services, peers: &Peers) -> OverviewService {
    OverviewService {
        peers: peers.clone(),
        vault: Arc::clone(&services.vault),
        log: services.log.clone(),
        counters: Arc::clone(&services.counters),
        credentials: services.credentials.clone(),
        scrubbed: services.scrubbed.clone(),
        started_ms: services.started_ms,
        rotations: services.background.rotations.clone(),
        retagging: services.background.retagging.clone(),
        removals: services.background.removals.clone(),
        overdue: services.background.overdue.clone(),
        disks: [services.audit_dir.clone(), services.store_file.clone()],
    }
}

fn main_router(
    services: &Services,
    peers: &Peers,
    mut server: Server<Layers>,
    stop: &CancellationToken,
) -> Router<Layers> {
    let policy = policy(services, peers);
    let clusters = ClusterService {
        peers: peers.clone(),
        registry: Arc::clone(&services.registry),
        mutations: services.mutations.clone(),
        clock: services.clock.clone(),
        metrics: services.metrics.clone(),
        adding: Arc::default(),
    };
    let fleet = FleetService {
        peers: peers.clone(),
        registry: Arc::clone(&services.registry),
        mutations: services.mutations.clone(),
        clock: services.clock.clone(),
    };
    let audit = AuditService {
        peers: peers.clone(),
        log: services.log.clone(),
        refusals: services.refusals.clone(),
        stop: stop.clone(),
    };
    let delivery = delivery(services, peers);
    let room = services.room.clone();
    /// A service that takes messages of at most [`MESSAGE_MAX`].
    macro_rules! small {
        ($server:path, $service:expr) => {
            <$server>::new($service).max_decoding_message_size(MESSAGE_MAX)
        };
    }
    server
        .add_service(InterceptedService::new(
            pb::delivery_server::DeliveryServer::new(delivery)
                .max_decoding_message_size(DELIVERY_MAX),
            move |request| room.admit(request),
        ))
        .add_service(
            pb::secrets_server::SecretsServer::new(secrets(services, peers))
                .max_decoding_message_size(PUT_MAX),
        )
        .add_service(small!(
            pb::keyspaces_server::KeyspacesServer<_>,
            keyspaces(services, peers)
        ))
        .add_service(small!(
            pb::keys_server::KeysServer<_>,
            keys(services, peers)
        ))
        .add_service(small!(pb::grants_server::GrantsServer<_>, policy.clone()))
        .add_service(small!(pb::guardrails_server::GuardrailsServer<_>, policy))
        .add_service(small!(pb::clusters_server::ClustersServer<_>, clusters))
        .add_service(small!(pb::nodes_server::NodesServer<_>, fleet.clone()))
        .add_service(small!(pb::operators_server::OperatorsServer<_>, fleet))
        .add_service(small!(
            pb::approvals_server::ApprovalsServer<_>,
            approvals(services, peers)
        ))
        .add_service(small!(
            pb::slots_server::SlotsServer<_>,
            slots(services, peers)
        ))
        .add_service(small!(
            pb::sealing_server::SealingServer<_>,
            sealing(services, peers)
        ))
        .add_service(small!(pb::audit_server::AuditServer<_>, audit))
        .add_service(small!(
            pb::backups_server::BackupsServer<_>,
            backups(services, peers, stop)
        ))
        .add_service(small!(
            pb::status_server::StatusServer<_>,
            overview(services, peers)
        ))
        .add_service(
            pb::renewal_server::RenewalServer::new(enrollment(services))
                .max_decoding_message_size(ENROLL_MESSAGE_MAX),
        )
}
