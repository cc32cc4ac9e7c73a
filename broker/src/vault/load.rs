//! What a release takes from the store: which values, their ciphertexts as stored, their keys still wrapped.
//!
//! Head -> version -> value key -> payload. The hash of a ciphertext is the one that was computed at the put; it is
//! not computed again here (`check_store` does), since the wrap of the key is bound to it.

use std::collections::BTreeMap;

use attache_arena::Key;
use attache_envelope::Table;
use attache_envelope::body::{HeadState, VersionBody};
use attache_envelope::id::{KeyId, SecretId, ValueId};
use attache_envelope::name::{FieldName, SecretPath, SecretVersion};
use attache_envelope::value::CtHash;
use attache_envelope::wrap::{DekBinding, WrappedKey};
use bytes::Bytes;

use super::Vault;
use super::error::{Absence, VaultError};
use crate::keys::KeysError;
use crate::store::{LedgerError, Store};

/// Something of a secret, or what of it is not there: no error, since a release decides over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// It is there.
    Found(T),
    /// It is not.
    Absent(Absence),
}

/// Which values a reference means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The secret's path.
    pub path: SecretPath,
    /// Its id.
    pub secret: SecretId,
    /// The version.
    pub version: SecretVersion,
    /// Its fields.
    pub fields: BTreeMap<FieldName, ValueId>,
}

/// Values of one version, sealed as they are stored.
#[derive(Debug, Clone)]
pub struct StoredSecret {
    /// The secret's path.
    pub path: SecretPath,
    /// Its id.
    pub secret: SecretId,
    /// The version.
    pub version: SecretVersion,
    /// The values asked for, by field.
    pub fields: Vec<StoredField>,
}

/// One value, sealed as it is stored.
#[derive(Debug, Clone)]
pub struct StoredField {
    /// The field.
    pub field: FieldName,
    /// The value.
    pub value: ValueId,
    /// SHA-256 of the ciphertext, from the put.
    pub ct_hash: CtHash,
    /// The ciphertext and its tag.
    pub payload: Bytes,
    kek: KeyId,
    wrapped: WrappedKey,
}

impl<S: Store> Vault<S> {
    /// Finds which values a secret has: of the active version, or of the one named.
    ///
    /// # Errors
    /// [`VaultError::Ledger`] for a damaged record of this secret, or a store that cannot be read.
    pub async fn resolve(
        &self,
        path: &SecretPath,
        version: Option<SecretVersion>,
    ) -> Result<Lookup<Resolved>, VaultError> {
        self.settled(|| self.resolve_once(path, version)).await
    }

    async fn resolve_once(
        &self,
        path: &SecretPath,
        version: Option<SecretVersion>,
    ) -> Result<Lookup<Resolved>, VaultError> {
        // First of all: rows of a destroyed keyspace may be left.
        if self.is_destroyed(&path.keyspace).await? {
            return Ok(Lookup::Absent(Absence::Keyspace));
        }
        let Some(head) = self.head(path).await? else {
            return Ok(Lookup::Absent(Absence::Secret));
        };
        let head = head.body;
        match head.state {
            HeadState::Active => {}
            HeadState::Disabled => return Ok(Lookup::Absent(Absence::Disabled)),
            HeadState::Destroyed => return Ok(Lookup::Absent(Absence::Destroyed)),
        }
        let found = match (version, head.active) {
            (None, None) => return Ok(Lookup::Absent(Absence::NoActiveVersion)),
            (None, Some(active)) => self.pointed_version(head.secret, active).await?.body,
            // What is above the latest was never this secret's.
            (Some(version), _) if version > head.latest => {
                return Ok(Lookup::Absent(Absence::Version(version)));
            }
            (Some(version), _) => match self.version(head.secret, version).await? {
                Some(found) => found.body,
                None => return Ok(Lookup::Absent(Absence::Version(version))),
            },
        };
        let VersionBody { number, fields, .. } = found;
        Ok(Lookup::Found(Resolved {
            path: path.clone(),
            secret: head.secret,
            version: number,
            fields,
        }))
    }

    /// Loads the sealed values of these fields, in this order.
    ///
    /// # Errors
    /// [`VaultError::Ledger`] for a damaged record of one of these values.
    pub async fn load_resolved(
        &self,
        resolved: &Resolved,
        fields: &[FieldName],
    ) -> Result<Lookup<StoredSecret>, VaultError> {
        let mut stored = Vec::with_capacity(fields.len());
        for field in fields {
            let Some(value) = resolved.fields.get(field) else {
                return Ok(Lookup::Absent(Absence::Field(field.clone())));
            };
            let read = self.settled(|| self.stored_field(resolved.secret, field, *value));
            match read.await {
                Ok(field) => stored.push(field),
                // It was resolved, and the version destroyed: that is no damage.
                Err(error @ VaultError::Ledger(LedgerError::Damaged { .. })) => {
                    let now = self.resolve(&resolved.path, Some(resolved.version));
                    return match now.await {
                        Ok(Lookup::Absent(absence)) => Ok(Lookup::Absent(absence)),
                        Ok(Lookup::Found(_)) | Err(_) => Err(error),
                    };
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Lookup::Found(StoredSecret {
            path: resolved.path.clone(),
            secret: resolved.secret,
            version: resolved.version,
            fields: stored,
        }))
    }

    /// Resolves and loads in one call; all fields when none are named.
    ///
    /// # Errors
    /// As [`Vault::resolve`] and [`Vault::load_resolved`].
    pub async fn load(
        &self,
        path: &SecretPath,
        version: Option<SecretVersion>,
        fields: Option<&[FieldName]>,
    ) -> Result<Lookup<StoredSecret>, VaultError> {
        let resolved = match self.resolve(path, version).await? {
            Lookup::Found(resolved) => resolved,
            Lookup::Absent(absence) => return Ok(Lookup::Absent(absence)),
        };
        match fields {
            Some(fields) => self.load_resolved(&resolved, fields).await,
            None => {
                let all: Vec<_> = resolved.fields.keys().cloned().collect();
                self.load_resolved(&resolved, &all).await
            }
        }
    }

    /// Unwraps the values' data keys into cells of the arena, in the order of the fields.
    ///
    /// # Errors
    /// [`VaultError::Ledger`] for a wrap that does not open; [`VaultError::Keys`] when the arena is full.
    pub async fn open_deks(&self, stored: &StoredSecret) -> Result<Vec<Key>, VaultError> {
        let keyspace = &stored.path.keyspace;
        let mut deks = Vec::with_capacity(stored.fields.len());
        for field in &stored.fields {
            let kek = match self.keks.of_id(&self.ledger, keyspace, field.kek).await {
                Ok(kek) => kek,
                Err(error @ KeysError::NoKek { .. }) => {
                    self.refuse_in_destroyed(&stored.path).await?;
                    return Err(error.into());
                }
                Err(error) => return Err(error.into()),
            };
            let binding = DekBinding {
                store: self.store_id(),
                keyspace,
                secret: stored.secret,
                value: field.value,
                kek: field.kek,
                ct_hash: field.ct_hash,
            };
            let dek = kek
                .prepared()
                .and_then(|kek| kek.unwrap_dek(self.keys(), &binding, &field.wrapped));
            deks.push(dek.map_err(|error| of_value(error, field.value))?);
        }
        Ok(deks)
    }

    async fn stored_field(
        &self,
        secret: SecretId,
        field: &FieldName,
        value: ValueId,
    ) -> Result<StoredField, VaultError> {
        let key = self.value_key(secret, value).await?;
        let payload = self.ledger.payload(value).await?;
        if u32::try_from(payload.len()) != Ok(key.ct_bytes) {
            return Err(LedgerError::damaged(Table::Payload, value.as_bytes()).into());
        }
        Ok(StoredField {
            field: field.clone(),
            value,
            ct_hash: key.ct_hash,
            payload,
            kek: key.kek,
            wrapped: key.wrapped,
        })
    }
}

/// A wrap that does not open is damage of its value's key row.
fn of_value(error: KeysError, value: ValueId) -> VaultError {
    if let KeysError::Envelope(_) = error {
        return LedgerError::damaged(Table::ValueKey, value.as_bytes()).into();
    }
    error.into()
}
