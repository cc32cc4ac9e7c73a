//! A batch in the making: which changes are in, what the rows will be, and what that does to the sets.
//!
//! Conditions are checked against the snapshot at `expect` with the batch's own changes over it, so that two
//! callers of one batch see each other. It must never let part of a change in. Keys and bodies stay with the changes: a
//! page of a re-wrap is thousands of rows, and this is where its time goes.

use std::collections::{HashMap, HashSet};

use attache_envelope::Table;
use attache_envelope::anchor::{Anchor, TableSum};
use attache_envelope::id::ValueId;
use bytes::Bytes;

use super::change::{ApplyError, Change, Condition, LedgerError, shown};
use super::engine::{Batch, Snapshot};
use super::rows::{RowCodec, StoredRow};

/// A batch over one snapshot.
pub(crate) struct Draft<'a, V: Snapshot> {
    codec: &'a RowCodec,
    snapshot: &'a V,
    /// Every row that was looked at.
    rows: HashMap<(Table, &'a [u8]), Drafted<'a>>,
    payloads: Vec<(ValueId, Bytes)>,
    dropped_payloads: Vec<ValueId>,
    admitted: usize,
}

/// A row as it stands at `expect`, its tag verified, and what the batch makes of it.
struct Drafted<'a> {
    before: Option<StoredRow>,
    becomes: Becomes<'a>,
}

#[derive(Clone, Copy)]
enum Becomes<'a> {
    /// What it is.
    Itself,
    /// What it is, with another tag.
    Retagged,
    /// This body.
    Body(&'a [u8]),
    Removed,
}

impl<'a, V: Snapshot> Draft<'a, V> {
    pub(crate) fn new(codec: &'a RowCodec, snapshot: &'a V) -> Self {
        Self {
            codec,
            snapshot,
            rows: HashMap::new(),
            payloads: Vec::new(),
            dropped_payloads: Vec::new(),
            admitted: 0,
        }
    }

    /// How many changes are in.
    pub(crate) fn admitted(&self) -> usize {
        self.admitted
    }

    /// Takes the change in whole, or leaves the batch as it was.
    pub(crate) async fn admit(&mut self, change: &'a Change) -> Result<(), ApplyError> {
        refuse_ambiguous(change)?;
        for condition in &change.conditions {
            self.check(condition).await?;
        }
        // The rows that will be replaced are read before anything is changed: their tags are in the sets.
        for (table, key) in written(change) {
            self.look(table, key).await?;
        }
        for put in &change.puts {
            self.becomes(put.table, &put.key, Becomes::Body(&put.body));
        }
        for (table, key) in &change.deletes {
            self.becomes(*table, key, Becomes::Removed);
        }
        for (table, key) in &change.reseals {
            self.becomes(*table, key, Becomes::Retagged);
        }
        self.payloads.extend(change.payloads.iter().cloned());
        self.dropped_payloads
            .extend(change.dropped_payloads.iter().copied());
        self.admitted += 1;
        Ok(())
    }

    /// Builds the rows for the commit of `anchor`, which still has the sums of the commit before, and moves the sums.
    pub(crate) fn finish(self, anchor: &mut Anchor) -> Result<Batch, LedgerError> {
        let mut rows: Vec<_> = self.rows.into_iter().collect();
        // By table and key: the engine is faster with those that lie together.
        rows.sort_unstable_by_key(|(name, _)| *name);
        let mut batch = Batch::default();
        for ((table, key), row) in rows {
            let (seq, body) = match (row.becomes, &row.before) {
                (Becomes::Itself, _) | (Becomes::Retagged, None) => continue,
                (Becomes::Retagged, Some(before)) => (before.seq, Some(before.body.as_ref())),
                (Becomes::Body(body), _) => (anchor.seq, Some(body)),
                (Becomes::Removed, _) => (anchor.seq, None),
            };
            let sum = anchor.tables.entry(table).or_insert(TableSum::EMPTY);
            if let Some(before) = &row.before {
                sum.remove(&self.codec.element(table, key, &before.tag))?;
            }
            match body {
                Some(body) => {
                    let (row, tag) = self.codec.seal(table, key, seq, body);
                    sum.insert(&self.codec.element(table, key, &tag))?;
                    batch.puts.push((table, key.to_vec(), row));
                }
                None => batch.deletes.push((table, key.to_vec())),
            }
        }
        let payloads = self.payloads.into_iter();
        batch
            .puts
            .extend(payloads.map(|(value, ciphertext)| {
                (Table::Payload, value.as_bytes().to_vec(), ciphertext)
            }));
        let dropped = self.dropped_payloads.into_iter();
        batch
            .deletes
            .extend(dropped.map(|value| (Table::Payload, value.as_bytes().to_vec())));
        Ok(batch)
    }

    async fn check(&mut self, condition: &'a Condition) -> Result<(), ApplyError> {
        let (table, key) = condition.row();
        let row = self.look(table, key).await?;
        let holds = match (row.becomes, condition) {
            // Written in this batch: newer than anything that a caller can have read.
            (Becomes::Body(_), _) => false,
            (Becomes::Removed, _) => matches!(condition, Condition::Absent(..)),
            (Becomes::Itself | Becomes::Retagged, Condition::Absent(..)) => row.before.is_none(),
            (Becomes::Itself | Becomes::Retagged, Condition::AtSeq(_, _, seq)) => {
                let before = row.before.as_ref();
                before.is_some_and(|before| before.seq == *seq)
            }
        };
        if holds {
            return Ok(());
        }
        Err(ApplyError::Conflict {
            table,
            key: shown(key),
        })
    }

    /// The row, which is read once and its tag verified.
    async fn look(&mut self, table: Table, key: &'a [u8]) -> Result<&Drafted<'a>, LedgerError> {
        let name = (table, key);
        if !self.rows.contains_key(&name) {
            let stored = self.snapshot.get(table, key).await?;
            let before = stored
                .map(|stored| self.codec.verify(table, key, &stored))
                .transpose()?;
            let becomes = Becomes::Itself;
            self.rows.insert(name, Drafted { before, becomes });
        }
        let absent = || LedgerError::damaged(table, key);
        self.rows.get(&name).ok_or_else(absent)
    }

    /// Of a row that was looked at. What is written or removed stays so, whatever tag it had.
    fn becomes(&mut self, table: Table, key: &'a [u8], becomes: Becomes<'a>) {
        if let Some(row) = self.rows.get_mut(&(table, key)) {
            match (row.becomes, becomes) {
                (Becomes::Body(_) | Becomes::Removed, Becomes::Retagged) => {}
                _ => row.becomes = becomes,
            }
        }
    }
}

/// Every row that a change writes, removes or tags anew.
fn written(change: &Change) -> impl Iterator<Item = (Table, &[u8])> {
    let puts = change
        .puts
        .iter()
        .map(|put| (put.table, put.key.as_slice()));
    let others = change.deletes.iter().chain(&change.reseals);
    puts.chain(others.map(|(table, key)| (*table, key.as_slice())))
}

/// A change that writes a row twice has no one meaning, and some tables are not rows.
fn refuse_ambiguous(change: &Change) -> Result<(), ApplyError> {
    let mut seen = HashSet::with_capacity(change.puts.len() + change.deletes.len());
    for (table, key) in written(change) {
        if !table.is_authenticated() || !seen.insert((table, key)) {
            return Err(ApplyError::Ambiguous {
                table,
                key: shown(key),
            });
        }
    }
    Ok(())
}
