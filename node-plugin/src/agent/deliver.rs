//! One delivery: ask the broker, check its answer, open the values into locked memory, and lay them into the sealed
//! memory file that goes to the mounter.
//!
//! ```text
//! PublishRequest -> DeliverRequest ==mTLS==> Released -> Release (checked) -> DEKs -> values -> SealedGeneration
//!                   + nonce, plugin key      answer      session export      LockedBuf           memfd
//! ```
//! A plaintext exists in the locked buffer and in the pinned memory file, and nowhere else of ours; both are wiped or
//! gone when the package is dropped. No error repeats anything of a value, a key or the token.

use std::sync::Arc;

use attache_arena::{ArenaError, LockedBuf};
use attache_envelope::id::Nonce;
use attache_envelope::key::KEY_BYTES;
use attache_envelope::release::{self, ReleaseBinding};
use attache_envelope::value::{ValueBinding, plaintext_bytes};
use attache_envelope::{EnvelopeError, SystemRandom};
use attache_proto::attache::v1 as pb;
use jiff::Timestamp;
use pb::deliver_response::Answer;
use thiserror::Error;

use super::answer::{self, AnswerError, Release};
use super::broker::{Broker, CallError};
use super::metadata;
use super::session::{PluginKey, PluginKeyError, PluginKeys};
use crate::csi::request::PublishRequest;
use crate::ipc::{Facts, FileSet, Generation, NewFile, SealError, SealedGeneration};

/// How often one delivery is tried when the connection fails under it: a broker that was restarted, once more.
const TRIES: usize = 2;

/// Why nothing was delivered.
#[derive(Debug, Error)]
pub enum DeliverError {
    /// The broker refused, or is away.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The broker's answer is not believed.
    #[error("the broker's answer {0}; the node plugin's log has more")]
    Answer(AnswerError),
    /// The volume would be larger than a volume can be.
    #[error(
        "the volume's secrets have more than {} bytes together; ask for fewer, or for single fields",
        answer::MAX_BYTES
    )]
    TooLarge,
    /// An older generation than the volume holds.
    #[error("the broker's answer is older than what the volume holds")]
    Stale,
    /// A key or a value does not open.
    #[error("the released values do not open")]
    Envelope(#[from] EnvelopeError),
    /// No locked memory.
    #[error("no locked memory for the values; raise the node plugin's memlock limit")]
    Memory(#[source] ArenaError),
    /// The files are none that a volume can have.
    #[error("the released files are refused")]
    Carry(#[source] SealError),
}

impl From<AnswerError> for DeliverError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::TooLarge => Self::TooLarge,
            AnswerError::Empty | AnswerError::Malformed(_) | AnswerError::Other(_) => {
                Self::Answer(error)
            }
        }
    }
}

impl From<ArenaError> for DeliverError {
    fn from(error: ArenaError) -> Self {
        Self::Memory(error)
    }
}

impl From<PluginKeyError> for DeliverError {
    fn from(error: PluginKeyError) -> Self {
        match error {
            PluginKeyError::Memory(error) => Self::Memory(error),
            PluginKeyError::Envelope(error) => Self::Envelope(error),
        }
    }
}

/// What the broker answered, checked.
pub(super) enum Delivery {
    /// The volume holds what it should.
    Unchanged,
    /// A new generation, still sealed.
    Released(Box<SealedRelease>),
}

/// A checked release with all that opens it.
pub(super) struct SealedRelease {
    release: Release,
    nonce: Nonce,
    key: Arc<PluginKey>,
    broker_id: String,
    node_id: String,
}

/// An opened release, ready for the mounter.
pub(super) struct Package {
    pub(super) generation: Generation,
    pub(super) files: FileSet,
    pub(super) sealed: SealedGeneration,
}

/// Asks the broker for what a volume should hold.
///
/// # Cancel safety
/// May be dropped at any time.
pub(super) async fn deliver(
    broker: &Broker,
    keys: &PluginKeys,
    request: &PublishRequest,
    held: Option<Generation>,
    kernel: Facts,
) -> Result<Delivery, DeliverError> {
    let mut tries = 1;
    loop {
        let key = keys.current()?;
        // A new nonce for each try: another try is another release.
        let nonce = Nonce::random(&SystemRandom)?;
        match broker
            .deliver(message(request, held, &key, nonce, kernel))
            .await
        {
            Ok(response) => return check(response, broker, request, held, key, nonce),
            Err(CallError::Away) if tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

fn message(
    request: &PublishRequest,
    held: Option<Generation>,
    key: &PluginKey,
    nonce: Nonce,
    kernel: Facts,
) -> pb::DeliverRequest {
    pb::DeliverRequest {
        volume_id: request.target.volume_id().to_string(),
        volume_name: request.target.volume.to_string(),
        pod_token: request.token.expose().to_owned(),
        plugin_key: key.public().as_bytes().to_vec(),
        nonce: nonce.as_bytes().to_vec(),
        held: held.map(|held| pb::Generation {
            incarnation: held.incarnation,
            seq: held.seq,
            digest: held.digest.to_vec(),
        }),
        attributes: request.attributes.clone(),
        pod_namespace: request.pod.namespace.to_string(),
        pod_name: request.pod.name.to_string(),
        pod_uid: request.pod.uid.to_string(),
        service_account: request.pod.service_account.to_string(),
        volume_mount_group: request.mount_group,
        lacks_inode_flags: !kernel.inode_flags,
        lacks_noswap: !kernel.noswap,
    }
}

fn check(
    response: pb::DeliverResponse,
    broker: &Broker,
    request: &PublishRequest,
    held: Option<Generation>,
    key: Arc<PluginKey>,
    nonce: Nonce,
) -> Result<Delivery, DeliverError> {
    let broker_id = broker.id().to_string();
    let released = match response.answer.ok_or(AnswerError::Empty)? {
        Answer::Unchanged(unchanged) => {
            answer::check_unchanged(unchanged, held)?;
            return Ok(Delivery::Unchanged);
        }
        Answer::Released(released) => *released,
    };
    let release = Release::check(released, request, &broker_id, broker.node().cluster())?;
    let order = |generation: Generation| (generation.incarnation, generation.seq);
    if held.is_some_and(|held| order(release.generation) < order(held)) {
        return Err(DeliverError::Stale);
    }
    let node_id = broker.node().to_string();
    Ok(Delivery::Released(Box::new(SealedRelease {
        release,
        nonce,
        key,
        broker_id,
        node_id,
    })))
}

impl SealedRelease {
    /// Opens the values and lays them into a sealed memory file. Takes CPU and system calls: not for the runtime's
    /// threads.
    pub(super) fn open(self) -> Result<Package, DeliverError> {
        let keys = self.open_keys()?;
        let release = &self.release;
        let lengths: Vec<usize> = release
            .ciphertexts
            .iter()
            .map(|ct| plaintext_bytes(ct))
            .collect::<Result<_, _>>()?;
        let mut plain = LockedBuf::new(lengths.iter().sum())?;
        open_values(release, keys.as_slice(), &lengths, plain.as_mut_slice())?;
        drop(keys);
        let values = split(plain.as_slice(), &lengths);
        let files: Vec<NewFile<'_>> = release
            .files
            .iter()
            .filter_map(|file| {
                let value = values.get(file.value).copied()?;
                let (uid, gid) = (release.owner.uid, release.owner.gid);
                Some(NewFile {
                    path: &file.path,
                    mode: file.mode,
                    uid,
                    gid,
                    value,
                })
            })
            .collect();
        let set = FileSet::of(&files);
        let metadata = metadata::write(release, &set, Timestamp::now());
        let sealed = SealedGeneration::seal(&release.generation, &files, &metadata);
        let sealed = sealed.map_err(|error| match error {
            SealError::Memory(error) => DeliverError::Memory(error),
            SealError::Format(_) => DeliverError::Carry(error),
        })?;
        Ok(Package {
            generation: release.generation,
            files: set,
            sealed,
        })
    }

    fn open_keys(&self) -> Result<LockedBuf, DeliverError> {
        let release = &self.release;
        let session = self
            .key
            .session(release.session, &self.broker_id, &self.node_id)?;
        let binding = ReleaseBinding {
            store: release.session.store,
            session: release.session.session,
            nonce: self.nonce,
            release: release.release,
            leaf_hash: release.leaf_hash,
            volume: &release.volume,
            cluster: &release.cluster,
            namespace: &release.namespace,
            pod: &release.pod,
            container: &release.container,
            granted: &release.granted,
        };
        let mut keys = LockedBuf::new(release.granted.len() * KEY_BYTES)?;
        let release_key = session.release_key(self.nonce, release.release)?;
        release_key.open(&binding, &release.sealed_keys, keys.as_mut_slice())?;
        Ok(keys)
    }
}

/// Opens each value into its part of `plain`.
fn open_values(
    release: &Release,
    keys: &[u8],
    lengths: &[usize],
    plain: &mut [u8],
) -> Result<(), EnvelopeError> {
    let mut rest = plain;
    let opened = release
        .granted
        .iter()
        .zip(&release.ciphertexts)
        .zip(release::deks(keys))
        .zip(lengths);
    for (((granted, ct), dek), length) in opened {
        let binding = ValueBinding {
            store: release.session.store,
            keyspace: &granted.path.keyspace,
            secret: granted.secret,
            value: granted.value,
            field: &granted.field,
        };
        let (part, after) = rest
            .split_at_mut_checked(*length)
            .ok_or(EnvelopeError::Refused)?;
        dek.open(ct, &binding, part)?;
        rest = after;
    }
    Ok(())
}

/// The parts of `plain`, one after the other.
fn split<'a>(plain: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = plain;
    let parts = lengths.iter().map_while(|length| {
        let (part, after) = rest.split_at_checked(*length)?;
        rest = after;
        Some(part)
    });
    parts.collect()
}
