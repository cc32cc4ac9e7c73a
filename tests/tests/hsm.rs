//! A slot that an HSM opens: the broker, its KMS plugin `attache-kms-pkcs11`, and SoftHSM with a key that cannot leave it.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use attache_tests::{
    Bed,
    process::{PATIENCE, Process, bin, run, until},
};
use serde_json::Value as Json;

const PLUGIN: &str = "attache-kms-pkcs11";
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "canary-314159";
/// A sealed broker tries again once a minute at least.
const OPENS: Duration = Duration::from_secs(70);

/// A token in a folder, and a plugin's settings for it.
struct Hsm {
    conf: String,
    tokens: PathBuf,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl Hsm {
    fn new(dir: &Path) -> Self {
        let hsm = Self {
            conf: dir.join("softhsm2.conf").display().to_string(),
            tokens: dir.join("tokens"),
            config: dir.join("etc/kms-pkcs11.toml"),
            socket: dir.join("kms.sock"),
            log: dir.join("log/kms-pkcs11.log"),
        };
        fs::create_dir(&hsm.tokens).unwrap();
        let conf = format!("directories.tokendir = {}\n", hsm.tokens.display());
        fs::write(&hsm.conf, conf).unwrap();
        let init = Command::new("softhsm2-util")
            .env("SOFTHSM2_CONF", &hsm.conf)
            .args(["--init-token", "--free", "--label", "attache"])
            .args(["--so-pin", "12345678", "--pin", PIN])
            .output()
            .unwrap();
        assert!(init.status.success(), "{init:?}");
        let pin = dir.join("etc/pin");
        fs::write(&pin, format!("{PIN}\n")).unwrap();
        fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).unwrap();
        let settings = format!(
            "socket = \"{}\"\n\n[token]\nmodule = \"{MODULE}\"\nlabel = \"attache\"\npin_file = \"{}\"\n",
            hsm.socket.display(),
            pin.display()
        );
        fs::write(&hsm.config, settings).unwrap();
        hsm
    }

    fn does(&self, verb: &str) -> Output {
        let mut command = Command::new(bin(PLUGIN).unwrap());
        command.env("SOFTHSM2_CONF", &self.conf);
        run(command.args([verb, "--config"]).arg(&self.config)).unwrap()
    }

    fn serve(&self) -> Process {
        let words = ["serve", "--config", self.config.to_str().unwrap()];
        let environment = [("SOFTHSM2_CONF", self.conf.as_str())];
        let mut plugin = Process::start_with(PLUGIN, &words, &environment, &self.log).unwrap();
        plugin
            .wait_until("listening", || self.socket.exists().then_some(()))
            .unwrap();
        plugin
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

fn code(bed: &Bed, words: &[&str]) -> Option<i32> {
    bed.attache(words).unwrap().status.code()
}

/// Started while the token is pulled, it stays sealed and says why, however often it tries; with the token it opens by itself.
fn starts_sealed_without_its_token(bed: &mut Bed, hsm: &Hsm, pulled: &Path) {
    let sealed = ["broker", "status"];
    bed.broker.take().unwrap().stop().unwrap();
    fs::rename(&hsm.tokens, pulled).unwrap();
    let log = bed.dir.join("log/broker.log");
    fs::write(&log, "").unwrap();
    let tried = fs::read_to_string(&hsm.log).unwrap().lines().count();
    bed.start_broker().unwrap();
    assert_eq!(code(bed, &sealed), Some(8));
    let told = fs::read_to_string(&log).unwrap();
    for why in [
        "nothing that the settings name opens the store",
        "the KMS plugin",
        "the token does not work",
    ] {
        assert!(told.contains(why), "{why}: {told}");
    }
    until(PATIENCE, "it is tried again", || {
        let now = fs::read_to_string(&hsm.log).unwrap().lines().count();
        (now > tried + 1).then_some(())
    })
    .unwrap();
    assert_eq!(code(bed, &sealed), Some(8));
    let refused = ["secret", "show", "payments/db"];
    assert_ne!(code(bed, &refused), Some(0));
    fs::rename(pulled, &hsm.tokens).unwrap();
    until(OPENS, "it opens by itself", || {
        (code(bed, &sealed) == Some(0)).then_some(())
    })
    .unwrap();
    bed.attache_ok(&refused).unwrap();
}

#[test]
fn a_broker_opens_by_a_key_that_cannot_leave_its_hsm() {
    let mut bed = Bed::signed_in().unwrap();
    bed.pin_addresses().unwrap();
    bed.attache_ok(&["keyspace", "create", "payments"]).unwrap();
    let put = ["secret", "put", "payments/db", "--literal", "password=kept"];
    bed.attache_ok(&put).unwrap();
    let hsm = Hsm::new(&bed.dir);
    let none = hsm.does("check");
    assert!(
        !none.status.success() && said(&none).contains("create-key"),
        "{}",
        said(&none)
    );
    let made = hsm.does("create-key");
    assert!(
        made.status.success() && said(&made).starts_with("pkcs11:token=attache;serial="),
        "{}",
        said(&made)
    );
    assert!(hsm.does("check").status.success());
    assert!(!hsm.does("create-key").status.success());

    let plugin = hsm.serve();
    let mode = fs::metadata(&hsm.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = hsm.does("serve");
    assert!(
        !second.status.success() && said(&second).contains("another process"),
        "{}",
        said(&second)
    );

    let kms = format!("kms_socket = \"{}\"", hsm.socket.display());
    let key_file = bed.dir.join("etc/slot.key");
    bed.name_openers(&format!("slot_file = \"{}\"\n{kms}", key_file.display()))
        .unwrap();
    bed.restart_broker().unwrap();
    bed.attache_ok(&["slot", "add", "kms", "--name", "hsm"])
        .unwrap();
    bed.attache_ok(&["slot", "verify", "hsm"]).unwrap();
    bed.attache_ok(&["slot", "remove", "key-file", "--yes"])
        .unwrap();
    bed.attache_ok(&["key", "rotate", "--root"]).unwrap();
    fs::remove_file(key_file).unwrap();
    bed.name_openers(&kms).unwrap();
    bed.restart_broker().unwrap();
    let slots = bed.attache_json(&["slot", "list"]).unwrap();
    assert_eq!(slots["slots"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&slots["slots"][0]["name"], &slots["slots"][0]["opened"]),
        (&Json::from("hsm"), &Json::from(true))
    );
    bed.check_store().unwrap();

    // The token is pulled: what runs goes on, the slot's verbs say so, and it is there again without a restart.
    let pulled = bed.dir.join("pulled");
    fs::rename(&hsm.tokens, &pulled).unwrap();
    let verify = ["slot", "verify", "hsm"];
    assert_eq!(code(&bed, &verify), Some(4));
    bed.attache_ok(&put).unwrap();
    fs::rename(&pulled, &hsm.tokens).unwrap();
    until(PATIENCE, "the token is there again", || {
        (code(&bed, &verify) == Some(0)).then_some(())
    })
    .unwrap();

    starts_sealed_without_its_token(&mut bed, &hsm, &pulled);

    // Another token's key opens nothing of this one's.
    plugin.stop().unwrap();
    assert!(!hsm.socket.exists());
    fs::rename(&hsm.tokens, &pulled).unwrap();
    fs::remove_file(&hsm.conf).unwrap();
    fs::remove_file(&hsm.config).unwrap();
    let other = Hsm::new(&bed.dir);
    assert!(other.does("create-key").status.success());
    let _plugin = other.serve();
    assert_eq!(code(&bed, &verify), Some(5));

    for log in ["kms-pkcs11.log", "broker.log"] {
        let log = fs::read_to_string(bed.dir.join("log").join(log)).unwrap();
        assert!(!log.contains(PIN) && !log.contains("panicked"), "{log}");
    }
}
