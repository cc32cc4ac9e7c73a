//! From a granted volume to an answer: data keys opened, sealed to the plugin, let go with the receipt.
//!
//! The ciphertexts go as they are stored. Their keys are opened into cells of the arena for the time of one seal, and
//! only those of granted values: a node that was granted one field holds nothing that opens another.

use attache_arena::Key;
use attache_envelope::generation::{Generation, Owner};
use attache_envelope::id::{BootId, Nonce, ReleaseId, SessionId, StoreId};
use attache_envelope::key::Dek;
use attache_envelope::name::{ClusterName, ClusterRef};
use attache_envelope::release::{GrantedValue, ReleaseBinding, ReleaseKey};
use attache_envelope::x25519::{Enc, PublicKey};
use attache_envelope::{EnvelopeError, TAG_BYTES};
use attache_translog::{Generation as LeafGeneration, Release, ReleasedValue};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Caller;
use super::plan::{GrantedFile, GrantedVolume, NotPlanned};
use super::sessions::PluginSession;
use crate::attest::{AttestedWorkload, PublicReason, Refusal};
use crate::audit::AuditReceipt;
use crate::mounted::Named;
use crate::store::Store;
use crate::vault::{Lookup, Vault};

/// The most bytes of values in a volume: what the node plugin takes.
const MAX_VOLUME_BYTES: usize = 1024 * 1024;

/// A granted volume with its ciphertexts and its open data keys.
pub(super) struct Opened {
    volume: GrantedVolume,
    cluster: ClusterName,
    granted: Vec<GrantedValue>,
    payloads: Vec<Bytes>,
    keys: Vec<Key>,
}

/// A volume whose keys are sealed to a plugin process and bound to a leaf. It answers nothing by itself.
pub struct SealedSecret {
    leaf_hash: [u8; 32],
    answer: ReleasedAnswer,
}

/// A release that is on record: what [`ReleasedAnswer`] is made of, and nothing else makes one.
pub struct Released {
    answer: ReleasedAnswer,
    receipt: AuditReceipt,
}

/// What the agent gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleasedAnswer {
    /// What the volume then holds.
    pub generation: Generation,
    /// The session that the release key is exported from.
    pub session: SessionId,
    /// Its encapsulated key.
    pub enc: Enc,
    /// The store.
    pub store: StoreId,
    /// The broker's run.
    pub boot: BootId,
    /// The broker's SPIFFE ID.
    pub broker: String,
    /// This attempt.
    pub release: ReleaseId,
    /// The hash of the leaf that is durable by now.
    pub leaf_hash: [u8; 32],
    /// The data keys of `values`, 32 bytes each in their order, and the tag.
    pub sealed_keys: Vec<u8>,
    /// The values, sealed as they are stored.
    pub values: Vec<ReleasedField>,
    /// The files to make, sorted by path.
    pub files: Vec<ReleasedFile>,
    /// Who owns them.
    pub owner: Owner,
    /// Optional references that are absent or not granted.
    pub missing: Vec<String>,
    /// The cluster, as attested.
    pub cluster: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// The container.
    pub container: String,
}

/// One released value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleasedField {
    /// Which value it is, as the seal binds it.
    pub granted: GrantedValue,
    /// Ciphertext and tag, as stored.
    pub ct: Bytes,
}

/// One file of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleasedFile {
    /// Relative and canonical.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Index into the values.
    pub value: usize,
}

impl Opened {
    /// Loads the granted values and opens their keys.
    ///
    /// # Errors
    /// [`NotPlanned::Vault`] for a record that cannot be read or opened; [`NotPlanned::Refused`] for more bytes than a
    /// volume takes, before any more are loaded.
    pub(super) async fn open<S: Store>(
        vault: &Vault<S>,
        volume: GrantedVolume,
    ) -> Result<Self, NotPlanned> {
        let cluster = cluster_of(volume.workload())?;
        let mut bytes = 0;
        let (mut granted, mut payloads, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for secret in volume.secrets() {
            let stored = match vault
                .load_resolved(&secret.resolved, &secret.fields)
                .await?
            {
                Lookup::Found(stored) => stored,
                // The version was there a moment ago: its rows contradict each other.
                Lookup::Absent(absence) => {
                    let path = secret.resolved.path.clone();
                    return Err(crate::vault::VaultError::Absent { path, absence }.into());
                }
            };
            bytes += stored
                .fields
                .iter()
                .map(|it| value_bytes(&it.payload))
                .sum::<usize>();
            fits(bytes)?;
            keys.extend(vault.open_deks(&stored).await?);
            for it in stored.fields {
                granted.push(GrantedValue {
                    path: stored.path.clone(),
                    secret: stored.secret,
                    version: stored.version,
                    field: it.field,
                    value: it.value,
                    ct_hash: it.ct_hash,
                });
                payloads.push(it.payload);
            }
        }
        // A value that two files hold is there twice.
        let in_files = volume
            .files()
            .iter()
            .filter_map(|it| payloads.get(it.value));
        fits(in_files.map(value_bytes).sum())?;
        Ok(Self {
            volume,
            cluster,
            granted,
            payloads,
            keys,
        })
    }

    /// The versions that the pod names by their numbers.
    pub(super) fn named(&self) -> Vec<Named> {
        self.volume.named()
    }

    /// What goes on record. Nothing of it is decided later.
    pub(super) fn leaf(
        &self,
        caller: &Caller,
        plugin_key: PublicKey,
        (session, nonce, release): (SessionId, Nonce, ReleaseId),
    ) -> Release {
        let workload = self.volume.workload();
        let who = workload.workload();
        let generation = self.volume.generation();
        Release {
            node: caller.node.to_string(),
            serial: caller.serial.clone(),
            release: *release.as_bytes(),
            session: *session.as_bytes(),
            nonce: *nonce.as_bytes(),
            plugin_key: Sha256::digest(plugin_key.as_bytes()).into(),
            cluster: self.cluster.to_string(),
            namespace: who.namespace.to_string(),
            service_account: who.service_account.to_string(),
            pod_name: workload.pod_name().to_string(),
            pod_uid: workload.pod_uid().to_string(),
            container: who.container.to_string(),
            image: workload.image().map(str::to_owned),
            volume_id: workload.volume_id().to_string(),
            volume_name: workload.volume().to_string(),
            values: self.granted.iter().map(on_record).collect(),
            left_out: Some(self.missing()).filter(|missing| !missing.is_empty()),
            generation: LeafGeneration {
                incarnation: generation.incarnation,
                seq: generation.seq,
                digest: *generation.digest.as_bytes(),
            },
            policies: self.volume.policies().to_vec(),
        }
    }

    /// Seals the keys, once, with the key of this release.
    ///
    /// # Errors
    /// [`EnvelopeError`], which is a bug.
    pub(super) fn seal(
        self,
        key: ReleaseKey,
        session: &PluginSession,
        (store, broker, boot): (StoreId, &str, BootId),
        (nonce, release): (Nonce, ReleaseId),
        leaf_hash: [u8; 32],
    ) -> Result<SealedSecret, EnvelopeError> {
        let workload = self.volume.workload();
        let who = workload.workload();
        let binding = ReleaseBinding {
            store,
            session: session.id,
            nonce,
            release,
            leaf_hash,
            volume: workload.volume_id(),
            cluster: &self.cluster,
            namespace: &who.namespace,
            pod: workload.pod_uid(),
            container: &who.container,
            granted: &self.granted,
        };
        let deks: Vec<Dek<'_>> = self.keys.iter().map(|key| Dek::new(key.expose())).collect();
        let sealed_keys = key.seal(&binding, &deks)?;
        drop(deks);
        let answer = ReleasedAnswer {
            generation: self.volume.generation(),
            session: session.id,
            enc: session.enc,
            store,
            boot,
            broker: broker.to_owned(),
            release,
            leaf_hash,
            sealed_keys,
            files: self.volume.files().iter().map(ReleasedFile::from).collect(),
            owner: workload.owner(),
            missing: self.missing(),
            cluster: self.cluster.to_string(),
            namespace: who.namespace.to_string(),
            pod_uid: workload.pod_uid().to_string(),
            container: who.container.to_string(),
            values: self
                .granted
                .into_iter()
                .zip(self.payloads)
                .map(|(granted, ct)| ReleasedField { granted, ct })
                .collect(),
        };
        Ok(SealedSecret { leaf_hash, answer })
    }

    fn missing(&self) -> Vec<String> {
        self.volume
            .missing()
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

impl Released {
    /// Lets a sealed secret go, on the proof that its own leaf is durable.
    ///
    /// # Errors
    /// [`EnvelopeError::Rule`] for the receipt of another leaf.
    pub fn new(sealed: SealedSecret, receipt: AuditReceipt) -> Result<Self, EnvelopeError> {
        if *receipt.leaf_hash() != sealed.leaf_hash {
            return Err(EnvelopeError::Rule("a receipt is for another release"));
        }
        Ok(Self {
            answer: sealed.answer,
            receipt,
        })
    }

    /// The receipt of its leaf.
    pub fn receipt(&self) -> &AuditReceipt {
        &self.receipt
    }
}

impl From<Released> for ReleasedAnswer {
    fn from(released: Released) -> Self {
        released.answer
    }
}

impl From<&GrantedFile> for ReleasedFile {
    fn from(file: &GrantedFile) -> Self {
        Self {
            path: file.path.clone(),
            mode: file.mode,
            value: file.value,
        }
    }
}

fn on_record(granted: &GrantedValue) -> ReleasedValue {
    ReleasedValue {
        keyspace: granted.path.keyspace.to_string(),
        name: granted.path.name.to_string(),
        secret: *granted.secret.as_bytes(),
        version: granted.version.number(),
        field: granted.field.to_string(),
        value: *granted.value.as_bytes(),
    }
}

/// What a node plugin takes of values, summed over the files.
fn fits(bytes: usize) -> Result<(), Refusal> {
    if bytes > MAX_VOLUME_BYTES {
        return Err(PublicReason::TooLarge {
            limit_bytes: MAX_VOLUME_BYTES,
        }
        .into());
    }
    Ok(())
}

fn value_bytes(payload: &Bytes) -> usize {
    payload.len().saturating_sub(TAG_BYTES)
}

/// A workload is of one cluster; groups are for grants.
fn cluster_of(workload: &AttestedWorkload) -> Result<ClusterName, EnvelopeError> {
    match &workload.workload().cluster {
        ClusterRef::Name(cluster) => Ok(cluster.clone()),
        ClusterRef::Group(_) => Err(EnvelopeError::Rule("a workload is of one cluster")),
    }
}
