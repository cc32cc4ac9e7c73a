//! The rows of a put: two, and for each value one and a ciphertext. The ledger adds its place in the index.
//!
//! Every row that must not be there yet is required absent, and the head to be the one that was read.

use std::collections::BTreeMap;

use attache_envelope::Table;
use attache_envelope::body::{HeadBody, HeadState, ValueKeyBody, VersionBody};
use attache_envelope::id::ValueId;
use attache_envelope::name::FieldName;

use super::seal::SealedValue;
use super::{Base, PutRequest};
use crate::keys::Kek;
use crate::store::Change;

/// Adds a row and a payload a value: its key, and its ciphertext; neither may be there yet.
pub(super) fn add_values(
    change: &mut Change,
    request: &PutRequest,
    kek: &Kek,
    sealed: &[SealedValue],
) {
    for SealedValue { put, ct, wrapped } in sealed {
        let key = ValueKeyBody::key(put.value);
        let body = ValueKeyBody {
            secret: request.secret,
            kek: kek.id,
            ct_hash: put.ct_hash,
            // At most 1 MiB and a tag: checked before it was hashed.
            ct_bytes: u32::try_from(ct.len()).unwrap_or(u32::MAX),
            wrapped: wrapped.clone(),
        };
        change.require_absent(Table::ValueKey, key.clone());
        change.put(Table::ValueKey, key, body.encode());
        change.payloads.push((put.value, ct.clone()));
    }
}

/// Adds the version and the head that points to it.
pub(super) fn add_version(
    change: &mut Change,
    request: &PutRequest,
    base: &Base,
    sealed: &[SealedValue],
    carried: BTreeMap<FieldName, ValueId>,
    now_ms: u64,
) {
    let by = request.operator.to_string();
    let mut fields = carried;
    let new = sealed.iter().map(|it| (it.put.field.clone(), it.put.value));
    fields.extend(new);
    let version = VersionBody {
        number: base.version,
        fields,
        created_ms: now_ms,
        created_by: by.clone(),
        note: request.note.clone(),
        pinned: false,
    };
    let head_key = HeadBody::key(&request.path);
    let head = HeadBody {
        secret: request.secret,
        state: base
            .head
            .as_ref()
            .map_or(HeadState::Active, |head| head.state),
        active: Some(base.version),
        latest: base.version,
        created_ms: base.head.as_ref().map_or(now_ms, |head| head.created_ms),
        changed_ms: now_ms,
        changed_by: by,
    };
    match &base.head {
        Some(_) => change.require_at(Table::Head, head_key.clone(), base.seq),
        None => change.require_absent(Table::Head, head_key.clone()),
    }
    // For a new secret also this: its id is no other secret's, for every secret has had a first version.
    let version_key = VersionBody::key(request.secret, base.version);
    change.require_absent(Table::Version, version_key.clone());
    change.put(Table::Version, version_key, version.encode());
    change.put(Table::Head, head_key, head.encode());
}
