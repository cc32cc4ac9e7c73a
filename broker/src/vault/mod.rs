//! The secret model: keyspaces, secrets, versions and values as rows of the ledger, and their keys.
//!
//! Reading answers typed views; changing answers a prepared [`Change`](crate::store::Change) that the mutation layer
//! audits and applies. The release path loads ciphertexts and wrapped keys here. No function of this folder computes
//! a plaintext, and none writes to the ledger by itself.

mod check;
mod destroy_key;
mod destroy_keyspace;
mod destroy_secret;
mod error;
mod kek_index;
mod key;
mod key_policy;
mod keyspace;
mod load;
mod pin;
mod prune;
mod put;
mod records;
mod remove;
mod retag;
mod rewrap;
mod rollback;
mod rotate;
mod secret;

use std::sync::Arc;

use attache_arena::{Arena, LockedPool};
use attache_envelope::id::{BootId, StoreId};
use attache_mtls::spiffe::BrokerId;

pub use check::{CheckReport, Finding, check_store, scrub_store};
pub use destroy_key::{BackupAge, DESTROYED, PreparedDestruction, Unreferenced};
pub use destroy_keyspace::PreparedKeyspaceDestruction;
pub use destroy_secret::{DestroyRequest, MAX_DESTROYED_VALUES, PreparedDestroy};
pub use error::{Absence, VaultError};
pub use key::KeyView;
pub use key_policy::{ActiveKey, ActiveKeys, Overdue};
pub use keyspace::{KeyspaceSettings, KeyspaceView, SetSettings};
pub use load::{Lookup, Resolved, StoredField, StoredSecret};
pub use pin::{PinRequest, Pinned};
pub use prune::{PruneScope, Pruned, PruningPage};
pub use put::{BeginPut, CheckedPut, PreparedPut, PutRequest, PutValue};
pub use remove::{Passed, RemovalPage};
pub use retag::RetagPage;
pub use rewrap::{OldKey, RewrapPage};
pub use rollback::{PreparedRollback, RollbackRequest};
pub use rotate::PreparedRotation;
pub use secret::{FieldView, SecretView, VersionView};

use crate::keys::{Keks, Keys, KeysError, ReceiveKeys};
use crate::store::{Ledger, RedbStore, Store};

/// The vault that the broker runs on.
pub type BrokerVault = Vault<RedbStore>;

/// The secrets of one store.
pub struct Vault<S: Store> {
    ledger: Ledger<S>,
    keks: Keks,
    receive: ReceiveKeys,
    broker: BrokerId,
    /// Where data keys of puts are opened.
    opened: Arc<LockedPool>,
}

impl<S: Store> Vault<S> {
    /// A vault over an open ledger, with a receive key of its own for this run of the process.
    ///
    /// # Errors
    /// [`KeysError`] when the arena is full or the generator fails.
    pub fn new(
        ledger: Ledger<S>,
        keys: Arc<Keys>,
        broker: BrokerId,
        boot: BootId,
    ) -> Result<Self, KeysError> {
        let arena: Arena = keys.arena().clone();
        Ok(Self {
            ledger,
            keks: Keks::new(keys),
            receive: ReceiveKeys::new(arena, boot)?,
            broker,
            opened: Arc::new(LockedPool::new(put::OPENED_BYTES)),
        })
    }

    /// The ledger below.
    #[must_use]
    pub fn ledger(&self) -> &Ledger<S> {
        &self.ledger
    }

    /// The keyring.
    #[must_use]
    pub fn keys(&self) -> &Arc<Keys> {
        self.keks.keys()
    }

    /// The keys that operators seal to.
    #[must_use]
    pub fn receive_keys(&self) -> &ReceiveKeys {
        &self.receive
    }

    /// The store's name.
    #[must_use]
    pub fn store_id(&self) -> StoreId {
        self.keys().store_id()
    }

    /// This run of the process.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.receive.boot()
    }

    /// The broker whose vault it is.
    #[must_use]
    pub fn broker(&self) -> &BrokerId {
        &self.broker
    }
}

#[cfg(test)]
pub(crate) mod tests;
