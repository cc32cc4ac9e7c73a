//! What operators may see of secrets: names, versions, fields and sizes. Never a value.

use attache_envelope::Table;
use attache_envelope::body::{HeadBody, HeadState, VersionBody};
use attache_envelope::id::{SecretId, ValueId};
use attache_envelope::name::{FieldName, Keyspace, SecretPath, SecretVersion};

use super::Vault;
use super::error::{Absence, VaultError};
use super::records::decoded;
use crate::store::{LedgerError, Store};

/// A secret as it is listed and shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretView {
    /// Its path.
    pub path: SecretPath,
    /// Its id.
    pub secret: SecretId,
    /// What may be done with it.
    pub state: HeadState,
    /// What is released.
    pub active: Option<SecretVersion>,
    /// The highest number given.
    pub latest: SecretVersion,
    /// The fields of the active version, sorted.
    pub fields: Vec<FieldName>,
    /// When it was first put, in milliseconds since 1970.
    pub created_ms: u64,
    /// When its head last changed, in milliseconds since 1970.
    pub changed_ms: u64,
    /// Who changed it: a SPIFFE ID.
    pub changed_by: String,
}

/// A version as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionView {
    /// Its number.
    pub number: SecretVersion,
    /// Whether it is the one that is released.
    pub active: bool,
    /// Its fields, sorted.
    pub fields: Vec<FieldView>,
    /// When it was put, in milliseconds since 1970.
    pub created_ms: u64,
    /// Who put it: a SPIFFE ID.
    pub created_by: String,
    /// Why, in their words.
    pub note: String,
    /// Whether it stays however many versions its keyspace keeps.
    pub pinned: bool,
}

/// A field of a version, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldView {
    /// Its name.
    pub field: FieldName,
    /// Which value it has; equal in two versions when it was carried over.
    pub value: ValueId,
    /// The value's own length, in bytes.
    pub size_bytes: usize,
}

impl<S: Store> Vault<S> {
    /// At most `limit` secrets after `after`, by path, of one keyspace or of all.
    ///
    /// # Errors
    /// [`VaultError::NoKeyspace`]; [`VaultError::Ledger`], where a damaged record fails its page and is named.
    pub async fn secrets(
        &self,
        keyspace: Option<&Keyspace>,
        after: Option<&SecretPath>,
        limit: usize,
    ) -> Result<Vec<SecretView>, VaultError> {
        self.settled(|| self.secrets_once(keyspace, after, limit))
            .await
    }

    async fn secrets_once(
        &self,
        keyspace: Option<&Keyspace>,
        after: Option<&SecretPath>,
        limit: usize,
    ) -> Result<Vec<SecretView>, VaultError> {
        let prefix = match keyspace {
            Some(keyspace) => {
                self.keyspace(keyspace).await?;
                format!("{keyspace}/")
            }
            None => String::new(),
        };
        let mut after = after.map(HeadBody::key);
        let mut views = Vec::new();
        // The keyspace of the row before, and whether its rows are only still there.
        let mut last: Option<(Keyspace, bool)> = None;
        while views.len() < limit {
            let left = limit - views.len();
            let rows = self
                .ledger
                .scan(Table::Head, prefix.as_bytes(), after.as_deref(), left)
                .await?;
            let Some((end, _)) = rows.last() else { break };
            after = Some(end.clone());
            for (key, row) in rows {
                let damaged = || LedgerError::damaged(Table::Head, &key);
                let path = std::str::from_utf8(&key).map_err(|_| damaged())?;
                let path: SecretPath = path.parse().map_err(|_| damaged())?;
                let gone = match &last {
                    Some((of, gone)) if *of == path.keyspace => *gone,
                    Some(_) | None => self.is_destroyed(&path.keyspace).await?,
                };
                last = Some((path.keyspace.clone(), gone));
                if !gone {
                    let head = decoded(Table::Head, &key, row, HeadBody::decode)?;
                    views.push(self.view(path, head.body).await?);
                }
            }
        }
        Ok(views)
    }

    /// One secret.
    ///
    /// # Errors
    /// [`VaultError::Absent`], [`VaultError::Ledger`].
    pub async fn secret(&self, path: &SecretPath) -> Result<SecretView, VaultError> {
        self.settled(async || {
            let head = self.present_head(path).await?;
            self.view(path.clone(), head).await
        })
        .await
    }

    /// At most `limit` versions of a secret below `before`, newest first.
    ///
    /// # Errors
    /// [`VaultError::Absent`], [`VaultError::Ledger`].
    pub async fn versions(
        &self,
        path: &SecretPath,
        before: Option<SecretVersion>,
        limit: usize,
    ) -> Result<Vec<VersionView>, VaultError> {
        self.settled(|| self.versions_once(path, before, limit))
            .await
    }

    async fn versions_once(
        &self,
        path: &SecretPath,
        before: Option<SecretVersion>,
        limit: usize,
    ) -> Result<Vec<VersionView>, VaultError> {
        let head = self.present_head(path).await?;
        let latest = head.latest.number();
        let first = before.map_or(latest, |before| latest.min(before.number() - 1));
        let mut views = Vec::new();
        for number in (1..=first).rev().filter_map(SecretVersion::new) {
            if views.len() == limit {
                break;
            }
            if let Some(version) = self.version(head.secret, number).await? {
                let active = head.active == Some(number);
                views.push(self.version_view(head.secret, version.body, active).await?);
            }
        }
        Ok(views)
    }

    pub(super) async fn present_head(&self, path: &SecretPath) -> Result<HeadBody, VaultError> {
        self.refuse_in_destroyed(path).await?;
        let head = self.head(path).await?;
        head.map(|head| head.body)
            .ok_or_else(|| VaultError::Absent {
                path: path.clone(),
                absence: Absence::Secret,
            })
    }

    async fn view(&self, path: SecretPath, head: HeadBody) -> Result<SecretView, VaultError> {
        let fields = match head.active {
            Some(active) => {
                let version = self.pointed_version(head.secret, active).await?;
                version.body.fields.into_keys().collect()
            }
            None => Vec::new(),
        };
        Ok(SecretView {
            path,
            secret: head.secret,
            state: head.state,
            active: head.active,
            latest: head.latest,
            fields,
            created_ms: head.created_ms,
            changed_ms: head.changed_ms,
            changed_by: head.changed_by,
        })
    }

    async fn version_view(
        &self,
        secret: SecretId,
        version: VersionBody,
        active: bool,
    ) -> Result<VersionView, VaultError> {
        let mut fields = Vec::with_capacity(version.fields.len());
        for (field, value) in version.fields {
            let size_bytes = self.value_key(secret, value).await?.plaintext_bytes();
            fields.push(FieldView {
                field,
                value,
                size_bytes,
            });
        }
        Ok(VersionView {
            number: version.number,
            active,
            fields,
            created_ms: version.created_ms,
            created_by: version.created_by,
            note: version.note,
            pinned: version.pinned,
        })
    }
}
