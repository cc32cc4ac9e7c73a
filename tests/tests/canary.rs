//! I1, I3: a canary planted as a secret's value is where it belongs, in the mount, and nowhere else: no log, no error, no
//! answer of the CLI, no audit record, no store file, not in the broker's memory while it is written and read. And a sealed broker's memory holds no key, and no
//! share once a ceremony is over.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::fs::FileExt,
};

use attache_broker::store::{RedbStore, Rows, Store};
use attache_envelope::{
    Table,
    body::{KekBody, KekState, ValueKeyBody},
    id::{KeyId, StoreId, ValueId},
    key::{Kek, KekWrapKey, SlotSecret, Srk},
    keyring::{Purpose, SealedKeyring, read_record},
    row::{HEAD_BYTES, TAG_BYTES},
    slot::{ShareFile, Slot, parse_key_file},
    wrap::{DekBinding, KekBinding, PreparedKek, unwrap_kek},
};
use attache_tests::{
    Bed, Scene,
    bed::{AUDIENCE, NODE},
    pod::Pod,
    process::{PATIENCE, until},
    scene::{PASSWORD, USERNAME},
};

/// How much of a process's memory is read at once, in bytes.
const CHUNK: usize = 1 << 20;

/// Where `needle` is in the readable memory of a process.
fn in_memory(pid: u32, needle: &[u8]) -> Vec<String> {
    let found = all_in_memory(pid, &[needle]);
    found.into_iter().map(|(_, place)| place).collect()
}

/// Which of `needles` are in the readable memory of a process, and in which of its maps.
fn all_in_memory(pid: u32, needles: &[&[u8]]) -> Vec<(usize, String)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let longest = needles.iter().map(|it| it.len()).max().unwrap();
    // One look at each byte, whatever number of needles: most are where none begins.
    let mut begins = vec![false; 1 << 16];
    for needle in needles {
        *begins.get_mut(pair(needle)).unwrap() = true;
    }
    let mut found = Vec::new();
    for line in maps
        .lines()
        .filter(|l| l.split(' ').nth(1).is_some_and(|p| p.starts_with('r')))
    {
        let (from, to) = line
            .split(' ')
            .next()
            .and_then(|r| r.split_once('-'))
            .unwrap();
        let (mut at, to) = (
            u64::from_str_radix(from, 16).unwrap(),
            u64::from_str_radix(to, 16).unwrap(),
        );
        let mut kept: Vec<u8> = Vec::new();
        while at < to {
            let want = usize::try_from(to - at).unwrap().min(CHUNK);
            let mut chunk = vec![0; want];
            // Pages that the kernel hides or a mapping that has gone: nothing is read from there.
            let Ok(read) = memory.read_at(&mut chunk, at) else {
                break;
            };
            if read == 0 {
                break;
            }
            chunk.truncate(read);
            at += read as u64;
            // A needle may lie across two chunks: what begins in the kept part and ends in it was found before.
            let seen = kept.len();
            kept.extend_from_slice(&chunk);
            for (start, bytes) in kept.windows(2).enumerate() {
                if !begins.get(pair(bytes)).unwrap() {
                    continue;
                }
                let rest = kept.get(start..).unwrap();
                for (which, needle) in needles.iter().enumerate() {
                    if rest.starts_with(needle) && start + needle.len() > seen {
                        found.push((which, line.to_owned()));
                    }
                }
            }
            let keep = kept.len().saturating_sub(longest - 1);
            kept.drain(..keep);
        }
    }
    found
}

fn pair(bytes: &[u8]) -> usize {
    let [first, second] = *bytes.first_chunk().unwrap();
    usize::from(u16::from_be_bytes([first, second]))
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|w| w == needle)
}

#[test]
fn a_value_is_found_nowhere_but_in_its_mount() {
    let scene = Scene::start().unwrap();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    let token = scene.bed.token(&pod).unwrap();
    let mut printed = String::new();
    for round in 0..5 {
        scene
            .put(
                "payments/db",
                &[("password", PASSWORD), ("username", USERNAME)],
            )
            .unwrap();
        scene.publish_with(&pod, AUDIENCE, &token).unwrap();
        let stranger = Pod::new(
            "shop",
            &format!("batch-{round}"),
            "batch",
            NODE,
            "payments/db",
        );
        let refused = scene
            .refused(&stranger, AUDIENCE, &scene.bed.token(&stranger).unwrap())
            .unwrap();
        printed.push_str(refused.message());
    }
    for args in [
        &["secret", "list", "--output", "json"][..],
        &["secret", "show", "payments/db", "--output", "json"],
        &["secret", "versions", "payments/db", "--output", "json"],
        &["status", "--output", "json"],
        &["audit", "tail", "-n", "1000", "--output", "json"],
    ] {
        printed.push_str(&scene.bed.attache_ok(args).unwrap());
    }
    printed.push_str(&scene.logs());
    printed.push_str(&scene.bed.metrics().unwrap());
    assert!(
        scene.read(&pod, "db/password").unwrap() == PASSWORD,
        "the control: it is in the mount"
    );
    for needle in [PASSWORD, USERNAME, &token] {
        assert!(!printed.contains(needle), "in what was printed or logged");
        for folder in ["broker", "audit", "log", "etc", "cli", "node-state"] {
            for file in scene.files(folder).unwrap() {
                let bytes = fs::read(&file).unwrap_or_default();
                assert!(!holds(&bytes, needle.as_bytes()), "in {}", file.display());
            }
        }
    }
    let broker = scene.bed.broker.as_ref().unwrap().pid();
    let needles = [PASSWORD.as_bytes(), USERNAME.as_bytes()];
    let own = all_in_memory(std::process::id(), &needles);
    for at in 0..needles.len() {
        assert!(
            own.iter().any(|(which, _)| *which == at),
            "the control: the scan finds what is there"
        );
    }
    let found = all_in_memory(broker, &needles);
    assert!(found.is_empty(), "in the broker's memory: {found:?}");
}

/// A key of a store, what it is called, and whether the broker has it for longer than a call.
struct Known {
    name: String,
    key: [u8; 32],
    kept: bool,
}

/// Every key of a broker's store, read from a copy of it by its key file: those of the keyring, of keyspaces and of values.
fn keys_of(scene: &Scene) -> Vec<Known> {
    let copy = scene.bed.dir.join("copy.redb");
    fs::copy(scene.bed.store_dir().join("store.redb"), &copy).unwrap();
    let store = RedbStore::open(&copy).unwrap();
    let bodies = |table| {
        let rows = store.scan(table, b"", None, 4096);
        let rows = scene.runtime.block_on(rows).unwrap().into_iter();
        let body = |row: &[u8]| row.get(HEAD_BYTES..row.len() - TAG_BYTES).unwrap().to_vec();
        rows.map(|(key, row)| (key, body(&row))).collect::<Vec<_>>()
    };
    let mut known = keyring_of(
        &scene.bed,
        store.id(),
        &bodies(Table::Meta),
        &bodies(Table::Slot),
    );
    let (_, wrapping, wrap_key) = known.iter().find(|it| it.0 == Purpose::KekWrap).unwrap();
    let mut keks = HashMap::new();
    let mut found = Vec::new();
    for (key, body) in bodies(Table::Kek) {
        let (keyspace, epoch) = KekBody::parse_key(&key).unwrap();
        let body = KekBody::decode(&body).unwrap();
        let binding = KekBinding {
            store: store.id(),
            keyspace: &keyspace,
            epoch,
            kek: body.kek,
        };
        let mut kek = [0; 32];
        let wrapped = &body.state.wrapped().unwrap().wrapped;
        unwrap_kek(
            KekWrapKey::new(wrapping),
            *wrap_key,
            &binding,
            wrapped,
            &mut kek,
        )
        .unwrap();
        found.push(Known {
            name: format!("the key {keyspace}@{epoch}"),
            key: kek,
            kept: matches!(body.state, KekState::Active(_)),
        });
        keks.insert(body.kek, (keyspace, kek));
    }
    for (key, body) in bodies(Table::ValueKey) {
        let body = ValueKeyBody::decode(&body).unwrap();
        let (keyspace, kek) = keks.get(&body.kek).unwrap();
        let value = ValueId::from_bytes(key.try_into().unwrap());
        let binding = DekBinding {
            store: store.id(),
            keyspace,
            secret: body.secret,
            value,
            kek: body.kek,
            ct_hash: body.ct_hash,
        };
        let mut dek = [0; 32];
        let opened = PreparedKek::new(Kek::new(kek)).unwrap();
        opened
            .unwrap_dek(&binding, &body.wrapped, &mut dek)
            .unwrap();
        found.push(Known {
            name: format!("the data key of {value}"),
            key: dek,
            kept: false,
        });
    }
    found.extend(known.drain(..).map(|(purpose, key, _)| Known {
        name: format!("the {} key", purpose.name()),
        key,
        kept: true,
    }));
    found
}

/// The keys of the keyring, with their ids.
fn keyring_of(
    bed: &Bed,
    store: StoreId,
    meta: &[(Vec<u8>, Vec<u8>)],
    slots: &[(Vec<u8>, Vec<u8>)],
) -> Vec<(Purpose, [u8; 32], KeyId)> {
    let (mut secret, mut srk) = ([0; 32], [0; 32]);
    parse_key_file(&fs::read(bed.key_file()).unwrap(), &mut secret).unwrap();
    let slot = Slot::decode(&slots.first().unwrap().1).unwrap();
    slot.open(store, SlotSecret::new(&secret), &mut srk)
        .unwrap();
    let sealed = meta.iter().find(|(key, _)| key == b"keyring").unwrap();
    let sealed = SealedKeyring::decode(&sealed.1).unwrap();
    let mut record = vec![0; sealed.record_bytes()];
    sealed.open(Srk::new(&srk), store, &mut record).unwrap();
    let entries = read_record(&record).unwrap().into_iter();
    entries
        .map(|entry| (entry.purpose, *entry.key, entry.id))
        .collect()
}

/// A broker whose keys lie in ordinary memory, where they are found.
fn plain() -> Bed {
    let bed = Bed::new().unwrap();
    let settings = fs::read_to_string(bed.broker_config()).unwrap();
    let settings = settings.replace("[keys]\n", "[keys]\ndanger_plain_key_arena = true\n");
    fs::write(bed.broker_config(), settings).unwrap();
    bed
}

/// The positive control is the same ceremony before: the share lies in ordinary memory, and is found there.
#[test]
fn no_share_is_in_the_brokers_memory_once_its_ceremony_is_over() {
    let scene = Scene::on(plain()).unwrap();
    let bed = &scene.bed;
    let folder = bed.dir.join("shares").display().to_string();
    let add = ["slot", "add", "shares", "--threshold", "2", "--shares", "2"];
    let named = ["--name", "recovery", "--out", &folder];
    bed.attache_ok(&[&add[..], &named].concat()).unwrap();
    let file = |number: u8| format!("{folder}/recovery-{number}-of-2.share");
    let pid = bed.broker.as_ref().unwrap().pid();
    bed.attache_ok(&["broker", "seal", "--yes"]).unwrap();
    let log = bed.dir.join("log/broker.log");
    let boot_key = until(PATIENCE, "the broker is sealed", || {
        let log = fs::read_to_string(&log).unwrap();
        let (_, key) = log.rsplit_once("boot_key=\"")?;
        Some(key.split_once('"')?.0.to_owned())
    })
    .unwrap();
    let give = |number: u8| {
        let unseal = ["broker", "unseal", "--boot-key", &boot_key, "--share"];
        bed.attache_ok(&[&unseal[..], &[&file(number)]].concat())
            .unwrap()
    };
    let share = ShareFile::parse(&fs::read(file(1)).unwrap()).unwrap().share;
    let found = in_memory(pid, share.value());
    assert!(found.is_empty(), "before it is given: {found:?}");
    give(1);
    assert!(!in_memory(pid, share.value()).is_empty(), "the control");
    assert!(give(2).contains("is open, by the slot recovery"));
    assert_eq!(bed.broker.as_ref().unwrap().pid(), pid);
    for number in [1, 2] {
        let text = fs::read(file(number)).unwrap();
        let share = ShareFile::parse(&text).unwrap().share;
        let found = in_memory(pid, share.value());
        assert!(
            found.is_empty(),
            "share {number} is there after the ceremony: {found:?}"
        );
    }
}

/// The positive control is the same broker before: the keys that it keeps lie in ordinary memory, and are found there. Data keys
/// are never found: none is kept for longer than a release.
#[test]
fn no_key_is_in_the_brokers_memory_once_it_is_sealed() {
    let scene = Scene::on(plain()).unwrap();
    let bed = &scene.bed;
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    let pid = bed.broker.as_ref().unwrap().pid();
    bed.attache_ok(&["key", "rotate", "payments"]).unwrap();
    bed.attache_ok(&["key", "rotate", "--root"]).unwrap();
    let pod = Pod::new("shop", "web-1", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    let keys = keys_of(&scene);
    let needles: Vec<&[u8]> = keys.iter().map(|it| &it.key[..]).collect();
    let open = all_in_memory(pid, &needles);
    for (at, Known { name, kept, .. }) in keys.iter().enumerate() {
        let there = open.iter().any(|(which, _)| *which == at);
        let is_data_key = name.starts_with("the data key");
        assert!(there || !kept, "{name} is not found while it is open");
        assert!(!there || !is_data_key, "{name} is there after its release");
    }
    bed.attache_ok(&["broker", "seal", "--yes"]).unwrap();
    until(PATIENCE, "the broker is sealed", || {
        let told = bed.attache(&["broker", "status"]).unwrap();
        (told.status.code() == Some(8)).then_some(())
    })
    .unwrap();
    assert_eq!(bed.broker.as_ref().unwrap().pid(), pid);
    let left = all_in_memory(pid, &needles).into_iter();
    let left = left.map(|(at, place)| format!("{} in {place}", keys.get(at).unwrap().name));
    let left: Vec<_> = left.collect();
    assert!(left.is_empty(), "there after the seal: {left:#?}");
}
