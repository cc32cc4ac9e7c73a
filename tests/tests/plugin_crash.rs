//! kill -9 of the agent or the mounter while a volume is published, refreshed or unpublished: the volume is whole or
//! absent, the next publish mends it, and an unpublish leaves nothing.
//!
//! The instant is uniform over the measured length of the operation; seed and hits in mid-operation are printed, and
//! `ATTACHE_SEED` repeats a run. Only a call that was unanswered when its process was killed, and failed, is a hit: a
//! republish is answered before its refresh begins, so most kills of a refresh are not among them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use attache_proto::csi::v1 as csi;
use attache_tests::{
    Scene,
    bed::{AUDIENCE, NODE},
    kills::{Dice, Length, MID_HITS, ROUNDS, say},
    kubelet::Kubelet,
    mounts::{self, Mount},
    pod::Pod,
    process::{PATIENCE, child, send},
    scene::{PASSWORD, USERNAME},
};
use rustix::process::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

const VICTIMS: [&str; 2] = ["agent", "mounter"];
const OPERATIONS: [Operation; 3] = [Operation::Publish, Operation::Refresh, Operation::Unpublish];
/// A broker takes two keys of a node within a minute, and each new agent has one: another broker process takes over
/// after so many rounds.
const ROUNDS_PER_BROKER: u32 = 2;
/// The supervisor waits twice as long after each kill of a child: another one takes over after so many rounds.
const ROUNDS_PER_SUPERVISOR: u32 = 4;
/// What kubelet waits for an answer.
const DEADLINE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Publish,
    Refresh,
    Unpublish,
}

/// What a reader finds at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// Nothing is mounted.
    Absent,
    /// The volume's own tmpfs, in which no name leads to a file.
    Empty,
    /// Every file of this version, and no other.
    Whole(u64),
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "not {what} within {PATIENCE:?}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// A scene with the pod whose volume is operated on, and one whose volume nobody touches.
struct Rig {
    scene: Scene,
    pod: Pod,
    token: String,
    bystander: Pod,
    /// The password of each version.
    passwords: BTreeMap<u64, String>,
}

impl Rig {
    fn start() -> Self {
        let scene = Scene::start().unwrap();
        scene.bed.pin_addresses().unwrap();
        let pod = |name| Pod::new("shop", name, "web", NODE, "payments/db");
        let (pod, bystander) = (pod("web-0"), pod("web-1"));
        scene.publish(&bystander).unwrap();
        scene.bed.cluster.add_pod(&pod).unwrap();
        Self {
            token: scene.bed.token(&pod).unwrap(),
            scene,
            pod,
            bystander,
            passwords: [(1, PASSWORD.to_owned())].into(),
        }
    }

    fn newest(&self) -> u64 {
        *self.passwords.last_key_value().unwrap().0
    }

    fn put_next(&mut self) {
        let next = self.newest() + 1;
        let password = format!("password-{next}");
        self.scene
            .put("payments/db", &[("password", &password)])
            .unwrap();
        self.passwords.insert(next, password);
    }

    /// A connection of its own for each call, as kubelet has it.
    fn kubelet(&self) -> Kubelet {
        let _guard = self.scene.runtime.enter();
        self.scene.bed.kubelet().unwrap()
    }

    /// Begins the call of an operation.
    fn call(&self, operation: Operation) -> JoinHandle<Result<(), Status>> {
        let (kubelet, pod, token) = (self.kubelet(), self.pod.clone(), self.token.clone());
        self.scene.runtime.spawn(async move {
            let call = async {
                match operation {
                    Operation::Publish | Operation::Refresh => {
                        kubelet.publish(&pod, AUDIENCE, &token).await
                    }
                    Operation::Unpublish => kubelet.unpublish(&pod).await,
                }
            };
            tokio::time::timeout(DEADLINE, call).await.unwrap()
        })
    }

    fn answer(&self, call: JoinHandle<Result<(), Status>>) -> Result<(), Status> {
        self.scene.runtime.block_on(call).unwrap()
    }

    /// Makes the calls that kubelet makes until it is answered OK: UNAVAILABLE is tried again.
    fn carry_out(&self, operation: Operation) {
        until("answered", || match self.answer(self.call(operation)) {
            Ok(()) => Some(()),
            Err(status) if status.code() == Code::Unavailable => None,
            Err(status) => panic!("{operation:?}: {status:?}"),
        });
    }

    /// Sees to it that the operation has something to do.
    fn prepare(&mut self, operation: Operation) {
        if operation != Operation::Publish {
            self.carry_out(Operation::Publish);
            assert_eq!(self.look(&self.pod), Found::Whole(self.newest()));
        }
        if operation == Operation::Refresh {
            self.put_next();
        }
    }

    /// Carries an operation out from beginning to end, and answers how long it took.
    fn measure(&mut self, operation: Operation) -> Duration {
        self.prepare(operation);
        let data = self.scene.kubelet.target(&self.pod).join("..data");
        let before = fs::read_link(&data).ok();
        let from = Instant::now();
        self.answer(self.call(operation)).unwrap();
        if operation == Operation::Refresh {
            until("swapped", || {
                (fs::read_link(&data).ok() != before).then_some(())
            });
        }
        let took = from.elapsed();
        self.carry_out(Operation::Unpublish);
        took
    }

    /// The process of one half of the plugin.
    fn half(&self, name: &str) -> Option<u32> {
        child(self.scene.bed.plugin.as_ref().unwrap().pid(), name).ok()
    }

    /// Waits until the supervisor has started `victim` again, and the plugin says that it is ready.
    fn wait_for_successor(&self, victim: &str, pid: u32) {
        until("started again", || {
            self.half(victim).filter(|now| *now != pid)
        });
        until("ready", || {
            let mut identity = self.kubelet().identity();
            let probe = identity.probe(csi::ProbeRequest {});
            let answer = async { tokio::time::timeout(PATIENCE, probe).await.unwrap() };
            let answer = self.scene.runtime.block_on(answer).ok()?;
            answer.into_inner().ready.filter(|ready| *ready)
        });
    }

    /// Lets other processes take over, as the limits on restarts demand.
    fn take_turns(&mut self, number: u32) {
        let bed = &mut self.scene.bed;
        if number.is_multiple_of(ROUNDS_PER_SUPERVISOR) {
            bed.plugin.take().unwrap().stop().unwrap();
            bed.start_plugin().unwrap();
        }
        if number.is_multiple_of(ROUNDS_PER_BROKER) {
            bed.broker.take().unwrap().kill().unwrap();
            bed.start_broker().unwrap();
            // Until there is a connection to it, a publish takes longer than what was measured.
            self.carry_out(Operation::Publish);
            self.carry_out(Operation::Unpublish);
        }
    }

    /// What a pod's container would find, whatever is going on meanwhile; panics for what is neither whole nor absent.
    fn look(&self, pod: &Pod) -> Found {
        let target = self.scene.kubelet.target(pod);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match read_volume(&target, &self.passwords) {
                Ok(found) => return found,
                // Something was swapped or unmounted in between.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let late = Instant::now() > deadline;
                    assert!(!late, "neither whole nor absent: {:#?}", tree(&target));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Nothing is mounted but what should be, here and in every other mount namespace, and nothing is held detached.
    fn no_strays(&self, mounted: bool) {
        let bed = &self.scene.bed;
        let (id, bystander) = (self.pod.volume_id(), self.bystander.volume_id());
        let expected = |mount: &Mount, pod: &Pod| {
            mount.kind == "tmpfs"
                && mount.source == pod.volume_id()
                && mount.point == self.scene.kubelet.target(pod)
        };
        let here = mounts::below(&bed.dir).unwrap();
        let of = |pod: &Pod| here.iter().filter(|mount| expected(mount, pod)).count();
        let due = (usize::from(mounted), 1);
        assert_eq!((of(&self.pod), of(&self.bystander)), due, "{here:#?}");
        assert_eq!(here.len(), due.0 + due.1, "{here:#?}");
        let probe = "attache-probe".to_owned();
        let anywhere = mounts::anywhere(&[id, bystander, probe]).unwrap();
        assert_eq!(anywhere.len(), here.len(), "{anywhere:#?}");
        for half in VICTIMS {
            let held = self.half(half).map(mounts::detached);
            // A half that has just been killed holds nothing.
            let held = held.and_then(Result::ok).unwrap_or_default();
            assert!(held.is_empty(), "{half} holds {held:?}");
        }
    }

    fn condition(&self) -> csi::VolumeCondition {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: self.pod.volume_id(),
            volume_path: self.scene.kubelet.target(&self.pod).display().to_string(),
            staging_target_path: String::new(),
        };
        let mut node = self.kubelet().node();
        let stats = self
            .scene
            .runtime
            .block_on(node.node_get_volume_stats(request));
        stats.unwrap().into_inner().volume_condition.unwrap()
    }
}

/// Everything below a folder, for the message of a failure.
fn tree(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let tell = |entry: fs::DirEntry| {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let told = format!("{path:?} -> {:?} {kind:?}", fs::read_link(&path).ok());
        let below = if kind.is_dir() {
            tree(&path)
        } else {
            Vec::new()
        };
        [vec![told], below].concat()
    };
    entries.flat_map(tell).collect()
}

/// One look at a volume. NOT_FOUND: it changed under the look.
fn read_volume(target: &Path, passwords: &BTreeMap<u64, String>) -> io::Result<Found> {
    let mounted = mounts::below(target).unwrap();
    let [mount] = mounted.as_slice() else {
        assert!(mounted.is_empty(), "stacked: {mounted:#?}");
        let under = fs::read_dir(target).map_or(0, Iterator::count);
        // It may have been mounted since the table was read.
        let on_disk = under > 0 && mounts::below(target).unwrap().is_empty();
        assert!(!on_disk, "{under} entries on the disk under {target:?}");
        return Ok(Found::Absent);
    };
    assert_eq!(mount.kind, "tmpfs", "{mount:?}");
    let data = target.join("..data");
    let Ok(present) = fs::read_link(&data) else {
        let leads = |entry: io::Result<fs::DirEntry>| {
            let name = entry?.file_name();
            let hidden = name.to_string_lossy().starts_with("..");
            let leads = !hidden && fs::metadata(target.join(&name)).is_ok();
            Ok(leads.then_some(name))
        };
        let leading = fs::read_dir(target)?.map(leads);
        let leading: Vec<_> = leading.collect::<io::Result<_>>()?;
        if fs::read_link(&data).is_ok() {
            return Err(ErrorKind::NotFound.into());
        }
        assert!(leading.iter().all(Option::is_none), "{leading:?}");
        return Ok(Found::Empty);
    };
    let generation = Generation::read(target, &present)?;
    // As long as it is present, nothing is taken out of it.
    if fs::read_link(&data)? == present {
        Ok(Found::Whole(generation.check(passwords)))
    } else {
        Err(ErrorKind::NotFound.into())
    }
}

/// What lies in the generation that was present a moment ago.
struct Generation {
    folder: String,
    told: Vec<u8>,
    /// Owner, group, mode and content of `FILES`.
    files: Vec<((u32, u32, u32), String)>,
    /// How many entries the folder has, and `db` in it.
    entries: (usize, usize),
    links: Vec<PathBuf>,
}

const FILES: [&str; 2] = ["db/password", "db/username"];
const LINKS: [&str; 2] = ["db", ".attache.json"];

impl Generation {
    fn read(target: &Path, present: &Path) -> io::Result<Self> {
        let folder = target.join(present);
        let file = |path| {
            let of = fs::metadata(folder.join(path))?;
            let kind = (of.uid(), of.gid(), of.mode() & 0o7777);
            Ok((kind, fs::read_to_string(folder.join(path))?))
        };
        Ok(Self {
            folder: present.to_string_lossy().into_owned(),
            told: fs::read(folder.join(".attache.json"))?,
            files: FILES.into_iter().map(file).collect::<io::Result<_>>()?,
            entries: (
                fs::read_dir(&folder)?.count(),
                fs::read_dir(folder.join("db"))?.count(),
            ),
            links: LINKS
                .into_iter()
                .map(|link| fs::read_link(target.join(link)))
                .collect::<io::Result<_>>()?,
        })
    }

    /// Demands that the metadata tells all of it and nothing else, and answers the version.
    fn check(self, passwords: &BTreeMap<u64, String>) -> u64 {
        let told: Value = serde_json::from_slice(&self.told).unwrap();
        let (seq, digest) = (&told["generation"]["seq"], &told["generation"]["digest"]);
        let (seq, digest) = (seq.as_u64().unwrap(), digest.as_str().unwrap());
        assert_eq!(self.folder, format!("..{seq:x}-{}", &digest[..16]));
        // payments/db@N#FIELD
        let version = told["files"][0]["ref"].as_str().unwrap();
        let version = version.split(['@', '#']).nth(1).unwrap().parse().unwrap();
        let mut set = Sha256::new();
        let values = [passwords[&version].as_str(), USERNAME];
        for ((path, value), (kind, found)) in FILES.into_iter().zip(values).zip(self.files) {
            assert_eq!(kind, (1000, 1000, 0o400), "{path}");
            assert_eq!(found, value, "{path} of version {version}");
            set.update(u16::try_from(path.len()).unwrap().to_be_bytes());
            set.update(path);
            set.update(0o400_u16.to_be_bytes());
            set.update(1000_u32.to_be_bytes());
            set.update(1000_u32.to_be_bytes());
            set.update(value.len().to_be_bytes());
        }
        assert_eq!(told["fileSet"], hex::encode(set.finalize()));
        assert_eq!(self.entries, (2, 2));
        assert_eq!(self.links, LINKS.map(|link| Path::new("..data").join(link)));
        version
    }
}

/// What the kills of one operation met.
#[derive(Debug, Default)]
struct Tally {
    kills: u32,
    /// The call was unanswered when the kill was sent, and failed.
    hits: u32,
    /// A refresh was answered and had not been swapped in yet.
    behind: u32,
    found: BTreeMap<&'static str, u32>,
}

/// One kill, and everything that must hold after it.
fn round(
    rig: &mut Rig,
    operation: Operation,
    victim: &str,
    instant: impl FnOnce(),
    tally: &mut Tally,
) {
    rig.prepare(operation);
    let (newest, pid) = (rig.newest(), rig.half(victim).unwrap());
    let call = rig.call(operation);
    instant();
    let unanswered = !call.is_finished();
    let answered_first = operation == Operation::Refresh && !unanswered;
    let behind = answered_first && rig.look(&rig.pod) != Found::Whole(newest);
    send(pid, Signal::KILL).unwrap();
    let answer = rig.answer(call);
    until("killed", || (rig.half(victim) != Some(pid)).then_some(()));

    let found = rig.look(&rig.pod);
    let word = match found {
        Found::Absent => "absent",
        Found::Empty => "empty",
        Found::Whole(version) if version == newest => "whole",
        Found::Whole(version) => {
            let before = (operation, version) == (Operation::Refresh, newest - 1);
            assert!(before, "version {version} of {newest} after {operation:?}");
            "whole, as before"
        }
    };
    if operation == Operation::Refresh {
        assert!(
            matches!(found, Found::Whole(_)),
            "a refresh took it away: {found:?}"
        );
    }
    if answer.is_ok() {
        let wanted: &[Found] = match operation {
            Operation::Publish => &[Found::Whole(newest)],
            Operation::Refresh => &[Found::Whole(newest), Found::Whole(newest - 1)],
            Operation::Unpublish => &[Found::Absent],
        };
        assert!(wanted.contains(&found), "answered OK, and it is {found:?}");
    }
    tally.kills += 1;
    tally.hits += u32::from(unanswered && answer.is_err());
    tally.behind += u32::from(behind);
    *tally.found.entry(word).or_default() += 1;

    rig.wait_for_successor(victim, pid);
    rig.no_strays(rig.look(&rig.pod) != Found::Absent);
    rig.carry_out(Operation::Publish);
    if operation != Operation::Refresh {
        assert_eq!(rig.look(&rig.pod), Found::Whole(newest));
    }
    // What is whole to a reader is answered for from the record; what is new, and leftovers, are seen to behind that.
    let whole = Found::Whole(newest);
    until("mended", || (rig.look(&rig.pod) == whole).then_some(()));
    until("well", || (!rig.condition().abnormal).then_some(()));
    rig.no_strays(true);
    rig.carry_out(Operation::Unpublish);
    assert_eq!(rig.look(&rig.pod), Found::Absent);
    assert!(!rig.scene.kubelet.target(&rig.pod).exists());
    rig.no_strays(false);
}

#[test]
fn a_volume_outlives_kill_9_whole_or_not_at_all() {
    let mut rig = Rig::start();
    let untouched = |rig: &Rig| {
        let mounted = mounts::below(&rig.scene.kubelet.target(&rig.bystander)).unwrap();
        (rig.look(&rig.bystander), mounted)
    };
    let before = untouched(&rig);
    let mut lengths: BTreeMap<Operation, Length> = BTreeMap::new();
    for operation in OPERATIONS {
        let length = lengths.entry(operation).or_default();
        while !length.is_known() {
            length.add(rig.measure(operation));
        }
        say(&format!("{operation:?} takes {:?}", length.now()));
    }
    let mut dice = Dice::new().unwrap();
    let mut tallies: BTreeMap<(Operation, &str), Tally> = BTreeMap::new();
    for number in 0..ROUNDS {
        if number > 0 {
            rig.take_turns(number);
        }
        let operation = OPERATIONS[number as usize % OPERATIONS.len()];
        let victim = VICTIMS[number as usize % VICTIMS.len()];
        println!("{number}: {victim} in {operation:?}");
        let tally = tallies.entry((operation, victim)).or_default();
        let length = lengths.entry(operation).or_default();
        length.add(rig.measure(operation));
        let instant = || dice.wait(length.now());
        round(&mut rig, operation, victim, instant, tally);
        assert_eq!(untouched(&rig), before, "the volume that nobody touched");
    }
    for (what, tally) in &tallies {
        say(&format!("{what:?}: {tally:?}"));
    }
    let hits: u32 = tallies.values().map(|tally| tally.hits).sum();
    say(&format!("{hits} of {ROUNDS} kills hit a call under way"));
    assert!(
        hits >= MID_HITS,
        "{hits} hits are too few to prove anything"
    );
}

/// The control of `no_strays`: a tmpfs that is mounted nowhere is seen while somebody holds it.
#[test]
fn a_detached_mount_is_seen_by_its_holder() {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen,
    };
    let detached = || {
        let mut all = mounts::detached(std::process::id()).unwrap();
        all.sort();
        all
    };
    // Whoever started this may have left it something of another mount namespace.
    let before = detached();
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_create(&context).unwrap();
    let mount = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    );
    let mut with = [before.clone(), vec![PathBuf::from("/")]].concat();
    with.sort();
    assert_eq!(detached(), with);
    drop(mount);
    assert_eq!(detached(), before);
}
