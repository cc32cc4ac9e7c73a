//! Looks at every value of the store for one that needs a retired key: longer than a call may take, so that a caller comes
//! again and joins.
//!
//! ```text
//! first call: begun     later calls of the same key: joined     over: whoever asks next has the outcome
//! ```
//! One look goes on at a time, on a thread that stands back; those of other keys wait for it. A look goes on without callers,
//! and its outcome stays true: nothing is wrapped under a retired key.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use attache_envelope::name::KeyRef;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::rpc_error::RpcError;
use crate::background;
use crate::store::Store;
use crate::vault::{Unreferenced, Vault, VaultError};

/// The looks of a broker. A clone has the same ones.
#[derive(Clone)]
pub struct Looks {
    under_way: Arc<Mutex<BTreeMap<KeyRef, Look>>>,
    one: Arc<Semaphore>,
    /// Ends a look: it holds keys.
    seal: CancellationToken,
}

type Outcome = Result<Unreferenced, RpcError>;

#[derive(Clone)]
struct Look {
    looked: Arc<AtomicU64>,
    of: u64,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// What a caller finds.
#[derive(Debug)]
pub enum Looked {
    /// No value needs the key.
    Clear(Unreferenced),
    /// It goes on: ask again.
    Looking {
        /// How many values were looked at.
        looked: u64,
        /// How many there were at its beginning.
        of: u64,
    },
}

impl Looks {
    /// None yet. A seal ends them.
    #[must_use]
    pub fn new(seal: CancellationToken) -> Self {
        Self {
            under_way: Arc::default(),
            one: Arc::new(Semaphore::new(1)),
            seal,
        }
    }

    /// Begins or joins the look for a key, and waits for it `patience` at most.
    ///
    /// # Errors
    /// Those of [`Vault::look_for_references`]: the next call looks anew.
    ///
    /// # Cancel safety
    /// May be dropped at any time; the look goes on.
    pub async fn join<S: Store>(
        &self,
        vault: &Arc<Vault<S>>,
        key: &KeyRef,
        patience: Duration,
    ) -> Result<Looked, RpcError> {
        let of = vault.values_to_look_at().await?;
        let mut look = self.begun(vault, key, of);
        let ended = look.outcome.wait_for(Option::is_some);
        let outcome = match tokio::time::timeout(patience, ended).await {
            Ok(Ok(outcome)) => outcome.clone(),
            // It ended without an outcome: the broker is stopping.
            Ok(Err(_)) => Some(Err(VaultError::Stopping.into())),
            Err(_) => None,
        };
        let Some(outcome) = outcome else {
            return Ok(Looked::Looking {
                looked: look.looked.load(Ordering::Relaxed),
                of: look.of,
            });
        };
        // Another one may have been begun meanwhile.
        let mut under_way = self.lock();
        if under_way
            .get(key)
            .is_some_and(|it| it.outcome.same_channel(&look.outcome))
        {
            under_way.remove(key);
        }
        outcome.map(Looked::Clear)
    }

    fn begun<S: Store>(&self, vault: &Arc<Vault<S>>, key: &KeyRef, of: u64) -> Look {
        let mut under_way = self.lock();
        let refused = |look: &Look| matches!(&*look.outcome.borrow(), Some(Err(_)));
        // What was refused while nobody waited may be mended by now.
        if let Some(look) = under_way.get(key).filter(|look| !refused(look)) {
            return look.clone();
        }
        let (tell, outcome) = watch::channel(None);
        let looked = Arc::new(AtomicU64::new(0));
        let look = Look {
            looked: Arc::clone(&looked),
            of,
            outcome,
        };
        under_way.insert(key.clone(), look.clone());
        let (vault, key, one) = (Arc::clone(vault), key.clone(), Arc::clone(&self.one));
        let seal = self.seal.clone();
        tokio::spawn(async move {
            let Ok(_turn) = one.acquire().await else {
                return;
            };
            let looking = background::apart("look", async move {
                let looking = vault.look_for_references(&key, &looked);
                seal.run_until_cancelled(looking).await
            });
            let outcome = match looking.await {
                Ok(Some(outcome)) => outcome.map_err(RpcError::from),
                Ok(None) | Err(_) => Err(VaultError::Stopping.into()),
            };
            tell.send_replace(Some(outcome));
        });
        look
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<KeyRef, Look>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::tests::Bench;

    async fn retired() -> (Bench, KeyRef) {
        let bench = Bench::new().await;
        let (vault, payments) = (&bench.vault, "payments".parse().unwrap());
        let rotation = vault.prepare_rotation(&payments, None, 0, 1).await.unwrap();
        vault.ledger().apply(rotation.change).await.unwrap();
        let key = rotation.previous;
        let retired = vault.prepare_retirement(&key, 2).await.unwrap().unwrap();
        vault.ledger().apply(retired).await.unwrap();
        for number in 0..4 {
            bench
                .put(&format!("payments/s{number}"), &[("a", "1")])
                .await;
        }
        (bench, key)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_look_is_joined_waits_its_turn_and_its_outcome_is_told_once() {
        let (bench, key) = retired().await;
        let looks = Looks::new(CancellationToken::new());
        let patience = Duration::from_secs(20);
        // Another key's look goes on.
        let turn = looks.one.acquire().await.unwrap();
        for _ in 0..3 {
            let asked = looks
                .join(&bench.vault, &key, Duration::from_millis(1))
                .await;
            let Ok(Looked::Looking { looked: 0, of: 4 }) = asked else {
                panic!("{asked:?}")
            };
        }
        assert_eq!(looks.lock().len(), 1);
        let first = looks.lock()[&key].outcome.clone();
        drop(turn);
        let both = tokio::join!(
            looks.join(&bench.vault, &key, patience),
            looks.join(&bench.vault, &key, patience)
        );
        assert!(matches!(both, (Ok(Looked::Clear(_)), Ok(Looked::Clear(_)))));
        assert!(first.borrow().is_some() && looks.lock().is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_refusal_that_nobody_waited_for_is_looked_at_anew() {
        let (bench, _) = retired().await;
        let looks = Looks::new(CancellationToken::new());
        let active: KeyRef = "payments@2".parse().unwrap();
        for _ in 0..2 {
            let look = looks.begun(&bench.vault, &active, 0);
            let mut outcome = look.outcome.clone();
            outcome.wait_for(Option::is_some).await.unwrap();
            let anew = looks.begun(&bench.vault, &active, 0);
            assert!(!anew.outcome.same_channel(&look.outcome));
        }
        let refused = looks.join(&bench.vault, &active, Duration::from_secs(20));
        assert_eq!(refused.await.unwrap_err().reason(), "KEY_NOT_RETIRED");
        assert!(looks.lock().is_empty());
    }
}
