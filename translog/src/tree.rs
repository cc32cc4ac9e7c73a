//! The Merkle tree of RFC 6962 over a chain's leaves: its root as it grows, and proofs about it.
//!
//! ```text
//! leaf = SHA-256(0x00 || body)      node = SHA-256(0x01 || left || right)      root of nothing = SHA-256("")
//! ```
//!
//! The broker keeps a [`Frontier`], which is enough to append and to sign; proofs are made from all leaf hashes by
//! whoever has them. Verification must never take a proof longer or shorter than its tree asks for.

use sha2::{Digest, Sha256};
use thiserror::Error;

/// A SHA-256 hash of a leaf, a node or a whole tree.
pub type Hash = [u8; 32];

/// A proof that does not prove what it was given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The index or the sizes name no place in such a tree.
    #[error("no such place in a tree of that size")]
    Range,
    /// The proof has too few or too many hashes.
    #[error("the proof has the wrong length")]
    Length,
    /// The proof leads to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// `SHA-256(0x00 || body)` (RFC 6962, section 2.1).
#[must_use]
pub fn leaf_hash(body: &[u8]) -> Hash {
    Sha256::new()
        .chain_update([0x00])
        .chain_update(body)
        .finalize()
        .into()
}

/// `SHA-256(0x01 || left || right)` (RFC 6962, section 2.1).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new()
        .chain_update([0x01])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// The root of a tree without leaves, `SHA-256("")`.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest(b"").into()
}

/// The right edge of a tree: the roots of the perfect subtrees that its size is the sum of, largest first.
///
/// All that appending and the root need: one hash a set bit of the size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The frontier of a tree without leaves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes up a frontier that was kept, if its root is `root`: it need not be trusted then, since no other peaks
    /// hash to that.
    ///
    /// # Errors
    /// [`ProofError::Length`] when the size asks for another number of peaks; [`ProofError::Root`].
    pub fn resume(size: u64, peaks: Vec<Hash>, root: &Hash) -> Result<Self, ProofError> {
        if usize::try_from(size.count_ones()).ok() != Some(peaks.len()) {
            return Err(ProofError::Length);
        }
        let frontier = Self { size, peaks };
        if frontier.root() == *root {
            Ok(frontier)
        } else {
            Err(ProofError::Root)
        }
    }

    /// Adds one leaf's hash at index [`Frontier::size`].
    pub fn append(&mut self, leaf: Hash) {
        let mut peak = leaf;
        // Each trailing one bit of the size is a subtree as large as the one in hand: the two become one.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                peak = node_hash(&left, &peak);
            }
        }
        self.peaks.push(peak);
        self.size += 1;
    }

    /// How many leaves the tree has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The peaks, largest first: what to keep for [`Frontier::resume`].
    #[must_use]
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// The tree's root: the peaks folded from the right.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => empty_root(),
            Some(last) => peaks.fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

/// The proof that `leaves[index]` is in the tree over `leaves`, leaf side first (RFC 6962, section 2.1.1).
///
/// # Errors
/// [`ProofError::Range`] when there is no such leaf.
pub fn inclusion_proof(index: usize, leaves: &[Hash]) -> Result<Vec<Hash>, ProofError> {
    if index >= leaves.len() {
        return Err(ProofError::Range);
    }
    let mut proof = Vec::new();
    let (mut index, mut leaves) = (index, leaves);
    while leaves.len() > 1 {
        let (left, right) = leaves.split_at(left_size(leaves.len()));
        if index < left.len() {
            proof.push(root_of(right));
            leaves = left;
        } else {
            proof.push(root_of(left));
            index -= left.len();
            leaves = right;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree over `leaves` continues the one over its first `first` leaves (RFC 6962, section 2.1.2).
///
/// # Errors
/// [`ProofError::Range`] when `first` is zero, which proves nothing, or more than there are.
pub fn consistency_proof(first: usize, leaves: &[Hash]) -> Result<Vec<Hash>, ProofError> {
    if first == 0 || first > leaves.len() {
        return Err(ProofError::Range);
    }
    let mut proof = Vec::new();
    let (mut first, mut leaves) = (first, leaves);
    // The verifier has the root over the first leaves itself: it is left out while the subtree begins with them.
    let mut known = true;
    while first != leaves.len() {
        let (left, right) = leaves.split_at(left_size(leaves.len()));
        if first <= left.len() {
            proof.push(root_of(right));
            leaves = left;
        } else {
            proof.push(root_of(left));
            first -= left.len();
            leaves = right;
            known = false;
        }
    }
    if !known {
        proof.push(root_of(leaves));
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that `leaf` is at `index` of the tree of `size` leaves with that `root` (RFC 9162, section 2.1.3.2).
///
/// # Errors
/// [`ProofError`] when it is not proved.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Range);
    }
    let mut place = Place {
        node: index,
        last: size - 1,
    };
    let mut hash = *leaf;
    for sibling in proof {
        hash = match place.climb()? {
            Side::Left => node_hash(sibling, &hash),
            Side::Right => node_hash(&hash, sibling),
        };
    }
    place.expect_root()?;
    if hash == *root {
        Ok(())
    } else {
        Err(ProofError::Root)
    }
}

/// Checks that the tree of `second` leaves continues the tree of `first` (RFC 9162, section 2.1.4.2).
///
/// # Errors
/// [`ProofError`] when it is not proved. Size zero proves nothing and is refused.
pub fn verify_consistency(
    first: u64,
    second: u64,
    first_root: &Hash,
    second_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if first == 0 || first > second {
        return Err(ProofError::Range);
    }
    if first == second {
        return match (proof.is_empty(), first_root == second_root) {
            (false, _) => Err(ProofError::Length),
            (true, false) => Err(ProofError::Root),
            (true, true) => Ok(()),
        };
    }
    // A first tree that is one perfect subtree is its own first hash.
    let (start, rest) = match proof.split_first() {
        _ if first.is_power_of_two() => (first_root, proof),
        Some(parts) => parts,
        None => return Err(ProofError::Length),
    };
    let skipped = (first - 1).trailing_ones();
    let mut place = Place {
        node: (first - 1) >> skipped,
        last: (second - 1) >> skipped,
    };
    let (mut old, mut new) = (*start, *start);
    for sibling in rest {
        match place.climb()? {
            Side::Left => {
                old = node_hash(sibling, &old);
                new = node_hash(sibling, &new);
            }
            Side::Right => new = node_hash(&new, sibling),
        }
    }
    place.expect_root()?;
    if old == *first_root && new == *second_root {
        Ok(())
    } else {
        Err(ProofError::Root)
    }
}

/// Where a proof's walk stands: a node's index in its level, and the level's last index.
struct Place {
    node: u64,
    last: u64,
}

/// On which side of the hash in hand the proof's next hash goes.
enum Side {
    Left,
    Right,
}

impl Place {
    /// Goes up to the next level at which this node has a sibling.
    fn climb(&mut self) -> Result<Side, ProofError> {
        if self.last == 0 {
            return Err(ProofError::Length);
        }
        let side = if self.node & 1 == 1 {
            Side::Left
        } else if self.node == self.last {
            // The level's last node, without a right sibling: it rises unchanged until it is a right child.
            let lone = self.node.trailing_zeros();
            self.node >>= lone;
            self.last >>= lone;
            Side::Left
        } else {
            Side::Right
        };
        self.node >>= 1;
        self.last >>= 1;
        Ok(side)
    }

    fn expect_root(&self) -> Result<(), ProofError> {
        if self.last == 0 {
            Ok(())
        } else {
            Err(ProofError::Length)
        }
    }
}

/// The root over `leaves`, by the frontier, which is the recursion of RFC 6962 unrolled.
fn root_of(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::new();
    for leaf in leaves {
        frontier.append(*leaf);
    }
    frontier.root()
}

/// The largest power of two smaller than `size`, which is at least two.
fn left_size(size: usize) -> usize {
    size.div_ceil(2).next_power_of_two()
}

#[cfg(test)]
mod tests;
