//! From a decision id to its latest evaluation, with the true reason: what `why` shows an operator.
//!
//! Kept in memory for the newest decisions only; a start rebuilds it from the last segment of the log. Everything
//! older is in the log for whoever reads it whole.

use std::collections::{HashMap, VecDeque};

use attache_translog::{Denial, Event, Leaf};

/// How many decisions are kept: as many as refusals are folded.
const KEPT: usize = 10_000;

/// The id of a decision, as the pod's author sees it in hex.
pub type DecisionId = [u8; 4];

/// The latest evaluation behind a decision id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// Who asked for what, what they were told, and what is true.
    pub denial: Denial,
    /// How often it was refused.
    pub count: u64,
    /// When for the first time, in ms since 1970.
    pub first_ms: u64,
    /// When for the last time.
    pub last_ms: u64,
}

/// Decisions by id, the oldest of them dropped past the bound.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_id: HashMap<DecisionId, Evaluation>,
    oldest_first: VecDeque<DecisionId>,
}

impl Index {
    /// Takes up a leaf of the log.
    pub(super) fn take(&mut self, leaf: Leaf) {
        match leaf.event {
            Event::Denial(denial) => self.evaluated(denial, leaf.time_ms),
            Event::Refusals(repeats) => {
                let known = repeats.denial.and_then(|id| self.by_id.get_mut(&id));
                if let Some(known) = known {
                    known.count = known.count.saturating_add(repeats.count);
                    known.last_ms = known.last_ms.max(repeats.last_ms);
                }
            }
            Event::Start(_)
            | Event::Stop(_)
            | Event::Release(_)
            | Event::Intent(_)
            | Event::Outcome(_)
            | Event::Cut(_)
            | Event::Bootstrap(_)
            | Event::Enrollment(_)
            | Event::Renewal(_)
            | Event::Ban(_)
            | Event::Alarm(_)
            | Event::Anchor(_) => {}
        }
    }

    /// A request was refused, for the first time or again.
    pub(super) fn evaluated(&mut self, denial: Denial, now_ms: u64) {
        let Some(id) = denial.denial else {
            return;
        };
        if let Some(known) = self.by_id.get_mut(&id) {
            known.denial = denial;
            known.count = known.count.saturating_add(1);
            known.last_ms = known.last_ms.max(now_ms);
            return;
        }
        if self.oldest_first.len() == KEPT
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.by_id.remove(&oldest);
        }
        self.oldest_first.push_back(id);
        let evaluation = Evaluation {
            denial,
            count: 1,
            first_ms: now_ms,
            last_ms: now_ms,
        };
        self.by_id.insert(id, evaluation);
    }

    pub(super) fn find(&self, id: DecisionId) -> Option<&Evaluation> {
        self.by_id.get(&id)
    }
}
