//! Files and certificates: each file that a program reads, with each kind of bad file in its place.
//!
//! Nothing declares them, so this is a list. Files that a program writes and reads itself have their rows beside the
//! code: the agent's state folder in `agent::identity::state::tests`, a renewal under way in the CLI's `renewal::tests`,
//! segments of the audit log in `audit::tests::recovery`, the store in `tests/tests/faults`. The file of a value is no
//! file that is refused: `FIELD=@PATH` takes any bytes, and waits for the end of a pipe, as the shell makes one.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use attache_tests::{
    Bed, Scene,
    bed::{AUDIENCE, NODE},
    pod::Pod,
    process::{Process, bin, run},
    scene::PASSWORD,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tonic::Code;

use crate::kinds::CANARY;

/// A kind of bad file, and how it comes into the file's place.
type Kind = (&'static str, fn(&Path));

/// What may stand in a file's place.
const KINDS: [Kind; 8] = [
    ("missing", |_| ()),
    ("empty", |path| write(path, b"")),
    ("too long", |path| {
        write(path, CANARY.repeat(200_000).as_bytes())
    }),
    ("a folder", |path| fs::create_dir(path).unwrap()),
    ("a pipe", |path| {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap()
    }),
    ("non-UTF-8", |path| {
        write(path, &[CANARY.as_bytes(), &[0xff, 0xfe]].concat())
    }),
    ("NUL", |path| write(path, format!("{CANARY}\0").as_bytes())),
    ("unknown", |path| {
        write(path, format!("{CANARY}\n").as_bytes())
    }),
];

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A file whose place is taken; it is back when this is dropped.
struct Replaced {
    path: PathBuf,
    kept: PathBuf,
}

impl Replaced {
    fn by(path: &Path, put: fn(&Path)) -> Self {
        let mut kept = path.as_os_str().to_owned();
        kept.push(".kept");
        let kept = PathBuf::from(kept);
        fs::rename(path, &kept).unwrap();
        put(path);
        let path = path.to_owned();
        Self { path, kept }
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        // It is a file, a folder, or nothing.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(&self.path);
        let _ = fs::rename(&self.kept, &self.path);
    }
}

/// A file, who reads it, and what each of its bad forms must name.
struct Row<'r> {
    file: PathBuf,
    words: Vec<&'r str>,
    named: &'r str,
    /// A kind that is accepted, and why.
    passes: Option<(&'r str, &'r str)>,
}

impl Row<'_> {
    /// What is wrong with what `program` says of the file in each kind.
    fn check(&self, bed: &Bed, program: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for (kind, put) in KINDS {
            if let Some((_, reason)) = self.passes.filter(|(passes, _)| *passes == kind) {
                assert!(!reason.is_empty());
                continue;
            }
            let _back = Replaced::by(&self.file, put);
            // Whoever waits for a pipe is killed, which is told apart from a refusal.
            let mut command = Command::new("timeout");
            command
                .args(["-s", "KILL", "20"])
                .arg(bin(program).unwrap())
                .args(&self.words);
            command
                .env("ATTACHE_CONFIG", bed.cli_config())
                .env("NO_COLOR", "1");
            if program == "attache-broker" {
                command.arg("--config").arg(bed.broker_config());
            }
            let output = run(&mut command).unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            let refused = matches!(output.status.code(), Some(1 | 2 | 5 | 8));
            let echoes = said.contains(CANARY) || said.contains("panicked");
            if !refused || echoes || !said.contains(self.named) {
                wrong.push(format!(
                    "{} {kind}: {} {said}",
                    self.file.display(),
                    output.status
                ));
            }
        }
        wrong
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_bad_file_of_an_operators_identity_is_refused_by_name() {
    let bed = Bed::signed_in().unwrap();
    let waits = (
        "missing",
        "a context without a certificate waits for one: exit 7",
    );
    let mut wrong = Vec::new();
    for (named, passes) in [
        ("default.crt", Some(waits)),
        ("default.key", None),
        ("default.trust-bundle.pem", None),
    ] {
        let (file, words) = (bed.dir.join("cli").join(named), vec!["status"]);
        let row = Row {
            file,
            words,
            named,
            passes,
        };
        wrong.extend(row.check(&bed, "attache"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    bed.attache_ok(&["status"]).unwrap();
}

#[test]
fn a_bad_file_that_an_operator_hands_over_is_refused_by_name() {
    let bed = Bed::signed_in().unwrap();
    let (grpc, _) = bed.broker_addresses().unwrap();
    let grpc = grpc.to_string();
    let etc = |name: &str| bed.dir.join("etc").join(name);
    fs::copy(bed.store_dir().join("trust-bundle.pem"), etc("bundle.pem")).unwrap();
    let [bundle, chain, csr, new, note] =
        ["bundle.pem", "ada.pem", "ada.csr", "new.csr", "checkpoint"].map(|name| text(&etc(name)));
    bed.attache_ok(&["audit", "verify", "--save", &note])
        .unwrap();
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let begin = words(&format!(
        "login --new eve --broker {grpc} --broker-id spiffe://attache.test/broker/broker-0 \
         --trust-bundle {bundle} --csr {new} --context waiting"
    ));
    let begin: Vec<&str> = begin.iter().map(String::as_str).collect();
    bed.attache_ok(&begin).unwrap();
    fs::remove_file(&new).unwrap();
    let finish = ["login", "--finish", &chain, "--context", "waiting"];
    let verify = ["audit", "verify", "--at-least", &note];
    let bootstrap = ["bootstrap", "operator", "eve", "--csr", &csr];
    let mut wrong = Vec::new();
    for (named, words, program) in [
        ("bundle.pem", begin, "attache"),
        ("ada.pem", finish.to_vec(), "attache"),
        ("checkpoint", verify.to_vec(), "attache"),
        ("ada.csr", bootstrap.to_vec(), "attache-broker"),
    ] {
        let row = Row {
            file: etc(named),
            words,
            named,
            passes: None,
        };
        wrong.extend(row.check(&bed, program));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    bed.attache_ok(&verify).unwrap();
}

#[test]
fn a_bad_file_of_the_broker_keeps_it_from_starting() {
    let mut bed = Bed::new().unwrap();
    bed.init_broker().unwrap();
    let anchor = "without a copy the audit log stands for it";
    let mut wrong = Vec::new();
    let slot_file = bed.dir.join("etc/slot.key");
    for (word, file, named, passes) in [
        ("check-store", slot_file.clone(), "slot.key", None),
        (
            "serve",
            bed.store_dir().join("anchor.note"),
            "anchor.note",
            Some(("missing", anchor)),
        ),
    ] {
        let words = vec![word];
        wrong.extend(
            Row {
                file,
                words,
                named,
                passes,
            }
            .check(&bed, "attache-broker"),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Without its key file a broker waits for one, and says why.
    for (kind, put) in KINDS {
        let _back = Replaced::by(&slot_file, put);
        let log = bed.dir.join("log/broker.log");
        let _ = fs::remove_file(&log);
        bed.start_broker()
            .unwrap_or_else(|e| panic!("{kind}: {e:#}"));
        bed.broker.take().unwrap().stop().unwrap();
        let told = fs::read_to_string(&log).unwrap();
        assert!(told.contains("sealed: open it"), "{kind}: {told}");
        assert!(
            told.contains("slot.key") && !told.contains(CANARY),
            "{kind}: {told}"
        );
    }
    // What it can make again it makes again.
    for file in ["tls/broker.crt", "tls/broker.key", "trust-bundle.pem"] {
        for (kind, put) in KINDS {
            if kind == "a folder" {
                continue;
            }
            let file = bed.store_dir().join(file);
            let _ = fs::remove_file(&file);
            put(&file);
            bed.start_broker()
                .unwrap_or_else(|e| panic!("{} {kind}: {e:#}", file.display()));
            bed.broker.take().unwrap().stop().unwrap();
        }
    }
}

/// What a cluster's folder holds is read at each attestation: away is not denied, and no pipe is waited for.
#[test]
fn a_bad_record_of_a_cluster_releases_nothing() {
    let scene = Scene::start().unwrap();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.bed.cluster.add_pod(&pod).unwrap();
    let token = scene.bed.token(&pod).unwrap();
    let folder = &scene.bed.cluster.dir;
    let publish = || {
        scene
            .runtime
            .block_on(scene.kubelet.publish(&pod, AUDIENCE, &token))
    };
    for (file, absent) in [
        ("jwks.json", Code::Unavailable),
        ("nodes/node-a.json", Code::PermissionDenied),
        ("pods/shop/web-0.json", Code::PermissionDenied),
    ] {
        for (kind, put) in KINDS {
            let _back = Replaced::by(&folder.join(file), put);
            let code = if kind == "missing" {
                absent
            } else {
                Code::Unavailable
            };
            let status = publish().expect_err(file);
            assert_eq!(status.code(), code, "{file} {kind}: {status:?}");
            assert!(
                !status.message().contains(CANARY),
                "{file} {kind}: {status:?}"
            );
        }
    }
    assert!(
        attache_tests::mounts::below(&scene.bed.kubelet_dir())
            .unwrap()
            .is_empty()
    );
    let log = scene.logs();
    assert!(!log.contains(CANARY) && !log.contains("panicked"), "{log}");
    publish().unwrap();
    assert_eq!(scene.read(&pod, "db/password").unwrap(), PASSWORD);
}

#[test]
fn a_bad_join_token_file_joins_nothing_and_is_named() {
    let mut bed = Bed::signed_in().unwrap();
    bed.add_cluster().unwrap();
    bed.join_node(NODE.0).unwrap();
    let file = bed.dir.join("etc/join-token");
    let agent = rustix::fs::Uid::from_raw(attache_tests::bed::AGENT_UID);
    for (kind, put) in KINDS {
        let _back = Replaced::by(&file, put);
        if kind != "missing" {
            rustix::fs::chown(&file, Some(agent), None).unwrap();
        }
        let log = bed.dir.join("log/node-plugin.log");
        let _ = fs::remove_file(&log);
        let config = bed.plugin_config();
        let words = ["serve", "--config", config.to_str().unwrap()];
        let mut plugin = Process::start("attache-node-plugin", &words, &log).unwrap();
        let named = || {
            fs::read_to_string(&log)
                .ok()
                .filter(|said| said.contains("join-token"))
        };
        let said = plugin.wait_until("naming the file", named).unwrap();
        assert!(
            !said.contains(CANARY) && !said.contains("panicked"),
            "{kind}: {said}"
        );
        plugin.stop().unwrap();
    }
    assert!(
        !bed.attache_ok(&["node", "list"])
            .unwrap()
            .contains("node-a")
    );
    bed.start_plugin().unwrap();
}
