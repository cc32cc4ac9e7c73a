//! Releases from a real store, log and pod record to an agent that opens what it got.

mod bounds;
mod unanswered;

use std::fs;
use std::path::Path;
use std::time::Duration;

use attache_envelope::generation::GenerationDigest;
use attache_envelope::id::{BootId, ChainId};
use attache_envelope::key::{Dek, SecretKey};
use attache_envelope::name::{SecretPath, SecretVersion, VolumeId};
use attache_envelope::release::{ReleaseBinding, Session, SessionBinding};
use attache_envelope::value::ValueBinding;
use attache_mtls::identity::SpkiSha256;
use attache_translog::{Event, Leaf};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::attest::testdata::{
    AUDIENCE, ISSUER, Issuer, NODE_UID, OTHER_NODE_UID, POD_UID, claims, node, node_id, now, pod,
    request,
};
use crate::attest::{ClusterRegistry, ClusterSpec, RefusalKind};
use crate::audit::{Clock, LogOptions};
use crate::identity::{NodeRecord, RecordedKey, RecordedKeys};
use crate::mounted::tests::pass_time;
use crate::policy::{Condition, GrantSpec, GuardrailSpec};
use crate::vault::tests::{Bench, broker};

const AGENT_SECRET: [u8; 32] = [7; 32];
const WINDOW: Duration = Duration::from_secs(900);

/// A broker with `payments/db` in its store, a cluster in a folder, and one pod.
struct World {
    dir: tempfile::TempDir,
    bench: Bench,
    issuer: Issuer,
    parts: Arc<Parts>,
    releases: Releases,
}

fn policies(grants: &[(&str, &str, &[&str])]) -> PolicySet {
    let guardrail = |name: &str, condition| GuardrailSpec {
        name: name.parse().unwrap(),
        condition,
    };
    let guardrails = vec![
        guardrail("non-root", Condition::NonRoot),
        guardrail("unprivileged", Condition::Unprivileged),
    ];
    let grants = grants.iter().map(|(name, secret, fields)| {
        let fields = fields.iter().map(|field| field.parse().unwrap()).collect();
        let to = "local/shop/web/app".parse().unwrap();
        GrantSpec::new(name.parse().unwrap(), secret.parse().unwrap(), fields, to).unwrap()
    });
    PolicySet::new(guardrails, grants).unwrap()
}

fn open_log(dir: &Path, vault: &Vault<RedbStore>) -> (AuditLog, Refusals) {
    let options = LogOptions {
        dir: dir.join("audit"),
        store: vault.store_id(),
        chain: ChainId::from_bytes([2; 16]),
        boot: vault.boot(),
        anchored: None,
        segment_bytes: 1024 * 1024,
        clock: Clock::system(),
    };
    let (log, mut recovered) = AuditLog::open(options, Arc::clone(vault.keys())).unwrap();
    let refusals = Refusals::new(log.clone(), &mut recovered);
    (log, refusals)
}

impl World {
    async fn new(grants: &[(&str, &str, &[&str])]) -> Self {
        let bench = Bench::new().await;
        bench
            .put(
                "payments/db",
                &[("username", "shop"), ("password", "hunter2")],
            )
            .await;
        Self::over(bench, grants)
    }

    fn over(bench: Bench, grants: &[(&str, &str, &[&str])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clusters = Arc::new(ClusterRegistry::default());
        let cluster =
            ClusterSpec::in_folder("local".parse().unwrap(), ISSUER, AUDIENCE, dir.path());
        clusters.replace([cluster.unwrap()]);
        let vault = Arc::clone(&bench.vault);
        let (log, refusals) = open_log(dir.path(), &vault);
        let releases = Releases::new(Parts {
            sessions: Sessions::new(vault.store_id(), &broker(), vault.boot()),
            vault,
            incarnation: 1,
            attestor: Attestor::new(clusters),
            policies: Arc::new(ArcSwap::from_pointee(policies(grants))),
            log,
            refusals,
            counters: Arc::default(),
            mounted: Mounted::new(WINDOW),
            directory: Directory::default(),
            tasks: TaskTracker::new(),
        });
        let parts = Arc::clone(&releases.parts);
        let world = Self {
            dir,
            bench,
            issuer: Issuer::p256(),
            parts,
            releases,
        };
        fs::create_dir_all(world.dir.path().join("pods/shop")).unwrap();
        fs::create_dir_all(world.dir.path().join("nodes")).unwrap();
        world.write("jwks.json", &world.issuer.jwks());
        world.write("nodes/node-a.json", &node("node-a", NODE_UID));
        world.write("pods/shop/web-0.json", &pod());
        world
    }

    fn write(&self, relative: &str, object: &Value) {
        fs::write(self.dir.path().join("draft"), object.to_string()).unwrap();
        fs::rename(
            self.dir.path().join("draft"),
            self.dir.path().join(relative),
        )
        .unwrap();
    }

    /// Has the pod ask for these attributes, the container aside.
    fn wants(&self, attributes: &[(&str, &str)]) {
        let mut pod = pod();
        let all = attributes.iter().chain([&("container", "app")]);
        let map: serde_json::Map<_, _> = all.map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        pod["spec"]["volumes"][1]["csi"]["volumeAttributes"] = Value::Object(map);
        self.write("pods/shop/web-0.json", &pod);
    }

    fn ask(&self, attributes: &[(&str, &str)]) -> Ask {
        let mut attest = request(self.issuer.mint(&claims()));
        if !attributes.is_empty() {
            attest.attributes.remove("secrets");
            let given = attributes
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            attest.attributes.extend(given);
        }
        Ask {
            attest,
            plugin_key: SecretKey::new(&AGENT_SECRET).public_key().unwrap(),
            nonce: Nonce::random(&SystemRandom).unwrap(),
            held: None,
        }
    }

    /// Until when a version counts as mounted.
    async fn mounted(&self, path: &str, version: u64) -> Option<Instant> {
        let path: SecretPath = path.parse().unwrap();
        let secret = self.bench.vault.secret(&path).await.unwrap().secret;
        let version = SecretVersion::new(version).unwrap();
        self.parts.mounted.until(&path.keyspace, secret, version)
    }

    async fn deliver(&self, ask: Ask) -> Result<Delivered, ReleaseError> {
        let caller = Caller {
            node: node_id(NODE_UID),
            serial: vec![5],
            bans_seen: 0,
        };
        self.releases.deliver(caller, ask, now(), ()).await
    }

    async fn released(&self, ask: Ask) -> ReleasedAnswer {
        match self.deliver(ask).await.unwrap() {
            Delivered::Released(released) => (*released).into(),
            Delivered::Unchanged(_) => panic!("unchanged"),
        }
    }

    async fn refused(&self, ask: Ask) -> Refused {
        match self.deliver(ask).await {
            Err(ReleaseError::Refused(refused)) => *refused,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("not refused"),
        }
    }

    async fn events(&self) -> Vec<Event> {
        let leaves = self.parts.log.read(0, usize::MAX).await.unwrap();
        leaves
            .iter()
            .map(|leaf| Leaf::parse(&leaf.body).unwrap().event)
            .collect()
    }

    fn grant(&self, grants: &[(&str, &str, &[&str])]) {
        self.parts.policies.store(Arc::new(policies(grants)));
    }
}

#[tokio::test]
async fn s3_a_token_shown_by_another_nodes_certificate_is_an_alarm_once() {
    let world = World::new(&[("web", "payments/db", &[])]).await;
    let thief = node_id(OTHER_NODE_UID);
    let shown_by = async |node: NodeId| {
        let caller = Caller {
            node,
            serial: vec![6],
            bans_seen: 0,
        };
        let shown = world.releases.deliver(caller, world.ask(&[]), now(), ());
        assert!(matches!(shown.await, Err(ReleaseError::Refused(_))));
    };
    for _ in 0..3 {
        shown_by(thief.clone()).await;
    }
    let alarms = async || -> Vec<(String, String)> {
        let events = world.events().await.into_iter();
        let alarms = events.filter_map(|event| {
            let Event::Alarm(alarm) = event else {
                return None;
            };
            Some((alarm.identity, alarm.reason))
        });
        alarms.collect()
    };
    let raised = alarms().await;
    let [(identity, reason)] = raised.as_slice() else {
        panic!("{raised:?}")
    };
    assert_eq!(*identity, thief.to_string());
    for told in ["6d1c", "shop/web-0", POD_UID, "node-a", NODE_UID] {
        assert!(reason.contains(told), "{reason}");
    }

    // A node that was made anew under its name is handed what kubelet still has.
    let anew = node_id("cccccccc-cccc-4ccc-8ccc-cccccccccccc");
    let key = RecordedKey {
        spki: SpkiSha256::from_bytes([7; 32]),
        serial: "05".into(),
        not_after: now(),
        ca: 1,
    };
    let record = NodeRecord {
        name: "node-a".into(),
        keys: RecordedKeys::first(key),
        joined: now(),
        renewed: now(),
        version: String::new(),
    };
    world.parts.directory.change(|view| {
        let _before = view.nodes.insert(anew.to_string(), (1, record.clone()));
    });
    shown_by(anew).await;
    assert_eq!(alarms().await.len(), 1);
}

/// What the agent makes of an answer: the data keys, in the order of the values.
fn agent_keys(answer: &ReleasedAnswer, nonce: Nonce) -> Vec<[u8; 32]> {
    let secret = SecretKey::new(&AGENT_SECRET);
    let node = node_id(NODE_UID).to_string();
    let binding = SessionBinding {
        store: answer.store,
        broker_id: &answer.broker,
        boot: answer.boot,
        node_id: &node,
        plugin_key: secret.public_key().unwrap(),
        session: answer.session,
    };
    let session = Session::receiver(secret, &answer.enc, &binding).unwrap();
    let granted: Vec<_> = answer
        .values
        .iter()
        .map(|value| value.granted.clone())
        .collect();
    let pod = answer.pod_uid.parse().unwrap();
    let binding = ReleaseBinding {
        store: answer.store,
        session: answer.session,
        nonce,
        release: answer.release,
        leaf_hash: answer.leaf_hash,
        volume: &VolumeId::of(&pod, &"secrets".parse().unwrap()),
        cluster: &answer.cluster.parse().unwrap(),
        namespace: &answer.namespace.parse().unwrap(),
        pod: &pod,
        container: &answer.container.parse().unwrap(),
        granted: &granted,
    };
    let mut out = vec![0; granted.len() * 32];
    let key = session.release_key(nonce, answer.release).unwrap();
    key.open(&binding, &answer.sealed_keys, &mut out).unwrap();
    out.as_chunks::<32>().0.to_vec()
}

/// What stands in each file.
fn agent_files(answer: &ReleasedAnswer, nonce: Nonce) -> Vec<(String, String)> {
    let keys = agent_keys(answer, nonce);
    let files = answer.files.iter().map(|file| {
        let value = open_value(answer, file.value, &keys[file.value]).unwrap();
        (file.path.clone(), String::from_utf8(value).unwrap())
    });
    files.collect()
}

fn open_value(answer: &ReleasedAnswer, index: usize, key: &[u8; 32]) -> Option<Vec<u8>> {
    let ReleasedField { granted, ct } = &answer.values[index];
    let binding = ValueBinding {
        store: answer.store,
        keyspace: &granted.path.keyspace,
        secret: granted.secret,
        value: granted.value,
        field: &granted.field,
    };
    let mut out = vec![0; ct.len() - 16];
    Dek::new(key).open(ct, &binding, &mut out).ok()?;
    Some(out)
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect()
}

const WHOLE: &[(&str, &str, &[&str])] = &[("web-db", "payments/db", &[])];

#[tokio::test]
async fn a_granted_volume_opens_at_its_agent_and_is_on_record_as_it_was_released() {
    let world = World::new(WHOLE).await;
    let ask = world.ask(&[]);
    let nonce = ask.nonce;
    let answer = world.released(ask).await;
    let expected = pairs(&[("db/password", "hunter2"), ("db/username", "shop")]);
    assert_eq!(agent_files(&answer, nonce), expected);
    assert_eq!((answer.owner.uid, answer.owner.gid), (1000, Some(1001)));
    assert!(answer.files.iter().all(|file| file.mode == 0o400));
    assert_eq!(answer.generation.seq, world.parts.vault.ledger().seq());
    let leaf = world.parts.log.read(0, 1).await.unwrap().pop().unwrap();
    assert_eq!(answer.leaf_hash, attache_translog::leaf_hash(&leaf.body));
    let Event::Release(recorded) = Leaf::parse(&leaf.body).unwrap().event else {
        panic!("no release leaf");
    };
    assert_eq!(recorded.release, *answer.release.as_bytes());
    assert_eq!(recorded.policies, ["grant/web-db"]);
    let fields: Vec<_> = recorded
        .values
        .iter()
        .map(|value| value.field.as_str())
        .collect();
    assert_eq!(fields, ["password", "username"]);
    for secret in [b"hunter2".as_slice(), &agent_keys(&answer, nonce)[0]] {
        assert!(
            !leaf
                .body
                .windows(secret.len())
                .any(|window| window == secret)
        );
    }
}

#[tokio::test]
async fn each_attempt_is_a_release_of_its_own_in_the_same_session() {
    let world = World::new(WHOLE).await;
    let first = world.released(world.ask(&[])).await;
    let second = world.released(world.ask(&[])).await;
    assert_eq!(first.session, second.session);
    assert_ne!(first.release, second.release);
    assert_ne!(first.sealed_keys, second.sealed_keys);
    assert_ne!(first.leaf_hash, second.leaf_hash);
    assert_eq!(world.events().await.len(), 2);
    assert_eq!(world.parts.counters.read().releases, 2);
}

#[tokio::test]
async fn what_the_volume_holds_already_is_unchanged_and_no_leaf() {
    let world = World::new(WHOLE).await;
    let held = world.released(world.ask(&[])).await.generation;
    let again = |held| Ask {
        held: Some(held),
        ..world.ask(&[])
    };
    for _ in 0..3 {
        let Delivered::Unchanged(generation) = world.deliver(again(held)).await.unwrap() else {
            panic!("sealed again");
        };
        assert_eq!(generation, held);
    }
    assert_eq!(world.events().await.len(), 1);
    assert_eq!(world.parts.counters.read().unchanged, 3);
    // A new version, a grant taken away, another incarnation: each is a generation of its own.
    world
        .bench
        .put("payments/db", &[("password", "hunter3")])
        .await;
    let next = world.released(again(held)).await.generation;
    assert!(next.seq > held.seq && next.digest != held.digest);
    world.grant(&[("web-db", "payments/db", &["username"])]);
    let narrowed = world.released(again(next)).await;
    assert!(narrowed.generation.seq >= next.seq && narrowed.generation.digest != next.digest);
    let other = Generation {
        incarnation: 2,
        ..narrowed.generation
    };
    assert_eq!(
        world.released(again(other)).await.generation,
        narrowed.generation
    );
}

/// Threat I5: a node that was granted one field holds nothing that opens another.
#[tokio::test]
async fn i5_a_grant_of_one_field_hands_over_one_key() {
    let world = World::new(&[("web-db", "payments/db", &["username"])]).await;
    let ask = world.ask(&[]);
    let nonce = ask.nonce;
    let answer = world.released(ask).await;
    assert_eq!(
        agent_files(&answer, nonce),
        pairs(&[("db/username", "shop")])
    );
    assert_eq!(
        (answer.values.len(), answer.sealed_keys.len()),
        (1, 32 + 16)
    );
    let keys = agent_keys(&answer, nonce);
    world.grant(WHOLE);
    let ask = world.ask(&[]);
    let whole = world.released(ask).await;
    let username = |at: usize| whole.values[at].granted.field.as_str() == "username";
    for at in 0..2 {
        assert_eq!(open_value(&whole, at, &keys[0]).is_some(), username(at));
    }
}

#[tokio::test]
async fn absent_and_not_granted_are_the_same_line_and_the_same_decision() {
    let world = World::new(&[]).await;
    let wanted = [("secrets", "payments/api")];
    world.wants(&wanted);
    let absent = world.refused(world.ask(&wanted)).await;
    let id = absent.decision.unwrap();
    let explained = || world.parts.refusals.explain(*id.as_bytes()).unwrap();
    assert_eq!(explained().denial.true_reason, "there is no such secret");
    world.bench.put("payments/api", &[("token", "t")]).await;
    let not_granted = world.refused(world.ask(&wanted)).await;
    assert_eq!(absent, not_granted);
    assert_ne!(explained().denial.true_reason, "there is no such secret");
    assert_eq!(explained().count, 2);
    let line = format!(
        "attache: denied (decision {id}): no grant lets local/shop/web/app read payments/api; \
         an operator sees more with: attache why {id}"
    );
    assert_eq!(
        (absent.line, absent.kind),
        (line, RefusalKind::PermissionDenied)
    );
    let events = world.events().await;
    let [Event::Denial(denial)] = events.as_slice() else {
        panic!("repeats are folded: {events:?}");
    };
    assert_eq!(
        denial.references.as_deref(),
        Some(["payments/api".to_owned()].as_slice())
    );
    assert_eq!(denial.pod_name.as_deref(), Some("web-0"));
}

#[tokio::test]
async fn a_guard_rail_answers_before_absence_does() {
    let world = World::new(&[]).await;
    let mut rooted = pod();
    rooted["spec"]["containers"][0]["securityContext"]["runAsUser"] = json!(0);
    let mut lines = Vec::new();
    for secret in ["payments/db", "payments/none"] {
        let wanted = [("secrets", secret)];
        rooted["spec"]["volumes"][1]["csi"]["volumeAttributes"] =
            json!({"container": "app", "secrets": secret});
        world.write("pods/shop/web-0.json", &rooted);
        lines.push(world.refused(world.ask(&wanted)).await.line);
    }
    assert!(lines[0].contains("runs as root"), "{}", lines[0]);
    assert_eq!(lines[0], lines[1]);
}

#[tokio::test]
async fn an_optional_reference_is_missing_whether_absent_or_not_granted() {
    let world = World::new(WHOLE).await;
    let files = "- {path: p, ref: payments/db#password}\n\
                 - {path: q, ref: payments/db#password, mode: \"0440\"}\n\
                 - {path: r, ref: payments/none#x, optional: true}\n\
                 - {path: s, ref: payments/db@9#password, optional: true}\n";
    let wanted = [("files", files)];
    world.wants(&wanted);
    let ask = world.ask(&wanted);
    let nonce = ask.nonce;
    let answer = world.released(ask).await;
    assert_eq!(
        agent_files(&answer, nonce),
        pairs(&[("p", "hunter2"), ("q", "hunter2")])
    );
    assert_eq!(
        answer.values.len(),
        1,
        "one value, named twice, is handed over once"
    );
    assert_eq!(
        answer.missing,
        ["payments/none#x", "payments/db@9#password"]
    );
    let events = world.events().await;
    let Some(Event::Release(release)) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(release.left_out.as_ref(), Some(&answer.missing));
}

#[tokio::test]
async fn the_digest_is_that_of_paths_modes_owner_and_values() {
    let world = World::new(WHOLE).await;
    let answer = world.released(world.ask(&[])).await;
    let files: Vec<_> = answer
        .files
        .iter()
        .map(|file| attache_envelope::generation::GenerationFile {
            path: &file.path,
            mode: file.mode,
            owner: answer.owner,
            value: answer.values[file.value].granted.value,
        })
        .collect();
    assert_eq!(
        answer.generation.digest,
        GenerationDigest::of(&files).unwrap()
    );
}

#[tokio::test]
async fn without_the_audit_nothing_is_released_and_no_refusal_told() {
    let world = World::new(WHOLE).await;
    let first = world.released(world.ask(&[])).await;
    world.parts.log.break_disk().await;
    for _ in 0..2 {
        match world.deliver(world.ask(&[])).await {
            Err(ReleaseError::Audit(AuditError::Poisoned)) => {}
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("released without a record"),
        }
    }
    world.grant(&[]);
    match world.deliver(world.ask(&[])).await {
        Err(ReleaseError::Unrecorded(RefuseError::Audit(AuditError::Poisoned))) => {}
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("released"),
    }
    // What needs no record still works.
    world.grant(WHOLE);
    let held = Ask {
        held: Some(first.generation),
        ..world.ask(&[])
    };
    assert!(matches!(
        world.deliver(held).await,
        Ok(Delivered::Unchanged(_))
    ));
    assert_eq!(world.parts.counters.read().releases, 1);
}

#[tokio::test]
async fn a_refusal_before_a_pod_is_proved_is_kept_by_node_and_reason() {
    let world = World::new(WHOLE).await;
    let mut stolen = claims();
    stolen["aud"] = json!(["https://kubernetes.default.svc"]);
    let ask = || {
        let mut ask = world.ask(&[]);
        ask.attest = request(world.issuer.mint(&stolen));
        ask
    };
    for _ in 0..3 {
        let refused = world.refused(ask()).await;
        assert_eq!(
            refused.line,
            "attache: denied: the token is for another audience"
        );
        assert_eq!(
            (refused.kind, refused.decision),
            (RefusalKind::Unauthenticated, None)
        );
    }
    let events = world.events().await;
    let [Event::Denial(denial)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(
        (denial.actor.clone(), denial.pod_uid.clone()),
        (node_id(NODE_UID).to_string(), None)
    );
    world.parts.refusals.flush().await.unwrap();
    assert!(
        matches!(world.events().await.last(), Some(Event::Refusals(counted)) if counted.count == 2)
    );
}

#[tokio::test]
async fn the_receipt_of_one_leaf_lets_no_other_release_go() {
    let world = World::new(WHOLE).await;
    let asked = |nonce| Asked {
        caller: Caller {
            node: node_id(NODE_UID),
            serial: vec![5],
            bans_seen: 0,
        },
        plugin_key: SecretKey::new(&AGENT_SECRET).public_key().unwrap(),
        nonce,
        held: None,
    };
    let attest = world.ask(&[]).attest;
    let workload = world
        .parts
        .attestor
        .attest(&node_id(NODE_UID), &attest, now())
        .await
        .unwrap();
    let (volume, _) = world.parts.plan(&Arc::new(workload)).await.unwrap();
    let opened = Opened::open(&world.parts.vault, volume).await.unwrap();
    let ask = asked(Nonce::random(&SystemRandom).unwrap());
    let session = world
        .parts
        .sessions
        .session(&ask.caller.node, ask.plugin_key)
        .await
        .unwrap();
    let release = ReleaseId::random(&SystemRandom).unwrap();
    let key = session.keys.release_key(ask.nonce, release).unwrap();
    let bound_to = world.parts.sessions.bound_to();
    let sealed = opened
        .seal(key, &session, bound_to, (ask.nonce, release), [9; 32])
        .unwrap();
    let other = attache_translog::Alarm {
        identity: "x".into(),
        reason: "y".into(),
    };
    let receipt = world.parts.log.append(other).await.unwrap();
    assert!(Released::new(sealed, receipt).is_err());
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_a_whole_record() {
    let world = World::new(WHOLE).await;
    let deliver = world.deliver(world.ask(&[]));
    // The request is under way and its handler gone after a moment.
    let gone = tokio::time::timeout(Duration::ZERO, deliver).await;
    drop(gone);
    world.parts.tasks.close();
    world.parts.tasks.wait().await;
    for event in world.events().await {
        assert!(matches!(event, Event::Release(_)), "{event:?}");
    }
    assert_eq!(
        world.events().await.len() as u64,
        world.parts.counters.read().releases
    );
}

#[tokio::test]
async fn a_boot_of_another_process_is_another_session() {
    let world = World::new(WHOLE).await;
    let first = world.released(world.ask(&[])).await;
    let other = Sessions::new(first.store, &broker(), BootId::from_bytes([9; 16]));
    let key = SecretKey::new(&AGENT_SECRET).public_key().unwrap();
    let session = other.session(&node_id(NODE_UID), key).await.unwrap();
    assert_ne!(session.id, first.session);
}

#[tokio::test]
async fn a_version_is_mounted_when_a_volume_that_names_its_number_was_answered_and_not_before() {
    let world = World::new(&[]).await;
    pass_time(WINDOW).await;
    let path: SecretPath = "payments/db".parse().unwrap();
    let secret = world.bench.vault.secret(&path).await.unwrap().secret;
    let mounted = || {
        let (keyspace, version) = (&path.keyspace, SecretVersion::FIRST);
        world.parts.mounted.until(keyspace, secret, version)
    };
    let by_number = [("secrets", "payments/db@1")];
    world.wants(&by_number);
    world.refused(world.ask(&by_number)).await;
    assert_eq!(mounted(), None, "it was refused");
    world.grant(&[("web", "payments/db", &[])]);
    world.wants(&[("secrets", "payments/db")]);
    world.released(world.ask(&[])).await;
    assert_eq!(mounted(), None, "it was not named");
    world.wants(&by_number);
    let held = world.released(world.ask(&by_number)).await.generation;
    let first = mounted().unwrap();
    pass_time(WINDOW / 2).await;
    let again = Ask {
        held: Some(held),
        ..world.ask(&by_number)
    };
    let unchanged = world.deliver(again).await.unwrap();
    assert!(matches!(unchanged, Delivered::Unchanged(_)));
    assert!(mounted().unwrap() >= first + WINDOW / 2);
    // An optional reference that is not granted is left out, and is not mounted.
    pass_time(WINDOW).await;
    assert_eq!(mounted(), None);
    world.bench.put("payments/api", &[("token", "t")]).await;
    world.grant(&[("web", "payments/api", &[])]);
    let files = "- {path: t, ref: payments/api@1#token}\n\
                 - {path: p, ref: payments/db@1#password, optional: true}\n";
    let optional = [("files", files)];
    world.wants(&optional);
    let answer = world.released(world.ask(&optional)).await;
    assert_eq!(answer.missing, ["payments/db@1#password"]);
    assert_eq!(mounted(), None, "it was left out");
}
