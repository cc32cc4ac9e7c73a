//! A sign-in from its key to its certificate, with a CA in the broker's place.

use super::*;
use crate::args::{Format, Global};
use crate::environment::Environment;
use crate::output::Console;
use crate::renewal::tests::{Authority, BROKER};
use tempfile::TempDir;

struct Desk {
    folder: TempDir,
    authority: Authority,
}

impl Desk {
    fn new() -> Self {
        let desk = Self {
            folder: tempfile::tempdir().unwrap(),
            authority: Authority::new(),
        };
        std::fs::write(desk.path("bundle.pem"), desk.authority.bundle().to_pem()).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn shell(&self, context: Option<&str>) -> Shell {
        Shell {
            environment: Environment {
                config: Some(self.path("cli/config.toml").into()),
                ..Environment::default()
            },
            global: Global {
                context: context.map(str::to_owned),
                output: Format::Table,
                no_color: true,
                quiet: true,
            },
            console: Console {
                format: Format::Table,
                quiet: true,
                color: false,
                wide: None,
            },
        }
    }

    fn begin(&self, operator: &str, csr: &str, context: Option<&str>) -> Result<Report, Failure> {
        let new = New {
            enroll: None,
            operator: operator.into(),
            address: Some("127.0.0.1:1".into()),
            broker: Some(BROKER.parse().unwrap()),
            trust_bundle: Some(self.path("bundle.pem")),
            csr: self.path(csr),
        };
        begin(new, &self.shell(context))
    }

    /// What `attache-broker bootstrap operator` does with the request.
    fn sign(&self, csr: &str, id: &str) -> PathBuf {
        let text = std::fs::read_to_string(self.path(csr)).unwrap();
        let chain = self.path(&format!("{csr}.chain.pem"));
        std::fs::write(&chain, self.authority.sign_pem(&text, id)).unwrap();
        chain
    }

    fn finish(&self, chain: &Path, context: Option<&str>) -> Result<Report, Failure> {
        finish(chain, &self.shell(context))
    }
}

#[test]
fn a_sign_in_gives_a_context_that_works_and_keeps_its_files_private() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    let report = desk.begin("ada", "ada.csr", None).unwrap();
    assert_eq!(report.names, ["default"]);
    let chain = desk.sign("ada.csr", "spiffe://attache.test/operator/ada");
    let report = desk.finish(&chain, None).unwrap();
    assert_eq!(
        report.data["operator"],
        "spiffe://attache.test/operator/ada"
    );
    let settings = desk.shell(None).settings().unwrap();
    assert_eq!(settings.current.as_deref(), Some("default"));
    let (name, context) = settings.pick(None).unwrap();
    assert!(context.renew_until.unwrap() > Timestamp::now());
    renewal::load(&settings, name, context).unwrap();
    for file in ["default.key", "default.crt", "config.toml"] {
        let mode = std::fs::metadata(desk.path("cli").join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let desk = Desk::new();
    std::fs::write(desk.path("taken"), "precious").unwrap();
    assert_eq!(
        desk.begin("ada", "taken", None).unwrap_err().exit,
        Exit::Precondition
    );
    assert_eq!(
        std::fs::read_to_string(desk.path("taken")).unwrap(),
        "precious"
    );
    assert!(desk.shell(None).settings().unwrap().contexts.is_empty());

    desk.begin("ada", "1.csr", None).unwrap();
    // A sign-in that waits may begin anew.
    desk.begin("ada", "2.csr", None).unwrap();
    let stale = desk.sign("1.csr", "spiffe://attache.test/operator/ada");
    assert!(
        desk.finish(&stale, None)
            .unwrap_err()
            .to_string()
            .contains("does not belong")
    );
    desk.finish(
        &desk.sign("2.csr", "spiffe://attache.test/operator/ada"),
        None,
    )
    .unwrap();
    // The context has a certificate now: the next sign-in gets a name of its own, and a named one is refused.
    assert_eq!(desk.begin("eve", "3.csr", None).unwrap().names, ["eve"]);
    assert_eq!(
        desk.begin("eve", "4.csr", Some("default"))
            .unwrap_err()
            .exit,
        Exit::Precondition
    );
    desk.finish(
        &desk.sign("3.csr", "spiffe://attache.test/operator/eve"),
        None,
    )
    .unwrap();
    assert_eq!(
        desk.begin("eve", "5.csr", None).unwrap_err().exit,
        Exit::Precondition
    );
    assert_eq!(
        desk.shell(None).settings().unwrap().current.as_deref(),
        Some("default")
    );
}

#[test]
fn an_operator_whose_sign_in_is_over_signs_in_again_without_naming_the_broker_again() {
    let desk = Desk::new();
    desk.begin("ada", "1.csr", None).unwrap();
    let chain = desk.sign("1.csr", "spiffe://attache.test/operator/ada");
    desk.finish(&chain, None).unwrap();
    let again = |operator: &str, csr: &str| {
        let new = New {
            enroll: None,
            operator: operator.into(),
            address: None,
            broker: None,
            trust_bundle: None,
            csr: desk.path(csr),
        };
        begin(new, &desk.shell(Some("default")))
    };
    assert_eq!(again("ada", "2.csr").unwrap_err().exit, Exit::Precondition);
    let mut settings = desk.shell(None).settings().unwrap();
    let context = settings.contexts.get_mut("default").unwrap();
    context.renew_until = Some(Timestamp::UNIX_EPOCH);
    settings.write().unwrap();
    assert_eq!(again("eve", "3.csr").unwrap_err().exit, Exit::Precondition);
    let Human::Lines(told) = again("ada", "4.csr").unwrap().human else {
        panic!("lines");
    };
    let told = told.join(" ");
    assert!(
        told.contains("--recover") && told.contains("stopped"),
        "{told}"
    );
    assert!(!desk.path("cli/default.crt").exists());
    let chain = desk.sign("4.csr", "spiffe://attache.test/operator/ada");
    desk.finish(&chain, None).unwrap();
    let settings = desk.shell(None).settings().unwrap();
    let (_, context) = settings.pick(None).unwrap();
    assert_eq!(context.address, "127.0.0.1:1");
    assert!(context.renew_until.unwrap() > Timestamp::now());
}

#[test]
fn a_first_sign_in_names_its_broker() {
    let desk = Desk::new();
    let new = New {
        enroll: None,
        operator: "ada".into(),
        address: Some("127.0.0.1:1".into()),
        broker: None,
        trust_bundle: Some(desk.path("bundle.pem")),
        csr: desk.path("ada.csr"),
    };
    let refused = begin(new, &desk.shell(None)).unwrap_err();
    assert_eq!(refused.exit, Exit::Usage);
    assert!(refused.to_string().contains("--broker-id"), "{refused}");
    assert!(!desk.path("ada.csr").exists() && !desk.path("cli").exists());
}

#[test]
fn only_the_certificate_that_was_asked_for_is_taken() {
    let desk = Desk::new();
    desk.begin("ada", "ada.csr", None).unwrap();
    for other in [
        "spiffe://attache.test/operator/eve",
        "spiffe://attache.test/node/local/uid",
        "spiffe://attache.test/broker/broker-0",
    ] {
        let refused = desk.finish(&desk.sign("ada.csr", other), None).unwrap_err();
        assert_eq!(refused.exit, Exit::Failed, "{refused}");
    }
    let stranger = Authority::new();
    let text = std::fs::read_to_string(desk.path("ada.csr")).unwrap();
    let chain = desk.path("stranger.pem");
    std::fs::write(
        &chain,
        stranger.sign_pem(&text, "spiffe://attache.test/operator/ada"),
    )
    .unwrap();
    assert_eq!(desk.finish(&chain, None).unwrap_err().exit, Exit::Failed);
    for junk in [
        "",
        "junk",
        "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n",
    ] {
        std::fs::write(&chain, junk).unwrap();
        assert_eq!(desk.finish(&chain, None).unwrap_err().exit, Exit::Failed);
    }
    assert_eq!(
        desk.finish(&desk.path("absent"), None).unwrap_err().exit,
        Exit::Failed
    );
    assert!(!desk.path("cli/default.crt").exists());
}

#[test]
fn finishing_needs_one_context_that_waits() {
    let desk = Desk::new();
    let chain = desk.path("bundle.pem");
    assert_eq!(
        desk.finish(&chain, None).unwrap_err().exit,
        Exit::Precondition
    );
    desk.begin("ada", "1.csr", Some("one")).unwrap();
    desk.begin("ada", "2.csr", Some("two")).unwrap();
    assert_eq!(desk.finish(&chain, None).unwrap_err().exit, Exit::Usage);
    assert_eq!(
        desk.finish(&chain, Some("three")).unwrap_err().exit,
        Exit::Precondition
    );
    let signed = desk.sign("2.csr", "spiffe://attache.test/operator/ada");
    desk.finish(&signed, Some("two")).unwrap();
}

#[test]
fn a_bad_bundle_begins_nothing() {
    let desk = Desk::new();
    for junk in ["", "junk"] {
        std::fs::write(desk.path("bundle.pem"), junk).unwrap();
        assert_eq!(
            desk.begin("ada", "ada.csr", None).unwrap_err().exit,
            Exit::Failed
        );
    }
    assert!(!desk.path("ada.csr").exists() && !desk.path("cli").exists());
}
