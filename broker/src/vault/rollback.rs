//! Rollback: the head points to a version that exists; no value is written, no number used again.

use attache_envelope::Table;
use attache_envelope::body::{HeadBody, HeadState, VersionBody};
use attache_envelope::id::SecretId;
use attache_envelope::name::{SecretPath, SecretVersion};
use attache_mtls::spiffe::OperatorId;

use super::Vault;
use super::error::{Absence, VaultError};
use crate::store::{Change, Store};

/// What to go back to.
#[derive(Debug, Clone)]
pub struct RollbackRequest {
    /// Which secret.
    pub path: SecretPath,
    /// Which version; none is the one before the active one.
    pub to: Option<SecretVersion>,
    /// The version that the caller saw as active; none is whatever it is.
    pub expected_active: Option<SecretVersion>,
    /// Who asks.
    pub by: OperatorId,
    /// When, in milliseconds since 1970.
    pub now_ms: u64,
}

/// A rollback that can be applied.
#[derive(Debug, Clone)]
pub struct PreparedRollback {
    /// The new head row.
    pub change: Change,
    /// What it will be.
    pub active: SecretVersion,
    /// What it was.
    pub previous: Option<SecretVersion>,
}

impl<S: Store> Vault<S> {
    /// Prepares to make an existing version the active one.
    ///
    /// # Errors
    /// [`VaultError::Absent`], [`VaultError::HeadMoved`], [`VaultError::AlreadyActive`],
    /// [`VaultError::NoEarlierVersion`], [`VaultError::Ledger`].
    pub async fn prepare_rollback(
        &self,
        request: &RollbackRequest,
    ) -> Result<PreparedRollback, VaultError> {
        let path = &request.path;
        let absent = |absence| VaultError::Absent {
            path: path.clone(),
            absence,
        };
        self.refuse_in_destroyed(path).await?;
        let head = self.head(path).await?;
        let head = head.ok_or_else(|| absent(Absence::Secret))?;
        let (seq, head) = (head.seq, head.body);
        if head.state == HeadState::Destroyed {
            return Err(absent(Absence::Destroyed));
        }
        if request.expected_active.is_some() && request.expected_active != head.active {
            return Err(VaultError::HeadMoved {
                path: path.clone(),
                expected: number(request.expected_active),
                found: number(head.active),
            });
        }
        let target = match request.to {
            Some(to) => self
                .existing(head.secret, to)
                .await?
                .ok_or(absent(Absence::Version(to)))?,
            None => self.before(path, &head).await?,
        };
        let (target, target_seq) = target;
        if head.active == Some(target) {
            return Err(VaultError::AlreadyActive {
                path: path.clone(),
                version: target,
            });
        }
        let version = VersionBody::key(head.secret, target);
        let previous = head.active;
        let body = HeadBody {
            active: Some(target),
            changed_ms: request.now_ms,
            changed_by: request.by.to_string(),
            ..head
        };
        let mut change = Change::default();
        change.require_at(Table::Head, HeadBody::key(path), seq);
        // It may be pruned meanwhile, which leaves the head as it is.
        change.require_at(Table::Version, version, target_seq);
        change.put(Table::Head, HeadBody::key(path), body.encode());
        Ok(PreparedRollback {
            change,
            active: target,
            previous,
        })
    }

    /// The highest existing version below the active one.
    async fn before(
        &self,
        path: &SecretPath,
        head: &HeadBody,
    ) -> Result<(SecretVersion, u64), VaultError> {
        let none = || VaultError::NoEarlierVersion { path: path.clone() };
        let active = head.active.ok_or_else(none)?;
        for number in (1..active.number()).rev().filter_map(SecretVersion::new) {
            if let Some(found) = self.existing(head.secret, number).await? {
                return Ok(found);
            }
        }
        Err(none())
    }

    async fn existing(
        &self,
        secret: SecretId,
        number: SecretVersion,
    ) -> Result<Option<(SecretVersion, u64)>, VaultError> {
        let found = self.version(secret, number).await?;
        Ok(found.map(|version| (version.body.number, version.seq)))
    }
}

fn number(version: Option<SecretVersion>) -> u64 {
    version.map_or(0, SecretVersion::number)
}
