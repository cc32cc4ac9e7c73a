//! Readmission: after a restore, nodes whose keys the store does not know come again, and one word of an operator lets all
//! of them in.
//!
//! ```text
//! meta "readmission" = record || not after u64, by        an operator's word for all; the next incarnation ends it
//!
//! of before the incarnation: recorded as live, joined and last renewed before it began
//!   -> shows its evidence within the hour -> taken in, with an alarm, as if approved; it is of before no more
//! ```
//! It stands for the approval of each, and for nothing else: a node shows the evidence that any enrollment needs, what is
//! banned stays out, a key that was rejected stays rejected, and each node comes in once.

use attache_envelope::{EnvelopeError, lp::Lp};
use jiff::{SignedDuration, Timestamp};

use super::Gate;
use crate::{
    identity::{
        rows::{NodeRecord, ms, read, text, time},
        view::View,
    },
    store::{Change, LedgerError, Table},
};

/// How long an operator's word stands: plugins ask again within a minute, and some of the machines may be starting.
pub const READMITS_FOR: SignedDuration = SignedDuration::from_hours(1);
/// The row's key.
pub(crate) const READMISSION: &str = "readmission";

/// An operator's word for all nodes of before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readmission {
    /// Until when it stands.
    pub not_after: Timestamp,
    /// Whose, as a SPIFFE ID.
    pub by: String,
}

impl Readmission {
    /// The row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Lp::record()
            .u64(ms(self.not_after))
            .str(&self.by)
            .into_bytes()
    }

    /// Reads a row's body.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it is not exactly one record of this kind.
    pub fn decode(body: &[u8]) -> Result<Self, EnvelopeError> {
        read("readmission", body, |r| {
            Ok(Self {
                not_after: time(r, "not after")?,
                by: text(r, "by")?,
            })
        })
    }

    /// Adds to the first change of an incarnation that no word of before stands.
    pub(crate) fn end(change: &mut Change) {
        let key = READMISSION.as_bytes().to_vec();
        change.deletes.push((Table::Meta, key));
    }
}

/// Why there is nothing to readmit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NobodyWaits {
    /// The store's incarnation is its first.
    #[error(
        "the store was never restored: it knows every node's keys, and who comes with another one is approved by itself: \
         attache approval list"
    )]
    NotRestored,
    /// All have come.
    #[error("no node is left from before the store was restored: see attache node list")]
    AllCame,
}

impl Gate {
    /// The word of an operator for all nodes that are left from before the incarnation, from now on, and how many they are.
    ///
    /// # Errors
    /// [`NobodyWaits`].
    pub fn readmission(&self, by: String) -> Result<(Readmission, u32), NobodyWaits> {
        let restored = self.restored.ok_or(NobodyWaits::NotRestored)?;
        let left = self.left_from_before(&self.directory.view(), restored);
        if left == 0 {
            return Err(NobodyWaits::AllCame);
        }
        let not_after = self.after(READMITS_FOR);
        Ok((Readmission { not_after, by }, left))
    }

    fn left_from_before(&self, view: &View, restored: Timestamp) -> u32 {
        let now = self.now();
        let left = view.nodes.iter().filter(|(id, (_, node))| {
            node.is_from_before(restored) && node.is_live(now) && !view.bans.contains_key(*id)
        });
        u32::try_from(left.count()).unwrap_or(u32::MAX)
    }

    /// Who let the nodes of before in, where that stands and this node is one of them.
    pub(super) async fn readmitted(
        &self,
        node: &NodeRecord,
    ) -> Result<Option<String>, LedgerError> {
        if !self.restored.is_some_and(|at| node.is_from_before(at)) {
            return Ok(None);
        }
        let row = self.ledger.read(Table::Meta, READMISSION.as_bytes());
        let word = row
            .await?
            .and_then(|row| Readmission::decode(&row.body).ok());
        let now = self.now();
        Ok(word.filter(|it| now <= it.not_after).map(|it| it.by))
    }
}

impl NodeRecord {
    /// Whether it has come to no certificate since then.
    fn is_from_before(&self, restored: Timestamp) -> bool {
        self.joined < restored && self.renewed < restored
    }
}
