//! Keyspaces' keys as they are listed: how far each is on its way, and how many values it still wraps.

use std::num::NonZeroU32;
use std::sync::Arc;

use attache_envelope::Table;
use attache_envelope::body::{KekBody, KekIndexKey, KekPhase};
use attache_envelope::id::KeyId;
use attache_envelope::name::{KeyRef, Keyspace};

use super::Vault;
use super::error::VaultError;
use super::key_policy::{ActiveKey, Overdue};
use super::records::decoded;
use crate::keys::{Kek, KeysError};
use crate::store::{LedgerError, Store};

/// A key as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    /// Its name.
    pub key: KeyRef,
    /// What wrapped values name it by.
    pub id: KeyId,
    /// What may be done with it.
    pub phase: KekPhase,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it came to its state, in milliseconds since 1970.
    pub changed_ms: u64,
    /// How many values it wraps, by the index.
    pub values: u64,
    /// How often it has wrapped, as far as is known: its values, or since the process started where that is more.
    pub wraps: u64,
    /// When it wrapped or unwrapped last, in milliseconds since 1970; none: not since the process started.
    pub last_used_ms: Option<u64>,
    /// When the active key is too old, in milliseconds since 1970; none without such a limit.
    pub due_ms: Option<u64>,
    /// What the active key is past.
    pub overdue: Option<Overdue>,
}

impl<S: Store> Vault<S> {
    /// The first `limit` keys after `after`, by keyspace and epoch, of one keyspace or of all.
    ///
    /// # Errors
    /// [`VaultError::NoKeyspace`], [`VaultError::Ledger`].
    pub async fn key_views(
        &self,
        keyspace: Option<&Keyspace>,
        after: Option<&KeyRef>,
        limit: usize,
        now_ms: u64,
    ) -> Result<Vec<KeyView>, VaultError> {
        let prefix = match keyspace {
            Some(keyspace) => {
                self.known_keyspace(keyspace).await?;
                KekBody::prefix(keyspace)
            }
            None => Vec::new(),
        };
        let after = after.map(|key| KekBody::key(&key.keyspace, key.epoch.get()));
        let rows = self
            .ledger
            .scan(Table::Kek, &prefix, after.as_deref(), limit)
            .await?;
        let mut views = Vec::with_capacity(rows.len());
        for (row_key, row) in rows {
            let key = key_ref(&row_key)?;
            let kek = decoded(Table::Kek, &row_key, row, KekBody::decode)?.body;
            let values = self.count_wrapped(kek.kek).await?;
            let used = self.keks.used(kek.kek);
            let phase = kek.state.phase();
            let active = match phase {
                KekPhase::Active => Some(ActiveKey {
                    policy: self.known_keyspace(&key.keyspace).await?.body.policy,
                    key: key.clone(),
                    created_ms: kek.created_ms,
                    values: Some(values),
                    wraps: used.wraps,
                }),
                KekPhase::DecryptOnly | KekPhase::Retired | KekPhase::Destroyed => None,
            };
            views.push(KeyView {
                key,
                id: kek.kek,
                phase,
                created_ms: kek.created_ms,
                changed_ms: kek.changed_ms,
                values,
                wraps: used.wraps.max(values),
                last_used_ms: used.last_ms,
                due_ms: active.as_ref().and_then(ActiveKey::due_ms),
                overdue: active.and_then(|it| it.overdue(now_ms)),
            });
        }
        Ok(views)
    }

    /// The KEK that new values of a keyspace are wrapped under, and the commit that its row is of, which whoever commits a
    /// wrap must require.
    ///
    /// # Errors
    /// [`VaultError::NoKeyspace`], [`VaultError::Keys`], [`VaultError::Ledger`].
    pub(super) async fn active_kek(
        &self,
        keyspace: &Keyspace,
    ) -> Result<(Arc<Kek>, u64), VaultError> {
        let mut found = self.keyspace(keyspace).await?;
        loop {
            match self.keks.active(&self.ledger, keyspace, &found.body).await {
                Err(KeysError::NoKek { keyspace: of }) => {
                    // Rotated between the two reads: then the keyspace says another epoch now.
                    let again = self.keyspace(keyspace).await?;
                    if again.seq == found.seq {
                        return Err(KeysError::NoKek { keyspace: of }.into());
                    }
                    found = again;
                }
                other => return Ok(other?),
            }
        }
    }

    /// Wipes an open KEK from memory; whoever needs it opens it from its row.
    pub fn forget_key(&self, key: &KeyRef, id: KeyId) {
        self.keks.forget(&key.keyspace, id);
    }

    /// Wipes all open KEKs of a keyspace from memory.
    pub fn forget_keyspace(&self, keyspace: &Keyspace) {
        self.keks.forget_all(keyspace);
    }

    /// How many values a KEK wraps by the index.
    pub(super) async fn count_wrapped(&self, kek: KeyId) -> Result<u64, VaultError> {
        self.count(Table::KekIndex, &KekIndexKey::prefix(kek)).await
    }
}

/// Which key a row is of.
pub(super) fn key_ref(row_key: &[u8]) -> Result<KeyRef, VaultError> {
    let parsed = KekBody::parse_key(row_key).ok();
    let key = parsed.and_then(|(keyspace, epoch)| {
        let epoch = NonZeroU32::new(epoch)?;
        Some(KeyRef { keyspace, epoch })
    });
    key.ok_or_else(|| LedgerError::damaged(Table::Kek, row_key).into())
}
