//! The audit log as bytes: leaves, the Merkle tree over them, signed checkpoints, segments, and their verification.
//!
//! The broker encodes what it is about to do as a [`Leaf`], puts a batch of them into the tree and the segment
//! ([`Batch`]), and answers its callers only once the batch, which ends in a signed [`Checkpoint`], is durable. Anyone
//! with the segments and the chain's public key repeats the computation ([`Audit`]).
//!
//! Nothing here reads a clock, a file or a socket, and no leaf ever holds a value, a key or a token.

mod checkpoint;
mod leaf;
mod note;
mod segment;
mod succession;
mod tree;
mod verify;

pub use checkpoint::{AnchorNote, Checkpoint, CheckpointError, anchor_origin, log_ids, log_origin};
pub use leaf::{
    Alarm, Anchor, Attempts, Ban, Bootstrap, Cut, Denial, EncodedLeaf, Ending, Enrollment, Event,
    Generation, Intent, Items, Leaf, LeafError, MAX_LEAF_BYTES, Opening, Outcome, Pruning,
    Refusals, Release, ReleasedValue, Removal, Renewal, Retirement, Rotation, Sealing, Start, Stop,
    Succession, Tag,
};
pub use note::{NoteError, Signer, Verifier};
pub use segment::{
    Batch, HEADER_BYTES, Header, Record, Records, SealedBatch, SegmentError, push_checkpoint,
    push_leaf,
};
pub use succession::LogKeys;
pub use tree::{
    Frontier, Hash, ProofError, consistency_proof, empty_root, inclusion_proof, leaf_hash,
    node_hash, verify_consistency, verify_inclusion,
};
pub use verify::{Audit, Finding, Found, Recovered, RecoveryError, Report, TornTail, recover};
