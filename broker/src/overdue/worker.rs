//! The task that looks at the active keys, and the only one that rotates without an operator.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use attache_translog::{Event, Rotation};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::OverdueKeys;
use super::attempts::{Attempts, Decision};
use crate::audit::AuditLog;
use crate::background::{self, BUSY, StepError};
use crate::causes::with_causes;
use crate::rotation::Rotations;
use crate::store::{ApplyError, RedbStore, Store};
use crate::vault::{ActiveKey, ActiveKeys, Overdue, Vault, VaultError};

/// The active keys are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Looks at the active keys of one broker.
pub struct Worker<S: Store = RedbStore> {
    vault: Arc<Vault<S>>,
    log: AuditLog,
    rotations: Rotations,
    overdue: OverdueKeys,
    attempts: Attempts,
}

impl<S: Store> Worker<S> {
    /// A worker that hands what it has rotated to `rotations`.
    #[must_use]
    pub fn new(
        vault: Arc<Vault<S>>,
        log: AuditLog,
        rotations: Rotations,
        overdue: OverdueKeys,
    ) -> Self {
        Self {
            vault,
            log,
            rotations,
            overdue,
            attempts: Attempts::default(),
        }
    }

    /// Works until `stop`. A rotation that was begun is ended first.
    pub async fn run(mut self, stop: CancellationToken) {
        let overdue = self.overdue.clone();
        while !stop.is_cancelled() {
            self.look(&stop).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = overdue.shared.look.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Looks at all active keys once, and rotates those that are to be.
    async fn look(&mut self, stop: &CancellationToken) {
        let active = match self.active_keys(stop).await {
            Ok(Some(active)) => active,
            Ok(None) => return,
            Err(error) => {
                let error = with_causes(&error);
                tracing::error!(error, "the active keys cannot be looked at; trying again");
                return;
            }
        };
        let mut count = active.unreadable.len() as u64;
        let mut failed = self.overdue.failed().clone();
        failed.retain(|keyspace, _| active.keys.iter().any(|it| it.key.keyspace == *keyspace));
        for key in &active.keys {
            if stop.is_cancelled() {
                return;
            }
            let keyspace = &key.key.keyspace;
            let Some(past) = key.overdue(self.log.clock().now_ms()) else {
                failed.remove(keyspace);
                continue;
            };
            match self.attend(key, past).await {
                Ok(true) => drop(failed.remove(keyspace)),
                Ok(false) => count += 1,
                Err(error) => {
                    count += 1;
                    let error = with_causes(&error);
                    let wait = self.attempts.failed(keyspace, Instant::now());
                    let wait_s = wait.as_secs();
                    tracing::error!(key = %key.key, %past, error, wait_s, "an overdue key could not be rotated; trying again");
                    failed.insert(keyspace.clone(), error);
                }
            }
        }
        *self.overdue.failed() = failed;
        self.overdue.shared.count.store(count, Ordering::Relaxed);
    }

    /// None when it was stopped. Done apart: it may count what keys wrap.
    async fn active_keys(&self, stop: &CancellationToken) -> Result<Option<ActiveKeys>, StepError> {
        let (vault, stop) = (Arc::clone(&self.vault), stop.clone());
        let looked = background::apart("key ages", async move {
            stop.run_until_cancelled(vault.active_keys()).await
        });
        Ok(looked.await?.transpose()?)
    }

    /// Does about a key that is overdue what is to be done now; answers whether it is overdue no more.
    async fn attend(&mut self, key: &ActiveKey, past: Overdue) -> Result<bool, StepError> {
        let keyspace = &key.key.keyspace;
        let under_way = !self.rotations.under_way(Some(keyspace), None, 1).is_empty();
        let at = (self.log.clock().now_ms(), Instant::now());
        match self.attempts.decide(key, past, under_way, at) {
            Decision::Rotate => {}
            Decision::Operator | Decision::UnderWay | Decision::Later => return Ok(false),
        }
        match self.rotate(key, past).await {
            Ok(()) => {
                self.attempts.rotated(keyspace, Instant::now());
                tracing::info!(key = %key.key, %past, "an overdue key is rotated");
                // Others' commits go first.
                tokio::time::sleep(BUSY).await;
                Ok(true)
            }
            // Somebody else changed it, or has the store's queue: the next look sees what there is.
            Err(
                StepError::Apply(ApplyError::Conflict { .. } | ApplyError::Busy)
                | StepError::Vault(
                    VaultError::KeyMoved { .. }
                    | VaultError::NoKeyspace(_)
                    | VaultError::KeyspaceDestroyed(_),
                ),
            ) => {
                self.attempts.failed(keyspace, Instant::now());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// On record, then committed, then the store's new anchor on record: as every change that the broker makes itself.
    async fn rotate(&self, key: &ActiveKey, past: Overdue) -> Result<(), StepError> {
        let keyspace = &key.key.keyspace;
        let now_ms = self.log.clock().now_ms();
        let seen = Some(key.key.epoch);
        let rotation = self.vault.prepare_rotation(keyspace, seen, 0, now_ms);
        let rotation = rotation.await?;
        let record = Rotation {
            key: key.key.to_string(),
            reason: past.to_string(),
        };
        let record = ("rotation", [Event::from(record)]);
        background::apply_on_record(self.vault.ledger(), &self.log, record, rotation.change)
            .await?;
        self.rotations.begin(rotation.previous, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
