//! Keys that are past what their keyspace demands: rotated by the broker where the keyspace says so, and told everywhere else.
//!
//! ```text
//! each minute, and keyspace set: active keys (vault) -> overdue? -> attempts (what may be done now)
//!   -> rotation on record, with why -> one commit, as of key rotate -> anchor on record -> rotation::Worker ends it
//! ```
//! It never destroys a key. A keyspace whose rotation is under way gets no second one, and one that could not be rotated is
//! left alone for longer and longer; who looks at the broker's status is told why.

mod attempts;
mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use attache_envelope::name::Keyspace;
use tokio::sync::Notify;

use crate::rotation::Rotations;
use crate::store::Store;
use crate::vault::{ActiveKey, Overdue, Vault, VaultError};
pub use worker::Worker;

/// So many keys that are overdue are told one by one; the others are counted.
const NAMED: usize = 8;

/// What the last look at the active keys came to. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct OverdueKeys {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Keyspaces that the broker could not rotate, and why.
    failed: Mutex<BTreeMap<Keyspace, String>>,
    /// How many keys were overdue after the last look.
    count: AtomicU64,
    /// A look is wanted now.
    look: Notify,
}

impl OverdueKeys {
    /// Has the active keys looked at now: something is demanded of them that was not before.
    pub fn look(&self) {
        self.shared.look.notify_one();
    }

    /// How many active keys were overdue at the end of the last look.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// What an operator should know of keys that are overdue now. What the broker is about to rotate is none of it.
    ///
    /// # Errors
    /// As [`Vault::active_keys`].
    pub async fn findings<S: Store>(
        &self,
        vault: &Vault<S>,
        rotations: &Rotations,
        now_ms: u64,
    ) -> Result<Vec<String>, VaultError> {
        let active = vault.active_keys().await?;
        let mut findings: Vec<_> = active.unreadable.iter().map(unreadable).collect();
        let failed = self.failed().clone();
        findings.extend(active.keys.iter().filter_map(|key| {
            let keyspace = &key.key.keyspace;
            let under_way = !rotations.under_way(Some(keyspace), None, 1).is_empty();
            let failed = failed.get(keyspace).map(String::as_str);
            told(key, key.overdue(now_ms)?, under_way, failed)
        }));
        let more = findings.len().saturating_sub(NAMED);
        findings.truncate(NAMED);
        if more > 0 {
            findings.push(format!(
                "and {more} more keys are overdue; see attache key status"
            ));
        }
        Ok(findings)
    }

    fn failed(&self) -> MutexGuard<'_, BTreeMap<Keyspace, String>> {
        let failed = self.shared.failed.lock();
        failed.unwrap_or_else(PoisonError::into_inner)
    }
}

fn unreadable(keyspace: &Keyspace) -> String {
    format!(
        "the key of {keyspace} cannot be read: its record is damaged; attache-broker check-store tells more"
    )
}

/// What is said of a key that is overdue; none where it is about to be rotated.
fn told(key: &ActiveKey, past: Overdue, under_way: bool, failed: Option<&str>) -> Option<String> {
    let (name, keyspace) = (&key.key, &key.key.keyspace);
    let mend = match past {
        Overdue::Values { values, .. } => format!(
            "no rotation helps; allow more, such as twice as many: attache keyspace set {keyspace} --max-key-wraps {}",
            values.saturating_mul(2)
        ),
        Overdue::Ahead { .. } => {
            format!("see that the clock is right, then attache key rotate {keyspace}")
        }
        Overdue::Age { .. } | Overdue::Wraps { .. } => match (failed, under_way) {
            _ if !key.policy.automatic => format!("attache key rotate {keyspace}"),
            (Some(why), _) => format!("the broker could not rotate it, and tries again: {why}"),
            (None, true) => {
                format!(
                    "it is rotated once the rotation before has ended: attache key status {keyspace}"
                )
            }
            (None, false) => return None,
        },
    };
    Some(format!("{name} is overdue: {past}; {mend}"))
}

#[cfg(test)]
mod tests {
    use attache_envelope::body::KeyPolicy;

    use super::*;

    const AGED: Overdue = Overdue::Age {
        age_s: 91 * 86_400,
        limit_s: 90 * 86_400,
    };

    fn key(automatic: bool) -> ActiveKey {
        ActiveKey {
            key: "payments@3".parse().unwrap(),
            policy: KeyPolicy {
                max_age_s: 90 * 86_400,
                max_wraps: 5,
                automatic,
                backup_age_s: 0,
            },
            created_ms: 0,
            values: None,
            wraps: 0,
        }
    }

    #[test]
    fn each_overdue_key_is_told_with_what_to_do_unless_the_broker_is_about_to_do_it() {
        assert_eq!(told(&key(true), AGED, false, None), None);
        let by_hand = told(&key(false), AGED, false, None).unwrap();
        assert_eq!(
            by_hand,
            "payments@3 is overdue: it is 91 days old, and is to wrap for 90 days at most; attache key rotate payments"
        );
        let failed = told(&key(true), AGED, false, Some("the log is full")).unwrap();
        assert!(failed.contains("tries again: the log is full"), "{failed}");
        let waits = told(&key(true), AGED, true, None).unwrap();
        assert!(waits.contains("attache key status payments"), "{waits}");
        let full = Overdue::Values {
            values: 7,
            limit: 5,
        };
        let full = told(&key(true), full, false, None).unwrap();
        assert!(full.contains("--max-key-wraps 14"), "{full}");
        let ahead = Overdue::Ahead { created_ms: 1 };
        let ahead = told(&key(true), ahead, false, None).unwrap();
        assert!(ahead.contains("clock is right"), "{ahead}");
    }
}
