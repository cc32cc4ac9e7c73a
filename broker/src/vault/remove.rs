//! What is left of a destroyed keyspace: taken out of the store a page at a time, until only its own row is there.
//!
//! ```text
//! values, by the index of each of its keys:  value-key row with its row of the index, ciphertext
//! secrets, by their names:                   versions but the first, then the first with the head
//! ```
//! A head and its first version go in one commit: while one of them is there, the secret's id is no other name's. Every
//! page stands on the keyspace's row, and a key's values go only once its row says that it is destroyed. A row that is
//! damaged stays and is counted, and so do those that it leads to; it stops no page.

use std::num::NonZeroU32;

use attache_envelope::Table;
use attache_envelope::body::{
    HeadBody, KekBody, KekIndexKey, KekPhase, KeyspaceBody, KeyspaceState, ValueKeyBody,
    VersionBody,
};
use attache_envelope::id::{SecretId, ValueId};
use attache_envelope::name::{Keyspace, SecretVersion};

use super::Vault;
use super::error::VaultError;
use super::kek_index::{IndexPage, index_page};
use super::records::{Found, Record};
use crate::store::{Change, LedgerError, Store};

/// Rows of keys and keyspaces read at once.
const PAGE: usize = 512;

/// How far a pass is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    /// Values: up to the row of this key of the KEK index, of the key of this epoch.
    Value(NonZeroU32, Vec<u8>),
    /// All values, and secrets up to this row; none: from the first.
    Secret(Option<Vec<u8>>),
}

/// A part of what is to be removed.
#[derive(Debug, Default)]
pub struct RemovalPage {
    /// What removes it.
    pub change: Change,
    /// How many values it removes.
    pub values: u64,
    /// How many rows of the table that was gone through it removes.
    pub rows: u64,
    /// Rows that stay, since they are damaged or lead to one that is.
    pub unreadable: u64,
    /// How far it goes; none when it found nothing more.
    pub passed: Option<Passed>,
}

impl<S: Store> Vault<S> {
    /// The destroyed keyspaces of which rows may be left.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn keyspaces_to_remove(&self) -> Result<Vec<Keyspace>, VaultError> {
        self.keyspaces_that(|it| it.state == KeyspaceState::Removing)
            .await
    }

    /// Whether rows of this keyspace may be left that are to be removed.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn is_to_be_removed(&self, keyspace: &Keyspace) -> Result<bool, VaultError> {
        Ok(self.removing(keyspace).await?.is_some())
    }

    /// The next part of what is left of a destroyed keyspace, of some `limit` rows. Nothing of one that is in use.
    ///
    /// # Errors
    /// [`VaultError::Ledger`] when the store cannot be read.
    pub async fn prepare_removal(
        &self,
        keyspace: &Keyspace,
        after: Option<&Passed>,
        limit: usize,
    ) -> Result<RemovalPage, VaultError> {
        let mut page = RemovalPage::default();
        let Some(found) = self.removing(keyspace).await? else {
            return Ok(page);
        };
        page.change
            .require_at(Table::Keyspace, KeyspaceBody::key(keyspace), found.seq);
        match after {
            Some(Passed::Secret(after)) => {
                self.remove_secrets(keyspace, after.as_deref(), limit, &mut page)
                    .await?;
            }
            Some(Passed::Value(epoch, after)) => {
                let after = Some((*epoch, after.as_slice()));
                self.remove_values(keyspace, after, limit, &mut page)
                    .await?;
            }
            None => {
                self.remove_values(keyspace, None, limit, &mut page).await?;
            }
        }
        Ok(page)
    }

    /// The change that leaves nothing but the keyspace's row to be there; none while something is, or when that is so already.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn prepare_removal_end(
        &self,
        keyspace: &Keyspace,
    ) -> Result<Option<Change>, VaultError> {
        let Some(found) = self.removing(keyspace).await? else {
            return Ok(None);
        };
        let heads = format!("{keyspace}/");
        if self.has_any(Table::Head, heads.as_bytes()).await? {
            return Ok(None);
        }
        for (_, kek) in self.keks_of(keyspace, None).await? {
            let Found::Sound(kek) = kek else {
                return Ok(None);
            };
            let prefix = KekIndexKey::prefix(kek.body.kek);
            if self.has_any(Table::KekIndex, &prefix).await? {
                return Ok(None);
            }
        }
        let row_key = KeyspaceBody::key(keyspace);
        let body = KeyspaceBody {
            state: KeyspaceState::Destroyed,
            ..found.body
        };
        let mut change = Change::default();
        change.require_at(Table::Keyspace, row_key.clone(), found.seq);
        change.put(Table::Keyspace, row_key, body.encode());
        Ok(Some(change))
    }

    async fn removing(
        &self,
        keyspace: &Keyspace,
    ) -> Result<Option<Record<KeyspaceBody>>, VaultError> {
        let found = self.known_keyspace(keyspace).await?;
        Ok(Some(found).filter(|it| it.body.state == KeyspaceState::Removing))
    }

    /// The rows of a keyspace's keys, from this epoch on.
    async fn keks_of(
        &self,
        keyspace: &Keyspace,
        from: Option<NonZeroU32>,
    ) -> Result<Vec<(Vec<u8>, Found<KekBody>)>, VaultError> {
        let prefix = KekBody::prefix(keyspace);
        // After the row before the first one wanted.
        let mut after = from.map(|epoch| KekBody::key(keyspace, epoch.get() - 1));
        let mut all = Vec::new();
        loop {
            let rows = self
                .each(Table::Kek, &prefix, after.as_deref(), PAGE, KekBody::decode)
                .await?;
            let Some((last, _)) = rows.last() else {
                return Ok(all);
            };
            after = Some(last.clone());
            all.extend(rows);
        }
    }

    async fn remove_values(
        &self,
        keyspace: &Keyspace,
        after: Option<(NonZeroU32, &[u8])>,
        limit: usize,
        page: &mut RemovalPage,
    ) -> Result<(), VaultError> {
        // A key that cannot be looked at is counted once a pass.
        let uncounted = u64::from(after.is_none());
        for (row_key, kek) in self
            .keks_of(keyspace, after.map(|(epoch, _)| epoch))
            .await?
        {
            let epoch = KekBody::parse_key(&row_key).ok();
            let epoch = epoch.and_then(|(_, epoch)| NonZeroU32::new(epoch));
            let (Found::Sound(kek), Some(epoch)) = (kek, epoch) else {
                page.unreadable += uncounted;
                continue;
            };
            if kek.body.state.phase() != KekPhase::Destroyed {
                page.unreadable += uncounted;
                continue;
            }
            let (store, kek) = (self.ledger.store().as_ref(), kek.body.kek);
            let after = after.filter(|(of, key)| *of == epoch && key.starts_with(kek.as_bytes()));
            let after = after.map(|(_, key)| key);
            let IndexPage {
                named,
                nameless,
                last,
            } = index_page(store, kek, after, limit).await?;
            let Some(last) = last else { continue };
            page.passed = Some(Passed::Value(epoch, last));
            page.rows += nameless.len() as u64;
            page.change.unindexed.extend(nameless);
            for value in named {
                self.remove_value(KekIndexKey { kek, value }, page).await?;
            }
            return Ok(());
        }
        // No value is left that a page could take; secrets are next.
        page.passed = Some(Passed::Secret(None));
        Ok(())
    }

    async fn remove_value(
        &self,
        index: KekIndexKey,
        page: &mut RemovalPage,
    ) -> Result<(), VaultError> {
        let key = ValueKeyBody::key(index.value);
        match self
            .find(Table::ValueKey, &key, ValueKeyBody::decode)
            .await?
        {
            Found::Sound(found) if found.body.kek == index.kek => {
                page.change
                    .require_at(Table::ValueKey, key.clone(), found.seq);
                page.change.deletes.push((Table::ValueKey, key));
                page.change.dropped_payloads.push(index.value);
                page.values += 1;
            }
            Found::Absent => {
                page.change.require_absent(Table::ValueKey, key);
                page.change.unindexed.push(index.encode());
            }
            Found::Sound(found) => {
                page.change.require_at(Table::ValueKey, key, found.seq);
                page.change.unindexed.push(index.encode());
            }
            Found::Damaged => {
                page.unreadable += 1;
                return Ok(());
            }
        }
        page.rows += 1;
        Ok(())
    }

    async fn remove_secrets(
        &self,
        keyspace: &Keyspace,
        after: Option<&[u8]>,
        limit: usize,
        page: &mut RemovalPage,
    ) -> Result<(), VaultError> {
        let prefix = format!("{keyspace}/");
        let decode = HeadBody::decode;
        let heads = self
            .each(Table::Head, prefix.as_bytes(), after, limit, decode)
            .await?;
        let mut before = after.map(<[u8]>::to_vec);
        for (head_key, head) in heads {
            let Found::Sound(head) = head else {
                page.unreadable += 1;
                before = Some(head_key);
                page.passed = Some(Passed::Secret(before.clone()));
                continue;
            };
            let left = limit.saturating_sub(usize::try_from(page.rows).unwrap_or(usize::MAX));
            if left < 2 {
                break;
            }
            let left = left - 1;
            let whole = self.remove_secret(&head_key, &head, left, page).await?;
            if !whole {
                // The rest of its versions is the next page's.
                page.passed = Some(Passed::Secret(before));
                break;
            }
            before = Some(head_key);
            page.passed = Some(Passed::Secret(before.clone()));
        }
        Ok(())
    }

    /// Removes at most `limit` versions of a secret, and its head with the last of them. Answers whether there is no more to
    /// be done here.
    async fn remove_secret(
        &self,
        head_key: &[u8],
        head: &Record<HeadBody>,
        limit: usize,
        page: &mut RemovalPage,
    ) -> Result<bool, VaultError> {
        let secret = head.body.secret;
        let first = VersionBody::key(secret, SecretVersion::FIRST);
        let prefix = secret.as_bytes();
        let decode = VersionBody::decode;
        let unreadable = page.unreadable;
        let mut later = self
            .each(Table::Version, prefix, Some(&first), limit, decode)
            .await?;
        let more = later.len() == limit;
        let removed = page.rows;
        // The first goes with the last page of them.
        if !more {
            let found = self.find(Table::Version, &first, decode).await?;
            if !matches!(found, Found::Absent) {
                later.push((first, found));
            }
        }
        for (key, version) in later {
            let Found::Sound(version) = version else {
                page.unreadable += 1;
                continue;
            };
            // The first goes only with the head, and the head only when nothing else stays.
            let is_first = key == VersionBody::key(secret, SecretVersion::FIRST);
            if is_first && page.unreadable > unreadable {
                continue;
            }
            if self.values_are_gone(secret, &version.body, page).await? {
                page.change
                    .require_at(Table::Version, key.clone(), version.seq);
                page.change.deletes.push((Table::Version, key));
                page.rows += 1;
            } else {
                page.unreadable += 1;
            }
        }
        if more {
            // Where nothing of a whole page could go, the pass goes on behind this secret.
            return Ok(page.rows == removed);
        }
        if page.unreadable == unreadable {
            page.change.require_at(Table::Head, head_key, head.seq);
            page.change.deletes.push((Table::Head, head_key.to_vec()));
            page.rows += 1;
        }
        Ok(true)
    }

    /// Whether nothing is left of a version's values, once this page is committed. A value that the index has lost is removed
    /// here.
    async fn values_are_gone(
        &self,
        secret: SecretId,
        version: &VersionBody,
        page: &mut RemovalPage,
    ) -> Result<bool, VaultError> {
        let mut gone = true;
        for value in version.fields.values() {
            let key = ValueKeyBody::key(*value);
            match self
                .find(Table::ValueKey, &key, ValueKeyBody::decode)
                .await?
            {
                Found::Absent => {}
                Found::Sound(found) if found.body.secret == secret => {
                    let index = KekIndexKey {
                        kek: found.body.kek,
                        value: *value,
                    };
                    gone &= self.remove_lost(index, found.seq, page).await?;
                }
                Found::Sound(_) | Found::Damaged => gone = false,
            }
        }
        Ok(gone)
    }

    /// Removes a value whose index row is not there. One whose row is there was not removed by it for a reason, and stays.
    async fn remove_lost(
        &self,
        index: KekIndexKey,
        seq: u64,
        page: &mut RemovalPage,
    ) -> Result<bool, VaultError> {
        let store = self.ledger.store();
        let found = store.get(Table::KekIndex, &index.encode()).await;
        if found.map_err(LedgerError::from)?.is_some() {
            return Ok(false);
        }
        let (value, key): (ValueId, _) = (index.value, ValueKeyBody::key(index.value));
        // Versions that carry it have it too.
        if !page.change.dropped_payloads.contains(&value) {
            page.change.require_at(Table::ValueKey, key.clone(), seq);
            page.change.deletes.push((Table::ValueKey, key));
            page.change.dropped_payloads.push(value);
            page.values += 1;
        }
        Ok(true)
    }

    async fn has_any(&self, table: Table, prefix: &[u8]) -> Result<bool, VaultError> {
        let found = self.ledger.store().scan(table, prefix, None, 1).await;
        Ok(!found.map_err(LedgerError::from)?.is_empty())
    }
}
