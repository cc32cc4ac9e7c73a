//! A batch in the making: which changes are in, what the rows will be, and what that does to the sets.
//!
//! Conditions are checked against the snapshot at `expect` with the batch's own changes over it, so that two
//! callers of one batch see each other. It must never let part of a change in.

use std::collections::{BTreeMap, BTreeSet};

use attache_envelope::Table;
use attache_envelope::anchor::{Anchor, TableSum};
use attache_envelope::id::ValueId;
use bytes::Bytes;

use super::change::{ApplyError, Change, Condition, LedgerError, shown};
use super::engine::{Batch, Snapshot};
use super::rows::{RowCodec, StoredRow};

type RowName = (Table, Vec<u8>);

/// A batch over one snapshot.
pub(crate) struct Draft<'a, V: Snapshot> {
    codec: &'a RowCodec,
    snapshot: &'a V,
    /// What the batch makes of each row: a body, or nothing.
    rows: BTreeMap<RowName, Option<Vec<u8>>>,
    /// Rows that get another tag, where nothing else is made of them.
    reseals: BTreeSet<RowName>,
    /// The rows as they stand at `expect`, of every row looked at.
    before: BTreeMap<RowName, Option<StoredRow>>,
    payloads: Vec<(ValueId, Bytes)>,
    dropped_payloads: Vec<ValueId>,
    admitted: usize,
}

impl<'a, V: Snapshot> Draft<'a, V> {
    pub(crate) fn new(codec: &'a RowCodec, snapshot: &'a V) -> Self {
        Self {
            codec,
            snapshot,
            rows: BTreeMap::new(),
            reseals: BTreeSet::new(),
            before: BTreeMap::new(),
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
    pub(crate) async fn admit(&mut self, change: &Change) -> Result<(), ApplyError> {
        refuse_ambiguous(change)?;
        for condition in &change.conditions {
            self.check(condition).await?;
        }
        // The rows that will be replaced are read before anything is changed: their tags are in the sets.
        let written = change.puts.iter().map(|put| (put.table, &put.key));
        let removed = change.deletes.iter().map(|(table, key)| (*table, key));
        let resealed = change.reseals.iter().map(|(table, key)| (*table, key));
        for (table, key) in written.chain(removed).chain(resealed) {
            self.look(table, key).await?;
        }
        for put in &change.puts {
            self.rows
                .insert((put.table, put.key.clone()), Some(put.body.clone()));
        }
        for (table, key) in &change.deletes {
            self.rows.insert((*table, key.clone()), None);
        }
        self.reseals.extend(change.reseals.iter().cloned());
        self.payloads.extend(change.payloads.iter().cloned());
        self.dropped_payloads
            .extend(change.dropped_payloads.iter().copied());
        self.admitted += 1;
        Ok(())
    }

    /// Builds the rows for the commit of `anchor`, which still has the sums of the commit before, and moves the sums.
    pub(crate) fn finish(self, anchor: &mut Anchor) -> Result<Batch, LedgerError> {
        let mut batch = Batch::default();
        for name in self.reseals {
            let before = self.before.get(&name).and_then(Option::as_ref);
            let Some(before) = before.filter(|_| !self.rows.contains_key(&name)) else {
                continue;
            };
            let (table, key) = name;
            let sum = anchor.tables.entry(table).or_insert(TableSum::EMPTY);
            sum.remove(&self.codec.element(table, &key, &before.tag))?;
            let (row, tag) = self.codec.seal(table, &key, before.seq, &before.body);
            sum.insert(&self.codec.element(table, &key, &tag))?;
            batch.puts.push((table, key, row));
        }
        for (name, body) in self.rows {
            let before = self.before.get(&name).and_then(Option::as_ref);
            let (table, key) = name;
            let sum = anchor.tables.entry(table).or_insert(TableSum::EMPTY);
            if let Some(before) = before {
                let element = self.codec.element(table, &key, &before.tag);
                sum.remove(&element)?;
            }
            match body {
                Some(body) => {
                    let (row, tag) = self.codec.seal(table, &key, anchor.seq, &body);
                    sum.insert(&self.codec.element(table, &key, &tag))?;
                    batch.puts.push((table, key, row));
                }
                None => batch.deletes.push((table, key)),
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

    async fn check(&mut self, condition: &Condition) -> Result<(), ApplyError> {
        let (table, key) = condition.row();
        let holds = match self.rows.get(&(table, key.to_vec())) {
            // Written in this batch: newer than anything that a caller can have read.
            Some(Some(_)) => false,
            Some(None) => matches!(condition, Condition::Absent(..)),
            None => {
                let stored = self.look(table, key).await?;
                match condition {
                    Condition::Absent(..) => stored.is_none(),
                    Condition::AtSeq(_, _, seq) => stored.is_some_and(|row| row.seq == *seq),
                }
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

    /// The row at `expect`, read once and its tag verified.
    async fn look(&mut self, table: Table, key: &[u8]) -> Result<Option<&StoredRow>, LedgerError> {
        let name = (table, key.to_vec());
        if !self.before.contains_key(&name) {
            let stored = self.snapshot.get(table, key).await?;
            let row = stored
                .map(|stored| self.codec.verify(table, key, &stored))
                .transpose()?;
            self.before.insert(name.clone(), row);
        }
        Ok(self.before.get(&name).and_then(Option::as_ref))
    }
}

/// A change that writes a row twice has no one meaning, and some tables are not rows.
fn refuse_ambiguous(change: &Change) -> Result<(), ApplyError> {
    let mut seen = BTreeSet::new();
    let written = change.puts.iter().map(|put| (put.table, &put.key));
    let removed = change.deletes.iter().map(|(table, key)| (*table, key));
    let resealed = change.reseals.iter().map(|(table, key)| (*table, key));
    for (table, key) in written.chain(removed).chain(resealed) {
        if !table.is_authenticated() || !seen.insert((table, key)) {
            return Err(ApplyError::Ambiguous {
                table,
                key: shown(key),
            });
        }
    }
    Ok(())
}
