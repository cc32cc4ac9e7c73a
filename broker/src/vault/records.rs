//! The vault's rows as typed records: read by their names, verified, decoded.
//!
//! A body that does not decode is a damaged record, like one whose tag is wrong.

use attache_envelope::body::{HeadBody, KeyspaceBody, KeyspaceState, ValueKeyBody, VersionBody};
use attache_envelope::id::{SecretId, ValueId};
use attache_envelope::name::{Keyspace, SecretPath, SecretVersion};
use attache_envelope::{EnvelopeError, Table};

use super::Vault;
use super::error::VaultError;
use crate::store::{LedgerError, Row, Store};

/// Rows read at once while they are counted.
const COUNTED: usize = 4096;

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
        let key = KeyspaceBody::key(keyspace);
        let found = self
            .record(Table::Keyspace, &key, KeyspaceBody::decode)
            .await?;
        found
            .filter(|keyspace| keyspace.body.state == KeyspaceState::Active)
            .ok_or_else(|| VaultError::NoKeyspace(keyspace.clone()))
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
