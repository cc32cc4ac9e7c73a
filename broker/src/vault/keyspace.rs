//! Keyspaces: made with their first KEK, listed with what is in them.

use attache_envelope::Table;
use attache_envelope::body::{KekBody, KeyPolicy, KeyspaceBody, KeyspaceState};
use attache_envelope::name::Keyspace;
use attache_mtls::spiffe::OperatorId;

use super::Vault;
use super::error::VaultError;
use super::records::{Found, Record, decoded};
use crate::store::{Change, LedgerError, Store};

/// The epoch of a keyspace's first KEK.
const FIRST_EPOCH: u32 = 1;
/// Rows read at once where all of them are gone through.
const PAGE: usize = 512;

/// How many versions of a secret a keyspace keeps unless it is said.
const DEFAULT_MAX_VERSIONS: u32 = 20;

/// What a keyspace demands of its keys unless it is said. A rotation costs little, takes nothing away and is on record, and
/// what waits for a hand is forgotten: so it goes by itself.
const DEFAULT_KEY_POLICY: KeyPolicy = KeyPolicy {
    max_age_s: 90 * 24 * 60 * 60,
    max_wraps: 1 << 32,
    automatic: true,
    backup_age_s: 0,
};

/// Settings of a keyspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyspaceSettings {
    /// How many versions of a secret are kept, the newest, beside the active one; 0 for all.
    pub max_versions: u32,
    /// What is demanded of its keys.
    pub policy: KeyPolicy,
}

impl Default for KeyspaceSettings {
    fn default() -> Self {
        Self {
            max_versions: DEFAULT_MAX_VERSIONS,
            policy: DEFAULT_KEY_POLICY,
        }
    }
}

/// What is set anew of a keyspace; the rest stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetSettings {
    /// How many versions of a secret are kept.
    pub max_versions: Option<u32>,
    /// See [`KeyPolicy`], here and below.
    pub max_age_s: Option<u32>,
    /// No key is to wrap so often.
    pub max_wraps: Option<u64>,
    /// Whether the broker rotates by itself.
    pub automatic: Option<bool>,
    /// How long backups are kept.
    pub backup_age_s: Option<u32>,
}

impl SetSettings {
    /// These, and the rest as it was.
    #[must_use]
    pub fn over(self, was: KeyspaceSettings) -> KeyspaceSettings {
        let policy = was.policy;
        KeyspaceSettings {
            max_versions: self.max_versions.unwrap_or(was.max_versions),
            policy: KeyPolicy {
                max_age_s: self.max_age_s.unwrap_or(policy.max_age_s),
                max_wraps: self.max_wraps.unwrap_or(policy.max_wraps),
                automatic: self.automatic.unwrap_or(policy.automatic),
                backup_age_s: self.backup_age_s.unwrap_or(policy.backup_age_s),
            },
        }
    }
}

/// A keyspace as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyspaceView {
    /// Its name.
    pub name: Keyspace,
    /// What may be done with it.
    pub state: KeyspaceState,
    /// How many secrets are in it; of a destroyed one, how many are still to be removed.
    pub secrets: u64,
    /// The epoch of the key that new values are wrapped under.
    pub key_epoch: u32,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Its settings.
    pub settings: KeyspaceSettings,
}

impl<S: Store> Vault<S> {
    /// Prepares a new keyspace with a KEK of its own. A name is never given twice.
    ///
    /// # Errors
    /// [`VaultError::KeyspaceTaken`]; [`VaultError::Keys`], [`VaultError::Ledger`].
    pub async fn prepare_keyspace(
        &self,
        name: &Keyspace,
        settings: KeyspaceSettings,
        by: &OperatorId,
        now_ms: u64,
    ) -> Result<Change, VaultError> {
        let key = KeyspaceBody::key(name);
        if self.ledger.read(Table::Keyspace, &key).await?.is_some() {
            return Err(VaultError::KeyspaceTaken(name.clone()));
        }
        let body = KeyspaceBody {
            state: KeyspaceState::Active,
            key_epoch: FIRST_EPOCH,
            created_ms: now_ms,
            created_by: by.to_string(),
            max_versions: settings.max_versions,
            policy: settings.policy,
        };
        let mut change = Change::default();
        change.require_absent(Table::Keyspace, key.clone());
        change.require_absent(Table::Kek, KekBody::key(name, FIRST_EPOCH));
        change.put(Table::Keyspace, key, body.encode());
        change.puts.push(self.keks.draw(name, FIRST_EPOCH, now_ms)?);
        Ok(change)
    }

    /// The first `limit` keyspaces after `after`, by name; destroyed ones too, whose names stay taken.
    ///
    /// Counting the secrets reads their names, about a million a second, and verifies none of them.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn keyspaces(
        &self,
        after: Option<&Keyspace>,
        limit: usize,
    ) -> Result<Vec<KeyspaceView>, VaultError> {
        let mut views = Vec::new();
        for (name, found) in self.keyspace_rows(after, limit).await? {
            views.push(self.keyspace_view(name, found.body).await?);
        }
        Ok(views)
    }

    /// One keyspace, in use or destroyed.
    ///
    /// # Errors
    /// [`VaultError::NoKeyspace`], [`VaultError::Ledger`].
    pub async fn one_keyspace(&self, name: &Keyspace) -> Result<KeyspaceView, VaultError> {
        let found = self.known_keyspace(name).await?;
        self.keyspace_view(name.clone(), found.body).await
    }

    /// Prepares other settings of a keyspace; answers what they then are, too.
    ///
    /// # Errors
    /// [`VaultError::NoKeyspace`], [`VaultError::KeyspaceDestroyed`], [`VaultError::Ledger`].
    pub async fn prepare_settings(
        &self,
        name: &Keyspace,
        set: SetSettings,
    ) -> Result<(Change, KeyspaceSettings), VaultError> {
        let found = self.keyspace(name).await?;
        let key = KeyspaceBody::key(name);
        let settings = set.over(settings(&found.body));
        let body = KeyspaceBody {
            max_versions: settings.max_versions,
            policy: settings.policy,
            ..found.body
        };
        let mut change = Change::default();
        change.require_at(Table::Keyspace, key.clone(), found.seq);
        change.put(Table::Keyspace, key, body.encode());
        Ok((change, settings))
    }

    /// How many secrets the keyspaces in use have; those of one whose record is damaged are not counted.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn secrets_in_use(&self) -> Result<u64, VaultError> {
        let mut count = 0_u64;
        let active = self.keyspaces_that(|it| it.state == KeyspaceState::Active);
        for name in active.await? {
            let prefix = format!("{name}/");
            let of_one = self.count(Table::Head, prefix.as_bytes()).await?;
            count = count.saturating_add(of_one);
        }
        Ok(count)
    }

    /// The names of all keyspaces whose records are `wanted`. A damaged one is passed over: the start has named it.
    pub(super) async fn keyspaces_that(
        &self,
        wanted: impl Fn(&KeyspaceBody) -> bool,
    ) -> Result<Vec<Keyspace>, VaultError> {
        let mut found = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let decode = KeyspaceBody::decode;
            let rows = self.each(Table::Keyspace, b"", after.as_deref(), PAGE, decode);
            let rows = rows.await?;
            let Some((last, _)) = rows.last() else {
                return Ok(found);
            };
            after = Some(last.clone());
            for (key, row) in rows {
                if matches!(&row, Found::Sound(it) if wanted(&it.body)) {
                    found.push(keyspace_of(&key)?);
                }
            }
        }
    }

    /// The rows of the first `limit` keyspaces after `after`.
    pub(super) async fn keyspace_rows(
        &self,
        after: Option<&Keyspace>,
        limit: usize,
    ) -> Result<Vec<(Keyspace, Record<KeyspaceBody>)>, VaultError> {
        let after = after.map(|name| name.as_str().as_bytes());
        let rows = self.ledger.scan(Table::Keyspace, b"", after, limit).await?;
        rows.into_iter()
            .map(|(key, row)| {
                let record = decoded(Table::Keyspace, &key, row, KeyspaceBody::decode)?;
                Ok((keyspace_of(&key)?, record))
            })
            .collect()
    }

    async fn keyspace_view(
        &self,
        name: Keyspace,
        body: KeyspaceBody,
    ) -> Result<KeyspaceView, VaultError> {
        let prefix = format!("{name}/");
        Ok(KeyspaceView {
            secrets: self.count(Table::Head, prefix.as_bytes()).await?,
            name,
            state: body.state,
            key_epoch: body.key_epoch,
            created_ms: body.created_ms,
            settings: settings(&body),
        })
    }
}

const fn settings(of: &KeyspaceBody) -> KeyspaceSettings {
    KeyspaceSettings {
        max_versions: of.max_versions,
        policy: of.policy,
    }
}

/// Which keyspace a row is of.
pub(super) fn keyspace_of(row_key: &[u8]) -> Result<Keyspace, VaultError> {
    let name = std::str::from_utf8(row_key).ok();
    let name = name.and_then(|name| name.parse().ok());
    name.ok_or_else(|| LedgerError::damaged(Table::Keyspace, row_key).into())
}
