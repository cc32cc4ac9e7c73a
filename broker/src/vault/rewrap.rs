//! Wrapping a decrypt-only KEK's values again, under the active one, and its end.
//!
//! ```text
//! a page of kek-index -> each value's DEK out of the old KEK, under the active one -> one change:
//!   value-key row replaced, with which the ledger moves its row of the index from the old KEK to the active one
//!   if each value-key row, and the active KEK's row, are still those that were read
//! ```
//! Rows of the index that belong to none of the KEK's values go with that change: nothing vouches for the index.
//! So a value that was changed or destroyed meanwhile is never put back, and nothing is wrapped under a KEK that is not
//! active any more. A DEK is in a cell of the arena in between, and nowhere else.

use attache_arena::Key;
use attache_envelope::body::{KekBody, KekIndexKey, KekState, Rewrap, ValueKeyBody};
use attache_envelope::id::{ID_BYTES, KeyId, ValueId};
use attache_envelope::key::Dek;
use attache_envelope::name::{KeyRef, Keyspace};
use attache_envelope::wrap::DekBinding;
use attache_envelope::{EnvelopeError, Table};

use super::Vault;
use super::error::VaultError;
use super::kek_index::{IndexPage, index_page};
use super::key::key_ref;
use super::records::{Found, Record, decoded};
use crate::keys::{KeysError, PreparedKek};
use crate::store::{
    Change, LedgerError, PreparedCodec, Put, ReadRow, Slab, Snapshot, Store, all_shown,
};

/// Rows of the KEK table read at once.
const PAGE: usize = 512;

/// Some bytes of a value's key row, with its head and its tag.
const ROW_BYTES: usize = 256;
/// None of them has more.
const MAX_ROW_BYTES: usize = 1024;

/// A KEK that is decrypt-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldKey {
    /// Its name.
    pub key: KeyRef,
    /// What its values name it by.
    pub id: KeyId,
    /// How they are to be wrapped again.
    pub rewrap: Rewrap,
}

/// A page of a KEK's values, wrapped again.
#[derive(Debug)]
pub struct RewrapPage {
    /// What commits them.
    pub change: Change,
    /// How many they are.
    pub values: u64,
    /// The key of the last row of the index that was looked at; none when there was none to look at.
    pub last: Option<Vec<u8>>,
    /// Those that cannot be wrapped again: their records are damaged, or do not open.
    pub unreadable: Vec<ValueId>,
}

/// What a row of a KEK's index leads to.
enum Led {
    /// A value of that KEK.
    Here(ReadRow, ValueKeyBody),
    /// One of another KEK.
    Elsewhere(ReadRow),
    /// Nothing.
    Nowhere,
    /// A record that is damaged.
    Damaged,
}

impl<S: Store> Vault<S> {
    /// Every KEK that is decrypt-only, by keyspace and epoch. A damaged one opens nothing, and is passed over: the
    /// start has named it.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn old_keys(&self) -> Result<Vec<OldKey>, VaultError> {
        let mut old = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows = self
                .each(Table::Kek, b"", after.as_deref(), PAGE, KekBody::decode)
                .await?;
            let Some((last, _)) = rows.last() else {
                return Ok(old);
            };
            after = Some(last.clone());
            for (row_key, found) in rows {
                if let Found::Sound(kek) = found {
                    old.extend(old_key(key_ref(&row_key)?, &kek));
                }
            }
        }
    }

    /// The KEK of this name, when it is decrypt-only.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn old_key(&self, key: &KeyRef) -> Result<Option<OldKey>, VaultError> {
        let found = self.kek_row(key).await?;
        Ok(found.and_then(|kek| old_key(key.clone(), &kek)))
    }

    /// Counts what is left of a decrypt-only KEK. The change keeps the first count, so that a later one says how far it
    /// is; none when that is kept already, or nothing is left.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn prepare_count(&self, old: &OldKey) -> Result<(u64, Option<Change>), VaultError> {
        let left = self.count_wrapped(old.id).await?;
        if left == 0 || old.rewrap.values > 0 {
            return Ok((left, None));
        }
        let Some(mut found) = self.kek_row(&old.key).await? else {
            return Ok((left, None));
        };
        let KekState::DecryptOnly(_, rewrap) = &mut found.body.state else {
            return Ok((left, None));
        };
        rewrap.values = left;
        let row_key = row_key(&old.key);
        let mut change = Change::default();
        change.require_at(Table::Kek, row_key.clone(), found.seq);
        change.put(Table::Kek, row_key, found.body.encode());
        Ok((left, Some(change)))
    }

    /// Wraps again at most `limit` values of a decrypt-only KEK, those of the index after the row of key `after`.
    ///
    /// Takes CPU for some 10 us a value: run it where it holds up nobody's IO.
    ///
    /// # Errors
    /// [`VaultError::Ledger`] when the store cannot be read; [`VaultError::Keys`] when the active KEK cannot be had, or
    /// the arena is full.
    pub async fn prepare_rewrap(
        &self,
        old: &OldKey,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RewrapPage, VaultError> {
        let keyspace = &old.key.keyspace;
        let (active, active_seq) = self.active_kek(keyspace).await?;
        let unwrapping = self.keks.of_id(&self.ledger, keyspace, old.id).await?;
        // One state for the whole page: what changes after it fails the page's commit.
        let standing = self.keys().standing(self.ledger.store().as_ref()).await;
        let (codec, snapshot) = standing.map_err(LedgerError::from)?;
        let IndexPage {
            named,
            nameless,
            last,
        } = index_page(&snapshot, old.id, after, limit).await?;
        let mut page = RewrapPage {
            change: Change::default(),
            values: 0,
            last,
            unreadable: Vec::new(),
        };
        page.change.unindexed = nameless;
        page.change
            .require_at(Table::Kek, KekBody::key(keyspace, active.epoch), active_seq);
        let reading = codec.prepared();
        let values = values_of(&snapshot, &reading, old.id, &named).await?;
        drop(reading);
        let old_kek = unwrapping.prepared()?;
        let active_kek = active.prepared()?;
        let mut rows = Vec::with_capacity(named.len());
        let mut bodies = Slab::for_pieces(named.len(), ROW_BYTES);
        for (value, led) in named.into_iter().zip(values) {
            let kek = old.id;
            let index_key = || KekIndexKey { kek, value }.encode();
            let (row, found) = match led {
                Led::Here(row, found) => (row, found),
                Led::Damaged => {
                    page.unreadable.push(value);
                    continue;
                }
                Led::Elsewhere(row) => {
                    page.change.require_as_read(row);
                    page.change.unindexed.push(index_key());
                    continue;
                }
                Led::Nowhere => {
                    let key = ValueKeyBody::key(value);
                    page.change.require_absent(Table::ValueKey, key);
                    page.change.unindexed.push(index_key());
                    continue;
                }
            };
            let again = self.wrapped_again(keyspace, value, &found, &old_kek, &active_kek);
            match again {
                Ok(body) => {
                    rows.push(row);
                    bodies.push(&body.encode());
                }
                Err(KeysError::Envelope(EnvelopeError::Refused)) => {
                    page.unreadable.push(value);
                }
                Err(error) => return Err(error.into()),
            }
        }
        page.replace(rows, bodies);
        Ok(page)
    }

    /// The change by which a decrypt-only KEK is retired; none while the index has a row of it, or it is none any more.
    ///
    /// Its row is read before the index: nothing wraps under it since, so the index stays empty.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn prepare_retirement(
        &self,
        key: &KeyRef,
        now_ms: u64,
    ) -> Result<Option<Change>, VaultError> {
        let Some(found) = self.kek_row(key).await? else {
            return Ok(None);
        };
        let KekState::DecryptOnly(wrapped, _) = found.body.state else {
            return Ok(None);
        };
        let prefix = KekIndexKey::prefix(found.body.kek);
        let left = self.ledger.store().scan(Table::KekIndex, &prefix, None, 1);
        if !left.await.map_err(LedgerError::from)?.is_empty() {
            return Ok(None);
        }
        let body = KekBody {
            state: KekState::Retired(wrapped),
            changed_ms: now_ms,
            ..found.body
        };
        let row_key = row_key(key);
        let mut change = Change::default();
        change.require_at(Table::Kek, row_key.clone(), found.seq);
        change.put(Table::Kek, row_key, body.encode());
        Ok(Some(change))
    }

    pub(super) async fn kek_row(
        &self,
        key: &KeyRef,
    ) -> Result<Option<Record<KekBody>>, VaultError> {
        let row_key = row_key(key);
        match self.ledger.read(Table::Kek, &row_key).await? {
            Some(row) => decoded(Table::Kek, &row_key, row, KekBody::decode).map(Some),
            None => Ok(None),
        }
    }

    fn wrapped_again(
        &self,
        keyspace: &Keyspace,
        value: ValueId,
        body: &ValueKeyBody,
        old: &PreparedKek<'_>,
        active: &PreparedKek<'_>,
    ) -> Result<ValueKeyBody, KeysError> {
        let binding = |kek| DekBinding {
            store: self.store_id(),
            keyspace,
            secret: body.secret,
            value,
            kek,
            ct_hash: body.ct_hash,
        };
        let dek: Key = old.unwrap_dek(self.keys(), &binding(old.id()), &body.wrapped)?;
        let wrapped = active.wrap_dek(&binding(active.id()), Dek::new(dek.expose()))?;
        Ok(ValueKeyBody {
            kek: active.id(),
            wrapped,
            ..body.clone()
        })
    }
}

impl RewrapPage {
    /// How many rows of the index are of none of the key's values, and go with the change: they name none, or one that is not there or
    /// another key's.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.change.unindexed.len() as u64
    }

    /// Values' key rows, each by the body of its place.
    fn replace(&mut self, rows: Vec<ReadRow>, bodies: Slab) {
        self.values = rows.len() as u64;
        let keys = rows.iter().map(|row| row.key().clone());
        let puts = keys.zip(bodies.into_pieces()).map(|(key, body)| Put {
            table: Table::ValueKey,
            key,
            body,
        });
        self.change.puts.extend(puts);
        for row in rows {
            self.change.require_as_read(row);
        }
    }
}

/// The key rows of the values that the index names, as read and as they decode.
async fn values_of<V: Snapshot>(
    snapshot: &V,
    codec: &PreparedCodec<'_>,
    kek: KeyId,
    named: &[ValueId],
) -> Result<Vec<Led>, VaultError> {
    let mut keys = Slab::for_pieces(named.len(), ID_BYTES);
    for value in named {
        keys.push(value.as_bytes());
    }
    let keys: Vec<_> = keys.into_pieces().collect();
    let asked: Vec<_> = keys.iter().map(AsRef::as_ref).collect();
    let mut stored = Slab::for_pieces(named.len(), ROW_BYTES);
    let mut present = Vec::with_capacity(named.len());
    // Nothing is no row that reads, and what is longer than a row of it can be is none either.
    let fits = |row: &&[u8]| row.len() <= MAX_ROW_BYTES;
    let each = |row: Option<&[u8]>| {
        present.push(row.is_some());
        stored.push(row.filter(fits).unwrap_or_default());
    };
    let shown = snapshot.show(Table::ValueKey, &asked, each).await;
    shown.map_err(LedgerError::from)?;
    let stored = stored.into_pieces();
    all_shown(stored.len(), keys.len()).map_err(LedgerError::from)?;
    let rows = keys.into_iter().zip(stored).zip(present);
    let led = rows.map(|((key, stored), present)| {
        if !present {
            return Led::Nowhere;
        }
        let Ok(row) = codec.read(Table::ValueKey, key, stored) else {
            return Led::Damaged;
        };
        match ValueKeyBody::decode(&row.row().body) {
            Ok(body) if body.kek == kek => Led::Here(row, body),
            Ok(_) => Led::Elsewhere(row),
            Err(_) => Led::Damaged,
        }
    });
    Ok(led.collect())
}

fn old_key(key: KeyRef, kek: &Record<KekBody>) -> Option<OldKey> {
    let KekState::DecryptOnly(_, rewrap) = kek.body.state else {
        return None;
    };
    Some(OldKey {
        key,
        id: kek.body.kek,
        rewrap,
    })
}

fn row_key(key: &KeyRef) -> Vec<u8> {
    KekBody::key(&key.keyspace, key.epoch.get())
}
