//! The vault's rows as typed records: read by their names, verified, decoded.
//!
//! A body that does not decode is a damaged record, like one whose tag is wrong.

use attache_envelope::body::{HeadBody, KeyspaceBody, KeyspaceState, ValueKeyBody, VersionBody};
use attache_envelope::id::{SecretId, ValueId};
use attache_envelope::name::{Keyspace, SecretPath, SecretVersion};
use attache_envelope::{EnvelopeError, Table};
use bytes::Bytes;

use super::Vault;
use super::error::{Absence, VaultError};
use crate::store::{LedgerError, Row, Snapshot, Store};

/// Rows read at once while they are counted.
const COUNTED: usize = 4096;
/// How often one and the same thing is read, at most, because something was committed meanwhile.
const READINGS: u32 = 8;

/// A row, where a damaged one is nothing that stops the work.
pub(super) enum Found<T> {
    /// There is none.
    Absent,
    /// It fails authentication, or does not decode.
    Damaged,
    /// It is there.
    Sound(Record<T>),
}

/// A decoded row and the commit that wrote it.
pub(super) struct Record<T> {
    pub(super) seq: u64,
    pub(super) body: T,
}

impl<S: Store> Vault<S> {
    /// The keyspace, which must be there and in use.
    pub(super) async fn keyspace(
        &self,
        keyspace: &Keyspace,
    ) -> Result<Record<KeyspaceBody>, VaultError> {
        let found = self.known_keyspace(keyspace).await?;
        match found.body.state {
            KeyspaceState::Active => Ok(found),
            KeyspaceState::Removing | KeyspaceState::Destroyed => {
                Err(VaultError::KeyspaceDestroyed(keyspace.clone()))
            }
        }
    }

    /// The keyspace, in use or destroyed.
    pub(super) async fn known_keyspace(
        &self,
        keyspace: &Keyspace,
    ) -> Result<Record<KeyspaceBody>, VaultError> {
        let key = KeyspaceBody::key(keyspace);
        let found = self
            .record(Table::Keyspace, &key, KeyspaceBody::decode)
            .await?;
        found.ok_or_else(|| VaultError::NoKeyspace(keyspace.clone()))
    }

    /// Whether the keyspace is destroyed. One that is not there is not, and has nothing in it.
    pub(super) async fn is_destroyed(&self, keyspace: &Keyspace) -> Result<bool, VaultError> {
        match self.keyspace(keyspace).await {
            Ok(_) | Err(VaultError::NoKeyspace(_)) => Ok(false),
            Err(VaultError::KeyspaceDestroyed(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Refuses what is asked of a secret whose keyspace is destroyed.
    pub(super) async fn refuse_in_destroyed(&self, path: &SecretPath) -> Result<(), VaultError> {
        if !self.is_destroyed(&path.keyspace).await? {
            return Ok(());
        }
        Err(VaultError::Absent {
            path: path.clone(),
            absence: Absence::Keyspace,
        })
    }

    pub(super) async fn head(
        &self,
        path: &SecretPath,
    ) -> Result<Option<Record<HeadBody>>, VaultError> {
        let key = HeadBody::key(path);
        self.record(Table::Head, &key, HeadBody::decode).await
    }

    pub(super) async fn version(
        &self,
        secret: SecretId,
        number: SecretVersion,
    ) -> Result<Option<Record<VersionBody>>, VaultError> {
        let key = VersionBody::key(secret, number);
        let found = self
            .record(Table::Version, &key, VersionBody::decode)
            .await?;
        match found {
            // The key is MACed, so only a bug writes another number; a release must not go by it.
            Some(version) if version.body.number != number => {
                Err(LedgerError::damaged(Table::Version, &key).into())
            }
            other => Ok(other.filter(|version| !version.body.is_destroyed())),
        }
    }

    /// A version that a head points to: its absence is damage.
    pub(super) async fn pointed_version(
        &self,
        secret: SecretId,
        number: SecretVersion,
    ) -> Result<Record<VersionBody>, VaultError> {
        let found = self.version(secret, number).await?;
        found.ok_or_else(|| {
            LedgerError::damaged(Table::Version, &VersionBody::key(secret, number)).into()
        })
    }

    /// The key row of a value that a version of `secret` points to: its absence, or another secret in it, is damage.
    pub(super) async fn value_key(
        &self,
        secret: SecretId,
        value: ValueId,
    ) -> Result<ValueKeyBody, VaultError> {
        Ok(self.value_key_record(secret, value).await?.body)
    }

    /// As [`Vault::value_key`], with the commit that wrote it.
    pub(super) async fn value_key_record(
        &self,
        secret: SecretId,
        value: ValueId,
    ) -> Result<Record<ValueKeyBody>, VaultError> {
        let key = ValueKeyBody::key(value);
        let found = self
            .record(Table::ValueKey, &key, ValueKeyBody::decode)
            .await?;
        match found {
            Some(found) if found.body.secret == secret => Ok(found),
            Some(_) | None => Err(LedgerError::damaged(Table::ValueKey, &key).into()),
        }
    }

    /// What `read` finds. It reads rows one after the other, and a commit in between can take away what an earlier one points
    /// to (a version that is pruned, a head's active one): that is no damage. Damage counts as it once it was found by a
    /// reading during which nothing was committed; while there is none, [`VaultError::Unsettled`] is all that can be said.
    pub(super) async fn settled<T, F>(&self, read: impl Fn() -> F) -> Result<T, VaultError>
    where
        F: Future<Output = Result<T, VaultError>>,
    {
        let mut stood = None;
        for _ in 0..READINGS {
            let damaged = match read().await {
                Err(error @ VaultError::Ledger(LedgerError::Damaged { .. })) => error,
                other => return other,
            };
            let snapshot = self.ledger.store().snapshot().await;
            let seq = Some(snapshot.map_err(LedgerError::from)?.seq());
            if seq == stood {
                return Err(damaged);
            }
            stood = seq;
        }
        Err(VaultError::Unsettled)
    }

    /// How many rows of a table begin with this, none of which is verified: about a million a second.
    pub(super) async fn count(&self, table: Table, prefix: &[u8]) -> Result<u64, VaultError> {
        let mut after: Option<Vec<u8>> = None;
        let mut count = 0;
        loop {
            let page = self
                .ledger
                .store()
                .scan(table, prefix, after.as_deref(), COUNTED)
                .await
                .map_err(LedgerError::from)?;
            count += page.len() as u64;
            match page.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => return Ok(count),
            }
            tokio::task::yield_now().await;
        }
    }

    /// At most `limit` rows of a table after `after`, each by itself: one that is damaged is none of the others' business.
    pub(super) async fn each<T>(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        decode: fn(&[u8]) -> Result<T, EnvelopeError>,
    ) -> Result<Vec<(Vec<u8>, Found<T>)>, VaultError> {
        let rows = self.ledger.store().scan(table, prefix, after, limit).await;
        let codec = self.keys().row_codec();
        let found = |(key, stored): (Vec<u8>, Bytes)| {
            let row = codec.verify(table, &key, &stored).ok();
            let record = row.and_then(|row| decoded(table, &key, row.into_row(), decode).ok());
            (key, record.map_or(Found::Damaged, Found::Sound))
        };
        Ok(rows
            .map_err(LedgerError::from)?
            .into_iter()
            .map(found)
            .collect())
    }

    /// A row that may be damaged.
    pub(super) async fn find<T>(
        &self,
        table: Table,
        key: &[u8],
        decode: fn(&[u8]) -> Result<T, EnvelopeError>,
    ) -> Result<Found<T>, VaultError> {
        match self.record(table, key, decode).await {
            Ok(Some(record)) => Ok(Found::Sound(record)),
            Ok(None) => Ok(Found::Absent),
            Err(VaultError::Ledger(LedgerError::Damaged { .. })) => Ok(Found::Damaged),
            Err(error) => Err(error),
        }
    }

    async fn record<T>(
        &self,
        table: Table,
        key: &[u8],
        decode: fn(&[u8]) -> Result<T, EnvelopeError>,
    ) -> Result<Option<Record<T>>, VaultError> {
        let Some(row) = self.ledger.read(table, key).await? else {
            return Ok(None);
        };
        decoded(table, key, row, decode).map(Some)
    }
}

/// Decodes the body of a verified row.
pub(super) fn decoded<T>(
    table: Table,
    key: &[u8],
    row: Row,
    decode: fn(&[u8]) -> Result<T, EnvelopeError>,
) -> Result<Record<T>, VaultError> {
    let body = decode(&row.body).map_err(|_| LedgerError::damaged(table, key))?;
    Ok(Record { seq: row.seq, body })
}
