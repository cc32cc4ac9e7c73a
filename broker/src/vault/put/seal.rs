//! A put's data keys: opened into locked memory, each held against its ciphertext, wrapped under the KEK, wiped.
//!
//! No plaintext is computed: the tag alone is verified.

use std::collections::BTreeMap;
use std::sync::Arc;

use attache_arena::LockedPool;
use attache_envelope::MAX_FIELDS;
use attache_envelope::channel::Channel;
use attache_envelope::id::StoreId;
use attache_envelope::key::{Dek, KEY_BYTES};
use attache_envelope::put::{CommitPut, PutField};
use attache_envelope::value::ValueBinding;
use attache_envelope::wrap::{DekBinding, WrappedKey};
use bytes::Bytes;

use super::PutRequest;
use crate::keys::{Kek, KeysError, PreparedKek, ReceiveKey};
use crate::vault::VaultError;

/// Room for the keys of as many fields as a version has.
pub(in crate::vault) const OPENED_BYTES: usize = MAX_FIELDS * KEY_BYTES;

/// What turns a put's keys into wrapped ones.
pub(super) struct Sealing {
    pub(super) store: StoreId,
    pub(super) broker: String,
    pub(super) receive: Arc<ReceiveKey>,
    pub(super) kek: Arc<Kek>,
    /// Buffers of [`OPENED_BYTES`].
    pub(super) opened: Arc<LockedPool>,
}

/// A value whose tag was verified, its key wrapped.
pub(super) struct SealedValue {
    pub(super) put: PutField,
    pub(super) ct: Bytes,
    pub(super) wrapped: WrappedKey,
}

impl Sealing {
    /// Opens, verifies and wraps all of them, or answers which one is not right.
    pub(super) fn seal(
        &self,
        request: &PutRequest,
        commit: &CommitPut,
    ) -> Result<Vec<SealedValue>, VaultError> {
        let by_field: BTreeMap<_, _> = request
            .values
            .iter()
            .map(|value| (&value.field, &value.ct))
            .collect();
        self.opened.with(|room| {
            let fields = commit.fields();
            let keys = room.get_mut(..fields.len() * KEY_BYTES);
            let keys = keys.ok_or(VaultError::SealedKeys)?;
            self.open_keys(request, commit, keys)?;
            let (deks, _) = keys.as_chunks::<KEY_BYTES>();
            let kek = self.kek.prepared()?;
            let mut sealed = Vec::with_capacity(deks.len());
            for (put, dek) in fields.iter().zip(deks) {
                let ct = by_field.get(&put.field).ok_or(VaultError::SealedKeys)?;
                sealed.push(SealedValue {
                    wrapped: self.verify_and_wrap(request, put, ct, Dek::new(dek), &kek)?,
                    put: put.clone(),
                    ct: Bytes::clone(ct),
                });
            }
            Ok(sealed)
        })
    }

    fn open_keys(
        &self,
        request: &PutRequest,
        commit: &CommitPut,
        keys: &mut [u8],
    ) -> Result<(), VaultError> {
        let operator = request.operator.to_string();
        let channel = Channel {
            store: self.store,
            broker_id: &self.broker,
            boot: request.boot,
            key_id: request.key_id,
            operator_id: &operator,
        };
        let (secret, sealed) = (self.receive.secret(), &request.sealed_keys);
        commit
            .open_keys(secret, &request.enc, &channel, sealed, keys)
            .map_err(|_| VaultError::SealedKeys)
    }

    fn verify_and_wrap(
        &self,
        request: &PutRequest,
        put: &PutField,
        ct: &[u8],
        dek: Dek<'_>,
        kek: &PreparedKek<'_>,
    ) -> Result<WrappedKey, VaultError> {
        let keyspace = &request.path.keyspace;
        let value = ValueBinding {
            store: self.store,
            keyspace,
            secret: request.secret,
            value: put.value,
            field: &put.field,
        };
        dek.verify_tag(ct, &value)
            .map_err(|_| VaultError::Ciphertext {
                field: put.field.clone(),
            })?;
        let binding = DekBinding {
            store: self.store,
            keyspace,
            secret: request.secret,
            value: put.value,
            kek: kek.id(),
            ct_hash: put.ct_hash,
        };
        let wrapped = kek.wrap_dek(&binding, dek);
        Ok(wrapped.map_err(KeysError::from)?)
    }
}
