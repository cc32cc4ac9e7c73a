//! The blind put: values are encrypted here, and their keys sealed to the broker, bound to everything that is put.
//!
//! ```text
//! BeginPut(name)  -> store, secret, head, receive key          a read
//! seal            -> ciphertexts; DEKs by HPKE; aad = digest of all of it, the request's id included
//! CommitPut       -> version                                   the same bytes again when no answer came
//! ```
//!
//! A put that lost a race begins again, with new data keys and a new request id: a data key encrypts once, and a
//! request id stands for one content. The broker that answered must be the pinned one. Nothing leaves this module that
//! is not sealed.

use attache_envelope::id::{RequestId, SecretId, StoreId, ValueId};
use attache_envelope::name::{FieldName, SecretPath};
use attache_envelope::put::{CommitPut, FLAG_REPLACE, PutField, PutParts};
use attache_envelope::value::{CtHash, DataKey, UsedDataKey, ValueBinding};
use attache_envelope::{EnvelopeError, SystemRandom};
use attache_proto::attache::v1::{self as pb, secrets_client::SecretsClient};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::failure::{Exit, Failure};
use crate::fields::FieldValue;
use crate::offered::{Offer, Offered, malformed};
use crate::session::{Session, change_failure, mutation};
use crate::status::reason;

/// How often a put that lost a race begins again.
const RACES: u32 = 8;

/// What is to be put.
pub struct Plan {
    /// The secret.
    pub path: SecretPath,
    /// The fields with their values.
    pub values: Vec<FieldValue>,
    /// Whether fields that are not named are dropped.
    pub replace: bool,
    /// The active version that it must be put on; 0 for none.
    pub expect_version: Option<u64>,
    /// Whether nothing is to change.
    pub dry_run: bool,
}

/// What was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The request that did it.
    pub request: Uuid,
    /// The new version.
    pub version: u64,
    /// The store's seq behind it.
    pub seq: u64,
    /// Whether an earlier attempt had done it already.
    pub repeated: bool,
    /// The fields that were put.
    pub sealed: Vec<String>,
    /// The fields that were carried over.
    pub carried: Vec<String>,
}

/// A broker's answer to `BeginPut`, checked.
#[derive(Debug)]
pub struct Begun {
    offered: Offered,
    secret: Option<SecretId>,
    head_version: u64,
    fields: Vec<FieldName>,
}

/// Puts a new version.
///
/// # Errors
/// As [`crate::status`] says; [`Exit::Precondition`] when another version is active than the one expected, or other
/// writers were faster every time.
pub async fn put(session: &Session, plan: &Plan) -> Result<Stored, Failure> {
    let what = format!("{} was not stored", plan.path);
    let mut races = 0;
    loop {
        let begun = begin(session, plan, &what).await?;
        let (id, request) = seal(
            session.operator(),
            &session.broker().to_string(),
            &begun,
            plan,
        )
        .map_err(|error| Failure::new(Exit::Failed, &what).caused_by(&error))?;
        let answer: Result<pb::CommitPutResponse, _> = session
            .attempt(&request, |channel, request| async move {
                SecretsClient::new(channel).commit_put(request).await
            })
            .await;
        match answer {
            Ok(answer) => return Ok(stored(id, &request, &answer)),
            Err(status) if races < RACES && begins_again(&status, plan) => races += 1,
            Err(status) => return Err(change_failure(&what, id, &status)),
        }
    }
}

/// Whether another attempt may do. A version that is expected is looked at again when it begins: it may be the keyspace's key
/// that has changed, and not the secret.
fn begins_again(status: &Status, plan: &Plan) -> bool {
    let moved = reason(status).is_some_and(|reason| reason == "CHANGED_MEANWHILE");
    lost_race(status.code()) && (plan.expect_version.is_none() || moved)
}

/// The codes by which a broker says that the head is not any more what `BeginPut` said.
fn lost_race(code: Code) -> bool {
    matches!(code, Code::Aborted | Code::FailedPrecondition)
}

async fn begin(session: &Session, plan: &Plan, what: &str) -> Result<Begun, Failure> {
    let request = pb::BeginPutRequest {
        path: Some(wire_path(&plan.path)),
    };
    let answer: pb::BeginPutResponse = session
        .read(what, &request, |channel, request| async move {
            SecretsClient::new(channel).begin_put(request).await
        })
        .await?;
    let begun = Begun::check(&answer, &session.broker().to_string())
        .map_err(|why| Failure::new(Exit::Failed, what).because(why))?;
    match plan.expect_version {
        Some(expected) if expected != begun.head_version => {
            Err(Failure::new(Exit::Precondition, what)
                .because(match begun.head_version {
                    0 => format!("the secret does not exist, and version {expected} was expected"),
                    found => format!("version {found} is active, and {expected} was expected"),
                })
                .mend(format!(
                    "look at what changed: attache secret versions {}",
                    plan.path
                )))
        }
        _ => Ok(begun),
    }
}

impl Begun {
    /// Checks a broker's answer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(answer: &pb::BeginPutResponse, pinned: &str) -> Result<Self, String> {
        let offer = Offer {
            broker_id: &answer.broker_id,
            store: &answer.store,
            receive_key: &answer.receive_key,
            key_id: &answer.key_id,
            boot: &answer.boot,
        };
        let offered = Offered::check(&offer, pinned)?;
        let secret = match answer.secret.as_slice() {
            [] => None,
            bytes => Some(SecretId::try_from(bytes).map_err(malformed)?),
        };
        if secret.is_none() && answer.head_version != 0 {
            return Err(malformed("a version without a secret"));
        }
        Ok(Self {
            offered,
            secret,
            head_version: answer.head_version,
            fields: answer
                .fields
                .iter()
                .map(|field| field.parse())
                .collect::<Result<_, _>>()
                .map_err(malformed)?,
        })
    }
}

/// One value, encrypted, with the key that did it.
struct SealedValue {
    put: PutField,
    ct: Vec<u8>,
    key: UsedDataKey,
}

/// Encrypts every value under a new key of its own, and seals the keys to the broker.
///
/// # Errors
/// [`EnvelopeError`] for a put that is none, or without randomness.
pub fn seal(
    operator: &str,
    broker: &str,
    begun: &Begun,
    plan: &Plan,
) -> Result<(Uuid, pb::CommitPutRequest), EnvelopeError> {
    let random = &SystemRandom;
    let (id, mutation) = mutation(plan.dry_run);
    let secret = begun.secret.map_or_else(|| SecretId::random(random), Ok)?;
    let mut values = plan
        .values
        .iter()
        .map(|value| seal_value(begun.offered.store, secret, &plan.path, value))
        .collect::<Result<Vec<_>, _>>()?;
    values.sort_unstable_by(|a, b| a.put.field.cmp(&b.put.field));
    let sent = |field: &FieldName| values.iter().any(|value| value.put.field == *field);
    let carried = begun
        .fields
        .iter()
        .filter(|field| !plan.replace && !sent(field))
        .cloned()
        .collect();
    let flags = if plan.replace { FLAG_REPLACE } else { 0 };
    let commit = CommitPut::new(PutParts {
        store: begun.offered.store,
        request: RequestId::from_bytes(id.into_bytes()),
        path: plan.path.clone(),
        secret,
        expected_head_version: begun.head_version,
        flags,
        note: String::new(),
        fields: values.iter().map(|value| value.put.clone()).collect(),
        carried,
    })?;
    let channel = begun.offered.channel(broker, operator);
    let deks: Vec<_> = values.iter().map(|value| value.key.dek()).collect();
    let (enc, sealed_keys) =
        commit.seal_keys(random, &begun.offered.receive_key, &channel, &deks)?;
    let request = pb::CommitPutRequest {
        mutation,
        path: Some(wire_path(&plan.path)),
        secret: secret.as_bytes().to_vec(),
        expected_head_version: begun.head_version,
        carried: commit.carried().iter().map(FieldName::to_string).collect(),
        flags,
        note: String::new(),
        key_id: begun.offered.key_id.as_bytes().to_vec(),
        boot: begun.offered.boot.as_bytes().to_vec(),
        enc: enc.as_bytes().to_vec(),
        sealed_keys,
        values: values
            .into_iter()
            .map(|value| pb::PutValue {
                field: value.put.field.to_string(),
                value: value.put.value.as_bytes().to_vec(),
                ct: value.ct.into(),
            })
            .collect(),
    };
    Ok((id, request))
}

fn seal_value(
    store: StoreId,
    secret: SecretId,
    path: &SecretPath,
    value: &FieldValue,
) -> Result<SealedValue, EnvelopeError> {
    let id = ValueId::random(&SystemRandom)?;
    let binding = ValueBinding {
        store,
        keyspace: &path.keyspace,
        secret,
        value: id,
        field: &value.field,
    };
    let (ct, key) = DataKey::random(&SystemRandom)?.seal(&value.value, &binding)?;
    let put = PutField {
        field: value.field.clone(),
        value: id,
        ct_hash: CtHash::of(&ct),
    };
    Ok(SealedValue { put, ct, key })
}

fn stored(id: Uuid, request: &pb::CommitPutRequest, answer: &pb::CommitPutResponse) -> Stored {
    let committed = answer.committed.unwrap_or_default();
    Stored {
        request: id,
        version: answer.version,
        seq: committed.seq,
        repeated: committed.repeated,
        sealed: request
            .values
            .iter()
            .map(|value| value.field.clone())
            .collect(),
        carried: request.carried.clone(),
    }
}

/// A path as it goes on the wire.
#[must_use]
pub fn wire_path(path: &SecretPath) -> pb::SecretPath {
    pb::SecretPath {
        keyspace: path.keyspace.to_string(),
        name: path.name.to_string(),
    }
}

#[cfg(test)]
mod tests;
