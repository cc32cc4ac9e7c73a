//! The store's file: a damaged record, flipped bits, a newer format, another key, two brokers at once.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Output,
};

use attache_tests::{
    Bed, Scene,
    bed::NODE,
    kills::Dice,
    pod::Pod,
    process::{PATIENCE, run, until},
    scene::{PASSWORD, USERNAME},
};
use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use tonic::Code;

use crate::{broker, copy_folder, said};

/// What `payments/other` holds.
const OTHER: &str = "other";

/// A stopped broker's store, with a copy of everything that a start looks at.
struct Store {
    scene: Scene,
    copy: PathBuf,
    pods: u32,
}

impl Store {
    /// A scene with three secrets, two of them granted, and an operator who is banned; its broker is stopped.
    fn stopped() -> Self {
        let scene = Scene::start().unwrap();
        scene.put("payments/other", &[("token", OTHER)]).unwrap();
        let other = ["grant", "add", "shop-web-other", "payments/other"];
        let to = ["--to", "local/shop/web/app"];
        scene.bed.attache_ok(&[&other[..], &to].concat()).unwrap();
        scene
            .bed
            .attache_ok(&["keyspace", "create", "web"])
            .unwrap();
        scene.put("web/site", &[("token", "site")]).unwrap();
        ban_somebody(&scene.bed);
        scene.bed.pin_addresses().unwrap();
        let copy = scene.bed.dir.join("copy");
        let mut store = Self {
            scene,
            copy,
            pods: 0,
        };
        store.keep();
        store
    }

    /// Stops the broker, and takes a copy of what it leaves.
    fn keep(&mut self) {
        self.scene.bed.broker.take().unwrap().stop().unwrap();
        for (folder, name) in [
            (self.scene.bed.store_dir(), "store"),
            (self.scene.bed.audit_dir(), "audit"),
        ] {
            copy_folder(&folder, &self.copy.join(name));
        }
    }

    /// Everything as it was, and an empty log.
    fn restore(&mut self) {
        drop(self.scene.bed.broker.take());
        for (folder, name) in [
            (self.scene.bed.store_dir(), "store"),
            (self.scene.bed.audit_dir(), "audit"),
        ] {
            fs::remove_dir_all(&folder).unwrap();
            copy_folder(&self.copy.join(name), &folder);
        }
        fs::write(self.log_file(), "").unwrap();
    }

    fn file(&self) -> PathBuf {
        self.scene.bed.store_dir().join("store.redb")
    }

    fn log_file(&self) -> PathBuf {
        self.scene.bed.dir.join("log/broker.log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap()
    }

    /// Starts, or answers what the broker said as it did not.
    fn start(&mut self) -> Result<(), String> {
        let started = self.scene.bed.start_broker().map_err(|_| self.log());
        assert!(!self.log().contains("panicked"), "{}", self.log());
        started
    }

    /// Publishes a volume of a new pod, which wants this secret.
    fn publish_of(&mut self, secret: &str) -> Result<Pod, tonic::Status> {
        self.pods += 1;
        let pod = Pod::new("shop", &format!("web-{}", self.pods), "web", NODE, secret);
        self.scene.publish(&pod)?;
        Ok(pod)
    }

    /// Publishes a new pod's volume: its password, or the refusal.
    fn publish(&mut self) -> Result<String, tonic::Status> {
        let pod = self.publish_of("payments/db")?;
        let username = self.scene.read(&pod, "db/username").unwrap();
        assert_eq!(
            username, USERNAME,
            "another value than the one that was put"
        );
        Ok(self.scene.read(&pod, "db/password").unwrap())
    }

    fn check(&self) -> Output {
        broker(&["check-store"], &self.scene.bed.broker_config())
    }
}

/// Has an operator sign in by a code, and bans them.
fn ban_somebody(bed: &Bed) {
    let (grpc, enroll) = bed.broker_addresses().unwrap();
    let code = bed.dir.join("etc/code");
    fs::write(&code, bed.attache_ok(&["operator", "add", "eve"]).unwrap()).unwrap();
    let mut login = bed.attache_command().unwrap();
    login.env("ATTACHE_CONFIG", bed.dir.join("cli/eve/config.toml"));
    login.args(["login", "--new", "eve", "--broker", &grpc.to_string()]);
    login.args(["--enroll", &enroll.to_string(), "--code"]);
    let signed_in = run(login.arg(format!("@{}", code.display()))).unwrap();
    assert!(signed_in.status.success(), "{}", said(&signed_in));
    fs::remove_file(code).unwrap();
    bed.attache_ok(&["operator", "ban", "eve", "--yes"])
        .unwrap();
}

type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// The tables with a row in them.
fn tables(file: &Path) -> Vec<&'static str> {
    let database = redb::Database::open(file).unwrap();
    let read = database.begin_read().unwrap();
    let names: Vec<String> = read
        .list_tables()
        .unwrap()
        .map(|table| table.name().to_owned())
        .collect();
    let names = names
        .into_iter()
        .filter(|name| name != "attache")
        .map(|name| &*name.leak());
    names
        .filter(|name| {
            let table = read.open_table(Bytes::new(name)).unwrap();
            table.first().unwrap().is_some()
        })
        .collect()
}

/// Flips a bit in the midst of a table's first row, or gives it a byte where it has none.
fn damage(file: &Path, table: &'static str) {
    let (key, value) = rows(file, table).swap_remove(0);
    if value.is_empty() {
        return put_back(file, table, &key, &[1]);
    }
    damage_at(file, table, &key, value.len() / 2, 1);
}

/// Flips bits of one byte of a row.
fn damage_at(file: &Path, table: &'static str, key: &[u8], at: usize, bits: u8) {
    let mut value = row(file, table, key);
    *value.get_mut(at).unwrap() ^= bits;
    put_back(file, table, key, &value);
}

/// The tables without which a broker does not start: they are read whole. The others are read row by row.
const WHOLE: [&str; 10] = [
    "anchor",
    "ban",
    "cluster",
    "grant",
    "identity",
    "meta",
    "operator",
    "operator-code",
    "policy",
    "slot",
];
/// Those of which a damaged row takes one keyspace away, here the one of payments.
const OF_A_KEYSPACE: [&str; 2] = ["kek", "keyspace"];

#[test]
fn a_damaged_row_is_named_and_the_rest_is_served() {
    let mut store = Store::stopped();
    let tables = tables(&store.file());
    for table in
        WHOLE
            .iter()
            .chain(&OF_A_KEYSPACE)
            .chain(&["head", "version", "value-key", "payload"])
    {
        assert!(tables.contains(table), "no row in {table}");
    }
    for table in tables {
        store.restore();
        damage(&store.file(), table);
        let started = store.start();
        if table == "slot" {
            // Its only slot opens nothing any more: it is sealed, since nobody can tell that from another key file.
            assert!(
                store
                    .log()
                    .contains("nothing that the settings name opens the store"),
                "{}",
                store.log()
            );
            drop(store.scene.bed.broker.take());
            assert!(said(&store.check()).contains("slot"));
            continue;
        }
        assert_eq!(
            started.is_err(),
            WHOLE.contains(&table),
            "{table}: {started:?}"
        );
        let checked = said(&store.check());
        assert!(checked.contains(table), "{table}: {checked}");
        if let Err(refusal) = started {
            assert!(
                refusal.contains("attache-broker: ") && refusal.contains(table),
                "{refusal}"
            );
            continue;
        }
        if OF_A_KEYSPACE.contains(&table) {
            let refused = store.publish().unwrap_err();
            assert_eq!(refused.code(), Code::Internal, "{table}: {refused:?}");
            let put = store.scene.put("payments/other", &[("token", "lost")]);
            let put = put.unwrap_err().to_string();
            assert!(put.contains(table), "{table}: {put}");
            store.scene.put("web/site", &[("token", "kept")]).unwrap();
            assert!(scrubbed(&store).contains("check-store"), "{table}");
            continue;
        }
        let published = store.publish();
        let shown = store
            .scene
            .bed
            .attache(&["secret", "show", "payments/other"])
            .unwrap();
        let mut refused = 0;
        if let Err(status) = published {
            assert_eq!(status.code(), Code::Internal, "{table}: {status:?}");
            refused += 1;
        }
        if !shown.status.success() {
            assert!(said(&shown).contains(table), "{table}: {}", said(&shown));
            refused += 1;
        }
        assert!(
            refused < 2,
            "{table}: one row was damaged, and nothing is served"
        );
    }
    store.restore();
    store.start().unwrap();
    assert_eq!(
        store.publish().unwrap(),
        PASSWORD,
        "the control: nothing is lost"
    );
}

/// The rows on which a release of `payments/db` stands, those of its values among them: each with its table.
fn rows_of_the_secret(file: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let head = b"payments/db".to_vec();
    // Behind the row's head of 14 and that of its record: the secret's uuid, the first field.
    let uuid_of = |row: &[u8]| row.get(22..38).unwrap().to_vec();
    let secret = uuid_of(&row(file, "head", &head));
    let version = rows(file, "version").into_iter();
    let version = version.map(|(key, _)| key);
    let version = version.filter(|key| key.starts_with(&secret));
    let values = rows(file, "value-key").into_iter();
    let values = values.filter(|(_, row)| uuid_of(row) == secret);
    let values: Vec<_> = values.map(|(key, _)| key).collect();
    let mut found = vec![("head", head)];
    found.extend(version.map(|key| ("version", key)));
    for value in values {
        found.push(("value-key", value.clone()));
        found.push(("payload", value));
    }
    found
}

/// Whichever of a secret's rows has a flipped bit, wherever: it is refused as INTERNAL, named, and every other one is served.
#[test]
fn a_flipped_bit_in_any_row_of_a_secret_refuses_that_secret_and_no_other() {
    let mut store = Store::stopped();
    let mut dice = Dice::new().unwrap();
    let found = rows_of_the_secret(&store.file());
    let tables: Vec<_> = found.iter().map(|(table, _)| *table).collect();
    assert_eq!(
        tables,
        [
            "head",
            "version",
            "value-key",
            "payload",
            "value-key",
            "payload"
        ]
    );
    for (table, key) in found {
        store.restore();
        let length = row(&store.file(), table, &key).len();
        let at = usize::try_from(dice.below(length as u64)).unwrap();
        let bit = 1 << dice.below(8);
        damage_at(&store.file(), table, &key, at, bit);
        let case = format!("{table}, byte {at} of {length}, bits {bit:#x}");
        store.start().unwrap_or_else(|why| panic!("{case}: {why}"));
        let refused = store.publish().map_err(|status| status.code());
        assert_eq!(refused, Err(Code::Internal), "{case}");
        let pod = store.publish_of("payments/other").unwrap();
        let served = store.scene.read(&pod, "other/token").unwrap();
        assert_eq!(served, OTHER, "{case}");
        let checked = store.check();
        let named = said(&checked).lines().any(|line| line.starts_with(table));
        assert!(
            checked.status.code() == Some(8) && named,
            "{case}: {}",
            said(&checked)
        );
        assert!(!store.log().contains("panicked"), "{case}");
    }
}

/// A table's rows, by key.
fn rows(file: &Path, table: &'static str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let database = redb::Database::open(file).unwrap();
    let read = database.begin_read().unwrap();
    let rows = read.open_table(Bytes::new(table)).unwrap();
    let rows = rows.iter().unwrap().map(|row| {
        let (key, value) = row.unwrap();
        (key.value().to_vec(), value.value().to_vec())
    });
    rows.collect()
}

fn row(file: &Path, table: &'static str, key: &[u8]) -> Vec<u8> {
    let database = redb::Database::open(file).unwrap();
    let rows = database.begin_read().unwrap();
    let rows = rows.open_table(Bytes::new(table)).unwrap();
    rows.get(key).unwrap().unwrap().value().to_vec()
}

fn take_out(file: &Path, table: &'static str, key: &[u8]) {
    let database = redb::Database::open(file).unwrap();
    let write = database.begin_write().unwrap();
    let mut rows = write.open_table(Bytes::new(table)).unwrap();
    rows.remove(key).unwrap().unwrap();
    drop(rows);
    write.commit().unwrap();
}

fn put_back(file: &Path, table: &'static str, key: &[u8], value: &[u8]) {
    let database = redb::Database::open(file).unwrap();
    let write = database.begin_write().unwrap();
    let mut rows = write.open_table(Bytes::new(table)).unwrap();
    rows.insert(key, value).unwrap();
    drop(rows);
    write.commit().unwrap();
}

/// What the broker says of the store once it has looked at every row.
fn scrubbed(store: &Store) -> String {
    until(PATIENCE, "the store is scrubbed", || {
        store.log().contains("the store is scrubbed").then_some(())
    })
    .unwrap();
    store.scene.status().unwrap().to_string()
}

/// T2. A row that was taken out has no tag that could be wrong: its table's count and set hash are.
#[test]
fn a_row_that_is_gone_is_missed_before_a_start_or_by_the_scrub_after_it() {
    let mut store = Store::stopped();
    store.restore();
    store.start().unwrap();
    let whole = scrubbed(&store);
    assert!(!whole.contains("not what was written"), "{whole}");
    drop(store.scene.bed.broker.take());
    for table in tables(&store.file()) {
        if ["anchor", "payload"].contains(&table) {
            continue;
        }
        store.restore();
        let (first, _) = rows(&store.file(), table).swap_remove(0);
        take_out(&store.file(), table, &first);
        let started = store.start();
        assert_eq!(
            started.is_err(),
            WHOLE.contains(&table) || OF_A_KEYSPACE.contains(&table),
            "{table}: {started:?}"
        );
        if let Err(refusal) = started {
            // Without its only slot there is nothing that could be opened, and no table to be compared.
            let why = match table {
                "slot" => "slot".to_owned(),
                _ => format!("the {table} table does not match its anchor"),
            };
            let named = refusal.contains("attache-broker: ") && refusal.contains(&why);
            assert!(named, "{table}: {refusal}");
            continue;
        }
        let told = scrubbed(&store);
        let named = match table {
            "kek-index" => "is not in the KEK index".to_owned(),
            _ => format!("table {table}: rows were removed or added"),
        };
        assert!(told.contains(&named), "{table}: {told}");
        let metrics = store.scene.bed.metrics().unwrap();
        // Of a value's key row that is gone its row of the index is left.
        let findings = 1 + u32::from(table == "value-key");
        let counted = format!("\nattache_broker_scrub_findings {findings}\n");
        assert!(metrics.contains(&counted), "{table}: {metrics}");
    }
}

/// T2. Of two slots the broker opens by one: the other is a way in all the same, and nobody changes it unseen.
#[test]
fn a_slot_that_is_edited_or_gone_keeps_a_broker_from_starting_that_opens_by_another() {
    let mut store = Store::stopped();
    store.start().unwrap();
    let safe = store.scene.bed.dir.join("etc/safe.key");
    let add = ["slot", "add", "key-file", "--name", "safe", "--out"];
    let bed = &store.scene.bed;
    bed.attache_ok(&[&add[..], &[safe.to_str().unwrap()]].concat())
        .unwrap();
    let other = |file: &Path| {
        let of_safe = |(_, row): &(Vec<u8>, Vec<u8>)| row.windows(4).any(|it| it == b"safe");
        rows(file, "slot").into_iter().find(of_safe).unwrap()
    };
    store.scene.bed.broker.take().unwrap().stop().unwrap();
    let (key, old) = other(&store.file());
    store.start().unwrap();
    store
        .scene
        .bed
        .attache_ok(&["key", "rotate", "--root"])
        .unwrap();
    store.keep();
    let (_, new) = other(&store.file());
    assert!(old != new && rows(&store.file(), "slot").len() == 2);
    let edited = |at: usize| {
        let mut row = new.clone();
        *row.get_mut(at).unwrap() ^= 1;
        Some(row)
    };
    let gone = "the slot table does not match its anchor (1 rows, 2 anchored)";
    let exchanged = "the slot table does not match its anchor (2 rows, 2 anchored)";
    let damaged = "a record of table slot fails authentication";
    for (what, row, why) in [
        ("gone", None, gone),
        ("the row of before", Some(old.clone()), exchanged),
        ("its seq", edited(13), damaged),
        ("its seal", edited(new.len() / 2), damaged),
        ("its tag", edited(new.len() - 1), damaged),
    ] {
        store.restore();
        match row {
            Some(row) => put_back(&store.file(), "slot", &key, &row),
            None => take_out(&store.file(), "slot", &key),
        }
        let refusal = store.start().unwrap_err();
        let named = refusal.contains("attache-broker: ") && refusal.contains(why);
        assert!(named, "{what}: {refusal}");
        let checked = store.check();
        assert_eq!(checked.status.code(), Some(8), "{what}: {}", said(&checked));
        assert!(said(&checked).contains("slot"), "{}", said(&checked));
    }
    store.restore();
    store.start().unwrap();
    assert_eq!(store.publish().unwrap(), PASSWORD, "the control");
}

/// T2. An old row is one that the broker wrote: it is served, which is said openly, until the scrub has come to it.
#[test]
fn a_head_of_before_that_is_put_back_is_found_by_the_scrub() {
    let mut store = Store::stopped();
    let key = b"payments/db";
    let old = row(&store.file(), "head", key);
    store.start().unwrap();
    let (changed, other) = (
        "canary-changed",
        [("username", USERNAME), ("password", "canary-changed")],
    );
    store.scene.put("payments/db", &other).unwrap();
    store.scene.bed.broker.take().unwrap().stop().unwrap();
    fs::write(store.log_file(), "").unwrap();
    assert_ne!(row(&store.file(), "head", key), old);
    put_back(&store.file(), "head", key, &old);
    store.start().unwrap();
    assert_eq!(store.publish().unwrap(), PASSWORD);
    let told = scrubbed(&store);
    assert!(
        told.contains("table head: rows were put back or exchanged"),
        "{told}"
    );
    assert!(
        !told.contains(PASSWORD) && !told.contains(changed),
        "{told}"
    );
}

/// Wherever a bit flips, the broker does not start, or it serves what was put and nothing else.
#[test]
fn a_flipped_bit_anywhere_in_the_file_is_an_error_or_nothing() {
    let mut store = Store::stopped();
    let mut dice = Dice::new().unwrap();
    let bytes = fs::read(store.copy.join("store/store.redb")).unwrap();
    // Most of the file is room for more, which nobody reads.
    let written: Vec<u64> = (0..)
        .zip(&bytes)
        .filter(|(_, byte)| **byte != 0)
        .map(|(at, _)| at)
        .collect();
    let (mut refused, mut served) = (0, 0);
    for round in 0..32 {
        store.restore();
        // The first page holds redb's own header: each eighth round is for it.
        let first_page = written.partition_point(|at| *at < 4096);
        let among = if round % 8 == 0 {
            first_page
        } else {
            written.len()
        };
        let drawn = usize::try_from(dice.below(among as u64)).unwrap();
        let at = *written.get(drawn).unwrap();
        flip(&store.file(), at);
        let mut is_gone = false;
        if let Err(refusal) = store.start() {
            assert!(refusal.contains("attache-broker: "), "{at}: {refusal}");
            refused += 1;
        } else {
            match store.publish() {
                Ok(password) => assert_eq!(password, PASSWORD, "{at}"),
                // A row that fails, or a page of redb's that does not parse.
                Err(status) if matches!(status.code(), Code::Internal | Code::Unavailable) => {}
                // A row that lies under another key: nobody can tell that from one that is not there but who reads all.
                Err(status) => {
                    assert_eq!(status.code(), Code::PermissionDenied, "{at}: {status:?}");
                    is_gone = true;
                }
            }
            assert!(!store.log().contains("panicked"), "{at}: {}", store.log());
            served += 1;
        }
        let check = store.check();
        let checked = said(&check);
        assert!(!checked.contains("panicked"), "{at}: {checked}");
        assert!(
            !is_gone || check.status.code() == Some(8),
            "{at}: {checked}"
        );
    }
    println!("{refused} starts refused, {served} served");
}

fn flip(file: &Path, at: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&byte.map(|b| b ^ 0x10), at).unwrap();
}

/// Writes a number into the header as the format of the store.
fn set_format(file: &Path, format: u16) {
    let database = redb::Database::open(file).unwrap();
    let write = database.begin_write().unwrap();
    {
        let header = TableDefinition::<&str, &[u8]>::new("attache");
        let mut header = write.open_table(header).unwrap();
        let format = format.to_be_bytes();
        header.insert("format", format.as_slice()).unwrap();
    }
    write.commit().unwrap();
}

fn truncate(file: &Path) {
    let file = fs::File::options().write(true).open(file).unwrap();
    file.set_len(5000).unwrap();
}

/// A file, what is done to it, and what the refusal must name.
type Spoiled = (&'static str, fn(&Path), &'static str);

#[test]
fn a_file_that_is_no_store_or_a_newer_one_is_refused() {
    let mut store = Store::stopped();
    let spoiled: [Spoiled; 7] = [
        ("of a newer format", |file| set_format(file, 6), "format 6"),
        ("of an older format", |file| set_format(file, 1), "format 1"),
        ("empty", |file| fs::write(file, "").unwrap(), "empty"),
        (
            "text",
            |file| fs::write(file, "no store").unwrap(),
            "store.redb",
        ),
        ("cut", truncate, "store.redb"),
        ("missing", |file| fs::remove_file(file).unwrap(), "init"),
        (
            "a folder",
            |file| {
                fs::remove_file(file)
                    .and_then(|()| fs::create_dir(file))
                    .unwrap()
            },
            "store.redb",
        ),
    ];
    for (what, spoil, named) in spoiled {
        store.restore();
        spoil(&store.file());
        let Err(refusal) = store.start() else {
            panic!("{what}: the broker has started");
        };
        assert!(
            refusal.contains("attache-broker: ") && refusal.contains(named),
            "{what}: {refusal}"
        );
        let checked = store.check();
        assert!(
            !checked.status.success() && said(&checked).contains(named),
            "{what}: {}",
            said(&checked)
        );
    }
    // Nothing was lost by the refusal: the newer program that wrote it can still read it.
    store.restore();
    set_format(&store.file(), 6);
    assert!(store.start().is_err());
    set_format(&store.file(), 5);
    store.start().unwrap();
    assert_eq!(store.publish().unwrap(), PASSWORD);
}

#[test]
fn another_root_key_opens_nothing() {
    let mut store = Store::stopped();
    let other = Bed::new().unwrap();
    other.init_broker().unwrap();
    let slot = store.scene.bed.dir.join("etc/slot.key");
    let kept = store.scene.bed.dir.join("etc/slot.kept");
    fs::rename(&slot, &kept).unwrap();
    fs::copy(other.dir.join("etc/slot.key"), &slot).unwrap();
    let refusal = said(&store.check());
    assert!(
        refusal.contains("slot.key") && refusal.contains("does not open this store"),
        "{refusal}"
    );
    store.start().unwrap();
    assert!(
        store
            .log()
            .contains("nothing that the settings name opens the store"),
        "{}",
        store.log()
    );
    drop(store.scene.bed.broker.take());
    // The store and the log of another: it opens by its own key, and is not what was here before.
    fs::remove_dir_all(store.scene.bed.audit_dir()).unwrap();
    copy_folder(&other.audit_dir(), &store.scene.bed.audit_dir());
    fs::rename(&kept, &slot).unwrap();
    let refusal = store.start().unwrap_err();
    assert!(refusal.contains("audit"), "{refusal}");
    store.restore();
    store.start().unwrap();
    assert_eq!(store.publish().unwrap(), PASSWORD);
}

#[test]
fn a_second_broker_on_one_store_is_refused_and_the_first_serves_on() {
    let scene = Scene::start().unwrap();
    let second = scene.bed.dir.join("etc/second.toml");
    let settings = fs::read_to_string(scene.bed.broker_config()).unwrap();
    let settings = settings.replace("broker-admin.sock", "second-admin.sock");
    fs::write(&second, &settings).unwrap();
    for words in [["serve"], ["check-store"]] {
        let output = broker(&words, &second);
        let said = said(&output);
        assert!(
            output.status.code() == Some(1) && said.contains("store.redb"),
            "{words:?}: {said}"
        );
        assert!(
            said.contains("another") && !said.contains("panicked"),
            "{words:?}: {said}"
        );
    }
    let output = broker(&["init"], &second);
    assert!(
        !output.status.success() && said(&output).contains("is there already"),
        "{}",
        said(&output)
    );
    // With a store of its own, and the log of the first.
    let other = settings.replace(
        &format!("{}/broker\"", scene.bed.dir.display()),
        &format!("{}/second\"", scene.bed.dir.display()),
    );
    let other = other.replace("etc/slot.key", "etc/second.key");
    fs::write(&second, other).unwrap();
    let output = broker(&["init"], &second);
    assert!(
        !output.status.success() && said(&output).contains("audit"),
        "{}",
        said(&output)
    );
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    assert_eq!(scene.read(&pod, "db/password").unwrap(), PASSWORD);
    scene.bed.attache_ok(&["status"]).unwrap();
}
