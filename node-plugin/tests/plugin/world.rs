//! What the broker of a test holds, and how it releases it: sealed by the product's own constructions, truly or not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use attache_envelope::SystemRandom;
use attache_envelope::generation::{GenerationDigest, GenerationFile, Owner};
use attache_envelope::id::{BootId, Nonce, ReleaseId, SecretId, SessionId, StoreId, ValueId};
use attache_envelope::name::{FieldName, SecretPath, SecretVersion};
use attache_envelope::release::{GrantedValue, ReleaseBinding, Session, SessionBinding};
use attache_envelope::value::{CtHash, DataKey, UsedDataKey, ValueBinding};
use attache_envelope::x25519::PublicKey;
use attache_proto::attache::v1 as pb;
use tonic::Status;

use crate::broker::{CLUSTER, broker_id, node_id};

const STORE: [u8; 16] = [1; 16];
const BOOT: [u8; 16] = [2; 16];

/// What a delivery is to be answered.
#[derive(Clone)]
pub(crate) enum Say {
    /// What is held, or a release of these fields.
    Truth,
    /// This status.
    Refuse(Status),
    /// A release with something bent.
    Bend(fn(&mut pb::Released)),
    /// A release that was sealed for something else.
    Missealed(fn(&mut Sealing)),
    /// `unchanged`, whatever is held.
    Unchanged,
    /// Nothing, until the gate opens.
    Wait,
}

/// What a release is sealed to.
#[derive(Clone)]
pub(crate) struct Sealing {
    pub(crate) nonce: Nonce,
    pub(crate) release: ReleaseId,
    pub(crate) leaf_hash: [u8; 32],
    pub(crate) pod: String,
    pub(crate) container: String,
    pub(crate) volume: String,
    pub(crate) node_id: String,
}

/// What the broker of a test holds and has seen.
pub(crate) struct World {
    pub(crate) say: Say,
    pub(crate) seq: u64,
    /// `db/FIELD` -> value id and value.
    pub(crate) fields: BTreeMap<String, ([u8; 16], Vec<u8>)>,
    pub(crate) missing: Vec<String>,
    pub(crate) owner: (u32, Option<u32>),
    /// The folder of a field's file.
    pub(crate) folder: fn(&str) -> String,
    pub(crate) validity: Duration,
    /// Serial numbers that called, in order, of each RPC.
    pub(crate) delivered_to: Vec<String>,
    pub(crate) tokens: Vec<String>,
    pub(crate) joins: usize,
    pub(crate) renewals: Vec<[u8; 32]>,
    /// How many renewals are recorded and answered with a failure.
    pub(crate) lose_renewals: usize,
    pub(crate) late: usize,
    /// What late renewals are refused with.
    pub(crate) refuse_late: Option<Status>,
    pub(crate) releases: usize,
    pub(crate) unchanged: usize,
    sessions: Vec<PluginSession>,
}

/// A session, by the plugin key and the node that it was set up for.
struct PluginSession {
    name: Vec<u8>,
    id: SessionId,
    enc: Vec<u8>,
    keys: Arc<Session>,
}

/// A field's value, sealed.
pub(crate) struct SealedValue {
    path: String,
    granted: GrantedValue,
    ct: Vec<u8>,
    key: UsedDataKey,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            say: Say::Truth,
            seq: 1,
            fields: BTreeMap::new(),
            missing: Vec::new(),
            owner: (1000, Some(1000)),
            folder: |_| "db".to_owned(),
            validity: Duration::from_secs(3600),
            delivered_to: Vec::new(),
            tokens: Vec::new(),
            joins: 0,
            renewals: Vec::new(),
            lose_renewals: 0,
            late: 0,
            refuse_late: None,
            releases: 0,
            unchanged: 0,
            sessions: Vec::new(),
        }
    }

    fn owner(&self) -> Owner {
        let (uid, gid) = self.owner;
        Owner { uid, gid }
    }

    pub(crate) fn sealed_values(&self) -> Vec<SealedValue> {
        let path: SecretPath = "payments/db".parse().unwrap();
        let secret = SecretId::from_bytes([3; 16]);
        let seal = |(name, (id, value)): (&String, &([u8; 16], Vec<u8>))| {
            let field: FieldName = name.parse().unwrap();
            let binding = ValueBinding {
                store: StoreId::from_bytes(STORE),
                keyspace: &path.keyspace,
                secret,
                value: ValueId::from_bytes(*id),
                field: &field,
            };
            let drawn = DataKey::random(&SystemRandom).unwrap();
            let (ct, key) = drawn.seal(value, &binding).unwrap();
            let granted = GrantedValue {
                path: path.clone(),
                secret,
                version: SecretVersion::new(2).unwrap(),
                value: ValueId::from_bytes(*id),
                ct_hash: CtHash::of(&ct),
                field,
            };
            let path = format!("{}/{name}", (self.folder)(name));
            SealedValue {
                path,
                granted,
                ct,
                key,
            }
        };
        self.fields.iter().map(seal).collect()
    }

    pub(crate) fn generation(&self, values: &[SealedValue]) -> pb::Generation {
        let file = |value: &SealedValue| (value.path.clone(), value.granted.value);
        let files: Vec<_> = values.iter().map(file).collect();
        let set: Vec<GenerationFile<'_>> = files
            .iter()
            .map(|(path, value)| GenerationFile {
                path,
                mode: 0o400,
                owner: self.owner(),
                value: *value,
            })
            .collect();
        let digest = GenerationDigest::of(&set).unwrap();
        let digest = digest.as_bytes().to_vec();
        pb::Generation {
            incarnation: 1,
            seq: self.seq,
            digest,
        }
    }

    pub(crate) fn release(
        &mut self,
        request: &pb::DeliverRequest,
        generation: pb::Generation,
        values: Vec<SealedValue>,
        misseal: impl Fn(&mut Sealing),
    ) -> pb::Released {
        let container = request.attributes["container"].clone();
        let told = Sealing {
            nonce: request.nonce.as_slice().try_into().unwrap(),
            release: ReleaseId::random(&SystemRandom).unwrap(),
            leaf_hash: [5; 32],
            pod: request.pod_uid.clone(),
            container: container.clone(),
            volume: request.volume_id.clone(),
            node_id: node_id().to_string(),
        };
        let mut sealing = told.clone();
        misseal(&mut sealing);
        let (session, enc, keys) = self.session(&request.plugin_key, &sealing.node_id);
        let granted: Vec<_> = values.iter().map(|value| value.granted.clone()).collect();
        let binding = ReleaseBinding {
            store: StoreId::from_bytes(STORE),
            session,
            nonce: sealing.nonce,
            release: sealing.release,
            leaf_hash: sealing.leaf_hash,
            volume: &sealing.volume.parse().unwrap(),
            cluster: &CLUSTER.parse().unwrap(),
            namespace: &request.pod_namespace.parse().unwrap(),
            pod: &sealing.pod.parse().unwrap(),
            container: &sealing.container.parse().unwrap(),
            granted: &granted,
        };
        let deks: Vec<_> = values.iter().map(|value| value.key.dek()).collect();
        let key = keys.release_key(sealing.nonce, sealing.release).unwrap();
        let sealed_keys = key.seal(&binding, &deks).unwrap();
        let file = |(value, at): (&SealedValue, u32)| {
            let path = value.path.clone();
            pb::File {
                path,
                mode: 0o400,
                value: at,
            }
        };
        pb::Released {
            generation: Some(generation),
            session: session.as_bytes().to_vec(),
            enc,
            store: STORE.to_vec(),
            boot: BOOT.to_vec(),
            broker_id: broker_id().to_string(),
            release: told.release.as_bytes().to_vec(),
            leaf_hash: told.leaf_hash.to_vec(),
            sealed_keys,
            files: values.iter().zip(0..).map(file).collect(),
            values: values.into_iter().map(SealedValue::message).collect(),
            owner_uid: self.owner.0,
            owner_gid: self.owner.1,
            missing: self.missing.clone(),
            cluster: CLUSTER.to_owned(),
            namespace: request.pod_namespace.clone(),
            pod_uid: request.pod_uid.clone(),
            container,
        }
    }

    fn session(&mut self, plugin_key: &[u8], node_id: &str) -> (SessionId, Vec<u8>, Arc<Session>) {
        let name = [plugin_key, node_id.as_bytes()].concat();
        if let Some(known) = self.sessions.iter().find(|known| known.name == name) {
            return (known.id, known.enc.clone(), Arc::clone(&known.keys));
        }
        let id = SessionId::random(&SystemRandom).unwrap();
        let broker = broker_id().to_string();
        let binding = SessionBinding {
            store: StoreId::from_bytes(STORE),
            broker_id: &broker,
            boot: BootId::from_bytes(BOOT),
            node_id,
            plugin_key: PublicKey::try_from(plugin_key).unwrap(),
            session: id,
        };
        let (enc, keys) = Session::sender(&SystemRandom, &binding).unwrap();
        let (enc, keys) = (enc.as_bytes().to_vec(), Arc::new(keys));
        let (known_enc, known_keys) = (enc.clone(), Arc::clone(&keys));
        self.sessions.push(PluginSession {
            name,
            id,
            enc: known_enc,
            keys: known_keys,
        });
        (id, enc, keys)
    }
}

impl SealedValue {
    fn message(self) -> pb::ReleasedValue {
        let granted = self.granted;
        pb::ReleasedValue {
            keyspace: granted.path.keyspace.to_string(),
            name: granted.path.name.to_string(),
            secret: granted.secret.as_bytes().to_vec(),
            version: granted.version.number(),
            field: granted.field.to_string(),
            value: granted.value.as_bytes().to_vec(),
            ct_sha256: granted.ct_hash.as_bytes().to_vec(),
            ct: self.ct.into(),
        }
    }
}
