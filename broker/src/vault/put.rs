//! Puts: a client's ciphertexts become a version; the broker checks them and never decrypts.
//!
//! ```text
//! begin_put -> what to seal to     check_put -> digest (is it a repeat?)     prepare_put -> the change to apply
//! ```
//!
//! Hashing, opening the sealed keys, verifying tags and wrapping run off the runtime's threads when there are many bytes.
//! Data keys come out of the HPKE open into locked memory, are wrapped from there, and are wiped.

mod rows;
mod seal;

use std::collections::BTreeMap;
use std::sync::Arc;

use attache_envelope::body::{HeadBody, HeadState, KekBody, ValueKeyBody, VersionBody};
use attache_envelope::id::{BootId, KeyId, RequestId, SecretId, StoreId, ValueId};
use attache_envelope::name::{FieldName, SecretPath, SecretVersion};
use attache_envelope::put::{CommitPut, FLAG_REPLACE, PutDigest, PutField, PutParts};
use attache_envelope::value::{CtHash, plaintext_bytes};
use attache_envelope::x25519::{Enc, PublicKey};
use attache_envelope::{EnvelopeError, MAX_FIELDS, MAX_VERSION_BYTES, Table};
use attache_mtls::spiffe::OperatorId;
use bytes::Bytes;

use self::rows::{add_values, add_version};
pub(super) use self::seal::OPENED_BYTES;
use self::seal::Sealing;
use super::Vault;
use super::error::{Absence, VaultError};
use super::records::Record;
use crate::store::{Change, Store};

/// What a client needs to seal a put.
#[derive(Debug, Clone)]
pub struct BeginPut {
    /// The store.
    pub store: StoreId,
    /// The secret's id, when it exists.
    pub secret: Option<SecretId>,
    /// The active version; 0 for none.
    pub head_version: u64,
    /// What data keys are sealed to.
    pub receive_key: PublicKey,
    /// What that key is named by.
    pub key_id: KeyId,
    /// This run of the broker.
    pub boot: BootId,
    /// The fields of the active version, sorted.
    pub fields: Vec<FieldName>,
}

/// A put as it arrived, its parts typed.
#[derive(Debug, Clone)]
pub struct PutRequest {
    /// Who puts.
    pub operator: OperatorId,
    /// The request.
    pub request: RequestId,
    /// Which secret.
    pub path: SecretPath,
    /// Its id: the existing one, or the one that the client picked for a new secret.
    pub secret: SecretId,
    /// The version that the client saw as active; 0 for none.
    pub expected_head_version: u64,
    /// [`FLAG_REPLACE`] or 0.
    pub flags: u32,
    /// Why, in the operator's words.
    pub note: String,
    /// The values, in whatever order.
    pub values: Vec<PutValue>,
    /// The fields of the active version that are kept.
    pub carried: Vec<FieldName>,
    /// Which run of which broker the keys are sealed to.
    pub boot: BootId,
    /// Which receive key.
    pub key_id: KeyId,
    /// The sender's half of the HPKE setup.
    pub enc: Enc,
    /// The sealed data keys, in the order of the fields by name.
    pub sealed_keys: Bytes,
}

/// One sealed value.
#[derive(Debug, Clone)]
pub struct PutValue {
    /// The field.
    pub field: FieldName,
    /// The value's id, drawn by the client.
    pub value: ValueId,
    /// The ciphertext and its tag.
    pub ct: Bytes,
}

/// A put that keeps to every rule that can be checked without the store.
#[derive(Debug)]
pub struct CheckedPut {
    request: PutRequest,
    commit: CommitPut,
    new_bytes: usize,
}

/// A put that can be applied.
#[derive(Debug)]
pub struct PreparedPut {
    /// All rows and payloads of the version, on the condition that the head is still the one expected.
    pub change: Change,
    /// The version's number.
    pub version: SecretVersion,
    /// What the request is known by.
    pub digest: PutDigest,
    /// Whether the secret may then have more versions than its keyspace keeps.
    pub over: bool,
}

impl CheckedPut {
    /// What the request is known by: SHA-256 over everything that it says.
    #[must_use]
    pub fn digest(&self) -> PutDigest {
        self.commit.digest()
    }

    /// Which secret.
    #[must_use]
    pub fn path(&self) -> &SecretPath {
        &self.request.path
    }
}

impl<S: Store> Vault<S> {
    /// Tells a client what to seal a put to. Changes nothing.
    ///
    /// # Errors
    /// [`VaultError::NoKeyspace`], [`VaultError::Ledger`], [`VaultError::Keys`].
    pub async fn begin_put(&self, path: &SecretPath) -> Result<BeginPut, VaultError> {
        self.settled(|| self.begin_put_once(path)).await
    }

    async fn begin_put_once(&self, path: &SecretPath) -> Result<BeginPut, VaultError> {
        self.keyspace(&path.keyspace).await?;
        let head = self.head(path).await?.map(|head| head.body);
        if let Some(head) = &head {
            refuse_destroyed(path, head)?;
        }
        let receive = self.receive.current()?;
        Ok(BeginPut {
            store: self.store_id(),
            secret: head.as_ref().map(|head| head.secret),
            head_version: active_number(head.as_ref()),
            receive_key: receive.public,
            key_id: receive.id,
            boot: self.boot(),
            fields: self
                .active_fields(head.as_ref())
                .await?
                .into_keys()
                .collect(),
        })
    }

    /// Checks what needs no store, and hashes the ciphertexts: the digest tells a repeat before anything else is done.
    ///
    /// # Errors
    /// [`VaultError::TooLarge`], [`VaultError::Put`].
    pub async fn check_put(&self, request: PutRequest) -> Result<CheckedPut, VaultError> {
        let fields = request.values.len().saturating_add(request.carried.len());
        if fields > MAX_FIELDS {
            return Err(VaultError::Put(EnvelopeError::Limit {
                what: "the put, in fields,",
                found: fields,
                limit: MAX_FIELDS,
            }));
        }
        let mut new_bytes = 0usize;
        for value in &request.values {
            let bytes = plaintext_bytes(&value.ct).map_err(|error| {
                // Shorter than a tag: no ciphertext of this or any key.
                if error == EnvelopeError::Refused {
                    let field = value.field.clone();
                    return VaultError::Ciphertext { field };
                }
                VaultError::Put(error)
            })?;
            new_bytes = new_bytes.saturating_add(bytes);
        }
        within_limit(new_bytes)?;
        let store = self.store_id();
        apart(new_bytes, move || {
            let commit = CommitPut::new(parts(store, &request)).map_err(VaultError::Put)?;
            Ok(CheckedPut {
                request,
                commit,
                new_bytes,
            })
        })
        .await
    }

    /// Checks the put against the store, verifies and wraps, and answers the change that commits it.
    ///
    /// # Errors
    /// [`VaultError`]; nothing is changed by this call in any case.
    pub async fn prepare_put(
        &self,
        put: CheckedPut,
        now_ms: u64,
    ) -> Result<PreparedPut, VaultError> {
        let CheckedPut {
            request,
            commit,
            new_bytes,
        } = put;
        let receive = self.receive.find(request.boot, request.key_id);
        let receive = receive.ok_or(VaultError::ReceiveKey)?;
        let keep = self
            .keyspace(&request.path.keyspace)
            .await?
            .body
            .max_versions;
        let read = self.settled(|| self.stands_on(&request)).await?;
        let (base, carried, carried_bytes) = read;
        within_limit(new_bytes.saturating_add(carried_bytes))?;
        self.refuse_taken(&request, base.head.is_none()).await?;
        let (kek, kek_seq) = self.active_kek(&request.path.keyspace).await?;
        let digest = commit.digest();
        let sealing = Sealing {
            store: self.store_id(),
            broker: self.broker.to_string(),
            receive,
            kek: Arc::clone(&kek),
            opened: Arc::clone(&self.opened),
        };
        let (request, sealed) = apart(new_bytes, move || {
            let sealed = sealing.seal(&request, &commit)?;
            Ok((request, sealed))
        })
        .await?;
        let mut change = Change::default();
        change.require_at(
            Table::Kek,
            KekBody::key(&request.path.keyspace, kek.epoch),
            kek_seq,
        );
        add_values(&mut change, &request, &kek, &sealed);
        add_version(&mut change, &request, &base, &sealed, carried, now_ms);
        Ok(PreparedPut {
            change,
            over: keep > 0 && base.version.number() > u64::from(keep),
            version: base.version,
            digest,
        })
    }

    async fn active_fields(
        &self,
        head: Option<&HeadBody>,
    ) -> Result<BTreeMap<FieldName, ValueId>, VaultError> {
        let active = head.and_then(|head| Some((head.secret, head.active?)));
        match active {
            Some((secret, active)) => Ok(self.pointed_version(secret, active).await?.body.fields),
            None => Ok(BTreeMap::new()),
        }
    }

    /// What the put is built on, the values that it carries over, and their bytes.
    async fn stands_on(
        &self,
        request: &PutRequest,
    ) -> Result<(Base, BTreeMap<FieldName, ValueId>, usize), VaultError> {
        let base = check_head(request, self.head(&request.path).await?)?;
        let active = self.active_fields(base.head.as_ref()).await?;
        let carried = carry(request, &active)?;
        let bytes = self.carried_bytes(request, &carried).await?;
        Ok((base, carried, bytes))
    }

    async fn carried_bytes(
        &self,
        request: &PutRequest,
        carried: &BTreeMap<FieldName, ValueId>,
    ) -> Result<usize, VaultError> {
        let mut bytes = 0usize;
        for value in carried.values() {
            let key = self.value_key(request.secret, *value).await?;
            bytes = bytes.saturating_add(key.plaintext_bytes());
        }
        Ok(bytes)
    }

    /// The change requires it again; here it is found early, and named.
    async fn refuse_taken(&self, request: &PutRequest, is_new: bool) -> Result<(), VaultError> {
        for value in &request.values {
            let key = ValueKeyBody::key(value.value);
            if self.ledger.read(Table::ValueKey, &key).await?.is_some() {
                return Err(VaultError::ValueTaken {
                    field: value.field.clone(),
                });
            }
        }
        let first = VersionBody::key(request.secret, SecretVersion::FIRST);
        // A secret of another name has had a first version.
        if is_new && self.ledger.read(Table::Version, &first).await?.is_some() {
            return Err(VaultError::OtherSecret {
                path: request.path.clone(),
            });
        }
        Ok(())
    }
}

/// What a new version is built on.
struct Base {
    /// The head as it is, none for a new secret.
    head: Option<HeadBody>,
    /// The commit that wrote it.
    seq: u64,
    /// The number of the new version.
    version: SecretVersion,
}

/// The head must be the one that the client saw, and the secret its own.
fn check_head(request: &PutRequest, head: Option<Record<HeadBody>>) -> Result<Base, VaultError> {
    let path = || request.path.clone();
    let found = active_number(head.as_ref().map(|head| &head.body));
    if found != request.expected_head_version {
        return Err(VaultError::HeadMoved {
            path: path(),
            expected: request.expected_head_version,
            found,
        });
    }
    let Some(Record { seq, body }) = head else {
        return Ok(Base {
            head: None,
            seq: 0,
            version: SecretVersion::FIRST,
        });
    };
    if body.secret != request.secret {
        return Err(VaultError::OtherSecret { path: path() });
    }
    refuse_destroyed(&request.path, &body)?;
    let version = body.latest.next();
    Ok(Base {
        version: version.ok_or_else(|| VaultError::NoVersionLeft { path: path() })?,
        head: Some(body),
        seq,
    })
}

fn refuse_destroyed(path: &SecretPath, head: &HeadBody) -> Result<(), VaultError> {
    match head.state {
        HeadState::Active | HeadState::Disabled => Ok(()),
        HeadState::Destroyed => Err(VaultError::Absent {
            path: path.clone(),
            absence: Absence::Destroyed,
        }),
    }
}

/// What the new version takes over: exactly what is carried, and nothing of the active version left out unsaid.
fn carry(
    request: &PutRequest,
    active: &BTreeMap<FieldName, ValueId>,
) -> Result<BTreeMap<FieldName, ValueId>, VaultError> {
    let mut carried = BTreeMap::new();
    for field in &request.carried {
        let value = active.get(field).ok_or_else(|| VaultError::NotThere {
            field: field.clone(),
        })?;
        carried.insert(field.clone(), *value);
    }
    let replaces = request.flags & FLAG_REPLACE != 0;
    let sent = |field: &FieldName| request.values.iter().any(|value| value.field == *field);
    match active
        .keys()
        .find(|field| !replaces && !carried.contains_key(*field) && !sent(field))
    {
        Some(field) => Err(VaultError::NotCarried {
            field: field.clone(),
        }),
        None => Ok(carried),
    }
}

fn parts(store: StoreId, request: &PutRequest) -> PutParts {
    PutParts {
        store,
        request: request.request,
        path: request.path.clone(),
        secret: request.secret,
        expected_head_version: request.expected_head_version,
        flags: request.flags,
        note: request.note.clone(),
        fields: request
            .values
            .iter()
            .map(|value| PutField {
                field: value.field.clone(),
                value: value.value,
                ct_hash: CtHash::of(&value.ct),
            })
            .collect(),
        carried: request.carried.clone(),
    }
}

fn active_number(head: Option<&HeadBody>) -> u64 {
    head.and_then(|head| head.active)
        .map_or(0, SecretVersion::number)
}

fn within_limit(found_bytes: usize) -> Result<(), VaultError> {
    if found_bytes <= MAX_VERSION_BYTES {
        return Ok(());
    }
    Err(VaultError::TooLarge {
        found_bytes,
        limit_bytes: MAX_VERSION_BYTES,
    })
}

/// Up to so many bytes a put is worked on where it came in. That takes some 60 us, most of them the one X25519 of any put:
/// little more than it takes to hand work over to another thread and back.
const AT_ONCE_BYTES: usize = 32 * 1024;

/// Runs work on a put's bytes: where it holds up nobody's IO, unless it is over in a moment.
async fn apart<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> Result<T, VaultError> {
    if bytes <= AT_ONCE_BYTES {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| VaultError::Stopping)?
}
