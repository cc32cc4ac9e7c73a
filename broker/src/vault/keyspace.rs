//! Keyspaces: made with their first KEK, listed with what is in them.

use attache_envelope::Table;
use attache_envelope::body::{KekBody, KeyspaceBody, KeyspaceState};
use attache_envelope::name::Keyspace;
use attache_mtls::spiffe::OperatorId;

use super::Vault;
use super::error::VaultError;
use super::records::decoded;
use crate::store::{Change, LedgerError, Store};

/// The epoch of a keyspace's first KEK.
const FIRST_EPOCH: u32 = 1;

/// A keyspace as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyspaceView {
    /// Its name.
    pub name: Keyspace,
    /// How many secrets are in it.
    pub secrets: u64,
    /// The epoch of the key that new values are wrapped under.
    pub key_epoch: u32,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

impl<S: Store> Vault<S> {
    /// Prepares a new keyspace with a KEK of its own. A name is never given twice.
    ///
    /// # Errors
    /// [`VaultError::KeyspaceTaken`]; [`VaultError::Keys`], [`VaultError::Ledger`].
    pub async fn prepare_keyspace(
        &self,
        name: &Keyspace,
        by: &OperatorId,
        now_ms: u64,
    ) -> Result<Change, VaultError> {
        let key = KeyspaceBody::key(name);
        if self.ledger.read(Table::Keyspace, &key).await?.is_some() {
            return Err(VaultError::KeyspaceTaken(name.clone()));
        }
        let body = KeyspaceBody {
            state: KeyspaceState::Active,
            key_epoch: FIRST_EPOCH,
            created_ms: now_ms,
            created_by: by.to_string(),
        };
        let mut change = Change::default();
        change.require_absent(Table::Keyspace, key.clone());
        change.require_absent(Table::Kek, KekBody::key(name, FIRST_EPOCH));
        change.put(Table::Keyspace, key, body.encode());
        change.puts.push(self.keks.draw(name, FIRST_EPOCH, now_ms)?);
        Ok(change)
    }

    /// The first `limit` active keyspaces after `after`, by name.
    ///
    /// Counting the secrets reads their names, about a million a second, and verifies none of them.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn keyspaces(
        &self,
        after: Option<&Keyspace>,
        limit: usize,
    ) -> Result<Vec<KeyspaceView>, VaultError> {
        let mut after = after.map(|name| name.as_str().as_bytes().to_vec());
        let mut views = Vec::new();
        while views.len() < limit {
            let left = limit - views.len();
            let rows = self
                .ledger
                .scan(Table::Keyspace, b"", after.as_deref(), left)
                .await?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            for (key, row) in rows {
                let damaged = || LedgerError::damaged(Table::Keyspace, &key);
                let name = std::str::from_utf8(&key).map_err(|_| damaged())?;
                let name: Keyspace = name.parse().map_err(|_| damaged())?;
                let found = decoded(Table::Keyspace, &key, row, KeyspaceBody::decode)?;
                if found.body.state == KeyspaceState::Active {
                    views.push(KeyspaceView {
                        secrets: self
                            .count(Table::Head, format!("{name}/").as_bytes())
                            .await?,
                        name,
                        key_epoch: found.body.key_epoch,
                        created_ms: found.body.created_ms,
                    });
                }
            }
        }
        Ok(views)
    }
}
