//! Reads a backup from pieces of any size, as an enemy would have written it.
//!
//! The caller pushes what it has read and takes items until there is none; what is kept here is the piece that was
//! pushed last and the frame that it cut, whose lengths were held against the bounds before it was waited for.

use thiserror::Error;

use crate::end::{End, Sealed};
use crate::frame::{FRAME_HEAD_BYTES, FrameHead, Kind};
use crate::hash::Hash;
use crate::head::{HEAD_BYTES, Head};

/// What is wrong with a file, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("byte {offset}: {found}")]
pub struct BackupError {
    /// The first byte of what is wrong.
    pub offset: u64,
    /// What is.
    pub found: Found,
}

/// What can be wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Found {
    /// It does not begin as a backup does.
    #[error("this is no backup: it does not begin with the magic of one")]
    NoBackup,
    /// Made by a version that came later.
    #[error("{what} {number} is not known here: use the version that made it")]
    Newer {
        /// Which number.
        what: &'static str,
        /// Its value.
        number: u16,
    },
    /// A byte that must be zero.
    #[error("a reserved byte is not zero")]
    Zero,
    /// A frame of an unknown kind, or out of bounds.
    #[error("there is no frame here, or one that is longer than any may be")]
    Frame,
    /// A frame that may not stand here, or a name or key that does not come after the one before it.
    #[error("the frame is out of order")]
    Order,
    /// A table's count.
    #[error("the table has {rows} rows and counts {counted}")]
    Count {
        /// Rows that were read.
        rows: u64,
        /// What its end says.
        counted: u64,
    },
    /// The name of a table, or the note, is no text.
    #[error("text is not UTF-8")]
    NotText,
    /// It ends before its end.
    #[error("the file is cut off here: it has no end")]
    Cut,
    /// Bytes follow its end.
    #[error("bytes follow the end of the backup")]
    Trailing,
}

/// What a backup holds, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// The head; always first.
    Head(Head),
    /// A table begins.
    Table(&'a str),
    /// A row of that table.
    Row {
        /// Its key.
        key: &'a [u8],
        /// Its value, as stored.
        value: &'a [u8],
    },
    /// The table ended; it has as many rows as it says.
    TableEnd,
    /// The file ends with the bytes that were read: see [`Reader::finish`].
    End,
}

/// Reads one backup.
#[derive(Default)]
pub struct Reader {
    /// What was pushed and not yet taken begins at `at`.
    buffer: Vec<u8>,
    at: usize,
    offset: u64,
    hash: Hash,
    head: Option<Head>,
    rows: u64,
    table: Vec<u8>,
    open: bool,
    in_table: u64,
    last_key: Option<Vec<u8>>,
    end: Option<End>,
}

impl Reader {
    /// Stands before the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands over the bytes that come next. Take all items before more is pushed, or they gather here.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next item; none when more bytes are needed.
    ///
    /// # Errors
    /// [`BackupError`]; nothing of the file is to be used then.
    pub fn item(&mut self) -> Result<Option<Item<'_>>, BackupError> {
        if self.end.is_some() {
            return if self.at == self.buffer.len() {
                Ok(None)
            } else {
                Err(self.found(Found::Trailing))
            };
        }
        if self.head.is_none() {
            return self.read_head();
        }
        let rest = self.buffer.get(self.at..).unwrap_or_default();
        let Some(frame) = rest.first_chunk::<FRAME_HEAD_BYTES>() else {
            return Ok(None);
        };
        let frame = FrameHead::parse(frame).ok_or(self.found(Found::Frame))?;
        let length = FRAME_HEAD_BYTES + frame.key + frame.value;
        if rest.len() < length {
            return Ok(None);
        }
        let from = self.at;
        self.admit(&frame, from + FRAME_HEAD_BYTES)?;
        self.take(length, frame.kind != Kind::End);
        self.of_frame(&frame, from + FRAME_HEAD_BYTES).map(Some)
    }

    /// No more bytes come: what was read, to be verified.
    ///
    /// # Errors
    /// [`Found::Cut`], [`Found::Trailing`].
    pub fn finish(self) -> Result<End, BackupError> {
        let cut = self.found(Found::Cut);
        let trailing = self.found(Found::Trailing);
        match self.end {
            None => Err(cut),
            Some(_) if self.at != self.buffer.len() => Err(trailing),
            Some(end) => Ok(end),
        }
    }

    fn read_head(&mut self) -> Result<Option<Item<'_>>, BackupError> {
        let Some(bytes) = self.buffer.get(self.at..).and_then(<[u8]>::first_chunk) else {
            return Ok(None);
        };
        let head = Head::parse(bytes)?;
        self.take(HEAD_BYTES, true);
        self.head = Some(head);
        Ok(Some(Item::Head(head)))
    }

    /// Whether this frame may stand here; and what it changes.
    fn admit(&mut self, frame: &FrameHead, key_at: usize) -> Result<(), BackupError> {
        let order = self.found(Found::Order);
        let key = self.buffer.get(key_at..key_at + frame.key);
        let key = key.unwrap_or_default();
        match frame.kind {
            Kind::Table if !self.open && key > self.table.as_slice() => {
                self.table = key.to_vec();
                self.open = true;
                self.in_table = 0;
                self.last_key = None;
            }
            Kind::Row if self.open && self.last_key.as_deref().is_none_or(|last| key > last) => {
                let last = self.last_key.get_or_insert_default();
                last.clear();
                last.extend_from_slice(key);
                self.in_table += 1;
                self.rows += 1;
            }
            Kind::TableEnd if self.open => self.open = false,
            Kind::End if !self.open => {}
            Kind::Table | Kind::Row | Kind::TableEnd | Kind::End => return Err(order),
        }
        Ok(())
    }

    fn of_frame(&mut self, frame: &FrameHead, key_at: usize) -> Result<Item<'_>, BackupError> {
        let not_text = self.found(Found::NotText);
        let value_at = key_at + frame.key;
        let key = self.buffer.get(key_at..value_at).unwrap_or_default();
        let value = self.buffer.get(value_at..value_at + frame.value);
        let value = value.unwrap_or_default();
        match frame.kind {
            Kind::Table => {
                let name = std::str::from_utf8(key).map_err(|_| not_text)?;
                Ok(Item::Table(name))
            }
            Kind::Row => Ok(Item::Row { key, value }),
            Kind::TableEnd => {
                let counted = value.first_chunk().map_or(0, |it| u64::from_be_bytes(*it));
                if counted == self.in_table {
                    Ok(Item::TableEnd)
                } else {
                    let rows = self.in_table;
                    Err(self.found(Found::Count { rows, counted }))
                }
            }
            Kind::End => {
                let note = std::str::from_utf8(value).map_err(|_| not_text)?.to_owned();
                // There is a head, or no frame would have been read.
                let head = self.head.ok_or(not_text)?;
                let sealed = Sealed {
                    head,
                    rows: self.rows,
                    size: self.offset - (FRAME_HEAD_BYTES + frame.value) as u64,
                    hash: self.hash.value(),
                };
                self.end = Some(End { sealed, note });
                Ok(Item::End)
            }
        }
    }

    fn take(&mut self, length: usize, hashed: bool) {
        if hashed {
            let taken = self.buffer.get(self.at..self.at + length);
            self.hash.update(taken.unwrap_or_default());
        }
        self.at += length;
        self.offset += length as u64;
    }

    const fn found(&self, found: Found) -> BackupError {
        BackupError {
            offset: self.offset,
            found,
        }
    }
}
