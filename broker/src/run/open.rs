//! What every command that touches the store opens first: hardened memory, the store, its keys.

use std::sync::Arc;

use anyhow::Result;
use attache_arena::{Arena, harden_process, raise_memlock_limit};

use crate::{config::Config, keys::Keys, store::RedbStore};

/// The key arena of this process, which cannot be dumped from here on.
pub(super) fn arena(config: &Config) -> Result<Arena> {
    harden_process()?;
    raise_memlock_limit()?;
    if config.keys.danger_plain_key_arena {
        tracing::warn!(
            "keys are in ordinary memory (keys.danger_plain_key_arena): never serve like this"
        );
        return Ok(Arena::new_plain()?);
    }
    Ok(Arena::new()?)
}

/// The store and its keyring.
pub(super) async fn store(config: &Config, arena: &Arena) -> Result<(Arc<RedbStore>, Arc<Keys>)> {
    let store = RedbStore::open(&config.store.store())?;
    let keys = Keys::open_by(arena, &store, &config.keys.openers).await?;
    Ok((Arc::new(store), Arc::new(keys)))
}
