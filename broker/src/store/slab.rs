//! Many small pieces in one piece of memory.
//!
//! What one thread makes by the thousand and another one drops is dear to allocate piece by piece: each goes back to the
//! heap that it came from, under that heap's lock, and leaves it full of holes.

use bytes::Bytes;

/// Pieces that are put one behind the other, and then shared.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Slab {
    /// With room for `pieces` of some `bytes` each.
    pub(crate) fn for_pieces(pieces: usize, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(pieces.saturating_mul(bytes)),
            ends: Vec::with_capacity(pieces),
        }
    }

    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
        self.ends.push(self.bytes.len());
    }

    /// Each piece, in order. The memory stays until the last of them is dropped.
    pub(crate) fn into_pieces(self) -> impl ExactSizeIterator<Item = Bytes> {
        let whole = Bytes::from(self.bytes);
        let mut start = 0;
        self.ends.into_iter().map(move |end| {
            let piece = whole.slice(start..end);
            start = end;
            piece
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_as_they_were_put() {
        let mut slab = Slab::for_pieces(2, 4);
        let pieces = [&b"one"[..], b"", b"three", b""];
        for piece in pieces {
            slab.push(piece);
        }
        assert_eq!(slab.into_pieces().collect::<Vec<_>>(), pieces);
        assert_eq!(Slab::default().into_pieces().len(), 0);
    }
}
