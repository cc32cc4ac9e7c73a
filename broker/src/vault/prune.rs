//! Versions that a keyspace does not keep: taken out of the store a page at a time.
//!
//! ```text
//! a secret's versions by number: [ ... the rest ... | the newest, as many as the keyspace keeps ]
//!                                  active, pinned, mounted: kept wherever they are
//! ```
//! A value goes only when no version that stays has it. Every page stands on the keyspace's row, on each head, version and
//! value as it was read, so that no rollback or put meanwhile needs what goes. The row of a first version stays, without
//! fields. What cannot be read keeps its secret as it is, and stops no page.

use std::fmt;

use attache_envelope::Table;
use attache_envelope::body::{HeadBody, HeadState, KeyspaceBody, KeyspaceState};
use attache_envelope::name::{Keyspace, SecretPath, SecretRef, SecretVersion};

use tokio::time::Instant;

use super::Vault;
use super::destroy_secret::{Versions, values};
use super::error::VaultError;
use super::records::Found;
use crate::mounted::Mounted;
use crate::store::{Change, LedgerError, Store};

/// Heads read at once.
const HEADS: usize = 512;

/// What is gone through.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PruneScope {
    /// One secret.
    Secret(SecretPath),
    /// All secrets of a keyspace.
    Keyspace(Keyspace),
}

/// How far a pass is, and over which settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// The head that was gone through last; none: none yet.
    after: Option<Vec<u8>>,
    /// The commit of the keyspace's row.
    settings: u64,
}

/// A part of what is to be pruned.
#[derive(Debug, Default)]
pub struct PruningPage {
    /// What prunes it.
    pub change: Change,
    /// The versions that go.
    pub versions: Vec<SecretRef>,
    /// How many values go.
    pub values: u64,
    /// Secrets that stay as they are, since something of them cannot be read.
    pub unreadable: u64,
    /// Versions that stay because volumes name them, of secrets that were gone through to the end.
    pub mounted: u64,
    /// When the first of them may go, if nobody names it meanwhile.
    pub mounted_until: Option<Instant>,
    /// How far it goes; none when there is nothing more.
    pub passed: Option<Pruned>,
}

/// A part of one secret.
#[derive(Default)]
struct Part {
    change: Change,
    versions: Vec<SecretVersion>,
    values: u64,
    /// Until when each version is kept that volumes name.
    held: Vec<Instant>,
    /// Whether there is no more to be done here.
    whole: bool,
}

impl Part {
    fn nothing() -> Self {
        Self {
            whole: true,
            ..Self::default()
        }
    }
}

impl PruningPage {
    /// Takes up what was found of a secret, none when it cannot be read. Answers whether there is no more to be done there.
    fn take(&mut self, path: SecretPath, part: Option<Part>) -> bool {
        let Some(part) = part else {
            self.unreadable += 1;
            return true;
        };
        if part.whole {
            self.mounted += part.held.len() as u64;
            let ends = part.held.into_iter().chain(self.mounted_until);
            self.mounted_until = ends.min();
        }
        self.change.merge(part.change);
        self.values += part.values;
        self.versions
            .extend(part.versions.into_iter().map(|number| SecretRef {
                path: path.clone(),
                version: Some(number),
                field: None,
            }));
        part.whole
    }
}

impl PruneScope {
    /// Whose versions.
    #[must_use]
    pub fn keyspace(&self) -> &Keyspace {
        match self {
            Self::Secret(path) => &path.keyspace,
            Self::Keyspace(keyspace) => keyspace,
        }
    }
}

impl fmt::Display for PruneScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(path) => path.fmt(f),
            Self::Keyspace(keyspace) => keyspace.fmt(f),
        }
    }
}

/// Whether the secret has had more versions than are kept.
fn has_more_than(head: &HeadBody, keep: u32) -> bool {
    head.state != HeadState::Destroyed && head.latest.number() > u64::from(keep)
}

impl<S: Store> Vault<S> {
    /// Every keyspace in use that does not keep all versions.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn keyspaces_to_prune(&self) -> Result<Vec<Keyspace>, VaultError> {
        self.keyspaces_that(|it| it.state == KeyspaceState::Active && it.max_versions > 0)
            .await
    }

    /// The next part of what a keyspace does not keep, of at most `limit` versions. A pass whose keyspace has changed
    /// meanwhile begins anew. What comes to be mounted between this and the commit goes all the same: nobody had named it
    /// for the window.
    ///
    /// # Errors
    /// [`VaultError::Ledger`] when the store cannot be read.
    pub async fn prepare_pruning(
        &self,
        scope: &PruneScope,
        passed: Option<&Pruned>,
        limit: usize,
        mounted: &Mounted,
    ) -> Result<PruningPage, VaultError> {
        let mut page = PruningPage::default();
        let keyspace = match self.keyspace(scope.keyspace()).await {
            Ok(found) if found.body.max_versions > 0 => found,
            Ok(_) | Err(VaultError::NoKeyspace(_) | VaultError::KeyspaceDestroyed(_)) => {
                return Ok(page);
            }
            Err(error) => return Err(error),
        };
        let (settings, keep) = (keyspace.seq, keyspace.body.max_versions);
        let row_key = KeyspaceBody::key(scope.keyspace());
        page.change.require_at(Table::Keyspace, row_key, settings);
        let passed = passed.filter(|it| it.settings == settings);
        let mut after = passed.and_then(|it| it.after.clone());
        let heads = self.heads(scope, after.as_deref()).await?;
        let more = heads.len() == HEADS;
        for (head_key, head) in heads {
            let path = std::str::from_utf8(&head_key).ok();
            let path: Option<SecretPath> = path.and_then(|path| path.parse().ok());
            let whole = match (path, head) {
                (Some(path), Found::Sound(head)) => {
                    let left = limit.saturating_sub(page.versions.len());
                    let part = self.part(&path, &head.body, (keep, left), mounted).await?;
                    page.take(path, part)
                }
                _ => {
                    page.unreadable += 1;
                    true
                }
            };
            if !whole {
                page.passed = Some(Pruned { after, settings });
                return Ok(page);
            }
            after = Some(head_key);
        }
        page.passed = more.then_some(Pruned { after, settings });
        Ok(page)
    }

    async fn heads(
        &self,
        scope: &PruneScope,
        after: Option<&[u8]>,
    ) -> Result<Vec<(Vec<u8>, Found<HeadBody>)>, VaultError> {
        match scope {
            PruneScope::Keyspace(keyspace) => {
                let prefix = format!("{keyspace}/");
                self.each(
                    Table::Head,
                    prefix.as_bytes(),
                    after,
                    HEADS,
                    HeadBody::decode,
                )
                .await
            }
            PruneScope::Secret(path) => {
                let key = HeadBody::key(path);
                let found = self.find(Table::Head, &key, HeadBody::decode).await?;
                let there = !matches!(found, Found::Absent);
                Ok(there.then_some((key, found)).into_iter().collect())
            }
        }
    }

    /// At most `limit` versions of a secret; none when something of it cannot be read.
    async fn part(
        &self,
        path: &SecretPath,
        head: &HeadBody,
        (keep, limit): (u32, usize),
        mounted: &Mounted,
    ) -> Result<Option<Part>, VaultError> {
        if !has_more_than(head, keep) {
            return Ok(Some(Part::nothing()));
        }
        let read = self.settled(|| self.part_once(path, (keep, limit), mounted));
        match read.await {
            Ok(part) => Ok(Some(part)),
            Err(VaultError::Ledger(LedgerError::Damaged { .. }) | VaultError::Unsettled) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn part_once(
        &self,
        path: &SecretPath,
        (keep, limit): (u32, usize),
        mounted: &Mounted,
    ) -> Result<Part, VaultError> {
        let head = self.head(path).await?;
        let Some(head) = head.filter(|head| has_more_than(&head.body, keep)) else {
            return Ok(Part::nothing());
        };
        let body = &head.body;
        // One that cannot be read may need any value.
        let mut stay = self.all_versions(body.secret).await?;
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let over = stay.len().saturating_sub(keep);
        let (mut old, mut held) = (Vec::new(), Vec::new());
        for (number, version) in stay.iter().take(over) {
            if body.active == Some(*number) || version.body.pinned {
                continue;
            }
            match mounted.until(&path.keyspace, body.secret, *number) {
                Some(end) => held.push(end),
                None => old.push(*number),
            }
        }
        let mut part = Part {
            whole: old.len() <= limit,
            held,
            ..Part::default()
        };
        let go: Versions = old
            .iter()
            .take(limit)
            .filter_map(|number| stay.remove_entry(number))
            .collect();
        if go.is_empty() {
            return Ok(part);
        }
        let (had, needed) = (values(&go), values(&stay));
        let unneeded = had.difference(&needed);
        part.change
            .require_at(Table::Head, HeadBody::key(path), head.seq);
        part.values = self
            .remove_versions(&mut part.change, body.secret, &go, unneeded)
            .await?;
        part.versions = go.into_keys().collect();
        Ok(part)
    }
}
