//! Destroying values: the wrapped keys of a version, or of all of a secret, are taken out of the store, and the ciphertexts
//! with them.
//!
//! A value that another version has too stays. The change stands on the head as it was read, so that no put carries a
//! value over meanwhile, and on each value's key, so that a rewrap of it meanwhile is no way back. What copies of the store
//! hold that were taken before is not reached. The row of a first version stays, without fields.

use std::collections::{BTreeMap, BTreeSet};

use attache_envelope::Table;
use attache_envelope::body::{HeadBody, HeadState, ValueKeyBody, VersionBody};
use attache_envelope::id::{SecretId, ValueId};
use attache_envelope::name::{SecretPath, SecretVersion};
use attache_mtls::spiffe::OperatorId;

use super::Vault;
use super::error::{Absence, VaultError};
use super::records::{Record, decoded};
use crate::store::{Change, LedgerError, Store};

/// The most values of one destruction: it is one commit.
pub const MAX_DESTROYED_VALUES: usize = 16_384;

/// Version rows read at once.
const PAGE: usize = 1024;

/// What to destroy.
#[derive(Debug, Clone)]
pub struct DestroyRequest {
    /// Which secret.
    pub path: SecretPath,
    /// Which version; none is the secret as a whole.
    pub version: Option<SecretVersion>,
    /// Who asks.
    pub by: OperatorId,
    /// When, in milliseconds since 1970.
    pub now_ms: u64,
}

/// A destruction that can be applied.
#[derive(Debug, Clone)]
pub struct PreparedDestroy {
    /// The rows that go, and the head.
    pub change: Change,
    /// How many versions go.
    pub versions: u64,
    /// How many values go.
    pub values: u64,
    /// How many values of what goes stay, since another version has them too.
    pub kept: u64,
    /// Since when the store can have had what goes, in milliseconds since 1970: backups of before have none of it.
    pub since_ms: u64,
}

pub(super) type Versions = BTreeMap<SecretVersion, Record<VersionBody>>;

impl<S: Store> Vault<S> {
    /// Prepares to destroy one version, or the whole secret, whose name and numbers stay taken.
    ///
    /// # Errors
    /// [`VaultError::Absent`], [`VaultError::DestroysActive`], [`VaultError::DestroysPinned`], [`VaultError::DestroysTooMuch`],
    /// [`VaultError::Ledger`].
    pub async fn prepare_destroy(
        &self,
        request: &DestroyRequest,
    ) -> Result<PreparedDestroy, VaultError> {
        self.settled(|| self.prepare_destroy_once(request)).await
    }

    async fn prepare_destroy_once(
        &self,
        request: &DestroyRequest,
    ) -> Result<PreparedDestroy, VaultError> {
        let path = &request.path;
        let absent = |absence| VaultError::Absent {
            path: path.clone(),
            absence,
        };
        self.refuse_in_destroyed(path).await?;
        let Record { seq, body: head } = self.head(path).await?.ok_or(absent(Absence::Secret))?;
        if head.state == HeadState::Destroyed {
            return Err(absent(Absence::Destroyed));
        }
        let mut stay = self.all_versions(head.secret).await?;
        let had_all = u64::try_from(stay.len()) == Ok(head.latest.number());
        let go = match request.version {
            None => std::mem::take(&mut stay),
            Some(version) if head.active == Some(version) => {
                return Err(VaultError::DestroysActive {
                    path: path.clone(),
                    version,
                });
            }
            Some(version) => {
                let found = stay.remove(&version);
                let found = found.ok_or_else(|| absent(Absence::Version(version)))?;
                if found.body.pinned {
                    return Err(VaultError::DestroysPinned {
                        path: path.clone(),
                        version,
                    });
                }
                BTreeMap::from([(version, found)])
            }
        };
        let (had, needed) = (values(&go), values(&stay));
        let gone: BTreeSet<ValueId> = had.difference(&needed).copied().collect();
        if gone.len() > MAX_DESTROYED_VALUES {
            return Err(VaultError::DestroysTooMuch {
                path: path.clone(),
                values: gone.len(),
            });
        }
        let since_ms = match go.values().map(|it| it.body.created_ms).min() {
            Some(oldest) if had_all => oldest,
            // A version that is gone already may have had some of it.
            Some(_) | None => self.first_ms(head.secret).await?,
        };
        let mut change = Change::default();
        let secret = head.secret;
        let body = destroyed_from(head, request);
        change.require_at(Table::Head, HeadBody::key(path), seq);
        change.put(Table::Head, HeadBody::key(path), body.encode());
        self.remove_versions(&mut change, secret, &go, gone.iter())
            .await?;
        Ok(PreparedDestroy {
            change,
            versions: go.len() as u64,
            values: gone.len() as u64,
            kept: (had.len() - gone.len()) as u64,
            since_ms,
        })
    }

    /// Adds the removal of versions, of which a first one leaves its row, and of the values that go with them. Answers how many
    /// values those are.
    pub(super) async fn remove_versions(
        &self,
        change: &mut Change,
        secret: SecretId,
        go: &Versions,
        gone: impl Iterator<Item = &ValueId>,
    ) -> Result<u64, VaultError> {
        for (number, version) in go {
            let key = VersionBody::key(secret, *number);
            change.require_at(Table::Version, key.clone(), version.seq);
            if *number == SecretVersion::FIRST {
                change.put(Table::Version, key, tombstone(&version.body).encode());
            } else {
                change.deletes.push((Table::Version, key));
            }
        }
        let mut values = 0;
        for value in gone {
            self.shred(change, secret, *value).await?;
            values += 1;
            tokio::task::yield_now().await;
        }
        Ok(values)
    }

    /// Adds the removal of a value's key, with which its place in the index goes, and of its ciphertext.
    async fn shred(
        &self,
        change: &mut Change,
        secret: SecretId,
        value: ValueId,
    ) -> Result<(), VaultError> {
        let Record { seq, .. } = self.value_key_record(secret, value).await?;
        let key = ValueKeyBody::key(value);
        change.require_at(Table::ValueKey, key.clone(), seq);
        change.deletes.push((Table::ValueKey, key));
        change.dropped_payloads.push(value);
        Ok(())
    }

    /// When a secret was put first; the row of that version stays, whatever becomes of it.
    async fn first_ms(&self, secret: SecretId) -> Result<u64, VaultError> {
        let key = VersionBody::key(secret, SecretVersion::FIRST);
        let row = self.ledger.read(Table::Version, &key).await?;
        let row = row.ok_or_else(|| LedgerError::damaged(Table::Version, &key))?;
        let first = decoded(Table::Version, &key, row, VersionBody::decode)?;
        Ok(first.body.created_ms)
    }

    /// Every version of a secret that is not destroyed.
    pub(super) async fn all_versions(&self, secret: SecretId) -> Result<Versions, VaultError> {
        let mut versions = Versions::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let prefix = secret.as_bytes();
            let page = self
                .ledger
                .scan(Table::Version, prefix, after.as_deref(), PAGE)
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(versions);
            };
            after = Some(last.clone());
            for (key, row) in page {
                let version = decoded(Table::Version, &key, row, VersionBody::decode)?;
                let number = version.body.number;
                if VersionBody::key(secret, number) != key {
                    return Err(LedgerError::damaged(Table::Version, &key).into());
                }
                if !version.body.is_destroyed() {
                    versions.insert(number, version);
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

/// What stays of a first version: its row, by which its secret's id stays this secret's and no other name can take it.
fn tombstone(version: &VersionBody) -> VersionBody {
    VersionBody {
        fields: BTreeMap::new(),
        note: String::new(),
        pinned: false,
        ..version.clone()
    }
}

pub(super) fn values(versions: &Versions) -> BTreeSet<ValueId> {
    let fields = versions.values().flat_map(|it| it.body.fields.values());
    fields.copied().collect()
}

/// The head after it.
fn destroyed_from(head: HeadBody, request: &DestroyRequest) -> HeadBody {
    let (state, active) = match request.version {
        Some(_) => (head.state, head.active),
        None => (HeadState::Destroyed, None),
    };
    HeadBody {
        state,
        active,
        changed_ms: request.now_ms,
        changed_by: request.by.to_string(),
        ..head
    }
}
