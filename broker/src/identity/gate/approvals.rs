//! Second enrollments: a node that has an identity comes for another one, and an operator says whether it may.
//!
//! ```text
//! live = recorded, not banned, and neither its certificate nor the seven days of a late renewal are over
//!
//! the recorded key itself        -> taken in: an answer was lost
//! known, and not live            -> taken in: its earlier keys are good for nothing any more
//! live, by a join token that was made since it enrolled -> taken in, with an alarm: the token is an operator's word
//! live, from before a restore, and all those are let in -> taken in, with an alarm; not a key that was rejected
//! live, anything else            -> an alarm and a waiting approval, in one commit | what was decided of this very key
//! ```
//! Whoever can start pods of the plugin's account, or holds a join token of before, cannot replace a node by that alone.

use attache_mtls::{ca::CertificateRequest, identity::SpkiSha256, renew::NODE_RENEWS_LATE_FOR};
use attache_translog::{Alarm, Event};
use jiff::Timestamp;

use super::{EnrollError, Gate, Newcomer};
use crate::{
    identity::{
        approval::{ApprovalRecord, Verdict, WAITS_FOR},
        rows::NodeRecord,
    },
    store::{Change, LedgerError, Table},
};

/// How many keys of one node may wait at a time: who comes with new ones again and again fills nobody's list.
const WAITING_OF_ONE_NODE: usize = 4;
/// How many approvals there may be altogether.
const APPROVALS: usize = 1000;

/// Why a second enrollment did not go through, for now or for good.
#[derive(Debug, thiserror::Error)]
pub enum SecondEnrollment {
    /// It waits.
    #[error(
        "{node} has an identity, and this is another key; an operator has to approve it: attache approval approve {id}"
    )]
    Waiting {
        /// The node's SPIFFE ID.
        node: String,
        /// The approval's id.
        id: String,
    },
    /// An operator said no.
    #[error("an operator has rejected this enrollment of {node} (approval {id})")]
    Rejected {
        /// The node's SPIFFE ID.
        node: String,
        /// The approval's id.
        id: String,
    },
    /// Too many wait already.
    #[error(
        "too many enrollments wait for an operator already; one sees them with: attache approval list"
    )]
    TooMany,
}

/// How an enrollment stands to what is known of its node.
pub(super) enum Again {
    /// The node is new.
    Never,
    /// The recorded key once more.
    SameKey,
    /// Nobody can use what was recorded.
    Lapsed,
    /// An operator asked for it by a join token.
    AskedFor,
    /// An operator let in all that the restored store knows from before.
    Readmitted {
        /// Their SPIFFE ID.
        by: String,
    },
    /// An operator approved it.
    Approved {
        /// Their SPIFFE ID.
        by: String,
    },
}

impl Again {
    /// What an operator must look at.
    pub(super) fn alarm(&self) -> Option<String> {
        let by = match self {
            Self::Never | Self::SameKey | Self::Lapsed => return None,
            Self::AskedFor => "by a join token that was made since".to_owned(),
            Self::Readmitted { by } => format!("readmitted after the restore by {by}"),
            Self::Approved { by } => format!("approved by {by}"),
        };
        Some(format!(
            "a live node enrolled again, {by}; its earlier keys are no longer admitted"
        ))
    }

    /// Whether keys were replaced that somebody may still be using.
    pub(super) fn is_replaced(&self) -> bool {
        match self {
            Self::Never | Self::SameKey => false,
            Self::Lapsed | Self::AskedFor | Self::Readmitted { .. } | Self::Approved { .. } => true,
        }
    }
}

impl NodeRecord {
    /// Whether whoever holds its keys can still come by a certificate.
    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        now.duration_since(self.keys.not_after()) <= NODE_RENEWS_LATE_FOR
    }
}

impl Gate {
    /// The approvals that are not over, ascending by id, with their commits.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn approvals(&self) -> Result<Vec<(u64, ApprovalRecord)>, LedgerError> {
        let now = self.now();
        let rows = self.approval_rows().await?.into_iter();
        Ok(rows.filter(|(_, record)| !record.is_over(now)).collect())
    }

    /// Whether a node that is known may come again. The approval that it uses up goes into `change`.
    pub(super) async fn come_again(
        &self,
        newcomer: &Newcomer,
        known: &NodeRecord,
        request: &CertificateRequest,
        change: &mut Change,
    ) -> Result<Again, EnrollError> {
        let now = self.now();
        let spki = request.spki_sha256();
        if known.keys.current.spki == spki {
            return Ok(Again::SameKey);
        }
        if !known.is_live(now) || !self.is_certified(known) {
            return Ok(Again::Lapsed);
        }
        if newcomer.asked_for.is_some_and(|at| at >= known.joined) {
            return Ok(Again::AskedFor);
        }
        let node = newcomer.id.to_string();
        let id = ApprovalRecord::id_of(&node, spki);
        let row = self.ledger.read(Table::Approval, id.as_bytes()).await?;
        let found = row.and_then(|row| Some((row.seq, ApprovalRecord::decode(&row.body).ok()?)));
        let found = found.filter(|(_, record)| {
            !record.is_over(now) && record.node == node && record.spki == spki
        });
        let Some((seq, record)) = found else {
            if let Some(by) = self.readmitted(known).await? {
                return Ok(Again::Readmitted { by });
            }
            self.ask(newcomer, spki).await?;
            return Err(SecondEnrollment::Waiting { node, id }.into());
        };
        let again = match record.decision {
            Some(decision) if decision.verdict == Verdict::Approved => {
                Again::Approved { by: decision.by }
            }
            Some(_) => return Err(SecondEnrollment::Rejected { node, id }.into()),
            None => match self.readmitted(known).await? {
                Some(by) => Again::Readmitted { by },
                None => return Err(SecondEnrollment::Waiting { node, id }.into()),
            },
        };
        change.require_at(Table::Approval, id.clone(), seq);
        change.deletes.push((Table::Approval, id.into_bytes()));
        Ok(again)
    }

    /// Whether a CA that is trusted has signed one of its keys: without one it can neither call nor renew late.
    fn is_certified(&self, node: &NodeRecord) -> bool {
        let cas = self.authority.cas();
        let keys = &node.keys;
        let previous = keys.previous.as_ref().map(|(key, _)| key);
        let all = [Some(&keys.current), keys.next.as_ref(), previous];
        all.into_iter().flatten().any(|key| cas.trusts(key.ca))
    }

    /// Raises the alarm and has the request wait. What is over goes with it.
    async fn ask(&self, newcomer: &Newcomer, spki: SpkiSha256) -> Result<(), EnrollError> {
        let (now, node) = (self.now(), newcomer.id.to_string());
        let record = ApprovalRecord {
            node: node.clone(),
            name: newcomer.name.clone(),
            spki,
            evidence: newcomer.evidence.clone(),
            asked: now,
            not_after: self.after(WAITS_FOR),
            decision: None,
        };
        let id = record.id();
        let (mut change, mut waiting, mut standing) = (Change::default(), 0, 0);
        let mut replaced = None;
        for (seq, other) in self.approval_rows().await? {
            if other.id() == id {
                replaced = Some(seq);
            } else if other.is_over(now) {
                let key = other.id().into_bytes();
                change.deletes.push((Table::Approval, key));
            } else {
                standing += 1;
                waiting += usize::from(other.node == node && other.decision.is_none());
            }
        }
        if waiting >= WAITING_OF_ONE_NODE || standing >= APPROVALS {
            return Err(SecondEnrollment::TooMany.into());
        }
        match replaced {
            Some(seq) => change.require_at(Table::Approval, id.clone(), seq),
            None => change.require_absent(Table::Approval, id.clone()),
        }
        change.put(Table::Approval, id.clone(), record.encode());
        let alarm = Alarm {
            identity: node.clone(),
            reason: format!(
                "a live node comes to enroll again, with the key {spki} and the evidence {}; approval {id} waits for an operator",
                record.evidence
            ),
        };
        self.commit(change, &node, vec![Event::from(alarm)], |_| ())
            .await
    }

    async fn approval_rows(&self) -> Result<Vec<(u64, ApprovalRecord)>, LedgerError> {
        let rows = self.ledger.whole(Table::Approval).await?.into_iter();
        // What cannot be decoded was written by another version: it approves nothing here.
        let decoded =
            rows.filter_map(|(_, row)| Some((row.seq, ApprovalRecord::decode(&row.body).ok()?)));
        Ok(decoded.collect())
    }
}
