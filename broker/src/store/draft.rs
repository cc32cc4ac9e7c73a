//! A batch in the making: which changes are in, what the rows will be, and what that does to the sets.
//!
//! Conditions are checked against the snapshot at `expect` with the batch's own changes over it, so that two
//! callers of one batch see each other. It must never let part of a change in. Keys and bodies stay with the changes: a
//! page of a re-wrap is thousands of rows, and this is where its time goes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::thread;

use attache_envelope::Table;
use attache_envelope::anchor::{Anchor, TableSum};
use attache_envelope::body::KekIndexKey;
use attache_envelope::id::ValueId;
use attache_envelope::row::SetElement;
use bytes::Bytes;

use super::change::{ApplyError, Change, Condition, LedgerError, shown};
use super::engine::{Batch, Snapshot, all_shown};
use super::rows::{ReadRow, RowCodec, StoredRow};

/// From so many rows on, half of them are sealed on another thread.
const ROWS_FOR_TWO: usize = 512;

/// A batch over one snapshot.
pub(crate) struct Draft<'a, V: Snapshot> {
    codec: &'a RowCodec,
    snapshot: &'a V,
    /// Every row that was looked at.
    rows: Vec<Drafted<'a>>,
    /// Where in `rows` each is.
    places: HashMap<Name<'a>, usize>,
    payloads: Vec<(ValueId, Bytes)>,
    dropped_payloads: Vec<ValueId>,
    unindexed: Vec<&'a [u8]>,
    admitted: usize,
}

/// A row as it stands at `expect`, its tag verified, and what the batch makes of it.
struct Drafted<'a> {
    name: Name<'a>,
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

/// A row that a change names.
#[derive(Clone, Copy)]
struct Asked<'a> {
    key: &'a [u8],
    /// As the caller has read it, where that is known.
    read: Option<&'a ReadRow>,
    /// Which of the change's conditions, or of what it writes after them.
    number: usize,
    writes: bool,
}

/// The rows that a change names, by table.
type AskedOf<'a> = Vec<(Table, Vec<Asked<'a>>)>;

/// A row that the batch writes or removes.
struct Written<'a> {
    row: &'a Drafted<'a>,
    /// The commit that it is of.
    seq: u64,
    /// None for one that goes.
    body: Option<&'a [u8]>,
}

/// What a batch does to the KEK index: that is never written but with the value-key rows, each of which has its row of it.
struct Reindexed<'a> {
    added: Vec<KekIndexKey>,
    removed: Vec<KekIndexKey>,
    /// Removed too: the keys of rows that belong to no value.
    unindexed: Vec<&'a [u8]>,
}

/// A row for the engine, none for one that goes, and what that does to its table's sum.
struct Sealed {
    row: Option<Bytes>,
    without: Option<SetElement>,
    with: Option<SetElement>,
}

impl<'a, V: Snapshot> Draft<'a, V> {
    pub(crate) fn new(codec: &'a RowCodec, snapshot: &'a V) -> Self {
        Self {
            codec,
            snapshot,
            rows: Vec::new(),
            places: HashMap::new(),
            payloads: Vec::new(),
            dropped_payloads: Vec::new(),
            unindexed: Vec::new(),
            admitted: 0,
        }
    }

    /// How many changes are in.
    pub(crate) fn admitted(&self) -> usize {
        self.admitted
    }

    /// Takes the change in whole, or leaves the batch as it was.
    pub(crate) async fn admit(&mut self, change: &'a Change) -> Result<(), ApplyError> {
        // All that it names is read before anything is changed: the tags of what is replaced are in the sets.
        let places = self.look(change).await?;
        let (conditions, writes) = places.split_at(change.conditions.len());
        for (condition, place) in change.conditions.iter().zip(conditions) {
            self.check(condition, *place)?;
        }
        for ((_, becomes), place) in written(change).zip(writes) {
            self.becomes(*place, becomes);
        }
        self.payloads.extend(change.payloads.iter().cloned());
        self.dropped_payloads
            .extend(change.dropped_payloads.iter().copied());
        self.unindexed
            .extend(change.unindexed.iter().map(Vec::as_slice));
        self.admitted += 1;
        Ok(())
    }

    /// Builds the rows for the commit of `anchor`, which still has the sums of the commit before, and moves the sums.
    pub(crate) fn finish(self, anchor: &mut Anchor) -> Result<Batch, LedgerError> {
        let rows = self.rows.iter();
        let mut rows: Vec<_> = rows.filter_map(|row| row.written(anchor.seq)).collect();
        // By table and key: the engine is faster with those that lie together. Each change's are so already.
        rows.sort_by_key(|it| it.row.name);
        let mut batch = Batch::default();
        let index = Reindexed::of(&rows, self.unindexed);
        let sealed = sealed(self.codec, &rows);
        for (it, sealed) in rows.into_iter().zip(sealed) {
            let (table, key) = it.row.name;
            let sum = anchor.tables.entry(table).or_insert(TableSum::EMPTY);
            if let Some(element) = &sealed.without {
                sum.remove(element)?;
            }
            if let Some(element) = &sealed.with {
                sum.insert(element)?;
            }
            match sealed.row {
                Some(row) => batch.puts.push((table, key.to_vec(), row)),
                None => batch.deletes.push((table, key.to_vec())),
            }
        }
        index.write(&mut batch);
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

    /// Of the row in this place.
    fn check(&self, condition: &Condition, place: usize) -> Result<(), ApplyError> {
        let (table, key) = condition.row();
        let row = self.rows.get(place);
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

    /// Reads the rows that a change names, each once, those that lie together together, and verifies their tags, but of those
    /// that are as the caller has read them. Answers where each is: of the conditions, then of what is written.
    async fn look(&mut self, change: &'a Change) -> Result<Vec<usize>, ApplyError> {
        let (asked, count) = asked(change)?;
        let mut places = vec![usize::MAX; count];
        self.places.reserve(count);
        for (table, asked) in asked {
            let mut unknown = Vec::with_capacity(asked.len());
            for same in asked.chunk_by(|a, b| a.key == b.key) {
                let Some(first) = same.first() else { continue };
                let place = match self.places.entry((table, first.key)) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(free) => {
                        let place = self.rows.len() + unknown.len();
                        free.insert(place);
                        unknown.push(*first);
                        place
                    }
                };
                for it in same {
                    if let Some(slot) = places.get_mut(it.number) {
                        *slot = place;
                    }
                }
            }
            if let Err(error) = self.read(table, &unknown).await {
                // Nothing of it was read: the next change of the batch looks for itself.
                for it in unknown {
                    self.places.remove(&(table, it.key));
                }
                return Err(error.into());
            }
        }
        Ok(places)
    }

    /// Reads rows that nobody has looked at, ascending.
    async fn read(&mut self, table: Table, unknown: &[Asked<'a>]) -> Result<(), LedgerError> {
        let keys: Vec<_> = unknown.iter().map(|it| it.key).collect();
        let mut found = Vec::with_capacity(keys.len());
        let mut asked = unknown.iter();
        let each = |stored: Option<&[u8]>| {
            found.extend(asked.next().map(|it| self.drafted(table, it, stored)));
        };
        self.snapshot.show(table, &keys, each).await?;
        let found = found.into_iter().collect::<Result<Vec<_>, _>>()?;
        // Each has its place already.
        all_shown(found.len(), unknown.len())?;
        self.rows.extend(found);
        Ok(())
    }

    fn drafted(
        &self,
        table: Table,
        asked: &Asked<'a>,
        stored: Option<&[u8]>,
    ) -> Result<Drafted<'a>, LedgerError> {
        let mut drafted = Drafted {
            name: (table, asked.key),
            before: None,
            element: None,
            becomes: Becomes::Itself,
        };
        let Some(stored) = stored else {
            return Ok(drafted);
        };
        // One whose key was dropped since is damaged, as for whoever reads it now.
        let same = |read: &&ReadRow| read.is(stored) && self.codec.has_key_of(stored);
        if let Some(read) = asked.read.filter(same) {
            drafted.before = Some(read.row().clone());
            drafted.element = Some(*read.element());
        } else {
            let stored = Bytes::copy_from_slice(stored);
            drafted.before = Some(self.codec.verify(table, asked.key, &stored)?);
        }
        Ok(drafted)
    }

    /// What is written or removed stays so, whatever tag it had.
    fn becomes(&mut self, place: usize, becomes: Becomes<'a>) {
        if let Some(row) = self.rows.get_mut(place) {
            match (row.becomes, becomes) {
                (Becomes::Body(_) | Becomes::Removed, Becomes::Retagged) => {}
                _ => row.becomes = becomes,
            }
        }
    }
}

impl<'a> Reindexed<'a> {
    fn of(rows: &[Written<'_>], mut unindexed: Vec<&'a [u8]>) -> Self {
        let (mut added, mut removed, mut standing) = (Vec::new(), Vec::new(), Vec::new());
        for it in rows {
            let (Table::ValueKey, key) = it.row.name else {
                continue;
            };
            let before = it.row.before.as_ref();
            let before = before.and_then(|before| KekIndexKey::of(key, &before.body));
            let after = it.body.and_then(|body| KekIndexKey::of(key, body));
            standing.extend(after);
            if before != after {
                removed.extend(before);
                added.extend(after);
            }
        }
        for keys in [&mut added, &mut removed, &mut standing] {
            keys.sort_unstable();
        }
        // Removals come last in the engine.
        let stands = |key: &[u8]| {
            let index = KekIndexKey::decode(key);
            index.is_ok_and(|index| standing.binary_search(&index).is_ok())
        };
        unindexed.retain(|key| !stands(key));
        Self {
            added,
            removed,
            unindexed,
        }
    }

    fn write(self, batch: &mut Batch) {
        let added = self.added.iter();
        batch
            .puts
            .extend(added.map(|key| (Table::KekIndex, key.encode(), Bytes::new())));
        let removed = self.removed.iter().map(KekIndexKey::encode);
        let removed = removed.chain(self.unindexed.iter().map(|key| key.to_vec()));
        batch
            .deletes
            .extend(removed.map(|key| (Table::KekIndex, key)));
    }
}

impl Drafted<'_> {
    /// What the commit `seq` makes of it; none when that is nothing.
    fn written(&self, seq: u64) -> Option<Written<'_>> {
        let (seq, body) = match (self.becomes, &self.before) {
            (Becomes::Itself, _) | (Becomes::Retagged, None) => return None,
            (Becomes::Retagged, Some(before)) => (before.seq, Some(before.body.as_ref())),
            (Becomes::Body(body), _) => (seq, Some(body)),
            (Becomes::Removed, _) => (seq, None),
        };
        let row = self;
        Some(Written { row, seq, body })
    }
}

/// Everything that a change writes, and what that becomes.
fn written(change: &Change) -> impl Iterator<Item = (Name<'_>, Becomes<'_>)> {
    let puts = change.puts.iter().map(|put| {
        let name = (put.table, put.key.as_ref());
        (name, Becomes::Body(&put.body))
    });
    let deletes = change.deletes.iter();
    let deletes = deletes.map(|(table, key)| ((*table, key.as_slice()), Becomes::Removed));
    let reseals = change.reseals.iter();
    let reseals = reseals.map(|(table, key)| ((*table, key.as_slice()), Becomes::Retagged));
    puts.chain(deletes).chain(reseals)
}

/// The rows that a change names, by table and ascending, and how many names it has. A change that writes a row twice has no one
/// meaning, and some tables are not rows.
fn asked(change: &Change) -> Result<(AskedOf<'_>, usize), ApplyError> {
    let conditions = change.conditions.iter();
    let conditions = conditions.map(|it| (it.row(), it.read(), false));
    let writes = written(change).map(|(name, _)| (name, None, true));
    let mut tables: AskedOf<'_> = Vec::new();
    let mut count = 0;
    for ((table, key), read, writes) in conditions.chain(writes) {
        let asked = Asked {
            key,
            read,
            number: count,
            writes,
        };
        count += 1;
        if writes && !table.is_authenticated() {
            return Err(ambiguous(table, key));
        }
        match tables.iter_mut().find(|(of, _)| *of == table) {
            Some((_, all)) => all.push(asked),
            None => tables.push((table, vec![asked])),
        }
    }
    for (table, all) in &mut tables {
        // Stable: of a row's names the condition comes first, which knows how it was read. They come in ascending runs.
        all.sort_by_key(|it| it.key);
        for same in all.chunk_by(|a, b| a.key == b.key) {
            if let Some(twice) = same.iter().filter(|it| it.writes).nth(1) {
                return Err(ambiguous(*table, twice.key));
            }
        }
    }
    Ok((tables, count))
}

fn ambiguous(table: Table, key: &[u8]) -> ApplyError {
    ApplyError::Ambiguous {
        table,
        key: shown(key),
    }
}

/// Seals rows, in their order. Many are sealed on two threads: it is hashing, and whoever commits waits for it.
fn sealed(codec: &RowCodec, rows: &[Written<'_>]) -> Vec<Sealed> {
    let seal = |rows: &[Written<'_>]| {
        let codec = codec.prepared();
        let one = |it: &Written<'_>| {
            let (table, key) = it.row.name;
            let element = |before: &StoredRow| codec.element(table, key, &before.tag);
            let before = it.row.before.as_ref();
            let without = before.map(|before| it.row.element.unwrap_or_else(|| element(before)));
            let sealed = it.body.map(|body| codec.seal(table, key, it.seq, body));
            let (row, with) = sealed.unzip();
            Sealed { row, without, with }
        };
        rows.iter().map(one).collect::<Vec<_>>()
    };
    if rows.len() < ROWS_FOR_TWO {
        return seal(rows);
    }
    let (here, there) = rows.split_at(rows.len() / 2);
    thread::scope(|scope| {
        let other = thread::Builder::new()
            .name("group-seal".into())
            .spawn_scoped(scope, || seal(there));
        let mut sealed = seal(here);
        // Where no thread can be had, or it ended, this one does all of it.
        let rest = other.ok().and_then(|other| other.join().ok());
        sealed.extend(rest.unwrap_or_else(|| seal(there)));
        sealed
    })
}
