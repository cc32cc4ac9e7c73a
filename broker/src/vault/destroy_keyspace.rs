//! The end of a keyspace: one commit in which all of its keys are gone, whatever the number of its values.
//!
//! ```text
//! every KEK row of it -> destroyed     keyspace row -> removing     ... rows removed in the background ... -> destroyed
//! ```
//! From that commit on nothing of it opens, no put is committed (a put requires the row of the KEK that it wraps under),
//! and releases find no secret. What its keys wrapped is removed afterwards (`remove`).

use attache_envelope::Table;
use attache_envelope::body::{KekBody, KekState, KeyspaceBody, KeyspaceState};
use attache_envelope::name::Keyspace;

use super::Vault;
use super::error::VaultError;
use super::records::decoded;
use crate::store::{Change, Store};

/// Rows of the KEK table read at once.
const PAGE: usize = 512;

/// A destruction that can be applied.
#[derive(Debug)]
pub struct PreparedKeyspaceDestruction {
    /// On the condition that the keyspace and its keys are still those that were read.
    pub change: Change,
    /// How many keys go.
    pub keys: u64,
    /// When the keyspace was made, in milliseconds since 1970: backups since then have something of it.
    pub created_ms: u64,
    /// How many secrets are in it.
    pub secrets: u64,
}

impl<S: Store> Vault<S> {
    /// Prepares the end of a keyspace.
    ///
    /// Counts its secrets, about a million a second.
    ///
    /// # Errors
    /// [`VaultError::NoKeyspace`], [`VaultError::KeyspaceDestroyed`]; [`VaultError::Ledger`], for a key whose row is damaged
    /// too.
    pub async fn prepare_keyspace_destruction(
        &self,
        keyspace: &Keyspace,
        now_ms: u64,
    ) -> Result<PreparedKeyspaceDestruction, VaultError> {
        let found = self.keyspace(keyspace).await?;
        let row_key = KeyspaceBody::key(keyspace);
        let created_ms = found.body.created_ms;
        let body = KeyspaceBody {
            state: KeyspaceState::Removing,
            ..found.body
        };
        let mut change = Change::default();
        change.require_at(Table::Keyspace, row_key.clone(), found.seq);
        // Whoever rotates requires the keyspace's row: no key comes that is not among these.
        change.put(Table::Keyspace, row_key, body.encode());
        let mut keys = 0;
        let prefix = KekBody::prefix(keyspace);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows = self
                .ledger
                .scan(Table::Kek, &prefix, after.as_deref(), PAGE);
            let rows = rows.await?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            for (row_key, row) in rows {
                let kek = decoded(Table::Kek, &row_key, row, KekBody::decode)?;
                if kek.body.state == KekState::Destroyed {
                    continue;
                }
                keys += 1;
                let body = KekBody {
                    state: KekState::Destroyed,
                    changed_ms: now_ms,
                    ..kek.body
                };
                change.require_at(Table::Kek, row_key.clone(), kek.seq);
                change.put(Table::Kek, row_key, body.encode());
            }
        }
        let secrets = format!("{keyspace}/");
        Ok(PreparedKeyspaceDestruction {
            change,
            keys,
            created_ms,
            secrets: self.count(Table::Head, secrets.as_bytes()).await?,
        })
    }
}
