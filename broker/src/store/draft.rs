//! A batch in the making: which changes are in, what the rows will be, and what that does to the sets.
//!
//! Conditions are checked against the snapshot at `expect` with the batch's own changes over it, so that two
//! callers of one batch see each other. It must never let part of a change in. Keys and bodies stay with the changes: a
//! page of a re-wrap is thousands of rows, and this is where its time goes.

use std::collections::{HashMap, HashSet};

use attache_envelope::Table;
use attache_envelope::anchor::{Anchor, TableSum};
use attache_envelope::id::ValueId;
use attache_envelope::row::SetElement;
use bytes::Bytes;

use super::change::{ApplyError, Change, Condition, LedgerError, shown};
use super::engine::{Batch, Snapshot};
use super::rows::{ReadRow, RowCodec, StoredRow};

/// A batch over one snapshot.
pub(crate) struct Draft<'a, V: Snapshot> {
    codec: &'a RowCodec,
    snapshot: &'a V,
    /// Every row that was looked at.
    rows: HashMap<Name<'a>, Drafted<'a>>,
    payloads: Vec<(ValueId, Bytes)>,
    dropped_payloads: Vec<ValueId>,
    admitted: usize,
}

/// A row as it stands at `expect`, its tag verified, and what the batch makes of it.
struct Drafted<'a> {
    before: Option<StoredRow>,
    /// Of `before`, where it is known.
    element: Option<SetElement>,
    becomes: Becomes<'a>,
}

/// Table and key.
type Name<'a> = (Table, &'a [u8]);

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
        let conditions = change.conditions.iter();
        self.look(conditions.map(|it| (it.row(), it.read())))
            .await?;
        for condition in &change.conditions {
            self.check(condition)?;
        }
        // The rows that will be replaced are read before anything is changed: their tags are in the sets.
        self.look(written(change).map(|name| (name, None))).await?;
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
        let codec = self.codec.prepared();
        for ((table, key), row) in rows {
            let (seq, body) = match (row.becomes, &row.before) {
                (Becomes::Itself, _) | (Becomes::Retagged, None) => continue,
                (Becomes::Retagged, Some(before)) => (before.seq, Some(before.body.as_ref())),
                (Becomes::Body(body), _) => (anchor.seq, Some(body)),
                (Becomes::Removed, _) => (anchor.seq, None),
            };
            let sum = anchor.tables.entry(table).or_insert(TableSum::EMPTY);
            if let Some(before) = &row.before {
                let known = row.element;
                sum.remove(&known.unwrap_or_else(|| codec.element(table, key, &before.tag)))?;
            }
            match body {
                Some(body) => {
                    let (row, element) = codec.seal(table, key, seq, body);
                    sum.insert(&element)?;
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

    /// Of a row that was looked at.
    fn check(&self, condition: &Condition) -> Result<(), ApplyError> {
        let (table, key) = condition.row();
        let row = self.rows.get(&(table, key));
        let row = row.ok_or_else(|| LedgerError::damaged(table, key))?;
        let at = |seq| row.before.as_ref().is_some_and(|before| before.seq == seq);
        let holds = match (row.becomes, condition) {
            // Written in this batch: newer than anything that a caller can have read.
            (Becomes::Body(_), _) => false,
            (Becomes::Removed, _) => matches!(condition, Condition::Absent(..)),
            (Becomes::Itself | Becomes::Retagged, Condition::Absent(..)) => row.before.is_none(),
            (Becomes::Itself | Becomes::Retagged, Condition::AtSeq(_, _, seq)) => at(*seq),
            (Becomes::Itself | Becomes::Retagged, Condition::AsRead(read)) => at(read.row().seq),
        };
        if holds {
            return Ok(());
        }
        Err(ApplyError::Conflict {
            table,
            key: shown(key),
        })
    }

    /// Reads these rows, each once, and verifies their tags, but of those that are as a caller has read them.
    async fn look(
        &mut self,
        names: impl Iterator<Item = (Name<'a>, Option<&'a ReadRow>)>,
    ) -> Result<(), LedgerError> {
        let mut names: Vec<_> = names
            .filter(|(name, _)| !self.rows.contains_key(name))
            .collect();
        names.sort_unstable_by_key(|(name, _)| *name);
        names.dedup_by_key(|(name, _)| *name);
        for of_table in names.chunk_by(|a, b| a.0.0 == b.0.0) {
            let Some(((table, _), _)) = of_table.first() else {
                continue;
            };
            let keys: Vec<_> = of_table.iter().map(|((_, key), _)| *key).collect();
            let mut found = Vec::with_capacity(keys.len());
            let mut asked = of_table.iter();
            let each = |stored: Option<&[u8]>| {
                found.extend(asked.next().map(|ask| self.drafted(ask, stored)));
            };
            self.snapshot.show(*table, &keys, each).await?;
            for ((name, _), row) in of_table.iter().zip(found) {
                self.rows.insert(*name, row?);
            }
        }
        Ok(())
    }

    fn drafted(
        &self,
        ((table, key), read): &(Name<'a>, Option<&'a ReadRow>),
        stored: Option<&[u8]>,
    ) -> Result<Drafted<'a>, LedgerError> {
        let becomes = Becomes::Itself;
        let Some(stored) = stored else {
            return Ok(Drafted {
                before: None,
                element: None,
                becomes,
            });
        };
        // One whose key was dropped since is damaged, as for whoever reads it now.
        if let Some(read) = read.filter(|read| read.is(stored) && self.codec.has_key_of(stored)) {
            return Ok(Drafted {
                before: Some(read.row().clone()),
                element: Some(*read.element()),
                becomes,
            });
        }
        let stored = Bytes::copy_from_slice(stored);
        Ok(Drafted {
            before: Some(self.codec.verify(*table, key, &stored)?),
            element: None,
            becomes,
        })
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
fn written(change: &Change) -> impl Iterator<Item = Name<'_>> {
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
