//! Releases: the data keys of granted values, sealed to one node plugin, once.
//!
//! ```text
//! session: HPKE base 0x0020/0x0001/0xFFFF to the plugin's key,
//!          info = LP("attache/deliver/1", suite, store, broker id, boot, node id, pk, session)
//! k      = export(LP("attache/release-key/1", nonce, release), 32)
//! aad    = LP("attache/release/1", store, session, nonce, release, leaf hash, volume, cluster, namespace, pod uid,
//!            container, [(keyspace, name, secret, version, field, value, SHA-256(ct))])
//! sealed = AES-256-GCM(k, nonce 0, DEKs in the order of the aad, aad)
//! ```
//!
//! One HPKE setup serves many releases; each release has a key of its own, which `seal` and `open` consume. Nothing
//! is cached: another attempt is another release id.

use zeroize::Zeroizing;

use crate::error::EnvelopeError;
use crate::id::{BootId, Nonce, ReleaseId, SecretId, SessionId, StoreId, ValueId};
use crate::key::{Dek, KEY_BYTES, SecretKey};
use crate::lp::Lp;
use crate::name::{
    ClusterName, ContainerName, FieldName, Namespace, PodUid, SecretPath, SecretVersion, VolumeId,
};
use crate::put::concat;
use crate::random::Random;
use crate::value::CtHash;
use crate::x25519::{Enc, ExportOnly, PublicKey};
use crate::{SUITE, TAG_BYTES, gcm};

/// The two ends of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionBinding<'a> {
    /// The store.
    pub store: StoreId,
    /// The broker's SPIFFE ID; the agent requires that of the TLS peer.
    pub broker_id: &'a str,
    /// The broker's run.
    pub boot: BootId,
    /// The node's SPIFFE ID.
    pub node_id: &'a str,
    /// The node plugin's key.
    pub plugin_key: PublicKey,
    /// The session's id, drawn by the broker.
    pub session: SessionId,
}

impl SessionBinding<'_> {
    /// `LP("attache/deliver/1", suite, store, broker id, boot, node id, pk, session)`.
    #[must_use]
    pub fn info(&self) -> Vec<u8> {
        Lp::labelled("attache/deliver/1")
            .u16(SUITE)
            .id(self.store)
            .str(self.broker_id)
            .id(self.boot)
            .str(self.node_id)
            .bytes(self.plugin_key.as_bytes())
            .id(self.session)
            .into_bytes()
    }
}

/// An HPKE setup between a broker and a node plugin, which exports release keys and does nothing else.
pub struct Session(ExportOnly);

impl Session {
    /// The broker's side: sets up to the plugin's key. Costs two scalar multiplications, so keep it.
    ///
    /// # Errors
    /// [`EnvelopeError::PublicKey`] for a plugin key of all zeros or small order; [`EnvelopeError::Random`].
    pub fn sender(
        random: &dyn Random,
        binding: &SessionBinding<'_>,
    ) -> Result<(Enc, Self), EnvelopeError> {
        let (enc, setup) = ExportOnly::sender(random, &binding.plugin_key, &binding.info())?;
        Ok((enc, Self(setup)))
    }

    /// The agent's side.
    ///
    /// # Errors
    /// [`EnvelopeError::PublicKey`] for an `enc` that no sender makes; [`EnvelopeError::Rule`] when `secret` is not
    /// the private half of the binding's plugin key.
    pub fn receiver(
        secret: SecretKey<'_>,
        enc: &Enc,
        binding: &SessionBinding<'_>,
    ) -> Result<Self, EnvelopeError> {
        if secret.public_key()? != binding.plugin_key {
            return Err(EnvelopeError::Rule("the session is for another plugin key"));
        }
        ExportOnly::receiver(secret, enc, &binding.info()).map(Self)
    }

    /// The key of one release: `export(LP("attache/release-key/1", nonce, release), 32)`.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`] never happens for 32 bytes; it stands for the library's check of the length.
    pub fn release_key(
        &self,
        nonce: Nonce,
        release: ReleaseId,
    ) -> Result<ReleaseKey, EnvelopeError> {
        let context = Lp::labelled("attache/release-key/1").id(nonce).id(release);
        let mut key = Box::new(Zeroizing::new([0; KEY_BYTES]));
        self.0.export(context.as_bytes(), &mut key)?;
        Ok(ReleaseKey(key))
    }
}

/// One granted value, as the associated data names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedValue {
    /// The secret's path.
    pub path: SecretPath,
    /// The secret.
    pub secret: SecretId,
    /// The version that was read.
    pub version: SecretVersion,
    /// The field in that version.
    pub field: FieldName,
    /// The value.
    pub value: ValueId,
    /// SHA-256 of its ciphertext, as stored at the put.
    pub ct_hash: CtHash,
}

/// Everything that one release is bound to.
#[derive(Debug, Clone, Copy)]
pub struct ReleaseBinding<'a> {
    /// The store.
    pub store: StoreId,
    /// The session whose export is the key.
    pub session: SessionId,
    /// What the agent drew for this attempt.
    pub nonce: Nonce,
    /// What the broker drew for this attempt.
    pub release: ReleaseId,
    /// The hash of the audit leaf that is durable by then.
    pub leaf_hash: [u8; 32],
    /// Kubelet's handle of the volume.
    pub volume: &'a VolumeId,
    /// The cluster.
    pub cluster: &'a ClusterName,
    /// The pod's namespace.
    pub namespace: &'a Namespace,
    /// The pod.
    pub pod: &'a PodUid,
    /// The one container that mounts the volume.
    pub container: &'a ContainerName,
    /// The values, in the order of their keys.
    pub granted: &'a [GrantedValue],
}

impl ReleaseBinding<'_> {
    /// `LP("attache/release/1", ...)`, as above.
    #[must_use]
    pub fn aad(&self) -> Vec<u8> {
        Lp::labelled("attache/release/1")
            .id(self.store)
            .id(self.session)
            .id(self.nonce)
            .id(self.release)
            .bytes(&self.leaf_hash)
            .str(self.volume.as_str())
            .str(self.cluster.as_str())
            .str(self.namespace.as_str())
            .str(self.pod.as_str())
            .str(self.container.as_str())
            .list(self.granted.iter().map(|granted| {
                Lp::new()
                    .str(granted.path.keyspace.as_str())
                    .str(granted.path.name.as_str())
                    .id(granted.secret)
                    .u64(granted.version.number())
                    .str(granted.field.as_str())
                    .id(granted.value)
                    .bytes(granted.ct_hash.as_bytes())
            }))
            .into_bytes()
    }
}

/// The key of one release, consumed by its one use:
///
/// ```compile_fail,E0382
/// # use attache_envelope::release::{ReleaseBinding, ReleaseKey};
/// # fn twice(key: ReleaseKey, one: &ReleaseBinding<'_>, other: &ReleaseBinding<'_>) {
/// let _ = key.seal(one, &[]);
/// let _ = key.seal(other, &[]);
/// # }
/// ```
pub struct ReleaseKey(Box<Zeroizing<[u8; KEY_BYTES]>>);

impl ReleaseKey {
    /// Seals the data keys of the granted values, in their order.
    ///
    /// # Errors
    /// [`EnvelopeError::Rule`] when there are more or fewer keys than values.
    pub fn seal(
        self,
        binding: &ReleaseBinding<'_>,
        deks: &[Dek<'_>],
    ) -> Result<Vec<u8>, EnvelopeError> {
        if deks.len() != binding.granted.len() {
            return Err(EnvelopeError::Rule("a release has one data key a value"));
        }
        gcm::seal(&self.0, &concat(deks), &binding.aad())
    }

    /// Opens the data keys into `out`, 32 bytes each, in the order of the granted values.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`] when anything of the release differs, or the count of keys;
    /// [`EnvelopeError::Buffer`] when `out` is not 32 bytes a value.
    pub fn open(
        self,
        binding: &ReleaseBinding<'_>,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), EnvelopeError> {
        let needed = binding.granted.len() * KEY_BYTES;
        gcm::check_buffer("the data keys", needed, out)?;
        if sealed.len() != needed + TAG_BYTES {
            return Err(EnvelopeError::Refused);
        }
        gcm::open(&self.0, sealed, &binding.aad(), out)
    }
}

/// The data keys in a buffer that [`ReleaseKey::open`] or [`crate::put::CommitPut::open_keys`] filled.
pub fn deks(buffer: &[u8]) -> impl ExactSizeIterator<Item = Dek<'_>> {
    let (keys, _) = buffer.as_chunks::<KEY_BYTES>();
    keys.iter().map(Dek::new)
}

#[cfg(test)]
mod tests;
