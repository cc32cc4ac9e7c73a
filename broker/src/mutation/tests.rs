//! Mutations over a real store and a real log: once a request id, whatever happens in between.

mod full_disk;
mod repeats;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use attache_arena::Arena;
use attache_envelope::SystemRandom;
use attache_envelope::id::{BootId, ChainId, StoreId};
use attache_translog::{Event, Leaf};

use super::*;
use crate::audit::{AuditLog, Clock, LogOptions, Recovered};
use crate::keys::Keys;
use crate::store::{BrokerLedger, LedgerOptions};

const HOUR_MS: u64 = 60 * 60 * 1000;
const NOW_MS: u64 = 1_800_000_000_000;

struct Broker {
    log: AuditLog,
    ledger: BrokerLedger,
    mutations: Mutations,
    tasks: TaskTracker,
    now: Arc<AtomicU64>,
}

fn ann() -> OperatorId {
    "spiffe://example.internal/operator/ann".parse().unwrap()
}

async fn init(dir: &Path) {
    let arena = Arena::new_plain().unwrap();
    let id = StoreId::from_bytes([1; 16]);
    let store = RedbStore::create(&dir.join("store.redb"), id).unwrap();
    let (keys, change) = Keys::create(&arena, id, &dir.join("slot.key")).unwrap();
    Ledger::initialise(&store, &keys, &change).await.unwrap();
}

async fn parts(dir: &Path) -> (AuditLog, Recovered, BrokerLedger, Arc<AtomicU64>) {
    parts_with(dir, |_| ()).await
}

/// `between` runs in the committing thread, after a batch's intents and before its outcomes.
async fn parts_with(
    dir: &Path,
    between: impl Fn(&AuditLog) + Send + Sync + 'static,
) -> (AuditLog, Recovered, BrokerLedger, Arc<AtomicU64>) {
    let arena = Arena::new_plain().unwrap();
    let store = Arc::new(RedbStore::open(&dir.join("store.redb")).unwrap());
    let keys = Keys::open(&arena, store.as_ref(), &dir.join("slot.key"))
        .await
        .unwrap();
    let keys = Arc::new(keys);
    let now = Arc::new(AtomicU64::new(NOW_MS));
    let clock = Arc::clone(&now);
    let options = LogOptions {
        dir: dir.join("audit"),
        store: keys.store_id(),
        chain: ChainId::from_bytes([2; 16]),
        boot: BootId::from_bytes([3; 16]),
        anchored: None,
        segment_bytes: 1024 * 1024,
        clock: Clock::from_fn(move || clock.load(Ordering::Relaxed)),
    };
    let (log, recovered) = AuditLog::open(options, Arc::clone(&keys)).unwrap();
    let head = log.clone();
    let options = LedgerOptions {
        anchor_note: dir.join("anchor.note"),
        audit_head: Box::new(move || {
            between(&head);
            let at = head.head();
            Some((*head.chain(), at.size, at.root))
        }),
        audited: recovered.audited,
    };
    let ledger = Ledger::open(store, &keys, options).await.unwrap();
    (log, recovered, ledger, now)
}

async fn open(dir: &Path) -> Broker {
    let (log, recovered, ledger, now) = parts(dir).await;
    let tasks = TaskTracker::new();
    let intents = recovered.open_intents;
    let mutations = Mutations::open(log.clone(), ledger.clone(), intents, tasks.clone())
        .await
        .unwrap();
    Broker {
        log,
        ledger,
        mutations,
        tasks,
        now,
    }
}

impl Broker {
    async fn close(self) {
        self.ledger.close().await;
        self.log.close().await;
    }

    async fn events(&self) -> Vec<Event> {
        let leaves = self.log.read(0, usize::MAX).await.unwrap();
        leaves
            .iter()
            .map(|leaf| Leaf::parse(&leaf.body).unwrap().event)
            .collect()
    }

    async fn run(&self, id: RequestId, digest: u8, change: Change) -> Result<Done, MutationError> {
        self.mutations
            .run(mutation(id, digest), worked(change, vec![digest]), |_| ())
            .await
    }
}

fn worked(
    change: Change,
    result: Vec<u8>,
) -> impl Future<Output = Result<Worked, BrokenOff>> + Send + 'static {
    std::future::ready(Ok(Worked::of(change, result).unwrap()))
}

fn request(made_ms: u64) -> RequestId {
    RequestId::new(made_ms, &SystemRandom).unwrap()
}

fn mutation(request_id: RequestId, digest: u8) -> Mutation {
    Mutation {
        operator: ann(),
        cert_serial: vec![7],
        request_id,
        verb: "grant.add".into(),
        object: "web".into(),
        digest: [digest; 32],
        reason: None,
    }
}

/// Writes one grant row; twice it conflicts.
fn add(name: &str) -> Change {
    let mut change = Change::default();
    change.require_absent(Table::Grant, name);
    change.put(Table::Grant, name, b"body".as_slice());
    change
}

#[tokio::test]
async fn a_mutation_is_an_intent_then_a_commit_then_an_outcome() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let broker = open(dir.path()).await;
    let done = broker.run(request(NOW_MS), 1, add("web")).await.unwrap();
    assert_eq!(
        (done.result.as_slice(), done.repeated, done.seq),
        ([1].as_slice(), false, 2)
    );
    let events = broker.events().await;
    let [Event::Intent(intent), Event::Outcome(outcome)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(
        (intent.verb.as_str(), intent.expected_seq),
        ("grant.add", 2)
    );
    assert_eq!(
        (outcome.intent, outcome.ending, outcome.seq),
        (0, Ending::Committed, Some(2))
    );
    assert_eq!(outcome.anchor_t, Some(broker.ledger.anchor_t()));
}

#[tokio::test]
async fn a_repeat_gets_the_same_answer_and_changes_nothing_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let broker = open(dir.path()).await;
    let id = request(NOW_MS);
    assert_eq!(
        broker.mutations.known(&ann(), id, &[1; 32]).await.unwrap(),
        None
    );
    let first = broker.run(id, 1, add("web")).await.unwrap();
    let repeat = Done {
        repeated: true,
        ..first
    };
    assert_eq!(broker.run(id, 1, add("web")).await.unwrap(), repeat);
    assert_eq!(
        broker
            .mutations
            .known(&ann(), id, &[1; 32])
            .await
            .unwrap()
            .as_ref(),
        Some(&repeat)
    );
    broker.close().await;
    let broker = open(dir.path()).await;
    assert_eq!(broker.run(id, 1, add("web")).await.unwrap(), repeat);
    assert_eq!((broker.ledger.seq(), broker.events().await.len()), (2, 2));
}

#[tokio::test]
async fn an_id_with_another_digest_is_refused_and_another_operator_has_ids_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let broker = open(dir.path()).await;
    let id = request(NOW_MS);
    broker.run(id, 1, add("web")).await.unwrap();
    let error = broker.run(id, 2, add("api")).await.unwrap_err();
    assert!(matches!(error, MutationError::OtherDigest), "{error}");
    let error = broker
        .mutations
        .known(&ann(), id, &[2; 32])
        .await
        .unwrap_err();
    assert!(matches!(error, MutationError::OtherDigest), "{error}");
    let other = Mutation {
        operator: "spiffe://example.internal/operator/ben".parse().unwrap(),
        ..mutation(id, 2)
    };
    assert!(
        !broker
            .mutations
            .run(other, worked(add("api"), Vec::new()), |_| ())
            .await
            .unwrap()
            .repeated
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_sixty_four_times_at_once_is_done_once() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let broker = open(dir.path()).await;
    let id = request(NOW_MS);
    let mut tasks = Vec::new();
    for _ in 0..64 {
        let mutations = broker.mutations.clone();
        tasks.push(tokio::spawn(async move {
            mutations
                .run(mutation(id, 1), worked(add("web"), vec![1]), |_| ())
                .await
                .unwrap()
        }));
    }
    let mut firsts = 0;
    for task in tasks {
        let done = task.await.unwrap();
        assert_eq!((done.result.as_slice(), done.seq), ([1].as_slice(), 2));
        firsts += usize::from(!done.repeated);
    }
    assert_eq!(
        (firsts, broker.ledger.seq(), broker.events().await.len()),
        (1, 2, 2)
    );
}

#[tokio::test]
async fn a_conflict_is_closed_as_not_committed_and_its_id_may_be_used_again() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let broker = open(dir.path()).await;
    broker.run(request(NOW_MS), 1, add("web")).await.unwrap();
    let id = request(NOW_MS);
    let error = broker.run(id, 2, add("web")).await.unwrap_err();
    assert!(matches!(error, MutationError::Conflict(_)), "{error}");
    let events = broker.events().await;
    let Some(Event::Outcome(outcome)) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(
        (outcome.ending, outcome.intent, outcome.seq),
        (Ending::NotCommitted, 2, None)
    );
    assert!(outcome.reason.is_some());
    assert!(!broker.run(id, 2, add("api")).await.unwrap().repeated);
}

#[tokio::test]
async fn ids_of_another_time_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let broker = open(dir.path()).await;
    let old = broker
        .run(request(NOW_MS - 25 * HOUR_MS), 1, add("web"))
        .await
        .unwrap_err();
    assert!(matches!(old, MutationError::TooOld), "{old}");
    for id in [request(NOW_MS + HOUR_MS), RequestId::from_bytes([0x44; 16])] {
        let refused = broker.run(id, 1, add("web")).await.unwrap_err();
        assert!(matches!(refused, MutationError::RequestId), "{refused}");
    }
    assert!(broker.events().await.is_empty());
    // Just within the day, and a day later no more, though its row may still be there.
    let id = request(NOW_MS - 24 * HOUR_MS);
    broker.run(id, 1, add("web")).await.unwrap();
    broker.now.fetch_add(1, Ordering::Relaxed);
    let error = broker.run(id, 1, add("web")).await.unwrap_err();
    assert!(matches!(error, MutationError::TooOld), "{error}");
}

#[tokio::test]
async fn rows_a_day_old_go_with_the_next_change() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let broker = open(dir.path()).await;
    let old = request(NOW_MS);
    broker.run(old, 1, add("a")).await.unwrap();
    broker.now.fetch_add(25 * HOUR_MS, Ordering::Relaxed);
    broker
        .run(request(NOW_MS + 25 * HOUR_MS), 2, add("b"))
        .await
        .unwrap();
    let rows = broker
        .ledger
        .scan(Table::Request, b"", None, 10)
        .await
        .unwrap();
    assert_eq!(rows.len(), 1);
    assert!(!rows[0].0.ends_with(old.as_bytes()));
}

#[tokio::test]
async fn the_oldest_of_too_many_goes_and_is_not_run_again() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let broker = open(dir.path()).await;
    let mut full = Change::default();
    for number in 0..4096_u64 {
        let body = RequestBody {
            digest: [1; 32],
            result: Vec::new(),
            created_ms: NOW_MS,
        };
        let key = request_key(&ann().to_string(), request(NOW_MS + number));
        full.put(Table::Request, key, body.encode());
    }
    broker.ledger.apply(full).await.unwrap();
    broker.now.fetch_add(10_000, Ordering::Relaxed);
    broker
        .run(request(NOW_MS + 10_000), 1, add("a"))
        .await
        .unwrap();
    let rows = broker
        .ledger
        .scan(Table::Request, b"", None, 5000)
        .await
        .unwrap();
    assert_eq!(rows.len(), 4096);
    let gone = broker
        .run(request(NOW_MS - 1), 1, add("b"))
        .await
        .unwrap_err();
    assert!(matches!(gone, MutationError::TooOld), "{gone}");
    broker.close().await;
    let broker = open(dir.path()).await;
    let gone = broker
        .run(request(NOW_MS - 1), 1, add("b"))
        .await
        .unwrap_err();
    assert!(matches!(gone, MutationError::TooOld), "{gone}");
}

#[tokio::test]
async fn without_a_durable_intent_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let broker = open(dir.path()).await;
    broker.run(request(NOW_MS), 1, add("a")).await.unwrap();
    broker.log.break_disk().await;
    let error = broker.run(request(NOW_MS), 1, add("b")).await.unwrap_err();
    assert!(
        matches!(error, MutationError::Audit(AuditError::Poisoned)),
        "{error}"
    );
    assert_eq!(broker.ledger.seq(), 2);
    assert!(
        broker
            .ledger
            .read(Table::Grant, b"b")
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_taken_up_once_also_when_its_outcome_is_not_on_record() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let broker = open(dir.path()).await;
    let id = request(NOW_MS);
    let (taken_up, log) = (Arc::new(AtomicU64::new(0)), broker.log.clone());
    let told = Arc::clone(&taken_up);
    let breaks = move |seq| {
        told.fetch_add(seq, Ordering::Relaxed);
        // Between the commit and its outcome.
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(log.break_disk())
        });
    };
    let lost = broker
        .mutations
        .run(mutation(id, 1), worked(add("web"), vec![1]), breaks)
        .await
        .unwrap_err();
    assert!(matches!(lost, MutationError::Outcome(_)), "{lost}");
    assert_eq!(taken_up.load(Ordering::Relaxed), broker.ledger.seq());
    let again = Arc::clone(&taken_up);
    let repeat = broker
        .mutations
        .run(mutation(id, 1), worked(add("web"), vec![1]), move |_| {
            again.store(0, Ordering::Relaxed);
        })
        .await
        .unwrap();
    assert!(repeat.repeated);
    assert_eq!(taken_up.load(Ordering::Relaxed), broker.ledger.seq());
}

#[tokio::test]
async fn a_caller_who_goes_away_changes_nothing_about_the_change() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let broker = open(dir.path()).await;
    let id = request(NOW_MS);
    {
        let run = broker.run(id, 1, add("web"));
        tokio::pin!(run);
        // One poll: the task is on its way, the handler is gone.
        let polled = futures_poll_once(run.as_mut()).await;
        assert!(polled.is_none());
    }
    broker.tasks.close();
    broker.tasks.wait().await;
    assert!(
        broker
            .mutations
            .known(&ann(), id, &[1; 32])
            .await
            .unwrap()
            .is_some()
    );
    assert!(matches!(
        broker.events().await.as_slice(),
        [Event::Intent(_), Event::Outcome(_)]
    ));
}

async fn futures_poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

fn intent(id: RequestId, digest: u8) -> Intent {
    let mutation = mutation(id, digest);
    Intent {
        operator: mutation.operator.to_string(),
        serial: mutation.cert_serial,
        request: *id.as_bytes(),
        verb: mutation.verb,
        object: mutation.object,
        digest: mutation.digest,
        expected_seq: 2,
        reason: None,
    }
}

#[tokio::test]
async fn a_crash_between_intent_and_commit_is_closed_as_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let id = request(NOW_MS);
    let (log, _, ledger, _) = parts(dir.path()).await;
    let _receipt = log.append(intent(id, 1)).await.unwrap();
    ledger.close().await;
    log.close().await;
    drop((log, ledger));
    let broker = open(dir.path()).await;
    let events = broker.events().await;
    let [Event::Intent(_), Event::Outcome(outcome)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(
        (outcome.ending, outcome.intent, outcome.seq),
        (Ending::NotCommitted, 0, None)
    );
    assert!(!broker.run(id, 1, add("web")).await.unwrap().repeated);
}

#[tokio::test]
async fn a_crash_between_commit_and_outcome_is_closed_at_its_seq() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let id = request(NOW_MS);
    let (log, _, ledger, _) = parts(dir.path()).await;
    let _receipt = log.append(intent(id, 1)).await.unwrap();
    let body = RequestBody {
        digest: [1; 32],
        result: vec![9],
        created_ms: NOW_MS,
    };
    let mut change = add("web");
    change.put(
        Table::Request,
        request_key(&ann().to_string(), id),
        body.encode(),
    );
    let applied = ledger.apply(change).await.unwrap();
    ledger.close().await;
    log.close().await;
    drop((log, ledger));
    let broker = open(dir.path()).await;
    let events = broker.events().await;
    let [Event::Intent(_), Event::Outcome(outcome)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(
        (outcome.ending, outcome.seq),
        (Ending::Committed, Some(applied.seq))
    );
    assert_eq!(outcome.anchor_t, Some(applied.anchor_t));
    let repeat = broker.run(id, 1, add("web")).await.unwrap();
    assert_eq!(
        (repeat.result.as_slice(), repeat.repeated, repeat.seq),
        ([9].as_slice(), true, applied.seq)
    );
    broker.close().await;
    assert_eq!(
        open(dir.path()).await.events().await.len(),
        2,
        "closed once"
    );
}

#[tokio::test]
async fn what_breaks_work_off_is_its_outcome_and_the_request_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let broker = open(dir.path()).await;
    let id = request(NOW_MS);
    let seq = broker.ledger.seq();
    let work = async { Err(BrokenOff("the caller went away".into())) };
    let broken_off = broker
        .mutations
        .run(mutation(id, 1), work, |_| panic!("nothing was committed"))
        .await;
    assert!(matches!(broken_off, Err(MutationError::BrokenOff(_))));
    assert_eq!(broker.ledger.seq(), seq);
    let log = broker.log.clone();
    let work = async move {
        let intents = log.read(0, usize::MAX).await.unwrap().into_iter();
        let last = intents.last().unwrap();
        let event = Leaf::parse(&last.body).unwrap().event;
        assert!(matches!(event, Event::Intent(_)), "the intent comes first");
        Ok(Worked {
            change: add("web"),
            result: vec![1],
            made: Some([9; 32]),
        })
    };
    let done = broker
        .mutations
        .run(mutation(id, 1), work, |_| ())
        .await
        .unwrap();
    assert!(!done.repeated);
    let events = broker.events().await;
    let mut outcomes = Vec::new();
    for event in events {
        if let Event::Outcome(outcome) = event {
            outcomes.push((outcome.ending, outcome.made, outcome.reason));
        }
    }
    let reason = Some("the caller went away".to_owned());
    assert_eq!(
        outcomes,
        [
            (Ending::NotCommitted, None, reason),
            (Ending::Committed, Some([9; 32]), None)
        ]
    );
    broker.close().await;
}
