//! The log against real files: what it writes verifies, what a crash leaves is taken up, what is damaged is refused.

mod anchored;
mod appending;
mod cutting;
mod recovery;
mod refusing;
mod rotated;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use attache_envelope::id::{BootId, ChainId, StoreId};
use attache_translog::{
    Ban, Denial, Frontier, HEADER_BYTES, Intent, Leaf, LogKeys, Outcome, Record, Records, Report,
    Verifier,
};

use super::segment_file::{list_segments, segment_path, written_length};
use super::*;

const STORE: [u8; 16] = [0x11; 16];
const CHAIN: [u8; 16] = [0x22; 16];
const SEED: [u8; 32] = [0x33; 32];

/// Small, so that a few hundred leaves fill several.
const SEGMENT_BYTES: u64 = 64 * 1024;

struct TestSeed([u8; 32]);

impl CheckpointKeys for TestSeed {
    fn signer(&self, name: &str) -> Result<Signer, NoteError> {
        Signer::from_seed(name, &self.0)
    }

    fn public(&self) -> Result<Vec<[u8; 32]>, NoteError> {
        Ok(vec![*self.signer("key")?.verifier().key()])
    }
}

/// A clock that stands still until it is told otherwise.
#[derive(Clone)]
struct TestClock(Arc<AtomicU64>);

impl TestClock {
    fn at(ms: u64) -> Self {
        Self(Arc::new(AtomicU64::new(ms)))
    }

    fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }

    fn clock(&self) -> Clock {
        let time = Arc::clone(&self.0);
        Clock::from_fn(move || time.load(Ordering::Relaxed))
    }
}

fn options(dir: &Path) -> LogOptions {
    LogOptions {
        dir: dir.to_owned(),
        store: StoreId::from_bytes(STORE),
        chain: ChainId::from_bytes(CHAIN),
        boot: BootId::from_bytes([0x44; 16]),
        anchored: None,
        segment_bytes: SEGMENT_BYTES,
        clock: TestClock::at(1_000).clock(),
    }
}

fn open(dir: &Path) -> (AuditLog, Recovered) {
    AuditLog::open(options(dir), TestSeed(SEED)).unwrap()
}

fn refused(dir: &Path) -> OpenError {
    AuditLog::open(options(dir), TestSeed(SEED))
        .map(drop)
        .unwrap_err()
}

fn ban(number: u64) -> Ban {
    Ban {
        identity: format!("spiffe://example.internal/node/local/{number}"),
        reason: "cloned".into(),
    }
}

fn intent(request: u8) -> Intent {
    Intent {
        operator: "spiffe://example.internal/operator/ann".into(),
        serial: vec![1],
        request: [request; 16],
        verb: "secret.put".into(),
        object: "payments/db".into(),
        digest: [request; 32],
        expected_seq: 1,
        reason: None,
    }
}

fn committed(intent: u64, request: u8, seq: u8) -> Outcome {
    Outcome {
        operator: "spiffe://example.internal/operator/ann".into(),
        request: [request; 16],
        made: None,
        reason: None,
        ending: attache_translog::Ending::Committed,
        seq: Some(seq.into()),
        anchor_t: Some([seq; 32]),
        intent,
    }
}

pub(super) fn denial(actor: &str, id: Option<[u8; 4]>, public: &str, true_reason: &str) -> Denial {
    Denial {
        actor: actor.into(),
        serial: vec![1],
        request: None,
        verb: "delivery.deliver".into(),
        object: None,
        cluster: None,
        namespace: None,
        service_account: None,
        pod_name: None,
        pod_uid: None,
        container: None,
        image: None,
        volume_id: None,
        volume_name: None,
        references: None,
        denial: id,
        public_reason: public.into(),
        true_reason: true_reason.into(),
        policies: None,
    }
}

/// What the offline verifier says of the whole folder.
fn verify(dir: &Path, log: &AuditLog) -> Report {
    let head = log.head();
    let verifier = Verifier::parse(&head.vkey).unwrap();
    let kept = attache_translog::Checkpoint::open(&head.checkpoint, &verifier).unwrap();
    let keys = LogKeys::one(verifier);
    let mut audit = attache_translog::Audit::new(&keys, Some(kept)).unwrap();
    for first in list_segments(dir).unwrap() {
        audit.segment(&std::fs::read(segment_path(dir, first)).unwrap());
    }
    audit.finish()
}

fn last_segment(dir: &Path) -> PathBuf {
    segment_path(dir, *list_segments(dir).unwrap().last().unwrap())
}

/// Where each record begins, and where the last one ends.
fn record_offsets(segment: &[u8]) -> Vec<usize> {
    let mut records = Records::new(segment);
    let mut offsets = Vec::new();
    for (offset, record) in records.by_ref() {
        record.unwrap();
        offsets.push(offset);
    }
    offsets.push(records.offset());
    offsets
}

async fn parsed(log: &AuditLog, first: u64, limit: usize) -> Vec<Leaf> {
    let leaves = log.read(first, limit).await.unwrap();
    leaves
        .iter()
        .map(|leaf| Leaf::parse(&leaf.body).unwrap())
        .collect()
}
