//! The broker as a pod has it: a user without privileges, a key file that a Secret is mounted as, started again and again,
//! and asked by probes.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{PermissionsExt, chown},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use attache_tests::process::{PATIENCE, bin, run};
use rustix::process::Signal;
use tempfile::TempDir;

/// The image's user.
const USER: u32 = 4841;
/// As docs/kubernetes.md has it made.
const KEY: &str = "attache-slot-key-1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n";

/// A pod's volumes.
struct Volumes {
    dir: TempDir,
}

impl Volumes {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let volumes = Self { dir };
        for folder in ["data", "run"] {
            let folder = volumes.at(folder);
            fs::create_dir(&folder).unwrap();
            // As kubelet does for fsGroup.
            chown(&folder, None, Some(USER)).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o2775)).unwrap();
        }
        let path = volumes.dir.path().display();
        let settings = format!(
            "name = \"broker-0\"\ntrust_domain = \"attache.test\"\n[listen]\ngrpc = \"127.0.0.1:0\"\nenroll = \
             \"127.0.0.1:0\"\nadmin = \"{path}/run/admin.sock\"\n[store]\ndir = \"{path}/data\"\n[keys]\nslot_file = \
             \"{path}/slot.key\"\n[audit]\ndir = \"{path}/data/audit\"\n"
        );
        fs::write(volumes.at("broker.toml"), settings).unwrap();
        volumes
    }

    /// The key file as a Secret's volume shows it: root's, and the pod's group may read.
    fn with_key(self, gid: u32, mode: u32) -> Self {
        let file = self.at("slot.key");
        fs::write(&file, KEY).unwrap();
        chown(&file, Some(0), Some(gid)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// Where the key is made too.
    fn writable(self) -> Self {
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        self
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(bin("attache-broker").unwrap());
        command.args(words).arg("--config");
        command.arg(self.at("broker.toml")).uid(USER).gid(USER);
        command
    }

    fn broker(&self, words: &[&str]) -> Output {
        run(&mut self.command(words)).unwrap()
    }

    fn serve(&self) -> Child {
        let log = File::create(self.at("log")).unwrap();
        let mut command = self.command(&["serve"]);
        command.stdin(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        // As a startup probe asks.
        let begun = Instant::now();
        while !self.broker(&["health", "--live"]).status.success() {
            let log = fs::read_to_string(self.at("log")).unwrap();
            assert!(begun.elapsed() < PATIENCE, "{log}");
        }
        child
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn stop(mut broker: Child) {
    attache_tests::process::send(broker.id(), Signal::TERM).unwrap();
    assert!(broker.wait().unwrap().success());
}

/// What a start must not change.
fn store(of: &Path) -> Vec<u8> {
    fs::read(of.join("store.redb")).unwrap()
}

#[test]
fn an_empty_volume_is_initialised_once_under_the_secrets_key_by_a_user_without_privileges() {
    let volumes = Volumes::new().with_key(USER, 0o440);
    let plain = volumes.broker(&["init"]);
    assert!(said(&plain).contains("is there already"), "{plain:?}");
    assert!(!volumes.at("data/store.redb").exists());

    let made = volumes.broker(&["init", "--if-empty"]);
    assert!(made.status.success(), "{}", said(&made));
    assert_eq!(fs::read_to_string(volumes.at("slot.key")).unwrap(), KEY);
    let before = store(&volumes.at("data"));
    let again = volumes.broker(&["init", "--if-empty"]);
    assert!(again.status.success() && said(&again).contains("is there already"));
    assert_eq!(store(&volumes.at("data")), before);

    let none = volumes.broker(&["health"]);
    assert_eq!(none.status.code(), Some(1), "{}", said(&none));
    assert!(said(&none).contains("no broker answers"), "{}", said(&none));
    let broker = volumes.serve();
    let ready = volumes.broker(&["health"]);
    assert!(ready.status.success() && said(&ready) == "serving\n");
    stop(broker);

    // The key is that of the Secret: another one opens nothing.
    let other = KEY.replace("AAEC", "AQEC");
    fs::write(volumes.at("slot.key"), other).unwrap();
    let refused = volumes.broker(&["check-store"]);
    assert!(said(&refused).contains("another store"), "{refused:?}");
    // A broker starts sealed by it, and is not ready.
    let broker = volumes.serve();
    let ready = volumes.broker(&["health"]);
    assert_eq!(ready.status.code(), Some(8), "{}", said(&ready));
    stop(broker);
}

/// Each round ends an init at another instant of its length; the init container that comes next mends what is left.
#[test]
fn an_init_that_is_killed_at_any_instant_is_made_good_by_the_next_one() {
    const ROUNDS: u32 = 40;
    let volumes = Volumes::new().writable();
    let begun = Instant::now();
    assert!(volumes.broker(&["init"]).status.success());
    let length = begun.elapsed();
    let (mut halves, mut wholes) = (0, 0);
    for round in 0..ROUNDS {
        let volumes = Volumes::new().writable();
        let mut child = volumes
            .command(&["init", "--if-empty"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(length * round / ROUNDS);
        child.kill().unwrap();
        child.wait().unwrap();
        let (half, whole) = (
            volumes.at("data/store.redb.new").exists(),
            volumes.at("data/store.redb").exists(),
        );
        halves += u32::from(half);
        wholes += u32::from(whole);
        let again = volumes.broker(&["init", "--if-empty"]);
        assert!(again.status.success(), "round {round}: {}", said(&again));
        assert_eq!(said(&again).contains("is there already"), whole);
        let checked = volumes.broker(&["check-store"]);
        assert!(
            checked.status.success(),
            "round {round}: {}",
            said(&checked)
        );
        if half {
            stop(volumes.serve());
        }
    }
    println!("{ROUNDS} rounds in {length:?}: {halves} halves, {wholes} wholes");
    assert!(
        halves >= 5,
        "too few inits were hit at their work: {halves}"
    );
}

#[test]
fn a_key_file_that_others_may_read_or_the_pod_may_write_begins_nothing() {
    for (gid, mode) in [(USER, 0o444), (USER, 0o460), (USER, 0o550), (0, 0o440)] {
        let volumes = Volumes::new().with_key(gid, mode);
        let refused = volumes.broker(&["init", "--if-empty"]);
        assert_eq!(refused.status.code(), Some(1), "{gid} {mode:o}");
        assert!(said(&refused).contains("slot.key"), "{}", said(&refused));
        let left = fs::read_dir(volumes.at("data/audit")).map_or(0, Iterator::count);
        assert!(!volumes.at("data/store.redb").exists() && left == 0);
        assert!(volumes.at("slot.key").exists(), "the Secret is not ours");
    }
}

/// `kubectl exec -i ... < request > chain`: no file has to be brought into the container.
#[test]
fn the_first_operator_is_signed_through_standard_input_and_output() {
    let volumes = Volumes::new().writable();
    assert!(volumes.broker(&["init", "--if-empty"]).status.success());
    let broker = volumes.serve();
    let csr = volumes.at("ada.csr");
    let login = Command::new(bin("attache").unwrap())
        .env("ATTACHE_CONFIG", volumes.at("cli/config.toml"))
        .args(["login", "--new", "ada", "--broker", "127.0.0.1:7443"])
        .args(["--broker-id", "spiffe://attache.test/broker/broker-0"])
        .arg("--trust-bundle")
        .arg(volumes.at("data/trust-bundle.pem"))
        .arg("--csr")
        .arg(&csr)
        .output()
        .unwrap();
    assert!(login.status.success(), "{}", said(&login));
    let request = fs::read(&csr).unwrap();
    for (given, signed) in [(&b"junk"[..], false), (&request[..], true)] {
        let mut asking = volumes.command(&["bootstrap", "operator", "ada", "--csr", "-"]);
        asking.stdin(Stdio::piped()).stdout(Stdio::piped());
        asking.stderr(Stdio::piped());
        let mut asking = asking.spawn().unwrap();
        asking.stdin.take().unwrap().write_all(given).unwrap();
        let answer = asking.wait_with_output().unwrap();
        assert_eq!(answer.status.success(), signed, "{}", said(&answer));
        let chain = answer.stdout.starts_with(b"-----BEGIN CERTIFICATE-----");
        assert_eq!(chain, signed, "{}", said(&answer));
    }
    stop(broker);
}
