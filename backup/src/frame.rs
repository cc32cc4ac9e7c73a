//! What follows the head: frames with their lengths before them, each within bounds.

/// Bytes before a frame's key: kind, length of the key, length of the value.
pub(crate) const FRAME_HEAD_BYTES: usize = 9;

/// The longest key of a row: an operator's SPIFFE ID and a request have 2,065.
pub const MAX_KEY_BYTES: usize = 4096;

/// The longest value of a row: a ciphertext has 1 MiB and its tag.
pub const MAX_VALUE_BYTES: usize = 2 * 1024 * 1024;

/// The longest name of a table.
pub(crate) const MAX_NAME_BYTES: usize = 64;

/// The longest signed note.
pub(crate) const MAX_NOTE_BYTES: usize = 4096;

/// Bytes of a table's count.
pub(crate) const COUNT_BYTES: usize = 8;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Table,
    Row,
    TableEnd,
    End,
}

impl Kind {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Table => 1,
            Self::Row => 2,
            Self::TableEnd => 3,
            Self::End => 4,
        }
    }

    pub(crate) const fn of_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Table),
            2 => Some(Self::Row),
            3 => Some(Self::TableEnd),
            4 => Some(Self::End),
            _ => None,
        }
    }

    /// Whether a frame of this kind may have a key and a value of these lengths.
    pub(crate) fn allows(self, key: usize, value: usize) -> bool {
        match self {
            Self::Table => (1..=MAX_NAME_BYTES).contains(&key) && value == 0,
            Self::Row => key <= MAX_KEY_BYTES && value <= MAX_VALUE_BYTES,
            Self::TableEnd => key == 0 && value == COUNT_BYTES,
            Self::End => key == 0 && value <= MAX_NOTE_BYTES,
        }
    }
}

/// Appends a frame; false, and nothing appended, when it is out of bounds.
pub(crate) fn push(kind: Kind, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> bool {
    let lengths = (u32::try_from(key.len()), u32::try_from(value.len()));
    let (Ok(key_length), Ok(value_length)) = lengths else {
        return false;
    };
    if !kind.allows(key.len(), value.len()) {
        return false;
    }
    out.push(kind.byte());
    out.extend_from_slice(&key_length.to_be_bytes());
    out.extend_from_slice(&value_length.to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
    true
}

/// A frame's kind and lengths, as its first nine bytes say.
pub(crate) struct FrameHead {
    pub(crate) kind: Kind,
    pub(crate) key: usize,
    pub(crate) value: usize,
}

impl FrameHead {
    /// Reads the nine bytes; none when they are no frame's.
    pub(crate) fn parse(bytes: &[u8; FRAME_HEAD_BYTES]) -> Option<Self> {
        let [kind, a, b, c, d, e, f, g, h] = *bytes;
        let kind = Kind::of_byte(kind)?;
        let key = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        let value = usize::try_from(u32::from_be_bytes([e, f, g, h])).ok()?;
        kind.allows(key, value).then_some(Self { kind, key, value })
    }
}
