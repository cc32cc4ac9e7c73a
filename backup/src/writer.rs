//! Writes a backup, a call a frame; the caller takes the bytes away when there are enough.

use attache_translog::Signer;
use thiserror::Error;

use crate::end::{EndError, Sealed, sign};
use crate::frame::{Kind, push};
use crate::hash::Hash;
use crate::head::Head;

/// Why a backup cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WriteError {
    /// A row is longer than a backup holds.
    #[error("a row is longer than a backup holds")]
    TooLong,
    /// Tables, or rows of a table, do not ascend: a bug of the caller, or a store whose keys are not in order.
    #[error("tables or rows do not ascend")]
    Order,
    /// It could not be signed.
    #[error("its end cannot be signed: {0}")]
    Sign(#[from] EndError),
}

/// A backup in the making.
///
/// Every call appends to `out`, which the caller hands on whole and in order.
pub struct Writer {
    head: Head,
    hash: Hash,
    size: u64,
    rows: u64,
    /// The table that is open, or the last one that was.
    table: Vec<u8>,
    open: bool,
    in_table: u64,
    last_key: Option<Vec<u8>>,
}

impl Writer {
    /// Begins with the head.
    #[must_use]
    pub fn begin(head: Head, out: &mut Vec<u8>) -> Self {
        let mut writer = Self {
            head,
            hash: Hash::default(),
            size: 0,
            rows: 0,
            table: Vec::new(),
            open: false,
            in_table: 0,
            last_key: None,
        };
        let from = out.len();
        out.extend_from_slice(&head.encode());
        writer.account(out, from);
        writer
    }

    /// Begins a table, whose name comes after those before; the one before it ends.
    ///
    /// # Errors
    /// [`WriteError::Order`], [`WriteError::TooLong`].
    pub fn table(&mut self, name: &str, out: &mut Vec<u8>) -> Result<(), WriteError> {
        self.end_table(out)?;
        if name.as_bytes() <= self.table.as_slice() {
            return Err(WriteError::Order);
        }
        self.push(Kind::Table, name.as_bytes(), b"", out)?;
        self.table = name.as_bytes().to_vec();
        self.open = true;
        self.in_table = 0;
        self.last_key = None;
        Ok(())
    }

    /// Adds a row of the open table, whose key comes after those before.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn row(&mut self, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), WriteError> {
        let after = self.last_key.as_deref().is_none_or(|last| key > last);
        if !self.open || !after {
            return Err(WriteError::Order);
        }
        self.push(Kind::Row, key, value, out)?;
        self.in_table += 1;
        self.rows += 1;
        let last = self.last_key.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        Ok(())
    }

    /// The bytes so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Ends the file with the signed note.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn finish(mut self, signer: &Signer, out: &mut Vec<u8>) -> Result<Sealed, WriteError> {
        self.end_table(out)?;
        let sealed = Sealed {
            head: self.head,
            rows: self.rows,
            size: self.size,
            hash: self.hash.value(),
        };
        let note = sign(&sealed, signer)?;
        if push(Kind::End, b"", note.as_bytes(), out) {
            Ok(sealed)
        } else {
            Err(WriteError::TooLong)
        }
    }

    fn end_table(&mut self, out: &mut Vec<u8>) -> Result<(), WriteError> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        self.push(Kind::TableEnd, b"", &self.in_table.to_be_bytes(), out)
    }

    fn push(
        &mut self,
        kind: Kind,
        key: &[u8],
        value: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), WriteError> {
        let from = out.len();
        if !push(kind, key, value, out) {
            return Err(WriteError::TooLong);
        }
        self.account(out, from);
        Ok(())
    }

    fn account(&mut self, out: &[u8], from: usize) {
        let added = out.get(from..).unwrap_or_default();
        self.hash.update(added);
        self.size += added.len() as u64;
    }
}
