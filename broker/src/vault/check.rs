//! `check-store`: reads everything there is and names what does not hold.
//!
//! Tags, counts and set hashes of every table against the anchor; the KEK index, which has none, against the value-key rows; every
//! body; every reference; SHA-256 of every ciphertext against its value's key row, which each KEK that is there and the value's DEK
//! must open for. A serving broker's scrub is the first part alone: tags, counts, set hashes and the index. Works on a snapshot,
//! without a ledger, so that a store that does not open can be looked at. It must never mend anything, and never print a body.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use attache_envelope::anchor::TableSum;
use attache_envelope::body::{
    HeadBody, KekBody, KekIndexKey, KekPhase, KeyspaceBody, KeyspaceState, RequestBody,
    ValueKeyBody, VersionBody,
};
use attache_envelope::id::{KeyId, SecretId, ValueId};
use attache_envelope::name::{Keyspace, SecretPath, SecretVersion};
use attache_envelope::value::CtHash;
use attache_envelope::wrap::DekBinding;
use attache_envelope::{EnvelopeError, Table};

use crate::keys::{Kek, Keys, KeysError};
use crate::store::{
    AnchorSeq, Entry, Row, RowCodec, Snapshot, Store, StoreError, Tip, all_shown, shown,
};

/// Rows read at once.
const PAGE: usize = 512;

/// A scrub rests so many times as long as it worked.
const REST: u32 = 3;
/// And no longer than this: pages that are freed meanwhile stay until its snapshot is gone.
const REST_MAX: Duration = Duration::from_millis(100);

/// KEKs open at one time; they are opened again when they are needed again.
const OPEN_KEKS: usize = 256;

/// Findings kept; a store with more is beyond listing.
const MAX_FINDINGS: usize = 10_000;

/// What a check of the whole store has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// The state that was checked.
    pub seq: u64,
    /// Rows read, without payloads.
    pub rows: u64,
    /// Payloads read and hashed.
    pub payloads: u64,
    /// What does not hold.
    pub findings: Vec<Finding>,
}

/// One thing that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The table.
    pub table: Table,
    /// The key, as text or in hex; empty for the table as a whole.
    pub key: String,
    /// What is wrong.
    pub problem: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (table, key) = (self.table.name(), &self.key);
        match key.is_empty() {
            true => write!(f, "table {table}: {}", self.problem),
            false => write!(f, "table {table}, row {key}: {}", self.problem),
        }
    }
}

/// Reads and checks everything of one snapshot of the store.
///
/// Takes CPU and the disk for about a second per 100,000 rows: run it on a thread of its own.
///
/// # Errors
/// [`StoreError`] when the engine cannot read at all; a page that it cannot read is one of these too.
pub async fn check_store<S: Store>(store: &S, keys: &Keys) -> Result<CheckReport, StoreError> {
    look(store, keys, Depth::Whole).await
}

/// Reads every row of one snapshot and checks its tag, each table against the anchor, and the KEK index against the values'
/// key rows; bodies, other references and payloads are left to [`check_store`].
///
/// Rests three times as long as it works. Run it on a thread of its own all the same.
///
/// # Errors
/// As [`check_store`].
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn scrub_store<S: Store>(store: &S, keys: &Keys) -> Result<CheckReport, StoreError> {
    look(store, keys, Depth::Rows).await
}

/// How far a look goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Tags, counts, set hashes, and the KEK index.
    Rows,
    /// All there is.
    Whole,
}

async fn look<S: Store>(store: &S, keys: &Keys, depth: Depth) -> Result<CheckReport, StoreError> {
    let (codec, snapshot) = keys.standing(store).await?;
    let mut check = Check {
        snapshot: &snapshot,
        codec: &codec,
        keys,
        depth,
        report: CheckReport {
            seq: snapshot.seq().0,
            rows: 0,
            payloads: 0,
            findings: Vec::new(),
        },
        secrets: HashMap::new(),
        keks: HashMap::new(),
        open: HashMap::new(),
        indexed: 0,
    };
    let tip = check.anchor().await?;
    // Heads come before versions in the order of tables, which is what `secrets` needs, and KEKs before values.
    for table in Table::ALL.iter().copied() {
        if table.is_authenticated() {
            check.table(table, tip.as_ref()).await?;
        }
    }
    check.index().await?;
    if depth == Depth::Whole {
        check.payloads().await?;
    }
    let mut report = check.report;
    report.findings.sort();
    Ok(report)
}

struct Check<'a, V: Snapshot> {
    snapshot: &'a V,
    codec: &'a RowCodec,
    keys: &'a Keys,
    depth: Depth,
    report: CheckReport,
    /// The ids of all secrets that have a head, and whether their keyspace is being removed.
    secrets: HashMap<SecretId, bool>,
    /// Every KEK whose row can be read.
    keks: HashMap<KeyId, SeenKek>,
    /// Some of them, open.
    open: HashMap<KeyId, Arc<Kek>>,
    /// How many values have their row of the KEK index.
    indexed: u64,
}

/// A KEK as its row has it.
struct SeenKek {
    keyspace: Keyspace,
    epoch: u32,
    body: KekBody,
    /// Whether its keyspace is being removed.
    removed: bool,
}

impl<V: Snapshot> Check<'_, V> {
    async fn anchor(&mut self) -> Result<Option<Tip>, StoreError> {
        use crate::store::LedgerError;

        if self.snapshot.seq() == AnchorSeq(0) {
            self.find(Table::Anchor, b"", "there is none: init was cut short");
            return Ok(None);
        }
        match self.codec.read_tip(self.snapshot).await {
            Ok(tip) => Ok(Some(tip)),
            Err(LedgerError::Store(error)) => Err(error),
            Err(LedgerError::Damaged { .. } | LedgerError::Anchor(_) | LedgerError::Full) => {
                self.find(Table::Anchor, b"", "does not open, or is of another commit");
                Ok(None)
            }
        }
    }

    /// Every row of a table, and the table against the anchor.
    async fn table(&mut self, table: Table, tip: Option<&Tip>) -> Result<(), StoreError> {
        let mut sum = TableSum::EMPTY;
        let mut damaged = 0u32;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let begun = Instant::now();
            let page = self
                .snapshot
                .scan(table, b"", after.as_deref(), PAGE)
                .await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            let mut of_index = Vec::new();
            for (key, stored) in page {
                self.report.rows += 1;
                let Ok(row) = self.codec.verify(table, &key, &stored) else {
                    damaged += 1;
                    self.find(table, &key, "fails authentication");
                    continue;
                };
                let element = self.codec.element(table, &key, &row.tag);
                if sum.insert(&element).is_err() {
                    self.find(table, b"", "has more rows than can be counted");
                }
                if table == Table::ValueKey {
                    of_index.extend(KekIndexKey::of(&key, &row.body));
                }
                if self.depth == Depth::Whole {
                    self.row(table, &key, &row.into_row()).await?;
                }
            }
            self.are_indexed(of_index).await?;
            self.rest(begun).await;
        }
        let Some(tip) = tip else { return Ok(()) };
        let anchored = tip.anchor.tables.get(&table).copied();
        let anchored = anchored.unwrap_or(TableSum::EMPTY);
        if u64::from(anchored.count()) != u64::from(sum.count()) + u64::from(damaged) {
            self.find(
                table,
                b"",
                "rows were removed or added: the count is not the anchor's",
            );
        } else if damaged == 0 && sum != anchored {
            self.find(
                table,
                b"",
                "rows were put back or exchanged: the set hash is not the anchor's",
            );
        }
        Ok(())
    }

    /// Between two pages.
    async fn rest(&self, begun: Instant) {
        match self.depth {
            Depth::Rows => tokio::time::sleep(REST_MAX.min(begun.elapsed() * REST)).await,
            Depth::Whole => tokio::task::yield_now().await,
        }
    }

    /// Whether the values of a page have their rows of the KEK index.
    async fn are_indexed(&mut self, mut rows: Vec<KekIndexKey>) -> Result<(), StoreError> {
        rows.sort_unstable();
        let keys: Vec<_> = rows.iter().map(KekIndexKey::encode).collect();
        let keys: Vec<_> = keys.iter().map(AsRef::as_ref).collect();
        let mut found = Vec::with_capacity(keys.len());
        let each = |stored: Option<&[u8]>| found.push(stored.is_some());
        self.snapshot.show(Table::KekIndex, &keys, each).await?;
        all_shown(found.len(), rows.len())?;
        for (row, found) in rows.iter().zip(found) {
            if found {
                self.indexed += 1;
            } else {
                let key = ValueKeyBody::key(row.value);
                self.find(Table::ValueKey, &key, "is not in the KEK index");
            }
        }
        Ok(())
    }

    /// The KEK index. Each value was found in it, or named: where it has no more rows than those, no row is one too many.
    async fn index(&mut self) -> Result<(), StoreError> {
        let before = self.report.rows;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let begun = Instant::now();
            let Some(page) = self.index_page(&mut after).await? else {
                break;
            };
            self.report.rows += page.len() as u64;
            for (key, _) in page.iter().filter(|(_, stored)| !stored.is_empty()) {
                self.find(Table::KekIndex, key, "has a body, which no row of it has");
            }
            self.rest(begun).await;
        }
        if self.report.rows - before == self.indexed {
            return Ok(());
        }
        let mut after: Option<Vec<u8>> = None;
        loop {
            let begun = Instant::now();
            let Some(page) = self.index_page(&mut after).await? else {
                return Ok(());
            };
            for (key, _) in page {
                self.is_of_value(&key).await?;
            }
            self.rest(begun).await;
        }
    }

    async fn index_page(
        &self,
        after: &mut Option<Vec<u8>>,
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        let page = self
            .snapshot
            .scan(Table::KekIndex, b"", after.as_deref(), PAGE)
            .await?;
        let Some((last, _)) = page.last() else {
            return Ok(None);
        };
        *after = Some(last.clone());
        Ok(Some(page))
    }

    /// The body of a verified row, and what it points to.
    async fn row(&mut self, table: Table, key: &[u8], row: &Row) -> Result<(), StoreError> {
        match table {
            Table::Keyspace => self.keyspace(key, row).await,
            Table::Kek => self.kek(key, row).await,
            Table::Head => self.head(key, row).await,
            Table::Version => self.version(key, row).await,
            Table::ValueKey => self.value_key(key, row).await,
            Table::Request => {
                self.decode(table, key, row, RequestBody::decode);
                Ok(())
            }
            // Their owners check them when they load; a row of theirs that verifies is one that they wrote.
            Table::Anchor
            | Table::Approval
            | Table::Backup
            | Table::Ban
            | Table::Cluster
            | Table::Delivery
            | Table::Grant
            | Table::Identity
            | Table::JoinToken
            | Table::KekIndex
            | Table::Meta
            | Table::Operator
            | Table::OperatorCode
            | Table::Payload
            | Table::Policy
            | Table::Slot => Ok(()),
        }
    }

    async fn keyspace(&mut self, key: &[u8], row: &Row) -> Result<(), StoreError> {
        let Some(body) = self.decode(Table::Keyspace, key, row, KeyspaceBody::decode) else {
            return Ok(());
        };
        let Some(name) = parsed::<Keyspace>(key) else {
            self.find(Table::Keyspace, key, "is no keyspace's name");
            return Ok(());
        };
        if body.state == KeyspaceState::Active {
            let kek_key = KekBody::key(&name, body.key_epoch);
            let kek = self.peek(Table::Kek, &kek_key, KekBody::decode).await?;
            if !kek.is_some_and(|kek| kek.state.phase() == KekPhase::Active) {
                self.find(Table::Keyspace, key, "its key epoch has no active key");
            }
        }
        Ok(())
    }

    async fn kek(&mut self, key: &[u8], row: &Row) -> Result<(), StoreError> {
        let Some(body) = self.decode(Table::Kek, key, row, KekBody::decode) else {
            return Ok(());
        };
        let phase = body.state.phase();
        let Ok((keyspace, epoch)) = KekBody::parse_key(key) else {
            self.find(Table::Kek, key, "is of no keyspace and epoch");
            return Ok(());
        };
        let of = self.keyspace_named(&keyspace).await?;
        let state = of.as_ref().map(|of| of.state);
        let removed = state == Some(KeyspaceState::Removing);
        let id = body.kek;
        let has_key = body.state.wrapped().is_some();
        let seen = SeenKek {
            keyspace,
            epoch,
            body,
            removed,
        };
        if self.keks.insert(id, seen).is_some() {
            self.find(Table::Kek, key, "shares its id with another key");
        }
        if has_key && let Err(problem) = self.open(id) {
            self.find(Table::Kek, key, problem);
        }
        let gone = removed || state == Some(KeyspaceState::Destroyed);
        if gone && phase != KekPhase::Destroyed {
            self.find(Table::Kek, key, "is a key of a keyspace that is destroyed");
            return Ok(());
        }
        if phase == KekPhase::Active && of.is_none_or(|of| of.key_epoch != epoch) {
            self.find(
                Table::Kek,
                key,
                "is active, and not of its keyspace's epoch",
            );
        }
        Ok(())
    }

    async fn head(&mut self, key: &[u8], row: &Row) -> Result<(), StoreError> {
        let Some(head) = self.decode(Table::Head, key, row, HeadBody::decode) else {
            return Ok(());
        };
        let path = parsed::<SecretPath>(key);
        let keyspace = match &path {
            Some(path) => self.keyspace_named(&path.keyspace).await?,
            None => None,
        };
        let removed = keyspace
            .as_ref()
            .is_some_and(|it| it.state == KeyspaceState::Removing);
        if self.secrets.insert(head.secret, removed).is_some() {
            self.find(Table::Head, key, "shares its secret id with another name");
        }
        if path.is_none() {
            self.find(Table::Head, key, "is no secret's name");
            return Ok(());
        }
        match keyspace.map(|it| it.state) {
            None => self.find(Table::Head, key, "is of a keyspace that is not there"),
            Some(KeyspaceState::Destroyed) => {
                self.find(Table::Head, key, "is of a keyspace that is destroyed");
            }
            Some(KeyspaceState::Active | KeyspaceState::Removing) => {}
        }
        // The latest may be destroyed. Of a keyspace that is removed versions go before their heads.
        if let Some(active) = head.active.filter(|_| !removed) {
            let version = VersionBody::key(head.secret, active);
            if self.snapshot.get(Table::Version, &version).await?.is_none() {
                self.find(Table::Head, key, "points to a version that is not there");
            }
        }
        Ok(())
    }

    async fn version(&mut self, key: &[u8], row: &Row) -> Result<(), StoreError> {
        let Some(version) = self.decode(Table::Version, key, row, VersionBody::decode) else {
            return Ok(());
        };
        let Some((secret, number)) = version_key(key) else {
            self.find(Table::Version, key, "is no version's key");
            return Ok(());
        };
        if number != version.number {
            self.find(Table::Version, key, "has another number than its key");
        }
        let removed = self.secrets.get(&secret).copied();
        if removed.is_none() {
            self.find(Table::Version, key, "is of a secret that has no head");
        }
        for value in version.fields.values() {
            let value_key = ValueKeyBody::key(*value);
            let found = self
                .peek(Table::ValueKey, &value_key, ValueKeyBody::decode)
                .await?;
            match found {
                // Values of a keyspace that is removed go before their versions.
                None if removed == Some(true) => {}
                None => self.find(Table::Version, key, "points to a value that is not there"),
                Some(found) if found.secret != secret => {
                    self.find(Table::Version, key, "points to a value of another secret");
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    async fn value_key(&mut self, key: &[u8], row: &Row) -> Result<(), StoreError> {
        let Some(body) = self.decode(Table::ValueKey, key, row, ValueKeyBody::decode) else {
            return Ok(());
        };
        let Ok(value) = ValueId::try_from(key) else {
            self.find(Table::ValueKey, key, "is no value's id");
            return Ok(());
        };
        if let Err(problem) = self.wrapped(value, &body) {
            self.find(Table::ValueKey, key, problem);
        }
        match self.snapshot.get(Table::Payload, key).await? {
            None => self.find(Table::ValueKey, key, "has no payload"),
            Some(payload) => {
                self.report.payloads += 1;
                let length = u32::try_from(payload.len());
                if length != Ok(body.ct_bytes) || CtHash::of(&payload) != body.ct_hash {
                    self.find(Table::Payload, key, "is not the ciphertext that was put");
                }
            }
        }
        Ok(())
    }

    /// Whether a value is wrapped under a key that may have wrapped it, and opens by it.
    fn wrapped(&mut self, value: ValueId, body: &ValueKeyBody) -> Result<(), &'static str> {
        const GONE: &str = "is wrapped under a key that is not there";
        let seen = self.keks.get(&body.kek).ok_or(GONE)?;
        match (seen.body.state.phase(), seen.removed) {
            (KekPhase::Active | KekPhase::DecryptOnly, _) => {}
            (KekPhase::Destroyed, true) => return Ok(()),
            (KekPhase::Destroyed, false) => return Err(GONE),
            (KekPhase::Retired, _) => return Err("is wrapped under a key that is retired"),
        }
        // That it does not open is said of its own row.
        let Ok(open) = self.open(body.kek) else {
            return Ok(());
        };
        let seen = self.keks.get(&body.kek).ok_or(GONE)?;
        let binding = DekBinding {
            store: self.keys.store_id(),
            keyspace: &seen.keyspace,
            secret: body.secret,
            value,
            kek: body.kek,
            ct_hash: body.ct_hash,
        };
        let dek = open
            .prepared()
            .and_then(|kek| kek.unwrap_dek(self.keys, &binding, &body.wrapped));
        dek.map(drop).map_err(|error| match error {
            KeysError::Arena(_) => "has a key that cannot be opened now: there is no room for keys",
            KeysError::Envelope(_) | KeysError::Ledger(_) | KeysError::NoKek { .. } => {
                "has a key that its KEK does not open"
            }
        })
    }

    /// A KEK of those that were seen, open.
    fn open(&mut self, id: KeyId) -> Result<Arc<Kek>, &'static str> {
        if let Some(open) = self.open.get(&id) {
            return Ok(Arc::clone(open));
        }
        let seen = self.keks.get(&id).ok_or("is not there")?;
        let kek = Kek::of_row(self.keys, &seen.keyspace, seen.epoch, &seen.body);
        let kek = kek.map_err(|error| match error {
            KeysError::Arena(_) => "cannot be opened now: there is no room for keys",
            KeysError::Envelope(_) | KeysError::Ledger(_) | KeysError::NoKek { .. } => {
                "does not open by the keyring"
            }
        })?;
        if self.open.len() >= OPEN_KEKS {
            self.open.clear();
        }
        let kek = Arc::new(kek);
        self.open.insert(id, Arc::clone(&kek));
        Ok(kek)
    }

    /// Whether a row of the index is that of a value.
    async fn is_of_value(&mut self, key: &[u8]) -> Result<(), StoreError> {
        let Ok(index) = KekIndexKey::decode(key) else {
            self.find(Table::KekIndex, key, "is no key of the index");
            return Ok(());
        };
        let value_key = ValueKeyBody::key(index.value);
        let value = self
            .peek(Table::ValueKey, &value_key, ValueKeyBody::decode)
            .await?;
        if value.is_none_or(|value| value.kek != index.kek) {
            self.find(
                Table::KekIndex,
                key,
                "names a value that its key does not wrap",
            );
        }
        Ok(())
    }

    /// Payloads that no value's key row knows.
    async fn payloads(&mut self) -> Result<(), StoreError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            // A payload may have 1 MiB.
            let page = self
                .snapshot
                .scan(Table::Payload, b"", after.as_deref(), 16)
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            for (key, _) in page {
                if self.snapshot.get(Table::ValueKey, &key).await?.is_none() {
                    self.find(Table::Payload, &key, "belongs to no value");
                }
            }
            tokio::task::yield_now().await;
        }
    }

    async fn keyspace_named(&self, name: &Keyspace) -> Result<Option<KeyspaceBody>, StoreError> {
        let key = KeyspaceBody::key(name);
        self.peek(Table::Keyspace, &key, KeyspaceBody::decode).await
    }

    /// A row that another one points to; none when it is not there or damaged, which its own table's pass reports.
    async fn peek<T>(
        &self,
        table: Table,
        key: &[u8],
        decode: fn(&[u8]) -> Result<T, EnvelopeError>,
    ) -> Result<Option<T>, StoreError> {
        let Some(stored) = self.snapshot.get(table, key).await? else {
            return Ok(None);
        };
        let row = self.codec.verify(table, key, &stored).ok();
        Ok(row.and_then(|row| decode(&row.into_row().body).ok()))
    }

    fn decode<T>(
        &mut self,
        table: Table,
        key: &[u8],
        row: &Row,
        decode: fn(&[u8]) -> Result<T, EnvelopeError>,
    ) -> Option<T> {
        let body = decode(&row.body).ok();
        if body.is_none() {
            self.find(table, key, "its body cannot be read");
        }
        body
    }

    fn find(&mut self, table: Table, key: &[u8], problem: &'static str) {
        if self.report.findings.len() < MAX_FINDINGS {
            let key = if key.is_empty() {
                String::new()
            } else {
                shown(key)
            };
            self.report.findings.push(Finding {
                table,
                key,
                problem,
            });
        }
    }
}

fn parsed<T: std::str::FromStr>(key: &[u8]) -> Option<T> {
    std::str::from_utf8(key).ok()?.parse().ok()
}

fn version_key(key: &[u8]) -> Option<(SecretId, SecretVersion)> {
    let (secret, number) = key.split_first_chunk::<16>()?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    Some((SecretId::from_bytes(*secret), SecretVersion::new(number)?))
}
