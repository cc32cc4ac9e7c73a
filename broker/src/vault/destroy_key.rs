//! The end of a retired key: nothing in the whole store may name it, then its wrapped bytes are gone.
//!
//! ```text
//! retired (nothing is wrapped under it any more, since a wrap requires an active key)
//!   -> every value-key row read, none names it -> destroyed, if its row is still the one that was read
//! ```
//! Before all of this its keyspace's backup age must be over since it was retired, unless an operator says otherwise.
//! An index that has nothing of a key is no proof: the index is what the retirement went by. A row that cannot be read
//! proves nothing either, so the key stays.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use attache_envelope::Table;
use attache_envelope::body::{
    HeadBody, KekBody, KekPhase, KekState, KeyspaceBody, ValueKeyBody, VersionBody,
};
use attache_envelope::id::{KeyId, SecretId, ValueId};
use attache_envelope::name::{FieldName, KeyRef, SecretPath, SecretRef};
use jiff::Timestamp;

use super::Vault;
use super::error::VaultError;
use super::records::{Record, decoded};
use crate::store::{Change, LedgerError, Store};

/// What a destroyed key leaves behind, after the commit that it went with: no wrapped byte of it is in the live store, and
/// nobody can promise more.
pub const DESTROYED: &str = "recoverable from copies taken before and from unreclaimed pages by any slot valid then; \
                             final when those copies are gone";

/// Rows read at once.
const PAGE: usize = 512;

/// How many values a refusal names.
const NAMED: usize = 8;

/// Whether a key may go while backups that have it may still be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupAge {
    /// Not before its keyspace's backup age is over.
    Wait,
    /// At once: an operator says so.
    Now,
}

/// A destruction that can be applied.
#[derive(Debug)]
pub struct PreparedDestruction {
    /// On the condition that the key's row is still the one that was read.
    pub change: Change,
    /// What wrapped values named the key by.
    pub id: KeyId,
    /// When the key was made, in milliseconds since 1970: backups since then have it.
    pub created_ms: u64,
}

/// A retired key that no value of the store needs. It stays so: a wrap requires an active key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreferenced {
    key: KeyRef,
    id: KeyId,
}

impl<S: Store> Vault<S> {
    /// Refuses a key that is retired for less than its keyspace's backup age.
    ///
    /// # Errors
    /// [`VaultError::WithinBackupAge`]; [`VaultError::NoKey`], [`VaultError::KeyNotRetired`], [`VaultError::Ledger`].
    pub async fn refuse_within_backup_age(
        &self,
        key: &KeyRef,
        now_ms: u64,
    ) -> Result<(), VaultError> {
        let found = self.retired(key).await?.body;
        self.wait_for_backup_age(key, &found, now_ms)
            .await
            .map(drop)
    }

    /// Answers the commit of the keyspace's row that says so.
    async fn wait_for_backup_age(
        &self,
        key: &KeyRef,
        retired: &KekBody,
        now_ms: u64,
    ) -> Result<u64, VaultError> {
        let keyspace = self.keyspace(&key.keyspace).await?;
        let policy = keyspace.body.policy;
        let until_ms = retired
            .changed_ms
            .saturating_add(u64::from(policy.backup_age_s) * 1000);
        if policy.backup_age_s == 0 || until_ms <= now_ms {
            return Ok(keyspace.seq);
        }
        let from = i64::try_from(until_ms).ok();
        let from = from.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        Err(VaultError::WithinBackupAge {
            key: key.clone(),
            from: from.unwrap_or(Timestamp::MAX),
        })
    }

    /// Looks at every value of the store for one that needs a retired key; `looked` counts them.
    ///
    /// Takes CPU for some 5 us a value: run it where it holds up nobody's IO.
    ///
    /// # Errors
    /// [`VaultError::NoKey`], [`VaultError::KeyNotRetired`], [`VaultError::KeyReferenced`]; [`VaultError::Ledger`], for a
    /// value whose record is damaged too.
    pub async fn look_for_references(
        &self,
        key: &KeyRef,
        looked: &AtomicU64,
    ) -> Result<Unreferenced, VaultError> {
        let id = self.retired(key).await?.body.kek;
        self.refuse_while_referenced(key, id, looked).await?;
        let key = key.clone();
        Ok(Unreferenced { key, id })
    }

    /// How many values there are to look at.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn values_to_look_at(&self) -> Result<u64, VaultError> {
        let (_, tip) = self.ledger.snapshot().await?;
        let values = tip.anchor.tables.get(&Table::ValueKey);
        Ok(values.map_or(0, |sum| u64::from(sum.count())))
    }

    /// Prepares the end of a retired key that nothing needs.
    ///
    /// # Errors
    /// [`VaultError::NoKey`], [`VaultError::KeyNotRetired`], [`VaultError::WithinBackupAge`], [`VaultError::Ledger`].
    pub async fn prepare_destruction(
        &self,
        unreferenced: &Unreferenced,
        backup_age: BackupAge,
        now_ms: u64,
    ) -> Result<PreparedDestruction, VaultError> {
        let key = &unreferenced.key;
        let found = self.retired(key).await?;
        let (id, created_ms) = (found.body.kek, found.body.created_ms);
        if id != unreferenced.id {
            return Err(VaultError::NoKey(key.clone()));
        }
        let mut change = Change::default();
        if backup_age == BackupAge::Wait {
            let seq = self.wait_for_backup_age(key, &found.body, now_ms).await?;
            // Whoever demands more meanwhile is not passed by.
            change.require_at(Table::Keyspace, KeyspaceBody::key(&key.keyspace), seq);
        }
        let body = KekBody {
            state: KekState::Destroyed,
            changed_ms: now_ms,
            ..found.body
        };
        let row_key = KekBody::key(&key.keyspace, key.epoch.get());
        change.require_at(Table::Kek, row_key.clone(), found.seq);
        change.put(Table::Kek, row_key, body.encode());
        Ok(PreparedDestruction {
            change,
            id,
            created_ms,
        })
    }

    /// The row of a key that is retired.
    ///
    /// # Errors
    /// [`VaultError::NoKey`], [`VaultError::KeyNotRetired`], [`VaultError::Ledger`].
    pub(super) async fn retired(&self, key: &KeyRef) -> Result<Record<KekBody>, VaultError> {
        let found = self.kek_row(key).await?;
        let found = found.ok_or_else(|| VaultError::NoKey(key.clone()))?;
        match found.body.state.phase() {
            KekPhase::Retired => Ok(found),
            phase @ (KekPhase::Active | KekPhase::DecryptOnly | KekPhase::Destroyed) => {
                let key = key.clone();
                Err(VaultError::KeyNotRetired { key, phase })
            }
        }
    }

    /// Reads every value-key row of the store.
    async fn refuse_while_referenced(
        &self,
        key: &KeyRef,
        id: KeyId,
        looked: &AtomicU64,
    ) -> Result<(), VaultError> {
        let (mut count, mut first) = (0, Vec::new());
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self
                .ledger
                .scan(Table::ValueKey, b"", after.as_deref(), PAGE);
            let page = page.await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            looked.fetch_add(page.len() as u64, Ordering::Relaxed);
            for (row_key, row) in page {
                let damaged = |_| LedgerError::damaged(Table::ValueKey, &row_key);
                let value = ValueId::try_from(row_key.as_slice()).map_err(damaged)?;
                let body = decoded(Table::ValueKey, &row_key, row, ValueKeyBody::decode)?.body;
                if body.kek == id {
                    count += 1;
                    if first.len() < NAMED {
                        first.push((body.secret, value));
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        if count == 0 {
            return Ok(());
        }
        Err(VaultError::KeyReferenced {
            key: key.clone(),
            count,
            named: self.named(key, &first).await?,
        })
    }

    /// Values as people know them: `KEYSPACE/NAME@VERSION#FIELD`, of the first version that has each; else by their ids.
    async fn named(
        &self,
        key: &KeyRef,
        values: &[(SecretId, ValueId)],
    ) -> Result<Vec<String>, VaultError> {
        let secrets: BTreeSet<_> = values.iter().map(|(secret, _)| *secret).collect();
        let mut names = vec![None; values.len()];
        let prefix = format!("{}/", key.keyspace);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self
                .ledger
                .scan(Table::Head, prefix.as_bytes(), after.as_deref(), PAGE);
            let page = page.await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (row_key, row) in page {
                let head = decoded(Table::Head, &row_key, row, HeadBody::decode)?.body;
                let path = std::str::from_utf8(&row_key).ok();
                let path: Option<SecretPath> = path.and_then(|path| path.parse().ok());
                let Some(path) = path.filter(|_| secrets.contains(&head.secret)) else {
                    continue;
                };
                let of_secret = values.iter().zip(&mut names);
                for ((_, value), name) in of_secret.filter(|((it, _), _)| *it == head.secret) {
                    *name = self.reference(&path, head.secret, *value).await?;
                }
            }
        }
        let named = values.iter().zip(names);
        Ok(named
            .map(|((_, value), name)| name.unwrap_or_else(|| format!("value {value}")))
            .collect())
    }

    async fn reference(
        &self,
        path: &SecretPath,
        secret: SecretId,
        value: ValueId,
    ) -> Result<Option<String>, VaultError> {
        let versions = self
            .ledger
            .scan(Table::Version, secret.as_bytes(), None, PAGE);
        for (row_key, row) in versions.await? {
            let version = decoded(Table::Version, &row_key, row, VersionBody::decode)?.body;
            let mut fields = version.fields.into_iter();
            let found: Option<(FieldName, _)> = fields.find(|(_, its)| *its == value);
            if let Some((field, _)) = found {
                let reference = SecretRef {
                    path: path.clone(),
                    version: Some(version.number),
                    field: Some(field),
                };
                return Ok(Some(reference.to_string()));
            }
        }
        Ok(None)
    }
}
