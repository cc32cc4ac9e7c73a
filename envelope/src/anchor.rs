//! The anchor: one sealed record that sums up every table, and the chain `T` over its states.
//!
//! ```text
//! A = sum of the table's set elements mod 2^256, big-endian; a count beside it
//! T = HMAC-SHA256(K_anchor_mac, LP("attache/anchor-chain/1", store, incarnation, seq, T_prev,
//!       [(table, A, count)] by table, [(chain, size, root)] by chain)),  T_0 = 32 zeros
//! stored = format u16 || suite u16 || LP(incarnation u32, seq u64, key_id, Wrap of the record)
//! record = LP(T_prev, [(table, A, count)], [(chain, size, root)])
//! ```
//!
//! `A` must never be stored or sent in clear: visible differences would make an additive hash forgeable. `T` may be,
//! and copies of it outside of the store are what shows a rollback.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::EnvelopeError;
use crate::id::{ChainId, KeyId, StoreId};
use crate::key::{AnchorMacKey, AnchorSealKey};
use crate::lp::{Fault, Lp, Malformed, Reader};
use crate::row::SetElement;
use crate::wrap::{self, AnchorBinding};
use crate::{Random, Table, kdf};

const RECORD: &str = "the anchor";

/// The most chains that one store registers.
const MAX_CHAINS: usize = 4096;

/// One state of the anchor chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnchorTag([u8; 32]);

impl AnchorTag {
    /// `T_0`: what comes before the first commit.
    pub const ZERO: Self = Self([0; 32]);

    /// Takes stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for AnchorTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnchorTag(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// The set hash of a table, and how many rows it sums up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TableSum {
    hash: [u8; 32],
    count: u32,
}

impl TableSum {
    /// The sum of no rows.
    pub const EMPTY: Self = Self {
        hash: [0; 32],
        count: 0,
    };

    /// Takes a sum that was stored sealed.
    #[must_use]
    pub const fn from_parts(hash: [u8; 32], count: u32) -> Self {
        Self { hash, count }
    }

    /// `A`, 32 bytes big-endian. Never in clear outside of a process.
    #[must_use]
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// How many rows.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`EnvelopeError::Rule`] past 2^32 - 1 rows; the sum is then as it was.
    pub fn insert(&mut self, element: &SetElement) -> Result<(), EnvelopeError> {
        self.count = self
            .count
            .checked_add(1)
            .ok_or(EnvelopeError::Rule("a table holds 2^32 - 1 rows at most"))?;
        add(&mut self.hash, element.as_bytes());
        Ok(())
    }

    /// Takes a row out: the element must be that of the row as it was stored.
    ///
    /// # Errors
    /// [`EnvelopeError::Rule`] when there is none; the sum is then as it was.
    pub fn remove(&mut self, element: &SetElement) -> Result<(), EnvelopeError> {
        self.count = self
            .count
            .checked_sub(1)
            .ok_or(EnvelopeError::Rule("a row was taken out of an empty table"))?;
        subtract(&mut self.hash, element.as_bytes());
        Ok(())
    }
}

impl fmt::Debug for TableSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TableSum(.., {})", self.count)
    }
}

/// The last durable checkpoint of an audit chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHead {
    /// How many leaves.
    pub size: u64,
    /// The tree's root.
    pub root: [u8; 32],
}

/// What the anchor says of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The store's incarnation.
    pub incarnation: u32,
    /// The commit.
    pub seq: u64,
    /// `T` of the commit before.
    pub t_prev: AnchorTag,
    /// The sum of each table; a table that is not here is empty.
    pub tables: BTreeMap<Table, TableSum>,
    /// The head of each audit chain.
    pub heads: BTreeMap<ChainId, AuditHead>,
}

impl Anchor {
    /// `T` of this commit.
    #[must_use]
    pub fn t(&self, key: AnchorMacKey<'_>, store: StoreId) -> AnchorTag {
        let input = Lp::labelled("attache/anchor-chain/1")
            .id(store)
            .u32(self.incarnation)
            .u64(self.seq)
            .bytes(&self.t_prev.0)
            .list(self.tables.iter().map(table_lp))
            .list(self.heads.iter().map(head_lp));
        AnchorTag(kdf::hmac(key.bytes(), input.as_bytes()))
    }

    /// Seals the anchor for its one row.
    ///
    /// # Errors
    /// [`EnvelopeError::Random`].
    pub fn seal(
        &self,
        random: &dyn Random,
        key: AnchorSealKey<'_>,
        key_id: KeyId,
        store: StoreId,
    ) -> Result<Vec<u8>, EnvelopeError> {
        let record = Lp::new()
            .bytes(&self.t_prev.0)
            .list(self.tables.iter().map(table_lp))
            .list(self.heads.iter().map(head_lp));
        let binding = AnchorBinding {
            store,
            incarnation: self.incarnation,
            seq: self.seq,
        };
        let wrapped = wrap::wrap_anchor(random, key, key_id, &binding, record.as_bytes())?;
        Ok(Lp::record()
            .u32(self.incarnation)
            .u64(self.seq)
            .id(key_id)
            .bytes(&wrapped)
            .into_bytes())
    }
}

/// An anchor row as the store gave it.
#[derive(Debug, Clone, Copy)]
pub struct SealedAnchor<'a> {
    /// The incarnation that it claims.
    pub incarnation: u32,
    /// The commit that it claims.
    pub seq: u64,
    /// Which anchor seal key opens it.
    pub key_id: KeyId,
    wrapped: &'a [u8],
}

impl<'a> SealedAnchor<'a> {
    /// Takes the parts of an anchor row.
    ///
    /// # Errors
    /// [`EnvelopeError::Format`], [`EnvelopeError::Suite`], [`EnvelopeError::Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let mut reader = Reader::record(RECORD, bytes)?;
        let mut read = || {
            let anchor = Self {
                incarnation: reader.u32("incarnation")?,
                seq: reader.u64("seq")?,
                key_id: reader.id("key_id")?,
                wrapped: reader.bytes("wrap")?,
            };
            reader.clone().finish("the record").map(|()| anchor)
        };
        read().map_err(EnvelopeError::malformed(RECORD))
    }

    /// Opens it; incarnation and seq are bound by the wrap.
    ///
    /// # Errors
    /// [`EnvelopeError::Refused`]; [`EnvelopeError::Malformed`] for a record that this build would not write.
    pub fn open(&self, key: AnchorSealKey<'_>, store: StoreId) -> Result<Anchor, EnvelopeError> {
        let binding = AnchorBinding {
            store,
            incarnation: self.incarnation,
            seq: self.seq,
        };
        let record = wrap::unwrap_anchor(key, self.key_id, &binding, self.wrapped)?;
        self.decode(&record)
            .map_err(EnvelopeError::malformed(RECORD))
    }

    fn decode(&self, record: &[u8]) -> Result<Anchor, Malformed> {
        let mut reader = Reader::new(record);
        let t_prev = AnchorTag(reader.array("T_prev")?);
        let tables = reader.list("tables", Table::ALL.len(), |parts| {
            let table = parts.parse::<Table>("table")?;
            let sum = TableSum::from_parts(parts.array("A")?, parts.u32("count")?);
            Ok((table, sum))
        })?;
        let heads = reader.list("chains", MAX_CHAINS, |parts| {
            let chain: ChainId = parts.id("chain")?;
            let head = AuditHead {
                size: parts.u64("size")?,
                root: parts.array("root")?,
            };
            Ok((chain, head))
        })?;
        reader.finish("the record")?;
        Ok(Anchor {
            incarnation: self.incarnation,
            seq: self.seq,
            t_prev,
            tables: ascending("tables", tables)?,
            heads: ascending("chains", heads)?,
        })
    }
}

/// Makes a map of pairs that are already in its order, none twice.
fn ascending<K: Ord + Copy, V>(
    field: &'static str,
    pairs: Vec<(K, V)>,
) -> Result<BTreeMap<K, V>, Malformed> {
    if pairs.is_sorted_by(|(a, _), (b, _)| a < b) {
        Ok(pairs.into_iter().collect())
    } else {
        Err(Malformed::new(field, Fault::Order))
    }
}

fn table_lp((table, sum): (&Table, &TableSum)) -> Lp {
    Lp::new().str(table.name()).bytes(&sum.hash).u32(sum.count)
}

fn head_lp((chain, head): (&ChainId, &AuditHead)) -> Lp {
    Lp::new().id(chain).u64(head.size).bytes(&head.root)
}

/// `a + b mod 2^256`.
fn add(a: &mut [u8; 32], b: &[u8; 32]) {
    let mut carry = false;
    for (byte, other) in a.iter_mut().zip(b).rev() {
        (*byte, carry) = byte.carrying_add(*other, carry);
    }
}

/// `a - b mod 2^256`.
fn subtract(a: &mut [u8; 32], b: &[u8; 32]) {
    let mut borrow = false;
    for (byte, other) in a.iter_mut().zip(b).rev() {
        (*byte, borrow) = byte.borrowing_sub(*other, borrow);
    }
}

#[cfg(test)]
mod tests;
