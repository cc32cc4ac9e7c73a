//! A release as the broker sends it, checked field by field: hostile until it is a [`Release`].
//!
//! Everything that the seal binds is compared with what this node knows by itself: the broker with the connection's
//! peer, the pod with kubelet's request, the volume with the target. What no seal binds (files, owner) must make up the
//! digest that the generation claims, and every value must be some file's: nothing is handed over beyond the files.

use attache_envelope::generation::{GenerationDigest, GenerationFile, Owner};
use attache_envelope::id::{ReleaseId, StoreId};
use attache_envelope::name::{
    ClusterName, ContainerName, Namespace, PodUid, SecretPath, SecretRef, SecretVersion, VolumeId,
};
use attache_envelope::release::GrantedValue;
use attache_envelope::value::{CtHash, plaintext_bytes};
use attache_proto::attache::v1 as pb;
use bytes::Bytes;
use thiserror::Error;

use super::session::SessionName;
use crate::csi::request::PublishRequest;
use crate::ipc::Generation;
use crate::ipc::generation::{MAX_FILES, MAX_VALUE_BYTES};

/// The most bytes of all values together; what one memory file can carry.
pub(super) const MAX_BYTES: usize = MAX_VALUE_BYTES;

/// Why an answer is not believed. It names a field and holds nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// Neither unchanged nor released.
    #[error("holds no answer")]
    Empty,
    /// A field that breaks its rule.
    #[error("has a malformed {0}")]
    Malformed(&'static str),
    /// A field that says otherwise than this node knows.
    #[error("is for another {0}")]
    Other(&'static str),
    /// The volume's values are more than it can hold.
    #[error("holds more than a volume can")]
    TooLarge,
}

/// A release whose every field is in order. The values are still sealed.
pub(super) struct Release {
    pub(super) generation: Generation,
    pub(super) session: SessionName,
    pub(super) release: ReleaseId,
    pub(super) leaf_hash: [u8; 32],
    pub(super) volume: VolumeId,
    pub(super) cluster: ClusterName,
    pub(super) namespace: Namespace,
    pub(super) pod: PodUid,
    pub(super) container: ContainerName,
    pub(super) sealed_keys: Vec<u8>,
    pub(super) granted: Vec<GrantedValue>,
    pub(super) ciphertexts: Vec<Bytes>,
    pub(super) files: Vec<ReleasedFile>,
    pub(super) owner: Owner,
    pub(super) missing: Vec<SecretRef>,
}

/// One file of a release.
pub(super) struct ReleasedFile {
    pub(super) path: String,
    pub(super) mode: u16,
    /// Index into the granted values.
    pub(super) value: usize,
}

impl Release {
    /// Checks a release against what was asked for, by whom and of whom.
    pub(super) fn check(
        released: pb::Released,
        request: &PublishRequest,
        broker_id: &str,
        cluster: &str,
    ) -> Result<Self, AnswerError> {
        require(released.broker_id == broker_id, "broker_id")?;
        require(released.cluster == cluster, "cluster")?;
        require(
            released.namespace == request.pod.namespace.as_str(),
            "namespace",
        )?;
        require(released.pod_uid == request.pod.uid.as_str(), "pod_uid")?;
        let container = request.attributes.get("container");
        require(Some(&released.container) == container, "container")?;
        let (granted, ciphertexts) = values(released.values)?;
        let files = files(released.files, granted.len())?;
        let owner = Owner {
            uid: released.owner_uid,
            gid: released.owner_gid,
        };
        let generation = generation(released.generation)?;
        check_digest(&generation, &files, &granted, owner)?;
        let target = &request.target;
        Ok(Self {
            generation,
            session: SessionName {
                session: released
                    .session
                    .as_slice()
                    .try_into()
                    .map_err(|_| malformed("session"))?,
                enc: released
                    .enc
                    .as_slice()
                    .try_into()
                    .map_err(|_| malformed("enc"))?,
                store: store(&released.store)?,
                boot: released
                    .boot
                    .as_slice()
                    .try_into()
                    .map_err(|_| malformed("boot"))?,
            },
            release: released
                .release
                .as_slice()
                .try_into()
                .map_err(|_| malformed("release"))?,
            leaf_hash: released
                .leaf_hash
                .as_slice()
                .try_into()
                .map_err(|_| malformed("leaf_hash"))?,
            volume: target
                .volume_id()
                .to_string()
                .parse()
                .map_err(|_| malformed("volume"))?,
            cluster: released.cluster.parse().map_err(|_| malformed("cluster"))?,
            namespace: request.pod.namespace.clone(),
            pod: request.pod.uid.clone(),
            container: released
                .container
                .parse()
                .map_err(|_| malformed("container"))?,
            sealed_keys: released.sealed_keys,
            granted,
            ciphertexts,
            files,
            owner,
            missing: missing(&released.missing)?,
        })
    }
}

/// Checks the answer "unchanged": it must be about what the volume holds.
pub(super) fn check_unchanged(
    unchanged: pb::Unchanged,
    held: Option<Generation>,
) -> Result<(), AnswerError> {
    let told = generation(unchanged.generation)?;
    let same =
        held.is_some_and(|held| (held.incarnation, held.digest) == (told.incarnation, told.digest));
    require(same, "generation")
}

fn generation(told: Option<pb::Generation>) -> Result<Generation, AnswerError> {
    let told = told.ok_or(malformed("generation"))?;
    let digest = told
        .digest
        .as_slice()
        .try_into()
        .map_err(|_| malformed("generation.digest"))?;
    Ok(Generation {
        incarnation: told.incarnation,
        seq: told.seq,
        digest,
    })
}

fn store(bytes: &[u8]) -> Result<StoreId, AnswerError> {
    bytes.try_into().map_err(|_| malformed("store"))
}

fn values(told: Vec<pb::ReleasedValue>) -> Result<(Vec<GrantedValue>, Vec<Bytes>), AnswerError> {
    if told.len() > MAX_FILES {
        return Err(AnswerError::TooLarge);
    }
    let mut sum = 0;
    let mut granted = Vec::with_capacity(told.len());
    let mut ciphertexts = Vec::with_capacity(told.len());
    for value in told {
        sum += plaintext_bytes(&value.ct).map_err(|_| malformed("values.ct"))?;
        if sum > MAX_BYTES {
            return Err(AnswerError::TooLarge);
        }
        let ct_hash = CtHash::of(&value.ct);
        require(
            ct_hash.as_bytes().as_slice() == value.ct_sha256,
            "values.ct_sha256",
        )?;
        granted.push(GrantedValue {
            path: SecretPath {
                keyspace: value
                    .keyspace
                    .parse()
                    .map_err(|_| malformed("values.keyspace"))?,
                name: value.name.parse().map_err(|_| malformed("values.name"))?,
            },
            secret: value
                .secret
                .as_slice()
                .try_into()
                .map_err(|_| malformed("values.secret"))?,
            version: SecretVersion::new(value.version).ok_or(malformed("values.version"))?,
            field: value.field.parse().map_err(|_| malformed("values.field"))?,
            value: value
                .value
                .as_slice()
                .try_into()
                .map_err(|_| malformed("values.value"))?,
            ct_hash,
        });
        ciphertexts.push(value.ct);
    }
    Ok((granted, ciphertexts))
}

/// Paths are checked where they are laid into the memory file, and again by the mounter.
fn files(told: Vec<pb::File>, values: usize) -> Result<Vec<ReleasedFile>, AnswerError> {
    if told.len() > MAX_FILES {
        return Err(AnswerError::TooLarge);
    }
    let mut used = vec![false; values];
    let mut files = Vec::with_capacity(told.len());
    for file in told {
        let value = usize::try_from(file.value).map_err(|_| malformed("files.value"))?;
        *used.get_mut(value).ok_or(malformed("files.value"))? = true;
        let mode = u16::try_from(file.mode).map_err(|_| malformed("files.mode"))?;
        files.push(ReleasedFile {
            path: file.path,
            mode,
            value,
        });
    }
    if used.contains(&false) {
        return Err(malformed("values: one is no file's"));
    }
    Ok(files)
}

fn check_digest(
    generation: &Generation,
    files: &[ReleasedFile],
    granted: &[GrantedValue],
    owner: Owner,
) -> Result<(), AnswerError> {
    let set: Vec<GenerationFile<'_>> = files
        .iter()
        .zip(files.iter().filter_map(|file| granted.get(file.value)))
        .map(|(file, granted)| GenerationFile {
            path: &file.path,
            mode: file.mode.into(),
            owner,
            value: granted.value,
        })
        .collect();
    let digest = GenerationDigest::of(&set).map_err(|_| malformed("files.path"))?;
    require(
        set.len() == files.len() && *digest.as_bytes() == generation.digest,
        "generation.digest",
    )
}

fn missing(told: &[String]) -> Result<Vec<SecretRef>, AnswerError> {
    if told.len() > MAX_FILES {
        return Err(AnswerError::TooLarge);
    }
    let parsed = told
        .iter()
        .map(|reference| reference.parse().map_err(|_| malformed("missing")));
    parsed.collect()
}

fn malformed(field: &'static str) -> AnswerError {
    AnswerError::Malformed(field)
}

fn require(holds: bool, field: &'static str) -> Result<(), AnswerError> {
    if holds {
        Ok(())
    } else {
        Err(AnswerError::Other(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Expected, Fields, run};
    use attache_envelope::id::{SecretId, ValueId};
    use prost::Message;

    /// Values of those ids; of what else they are, files and digest say nothing.
    fn granted(case: &Fields) -> Vec<GrantedValue> {
        let ids = case.texts("values");
        let value = |id: &String| GrantedValue {
            path: "payments/db".parse().unwrap(),
            secret: SecretId::from_bytes([1; 16]),
            version: SecretVersion::new(1).unwrap(),
            field: "field".parse().unwrap(),
            value: ValueId::from_bytes(hex::decode(id).unwrap().try_into().unwrap()),
            ct_hash: CtHash::of(b""),
        };
        ids.iter().map(value).collect()
    }

    type Checked = (Generation, Vec<ReleasedFile>, Owner);

    fn check(message: &[u8], granted: &[GrantedValue]) -> Result<Checked, AnswerError> {
        let told = pb::Released::decode(message).unwrap();
        let owner = Owner {
            uid: told.owner_uid,
            gid: told.owner_gid,
        };
        let files = files(told.files, granted.len())?;
        let generation = generation(told.generation)?;
        check_digest(&generation, &files, granted, owner)?;
        Ok((generation, files, owner))
    }

    #[test]
    fn the_files_of_a_release_are_the_vectors() {
        run("file-list", true, |case, expected| {
            let granted = granted(case);
            let Expected::Out(out) = expected else {
                assert!(check(&case.bytes("message"), &granted).is_err());
                return;
            };
            let (generation, files, owner) = check(&out.bytes("message"), &granted).unwrap();
            let order = (generation.incarnation, generation.seq);
            assert_eq!(order, (case.u32("incarnation"), case.u64("seq")));
            assert_eq!(generation.digest, out.array("digest"));
            let gid = case
                .value("gid")
                .as_u64()
                .map(|gid| gid.try_into().unwrap());
            assert_eq!((owner.uid, owner.gid), (case.u32("uid"), gid));
            let mut told = case.list("files");
            told.sort_by(|a, b| a.text("path").cmp(b.text("path")));
            let told = told.iter();
            let told = told.map(|f| (f.text("path").to_owned(), f.u64("mode"), f.u64("value")));
            let found = files.into_iter();
            let found = found.map(|f| (f.path, u64::from(f.mode), f.value as u64));
            assert!(found.eq(told));
        });
    }
}
