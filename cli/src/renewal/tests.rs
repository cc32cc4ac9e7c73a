//! A pair of files through every step at which a renewal may be cut short.

use std::time::Duration;

use attache_mtls::ca::CertificateAuthority;
use attache_mtls::ca::CertificateRequest;

use jiff::SignedDuration;

use super::*;
use crate::args::Format;

pub(crate) const BROKER: &str = "spiffe://attache.test/broker/broker-0";
const ADA: &str = "spiffe://attache.test/operator/ada";
const SEED: [u8; 32] = [9; 32];

/// A CA as the broker has one.
pub(crate) struct Authority {
    ca: CertificateAuthority,
    seed: [u8; 32],
}

impl Authority {
    /// A CA with a key of its own.
    pub(crate) fn new() -> Self {
        let mut seed = SEED;
        seed[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        let domain = "attache.test".parse().unwrap();
        let ca = CertificateAuthority::create(
            &seed,
            &domain,
            "test",
            Duration::from_secs(86_400),
            Timestamp::now(),
        )
        .unwrap();
        Self { ca, seed }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_der(vec![self.ca.certificate().clone()]).unwrap()
    }

    /// Signs for an ID a certificate that began `age` ago and lives an hour.
    fn sign(&self, csr: &[u8], id: &str, age: i64) -> String {
        let request = CertificateRequest::verify(csr).unwrap();
        let now = Timestamp::now()
            .checked_sub(SignedDuration::from_secs(age))
            .unwrap();
        // The CA is as old as it must be.
        let domain = "attache.test".parse().unwrap();
        let ca = CertificateAuthority::create(
            &self.seed,
            &domain,
            "test",
            Duration::from_secs(86_400),
            now,
        )
        .unwrap();
        ca.issue(
            &self.seed,
            &request,
            &id.parse().unwrap(),
            Duration::from_secs(3600),
            now,
        )
        .unwrap()
        .chain_pem()
    }

    /// Signs a request in PEM.
    pub(crate) fn sign_pem(&self, csr: &str, id: &str) -> String {
        let body: String = csr
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let der = pem::certificates(pem.as_bytes()).unwrap().remove(0);
        self.sign(&der, id, 0)
    }
}

struct Desk {
    folder: tempfile::TempDir,
    authority: Authority,
    settings: Settings,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            file: folder.path().join("config.toml"),
            current: None,
            contexts: Default::default(),
        };
        let desk = Self {
            folder,
            authority: Authority::new(),
            settings,
        };
        fs::write(desk.path("bundle.pem"), desk.authority.bundle().to_pem()).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn context(&self) -> Context {
        Context {
            address: "127.0.0.1:1".into(),
            broker: BROKER.parse().unwrap(),
            enroll: None,
            operator: Some("ada".into()),
            trust_bundle: "bundle.pem".into(),
            certificate: "ada.crt".into(),
            key: "ada.key".into(),
            renew_until: None,
        }
    }

    /// Writes a new key and a certificate for it.
    fn pair(&self, key_file: &str, certificate_file: &str, id: &str, age: i64) -> LeafKey {
        let key = LeafKey::generate().unwrap();
        key.write(&self.path(key_file)).unwrap();
        let chain = self
            .authority
            .sign(&key.certificate_request().unwrap(), id, age);
        fs::write(self.path(certificate_file), chain).unwrap();
        key
    }

    fn load(&self) -> Result<Identity, Failure> {
        load(&self.settings, "ada", &self.context())
    }

    fn loaded_key(&self) -> attache_mtls::identity::SpkiSha256 {
        self.load()
            .unwrap()
            .credentials
            .current()
            .identity()
            .spki_sha256()
    }
}

const QUIET: Console = Console {
    format: Format::Table,
    quiet: true,
    color: false,
    wide: None,
};

#[test]
fn a_pair_loads_and_says_when_it_is_due() {
    let desk = Desk::new();
    assert_eq!(desk.load().unwrap_err().exit, Exit::NotSignedIn);
    desk.pair("ada.key", "ada.crt", ADA, 0);
    assert_eq!(
        desk.load().unwrap().due(&desk.context(), &QUIET).unwrap(),
        Due::Nothing
    );
    desk.pair("ada.key", "ada.crt", ADA, 2000);
    assert_eq!(
        desk.load().unwrap().due(&desk.context(), &QUIET).unwrap(),
        Due::Renew
    );
    let over = Context {
        renew_until: Some(Timestamp::UNIX_EPOCH),
        ..desk.context()
    };
    assert_eq!(
        desk.load().unwrap().due(&over, &QUIET).unwrap(),
        Due::Nothing,
        "seven days are over"
    );
    desk.pair("ada.key", "ada.crt", ADA, 4000);
    let ended = desk
        .load()
        .unwrap()
        .due(&desk.context(), &QUIET)
        .unwrap_err();
    assert_eq!(ended.exit, Exit::NotSignedIn);
    assert!(ended.to_string().contains("attache login"), "{ended}");
}

#[test]
fn a_renewal_cut_short_is_completed_at_the_next_start() {
    // Answered, nothing moved.
    let desk = Desk::new();
    desk.pair("ada.key", "ada.crt", ADA, 0);
    let new = desk.pair("ada.key.next", "ada.crt.next", ADA, 0);
    assert_eq!(desk.loaded_key(), new.spki_sha256());
    assert!(!desk.path("ada.key.next").exists() && !desk.path("ada.crt.next").exists());

    // Answered, the key moved.
    let desk = Desk::new();
    desk.pair("ada.key", "ada.crt", ADA, 0);
    let new = desk.pair("ada.key", "ada.crt.next", ADA, 0);
    assert_eq!(desk.loaded_key(), new.spki_sha256());
    assert!(!desk.path("ada.crt.next").exists());

    // Not answered: the old pair is in use, and the next key is kept for the next request.
    let desk = Desk::new();
    let old = desk.pair("ada.key", "ada.crt", ADA, 0);
    let next = LeafKey::generate().unwrap();
    next.write(&desk.path("ada.key.next")).unwrap();
    assert_eq!(desk.loaded_key(), old.spki_sha256());
    let files = Files::of(&desk.settings, &desk.context());
    assert_eq!(next_key(&files).unwrap().spki_sha256(), next.spki_sha256());

    // A certificate for a key that is gone.
    desk.pair("elsewhere.key", "ada.crt.next", ADA, 0);
    assert_eq!(desk.loaded_key(), old.spki_sha256());
    assert!(!desk.path("ada.crt.next").exists());
}

/// What is not known to be a leftover stays: the renewal is answered, and its key may be readable again.
#[test]
fn a_key_that_cannot_be_read_costs_no_renewed_certificate() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    desk.pair("ada.key", "ada.crt", ADA, 0);
    let new = desk.pair("ada.key.next", "ada.crt.next", ADA, 0);
    let mode = |bits| {
        let bits = fs::Permissions::from_mode(bits);
        fs::set_permissions(desk.path("ada.key.next"), bits).unwrap();
    };
    mode(0o644);
    let refused = desk.load().unwrap_err();
    assert!(refused.to_string().contains("chmod 600"), "{refused}");
    let files = Files::of(&desk.settings, &desk.context());
    assert!(next_key(&files).is_err(), "and no other takes its place");
    mode(0o600);
    assert_eq!(desk.loaded_key(), new.spki_sha256());
}

#[test]
fn a_pair_that_does_not_belong_together_or_to_us_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    desk.pair("ada.key", "ada.crt", ADA, 0);
    LeafKey::generate()
        .unwrap()
        .write(&desk.path("ada.key"))
        .unwrap();
    assert!(
        desk.load()
            .unwrap_err()
            .to_string()
            .contains("do not belong together")
    );

    for id in [
        "spiffe://attache.test/operator/eve",
        "spiffe://attache.test/node/local/uid",
    ] {
        desk.pair("ada.key", "ada.crt", id, 0);
        assert!(desk.load().unwrap_err().to_string().contains(id));
    }

    desk.pair("ada.key", "ada.crt", ADA, 0);
    fs::set_permissions(desk.path("ada.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let open = desk.load().unwrap_err();
    assert_eq!(open.exit, Exit::Failed);
    assert!(open.to_string().contains("chmod 600"), "{open}");
}

#[test]
fn what_a_broker_issues_must_fit() {
    let desk = Desk::new();
    desk.pair("ada.key", "ada.crt", ADA, 0);
    let identity = desk.load().unwrap();
    let key = LeafKey::generate().unwrap();
    let issued = |authority: &Authority, key: &LeafKey, id: &str| {
        let chain = authority.sign(&key.certificate_request().unwrap(), id, 0);
        pb::IssuedCertificate {
            chain: pem::certificates(chain.as_bytes())
                .unwrap()
                .iter()
                .map(|der| der.to_vec())
                .collect(),
            trust_bundle: authority
                .bundle()
                .certificates()
                .map(|der| der.to_vec())
                .collect(),
            ..pb::IssuedCertificate::default()
        }
    };
    check_issued(&issued(&desk.authority, &key, ADA), &key, &identity).unwrap();
    let eve = issued(&desk.authority, &key, "spiffe://attache.test/operator/eve");
    assert!(
        check_issued(&eve, &key, &identity)
            .unwrap_err()
            .contains("eve")
    );
    let other_key = issued(&desk.authority, &LeafKey::generate().unwrap(), ADA);
    assert!(
        check_issued(&other_key, &key, &identity)
            .unwrap_err()
            .contains("another key")
    );
    let mut mixed = issued(&Authority::new(), &key, ADA);
    mixed.trust_bundle = desk
        .authority
        .bundle()
        .certificates()
        .map(|der| der.to_vec())
        .collect();
    assert!(check_issued(&mixed, &key, &identity).is_err());
    assert!(check_issued(&pb::IssuedCertificate::default(), &key, &identity).is_err());
}

#[test]
fn one_process_renews_at_a_time() {
    let desk = Desk::new();
    let files = Files::of(&desk.settings, &desk.context());
    let held = files.lock(false).unwrap();
    assert!(held.is_some());
    assert!(files.lock(false).unwrap().is_none());
    drop(held);
    assert!(files.lock(false).unwrap().is_some());
}
