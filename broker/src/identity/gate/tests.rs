//! Identities over a real store and a real log, with a driven clock.

mod approvals;
mod ca;
mod codes;
mod late;
mod readmission;
mod record;

use std::sync::{
    Mutex as StdMutex, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use attache_envelope::id::{BootId, ChainId};
use attache_mtls::{
    ca::{CA_VALIDITY, CertificateAuthority},
    key::LeafKey,
    spiffe::TrustDomain,
};
use attache_translog::{Leaf, Stop};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::*;
use crate::{
    audit::{Clock, LogOptions, small_disk::SmallDisk},
    identity::CaCertificates,
    store::{LedgerOptions, fixture::Fixture},
};

const BROKER: &str = "spiffe://example.internal/broker/broker-0";
const SEGMENT_BYTES: u64 = 64 * 1024;
const BEGAN_MS: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 60 * 60 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;

struct World {
    fixture: Fixture,
    _dir: TempDir,
    gate: Arc<Gate>,
    now: Arc<AtomicU64>,
    /// Whom the gate has cut off.
    cut_off: Arc<StdMutex<Vec<PeerId>>>,
    disk: Option<SmallDisk>,
    /// The log is filled when the next change is committed: after its leaf, before its anchor.
    full_at_the_next_commit: Arc<AtomicBool>,
}

impl World {
    async fn new() -> Self {
        Self::over(None).await
    }

    /// A log on a disk that holds one segment and no second.
    async fn on_a_small_disk() -> Self {
        Self::over(Some(SEGMENT_BYTES + SEGMENT_BYTES / 2)).await
    }

    async fn over(disk_bytes: Option<u64>) -> Self {
        let fixture = Fixture::new().await;
        let dir = tempfile::tempdir().unwrap();
        let audit = dir.path().join("audit");
        let disk = disk_bytes.map(|bytes| SmallDisk::mount(&audit, bytes));
        let opened: Arc<OnceLock<AuditLog>> = Arc::default();
        let full_at_the_next_commit = Arc::new(AtomicBool::new(false));
        let (full, filled) = (Arc::clone(&full_at_the_next_commit), Arc::clone(&opened));
        let runtime = Handle::current();
        let audit_head = move || {
            if full.swap(false, Ordering::SeqCst) {
                runtime.block_on(fill(filled.get().unwrap()));
            }
            None
        };
        let options = LedgerOptions {
            audit_head: Box::new(audit_head),
            ..fixture.options()
        };
        let (ledger, keys) = fixture.try_open(options).await.unwrap();
        let now = Arc::new(AtomicU64::new(BEGAN_MS));
        let clock = Arc::clone(&now);
        let options = LogOptions {
            dir: audit,
            store: keys.store_id(),
            chain: ChainId::from_bytes([2; 16]),
            boot: BootId::from_bytes([3; 16]),
            anchored: None,
            segment_bytes: SEGMENT_BYTES,
            clock: Clock::from_fn(move || clock.load(Ordering::Relaxed)),
        };
        let (log, _) = AuditLog::open(options, Arc::clone(&keys)).unwrap();
        assert!(opened.set(log.clone()).is_ok());
        let domain: TrustDomain = "example.internal".parse().unwrap();
        let ca = CertificateAuthority::create(
            keys.ca_key().seed(),
            &domain,
            "test",
            CA_VALIDITY,
            log.clock().now(),
        )
        .unwrap();
        let certificates = CaCertificates {
            active: ca.certificate().clone(),
            before: None,
        };
        let authority = Authority::load(certificates, Arc::clone(&keys)).unwrap();
        let directory = Directory::load(&ledger).await.unwrap();
        let cut_off: Arc<StdMutex<Vec<PeerId>>> = Arc::default();
        let seen = Arc::clone(&cut_off);
        let gate = Gate::new(
            ledger,
            log,
            authority,
            directory,
            BROKER.to_owned(),
            Box::new(move |id| seen.lock().unwrap().push(id.clone())),
            Arc::default(),
        );
        Self {
            fixture,
            _dir: dir,
            gate: Arc::new(gate),
            now,
            cut_off,
            disk,
            full_at_the_next_commit,
        }
    }

    fn pass(&self, ms: u64) {
        self.now.fetch_add(ms, Ordering::Relaxed);
    }

    /// Signs in with a new key.
    async fn first(&self, name: &str) -> Result<Arc<PeerIdentity>, EnrollError> {
        let issued = self.gate.bootstrap_operator(operator(name), csr()).await?;
        Ok(Arc::new(issued.identity().clone()))
    }

    async fn recover(&self, name: &str) -> Result<Arc<PeerIdentity>, EnrollError> {
        let issued = self.gate.recover_operator(operator(name), csr()).await?;
        Ok(Arc::new(issued.identity().clone()))
    }

    /// Renews, and makes the first call with what was issued.
    async fn renew(&self, peer: &Arc<PeerIdentity>) -> Result<Arc<PeerIdentity>, EnrollError> {
        let issued = self
            .gate
            .renew(peer, true, csr(), PluginVersion::default())
            .await?;
        let renewed = Arc::new(issued.identity().clone());
        self.gate.admit(&renewed, true).await?;
        Ok(renewed)
    }

    /// A node that joined with a token.
    async fn node(&self) -> Arc<PeerIdentity> {
        self.node_with(csr()).await
    }

    async fn node_with(&self, csr: CertificateRequest) -> Arc<PeerIdentity> {
        let token = self.token().await;
        self.join(&token, csr).await.unwrap()
    }

    /// A join token for the one node.
    async fn token(&self) -> Zeroizing<String> {
        let (cluster, node) = ("local".parse().unwrap(), "node-a".parse().unwrap());
        let uid: NodeUid = "5a0c1de0-0000-4000-8000-00000000000a".parse().unwrap();
        let (text, id, record) = self
            .gate
            .draw_join_token(&cluster, (&node, &uid), "ada".into())
            .unwrap();
        let mut change = Change::default();
        change.put(Table::JoinToken, id, record.encode());
        self.gate.ledger.apply(change).await.unwrap();
        text
    }

    async fn join(
        &self,
        token: &str,
        csr: CertificateRequest,
    ) -> Result<Arc<PeerIdentity>, EnrollError> {
        let issued = self.gate.join(token, csr, version("test")).await?;
        Ok(Arc::new(issued.identity().clone()))
    }

    async fn events(&self) -> Vec<Event> {
        let leaves = self.gate.audit.read(0, usize::MAX).await.unwrap();
        leaves
            .iter()
            .map(|leaf| Leaf::parse(&leaf.body).unwrap().event)
            .collect()
    }
}

/// Fills the log's segment to its last leaf.
async fn fill(log: &AuditLog) {
    for bytes in [2048, 256, 1] {
        let broker = "b".repeat(bytes);
        while log
            .append(Stop {
                broker: broker.clone(),
            })
            .await
            .is_ok()
        {}
    }
}

fn operator(name: &str) -> OperatorId {
    OperatorId::new("example.internal".parse().unwrap(), name).unwrap()
}

fn csr() -> CertificateRequest {
    request_of(&LeafKey::generate().unwrap())
}

fn version(text: &str) -> PluginVersion {
    text.parse().unwrap()
}

fn request_of(key: &LeafKey) -> CertificateRequest {
    CertificateRequest::verify(&key.certificate_request().unwrap()).unwrap()
}

fn is_over(result: Result<Arc<PeerIdentity>, EnrollError>) -> bool {
    matches!(
        result,
        Err(EnrollError::NotAdmitted(NotAdmitted::SignInEnded { .. }))
    )
}

#[tokio::test]
async fn an_operator_renews_for_seven_days_after_the_sign_in_whatever_the_client_counts() {
    let world = World::new().await;
    let mut ada = world.first("ada").await.unwrap();
    for _ in 0..13 {
        world.pass(DAY_MS / 2);
        ada = world.renew(&ada).await.unwrap();
    }
    world.pass(DAY_MS / 2 - 1);
    ada = world.renew(&ada).await.unwrap();
    world.pass(1);
    let refused = world.renew(&ada).await.unwrap_err().to_string();
    assert!(
        refused.contains("2027-01-22T08:00:00Z") && refused.contains("attache login --new ada"),
        "{refused}"
    );
    // The last certificate lives to its own end.
    world.gate.admit(&ada, true).await.unwrap();
    // A restart does not begin the days anew.
    let World { fixture, gate, .. } = world;
    gate.ledger.close().await;
    drop(gate);
    let (ledger, _) = fixture.open().await;
    let (_, row) = Directory::load(&ledger).await.unwrap().view().operators["ada"].clone();
    assert_eq!(row.signed_in.as_millisecond(), 1_800_000_000_000);
    assert!(row.keys.standing(ada.spki_sha256(), row.signed_in) == Standing::Current);
}

#[tokio::test]
async fn a_node_renews_for_ever() {
    let world = World::new().await;
    let mut node = world.node().await;
    world.pass(30 * DAY_MS);
    for _ in 0..3 {
        world.pass(HOUR_MS / 2);
        node = world.renew(&node).await.unwrap();
    }
}

#[tokio::test]
async fn a_renewal_puts_the_nodes_new_version_on_record() {
    let world = World::new().await;
    let node = world.node().await;
    let renewed = world.gate.renew(&node, true, csr(), version("2.0")).await;
    assert!(renewed.is_ok());
    let view = world.gate.directory().view();
    let (_, record) = view.nodes.get(&node.id().to_string()).unwrap();
    assert_eq!(record.version, "2.0");
}

#[tokio::test]
async fn a_join_token_that_nobody_redeemed_in_time_goes_with_the_next_one() {
    let world = World::new().await;
    let (cluster, node) = ("local".parse().unwrap(), "node-a".parse().unwrap());
    let uid: NodeUid = "5a0c1de0-0000-4000-8000-00000000000a".parse().unwrap();
    let draw = async || {
        let drawn = world
            .gate
            .draw_join_token(&cluster, (&node, &uid), "ada".into());
        let (_, id, record) = drawn.unwrap();
        let mut change = Change::default();
        change.put(Table::JoinToken, id, record.encode());
        let forgotten = world.gate.forget_expired_tokens(&mut change).await;
        forgotten.unwrap();
        world.gate.ledger.apply(change).await.unwrap();
    };
    let live = async || {
        let rows = world.gate.ledger.scan(Table::JoinToken, b"", None, 10);
        rows.await.unwrap().len()
    };
    draw().await;
    world.pass(10 * 60 * 1000);
    draw().await;
    assert_eq!(live().await, 2, "the first one may still be redeemed");
    world.pass(1);
    draw().await;
    assert_eq!(live().await, 2, "the first one is gone");
}

#[tokio::test]
async fn recovery_signs_in_anew_and_the_earlier_key_is_a_copy() {
    let world = World::new().await;
    let old = world.first("ada").await.unwrap();
    world.pass(8 * DAY_MS);
    assert!(is_over(world.renew(&old).await));
    let new = world.recover("ada").await.unwrap();
    world.renew(&new).await.unwrap();
    let (_, row) = world.gate.directory.view().operators["ada"].clone();
    assert_eq!(row.created.as_millisecond(), 1_800_000_000_000);
    let events = world.events().await;
    let [
        Event::Bootstrap(_),
        Event::Anchor(_),
        Event::Alarm(alarm),
        Event::Bootstrap(again),
        ..,
    ] = events.as_slice()
    else {
        panic!("{events:?}");
    };
    assert_eq!(
        (alarm.identity.as_str(), again.operator.as_str()),
        (
            "spiffe://example.internal/operator/ada",
            "spiffe://example.internal/operator/ada"
        )
    );
    let copy = world.gate.admit(&old, false).await.unwrap_err();
    assert!(matches!(copy, NotAdmitted::Copy { .. }), "{copy}");
}

#[tokio::test]
async fn recovery_makes_another_operator_and_signs_no_banned_one_in() {
    let world = World::new().await;
    let old = world.first("ada").await.unwrap();
    let first_only = world.first("eve").await.unwrap_err();
    assert!(
        matches!(first_only, EnrollError::OperatorExists),
        "{first_only}"
    );
    world.recover("ada").await.unwrap();
    // A copy of the earlier key: ada is banned.
    world.gate.admit(&old, false).await.unwrap_err();
    let banned = world.recover("ada").await.unwrap_err();
    assert!(
        matches!(banned, EnrollError::RecoversBanned { .. }),
        "{banned}"
    );
    let bob = world.recover("bob").await.unwrap();
    assert!(world.gate.admit(&bob, true).await.is_ok());
}
