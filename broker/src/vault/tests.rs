//! The vault over a real store, with puts sealed as a client seals them.

mod check;
mod destroy_keyspace;
mod destroy_secret;
mod keys;
mod moving;
mod prune;
mod puts;
mod reads;
mod rotation;

use attache_envelope::SystemRandom;
use attache_envelope::body::KeyPolicy;
use attache_envelope::channel::Channel;
use attache_envelope::id::{BootId, ChainId, RequestId, ValueId};
use attache_envelope::key::Dek;
use attache_envelope::name::FieldName;
use attache_envelope::value::{DataKey, UsedDataKey};

use super::put::{BeginPut, PreparedPut, PutRequest, PutValue};
use super::*;
use crate::audit::{AuditLog, Clock, LogOptions};
use crate::store::BrokerLedger;
use crate::store::fixture::Fixture;
use attache_envelope::id::SecretId;
use attache_envelope::name::{SecretPath, SecretVersion};
use attache_envelope::put::{CommitPut, FLAG_REPLACE, PutField, PutParts};
use attache_envelope::value::{CtHash, ValueBinding};
use attache_mtls::spiffe::OperatorId;
use bytes::Bytes;
use tempfile::TempDir;

pub(crate) const NOW: u64 = 1_800_000_000_000;

/// A keyspace that keeps all versions, and demands nothing of its keys.
const KEEPS_ALL: KeyspaceSettings = KeyspaceSettings {
    max_versions: 0,
    policy: KeyPolicy {
        max_age_s: 0,
        max_wraps: 0,
        automatic: true,
        backup_age_s: 0,
    },
};

fn path(text: &str) -> SecretPath {
    text.parse().unwrap()
}

fn field(text: &str) -> FieldName {
    text.parse().unwrap()
}

fn version(number: u64) -> SecretVersion {
    SecretVersion::new(number).unwrap()
}

fn operator() -> OperatorId {
    "spiffe://example.internal/operator/ada".parse().unwrap()
}

pub(crate) fn broker() -> BrokerId {
    "spiffe://example.internal/broker/broker-0".parse().unwrap()
}

/// A store with the keyspace `payments`, and a vault over it.
pub(crate) struct Bench {
    pub(crate) fixture: Fixture,
    pub(crate) vault: Arc<BrokerVault>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let fixture = Fixture::new().await;
        let vault = Arc::new(open_vault(&fixture).await);
        let bench = Self { fixture, vault };
        bench.keyspace("payments").await;
        bench
    }

    /// A new audit log of its store, in a folder that goes with what else is answered.
    pub(crate) fn log(&self) -> (AuditLog, TempDir) {
        self.log_by(Clock::system())
    }

    /// The same, by a clock of the test.
    pub(crate) fn log_by(&self, clock: Clock) -> (AuditLog, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions {
            dir: dir.path().join("audit"),
            store: self.vault.store_id(),
            chain: ChainId::from_bytes([2; 16]),
            boot: self.vault.boot(),
            anchored: None,
            segment_bytes: 1024 * 1024,
            clock,
        };
        let (log, _) = AuditLog::open(options, Arc::clone(self.vault.keys())).unwrap();
        (log, dir)
    }

    pub(crate) async fn keyspace(&self, name: &str) {
        let name = name.parse().unwrap();
        let change = self
            .vault
            .prepare_keyspace(&name, KEEPS_ALL, &operator(), NOW)
            .await;
        self.ledger().apply(change.unwrap()).await.unwrap();
    }

    pub(crate) fn ledger(&self) -> &BrokerLedger {
        self.vault.ledger()
    }

    /// Puts and commits.
    pub(crate) async fn put(&self, to: &str, fields: &[(&str, &str)]) -> SecretVersion {
        let request = self.client(to, fields).await.seal();
        self.commit(request).await.unwrap()
    }

    /// Wraps the values of a put that is then left.
    pub(crate) async fn put_is_prepared(&self, to: &str, fields: &[(&str, &str)]) {
        let request = self.client(to, fields).await.seal();
        let _left = self.prepare(request).await.unwrap();
    }

    async fn commit(&self, request: PutRequest) -> Result<SecretVersion, VaultError> {
        let prepared = self.prepare(request).await?;
        self.ledger().apply(prepared.change).await.unwrap();
        Ok(prepared.version)
    }

    async fn prepare(&self, request: PutRequest) -> Result<PreparedPut, VaultError> {
        let checked = self.vault.check_put(request).await?;
        self.vault.prepare_put(checked, NOW).await
    }

    /// A client that has begun a put of these fields, and carries the others.
    async fn client(&self, to: &str, fields: &[(&str, &str)]) -> Client {
        let begun = self.vault.begin_put(&path(to)).await.unwrap();
        let sent: Vec<_> = fields.iter().map(|(name, _)| field(name)).collect();
        let carried = begun.fields.iter().filter(|it| !sent.contains(it));
        Client {
            to: path(to),
            secret: begun
                .secret
                .unwrap_or(SecretId::random(&SystemRandom).unwrap()),
            carried: carried.cloned().collect(),
            expected: begun.head_version,
            flags: 0,
            values: fields
                .iter()
                .map(|(name, bytes)| {
                    let value = ValueId::random(&SystemRandom).unwrap();
                    (field(name), value, bytes.as_bytes().to_vec())
                })
                .collect(),
            begun,
        }
    }

    /// Closes the store; [`Fixture::tamper`] may have it then.
    pub(crate) async fn close(self) -> Fixture {
        self.ledger().close().await;
        self.fixture
    }

    pub(crate) async fn reopen(fixture: Fixture) -> Self {
        let vault = Arc::new(open_vault(&fixture).await);
        Self { fixture, vault }
    }
}

async fn open_vault(fixture: &Fixture) -> BrokerVault {
    let (ledger, keys) = fixture.open().await;
    let boot = BootId::random(&SystemRandom).unwrap();
    Vault::new(ledger, keys, broker(), boot).unwrap()
}

/// What the CLI does between BeginPut and CommitPut; a test changes a part before it is sealed.
struct Client {
    begun: BeginPut,
    to: SecretPath,
    secret: SecretId,
    expected: u64,
    flags: u32,
    values: Vec<(FieldName, ValueId, Vec<u8>)>,
    carried: Vec<FieldName>,
}

impl Client {
    fn replacing(mut self) -> Self {
        self.flags = FLAG_REPLACE;
        self.carried.clear();
        self
    }

    fn seal(self) -> PutRequest {
        let sealed: Vec<_> = self
            .values
            .iter()
            .map(|(field, value, bytes)| {
                let binding = ValueBinding {
                    store: self.begun.store,
                    keyspace: &self.to.keyspace,
                    secret: self.secret,
                    value: *value,
                    field,
                };
                let key = DataKey::random(&SystemRandom).unwrap();
                key.seal(bytes, &binding).unwrap()
            })
            .collect();
        self.seal_keys(sealed)
    }

    fn seal_keys(self, sealed: Vec<(Vec<u8>, UsedDataKey)>) -> PutRequest {
        let request = RequestId::new(NOW, &SystemRandom).unwrap();
        let mut fields: Vec<_> = self
            .values
            .iter()
            .zip(&sealed)
            .map(|((field, value, _), (ct, key))| {
                let ct_hash = CtHash::of(ct);
                let put = PutField {
                    field: field.clone(),
                    value: *value,
                    ct_hash,
                };
                (put, key)
            })
            .collect();
        fields.sort_by(|(a, _), (b, _)| a.field.cmp(&b.field));
        let deks: Vec<Dek<'_>> = fields.iter().map(|(_, key)| key.dek()).collect();
        let commit = CommitPut::new(PutParts {
            store: self.begun.store,
            request,
            path: self.to.clone(),
            secret: self.secret,
            expected_head_version: self.expected,
            flags: self.flags,
            note: "why not".into(),
            fields: fields.iter().map(|(put, _)| put.clone()).collect(),
            carried: self.carried.clone(),
        })
        .unwrap();
        let (broker, operator) = (broker().to_string(), operator().to_string());
        let channel = Channel {
            store: self.begun.store,
            broker_id: &broker,
            boot: self.begun.boot,
            key_id: self.begun.key_id,
            operator_id: &operator,
        };
        let (enc, sealed_keys) = commit
            .seal_keys(&SystemRandom, &self.begun.receive_key, &channel, &deks)
            .unwrap();
        let values = self.values.into_iter().zip(sealed);
        PutRequest {
            operator: operator.parse().unwrap(),
            request,
            path: self.to,
            secret: self.secret,
            expected_head_version: self.expected,
            flags: self.flags,
            note: "why not".into(),
            values: values
                .map(|((field, value, _), (ct, _))| PutValue {
                    field,
                    value,
                    ct: Bytes::from(ct),
                })
                .collect(),
            carried: self.carried,
            boot: self.begun.boot,
            key_id: self.begun.key_id,
            enc,
            sealed_keys: sealed_keys.into(),
        }
    }
}

/// What a release of these fields would let its node read.
pub(crate) async fn opened(
    vault: &BrokerVault,
    of: &str,
    at: Option<SecretVersion>,
) -> Vec<(String, String)> {
    let found = vault.load(&path(of), at, None).await.unwrap();
    let Lookup::Found(stored) = found else {
        panic!("{found:?}")
    };
    let deks = vault.open_deks(&stored).await.unwrap();
    let mut values = Vec::new();
    for (it, dek) in stored.fields.iter().zip(deks) {
        assert_eq!(it.ct_hash, CtHash::of(&it.payload));
        let binding = ValueBinding {
            store: vault.store_id(),
            keyspace: &stored.path.keyspace,
            secret: stored.secret,
            value: it.value,
            field: &it.field,
        };
        let mut out = vec![0; it.payload.len() - 16];
        let dek = Dek::new(dek.expose());
        dek.open(&it.payload, &binding, &mut out).unwrap();
        values.push((it.field.to_string(), String::from_utf8(out).unwrap()));
    }
    values
}

pub(crate) fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect()
}
