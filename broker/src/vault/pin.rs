//! Pins: a version that stays however many its keyspace keeps, until it is unpinned.
//!
//! The flag is in the version's own row, so that whatever takes the row out requires it as it was read: of a pin and a
//! pruning, or a destruction, one conflicts. No value is written.

use attache_envelope::Table;
use attache_envelope::body::{HeadState, VersionBody};
use attache_envelope::id::SecretId;
use attache_envelope::name::{SecretPath, SecretRef, SecretVersion};

use super::Vault;
use super::error::{Absence, VaultError};
use super::records::{Found, Record};
use crate::store::{Change, Store};

/// Version rows read at once.
const PAGE: usize = 1024;

/// What to pin, or to unpin.
#[derive(Debug, Clone)]
pub struct PinRequest {
    /// Which secret.
    pub path: SecretPath,
    /// Which version.
    pub version: SecretVersion,
    /// Whether it is then pinned.
    pub pinned: bool,
}

impl PinRequest {
    /// What the audit calls it.
    #[must_use]
    pub fn reference(&self) -> SecretRef {
        SecretRef {
            path: self.path.clone(),
            version: Some(self.version),
            field: None,
        }
    }
}

/// The pinned versions of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pinned {
    /// The newest of them, newest first.
    pub newest: Vec<SecretVersion>,
    /// How many there are.
    pub count: u64,
}

impl<S: Store> Vault<S> {
    /// Prepares to pin a version, or to unpin it.
    ///
    /// # Errors
    /// [`VaultError::Absent`], [`VaultError::PinnedAlready`], [`VaultError::NotPinned`], [`VaultError::Ledger`].
    pub async fn prepare_pin(&self, request: &PinRequest) -> Result<Change, VaultError> {
        let PinRequest {
            path,
            version,
            pinned,
        } = request;
        let absent = |absence| VaultError::Absent {
            path: path.clone(),
            absence,
        };
        let head = self.present_head(path).await?;
        if head.state == HeadState::Destroyed {
            return Err(absent(Absence::Destroyed));
        }
        let found = self.version(head.secret, *version).await?;
        let Record { seq, body } = found.ok_or_else(|| absent(Absence::Version(*version)))?;
        if body.pinned == *pinned {
            let (path, version) = (path.clone(), *version);
            return Err(if *pinned {
                VaultError::PinnedAlready { path, version }
            } else {
                VaultError::NotPinned { path, version }
            });
        }
        let key = VersionBody::key(head.secret, *version);
        let body = VersionBody {
            pinned: *pinned,
            ..body
        };
        let mut change = Change::default();
        change.require_at(Table::Version, key.clone(), seq);
        change.put(Table::Version, key, body.encode());
        Ok(change)
    }

    /// The pinned versions of a secret, of which at most `limit` are named. What cannot be read of them is left out.
    ///
    /// # Errors
    /// [`VaultError::Ledger`] when the store cannot be read.
    pub async fn pinned(&self, secret: SecretId, limit: usize) -> Result<Pinned, VaultError> {
        let (mut all, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let rows = self
                .each(
                    Table::Version,
                    secret.as_bytes(),
                    after.as_deref(),
                    PAGE,
                    VersionBody::decode,
                )
                .await?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            all.extend(rows.into_iter().filter_map(|(_, row)| match row {
                Found::Sound(version) if version.body.pinned => Some(version.body.number),
                Found::Sound(_) | Found::Damaged | Found::Absent => None,
            }));
            tokio::task::yield_now().await;
        }
        let count = all.len() as u64;
        let newest = all.into_iter().rev().take(limit).collect();
        Ok(Pinned { newest, count })
    }
}
