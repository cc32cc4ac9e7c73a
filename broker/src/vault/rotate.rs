//! Rotation of a keyspace's key: the next epoch in one small change, whatever the number of values.
//!
//! ```text
//! kek of epoch n: active -> decrypt-only      kek of epoch n + 1: made, active      keyspace: epoch n + 1
//! ```
//! No value and no row of the index is touched: they are wrapped again afterwards (`rewrap`). Whoever wraps under a KEK
//! requires its row to be the one that was read, so nothing new comes under the old one from this commit on.

use std::num::NonZeroU32;

use attache_envelope::Table;
use attache_envelope::body::{KekBody, KekState, KeyspaceBody, Rewrap};
use attache_envelope::name::{KeyRef, Keyspace};

use super::Vault;
use super::error::VaultError;
use super::key::key_ref;
use super::records::decoded;
use crate::store::{Change, LedgerError, Store};

/// A rotation that can be applied.
#[derive(Debug)]
pub struct PreparedRotation {
    /// On the condition that the keyspace's key is still the one that was read.
    pub change: Change,
    /// The key that unwraps only from then on.
    pub previous: KeyRef,
    /// The one that wraps from then on.
    pub key: KeyRef,
}

impl<S: Store> Vault<S> {
    /// Prepares the next key of a keyspace. The values of the one before may be wrapped again at `rate` a second; 0: as
    /// many as go. `expected`: the epoch that the caller saw; none: whichever it is.
    ///
    /// # Errors
    /// [`VaultError::NoKeyspace`], [`VaultError::KeyMoved`], [`VaultError::NoEpochLeft`]; [`VaultError::Keys`],
    /// [`VaultError::Ledger`].
    pub async fn prepare_rotation(
        &self,
        keyspace: &Keyspace,
        expected: Option<NonZeroU32>,
        rate: u32,
        now_ms: u64,
    ) -> Result<PreparedRotation, VaultError> {
        let found = self.keyspace(keyspace).await?;
        let epoch = found.body.key_epoch;
        let moved = |found| VaultError::KeyMoved {
            keyspace: keyspace.clone(),
            expected: expected.map_or(epoch, NonZeroU32::get),
            found,
        };
        if expected.is_some_and(|expected| expected.get() != epoch) {
            return Err(moved(epoch));
        }
        let next = epoch.checked_add(1).ok_or(VaultError::NoEpochLeft {
            keyspace: keyspace.clone(),
        })?;
        let row_key = KekBody::key(keyspace, epoch);
        let row = self.ledger.read(Table::Kek, &row_key).await?;
        let row = row.ok_or_else(|| LedgerError::damaged(Table::Kek, &row_key))?;
        let old = decoded(Table::Kek, &row_key, row, KekBody::decode)?;
        let KekState::Active(wrapped) = old.body.state else {
            // Rotated between the two reads.
            return Err(moved(next));
        };
        let old_body = KekBody {
            state: KekState::DecryptOnly(wrapped, Rewrap { rate, values: 0 }),
            changed_ms: now_ms,
            ..old.body
        };
        let keyspace_key = KeyspaceBody::key(keyspace);
        let body = KeyspaceBody {
            key_epoch: next,
            ..found.body
        };
        let mut change = Change::default();
        change.require_at(Table::Keyspace, keyspace_key.clone(), found.seq);
        change.require_at(Table::Kek, row_key.clone(), old.seq);
        change.require_absent(Table::Kek, KekBody::key(keyspace, next));
        change.put(Table::Keyspace, keyspace_key, body.encode());
        change.put(Table::Kek, row_key, old_body.encode());
        change.puts.push(self.keks.draw(keyspace, next, now_ms)?);
        Ok(PreparedRotation {
            change,
            previous: key_ref(&KekBody::key(keyspace, epoch))?,
            key: key_ref(&KekBody::key(keyspace, next))?,
        })
    }
}
